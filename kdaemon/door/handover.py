"""Blocks of lines of one connection on their way to the door, where some wait for room.

Brings blocks to the door in the order in which they came, and tells the client what the door says
of each. Knows the door and the voice. Must not know the transport, nor a line that is not parsed.
Invariants: a block is admitted, or refused and counted, exactly once; no block overtakes another.
After the client has gone, a block waits for room as long as there is memory to wait in; a block
whose delivery the client would wait for is refused.
Bound: the blocks of one read; drained when there is room.
Where it sits: intake.py adds what was parsed, session.py calls `submit` in its turn.
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.principal import NOBODY
from kdaemon.base.refused import Refused
from kdaemon.door.admission import CLIENT_GONE, WAITED_FOR
from kdaemon.door.block import Block
from kdaemon.door.departed import LeftBehind, Waker
from kdaemon.door.line_door import LineDoor
from kdaemon.door.rounds import Round, Rounds
from kdaemon.door.voice import Voice
from kdaemon.http.turns import Turn


class Handover:
    """`principal`: who sends the lines. `acknowledge`: the promise that the connection asked for;
    None: the promise of each stream. `is_gone`: the client reads no more.
    """

    __slots__ = (
        "_blocks",
        "_client",
        "_door",
        "_is_waiting_for_room",
        "_left_behind",
        "_rounds",
        "_voice",
        "_waker",
        "acknowledge",
        "is_gone",
        "principal",
    )

    def __init__(
        self,
        door: LineDoor,
        voice: Voice,
        rounds: Rounds,
        client: int,
        waker: Waker,
        left_behind: ByteBudget,
    ) -> None:
        """`waker`: the door calls it when there is room. `left_behind`: memory for the lines of all
        clients that have gone.
        """
        self._door = door
        self._voice = voice
        self._rounds = rounds
        self._client = client
        self._waker = waker
        self._left_behind = LeftBehind(left_behind)
        self._blocks: deque[tuple[Round, str, Block]] = deque()
        self._is_waiting_for_room = False
        self.principal = NOBODY
        self.acknowledge: Acknowledge | None = None
        self.is_gone = False

    def __bool__(self) -> bool:
        """Some blocks wait."""
        return bool(self._blocks)

    @property
    def footprint_bytes(self) -> int:
        """The footprint of all blocks that wait."""
        return sum(block.footprint_bytes for _, _, block in self._blocks)

    @property
    def is_waited_for(self) -> bool:
        """Whether the client waits for the delivery of some block that waits here."""
        return any(self._is_stream_waited_for(stream) for _, stream, _ in self._blocks)

    def add(self, a_round: Round, stream: str, block: Block) -> None:
        """Puts a block behind all others."""
        a_round.open += 1
        self._blocks.append((a_round, stream, block))

    def withdraw(self) -> None:
        """The client has gone: from now on, blocks whose delivery it waits for are refused."""
        self.is_gone = True
        # The blocks are tried again: those to be refused need no room.
        self._is_waiting_for_room = False

    def room_again(self) -> None:
        """There may be room: the next `submit` tries again."""
        self._is_waiting_for_room = False

    def submit(
        self, turn: Turn, on_settled: Callable[[], object], unread_bytes: int | None
    ) -> bool:
        """Brings waiting blocks to the door. False: there is no room, or the turn is over and the
        rest waits for the next one. `on_settled`: called when there may be an answer to write.
        `unread_bytes`: size of lines that are not parsed yet though the connection is closed; None:
        the connection is open.
        """
        if self._is_waiting_for_room:
            return False
        while self._blocks:
            a_round, stream, block = self._blocks[0]
            if not self._submit(a_round, stream, block, on_settled):
                if unread_bytes is not None and not self._left_behind.keep(
                    unread_bytes + self.footprint_bytes
                ):
                    continue
                self._is_waiting_for_room = True
                self._door.when_room(stream, self._waker)
                return False
            self._blocks.popleft()
            if self._blocks and not turn.spend(0):  # a block may name hundreds of streams
                turn.pass_on()
                return False
        return True

    def refuse_all(self, refused: Refused, first_line: int) -> int:
        """Refuses and counts all blocks that wait. Returns the number of the first refused line, or
        `first_line` if that is smaller.
        """
        for a_round, stream, block in self._blocks:
            first_line = min(first_line, *block.lines.numbers)
            self._refuse(a_round, stream, block, refused)
        self._blocks.clear()
        self._is_waiting_for_room = False
        return first_line

    def release(self) -> None:
        """Gives back the memory for waiting. Called when the connection is closed and nothing
        waits.
        """
        self._left_behind.release()

    def _submit(
        self, a_round: Round, stream: str, block: Block, on_settled: Callable[[], object]
    ) -> bool:
        """False: there is no room, and the block keeps waiting. True: the block was admitted or
        refused.
        """
        if self.is_gone and (not self._left_behind.may_wait or self._is_stream_waited_for(stream)):
            self._refuse(a_round, stream, block, CLIENT_GONE)
            return True
        taken = self._door.admit(
            stream,
            block,
            self._asked(stream),
            partial(self._settled, a_round, block, on_settled),
            self._client,
            self.principal,
            is_patient=True,
        )
        if taken is None:
            return False
        self._voice.reject(block.oversized)
        if isinstance(taken, Refused):
            a_round.close_one()
            self._voice.reject_lines(block.lines, taken.code, taken.message)
        elif taken.frame.acknowledge in WAITED_FOR:
            self._rounds.admitted(a_round, taken, block.byte_count)
            block.drop_records()
        return True

    def _asked(self, stream: str) -> Acknowledge | None:
        """The promise to ask the door for; None: the stream's own."""
        return self._door.untold_promise(stream) if self._voice.is_silent else self.acknowledge

    def _is_stream_waited_for(self, stream: str) -> bool:
        return self._door.is_waited_for(stream, self._asked(stream), self.principal)

    def _refuse(self, a_round: Round, stream: str, block: Block, refused: Refused) -> None:
        """Counts a block as refused that was not brought to the door, or for which the door had no
        room.
        """
        self._door.refuse(stream, refused, len(block.sizes), block.byte_count)
        if block.oversized:  # an earlier try put them there, found no room, and counted nothing
            self._door.refuse_unread(stream, len(block.oversized), principal=self.principal)
        a_round.close_one()

    def _settled(
        self, a_round: Round, block: Block, on_settled: Callable[[], object], frame: Frame
    ) -> None:
        """Tells the outcome of a block: with its round if the client waits for it, else at once."""
        a_round.close_one()
        acknowledged, rejected = block.settled(frame)
        if frame.acknowledge in WAITED_FOR and not self._voice.is_silent:
            a_round.rejected += rejected
        else:
            self._voice.reject(rejected)
        if frame.acknowledge is not Acknowledge.NONE:
            a_round.acknowledged += acknowledged
        on_settled()

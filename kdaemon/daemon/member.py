"""One worker, as the supervisor sees it: a process that may end and be started again.

About: the worker's state, the orders and questions to it, and how busy it is. Knows the process and
both channels; must not know other workers, nor what a drain or a reload is.
Invariants: the state changes by the table alone; a worker that ended without an order is started
again, after the wait that restarts.py gives, unless the supervisor ends.
Where it sits: crew.py -> here -> spawning.py, channel.py, questions.py.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from typing import Any

from kdaemon.config.load import Sources
from kdaemon.daemon.board import Board, Field
from kdaemon.daemon.channel import Channel
from kdaemon.daemon.questions import Asker, NoAnswerError
from kdaemon.daemon.restarts import Restarts
from kdaemon.daemon.spawning import Process
from kdaemon.daemon.worker import Assignment
from kdaemon.system import SystemClock, start_of

log = logging.getLogger("kdaemon")

STILL_LOOKS_MAX = 30
"""Looks, one a second, that find no turn of the worker's loop since the look before. At one more,
the worker's process is ended, as the watchdog of our systemd unit ends a daemon after 30 s. Looks
are counted and no clock is read: so a machine that stood still as a whole ends no worker. Ours,
2026-11-28."""

LATE_LOOKS_MAX = 2
"""The same looks. At one more, clients should not come to the worker: they would wait until it is
ended. Two, because the worker's beats and our looks are not in step, and a loop that is late now
and then is only busy. Ours, 2026-11-29."""

_SIGNALS = {each.value: each.name for each in signal.Signals}  # without most real-time signals


class State(Enum):
    STARTING = "starting"  # its process runs, and takes no records yet
    ABLE = "waiting for its turn"  # its process could take records, and waits for the daemon before
    SERVING = "serving"
    LEAVING = "leaving"  # it was told to end
    WAITING = "waiting"  # it ended, and will be started again
    GONE = "gone"  # it ended, and is not started again


class Move(Enum):
    STARTED = "started"
    ABLE = "able"
    READY = "ready"
    TOLD = "told to end"
    ENDED = "ended"


NEXT: dict[tuple[State, Move], State] = {
    (State.STARTING, Move.ABLE): State.ABLE,
    (State.STARTING, Move.READY): State.SERVING,
    (State.STARTING, Move.TOLD): State.LEAVING,
    (State.STARTING, Move.ENDED): State.WAITING,
    (State.ABLE, Move.READY): State.SERVING,
    (State.ABLE, Move.TOLD): State.LEAVING,
    (State.ABLE, Move.ENDED): State.WAITING,
    (State.SERVING, Move.TOLD): State.LEAVING,
    (State.SERVING, Move.ENDED): State.WAITING,
    (State.LEAVING, Move.ABLE): State.LEAVING,  # the word was on its way when the order was sent
    (State.LEAVING, Move.READY): State.LEAVING,  # the same
    (State.LEAVING, Move.TOLD): State.LEAVING,
    (State.LEAVING, Move.ENDED): State.GONE,
    (State.WAITING, Move.STARTED): State.STARTING,
    (State.WAITING, Move.TOLD): State.GONE,
    (State.GONE, Move.TOLD): State.GONE,
}


class Member:
    """One worker. As `handing.Taker`. `on_change` is told of each move. `status`: what the worker
    last said of a long start or of its drain.
    """

    def __init__(
        self,
        number: int,
        slot: int,
        board: Board,
        assign: Callable[["Member"], Assignment],
        on_change: Callable[["Member", Move], object],
        *,
        is_heir: bool = False,
    ) -> None:
        self.number, self.slot, self.is_heir = number, slot, is_heir
        self.state = State.WAITING
        self.restarts = Restarts()
        self._why_told: str | None = "starting"
        self.status = ""
        # How much more time the worker asked the service manager for, in seconds.
        self.extend_s = 0.0
        # What it delivered and what it left, as it told at its end.
        self.totals: dict[str, int] = {}
        self.exit_code = 0
        self.sources: Sources | None = None  # of the configuration that its process has
        self.pid = 0
        # When the process began: with the pid, this names the process.
        self.start: int | None = None
        self.began_ns = 0
        self.handed = 0  # connections, to the present process
        self.handed_ever = 0
        self._is_renewed = False  # it ends in order to be started again
        self._was_ready = False  # the present process has taken records
        self.board = board
        self._assign = assign
        self._on_change = on_change
        self._process: Process | None = None
        self._channel: Channel | None = None
        self._asker: Asker | None = None
        self._starting: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._beats = 0  # at the last look
        self._still_looks = 0

    # Its process

    def begin(self) -> None:
        """Starts the process. Raises OSError: the system gives no process now."""
        assignment = self._assign(self)
        self.board.clear(self.slot)
        with ExitStack() as theirs:
            told, their_told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs.enter_context(their_told)
            asked, their_asked = socket.socketpair()
            theirs.enter_context(their_asked)
            descriptors = (their_told.fileno(), their_asked.fileno(), self.board.descriptor)
            arguments = ["worker", *map(str, descriptors)]
            try:
                self._process = Process(arguments, descriptors, self._ended)
            except OSError:
                told.close()
                asked.close()
                raise
        self.pid, self.start = self._process.pid, start_of(self._process.pid)
        self.began_ns = SystemClock.now_ns()
        self.restarts.began(self.began_ns)
        self.handed, self._beats, self._still_looks = 0, 0, 0
        self._was_ready = False
        self._why_told = "starting"
        self._channel = Channel(told, self.on_told, lambda: None)
        self._channel.start()
        self._asker = Asker(asked, assignment.encode())
        self._starting = asyncio.get_running_loop().create_task(self._asker.start())
        self._move(Move.STARTED)

    def _ended(self, exit_code: int) -> None:
        self.exit_code = exit_code
        assert self._channel is not None, "it was started"
        self._channel.drain()  # reads what the process told last
        self._leave_process()
        self._why_told = "starting again"
        self._move(Move.ENDED)
        if self.state is State.WAITING:
            self._begin_again()

    def _leave_process(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._starting is not None:
            self._starting.cancel()
        if self._asker is not None:
            self._asker.close()
        self._process = self._channel = self._asker = self._starting = None
        self.board.clear(self.slot)

    @property
    def is_running(self) -> bool:
        """Whether it has a process."""
        return self._process is not None

    def _begin_again(self) -> None:
        if self._is_renewed:
            self._is_renewed = False
            self._try_again()
            return
        wait_s = self.restarts.ended(SystemClock.now_ns())
        fields: dict[str, object] = {"worker": self.number, "pid": self.pid}
        fields |= {"how": how_ended(self.exit_code), "again_in_seconds": wait_s}
        text = "a worker ended: it is started again; what it had on disk is delivered"
        log.error(text, extra={"fields": fields, "is_always_shown": True})
        self._again = asyncio.get_running_loop().call_later(wait_s, self._try_again)

    def _try_again(self) -> None:
        if self.state is not State.WAITING:
            return
        try:
            self.begin()
        except OSError as error:
            fields = {"worker": self.number, "error": error.strerror or str(error)}
            log.warning("a worker cannot be started", extra={"fields": fields})
            wait_s = max(1.0, self.restarts.ended(SystemClock.now_ns()))
            self._again = asyncio.get_running_loop().call_later(wait_s, self._try_again)

    def kill(self) -> None:
        """Ends the process at once, if there is one."""
        if self._process is not None:
            self._process.kill()

    # What it is told and asked

    def tell(self, fields: dict[str, Any]) -> None:
        """As `Channel.tell`; without a process it is dropped."""
        if self._channel is not None:
            self._channel.tell(fields)

    def leave(self, *, leaves_spool: bool) -> None:
        """Tells the worker to drain and to end. `leaves_spool`: another process gets its spool."""
        if self._again is not None:
            self._again.cancel()
        self.tell({"drain": leaves_spool})
        if self.state is not State.GONE:
            self._move(Move.TOLD)

    def renew(self) -> None:
        """Makes the worker drain and end, and starts it again with the configuration in force."""
        text = "a worker is started again, with the configuration that is in force"
        extra = {"fields": {"worker": self.number}, "is_always_shown": True}
        log.warning(text, extra=extra)
        self._is_renewed = True
        self.tell({"drain": False})

    @property
    def is_askable(self) -> bool:
        """Whether it has what it is asked for: not before it was ready."""
        return self._was_ready and self.state in {State.SERVING, State.LEAVING}

    async def ask(self, name: str, *given: Any, timeout_s: float) -> list[Any]:
        """The parts of the answer. Raises NoAnswerError."""
        if self._asker is None or self._starting is None:
            raise NoAnswerError("it does not run")
        await asyncio.wait({self._starting})
        if self._asker is None:
            raise NoAnswerError("it is gone")
        return await self._asker.ask(name, *given, timeout_s=timeout_s)

    def on_told(self, fields: dict[str, Any]) -> None:
        """The worker tells this of itself."""
        match fields:
            case {"able": True}:
                self._move(Move.ABLE)
            case {"ready": True}:
                self._move(Move.READY)
            case {"not_ready": why}:
                self._why_told = why
            case {"status": text}:
                self.status = text
            case {"extend_s": seconds}:
                self.extend_s = max(self.extend_s, seconds)
            case {"ended": totals}:
                self.totals = totals
            case {"empty": True}:
                self._move(Move.TOLD)

    def _move(self, move: Move) -> None:
        self.state = NEXT[self.state, move]
        if move is Move.READY:
            self._was_ready = True
            if self._why_told == "starting":
                self._why_told = None
        self._on_change(self, move)

    # Connections

    @property
    def can_take(self) -> bool:
        """Whether it may be given connections."""
        return self.state is State.SERVING and not (self.is_heir or self._is_renewed)

    @property
    def is_ready(self) -> bool:
        """As `handing.Taker` has it."""
        return not self._is_late and self.board.read(self.slot, Field.IS_READY) == 1

    @property
    def open_count(self) -> int:
        """Connections that it has open, as it wrote last."""
        return self.board.read(self.slot, Field.OPEN)

    @property
    def load(self) -> int:
        """As `handing.Taker` has it."""
        return self.open_count + self.handed - self.board.read(self.slot, Field.TAKEN)

    def hand(self, name: str, connection: socket.socket) -> bool:
        """As `Channel.hand`; without a process: False."""
        if self._channel is None or not self._channel.hand(name, connection):
            return False
        self.handed += 1
        self.handed_ever += 1
        return True

    @property
    def why_not_ready(self) -> str | None:
        """Why clients should not come to this worker; None: they may."""
        return (
            f"its loop stood still for {self._still_looks} s" if self._is_late else self._why_told
        )

    # Whether it lives

    @property
    def _is_late(self) -> bool:
        return self._still_looks > LATE_LOOKS_MAX

    def look(self) -> None:
        """Is called once a second: ends the process if its loop stood still for too long."""
        beats = self.board.read(self.slot, Field.BEATS)
        is_still = self._process is not None and beats == self._beats and beats > 0
        self._still_looks = self._still_looks + 1 if is_still else 0
        self._beats = beats
        if self._still_looks > STILL_LOOKS_MAX:
            fields = {"worker": self.number, "seconds": STILL_LOOKS_MAX}
            text = "the loop of a worker stood still: its process is ended"
            log.error(text, extra={"fields": fields, "is_always_shown": True})
            self.kill()


def how_ended(exit_code: int) -> str:
    """How a process ended, for people. `exit_code` below 0: minus the number of a signal."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    return f"signal {_SIGNALS.get(-exit_code, -exit_code)}"

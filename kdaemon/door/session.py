"""One connection of lines: lines in, acknowledgements and rejections out.

Knows the door and the lines' form; nothing of streams' state, shards or calls.

Invariants: a record is acknowledged after all records before it on this connection were
acknowledged or rejected; while the service is slow the connection is not read; in each turn of the
loop it has its part of the work (`http/turns.py`), then others have theirs. When the client is
gone, what was read is admitted all the same where the client does not wait to hear of it, and waits
for room as far as there is memory to wait in; where the client does wait (`delivered`), what was
not sent is withdrawn, because the client will send it again. Nothing a client sends makes its
methods raise. On a stream's own socket nothing is answered, and so nobody has to read: there a
client never waits to hear, and what is refused is logged.

Where it sits: http/opening.py -> NdjsonSession -> door.py, and back by `_settled`.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from kdaemon.base.counters import RejectReason
from kdaemon.base.errors import RejectedRecord
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.limits import KIB
from kdaemon.base.principal import NOBODY
from kdaemon.base.refused import Refused
from kdaemon.base.steps import Steps
from kdaemon.door.admission import CLIENT_GONE, GAVE_WAY, WAITED_FOR
from kdaemon.door.block import Block
from kdaemon.door.departed import LeftBehind, Waker
from kdaemon.door.door import Door
from kdaemon.door.line_forms import Asked
from kdaemon.door.rounds import Round, Rounds
from kdaemon.http.arrivals import Kept
from kdaemon.http.hub import HttpHub
from kdaemon.http.transports import Presence, Probe, presence, stop_other_side
from kdaemon.http.turns import Turn
from kdaemon.wire.line_buffer import LineBuffer, count_lines
from kdaemon.wire.line_form import ENVELOPE, LineForm
from kdaemon.wire.lines import (
    LINE_BYTES_MAX,
    VALIDATION,
    Lines,
    Parsed,
    Rejected,
    encode_rejected,
    in_runs,
    parse_setup,
)

log = logging.getLogger("kdaemon.door")

SMALL_BYTES = 16 * KIB  # of a read that is handed over at once, whoever waits; ours, 2026-11-28
PATIENCE_TICKS = 1  # of a session that has nothing to do, where all places are taken; ours
ANSWER_START = b"{"  # of every answer that rejections.py makes


class State(Enum):
    READING = "reading"
    ENDED = "ended"  # no more input is taken; answers are owed
    LINGERING = "lingering"  # all is said; input is thrown away until the client closes
    CLOSED = "closed"


_MOVES = {
    State.READING: {State.ENDED, State.CLOSED},
    State.ENDED: {State.LINGERING, State.CLOSED},
    State.LINGERING: {State.CLOSED},
    State.CLOSED: {State.CLOSED},  # lost after it was closed or reset
}


@dataclass(frozen=True, slots=True)
class OwnStream:
    """The stream whose own socket a connection came in by, and the form of its lines."""

    spelling: str
    form: LineForm


class NdjsonSession(asyncio.Protocol):
    """One connection.

    Queues: `_buffer` (whole lines not parsed; at most one read, then reading stops), `_steps` (of
    the block that is being parsed, where it is one long line), `_held` (one
    block's frames for which there is no room; drained by `when_room`), `_rounds` (blocks that wait
    to be settled; when they are full, reading stops).
    """

    def __init__(
        self,
        door: Door,
        hub: HttpHub,
        line_bytes_max: int = LINE_BYTES_MAX,
        own: OwnStream | None = None,
    ) -> None:
        self._door = door
        self._hub = hub
        self._client = hub.number_client()
        self._principal = NOBODY  # until there is a transport
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._state = State.READING
        self._stream = None if own is None else own.spelling
        self._acknowledge: Acknowledge | None = None
        self._is_silent = own is not None  # nothing is answered
        self._is_stopped = False  # its client was told to write no more
        self._is_set_up = own is not None  # the first line was read
        self._form = ENVELOPE if own is None else own.form
        self._buffer = LineBuffer()
        self._line_bytes_max = line_bytes_max
        self._steps: Steps[Parsed] | None = None  # of a long line, which takes several turns
        self._step_bytes = 0  # of that line
        self._kept = Kept(hub.arrivals)  # what has come and was not handed over
        self._next_line = 1
        self._rounds = Rounds()
        self._held: deque[tuple[Round, str, Block]] = deque()
        self._is_waiting_for_room = False
        self._waker = Waker(self._room_again)
        self._left_behind = LeftBehind(hub.arrivals.left_behind)  # when the client is gone
        self._is_pumping = False
        self._turn = Turn(self._pump, hub.turns)
        self._is_reading = True
        self._is_writing_paused = False
        self._is_flush_due = False
        self._last_words = b""  # why the connection ends
        self._has_eof = False
        self._probe = Probe(ANSWER_START)
        self._is_gone = False  # the client does not read any more; its last lines may be unread
        self._since_tick = hub.tick

    # --- the transport's calls

    def take_over(self, transport: asyncio.BaseTransport) -> None:
        """A connection that the hub knows already."""
        self._transport = transport
        self._principal = self._hub.who(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client is gone, and nobody is told any more."""
        self._move(State.CLOSED)
        self._hub.detach(self)
        self._drop_unfinished()
        self._withdraw()

    def _withdraw(self) -> None:
        self._is_gone = True
        self._rounds.withdraw()
        self._is_waiting_for_room = False  # what is not waited for any more needs no room
        self._go_on_in_turn()

    def data_received(self, data: bytes) -> None:
        if self._state is not State.READING:
            return
        buffer = self._buffer
        held_bytes = buffer.partial_bytes
        buffer.feed(data)
        if not held_bytes or buffer.has_lines:
            self._since_tick = self._hub.tick  # a line begins
        bytes_max = min(self._line_bytes_max, self._form.line_bytes_max)
        if buffer.partial_bytes > bytes_max:
            so = "this one is skipped" if self._form.is_raw else "the connection is closed"
            text = f"A line may have {bytes_max} bytes; {so}."
            self._refuse_unfinished("body_too_large", VALIDATION, text)
        elif len(data) < SMALL_BYTES and not self._turn.is_over:
            self._turn.begin()
            self._pump()
        else:
            self._go_on_in_turn()

    def eof_received(self) -> bool:
        """The client sends no more: its last line may lack a newline, and answers still go out."""
        self._has_eof = True
        if self._state is State.READING:
            if not self._is_stopped:  # else it was cut off in the middle of a line
                self._buffer.finish()
            self._drop_unfinished()
            self._move(State.ENDED)
            self._go_on_in_turn()
            self._look_for_client()
        elif self._state is State.LINGERING:
            self._move(State.CLOSED)
            self._transport.close()
        return True

    # --- a client that may have gone

    def _look_for_client(self) -> None:
        """Withdraws what a client waits for that has gone. Over TCP one that closed looks like one
        that sends no more, until something is sent: so the byte that every answer begins with goes
        ahead.
        """
        if self._is_gone or self._is_writing_paused or not self._is_waited_for:
            return
        client = presence(self._transport)
        if client is Presence.GONE:
            self._withdraw()
        elif client is Presence.SENDS_NO_MORE and not self._probe.is_out:
            self._probe.send(self._transport, self._look_for_client)

    @property
    def _is_waited_for(self) -> bool:
        """The client is owed word of a delivery."""
        return self._state in (State.READING, State.ENDED) and (
            self._rounds.wait_for_delivery
            or any(self._is_stream_waited_for(held[1]) for held in self._held)
        )

    def _is_stream_waited_for(self, stream: str) -> bool:
        return self._door.is_waited_for(stream, self._asked(stream), self._principal)

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        self._since_tick = self._hub.tick
        self._regulate_reading()

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._since_tick = self._hub.tick
        self._go_on_in_turn()

    # --- what has come and was not handed over

    def _weigh(self) -> None:
        """Holds it to what all clients together may have arriving. It is a line that has no end
        yet, and lines for which there is no room, or no turn.
        """
        if self._state is State.CLOSED:
            return  # then it is charged to what clients left behind
        buffer = self._buffer
        size = buffer.partial_bytes + sum(block.held_bytes for _, _, block in self._held)
        size += self._step_bytes
        if buffer.has_lines:
            size += buffer.held_bytes
        waits = size > buffer.partial_bytes
        if not self._kept.weigh(size, self._evicted, waits=waits):
            self._evicted()

    def _evicted(self) -> None:
        """There is no memory for it, or others who are faster need it."""
        if self._held or self._has_lines:
            self._give_way()
        elif self._state is State.READING:
            text = "Too many long lines are arriving at once; send this one again later."
            self._refuse_unfinished("bodies_full", "ServiceUnavailableException", text)

    def _give_way(self) -> None:
        """Refuses what waits, and ends the connection."""
        self._hub.counters.refused["bodies_full"] += 1
        first_line = self._next_line
        for a_round, stream, block in self._held:
            first_line = min(first_line, *block.lines.numbers)
            self._refuse_held(a_round, stream, block, GAVE_WAY)
        self._held.clear()
        self._is_waiting_for_room = False
        if self._steps is not None:
            self._door.refuse(self._stream, GAVE_WAY, 1, self._step_bytes)
            self._end_steps()
        self._buffer.finish()
        while self._buffer.has_lines:
            lines = self._buffer.take_block()
            self._door.refuse(self._stream, GAVE_WAY, count_lines(lines), len(lines))
        self._kept.release()
        self._last_words = encode_rejected(Rejected(first_line, GAVE_WAY.code, GAVE_WAY.message))
        if self._state is State.READING:
            self._move(State.ENDED)
        self._pump()

    def _drop_unfinished(self) -> None:
        """The line that has no end yet is not waited for any more."""
        self._buffer.drop_partial()
        self._kept.release()

    def _refuse_unfinished(self, reason: str, code: str, text: str) -> None:
        """Refuses the line that has no end, after those before it, and ends the connection; of raw
        lines the rest goes on behind it.
        """
        self._hub.counters.refused[reason] += 1
        rejected = Rejected(self._partial_line, code, text)
        if self._form.is_raw:
            self._skip_unfinished(rejected)
        else:
            self._end_with(rejected, self._buffer.partial_bytes)

    def _skip_unfinished(self, rejected: Rejected) -> None:
        """Where the next raw line begins is known, whatever is in this one."""
        self._door.refuse_unread(
            self._stream, 1, self._buffer.partial_bytes, principal=self._principal
        )
        self._buffer.skip_partial()
        self._kept.release()
        self._tell_rejected([rejected])
        self._go_on_in_turn()

    @property
    def _partial_line(self) -> int:
        return self._next_line + self._buffer.line_count + (self._steps is not None)

    def _end_with(
        self, rejected: Rejected, byte_count: int, forbidden: Refused | None = None
    ) -> None:
        """Takes nothing more; what came before is settled and told first. `forbidden`: why the line
        is refused, where that is no fault of the line.
        """
        if forbidden is None:
            self._door.refuse_unread(self._stream, 1, byte_count, principal=self._principal)
        else:
            self._door.refuse(None, forbidden, 1, byte_count)
        self._drop_unfinished()
        self._last_words = encode_rejected(rejected)
        if self._state is State.READING:
            self._move(State.ENDED)
        self._pump()

    # --- handing over

    def _go_on_in_turn(self) -> None:
        """Hands over what waits, now or behind the others that wait for their turn."""
        if self._held or self._has_lines:
            self._turn.go_on_or_pass()
            if self._turn.is_over:
                self._weigh()
                self._regulate_reading()
        else:
            self._pump()

    def _pump(self) -> None:
        """Parses and submits what was read, as far as room and the client's reading allow."""
        if self._is_pumping or self._turn.is_over:
            return
        self._is_pumping = True
        has_turn = True
        while self._submit_held() and self._has_lines and self._may_parse():
            if not has_turn:
                self._turn.pass_on()
                break
            has_turn = self._read_some()
        self._is_pumping = False
        if self._held or self._has_lines or self._buffer.partial_bytes or not self._kept.is_empty:
            self._weigh()
        if self._has_to_tell:
            self._schedule_flush()
        self._regulate_reading()
        if self._state is State.CLOSED and not self._has_lines and not self._held:
            self._turn.close()
            self._waker.go_on = None
            self._left_behind.release()

    @property
    def _has_to_tell(self) -> bool:
        """A block is settled, or the connection is to end and owes nothing any more."""
        if self._rounds:
            return self._rounds.has_answer
        return self._state is State.ENDED and not self._has_lines and not self._held

    @property
    def _has_lines(self) -> bool:
        """Some were read from the client, and are not parsed, or not to the end."""
        return self._steps is not None or self._buffer.has_lines

    def _may_parse(self) -> bool:
        """A client that is gone is owed nothing, so nothing of it holds its lines back but room."""
        return self._state is State.CLOSED or not (self._is_writing_paused or self._rounds.is_full)

    def _read_some(self) -> bool:
        """Parses the next block, or goes one step on with a long line. False: this turn is over."""
        steps, byte_count = self._steps, 0
        if steps is None:
            buffer = self._buffer
            form = self._form
            is_set_up = self._is_set_up
            block = buffer.take_block(form.block_lines_max) if is_set_up else buffer.take_line()
            byte_count = len(block)
            if not is_set_up and self._read_setup(block):
                return self._turn.spend(byte_count)
            steps = form.read(block, self._next_line, self._stream, None)
        try:
            next(steps)
        except StopIteration as end:
            self._end_steps()
            self._take(end.value)
            return self._turn.spend(byte_count)
        if self._steps is None:
            self._steps, self._step_bytes = steps, byte_count
        return False

    def _end_steps(self) -> None:
        self._steps, self._step_bytes = None, 0

    def _take(self, parsed: Parsed) -> None:
        """Tells what is refused of a block, and holds the rest for the door."""
        self._next_line += parsed.line_count
        a_round = Round()
        if parsed.rejected_count:
            self._door.refuse_unread(self._stream, parsed.rejected_count, principal=self._principal)
            self._tell_rejected(parsed.rejected)
        if self._form.is_raw and self._stream is not None:
            self._door.note_raw(self._stream, parsed, self._principal)
        parts = list(parsed.by_stream.items())
        if len(parts) > 1 and self._door.has_synonyms(parsed.by_stream):
            parts = in_runs(parsed.by_stream)
        for stream, lines in parts:
            if stream is None:
                text = 'No stream: name it in a first line {"stream": ...} or in the line itself.'
                self._door.refuse_unread(
                    None, len(lines.numbers), sum(lines.sizes), principal=self._principal
                )
                self._reject_lines(lines, VALIDATION, text)
            else:
                a_round.open += 1
                self._held.append((a_round, stream, Block(lines)))
        self._rounds.begin(a_round)
        if parsed.rejected_count > len(parsed.rejected):
            self._give_up(parsed.rejected_count)

    def _give_up(self, rejected_count: int) -> None:
        """More lines of one block cannot be read than are worth telling: this is no NDJSON."""
        text = f"{rejected_count} lines up to here cannot be read; the connection is closed."
        self._last_words = encode_rejected(Rejected(self._next_line - 1, VALIDATION, text))
        self._door.refuse_unread(self._stream, self._buffer.line_count, principal=self._principal)
        self._buffer.clear()
        self._drop_unfinished()
        if self._state is State.READING:
            self._move(State.ENDED)

    def _read_setup(self, line: bytes) -> bool:
        """Whether the connection's first line was its setup (or nothing), and is done with."""
        if line.isspace():
            self._next_line += 1
            return True
        self._is_set_up = True
        try:
            setup = parse_setup(line)
        except RejectedRecord as error:
            return self._refuse_setup(error.code, error.message, line, None)
        if setup is None:
            return False
        asked = Asked(setup.lines, setup.partition_key_field, setup.stream_field)
        if setup.stream is not None:
            limits = self._door.limits_of(setup.stream, setup.acknowledge, self._principal)
            if isinstance(limits, Refused):
                return self._refuse_setup(limits.code, limits.message, line, limits)
            form = self._door.line_form(setup.stream, asked)
            if isinstance(form, Refused):
                return self._refuse_setup(form.code, form.message, line, form)
            self._form = form
        elif asked.lines == "raw" or asked.partition_key_field or asked.stream_field:
            text = "Raw lines name no stream: the first line has to, in `stream`."
            return self._refuse_setup(VALIDATION, text, line, None)
        self._stream, self._acknowledge = setup.stream, setup.acknowledge
        self._next_line += 1
        return True

    def _refuse_setup(self, code: str, message: str, line: bytes, refused: Refused | None) -> bool:
        """What follows would be taken for another stream or another promise: it is not read.
        `refused`: by the door; None: the line is no setup.
        """
        is_forbidden = refused is not None and refused.reason is RejectReason.FORBIDDEN
        forbidden = refused if is_forbidden else None
        if forbidden is not None:
            self._door.refuse(None, forbidden, self._buffer.line_count, 0)
        else:
            self._door.refuse_unread(None, self._buffer.line_count, principal=self._principal)
        self._buffer.clear()
        rejected = Rejected(self._next_line, code, message)
        self._end_with(rejected, len(line), forbidden)
        return True

    def _submit_held(self) -> bool:
        """Submits what is held. False: there is no room, or the rest is for the next turn."""
        if self._is_waiting_for_room:
            return False
        while self._held:
            a_round, stream, block = self._held[0]
            if not self._submit(a_round, stream, block):
                if self._state is State.CLOSED and not self._keep():
                    continue
                self._is_waiting_for_room = True
                self._door.when_room(stream, self._waker)
                return False
            self._held.popleft()
            if self._held and not self._turn.spend(0):  # a block may name hundreds of streams
                self._turn.pass_on()
                return False
        return True

    def _keep(self) -> bool:
        """Takes memory for what waits though its client is gone. False: there is none for it."""
        held_bytes = sum(block.held_bytes for _, _, block in self._held)
        return self._left_behind.keep(self._buffer.held_bytes + held_bytes)

    def _room_again(self) -> None:
        self._is_waiting_for_room = False
        self._go_on_in_turn()

    def _submit(self, a_round: Round, stream: str, block: Block) -> bool:
        """False: there is no room. Anything else ends the block's wait for it."""
        if self._is_gone and (not self._left_behind.may_wait or self._is_stream_waited_for(stream)):
            self._refuse_held(a_round, stream, block, CLIENT_GONE)
            return True
        callback = partial(self._settled, a_round, block)
        taken = self._door.admit(
            stream,
            block,
            self._asked(stream),
            callback,
            self._client,
            self._principal,
            is_patient=True,
        )
        if taken is None:
            return False
        self._tell_rejected(block.oversized)
        if isinstance(taken, Refused):
            a_round.close_one()
            self._reject_lines(block.lines, taken.code, taken.message)
        elif taken.frame.acknowledge in WAITED_FOR:
            self._rounds.admitted(a_round, taken, block.byte_count)
            block.lines.records = []  # the frame has them; only the numbers are needed from here on
        return True

    def _asked(self, stream: str) -> Acknowledge | None:
        """On which promise its records are to be taken; None: on the stream's own."""
        return self._door.untold_promise(stream) if self._is_silent else self._acknowledge

    def _refuse_held(self, a_round: Round, stream: str, block: Block, refused: Refused) -> None:
        """Counts a block that is not brought to the door, or was brought in vain."""
        self._door.refuse(stream, refused, len(block.sizes), block.byte_count)
        if block.oversized:  # by a try that found no room, and so counted nothing
            self._door.refuse_unread(stream, len(block.oversized), principal=self._principal)
        a_round.close_one()

    def _reject_lines(self, lines: Lines, code: str, message: str) -> None:
        self._tell_rejected([Rejected(line, code, message) for line in lines.numbers])

    def _tell_rejected(self, rejected: list[Rejected]) -> None:
        """What is refused at the door is told at once, before what came earlier is settled."""
        if not rejected:
            return
        if self._is_silent:
            first, stream = rejected[0], self._stream
            fields = {"stream": stream, "lines": len(rejected), "code": first.code}
            fields["why"] = first.message
            log.warning("lines of a stream's own socket are refused", extra={"fields": fields})
        else:
            self._write(b"".join(map(encode_rejected, rejected)))

    def _settled(self, a_round: Round, block: Block, frame: Frame) -> None:
        """What became of a block: later where the client waits for it, else at once."""
        a_round.close_one()
        acknowledged, rejected = block.settled(frame)
        if frame.acknowledge in WAITED_FOR and not self._is_silent:
            a_round.rejected += rejected
        else:
            self._tell_rejected(rejected)
        if frame.acknowledge is not Acknowledge.NONE:
            a_round.acknowledged += acknowledged
        self._schedule_flush()

    def _regulate_reading(self) -> None:
        """Reads exactly while more could be handed over, or to see the client close at the end."""
        if self._state is State.READING:
            wants = not self._has_lines and not self._held and self._may_parse()
        else:
            wants = self._state is State.LINGERING
        if wants is self._is_reading or self._state is State.CLOSED or self._transport.is_closing():
            return
        self._is_reading = wants
        if wants:
            self._since_tick = self._hub.tick  # the time we did not read is not the client's
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # --- answering

    def _schedule_flush(self) -> None:
        """Answers once for all that settles in this turn of the loop."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Tells what is settled, in order; ends the connection when nothing more is owed."""
        self._is_flush_due = False
        answers = self._rounds.take_answers()
        if answers:
            self._write(answers)
        self._go_on_in_turn()
        if self._has_to_tell and not self._rounds:
            self._finish()

    def _write(self, answers: bytes) -> None:
        is_heard = not (self._is_gone or self._is_silent)
        if is_heard and self._state in (State.READING, State.ENDED):
            self._transport.write(self._probe.rest_of(answers))

    def _finish(self) -> None:
        """All is settled. Closing with unread input would take the answers away from the client."""
        if self._last_words:
            self._write(self._last_words)
            if self._is_silent:
                fields = {"stream": self._stream, "why": self._last_words.decode().strip()}
                log.warning("a stream's own socket ends a connection", extra={"fields": fields})
        self._since_tick = self._hub.tick
        is_over = self._has_eof or self._is_gone
        if is_over or self._transport.is_closing() or not self._transport.can_write_eof():
            self._move(State.CLOSED)
            self._transport.close()
        else:
            self._move(State.LINGERING)
            self._transport.write_eof()
            self._regulate_reading()

    # --- the hub's calls

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"a session cannot go from {self._state} to {state}")
        self._state = state

    def reset(self) -> None:
        """Ends the connection at once."""
        self._move(State.CLOSED)
        self._transport.abort()

    def idle_ticks(self, tick: int) -> int:
        """How long nothing whole has come, less PATIENCE_TICKS: a client that keeps its session may
        have nothing to say for a while. Below 1: something is owed.
        """
        is_owed = self._rounds or self._held or self._has_lines or self._is_writing_paused
        return 0 if is_owed else tick - self._since_tick - PATIENCE_TICKS

    def leave(self) -> None:
        """Makes place for others. All that was told is on its way."""
        self._drop_unfinished()
        self._move(State.CLOSED)
        self._transport.close()

    def close_if_idle(self) -> None:
        """Takes no more input; what was read is settled and told, then the connection ends. Who is
        told nothing takes what was written for taken: so that is read to its end.
        """
        if self._state is not State.READING:
            return
        if self._is_silent and stop_other_side(self._transport):
            self._is_stopped = True
        else:
            self._drop_unfinished()
            self._move(State.ENDED)
            self._pump()

    def check_time(self, tick: int) -> None:
        """Cuts off a client that stops in the middle of a line or does not read its answers."""
        ticks, hub = tick - self._since_tick, self._hub
        self._kept.tick()
        if self._is_writing_paused:
            if ticks > hub.write_ticks_max:
                hub.counters.timed_out["write"] += 1
                self.reset()
        elif self._state is State.LINGERING or self._state is State.CLOSED:
            if ticks > hub.linger_ticks_max:
                self.reset()
        elif self._state is State.ENDED or not self._is_reading:
            self._look_for_client()
        elif not self._buffer.partial_bytes or self._form.is_raw:
            return  # a log may stop in the middle of a line; others who need its memory get it
        elif ticks > hub.body_ticks_max:
            hub.counters.timed_out["body"] += 1
            text = f"The line did not end within {hub.limits.body_timeout_s:g} seconds."
            rejected = Rejected(self._partial_line, "RequestTimeoutException", text)
            self._end_with(rejected, self._buffer.partial_bytes)

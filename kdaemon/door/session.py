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
from enum import Enum
from typing import Any

from kdaemon.base.limits import KIB
from kdaemon.base.refused import Refused
from kdaemon.base.steps import Steps
from kdaemon.door.admission import GAVE_WAY
from kdaemon.door.block import Block
from kdaemon.door.departed import Waker
from kdaemon.door.door import Door
from kdaemon.door.handover import Handover
from kdaemon.door.rounds import Round, Rounds
from kdaemon.door.terms import NO_TERMS, BadTerms, Terms, read_terms
from kdaemon.door.voice import Voice
from kdaemon.http.arrivals import Kept
from kdaemon.http.hub import HttpHub
from kdaemon.http.transports import Presence, presence, stop_other_side
from kdaemon.http.turns import Turn
from kdaemon.wire.line_buffer import LineBuffer, count_lines
from kdaemon.wire.lines import (
    LINE_BYTES_MAX,
    VALIDATION,
    Parsed,
    Rejected,
    in_runs,
)

SMALL_BYTES = 16 * KIB  # of a read that is handed over at once, whoever waits; ours, 2026-11-28
PATIENCE_TICKS = 1  # of a session that has nothing to do, where all places are taken; ours


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


class NdjsonSession(asyncio.Protocol):
    """One connection.

    Queues: `_buffer` (whole lines not parsed; at most one read, then reading stops), `_steps` (of
    the block that is being parsed, where it is one long line), `_handover` (one block's frames for
    which there is no room), `_rounds` (blocks that wait to be settled; when they are full, reading
    stops).
    """

    def __init__(
        self,
        door: Door,
        hub: HttpHub,
        line_bytes_max: int = LINE_BYTES_MAX,
        own: Terms | None = None,
    ) -> None:
        """`own`: of the stream whose own socket the connection came in by."""
        self._door = door
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._state = State.READING
        self._terms = own or NO_TERMS
        self._voice = Voice(None if own is None else own.stream)
        self._is_stopped = False  # its client was told to write no more
        self._is_set_up = own is not None  # the first line was read
        self._buffer = LineBuffer()
        self._line_bytes_max = line_bytes_max
        self._steps: Steps[Parsed] | None = None  # of a long line, which takes several turns
        self._step_bytes = 0  # of that line
        self._kept = Kept(hub.arrivals)  # what has come and was not handed over
        self._next_line = 1
        self._rounds = Rounds()
        self._waker = Waker(self._room_again)
        self._handover = Handover(
            door,
            self._voice,
            self._rounds,
            hub.number_client(),
            self._waker,
            hub.arrivals.left_behind,
        )
        self._is_pumping = False
        self._turn = Turn(self._pump, hub.turns)
        self._is_reading = True
        self._is_writing_paused = False
        self._is_flush_due = False
        self._has_eof = False
        self._since_tick = hub.tick

    # --- the transport's calls

    def take_over(self, transport: asyncio.BaseTransport) -> None:
        """A connection that the hub knows already."""
        self._transport = transport
        self._voice.take_over(transport)
        self._handover.principal = self._hub.who(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client is gone, and nobody is told any more."""
        self._move(State.CLOSED)
        self._hub.detach(self)
        self._drop_unfinished()
        self._withdraw()

    def _withdraw(self) -> None:
        self._voice.hush()
        self._rounds.withdraw()
        self._handover.withdraw()
        self._go_on_in_turn()

    def data_received(self, data: bytes) -> None:
        if self._state is not State.READING:
            return
        buffer = self._buffer
        held_bytes = buffer.partial_bytes
        buffer.feed(data)
        if not held_bytes or buffer.has_lines:
            self._since_tick = self._hub.tick  # a line begins
        bytes_max = min(self._line_bytes_max, self._terms.form.line_bytes_max)
        if buffer.partial_bytes > bytes_max:
            so = "this one is skipped" if self._terms.form.is_raw else "the connection is closed"
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
        if self._handover.is_gone or self._is_writing_paused or not self._is_waited_for:
            return
        client = presence(self._transport)
        if client is Presence.GONE:
            self._withdraw()
        elif client is Presence.SENDS_NO_MORE:
            self._voice.probe(self._look_for_client)

    @property
    def _is_waited_for(self) -> bool:
        """The client is owed word of a delivery."""
        return self._state in (State.READING, State.ENDED) and (
            self._rounds.wait_for_delivery or self._handover.is_waited_for
        )

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
        size = buffer.partial_bytes + self._handover.held_bytes
        size += self._step_bytes
        if buffer.has_lines:
            size += buffer.held_bytes
        waits = size > buffer.partial_bytes
        if not self._kept.weigh(size, self._evicted, waits=waits):
            self._evicted()

    def _evicted(self) -> None:
        """There is no memory for it, or others who are faster need it."""
        if self._handover or self._has_lines:
            self._give_way()
        elif self._state is State.READING:
            text = "Too many long lines are arriving at once; send this one again later."
            self._refuse_unfinished("bodies_full", "ServiceUnavailableException", text)

    def _give_way(self) -> None:
        """Refuses what waits, and ends the connection."""
        self._hub.counters.refused["bodies_full"] += 1
        first_line = self._handover.refuse_all(GAVE_WAY, self._next_line)
        if self._steps is not None:
            self._door.refuse(self._terms.stream, GAVE_WAY, 1, self._step_bytes)
            self._end_steps()
        self._buffer.finish()
        while self._buffer.has_lines:
            lines = self._buffer.take_block()
            self._door.refuse(self._terms.stream, GAVE_WAY, count_lines(lines), len(lines))
        self._kept.release()
        self._voice.end_with(Rejected(first_line, GAVE_WAY.code, GAVE_WAY.message))
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
        if self._terms.form.is_raw:
            self._skip_unfinished(rejected)
        else:
            self._end_with(rejected, self._buffer.partial_bytes)

    def _skip_unfinished(self, rejected: Rejected) -> None:
        """Where the next raw line begins is known, whatever is in this one."""
        self._door.refuse_unread(self._terms.stream, 1, self._buffer.partial_bytes)
        self._buffer.skip_partial()
        self._kept.release()
        self._voice.reject([rejected])
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
            self._door.refuse_unread(self._terms.stream, 1, byte_count)
        else:
            self._door.refuse(None, forbidden, 1, byte_count)
        self._drop_unfinished()
        self._voice.end_with(rejected)
        if self._state is State.READING:
            self._move(State.ENDED)
        self._pump()

    # --- handing over

    def _go_on_in_turn(self) -> None:
        """Hands over what waits, now or behind the others that wait for their turn."""
        if self._handover or self._has_lines:
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
        while self._submit() and self._has_lines and self._may_parse():
            if not has_turn:
                self._turn.pass_on()
                break
            has_turn = self._read_some()
        self._is_pumping = False
        if (
            self._handover
            or self._has_lines
            or self._buffer.partial_bytes
            or not self._kept.is_empty
        ):
            self._weigh()
        if self._has_to_tell:
            self._schedule_flush()
        self._regulate_reading()
        if self._state is State.CLOSED and not self._has_lines and not self._handover:
            self._turn.close()
            self._waker.go_on = None
            self._handover.release()

    @property
    def _has_to_tell(self) -> bool:
        """A block is settled, or the connection is to end and owes nothing any more."""
        if self._rounds:
            return self._rounds.has_answer
        return self._state is State.ENDED and not self._has_lines and not self._handover

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
            form = self._terms.form
            is_set_up = self._is_set_up
            block = buffer.take_block(form.block_lines_max) if is_set_up else buffer.take_line()
            byte_count = len(block)
            if not is_set_up and self._read_setup(block):
                return self._turn.spend(byte_count)
            steps = form.read(block, self._next_line, self._terms.stream, None)
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
            self._door.refuse_unread(self._terms.stream, parsed.rejected_count)
            self._voice.reject(parsed.rejected)
        if self._terms.form.is_raw and self._terms.stream is not None:
            self._door.note_raw(self._terms.stream, parsed)
        parts = list(parsed.by_stream.items())
        if len(parts) > 1 and self._door.has_synonyms(parsed.by_stream):
            parts = in_runs(parsed.by_stream)
        for stream, lines in parts:
            if stream is None:
                text = 'No stream: name it in a first line {"stream": ...} or in the line itself.'
                self._door.refuse_unread(None, len(lines.numbers), sum(lines.sizes))
                self._voice.reject_lines(lines, VALIDATION, text)
            else:
                self._handover.add(a_round, stream, Block(lines))
        self._rounds.begin(a_round)
        if parsed.rejected_count > len(parsed.rejected):
            self._give_up(parsed.rejected_count)

    def _give_up(self, rejected_count: int) -> None:
        """More lines of one block cannot be read than are worth telling: this is no NDJSON."""
        text = f"{rejected_count} lines up to here cannot be read; the connection is closed."
        self._voice.end_with(Rejected(self._next_line - 1, VALIDATION, text))
        self._door.refuse_unread(self._terms.stream, self._buffer.line_count)
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
        terms = read_terms(self._door, line, self._handover.principal)
        if terms is None:
            return False
        if isinstance(terms, BadTerms):
            self._refuse_setup(terms, line)
        else:
            self._terms = terms
            self._handover.acknowledge = terms.acknowledge
            self._next_line += 1
        return True

    def _refuse_setup(self, terms: BadTerms, line: bytes) -> None:
        """What follows would be taken for another stream or another promise: it is not read."""
        forbidden = terms.forbidden
        if forbidden is not None:
            self._door.refuse(None, forbidden, self._buffer.line_count, 0)
        else:
            self._door.refuse_unread(None, self._buffer.line_count)
        self._buffer.clear()
        rejected = Rejected(self._next_line, terms.code, terms.message)
        self._end_with(rejected, len(line), forbidden)

    def _submit(self) -> bool:
        """Brings to the door what waits. False: there is no room, or no time in this turn."""
        is_closed = self._state is State.CLOSED
        unread_bytes = self._buffer.held_bytes if is_closed else None
        return self._handover.submit(self._turn, self._schedule_flush, unread_bytes)

    def _room_again(self) -> None:
        self._handover.room_again()
        self._go_on_in_turn()

    def _regulate_reading(self) -> None:
        """Reads exactly while more could be handed over, or to see the client close at the end."""
        if self._state is State.READING:
            wants = not self._has_lines and not self._handover and self._may_parse()
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
            self._voice.say(answers)
        self._go_on_in_turn()
        if self._has_to_tell and not self._rounds:
            self._finish()

    def _finish(self) -> None:
        """All is settled. Closing with unread input would take the answers away from the client."""
        self._voice.say_last()
        self._since_tick = self._hub.tick
        is_over = self._has_eof or self._handover.is_gone
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
        if state is not State.ENDED:
            self._voice.hush()

    def reset(self) -> None:
        """Ends the connection at once."""
        self._move(State.CLOSED)
        self._transport.abort()

    def idle_ticks(self, tick: int) -> int:
        """How long nothing whole has come, less PATIENCE_TICKS: a client that keeps its session may
        have nothing to say for a while. Below 1: something is owed.
        """
        is_owed = self._rounds or self._handover or self._has_lines or self._is_writing_paused
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
        if self._voice.is_silent and stop_other_side(self._transport):
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
        elif not self._buffer.partial_bytes or self._terms.form.is_raw:
            return  # a log may stop in the middle of a line; others who need its memory get it
        elif ticks > hub.body_ticks_max:
            hub.counters.timed_out["body"] += 1
            text = f"The line did not end within {hub.limits.body_timeout_s:g} seconds."
            rejected = Rejected(self._partial_line, "RequestTimeoutException", text)
            self._end_with(rejected, self._buffer.partial_bytes)

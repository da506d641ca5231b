"""One connection of lines: lines in, acknowledgements and refusals out.

Moves the connection from state to state, keeps its clocks, and decides when lines are read, brought
to the door and answered. Its parts know how each of these is done. Must not know streams' state,
shards or calls.

Invariants: a record is acknowledged after all records before it on this connection were
acknowledged or refused. While the service is slow, the connection is not read. In each turn of the
loop the connection does a bounded part of its work (`http/turns.py`); then other connections do
theirs. When the client has gone, lines whose delivery it does not wait for are still admitted, and
wait for room as long as there is memory to wait in. Where the client does wait (`delivered`),
records that are in no call yet are withdrawn, because the client will send them again. Nothing that
a client sends makes a method of this class raise. On a stream's own socket nothing is answered, so
the client need not read: there a client never waits for a delivery, and refusals are logged.

Where it sits: http/opening.py -> session.py -> intake.py -> handover.py -> door.py; the way back is
rounds.py -> session.py -> voice.py.
"""

import asyncio
from enum import Enum
from functools import partial
from typing import Any

from kdaemon.base.limits import KIB
from kdaemon.door.departed import Waker
from kdaemon.door.handover import Handover
from kdaemon.door.intake import Intake
from kdaemon.door.line_door import LineDoor
from kdaemon.door.rounds import Rounds
from kdaemon.door.terms import Terms
from kdaemon.door.voice import Voice
from kdaemon.http.arrivals import Kept
from kdaemon.http.hub import Hub
from kdaemon.http.transports import look_for_other_side, stop_other_side
from kdaemon.http.turns import Turn
from kdaemon.wire.lines import LINE_BYTES_MAX
from kdaemon.wire.lines_read import VALIDATION

# A read smaller than this is handed over at once, whoever waits; ours, 2026-11-28.
SMALL_BYTES = 16 * KIB
PATIENCE_TICKS = 1  # ticks that a session may have nothing to do while all places are taken; ours


class State(Enum):
    READING = "reading"
    ENDED = "ended"  # no more input is taken; answers are still owed
    DISCARDING = "discarding"  # all answers are written; input is discarded until the client closes
    CLOSED = "closed"


_MOVES = {
    State.READING: {State.ENDED, State.CLOSED},
    State.ENDED: {State.DISCARDING, State.CLOSED},
    State.DISCARDING: {State.CLOSED},
    State.CLOSED: {State.CLOSED},  # the connection is lost after it was closed or reset
}


class NdjsonSession(asyncio.Protocol):
    """One connection.

    Queues: `_intake` (lines that are not parsed; at most one read, then reading stops), `_handover`
    (one block's frames for which there is no room), `_rounds` (blocks that have not settled; when
    they are full, reading stops).
    """

    def __init__(
        self,
        door: LineDoor,
        hub: Hub,
        line_bytes_max: int = LINE_BYTES_MAX,
        own: Terms | None = None,
    ) -> None:
        """`own`: the terms of the stream whose own socket the connection came in by; None: a shared
        socket.
        """
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._state = State.READING
        self._voice = Voice(None if own is None else own.stream)
        self._is_stopped = False  # the client was told to write no more
        self._line_bytes_max = line_bytes_max
        self._kept = Kept(hub.arrivals)  # memory of what has come and was not handed over
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
        self._intake = Intake(door, self._voice, self._rounds, self._handover, own)
        self._is_pumping = False
        self._turn = Turn(self._pump, hub.turns)
        self._is_reading = True
        self._is_writing_paused = False
        self._is_flush_due = False
        self._has_eof = False
        self._since_tick = hub.tick

    # --- the transport's calls

    def take_over(self, transport: asyncio.BaseTransport) -> None:
        """Takes a connection that the hub knows already."""
        self._transport = transport
        self._voice.take_over(transport)
        self._handover.principal = self._hub.who(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client has gone; nothing is written to it any more."""
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
        """Feeds one read to the intake. Refuses a line that is too long."""
        if self._state is not State.READING:
            return
        intake = self._intake
        if intake.feed(data):
            self._since_tick = self._hub.tick  # a line begins, or one has come whole
        bytes_max = min(self._line_bytes_max, intake.terms.form.line_bytes_max)
        if intake.partial_bytes > bytes_max:
            so = "this one is skipped" if intake.terms.form.is_raw else "the connection is closed"
            text = f"A line may have {bytes_max} bytes; {so}."
            self._hub.counters.refused["body_too_large"] += 1
            self._refuse_unfinished(VALIDATION, text)
        elif len(data) < SMALL_BYTES and not self._turn.is_over:
            self._turn.begin()
            self._pump()
        else:
            self._go_on_in_turn()

    def eof_received(self) -> bool:
        """The client sends no more. Its last line may lack a newline. Answers are still written."""
        self._has_eof = True
        if self._state is State.READING:
            if not self._is_stopped:  # a client that was stopped may have been cut off in a line
                self._intake.finish()
            self._drop_unfinished()
            self._move(State.ENDED)
            self._go_on_in_turn()
            self._look_for_client()
        elif self._state is State.DISCARDING:
            self._move(State.CLOSED)
            self._transport.close()
        return True

    # --- a client that may have gone

    def _look_for_client(self) -> None:
        """Withdraws what a client waits for if the client has gone. Over TCP, a client that closed
        looks like one that only sends no more, until something is written to it: so the byte with
        which every answer begins is sent ahead.
        """
        if self._handover.is_gone or self._is_writing_paused or not self._is_waited_for:
            return
        probe = partial(self._voice.probe, self._look_for_client)
        look_for_other_side(self._transport, self._withdraw, probe)

    @property
    def _is_waited_for(self) -> bool:
        """The client waits for a delivery."""
        return self._state in (State.READING, State.ENDED) and (
            self._rounds.wait_for_delivery or self._handover.is_waited_for
        )

    def pause_writing(self) -> None:
        """The client does not read its answers: it is not read until it does."""
        self._is_writing_paused = True
        self._since_tick = self._hub.tick
        self._regulate_reading()

    def resume_writing(self) -> None:
        """The client reads again: what waits goes on."""
        self._is_writing_paused = False
        self._since_tick = self._hub.tick
        self._go_on_in_turn()

    # --- what has come and was not handed over

    def _weigh(self) -> None:
        """Charges the memory of what has come and was not handed over to what all clients share:
        the line that has no end yet, and lines that wait for room or for a turn.
        """
        if self._state is State.CLOSED:
            return  # after that, it is charged to the memory for clients that have gone
        intake = self._intake
        size = intake.kept_bytes + self._handover.footprint_bytes
        waits = size > intake.partial_bytes
        if not self._kept.weigh(size, self._evicted, waits=waits):
            self._evicted()

    def _evicted(self) -> None:
        """Makes memory free: there is none for this connection, or faster connections need it."""
        if self._handover or self._intake.has_lines:
            self._give_way()
        elif self._state is State.READING:
            text = "Too many long lines are arriving at once; send this one again later."
            self._hub.counters.refused["bodies_full"] += 1
            self._refuse_unfinished("ServiceUnavailableException", text)

    def _give_way(self) -> None:
        """Refuses all lines that wait, and ends the connection."""
        self._hub.counters.refused["bodies_full"] += 1
        self._intake.give_way()
        self._end()
        self._pump()

    def _drop_unfinished(self) -> None:
        """Drops the line that has no end yet."""
        self._intake.drop_unfinished()
        self._kept.release()

    def _refuse_unfinished(self, code: str, text: str) -> None:
        """Refuses the line that has no end. In raw form the connection goes on with the next line;
        in envelopes it ends.
        """
        is_raw = self._intake.terms.form.is_raw
        self._intake.refuse_unfinished(code, text)
        if is_raw:
            self._kept.release()
            self._go_on_in_turn()
        else:
            self._end()
            self._pump()

    def _end(self) -> None:
        """Takes no more input. What came before is settled and answered, and the voice's last words
        are written at the end.
        """
        self._kept.release()
        if self._state is State.READING:
            self._move(State.ENDED)

    # --- handing over

    def _go_on_in_turn(self) -> None:
        """Hands over what waits: now, or after the connections whose turn comes first."""
        if self._handover or self._intake.has_lines:
            self._turn.go_on_or_pass()
            if self._turn.is_over:
                self._weigh()
                self._regulate_reading()
        else:
            self._pump()

    def _pump(self) -> None:
        """Parses and submits what was read, as far as there is room and the client reads its
        answers.
        """
        if self._is_pumping or self._turn.is_over:
            return
        self._is_pumping = True
        has_turn = True
        while self._submit() and self._intake.has_lines and self._may_parse():
            if not has_turn:
                self._turn.pass_on()
                break
            has_turn = self._intake.read(self._turn)
            if self._voice.last_words and self._state is State.READING:
                self._end()
        self._is_pumping = False
        if (
            self._handover
            or self._intake.has_lines
            or self._intake.partial_bytes
            or not self._kept.is_empty
        ):
            self._weigh()
        if self._has_to_tell:
            self._schedule_flush()
        self._regulate_reading()
        if self._state is State.CLOSED and not self._intake.has_lines and not self._handover:
            self._turn.close()
            self._waker.go_on = None
            self._handover.release()

    @property
    def _has_to_tell(self) -> bool:
        """There is something to write: a block has settled, or the connection ends and owes nothing
        any more.
        """
        if self._rounds:
            return self._rounds.has_answer
        return self._state is State.ENDED and not self._intake.has_lines and not self._handover

    def _may_parse(self) -> bool:
        """Whether the client's reading of answers allows to parse more. A client that has gone is
        owed no answer, so that only a lack of room can delay its lines.
        """
        return self._state is State.CLOSED or not (self._is_writing_paused or self._rounds.is_full)

    def _submit(self) -> bool:
        """Brings waiting blocks to the door. False: there is no room, or the turn is over."""
        is_closed = self._state is State.CLOSED
        unread_bytes = self._intake.unread_bytes if is_closed else None
        return self._handover.submit(self._turn, self._schedule_flush, unread_bytes)

    def _room_again(self) -> None:
        self._handover.room_again()
        self._go_on_in_turn()

    def _regulate_reading(self) -> None:
        """Reads the transport only while more could be handed over, and, at the end, to see the
        client close.
        """
        if self._state is State.READING:
            wants = not self._intake.has_lines and not self._handover and self._may_parse()
        else:
            wants = self._state is State.DISCARDING
        if wants is self._is_reading or self._state is State.CLOSED or self._transport.is_closing():
            return
        self._is_reading = wants
        if wants:
            # Time in which we did not read does not count against the client.
            self._since_tick = self._hub.tick
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # --- answering

    def _schedule_flush(self) -> None:
        """Writes one answer for all that settles in this turn of the loop."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Writes what has settled, in order; ends the connection when nothing more is owed."""
        self._is_flush_due = False
        answers = self._rounds.take_answers()
        if answers:
            self._voice.say(answers)
        self._go_on_in_turn()
        if self._has_to_tell and not self._rounds:
            self._finish()

    def _finish(self) -> None:
        """All has settled: writes the last words and closes. If the client may still be sending,
        only the writing side is closed, because closing with unread input would destroy the answers
        on their way.
        """
        self._voice.say_last()
        self._since_tick = self._hub.tick
        is_over = self._has_eof or self._handover.is_gone
        if is_over or self._transport.is_closing() or not self._transport.can_write_eof():
            self._move(State.CLOSED)
            self._transport.close()
        else:
            self._move(State.DISCARDING)
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
        """Ends the connection at once. Answers that are not written are lost."""
        self._move(State.CLOSED)
        self._transport.abort()

    def idle_ticks(self, tick: int) -> int:
        """Ticks since a line last began or came whole, less PATIENCE_TICKS, because a client that
        keeps its session may have nothing to say for a while. Below 1: the session is in use.
        """
        is_owed = (
            self._rounds or self._handover or self._intake.has_lines or self._is_writing_paused
        )
        return 0 if is_owed else tick - self._since_tick - PATIENCE_TICKS

    def leave(self) -> None:
        """Closes the connection to make place for another. All answers are written already."""
        self._drop_unfinished()
        self._move(State.CLOSED)
        self._transport.close()

    def close_if_idle(self) -> None:
        """Takes no more input. What was read is settled and answered, then the connection ends. On
        a stream's own socket the client counts what it wrote as taken, so that what it wrote is
        read to its end.
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
        """Closes a connection whose client stops in the middle of a line or does not read its
        answers.
        """
        ticks, hub = tick - self._since_tick, self._hub
        self._kept.tick()
        if self._is_writing_paused:
            if ticks > hub.write_ticks_max:
                hub.counters.timed_out["write"] += 1
                self.reset()
        elif self._state is State.DISCARDING or self._state is State.CLOSED:
            if ticks > hub.discard_ticks_max:
                self.reset()
        elif self._state is State.ENDED or not self._is_reading:
            self._look_for_client()
        elif not self._intake.partial_bytes or self._intake.terms.form.is_raw:
            return  # a log may stop in the middle of a line; if others need its memory, they get it
        elif ticks > hub.body_ticks_max:
            hub.counters.timed_out["body"] += 1
            text = f"The line did not end within {hub.limits.body_timeout_s:g} seconds."
            self._refuse_unfinished("RequestTimeoutException", text)

    def audit(self) -> tuple[bool, int, bool]:
        """Whether its client sends no more, the bytes of what has come and was not handed over, and
        whether lines are to be parsed. Only for tests.
        """
        kept_bytes = self._intake.kept_bytes + self._handover.footprint_bytes
        return self._has_eof, kept_bytes, self._intake.has_lines

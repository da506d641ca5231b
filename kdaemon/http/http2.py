"""One HTTP/2 connection: reads frames, hands whole requests to a handler, sends answers, and ends.

Knows the protocol (RFC 9113). Must not know what is asked. The handlers are those of HTTP/1.1, and
so are the rules: who may ask, how large a head and a body may be, what may be arriving, how long it
may take (heads.py, origin.py, arrivals.py, hub.py). States and windows are the library's
(http2_core.py). http2_intake.py reads frames, http2_streams.py has the requests, http2_sending.py
has answers on their way; this module puts them together, with turns, clocks and the connection's
end.

Invariants: whatever a client sends, no method here raises. One connection holds one read of raw
input, `pipeline_max` streams, and of each stream what `arrivals` granted. Requests are handed over
in the order in which they became whole, also while one `blocks_next`. A connection does its part of
a turn of the loop, frame by frame (turns.py). A refused stream ends alone; the connection ends if
its framing is in doubt, or if its client does only what costs. No task and no timer of its own.

Where it sits: Opening -> Http2Protocol -> Http2Stream -> HttpRequest -> handler -> respond.
"""

import asyncio
from enum import Enum
from typing import Any

from h2.exceptions import ProtocolError

from kdaemon.base.principal import NOBODY
from kdaemon.http.handlers import report
from kdaemon.http.http2_core import Http2Core
from kdaemon.http.http2_frames import (
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    PROBE,
    Broken,
    Effort,
    goaway,
)
from kdaemon.http.http2_intake import Intake, defect
from kdaemon.http.http2_sending import Sending
from kdaemon.http.http2_streams import Streams
from kdaemon.http.hub import Hub
from kdaemon.http.refusals import BODIES_FULL, TRUNCATED
from kdaemon.http.request import HttpHandler
from kdaemon.http.transports import (
    PROBE_S,
    Presence,
    end_writing,
    look_for_other_side,
    presence,
    reset_transport,
)
from kdaemon.http.turns import BYTES_MAX, Turn

# Frames that are read at once, whoever else waits: an ordinary request, or the frames with which a
# client begins. The rest of the read goes on in its turn. Ours, 2026-11-28.
FRAMES_AT_ONCE = 8


class State(Enum):
    OPEN = "open"
    LEAVING = "leaving"  # GOAWAY is sent: streams that have begun are finished, and no other begins
    DISCARDING = "discarding"  # all is written; input is discarded until the client closes
    CLOSED = "closed"


_MOVES = {
    State.OPEN: {State.LEAVING, State.DISCARDING, State.CLOSED},
    State.LEAVING: {State.DISCARDING, State.CLOSED},
    State.DISCARDING: {State.CLOSED},
    State.CLOSED: {State.CLOSED},  # the connection is lost after it was closed or reset
}


class Http2Protocol(asyncio.Protocol):
    """One connection. Its preface was read by somebody else.

    Queues, drained as answers come, the client opens windows or the next turn comes:
    `_streams`: streams that have begun and are not answered whole, at most `pipeline_max`; others
    are refused. `_sending`: those of them whose answers are on their way. `_intake`: raw input.
    """

    __slots__ = (
        "_core",
        "_intake",
        "_is_deaf",
        "_is_flush_planned",
        "_is_reading",
        "_paused_tick",
        "_sending",
        "_state",
        "_streams",
        "_transport",
        "_turn",
        "client",
        "has_eof",
        "hub",
        "is_feeding",
        "principal",
    )

    def __init__(self, handler: HttpHandler, hub: Hub) -> None:
        limits = hub.limits
        self.hub = hub
        self.client = hub.number_client()
        self.principal = NOBODY  # until there is a transport
        self._transport: Any = None
        self._core = Http2Core(limits.pipeline_max, limits.head_bytes_max)
        effort = Effort()
        self._intake = Intake(self._core, effort, hub)
        self._sending = Sending(self._core, effort, hub)
        self._streams = Streams(self, handler, hub, self._core, effort, self._sending)
        self._turn = Turn(self._feed_unread, hub.turns)
        self._state = State.OPEN
        self._paused_tick = hub.tick
        self.has_eof = False
        self._is_deaf = False  # input of this client is discarded
        self.is_feeding = False
        self._is_flush_planned = False
        self._is_reading = True

    # --- the transport's calls

    def take_over(self, transport: asyncio.BaseTransport) -> None:
        """Takes a connection that the hub knows already."""
        self._transport = transport
        self.principal = self.hub.who(transport)
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is gone: handlers of open requests are told, memory is given back."""
        self._move(State.CLOSED)
        self.hub.detach(self)
        self._stop_reading()
        self._streams.close()
        self._turn.close()
        self._core.close()

    def data_received(self, data: bytes) -> None:
        """Reads on, at once or when the connection's turn comes."""
        if self._is_deaf:
            return
        intake = self._intake
        waits = self._turn.is_over or intake.has_next() or len(data) >= BYTES_MAX
        intake.add(data)
        if waits:
            self.go_on()
            return
        spent_bytes = self._feed(FRAMES_AT_ONCE)
        if intake.has_next() and self._may_feed():
            self.go_on(spent_bytes)
        else:
            self._after_feeding()

    def eof_received(self) -> bool:
        """The client sends no more. While it is owed answers, the connection stays half open."""
        self.has_eof = True
        if not self._intake.has_next():
            self._end_input()
        if self._streams.owes:
            self.send_probe()
        return bool(self._streams or self._intake.has_next()) and self.is_open

    def pause_writing(self) -> None:
        """The client does not read its answers: it is not read until it does."""
        self._sending.pause()
        self._weigh_unwritten()
        self._regulate_reading()

    def resume_writing(self) -> None:
        """The client reads again: answers and unread input go on."""
        self._sending.is_paused = False
        self.flush_later()
        self.go_on()

    # --- reading on

    @property
    def is_open(self) -> bool:
        """Answers are still sent."""
        return self._state is State.OPEN or self._state is State.LEAVING

    @property
    def may_begin(self) -> bool:
        """New requests are taken."""
        return self._state is State.OPEN

    def _may_feed(self) -> bool:
        return not (
            self._is_deaf
            or self._sending.is_paused
            or self._streams.is_held
            # The connection is about to close.
            or (self._state is State.LEAVING and not self._streams)
        )

    def go_on(self, spent_bytes: int = 0) -> None:
        """Reads unread input: now, or after the connections whose turn comes first."""
        if self.is_feeding:
            return
        if self._intake.has_next() and not self._is_deaf:
            self._turn.go_on_or_pass(spent_bytes)
            if not self._turn.is_over:
                return
        self._after_feeding()

    def _feed_unread(self) -> None:
        """Reads unread input, as far as the client, the handler and this turn of the loop allow."""
        if self._turn.is_over:
            return
        while self._intake.has_next() and self._may_feed():
            if not self._turn.spend(self._feed(1)):
                self._turn.pass_on()
                break
        self._after_feeding()

    def _feed(self, frame_count: int) -> int:
        """Takes `frame_count` frames, or fewer if they complete a request. Returns their size in
        bytes.
        """
        self.is_feeding = True
        streams, intake = self._streams, self._intake
        spent_bytes, last, known = 0, streams.last, streams.known
        for _ in range(frame_count):
            if not self._may_feed() or streams.last is not last:
                break
            taken = intake.next(known)
            if taken is None:
                break
            if isinstance(taken, Broken):
                self._fail(taken)
                break
            spent_bytes += taken.byte_count
            if taken.is_goodbye:
                self._leave(NO_ERROR, "")
            try:
                for event in taken.events:
                    streams.handle(event)
            except Exception as error:  # noqa: BLE001 - what a client sends must not end us
                self._fail(defect(self.hub, error))
        self.is_feeding = False
        return spent_bytes

    def _after_feeding(self) -> None:
        """Charges what came, and sends what may leave."""
        self._streams.charge()
        if not self._is_deaf:
            self._weigh_unread()
            if self.has_eof and not self._intake.has_next():
                self._end_input()
        self._flush()

    def _weigh_unread(self) -> None:
        if not self._intake.weigh(self._refuse_unread, owes=bool(self._streams)):
            self._refuse_unread()

    def _refuse_unread(self) -> None:
        """Ends the connection for lack of memory: there is none for its input, or faster clients
        need it.
        """
        if not self._is_deaf:
            self.hub.counters.refused[BODIES_FULL.reason] += 1
            self._leave(ENHANCE_YOUR_CALM, BODIES_FULL.message)
            self._stop_reading()
            self.flush_later()

    def _regulate_reading(self) -> None:
        """Reads the transport only while more could be taken, or to see the client go."""
        wants = self._is_deaf or not (
            self._sending.is_paused or self._turn.is_over or self._intake.has_next()
        )
        if wants is self._is_reading or self._transport.is_closing():
            return
        self._is_reading = wants
        tick = self.hub.tick
        if not wants:
            self._paused_tick = tick
            self._transport.pause_reading()
            return
        # Time in which we did not read does not count against the client.
        if tick != self._paused_tick:
            self._intake.part_tick = tick
            self._streams.resume_clocks()
        self._transport.resume_reading()

    def _stop_reading(self) -> None:
        """Takes nothing more: input is discarded from now on."""
        self._is_deaf = True
        self._intake.clear()
        self._streams.drop_partial()

    def _end_input(self) -> None:
        """The client sends no more: requests that are not whole are refused."""
        if self._is_deaf:
            return
        if self._intake.has_unread and not self._streams:
            self.hub.counters.refused[TRUNCATED.reason] += 1
        self._streams.refuse_partial()
        self._stop_reading()
        self.flush_later()

    # --- its framing is in doubt

    def _fail(self, broken: Broken) -> None:
        """Ends the connection, because its framing is in doubt or its client floods it. No answer
        that is owed can be sent any more.
        """
        if self.is_open:
            self.hub.counters.refused["flood" if broken.is_flood else "malformed"] += 1
            last_stream = self._core.highest_inbound_stream_id
            told = b"" if broken.is_told else goaway(last_stream, broken.code, broken.text)
            self._write(told)
            self._close()

    # --- answering

    def flush_later(self) -> None:
        """Plans one write for all answers of this turn of the loop. While frames are read, the
        write comes after them.
        """
        if not (self._is_flush_planned or self.is_feeding):
            self._is_flush_planned = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_planned = False
        if not self.is_open:
            return
        try:
            if self._sending.send(self._write, self._streams.finish, self._streams.fail):
                self.hub.turns.later(self._flush)
        except ProtocolError as error:
            report(self.hub.counters, "an answer of HTTP/2 could not be sent", error)
            self.reset()
            return
        self._write()
        self._weigh_unwritten()
        self._end_if_done()
        if self._intake.has_next() and self._may_feed() and not self.is_feeding:
            self._turn.pass_on()  # what held input back is gone
        self._regulate_reading()

    def _write(self, last: bytes = b"") -> None:
        data = self._core.data_to_send() + last
        if data and self.is_open and not self._transport.is_closing():
            self._transport.write(data)

    def _weigh_unwritten(self) -> None:
        """Charges answers that cannot leave as waiting data. If memory for that is full, a client
        that does not read its answers loses its connection.
        """
        if not self.is_open:
            return
        paused = self._sending.is_paused
        buffered_bytes = self._transport.get_write_buffer_size() if paused else 0
        if not self._sending.weigh(buffered_bytes, self.reset):
            asyncio.get_running_loop().call_soon(self.reset)  # later, because we may be in a write

    # --- a client that sends no more

    def send_probe(self) -> None:
        """Finds out whether the client still reads: if it does not, its kernel says so."""
        if self.is_open and not self._sending.is_paused:
            self._write(PROBE)
            asyncio.get_running_loop().call_later(PROBE_S, self._hear_probe)

    def _hear_probe(self) -> None:
        if self.is_open and self._streams.owes and presence(self._transport) is Presence.GONE:
            self.reset()

    def _look_for_client(self) -> None:
        """Ends a connection whose client has gone. The loop does not notice that while the
        connection is not read.
        """
        look_for_other_side(self._transport, self.reset, self.send_probe)

    # --- the end

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"a connection cannot go from {self._state} to {state}")
        self._state = state

    def _leave(self, code: int, text: str) -> None:
        """Tells the client that no new stream begins. Streams that have begun are finished."""
        if self._state is State.OPEN:
            self._write(goaway(self._core.highest_inbound_stream_id, code, text))
            self._move(State.LEAVING)

    def _end_if_done(self) -> None:
        if (
            self._state is State.OPEN
            and self.hub.is_draining
            and self._core.highest_inbound_stream_id
        ):
            self._leave(NO_ERROR, "")
        if self._streams:
            return
        if self._state is State.LEAVING or (self.has_eof and not self._intake.has_next()):
            self._close()

    def _close(self) -> None:
        """Nothing more is owed. Input is discarded for a while, as after a refusal."""
        self._stop_reading()
        self._streams.drop_all()
        if not self.is_open:
            return
        self._streams.since_tick = self.hub.tick
        if self.has_eof or not end_writing(self._transport):
            self._move(State.CLOSED)
            self._transport.close()
        else:
            self._move(State.DISCARDING)
            self._regulate_reading()

    def reset(self) -> None:
        """Ends the connection at once, over TCP with a reset."""
        self._move(State.CLOSED)
        self._sending.release()
        self._stop_reading()
        reset_transport(self._transport)

    @property
    def _is_idle(self) -> bool:
        return not self._streams and not self._intake.is_partial

    def idle_ticks(self, tick: int) -> int:
        """How many ticks the connection has had no stream, or only streams on which nothing
        moves.
        """
        ticks = tick - self._streams.since_tick
        if self._is_idle:
            return ticks
        if self._sending.is_paused or self._intake.has_next():
            return 0
        if not self._streams:
            return tick - self._intake.part_tick + 1  # an ordinary client sends a frame whole
        return ticks if self._streams.are_stuck else 0

    def leave(self) -> None:
        """Makes place for another connection, at once: nothing would watch a connection that
        discards its input.
        """
        if self.is_open and self._is_idle:
            self._leave(NO_ERROR, "")
            self._move(State.CLOSED)
            self._stop_reading()
            self._transport.close()
        else:
            self.reset()

    def close_if_idle(self) -> None:
        """Closes a connection that is owed nothing. Tells the client of any other connection to
        begin no new stream. That client may be writing just now, and must see the GOAWAY: a reset
        would destroy it.
        """
        if self.is_open and (self.hub.is_draining or not self._streams):
            self._leave(NO_ERROR, "")
            if self._streams.drain():
                self.flush_later()
            self._end_if_done()

    def check_time(self, tick: int) -> None:
        """Ends a connection whose client takes longer than allowed. Called by every sweep."""
        hub = self.hub
        self._intake.tick()
        if self._sending.is_late(tick):
            hub.counters.timed_out["write"] += 1
            self.reset()
            return
        if self.is_open and self._streams.give_up_stuck(tick):
            self.flush_later()
        ticks = tick - self._streams.since_tick
        if not self.is_open:
            if ticks > hub.discard_ticks_max and not self._sending.is_paused:
                self.reset()
        elif self._is_deaf or not self._is_reading:
            if self._streams.owes:
                self._look_for_client()
        elif self._streams and not self._intake.in_block:
            self._streams.check_time(tick)
        elif self._intake.is_partial or not self._intake.has_settings:
            if tick - self._intake.part_tick > hub.head_ticks_max:
                hub.counters.timed_out["head"] += 1
                limit = f"within {hub.limits.head_timeout_s:g} seconds"
                self._leave(NO_ERROR, f"The headers did not arrive {limit}.")
                self._stop_reading()
                self._flush()
        elif ticks > hub.idle_ticks_max:
            hub.counters.timed_out["idle"] += 1
            self.close_if_idle()

    def audit(self) -> Http2Core:
        """The state of the protocol. Only for tests."""
        return self._core

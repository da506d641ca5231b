"""One HTTP/1.1 connection: bytes in, whole requests to a handler, answers in order, and its end.

Knows HTTP and nothing of the requests' subjects: no stream, record or metric belongs here. The
Kinesis API, the NDJSON route, the sandbox and the admin pages are handlers behind the same
connections, and behind those of HTTP/2 (http2.py).

Invariants: whatever a client sends, one connection holds at most one read (256 KiB) of raw input,
one body of `body_bytes_max` and `pipeline_max` requests without an answer; it does its part of a
turn of the loop (turns.py) and then others have theirs. No task and no timer per connection or
request: one coarse sweep cuts off slow clients.

Where it sits: socket -> HttpProtocol (RequestReader) -> HttpRequest -> handler -> respond ->
Sending -> socket.
"""

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from kdaemon.base.principal import NOBODY
from kdaemon.http.answer import Answer
from kdaemon.http.arrivals import Kept
from kdaemon.http.handlers import call_handler
from kdaemon.http.heads import Heads
from kdaemon.http.hub import Hub
from kdaemon.http.reader import Phase, RequestReader
from kdaemon.http.refusals import BODIES_FULL, Refusal, timed_out
from kdaemon.http.rendering import CONTINUE
from kdaemon.http.request import HttpHandler, HttpRequest
from kdaemon.http.sending import GATHERED_BYTES_MAX, Sending
from kdaemon.http.transports import end_writing, look_for_other_side, reset_transport
from kdaemon.http.turns import BYTES_MAX, Turn

# For so many ticks after a request its head is kept for the next one: 3 KiB for an SDK's. Ours,
# 2026-11-29: thousands of connections of a pool are idle; those in use send more often than this.
KEPT_TICKS_MAX: Final = 10


class State(Enum):
    """The writing side of a connection; the reader's `Phase` is the reading side."""

    OPEN = "open"
    # The last answer is written; input is discarded until the client closes.
    DISCARDING = "discarding"
    CLOSED = "closed"


# An attribute of an Enum costs four times a global, and these are read for every request.
_OPEN: Final[State] = State.OPEN
_ENDED: Final[Phase] = Phase.ENDED
_MOVES = {
    State.OPEN: {State.DISCARDING, State.CLOSED},
    State.DISCARDING: {State.CLOSED},
    State.CLOSED: {State.CLOSED},  # the transport is lost after it was closed or reset
}


@dataclass(frozen=True, slots=True)
class Audit:
    """What a connection has in hand, for tests. `unread_bytes`: None if nothing waits to be read;
    `head_bytes`: of a head that is not whole.
    """

    has_eof: bool
    unread_bytes: int | None
    heads: Heads
    head_bytes: int
    header_count: int


class HttpProtocol(asyncio.Protocol):
    """One connection. Nothing a client does makes its methods raise.

    Queues, drained by `_feed_unread` when answers leave, the client reads them or the next turn
    comes:
    `_sending`: requests without an answer; when it is full, reading stops.
    `_unread`: raw input from `_read_to` on; one read.
    """

    __slots__ = (
        "_handler",
        "_has_eof",
        "_is_feeding",
        "_is_reading",
        "_kept",
        "_read_to",
        "_reader",
        "_sending",
        "_state",
        "_transport",
        "_turn",
        "_unread",
        "client",
        "hub",
        "principal",
    )

    def __init__(self, handler: HttpHandler, hub: Hub) -> None:
        """`hub`: shared by the connections of a listener."""
        self.hub = hub
        self.client = self.hub.number_client()
        self.principal = NOBODY  # until there is a transport
        self._handler = handler
        self._transport: Any = None
        self._reader = RequestReader(self, self.hub)
        self._sending = Sending(self, self.hub)
        self._turn = Turn(self._feed_unread, self.hub.turns)
        self._state = _OPEN
        self._unread: bytes | None = None
        self._read_to = 0
        self._kept = Kept(self.hub.arrivals)  # the memory of `_unread`
        self._is_feeding = False
        self._is_reading = True
        self._has_eof = False

    # --- the transport's calls

    def take_over(self, transport: asyncio.BaseTransport) -> None:
        """Goes on with a connection that the hub knows already, and whose first bytes were read
        elsewhere.
        """
        self._transport = transport
        self._sending.begin(transport)
        self.principal = self.hub.who(transport)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected on `transport`; reset at once if the hub has no place for it."""
        self.take_over(transport)
        if not self.hub.attach(self):
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is gone: handlers of open requests are told, and all memory is given
        back.
        """
        self._move(State.CLOSED)
        self.hub.detach(self)
        self._drop_unread()
        self._sending.close()
        self._reader.close()
        self._turn.close()

    def data_received(self, data: bytes) -> None:
        """Reads `data`, and hands over the requests that become whole. Input that cannot be read
        yet (the pipeline is full, a request blocks the next one, the client does not read, or the
        turn is over) is kept in `_unread`, and reading stops. Input after the end of reading is
        discarded.
        """
        reader = self._reader
        if reader.phase is _ENDED:
            return  # nothing more is taken from this client
        if self._unread is None and len(data) < BYTES_MAX and self._sending.takes_next:
            self._is_feeding = True
            read_to = reader.feed(data)
            self._is_feeding = False
            if read_to < len(data):
                self._unread, self._read_to = data, read_to
                self.go_on(read_to)
                return
            if reader.owes_continue:
                self._send_continue()
            self._sending.write()
            if self._sending.is_full:
                self._regulate_reading()
        else:
            if self._unread is not None:  # a transport may deliver once more after a pause
                data = self._unread[self._read_to :] + data
            self._unread, self._read_to = data, 0
            self.go_on()

    def eof_received(self) -> bool:
        """The client sends no more. While it is owed answers the connection stays half open."""
        self._has_eof = True
        if self._unread is None:
            self._reader.finish()
        if self._sending.owes:
            self._send_probe()
        return (self._sending.owes or bool(self._unread)) and self._state is _OPEN

    def pause_writing(self) -> None:
        """The client does not read its answers: no further request is read until it does."""
        self._reader.since_tick = self.hub.tick
        self._sending.pause()
        self._regulate_reading()

    def resume_writing(self) -> None:
        """The client reads again: an answer in pieces and the unread input go on."""
        self._reader.since_tick = self.hub.tick
        self._sending.resume()
        self.go_on()

    # --- the reader's calls

    def take(self, request: HttpRequest) -> None:
        """Hands a whole request to the handler. A handler's exception is counted and answered."""
        self._sending.add(request)
        call_handler(self.hub.counters, self._handler, request)
        if self._has_eof and request.answer is None:
            self._send_probe()

    def refuse(self, refusal: Refusal) -> None:
        """Answers an error after the answers that are still owed, and closes. Counted by its
        reason.
        """
        self.hub.counters.refused[refusal.reason] += 1
        self._end_with(refusal.answer())

    # --- reading on

    def go_on(self, spent_bytes: int = 0) -> None:
        """Feeds the unread input, now or after the others that wait for their turn."""
        if self._unread is not None and not self._is_feeding:
            self._turn.go_on_or_pass(spent_bytes)
            if not self._turn.is_over:
                return
            self._weigh_unread()
            self._sending.write()
            self._regulate_reading()
        else:
            self._feed_unread()

    def _feed_unread(self) -> None:
        """Feeds the unread input, as far as pipeline, client and this turn of the loop allow."""
        if self._is_feeding or self._turn.is_over:
            return
        self._is_feeding = True
        reader = self._reader
        while self._unread is not None and self._state is _OPEN and self._sending.takes_next:
            if reader.phase is _ENDED:
                self._unread = None
                break
            data, at = self._unread, self._read_to
            self._read_to = reader.feed(data, at)
            if self._read_to >= len(data):
                self._unread = None
            if not self._turn.spend(self._read_to - at):
                self._turn.pass_on()
                break
        self._is_feeding = False
        if self._unread is not None or not self._kept.is_empty:
            self._weigh_unread()
        if reader.owes_continue:
            self._send_continue()
        self._sending.write()
        if self._has_eof and self._unread is None:
            reader.finish()
            if not self._sending.owes:
                self._close()
        self._regulate_reading()

    def _weigh_unread(self) -> None:
        """Input that a client sent ahead is kept until its turn comes, and counts as arriving
        bytes.
        """
        byte_count = 0 if self._unread is None else len(self._unread)
        waits = self._sending.owes  # else the input only waits for its turn
        if not self._kept.weigh(byte_count, self._refuse_unread, waits=waits):
            self._refuse_unread()

    def _refuse_unread(self) -> None:
        """There is no memory for the unread input, or other clients that are faster need it."""
        if self._unread is not None and self._reader.phase is not Phase.ENDED:
            self.refuse(self._reader.in_form(BODIES_FULL, self._unread[self._read_to :]))

    def _regulate_reading(self) -> None:
        """Reads exactly while another request could be handed over, or to see the client go."""
        wants = self._reader.phase is _ENDED or not (
            self._sending.is_paused
            or self._unread is not None
            or self._turn.is_over
            or self._sending.is_full
        )
        if wants is self._is_reading or self._transport.is_closing():
            return
        self._is_reading = wants
        if wants:
            self._reader.since_tick = self.hub.tick  # the client is not charged for our pause
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _end_with(self, answer: Answer) -> None:
        """Sends the last answer of this connection, after the answers that are owed."""
        self._reader.end()
        self._drop_unread()
        request = HttpRequest(self, "", "", "", {}, b"", closes=True, is_http_1_0=False)
        request.answer = answer
        self._sending.add(request)
        self.flush_answers(request)

    # --- answering

    def flush_answers(self, request: HttpRequest) -> None:
        """Writes the answers that may leave now that `request` has its answer, in request order."""
        sending = self._sending
        if not sending.gather_ready(request):
            return  # earlier requests are answered first
        if sending.is_over:
            sending.write()
            self._close()
            return
        if self._is_feeding:
            if sending.gathered_bytes >= GATHERED_BYTES_MAX:
                sending.write()
            return
        self._reader.since_tick = self.hub.tick
        if self._reader.owes_continue:
            self._send_continue()
        sending.write()
        if not self._is_reading or self._has_eof:
            self.go_on()

    def _send_continue(self) -> None:
        """Tells the client to send its body, unless answers to earlier requests go first."""
        if not self._sending.owes and self._state is _OPEN:
            self._reader.owes_continue = False
            self._sending.gather(CONTINUE)

    # --- a client that sends no more

    def _send_probe(self) -> None:
        """Finds out whether the client still reads."""
        self._sending.send_probe(self._look_for_client)

    def _look_for_client(self) -> None:
        """Ends a connection whose client has gone. While reading is paused, the loop does not
        notice that.
        """
        if self._state is not _OPEN or not self._sending.owes:
            return
        look_for_other_side(self._transport, self.reset, self._send_probe)

    # --- the end

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"a connection cannot go from {self._state} to {state}")
        self._state = state
        self._sending.stop()

    def _drop_unread(self) -> None:
        self._unread = None
        self._kept.release()

    def _close(self) -> None:
        """No answer is owed any more: ends the connection.

        If the client may still be sending, its input is discarded for a while: closing with unread
        input resets the connection, and the client would not see its answer.
        """
        self._reader.end()
        self._drop_unread()
        self._sending.drop()
        if self._state is not _OPEN:
            return
        self._reader.since_tick = self.hub.tick
        if self._has_eof or not end_writing(self._transport):
            self._move(State.CLOSED)
            self._transport.close()
        else:
            self._move(State.DISCARDING)
            self._regulate_reading()

    def reset(self) -> None:
        """Ends the connection at once, with a reset where the transport is TCP."""
        self._reader.end()
        self._move(State.CLOSED)
        reset_transport(self._transport)

    @property
    def _is_idle(self) -> bool:
        return self._reader.phase is Phase.IDLE and not self._sending.owes and self._unread is None

    def idle_ticks(self, tick: int) -> int:
        """For how many ticks the connection has been between requests, stuck in a part of one, or
        not going away after its end: an ordinary client sends a head at once. Below 1: an answer is
        owed, or a body is arriving.
        """
        ticks = tick - self._reader.since_tick
        if self._is_idle:
            return ticks
        if self._sending.owes or self._unread is not None or self._sending.is_paused:
            return 0
        phase, arrival = self._reader.phase, self._reader.arrival
        is_stuck = phase is not Phase.BODY or arrival is None or arrival.is_stalled
        return ticks + (phase is Phase.HEAD) if is_stuck else 0

    def leave(self) -> None:
        """Makes place for others: closes the connection, with a reset if it is not idle."""
        if self._is_idle:
            self.close_if_idle()
        else:
            self.reset()

    def close_if_idle(self) -> None:
        """Closes a connection that is between requests and owed nothing. The source of an answer in
        pieces is told that the listener closes.
        """
        if self._is_idle:
            self._reader.end()
            self._move(State.CLOSED)
            self._transport.close()
        else:
            self._sending.look_at_pieces()

    def check_time(self, tick: int) -> None:
        """Cuts off a client that takes longer than its phase allows. Called by every sweep."""
        hub, phase = self.hub, self._reader.phase
        ticks = tick - self._reader.since_tick
        self._kept.tick()
        self._sending.tick()
        if self._sending.is_paused:
            if ticks > hub.write_ticks_max:
                hub.counters.timed_out["write"] += 1
                self.reset()
        elif self._state is not _OPEN:
            if ticks > hub.discard_ticks_max:
                self.reset()
        elif self._sending.owes and (self._has_eof or not self._is_reading):
            self._look_for_client()
        elif phase is Phase.IDLE:
            if ticks > hub.idle_ticks_max and self._is_idle:
                hub.counters.timed_out["idle"] += 1
                self.close_if_idle()
            elif ticks > KEPT_TICKS_MAX:
                self._reader.forget()
        elif not self._is_reading:
            return  # the client waits for us
        elif phase is Phase.HEAD and ticks > hub.head_ticks_max:
            limit = f"within {hub.limits.head_timeout_s:g} seconds"
            self._time_out("head", "The request line and headers", limit)
        elif phase is Phase.BODY:
            arrival = self._reader.arrival
            if ticks > hub.body_ticks_max:
                limit = f"within {hub.limits.body_timeout_s:g} seconds"
                self._time_out("body", "The body", limit)
            elif arrival is not None and not arrival.tick():
                self._time_out("body", "The body", "fast enough")

    def _time_out(self, what: str, part: str, limit: str) -> None:
        self.hub.counters.timed_out[what] += 1
        self._end_with(self._reader.in_form(timed_out(part, limit)).answer())

    def audit(self) -> Audit:
        """Only for tests."""
        unread_bytes = None if self._unread is None else len(self._unread)
        return Audit(self._has_eof, unread_bytes, *self._reader.audit())

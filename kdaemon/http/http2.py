"""One HTTP/2 connection: frames in, whole requests to a handler, answers as they come, and its end.

Knows the protocol (RFC 9113) and nothing of what is asked: the handlers are those of HTTP/1.1, and
so are the rules: who may ask, how large a head and a body may be, what may be arriving, how long it
may take (heads.py, origin.py, arrivals.py, hub.py). States and windows are the library's
(http2_core.py), frames http2_frames.py's, one request http2_stream.py's.

Invariants: whatever a client sends, nothing raises out of here; one connection holds one read of
raw input, `pipeline_max` streams, and of each what `arrivals` gave it; requests are handed over in
the order in which they were whole, also while one `holds_next`; a connection does its part of a
turn of the loop, frame by frame (turns.py); a stream that is refused ends alone, and the connection
where its framing is in doubt or its client does what only costs. No task and no timer of its own.

Where it sits: Opening -> Http2Protocol -> Http2Stream -> HttpRequest -> handler -> respond.
"""

import asyncio
from enum import Enum
from typing import Any

from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import DenialOfServiceError, ProtocolError

from kdaemon.base.principal import NOBODY
from kdaemon.http.arrivals import Kept
from kdaemon.http.handlers import handler_failed, report, tell_gone
from kdaemon.http.heads import HeadBounds, Heads
from kdaemon.http.http2_core import LIST_TIMES_MAX, Http2Core
from kdaemon.http.http2_frames import (
    CONTINUATION,
    DATA,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    INTERNAL_ERROR,
    NO_ERROR,
    PRIORITY,
    PROBE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
    Broken,
    Effort,
    Frame,
    Frames,
    goaway,
)
from kdaemon.http.http2_sending import Sending
from kdaemon.http.http2_stream import LENGTH_IS_WRONG, TRAILERS, Http2Stream, StreamState
from kdaemon.http.hub import HttpHub
from kdaemon.http.refusals import BODIES_FULL, TRUNCATED, Refusal, timed_out
from kdaemon.http.rendering import CONTINUE_FIELDS, fields_of
from kdaemon.http.request import Answer, HttpHandler, HttpRequest
from kdaemon.http.transports import PROBE_S, Presence, end_writing, presence, reset_transport
from kdaemon.http.turns import BYTES_MAX, Turn

# What is read at once, whoever else waits: an ordinary request and what a client begins with. The
# rest of the read goes on in its turn. Ours, 2026-11-28.
FRAMES_AT_ONCE = 8


class State(Enum):
    OPEN = "open"
    LEAVING = "leaving"  # GOAWAY is sent: what has begun is finished, and nothing else begun
    LINGERING = "lingering"  # all is written; input is thrown away until the client closes
    CLOSED = "closed"


_MOVES = {
    State.OPEN: {State.LEAVING, State.LINGERING, State.CLOSED},
    State.LEAVING: {State.LINGERING, State.CLOSED},
    State.LINGERING: {State.CLOSED},
    State.CLOSED: {State.CLOSED},  # lost after it was closed or reset
}


class Http2Protocol(asyncio.Protocol):
    """One connection, its preface read by somebody else.

    Queues, drained as answers come, the client opens windows or the next turn comes:
    `_streams`: what has begun and is not answered whole, at most `pipeline_max`; others are
    refused. `_sending`: of these, whose answers are on their way. `_frames`: raw input.
    """

    __slots__ = (
        "_body_bytes_max",
        "_core",
        "_effort",
        "_frames",
        "_handler",
        "_has_eof",
        "_has_settings",
        "_heads",
        "_is_deaf",
        "_is_feeding",
        "_is_flush_planned",
        "_is_reading",
        "_kept",
        "_last",
        "_part_tick",
        "_paused_tick",
        "_sending",
        "_since_tick",
        "_state",
        "_streams",
        "_touched",
        "_transport",
        "_turn",
        "client",
        "hub",
        "principal",
    )

    def __init__(self, handler: HttpHandler, hub: HttpHub) -> None:
        limits = hub.limits
        self.hub = hub
        self.client = hub.number_client()
        self.principal = NOBODY  # until there is a transport
        self._handler = handler
        self._transport: Any = None
        self._core = Http2Core(limits.pipeline_max, limits.head_bytes_max)
        self._body_bytes_max = min(limits.body_bytes_max, hub.bodies.bytes_max)
        bounds = HeadBounds(limits.head_bytes_max, limits.headers_max, self._body_bytes_max)
        self._heads = Heads(hub.gate, bounds)
        self._frames = Frames(LIST_TIMES_MAX * limits.head_bytes_max)
        self._effort = Effort()
        self._turn = Turn(self._pump, hub.turns)
        self._state = State.OPEN
        self._streams: dict[int, Http2Stream] = {}
        self._sending = Sending(self._core, self._effort, hub)
        self._touched: list[Http2Stream] = []  # something of them is kept and not charged
        self._last: HttpRequest | None = None  # handed over before all that comes
        self._kept = Kept(hub.arrivals)  # raw input, of all memory
        self._since_tick = hub.tick  # when the last stream ended
        self._part_tick = hub.tick  # when a frame, or a block of headers, began that is not whole
        self._paused_tick = hub.tick
        self._has_settings = False
        self._has_eof = False
        self._is_deaf = False  # nothing more is taken from this client
        self._is_feeding = False
        self._is_flush_planned = False
        self._is_reading = True

    # --- the transport's calls

    def take_over(self, transport: asyncio.BaseTransport) -> None:
        """A connection that the hub knows already."""
        self._transport = transport
        self.principal = self.hub.who(transport)
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._move(State.CLOSED)
        self.hub.detach(self)
        self._stop_reading()
        self._drop_streams()
        self._turn.close()
        self._core.close()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        frames = self._frames
        waits = self._turn.is_over or frames.has_next() or len(data) >= BYTES_MAX
        if not self._is_partial:
            self._part_tick = self.hub.tick
        frames.add(data)
        if waits:
            self._go_on_in_turn()
            return
        spent_bytes = self._feed(FRAMES_AT_ONCE)
        if frames.has_next() and self._may_feed():
            self._go_on_in_turn(spent_bytes)
        else:
            self._after_feeding()

    def eof_received(self) -> bool:
        """The client sends no more. While it is owed answers the connection stays half open."""
        self._has_eof = True
        if not self._frames.has_next():
            self._end_input()
        if self._owes():
            self._send_probe()
        return bool(self._streams or self._frames.has_next()) and self._is_open

    def pause_writing(self) -> None:
        self._sending.pause()
        self._weigh_unwritten()
        self._regulate_reading()

    def resume_writing(self) -> None:
        self._sending.is_paused = False
        self._flush_later()
        self._go_on_in_turn()

    # --- reading on

    @property
    def _is_open(self) -> bool:
        return self._state is State.OPEN or self._state is State.LEAVING

    def _may_feed(self) -> bool:
        return not (
            self._is_deaf
            or self._sending.is_paused
            or (self._last is not None and self._last.holds_next)
            or (self._state is State.LEAVING and not self._streams)  # it is about to close
        )

    def go_on(self) -> None:
        """The last request handed over holds the next one back no more."""
        self._go_on_in_turn()

    def _go_on_in_turn(self, spent_bytes: int = 0) -> None:
        """Reads what is unread, now or behind the others that wait for their turn."""
        if self._is_feeding:
            return
        if self._frames.has_next() and not self._is_deaf:
            self._turn.go_on_or_pass(spent_bytes)
            if not self._turn.is_over:
                return
        self._after_feeding()

    def _pump(self) -> None:
        """Reads what is unread, as far as client, handler and this turn of the loop allow."""
        if self._turn.is_over:
            return
        while self._frames.has_next() and self._may_feed():
            if not self._turn.spend(self._feed(1)):
                self._turn.pass_on()
                break
        self._after_feeding()

    def _feed(self, frame_count: int) -> int:
        """Takes so many frames, or as many as make one request; their bytes."""
        self._is_feeding = True
        spent_bytes, last = 0, self._last
        for _ in range(frame_count):
            if not self._may_feed() or self._last is not last:
                break
            was_in_block = self._frames.in_block
            frame = self._frames.next()
            if frame is None:
                break
            if not was_in_block:
                self._part_tick = self.hub.tick
            if isinstance(frame, Broken):
                self._fail(frame)
                break
            spent_bytes += len(frame.data)
            self._take(frame, was_in_block)
        self._is_feeding = False
        return spent_bytes

    def _after_feeding(self) -> None:
        """What came is charged, and what may leave leaves."""
        touched, self._touched = self._touched, []
        for stream in touched:
            if not stream.charge():
                self.refuse(stream, BODIES_FULL)
        if not self._is_deaf:
            self._weigh_unread()
            if self._has_eof and not self._frames.has_next():
                self._end_input()
        self._flush()

    def _weigh_unread(self) -> None:
        """What a client sent ahead is kept until its turn comes, and counts as what arrives."""
        byte_count = self._frames.byte_count + self._frames.block_bytes
        if byte_count or not self._kept.is_empty:
            waits = self._frames.has_next() and bool(self._streams)
            if not self._kept.weigh(byte_count, self._refuse_unread, waits=waits):
                self._refuse_unread()

    def _refuse_unread(self) -> None:
        """There is no memory for it, or others who are faster need it."""
        if not self._is_deaf:
            self.hub.counters.refused[BODIES_FULL.reason] += 1
            self._leave(ENHANCE_YOUR_CALM, BODIES_FULL.message)
            self._stop_reading()
            self._flush_later()

    def _regulate_reading(self) -> None:
        """Reads exactly while more could be taken, or to see the client go."""
        wants = self._is_deaf or not (
            self._sending.is_paused or self._turn.is_over or self._frames.has_next()
        )
        if wants is self._is_reading or self._transport.is_closing():
            return
        self._is_reading = wants
        tick = self.hub.tick
        if not wants:
            self._paused_tick = tick
            self._transport.pause_reading()
            return
        if tick != self._paused_tick:  # the time we did not read is not the client's
            self._since_tick = self._part_tick = tick
            for stream in self._streams.values():
                stream.since_tick = tick
        self._transport.resume_reading()

    def _stop_reading(self) -> None:
        """Takes nothing more: what comes is thrown away."""
        self._is_deaf = True
        self._frames.clear()
        self._kept.release()
        self._heads.forget()
        for stream in [*self._streams.values()]:
            if stream.state is StreamState.ARRIVING:
                self._drop(stream)

    def _end_input(self) -> None:
        """Nothing more comes: what is not whole is refused."""
        if self._is_deaf:
            return
        if self._frames.byte_count and not self._streams:
            self.hub.counters.refused[TRUNCATED.reason] += 1
        for stream in [*self._streams.values()]:
            if stream.state is StreamState.ARRIVING:
                self.refuse(stream, TRUNCATED)
        self._stop_reading()
        self._flush_later()

    # --- frames

    def _take(self, frame: Frame, was_in_block: bool) -> None:
        kind, effort = frame.kind, self._effort
        effort.spend(frame)
        if kind == DATA and frame.stream not in self._streams:
            effort.spend_late()
        excess = effort.excess
        if excess is not None:
            self._fail(excess)
            return
        if not self._has_settings:
            self._has_settings = True
            if kind != SETTINGS or frame.stream or frame.flags:
                self._fail(Broken(PROTOCOL_ERROR, "The first frame is not SETTINGS."))
                return
        if not was_in_block and self._needs_no_more(frame):
            return
        try:
            events = self._core.take(frame.data)
        except ProtocolError as error:
            is_flood = isinstance(error, DenialOfServiceError)
            self._break_off("flood" if is_flood else "malformed")
            return
        except Exception as error:  # noqa: BLE001 - what a client sends must not end the daemon
            self._fail_ourselves(error)
            return
        try:
            for event in events:
                self._handle(event)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail_ourselves(error)

    def _needs_no_more(self, frame: Frame) -> bool:
        """Frames that change nothing here, and GOAWAY, after which the library sends nothing."""
        if frame.kind == GOAWAY and not frame.stream and frame.content_bytes >= 8:
            self._leave(NO_ERROR, "")  # its client begins nothing more
            return True
        is_priority = frame.kind == PRIORITY and frame.stream != 0 and frame.content_bytes == 5
        return is_priority or frame.kind > CONTINUATION

    def _handle(self, event: Any) -> None:
        kind = type(event)
        if kind is RequestReceived:
            self._begin(event.stream_id, has_body=event.stream_ended is None)
            return
        if kind is DataReceived:
            self._core.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._streams.get(event.stream_id) if hasattr(event, "stream_id") else None
        if stream is None:
            return
        if kind is DataReceived:
            if stream.state is StreamState.ARRIVING:
                refusal = stream.take(event.data, self._body_bytes_max)
                self._touched.append(stream)
                if refusal is not None:
                    self.refuse(stream, refusal)
        elif kind is StreamEnded:
            stream.is_ended = True
            if stream.state is StreamState.ARRIVING:
                self._hand_over(stream)
        elif kind is StreamReset:
            if not event.remote_reset:
                self._effort.spend_reset()
            self._drop(stream)
        elif kind is TrailersReceived and stream.state is StreamState.ARRIVING:
            stream.is_ended = True
            self._core.take_headers()
            self.refuse(stream, TRAILERS)

    def _begin(self, stream_id: int, *, has_body: bool) -> None:
        core = self._core
        fields = core.take_headers()
        if self._state is not State.OPEN or len(self._streams) >= self.hub.limits.pipeline_max:
            core.reset_stream(stream_id, REFUSED_STREAM)
            self._effort.spend_reset()
            return
        stream = self._streams[stream_id] = Http2Stream(self, stream_id)
        stream.is_ended = not has_body
        refusal = stream.begin(fields, self._heads)
        if refusal is not None:
            self.refuse(stream, refusal)
        elif has_body:
            self._touched.append(stream)
            if self._heads.expects_continue:
                core.send_headers(stream_id, CONTINUE_FIELDS)

    def _hand_over(self, stream: Http2Stream) -> None:
        request = stream.end()
        if isinstance(request, Refusal):
            self.refuse(stream, request)
            return
        self._last = request
        try:
            self._handler(request)
        except Exception as error:  # noqa: BLE001 - a handler's defect must not end the daemon
            handler_failed(self.hub.counters, request, error)
        if self._has_eof and request.answer is None:
            self._send_probe()

    # --- refusing

    def refuse(self, stream: Http2Stream, refusal: Refusal) -> None:
        """Ends one stream, with an answer. Counted by its reason."""
        if stream.state is not StreamState.ARRIVING:
            return
        self.hub.counters.refused[refusal.reason] += 1
        if refusal is LENGTH_IS_WRONG:
            self._reset(stream, PROTOCOL_ERROR)
            self._effort.spend_reset()
        else:
            self._send_answer(stream, stream.told(refusal))

    def _time_out(self, stream: Http2Stream, limit: str) -> None:
        self.hub.counters.timed_out["body"] += 1
        self._send_answer(stream, stream.told(timed_out("The body", limit)))

    def _fail(self, broken: Broken) -> None:
        """Ends the connection: its framing is in doubt, or its client floods it."""
        if self._is_open:
            last_stream = self._core.highest_inbound_stream_id
            self._write(goaway(last_stream, broken.code, broken.text))
            self._break_off("flood" if broken.is_flood else "malformed")

    def _fail_ourselves(self, error: Exception) -> None:
        report(self.hub.counters, "a frame of HTTP/2 could not be read", error)
        self._fail(Broken(INTERNAL_ERROR, "kdaemon failed to read this; its log says why."))

    def _break_off(self, reason: str) -> None:
        """GOAWAY is written, or the library has it: nothing that is owed can be sent any more."""
        self.hub.counters.refused[reason] += 1
        self._write()
        self._close()

    # --- answering

    def answer(self, stream: Http2Stream, request: HttpRequest) -> None:
        if request.answer is not None and self._is_open:
            self._send_answer(stream, request.answer)

    def _send_answer(self, stream: Http2Stream, answer: Answer) -> None:
        body = b"" if stream.is_head else answer.body
        stream.move(StreamState.ANSWERED)
        stream.drop()
        stream.request = None
        self._core.send_headers(stream.id, fields_of(answer), end_stream=not body)
        if body:
            self._sending.add(stream, body)
        else:
            self._finish(stream)
        if not self._is_feeding:
            self._flush_later()

    def _finish(self, stream: Http2Stream) -> None:
        """All of its answer is on its way."""
        if not stream.is_ended:  # the client need not send the rest
            self._core.reset_stream(stream.id, NO_ERROR)
        else:
            self._effort.pay_answer()
        self._forget(stream)

    def _flush_later(self) -> None:
        """Answers that come in one turn of the loop are written together."""
        if not self._is_flush_planned:
            self._is_flush_planned = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_planned = False
        if not self._is_open:
            return
        try:
            if self._sending.send(self._write, self._finish):
                self.hub.turns.later(self._flush)
        except ProtocolError as error:
            report(self.hub.counters, "an answer of HTTP/2 could not be sent", error)
            self.reset()
            return
        self._write()
        self._weigh_unwritten()
        self._end_if_done()
        if self._frames.has_next() and self._may_feed() and not self._is_feeding:
            self._turn.pass_on()  # what held it back is gone
        self._regulate_reading()

    def _write(self, last: bytes = b"") -> None:
        data = self._core.data_to_send() + last
        if data and self._is_open and not self._transport.is_closing():
            self._transport.write(data)

    def _weigh_unwritten(self) -> None:
        """Answers that cannot leave count as what waits: where memory for that is full, a client
        that does not take them loses its connection.
        """
        if not self._is_open:
            return
        paused = self._sending.is_paused
        buffered_bytes = self._transport.get_write_buffer_size() if paused else 0
        if not self._sending.weigh(buffered_bytes, self.reset):
            asyncio.get_running_loop().call_soon(self.reset)  # we may be in a write

    # --- a client that sends no more

    def _owes(self) -> bool:
        return any(each.state is StreamState.PENDING for each in self._streams.values())

    def _send_probe(self) -> None:
        """Finds out whether the client still reads: its kernel says so when it does not."""
        if self._is_open and not self._sending.is_paused:
            self._write(PROBE)
            asyncio.get_running_loop().call_later(PROBE_S, self._hear_probe)

    def _hear_probe(self) -> None:
        if self._is_open and self._owes() and presence(self._transport) is Presence.GONE:
            self.reset()

    def _look_for_client(self) -> None:
        """Ends a connection whose client has gone. A loop does not look while nothing is read."""
        client = presence(self._transport)
        if client is Presence.GONE:
            self.reset()
        elif client is Presence.SENDS_NO_MORE:
            self._send_probe()

    # --- the end

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"a connection cannot go from {self._state} to {state}")
        self._state = state

    def reset_stream(self, stream: Http2Stream) -> None:
        """Its handler gives no answer."""
        if stream.state is not StreamState.ENDED and self._is_open:
            self._reset(stream, INTERNAL_ERROR)
            self._flush_later()

    def _reset(self, stream: Http2Stream, code: int) -> None:
        self._core.reset_stream(stream.id, code)
        self._drop(stream)

    def _forget(self, stream: Http2Stream) -> None:
        stream.move(StreamState.ENDED)
        stream.drop()
        self._streams.pop(stream.id, None)
        self._sending.forget(stream)
        self._since_tick = self.hub.tick

    def _drop(self, stream: Http2Stream) -> None:
        """Nobody will read its answer."""
        self._forget(stream)
        request, stream.request = stream.request, None
        if request is None:
            return
        request.owner = None
        request.drop_body()
        if self._last is request:
            self._last = None  # it calls nobody when it holds the next one back no more
        if request.answer is None:
            tell_gone(self.hub.counters, request)

    def _drop_streams(self) -> None:
        self._sending.release()
        streams = [*self._streams.values()]
        for stream in streams:
            if stream.request is not None:
                stream.request.owner = None
        for stream in streams:
            self._drop(stream)
        self._last = None

    def _leave(self, code: int, text: str) -> None:
        """Tells the client that nothing new is begun; what has begun is finished."""
        if self._state is State.OPEN:
            self._write(goaway(self._core.highest_inbound_stream_id, code, text))
            self._move(State.LEAVING)

    @property
    def _has_begun(self) -> bool:
        return self._core.highest_inbound_stream_id > 0

    def _end_if_done(self) -> None:
        if self._state is State.OPEN and self.hub.is_draining and self._has_begun:
            self._leave(NO_ERROR, "")
        if self._streams:
            return
        if self._state is State.LEAVING or (self._has_eof and not self._frames.has_next()):
            self._close()

    def _close(self) -> None:
        """Nothing more is owed. Input is thrown away for a while, as after a refusal."""
        self._stop_reading()
        self._drop_streams()
        if not self._is_open:
            return
        self._since_tick = self.hub.tick
        if self._has_eof or not end_writing(self._transport):
            self._move(State.CLOSED)
            self._transport.close()
        else:
            self._move(State.LINGERING)
            self._regulate_reading()

    def reset(self) -> None:
        """Ends the connection at once, with a reset where the transport is TCP."""
        self._move(State.CLOSED)
        self._sending.release()
        self._stop_reading()
        reset_transport(self._transport)

    @property
    def _is_partial(self) -> bool:
        return bool(self._frames.byte_count) or self._frames.in_block

    @property
    def _is_idle(self) -> bool:
        return not self._streams and not self._is_partial

    def idle_ticks(self, tick: int) -> int:
        """How long it has no stream, or only such of which nothing comes, or does not go."""
        ticks = tick - self._since_tick
        if self._is_idle:
            return ticks
        if self._sending.is_paused or self._frames.has_next():
            return 0
        if not self._streams:
            return tick - self._part_tick + 1  # an ordinary client sends a frame at once
        is_stuck = all(
            each.state is StreamState.ARRIVING
            and each.arrival is not None
            and each.arrival.is_stalled
            for each in self._streams.values()
        )
        return ticks if is_stuck else 0

    def leave(self) -> None:
        """Makes place for others, at once: nobody would look after a connection that lingers."""
        if self._is_open and self._is_idle:
            self._leave(NO_ERROR, "")
            self._move(State.CLOSED)
            self._stop_reading()
            self._transport.close()
        else:
            self.reset()

    def close_if_idle(self) -> None:
        """Closes a connection that is owed nothing; another one is told to begin nothing more. Its
        client may be writing just now, and is to see that: a reset would take GOAWAY away.
        """
        if self._is_open and (self.hub.is_draining or not self._streams):
            self._leave(NO_ERROR, "")
            self._end_if_done()

    def check_time(self, tick: int) -> None:
        """Cuts off a client that takes longer than its part allows. Called by every sweep."""
        hub = self.hub
        ticks = tick - self._since_tick
        self._kept.tick()
        self._effort.tick()
        if self._sending.is_late(tick):
            hub.counters.timed_out["write"] += 1
            self.reset()
        elif not self._is_open:
            if ticks > hub.linger_ticks_max and not self._sending.is_paused:
                self.reset()
        elif self._is_deaf or not self._is_reading:
            if self._owes():
                self._look_for_client()
        elif self._streams and not self._frames.in_block:
            self._check_bodies(tick)
        elif self._is_partial or not self._has_settings:
            if tick - self._part_tick > hub.head_ticks_max:
                hub.counters.timed_out["head"] += 1
                limit = f"within {hub.limits.head_timeout_s:g} seconds"
                self._leave(NO_ERROR, f"The headers did not arrive {limit}.")
                self._stop_reading()
                self._flush()
        elif ticks > hub.idle_ticks_max:
            hub.counters.timed_out["idle"] += 1
            self.close_if_idle()

    def _check_bodies(self, tick: int) -> None:
        hub = self.hub
        for stream in [*self._streams.values()]:
            if stream.state is not StreamState.ARRIVING:
                continue
            if tick - stream.since_tick > hub.body_ticks_max:
                self._time_out(stream, f"within {hub.limits.body_timeout_s:g} seconds")
            elif stream.arrival is not None and not stream.arrival.tick():
                self._time_out(stream, "fast enough")

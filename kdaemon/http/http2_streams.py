"""The streams of one HTTP/2 connection: a request begins, is handed over, is answered and ends.

Knows what the library says of streams, and requests. Must not know frames, turns of the loop, the
socket or the end of the connection; http2.py does.
Invariants: at most `pipeline_max` streams are open; others are refused. Requests are handed over in
the order in which they became whole. A refused stream ends alone. What comes on a stream after its
answer is discarded, for `discard_timeout_s`.
Where it sits: http2.py passes on the events of its frames; http2_stream.py is one request,
http2_sending.py sends what was answered.
"""

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Any

from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, TrailersReceived

from kdaemon.http.answer import Answer
from kdaemon.http.handlers import call_handler, lose_pieces, pieces_failed, tell_gone
from kdaemon.http.heads import Heads
from kdaemon.http.http2_core import Http2Core
from kdaemon.http.http2_frames import (
    CANCEL,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Effort,
)
from kdaemon.http.http2_sending import Sending
from kdaemon.http.http2_stream import LENGTH_IS_WRONG, TRAILERS, Http2Stream, StreamState
from kdaemon.http.hub import Hub
from kdaemon.http.refusals import BODIES_FULL, TRUNCATED, Refusal, timed_out
from kdaemon.http.rendering import CONTINUE_FIELDS, fields_of
from kdaemon.http.request import HttpHandler, HttpRequest

if TYPE_CHECKING:
    from kdaemon.http.http2 import Http2Protocol


class Streams:
    """Streams that have begun and are not answered whole. `last`: the request that was handed over
    last; it may hold the next one back. `since_tick`: when a stream last ended.
    """

    __slots__ = (
        "_body_bytes_max",
        "_connection",
        "_core",
        "_effort",
        "_handler",
        "_heads",
        "_open",
        "_sending",
        "_touched",
        "hub",
        "last",
        "since_tick",
    )

    def __init__(
        self,
        connection: "Http2Protocol",
        handler: HttpHandler,
        hub: Hub,
        core: Http2Core,
        effort: Effort,
        sending: Sending,
    ) -> None:
        self.hub = hub
        self._connection: Any = connection
        self._handler = handler
        self._core = core
        self._effort = effort
        self._sending = sending
        bounds = hub.head_bounds()
        self._body_bytes_max = bounds.body_bytes_max
        self._heads = Heads(hub.gate, bounds)
        self._open: dict[int, Http2Stream] = {}
        self._touched: list[Http2Stream] = []  # streams that keep bytes which are not charged yet
        self.last: HttpRequest | None = None
        self.since_tick = hub.tick

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Http2Stream]:
        """The streams that are open now, as a copy: the caller may end some of them."""
        return iter([*self._open.values()])

    @property
    def known(self) -> Container[int]:
        """The ids of the streams that are open."""
        return self._open

    @property
    def is_held(self) -> bool:
        """The last request holds the next one back."""
        return self.last is not None and self.last.blocks_next

    @property
    def owes(self) -> bool:
        """Some request has no answer yet, or an unfinished one in pieces."""
        return any(
            each.state is StreamState.PENDING or each.pieces is not None
            for each in self._open.values()
        )

    # --- what came

    def handle(self, event: Any) -> None:
        """Handles one event of the library."""
        kind = type(event)
        if kind is RequestReceived:
            self._begin(event.stream_id, has_body=event.stream_ended is None)
            return
        if kind is DataReceived:
            self._core.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._open.get(event.stream_id) if hasattr(event, "stream_id") else None
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
            elif stream.state is StreamState.DISCARDING:
                self._forget(stream)
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
        if not self._connection.may_begin or len(self._open) >= self.hub.limits.pipeline_max:
            core.reset_stream(stream_id, REFUSED_STREAM)
            self._effort.spend_reset()
            return
        stream = self._open[stream_id] = Http2Stream(
            self, stream_id, self._connection.client, self._connection.principal
        )
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
        self.last = request
        connection = self._connection
        call_handler(self.hub.counters, self._handler, request)
        if connection.has_eof and request.answer is None:
            connection.send_probe()

    def charge(self) -> None:
        """Charges what the last frames brought; refuses streams for which there is no room."""
        touched, self._touched = self._touched, []
        for stream in touched:
            if not stream.charge():
                self.refuse(stream, BODIES_FULL)

    def go_on(self) -> None:
        """A request does not hold the next one back any more."""
        self._connection.go_on()

    def resume_clocks(self) -> None:
        """Restarts all clocks: time in which nothing was read does not count against the client."""
        self.since_tick = tick = self.hub.tick
        for stream in self._open.values():
            stream.since_tick = tick

    # --- refusing

    def refuse(self, stream: Http2Stream, refusal: Refusal) -> None:
        """Ends one stream with an answer. Counted by the refusal's reason."""
        if stream.state is not StreamState.ARRIVING:
            return
        self.hub.counters.refused[refusal.reason] += 1
        if refusal is LENGTH_IS_WRONG:
            self._reset(stream, PROTOCOL_ERROR)
            self._effort.spend_reset()
        else:
            self._send_answer(stream, stream.told(refusal))

    def refuse_partial(self) -> None:
        """The client sends no more: requests that are not whole are refused."""
        for stream in self:
            if stream.state is StreamState.ARRIVING:
                self.refuse(stream, TRUNCATED)
            elif stream.state is StreamState.DISCARDING:
                self._stop(stream)

    def give_up_stuck(self, tick: int) -> bool:
        """Ends answers in pieces whose client takes nothing of them. Returns whether there was
        one.
        """
        stuck = self._sending.stuck(tick)
        for stream in stuck:
            self.hub.counters.timed_out["write"] += 1
            self._reset(stream, CANCEL)
        return bool(stuck)

    def check_time(self, tick: int) -> None:
        """Refuses requests that arrive too slowly, and ends streams whose answer left long before
        their request was whole.
        """
        hub = self.hub
        for stream in self:
            ticks = tick - stream.since_tick
            if stream.state is StreamState.DISCARDING and ticks > hub.discard_ticks_max:
                self._stop(stream)
            if stream.state is not StreamState.ARRIVING:
                continue
            if ticks > hub.body_ticks_max:
                self._time_out(stream, f"within {hub.limits.body_timeout_s:g} seconds")
            elif stream.arrival is not None and not stream.arrival.tick():
                self._time_out(stream, "fast enough")

    def _time_out(self, stream: Http2Stream, limit: str) -> None:
        self.hub.counters.timed_out["body"] += 1
        self._send_answer(stream, stream.told(timed_out("The body", limit)))

    @property
    def are_stuck(self) -> bool:
        """On no open stream anything comes or goes."""
        return all(
            each.state is StreamState.DISCARDING
            or (
                each.state is StreamState.ARRIVING
                and each.arrival is not None
                and each.arrival.is_stalled
            )
            for each in self._open.values()
        )

    # --- answering

    def answer(self, stream: Http2Stream, request: HttpRequest) -> None:
        """Sends the request's answer, if it has one and the connection is open."""
        if request.answer is not None and self._connection.is_open:
            self._send_answer(stream, request.answer)

    def _send_answer(self, stream: Http2Stream, answer: Answer) -> None:
        body, pieces = b"" if stream.is_head else answer.body, answer.pieces
        stream.move(StreamState.ANSWERED)
        stream.drop()
        stream.request = None
        if pieces is not None and stream.is_head:
            lose_pieces(self.hub.counters, pieces)
            pieces = None
        is_whole = not body and pieces is None
        self._core.send_headers(stream.id, fields_of(answer), end_stream=is_whole)
        if body:
            self._sending.add(stream, body)
        elif pieces is not None:
            stream.pieces = pieces
            pieces.begin(stream.wake)
            self._sending.ask(stream)
        else:
            self.finish(stream)
        if not self._connection.is_feeding:  # else the write comes after the frames are read
            self._connection.flush_later()

    def wake(self, stream: Http2Stream) -> None:
        """The source of an answer has something to send."""
        if stream.pieces is not None and self._connection.is_open:
            self._sending.ask(stream)
            self._connection.flush_later()

    def fail(self, stream: Http2Stream, error: Exception) -> None:
        """The source of an answer has raised: the stream is reset, so that the client sees that its
        answer was cut off.
        """
        pieces_failed(self.hub.counters, error)
        self._reset(stream, INTERNAL_ERROR)

    def drain(self) -> bool:
        """The listener closes: every source of an answer in pieces is asked for more, and hears of
        the close then. Returns whether there is one.
        """
        for stream in self:
            if stream.state is StreamState.DISCARDING:
                self._forget(stream)  # the whole connection ends soon
        made = [stream for stream in self._open.values() if stream.pieces is not None]
        for stream in made:
            self._sending.ask(stream)
        return bool(made)

    def finish(self, stream: Http2Stream) -> None:
        """All of an answer is on its way. A client that still sends its request is not told to stop
        at once: some clients take that for the end of the connection, and never read the answer.
        """
        if stream.is_ended:
            self._effort.pay_answer()
            self._forget(stream)
        elif self._connection.may_begin and not self._connection.has_eof:
            stream.move(StreamState.DISCARDING)
            stream.since_tick = self.hub.tick
            self._sending.forget(stream)
        else:
            self._stop(stream)

    def _stop(self, stream: Http2Stream) -> None:
        """Tells the client that it need not send the rest of a request that is answered."""
        self._core.reset_stream(stream.id, NO_ERROR)
        self._forget(stream)
        if not self._connection.is_feeding:
            self._connection.flush_later()

    # --- the end

    def reset_stream(self, stream: Http2Stream) -> None:
        """The handler gives no answer."""
        if stream.state is not StreamState.ENDED and self._connection.is_open:
            self._reset(stream, INTERNAL_ERROR)
            self._connection.flush_later()

    def _reset(self, stream: Http2Stream, code: int) -> None:
        self._core.reset_stream(stream.id, code)
        self._drop(stream)

    def _forget(self, stream: Http2Stream) -> None:
        stream.move(StreamState.ENDED)
        stream.drop()
        self._open.pop(stream.id, None)
        self._sending.forget(stream)
        self.since_tick = self.hub.tick

    def _drop(self, stream: Http2Stream) -> None:
        """Ends a stream whose answer nobody will read."""
        self._forget(stream)
        pieces, stream.pieces = stream.pieces, None
        if pieces is not None:
            lose_pieces(self.hub.counters, pieces)
        request, stream.request = stream.request, None
        if request is None:
            return
        request.owner = None
        request.drop_body()
        if self.last is request:
            self.last = None  # it will not call us when it no longer holds the next one back
        if request.answer is None:
            tell_gone(self.hub.counters, request)

    def drop_partial(self) -> None:
        """Nothing more is read: requests that are not whole never will be."""
        self._heads.forget()
        for stream in self:
            if stream.state is StreamState.ARRIVING:
                self._drop(stream)

    def drop_all(self) -> None:
        """Nothing more is sent: drops all streams."""
        self._sending.release()
        streams = [*self]
        for stream in streams:
            if stream.request is not None:
                stream.request.owner = None
        for stream in streams:
            self._drop(stream)
        self.last = None

    def close(self) -> None:
        """The connection is lost. Breaks the reference cycle with it."""
        self.drop_all()
        self._connection = None

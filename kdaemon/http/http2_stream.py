"""One stream of HTTP/2: a request that arrives, waits and is answered, beside others.

About: what is kept of one request until it is whole, and what is left to send of its answer. Knows
the request and its memory. Must not know frames, windows or sockets, which the connection has.
Invariants: a request is handed over when its last byte has come, never before. What is kept of an
unfinished request is charged before the next read. A stream moves as _MOVES says.
Where it sits: http2_streams.py makes one for each request; HttpRequest has it as the owner.
"""

from collections.abc import Collection
from enum import Enum
from typing import TYPE_CHECKING

from kdaemon.base.principal import Principal
from kdaemon.http import refusals
from kdaemon.http.answer import Answer
from kdaemon.http.arrivals import Arrival
from kdaemon.http.body import Gathered
from kdaemon.http.heads import Heads
from kdaemon.http.http2_head import read_fields
from kdaemon.http.pieces import Pieces
from kdaemon.http.refusals import Refusal, in_http_2, malformed
from kdaemon.http.request import NO_HEADERS, HttpRequest

if TYPE_CHECKING:
    from kdaemon.http.http2_streams import Streams

# The stream is reset without an answer: a client whose count is wrong did not mean this request.
LENGTH_IS_WRONG = in_http_2(malformed("the body is not as long as its Content-Length"))
TRAILERS = in_http_2(malformed("fields after a body (trailers) are not taken"))


# Memory of a stream beside its head and body: 1.5 KB, ours and the library's. A client may have 64
# streams on each of 10,000 connections. Measured 2026-11-28, and rounded up.
STREAM_BYTES = 2 * 1024


# A larger body, or one without a Content-Length, is not taken in before its client is known. The
# same size as an ordinary read of HTTP/1.1; ours, 2026-11-28.
EARLY_BYTES = 64 * 1024


class StreamState(Enum):
    ARRIVING = "arriving"  # its headers are there, its body is not whole
    PENDING = "pending"  # the handler has its request
    ANSWERED = "answered"  # the answer is being sent
    # The answer has left, and the client still sends its request, which is discarded.
    DISCARDING = "discarding"
    ENDED = "ended"  # nothing is owed


_MOVES = {
    StreamState.ARRIVING: {StreamState.PENDING, StreamState.ANSWERED, StreamState.ENDED},
    StreamState.PENDING: {StreamState.ANSWERED, StreamState.ENDED},
    StreamState.ANSWERED: {StreamState.DISCARDING, StreamState.ENDED},
    StreamState.DISCARDING: {StreamState.ENDED},
    StreamState.ENDED: {StreamState.ENDED},
}


class Http2Stream:
    """`is_ended`: the client sends no more on this stream. `rest`: the part of the answer's body
    that has not left. `pieces`: makes the rest of the answer's body; None once that is whole.
    `arrival`: the memory of a request that takes more than one read.
    """

    __slots__ = (
        "_body",
        "_byte_count",
        "_headers",
        "_keeper",
        "_line",
        "_uncharged_bytes",
        "arrival",
        "client",
        "id",
        "is_ended",
        "is_head",
        "pieces",
        "principal",
        "request",
        "rest",
        "since_tick",
        "state",
    )

    def __init__(
        self, keeper: "Streams", stream_id: int, client: int, principal: Principal
    ) -> None:
        self._keeper = keeper
        self.client = client
        self.principal = principal
        self.id = stream_id
        self.state = StreamState.ARRIVING
        self.since_tick = keeper.hub.tick
        self.is_ended = False
        self.is_head = False  # a HEAD request: its answer has no body
        self.request: HttpRequest | None = None
        self.rest = memoryview(b"")
        self.pieces: Pieces | None = None
        self.arrival: Arrival | None = None
        self._uncharged_bytes = 0
        self._body: Gathered | None = None  # None: no byte of it has come yet
        self._byte_count: int | None = None  # the body's Content-Length
        self._headers = NO_HEADERS
        self._line: tuple[str, str, str] = ("", "", "")  # method, path, query

    def move(self, state: StreamState) -> None:
        """Moves to this state. RuntimeError: no move leads there."""
        if state not in _MOVES[self.state]:
            raise RuntimeError(f"a stream cannot go from {self.state} to {state}")
        self.state = state

    # --- arriving

    def begin(self, fields: Collection[tuple[bytes, bytes]], heads: Heads) -> Refusal | None:
        """Reads and judges the headers. A refusal: why the request is not let in."""
        found = read_fields(fields)
        if isinstance(found, Refusal):
            self._headers = {name: value for name, value in fields if name == b"content-type"}
            return in_http_2(found)
        self.is_head = found.line.startswith(b"HEAD ")
        self._headers = found.headers
        refusal = heads.judge(found.line, found.size_bytes, found.headers, found.byte_count or 0)
        hub, line = self._keeper.hub, heads.line
        if refusal is None and found.count > hub.limits.headers_max:
            refusal = refusals.too_many_headers(hub.limits.headers_max)
        is_large = found.byte_count is None or found.byte_count > EARLY_BYTES
        if (
            refusal is None
            and hub.early is not None
            and not self.is_ended
            and (is_large or heads.expects_continue)
        ):
            refusal = hub.early(self.principal, line.query, found.headers)
        if refusal is not None:
            return in_http_2(refusal)
        self._line = (line.method, line.path, line.query)
        if heads.is_special:
            heads.forget()
        self._byte_count = found.byte_count
        self._uncharged_bytes = STREAM_BYTES + found.size_bytes
        return None

    def take(self, data: bytes, body_bytes_max: int) -> Refusal | None:
        """Takes more of the body."""
        body = self._body
        if body is None:
            body = self._body = Gathered()
        byte_count = len(body) + len(data)
        if self._byte_count is not None and byte_count > self._byte_count:
            return LENGTH_IS_WRONG
        if byte_count > body_bytes_max:
            return refusals.body_too_large(body_bytes_max, "this one is longer")
        body.write(data)
        self._uncharged_bytes += len(data)
        return None

    def end(self) -> HttpRequest | Refusal:
        """The client has sent all of the request. Returns the request, to be handed over."""
        body = b"" if self._body is None else bytes(self._body)
        self._body = None
        if self._byte_count is not None and len(body) != self._byte_count:
            return LENGTH_IS_WRONG
        charge, self.arrival = self.arrival, None
        if charge is not None:
            charge.arrived()
        headers, self._headers = self._headers, NO_HEADERS
        self.move(StreamState.PENDING)
        method, path, query = self._line
        self.request = HttpRequest(
            self, method, path, query, headers, body, False, False, body_charge=charge
        )
        return self.request

    def told(self, refusal: Refusal) -> Answer:
        """The refusal's answer, in the encoding that the request's head names."""
        return refusals.in_form_of(refusal, self._headers).answer()

    def charge(self) -> bool:
        """Charges what is kept until the request is whole. False: there is no room for it."""
        byte_count, self._uncharged_bytes = self._uncharged_bytes, 0
        if not byte_count or self.state is not StreamState.ARRIVING:
            return True
        if self.arrival is None:
            self.arrival = Arrival(self._keeper.hub.arrivals, self._evicted)
        return self.arrival.grow(byte_count)

    def _evicted(self) -> None:
        """Others need the room that this request holds."""
        if self.state is StreamState.ARRIVING:
            self._keeper.refuse(self, refusals.BODIES_FULL)

    def drop(self) -> None:
        """Drops what was read of the request, and gives its memory back."""
        self._body = None
        self._headers = NO_HEADERS
        self._uncharged_bytes = 0
        if self.arrival is not None:
            self.arrival.release()
            self.arrival = None

    # --- as the owner of its request

    def flush_answers(self, request: HttpRequest) -> None:
        """The answer is there. It leaves without waiting for other answers."""
        if self.state is StreamState.PENDING:
            self._keeper.answer(self, request)

    def wake(self) -> None:
        """The source of the answer has something to send."""
        self._keeper.wake(self)

    def go_on(self) -> None:
        """The request does not hold the next one back any more."""
        self._keeper.go_on()

    def reset(self) -> None:
        """Resets this stream alone: the other streams do not concern its handler."""
        self._keeper.reset_stream(self)

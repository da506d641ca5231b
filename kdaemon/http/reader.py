"""The reading half of one HTTP/1.1 connection: bytes in, one whole request at a time or a refusal.

A head that is like those before on this connection is read by a stencil (stencil.py). Of any other
request head_framing.py takes the head, which llhttp (in C) parses. body.py takes each body that is
not whole in one read. So the reader always knows where a request ends, whatever the client offers
(an upgrade), pipelines or cuts off. Knows nothing of sockets, answers or pipelines.
Invariants: no input of a client makes `feed` raise; a request is handed over when its last byte is
there, and never without that byte; after a refusal nothing more is read; after its use nothing of a
head is kept, except by heads.py for the next head; with a stencil or without, the same requests
come out.
Where it sits: connection.py feeds it; head.py and origin.py decide, head_framing.py and body.py
frame.
"""

import re
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from kdaemon.http import refusals
from kdaemon.http.arrivals import Arrival
from kdaemon.http.body import ChunkedBody, LengthBody
from kdaemon.http.head import LENGTH_DIGITS_MAX, is_chunked, join_headers
from kdaemon.http.head_framing import FramedHead
from kdaemon.http.heads import Heads
from kdaemon.http.hub import Hub
from kdaemon.http.refusals import Refusal
from kdaemon.http.request import NO_HEADERS, Charge, HttpRequest

if TYPE_CHECKING:
    from kdaemon.http.connection import HttpProtocol

# Bytes of a body taken in one call, so that chunks of a few bytes cannot fill a turn of the loop.
# Our choice, 2026-11-28: 16 KiB of the smallest chunks take a millisecond.
CHUNKED_BYTES_AT_ONCE = 16 * 1024

_EMPTY_LINES = re.compile(rb"(?:\r\n)*")  # skipped before a request (RFC 9112, 2.2)


class Phase(Enum):
    """The part that is being read. The phases go round: IDLE -> HEAD -> BODY -> IDLE. `end` (and a
    request that says it is the last) leads from any phase to ENDED, and no move leads out of ENDED.
    """

    IDLE = "idle"  # between requests
    HEAD = "head"
    BODY = "body"
    ENDED = "ended"  # no further request is taken


# An attribute of an Enum costs four times a global, and these are read for every request.
_IDLE: Final[Phase] = Phase.IDLE
_HEAD: Final[Phase] = Phase.HEAD
_BODY: Final[Phase] = Phase.BODY
_ENDED: Final[Phase] = Phase.ENDED


class RequestReader:
    """Reads requests of one connection until `phase` is ENDED.

    `sink`: takes whole requests, or the refusal that ends the connection; reading has ended then.
    `since_tick`: when `phase` began; the connection judges time by it. `owes_continue`: the client
    waits for `100 Continue` before it sends the body; cleared when the client does not wait any
    longer. `arrival`: holds the memory of a request that takes more than one read.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_body_bytes_max",
        "_bounds",
        "_head",
        "_head_bytes_max",
        "_headers",
        "_heads",
        "_hub",
        "_kept_head_bytes_max",
        "_sink",
        "arrival",
        "owes_continue",
        "phase",
        "since_tick",
    )

    def __init__(self, sink: "HttpProtocol", hub: Hub) -> None:
        self.phase = _IDLE
        self.since_tick = hub.tick
        self.owes_continue = False
        self.arrival: Arrival | None = None
        self._sink: Any = sink
        self._hub = hub
        bounds = self._bounds = hub.head_bounds()
        self._head_bytes_max = bounds.head_bytes_max
        self._kept_head_bytes_max = bounds.kept_head_bytes_max
        self._body_bytes_max = bounds.body_bytes_max
        self._head: FramedHead | None = None  # a head that is not whole
        self._headers = NO_HEADERS
        self._body: LengthBody | ChunkedBody | None = None  # None: no byte of the body is here yet
        self._body_bytes = 0  # of a body by length
        self._heads = Heads(hub.gate, bounds)

    def feed(self, data: bytes, at: int = 0) -> int:
        """Reads on from `at`, at most to the end of one request; returns the position up to which
        it read.

        Calls the sink once for a whole request, or once for a refusal. After a refusal `phase` is
        ENDED.
        """
        if self.phase is not _IDLE:
            if self.phase is _BODY:
                return self._read_body(data, at)
            return self._read_head(data, at) if self.phase is _HEAD else len(data)
        stencil = self._heads.stencil
        if stencil is not None:
            headers = stencil.read(data, at)
            if headers is not None and (
                stencil.body_bytes <= self._body_bytes_max
                and stencil.end - at <= self._kept_head_bytes_max
            ):
                return self._take_alike(data, headers, stencil.end, stencil.body_bytes)
        return self._read_head(data, at)

    def _take_alike(
        self, data: bytes, headers: dict[bytes, bytes], at: int, byte_count: int
    ) -> int:
        """Takes a head that is like the one before; its body begins at `at`."""
        heads = self._heads
        heads.misses = 0
        self.since_tick = self._hub.tick
        end = at + byte_count
        if end > len(data):
            self._headers, self._body_bytes = headers, byte_count
            self.phase = _BODY
            return self._read_body(data, at) if at < len(data) else at
        line, sink = heads.line, self._sink
        sink.take(
            HttpRequest(
                sink,
                line.method,
                line.path,
                line.query,
                headers,
                data[at:end],
                False,
                line.is_http_1_0,
            )
        )
        return end

    def audit(self) -> tuple[Heads, int, int]:
        """What it keeps of heads: their meaning, the bytes of one that is not whole, and the number
        of headers in hand. Only for tests.
        """
        head = self._head
        return self._heads, 0 if head is None else len(head.data), len(self._headers)

    def forget(self) -> None:
        """Forgets the heads before: no request is expected soon."""
        if self._heads.stencil is not None:
            self._heads.forget()

    def finish(self) -> None:
        """The client sends no more: a request that is not whole is refused. `phase` is ENDED."""
        if self.phase is _HEAD or self.phase is _BODY:
            self._refuse(refusals.TRUNCATED)
        self.phase = _ENDED

    def end(self) -> None:
        """Takes no further request, and drops the bytes that were read of one. `phase` is ENDED."""
        self.phase = _ENDED
        self.owes_continue = False
        self._body = None
        self._head = None
        self._headers = NO_HEADERS
        self._heads.forget()
        if self.arrival is not None:
            self.arrival.release()
            self.arrival = None

    def close(self) -> None:
        """Ends, and breaks the reference cycle with the sink, so that the garbage collector is not
        needed.
        """
        self.end()
        self._sink = None

    # --- a head that the parser reads

    def _read_head(self, data: bytes, at: int) -> int:
        head = self._head
        if head is not None and head.data == b"\r" and data.startswith(b"\n", at):
            head, at = None, at + 1  # no head has begun: this is an empty line, cut in two
            self._head = None
            self.phase = _IDLE
        if head is None:
            found = _EMPTY_LINES.match(data, at)
            assert found is not None, "it matches nothing, too"
            at = found.end()
            if at == len(data):
                return at
            self.phase = _HEAD
            self.since_tick = self._hub.tick
            head = self._head = FramedHead(self._bounds)
        kept_bytes = len(head.data)
        refusal, read = None, head.read(data, at)
        if isinstance(read, Refusal):
            refusal, read = read, at
        elif head.is_whole:
            self._head = None
            refusal = self._use_head(head.data, head.headers)
        elif not self._keep(len(head.data) - kept_bytes):
            refusal = refusals.BODIES_FULL
        if refusal is not None:
            self._refuse(refusal)
        if self.phase is _ENDED:
            return len(data)
        return self._read_body(data, read) if self.phase is _BODY and read < len(data) else read

    def _use_head(self, head: bytes, raw_headers: dict[bytes, bytes]) -> Refusal | None:
        """A head is whole. Its request is refused, or it is handed over, or `phase` is BODY and the
        framing of the body is known.
        """
        names, values = map(bytes.lower, raw_headers), map(bytes.strip, raw_headers.values())
        headers = dict(zip(names, values))  # noqa: B905 - `strict` costs as much as three headers
        self._headers = headers
        count = head.count(b"\n") - 2
        if count > self._bounds.headers_max:
            return refusals.too_many_headers(self._bounds.headers_max)
        if count != len(headers):  # a name came more than once
            joined = join_headers(head)
            if isinstance(joined, Refusal):
                return joined
            headers = self._headers = joined
        length = headers.get(b"content-length", b"0")
        if len(length) > LENGTH_DIGITS_MAX:
            return refusals.malformed(f"its Content-Length has {len(length)} digits")
        heads, byte_count = self._heads, int(length)  # only digits pass the parser
        refusal = heads.judge(head, len(head), headers, byte_count)
        if refusal is not None:
            return refusal
        is_in_chunks = is_chunked(headers, is_http_1_0=heads.line.is_http_1_0)
        if isinstance(is_in_chunks, Refusal):
            return is_in_chunks
        if heads.expects_continue or is_in_chunks:
            refusal = self._early()
            if refusal is not None:
                return refusal
        if is_in_chunks and not self._body_bytes_max:
            return refusals.body_too_large(0, "")
        heads.learn(head, headers)
        self.since_tick = self._hub.tick
        if byte_count or is_in_chunks:
            self.phase = _BODY
            self.owes_continue = heads.expects_continue
            self._body_bytes = byte_count
            self._body = ChunkedBody(self._body_bytes_max) if is_in_chunks else None
        else:
            self._hand_over(b"", None)
        return None

    # --- a body

    def _read_body(self, data: bytes, at: int) -> int:
        body, end = self._body, len(data)
        if body is None:
            if end - at >= self._body_bytes and self.arrival is None:
                end = at + self._body_bytes
                self._hand_over(data[at:end], None)  # whole in one read: never kept
                return end
            refusal = self._early()
            if refusal is not None:
                self._refuse(refusal)
                return len(data)
            body = self._body = LengthBody(self._body_bytes)
        elif isinstance(body, ChunkedBody):
            end = min(end, at + CHUNKED_BYTES_AT_ONCE)
        kept_bytes = len(body.data)
        read = body.read(data, at, end)
        if isinstance(read, Refusal):
            self._refuse(read)
            return len(data)
        self.owes_continue = False
        if not self._keep(len(body.data) - kept_bytes):
            self._refuse(refusals.BODIES_FULL)
            return len(data)
        if body.is_whole:
            self._body = None
            charge, self.arrival = self.arrival, None
            if charge is not None:
                charge.arrived()
            self._hand_over(bytes(body.data), charge)
        return read

    def _early(self) -> Refusal | None:
        """Why the request is refused before any byte of its body is kept; None: it is not."""
        early = self._hub.early
        if early is None:
            return None
        return early(self._sink.principal, self._heads.line.query, self._headers)

    def _keep(self, byte_count: int) -> bool:
        """Charges bytes that are kept until the request is whole."""
        if not byte_count:
            return True
        if self.arrival is None:
            self.arrival = Arrival(self._hub.arrivals, self._evicted)
        return self.arrival.grow(byte_count)

    def _evicted(self) -> None:
        """Other requests need the memory that this request holds."""
        if self.phase is not _ENDED:
            self._refuse(refusals.BODIES_FULL)

    def _hand_over(self, body: bytes, charge: Charge | None) -> None:
        self.owes_continue = False
        if self.arrival is not None:  # of a head that took more than one read
            self.arrival.release()
            self.arrival = None
        line, closes = self._heads.line, self._heads.closes
        self.phase = _ENDED if closes else _IDLE
        self.since_tick = self._hub.tick
        headers, self._headers = self._headers, NO_HEADERS
        if self._heads.is_special:
            self._heads.forget()
        self._sink.take(
            HttpRequest(
                self._sink,
                line.method,
                line.path,
                line.query,
                headers,
                body,
                closes,
                line.is_http_1_0,
                charge,
            )
        )

    # --- refusing

    def in_form(self, refusal: Refusal, ahead: bytes = b"") -> Refusal:
        """The same refusal, in the format of the request that is being read. `ahead`: the bytes
        that follow, which are not read.
        """
        if self._headers:
            return refusals.in_form_of(refusal, self._headers)
        begun = b"" if self._head is None else self._head.data
        return refusals.in_form_of_head(refusal, begun + ahead[: self._head_bytes_max])

    def _refuse(self, refusal: Refusal) -> None:
        refusal = self.in_form(refusal)
        self.end()
        self._sink.refuse(refusal)

"""The reading half of one HTTP/1.1 connection: bytes in, one whole request at a time or a refusal.

A head that is like those before on this connection is read by a stencil (stencil.py). All other
heads are parsed by llhttp (in C). An ordinary request, whole in one read, goes through llhttp in
one call. Of any other request head_framing.py takes the head and body.py the body. So the reader
always knows where a request ends, whatever the client offers (an upgrade), pipelines or cuts off.
Knows nothing of sockets, answers or pipelines.
Invariants: no input of a client makes `feed` raise; a request is handed over when its last byte is
there, and never without that byte; after a refusal nothing more is read; after its use nothing of a
head is kept, except by heads.py for the next head; with a stencil or without, the same requests
come out.
Where it sits: connection.py feeds it; head.py and origin.py decide, head_framing.py and body.py
frame.
"""

import re
from enum import Enum
from typing import Any, Final, Protocol

import httptools

from kdaemon.http import refusals
from kdaemon.http.arrivals import Arrival
from kdaemon.http.body import ChunkedBody, LengthBody
from kdaemon.http.head import LENGTH_DIGITS_MAX, is_chunked, join_headers
from kdaemon.http.head_framing import HEAD_END, FramedHead
from kdaemon.http.heads import Heads
from kdaemon.http.hub import Hub
from kdaemon.http.refusals import Refusal, misread
from kdaemon.http.request import NO_HEADERS, Charge, HttpRequest, RequestOwner

# Bytes of a body taken in one call, so that chunks of a few bytes cannot fill a turn of the loop.
# Our choice, 2026-11-28: 16 KiB of the smallest chunks take a millisecond.
CHUNKED_BYTES_AT_ONCE = 16 * 1024

_EMPTY_LINES = re.compile(rb"(?:\r\n)*")  # skipped before a request (RFC 9112, 2.2)
_strip: Final = bytes.strip


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


class _NotOrdinaryError(Exception):
    """Raised in the parser's callback: this read is not one whole ordinary request."""


class Sink(RequestOwner, Protocol):
    """Takes the requests and refusals of a reader."""

    def take(self, request: HttpRequest) -> None: ...

    def refuse(self, refusal: Refusal) -> None:
        """An answer that ends the connection. Reading has ended already."""
        ...


class RequestReader:
    """Reads requests of one connection until `phase` is ENDED.

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
        "_ordinary",
        "_parser",
        "_pieces",
        "_raw_headers",
        "_sink",
        "arrival",
        "on_body",
        "on_header",
        "owes_continue",
        "phase",
        "since_tick",
    )

    def __init__(self, sink: Sink, hub: Hub) -> None:
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
        self._raw_headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []  # of the body of an ordinary request
        # The parser calls these two directly from C: no Python frame for a header or a piece of a
        # body.
        self.on_header = self._raw_headers.__setitem__
        self.on_body = self._pieces.append
        # A read (bytes) that is taken for one whole request. Any: the parser's calls change it
        # while `feed` goes on.
        self._ordinary: Any = None
        self._head: FramedHead | None = None  # a head that is not whole
        self._headers = NO_HEADERS
        self._body: LengthBody | ChunkedBody | None = None  # None: no byte of the body is here yet
        self._body_bytes = 0  # of a body by length
        self._heads = Heads(hub.gate, bounds)
        self._parser: Any = httptools.HttpRequestParser(self)

    def feed(self, data: bytes, at: int = 0) -> int:
        """Reads on from `at`, at most to the end of one request; returns the position up to which
        it read.

        Calls the sink once for a whole request, or once for a refusal. After a refusal `phase` is
        ENDED.
        """
        if self.phase is not _IDLE:
            if self.phase is _BODY:
                return self._read_body(data, at)
            return self._feed_with_care(data, at)
        stencil = self._heads.stencil
        if stencil is not None:
            headers = stencil.read(data, at)
            if headers is not None and (
                stencil.body_bytes <= self._body_bytes_max
                and stencil.end - at <= self._kept_head_bytes_max
            ):
                return self._take_alike(data, headers, stencil.end, stencil.body_bytes)
        if at:
            return self._feed_with_care(data, at)
        self._ordinary = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _NotOrdinaryError):
                raise  # a defect of ours: a request that was handed over must not be read again
            self._ordinary = None  # not one whole request: begin again, with care
            self._renew()
            return self._feed_with_care(data, at)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._ordinary = None
            if self.phase is not _ENDED:
                self._refuse(misread(str(error), data), data)
            return len(data)
        if self._ordinary is None:  # on_message_complete has handed it over
            return len(data)
        self._ordinary = None
        if self.phase is _BODY:
            self._go_on_with_body()
        elif self.phase is _ENDED:
            self._pieces.clear()  # of a request that was refused
        else:
            self._renew()
            return self._feed_with_care(data, at)
        return len(data)

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
        head, count = self._head, len(self._raw_headers) + len(self._headers)
        return self._heads, 0 if head is None else len(head.data), count

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
        self._raw_headers.clear()
        self._pieces.clear()
        self._heads.forget()
        if self.arrival is not None:
            self.arrival.release()
            self.arrival = None

    def close(self) -> None:
        """Ends, and breaks the reference cycles with sink and parser, so that the garbage collector
        is not needed.
        """
        self.end()
        self._parser = self._sink = None

    # --- the parser's calls (on_header and on_body are bound in __init__)

    def on_headers_complete(self) -> None:
        """The parser has read a head. An ordinary one is judged here, and `phase` becomes BODY, or
        ENDED if the request is refused. Raises `_NotOrdinaryError` if the read is not one ordinary
        request: `feed` then begins again, with care.
        """
        data: bytes = self._ordinary
        raw, heads = self._raw_headers, self._heads
        names = tuple(raw)
        if names != heads.names:
            heads.learn_names(names)
        # `strict` would cost as much as three headers; a name has a value.
        headers = dict(zip(heads.lower_names, map(_strip, raw.values())))  # noqa: B905
        raw.clear()
        length = headers.get(b"content-length")
        if length is None:
            byte_count = 0
        elif len(length) <= LENGTH_DIGITS_MAX:
            byte_count = int(length)  # only digits pass the parser
        else:
            raise _NotOrdinaryError
        end = len(data) - byte_count
        if (
            end < 4
            or not data.endswith(HEAD_END, 0, end)
            # As many lines as headers, and two. Deleting is faster than `count` is.
            or end - len(data[:end].replace(b"\n", b"")) != len(headers) + 2
        ):
            # Not one whole request: maybe its head alone, or with a part of its body.
            end = len(data)
            if not data.endswith(HEAD_END) or data.count(b"\n") != len(headers) + 2:
                end = data.find(HEAD_END) + 4
                if end + byte_count < len(data) or data.count(b"\n", 0, end) != len(headers) + 2:
                    raise _NotOrdinaryError
        if (
            heads.is_rare
            or headers.get(b"host", b"") != heads.good_host
            or not data.startswith(heads.line_bytes)
            or byte_count > self._body_bytes_max
            or end > self._head_bytes_max
        ):
            if heads.is_odd:
                raise _NotOrdinaryError
            self._begin(data, end, headers, byte_count)
        else:  # the same names, line and host as the head before
            self._headers = headers
            self.phase = _BODY
            heads.learn(data, end, headers)

    def on_message_complete(self) -> None:
        """The parser has read the last byte of a request. An ordinary request is handed to the
        sink, and `phase` is IDLE again (ENDED if the request is the last). Nothing is done with one
        that was refused.
        """
        if self.phase is not _BODY:
            return
        self._ordinary = None
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        heads = self._heads
        if heads.is_special:
            self._hand_over(body, None)
            return
        self.phase = _IDLE
        self.since_tick = self._hub.tick
        line, headers, sink = heads.line, self._headers, self._sink
        self._headers = NO_HEADERS
        sink.take(
            HttpRequest(
                sink, line.method, line.path, line.query, headers, body, False, line.is_http_1_0
            )
        )

    def _begin(
        self, data: bytes, head_bytes: int, headers: dict[bytes, bytes], byte_count: int
    ) -> None:
        """A head is read; it begins `data`. Its request is admitted, or refused."""
        self._headers = headers
        refusal = self._heads.judge(data, head_bytes, headers, byte_count)
        if refusal is not None:
            self._refuse(refusal)
            return
        if self._heads.expects_continue and self._is_refused_early():
            return
        self.owes_continue = self._heads.expects_continue
        self.phase = _BODY
        self._heads.learn(data, head_bytes, headers)

    # --- with care: the end of each part is known before the next is read

    def _feed_with_care(self, data: bytes, at: int) -> int:
        head = self._head
        if head is not None and head.data == b"\r" and data.startswith(b"\n", at):
            head, at = None, at + 1  # no head has begun: this is an empty line, cut in two
            self._head = None
            self.phase = _IDLE
        if self.phase is _IDLE:
            found = _EMPTY_LINES.match(data, at)
            assert found is not None, "it matches nothing, too"
            at = found.end()
            if at == len(data):
                return at
            self.phase = _HEAD
            self.since_tick = self._hub.tick
            head = self._head = FramedHead(self._bounds)
        return len(data) if head is None else self._read_head(head, data, at)

    def _read_head(self, head: FramedHead, data: bytes, at: int) -> int:
        held_bytes = len(head.data)
        read = head.read(data, at)
        if isinstance(read, Refusal):
            self._refuse(read)
            return len(data)
        if head.is_whole:
            self._head = None
            self._use_head(bytes(head.data), head.headers)
        elif not self._keep(len(head.data) - held_bytes):
            self._refuse(refusals.BODIES_FULL)
        return read if self.phase is not _ENDED else len(data)

    def _use_head(self, head: bytes, raw_headers: dict[bytes, bytes]) -> None:
        """A head is whole: its framing decides how the body is read."""
        heads, names = self._heads, tuple(raw_headers)
        if names != heads.names:
            heads.learn_names(names)
        values = map(_strip, raw_headers.values())
        headers = self._headers = dict(zip(heads.lower_names, values, strict=True))
        count = head.count(b"\n") - 2
        if count > self._hub.limits.headers_max:
            self._refuse(refusals.too_many_headers(self._hub.limits.headers_max))
            return
        if count != len(headers):  # a name came more than once
            joined = join_headers(head)
            if isinstance(joined, Refusal):
                self._refuse(joined)
                return
            headers = joined
        length = headers.get(b"content-length", b"0")
        if len(length) > LENGTH_DIGITS_MAX:
            text = f"its Content-Length has {len(length)} digits"
            self._refuse(refusals.malformed(text))
            return
        byte_count = int(length)
        self._begin(head, len(head), headers, byte_count)
        if self.phase is not _BODY:
            return
        is_in_chunks = is_chunked(headers, is_http_1_0=heads.line.is_http_1_0)
        if isinstance(is_in_chunks, Refusal):
            self._refuse(is_in_chunks)
            return
        self.since_tick = self._hub.tick
        if is_in_chunks:
            if self._is_refused_early():
                return
            self._body = ChunkedBody(self._body_bytes_max)
            if not self._body_bytes_max:
                self._refuse(refusals.body_too_large(0, ""))
        elif byte_count:
            self._body_bytes = byte_count
        else:
            self._hand_over(b"", None)

    def _renew(self) -> None:
        """Makes a new parser, which has seen nothing."""
        self._raw_headers.clear()
        self._pieces.clear()
        self._parser = httptools.HttpRequestParser(self)

    # --- a body that is not whole in one read

    def _go_on_with_body(self) -> None:
        """The head was ordinary, and its body is not whole: reads on without the parser."""
        self._body_bytes = int(self._headers[b"content-length"])
        self.since_tick = self._hub.tick
        arrived = b"".join(self._pieces)
        self._renew()
        if arrived:
            self._read_body(arrived, 0)

    def _read_body(self, data: bytes, at: int) -> int:
        body, end = self._body, len(data)
        if body is None:
            if end - at >= self._body_bytes and self.arrival is None:
                end = at + self._body_bytes
                self._hand_over(data[at:end], None)  # whole in one read: never kept
                return end
            if self._is_refused_early():
                return len(data)
            body = self._body = LengthBody(self._body_bytes)
        elif isinstance(body, ChunkedBody):
            end = min(end, at + CHUNKED_BYTES_AT_ONCE)
        held_bytes = len(body.data)
        read = body.read(data, at, end)
        if isinstance(read, Refusal):
            self._refuse(read)
            return len(data)
        self.owes_continue = False
        if not self._keep(len(body.data) - held_bytes):
            self._refuse(refusals.BODIES_FULL)
            return len(data)
        if body.is_whole:
            self._body = None
            charge, self.arrival = self.arrival, None
            if charge is not None:
                charge.arrived()
            self._hand_over(bytes(body.data), charge)
        return read

    def _is_refused_early(self) -> bool:
        """Whether the request is refused before any byte of its body is kept: its client is not
        known.
        """
        early = self._hub.early
        if early is None:
            return False
        refusal = early(self._sink.principal, self._heads.line.query, self._headers)
        if refusal is not None:
            self._refuse(refusal)
        return refusal is not None

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
        begun = b"" if self._head is None else bytes(self._head.data)
        return refusals.in_form_of_head(refusal, begun + ahead[: self._head_bytes_max])

    def _refuse(self, refusal: Refusal, head: bytes = b"") -> None:
        """`head`: begins with the request's head, if the head is kept nowhere."""
        refusal = self.in_form(refusal, head)
        self.end()
        self._sink.refuse(refusal)

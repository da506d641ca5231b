"""The reading half of one HTTP/1.1 connection: bytes in, whole requests or one refusal out.

A thin shell round the parser (llhttp, in C) that holds its limits: size of head and body, what may
be in memory of bodies that are still arriving. Knows nothing of sockets, answers or pipelines.
Invariant: nothing a client sends makes `feed` raise; after a refusal nothing more is read.
"""

from enum import Enum
from typing import Any, Protocol

import httptools

from kdaemon.http.hub import HttpHub

# Bytes given to the parser at once outside a body. It cannot be paused between two pipelined
# requests, so this bounds how many it can produce after the pipeline is full. 16 KiB holds dozens
# of real requests; long bodies are fed whole. Our choice, 2026-11-21.
SLICE_BYTES = 16 * 1024

TLS_HANDSHAKE = b"\x16\x03"  # how every TLS connection begins (RFC 8446, 5.1)

_METHODS = {
    name.encode(): name for name in ("POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")
}


def _split_target(target: bytes) -> tuple[str, str]:
    """Request target -> (path, query); of an absolute URL only what follows the host."""
    text = target.decode("latin-1")
    if not text.startswith("/") and "://" in text:
        text = "/" + text.partition("://")[2].partition("/")[2]
    path, _, query = text.partition("?")
    return path, query


class Phase(Enum):
    """What is being read. The parser leads it round IDLE -> HEAD -> BODY -> IDLE; `end` (and a
    request that says it is the last) leads from anywhere to ENDED, and nothing leads out of there.
    """

    IDLE = "idle"  # between requests
    HEAD = "head"
    BODY = "body"
    ENDED = "ended"  # no further request is taken


# An attribute of an Enum costs four times a global, and these are read for every request.
_IDLE, _HEAD, _BODY, _ENDED = Phase.IDLE, Phase.HEAD, Phase.BODY, Phase.ENDED


class Sink(Protocol):
    """Who takes what was read."""

    def take(
        self,
        method: str,
        path: str,
        query: str,
        headers: dict[bytes, bytes],
        body: bytes,
        closes: bool,
        is_http_1_0: bool,
    ) -> None:
        """A whole request."""
        ...

    def refuse(
        self,
        reason: str,
        status: int,
        code: str,
        message: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """An answer that ends the connection. Reading has ended already."""
        ...

    def refuse_http_2(self) -> None: ...


class RequestReader:
    """Reads requests of one connection until `phase` is ENDED.

    `since_tick`: when `phase` began, for whoever judges time. `owes_continue`: the client waits for
    `100 Continue` before it sends the body; cleared when it does not wait any longer.
    """

    __slots__ = (
        "_body",
        "_body_expected",
        "_charged_bytes",
        "_closes",
        "_head_bytes",
        "_headers",
        "_hub",
        "_is_http_1_0",
        "_parser",
        "_pieces",
        "_raw_headers",
        "_sink",
        "_target",
        "on_body",
        "on_header",
        "owes_continue",
        "phase",
        "since_tick",
    )

    def __init__(self, sink: Sink, hub: HttpHub) -> None:
        self.phase = _IDLE
        self.since_tick = hub.tick
        self.owes_continue = False
        self._sink: Any = sink
        self._hub = hub
        self._raw_headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []  # of the body, since the last feed
        # The parser calls these two straight in C: no Python frame for a header or a piece of a
        # body.
        self.on_header = self._raw_headers.__setitem__
        self.on_body = self._pieces.append
        self._headers: dict[bytes, bytes] = {}
        self._target = b""
        self._head_bytes = 0
        self._body = bytearray()  # of a body that takes more than one feed
        self._body_expected = 0  # bytes, by Content-Length; 0 for a chunked body
        self._charged_bytes = 0  # what this connection holds of the budget for bodies
        self._closes = False
        self._is_http_1_0 = False
        self._parser: Any = httptools.HttpRequestParser(self)

    def feed(self, data: bytes | memoryview) -> None:
        """Reads on. Calls the sink for every request that is whole, or once for a refusal."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # An offer to change protocols (curl --http2, a WebSocket) is declined by carrying on.
            rest = memoryview(data)[upgrade.args[0] :]
            if rest and self.phase is not _ENDED:
                self.feed(rest)
            return
        except httptools.HttpParserError as error:
            if self.phase is not _ENDED:
                self._refuse_malformed(error, bytes(data[:2]))
            return
        phase = self.phase
        if phase is _IDLE:
            return
        if phase is _BODY:
            self._absorb_body()
        elif phase is _HEAD:
            self._head_bytes += len(data)
            limit = self._hub.limits.head_bytes_max
            if self._head_bytes > limit:
                self._refuse(
                    "head_too_large",
                    431,
                    "RequestHeaderFieldsTooLargeException",
                    f"The request line and headers are longer than {limit} bytes.",
                )

    @property
    def feed_bytes_wanted(self) -> int:
        """How much to feed at once: a slice, or the rest of a body of known length."""
        if self.phase is _BODY:
            return max(SLICE_BYTES, self._body_expected - len(self._body))
        return SLICE_BYTES

    def finish(self) -> None:
        """The client sends no more."""
        if self.phase is _HEAD or self.phase is _BODY:
            self._refuse(
                "truncated",
                400,
                "IncompleteRequestException",
                "The connection ended in the middle of a request.",
            )
        self.phase = _ENDED

    def end(self) -> None:
        """Takes no further request, and lets go of what was read of one."""
        self.phase = _ENDED
        self.owes_continue = False
        self._release_body()

    def close(self) -> None:
        """Ends, and breaks the cycles with sink and parser, so that no collector is needed."""
        self.end()
        self._parser = self._sink = None

    # --- the parser's calls (on_header and on_body are bound in __init__)

    def on_message_begin(self) -> None:
        self._raw_headers.clear()  # a chunked body may have left trailers
        self._target = b""
        self._head_bytes = 0
        if self.phase is _IDLE:
            self.phase = _HEAD
            self.since_tick = self._hub.tick

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_headers_complete(self) -> None:
        if self.phase is not _HEAD:
            return
        raw = self._raw_headers
        headers = dict(zip(map(bytes.lower, raw), raw.values(), strict=True))
        self._headers = headers
        self._closes = not self._parser.should_keep_alive()
        self._is_http_1_0 = b"connection" in headers and self._parser.get_http_version() == "1.0"
        self.phase = _BODY
        self.since_tick = self._hub.tick
        length = headers.get(b"content-length")
        self._body_expected = 0 if length is None else int(length)  # only digits pass the parser
        if self._body_expected > self._hub.limits.body_bytes_max:
            self._refuse_body_size(f"its Content-Length is {self._body_expected}")
        elif b"expect" in headers:
            self._expect(headers[b"expect"])

    def on_message_complete(self) -> None:
        if self.phase is not _BODY:
            return  # refused meanwhile
        pieces = self._pieces
        if self._body:
            for piece in pieces:
                self._body += piece
            body = bytes(self._body)
            self._release_body()
        else:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
        if len(body) > self._hub.limits.body_bytes_max:
            self._refuse_body_size(f"this one has {len(body)}")
            return
        self.owes_continue = False
        self.phase = _ENDED if self._closes else _IDLE
        self.since_tick = self._hub.tick
        method = self._parser.get_method()
        path, query = ("/", "") if self._target == b"/" else _split_target(self._target)
        self._sink.take(
            _METHODS.get(method) or method.decode("latin-1"),
            path,
            query,
            self._headers,
            body,
            self._closes,
            self._is_http_1_0,
        )

    # --- bodies

    def _absorb_body(self) -> None:
        """Keeps what came of an unfinished body, within the limits of one and of all."""
        arrived = sum(map(len, self._pieces))
        if not arrived:
            return
        self.owes_continue = False
        if len(self._body) + arrived > self._hub.limits.body_bytes_max:
            self._refuse_body_size("this one is longer")
            return
        if not self._hub.bodies.take(arrived):
            self._refuse(
                "bodies_full",
                503,
                "ServiceUnavailableException",
                "Too many request bodies are arriving at once; send this one again later.",
                ((b"Retry-After", b"1"),),
            )
            return
        self._charged_bytes += arrived
        for piece in self._pieces:
            self._body += piece
        self._pieces.clear()

    def _release_body(self) -> None:
        if self._charged_bytes:
            self._hub.bodies.give(self._charged_bytes)
            self._charged_bytes = 0
        if self._body:
            self._body = bytearray()
        self._pieces.clear()

    def _expect(self, expectation: bytes) -> None:
        if expectation.lower() != b"100-continue":
            self._refuse(
                "expectation",
                417,
                "ExpectationFailedException",
                "Of the Expect header only 100-continue is understood.",
            )
        else:
            self.owes_continue = self._parser.get_http_version() != "1.0"

    # --- refusing

    def _refuse(
        self,
        reason: str,
        status: int,
        code: str,
        message: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self.end()
        self._sink.refuse(reason, status, code, message, headers)

    def _refuse_body_size(self, found: str) -> None:
        self._refuse(
            "body_too_large",
            413,
            "RequestEntityTooLargeException",
            f"A request body may have up to {self._hub.limits.body_bytes_max} bytes; {found}.",
        )

    def _refuse_malformed(self, error: Exception, start: bytes) -> None:
        if self._parser.get_method() == b"PRI":
            self.end()
            self._sink.refuse_http_2()
            return
        message = f"This is not HTTP/1.1 that can be read: {error}."
        if start == TLS_HANDSHAKE:
            message = "This port speaks plain HTTP and the client TLS: use http://, not https://."
        self._refuse("malformed", 400, "BadRequestException", message)

"""One HTTP request as a handler sees it, and its answer as bytes.

Knows the form of an answer, nothing of sockets: the connection that made the request sends what
`respond` built when its turn comes. Where it sits: `http.py` makes requests, handlers answer them.
"""

import struct
from collections.abc import Callable
from typing import Protocol

JSON = b"application/x-amz-json-1.1"

REASONS = {
    200: b"OK",
    202: b"Accepted",
    204: b"No Content",
    207: b"Multi-Status",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}

# (status, content type) -> all of an answer's head before the length. Both come from code, never
# from a client, so the table stays as small as the code.
_heads: dict[tuple[int, bytes], bytes] = {}


def _head(status: int, content_type: bytes) -> bytes:
    reason = REASONS.get(status, b"Status")
    head = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: " % (
        status,
        reason,
        content_type,
    )
    _heads[status, content_type] = head
    return head


def _json_text(text: str) -> bytes:
    """Text inside a JSON string; what is not printable ASCII becomes `?`."""
    safe = "".join(c if " " <= c <= "~" else "?" for c in text)
    return safe.replace("\\", "\\\\").replace('"', '\\"').encode()


def error_body(code: str, message: str) -> bytes:
    """The service's form of an error, which every AWS SDK can read."""
    return b'{"__type":"%b","message":"%b"}' % (_json_text(code), _json_text(message))


SWITCH_TO_HTTP_1_1 = (
    "This port speaks HTTP/1.1, and the client opened with HTTP/2. Switch the SDK to HTTP/1.1: "
    "JavaScript v3: new KinesisClient({requestHandler: new NodeHttpHandler()}), from "
    "@smithy/node-http-handler; Java v2, async: "
    "httpClientBuilder(NettyNioAsyncHttpClient.builder().protocol(Protocol.HTTP1_1))."
)
HTTP_1_1_REQUIRED = 13  # the HTTP/2 error code (RFC 9113, 7)


def http_2_goodbye() -> bytes:
    """SETTINGS (empty) and GOAWAY with the remedy as its debug data (RFC 9113, 6.5 and 6.8)."""
    text = SWITCH_TO_HTTP_1_1.encode()
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    length = struct.pack(">I", 8 + len(text))[1:]
    return settings + length + struct.pack(">BBIII", 7, 0, 0, 0, HTTP_1_1_REQUIRED) + text


class RequestOwner(Protocol):
    """What a request asks of the connection that it came on."""

    @property
    def is_last_answer(self) -> bool:
        """The connection closes after whichever answer comes next."""
        ...

    def flush_answers(self, request: "HttpRequest") -> None:
        """`request` has its answer; send what may leave by now."""
        ...

    def reset(self) -> None: ...


class HttpRequest:
    """One whole request. The handler answers it with `respond`, once, now or later, in any order.

    `path`, `query`: as they came, percent signs kept. `headers`: names in lower case; of a name
    that came twice, the last value. `body`: as it came, no content coding undone. The request lives
    until it is answered, and its body with it: a handler that answers later sets `body = b""` once
    it was read.
    """

    __slots__ = (
        "answer",
        "body",
        "closes",
        "headers",
        "is_http_1_0",
        "method",
        "owner",
        "path",
        "query",
    )

    def __init__(
        self,
        owner: RequestOwner,
        method: str,
        path: str,
        query: str,
        headers: dict[bytes, bytes],
        body: bytes,
        closes: bool,
        is_http_1_0: bool,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.owner: RequestOwner | None = owner  # None: the connection is lost
        self.closes = closes  # the connection ends with this answer
        self.is_http_1_0 = is_http_1_0  # and keeps the connection open, which its answer must say
        self.answer: bytes | None = None  # whole, head and body

    @property
    def is_gone(self) -> bool:
        """The connection is lost: nobody will read an answer."""
        return self.owner is None

    def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: bytes = JSON,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        close: bool = False,
    ) -> None:
        """Answers once. Pipelined answers leave in request order.

        Nothing happens if the client is gone. A second answer raises RuntimeError and changes
        nothing.
        """
        if self.answer is not None:
            raise RuntimeError(f"{self.method} {self.path} was answered twice")
        owner = self.owner
        if owner is None:
            return
        extra = b""
        for pair in headers:
            extra += b"%b: %b\r\n" % pair
        if close or self.closes or owner.is_last_answer:
            self.closes = True
            extra += b"Connection: close\r\n"
        elif self.is_http_1_0:
            extra += b"Connection: keep-alive\r\n"
        self.answer = b"%b%d\r\n%b\r\n%b" % (
            _heads.get((status, content_type)) or _head(status, content_type),
            len(body),
            extra,
            b"" if self.method == "HEAD" else body,
        )
        owner.flush_answers(self)

    def abort(self) -> None:
        """Drops the connection with a TCP reset and without an answer."""
        if self.owner is not None:
            self.owner.reset()


HttpHandler = Callable[[HttpRequest], None]

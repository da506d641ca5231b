"""The meaning of the heads of one connection: worked out once, because a client sends the same
line and host each time.

Pure, beside head.py, which works out the meaning of one head. Knows no parser, body or socket.
Invariants: a part that could differ from the head before is never assumed; nothing large is kept
between requests; a stencil is kept only of admitted heads, and only of heads whose names need no
new judgement.
Where it sits: reader.py owns one for each connection.
"""

from dataclasses import dataclass

from kdaemon.http import refusals
from kdaemon.http.head import (
    BROWSER,
    RequestLine,
    is_last,
    read_request_line,
    tidy_content_encoding,
)
from kdaemon.http.origin import Gate
from kdaemon.http.refusals import Refusal
from kdaemon.http.stencil import Stencil, cut

# A head of more headers is not kept for the next one: each takes some 250 bytes. SDKs send a dozen.
# Ours, 2026-11-29: of 10,000 connections 80 MB at most.
KEPT_HEADERS_MAX = 32

# A head with one of these names is never read by a stencil. A head may have Connection, with the
# value that it had before.
_NEVER_ALIKE = BROWSER | {
    *(b"expect", b"content-encoding", b"transfer-encoding", b"upgrade", b"proxy-connection"),
}

_UNKNOWN_LINE = RequestLine("", "/", "", is_http_1_0=False)


@dataclass(frozen=True, slots=True)
class HeadBounds:
    """Bounds of one head, in bytes or in number; those of `ConnectionLimits`."""

    head_bytes_max: int
    headers_max: int
    body_bytes_max: int
    kept_head_bytes_max: int


class Heads:
    """`line_bytes`, `good_host`: of the head before. `line`: what the line means.

    `stencil`: for the next head; None: there is none. `misses`: heads since one was read by a
    stencil. `is_special`: nothing of this head is kept for the next one, because the connection
    `closes`, the client `expects_continue`, or the head is too large.
    """

    __slots__ = (
        "_bounds",
        "_gate",
        "closes",
        "expects_continue",
        "good_host",
        "is_special",
        "line",
        "line_bytes",
        "misses",
        "stencil",
    )

    def __init__(self, gate: Gate, bounds: HeadBounds) -> None:
        self._gate = gate
        self._bounds = bounds
        self.closes = False
        self.expects_continue = False
        self.forget()

    def forget(self) -> None:
        """Forgets the heads before: otherwise a large head would stay in memory as long as its
        connection.
        """
        self.is_special = False
        self.stencil: Stencil | None = None
        self.misses = 0
        self.line_bytes, self.line = b"\0", _UNKNOWN_LINE
        self.good_host: bytes | None = None

    def learn(self, head: bytes, headers: dict[bytes, bytes]) -> None:
        """Keeps a stencil of a head that the parser has read, and whose request is admitted: the
        next head may be like it. Cutting a stencil costs a third of what it saves: while heads have
        little in common, a stencil is cut only after 1, 2, 4, 8 of them, and so on.
        """
        self.misses += 1
        if (
            self.misses & (self.misses - 1)
            or self.is_special
            or not _NEVER_ALIKE.isdisjoint(headers)
            or len(head) > self._bounds.kept_head_bytes_max
            or len(headers) > KEPT_HEADERS_MAX
        ):
            return
        self.stencil = cut(head, headers, self.stencil)

    def judge(
        self, data: bytes, head_bytes: int, headers: dict[bytes, bytes], byte_count: int
    ) -> Refusal | None:
        """Why the request whose head begins `data` is refused; None: it is admitted."""
        bounds = self._bounds
        if not data.startswith(self.line_bytes):
            refusal = self._learn_line(data)
            if refusal is not None:
                return refusal
        if head_bytes > bounds.head_bytes_max:
            return refusals.head_too_large(bounds.head_bytes_max)
        if len(headers) > bounds.headers_max:
            return refusals.too_many_headers(bounds.headers_max)
        if byte_count > bounds.body_bytes_max:
            found = f"its Content-Length is {byte_count}"
            return refusals.body_too_large(bounds.body_bytes_max, found)
        self.expects_continue = False
        refusal = self._examine(headers)
        is_bulky = head_bytes > bounds.kept_head_bytes_max
        self.is_special = is_bulky or self.closes or self.expects_continue
        return refusal

    def _learn_line(self, data: bytes) -> Refusal | None:
        end = data.find(b"\r\n")
        line = read_request_line(data[:end])
        if isinstance(line, Refusal):
            return line
        self.line_bytes, self.line = data[: end + 2], line
        self.good_host = None
        self.stencil = None
        return None

    def _examine(self, headers: dict[bytes, bytes]) -> Refusal | None:
        """Judges the headers that an ordinary head does not change from one request to the next."""
        line, host = self.line, headers.get(b"host")
        if host is None or host != self.good_host or not BROWSER.isdisjoint(headers):
            refusal = self._gate.refusal(line, headers)
            if refusal is not None:
                return refusal
        connection = headers.get(b"connection")
        if line.is_http_1_0:
            self.closes = is_last(connection, is_http_1_0=True)
        else:
            self.good_host = host or None  # None: the next head is judged again
            if connection is not None and connection != b"keep-alive":
                self.closes = is_last(connection, is_http_1_0=False)
        if b"content-encoding" in headers:
            tidy_content_encoding(headers)
        expectation = headers.get(b"expect")
        if expectation is not None:
            if expectation.lower() != b"100-continue":
                return refusals.EXPECTATION
            self.expects_continue = not line.is_http_1_0
        return None

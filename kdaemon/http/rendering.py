"""Writes an answer as bytes of HTTP/1.1, and as the headers of HTTP/2. Pure.

Knows the form of an answer on the wire. Must not know who asked, nor what an answer means.
Where it sits: connection.py and http2_streams.py render the answers of their requests here.
"""

from typing import Final

from kdaemon.http.answer import Answer

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = (b"Connection", b"close")
_KEEP: Final = (b"Connection", b"keep-alive")

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
    505: b"HTTP Version Not Supported",
}

# How an answer of status 200 begins, up to its length, by its content type. Content types come from
# code, never from a client, so the table stays small.
_starts: Final[dict[bytes, bytes]] = {}

# Lengths as they are written: most bodies are short.
_LENGTHS: Final = [b"%d" % length for length in range(512)]


def _start(status: int, content_type: bytes) -> bytes:
    start = _starts.get(content_type) if status == 200 else None
    if start is None:
        parts = status, REASONS.get(status, b"Status"), content_type
        start = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: " % parts
        if status == 200:
            _starts[content_type] = start
    return start


def render(answer: Answer, closes: bool, is_http_1_0: bool, has_body: bool) -> bytes:
    """All bytes of an answer. `is_http_1_0`: the client must be told if its connection stays open.

    `has_body` False: the answer to HEAD, which has the length of a body that is not sent.
    """
    body, headers, lines = answer.body, answer.headers, answer.lines
    if closes:
        headers += (_CLOSE,)
    elif is_http_1_0:
        headers += (_KEEP,)
    for name, value in headers:  # formats of bytes alone are compiled to one copy
        lines = b"%b\r\n%b: %b" % (lines, name, value)
    start, count = _start(answer.status, answer.content_type), len(body)
    length = _LENGTHS[count] if count < 512 else b"%d" % count
    return b"%b%b%b\r\n\r\n%b" % (start, length, lines, body if has_body else b"")


CHUNKED = b"Transfer-Encoding", b"chunked"


def render_head(answer: Answer, *, closes: bool, is_chunked: bool) -> bytes:
    """The head of an answer in pieces. An answer that is not chunked ends with the connection."""
    headers = (CHUNKED, *answer.headers) if is_chunked else answer.headers
    if closes:
        headers += (_CLOSE,)
    reason = REASONS.get(answer.status, b"Status")
    head = b"HTTP/1.1 %d %b\r\nContent-Type: %b" % (answer.status, reason, answer.content_type)
    for name, value in headers:
        head = b"%b\r\n%b: %b" % (head, name, value)
    return b"%b%b\r\n\r\n" % (head, answer.lines)


# Names come from code, never from a client, so the table stays small.
_lower: dict[bytes, bytes] = {}


def fields_of(answer: Answer) -> list[tuple[bytes, bytes]]:
    """The headers of an answer for HTTP/2: in lower case, without those of a connection."""
    fields = [
        (b":status", b"%d" % answer.status),
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
    ]
    if answer.pieces is not None:  # its length is not known yet
        del fields[2]
    for name, value in answer.all_headers():
        lower = _lower.get(name) or _lower.setdefault(name, name.lower())
        fields.append((lower, value))
    return fields


CONTINUE_FIELDS = ((b":status", b"100"),)

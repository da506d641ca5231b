"""An answer as bytes of HTTP/1.1, and the goodbye to a client that opens with HTTP/2.

Pure. Knows the form of an answer on the wire; not who asked, and not what an answer means.
Where it sits: connection.py renders here what its requests were answered.
"""

import struct

from kdaemon.http.request import Answer

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

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


def render(answer: Answer, closes: bool, keeps_1_0: bool, has_body: bool) -> bytes:
    """All bytes of an answer. `keeps_1_0`: a client of HTTP/1.0 asked to keep the connection.

    `has_body` False: the answer to HEAD, which tells the length of a body that it does not send.
    """
    body = answer.body
    headers = answer.headers
    extra = b"%b: %b\r\n" * len(headers) % sum(headers, ())  # one format for all
    if closes:
        extra += b"Connection: close\r\n"
    elif keeps_1_0:
        extra += b"Connection: keep-alive\r\n"
    return b"%b%d\r\n%b\r\n%b" % (
        _heads.get((answer.status, answer.content_type))
        or _head(answer.status, answer.content_type),
        len(body),
        extra,
        body if has_body else b"",
    )


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

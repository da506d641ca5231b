"""An answer as bytes of HTTP/1.1, and the goodbye to a client that opens with HTTP/2.

Pure. Knows the form of an answer on the wire; not who asked, and not what an answer means.
Where it sits: connection.py renders here what its requests were answered.
"""

import struct

from kdaemon.http.request import Answer

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = (b"Connection", b"close")
_KEEP = (b"Connection", b"keep-alive")

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

# (status, content type, number of headers) -> an answer with places for its length, those headers
# and its body. All three come from code, never from a client, so the table stays small.
_forms: dict[tuple[int, bytes, int], bytes] = {}


def _form(status: int, content_type: bytes, header_count: int) -> bytes:
    reason = REASONS.get(status, b"Status")
    head = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\n" % (status, reason, content_type)
    form = head + b"Content-Length: %d\r\n" + b"%b: %b\r\n" * header_count + b"\r\n%b"
    _forms[status, content_type, header_count] = form
    return form


def render(answer: Answer, closes: bool, keeps_1_0: bool, has_body: bool) -> bytes:
    """All bytes of an answer. `keeps_1_0`: a client of HTTP/1.0 asked to keep the connection.

    `has_body` False: the answer to HEAD, which tells the length of a body that it does not send.
    """
    body, headers = answer.body, answer.headers
    if closes:
        headers += (_CLOSE,)
    elif keeps_1_0:
        headers += (_KEEP,)
    key = answer.status, answer.content_type, len(headers)
    form = _forms.get(key) or _form(*key)
    return form % (len(body), *sum(headers, ()), body if has_body else b"")


SWITCH_TO_HTTP_1_1 = (
    "This port speaks HTTP/1.1, and the client opened with HTTP/2. Switch the SDK to HTTP/1.1: "
    "JavaScript v3: new KinesisClient({requestHandler: new NodeHttpHandler()}), from "
    "@smithy/node-http-handler; Java v2, async: "
    "httpClientBuilder(NettyNioAsyncHttpClient.builder().protocol(Protocol.HTTP1_1))."
)
HTTP_1_1_REQUIRED = 13  # the HTTP/2 error code (RFC 9113, 7)


def http_2_goodbye(remedy: str = SWITCH_TO_HTTP_1_1) -> bytes:
    """SETTINGS (empty) and GOAWAY with the remedy as its debug data (RFC 9113, 6.5 and 6.8)."""
    text = remedy.encode()
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    length = struct.pack(">I", 8 + len(text))[1:]
    return settings + length + struct.pack(">BBIII", 7, 0, 0, 0, HTTP_1_1_REQUIRED) + text

"""The answer to an HTTP request, as a value.

Knows what an answer says; no request, no socket, and not how a protocol writes an answer down.
Pure. Apart from request.py, because msgspec makes this class, and mypyc makes the request's.
Where it sits: request.py makes answers, and connections render them (rendering.py).
"""

import msgspec

from kdaemon.http.pieces import Pieces

JSON = b"application/x-amz-json-1.1"
CBOR = b"application/x-amz-cbor-1.1"

Headers = tuple[tuple[bytes, bytes], ...]


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a client is told. `headers` come beside those that the framing needs. `pieces`: the body
    is made while it is sent, and `body` is empty.
    """

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = ()
    closes: bool = False  # the connection ends with this answer; in HTTP/2 its stream does anyway
    pieces: Pieces | None = None

"""The answer to an HTTP request, as a value. Pure.

Knows what an answer says. Must not know a request, a socket or how a protocol writes an answer.
Apart from request.py, because msgspec makes this class, and mypyc makes the request's.
Where it sits: request.py makes answers, and connections render them (rendering.py).
"""

import msgspec

from kdaemon.http.pieces import Pieces

JSON = b"application/x-amz-json-1.1"
CBOR = b"application/x-amz-cbor-1.1"

Headers = tuple[tuple[bytes, bytes], ...]


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a client is told. `headers` are added to those that the framing needs. `pieces`: makes
    the body while it is sent; `body` is empty then.
    """

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = ()
    # The connection ends with this answer; in HTTP/2 every answer ends its stream.
    closes: bool = False
    pieces: Pieces | None = None

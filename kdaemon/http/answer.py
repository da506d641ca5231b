"""The answer to an HTTP request, as a value. Pure.

Knows what an answer says. Must not know a request, a socket or how a protocol writes an answer.
Where it sits: request.py makes answers, and connections render them (rendering.py).
"""

from typing import Final

from kdaemon.http.pieces import Pieces

JSON = b"application/x-amz-json-1.1"
CBOR = b"application/x-amz-cbor-1.1"

Headers = tuple[tuple[bytes, bytes], ...]


class Answer:
    """What a client is told. `headers` are added to those that the framing needs. `lines`: further
    headers, as HTTP/1.1 writes them, each behind a line end: for whoever writes the same ones into
    every answer. `closes`: the connection ends with this answer; in HTTP/2 every answer ends its
    stream. `pieces`: makes the body while it is sent; `body` is empty then.
    """

    __slots__ = ("body", "closes", "content_type", "headers", "lines", "pieces", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        content_type: bytes = JSON,
        headers: Headers = (),
        closes: bool = False,
        pieces: Pieces | None = None,
        lines: bytes = b"",
    ) -> None:
        self.status: Final = status
        self.body: Final = body
        self.content_type: Final = content_type
        self.headers: Final = headers
        self.closes: Final = closes
        self.pieces: Final = pieces
        self.lines: Final = lines

    def all_headers(self) -> Headers:
        """Those of `headers` and of `lines`."""
        return self.headers + headers_of(self.lines)


def headers_of(lines: bytes) -> Headers:
    """Headers that were written as lines, each behind a line end."""
    found: list[tuple[bytes, bytes]] = []
    for line in lines.split(b"\r\n")[1:]:
        name, _, value = line.partition(b": ")
        found.append((name, value))
    return tuple(found)

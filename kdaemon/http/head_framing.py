"""Takes the head of one request out of a connection's bytes: where the head begins and ends, and
which headers llhttp finds in it.

The end of the head is found first, and llhttp gets this head and nothing behind it: so no offer of
another protocol, no body and no next request is read out of it. Knows the empty line that ends a
head, and llhttp. Must not know what a head means, nor bodies, budgets or sockets.
Invariants: `read` never goes beyond the head's last byte. If llhttp sees an end elsewhere, or no
head, the request is a `Refusal`. At most `head_bytes_max` and 4 bytes are kept.
Where it sits: reader.py uses one for each head that it does not read in one call; head.py says what
the head means, body.py takes the body behind it.
"""

from typing import Any, Final

import httptools

from kdaemon.http import refusals
from kdaemon.http.heads import HeadBounds
from kdaemon.http.refusals import Refusal, misread

_HEAD_END: Final = b"\r\n\r\n"


class _Seen:
    """What llhttp has found so far: `headers` as they came, and how many heads have ended."""

    __slots__ = ("head_count", "headers", "on_header")

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.on_header = self.headers.__setitem__
        self.head_count = 0

    def on_headers_complete(self) -> None:
        self.head_count += 1


class FramedHead:
    """`data`: what has come of the head. `is_whole`: all of it has."""

    __slots__ = ("_bounds", "_parser", "_seen", "data", "is_whole")

    def __init__(self, bounds: HeadBounds) -> None:
        self._bounds = bounds
        seen = self._seen = _Seen()
        self._parser: Any = httptools.HttpRequestParser(seen)
        self.data = b""
        self.is_whole = False

    @property
    def headers(self) -> dict[bytes, bytes]:
        """By names and with values as they came; of a name that came twice the last one."""
        return self._seen.headers

    def read(self, data: bytes, at: int) -> int | Refusal:
        """Takes the head's part of `data` from `at` on. Returns the position after it."""
        kept_bytes = len(self.data)
        stop = at + self._bounds.head_bytes_max + 4 - kept_bytes
        if kept_bytes:
            head = self.data + data[at:stop]
            end = head.find(_HEAD_END, max(0, kept_bytes - 3)) + 4
            head = head[:end] if end >= 4 else head
        else:  # most heads come whole, and with a body
            end = data.find(_HEAD_END, at, stop) + 4
            head = data[at : end if end >= 4 else stop]
        self.data = head
        self.is_whole = end >= 4
        refusal = self._parse(head[kept_bytes:])
        return at + len(head) - kept_bytes if refusal is None else refusal

    def _parse(self, piece: bytes) -> Refusal | None:
        """Gives llhttp `piece`, which ends `data`. Returns why the request is refused, if it is."""
        seen, bounds = self._seen, self._bounds
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            # The upgrade is declined: the head is used as any other, and its framing ends the body.
            if offer.args[0] != len(piece):
                seen.head_count = 0
        except httptools.HttpParserError as error:
            return misread(str(error), self.data)
        if self.is_whole:
            # Else llhttp sees the end elsewhere, or another head in this one.
            return None if seen.head_count == 1 else misread("its head is none", self.data)
        if seen.head_count:
            return refusals.malformed("its head does not end with an empty line")
        if len(self.data) > bounds.head_bytes_max:
            return refusals.head_too_large(bounds.head_bytes_max)
        if len(seen.headers) > bounds.headers_max:
            return refusals.too_many_headers(bounds.headers_max)
        return None

"""Takes the body of one request out of a connection's bytes, by its framing (RFC 9112, 6 and 7).
Pure.

Bytes in, bytes of the body out. Knows the two framings, length and chunks. Must not know heads,
budgets or sockets.
Invariants: `read` never goes beyond the body's last byte, so that the bytes after it are the next
request. Anything that is not exactly a chunk is a `Refusal`. There is at most about as much chunk
framing as body, and a line of it has at most LINE_BYTES_MAX.
Where it sits: reader.py uses one for each body that is not whole in one read.
"""

import io
import re
from enum import Enum

from kdaemon.http.refusals import Refusal, body_too_large, malformed

# A body may have as many bytes of chunk framing as of content, and so many more. Ours, 2026-11-28:
# chunks of a line of text pass; chunks of a byte, or endless extensions, do not.
FRAMING_BYTES_FREE = 16 * 1024

# The longest line of chunk framing, which is kept until it ends. Ours, 2026-11-28: nobody sends
# extensions; AWS's own, which sign a chunk, have 85 bytes.
LINE_BYTES_MAX = 1024

# chunk-size [ chunk-ext ] CRLF (RFC 9112, 7.1). An extension is skipped. Blanks before an extension
# are "bad whitespace" (RFC 9110, 5.6.3): they are refused here, as h11 refuses them.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*|[ \t]*)\r\n")


# Few pieces are kept as they came and joined once at the end, which is one copy, 0.1 ms. A buffer
# that grows with each piece moves to new pages each time, which costs a request of 500 records 70
# us. Ours, 2026-11-28.
JOINED_BYTES_MAX = 1024 * 1024
PIECES_MAX = 64


class Gathered:
    """Collects bytes and becomes `bytes`. A large amount does so without a copy, because a copy of
    16 MiB takes 10 ms where each page is new (one core, 2026-11-28).
    """

    __slots__ = ("_buffer", "_byte_count", "_pieces")

    def __init__(self) -> None:
        self._byte_count = 0
        self._pieces: list[bytes] = []
        self._buffer: io.BytesIO | None = None  # used when there are more than a few pieces

    def write(self, data: bytes) -> None:
        """Adds bytes at the end."""
        self._byte_count += len(data)
        if self._buffer is not None:
            self._buffer.write(data)
            return
        pieces = self._pieces
        pieces.append(data)
        if self._byte_count > JOINED_BYTES_MAX or len(pieces) > PIECES_MAX:
            self._buffer = io.BytesIO()
            self._buffer.writelines(pieces)
            pieces.clear()

    def __len__(self) -> int:
        return self._byte_count

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces) if self._buffer is None else self._buffer.getvalue()


class LengthBody:
    """A body of `byte_count` bytes."""

    __slots__ = ("data", "missing_bytes")

    def __init__(self, byte_count: int) -> None:
        self.missing_bytes = byte_count
        self.data = Gathered()

    @property
    def is_whole(self) -> bool:
        """All of its bytes have come."""
        return not self.missing_bytes

    def read(self, data: bytes, at: int, end: int) -> int | Refusal:
        """Takes the body's part of `data[at:end]`. Returns the position after it."""
        end = min(end, at + self.missing_bytes)
        self.data.write(data if end - at == len(data) else data[at:end])
        self.missing_bytes -= end - at
        return end


class _Part(Enum):
    """The part of the framing that is read next. A line of size 0 leads to LAST_LINE, and from
    there to WHOLE.
    """

    SIZE_LINE = "size line"
    CONTENT = "content"
    CONTENT_END = "content end"
    LAST_LINE = "last line"
    WHOLE = "whole"


class ChunkedBody:
    """A body in chunks, without trailers."""

    __slots__ = ("_body_bytes_max", "_framing_bytes", "_line", "_missing", "_part", "data")

    def __init__(self, body_bytes_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        self._part = _Part.SIZE_LINE
        self._line = b""  # the beginning of a line that takes more than one read
        self._missing = 0  # bytes of this chunk that are still to come
        self._framing_bytes = 0
        self.data = Gathered()

    @property
    def is_whole(self) -> bool:
        """The last chunk and the line after it have come."""
        return self._part is _Part.WHOLE

    def read(self, data: bytes, at: int, end: int) -> int | Refusal:
        """Takes the body's part of `data[at:end]`. Returns the position after it."""
        while at < end and self._part is not _Part.WHOLE:
            if self._part is _Part.CONTENT:
                stop = min(end, at + self._missing)
                self.data.write(data[at:stop])
                self._missing -= stop - at
                at = stop
                if not self._missing:
                    self._part = _Part.CONTENT_END
                continue
            stop = data.find(b"\n", at, end) + 1 or end
            if len(self._line) + stop - at > LINE_BYTES_MAX:
                return malformed("an extension of a chunk is too long")
            self._line += data[at:stop]
            self._framing_bytes += stop - at
            at = stop
            if self._framing_bytes > FRAMING_BYTES_FREE + len(self.data):
                return malformed("its chunks are too small, or their extensions too long")
            if self._line.endswith(b"\n"):
                refusal = self._take_line(self._line)
                self._line = b""
                if refusal is not None:
                    return refusal
        return at

    def _take_line(self, line: bytes) -> Refusal | None:
        if self._part is _Part.SIZE_LINE:
            found = _CHUNK_LINE.fullmatch(line)
            if found is None:
                return malformed("a chunk does not begin with its size")
            self._missing = int(found[1], 16)
            if len(self.data) + self._missing > self._body_bytes_max:
                return body_too_large(self._body_bytes_max, "this one is longer")
            self._part = _Part.CONTENT if self._missing else _Part.LAST_LINE
        elif line != b"\r\n":
            if self._part is _Part.LAST_LINE:
                return malformed("fields after a body (trailers) are not taken")
            return malformed("a chunk is longer than its size says")
        else:
            is_last = self._part is _Part.LAST_LINE
            self._part = _Part.WHOLE if is_last else _Part.SIZE_LINE
        return None

"""Bytes of an NDJSON connection on their way to being lines. Pure.

Invariant: bytes come out in the order they came in, each once, cut only after a newline (or at the
end of all input); but for a byte order mark before the first line, which is left out. Bounds itself
by nothing: the session feeds it one read at a time, and only while it holds no whole line, and
judges the size of a line that has no end.
Where it sits: inside a connection of lines (`door/intake.py`) and a body of lines
(`door/ndjson.py`).
"""

# Lines are parsed and submitted in blocks of about this size: it bounds what a frame takes of the
# engine's room and how many rejections are made before the client's reading is looked at.
# Ours, 2026-11-21: 240 records of 200 bytes, enough that a block's fixed cost vanishes.
BLOCK_BYTES = 64 * 1024

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # what some editors write before the first line


def count_lines(text: bytes) -> int:
    """About how many records lines have that are not read; no text has none. A last line may lack
    its newline.
    """
    return text.count(b"\n") + (bool(text) and not text.endswith(b"\n"))


class LineBuffer:
    """Whole lines that are not parsed yet, and the start of one that has no end yet."""

    __slots__ = ("_is_first", "_is_skipping", "_lines", "_partial", "_start")

    def __init__(self) -> None:
        self._lines = b""
        self._start = 0  # where in `_lines` what is not taken begins
        self._partial = bytearray()
        self._is_first = True  # nothing was taken yet
        self._is_skipping = False  # what comes is thrown away, until the line ends

    @property
    def has_lines(self) -> bool:
        return self._start < len(self._lines)

    @property
    def line_count(self) -> int:
        """How many whole lines are not taken yet; a last one without its newline is not counted."""
        return self._lines.count(b"\n", self._start)

    @property
    def held_bytes(self) -> int:
        """What it keeps of whole lines; those that were taken stay until the last one is."""
        return len(self._lines)

    @property
    def partial_bytes(self) -> int:
        """Size of the line that has no end yet."""
        return len(self._partial)

    def feed(self, data: bytes) -> None:
        if self._is_skipping:
            end = data.find(b"\n")
            if end < 0:
                return
            self._is_skipping = False
            data = data[end:]  # of the line that is skipped, its end: an empty line
        end = data.rfind(b"\n") + 1
        if not end:
            self._partial += data
            return
        lines = data if end == len(data) else data[:end]
        if self._partial:
            self._partial += lines  # it may be large: of it one copy is made
            lines = bytes(self._partial)
            self._partial = bytearray()
        self._append(lines)
        self._partial += data[end:]

    def feed_all(self, data: bytes) -> None:
        """All input at once; its last line may lack its newline. Nothing is copied."""
        self._append(data)

    def finish(self) -> None:
        """There is no more to come: the line that has no end ends here."""
        self._append(bytes(self._partial))
        self._partial = bytearray()

    def drop_partial(self) -> None:
        self._partial = bytearray()

    def skip_partial(self) -> None:
        """Throws away the line that has no end yet, up to its end. An empty one stands for it."""
        self._partial = bytearray()
        self._is_skipping = True

    def clear(self) -> None:
        self._lines, self._start = b"", 0
        self._partial = bytearray()

    def take_line(self) -> bytes:
        """The next line, with its newline."""
        return self._take(self._lines.find(b"\n", self._start) + 1 or len(self._lines))

    def take_block(self, lines_max: int = BLOCK_BYTES) -> bytes:
        """The next whole lines: BLOCK_BYTES of them, or one that is longer; `lines_max` at most."""
        start, lines = self._start, self._lines
        end = len(lines)
        if end - start > BLOCK_BYTES:
            end = lines.rfind(b"\n", start, start + BLOCK_BYTES) + 1
            end = end or lines.find(b"\n", start + BLOCK_BYTES) + 1 or len(lines)
        if end - start > lines_max and lines.count(b"\n", start, end) > lines_max:
            end -= len(lines[start:end].split(b"\n", lines_max)[-1])
        return self._take(end)

    def _append(self, lines: bytes) -> None:
        self._lines = self._lines[self._start :] + lines if self.has_lines else lines
        self._start = 0

    def _take(self, end: int) -> bytes:
        taken = self._lines[self._start : end]
        if self._is_first:
            self._is_first = False
            taken = taken.removeprefix(BYTE_ORDER_MARK)
        self._start = end
        if not self.has_lines:
            self._lines, self._start = b"", 0
        return taken

"""Bytes of an NDJSON connection, until they are whole lines. Pure.

Invariant: bytes come out in the order in which they came in, each once, and are cut only after a
newline (or at the end of all input). Only a byte order mark before the first line is left out. The
buffer has no bound of its own: the session feeds it one read at a time, only while it has no whole
line, and checks the size of the unfinished line.
Where it sits: inside a connection of lines (`door/intake.py`) and a body of lines
(`door/ndjson.py`).
"""

# Lines are parsed and submitted in blocks of about this size. The size bounds how much of the
# engine's room a frame takes, and how many rejections are made before the client is checked for
# reading them. Ours, 2026-11-21: 240 records of 200 bytes, so that a block's fixed cost vanishes.
BLOCK_BYTES = 64 * 1024

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors write it before the first line


def count_lines(text: bytes) -> int:
    """About how many records unread lines have; no text has none. The last line may lack its
    newline.
    """
    return text.count(b"\n") + (bool(text) and not text.endswith(b"\n"))


class LineBuffer:
    """Whole lines that are not yet parsed, and the beginning of an unfinished line."""

    __slots__ = ("_is_first", "_is_skipping", "_lines", "_partial", "_start")

    def __init__(self) -> None:
        self._lines = b""
        self._start = 0  # where in `_lines` the untaken part begins
        self._partial = bytearray()
        self._is_first = True  # no line was taken yet
        self._is_skipping = False  # what comes is thrown away until the line ends

    @property
    def has_lines(self) -> bool:
        """Some whole lines are not taken yet."""
        return self._start < len(self._lines)

    @property
    def line_count(self) -> int:
        """How many whole lines are not yet taken; a last one without newline is not counted."""
        return self._lines.count(b"\n", self._start)

    @property
    def whole_bytes(self) -> int:
        """The memory of whole lines; taken lines stay in memory until the last one is taken."""
        return len(self._lines)

    @property
    def partial_bytes(self) -> int:
        """The size of the unfinished line."""
        return len(self._partial)

    def feed(self, data: bytes) -> None:
        """Adds what came: whole lines can be taken, an unfinished one waits for its end. The rest
        of a line that is skipped leaves an empty line in its place.
        """
        if self._is_skipping:
            end = data.find(b"\n")
            if end < 0:
                return
            self._is_skipping = False
            data = data[end:]  # the end of the skipped line: an empty line
        end = data.rfind(b"\n") + 1
        if not end:
            self._partial += data
            return
        lines = data if end == len(data) else data[:end]
        if self._partial:
            self._partial += lines  # it may be large: it is copied only once
            lines = bytes(self._partial)
            self._partial = bytearray()
        self._append(lines)
        self._partial += data[end:]

    def feed_all(self, data: bytes) -> None:
        """Takes all input at once; its last line may lack its newline. Nothing is copied."""
        self._append(data)

    def finish(self) -> None:
        """No more input comes: the unfinished line ends here."""
        self._append(bytes(self._partial))
        self._partial = bytearray()

    def drop_partial(self) -> None:
        """Throws away what has come of the unfinished line."""
        self._partial = bytearray()

    def skip_partial(self) -> None:
        """Throws the unfinished line away, up to its end. An empty line stands in its place."""
        self._partial = bytearray()
        self._is_skipping = True

    def clear(self) -> None:
        """Throws everything away."""
        self._lines, self._start = b"", 0
        self._partial = bytearray()

    def take_line(self) -> bytes:
        """The next line, with its newline."""
        return self._take(self._lines.find(b"\n", self._start) + 1 or len(self._lines))

    def take_block(self, lines_max: int = BLOCK_BYTES) -> bytes:
        """The next whole lines: up to BLOCK_BYTES, or one longer line; `lines_max` lines at
        most.
        """
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

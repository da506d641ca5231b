"""How the lines of a body or a connection are read: as envelopes, or raw. Pure.

The form is chosen before the first line is read, and stays for all lines. Knows how much memory
each form needs; the door chooses the form (`door/line_forms.py`).
Where it sits: `lines.py` and `raw_lines.py` are the two forms; ndjson.py and intake.py read with
one.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kdaemon.base.steps import Steps
from kdaemon.wire.line_buffer import BLOCK_BYTES
from kdaemon.wire.line_shapes import Parsed
from kdaemon.wire.lines import LINE_BYTES_MAX, footprint_bytes_bound, read_lines
from kdaemon.wire.rejections import Problems


@dataclass(frozen=True, slots=True)
class LineForm:
    """`read`: is given whole lines, the number of the first one, the stream of lines that name
    none, and the problems so far, as `lines.read_lines`. `footprint_bytes_bound`: the memory that
    lines can take as records, by their bytes and their newlines. `block_lines_max`: lines of a
    block, which is one frame. `line_bytes_max`: a longer line is refused before it is whole.
    `is_raw`: such a line is skipped, and the rest goes on. `streams_max`: how many streams the
    lines may go to without naming them in an envelope; 1: only the stream of their body or
    connection.
    """

    read: Callable[[bytes, int, str | None, Problems | None], Steps[Parsed]]
    footprint_bytes_bound: Callable[[int, int], int]
    block_lines_max: int = BLOCK_BYTES
    line_bytes_max: int = LINE_BYTES_MAX
    is_raw: bool = False
    streams_max: int = 1

    @property
    def is_routed(self) -> bool:
        """A field of each line tells its stream."""
        return self.streams_max > 1

    def frames_max(self, byte_count: int, line_count: int) -> int:
        """How many frames, beside the first, such lines may become. Two blocks in a row have
        together more than BLOCK_BYTES, or one of them has all the lines that it may have.
        """
        more_blocks = 2 * byte_count // BLOCK_BYTES + line_count // self.block_lines_max
        return min((1 + more_blocks) * self.streams_max - 1, max(more_blocks, line_count))


ENVELOPE = LineForm(read_lines, footprint_bytes_bound)

"""Makes checked records into a frame: what it costs in memory, and when its client stops waiting.

Pure. Memory is measured as what CPython holds for a record between admission and settlement, so
that the resident size follows `memory_bytes_max`; tests/process/test_memory.py checks that.
"""

from collections.abc import Callable
from typing import Final

from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.record import Record

RECORD_FOOTPRINT_BYTES: Final = 480
"""Bytes beside data and key: Record 40, heads of bytes and str 82, four list slots and a size 60,
one result with its two texts 270, the rest is the allocator's rounding (CPython 3.11, 64 bit,
2026-11-21). Growth of VmRSS while the service hangs, with 500 records a frame: 223-350 a record,
still without results."""

FRAME_FOOTPRINT_BYTES: Final = 1_500
"""Bytes: the frame, the heads of its lists, its runs, the waiting request (same source). Growth of
VmRSS with one record a frame, both constants together: 1,970-2,150 while the client waits for
delivery (800-900 when it was told `accepted`)."""


def footprint_bytes(record_count: int, byte_count: int) -> int:
    """Memory of records with `byte_count` of data and partition keys, without their frame's."""
    return byte_count + RECORD_FOOTPRINT_BYTES * record_count


def frame_footprint_bytes(record_count: int, byte_count: int) -> int:
    """Memory of records with their frame's: what one frame takes from a budget."""
    return footprint_bytes(record_count, byte_count) + FRAME_FOOTPRINT_BYTES


def make_frame(
    records: list[Record],
    sizes: list[int],
    acknowledge: Acknowledge,
    on_settled: Callable[[Frame], object] | None,
    deadline_ns: int | None,
    client: int = 0,
) -> Frame:
    """A frame of checked records. `sizes`: data + partition key of each, in bytes, same order.

    `deadline_ns`: when its client stops waiting; None: no client waits, or it waits for ever.
    `client`: as in `Frame`.
    """
    frame = Frame(records, sizes, acknowledge, on_settled)
    # As `frame_footprint_bytes`, but without calls: this runs for every request.
    frame.footprint_bytes = (
        frame.byte_count + RECORD_FOOTPRINT_BYTES * len(records) + FRAME_FOOTPRINT_BYTES
    )
    frame.deadline_ns = deadline_ns
    frame.client = client
    return frame

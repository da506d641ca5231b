"""From checked records to a frame: what it will cost in memory, and until when its client waits.

Pure. The measure of memory is what CPython holds for a record between admission and settlement,
so that the resident size follows `memory_bytes_max`; tests/process/test_memory.py holds it to that.
"""

from collections.abc import Callable
from typing import Final

from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.record import Record

RECORD_HELD_BYTES: Final = 480
"""Bytes beside data and key: Record 40, bytes and str heads 82, four list slots and a size 60, one
result with its two texts 270, the rest allocator rounding (CPython 3.11, 64 bit, 2026-11-21).
Growth of VmRSS while the service hangs, 500 to a frame: 223-350 a record, and no result yet."""

FRAME_HELD_BYTES: Final = 1_500
"""Bytes: the frame, its lists' heads, its runs, the request that waits (same source). Growth of
VmRSS, one record to a frame, both constants together: 1,970-2,150 while the client waits for
delivery (800-900 when it was told `accepted`)."""


def held_bytes(record_count: int, byte_count: int) -> int:
    """Memory of records with `byte_count` of data and partition keys, but for their frame's own."""
    return byte_count + RECORD_HELD_BYTES * record_count


def frame_held_bytes(record_count: int, byte_count: int) -> int:
    """The same with their frame's own: what is taken of a budget for one frame."""
    return held_bytes(record_count, byte_count) + FRAME_HELD_BYTES


def make_frame(
    records: list[Record],
    sizes: list[int],
    acknowledge: Acknowledge,
    on_settled: Callable[[Frame], object] | None,
    deadline_ns: int | None,
    client: int = 0,
) -> Frame:
    """A frame of checked records. `sizes`: data + partition key of each, in bytes, same order.

    `deadline_ns`: when its client stops waiting; None if nobody waits or it waits for ever.
    `client`: as `Frame` has it.
    """
    frame = Frame(records, sizes, acknowledge, on_settled)
    # As `frame_held_bytes` says, without the calls: this is done for every request.
    frame.held_bytes = frame.byte_count + RECORD_HELD_BYTES * len(records) + FRAME_HELD_BYTES
    frame.deadline_ns = deadline_ns
    frame.client = client
    return frame

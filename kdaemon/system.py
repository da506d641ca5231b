"""The real clock and the real dice: the only importer of `time` and `random`. And the allocator."""

import ctypes
import random
import time

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
MMAP_THRESHOLD_BYTES = 1024 * 1024  # above a body of 500 records of 1 KiB; ours, 2026-11-21
TRIM_THRESHOLD_BYTES = 4 * 1024 * 1024  # heap kept at its top, so that it is not cut and grown anew


class SystemClock:
    """Monotonic nanoseconds, and the wall clock for what people read."""

    now_ns = staticmethod(time.monotonic_ns)
    wall_seconds = staticmethod(time.time)


class SystemDice:
    """Seeded by the operating system."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - jitter, not secrets

    def random(self) -> float:
        return self._random.random()


def bound_malloc() -> None:
    """Has buffers of a MiB and more given back to the system when they are freed.

    By itself glibc learns to take them from the heap, where records that live longer settle between
    them: 64 MiB of records of 100 KiB then grew the process by 82-126 MiB, this way by 68.4 (Python
    3.11, 2026-11-21). Another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)

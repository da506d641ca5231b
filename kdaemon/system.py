"""The real clock and the real dice: the only importer of `time` and `random`."""

import random
import time


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

"""A loop whose time passes at once, and that counts how often it is woken."""

import asyncio
import selectors


class CountingSelector(selectors.DefaultSelector):
    """Waits for nothing while `is_counting`: time passes to the next timer instead, and that is
    one waking. `passed_s`: how much has passed so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_counting = False
        self.passed_s = 0.0
        self.wakings: list[float] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self.is_counting or timeout == 0:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen"
            self.passed_s += max(timeout, 0.001)  # epoll waits for whole milliseconds
        self.wakings.append(self.passed_s)
        return ready


class CountingLoop(asyncio.SelectorEventLoop):
    """From `begin` to `end` its time passes by its timers alone, and at once."""

    def __init__(self) -> None:
        self.counting = CountingSelector()
        self._frozen_s: float | None = None
        super().__init__(self.counting)

    def time(self) -> float:
        now_s = super().time() if self._frozen_s is None else self._frozen_s
        return now_s + self.counting.passed_s

    def begin(self) -> None:
        self._frozen_s = super().time()
        self.counting.is_counting = True

    def end(self) -> None:
        self._frozen_s = None
        self.counting.is_counting = False


class LoopClock:
    """A daemon's clock: it passes as its loop's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now_ns(self) -> int:
        return int(self._loop.time() * 1e9)

    def wall_seconds(self) -> float:
        return 1_800_000_000 + self._loop.time()

"""Answers of the last moment, for requests that ask the same.

Knows keys, answers and their size; must not know what was asked, or whether an answer may be given
to others (`relay.py` keeps successes of operations that only look).
Invariant: no answer older than KEPT_S is given. At most KEPT_MAX answers and KEPT_BYTES_MAX bytes
are kept. Their memory is taken from the daemon's, and is given back by a timer.
"""

import asyncio
from collections import OrderedDict
from typing import Final

from kdaemon.base.limits import KIB, MIB
from kdaemon.base.memory import ByteBudget
from kdaemon.send.relayed import Relayed

# How long an answer is given to others. Ours, 2026-11-28: clients poll every second.
KEPT_S: Final = 1.0
KEPT_BYTES_MAX: Final = 4 * MIB  # of all kept answers; ours
KEPT_MAX: Final = 256  # answers; ours
ENTRY_BYTES: Final = KIB  # of an answer beside its body; ours


class Kept:
    """The kept answers, the oldest first."""

    def __init__(self, memory: ByteBudget) -> None:
        self._memory = memory
        self._answers: OrderedDict[bytes, tuple[float, Relayed]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None  # runs while an answer is kept
        self.byte_count = 0

    def find(self, key: bytes) -> Relayed | None:
        """The kept answer, if it is not too old."""
        kept = self._answers.get(key)
        if kept is None or kept[0] <= asyncio.get_running_loop().time():
            return None
        return kept[1]

    def keep(self, key: bytes, answer: Relayed) -> None:
        """Keeps an answer, unless it is large or there is no memory. Old answers make room."""
        byte_count = len(answer.body) + ENTRY_BYTES
        if byte_count > KEPT_BYTES_MAX // 4:
            return
        while self._answers and (
            self.byte_count + byte_count > KEPT_BYTES_MAX or len(self._answers) >= KEPT_MAX
        ):
            self._drop_oldest()
        if key in self._answers or not self._memory.take(byte_count):
            return
        loop = asyncio.get_running_loop()
        self._answers[key] = loop.time() + KEPT_S, answer
        self.byte_count += byte_count
        if self._timer is None:
            self._timer = loop.call_later(KEPT_S, self._drop_old)

    def close(self) -> None:
        """Keeps nothing any more; all memory is given back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._answers:
            self._drop_oldest()

    def _drop_old(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._answers:
            until_s = next(iter(self._answers.values()))[0]
            if until_s > loop.time():
                self._timer = loop.call_at(until_s, self._drop_old)
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (_, answer) = self._answers.popitem(last=False)
        byte_count = len(answer.body) + ENTRY_BYTES
        self.byte_count -= byte_count
        self._memory.give(byte_count)

"""What a life of the daemon looks like from outside: memory, open files, how soon it answers.

Samples one process until it is cancelled. Knows a pid and the admin listener; no load and no
service. Invariant: what was asked while the process was halted counts for nothing.
Where it sits: soak.py watches each life, and tells the figures at the end (trend.py).
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.lives import Lives
from tests.kit.daemon import Metrics, get
from tests.kit.linux import memory_bytes

MIB = 1024 * 1024
PROBE_S, SCRAPE_S, STATUS_S = 0.25, 2.0, 30.0
YOUNG_S = 10.0  # the age at which lives are compared


@dataclass(frozen=True, slots=True)
class Sample:
    """At one scrape: seconds into the life, bytes, and counts of open files."""

    at_s: float
    rss: int
    held: int  # what the daemon itself counts, of rss
    files: int  # open descriptors that are no sockets
    sockets: int


@dataclass
class Seen:
    """One life: how it began and ended, in a word."""

    begun: str
    ended: str = ""
    samples: list[Sample] = field(default_factory=list)
    probes_s: list[float] = field(default_factory=list)
    scrapes_s: list[float] = field(default_factory=list)
    log_lines: int = 0

    def young_mib(self) -> float | None:
        """Resident memory at the age at which lives are compared; None: it ended before."""
        old = (each.rss / MIB for each in self.samples if each.at_s >= YOUNG_S)
        return next(old, None)

    def floor(self, warm_s: float, figure: Callable[[Sample], float]) -> list[tuple[float, float]]:
        """A figure of the samples after it is warm."""
        return [(each.at_s, figure(each)) for each in self.samples if each.at_s >= warm_s]


class Watch:
    """Of the process that is current now."""

    def __init__(self, lives: Lives, seen: Seen, spool: Path) -> None:
        self.seen = seen
        self.spool_bytes_most = 0
        self._lives = lives
        self._pid = lives.life.pid
        self._admin = f"http://127.0.0.1:{lives.life.ports['admin']}"
        self._spool = spool
        self._began_s = time.monotonic()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Before its process ends. Raises what went wrong."""
        self.seen.log_lines = self._lives.life.line_count
        if self._task.done():
            self._task.result()
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scrape())
            group.create_task(self._probe())
            group.create_task(self._look_at_pages())

    async def _ask(self, path: str) -> tuple[float, str] | None:
        """Seconds until the answer, and its text; None: the process was halted meanwhile."""
        lives = self._lives
        halts, was_halted = lives.halts, lives.is_halted
        asked_s = time.monotonic()
        status, text = await asyncio.to_thread(get, self._admin + path)
        took_s = time.monotonic() - asked_s
        if was_halted or lives.halts != halts:
            return None
        assert status == 200, f"{path} answers {status}: {text}"
        return took_s, text

    async def _scrape(self) -> None:
        while True:
            answer = await self._ask("/metrics")
            if answer is not None:
                self.seen.scrapes_s.append(answer[0])
                held = Metrics(answer[1]).total("kdaemon_memory_bytes")
                kinds = [each.startswith("socket:") for each in open_files(self._pid)]
                sockets = sum(kinds)
                at_s = time.monotonic() - self._began_s
                files = len(kinds) - sockets
                sample = Sample(at_s, memory_bytes(self._pid, "VmRSS"), held, files, sockets)
                self.seen.samples.append(sample)
                sizes = [path.stat().st_size for path in self._spool.glob("*") if path.is_file()]
                self.spool_bytes_most = max(self.spool_bytes_most, sum(sizes))
            await asyncio.sleep(SCRAPE_S)

    async def _probe(self) -> None:
        while True:
            answer = await self._ask("/livez")
            if answer is not None:
                self.seen.probes_s.append(answer[0])
            await asyncio.sleep(PROBE_S)

    async def _look_at_pages(self) -> None:
        while True:
            for path in ("/statusz", "/configz"):
                await self._ask(path)
            await asyncio.sleep(STATUS_S)


def open_files(pid: int) -> list[str]:
    """What each descriptor of the process is."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(each))
        except OSError:  # it was closed meanwhile
            continue
    return found

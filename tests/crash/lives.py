"""The daemon of a soak, one process after the other: begun, replaced, killed, stopped for a while.

Two manners: behind sockets that systemd keeps (`ACTIVATED`), where nobody is ever refused, and on
sockets of its own (`OWN`), where the next one takes them over from the last. Notes each end of a
process, for the recount: what may be repeated after it. Invariant: one process is current, and
is ready whenever a method returns.
Where it sits: soak.py says when; process.py is one life.
"""

import asyncio
import signal
import socket
import time
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from tests.crash.clients import Doors
from tests.crash.process import Life
from tests.crash.verdict import Kill
from tests.kit.systemd import Passing, passing

STOP_WINDOW_S = 0.5
"""Before an orderly end: an answer to a call that the end of the drain cut off is not heard."""

HALT_WINDOW_S = 0.25  # before a halt: the answer is not read, and its time is over afterwards
UNDELIVERED = 1  # the exit code of a drain that came to its deadline


class Manner(Enum):
    ACTIVATED = "socket activation"
    OWN = "takeover"


class Lives:
    """`directory`: with the spool and the Unix socket; `variables`: of each process."""

    def __init__(self, directory: Path, variables: Mapping[str, str], doors: Doors) -> None:
        self.manner = Manner.ACTIVATED
        self.kills: list[Kill] = []
        self.counts: Counter[str] = Counter()  # of begins and ends, by what they were
        self.starts_s: list[float] = []
        self.defects: list[str] = []
        self.is_halted = False
        self.halts = 0
        self.config = directory / "kdaemon.toml"
        self._variables = variables
        self._doors = doors
        self._socks: dict[str, socket.socket] = {}
        self._how: Passing | None = None
        self._life: Life | None = None

    @property
    def life(self) -> Life:
        """The process of now."""
        assert self._life is not None
        return self._life

    def set_manner(self, manner: Manner) -> str:
        """For what is begun next, while nothing runs; what `listen.http` is to be."""
        assert self._life is None
        self.manner = manner
        self._close_socks()
        if manner is Manner.OWN:
            return "127.0.0.1:0"
        unix = socket.socket(socket.AF_UNIX)
        Path(self._doors.unix_path).unlink(missing_ok=True)
        unix.bind(self._doors.unix_path)
        unix.listen(128)
        tcp = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._socks = {"unix": unix, "http": tcp}
        self._how = passing(self._socks)
        return f"127.0.0.1:{tcp.getsockname()[1]}"

    async def begin(self) -> None:
        """A process that finds the spool, and the sockets of systemd if it keeps some."""
        assert self._life is None
        self._life = await self._start()
        self.counts["begun"] += 1

    async def replace(self) -> None:
        """Another one in its place, in order: the next one takes the sockets over, or systemd keeps
        them.
        """
        old = self.life
        if self.manner is Manner.OWN:
            self._life = await self._start("--takeover")
            await self._has_ended(old)
        else:
            await self.stop()
            await self.begin()
        self.counts[self.manner.value] += 1

    async def kill(self) -> None:
        """SIGKILL, and another one."""
        old, self._life = self.life, None
        old.kill()
        assert await old.end() == -signal.SIGKILL, old.tell("ended by itself")
        self.kills.append(Kill("random", time.monotonic()))
        self.defects += old.defects
        self.counts["SIGKILL"] += 1
        await self.begin()

    async def stop(self) -> None:
        """In order, and nothing in its place."""
        old, self._life = self.life, None
        old.terminate()
        await self._has_ended(old)

    async def halt(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after this time."""
        life = self.life
        self.is_halted = True
        self.halts += 1
        self.kills.append(Kill("halted", time.monotonic(), window_s=HALT_WINDOW_S, is_end=False))
        life.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            life.signal(signal.SIGCONT)
            self.kills.append(Kill("resumed", time.monotonic(), window_s=0.0, is_end=False))
            self.is_halted = False
        self.counts["SIGSTOP"] += 1

    async def aclose(self) -> None:
        """Whatever state it is in, nothing is left."""
        if self._life is not None:
            await self._life.aclose()
        self._close_socks()

    async def _start(self, *flags: str) -> Life:
        life = await Life.start(
            self.config, self._variables, is_from_scratch=True, flags=flags, how=self._how
        )
        try:
            assert await life.wait_ready(), life.tell("ended at its start")
        except BaseException:
            await life.aclose()
            raise
        self.starts_s.append(life.ready_s)
        self._doors.http_port = life.ports["http"]
        return life

    async def _has_ended(self, old: Life) -> None:
        code = await old.end()
        assert code in {0, UNDELIVERED}, old.tell(f"ended with {code}")
        self.kills.append(Kill("stopped", time.monotonic(), window_s=STOP_WINDOW_S))
        self.defects += old.defects

    def _close_socks(self) -> None:
        for sock in self._socks.values():
            sock.close()
        self._socks, self._how = {}, None

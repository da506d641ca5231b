"""This machine as the bench needs it: cores, another process's CPU and memory, a description.

Linux only: it pins processes and reads /proc. Knows nothing of what it measures.
"""

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kit.linux import memory_bytes


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores each process may use. `is_separated` is false on a machine with one core."""

    under_test: frozenset[int]
    sink: frozenset[int]
    load: frozenset[int]

    @property
    def is_separated(self) -> bool:
        return self.under_test.isdisjoint(self.sink | self.load)


def choose_cores(allowed: set[int]) -> Cores:
    """The first core is for the process under test; sink and load share or split the others."""
    first, *rest = sorted(allowed)
    under_test = frozenset({first})
    if not rest:
        return Cores(under_test, under_test, under_test)
    return Cores(under_test, frozenset({rest[0]}), frozenset({rest[-1]}))


@contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """Children started inside inherit `cores` from their first instruction."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def burning(count: int, cores: frozenset[int]) -> Iterator[None]:
    """So many processes that never rest take their part of `cores`."""
    with ExitStack() as stack:
        with pinned(cores):
            for _ in range(count):
                burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                stack.callback(burner.wait)
                stack.callback(burner.kill)
        yield


def settled_rss_bytes(pid: int, quiet_s: float = 3.0, deadline_s: float = 15.0) -> int:
    """`VmRSS` once it kept still (within 64 KiB) for `quiet_s`, or as it is at the deadline. What
    a daemon's start has freed goes back to the system two seconds later.
    """
    deadline = time.monotonic() + deadline_s
    reference, since = memory_bytes(pid, "VmRSS"), time.monotonic()
    while time.monotonic() < min(since + quiet_s, deadline):
        time.sleep(0.05)
        now = memory_bytes(pid, "VmRSS")
        if abs(now - reference) > 65_536:
            reference, since = now, time.monotonic()
    return memory_bytes(pid, "VmRSS")


def free_port() -> int:
    """A loopback port that nobody has now (it may be taken before use; nothing here retries)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def describe() -> dict[str, str]:
    """CPU, cores, Python and the versions that matter to a figure."""
    packages = ("aiobotocore", "aiohttp", "botocore", "boto3", "httptools", "msgspec", "uvloop")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return {
        "CPU": _cpu_model(),
        "Cores": str(len(os.sched_getaffinity(0))),
        "System": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Packages": versions,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"

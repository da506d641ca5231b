"""A process that works on command: the load generators and the peers.

The child prints `ready` once everything is built, then reads `run N` from its standard input and
answers each with one line of JSON; end of input ends it. So the harness decides when the clock
starts, warms up and measures in one process, and no figure holds a start-up by accident.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from bench.host import pinned
from tests.kit.linux import cpu_seconds, memory_bytes

Result = dict[str, Any]


def serve_commands(run: Callable[[int], Result]) -> None:
    """The child's side. `run(N)` carries N records and returns what it saw."""
    print("ready", flush=True)
    for line in sys.stdin:
        command, _, count = line.strip().partition(" ")
        if command == "run":
            print(json.dumps(run(int(count))), flush=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured run: `result` as the worker told it, and the CPU that process used meanwhile."""

    result: Result
    cpu_s: float


class Worker:
    """The harness's side: start it, `run(N)`, close it. Its standard error is the harness's own."""

    def __init__(
        self,
        arguments: list[str],
        cores: frozenset[int],
        env: dict[str, str],
        program: tuple[str, ...] = (sys.executable, "-m"),
    ) -> None:
        """`program`: what the arguments are for, if not this Python's modules."""
        with pinned(cores):
            self._process = subprocess.Popen(
                [*program, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **env},
            )
        self._name = " ".join(arguments[:2])
        self.pid = self._process.pid
        if self._read() != "ready":
            self.close()
            message = f"{self._name} did not start; its error is above"
            raise RuntimeError(message)
        self.startup_cpu_s = cpu_seconds(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, record_count: int) -> None:
        """Has it carry `record_count` records, and does not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"run {record_count}\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """Ends the child in the middle of what it does."""
        self._process.kill()

    def run(self, record_count: int) -> Measured:
        """Carries `record_count` records; RuntimeError if the worker died on the way."""
        before = cpu_seconds(self.pid)
        self.begin(record_count)
        line = self._read()
        if not line:
            message = f"{self._name} ended in the middle of a run; its error is above"
            raise RuntimeError(message)
        return Measured(json.loads(line), cpu_seconds(self.pid) - before)

    def peak_rss_bytes(self) -> int:
        return memory_bytes(self.pid, "VmHWM")

    def close(self) -> None:
        """Ends the child (end of input, then kill after 10 s) and frees its pipes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

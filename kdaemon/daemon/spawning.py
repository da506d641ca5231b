"""Starts a process that runs this very program, and tells of its end.

About: the command line of such a process, which descriptors it gets, and how its end is heard. The
process is begun anew and not forked: this one has threads and a loop by then. It finds what this
one has imported at the same places, whatever its directory of now has.
Invariant: a process that ended is waited for; none is left behind as a zombie.
Where it sits: member.py -> here -> the system.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Variables by which the service manager knows its process: another one must not speak for it.
OF_SERVICE_MANAGER = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS")
_LOOK_S = 0.05  # how often an end is looked for where the system cannot tell of it; ours

_MAIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1));"
    " from kdaemon.__main__ import main; main()"
)


class Process:
    """One that runs, until `on_end` is told its exit code: below 0, the signal that ended it."""

    def __init__(
        self, arguments: Sequence[str], descriptors: Sequence[int], on_end: Callable[[int], object]
    ) -> None:
        """`arguments`: of `kdaemon`. `descriptors`: it has them under the same numbers. OSError."""
        places = [str(Path(each or ".").absolute()) for each in sys.path]
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._process = subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-P", "-c", _MAIN, json.dumps(places), *arguments],
            stdin=subprocess.DEVNULL,
            env={name: each for name, each in os.environ.items() if name not in OF_SERVICE_MANAGER},
            pass_fds=tuple(descriptors),
        )
        self.pid = self._process.pid
        self._descriptor = -1
        try:
            self._descriptor = os.pidfd_open(self.pid)
        except OSError:  # a container that knows no such call
            self._loop.call_later(_LOOK_S, self._look)
        else:
            self._loop.add_reader(self._descriptor, self._ended)

    def kill(self) -> None:
        """At once. It is told of as any end."""
        self._process.kill()

    def _look(self) -> None:
        if self._process.poll() is None:
            self._loop.call_later(_LOOK_S, self._look)
        else:
            self._on_end(self._process.returncode)

    def _ended(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._on_end(self._process.wait())

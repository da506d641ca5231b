"""Starts a process that runs this very program, and tells of its end.

About: the command line of such a process, the descriptors that it gets, and how its end is noticed.
The process is started anew and not forked: this one has threads and a loop by then. The new process
imports from the same places as this one, whatever stands in its working directory.
Invariant: every process that ended is waited for; none is left behind as a zombie.
Where it sits: member.py -> here -> the system.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Variables that the service manager sets for its own process: no other may speak to it.
OF_SERVICE_MANAGER = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS")
_LOOK_S = 0.05  # between two looks for an end, where the system cannot tell of it; ours

_MAIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1));"
    " from kdaemon.__main__ import main; main()"
)


class Process:
    """A process that runs. At its end `on_end` is given the exit code: below 0, minus the
    signal.
    """

    def __init__(
        self, arguments: Sequence[str], descriptors: Sequence[int], on_end: Callable[[int], object]
    ) -> None:
        """`arguments`: of `kdaemon`. `descriptors`: the process has them under the same numbers.
        Raises OSError.
        """
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
        except OSError:  # some containers have no pidfd_open
            self._loop.call_later(_LOOK_S, self._look)
        else:
            self._loop.add_reader(self._descriptor, self._ended)

    def kill(self) -> None:
        """Ends the process at once; `on_end` is told as for any end."""
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

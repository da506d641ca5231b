"""Plays systemd: passes listening sockets as descriptors from 3 on, and hears notifications."""

import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.kit.daemon import BEFORE, READY, Daemon, environment
from tests.kit.patience import PATIENCE_S

# In a process before kdaemon: its own pid in LISTEN_PID, and the sockets where systemd puts them.
_PLACE = """
import fcntl, os
high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 200) for each in {given}]
for number, each in enumerate(high):
    os.dup2(each, 3 + number)
    os.close(each)
os.closerange(3 + len(high), 200)
os.environ["LISTEN_PID"] = str(os.getpid())
"""


@dataclass(frozen=True, slots=True)
class Passing:
    """How a process of the program BEFORE is started that finds sockets where systemd puts them:
    `variables` is told, `descriptors` are inherited.
    """

    variables: dict[str, str]
    descriptors: tuple[int, ...]


def passing(socks: Mapping[str, socket.socket]) -> Passing:
    """Of these sockets, by what systemd calls them."""
    descriptors = tuple(each.fileno() for each in socks.values())
    variables = {
        "LISTEN_FDS": str(len(socks)),
        "LISTEN_FDNAMES": ":".join(socks),
        "KIT_BEFORE": _PLACE.format(given=descriptors),
    }
    return Passing(variables, descriptors)


class Activated:
    """A `kdaemon run` behind sockets, by what systemd calls them."""

    def __init__(self, config: Path, socks: Mapping[str, socket.socket], **more: str) -> None:
        """`more`: of its environment."""
        self._passing = passing(socks)
        self._arguments = ["run", "--config", str(config)]
        self._environment = environment(**self._passing.variables, **more)

    def without(self, *names: str) -> None:
        """Takes these variables out of its environment."""
        for name in names:
            del self._environment[name]

    def start(self) -> Daemon:
        passed = self._passing.descriptors
        return Daemon(self._arguments, self._environment, BEFORE, passed=passed)

    @contextmanager
    def started(self) -> Iterator[Daemon]:
        """Until it is ready."""
        daemon = self.start()
        try:
            daemon.wait_log(READY)
            yield daemon
        finally:
            daemon.close()


class Manager:
    """The socket that NOTIFY_SOCKET names."""

    def __init__(self, path: Path | str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(PATIENCE_S)
        self._sock.bind(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def wait(self, assignment: str) -> str:
        """The next datagram that has this line."""
        while assignment not in (said := self._hear()).split("\n"):
            pass
        return said

    def wait_text(self, text: str) -> str:
        """The next datagram in which this stands."""
        while text not in (said := self._hear()):
            pass
        return said

    def received(self) -> list[str]:
        """The assignments of the next datagram."""
        return self._hear().split("\n")

    def is_silent(self) -> bool:
        """Whether none is there."""
        return not select.select([self._sock], [], [], 0)[0]

    def _hear(self) -> str:
        return self._sock.recv(4096).decode()

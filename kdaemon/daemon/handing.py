"""Connections of listeners that several workers share: one process accepts, and hands them on.

About: the supervisor's listeners, which give each connection to the worker that has the fewest, and
a worker's listeners, which bind nothing and serve the connections that they are given.
Why not one socket for all workers: where several processes wait on one socket, the process that is
woken first gets most connections, and connections stay for hours. Why not a socket a worker
(SO_REUSEPORT): the kernel chooses by a hash, so 8 connections fall 4 to 4 in only 27 cases of 100,
and connections that wait at a worker that dies are reset; systemd passes only one socket, and a
Unix socket has no SO_REUSEPORT.
Invariants: no connection is given to a worker that is not ready while another worker is; if no
worker can take a connection, it waits, and all later ones wait behind it in the kernel's queue.
Where it sits: supervisor.py and worker.py -> here -> listeners.py, http/accepting.py.
"""

import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from kdaemon.config.listen import ListenConfig
from kdaemon.config.values import Address
from kdaemon.daemon.listeners import Listeners
from kdaemon.http.hub import Hub
from kdaemon.http.opening import Lines
from kdaemon.http.request import HttpHandler
from kdaemon.http.server import ConnectionServer

if TYPE_CHECKING:
    from kdaemon.http.passed import Inherited


class Taker(Protocol):
    """A worker that may be given connections."""

    @property
    def is_ready(self) -> bool:
        """Whether clients should come to this worker. If no worker is ready, any worker is used."""
        ...

    @property
    def load(self) -> int:
        """Connections of this worker, with those that are on their way to it."""
        ...

    def hand(self, name: str, connection: socket.socket) -> bool:
        """As `Channel.hand`."""
        ...


class Handing:
    """Chooses the worker for each connection. `takers`: those that can take one."""

    def __init__(self, takers: Callable[[], Sequence[Taker]]) -> None:
        self._takers = takers
        self._turn = 0

    def hand(self, name: str, connection: socket.socket) -> bool:
        """Hands the connection to the best worker that takes it. False: none takes it now."""
        return any(taker.hand(name, connection) for taker in self._in_order())

    def _in_order(self) -> Iterable[Taker]:
        """The best worker first. Equal ones come first in turn."""
        takers = self._takers()
        self._turn += 1
        start = self._turn % max(1, len(takers))
        turned = [*takers[start:], *takers[:start]]
        return sorted(turned, key=lambda taker: (not taker.is_ready, taker.load))


class SharedListeners(Listeners):
    """The supervisor's listeners. It serves the admin pages itself."""

    def __init__(
        self,
        listen: ListenConfig,
        inherited: "Inherited | None",
        handing: Handing,
        open_count: Callable[[], int],
    ) -> None:
        """`open_count`: connections that all workers have."""
        super().__init__(listen, inherited)
        self._handing = handing
        self._open_count = open_count

    def _taker(self, name: str) -> Callable[[socket.socket], bool] | None:
        return None if name == "admin" else partial(self._handing.hand, name)

    def resume(self) -> None:
        """A worker may take connections again."""
        for door in self.doors:
            door.resume()

    @property
    def has_clients(self) -> bool:
        return super().has_clients or self._open_count() > 0


class HandedListeners(Listeners):
    """A worker's listeners: the supervisor gives them their connections."""

    async def listen(
        self,
        name: str,
        _address: Address,
        handler: HttpHandler,
        hub: Hub,
        lines: Lines | None = None,
    ) -> ConnectionServer:
        """Makes the server of a listener that the supervisor has."""
        server = ConnectionServer((), handler, hub, lines)
        self._register(name, server)
        return server

    async def listen_unix(
        self, name: str, _path: str, handler: HttpHandler, hub: Hub, lines: Lines
    ) -> None:
        """The same for a Unix socket, which takes records."""
        server = ConnectionServer((), handler, hub, lines)
        self.doors.append(server)
        self._register(name, server)

    def path_passed(self, name: str) -> str | None:
        """Any place: the supervisor has found one. If it found none, no connection comes."""
        return name

    def serve(self, name: str, connection: socket.socket) -> None:
        """Serves a connection of the listener `name`; closes it if that listener is not open."""
        server = self._servers.get(name)
        if server is None:  # not open yet, or not any more
            connection.close()
        else:
            server.serve_connection(connection)

    def count_lost(self, name: str) -> None:
        """Counts a connection that was closed: this process had no file descriptor left for it."""
        counters = self.counters.get(name)
        if counters is not None:
            counters.refused["descriptors"] += 1

    def leave(self) -> None:
        """Connected clients are told with their next answer to connect again, to another
        process.
        """
        for door in self.doors:
            door.hub.is_draining = True

    @property
    def open_count(self) -> int:
        """Connections of clients that are open."""
        return sum(door.open_count for door in self.doors)

    @property
    def has_clients(self) -> bool:
        return self.open_count > 0

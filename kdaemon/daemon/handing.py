"""Connections of listeners that several workers share: one process accepts, and hands them on.

About: the supervisor's listeners, which give each connection to the worker that has the fewest;
and a worker's, which bind nothing and serve what they are given.
Why not one socket for all: where several processes wait on one socket, the one that is woken first
has most connections, and they stay for hours. Why not a socket a worker (SO_REUSEPORT): the kernel
chooses by a hash, so 8 connections fall 4 to 4 in 27 cases of 100 only, and those that wait at a
worker that dies are reset; systemd passes one socket, and a Unix socket has no such thing.
Invariants: no connection is given to a worker that is not ready while another one is; one that
nobody can take waits, and with it all behind it in the kernel's queue.
Where it sits: supervisor.py and worker.py -> here -> listeners.py, http/accepting.py.
"""

import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from kdaemon.config.listen import ListenConfig
from kdaemon.config.values import Address
from kdaemon.daemon.listeners import Listeners
from kdaemon.http.hub import HttpHub
from kdaemon.http.opening import Lines
from kdaemon.http.request import HttpHandler
from kdaemon.http.server import HttpServer

if TYPE_CHECKING:
    from kdaemon.http.passed import Inherited


class Taker(Protocol):
    """A worker that may be given connections."""

    @property
    def is_ready(self) -> bool:
        """Clients should come to it; where no worker is, they are given to any."""
        ...

    @property
    def load(self) -> int:
        """Connections that it has, those included that are on their way to it."""
        ...

    def hand(self, name: str, connection: socket.socket) -> bool: ...


class Handing:
    """Who gets the next connection. `takers`: those that can have one."""

    def __init__(self, takers: Callable[[], Sequence[Taker]]) -> None:
        self._takers = takers
        self._turn = 0

    def hand(self, name: str, connection: socket.socket) -> bool:
        """False: nobody can have it now."""
        return any(taker.hand(name, connection) for taker in self._in_order())

    def _in_order(self) -> Iterable[Taker]:
        """The best first; of those that are equal, each is first in its turn."""
        takers = self._takers()
        self._turn += 1
        start = self._turn % max(1, len(takers))
        turned = [*takers[start:], *takers[:start]]
        return sorted(turned, key=lambda taker: (not taker.is_ready, taker.load))


class SharedListeners(Listeners):
    """The supervisor's. The admin pages are its own."""

    def __init__(
        self,
        listen: ListenConfig,
        inherited: "Inherited | None",
        handing: Handing,
        open_count: Callable[[], int],
    ) -> None:
        """`open_count`: connections that workers have."""
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
    """A worker's: what comes to each is given to it by the supervisor."""

    async def listen(
        self,
        name: str,
        _address: Address,
        handler: HttpHandler,
        hub: HttpHub,
        lines: Lines | None = None,
    ) -> HttpServer:
        server = HttpServer((), handler, hub, lines)
        self._servers[name] = server
        self.counters[name] = server.counters
        return server

    async def listen_unix(
        self, name: str, _path: str, handler: HttpHandler, hub: HttpHub, lines: Lines
    ) -> None:
        server = HttpServer((), handler, hub, lines)
        self.doors.append(server)
        self._servers[name] = server
        self.counters[name] = server.counters

    def path_passed(self, name: str) -> str | None:
        """Wherever it is: the supervisor has found a place, or none, and then none comes."""
        return name

    def serve(self, name: str, connection: socket.socket) -> None:
        """A connection of this listener."""
        server = self._servers.get(name)
        if server is None:  # not open, or not any more
            connection.close()
        else:
            server.serve_connection(connection)

    def count_lost(self, name: str) -> None:
        """One that was closed, since this process has no file descriptor left for it."""
        counters = self.counters.get(name)
        if counters is not None:
            counters.refused["descriptors"] += 1

    def leave(self) -> None:
        """Who is connected is told with the next answer to connect anew: to another process."""
        for door in self.doors:
            door.hub.is_draining = True

    @property
    def open_count(self) -> int:
        return sum(door.open_count for door in self.doors)

    @property
    def has_clients(self) -> bool:
        return self.open_count > 0

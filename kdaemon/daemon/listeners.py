"""The listening sockets of a daemon: bound here or passed to it, served, and given up.

About: which sockets there are, by the names of their listeners; which of them take records; and
which process has them when this one ends. Knows sockets and servers; must not know what is served.
Invariants: a socket that was passed is served as it is, and never bound again; the file of a Unix
socket that systemd has bound is systemd's.
Where it sits: doors.py and observers.py listen here; takeover.py passes the sockets on; drain.py
closes them.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kdaemon.base.endpoint import http_url
from kdaemon.config.listen import ListenConfig
from kdaemon.config.listeners import Wanted
from kdaemon.config.values import Address
from kdaemon.http.counters import ListenerCounters
from kdaemon.http.hub import Hub
from kdaemon.http.listener import (
    ListenerError,
    SocketFile,
    bind_tcp,
    cannot_listen,
    log_listening,
)
from kdaemon.http.opening import Lines
from kdaemon.http.request import HttpHandler
from kdaemon.http.server import ConnectionServer

if TYPE_CHECKING:
    from kdaemon.http.passed import Inherited, Passed

LOOK_S = 0.02  # between two looks whether all clients have left. Ours


class Listeners:
    """The listeners of one daemon."""

    def __init__(self, listen: ListenConfig, inherited: "Inherited | None" = None) -> None:
        """`inherited`: sockets that are bound already."""
        self._listen = listen
        self._inherited = inherited
        self._servers: dict[str, ConnectionServer] = {}  # by the names of their listeners
        self._kept: set[str] = set()  # names of the listeners whose sockets outlive this process
        self.names_taken = frozenset(() if inherited is None else inherited.socks)
        self.doors: list[ConnectionServer] = []  # the servers that take records
        self.counters: dict[str, ListenerCounters] = {}

    async def listen(
        self,
        name: str,
        address: Address,
        handler: HttpHandler,
        hub: Hub,
        lines: Lines | None = None,
    ) -> ConnectionServer:
        """Listens on a TCP address: on its sockets that are bound already, and on new ones for the
        addresses that these leave out.
        """
        try:
            socks = self.inherit(name)
            if not (socks and self.is_of_systemd):
                socks = [*socks, *bind_tcp(address.host, address.port, socks)]
            take = self._taker(name)
            server = ConnectionServer(socks, handler, hub, lines, take=take)
            await server.start()
        except OSError as error:
            raise cannot_listen(f"listen.{name}", address.host, address.port, error) from error
        self._register(name, server)
        is_tls = bool(self._listen.tls_certificate) and (name != "admin" or self._listen.admin_tls)
        log_listening(name, http_url(address.host, server.port, is_tls=is_tls))
        return server

    async def listen_unix(
        self, name: str, path: str, handler: HttpHandler, hub: Hub, lines: Lines
    ) -> None:
        """Listens on a Unix socket that takes records. A file that systemd made stays systemd's."""
        file: SocketFile | None = None
        socks = self.inherit(name)
        if name not in self._kept:
            file = SocketFile(path, self._listen.unix_mode_bits)
            socks = [file.adopt(socks[0]) if socks else file.bind()]
        take = self._taker(name)
        server = ConnectionServer(socks, handler, hub, lines, file, take)
        await server.start()
        self.doors.append(server)
        self._register(name, server)
        log_listening(name, path)

    def _register(self, name: str, server: ConnectionServer) -> None:
        self._servers[name] = server
        self.counters[name] = server.counters

    def _taker(self, _name: str) -> Callable[[socket.socket], bool] | None:
        """Hands the connections of a listener to another process; None: they are served here."""
        return None

    def bind_ahead(self, wanted: Iterable[Wanted]) -> None:
        """Binds, before the daemon before this one is told to end, the sockets that it does not
        have. If a place cannot be bound, that daemon is left alone. Raises ListenerError.
        """
        assert self._inherited is not None, "there are sockets, or nobody was asked"
        bound = self._inherited.socks
        for each in wanted:
            there = bound.get(each.name, [])
            if isinstance(each.at, Address):
                try:
                    bound[each.name] = [*there, *bind_tcp(each.at.host, each.at.port, there)]
                except OSError as error:
                    raise cannot_listen(each.key, each.at.host, each.at.port, error) from error
            elif each.at is not None and not there and not each.is_auto:
                make_directory(Path(each.at).parent, with_parents=True, key=each.key)
                bound[each.name] = [SocketFile(each.at, self._listen.unix_mode_bits).bind()]

    def inherit(self, name: str) -> list[socket.socket]:
        """The sockets of this listener that are bound already. The caller owns them from now on."""
        if self._inherited is None:
            return []
        socks = self._inherited.take(name)
        # The admin pages answer probes to the end.
        if socks and self.is_of_systemd and name != "admin":
            self._kept.add(name)
        return socks

    @property
    def is_of_systemd(self) -> bool:
        """Whether systemd bound the sockets: it keeps them when this process ends."""
        return self._inherited is not None and self._inherited.is_systemd

    def path_passed(self, name: str) -> str | None:
        """The path of this listener's Unix socket, if systemd has bound one."""
        if not self.is_of_systemd or name not in self.names_taken:
            return None
        assert self._inherited is not None
        path: str = self._inherited.socks[name][0].getsockname()
        return path

    def offer(self) -> "list[Passed]":
        """All sockets, for the process that takes over."""
        from kdaemon.http.passed import Passed  # noqa: PLC0415 - the caller has loaded it

        return [Passed(name, sock) for name, each in self._servers.items() for sock in each.socks]

    def own_files(self) -> None:
        """From now on this process owns the files of its Unix sockets: it removes them at
        its end.
        """
        for server in self._servers.values():
            server.own_file()

    def keep(self, names: Iterable[str]) -> None:
        """Another process accepts on the sockets of these names, so they outlive this process."""
        self._kept |= names & self._servers.keys()

    @property
    def leaves_kept(self) -> bool:
        """Whether another process accepts on some of the sockets, or will."""
        return bool(self._kept)

    def yield_kept(self) -> None:
        """Accepts no more connections on the sockets that outlive this process."""
        for name in self._kept:
            self._servers[name].yield_listener()

    @property
    def has_clients(self) -> bool:
        """Whether a client is connected, or may still come to this process and no other."""
        has_own = any(name not in self._kept for name in self._servers if name != "admin")
        return has_own or any(door.counters.open for door in self.doors)

    async def lame_duck(self, seconds: float) -> None:
        """Serves on for `seconds`; less, if new connections go elsewhere and no client is left."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + seconds
        while loop.time() < ends_s and self.has_clients:  # noqa: ASYNC110 - many counters
            await asyncio.sleep(min(LOOK_S, seconds))

    @property
    def trouble(self) -> str | None:
        """Why no client can reach a door, as a text for people; None: all doors can be reached."""
        return next((door.trouble for door in self.doors if door.trouble is not None), None)


def make_directory(directory: Path, *, with_parents: bool, key: str = "listen.unix") -> None:
    """Makes the directory of a Unix socket. `with_parents`: the operator named the place. A place
    that we chose gets no parents. Raises ListenerError.
    """
    try:
        directory.mkdir(mode=0o755, parents=with_parents, exist_ok=True)
    except OSError as error:
        raise ListenerError(
            f"{key}: cannot make the directory {directory}: {error.strerror}."
            f" Make it, or set {key} to another path."
        ) from error

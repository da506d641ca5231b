"""A listener: bound sockets, and the connections that come in on them.

Takes any bound stream socket, TCP or Unix, whoever bound it. Must not know a protocol: opening.py
decides.
Invariants: if the socket file is removed or replaced, that is noticed within CHECK_INTERVAL_S, and
the file is made again, or `trouble` says why not. A live socket of another process is never taken
away.
Where it sits: socket -> asyncio's server -> Opening -> a protocol; daemon/ starts and closes it.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence

from kdaemon.base.ticks import next_tick_s
from kdaemon.http.accepting import Acceptor
from kdaemon.http.hub import Hub
from kdaemon.http.listener import ListenerError, SocketFile
from kdaemon.http.opening import Lines, Opening
from kdaemon.http.origin import Gate
from kdaemon.http.request import HttpHandler

log = logging.getLogger("kdaemon.http")

LISTEN_BACKLOG = 1024  # connections that the kernel keeps while the loop is busy; ours, 2026-11-21
CHECK_INTERVAL_S = 1.0  # how often the socket file and the file descriptors are checked

UNIX_GATE = Gate(checks_browsers=False, checks_host=False)


class ConnectionServer:
    """Listening sockets and their connections. `host`, `port`: of the first socket, if it is TCP.

    If processes share a listener, one has the sockets and passes each connection on (`take`); the
    others have no sockets, and get connections (`serve_connection`).
    """

    def __init__(
        self,
        socks: Sequence[socket.socket],
        handler: HttpHandler,
        hub: Hub,
        lines: Lines | None = None,
        file: SocketFile | None = None,
        take: Callable[[socket.socket], bool] | None = None,
    ) -> None:
        """`socks`: bound; the server owns them from here on. `lines`: the protocol for clients that
        do not begin as HTTP does. `file`: the socket's file, which the server watches. `take`: as
        in `Acceptor`; None: connections are served here.
        """
        self.hub = hub
        self.counters = hub.counters
        # Why clients cannot reach this listener now; None: they can.
        self.trouble: str | None = None
        self.host, self.port = "", 0
        if socks and socks[0].family != socket.AF_UNIX:
            self.host, self.port = socks[0].getsockname()[:2]
        self._handler = handler
        self._lines = lines
        self._file = file
        self._socks = list(socks)
        self._servers: list[asyncio.Server | Acceptor] = []
        self._take = take
        # Connections from another process whose service begins.
        self._beginning: set[asyncio.Task[object]] = set()
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        hub.on_sweep = self._check_descriptors

    async def start(self) -> None:
        """Accepts connections, and watches the socket file. Closes the sockets if it fails."""
        loop = asyncio.get_running_loop()
        try:
            for sock in self._socks:
                if self._take is not None:
                    self._servers.append(Acceptor(sock, LISTEN_BACKLOG, self._take))
                    continue
                is_unix = sock.family == socket.AF_UNIX
                make = loop.create_unix_server if is_unix else loop.create_server
                server = await make(self._protocol, sock=sock, backlog=LISTEN_BACKLOG)
                self._servers.append(server)
        except BaseException:
            for sock in self._socks:
                sock.close()
            raise
        if self._file is not None and self._timer is None:
            self._arm()

    def _protocol(self) -> asyncio.Protocol:
        return Opening(self._handler, self.hub, self._lines)

    def resume(self) -> None:
        """Accepts again: somebody may be able to take connections."""
        for server in self._servers:
            if isinstance(server, Acceptor):
                server.resume()

    def serve_connection(self, sock: socket.socket) -> None:
        """Serves a connection that another process has accepted. We own it now."""
        loop = asyncio.get_running_loop()
        beginning: asyncio.Task[object]
        beginning = loop.create_task(loop.connect_accepted_socket(self._protocol, sock))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._begun)

    @property
    def open_count(self) -> int:
        """The number of connections, with those whose service begins."""
        return self.counters.open + len(self._beginning)

    def _begun(self, beginning: asyncio.Task[object]) -> None:
        self._beginning.discard(beginning)
        if not beginning.cancelled() and beginning.exception() is not None:
            log.debug("a connection was gone before it was served")  # its socket is closed

    def close_listener(self) -> None:
        """Takes no new connections, and removes the socket file if it is still ours. Open
        connections go on. A second call does nothing.
        """
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for server in self._servers:
            server.close()
        if self._file is not None:
            self._file.remove()

    @property
    def socks(self) -> list[socket.socket]:
        """The sockets by which clients find this listener, for a process that takes them over.
        Empty if another file is at the path, because it would be taken for ours.
        """
        return list(self._socks) if self._file is None or self._file.is_ours() else []

    def own_file(self) -> None:
        """The daemon from which the socket was taken over has left the file to us."""
        if self._file is not None:
            self._file.own()

    def yield_listener(self) -> None:
        """Another process listens on the same sockets, or keeps them: takes no new connections, and
        leaves the file alone. The next answer on each open connection tells its client to connect
        again.
        """
        if self._file is not None:
            self._file.leave()
        self.close_listener()
        self.hub.is_draining = True

    def close_idle(self) -> None:
        """Ends connections that owe nothing, and each other connection as soon as it owes
        nothing.
        """
        self.hub.close_idle()

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Stops listening. Requests that were read have `grace_s` seconds to settle; then all
        connections are cut off.
        """
        self.close_listener()
        if self._task is not None:
            await self._task
        await self.hub.aclose(grace_s)
        for server in self._servers:
            await server.wait_closed()

    # --- once a second, while there is a socket file, or a connection

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(next_tick_s(loop.time(), CHECK_INTERVAL_S), self._on_timer)

    def _on_timer(self) -> None:
        self.check()
        self._arm()

    def check(self) -> None:
        """Checks the socket file, which anybody can remove, and the descriptors."""
        self._check_descriptors()
        if self._file is not None and self._task is None and not self._file.is_ours():
            self._task = asyncio.get_running_loop().create_task(self._bind_again(self._file))

    def _check_descriptors(self) -> None:
        """Counts and logs a lack of file descriptors, because a loop may drop connections for it
        without a word. Tries to open an eventfd, which needs no file: in a chroot there may be
        none.
        """
        try:
            os.close(os.eventfd(0, os.EFD_CLOEXEC))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return
            self.counters.refused["descriptors"] += 1
            if not self.hub.places.is_starved:
                self.hub.places.is_starved = True
                log.warning(
                    "no file descriptor is left: new connections are dropped until one is free;"
                    " raise the limit of open files (ulimit -n, LimitNOFILE)"
                )
            return
        if self.hub.places.is_starved:
            self.hub.places.is_starved = False
            log.info("file descriptors are free again")

    async def _bind_again(self, file: SocketFile) -> None:
        """Makes the socket file again, which is gone or replaced."""
        try:
            sock = file.bind()
            sock.listen(LISTEN_BACKLOG)  # at once, because clients are waiting
        except ListenerError as error:
            if self.trouble is None:
                log.warning("the socket file is gone and cannot be made again: %s", error)
            self.trouble = str(error)
            self._task = None
            return
        old, self._servers = self._servers, []
        self._socks = [sock]
        for server in old:
            server.close()
        await self.start()
        self.counters.rebound += 1
        self.trouble = None
        self._task = None
        fields = {"at": file.path}
        log.warning("the socket file was gone: it is made again", extra={"fields": fields})
        if self._is_closing:
            self.close_listener()

"""Opens the listeners that take records: HTTP and lines on each.

About: which listeners the configuration asks for, in which order they open, and which may be
missing. Knows what is served behind each; knows no socket.
Invariant: if a place that the operator named cannot be listened on, the start fails; if "auto"
finds no place, the start goes on, provided that there is another door.
Where it sits: daemon.py -> here -> listeners.py.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kdaemon.config import Config, resolve_unix_path, user_runtime_problem
from kdaemon.daemon.hubs import Hubs
from kdaemon.daemon.listeners import Listeners, make_directory
from kdaemon.door.guard import Guard
from kdaemon.http.listener import ListenerError, SocketInUseError
from kdaemon.http.opening import Lines
from kdaemon.http.request import HttpHandler

log = logging.getLogger("kdaemon")


class Guards(NamedTuple):
    """The guards that ask clients who they are: over TCP, and through Unix sockets. None: any
    client is let in.
    """

    tcp: Guard | None = None
    unix: Guard | None = None


class Doors:
    """Opens the listeners of one daemon."""

    def __init__(
        self,
        config: Config,
        listeners: Listeners,
        hubs: Hubs,
        lines_of: Callable[[str | None], Lines],
        handler_behind: Callable[[Guard | None], HttpHandler],
        guards: Guards,
    ) -> None:
        """`lines_of`: serves clients that do not begin as HTTP does, on the socket of one stream,
        or on a socket of all streams (None). `handler_behind`: makes the handler of the requests
        that a guard lets in.
        """
        self._config = config
        self._listeners = listeners
        self._hubs = hubs
        self._lines_of = lines_of
        self._lines = lines_of(None)
        self._handler_behind = handler_behind
        self._guards = guards

    async def open(self) -> None:
        """Raises ListenerError."""
        await self._open_tcp()
        await self._open_sockets_of_streams()
        await self._open_unix()

    async def _open_tcp(self) -> None:
        address, guard = self._config.listen.http_address, self._guards.tcp
        if address is None:
            return
        hub, handler = self._hubs.tcp(address, guard), self._handler_behind(guard)
        server = await self._listeners.listen("http", address, handler, hub, self._lines)
        self._listeners.doors.append(server)

    async def _open_sockets_of_streams(self) -> None:
        """A listener for each stream that has a socket of its own: raw lines, and nothing else."""
        for name, stream in self._config.streams.items():
            if not stream.socket:
                continue
            key = f"streams.{name}"
            make_directory(Path(stream.socket).parent, with_parents=True, key=f"{key}.socket")
            await self._listen_unix(key, stream.socket, self._lines_of(stream.arn or name))

    async def _open_unix(self) -> None:
        unix, doors = self._config.listen.unix, self._listeners.doors
        passed = self._listeners.path_passed("unix")
        if passed is not None:
            await self._listen_unix("unix", passed, self._lines)
            return
        is_auto = unix == "auto"
        path = resolve_unix_path(unix, os.environ, os.path.isdir)
        if path is None:
            problem = user_runtime_problem(os.environ, os.path.isdir) if is_auto else None
            if problem is None:
                log.info("no Unix socket: listen.unix is off, or auto finds no runtime directory")
            elif doors:
                log.warning("no Unix socket: %s", problem)
            else:
                raise ListenerError(f"listen.unix: {problem}. Correct it, or set listen.unix.")
            return
        try:
            make_directory(Path(path).parent, with_parents=not is_auto)
            await self._listen_unix("unix", path, self._lines)
        except ListenerError as error:
            # A place that "auto" chose and that cannot be used is left out, if there is a door.
            is_wanted = not is_auto or not doors
            if is_wanted or isinstance(error, SocketInUseError):
                raise
            log.warning("no Unix socket: %s", error)

    async def _listen_unix(self, name: str, path: str, lines: Lines) -> None:
        guard = self._guards.unix
        hub, handler = self._hubs.unix(guard), self._handler_behind(guard)
        await self._listeners.listen_unix(name, path, handler, hub, lines)

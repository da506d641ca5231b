"""The Unix socket: one file, two protocols told apart by the first byte of a connection.

HTTP begins with an upper-case letter (the method), NDJSON with anything else. Owns the socket file:
its mode, a stale one's removal, and that a live one is never taken away. Knows nothing of either
protocol beyond its first byte.
Where it sits: socket file -> UnixProtocol -> HttpProtocol or NdjsonSession.
"""

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

from kdaemon.base.limits import RECORD_BYTES_MAX_AWS
from kdaemon.base.memory import ByteBudget
from kdaemon.door.intake import Intake
from kdaemon.door.session import NdjsonSession
from kdaemon.http.connection import LISTEN_BACKLOG, HttpProtocol
from kdaemon.http.hub import HttpHub, HttpLimits
from kdaemon.http.request import HttpHandler

__all__ = ["Intake", "ListenerError", "UnixServer", "serve_unix"]

METHOD_FIRST_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")  # RFC 9110, 9: methods of note

# The largest record in base64, with room for its key and field names. A text in which every
# character is escaped may be longer and must come as base64. Ours, 2026-11-21.
LINE_BYTES_MAX = RECORD_BYTES_MAX_AWS * 4 // 3 + 64 * 1024


class ListenerError(Exception):
    """The operator must act: this path cannot become our socket, and the text says why."""


class UnixProtocol(asyncio.Protocol):
    """A connection until its first byte; then the transport has another protocol."""

    def __init__(
        self, handler: HttpHandler, intake: Intake, hub: HttpHub, line_bytes_max: int
    ) -> None:
        self._handler = handler
        self._intake = intake
        self._hub = hub
        self._line_bytes_max = line_bytes_max
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if not self._hub.attach(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._hub.detach(self)

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        protocol: HttpProtocol | NdjsonSession
        if data[0] in METHOD_FIRST_BYTES:
            protocol = HttpProtocol(self._handler, hub=self._hub)
        else:
            protocol = NdjsonSession(self._intake, self._hub, self._line_bytes_max)
        self._hub.hand_over(self, protocol)
        self._transport.set_protocol(protocol)
        protocol.take_over(self._transport)
        protocol.data_received(data)

    def check_time(self, tick: int) -> None:
        """A local client may connect early and write late: it costs a few KiB and is let be."""

    def close_if_idle(self) -> None:
        self._transport.close()

    def reset(self) -> None:
        self._transport.abort()


class UnixServer:
    """A listening socket file and its connections."""

    def __init__(self, server: asyncio.Server, hub: HttpHub, path: str, identity: Any) -> None:
        self._server = server
        self._identity = identity
        self.hub = hub
        self.counters = hub.counters
        self.path = path

    def close_listener(self) -> None:
        """Takes no new connections and removes the file if it is still ours. Twice is nothing."""
        self._server.close()
        if _identity(self.path) == self._identity:
            Path(self.path).unlink(missing_ok=True)

    def close_idle(self) -> None:
        """Ends connections that owe nothing, and every other one when it does not any longer."""
        self.hub.close_idle()

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Stops listening; what was read has `grace_s` seconds to settle, then all is cut off."""
        self.close_listener()
        await self.hub.aclose(grace_s)
        await self._server.wait_closed()


async def serve_unix(
    handler: HttpHandler,
    intake: Intake,
    path: str,
    mode: int = 0o660,
    limits: HttpLimits | None = None,
    *,
    bodies: ByteBudget | None = None,
    line_bytes_max: int = LINE_BYTES_MAX,
) -> UnixServer:
    """Listens on the socket file `path`; its directory must be there. Raises ListenerError."""
    hub = HttpHub(limits or HttpLimits(), bodies)
    sock = _bind(path, mode)
    identity = _identity(path)
    try:
        server = await asyncio.get_running_loop().create_unix_server(
            lambda: UnixProtocol(handler, intake, hub, line_bytes_max),
            sock=sock,
            backlog=LISTEN_BACKLOG,
        )
    except BaseException:
        sock.close()
        raise
    return UnixServer(server, hub, path, identity)


def _bind(path: str, mode: int) -> socket.socket:
    """A bound socket that does not listen yet: until then nobody can connect, whatever its mode."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), mode)  # Linux: the file is then made with no more than this mode
        sock.bind(path)
        Path(path).chmod(mode)  # what the umask took away
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise ListenerError(f"cannot make the socket {path}: {reason}") from error
    return sock


def _remove_stale(path: str) -> None:
    """Removes a socket file that nobody listens on; anything else there is a ListenerError."""
    try:
        found = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenerError(f"cannot make the socket {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(found):
        raise ListenerError(
            f"{path} is {_kind(found)}, not a socket, and is left alone: "
            "remove it, or set another path for the Unix socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a listener whose backlog is full answers EAGAIN: it is alive
        failure = probe.connect_ex(path)
    if failure == errno.ECONNREFUSED:
        Path(path).unlink(missing_ok=True)
    elif failure != errno.ENOENT:
        told = "a process answers there" if failure in (0, errno.EAGAIN) else os.strerror(failure)
        raise ListenerError(
            f"the socket {path} is in use ({told}): stop the daemon that listens on it, "
            "or set another path for the Unix socket"
        )


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a directory"))
    return next((text for is_kind, text in kinds if is_kind(mode)), "a file")


def _identity(path: str) -> tuple[int, int] | None:
    """Which file stands at the path, whatever its name: device and inode."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino

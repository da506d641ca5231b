"""Listeners as tests want them: on a socket that the system chooses, or on a socket file."""

from typing import Any

from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.listener import SocketFile, bind_tcp
from kdaemon.http.opening import Lines
from kdaemon.http.origin import gate_of
from kdaemon.http.request import HttpHandler
from kdaemon.http.server import UNIX_GATE, ConnectionServer


async def serve(*args: Any, **how: Any) -> ConnectionServer:
    """A `ConnectionServer` that accepts."""
    server = ConnectionServer(*args, **how)
    await server.start()
    return server


async def serve_http(
    handler: HttpHandler, limits: ConnectionLimits | None = None
) -> ConnectionServer:
    """HTTP alone, on a port of 127.0.0.1: see `port`."""
    hub = Hub(limits or ConnectionLimits(), gate=gate_of("127.0.0.1"))
    return await serve(bind_tcp("127.0.0.1", 0), handler, hub)


async def serve_unix(
    handler: HttpHandler,
    path: str,
    mode: int = 0o660,
    limits: ConnectionLimits | None = None,
    *,
    lines: Lines | None = None,
) -> ConnectionServer:
    """HTTP and lines on the socket file `path`, whose directory must exist."""
    file = SocketFile(path, mode)
    hub = Hub(limits or ConnectionLimits(), gate=UNIX_GATE)
    return await serve([file.bind()], handler, hub, lines=lines, file=file)

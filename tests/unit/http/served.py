"""A listener on a real socket, and connections to it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.listener import bind_tcp
from kdaemon.http.request import HttpHandler
from kdaemon.http.server import ConnectionServer
from tests.kit.certificates import Files
from tests.kit.listening import serve, serve_unix
from tests.kit.tls import handshakes

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Streams]]


@asynccontextmanager
async def served(
    kind: str, handler: HttpHandler, files: Files | None = None, *, failures: int = 0
) -> AsyncIterator[tuple[ConnectionServer, Dial]]:
    """`kind`: tcp, unix, or tls with these `files`. Nothing is left at the end. `failures`: of the
    handler, that the test means to happen.
    """
    with tempfile.TemporaryDirectory() as directory:
        path, tls = f"{directory}/s", files if kind == "tls" else None
        if kind == "unix":
            server = await serve_unix(handler, path)
        else:
            hub = Hub(ConnectionLimits(), tls=handshakes(tls) if tls else None)
            server = await serve(bind_tcp("127.0.0.1", 0), handler, hub)

        async def dial() -> Streams:
            if kind == "unix":
                return await asyncio.open_unix_connection(path)
            trusted = tls.client() if tls else None
            return await asyncio.open_connection("127.0.0.1", server.port, ssl=trusted)

        try:
            yield server, dial
        finally:
            await server.aclose()
        assert server.counters.open == 0
        assert server.hub.bodies.bytes_taken == 0
        assert server.counters.handler_failures == failures

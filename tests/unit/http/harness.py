"""One HTTP connection on a transport in memory, for the tests of the room."""

import re
from collections.abc import Callable

from kdaemon.http.connection import HttpProtocol
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.request import HttpHandler, HttpRequest
from tests.kit.certificates import Files
from tests.kit.doors import FakeTransport
from tests.kit.tls import FakeTls

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Harness:
    """One connection whose requests wait until the test answers them (or are echoed at once)."""

    def __init__(
        self,
        limits: ConnectionLimits | None = None,
        *,
        echoes: bool = False,
        hub: Hub | None = None,
        files: Files | None = None,
    ) -> None:
        """`files`: of a certificate, if TLS is spoken."""
        self.requests: list[HttpRequest] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.echoes = echoes
        self.on_request: HttpHandler | None = None  # answers in the place of the test
        self.hub = hub or Hub(limits or ConnectionLimits())
        self.protocol = HttpProtocol(self.handle, hub=self.hub)
        self.transport = FakeTransport()
        self.transport.protocol = self.protocol
        self.tls: FakeTls | None = None
        if files is None:
            self.protocol.connection_made(self.transport)
            return
        self.transport = self.tls = FakeTls(files, self.hub)
        self.tls.speak(self.protocol)
        self.protocol.connection_made(self.tls.inside)

    def handle(self, request: HttpRequest) -> None:
        self.requests.append(request)
        self.bodies.append(request.body)
        self.headers.append(request.headers)
        if self.on_request is not None:
            self.on_request(request)
        elif self.echoes:
            request.respond(200, request.body)

    def feed(self, data: bytes) -> bytes:
        if self.tls is None:
            self.protocol.data_received(data)
        else:
            self.tls.feed(data)
        return self.transport.take()

    def lose(self) -> None:
        self.protocol.connection_lost(None)


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


Make = Callable[..., Harness]

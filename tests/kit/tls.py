"""A client of TLS that does what libraries do not let one do: end only its side, or be cut off; and
a transport in memory that is read through TLS.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from kdaemon.http.certificate import TlsFiles, load_pair
from kdaemon.http.handshakes import HALF_DONE_MAX, Handshakes
from kdaemon.http.hub import Hub
from kdaemon.http.tls import TlsTransport
from tests.kit.certificates import Files
from tests.kit.doors import FakeTransport


@cache
def _context(files: TlsFiles) -> ssl.SSLContext:
    return load_pair(files).context


def handshakes(
    files: Files, *, client_ca: str = "", half_done_max: int = HALF_DONE_MAX
) -> Handshakes:
    """What a listener needs to speak TLS with this certificate."""
    found = TlsFiles(str(files.certificate), str(files.key), client_ca)
    return Handshakes(lambda: _context(found), time.monotonic_ns, half_done_max)


class Side:
    """The client's side, without a socket."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.received, self.sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.received, self.sent, server_hostname="localhost")
        self.has_end = False  # the server has told its end

    def is_shaken(self, received: bytes = b"") -> bool:
        self.received.write(received)
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def to_send(self) -> bytes:
        return self.sent.read()

    def encrypt(self, data: bytes) -> bytes:
        for at in range(0, len(data), 16_000):
            self.ssl.write(data[at : at + 16_000])
        return self.sent.read()

    def end(self) -> bytes:
        with contextlib.suppress(ssl.SSLError):
            self.ssl.unwrap()
        return self.sent.read()

    def decrypt(self, received: bytes) -> bytes:
        found = b""
        for at in range(0, len(received), 16_000) or (0,):
            self.received.write(received[at : at + 16_000])
            try:
                while piece := self.ssl.read(65_536):
                    found += piece
                self.has_end = True
            except ssl.SSLZeroReturnError:  # both sides have ended
                self.has_end = True
            except ssl.SSLWantReadError:
                pass
        return found


class TlsClient:
    """A connection, as a socket is one. `shutdown` ends its side as TLS has it, and as TCP has it;
    `cut`: by TCP alone, as a process that dies does.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.side = Side(context)
        self._left = b""

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext) -> "TlsClient":
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        client = cls(sock, context)
        received = b""
        try:
            while not client.side.is_shaken(received):
                await loop.sock_sendall(sock, client.side.to_send())
                received = await loop.sock_recv(sock, 65_536)
                assert received, "closed in the middle of the handshake"
            await loop.sock_sendall(sock, client.side.to_send())
        except BaseException:
            sock.close()
            raise
        return client

    def send(self, data: bytes) -> None:
        """Of no more than the socket takes at once."""
        self.sock.sendall(self.side.encrypt(data))

    async def sendall(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, self.side.encrypt(data))

    async def recv(self, _: int = 0) -> bytes:
        """b"": the server has ended, by TLS or by TCP."""
        while not self.side.has_end:
            received = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
            if not received:
                return b""
            if found := self.side.decrypt(received):
                return found
        return b""

    def shutdown(self, how: int) -> None:
        self.sock.sendall(self.side.end())
        self.sock.shutdown(how)

    def cut(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def setsockopt(self, *values: Any) -> None:
        self.sock.setsockopt(*values)

    def setblocking(self, is_blocking: bool) -> None:
        assert not is_blocking

    def close(self) -> None:
        self.sock.close()


async def receive(client: Any) -> bytes:
    """What a client hears next, over whichever."""
    if isinstance(client, TlsClient):
        return await client.recv()
    return await asyncio.get_running_loop().sock_recv(client, 65_536)


class _Greeter:
    def handshake_done(self) -> None: ...
    def handshake_failed(self, problem: str) -> None:
        raise AssertionError(problem)

    def connection_lost(self, exc: Exception | None) -> None: ...


class FakeTls(FakeTransport):
    """A FakeTransport that is read by a client of TLS. `inside`: what a protocol is given."""

    def __init__(self, files: Files, hub: Hub) -> None:
        super().__init__()
        self._plain = bytearray()
        self.side = Side(files.client())
        self.inside = TlsTransport(self, _Greeter(), hub, handshakes(files))
        received = b""
        while not self.side.is_shaken(received):
            self.inside.data_received(self.side.to_send())
            received = super().take()
        self.inside.data_received(self.side.to_send())
        self._read()
        self.write_count = 0

    def speak(self, protocol: Any) -> None:
        self.inside.set_protocol(protocol)
        self.protocol = self.inside

    def feed(self, data: bytes) -> None:
        self.inside.data_received(self.side.encrypt(data))

    def _read(self) -> None:
        self._plain += self.side.decrypt(super().take())

    def take(self) -> bytes:
        self._read()
        data = bytes(self._plain)
        self._plain.clear()
        return data


Connect = Callable[..., Any]

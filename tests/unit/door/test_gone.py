"""A client of lines that has gone is told from one that sends no more: real sockets, both loops."""

import asyncio
import socket
import struct
import tempfile
from collections.abc import Callable
from typing import Any, cast

import pytest

from kdaemon.door.door import Door
from kdaemon.door.session import NdjsonSession
from kdaemon.door.spoken import lines_to
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.listener import SocketFile, bind_tcp
from kdaemon.http.server import ConnectionServer
from tests.kit.both_loops import on_both_loops
from tests.kit.certificates import Files
from tests.kit.doors import FakeDoor
from tests.kit.listening import serve
from tests.kit.patience import PATIENCE_S, until
from tests.kit.tls import TlsClient, handshakes, receive

SETUP = b'{"stream":"s","acknowledge":"delivered"}\n'
LINES = b'{"data":"one"}\n{"data":"two"}\n'


class Rig:
    """A listener of lines in front of a door that settles nothing by itself, and one client."""

    def __init__(self, kind: str, directory: str, files: Files) -> None:
        self.kind = kind
        self.door = FakeDoor()
        self.files = files
        self.hub = Hub(ConnectionLimits(), tls=handshakes(files) if kind == "tls" else None)
        self.path = f"{directory}/s"
        self.server: ConnectionServer
        self.client: Any

    async def start(self) -> None:
        lines = lines_to(cast("Door", self.door))
        if self.kind != "unix":
            socks = bind_tcp("127.0.0.1", 0)
            self.server = await serve(socks, lambda _: None, self.hub, lines=lines)
            port = self.server.port
            if self.kind == "tls":
                self.client = await TlsClient.connect(port, self.files.client())
            else:
                self.client = socket.create_connection(("127.0.0.1", port))
        else:
            file = SocketFile(self.path, 0o600)
            socks = [file.bind()]
            self.server = await serve(socks, lambda _: None, self.hub, lines=lines, file=file)
            self.client = socket.socket(socket.AF_UNIX)
            self.client.connect(self.path)
        self.client.setblocking(False)

    async def until(self, condition: Callable[[], object]) -> None:
        await until(condition)

    async def until_gone(self) -> None:
        """The hub looks once a second; here it looks at once, again and again."""

        def is_gone() -> bool:
            self.hub.sweep()
            return len(self.door.withdrawn) == len(self.door.submitted)

        await self.until(is_gone)

    async def read_all(self) -> bytes:
        found = b""
        async with asyncio.timeout(PATIENCE_S):
            while piece := await receive(self.client):
                found += piece
        return found

    async def aclose(self) -> None:
        self.client.close()
        await self.server.aclose()


async def close(rig: Rig) -> None:
    rig.client.close()


async def close_later(rig: Rig) -> None:
    """Closes its sending side first, and the rest once that was seen."""
    rig.client.shutdown(socket.SHUT_WR)
    sessions = [each for each in rig.hub.audit() if isinstance(each, NdjsonSession)]
    await rig.until(lambda: sessions[0].audit()[0])
    rig.hub.sweep()
    rig.client.close()


async def reset(rig: Rig) -> None:
    rig.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    rig.client.close()


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
@pytest.mark.parametrize(
    ("goes", "is_read"),
    [(close, True), (close_later, True), (reset, True), (close, False), (reset, False)],
)
@on_both_loops
async def test_what_a_client_waited_for_is_withdrawn_when_it_goes(
    kind: str,
    goes: Callable[[Rig], Any],
    is_read: bool,
    certificate: Files,
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig(kind, directory, certificate)
        await rig.start()
        rig.client.send(SETUP + LINES)
        await rig.until(lambda: rig.door.submitted)
        if not is_read:  # no room for what comes next: the connection is not read
            rig.door.has_room = False
            rig.client.send(LINES)
            await rig.until(lambda: rig.door.waiting)
        await goes(rig)
        await rig.until_gone()
        await rig.aclose()


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
@on_both_loops
async def test_who_only_sends_no_more_is_told_all(kind: str, certificate: Files) -> None:
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig(kind, directory, certificate)
        await rig.start()
        rig.client.send(SETUP + LINES)
        await rig.until(lambda: rig.door.submitted)
        rig.client.send(LINES)
        await rig.until(lambda: len(rig.door.submitted) == 2)
        rig.client.shutdown(socket.SHUT_WR)
        for _ in range(5):
            await asyncio.sleep(0.01)
            rig.hub.sweep()
        assert not rig.door.withdrawn
        rig.door.submitted[0].settle()
        for _ in range(5):
            await asyncio.sleep(0.01)
            rig.hub.sweep()
        rig.door.submitted[1].settle()
        assert await rig.read_all() == b'{"acknowledged":2}\n{"acknowledged":4}\n'
        await rig.aclose()


@pytest.mark.parametrize("word", ["accepted", "none"])
@on_both_loops
async def test_who_waits_for_nothing_is_sent_nothing_ahead(word: str, certificate: Files) -> None:
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig("tcp", directory, certificate)
        await rig.start()
        rig.client.send(b'{"stream":"s","acknowledge":"%b"}\n' % word.encode() + LINES)
        rig.client.shutdown(socket.SHUT_WR)
        told = b'{"acknowledged":2}\n' if word == "accepted" else b""
        assert await rig.read_all() == told
        await rig.aclose()

"""Connections that are accepted here and served elsewhere."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from kdaemon.http.accepting import Acceptor
from tests.kit.patience import PATIENCE_S


class Takers:
    """Takes connections while it may."""

    def __init__(self) -> None:
        self.is_open = True
        self.taken: list[socket.socket] = []
        self.changed = asyncio.Event()

    def take(self, connection: socket.socket) -> bool:
        self.changed.set()
        if not self.is_open:
            return False
        self.taken.append(connection)
        return True

    async def wait(self, count: int) -> None:
        while len(self.taken) < count:
            self.changed.clear()
            await self.changed.wait()

    def close(self) -> None:
        for each in self.taken:
            each.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address)


async def test_each_connection_is_given_away(listener: socket.socket) -> None:
    takers, address = Takers(), listener.getsockname()
    acceptor = Acceptor(listener, 128, takers.take)
    clients = [connect(address) for _ in range(100)]
    await takers.wait(100)
    clients[0].sendall(b"x")
    peers = {each.getpeername(): each for each in takers.taken}
    served = peers[clients[0].getsockname()]
    served.setblocking(True)
    assert served.recv(1) == b"x"
    acceptor.close()
    acceptor.close()
    with pytest.raises(ConnectionRefusedError):
        connect(address)
    takers.close()
    for each in clients:
        each.close()


async def test_while_nobody_takes_one_is_kept_and_the_others_wait(listener: socket.socket) -> None:
    takers, address = Takers(), listener.getsockname()
    acceptor = Acceptor(listener, 128, takers.take)
    takers.is_open = False
    clients = [connect(address) for _ in range(5)]
    await takers.changed.wait()
    await asyncio.sleep(0)
    acceptor.resume()  # still nobody
    assert not takers.taken
    takers.is_open = True  # it is tried again, though nobody says so
    await takers.wait(5)
    assert [each.getpeername() for each in takers.taken] == [
        each.getsockname() for each in clients
    ], "in their order"
    acceptor.close()
    takers.close()
    for each in clients:
        each.close()


async def test_one_that_is_kept_ends_with_the_listener(listener: socket.socket) -> None:
    takers, address = Takers(), listener.getsockname()
    takers.is_open = False
    acceptor = Acceptor(listener, 128, takers.take)
    with connect(address) as client:
        await takers.changed.wait()
        acceptor.close()
        acceptor.resume()
        client.settimeout(PATIENCE_S)
        assert client.recv(1) == b""

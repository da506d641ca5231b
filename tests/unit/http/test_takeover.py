"""Sockets from one daemon to the next: who may have them, in which order, and what fails."""

import asyncio
import errno
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from kdaemon.config.listeners import TAKEOVER
from kdaemon.http import takeover
from kdaemon.http.listener import ListenerError
from kdaemon.http.passed import Passed
from kdaemon.http.takeover import SOCKETS_A_PACKET, Giver, Taken, take_over


class Running:
    """The daemon that runs, as far as the one who takes over can see."""

    def __init__(self, path: Path, count: int = 1, refusal: str | None = None) -> None:
        self.path = str(path)
        self.socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        self.taken: list[frozenset[str]] = []
        self.giver = Giver(self._offer, self.taken.append, refusal)
        self.giver.start(self.path)

    def _offer(self) -> list[Passed]:
        return [Passed(f"streams.{number}", each) for number, each in enumerate(self.socks)]

    def close(self) -> None:
        self.giver.close()
        self.giver.released()
        for sock in self.socks:
            sock.close()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    with closing(Running(tmp_path / "takeover")) as found:
        yield found


async def ask(path: str) -> Taken:
    taken = await asyncio.to_thread(take_over, path)
    assert taken is not None
    return taken


def close_all(taken: Taken) -> None:
    taken.close()
    for each in taken.passed:
        each.sock.close()


async def test_sockets_come_with_their_names_and_are_not_inherited(running: Running) -> None:
    taken = await ask(running.path)
    assert [each.name for each in taken.passed] == ["streams.0", TAKEOVER]
    first = taken.passed[0].sock
    assert first.getsockname() == running.socks[0].getsockname()
    assert not os.get_inheritable(first.fileno())
    assert taken.pid == os.getpid()
    await taken.listening(["streams.0", TAKEOVER])
    assert running.taken == [{"streams.0", TAKEOVER}]
    waiting = asyncio.create_task(taken.released())
    running.giver.released()
    await waiting
    close_all(taken)


async def test_more_sockets_than_one_packet_has_come_in_several(tmp_path: Path) -> None:
    count = 2 * SOCKETS_A_PACKET + 1
    with closing(Running(tmp_path / "takeover", count)) as running:
        taken = await ask(running.path)
        assert len(taken.passed) == count + 1
        close_all(taken)
        await taken.listening([])
        running.giver.released()
        await taken.released()


async def test_one_that_goes_away_before_it_listens_changes_nothing(running: Running) -> None:
    taken = await ask(running.path)
    close_all(taken)
    again = await ask(running.path)
    assert running.taken == []
    await again.listening(["streams.0"])
    assert running.taken == [{"streams.0"}]
    running.giver.released()
    await again.released()
    close_all(again)


async def test_who_asks_last_counts(running: Running) -> None:
    first = await ask(running.path)
    second = await ask(running.path)
    await first.listening(["streams.0"])  # hears that it is over
    assert running.taken == []
    await second.listening(["streams.0"])
    assert running.taken == [{"streams.0"}]
    running.giver.released()
    await asyncio.gather(first.released(), second.released())
    close_all(first)
    close_all(second)


async def test_the_private_socket_is_its_user_s_alone_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "takeover"
    with closing(Running(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    assert take_over(str(path)) is None


async def test_a_process_of_another_user_gets_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "is_trusted", lambda conn: conn.getsockname() == "")
    with pytest.raises(ListenerError, match="cannot take over"):
        await ask(running.path)
    assert running.taken == []


async def test_a_stranger_who_listens_there_is_not_believed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "is_trusted", lambda _: False)
    with pytest.raises(ListenerError, match="a process of another user listens"):
        await ask(running.path)


async def test_a_daemon_that_may_not_be_taken_over_says_why(tmp_path: Path) -> None:
    with closing(Running(tmp_path / "takeover", 1, "systemctl restart kdaemon")) as running:
        with pytest.raises(ListenerError, match="systemctl restart kdaemon"):
            await ask(running.path)
        assert running.taken == []


@pytest.mark.parametrize(
    "said", [b"", b"noise", b"[]", b'{"listening": 1, "x"', json.dumps({"other": 1}).encode()]
)
async def test_noise_ends_the_connection_and_nothing_else(running: Running, said: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.setblocking(False)
        client.connect(running.path)
        client.send(said)
        assert await loop.sock_recv(client, 100) == b""
    assert running.taken == []
    close_all(await ask(running.path))


async def test_without_a_descriptor_the_loop_does_not_spin_and_who_asks_waits(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_count = 0

    def none_left(_: socket.socket) -> tuple[socket.socket, str]:
        nonlocal failed_count
        failed_count += 1
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", none_left)
        asking = asyncio.create_task(ask(running.path))
        while not failed_count:
            await asyncio.sleep(0)
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert failed_count == 1
    close_all(await asking)

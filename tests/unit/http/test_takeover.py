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
from kdaemon.http.takeover import SOCKETS_A_PACKET, About, Giver, Taken, take_over
from tests.kit.patience import until


class Running:
    """The daemon that runs, as far as the one who takes over can see."""

    def __init__(
        self, path: Path, count: int = 1, refusal: str | None = None, about: About | None = None
    ) -> None:
        self.path = str(path)
        self.socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        self.taken: list[frozenset[str]] = []
        told = about or About()
        self.giver = Giver(self._offer, self.taken.append, refusal, lambda: told)
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
    await taken.listening(["streams.0", TAKEOVER], "1:2")
    assert running.taken == [{"streams.0", TAKEOVER}]
    assert running.giver.taken_spool == "1:2"
    waiting = asyncio.create_task(taken.released())
    running.giver.released()
    await waiting
    close_all(taken)


@pytest.mark.parametrize("about", [About(), About("1:2", keeps_order=True), About("")], ids=str)
async def test_what_is_to_be_known_of_the_one_before_comes_with_them(
    tmp_path: Path, about: About
) -> None:
    with closing(Running(tmp_path / "takeover", SOCKETS_A_PACKET, about=about)) as running:
        taken = await ask(running.path)
        assert taken.about == about
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


async def test_who_asks_first_counts_for_as_long_as_it_is_there(running: Running) -> None:
    first = await ask(running.path)
    for _ in range(2):
        with pytest.raises(ListenerError, match=f"process {os.getpid()} is taking over already"):
            await ask(running.path)
    await first.listening(["streams.0"])
    assert running.taken == [{"streams.0"}]
    running.giver.released()
    await first.released()
    close_all(first)


async def test_one_that_ends_meanwhile_makes_room_for_the_next_at_once(running: Running) -> None:
    for _ in range(3):
        close_all(await ask(running.path))
    assert running.taken == []


async def test_a_daemon_that_is_told_to_end_hears_the_one_that_has_its_sockets(
    running: Running,
) -> None:
    taken = await ask(running.path)
    running.giver.close()  # the drain has begun
    assert running.giver.passed == {"streams.0", TAKEOVER}
    assert Path(running.path).exists(), "it is the other one's"
    await taken.listening(["streams.0", TAKEOVER])
    assert running.taken == [{"streams.0", TAKEOVER}]
    waiting = asyncio.create_task(taken.released())
    await asyncio.sleep(0)
    assert not waiting.done(), "the spool is not closed yet"
    running.giver.released()
    await waiting
    assert Path(running.path).exists(), "it is the other one's"
    close_all(taken)


async def test_a_daemon_that_is_told_to_end_removes_what_nobody_takes(running: Running) -> None:
    taken = await ask(running.path)
    running.giver.close()
    close_all(taken)
    await until(lambda: not Path(running.path).exists())
    assert running.taken == []
    assert not running.giver.passed


async def test_one_that_does_not_answer_holds_up_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(takeover, "ANSWER_TIMEOUT_S", 0.01)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(theirs):
        taken = Taken([], 1, ours)
        await taken.listening(["http"])
        assert "the process that is taken over from does not answer" in caplog.text
        assert json.loads(theirs.recv(1000)) == {"listening": ["http"], "spool": ""}
        taken.close()


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


def test_a_directory_is_one_place_by_whatever_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert takeover.place_of(str(tmp_path)) == takeover.place_of(str(tmp_path / "link")) != ""
    assert takeover.place_of("") == takeover.place_of(str(tmp_path / "gone")) == ""


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

"""What a supervisor and a worker tell each other."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest

from kdaemon.daemon.board import Board, Field
from kdaemon.daemon.channel import Channel
from kdaemon.daemon.questions import Answer, Asker, NoAnswerError, answer_all, in_turn, read_first


class Heard:
    """One end, and what it heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.all: list[object] = []
        self.connections: list[socket.socket] = []
        self.changed = asyncio.Event()
        self.channel = Channel(sock, self.on_told, self.on_end, self.on_connection)
        self.channel.start()

    def on_told(self, fields: dict[str, Any]) -> None:
        self.hear(fields)

    def on_end(self) -> None:
        self.hear("end")

    def on_connection(self, name: str, connection: socket.socket | None) -> None:
        if connection is not None:
            self.connections.append(connection)
        self.hear(name if connection is not None else f"no {name}")

    def hear(self, what: object) -> None:
        self.all.append(what)
        self.changed.set()

    async def wait(self, count: int) -> list[object]:
        while len(self.all) < count:
            self.changed.clear()
            await self.changed.wait()
        return self.all


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


async def test_orders_and_connections_arrive_in_the_order_in_which_they_were() -> None:
    ours, theirs = pair()
    one, other = Heard(ours), Heard(theirs)
    client, served = socket.socketpair()
    with closing(client):
        one.channel.tell({"a": 1})
        assert one.channel.hand("http", served)
        assert served.fileno() == -1, "it is the other end's now"
        one.channel.tell({"b": 2})
        assert await other.wait(3) == [{"a": 1}, "http", {"b": 2}]
        (taken,) = other.connections
        with closing(taken):
            taken.send(b"x")
            assert client.recv(1) == b"x"
        other.channel.tell({"c": 3})
        assert await one.wait(1) == [{"c": 3}]
        one.channel.close()
        assert (await other.wait(4))[-1] == "end"
        assert not one.channel.hand("http", client)


async def test_who_does_not_read_gets_no_connection_and_hears_orders_later() -> None:
    ours, theirs = pair()
    one = Heard(ours)
    clients = []
    while True:
        client, served = socket.socketpair()
        clients.append(client)
        if not one.channel.hand("http", served):
            served.close()
            break
        assert len(clients) < 10_000
    one.channel.tell({"drain": False})
    other = Heard(theirs)
    heard = await other.wait(len(clients))
    assert heard == ["http"] * (len(clients) - 1) + [{"drain": False}]
    for each in (*clients, *other.connections):
        each.close()
    one.channel.close()
    other.channel.close()


async def test_a_connection_for_which_no_descriptor_is_left_is_told_of() -> None:
    """Who hands them on counts those that are on their way."""
    ours, theirs = pair()
    one, other = Heard(ours), Heard(theirs)
    client, served = socket.socketpair()
    fallen, lost = socket.socketpair()
    with closing(client), closing(fallen):
        assert one.channel.hand("http", lost)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_descriptor(), hard))
        try:
            assert await other.wait(1) == ["no http"]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert fallen.recv(1) == b"", "its client hears of it"
        assert one.channel.hand("http", served)
        assert await other.wait(2) == ["no http", "http"]
    for each in other.connections:
        each.close()
    one.channel.close()
    other.channel.close()


def lowest_free_descriptor() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


async def test_questions_are_answered_in_parts_and_one_that_breaks_is_one_only() -> None:
    ours, theirs = socket.socketpair()
    asker = Asker(ours, b"first words")

    async def parts(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("no")

    starting = asyncio.create_task(asker.start())
    first = await asyncio.to_thread(read_first, theirs)
    await starting
    assert first == b"first words"
    answering = asyncio.create_task(answer_all(theirs, {"parts": parts, "broken": broken}))
    assert await asker.ask("parts", 3) == [0, 1, 2]
    with pytest.raises(NoAnswerError, match="ValueError"):
        await asker.ask("broken")
    assert await asker.ask("parts", 0) == []
    answering.cancel()
    await asyncio.wait({answering})
    with pytest.raises(NoAnswerError):
        await asker.ask("parts", 1)
    asker.close()


async def test_an_answer_that_cannot_be_read_fails_all_questions_with_the_reason() -> None:
    """As where the program was replaced, and one of the two processes started anew."""
    ours, theirs = socket.socketpair()
    asker = Asker(ours, b"")
    starting = asyncio.create_task(asker.start())
    await asyncio.to_thread(read_first, theirs)
    await starting
    asking = asyncio.create_task(asker.ask("a"))
    await asyncio.sleep(0)
    unknown = b"cnowhere\nUnknown\n."
    theirs.sendall(len(unknown).to_bytes(4, "big") + unknown)
    for question in (asking, asker.ask("b")):
        with pytest.raises(NoAnswerError, match="cannot be read"):
            await question
    theirs.close()
    asker.close()
    with pytest.raises(NoAnswerError, match="it is gone"):
        await asker.ask("c")


async def test_who_does_not_answer_in_time_fails_the_question_alone() -> None:
    ours, theirs = socket.socketpair()
    asker = Asker(ours, b"")
    go_on = asyncio.Event()

    async def late(number: int) -> AsyncIterator[int]:
        await go_on.wait()
        yield number

    starting = asyncio.create_task(asker.start())
    await asyncio.to_thread(read_first, theirs)
    await starting
    answering = asyncio.create_task(answer_all(theirs, {"late": late}))
    with pytest.raises(NoAnswerError, match="no answer within 0 s"):
        await asker.ask("late", 1, timeout_s=0)
    go_on.set()
    assert await asker.ask("late", 2) == [2]
    answering.cancel()
    await asyncio.wait({answering})
    asker.close()


async def test_a_question_that_takes_its_time_holds_up_no_other() -> None:
    """Nor one that nobody waits for any more, nor one that breaks, by whatever error."""
    ours, theirs = socket.socketpair()
    asker = Asker(ours, b"")
    go_on = asyncio.Event()
    changes = asyncio.Lock()
    steps: list[str] = []

    async def look() -> AsyncIterator[int]:
        await go_on.wait()
        yield 1

    async def at_once(number: int) -> AsyncIterator[int]:
        yield number

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("a file of its own")

    async def change(name: str) -> AsyncIterator[str]:
        steps.append(f"{name} begins")
        await go_on.wait()
        steps.append(f"{name} ends")
        yield name

    answers: dict[str, Answer] = {
        "look": look,
        "at_once": at_once,
        "broken": broken,
        "change": in_turn(changes, change),
        "other_change": in_turn(changes, change),
    }
    starting = asyncio.create_task(asker.start())
    await asyncio.to_thread(read_first, theirs)
    await starting
    answering = asyncio.create_task(answer_all(theirs, answers))
    looks = [asyncio.create_task(asker.ask("look")) for _ in range(100)]
    first = asyncio.create_task(asker.ask("change", "first"))
    second = asyncio.create_task(asker.ask("other_change", "second"))
    await asyncio.sleep(0)  # all are asked
    assert await asker.ask("at_once", 7) == [7]
    for each in looks[1:]:
        each.cancel()
    assert await asker.ask("at_once", 8) == [8]
    with pytest.raises(NoAnswerError, match="OSError"):
        await asker.ask("broken")
    assert await asker.ask("at_once", 9) == [9]
    go_on.set()
    assert (await looks[0], await first, await second) == ([1], ["first"], ["second"])
    assert steps == ["first begins", "first ends", "second begins", "second ends"]
    answering.cancel()
    await asyncio.wait({answering, *looks})
    asker.close()


def test_the_board_is_seen_by_both() -> None:
    board = Board.make(3)
    other = Board(board.descriptor, 3)
    other.add(2, Field.BEATS)
    other.write(2, Field.OPEN, 7)
    assert (board.read(2, Field.BEATS), board.read(2, Field.OPEN)) == (1, 7)
    assert board.read(1, Field.OPEN) == 0
    board.clear(2)
    assert other.read(2, Field.OPEN) == 0

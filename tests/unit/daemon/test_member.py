"""What becomes of a worker that ends: a table, and a real process."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kdaemon.daemon.board import Board, Field
from kdaemon.daemon.member import (
    LATE_LOOKS_MAX,
    NEXT,
    STILL_LOOKS_MAX,
    Member,
    Move,
    State,
    how_ended,
)
from kdaemon.daemon.spawning import Process
from kdaemon.daemon.taps import together


def test_who_was_told_to_end_is_not_started_again() -> None:
    for state in State:
        if (state, Move.TOLD) in NEXT:
            told = NEXT[state, Move.TOLD]
            assert told in {State.LEAVING, State.GONE}
            assert (told, Move.STARTED) not in NEXT
    assert NEXT[State.LEAVING, Move.ENDED] is State.GONE


def test_who_was_not_is() -> None:
    for state in (State.STARTING, State.ABLE, State.SERVING):
        assert NEXT[state, Move.ENDED] is State.WAITING
    assert NEXT[State.WAITING, Move.STARTED] is State.STARTING


@pytest.fixture
async def member(processes: list[Any]) -> AsyncIterator[Member]:
    """One that was begun."""
    assignment = SimpleNamespace(encode=lambda: b"{}")
    made = Member(1, 1, Board.make(2), cast("Any", lambda _: assignment), lambda *_: None)
    made.begin()
    yield made
    made.leave(leaves_spool=False)
    processes[0].end(0)


async def test_who_waits_for_its_turn_gets_no_connection(member: Member) -> None:
    member.on_told({"able": True})
    assert (member.state, member.can_take) == (State.ABLE, False)
    member.on_told({"ready": True})
    assert (member.state, member.can_take) == (State.SERVING, True)
    with pytest.raises(KeyError):
        member.on_told({"able": True})
    assert member.state is State.SERVING


@pytest.mark.parametrize("has_pidfd", [True, False])
async def test_the_end_of_a_process_is_told(
    monkeypatch: pytest.MonkeyPatch, has_pidfd: bool
) -> None:
    if not has_pidfd:

        def none(_pid: int) -> int:
            raise OSError

        monkeypatch.setattr(os, "pidfd_open", none)
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    Process(["--version"], (), ended.set_result)
    assert await ended == 0
    killed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    process = Process(["sandbox", "--ephemeral-port"], (), killed.set_result)
    process.kill()
    assert await killed == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


async def test_a_worker_whose_loop_stands_still_is_ended(
    member: Member, processes: list[Any]
) -> None:
    board, (process,) = member.board, processes
    for _ in range(2 * STILL_LOOKS_MAX):
        board.add(1, Field.BEATS)
        member.look()
    for _ in range(STILL_LOOKS_MAX - 1):
        member.look()
    board.add(1, Field.BEATS)  # it went on
    for _ in range(STILL_LOOKS_MAX + 1):
        member.look()
    assert not process.is_killed
    member.look()
    assert process.is_killed


async def test_a_worker_whose_loop_stands_still_is_given_connections_last(member: Member) -> None:
    board = member.board
    member.on_told({"ready": True})
    board.write(1, Field.IS_READY, 1)
    board.add(1, Field.BEATS)
    for _ in range(1 + LATE_LOOKS_MAX):
        member.look()
        assert member.is_ready, "it may be busy"
        assert member.why_not_ready is None
    member.look()
    assert not member.is_ready
    assert member.why_not_ready == f"its loop stood still for {LATE_LOOKS_MAX + 1} s"
    board.add(1, Field.BEATS)
    member.look()
    assert [member.is_ready, member.why_not_ready] == [True, None], "it went on"


@pytest.mark.parametrize("number", range(1, signal.NSIG))
def test_a_worker_is_started_again_whatever_signal_ended_it(number: int) -> None:
    assert how_ended(-number).startswith("signal ")


def test_how_a_process_ended_is_said_by_name() -> None:
    assert how_ended(-signal.SIGKILL) == "signal SIGKILL"
    assert how_ended(-40) == "signal 40"
    assert how_ended(1) == "exit code 1"


def test_samples_of_several_are_one_by_what_each_saw() -> None:
    def sample(seen: int, shown: int, name: str) -> bytes:
        lines = [b'{"seen":%d,"shown":%d}' % (seen, shown)]
        return b"\n".join([*lines, *(b'"%s"' % name.encode() for _ in range(shown))]) + b"\n"

    head, *lines = together([sample(900, 100, "a"), sample(100, 100, "b")]).splitlines()
    assert head == b'{"seen":1000,"shown":100}'
    assert (lines.count(b'"a"'), lines.count(b'"b"')) == (90, 10)
    assert together([sample(1, 1, "a"), sample(0, 0, "b")]).splitlines() == [
        b'{"seen":1,"shown":1}',
        b'"a"',
    ]
    assert together([sample(0, 0, "a")]) == b'{"seen":0,"shown":0}\n'

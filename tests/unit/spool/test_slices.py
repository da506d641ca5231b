"""What a commit, a failure and a read bring is handed on in turns of the loop, held by counting
what one turn does.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import pytest

from kdaemon.base.errors import SpoolError
from kdaemon.base.frame import Frame
from kdaemon.spool import delivery as delivery_module
from kdaemon.spool import pending
from kdaemon.spool import progress as progress_module
from kdaemon.spool.commit_queue import COMMIT_BYTES_MAX, FRAME_COST
from kdaemon.spool.delivery import FRAME_RECORDS, TURN_RECORDS
from kdaemon.spool.held import Held
from kdaemon.spool.spool import Spool
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes, Committed
from tests.kit.patience import until
from tests.kit.watching import before, made_of
from tests.unit.spool.rig import DELIVERED, FakeTarget, a_frame, a_spool

COUNT = 1_000
COMMIT_FRAMES_MAX = COMMIT_BYTES_MAX // FRAME_COST  # with next to nothing in them
TOLD = pending.TOLD_A_TURN // (1 + pending.FRAME_RECORDS) + 1
HANDED_A_TURN = TURN_RECORDS // (1 + FRAME_RECORDS) + 2


class Turns:
    """Counts turns of the running loop; of those who ask for another turn, one goes on in each.
    `done`: how much was done in each turn, by what.
    """

    def __init__(self) -> None:
        self.number = 0
        self.done: Counter[tuple[int, str]] = Counter()
        self._waiting: deque[Callable[[], object]] = deque()
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.number += 1
        if self._waiting:
            self._waiting.popleft()()
        self._handle = self._loop.call_soon(self._turn)

    def later(self, callback: Callable[[], object]) -> None:
        self._waiting.append(callback)

    def count(self, what: str) -> None:
        self.done[self.number, what] += 1

    def most(self, what: str) -> int:
        return max((n for (_, each), n in self.done.items() if each == what), default=0)

    def total(self, what: str) -> int:
        return sum(n for (_, each), n in self.done.items() if each == what)

    def close(self) -> None:
        self._handle.cancel()


class CountedTarget(FakeTarget):
    def __init__(self, turns: Turns, name: str = "s") -> None:
        super().__init__(name)
        self.turns = turns

    def submit_spooled(self, frame: Frame) -> bool:
        self.turns.count("handed over")
        return super().submit_spooled(frame)


def ring(progress: progress_module.Progress) -> None:
    """The time of its timer has come."""
    assert progress.timer is not None
    progress.timer.cancel()
    progress.look()


def put_many(spool: Spool, target: FakeTarget, count: int, told: Callable[[Frame], object]) -> None:
    for number in range(count):
        assert spool.put(target, a_frame(b"%d" % number, on_settled=told))


async def test_clients_of_one_commit_are_told_in_turns_and_in_order(tmp_path: Path) -> None:
    turns = Turns()
    target, told = CountedTarget(turns), list[bytes]()

    def tell(frame: Frame) -> None:
        turns.count("told")
        told.append(frame.records[0].data)

    async with a_spool(tmp_path / "spool", target, later=turns.later) as spool:
        put_many(spool, target, COUNT, tell)
        await until(lambda: len(told) == COUNT)
        await until(lambda: len(target.frames) == COUNT)
        assert told == target.data == [b"%d" % number for number in range(COUNT)]
        assert turns.most("told") <= TOLD
        assert target.counters.unaccounted() == 0
    turns.close()


async def test_few_large_requests_are_told_in_a_turn(tmp_path: Path) -> None:
    turns = Turns()
    target, told = CountedTarget(turns), list[Frame]()

    def tell(frame: Frame) -> None:
        turns.count("told")
        told.append(frame)

    async with a_spool(tmp_path / "spool", target, later=turns.later) as spool:
        for _ in range(50):
            assert spool.put(target, a_frame(*[b"x"] * 500, on_settled=tell))
        await until(lambda: len(told) == 50)
        assert turns.most("told") <= pending.TOLD_A_TURN // 500 + 1
    turns.close()


async def test_a_commit_has_a_bound_of_frames(tmp_path: Path) -> None:
    target, told = FakeTarget(), list[Frame]()
    async with a_spool(tmp_path / "spool", target) as spool:
        put_many(spool, target, 2 * COMMIT_FRAMES_MAX, told.append)
        await until(lambda: len(told) == 2 * COMMIT_FRAMES_MAX)
        frames = spool.commits.counters.commit_frames
        assert frames.sum == 2 * COMMIT_FRAMES_MAX
        assert sum(frames.counts) >= 3, "one frame alone, and then as many as may be"


async def test_who_is_refused_because_the_disk_failed_is_told_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns()
    target = CountedTarget(turns)

    def fail(_store: Store, _changes: Changes) -> Committed:
        raise SpoolError("io", "spool", "broken")

    def tell(frame: Frame) -> None:
        assert frame.results[0] is not None
        assert frame.results[0].error_code == "ServiceUnavailable"
        turns.count("told")

    async with a_spool(tmp_path / "spool", target, later=turns.later) as spool:
        monkeypatch.setattr(Store, "commit", fail)
        put_many(spool, target, COUNT, tell)
        await until(lambda: sum(turns.done.values()) == COUNT)
        assert turns.most("told") <= TOLD
        assert target.counters.unaccounted() == 0
        monkeypatch.undo()
    turns.close()


@pytest.mark.parametrize("stream_count", [1, 5])
async def test_streams_that_are_read_back_take_turns(tmp_path: Path, stream_count: int) -> None:
    """However many streams are read back, one of them hands over in a turn, and a part of what was
    read: 90 streams did so in the same turn, for 4 ms each.
    """
    names = [f"s{number}" for number in range(stream_count)]
    full = [FakeTarget(name, room=0) for name in names]
    told: list[Frame] = []
    async with a_spool(tmp_path / "spool", *full) as spool:
        for target in full:
            put_many(spool, target, COUNT // stream_count, told.append)
        await until(lambda: len(told) == COUNT)
    turns = Turns()
    targets = [CountedTarget(turns, name) for name in names]
    async with a_spool(tmp_path / "spool", *targets, later=turns.later):
        await until(lambda: sum(len(target.frames) for target in targets) == COUNT)
        for target in targets:
            assert target.data == [b"%d" % number for number in range(COUNT // stream_count)]
        assert turns.most("handed over") <= HANDED_A_TURN
    turns.close()


@pytest.mark.pure("counts the calls of a method")
async def test_what_is_held_is_looked_at_for_progress_in_turns_and_only_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "PROGRESS_A_TURN", 100)
    made = made_of(monkeypatch, delivery_module, "Progress")
    turns = Turns()
    target, told = CountedTarget(turns), list[Frame]()
    async with a_spool(tmp_path / "spool", target, later=turns.later) as spool:
        (progress,) = made
        assert progress.timer is None
        before(monkeypatch, Held, "note", lambda *_: turns.count("looked at"))
        put_many(spool, target, COUNT, told.append)
        await until(lambda: len(target.frames) == COUNT)
        await until(lambda: progress.timer is not None)  # which may ring by itself, too
        ring(progress)
        await until(lambda: turns.total("looked at") >= COUNT)
        assert turns.most("looked at") == 100
        await until(lambda: progress.timer is not None)
        for frame in target.frames:
            target.settle(frame)
        ring(progress)
        assert progress.timer is None, "nothing is held, and nobody is woken"
        monkeypatch.undo()
    turns.close()


@pytest.mark.pure("counts the calls of a method")
async def test_large_frames_that_are_partly_delivered_are_noted_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "PROGRESS_A_TURN", 1_000)
    made = made_of(monkeypatch, delivery_module, "Progress")
    turns = Turns()
    target, told = CountedTarget(turns), list[Frame]()
    async with a_spool(tmp_path / "spool", target, later=turns.later) as spool:
        for _ in range(20):
            assert spool.put(target, a_frame(*[b"x"] * 500, on_settled=told.append))
        await until(lambda: len(target.frames) == 20)
        (progress,) = made
        before(monkeypatch, Held, "note", lambda *_: turns.count("noted"))
        for frame in target.frames:
            frame.results[0] = DELIVERED
            frame.unsettled -= 1
        first, *others = target.frames
        ring(progress)
        target.settle(first)
        await until(lambda: turns.total("noted") == 20)
        assert turns.most("noted") == 2
        target.settle(others[-1])
        for frame in others[:-1]:
            target.settle(frame)
        monkeypatch.undo()
    turns.close()


async def test_a_frame_that_is_dropped_before_its_client_is_told_is_counted_once(
    tmp_path: Path,
) -> None:
    """The disk is full and the oldest goes: it may be one whose commit is not told yet."""
    turns = Turns()
    target, told = CountedTarget(turns), list[Frame]()
    target.room = 0
    async with a_spool(tmp_path / "spool", target, later=turns.later) as spool:
        put_many(spool, target, 2 * TOLD, told.append)
        await until(lambda: told)
        spooled = spool.streams.find(target)
        assert spooled is not None
        await until(lambda: spooled.is_waiting_for_room)
        target.drops_oldest = True
        spool.space.bytes_max = 1
        spool.put(target, a_frame(b"new", on_settled=told.append))
        await until(lambda: len(told) >= 2 * TOLD)
        await until(lambda: not spooled.is_reading)
        spool.space.bytes_max = 10**9
        target.make_room(10**6)
        await until(lambda: not target.counters.spooled)
        assert target.counters.unaccounted() == 0
        assert len({frame.records[0].data for frame in target.frames}) == len(target.frames)
    turns.close()

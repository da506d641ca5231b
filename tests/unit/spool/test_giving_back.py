"""Free pages of the spool go back to the file system: at once when nobody reads a backlog, with
pauses while one is on its way, and all of them in the end.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from kdaemon.base.errors import SpoolError
from kdaemon.spool import giving_back as giving_back_module
from kdaemon.spool.reserve import Reserve
from kdaemon.spool.spool import Spool
from kdaemon.spool.store import Store
from tests.kit.patience import until
from tests.kit.watching import before
from tests.unit.spool.rig import FakeTarget, a_frame, a_spool

COUNT = 60
FRAME_BYTES = 100_000  # what one read brings is not all
ROOM = 10  # frames
SMALL_BYTES = 64 * 1024  # a few pages
NEVER_S = 3600.0


class Parts:
    """Counts the parts that are given back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0

        def counted(store: Store, page_count: int) -> None:
            self.count += 1

        before(monkeypatch, Store, "give_back", counted)
        monkeypatch.setattr(giving_back_module, "GIVE_BACK_BYTES", SMALL_BYTES)


class Held:
    """What goes on in a later turn waits until it is let go: a backlog stays on its way."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], object]] | None = deque()

    def later(self, callback: Callable[[], object]) -> None:
        if self.waiting is None:
            asyncio.get_running_loop().call_soon(callback)
        else:
            self.waiting.append(callback)

    def let_go(self) -> None:
        waiting, self.waiting = self.waiting or deque(), None
        for callback in waiting:
            self.later(callback)


async def fill(directory: Path) -> None:
    told = list[object]()
    target = FakeTarget(room=0)
    async with a_spool(directory, target) as spool:
        for _ in range(COUNT):
            assert spool.put(target, a_frame(b"x" * FRAME_BYTES, on_settled=told.append))
        await until(lambda: len(told) == COUNT)


def settle_all(target: FakeTarget) -> None:
    frames, target.frames = target.frames, []
    for frame in frames:
        target.settle(frame)


async def settle_some_on_the_way(spool: Spool, target: FakeTarget, held: Held) -> None:
    """Some frames are with the engine; the rest of what was read waits for its turn. Those settle,
    and the commit that deletes them is on disk.
    """
    assert held.waiting is not None
    await until(lambda: held.waiting)
    held.waiting.popleft()()  # what was read is handed over, and the next read is on its way
    await until(lambda: held.waiting)
    assert target.frames
    assert spool.streams.is_passing_on
    settle_all(target)
    await until(lambda: spool.commits.is_written)
    assert spool.space.free_bytes > SMALL_BYTES


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    return Parts(monkeypatch)


async def test_while_a_backlog_is_on_its_way_there_is_a_pause_before_each_part(
    tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "spool")
    monkeypatch.setattr(giving_back_module, "GIVE_BACK_PAUSE_S", NEVER_S)
    target, held = FakeTarget(), Held()
    async with a_spool(tmp_path / "spool", target, later=held.later) as spool:
        parts.count = 0
        await settle_some_on_the_way(spool, target, held)
        assert parts.count == 0
        assert spool.space.free_bytes > SMALL_BYTES
        held.let_go()  # and the end of the spool is not held up by the pause


async def test_all_is_given_back_in_the_end(
    tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "spool")
    monkeypatch.setattr(giving_back_module, "GIVE_BACK_PAUSE_S", 0.001)
    monkeypatch.setattr(giving_back_module, "GIVE_BACK_PAGES", 20)
    target, held = FakeTarget(), Held()
    async with a_spool(tmp_path / "spool", target, later=held.later) as spool:
        await settle_some_on_the_way(spool, target, held)
        await until(lambda: parts.count)  # also while the rest is on its way
        held.let_go()
        await until(lambda: target.counters.delivered >= COUNT, each=lambda: settle_all(target))
        await until(lambda: spool.commits.is_written)
        space = spool.space
        await until(lambda: space.free_bytes <= SMALL_BYTES)
        assert space.file_bytes < COUNT * FRAME_BYTES // 4


async def test_with_nothing_on_its_way_no_part_waits(
    tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "spool")
    monkeypatch.setattr(giving_back_module, "GIVE_BACK_PAUSE_S", NEVER_S)
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        await until(lambda: len(target.frames) == COUNT)
        await until(lambda: not spool.streams.is_passing_on)
        settle_all(target)
        space = spool.space
        await until(lambda: parts.count)
        await until(lambda: 0 < space.file_bytes < space.live_bytes + SMALL_BYTES)


async def test_streams_that_wait_for_room_do_not_count_as_on_their_way(
    tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage, a backlog stands for hours."""
    await fill(tmp_path / "spool")
    monkeypatch.setattr(giving_back_module, "GIVE_BACK_PAUSE_S", NEVER_S)
    target = FakeTarget(room=ROOM)
    async with a_spool(tmp_path / "spool", target) as spool:
        await until(lambda: target.waiters)
        assert len(target.frames) == ROOM
        assert not spool.streams.is_passing_on
        parts.count = 0
        settle_all(target)  # its room is taken by others
        await until(lambda: parts.count)


async def test_a_disk_that_is_full_has_its_space_at_once(
    tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "spool")
    monkeypatch.setattr(giving_back_module, "GIVE_BACK_PAUSE_S", NEVER_S)
    target, held = FakeTarget(), Held()
    async with a_spool(tmp_path / "spool", target, later=held.later) as spool:
        parts.count = 0
        monkeypatch.setattr(Reserve, "has_room", lambda _reserve: False)
        spool.commits.trouble = SpoolError("full", "spool.db", "no space")
        await settle_some_on_the_way(spool, target, held)
        await until(lambda: parts.count)
        held.let_go()


async def test_nothing_is_given_back_of_a_store_that_is_closed(
    tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "spool")
    monkeypatch.setattr(giving_back_module, "GIVE_BACK_PAGES", 1)
    target, counts_at_close = FakeTarget(), list[int]()
    before(monkeypatch, Store, "close", lambda *_: counts_at_close.append(parts.count))
    async with a_spool(tmp_path / "spool", target) as spool:
        await until(lambda: len(target.frames) == COUNT)
        parts.count = 0
        settle_all(target)
        await until(lambda: parts.count)
        assert spool.space.free_bytes > SMALL_BYTES
    assert counts_at_close == [parts.count]

"""The disk under a running spool: who is told what, and when the trouble ends."""

import asyncio
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.errors import SpoolError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import RecordResult
from kdaemon.spool import commits as commits_module
from kdaemon.spool import spool as spool_module
from kdaemon.spool import store as store_module
from kdaemon.spool.pending import STORED
from kdaemon.spool.reserve import Reserve
from kdaemon.spool.spool import Spool
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes
from kdaemon.system import SystemClock
from tests.kit.patience import PATIENCE_S, until
from tests.kit.watching import before
from tests.unit.spool.rig import DELIVERED, FakeTarget, a_frame, a_spool, let_through, open_store

LOST = "the spool takes no frames"
FOUND = "the spool takes frames again"


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits_module, "PROBE_INTERVAL_S", 0.01)
    monkeypatch.setattr(spool_module, "LOOK_INTERVAL_S", 0.01)


async def answered(spool: Spool, target: FakeTarget, data: bytes) -> RecordResult | None:
    """What the client of a frame of one record hears."""
    settled: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
    await let_through(spool, target, a_frame(data, on_settled=settled.set_result))
    frame = await asyncio.wait_for(settled, PATIENCE_S)
    return frame.results[0]


async def test_a_directory_that_is_deleted_is_made_again_with_all_that_was_promised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory, target = tmp_path / "spool", FakeTarget(room=1)
    async with a_spool(directory, target) as spool:
        for data in (b"a", b"b"):
            assert await answered(spool, target, data) is STORED
        shutil.rmtree(directory)
        assert await answered(spool, target, b"c") is STORED
        shutil.copytree(directory, tmp_path / "killed")
        assert spool.commits.counters.restorations >= 1
        target.make_room(10)
        await until(lambda: target.data == [b"a", b"b", b"c"])
    assert "files of the spool were taken away" in caplog.text
    again = FakeTarget()
    async with a_spool(tmp_path / "killed", again):
        await until(lambda: again.data == [b"a", b"b", b"c"])


async def test_a_place_that_somebody_took_refuses_until_it_is_free_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory, target = tmp_path / "spool", FakeTarget(room=1)
    async with a_spool(directory, target) as spool:
        assert await answered(spool, target, b"a") is STORED
        assert await answered(spool, target, b"b") is STORED
        shutil.rmtree(directory)
        directory.write_text("mine")
        await until(lambda: spool.commits.trouble is not None)  # though nobody stores anything
        for _ in range(3):
            result = await answered(spool, target, b"c")
            assert result is not None
            assert result.error_code == "ServiceUnavailable"
            assert str(directory) in (result.error_message or "")
        assert target.counters.rejected[RefuseReason.SPOOL] == 3
        assert target.counters.unaccounted() == 0
        failures = spool.commits.counters.commit_failures
        await until(lambda: spool.commits.counters.commit_failures > failures + 5)
        target.make_room(10)
        await until(lambda: target.data == [b"a", b"b"])  # what is open is delivered
        target.settle(target.frames[0])
        directory.unlink()
        await until(lambda: spool.commits.trouble is None)  # though nobody stores anything
        assert await answered(spool, target, b"d") is STORED
        shutil.copytree(directory, tmp_path / "killed")
    assert (caplog.text.count(LOST), caplog.text.count(FOUND)) == (1, 1)
    again = FakeTarget()
    async with a_spool(tmp_path / "killed", again):
        await until(lambda: again.data == [b"b", b"d"])


@pytest.mark.parametrize("owes", [False, True])
async def test_a_commit_with_nothing_to_write_ends_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, owes: bool
) -> None:
    """A disk that turned read-only takes an empty transaction."""
    target = FakeTarget()
    probe_count = 0
    is_read_only = False

    def look(connection: sqlite3.Connection, *_given: object) -> None:
        nonlocal probe_count
        connection.execute(f"PRAGMA query_only = {is_read_only:d}")
        probe_count += is_read_only

    for step in ("remove_frames", "append_frames"):  # the first of a commit is one of these
        before(monkeypatch, store_module, step, look)
    async with a_spool(tmp_path / "spool", target) as spool:
        assert await answered(spool, target, b"a") is STORED
        await until(lambda: target.frames)
        is_read_only = True
        if owes:
            target.settle(target.frames[0])
        else:
            result = await answered(spool, target, b"b")
            assert result is not None
            assert "cannot be written" in (result.error_message or "")
        await until(lambda: probe_count > 5)
        assert spool.commits.trouble is not None
        assert spool.commits.trouble.kind == "read_only"
        is_read_only = False
        await until(lambda: spool.commits.trouble is None)
        if not owes:
            target.settle(target.frames[0], [DELIVERED])
    assert (caplog.text.count(LOST), caplog.text.count(FOUND)) == (1, 1)


async def test_a_full_disk_is_one_with_space_again_when_the_largest_commit_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though no client stores anything: they stay away from who is not ready."""
    target = FakeTarget()
    has_room, probe_count = False, 0

    def commit(store: Store, changes: Changes) -> None:
        if changes.appended and not has_room:
            raise SpoolError("full", "/spool", "no space left")

    def look(_reserve: Reserve) -> bool:
        nonlocal probe_count
        probe_count += 1
        return has_room

    before(monkeypatch, Store, "commit", commit)
    monkeypatch.setattr(Reserve, "has_room", look)
    async with a_spool(tmp_path / "spool", target) as spool:
        assert await answered(spool, target, b"a") is not STORED
        await until(lambda: probe_count > 3)
        assert spool.commits.trouble is not None
        has_room = True
        await until(lambda: spool.commits.trouble is None)
        assert await answered(spool, target, b"b") is STORED
    assert (caplog.text.count(LOST), caplog.text.count(FOUND)) == (1, 1)


async def test_dead_letters_that_are_dropped_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = FakeTarget()

    def small() -> Store:
        return Store(str(tmp_path), letters_bytes_max=1_000, wall_ms=lambda: 1_000)

    refused = RecordResult(error_code="ValidationException", error_message="no")
    async with a_spool(tmp_path, target, store=small) as spool:
        for number in range(10):
            assert await answered(spool, target, bytes(400)) is STORED
            await until(lambda number=number: len(target.frames) > number)
            target.settle(target.frames[number], [refused])
        await until(lambda: spool.commits.counters.letters_dropped >= 8)
        dropped = spool.commits.counters.letters_dropped
    assert dropped
    lines = [one for one in caplog.messages if one.startswith("dead letters are dropped")]
    assert len(lines) == 1, "a line a minute"


def test_the_probe_leaves_nothing_and_tells_what_fits(tmp_path: Path) -> None:
    store = open_store(tmp_path)()
    for kind in ("full", "io"):
        assert store.commit(Changes(probes=kind)).has_proved
    assert not store.commit(Changes()).has_proved
    assert not (tmp_path / "spool.probe").exists()
    assert store.verify().is_sound
    store.close()


@pytest.mark.parametrize("is_delivered", [False, True])
async def test_an_end_while_the_files_are_gone_says_what_ends_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_delivered: bool
) -> None:
    directory, target = tmp_path / "spool", FakeTarget()
    async with a_spool(directory, target) as spool:
        assert await answered(spool, target, b"a") is STORED
        await until(lambda: target.frames)
        shutil.rmtree(directory)
        directory.write_text("mine")
        await until(lambda: spool.commits.trouble is not None)
        if is_delivered:
            target.settle(target.frames[0])
    assert ("the spool's files are gone" in caplog.text) is not is_delivered


class SetClock(SystemClock):
    """One whose time of day somebody sets."""

    ahead_s = 0.0
    looks = 0

    def wall_seconds(self) -> float:
        self.looks += 1
        return time.time() + self.ahead_s


@pytest.mark.parametrize("ahead_s", [25 * 3600.0, -3600.0])
async def test_a_clock_that_was_set_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ahead_s: float
) -> None:
    clock = SetClock()
    spool = Spool(open_store(tmp_path), 1 << 26, ByteBudget(1 << 26), clock)
    await spool.open()
    await spool.recover(lambda _name: FakeTarget())
    clock.ahead_s = ahead_s
    said = "the clock was set"
    await until(lambda: said in caplog.text)
    looks = clock.looks
    await until(lambda: clock.looks > looks)
    await spool.aclose()
    assert caplog.text.count(said) == 1


async def test_records_from_the_future_are_said_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = FakeTarget(room=0)
    async with a_spool(tmp_path, target) as spool:
        assert await answered(spool, target, b"a") is STORED
    clock = SetClock()
    clock.ahead_s = -3600.0
    spool = Spool(open_store(tmp_path), 1 << 26, ByteBudget(1 << 26), clock)
    await spool.open()
    await spool.recover(lambda _name: target)
    await spool.aclose()
    assert "from the future" in caplog.text


async def test_a_disk_without_room_for_the_reserve_is_said_at_start_with_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target = FakeTarget()
    with monkeypatch.context() as full:
        full.setattr(Reserve, "take", lambda _reserve: False)
        spool = Spool(open_store(tmp_path), 1 << 26, ByteBudget(1 << 26), SystemClock())
        await spool.open()
        assert spool.commits.trouble is not None
        assert "the spool keeps 16 MiB in reserve" in str(spool.commits.trouble)
        await spool.recover(lambda _name: target)
        result = await answered(spool, target, b"a")
        assert result is not None
        assert "16 MiB" in (result.error_message or "")
    await until(lambda: spool.commits.trouble is None)  # though nobody stores anything
    assert await answered(spool, target, b"b") is STORED
    await spool.aclose()
    assert (caplog.text.count(LOST), caplog.text.count(FOUND)) == (1, 1)


def test_a_disk_that_is_too_small_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)()
    assert store.upkeep.reserve.lack is None
    disk = os.statvfs(tmp_path)

    class Small:
        f_frsize, f_blocks, f_bavail = disk.f_frsize, (12 << 20) // disk.f_frsize, 100

    monkeypatch.setattr(os, "statvfs", lambda _path: Small)
    store.upkeep.reserve.is_taken = False
    assert "the disk has 12 MiB in all, and the spool needs 24 MiB at least" in str(
        store.upkeep.reserve.lack
    )
    store.close()

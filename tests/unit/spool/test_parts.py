"""Frames that are handed over in parts: nothing of them is lost, sent twice or buried twice, and a
row goes when its last part is settled.
"""

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from kdaemon.base.counters import DropReason
from kdaemon.base.errors import SpoolError
from kdaemon.base.record import RecordResult
from kdaemon.spool import commits as commits_module
from kdaemon.spool import delivery as delivery_module
from kdaemon.spool import spool as spool_module
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.spool import Spool
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes
from tests.kit.patience import PATIENCE_S, until
from tests.kit.stores import encode_settled
from tests.kit.watching import before, made_of
from tests.unit.spool.rig import (
    DELIVERED,
    FakeTarget,
    a_frame,
    a_spool,
    failing_commits,
    open_store,
)

REFUSED = RecordResult(error_code="ValidationException", error_message="too odd")


async def stored(spool: Spool, target: FakeTarget, *data: bytes) -> None:
    answered = asyncio.Event()
    assert spool.put(target, a_frame(*data, on_settled=lambda _: answered.set()))
    await asyncio.wait_for(answered.wait(), PATIENCE_S)


async def written(spool: Spool) -> None:
    """Until the disk knows all that is owed to it."""
    await until(lambda: spool.commits.is_written)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "PAUSE_S_MIN", 0.001)
    monkeypatch.setattr(delivery_module, "READ_AGAIN_S", 0.01)


def on_disk(directory: Path) -> list[tuple[int, bytes | None]]:
    """Rows, and the bitmaps of those that are partly done with."""
    with sqlite3.connect(directory / "spool.db") as connection:
        found = connection.execute(
            "SELECT f.id, p.settled FROM frame f LEFT JOIN progress p ON p.id = f.id ORDER BY f.id"
        ).fetchall()
    connection.close()
    return found


async def test_a_full_shard_holds_up_its_own_records_alone(tmp_path: Path) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        target.full = {"k1"}
        await stored(spool, target, b"a0", b"a1", b"a2")
        await stored(spool, target, b"b0", b"b1")
        assert target.data == [b"a0", b"a2", b"b0"]
        assert (target.counters.spooled, spool.delivery.held_records) == (2, 3)
        for frame in target.frames:
            target.settle(frame)
        await written(spool)
        assert spool.streams.frame_count == 2
        assert on_disk(tmp_path / "spool") == [
            (1, encode_settled([0, 2], 3)),
            (2, encode_settled([0], 2)),
        ]
        assert spool.delivery.oldest_ms, "what is left behind is old, too"
        target.full = set()
        await until(lambda: len(target.data) == 5)
        assert target.data[3:] == [b"a1", b"b1"]
        for frame in target.frames[2:]:
            target.settle(frame)
        await written(spool)
        assert on_disk(tmp_path / "spool") == []
        assert (
            target.counters.unaccounted()
            == target.counters.spooled
            == spool.streams.frame_count
            == 0
        )
        assert not list(spool.streams)


async def test_what_comes_later_for_a_shard_stays_behind_what_was_left_for_it(
    tmp_path: Path,
) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        target.full = {"k1"}
        await stored(spool, target, b"a0", b"a1")
        target.full = set()
        await asyncio.gather(*(stored(spool, target, b"%d0" % n, b"%d1" % n) for n in range(5)))
        await until(lambda: len(target.data) == 12)
        late = [data for data in target.data if data.endswith(b"1")]
        assert late == [b"a1", b"01", b"11", b"21", b"31", b"41"]


async def test_a_crash_between_the_parts_sends_only_what_was_left(tmp_path: Path) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        target.full = {"k1"}
        await stored(spool, target, b"a0", b"a1", b"a2")
        target.settle(target.frames[0], [REFUSED, DELIVERED])
        await written(spool)
    again = FakeTarget()
    async with a_spool(tmp_path / "spool", again) as spool:
        await until(lambda: again.data == [b"a1"])
        assert again.counters.recovered_settled == 2
        again.settle(again.frames[0], [REFUSED])
        await written(spool)
        assert spool.streams.frame_count == 0
    assert letters(tmp_path / "spool") == [b"a0", b"a1"], "each is buried once"


def letters(directory: Path) -> list[bytes]:
    store = open_store(directory)()
    found = [letter.data for letter in store.letters.select(LetterFilter())]
    store.close()
    return found


async def test_a_dead_record_is_buried_with_the_note_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one transaction: a crash between them would lose it, or bury it twice."""
    commits: list[Changes] = []
    before(monkeypatch, Store, "commit", lambda _, changes: commits.append(changes))
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        target.full = {"k1"}
        await stored(spool, target, b"a0", b"a1")
        target.settle(target.frames[0], [REFUSED])
        await written(spool)
        (buried,) = [changes for changes in commits if changes.dead]
        assert [letter.data for letter in buried.dead] == [b"a0"]
        assert buried.progress == [(1, encode_settled([0], 2))]
    assert letters(tmp_path / "spool") == [b"a0"]


async def test_what_the_disk_does_not_know_yet_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note of a part that is settled waits for its commit while the row is read again."""
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        target.full = {"k1"}
        await stored(spool, target, b"a0", b"a1", b"a2")
        spool.wait_for("another process")  # no commit is made
        target.settle(target.frames[0])
        target.full = set()
        await until(lambda: len(target.frames) == 2)
        target.settle(target.frames[1])
        assert target.data == [b"a0", b"a2", b"a1"]
        spool.go_on()
        await written(spool)
        assert on_disk(tmp_path / "spool") == []
        assert target.counters.unaccounted() == target.counters.spooled == 0


async def test_when_the_shards_change_what_was_left_goes_first(tmp_path: Path) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        target.full = {"k1"}
        for number in range(3):
            await stored(spool, target, b"%d0" % number, b"%d1" % number)
        target.map_count += 1
        target.full = {"k9"}  # not calm
        await stored(spool, target, b"30", b"31")
        await until(lambda: len(target.data) == 8)
        assert target.data == [b"00", b"10", b"20", b"01", b"11", b"21", b"30", b"31"]
        for frame in target.frames:
            target.settle(frame)
        await written(spool)
        assert on_disk(tmp_path / "spool") == []
        assert target.counters.unaccounted() == target.counters.spooled == 0


@pytest.mark.pure("notes what a module makes")
async def test_a_read_that_was_under_way_when_the_shards_changed_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, made = FakeTarget(), made_of(monkeypatch, spool_module, "Delivery")
    async with a_spool(tmp_path / "spool", target) as spool:
        (delivery,) = made
        target.full = {"k1"}
        for number in range(3):
            await stored(spool, target, b"%d0" % number, b"%d1" % number)
        begun, may_end, real_read = threading.Event(), threading.Event(), Store.read

        def read(store: Store, *args: Any) -> object:
            back = real_read(store, *args)
            begun.set()
            may_end.wait(PATIENCE_S)
            return back

        monkeypatch.setattr(Store, "read", read)
        target.full = {"k9"}  # not calm
        await until(begun.is_set)
        target.map_count += 1
        spooled = spool.streams.get(target, is_listed=True)
        # By hand, for the thread that commits is reading.
        delivery.offer(spooled, 100, a_frame(b"30", b"31"), 1)
        may_end.set()
        await until(lambda: len(target.data) >= 6 and spooled.position.is_read)
        assert target.data == [b"00", b"10", b"20", b"01", b"11", b"21"], "100 is not on disk"


async def test_in_an_outage_nothing_is_taken_and_all_goes_in_order_after(tmp_path: Path) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        target.has_outage = True
        for number in range(3):
            await stored(spool, target, b"%d0" % number, b"%d1" % number)
        assert (target.data, target.counters.spooled) == ([], 6)
        target.has_outage = False
        await until(lambda: len(target.data) == 6)
        assert target.data == [b"00", b"01", b"10", b"11", b"20", b"21"]


async def test_notes_that_the_disk_did_not_take_are_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits_module, "PROBE_INTERVAL_S", 0.01)
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        target.full = {"k1"}
        await stored(spool, target, b"a0", b"a1", b"a2")
        failing_commits(monkeypatch, 3, SpoolError("io", "/spool", "input/output error"))
        target.settle(target.frames[0], [REFUSED, DELIVERED])
        await until(lambda: spool.commits.trouble is not None)
        target.full = set()
        await until(lambda: len(target.frames) == 2)
        assert target.data == [b"a0", b"a2", b"a1"]
        await until(lambda: spool.commits.trouble is None)
        await written(spool)
        assert on_disk(tmp_path / "spool") == [(1, encode_settled([0, 2], 3))]
        target.settle(target.frames[1])
        await written(spool)
        assert on_disk(tmp_path / "spool") == []
    assert letters(tmp_path / "spool") == [b"a0"]


async def test_what_was_left_is_read_when_the_disk_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        target.full = {"k1"}
        await stored(spool, target, b"a0", b"a1")
        failures = iter(range(3))

        def read(store: Store, *args: Any) -> None:
            if next(failures, None) is not None:
                raise SpoolError("io", "/spool", "input/output error")

        before(monkeypatch, Store, "read", read)
        target.full = set()
        await until(lambda: target.data == [b"a0", b"a1"])


@pytest.mark.parametrize("is_settled", [True, False])
async def test_a_row_that_is_damaged_after_a_part_of_it_went(
    tmp_path: Path, *, is_settled: bool
) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        target.full = {"k1"}
        await stored(spool, target, b"a0", b"a1", b"a2")
        if is_settled:
            target.settle(target.frames[0])
            await written(spool)
        with sqlite3.connect(tmp_path / "spool" / "spool.db") as connection:
            connection.execute("UPDATE frame SET payload = x'00' WHERE id = 1")
        connection.close()
        target.full = set()
        counters = target.counters
        await until(lambda: counters.dropped[DropReason.CORRUPT])
        assert counters.dropped[DropReason.CORRUPT] == 1, "the two others are delivered, or will be"
        if not is_settled:
            target.settle(target.frames[0])
        await written(spool)
        assert counters.unaccounted() == counters.spooled == spool.streams.frame_count == 0
        assert spool.streams.corrupt_count == 1


async def test_a_row_of_which_all_is_noted_is_deleted_and_not_sent(tmp_path: Path) -> None:
    target = FakeTarget(room=0)
    async with a_spool(tmp_path / "spool", target) as spool:
        await stored(spool, target, b"a0", b"a1")
    store = open_store(tmp_path / "spool")()
    store.commit(Changes(progress=[(1, encode_settled([0, 1], 2))]))
    store.close()
    again = FakeTarget()
    async with a_spool(tmp_path / "spool", again) as spool:
        await until(lambda: not spool.streams.frame_count)
        await written(spool)
        assert on_disk(tmp_path / "spool") == []
        assert (again.data, again.counters.recovered_settled) == ([], 2)
        assert again.counters.unaccounted() == 0

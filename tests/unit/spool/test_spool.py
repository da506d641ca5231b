"""The promise of `stored`: answered after the commit, delivered in order, deleted when settled."""

import asyncio
import sqlite3
import threading
import weakref
from pathlib import Path

import pytest

from kdaemon.base.counters import DropReason, RefuseReason
from kdaemon.base.errors import RefusedError, SpoolError
from kdaemon.base.frame import Frame
from kdaemon.base.record import RecordResult
from kdaemon.spool import commit_queue
from kdaemon.spool import commits as commits_module
from kdaemon.spool import progress as progress_module
from kdaemon.spool.codec import encode_records
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.pending import STORED
from kdaemon.spool.schema import PAGE_BYTES, frame_bytes
from kdaemon.spool.spool import Spool
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes, NewFrame
from kdaemon.spool.view import StoreView
from kdaemon.spool.writes import STREAM_ROWS_MAX
from tests.kit.clock import HandClock
from tests.kit.patience import PATIENCE_S, until
from tests.kit.watching import before
from tests.unit.spool.rig import (
    DELIVERED,
    FakeTarget,
    a_frame,
    a_spool,
    failing_commits,
    open_store,
)


async def stored(spool: Spool, target: FakeTarget, *data: bytes) -> Frame:
    """Puts a frame and waits for its answer."""
    answered: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
    frame = a_frame(*data, on_settled=answered.set_result)
    assert spool.put(target, frame)
    return await asyncio.wait_for(answered, PATIENCE_S)


def rows(directory: Path) -> int:
    """Frames on disk, as another process sees them."""
    view = StoreView(str(directory))
    try:
        return sum(totals.frame_count for totals in view.stored_totals())
    finally:
        view.close()


async def test_a_frame_is_on_disk_before_it_is_answered_and_then_delivered(tmp_path: Path) -> None:
    target = FakeTarget()
    seen: list[int] = []

    async with a_spool(tmp_path / "spool", target) as spool:
        answered = asyncio.Event()

        def answer(frame: Frame) -> None:
            assert frame.results == [STORED, STORED]
            assert not target.frames, "answered before it is delivered"
            seen.append(rows(tmp_path / "spool"))
            answered.set()

        assert spool.put(target, a_frame(b"a", b"b", on_settled=answer))
        assert not seen, "not answered before the commit"
        await asyncio.wait_for(answered.wait(), PATIENCE_S)
        assert seen == [1]
        await until(lambda: target.data == [b"a", b"b"])
        assert target.counters.unaccounted() == 0


async def test_a_settled_frame_is_deleted(tmp_path: Path) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        await stored(spool, target, b"a")
        await stored(spool, target, b"b")
        target.settle(target.frames[0])
        await until(lambda: rows(tmp_path / "spool") == 1)
        assert spool.streams.frame_count == 1
    again = FakeTarget()
    async with a_spool(tmp_path / "spool", again):
        await until(lambda: again.data == [b"b"])


async def test_what_does_not_fit_into_memory_is_read_back_in_order(tmp_path: Path) -> None:
    target = FakeTarget(room=2)
    async with a_spool(tmp_path / "spool", target) as spool:
        for number in range(10):
            await stored(spool, target, b"%d" % number)
        assert target.data == [b"0", b"1"]
        assert target.counters.spooled == 8
        target.make_room(3)
        await until(lambda: len(target.frames) == 5)
        await stored(spool, target, b"10")
        target.make_room(100)
        await until(lambda: len(target.frames) == 11)
        assert target.data == [b"%d" % number for number in range(11)]
        assert target.counters.unaccounted() == 0


async def test_what_is_partly_delivered_is_not_sent_again_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "PROGRESS_INTERVAL_S", 0.01)
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        await stored(spool, target, b"a", b"b", b"c")
        await until(lambda: target.frames)
        (frame,) = target.frames
        frame.results = [DELIVERED, None, DELIVERED]
        frame.unsettled = 1
    again = FakeTarget()
    async with a_spool(tmp_path / "spool", again) as spool:
        await until(lambda: again.data == [b"b"])
        assert again.counters.recovered_settled == 2
        assert again.counters.unaccounted() == 0
        again.settle(again.frames[0])
        await until(lambda: rows(tmp_path / "spool") == 0)


async def test_a_refused_record_becomes_a_dead_letter_with_its_reason(tmp_path: Path) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        await stored(spool, target, b"good", b"bad")
        await until(lambda: target.frames)
        (frame,) = target.frames
        frame.attempt_counts = {1: 4}
        refused = RecordResult(error_code="ValidationException", error_message="too odd")
        target.settle(frame, [DELIVERED, refused])
        await until(lambda: rows(tmp_path / "spool") == 0)
    store = open_store(tmp_path / "spool")()
    (letter,) = store.letters.select(LetterFilter())
    store.close()
    assert (letter.stream, letter.partition_key, letter.data) == ("s", "k1", b"bad")
    assert (letter.reason, letter.code, letter.attempts) == ("poison", "ValidationException", 4)


async def test_a_disk_in_trouble_refuses_says_why_and_recovers_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits_module, "PROBE_INTERVAL_S", 0.01)
    target = FakeTarget()
    full = SpoolError("full", "/spool", "no space left on the disk")
    is_full = True

    def commit(store: Store, changes: Changes) -> None:
        if is_full:
            raise full

    before(monkeypatch, Store, "commit", commit)
    clock = HandClock()
    async with a_spool(tmp_path / "spool", target, clock=clock) as spool:
        frame = await stored(spool, target, b"a")
        assert frame.results[0] is not None
        assert "no space left" in (frame.results[0].error_message or "")
        assert str(spool.commits.trouble) == str(full)
        assert target.counters.rejected[RefuseReason.SPOOL] == 1
        assert target.counters.unaccounted() == 0
        with pytest.raises(RefusedError, match="no space left"):
            spool.put(target, a_frame(b"b"))
        clock.ns += 10**9
        is_full = False
        assert (await stored(spool, target, b"c")).results == [STORED]
        assert spool.commits.trouble is None
        await until(lambda: target.data == [b"c"])


async def test_deletions_owed_while_the_disk_failed_are_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits_module, "PROBE_INTERVAL_S", 0.01)
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        await stored(spool, target, b"a")
        await until(lambda: target.frames)
        failing_commits(monkeypatch, 3, SpoolError("io", "/spool", "input/output error"))
        target.settle(target.frames[0])
        await until(lambda: spool.commits.trouble is not None)
        await until(lambda: spool.commits.trouble is None)
        assert rows(tmp_path / "spool") == 0


async def test_a_trouble_that_is_over_leaves_nothing_owed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end comes before the probe: what was delivered would be sent again by the next start."""
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        await stored(spool, target, b"a")
        await until(lambda: target.frames)
        failing_commits(monkeypatch, 1, SpoolError("full", "/spool", "no space left on the disk"))
        target.settle(target.frames[0])
        await until(lambda: spool.commits.trouble is not None)
        assert rows(tmp_path / "spool") == 1
    assert rows(tmp_path / "spool") == 0


async def test_a_full_spool_takes_nothing_until_there_is_room(tmp_path: Path) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target, bytes_max=1024 * 1024) as spool:
        big = bytes(300_000)
        for _ in range(2):
            await stored(spool, target, big)
        taken = 2
        while spool.put(target, a_frame(big)):
            taken += 1
            assert taken < 10
        assert target.counters.received == taken, "what is not taken is not counted"
        called = asyncio.Event()
        spool.when_room(called.set)
        await until(lambda: len(target.frames) == taken)
        for frame in target.frames:
            target.settle(frame)
        await asyncio.wait_for(called.wait(), PATIENCE_S)
        await until(lambda: rows(tmp_path / "spool") == 0)
        assert (await stored(spool, target, big)).results == [STORED]


async def test_another_bound_holds_at_once_and_wakes_who_waits(tmp_path: Path) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target, bytes_max=1024 * 1024) as spool:
        big = bytes(300_000)
        await until(lambda: not spool.put(target, a_frame(big)))
        taken, called = target.counters.received, asyncio.Event()
        spool.when_room(called.set)
        spool.take_bytes_max(4 * 1024 * 1024)
        assert called.is_set()
        assert (await stored(spool, target, big)).results == [STORED]
        spool.take_bytes_max(1024 * 1024)
        assert not spool.put(target, a_frame(b"small"))
        await until(lambda: len(target.frames) == taken + 1)
        assert rows(tmp_path / "spool") == taken + 1, "nothing is deleted for it"


async def test_drop_oldest_with_a_lower_bound_drops_no_more_than_what_comes(tmp_path: Path) -> None:
    target = FakeTarget(room=0)
    target.drops_oldest = True
    async with a_spool(tmp_path / "spool", target) as spool:
        for number in range(8):
            await stored(spool, target, b"%d" % number + bytes(200_000))
        spool.take_bytes_max(1024 * 1024)
        await stored(spool, target, b"8" + bytes(200_000))
        dropped = target.counters.dropped
        await until(lambda: spool.commits.is_written and dropped[DropReason.SPOOL_FULL])
        target.make_room(100)
        await until(lambda: len(target.frames) == 9 - dropped[DropReason.SPOOL_FULL])
        assert 1 <= dropped[DropReason.SPOOL_FULL] <= 2
        assert target.data[-1].startswith(b"8")
        assert target.counters.unaccounted() == 0


async def test_drop_oldest_makes_room_and_counts_what_it_drops(tmp_path: Path) -> None:
    target = FakeTarget(room=0)
    target.drops_oldest = True
    async with a_spool(tmp_path / "spool", target, bytes_max=1024 * 1024) as spool:
        for number in range(12):
            data = b"%d" % number + bytes(200_000)
            await until(lambda data=data: spool.put(target, a_frame(data)))
        dropped = target.counters.dropped
        await until(lambda: spool.commits.is_written and dropped[DropReason.SPOOL_FULL])
        target.make_room(100)
        await until(lambda: len(target.frames) == 12 - dropped[DropReason.SPOOL_FULL])
        assert target.data[-1].startswith(b"11")
        assert target.counters.unaccounted() == 0


async def test_records_of_a_stream_that_is_not_taken_any_more_stay(tmp_path: Path) -> None:
    target = FakeTarget("gone", room=0)
    async with a_spool(tmp_path / "spool", target) as spool:
        await stored(spool, target, b"a")
    async with a_spool(tmp_path / "spool"):
        pass
    assert rows(tmp_path / "spool") == 1


@pytest.mark.parametrize("comes", ["a record", "another configuration", "both"])
async def test_records_of_a_stream_that_is_taken_again_go_before_what_comes(
    tmp_path: Path, comes: str
) -> None:
    """A reload lists it again, or a place for it becomes free."""
    directory, target = tmp_path / "spool", FakeTarget("back", room=0)
    async with a_spool(directory, target) as spool:
        for data in (b"1", b"2", b"3"):
            await stored(spool, target, data)
    target, new = FakeTarget("back"), []
    async with a_spool(directory) as spool:
        streams = spool.streams
        unlisted_bytes = streams.unlisted_bytes
        assert unlisted_bytes > 0
        if comes != "a record":
            for _ in spool.take_up(lambda _: target):
                await asyncio.sleep(0)
        if comes != "another configuration":
            new = [b"new"]
            await stored(spool, target, b"new")
        await until(lambda: target.data == [b"1", b"2", b"3", *new])
        assert target.counters.recovered == 3
        assert target.counters.unaccounted() == 0
        assert streams.unlisted_bytes == 0
        for frame in target.frames:
            target.settle(frame)
        await until(lambda: streams.frame_count == 0)
        assert not any(streams.upstream_bytes.values())
        assert spool.is_empty
    assert rows(directory) == 0


async def test_another_configuration_that_takes_none_of_them_leaves_them(tmp_path: Path) -> None:
    directory, target = tmp_path / "spool", FakeTarget("gone", room=0)
    async with a_spool(directory, target) as spool:
        await stored(spool, target, b"a")

    def find(_: str) -> FakeTarget:
        raise RefusedError("ResourceNotFoundException", "not listed")

    async with a_spool(directory) as spool:
        assert not list(spool.take_up(find))
        assert [each.stream for each in spool.streams.not_taken] == ["gone"]
        assert not spool.is_empty  # who delivers for a worker that is no more stays for it
    assert rows(directory) == 1


# Many names, and streams that nobody listed


async def test_a_full_spool_keeps_nothing_for_names_that_have_nothing(tmp_path: Path) -> None:
    async with a_spool(tmp_path / "spool", bytes_max=1) as spool:
        gone: list[weakref.ref[FakeTarget]] = []
        for number in range(500):
            target = FakeTarget(f"name-{number}")
            target.drops_oldest = number % 2 == 0
            gone.append(weakref.ref(target))
            assert not spool.put(target, a_frame(b"x"), is_listed=number % 3 == 0)
        del target
        assert [ref for ref in gone if ref() is not None] == []
        assert not list(spool.streams)
        assert spool.streams.unlisted_bytes == 0


async def test_names_whose_frames_are_settled_are_forgotten_in_memory_and_on_disk(
    tmp_path: Path,
) -> None:
    async with a_spool(tmp_path / "spool") as spool:
        kept = FakeTarget("kept")
        await stored(spool, kept, b"kept")
        for number in range(STREAM_ROWS_MAX + 20):
            target = FakeTarget(f"name-{number}")
            await stored(spool, target, b"x")
            target.settle(target.frames[0])
            frame = weakref.ref(target)
            del target
            assert frame() is None, "no cycle holds what is settled"
        assert [spooled.target.name for spooled in spool.streams] == ["kept"]
        await until(lambda: rows(tmp_path / "spool") == 1)
        assert spool.streams.frame_count == 1
    with sqlite3.connect(tmp_path / "spool" / "spool.db") as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM stream ORDER BY key")]
    connection.close()
    assert "kept" in names
    assert len(names) <= STREAM_ROWS_MAX
    assert "name-10" not in names


async def test_a_name_that_is_forgotten_keeps_its_order_when_it_comes_again(tmp_path: Path) -> None:
    target = FakeTarget()
    async with a_spool(tmp_path / "spool", target) as spool:
        for number in range(20):
            answer = stored(spool, target, b"%d" % number)
            second = a_frame(b"%d-second" % number)
            assert not spool.commits.trouble
            task = asyncio.ensure_future(answer)
            await asyncio.sleep(0)
            assert spool.put(target, second)
            await task
            await until(lambda number=number: len(target.frames) == 2 * number + 2)
            for frame in target.frames[-2:]:
                target.settle(frame)
        assert target.data == [
            data for number in range(20) for data in (b"%d" % number, b"%d-second" % number)
        ]
        assert not list(spool.streams)


async def test_streams_that_are_not_listed_have_half_of_the_disk_together(tmp_path: Path) -> None:
    listed, *unlisted = targets = [FakeTarget(name, room=0) for name in ("listed", "a", "b")]
    directory = tmp_path / "spool"
    data = bytes(10_000)
    bytes_max = 1024 * 1024
    async with a_spool(directory, *targets, bytes_max=bytes_max) as spool:
        taken = 0
        while spool.put(unlisted[taken % 2], a_frame(data), is_listed=False):
            taken += 1
        assert taken == bytes_max // 2 // PAGE_BYTES, "more than half a page takes a page"
        for _ in range(10):
            await stored(spool, listed, data)
        assert not spool.put(unlisted[0], a_frame(data), is_listed=False)
    # The same after a restart, until something of theirs is settled.
    async with a_spool(directory, *targets, bytes_max=bytes_max, listed={"listed"}) as spool:
        assert not spool.put(unlisted[0], a_frame(data), is_listed=False)
        assert spool.put(listed, a_frame(data))
        for target in unlisted:
            target.make_room(5)
        await until(lambda: len(unlisted[0].frames) == len(unlisted[1].frames) == 5)
        for target in unlisted:
            for frame in target.frames:
                target.settle(frame)
        assert spool.put(unlisted[0], a_frame(data), is_listed=False)
    # Of streams that are not taken any more, too.
    async with a_spool(directory, listed, bytes_max=bytes_max) as spool:
        small = a_frame(bytes(100))
        assert spool.streams.unlisted_bytes > bytes_max // 3
        assert spool.put(FakeTarget("c"), small, is_listed=False)
    async with a_spool(directory, *targets, bytes_max=bytes_max) as spool:
        assert spool.streams.unlisted_bytes < PAGE_BYTES, "of c alone: the others are listed now"


async def test_an_upstream_that_is_down_leaves_a_part_of_the_disk_to_the_others(
    tmp_path: Path,
) -> None:
    """However many streams it has; also after a restart, and if it is configured no more."""
    directory, bytes_max, data = tmp_path / "spool", 64 * PAGE_BYTES, bytes(9_000)
    down = [FakeTarget(f"@eu/{number}", room=0) for number in range(4)]
    well, other = FakeTarget("well"), FakeTarget("@ya/s", room=0)

    def fill(spool: Spool, *targets: FakeTarget) -> int:
        taken = 0
        while spool.put(targets[taken % len(targets)], a_frame(data)):
            taken += 1
        return taken

    targets = (*down, well, other)
    async with a_spool(directory, *targets, bytes_max=bytes_max, has_upstreams=True) as spool:
        pages = (bytes_max - spool.space.live_bytes) // PAGE_BYTES
        assert fill(spool, *down) == pytest.approx(pages * 3 // 4, abs=1)
        assert fill(spool, other) >= pages // 8
        await stored(spool, well, data)
    async with a_spool(directory, well, other, bytes_max=bytes_max, has_upstreams=True) as spool:
        assert not spool.put(FakeTarget("@eu/new"), a_frame(data))
        await stored(spool, well, data)
    async with a_spool(directory, *targets, bytes_max=bytes_max, has_upstreams=True) as spool:
        for target in down:
            target.make_room(100)
        await until(lambda: sum(len(target.frames) for target in down) >= pages * 3 // 4 - 1)
        for target in down:
            for frame in target.frames:
                target.settle(frame)
        await until(lambda: spool.streams.upstream_bytes["eu"] == 0)


@pytest.mark.parametrize("payload_bytes", [1, 300, 3000, 8100, 8300, 16_300, 16_400, 33_000])
async def test_what_a_frame_takes_of_the_disk_is_known_before(
    tmp_path: Path, payload_bytes: int
) -> None:
    store = open_store(tmp_path)()
    before = store.sizes.live_bytes
    count = 1 + 1_000_000 // payload_bytes
    frames = [NewFrame(one, "s", 1, 0, bytes(payload_bytes)) for one in range(1, count % 10_000)]
    store.commit(Changes(appended=frames))
    taken = store.sizes.live_bytes - before
    store.close()
    assert taken * 0.95 - PAGE_BYTES * 2 <= frame_bytes(payload_bytes) * len(frames) <= taken * 1.3


async def test_an_unlisted_stream_that_drops_its_oldest_drops_its_own(tmp_path: Path) -> None:
    stranger, listed = FakeTarget("stranger", room=0), FakeTarget("listed", room=0)
    stranger.drops_oldest = True
    bytes_max = 1024 * 1024
    async with a_spool(tmp_path / "spool", stranger, listed, bytes_max=bytes_max) as spool:
        await stored(spool, listed, b"first")
        for _ in range(60):
            assert await until_put(spool, stranger, bytes(20_000))
        assert stranger.counters.dropped[DropReason.SPOOL_FULL] > 20
        assert listed.counters.dropped[DropReason.SPOOL_FULL] == 0
        # The last one may have been taken while what makes room for it is on its way.
        await until(lambda: spool.streams.unlisted_bytes <= bytes_max // 2)


async def until_put(spool: Spool, target: FakeTarget, data: bytes) -> bool:
    """As a client that asks again."""
    await until(lambda: spool.put(target, a_frame(data), is_listed=False))
    return True


async def test_who_waits_for_room_is_asked_once_however_often_it_asks(tmp_path: Path) -> None:
    class Session:
        count = 0

        def again(self) -> None:
            self.count += 1

    async with a_spool(tmp_path / "spool") as spool:
        waiting, closed, counts = Session(), Session(), []
        for _ in range(100):
            spool.when_room(waiting.again)
        spool.when_room(closed.again)
        spool.when_room(lambda: counts.append(ref() is not None))
        ref = weakref.ref(closed)
        del closed
        await stored(spool, FakeTarget(), b"x")
        await stored(spool, FakeTarget(), b"y")
        assert waiting.count == 1
        assert counts == [True], "one that is closed may still have lines to put"


@pytest.mark.parametrize("client_count", [1, 30], ids=["one client", "30 clients"])
@pytest.mark.parametrize("is_same_stream", [True, False], ids=["same stream", "another stream"])
async def test_a_flood_does_not_make_anothers_commit_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_same_stream: bool, client_count: int
) -> None:
    """A small frame that comes while many large ones wait is in the commit after the one that is on
    its way.
    """
    monkeypatch.setattr(commit_queue, "FRAME_COST", 1)
    monkeypatch.setattr(commit_queue, "COMMIT_BYTES_MAX", 4_000)
    flooded, other = FakeTarget("flooded"), FakeTarget("other")
    commits: list[list[bytes]] = []

    def commit(_store: Store, changes: Changes) -> None:
        commits.append([frame.payload for frame in changes.appended])

    before(monkeypatch, Store, "commit", commit)
    async with a_spool(tmp_path / "spool", flooded, other) as spool:
        for number in range(400):
            frame = a_frame(b"flood-%d-" % number + bytes(1_000))
            frame.client = 1 + number % client_count
            assert spool.put(flooded, frame)
        await until(lambda: len(commits) >= 12)
        quiet = a_frame(b"quiet")
        quiet.client = 99
        seen = len(commits)
        assert spool.put(flooded if is_same_stream else other, quiet)
        await until(lambda: len(flooded.frames) + len(other.frames) == 401)
        (found,) = (
            number
            for number, payloads in enumerate(commits)
            if encode_records(quiet.records) in payloads
        )
        assert found <= seen + 1, "0 or 1 after the one that is on its way"
        own = [int(data.split(b"-")[1]) for data in flooded.data if data.startswith(b"flood")]
        for client in range(client_count):
            numbers = [number for number in own if number % client_count == client]
            assert numbers == sorted(numbers), "a client's own keep their order"


async def test_a_commit_does_not_wait_for_the_reads_of_many_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a restart all streams read what they have on disk at once."""
    full = [FakeTarget(f"s{number}", room=0) for number in range(20)]
    async with a_spool(tmp_path / "spool", *full) as spool:
        for target in full:
            await stored(spool, target, b"a")
    ran: list[str] = []
    may_read = threading.Event()

    def read(store: Store, stream: str, after_id: int, byte_count: int, until_id: int) -> None:
        assert may_read.wait(PATIENCE_S)
        ran.append("read")

    def commit(store: Store, changes: Changes) -> None:
        ran.append("commit")

    before(monkeypatch, Store, "read", read)
    before(monkeypatch, Store, "commit", commit)
    for target in full:
        target.room = 10
    quiet = FakeTarget("quiet")
    async with a_spool(tmp_path / "spool", *full, quiet) as spool:
        answered: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        assert spool.put(quiet, a_frame(b"b", on_settled=answered.set_result))
        may_read.set()
        await asyncio.wait_for(answered, PATIENCE_S)
        assert ran.index("commit") <= 1, "behind the read that is on its way, at most"
        await until(lambda: all(target.frames for target in full))

"""The memory of what waits for its commit: frames, and dead letters."""

from pathlib import Path

import pytest

from kdaemon.base.errors import SpoolError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import RecordResult
from kdaemon.spool.letters import DeadLetter
from kdaemon.spool.owed import DONE, PIECES_A_COMMIT, Owed
from kdaemon.spool.pending import STORED
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes, Committed
from tests.kit.patience import until
from tests.unit.spool.rig import MIB, FakeTarget, a_frame, a_spool, failing_commits


async def test_what_is_written_has_its_memory_twice_until_its_commit(tmp_path: Path) -> None:
    """Its records, and the same bytes on their way to the disk."""
    memory, target = ByteBudget(64 * MIB), FakeTarget()
    async with a_spool(tmp_path, target, memory=memory) as spool:
        told: list[int] = []
        frames = [
            a_frame(bytes(MIB), on_settled=lambda _: told.append(memory.bytes_taken))
            for _ in range(10)
        ]
        for number, frame in enumerate(frames, 1):
            assert spool.put(target, frame)
            assert memory.bytes_taken >= number * (frame.footprint_bytes + MIB)
        await until(lambda: len(told) >= len(frames))
        assert memory.bytes_taken == 0  # the fake engine takes none
        assert told[-1] == 0


async def test_a_frame_of_half_the_memory_is_stored_and_more_beside_it_is_not(
    tmp_path: Path,
) -> None:
    memory, target = ByteBudget(4 * MIB), FakeTarget()
    async with a_spool(tmp_path, target, memory=memory) as spool:
        told: list[Frame] = []
        assert spool.put(target, a_frame(bytes(3 * MIB), on_settled=told.append))
        assert not spool.put(target, a_frame(bytes(MIB)))
        await until(lambda: told)
        assert told[0].results[0] == STORED


# Dead letters that wait for the disk


def letter(number: int, byte_count: int = 10_000) -> DeadLetter:
    return DeadLetter("s", f"k{number}", None, bytes(byte_count), "poison", "No", "no", 1, 0, 0)


def test_letters_have_memory_until_they_are_written_and_what_has_none_is_told() -> None:
    memory = ByteBudget(MIB)
    owed = Owed(lambda: None, memory)
    dropped = sum(owed.bury([letter(number)]) for number in range(200))
    assert 90 < dropped < 100 + 10
    assert memory.free_bytes() < letter(0).footprint_bytes
    failed = Changes()
    owed.take_into(failed)
    owed.owe(7, DONE, [letter(300)])  # of a record that stands on disk: its row is about to go
    owed.put_back()
    written = Changes()
    owed.take_into(written)
    assert len(written.dead) == 200 - dropped + 1
    assert written.settled == [7]
    owed.written()
    assert memory.bytes_taken == 0
    assert owed.is_empty
    assert owed.bury([letter(1)]) == 0


def test_a_commit_takes_a_part_of_what_is_owed_in_its_order_and_letters_with_their_rows() -> None:
    memory = ByteBudget(64 * MIB)
    owed = Owed(lambda: None, memory)
    for number in range(1, 3_001):
        owed.owe(number, b"some")
        owed.owe(number, DONE, [letter(number, 10)] if number % 10 == 0 else [])
    owed.owe(4_000, DONE, [letter(4_000, 10)] * 5_000)  # one frame, which no bound parts
    seen, commits = list[int](), 0
    while not owed.is_empty:
        changes = Changes()
        owed.take_into(changes)
        commits += 1
        if commits % 3 == 1:  # it fails
            owed.put_back()
            continue
        rows = len(changes.settled) + len(changes.progress)
        letters = len(changes.dead) - 5_000 * (4_000 in changes.settled)
        assert rows + letters <= PIECES_A_COMMIT + 1
        assert owed.has_more is not owed.is_empty
        buried = {int(each.partition_key[1:]) for each in changes.dead}
        assert buried == {each for each in changes.settled if each % 10 == 0}
        seen += changes.settled
        owed.written()
    assert seen == [*range(1, 3_001), 4_000]
    assert not owed.unwritten
    assert memory.bytes_taken == 0


@pytest.mark.parametrize("has_trouble", [False, True], ids=["well", "full"])
async def test_deletions_of_thousands_of_frames_go_in_commits_one_after_the_other(
    tmp_path: Path, *, has_trouble: bool
) -> None:
    """Nobody waits for a second, or for a client, until the next one."""
    sizes, target = list[int](), FakeTarget()

    class CountedStore(Store):
        def commit(self, changes: Changes) -> Committed:
            if changes.settled:
                sizes.append(len(changes.settled))
            return super().commit(changes)

    def open_counted() -> Store:
        return CountedStore(str(tmp_path / "s"), letters_bytes_max=MIB, wall_ms=lambda: 1_000)

    count = 3 * PIECES_A_COMMIT
    async with a_spool(tmp_path, target, store=open_counted) as spool:
        for number in range(count):
            assert spool.put(target, a_frame(b"%d" % number))
        await until(lambda: len(target.frames) >= count)
        if has_trouble:
            spool.commits.trouble = SpoolError("full", "s", "no space left")
        for frame in target.frames:
            target.settle(frame)
        await until(lambda: spool.commits.is_written)
    assert sum(sizes) == count
    assert max(sizes) == PIECES_A_COMMIT
    assert len(sizes) == 3


async def test_the_end_writes_all_that_is_owed_in_as_many_commits_as_that_takes(
    tmp_path: Path,
) -> None:
    target, count = FakeTarget(), 2 * PIECES_A_COMMIT + 1
    async with a_spool(tmp_path, target) as spool:
        for number in range(count):
            assert spool.put(target, a_frame(b"%d" % number))
        await until(lambda: len(target.frames) >= count)
        for frame in target.frames:
            target.settle(frame)
        spool.commits.trouble = SpoolError("full", "s", "no space left")
    store = Store(str(tmp_path), letters_bytes_max=MIB, wall_ms=lambda: 1_000)
    assert store.stored_totals() == []
    store.close()


async def test_a_disk_in_trouble_fills_no_memory_with_letters_and_the_dropped_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory, target = ByteBudget(MIB), FakeTarget()
    async with a_spool(tmp_path, target, memory=memory) as spool:
        spool.commits.trouble = SpoolError("full", "s", "no space left")
        for _ in range(300):
            frame = a_frame(bytes(10_000))
            frame.results = [RecordResult(error_code="ValidationException", error_message="No.")]
            frame.attempt_counts = {0: 1}
            spool.bury_dead_of("s", frame)
        assert memory.bytes_taken <= MIB
        assert 150 < spool.commits.counters.letters_dropped < 300
        assert "there is no memory for them" in caplog.text
        await until(lambda: not memory.bytes_taken)  # the disk takes them after all


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_client_that_cannot_be_told_holds_up_nobody(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    is_stored: bool,
) -> None:
    """A defect of what one client is told by: what is stored goes on, and others are told."""
    target, told = FakeTarget(), list[Frame]()

    def fail(_frame: object = None) -> None:
        raise ValueError("a defect")

    async with a_spool(tmp_path, target) as spool:
        if not is_stored:
            failing_commits(monkeypatch, 1, SpoolError("io", "s", "no disk"))
        spool.when_room(fail)
        assert spool.put(target, a_frame(b"a", on_settled=fail))
        assert spool.put(target, a_frame(b"b", on_settled=told.append))
        await until(lambda: told and not spool.commits.is_under_way)
        assert len(target.frames) == (2 if is_stored else 0)
        assert target.counters.unaccounted() == target.counters.spooled == 0
    assert caplog.text.count("a defect of kdaemon") == 2

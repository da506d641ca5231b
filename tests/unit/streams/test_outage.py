"""An outage of many streams: what stands on disk takes its part of the memory and no more, a stream
that is well is served, and all of it is delivered when the outage is over.
"""

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kdaemon.base.admission import make_frame
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.config.load import load_config
from kdaemon.observe.readiness import is_memory_full
from kdaemon.spool.spool import Spool
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes
from kdaemon.streams import Streams
from kdaemon.system import SystemClock
from tests.kit.observing import delivered_by
from tests.kit.patience import until
from tests.kit.stores import new_frame, open_store
from tests.kit.streams import FakeService, FixedDice, found, reaches

MIB = 1024 * 1024
MEMORY = 16 * MIB
RECORDS = 100  # of a frame, which holds 60 KiB
FRAMES = 20  # of a stream
NAMES = [f"s{number}" for number in range(90)]

ACKNOWLEDGES = [Acknowledge.ACCEPTED, Acknowledge.STORED, Acknowledge.DELIVERED]

SETTINGS = f"""
memory_bytes_max = {MEMORY}
[default]
linger_ms = 0
shard_records_per_second = 1000000000
shard_bytes_per_second = 1000000000
"""


Fill = Callable[..., None]


@pytest.fixture(scope="module")
def fill(tmp_path_factory: pytest.TempPathFactory) -> Fill:
    """Gives an empty directory the spool of an outage. What several tests begin with is made once,
    and copied.
    """

    @cache
    def made(*how: Any) -> Path:
        directory = tmp_path_factory.mktemp("outage")
        append(directory, *how)
        return directory

    def copy(
        directory: Path, names: list[str], *, frames: int = FRAMES, record_bytes: int = 100
    ) -> None:
        shutil.copytree(made(tuple(names), frames, record_bytes), directory, dirs_exist_ok=True)

    return copy


def append(
    directory: Path, names: Sequence[str], frames: int = FRAMES, record_bytes: int = 100
) -> None:
    """Frames of all streams, in turns."""
    store = open_store(directory)
    ids = iter(range(store.next_id, 10**6))
    for _ in range(frames):
        appended = [new_frame(next(ids), name, RECORDS, record_bytes) for name in names]
        store.commit(Changes(appended=appended))
    store.close()


@asynccontextmanager
async def restarted(
    directory: Path, service: FakeService, names: list[str]
) -> AsyncIterator[tuple[Streams, Spool, ByteBudget]]:
    """A registry whose spool has been recovered."""
    listed = "".join(f"[streams.{name}]\n" for name in names)
    config = load_config(text=SETTINGS + listed)
    memory, clock = ByteBudget(config.memory_bytes_max), SystemClock()
    spool = Spool(
        lambda: Store(str(directory), letters_bytes_max=MIB, wall_ms=lambda: 1_000),
        1024 * MIB,
        memory,
        clock,
    )
    await spool.open()
    streams = Streams(config, reaches(default=service), clock, FixedDice(), memory, spool)
    at_once(streams.open_listed())
    await spool.recover(streams.find_stored)
    try:
        yield streams, spool, memory
    finally:
        await streams.give_up()
        await streams.aclose()
        await spool.aclose()


async def all_wait(spool: Spool) -> None:
    """Until every stream has read what it may."""
    lanes = list(spool.streams)

    def is_still() -> bool:
        return all(lane.is_waiting_for_room or lane.position.is_read for lane in lanes)

    await until(is_still)


def a_frame(acknowledge: Acknowledge, told: list[Frame]) -> Frame:
    records = [Record(bytes(1_000), f"k{number}") for number in range(500)]
    return make_frame(records, [1_004] * 500, acknowledge, told.append, None)


async def test_streams_restarted_in_an_outage_read_what_they_may_and_all_is_delivered(
    tmp_path: Path, fill: Fill
) -> None:
    fill(tmp_path, NAMES)
    service = FakeService()
    service.answer.clear()
    async with restarted(tmp_path, service, NAMES) as (streams, spool, memory):
        await all_wait(spool)
        assert MEMORY / 3 < memory.bytes_taken <= MEMORY * 3 / 4
        held = [found(streams, name).engine.ledger.footprint_bytes for name in NAMES]
        ahead = [lane.share.ahead_bytes for lane in spool.streams]
        assert memory.bytes_taken == sum(held) + sum(ahead)
        assert not is_memory_full(memory)
        service.answer.set()
        await until(lambda: not spool.streams.frame_count)
        assert delivered_by(streams) == len(NAMES) * FRAMES * RECORDS
        assert memory.bytes_taken == 0


async def serves(
    streams: Streams, name: str, acknowledge: Acknowledge, count: int, before: int = 0
) -> None:
    """So many frames, one after the other, are acknowledged and delivered."""
    well, told = found(streams, name), list[Frame]()
    for number in range(count):  # 0.8 MiB each, as it is held
        frame = a_frame(acknowledge, told)
        if acknowledge is Acknowledge.STORED:
            assert well.store(frame) is None
        else:
            assert well.submit(frame)
        await until(lambda count=number + 1: len(told) == count)
    assert all(result and result.error_code is None for f in told for result in f.results)
    await until(lambda: delivered_by(streams) == before + count * 500)


@pytest.mark.parametrize("acknowledge", ACKNOWLEDGES)
@pytest.mark.parametrize("ill_count", [8, 89])
@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "later"])
async def test_streams_that_are_held_up_leave_memory_to_one_that_is_well(
    tmp_path: Path, fill: Fill, acknowledge: Acknowledge, ill_count: int, *, is_late: bool
) -> None:
    """Also where its first frame comes when they have all that they may have."""
    ill = NAMES[:ill_count]
    fill(tmp_path, ill * (89 // ill_count))
    service = FakeService()
    service.missing.update(ill)
    async with restarted(tmp_path, service, [*ill, "well"]) as (streams, spool, memory):
        await until(lambda: memory.bytes_taken > MEMORY / 4)
        if is_late:
            await all_wait(spool)
        await serves(streams, "well", acknowledge, 24)  # more than all of the memory
        assert memory.bytes_taken <= MEMORY * 3 / 4
        assert not is_memory_full(memory)


@pytest.mark.parametrize("acknowledge", ACKNOWLEDGES)
@pytest.mark.parametrize("illness", ["missing", "denied", "denied late"])
@pytest.mark.parametrize("are_listed", [False, True], ids=["unlisted", "listed"])
async def test_ill_streams_with_large_first_frames_leave_a_place_to_one_that_is_well(
    tmp_path: Path, fill: Fill, acknowledge: Acknowledge, illness: str, *, are_listed: bool
) -> None:
    """What stands on disk of it is delivered after the restart, too, though theirs stands before;
    all of theirs are in the memory as far as they may be when it comes. `late`: no call of anybody
    returns before that.
    """
    ill = NAMES[:89]
    fill(tmp_path, ill, frames=2, record_bytes=4_000)  # 0.4 MiB each, as it is held
    append(tmp_path, ["well"], frames=4)
    service = FakeService()
    (service.missing if illness == "missing" else service.denied).update(ill)
    listed = [*ill, "well"] if are_listed else ["well"]
    async with restarted(tmp_path, service, listed) as (streams, spool, memory):
        if illness == "denied late":
            service.answer.clear()
            await all_wait(spool)
            service.answer.set()
        await until(lambda: delivered_by(streams) == 4 * RECORDS)
        await all_wait(spool)
        await serves(streams, "well", acknowledge, 10, before=4 * RECORDS)
        assert spool.streams.room.footprint_bytes <= MEMORY * 3 / 4
        # Letters of missing streams' records have memory until they are written.
        await until(lambda: memory.bytes_taken <= MEMORY * 3 / 4)


async def test_an_outage_ends_for_streams_that_had_no_room_but_for_a_first_frame(
    tmp_path: Path, fill: Fill
) -> None:
    """Each is probed in its turn, and all is delivered."""
    fill(tmp_path, NAMES, frames=2, record_bytes=4_000)
    service = FakeService()
    service.denied.update(NAMES)
    async with restarted(tmp_path, service, NAMES) as (streams, spool, memory):
        await all_wait(spool)
        await until(lambda: {target.name for target, _ in service.calls} == set(NAMES))
        assert MEMORY / 3 < memory.bytes_taken <= MEMORY * 5 / 8
        service.denied.clear()
        await until(lambda: not spool.streams.frame_count)
        assert delivered_by(streams) == len(NAMES) * 2 * RECORDS
        assert memory.bytes_taken == 0

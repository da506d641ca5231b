"""From the disk to the engine: the frames of a stream enter it in the order of their ids, whatever
else happens meanwhile.
"""

import asyncio
import random
from pathlib import Path

import pytest

from kdaemon.base.counters import DropReason
from kdaemon.base.frame import Frame
from kdaemon.spool import delivery as delivery_module
from kdaemon.spool import room as room_module
from tests.kit.depth import some
from tests.kit.patience import until
from tests.unit.spool.rig import FakeTarget, a_frame, a_spool, open_store

ROUNDS = 120
PAYLOAD_BYTES = 20_000


def numbers(target: FakeTarget) -> list[int]:
    return [int(data[:8]) for data in target.data]


def a_number(number: int) -> Frame:
    return a_frame(b"%08d" % number + bytes(PAYLOAD_BYTES))


@pytest.mark.parametrize("seed", some(range(6)))
async def test_frames_enter_their_engine_in_the_order_of_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Room comes and goes, reads are short, the oldest are dropped, the daemon starts again."""
    monkeypatch.setattr(room_module, "READ_BYTES_MAX", 3 * PAYLOAD_BYTES)
    monkeypatch.setattr(room_module, "READ_BYTES_MIN", PAYLOAD_BYTES)
    monkeypatch.setattr(delivery_module, "READ_AGAIN_S", 0.001)
    dice = random.Random(seed)
    put_count = delivered_count = 0
    for _life in range(3):
        target = FakeTarget(room=dice.randrange(4))
        target.drops_oldest = seed % 2 == 1
        bytes_max = 900_000 if target.drops_oldest else 64 << 20
        open_frames: list[Frame] = []
        taken = 0
        async with a_spool(tmp_path / "spool", target, bytes_max=bytes_max) as spool:
            for _ in range(ROUNDS):
                roll = dice.random()
                if roll < 0.5:
                    for _ in range(dice.randrange(4)):
                        put_count += spool.put(target, a_number(put_count))
                elif roll < 0.7:
                    target.make_room(dice.randrange(4))
                open_frames += target.frames[taken:]
                taken = len(target.frames)
                while open_frames and dice.random() < 0.5:
                    delivered_count += 1
                    target.settle(open_frames.pop(dice.randrange(len(open_frames))))
                for _ in range(dice.randrange(6)):
                    await asyncio.sleep(0)
                if dice.random() < 0.1:
                    await asyncio.sleep(0.002)
            assert target.counters.unaccounted() == 0, f"seed {seed}"
        seen = numbers(target)
        assert seen == sorted(set(seen)), f"seed {seed}"
    last = FakeTarget()
    async with a_spool(tmp_path / "spool", last) as spool:
        await until(lambda: len(last.frames) == spool.streams.frame_count)
        assert numbers(last) == sorted(numbers(last)), f"seed {seed}"
        assert last.counters.unaccounted() == 0
        if seed % 2 == 0:
            assert delivered_count + len(last.frames) == put_count, f"seed {seed}: lost"


async def test_the_oldest_are_dropped_also_when_they_were_read_and_found_no_room(
    tmp_path: Path,
) -> None:
    """An outage: the engine takes nothing, and what was read ahead stays where it is."""
    target = FakeTarget(room=1)
    target.drops_oldest = True
    async with a_spool(tmp_path / "spool", target, bytes_max=1 << 20) as spool:
        for number in range(60):
            await until(lambda number=number: spool.put(target, a_number(number)))
            await until(lambda: spool.commits.is_written)
        target.make_room(100)
        dropped = target.counters.dropped
        await until(lambda: len(target.frames) + dropped[DropReason.SPOOL_FULL] == 60)
        assert target.data[0].startswith(b"%08d" % 0)
        assert numbers(target)[1:] == list(range(60))[1 - len(target.frames) :]
        assert target.counters.unaccounted() == 0


async def test_a_frame_on_its_way_is_not_dropped_beside_its_delivery(tmp_path: Path) -> None:
    """Its commit has not come back yet when room is made: it is dropped or delivered, not both."""
    target = FakeTarget()
    target.drops_oldest = True
    async with a_spool(tmp_path / "spool", target, bytes_max=1 << 20) as spool:
        assert spool.put(target, a_frame(bytes(700_000)))
        assert spool.put(target, a_frame(bytes(700_000)))  # the disk is full: the oldest goes
        counters = target.counters
        await until(
            lambda: (
                len(target.frames) + counters.dropped[DropReason.SPOOL_FULL] + counters.spooled == 2
            )
        )
        await until(lambda: not counters.spooled)
        assert counters.unaccounted() == 0
        for frame in target.frames:
            target.settle(frame)
        assert spool.streams.frame_count == 0
        assert counters.delivered + counters.dropped[DropReason.SPOOL_FULL] == 2


async def test_a_stream_that_was_closed_and_opened_again_gets_its_frames(tmp_path: Path) -> None:
    """An idle stream may be closed to make room for another (`streams_max`), and come back."""
    first, again = FakeTarget(), FakeTarget()
    async with a_spool(tmp_path / "spool", first) as spool:
        assert spool.put(first, a_frame(b"a"))
        await until(lambda: first.frames)
        first.settle(first.frames[0])
        assert spool.put(again, a_frame(b"b"))
        await until(lambda: again.frames or len(first.frames) == 2)
        assert (first.data, again.data) == ([b"a"], [b"b"])
        again.settle(again.frames[0])
    store = open_store(tmp_path / "spool")()
    assert store.stored_totals() == []
    store.close()

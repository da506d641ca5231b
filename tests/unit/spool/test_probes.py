"""A stream that is not known to be well, where others have the memory: one record at a time is
tried, the rest stays on disk, and nothing of it is lost, sent twice or out of order.
"""

from pathlib import Path

import pytest

from kdaemon.base.memory import ByteBudget
from kdaemon.engine.health import Health
from kdaemon.engine.ways import Way
from kdaemon.spool import delivery as delivery_module
from kdaemon.spool.left import Left, Mark
from tests.kit.patience import until
from tests.unit.spool.rig import MIB, FakeTarget, a_spool
from tests.unit.spool.test_parts import stored

NOT_WELL = [Health.ILL, Health.UNTRIED, Health.TOLD]
DATA = [b"%03d" % number for number in range(6)]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "PAUSE_S_MIN", 0.001)
    monkeypatch.setattr(delivery_module, "READ_AGAIN_S", 0.01)


def test_a_probe_is_the_smallest_record_that_is_the_first_of_its_order() -> None:
    left = Left()
    ways = [
        Way("a", "a", [0, 3], 210, is_full=False),
        Way("b", "b", [1, 2], 105, is_full=False),
    ]
    assert left.take(7, 700, ways, is_again=False) == ways
    probe = left.probe(7, 700, ways, [200, 100, 5, 10])
    assert probe == Way("b", "b", [1], 100, is_full=False)
    assert left.marks == {"a": Mark(6, 700, "a"), "b": Mark(6, 700, "b")}
    left.begin(6)
    rest = [Way("a", "a", [0, 2], 210, is_full=False), Way("b", "b", [1], 5, is_full=False)]
    assert left.take(7, 700, rest, is_again=True) == rest
    left.end(7, 7)
    assert left.is_empty


@pytest.mark.parametrize("health", NOT_WELL)
async def test_one_record_is_tried_and_the_rest_comes_when_the_stream_is_well(
    tmp_path: Path, health: Health
) -> None:
    target = FakeTarget()
    target.health = health
    async with a_spool(tmp_path, target, memory=ByteBudget(16 * MIB)) as spool:
        others = spool.streams.get(FakeTarget("others"), is_listed=True)
        spool.streams.room.add(others.share, 8 * MIB)
        await stored(spool, target, *DATA[:3])
        await stored(spool, target, *DATA[3:])
        await until(lambda: target.data)
        assert target.data == DATA[:1]
        target.health = Health.WELL
        settled = 0
        while spool.streams.frame_count:
            await until(
                lambda count=settled: len(target.frames) > count or not spool.streams.frame_count
            )
            for frame in target.frames[settled:]:
                settled += 1
                target.settle(frame)
        assert sorted(target.data) == DATA
        for key in range(3):
            of_key = [each for each in target.data if int(each) % 3 == key]
            assert of_key == sorted(of_key)


async def test_a_probe_that_is_refused_again_and_again_stays_the_only_record(
    tmp_path: Path,
) -> None:
    target = FakeTarget()
    target.health = Health.ILL
    async with a_spool(tmp_path, target, memory=ByteBudget(16 * MIB)) as spool:
        others = spool.streams.get(FakeTarget("others"), is_listed=True)
        spool.streams.room.add(others.share, 8 * MIB)
        for data in DATA:
            await stored(spool, target, data, data)
        spooled = spool.streams.get(target, is_listed=True)
        await until(lambda: spooled.is_waiting_for_room)
        assert len(target.data) == 1
        assert spooled.share.ahead_bytes == 0, "what is ahead is others'"

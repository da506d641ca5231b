"""Where lanes begin on a stream that the service keeps warm, in each regime and as it changes."""

import pytest

from kdaemon.base.description import Capacity, OpenShard
from kdaemon.base.steps import at_once
from kdaemon.pack.packer import Packer
from kdaemon.pack.queues import Queues
from kdaemon.pack.shard_lanes import LANES_A_STEP
from tests.kit.frames import MS, SECOND, describe, even_shards
from tests.kit.queues import make_queues

RECORDS, BYTES = 1000, 1_000_000
FIRST = 0.065
WARM = 0.5


def start(part: float = 1.0, first_share: float = FIRST) -> tuple[Queues, Packer]:
    queues = make_queues(
        rate=round(RECORDS * part), byte_rate=round(BYTES * part), first_share=first_share
    )
    return queues, queues.packer


def warm(bytes_per_second: int | None) -> Capacity:
    return Capacity(True, bytes_per_second, 1 << 40)  # the target is not there yet


def told(
    queues: Queues,
    shards: tuple[OpenShard, ...] | None,
    capacity: Capacity | None,
    now_ns: int = 0,
    *,
    is_auto: bool = False,
) -> bool:
    description = describe(shards, is_auto=is_auto, capacity=capacity)
    return at_once(queues.shards.remap(description, now_ns))


def shares(packer: Packer) -> list[float]:
    budgets = [lane.budget for lane in packer.lanes]
    assert [budget.records_share for budget in budgets] == [each.bytes_share for each in budgets]
    return [budget.records_share for budget in budgets]


@pytest.mark.parametrize(
    ("capacity", "share"),
    [
        (None, FIRST),
        (Capacity(False), FIRST),
        (warm(None), FIRST),
        (warm(0), FIRST),
        (warm(BYTES), 0.125),  # one shard's worth for four
        (warm(4 * BYTES), WARM),
        (warm(400 * BYTES), WARM),
    ],
)
def test_a_lane_begins_with_what_is_warm_of_its_shard(
    capacity: Capacity | None, share: float
) -> None:
    queues, packer = start()
    assert told(queues, even_shards(4), capacity)
    assert shares(packer) == [share] * 4
    assert {lane.budget.records.available for lane in packer.lanes} == {58}, "0.9 s of FIRST"


def test_who_may_use_a_part_of_each_shard_begins_with_no_more_than_half_of_that() -> None:
    queues, packer = start(part=0.25)
    told(queues, even_shards(4), warm(2 * BYTES))
    assert shares(packer) == [WARM] * 4
    assert {lane.budget.records.rate for lane in packer.lanes} == {RECORDS // 8}


def test_auto_and_an_unknown_stream_begin_with_it_too() -> None:
    queues, packer = start()
    told(queues, None, warm(8 * BYTES))
    assert shares(packer) == [WARM], "one lane, paced for one shard until answers name more"
    assert packer.lanes[0].budget.records.rate == RECORDS // 2
    queues, packer = start()
    told(queues, even_shards(8), warm(4 * BYTES), is_auto=True)
    assert shares(packer) == [WARM / 2]
    assert packer.lanes[0].budget.records.rate == RECORDS * 8 // 4


def test_a_raised_warm_throughput_is_taken_by_shards_of_which_nothing_is_known() -> None:
    queues, packer = start()
    told(queues, even_shards(4), warm(BYTES))
    throttled = packer.lanes[1].budget
    throttled.hear(100, 1000, 90, MS, 30 * MS)
    before = throttled.records_share
    assert not told(queues, even_shards(4), warm(4 * BYTES), 40 * MS), "no other lanes"
    found = [lane.budget.records_share for lane in packer.lanes]
    assert found == [WARM, before, WARM, WARM]


def test_a_lowered_one_is_for_the_lanes_to_come() -> None:
    queues, packer = start()
    told(queues, even_shards(1), warm(4 * BYTES))
    told(queues, even_shards(1), Capacity(False), MS)
    assert shares(packer) == [WARM]
    told(queues, even_shards(2), None, 2 * MS)
    assert packer.lanes[0].shard_id == "shard-0"
    assert packer.lanes[0].budget.records_share == WARM, "the shard is the same"
    queues.shards.forget(3 * MS)
    told(queues, even_shards(1), None, 4 * MS)
    told(queues, even_shards(3), warm(3 * BYTES), 5 * MS)
    assert packer.lanes[2].budget.records_share == WARM


def test_what_is_not_told_again_stays() -> None:
    queues, packer = start()
    told(queues, even_shards(1), warm(8 * BYTES))
    told(queues, even_shards(8), None, MS)
    assert shares(packer) == [WARM] * 8


def test_children_begin_with_what_their_parent_knew_or_with_what_is_warm() -> None:
    queues, packer = start()
    told(queues, even_shards(2), None)
    learnt = packer.lanes[0].budget
    learnt.hear(100, 1000, 90, MS, 30 * MS)
    low, high = even_shards(2)
    children = tuple(
        OpenShard(f"{name}-{part}", *bounds)
        for name, shard in (("low", low), ("high", high))
        for part, bounds in enumerate(_halves(shard))
    )
    assert told(queues, children, warm(4 * BYTES), 40 * MS)
    found = [lane.budget.records_share for lane in packer.lanes]
    assert found == [learnt.records_share] * 2 + [WARM] * 2


def _halves(shard: OpenShard) -> tuple[tuple[int, int], tuple[int, int]]:
    middle = (shard.first_hash_key + shard.last_hash_key) // 2
    return (shard.first_hash_key, middle), (middle + 1, shard.last_hash_key)


def test_what_was_spent_before_the_map_came_is_not_spent_again() -> None:
    queues, packer = start()
    packer.lanes[0].budget.pay(50, 0)
    told(queues, even_shards(4), warm(4 * BYTES))
    assert {lane.budget.records.available for lane in packer.lanes} == {8}


def test_a_missing_stream_takes_its_warmth_along() -> None:
    queues, packer = start()
    told(queues, None, warm(8 * BYTES))
    queues.shards.forget(SECOND)
    told(queues, even_shards(2), None, 61 * SECOND)
    assert shares(packer) == [FIRST] * 2


def test_thousands_of_lanes_are_begun_in_steps() -> None:
    queues, packer = start()
    count = 4 * LANES_A_STEP
    told(queues, even_shards(count), None)
    capacity = warm(count * BYTES)
    steps = list(queues.shards.remap(describe(even_shards(count), capacity=capacity), MS))
    assert len(steps) == 4
    assert shares(packer) == [WARM] * count

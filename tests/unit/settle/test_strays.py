"""Aggregates that landed elsewhere: what is judged when, and what becomes of them meanwhile."""

from dataclasses import replace

import pytest

from kdaemon.base.description import OpenShard
from kdaemon.base.frame import Frame
from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.base.verdict import Verdict
from kdaemon.pack.batch import Batch
from kdaemon.route.shard_map import ShardMap
from kdaemon.settle.strays import STRAY_WAIT_NS, Landing, landing
from tests.kit.engine_rig import SETTINGS, Rig, T
from tests.kit.frames import MS, SECOND, delivered, describe, failed, make_frame

AGGREGATING = replace(SETTINGS, aggregate_bytes_max=10_000)
MIDDLE = HASH_KEY_MAX // 2
CHILDREN = (OpenShard("low", 0, MIDDLE), OpenShard("high", MIDDLE + 1, HASH_KEY_MAX))


def records_at(*places: int) -> list[Record]:
    return [Record(b"%d" % n, "k", str(place)) for n, place in enumerate(places)]


@pytest.mark.parametrize(
    ("places", "shard_id", "expected"),
    [
        ((0, MIDDLE), "low", Landing.INSIDE),
        ((0, MIDDLE + 1), "low", Landing.OUTSIDE),
        ((0, MIDDLE + 1), "high", Landing.OUTSIDE),
        ((MIDDLE + 1, HASH_KEY_MAX), "high", Landing.INSIDE),
        ((0,), "another", Landing.UNKNOWN),
        ((0,), None, Landing.UNKNOWN),
    ],
)
def test_an_aggregate_is_inside_if_all_its_keys_are_in_the_shards_range(
    places: tuple[int, ...], shard_id: str | None, expected: Landing
) -> None:
    assert landing(records_at(*places), shard_id, ShardMap(CHILDREN)) is expected


def test_a_key_is_where_its_md5_is_and_without_a_map_nobody_knows() -> None:
    records = [Record(b"", "a")]  # MD5 of "a" begins with 0c
    assert landing(records, "low", ShardMap(CHILDREN)) is Landing.INSIDE
    assert landing(records, "high", ShardMap(CHILDREN)) is Landing.OUTSIDE
    assert landing(records, "low", None) is Landing.UNKNOWN


class StrayRig(Rig):
    """One shard that is about to be split; aggregates are made."""

    def __init__(self, *, is_ordered: bool = False) -> None:
        super().__init__(replace(AGGREGATING, is_ordered=is_ordered))
        self.now_ns = T + 50 * SECOND

    def put_at(self, *places: int, deadline_ns: int | None = None) -> Frame:
        frame = make_frame(records_at(*places), deadline_ns=deadline_ns)
        assert self.engine.handle_frame(frame, self.now_ns)
        return frame

    def land(self, batch: Batch, shard_id: str) -> None:
        """All of the call was taken, by this shard."""
        self.answer(batch, [delivered(shard_id) for _ in batch.records])

    def learn(self) -> None:
        """The control plane tells of the split."""
        at_once(self.engine.take_description(describe(CHILDREN), self.now_ns))
        assert self.counters.unaccounted() == 0


def test_an_aggregate_on_a_shard_that_nobody_knows_is_held_and_counts_as_in_flight() -> None:
    rig = StrayRig()
    frame = rig.put_at(0, 1, 2)
    batch = rig.call()
    assert len(batch.records) == 1
    rig.land(batch, "low")
    assert rig.settled() == []
    assert frame.results == [None] * 3
    assert (rig.counters.in_flight, rig.counters.in_flight_calls) == (3, 0)
    assert not rig.engine.is_idle
    assert rig.counters.map_mismatches == 1
    assert rig.engine.freshness.due_at_ns < rig.now_ns + 2 * SECOND, "the map is asked for"


def test_when_the_map_knows_its_shard_and_all_its_keys_are_there_it_is_delivered() -> None:
    rig = StrayRig()
    frame = rig.put_at(0, 1, 2)
    rig.land(rig.call(), "low")
    rig.now_ns += SECOND
    rig.learn()
    assert rig.settled() == [frame]
    assert {result.shard_id for result in frame.results if result} == {"low"}
    assert rig.engine.is_idle
    assert rig.counters.possible_duplicates == 0


def test_when_some_of_its_keys_are_elsewhere_it_is_sent_again_to_where_they_are() -> None:
    rig = StrayRig()
    frame = rig.put_at(0, 1, HASH_KEY_MAX)
    rig.land(rig.call(), "low")
    rig.learn()
    assert rig.settled() == []
    assert rig.counters.retries[Verdict.OUTSIDE] == 3
    assert rig.counters.possible_duplicates == 3
    assert rig.counters.throttled == 0
    batch = rig.call()
    lanes = [run.lane.shard_id for run in batch.runs]
    assert sorted(set(map(str, lanes))) == ["high", "low"]
    rig.answer(batch, [delivered("low" if n == lanes.index("low") else "high") for n in (0, 1)])
    assert rig.settled() == [frame]


def test_a_map_that_already_knows_decides_at_once() -> None:
    rig = StrayRig()
    inside, outside = rig.put_at(0, 1), rig.put_at(2, HASH_KEY_MAX)
    batch = rig.call()
    rig.learn()
    assert len(batch.records) == 1
    rig.land(batch, "low")
    assert rig.settled() == []
    again = rig.call()
    rig.answer(
        again,
        [delivered(str(again.runs[0].lane.shard_id)), delivered("high")][: len(again.records)],
    )
    assert set(rig.settled()) == {inside, outside}


def test_when_nobody_learns_its_shard_in_time_it_is_sent_again() -> None:
    rig = StrayRig()
    rig.put_at(0, 1)
    rig.land(rig.call(), "another")
    since_ns = rig.now_ns
    rig.engine.freshness.ask(rig.now_ns + SECOND)
    at_once(rig.engine.take_description(describe(None), rig.now_ns))
    rig.now_ns = since_ns + STRAY_WAIT_NS - 1
    assert rig.poll() is None
    assert rig.engine.next_wakeup_ns() == since_ns + STRAY_WAIT_NS
    assert rig.counters.retries[Verdict.OUTSIDE] == 0
    rig.now_ns += 1
    rig.poll()
    assert rig.counters.retries[Verdict.OUTSIDE] == 2
    assert rig.counters.in_flight + rig.counters.buffered == 2


def test_strays_of_different_times_are_each_sent_again_in_their_time() -> None:
    rig = StrayRig()
    rig.put_at(0, 1)
    first = rig.call()
    rig.put_at(2, 3, 4)
    rig.now_ns += 100 * MS
    second = rig.call()
    rig.land(first, "another")
    first_ns = rig.now_ns
    rig.now_ns += SECOND
    rig.land(second, "another")
    rig.now_ns = first_ns + STRAY_WAIT_NS
    rig.poll()
    assert rig.counters.retries[Verdict.OUTSIDE] == 2
    rig.now_ns += SECOND
    rig.poll()
    assert rig.counters.retries[Verdict.OUTSIDE] == 5


def test_a_plain_record_elsewhere_is_delivered_as_ever() -> None:
    rig = StrayRig()
    frame = rig.put_at(0)
    rig.land(rig.call(), "another")
    assert rig.settled() == [frame]
    assert rig.counters.map_mismatches == 1


def test_an_aggregate_that_failed_is_no_stray() -> None:
    rig = StrayRig()
    rig.put_at(0, 1)
    rig.answer(rig.call(), [failed("InternalFailure")])
    assert rig.counters.in_flight == 0
    assert rig.counters.buffered == 2


def test_a_client_that_leaves_while_its_records_stray_hears_that_nobody_knows() -> None:
    rig = StrayRig()
    frame = rig.put_at(0, HASH_KEY_MAX, deadline_ns=rig.now_ns + SECOND)
    rig.land(rig.call(), "low")
    rig.now_ns += SECOND
    assert rig.poll() is None
    assert rig.settled() == [frame]
    assert {r.error_code for r in frame.results if r} == {"InternalFailure"}
    assert rig.counters.possible_duplicates == 2
    rig.learn()
    assert rig.poll() is None, "what was told as failed is not sent again"
    assert rig.engine.is_idle


def test_while_a_record_strays_those_behind_it_wait() -> None:
    rig = StrayRig(is_ordered=True)
    first = rig.put_at(0, 0)
    rig.land(rig.call(), "low")
    second = rig.put_at(0)
    assert rig.poll() is None
    rig.learn()
    assert rig.settled() == [first]
    batch = rig.call()
    assert batch.records == second.records

"""The three regimes of lanes, and how one becomes another."""

import pytest

from kdaemon.base.description import OpenShard, StreamDescription
from kdaemon.base.frame import Frame
from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.pack.batch import Batch
from kdaemon.pack.lane import Lane, LaneState
from kdaemon.pack.packer import Packer
from kdaemon.pack.queues import Queues
from kdaemon.pack.run import Run
from tests.kit.frames import (
    MS,
    SECOND,
    delivered,
    describe,
    even_shards,
    failed,
    make_frame,
)
from tests.kit.queues import BYTE_RATE, RATE, make_queues


def remap(queues: Queues, description: StreamDescription, now_ns: int) -> bool:
    """With all that was queued for shards that are gone in its new place."""
    is_changed = at_once(queues.shards.remap(description, now_ns))
    while queues.route_orphans(now_ns):
        pass
    return is_changed


def start() -> tuple[Queues, Packer]:
    queues = make_queues()
    return queues, queues.packer


def at_hash(*places: float) -> Frame:
    """One record for each place, 0 to 1 of all hash keys."""
    return make_frame(
        Record(b"%d" % number, "k", str(int(place * 1000) * HASH_KEY_MAX // 1000))
        for number, place in enumerate(places)
    )


def send(queues: Queues, frame: Frame, now_ns: int = 0) -> Frame:
    queues.put(queues.plan(frame, sum(frame.sizes)), now_ns)
    return frame


def queued(packer: Packer) -> dict[str | None, list[bytes]]:
    return {
        lane.shard_id: [run.frame.records[i].data for run in lane.queue for i in run.indices]
        for lane in packer.lanes
    }


def draw(packer: Packer, now_ns: int = 0) -> Batch:
    packer.wake(now_ns)
    batch = packer.draw(now_ns)
    assert batch is not None
    return batch


def rates(lane: Lane) -> tuple[int, int]:
    return lane.budget.records.rate, lane.budget.bytes.rate


def test_while_nothing_is_known_one_lane_is_paced_for_one_shard() -> None:
    queues, packer = start()
    assert queues.shards.shard_count == 0
    frame = send(queues, at_hash(0, 0.9))
    assert queued(packer) == {None: [b"0", b"1"]}
    assert rates(packer.lanes[0]) == (RATE, BYTE_RATE)
    assert packer.lanes[0].queued_bytes == sum(frame.sizes)


def test_with_a_map_there_is_one_lane_a_shard_with_its_own_budget() -> None:
    queues, packer = start()
    assert remap(queues, describe(even_shards(4)), 0)
    assert queues.shards.shard_count == 4
    frame = send(queues, at_hash(0, 0.9, 0.1, 0.3))
    assert queued(packer) == {
        "shard-0": [b"0", b"2"],
        "shard-1": [b"3"],
        "shard-2": [],
        "shard-3": [b"1"],
    }
    assert {rates(lane) for lane in packer.lanes} == {(RATE, BYTE_RATE)}
    assert len({id(lane.budget) for lane in packer.lanes}) == 4
    assert sum(lane.queued_bytes for lane in packer.lanes) == sum(frame.sizes)


def test_a_frame_for_one_shard_is_one_run() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(4)), 0)
    frame = send(queues, at_hash(0.3, 0.3, 0.4))
    (run,) = packer.lanes[1].queue
    assert (run.indices, run.byte_count) == ([0, 1, 2], sum(frame.sizes))


def test_auto_is_one_lane_paced_for_all_shards() -> None:
    queues, packer = start()
    assert remap(queues, describe(even_shards(4), is_auto=True), 0)
    send(queues, at_hash(0, 0.9))
    assert queued(packer) == {None: [b"0", b"1"]}
    assert rates(packer.lanes[0]) == (4 * RATE, 4 * BYTE_RATE)
    assert queues.shards.shard_count == 4, "they are known, though nothing is predicted"


def test_a_description_that_says_nothing_new_changes_nothing() -> None:
    for is_auto in (False, True):
        queues, packer = start()
        assert remap(queues, describe(even_shards(4), is_auto=is_auto), 5)
        lanes = packer.lanes
        assert not remap(queues, describe(even_shards(4), is_auto=is_auto), 99)
        assert packer.lanes == lanes
        assert queues.shards.map_since_ns == 5


def test_unknown_shards_leave_the_map_as_it_is() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(4)), 5)
    lanes = packer.lanes
    assert not remap(queues, describe(None), 99)
    assert packer.lanes is lanes
    assert queues.shards.shard_count == 4


def test_what_was_queued_for_an_unknown_stream_goes_to_its_shards_in_order() -> None:
    queues, packer = start()
    send(queues, at_hash(0, 0.9, 0.1))
    old = packer.lanes[0]
    remap(queues, describe(even_shards(2)), 0)
    assert old.state is LaneState.RETIRED
    assert queued(packer) == {"shard-0": [b"0", b"2"], "shard-1": [b"1"]}
    assert packer.ready_records == 3


def test_a_split_moves_only_what_was_queued_for_the_parent() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(2)), 0)
    send(queues, at_hash(0.1, 0.3, 0.6))
    low, high = packer.lanes
    half = low_end(2)
    children = (
        OpenShard("child-a", 0, half // 2),
        OpenShard("child-b", half // 2 + 1, half),
        even_shards(2)[1],
    )
    assert remap(queues, describe(children), 7 * MS)
    assert low.state is LaneState.RETIRED
    assert packer.lanes[2] is high, "the lane of an unchanged shard is kept, budget and all"
    assert queued(packer) == {"child-a": [b"0"], "child-b": [b"1"], "shard-1": [b"2"]}
    assert queues.shards.map_since_ns == 7 * MS


def low_end(count: int) -> int:
    return even_shards(count)[0].last_hash_key


def test_an_unchanged_shard_keeps_its_spent_budget_and_its_backoff() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(2)), 0)
    lane = packer.lanes[1]
    lane.budget.pay(700, 0)
    packer.postpone(lane, 50 * MS, 0)
    lane.failure_count = 3
    first, second = even_shards(2)
    remap(
        queues,
        describe((OpenShard("new", first.first_hash_key, first.last_hash_key), second)),
        0,
    )
    assert packer.lanes[1] is lane
    assert lane.budget.records.available == 200
    assert (lane.blocked_until_ns, lane.failure_count) == (50 * MS, 3)


def test_a_shard_with_another_range_keeps_its_budget_and_its_queue_is_routed_again() -> None:
    """At Yandex a change of the shard count moves the ranges of shards that stay open."""
    queues, packer = start()
    remap(queues, describe(even_shards(2)), 0)
    send(queues, at_hash(0.1, 0.4, 0.9))
    budgets = [lane.budget for lane in packer.lanes]
    budgets[0].pay(700, 0)
    remap(queues, describe(even_shards(4)), 0)
    assert queued(packer) == {
        "shard-0": [b"0"],
        "shard-1": [b"1"],
        "shard-2": [],
        "shard-3": [b"2"],
    }
    assert [lane.budget for lane in packer.lanes[:2]] == budgets
    assert packer.lanes[0].budget.records.available == 200


def test_from_a_map_to_auto_and_back_nothing_queued_is_lost() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(2)), 0)
    send(queues, at_hash(0.1, 0.9))
    remap(queues, describe(even_shards(2), is_auto=True), 0)
    assert queued(packer) == {None: [b"0", b"1"]}
    remap(queues, describe(even_shards(2)), 0)
    assert queued(packer) == {"shard-0": [b"0"], "shard-1": [b"1"]}


def test_auto_with_more_shards_keeps_its_lane_at_the_new_rate() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(2), is_auto=True), 0)
    (lane,) = packer.lanes
    assert remap(queues, describe(even_shards(5), is_auto=True), 0)
    assert packer.lanes == [lane]
    assert rates(lane) == (5 * RATE, 5 * BYTE_RATE)
    assert queues.shards.shard_count == 5


def test_a_run_that_comes_back_to_a_retired_lane_is_routed_by_the_map_of_now() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(1)), 0)
    send(queues, at_hash(0.1, 0.9, 0.2))
    (run,) = draw(packer).runs
    run.attempt_count = 4
    remap(queues, describe((OpenShard("a", 0, low_end(2)), even_shards(2)[1])), 0)
    queues.put_back(run, 0)
    assert queued(packer) == {"a": [b"0", b"2"], "shard-1": [b"1"]}
    runs = [queued_run for lane in packer.lanes for queued_run in lane.queue]
    assert {queued_run.attempt_count for queued_run in runs} == {4}
    assert sum(queued_run.byte_count for queued_run in runs) == run.byte_count


def test_a_part_of_a_run_comes_back_by_its_own_indices() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(2)), 0)
    frame = send(queues, at_hash(0.1, 0.9, 0.2, 0.8))
    draw(packer)
    lane = packer.lanes[1]
    queues.put_back(Run(frame, [1, 3], frame.sizes[1] + frame.sizes[3], lane, 1), 0)
    assert queued(packer) == {"shard-0": [], "shard-1": [b"1", b"3"]}


def test_answers_teach_an_unknown_stream_its_shards_and_its_rate() -> None:
    queues, packer = start()
    (lane,) = packer.lanes
    queues.shards.learn(lane, [delivered("a"), delivered("b"), failed(), delivered("c")], SECOND)
    assert queues.shards.shard_count == 3
    assert rates(lane) == (3 * RATE, 3 * BYTE_RATE)


def test_answers_that_name_no_shard_never_turn_the_rate_to_nothing() -> None:
    queues, packer = start()
    (lane,) = packer.lanes
    queues.shards.learn(lane, [delivered("a")], SECOND)
    for minute in range(2, 6):
        queues.shards.learn(lane, [delivered("")], minute * 61 * SECOND)
    assert rates(lane) == (RATE, BYTE_RATE)


def test_auto_learns_nothing_from_answers() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(4), is_auto=True), 0)
    queues.shards.learn(packer.lanes[0], [delivered("a")], SECOND)
    assert rates(packer.lanes[0]) == (4 * RATE, 4 * BYTE_RATE)
    assert queues.shards.shard_count == 4


def test_what_an_unknown_stream_spent_is_not_to_be_spent_again_when_its_map_comes() -> None:
    """All of it may have gone to one shard: none gets more than the rest of a second."""
    queues, packer = start()
    packer.lanes[0].budget.pay(700, 900_000)
    remap(queues, describe(even_shards(4)), 0)
    for lane in packer.lanes:
        assert (lane.budget.records.available, lane.budget.bytes.available) == (200, 0)
        lane.budget.refill(SECOND)
        assert lane.budget.records.available == 900


def test_a_debt_for_an_unknown_stream_is_no_debt_of_every_shard() -> None:
    queues, packer = start()
    packer.lanes[0].budget.pay(1, 10_000_000)
    remap(queues, describe(even_shards(4)), 0)
    assert {lane.budget.bytes.available for lane in packer.lanes} == {0}


@pytest.mark.parametrize("is_auto", [True, False])
def test_without_predictions_records_without_a_key_are_spread_over_all_hash_keys(
    *, is_auto: bool
) -> None:
    queues, packer = start()
    if is_auto:
        remap(queues, describe(even_shards(4), is_auto=True), 0)
    frame = send(queues, keyless(400))
    assert packer.lanes[0].queued_records == 400
    batch = packer.draw(0)
    assert batch is not None
    quarters = [0] * 4
    for record in batch.records:
        assert record.partition_key
        quarters[int(record.explicit_hash_key or -1) >> 126] += 1
    assert all(90 <= count <= 110 for count in quarters)
    assert frame.records == [Record(b"x", "")] * 400, "what the client sent stays"


@pytest.mark.parametrize("has_map", [True, False])
def test_of_a_mixed_frame_only_records_without_a_key_are_sent_as_copies(*, has_map: bool) -> None:
    queues, packer = start()
    if has_map:
        remap(queues, describe(even_shards(1)), 0)
    records = [Record(b"0", ""), Record(b"1", "k", "5"), Record(b"2", "", "7"), Record(b"3", "j")]
    before = repr(records)
    frame = send(queues, make_frame(records))
    sent: dict[bytes, Record] = {}
    while packer.has_ready and (batch := packer.draw(0)) is not None:
        sent |= {record.data: record for record in batch.records}
        assert all(record.partition_key for record in batch.records)
    assert len(sent) == 4
    assert repr(frame.records) == before
    assert sent[b"1"] is frame.records[1]
    assert sent[b"3"] is frame.records[3]
    assert sent[b"2"].explicit_hash_key == "7"
    assert sent[b"0"].explicit_hash_key is not None


def test_records_without_a_key_wait_for_no_turn_and_for_each_other_neither() -> None:
    queues = make_queues(is_ordered=True)
    frame = send(
        queues,
        make_frame([Record(b"%d" % n, "", "7" if n % 2 else None) for n in range(6)]),
    )
    assert queues.packer.lanes[0].queued_records == 6
    queues.leave(Run(frame, [1, 3, 5], 3, queues.packer.lanes[0]), [1, 3, 5])
    queues.take_turns(0)
    assert queues.packer.lanes[0].queued_records == 6


def test_with_a_map_records_without_a_key_queue_for_any_shard() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(4)), 0)
    frame = send(queues, make_frame([Record(b"0", ""), Record(b"1", "k", "5"), Record(b"2", "")]))
    assert queued(packer)["shard-0"] == [b"1"]
    (run,) = packer.keyless_lane.queue
    assert (run.indices, run.is_keyless) == ([0, 2], True)
    assert run.byte_count == frame.sizes[0] + frame.sizes[2]
    assert packer.ready_records == 3


def test_a_new_map_leaves_records_for_any_shard_where_they_are() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(4)), 0)
    send(queues, keyless(9))
    remap(queues, describe(even_shards(3)), 0)
    assert packer.keyless_lane.queued_records == packer.ready_records == 9


def test_records_for_any_shard_go_to_the_one_lane_of_auto_and_come_back() -> None:
    queues, packer = start()
    remap(queues, describe(even_shards(4)), 0)
    send(queues, keyless(9))
    remap(queues, describe(even_shards(4), is_auto=True), 0)
    assert packer.keyless_lane.queued_records == 0
    assert [lane.queued_records for lane in packer.lanes] == [9]
    assert packer.ready_records == 9
    (run,) = packer.lanes[0].queue
    assert run.is_keyless, "it never had a turn among the records of a key"
    remap(queues, describe(even_shards(4)), 0)
    assert packer.keyless_lane.queued_records == packer.ready_records == 9


def test_a_shard_in_the_place_of_another_begins_with_its_share() -> None:
    queues = make_queues(first_share=0.5)
    packer = queues.packer
    remap(queues, describe(even_shards(2)), 0)
    budget = packer.lanes[0].budget
    for tenth in range(50):
        now_ns = tenth * 100 * MS
        budget.refill(now_ns)
        budget.hear(100, 1000, 90, now_ns, now_ns + 30 * MS)
    share = budget.records_share
    assert share < packer.lanes[1].budget.records_share == 0.5
    half = low_end(2)
    children = (
        OpenShard("child-a", 0, half // 2),
        OpenShard("child-b", half // 2 + 1, half),
        even_shards(2)[1],
    )
    remap(queues, describe(children), 5 * SECOND)
    assert [lane.budget.records_share for lane in packer.lanes] == [share, share, 0.5]
    assert {lane.budget.bytes_share for lane in packer.lanes[:2]} == {budget.bytes_share}
    assert packer.lanes[0].budget.records.rate == int(RATE * share)
    assert len({id(lane.budget) for lane in packer.lanes}) == 3


@pytest.mark.parametrize("part", [1.0, 0.25])
def test_what_the_service_says_of_a_shard_s_quota_bounds_what_is_configured(part: float) -> None:
    records, size = round(RATE * part), round(BYTE_RATE * part)
    queues = make_queues(rate=records, byte_rate=size)
    packer = queues.packer
    cases = ((400_000, 400_000), (None, 400_000), (2_000_000, size), (1, 1))
    for count, (quota, most) in enumerate(cases, 1):  # with other shards, and with the same
        for shard_count in (count, count):
            told = describe(even_shards(shard_count), shard_bytes_per_second=quota)
            remap(queues, told, count)
            expected = records, min(size, most)
            assert {rates(lane) for lane in packer.lanes} == {expected}
            assert queues.shards.shard_bytes_per_second == expected[1]


def test_a_quota_counts_for_each_shard_where_none_is_predicted() -> None:
    queues, packer = start()
    queues.shards.learn(packer.lanes[0], [delivered("a"), delivered("b")], SECOND)
    remap(queues, describe(None, shard_bytes_per_second=1000), 2 * SECOND)
    assert rates(packer.lanes[0]) == (2 * RATE, 2000)
    queues.shards.forget(3 * SECOND)
    assert rates(packer.lanes[0]) == (RATE, BYTE_RATE), "another stream may be made in its place"


def kind_split() -> tuple[Queues, Packer]:
    queues = make_queues(aggregate_bytes_max=10_000)
    return queues, queues.packer


def two_kinds() -> Frame:
    return make_frame(Record(b"", "k", "5" if number % 2 else None) for number in range(6))


def kinds(packer: Packer) -> list[list[int]]:
    return [run.indices for lane in packer.lanes for run in lane.queue]


def test_where_aggregates_are_made_a_run_has_records_of_one_kind() -> None:
    queues, packer = kind_split()
    remap(queues, describe(even_shards(1)), 0)
    frame = send(queues, two_kinds())
    assert kinds(packer) == [[0, 2, 4], [1, 3, 5]]
    assert sum(run.byte_count for run in packer.lanes[0].queue) == sum(frame.sizes)


def test_also_when_its_shard_was_unknown_or_is_new() -> None:
    queues, packer = kind_split()
    send(queues, two_kinds())
    unknown = packer.lanes[0]
    remap(queues, describe(even_shards(1)), 0)
    assert kinds(packer) == [[0, 2, 4], [1, 3, 5]]
    (plain, explicit) = packer.lanes[0].queue
    frame = plain.frame
    again = Run(frame, [0, 1, 2, 3], sum(frame.sizes[:4]), unknown, 3)
    packer.lanes[0].take_all()
    queues.put_back(again, 0)
    assert kinds(packer) == [[0, 2], [1, 3]]
    assert [run.attempt_count for run in packer.lanes[0].queue] == [3, 3]
    assert [run.byte_count for run in packer.lanes[0].queue] == [2, 2]
    assert explicit.frame is frame


def keyless(count: int) -> Frame:
    return make_frame(Record(b"x", "") for _ in range(count))

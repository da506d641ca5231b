"""Aggregates out of a lane: what goes together, how large it gets, and what the shard pays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.frame import Frame
from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.aggregate import Aggregator
from kdaemon.pack.batch import CARRIED_MAX, Batch, Draft
from kdaemon.pack.key_order import KeyOrder, NoOrder
from kdaemon.pack.keyless import Names
from kdaemon.pack.kpl import (
    AGGREGATE_OVERHEAD_BYTES,
    EXPLICIT_OVERHEAD_BYTES_MAX,
    RECORD_OVERHEAD_BYTES_MAX,
    encode_aggregate,
)
from kdaemon.pack.lane import Lane
from kdaemon.pack.run import Run
from tests.kit.depth import examples
from tests.kit.frames import MS, make_frame
from tests.kit.queues import make_packer

BYTES_MAX = 1000
ENVELOPE_BYTES = AGGREGATE_OVERHEAD_BYTES + 2  # with keys of two characters, as `frame_of` has them
LARGEST = str(HASH_KEY_MAX)  # the explicit hash key that takes the most bytes


def make_lane(records: int = 1000, byte_count: int = 1_000_000) -> Lane:
    return Lane("s", ShardBudget(records, byte_count, 0, 1.0), hash_key=LARGEST)


def frame_of(count: int, size: int = 100, hash_key: str | None = None) -> Frame:
    return make_frame(Record(bytes(size - 2), f"{n:02}", hash_key) for n in range(count))


def push(lane: Lane, frame: Frame, indices: list[int] | None = None) -> Frame:
    indices = list(range(len(frame.records))) if indices is None else indices
    lane.push(Run(frame, indices, sum(frame.sizes[i] for i in indices), lane))
    return frame


def draw(
    lane: Lane,
    records_max: int = 500,
    bytes_max: int = 5_000_000,
    *,
    order: NoOrder | None = None,
    now_ns: int = 0,
) -> Draft:
    draft = Draft(records_max, bytes_max)
    names = Names()
    names.is_used = True
    Aggregator(BYTES_MAX, order or NoOrder(), names).draw(lane, draft, now_ns)
    return draft


def carried(draft: Draft) -> list[list[Record]]:
    """The records that each sent record carries."""
    records = [run.frame.records[index] for run in draft.runs for index in run.indices]
    groups = []
    for width in draft.widths:
        groups.append(records[:width])
        records = records[width:]
    assert not records
    return groups


def size_of(record: Record) -> int:
    return len(record.data) + len(record.partition_key.encode())


def test_what_goes_together_is_one_record_and_the_shard_pays_for_one() -> None:
    lane = make_lane()
    frame = push(lane, frame_of(5))
    draft = draw(lane)
    (sent,) = draft.records
    assert sent.data == encode_aggregate(frame.records)
    assert sent.partition_key == "00", "the first record's: consumers may work by key"
    assert draft.paid == {lane: (1, size_of(sent))}
    assert lane.budget.records.available == 899
    assert lane.budget.bytes.available == 900_000 - size_of(sent)
    assert (draft.records_left, draft.bytes_left) == (499, 5_000_000 - size_of(sent))
    assert (lane.queued_records, lane.queued_bytes) == (0, 0)


@pytest.mark.parametrize("hash_key", [None, "7"])
def test_what_is_alone_is_sent_as_it_is(hash_key: str | None) -> None:
    lane = make_lane()
    frame = push(lane, frame_of(1, hash_key=hash_key))
    draft = draw(lane)
    assert draft.records[0] is frame.records[0]
    assert draft.widths == [1]
    assert draft.paid == {lane: (1, 100)}


def test_records_with_and_without_an_explicit_hash_key_never_go_together() -> None:
    lane = make_lane()
    plain, explicit, more = frame_of(2), frame_of(2, hash_key="7"), frame_of(2)
    for frame in (plain, explicit, more):
        push(lane, frame)
    assert carried(draw(lane)) == [plain.records + more.records, explicit.records]


def test_a_batch_of_aggregates_says_how_many_records_each_of_them_carries() -> None:
    lane = make_lane()
    push(lane, frame_of(2))
    push(lane, frame_of(3, hash_key="7"))
    draft = draw(lane)
    batch = Batch(draft.runs, 1, paid=draft.paid, records=draft.records, widths=draft.widths)
    assert (len(batch.records), batch.record_count) == (2, 5)
    assert batch.widths == [2, 3]


def test_a_record_that_fits_no_aggregate_goes_plain_beside_those_that_do() -> None:
    lane = make_lane()
    large = push(lane, frame_of(1, size=BYTES_MAX + 1))
    small = push(lane, frame_of(3))
    draft = draw(lane)
    assert carried(draft) == [large.records, small.records]
    assert draft.records[0] is large.records[0]


def test_a_record_just_too_large_for_the_envelope_goes_plain() -> None:
    lane = make_lane()
    frame = push(lane, frame_of(2, size=BYTES_MAX - ENVELOPE_BYTES))
    assert draw(lane).records == frame.records


def test_a_record_above_the_bucket_goes_plain_and_alone_into_debt() -> None:
    lane = make_lane(1000, 1000)
    frame = push(lane, frame_of(1, size=5000))
    push(lane, frame_of(3, size=10))
    draft = draw(lane)
    assert draft.records == frame.records
    assert lane.budget.bytes.available == -4100
    assert lane.queued_records == 3


def test_what_the_shard_cannot_pay_for_stays() -> None:
    lane = make_lane(1000, 1000)  # 900 bytes are there
    push(lane, frame_of(20))
    draft = draw(lane)
    assert draft.widths == [(900 - ENVELOPE_BYTES) // (100 + RECORD_OVERHEAD_BYTES_MAX)]
    assert draw(lane).widths == [1], "what is left pays for one more, plain"
    assert lane.budget.bytes.available >= 0
    assert draw(lane).records == []
    assert lane.queued_records == 20 - 7 - 1


def test_a_full_aggregate_later_rather_than_a_part_of_one_now() -> None:
    lane = make_lane(1000, 2000)  # 1,800 bytes are there: one full aggregate, not two
    push(lane, frame_of(50))
    assert len(draw(lane).records) == 1
    assert lane.budget.bytes.available > 500


def test_the_room_in_the_batch_bounds_aggregates_too() -> None:
    lane = make_lane()
    push(lane, frame_of(50))
    assert len(draw(lane, records_max=2).records) == 2
    draft = draw(lane, bytes_max=1500)
    assert len(draft.records) == 1
    assert draft.bytes_left > 500


def keyless(lane: Lane, count: int) -> Frame:
    """Records that came without a key, as they are lent to a shard."""
    frame = make_frame(Record(bytes(94), "") for _ in range(count))
    indices = list(range(count))
    lane.push(Run(frame, indices, sum(frame.sizes), lane, is_keyless=True))
    return frame


def test_records_without_a_key_share_their_explicit_hash_key_and_its_bytes() -> None:
    lane = make_lane()
    frame = keyless(lane, 30)
    draft = draw(lane)
    assert frame.records == [Record(bytes(94), "")] * 30, "what the client sent stays"
    own_key_each = (BYTES_MAX - ENVELOPE_BYTES) // (
        100 + RECORD_OVERHEAD_BYTES_MAX + EXPLICIT_OVERHEAD_BYTES_MAX
    )
    assert draft.widths[0] > own_key_each
    assert {record.explicit_hash_key for record in draft.records} == {LARGEST}
    assert all(size_of(record) <= BYTES_MAX for record in draft.records)
    assert sum(draft.widths) == len(frame.records)


@pytest.mark.parametrize("key", ["k" * 256, "\u00e9" * 128, "\U0001f600" * 64])
def test_the_key_of_an_aggregate_is_counted_in_its_size(key: str) -> None:
    lane = make_lane()
    frame = make_frame(Record(bytes(100), key) for _ in range(20))
    push(lane, frame)
    draft = draw(lane)
    assert len(draft.records) > 2
    assert {record.partition_key for record in draft.records} == {key}
    assert all(size_of(record) <= BYTES_MAX for record in draft.records)


def test_aggregates_of_one_shard_have_the_keys_of_their_own_records() -> None:
    lane = make_lane()
    push(lane, frame_of(60))
    keyless(lane, 60)
    draft = draw(lane)
    outer = [record.partition_key for record in draft.records]
    assert len(set(outer)) == len(outer) > 10
    for record, group in zip(draft.records, carried(draft), strict=True):
        assert record.partition_key == group[0].partition_key or group[0].partition_key == ""


def ordered(lane: Lane, order: NoOrder, *frames: Frame) -> None:
    for frame in frames:
        run = Run(frame, list(range(len(frame.records))), sum(frame.sizes), lane)
        for left in order.enter([run]):
            lane.push(left)


def test_those_behind_a_record_go_along_in_its_aggregate() -> None:
    lane, order = make_lane(), KeyOrder()
    first = make_frame(Record(b"%d" % n, key) for n, key in enumerate("aab"))
    second = make_frame([Record(b"3", "a"), Record(b"4", "c")])
    ordered(lane, order, first, second)
    draft = draw(lane, order=order)
    (together,) = carried(draft)
    of_a = [record.data for record in together if record.partition_key == "a"]
    assert of_a == [b"0", b"1", b"3"]
    assert {record.data for record in together} == {b"0", b"1", b"2", b"3", b"4"}
    assert lane.waiting_records == 0


def test_those_that_do_not_fit_go_on_waiting() -> None:
    lane, order = make_lane(), KeyOrder()
    frame = make_frame(Record(bytes(99), "a") for _ in range(20))
    ordered(lane, order, frame)
    draft = draw(lane, order=order)
    assert len(draft.records) == 1
    assert size_of(draft.records[0]) <= BYTES_MAX
    assert draft.widths[0] + lane.waiting_records == 20
    assert draw(lane, order=order).records == [], "the key is out"


def test_those_of_the_other_kind_do_not_go_along() -> None:
    lane, order = make_lane(), KeyOrder()
    frame = make_frame([Record(b"0", "a"), Record(b"1", "a", "7"), Record(b"2", "a")])
    ordered(lane, order, frame)
    assert carried(draw(lane, order=order)) == [frame.records[:1]]


KINDS = st.sampled_from([None, "7", LARGEST])


@settings(deadline=None, print_blob=True, max_examples=examples(150))
@given(
    frames=st.lists(
        st.tuples(KINDS, st.lists(st.integers(3, 1100), min_size=1, max_size=15)), max_size=8
    ),
    bytes_per_second=st.sampled_from([1500, 4000, 10**6]),
    room=st.tuples(st.integers(1, 6), st.integers(1100, 4000)),
    is_ordered=st.booleans(),
)
def test_whatever_comes_no_limit_is_broken_and_all_of_it_leaves_once(
    frames: list[tuple[str | None, list[int]]],
    bytes_per_second: int,
    room: tuple[int, int],
    *,
    is_ordered: bool,
) -> None:
    lane, order = make_lane(1000, bytes_per_second), KeyOrder() if is_ordered else NoOrder()
    came: list[Record] = []
    for hash_key, sizes in frames:
        made = make_frame(Record(bytes(size - 1), "abc"[size % 3], hash_key) for size in sizes)
        came += made.records
        ordered(lane, order, made)
    left: list[Record] = []
    now_ns = 0
    for _ in range(1000):
        lane.budget.refill(now_ns)
        available = lane.budget.bytes.available
        draft = draw(lane, *room, order=order, now_ns=now_ns)
        sizes = [size_of(record) for record in draft.records]
        assert len(sizes) <= room[0]
        assert sum(sizes) == sum(byte_count for _, byte_count in draft.paid.values()) <= room[1]
        assert sum(sizes) <= available or len(sizes) == 1, "only one alone goes into debt"
        for record, group in zip(draft.records, carried(draft), strict=True):
            if len(group) == 1:
                assert record is group[0]
            else:
                assert size_of(record) <= BYTES_MAX
                assert record.data == encode_aggregate(group)
                assert len({each.explicit_hash_key is None for each in group}) == 1
        left += [record for group in carried(draft) for record in group]
        if is_ordered:
            for run in draft.runs:
                order.settled(run.frame, run.indices)
            for run in order.freed():
                lane.push(run)
        now_ns += 100 * MS
        if not lane.queue:
            break
    assert not lane.queue
    assert (lane.queued_records, lane.queued_bytes, lane.waiting_records) == (0, 0, 0)
    assert sorted(map(id, left)) == sorted(map(id, came))
    if is_ordered:
        for key in "abc":
            mine = [id(record) for record in came if record.partition_key == key]
            assert [id(record) for record in left if record.partition_key == key] == mine


def test_without_a_prediction_nothing_is_aggregated() -> None:
    lane = Lane(None, ShardBudget(1000, 1_000_000, 0, 1.0))
    packer = make_packer(lane, aggregate_bytes_max=BYTES_MAX)
    frame = frame_of(5)
    packer.push_all([Run(frame, [0, 1, 2, 3, 4], sum(frame.sizes), lane)], 0)
    batch = packer.draw(0)
    assert batch is not None
    assert batch.records == frame.records


def test_with_aggregates_a_batch_is_full_when_every_ready_lane_has_an_aggregates_worth() -> None:
    lanes = [make_lane(), make_lane()]
    packer = make_packer(*lanes, aggregate_bytes_max=BYTES_MAX)
    seen = []
    for lane, count in ((lanes[0], 5), (lanes[1], 10), (lanes[0], 4), (lanes[0], 1)):
        frame = frame_of(count)
        packer.push_all([Run(frame, list(range(count)), sum(frame.sizes), lane)], 0)
        seen.append(packer.has_full_batch)
    assert seen == [False, False, False, True]


def test_a_saturated_lane_of_aggregates_is_given_its_rate_in_full_ones() -> None:
    lane = make_lane(1000, 1_000_000)
    packer = make_packer(lane, aggregate_bytes_max=50 * 1024)
    frame = make_frame(Record(bytes(198), f"{n:02}") for n in range(20_000))
    packer.push_all([Run(frame, list(range(20_000)), sum(frame.sizes), lane)], 0)
    now_ns = 0
    batches: list[tuple[int, int]] = []
    while now_ns < 3_000 * MS:
        packer.wake(now_ns)
        while (batch := packer.draw(now_ns)) is not None:
            batches.append((len(batch.records), batch.byte_count))
        due_ns = packer.next_due_ns()
        assert due_ns is not None
        assert due_ns > now_ns
        now_ns = due_ns
    assert all(byte_count > 50_000 * records for records, byte_count in batches[1:])
    assert sum(byte_count for _, byte_count in batches) >= 3_700_000, "0.9 s saved, and 3 s"


def test_a_record_above_the_bytes_of_a_batch_goes_plain_and_only_into_an_empty_one() -> None:
    lane, other = make_lane(), make_lane()
    large = make_frame([Record(bytes(8000), "k"), Record(b"x", "l")])
    push(lane, large)
    push(other, frame_of(3))
    draft = draw(lane, bytes_max=5000)
    assert draft.records == [large.records[0]]
    assert (draft.widths, draft.bytes_left) == ([1], 5000 - 8001)
    Aggregator(BYTES_MAX, NoOrder(), Names()).draw(other, draft, 0)
    assert draft.widths == [1], "no company"
    push(other, make_frame([Record(bytes(8000), "k")]))
    full = draw(other, bytes_max=5000)
    assert full.widths == [3], "not behind others"
    assert draw(other, bytes_max=5000).widths == [1]


@pytest.mark.parametrize("is_keyless", [False, True])
def test_a_call_carries_so_many_records_of_clients_and_the_rest_goes_in_the_next(
    *, is_keyless: bool
) -> None:
    """To draw and to settle 200,000 in one call takes 0.3 s."""
    lanes = [make_lane(1000, 1_000_000) for _ in range(3)]
    for number, lane in enumerate(lanes):
        lane.shard_id = f"s{number}"
        lane.hash_key = str(number)
    packer = make_packer(*lanes, aggregate_bytes_max=10 * 1024)
    count = 6_000
    frame = make_frame(Record(b"x", "" if is_keyless else f"{n % 90 + 10}") for n in range(count))
    for part, lane in enumerate(lanes):
        indices = list(range(part * 2_000, (part + 1) * 2_000))
        home = packer.keyless_lane if is_keyless else lane
        byte_count = sum(frame.sizes[index] for index in indices)
        packer.push_all([Run(frame, indices, byte_count, home, is_keyless=is_keyless)], 0)
    batches: list[Batch] = []
    while (batch := packer.draw(0)) is not None:
        batches.append(batch)
        assert batch.widths is not None
        assert sum(batch.widths[:-1]) < CARRIED_MAX
    assert sum(batch.record_count for batch in batches) == count
    assert len(batches) >= count // (CARRIED_MAX + 1_000)
    assert not packer.has_ready

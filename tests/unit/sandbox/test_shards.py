"""Hash ranges, resharding, sequence numbers, retention."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from kdaemon.base.service import AWS, YANDEX, Service
from kdaemon.sandbox.settings import LimiterKind, Quota
from kdaemon.sandbox.shards import Sequencer, Stream, hash_key_of, trim_oldest, uniform_ranges


def make_stream(shard_count: int, service: Service = AWS) -> Stream:
    return Stream(
        "orders",
        shard_count,
        service=service,
        quota=Quota(),
        limiter_kind=LimiterKind.BUCKET,
        sequencer=Sequencer(),
        now_ns=0,
    )


def assert_covers_all(stream: Stream) -> None:
    expected_start = 0
    for shard in stream.open_shards:
        assert shard.starting_hash_key == expected_start
        assert shard.ending_hash_key >= shard.starting_hash_key
        expected_start = shard.ending_hash_key + 1
    assert expected_start == HASH_KEY_MAX + 1


def test_the_hash_key_is_the_md5_of_the_key_read_big_endian() -> None:
    assert hash_key_of("é".encode()) == int(hashlib.md5("é".encode()).hexdigest(), 16)


def test_two_shards_divide_as_each_service_divides() -> None:
    half = 2**127
    assert uniform_ranges(2, AWS) == [(0, half - 1), (half, HASH_KEY_MAX)]
    assert uniform_ranges(2, YANDEX) == [
        (0, 170141183460469231731687303715884105726),
        (170141183460469231731687303715884105727, HASH_KEY_MAX),
    ]


def test_a_key_on_the_edge_of_a_range_goes_to_the_shard_that_holds_it() -> None:
    stream = make_stream(2)
    assert stream.shard_of(2**127 - 1).index == 0
    assert stream.shard_of(2**127).index == 1
    assert stream.shard_of(0).index == 0
    assert stream.shard_of(HASH_KEY_MAX).index == 1


def test_yandex_routes_by_division_as_its_source_does() -> None:
    stream = make_stream(7, YANDEX)
    for step in range(1000):
        key = step * (HASH_KEY_MAX // 999)
        assert stream.shard_of(key).index == min(key // (HASH_KEY_MAX // 7), 6)


def test_ids_and_sequence_numbers_have_each_services_form() -> None:
    aws = make_stream(1).shards[0]
    yandex = make_stream(1, YANDEX).shards[0]
    record = Record(b"x", "k")
    assert aws.shard_id == "shardId-000000000000"
    assert yandex.shard_id == "shard-000000"
    number = aws.append(record, 0).sequence_number
    assert number is not None
    assert len(number) == 56
    assert number.isdigit()
    assert yandex.append(record, 0).sequence_number == "0"
    assert yandex.append(record, 0).sequence_number == "1"


def test_sequence_numbers_increase_over_all_shards_of_a_stream() -> None:
    stream = make_stream(3)
    record = Record(b"x", "k")
    numbers = [
        int(stream.shards[index % 3].append(record, 0).sequence_number or "") for index in range(30)
    ]
    assert numbers == sorted(set(numbers))


def test_a_shard_knows_its_own_sequence_numbers_only() -> None:
    stream = make_stream(2)
    first, second = stream.shards
    number = first.append(Record(b"x", "k"), 0).sequence_number or ""
    assert first.sequence_of(number) == first.log[0].sequence
    for foreign in (
        second.append(Record(b"x", "k"), 0).sequence_number or "",
        number[:-1],
        number + "0",
        "0",
        "",
        "x" * 56,
        "9" * 200,
        "²" * 56,
    ):
        assert first.sequence_of(foreign) is None, foreign


def test_a_split_closes_the_parent_and_its_children_cover_its_range() -> None:
    stream = make_stream(2)
    parent = stream.shards[0]
    stream.split(parent, 2**126, now_ns=7)
    lower, upper = stream.shards[2:]
    assert not parent.is_open
    assert parent.closed_ns == 7
    assert parent.ending_sequence is not None
    assert (lower.starting_hash_key, lower.ending_hash_key) == (0, 2**126 - 1)
    assert (upper.starting_hash_key, upper.ending_hash_key) == (2**126, 2**127 - 1)
    assert lower.parents == upper.parents == (parent,)
    assert stream.children_of(parent) == [lower, upper]
    assert lower.starting_sequence > parent.ending_sequence
    assert_covers_all(stream)


def test_a_merge_closes_both_and_opens_one_over_both() -> None:
    stream = make_stream(3)
    lower, upper, _ = stream.shards
    stream.merge(lower, upper, now_ns=7)
    merged = stream.shards[3]
    assert not lower.is_open
    assert not upper.is_open
    assert merged.parents == (lower, upper)
    assert stream.shard_of(upper.starting_hash_key) is merged
    assert_covers_all(stream)


def test_closing_twice_is_a_mistake_that_changes_nothing() -> None:
    shard = make_stream(1).shards[0]
    shard.close(1)
    ending = shard.ending_sequence
    with pytest.raises(AssertionError):
        shard.close(2)
    assert (shard.closed_ns, shard.ending_sequence) == (1, ending)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.integers(1, 24), min_size=1, max_size=4), st.integers(1, 24))
def test_resizing_gives_equal_ranges_whatever_came_before(
    targets: list[int], shard_count: int
) -> None:
    stream = make_stream(shard_count)
    for target in targets:
        before = len(stream.shards)
        most = stream.shards_added_by_resize(target)
        stream.resize(target, now_ns=1)
        assert len(stream.shards) - before <= most
        found = [(shard.starting_hash_key, shard.ending_hash_key) for shard in stream.open_shards]
        assert found == uniform_ranges(target, AWS)
        assert all(shard.shard_id == f"shardId-{i:012d}" for i, shard in enumerate(stream.shards))
    assert_covers_all(stream)


def test_doubling_splits_each_shard_once() -> None:
    stream = make_stream(2)
    stream.resize(4, now_ns=1)
    assert [shard.index for shard in stream.shards if shard.is_open] == [2, 3, 4, 5]
    assert {shard.parents[0].index for shard in stream.open_shards} == {0, 1}


def test_resizing_at_yandex_keeps_shards_open_and_remaps_all_keys() -> None:
    stream = make_stream(2, YANDEX)
    key = 2**127 - 2**120
    assert stream.shard_of(key).index == 0
    stream.resize(4, now_ns=1)
    assert all(shard.is_open and not shard.parents for shard in stream.shards)
    assert stream.shard_of(key).index == 1
    assert_covers_all(stream)


def test_find_knows_every_shard_and_no_other() -> None:
    stream = make_stream(2)
    stream.split(stream.shards[0], 2**126, 0)
    assert [stream.find(shard.shard_id) for shard in stream.shards] == stream.shards
    for unknown in ("shardId-000000000009", "shard-000000", "0", "", "shardId-0", "shardId-x"):
        assert stream.find(unknown) is None, unknown


def test_retention_drops_what_arrived_first_over_all_shards() -> None:
    stream = make_stream(2)
    for arrival_ns in range(10):
        stream.shards[arrival_ns % 2].append(Record(b"x", "k"), arrival_ns)
    size = stream.shards[0].log[0].retained_bytes
    assert trim_oldest([stream], 4 * size - 1) == 4 * size
    assert [stored.arrival_ns for stored in stream.shards[0].log] == [4, 6, 8]
    assert [stored.arrival_ns for stored in stream.shards[1].log] == [5, 7, 9]


def test_retention_stops_when_nothing_is_left() -> None:
    stream = make_stream(1)
    stream.shards[0].append(Record(b"x", "k"), 0)
    assert trim_oldest([stream], 10**9) > 0
    assert trim_oldest([stream], 10**9) == 0

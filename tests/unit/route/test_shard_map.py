"""Which shard takes a record: against a slow reference, at boundaries, and spread evenly."""

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.description import OpenShard
from kdaemon.base.limits import HASH_KEY_MAX, SPREAD_KEY_BYTES
from kdaemon.base.record import Record
from kdaemon.route.shard_map import (
    ANY_SHARD,
    KEY_CACHE_CHARACTERS_MAX,
    KEY_CACHE_MAX,
    SPREAD_KEYS,
    UNCACHED_GROUPS,
    ShardMap,
    keyless_key,
    spread_hash_key,
)
from tests.kit.depth import examples
from tests.kit.frames import even_shards

EXAMPLES = settings(deadline=None, print_blob=True, max_examples=examples(100))
HASH_KEYS = st.integers(0, HASH_KEY_MAX)


@st.composite
def shard_sets(draw: st.DrawFn) -> list[OpenShard]:
    """Ranges that cover everything, in any order."""
    cuts = sorted(draw(st.sets(st.integers(1, HASH_KEY_MAX), max_size=12)))
    starts = [0, *cuts]
    ends = [*(cut - 1 for cut in cuts), HASH_KEY_MAX]
    shards = [OpenShard(f"s{n}", a, b) for n, (a, b) in enumerate(zip(starts, ends, strict=True))]
    return draw(st.permutations(shards))


def reference(shards: list[OpenShard], hash_key: int) -> str:
    (shard,) = [s for s in shards if s.first_hash_key <= hash_key <= s.last_hash_key]
    return shard.shard_id


def hash_of(key: str) -> int:
    return int.from_bytes(hashlib.md5(key.encode("utf-8")).digest(), "big")


@EXAMPLES
@given(shards=shard_sets(), hash_keys=st.lists(HASH_KEYS, max_size=20))
def test_a_hash_key_goes_to_the_shard_whose_range_holds_it(
    shards: list[OpenShard], hash_keys: list[int]
) -> None:
    shard_map = ShardMap(shards)
    for hash_key in hash_keys:
        found = shard_map.shards[shard_map.index_of_hash_key(hash_key)]
        assert found.shard_id == reference(shards, hash_key)


@EXAMPLES
@given(shards=shard_sets())
def test_both_ends_of_every_range_are_inside_it(shards: list[OpenShard]) -> None:
    shard_map = ShardMap(shards)
    for index, shard in enumerate(shard_map.shards):
        assert shard_map.index_of_hash_key(shard.first_hash_key) == index
        assert shard_map.index_of_hash_key(shard.last_hash_key) == index
        as_text = [Record(b"", "k", str(shard.first_hash_key))]
        assert shard_map.group(as_text) == {index: [0]}


@EXAMPLES
@given(shards=shard_sets(), keys=st.lists(st.text(min_size=1, max_size=80), max_size=20))
def test_a_partition_key_goes_where_its_md5_goes_the_first_time_and_again(
    shards: list[OpenShard], keys: list[str]
) -> None:
    shard_map = ShardMap(shards)
    keys = [key for key in keys if key.isprintable()]
    for _ in range(2):
        for key in keys:
            found = shard_map.shards[shard_map.index_of_key(key)]
            assert found.shard_id == reference(shards, hash_of(key))


def test_known_hashes_fall_where_the_service_documents_them() -> None:
    """MD5 of "a" begins with 0c, of "b" with 92, of "ö" (UTF-8) with 84."""
    shard_map = ShardMap(even_shards(16))
    assert [shard_map.index_of_key(key) for key in ("a", "b", "ö")] == [
        0x0,
        0x9,
        hash_of("ö") >> 124,
    ]


def test_shards_are_kept_by_range_whatever_their_order_was() -> None:
    shards = list(even_shards(8))
    random.Random(1).shuffle(shards)
    assert ShardMap(shards).shards == even_shards(8)


def test_one_shard_takes_everything() -> None:
    shard_map = ShardMap(even_shards(1))
    assert shard_map.index_of_hash_key(0) == shard_map.index_of_hash_key(HASH_KEY_MAX) == 0
    assert shard_map.index_of_key("x") == 0


def test_a_hash_key_beyond_the_last_range_goes_to_the_last_shard() -> None:
    shard_map = ShardMap([OpenShard("a", 0, 9), OpenShard("b", 10, 19)])
    assert shard_map.index_of_hash_key(HASH_KEY_MAX) == 1


def test_the_cache_of_keys_is_bounded_and_still_right() -> None:
    shard_map = ShardMap(even_shards(7))
    for number in range(3 * KEY_CACHE_MAX):
        key = f"key-{number}"
        index = shard_map.index_of_key(key)
        assert index == hash_of(key) * 7 // 2**128
        if not number % 1_000:
            shard_map.audit()


def test_long_keys_are_not_kept() -> None:
    shard_map = ShardMap(even_shards(7))
    shard_map.index_of_key("x" * KEY_CACHE_CHARACTERS_MAX)
    shard_map.index_of_key("x" * (KEY_CACHE_CHARACTERS_MAX + 1))
    assert [len(key) for key in shard_map.audit()[0]] == [KEY_CACHE_CHARACTERS_MAX]


def test_a_key_in_use_survives_a_change_of_generation() -> None:
    shard_map = ShardMap(even_shards(7))
    for number in range(KEY_CACHE_MAX + 1):
        shard_map.index_of_key(f"key-{number}")
    assert "key-0" not in shard_map.audit()[0]
    shard_map.index_of_key("key-0")
    assert "key-0" in shard_map.audit()[0]


@EXAMPLES
@given(
    shards=shard_sets(),
    keys=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.none() | HASH_KEYS), max_size=60),
)
def test_groups_hold_every_record_once_in_order_on_its_own_shard(
    shards: list[OpenShard], keys: list[tuple[str, int | None]]
) -> None:
    shard_map = ShardMap(shards)
    records = [Record(b"", key, None if own is None else str(own)) for key, own in keys]
    groups = shard_map.group(records)
    assert sorted(index for group in groups.values() for index in group) == [*range(len(keys))]
    for shard, group in groups.items():
        assert group == sorted(group)
        for index in group:
            key, own = keys[index]
            hash_key = hash_of(key) if own is None else own
            assert shard_map.shards[shard].shard_id == reference(shards, hash_key)
    assert [(record.partition_key, record.explicit_hash_key) for record in records] == [
        (key, None if own is None else str(own)) for key, own in keys
    ], "a record that has a key keeps it as it is"


@pytest.mark.parametrize("key", ["a", ""])
@pytest.mark.parametrize("hash_key", [None, "0", str(HASH_KEY_MAX)])
def test_a_record_alone_goes_where_it_goes_in_a_group(key: str, hash_key: str | None) -> None:
    alone, grouped = ShardMap(even_shards(4)), ShardMap(even_shards(4))
    for _ in range(9):
        one, other = Record(b"", key, hash_key), Record(b"", key, hash_key)
        assert grouped.group([other]) == {alone.index_of(one): [0]}
        assert one == other


def test_a_group_over_a_change_of_generation_is_right() -> None:
    shard_map = ShardMap(even_shards(5))
    records = [Record(b"", f"key-{number % 9000}") for number in range(2 * KEY_CACHE_MAX + 500)]
    groups = shard_map.group(records)
    for shard, group in groups.items():
        assert all(hash_of(records[i].partition_key) * 5 >> 128 == shard for i in group)
    assert sum(map(len, groups.values())) == len(records)


def test_keys_that_do_not_repeat_leave_the_cache_alone_and_go_where_they_go() -> None:
    shard_map = ShardMap(even_shards(5))
    shard_map.group([Record(b"", f"first-{number}") for number in range(KEY_CACHE_MAX)])
    for number in range(4 * (UNCACHED_GROUPS + 1)):
        records = [Record(b"", f"key-{number}-{index}") for index in range(100)]
        records[7] = Record(b"", "x", str(HASH_KEY_MAX))
        records[9] = Record(b"", "")
        for shard, group in shard_map.group(records).items():
            for index in group:
                expected = {7: 4, 9: ANY_SHARD}.get(index)
                if expected is None:
                    expected = hash_of(records[index].partition_key) * 5 >> 128
                assert shard == expected
    assert len(shard_map.audit()[0]) == 4 * 98


def test_keys_that_begin_to_repeat_are_kept() -> None:
    shard_map = ShardMap(even_shards(5))
    for number in range(KEY_CACHE_MAX // 512 + 1):
        shard_map.group([Record(b"", f"first-{number}-{index}") for index in range(512)])
    records = [Record(b"", f"key-{index}") for index in range(100)]
    groups = [shard_map.group(records) for _ in range(2 * (UNCACHED_GROUPS + 1))]
    assert all(each == groups[0] for each in groups)
    assert {record.partition_key for record in records} <= shard_map.audit()[0]
    assert shard_map.audit()[1] == 0


def test_a_cache_that_was_never_full_is_filled_by_every_group() -> None:
    shard_map = ShardMap(even_shards(5))
    for number in range(3):
        shard_map.group([Record(b"", f"key-{number}-{index}") for index in range(100)])
    assert len(shard_map.audit()[0]) == 300


def test_records_without_any_key_are_for_any_shard_and_are_left_as_they_are() -> None:
    shard_map = ShardMap(even_shards(4))
    records = [Record(b"", ""), Record(b"", "a"), Record(b"", "")]
    assert shard_map.group(records) == {ANY_SHARD: [0, 2], shard_map.index_of_key("a"): [1]}
    assert shard_map.index_of(records[0]) == ANY_SHARD
    assert records[0] == Record(b"", "")


def test_given_keys_are_short_and_differ_for_long() -> None:
    keys = [keyless_key(number) for number in range(SPREAD_KEYS)]
    assert len(set(keys)) == SPREAD_KEYS
    assert {len(key) for key in keys} == {*range(1, SPREAD_KEY_BYTES + 1)}
    assert keyless_key(SPREAD_KEYS + 7) == keyless_key(7)


@EXAMPLES
@given(shards=shard_sets())
def test_the_hash_key_of_a_shard_is_in_its_range_and_not_at_the_end(
    shards: list[OpenShard],
) -> None:
    """Yandex sends a record at the end of a range to the next shard."""
    shard_map = ShardMap(shards)
    assert len(shard_map.hash_keys) == len(shards)
    for index, shard in enumerate(shard_map.shards):
        hash_key = int(shard_map.hash_keys[index])
        assert shard_map.index_of_hash_key(hash_key) == index
        is_wide = shard.last_hash_key > shard.first_hash_key
        assert not is_wide or shard.first_hash_key <= hash_key < shard.last_hash_key


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_record_with_a_hash_key_alone_goes_by_it_and_is_left_as_it_is(*, is_alone: bool) -> None:
    shard_map = ShardMap(even_shards(4))
    record = Record(b"", "", str(HASH_KEY_MAX))
    assert not shard_map.has_unnamed
    found = {shard_map.index_of(record): [0]} if is_alone else shard_map.group([record])
    assert found == {3: [0]}
    assert record == Record(b"", "", str(HASH_KEY_MAX))
    assert shard_map.has_unnamed, "who sends it has to give it a key"


def test_the_same_key_routes_alike_whether_cached_or_beside_an_explicit_one() -> None:
    shard_map = ShardMap(even_shards(16))
    home = shard_map.index_of_key("b")
    away = str(shard_map.shards[(home + 5) % 16].first_hash_key)
    groups = shard_map.group([Record(b"", "b"), Record(b"", "b", away), Record(b"", "b")])
    assert groups == {home: [0, 2], (home + 5) % 16: [1]}


def test_without_a_map_hash_keys_are_spread_evenly_and_valid() -> None:
    for first in (0, 10**15):
        hash_keys = [int(spread_hash_key(first + count)) for count in range(1600)]
        counts = Counter(hash_key >> 124 for hash_key in hash_keys)
        assert len(counts) == 16
        assert all(90 <= count <= 110 for count in counts.values()), counts
        assert min(hash_keys) >= 0
        assert max(hash_keys) <= HASH_KEY_MAX
        assert len(set(hash_keys)) == 1600

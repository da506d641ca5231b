"""What a producer can know of a reshard: the shards as ListShards tells them, before and after, and
where its records land.
"""

import hashlib
from itertools import pairwise
from typing import Any

import pytest

from tests.kit.endpoints import Endpoint, data_of, entry

FIRST, SECOND, THIRD = (f"shardId-{index:012d}" for index in range(3))
KEYS = [f"key-{number}" for number in range(60)]
HASH_KEY_MAX = 2**128 - 1


class Listing:
    """The shards of a stream as one ListShards told them."""

    def __init__(self, endpoint: Endpoint, stream: str) -> None:
        endpoint.wait_active(stream)
        shards = endpoint.answer("ListShards", StreamName=stream)["Shards"]
        self.by_id: dict[str, dict[str, Any]] = {shard["ShardId"]: shard for shard in shards}

    def hash_range(self, shard_id: str) -> tuple[int, int]:
        told = self.by_id[shard_id]["HashKeyRange"]
        return int(told["StartingHashKey"]), int(told["EndingHashKey"])

    def is_open(self, shard_id: str) -> bool:
        return not self.by_id[shard_id]["SequenceNumberRange"].get("EndingSequenceNumber")

    def parents(self, shard_id: str) -> list[str]:
        shard = self.by_id[shard_id]
        told = (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
        return [parent for parent in told if parent]

    def children(self, shard_id: str) -> list[str]:
        """In the order of their hash keys."""
        found = [each for each in self.by_id if shard_id in self.parents(each)]
        return sorted(found, key=self.hash_range)

    @property
    def open_ids(self) -> list[str]:
        """In the order of their hash keys."""
        return sorted(filter(self.is_open, self.by_id), key=self.hash_range)

    def holder_of(self, hash_key: int) -> str:
        """The one open shard whose range holds the hash key."""
        (found,) = (
            each
            for each in self.open_ids
            if self.hash_range(each)[0] <= hash_key <= self.hash_range(each)[1]
        )
        return found

    def assert_open_cover_all(self) -> None:
        ranges = [self.hash_range(each) for each in self.open_ids]
        assert ranges[0][0] == 0
        assert ranges[-1][1] == HASH_KEY_MAX
        assert all(upper[0] == lower[1] + 1 for lower, upper in pairwise(ranges))


def split(endpoint: Endpoint, stream: str, shard_id: str) -> None:
    """In the middle of its range."""
    start, end = Listing(endpoint, stream).hash_range(shard_id)
    endpoint.answer_empty(
        "SplitShard",
        StreamName=stream,
        ShardToSplit=shard_id,
        NewStartingHashKey=str((start + end + 1) // 2),
    )
    endpoint.wait_active(stream)


def merge(endpoint: Endpoint, stream: str, lower: str, upper: str) -> None:
    endpoint.answer_empty(
        "MergeShards", StreamName=stream, ShardToMerge=lower, AdjacentShardToMerge=upper
    )
    endpoint.wait_active(stream)


def resize(endpoint: Endpoint, stream: str, shard_count: int) -> None:
    endpoint.answer(
        "UpdateShardCount",
        StreamName=stream,
        TargetShardCount=shard_count,
        ScalingType="UNIFORM_SCALING",
    )
    endpoint.wait_active(stream)


def reshard(endpoint: Endpoint, stream: str, how: str) -> Listing:
    """Does it to a stream of three shards; the shards after it."""
    if how == "split":
        split(endpoint, stream, SECOND)
    elif how == "merge":
        merge(endpoint, stream, FIRST, SECOND)
    elif how == "split and merge":
        split(endpoint, stream, SECOND)
        lower, upper = Listing(endpoint, stream).children(SECOND)
        merge(endpoint, stream, FIRST, lower)
        split(endpoint, stream, upper)
    else:
        resize(endpoint, stream, int(how))
    return Listing(endpoint, stream)


WAYS = ["split", "merge", "split and merge", "6", "2", "4"]


def test_the_children_of_a_split_share_their_parents_range(endpoint: Endpoint, stream: str) -> None:
    before = Listing(endpoint, stream)
    after = reshard(endpoint, stream, "split")
    lower, upper = after.children(SECOND)
    start, end = before.hash_range(SECOND)
    middle = (start + end + 1) // 2
    assert after.hash_range(SECOND) == (start, end)
    assert after.hash_range(lower) == (start, middle - 1)
    assert after.hash_range(upper) == (middle, end)
    assert after.parents(lower) == after.parents(upper) == [SECOND]
    assert sorted(after.by_id) == [*sorted(before.by_id), *sorted([lower, upper])]


def test_the_child_of_a_merge_has_both_parents_and_their_ranges(
    endpoint: Endpoint, stream: str
) -> None:
    before = Listing(endpoint, stream)
    after = reshard(endpoint, stream, "merge")
    (child,) = set(after.by_id) - set(before.by_id)
    assert sorted(after.parents(child)) == [FIRST, SECOND]
    assert after.children(FIRST) == after.children(SECOND) == [child]
    assert after.hash_range(child) == (before.hash_range(FIRST)[0], before.hash_range(SECOND)[1])


@pytest.mark.parametrize("case", WAYS)
def test_who_became_a_parent_is_told_as_closed_and_nobody_else(
    endpoint: Endpoint, stream: str, case: str
) -> None:
    after = reshard(endpoint, stream, case)
    parents = {parent for shard_id in after.by_id for parent in after.parents(shard_id)}
    closed = set(after.by_id) - set(after.open_ids)
    assert closed == parents
    assert closed, "each of these ways closes something"
    after.assert_open_cover_all()


@pytest.mark.parametrize("case", WAYS)
def test_shards_that_are_opened_have_higher_ids_than_their_parents(
    endpoint: Endpoint, stream: str, case: str
) -> None:
    after = reshard(endpoint, stream, case)
    opened = [each for each in after.by_id if after.parents(each)]
    assert opened
    assert all(parent < each for each in opened for parent in after.parents(each))


@pytest.mark.parametrize("case", WAYS)
def test_a_key_lands_on_the_open_shard_that_holds_its_hash_key(
    endpoint: Endpoint, stream: str, case: str
) -> None:
    after = reshard(endpoint, stream, case)
    results = endpoint.put_all(stream, [entry(b"x", key) for key in KEYS])
    hash_keys = [int(hashlib.md5(key.encode()).hexdigest(), 16) for key in KEYS]
    assert [result["ShardId"] for result in results] == list(map(after.holder_of, hash_keys))
    assert {result["ShardId"] for result in results} == set(after.open_ids)


@pytest.mark.parametrize("case", WAYS)
def test_both_ends_of_every_open_range_belong_to_it(
    endpoint: Endpoint, stream: str, case: str
) -> None:
    after = reshard(endpoint, stream, case)
    ends = [(shard_id, end) for shard_id in after.open_ids for end in after.hash_range(shard_id)]
    results = endpoint.put_all(stream, [entry(b"x", "k", str(end)) for _, end in ends])
    assert [result["ShardId"] for result in results] == [shard_id for shard_id, _ in ends]


@pytest.mark.parametrize("case", WAYS)
def test_what_was_written_before_stays_on_the_closed_shard(
    endpoint: Endpoint, stream: str, case: str
) -> None:
    before = endpoint.put_all(stream, [entry(b"before", key) for key in KEYS])
    after = reshard(endpoint, stream, case)
    endpoint.put_all(stream, [entry(b"after", key) for key in KEYS])
    for shard_id in (FIRST, SECOND, THIRD):
        if after.is_open(shard_id):
            continue
        kept = [data_of(record) for record in endpoint.read_shard(stream, shard_id)]
        assert kept == [b"before"] * [result["ShardId"] for result in before].count(shard_id)


def test_a_closed_shards_last_number_comes_after_its_records_and_before_its_childrens(
    endpoint: Endpoint, stream: str
) -> None:
    (written,) = endpoint.put_all(stream, [entry(b"x", "k", str(2**127))])
    assert written["ShardId"] == SECOND
    after = reshard(endpoint, stream, "split")
    ending = int(after.by_id[SECOND]["SequenceNumberRange"]["EndingSequenceNumber"])
    assert int(written["SequenceNumber"]) <= ending
    for child in after.children(SECOND):
        start = after.hash_range(child)[0]
        (later,) = endpoint.put_all(stream, [entry(b"x", "k", str(start))])
        assert int(later["SequenceNumber"]) > ending


def test_a_stream_made_anew_counts_its_shards_from_zero(endpoint: Endpoint, stream: str) -> None:
    reshard(endpoint, stream, "split")
    endpoint.answer_empty("DeleteStream", StreamName=stream)
    endpoint.wait_gone(stream)
    endpoint.make_stream(stream, 2)
    anew = Listing(endpoint, stream)
    assert sorted(anew.by_id) == [FIRST, SECOND]
    assert anew.open_ids == [FIRST, SECOND]
    (result,) = endpoint.put_all(stream, [entry(b"x", "k", "0")])
    assert result["ShardId"] == FIRST

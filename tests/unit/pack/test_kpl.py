"""KPL's aggregated record: golden bytes, where it is sent, and how large it may become."""

import random
from collections.abc import Iterator

import pytest

from kdaemon.base.description import OpenShard
from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from kdaemon.pack import kpl
from kdaemon.route.shard_map import ShardMap

MD5_OF_A = int("0cc175b9c0f1b6a831c399e269772661", 16)  # RFC 1321, A.5

# services.md C.1: what aws_kinesis_agg with protobuf 7.36 writes. Magic, tables, records; then MD5.
GOLDEN = [
    (
        [Record(b"hello", "a"), Record(b"\x00\xff", "b", "42"), Record(b"", "a")],
        "f3899ac20a01610a0162120234321a0908001a0568656c6c6f1a08080110001a0200ff1a0408001a00",
        "82cf439237734ae0d7334042fcd1e2c5",
    ),
    (
        [Record(b"hello", "a"), Record(b"zz", "b")],
        "f3899ac20a01610a01621a0908001a0568656c6c6f1a0608011a027a7a",
        "ad374bebf1554e50a43b04a7d21779b5",
    ),
]


def bound(records: list[Record]) -> int:
    """What a packer counts on: sizes and the constants."""
    sizes = sum([len(each.data) + len(each.partition_key.encode()) for each in records])
    explicit_count = sum([each.explicit_hash_key is not None for each in records])
    return (
        sizes
        + len(records) * kpl.RECORD_OVERHEAD_BYTES_MAX
        + explicit_count * kpl.EXPLICIT_OVERHEAD_BYTES_MAX
        + kpl.AGGREGATE_OVERHEAD_BYTES
    )


@pytest.mark.parametrize(("records", "head", "digest"), GOLDEN, ids=["mixed", "plain"])
def test_the_golden_vectors_come_out_byte_for_byte(
    records: list[Record], head: str, digest: str
) -> None:
    assert kpl.encode_aggregate(records).hex() == head + digest


def test_encoding_changes_no_record_and_gives_the_same_again() -> None:
    records = [Record(b"hello", "a", "7"), Record(b"hello", "b", "7")]
    before = repr(records)
    assert kpl.encode_aggregate(records) == kpl.encode_aggregate(tuple(records))
    assert repr(records) == before


def test_an_aggregate_goes_where_its_first_record_belongs() -> None:
    assert kpl.outer_hash_key([Record(b"", "a"), Record(b"", "b")]) == str(MD5_OF_A)
    assert kpl.outer_hash_key([Record(b"", "a", "0"), Record(b"", "b", "1")]) == "0"


def test_an_aggregate_of_one_shards_records_goes_to_that_shard() -> None:
    middle = 2**127
    shard_map = ShardMap([OpenShard("0", 0, middle - 1), OpenShard("1", middle, HASH_KEY_MAX)])
    records = [Record(b"", f"ключ {number}") for number in range(100)]
    groups = shard_map.group(records)
    assert len(groups) == 2
    for index, members in groups.items():
        outer = kpl.outer_hash_key([records[member] for member in members])
        aggregate = Record(b"", records[members[0]].partition_key, outer)
        assert shard_map.index_of(aggregate) == index


def test_hash_keys_are_explicit_or_the_md5_of_the_key_in_the_order_of_records() -> None:
    records = [
        Record(b"", "a"),
        Record(b"", "a", "0"),
        Record(b"", "b", str(HASH_KEY_MAX)),
        Record(b"", "a"),
    ]
    assert kpl.hash_keys(records) == [MD5_OF_A, 0, HASH_KEY_MAX, MD5_OF_A]


def long_key(number: int) -> str:
    return f"{number:0128}"


def extremes() -> Iterator[tuple[str, list[Record]]]:
    """Where an overhead is at its largest, filled up to AGGREGATE_BYTES_MAX (by the bound)."""
    highest = HASH_KEY_MAX
    yield "the longest data", [Record(b"x" * 16_384, long_key(n)) for n in range(63)]
    yield (
        "the longest data behind 128 keys",
        [Record(b"x" * 128, long_key(n)) for n in range(128)]
        + [Record(b"x" * 16_384, long_key(n)) for n in range(128, 189)],
    )
    yield (
        "the longest data, explicit",
        [Record(b"x" * 16_384, long_key(n), str(highest - n)) for n in range(63)],
    )
    yield "long keys", [Record(b"x" * 128, long_key(n)) for n in range(3_900)]
    yield (
        "long keys, explicit",
        [Record(b"x" * 128, long_key(n), str(highest - n)) for n in range(3_300)],
    )
    yield (
        "long keys behind many short ones",
        [Record(b"", f"{n:x}") for n in range(16_384)]
        + [Record(b"x" * 128, long_key(n)) for n in range(2_900)],
    )
    yield "the largest indices", [Record(b"", f"{n:x}") for n in range(61_000)]
    yield (
        "the largest indices, explicit",
        [Record(b"", f"{n:x}", str(highest - n)) for n in range(17_300)],
    )
    yield "one record that fills it", [Record(b"x" * 1_048_480, "k")]
    yield "nothing but overhead", [Record(b"", "k")] * 80_000
    yield "the longest keys", [Record(b"", f"{n:04}" + "🔑" * 252) for n in range(1_000)]


@pytest.mark.parametrize(
    "records", [pytest.param(records, id=name) for name, records in extremes()]
)
def test_no_extreme_is_larger_than_its_bound(records: list[Record]) -> None:
    assert 0.9 * kpl.AGGREGATE_BYTES_MAX < bound(records) <= kpl.AGGREGATE_BYTES_MAX
    assert len(kpl.encode_aggregate(records)) <= bound(records)


def test_the_bound_is_reached() -> None:
    records = dict(extremes())["the longest data"]
    assert len(kpl.encode_aggregate(records)) == bound(records)


def test_the_bound_wastes_one_percent_of_usual_records_at_most() -> None:
    records = [Record(b"x" * 200, f"user-{number:06}") for number in range(225)]
    assert bound(records) <= 1.01 * len(kpl.encode_aggregate(records))


def test_what_is_remembered_of_lengths_and_indices_is_bounded() -> None:
    dice = random.Random(1)
    lengths = [dice.randrange(kpl.FIELDS_CACHED_MAX, 20_000) for _ in range(40)]
    kpl.encode_aggregate([Record(b"x" * length, f"{length}", f"{length}") for length in lengths])
    kpl.encode_aggregate([Record(b"", str(n), str(n)) for n in range(kpl.FIELDS_CACHED_MAX + 10)])
    for table in (kpl._FIELD_3, kpl._PARTITION_KEY_INDEX, kpl._EXPLICIT_HASH_KEY_INDEX):
        assert len(table) <= kpl.FIELDS_CACHED_MAX
        assert max(table) < kpl.FIELDS_CACHED_MAX

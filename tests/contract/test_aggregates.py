"""Our aggregated records against two readers and writers of KPL's format that others wrote."""

import random

import pytest

from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from kdaemon.pack.kpl import (
    AGGREGATE_OVERHEAD_BYTES,
    RECORD_OVERHEAD_BYTES_MAX,
    encode_aggregate,
)
from tests.kit.aggregates import (
    node_reads,
    node_writes,
    python_reads,
    python_writes,
    triples,
)

TARGET_BYTES = 51_200  # KPL's AggregationMaxSize


def some_bytes(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def up_to_the_target() -> list[Record]:
    """As many records of 200 B as surely fit."""
    each = 200 + len("user-0000") + RECORD_OVERHEAD_BYTES_MAX
    count = (TARGET_BYTES - AGGREGATE_OVERHEAD_BYTES) // each
    return [Record(some_bytes(200), f"user-{number:04}") for number in range(count)]


CASES = {
    "plain keys": [Record(b"one", "a"), Record(b"two", "b"), Record(b"three", "a")],
    "explicit hash keys": [
        Record(b"lowest", "a", "0"),
        Record(b"highest", "b", str(HASH_KEY_MAX)),
        Record(b"the lowest again", "a", "0"),
        Record(b"between", "b", str(2**127)),
    ],
    "keys of many bytes": [
        Record(b"two bytes each", "ключ"),
        Record(b"three", "キー"),
        Record(b"the longest", "🔑" * 256),
        Record(b"again", "ключ"),
        Record(b"quotes and a null", '"\\\x00'),
    ],
    "empty data": [Record(b"", "a"), Record(b"", "b"), Record(b"", "a")],
    "empty data, explicit": [Record(b"", "a", "1"), Record(b"", "b", "1")],
    "one record": [Record(b"alone", "a")],
    "one record, explicit": [Record(b"alone", "a", "5")],
    "500 records": [Record(some_bytes(n % 150), f"key-{n}") for n in range(500)],
    "500 records, explicit": [
        Record(some_bytes(n % 150), f"key-{n % 7}", str(2**127 + n)) for n in range(500)
    ],
    "up to the target": up_to_the_target(),
    "lengths where a varint grows": [
        Record(some_bytes(n), "k" * (n % 256 + 1))
        for n in (1, 122, 123, 127, 128, 16_377, 16_378, 16_383, 16_384, 200_000)
    ],
    "data that is an aggregate itself": [
        Record(encode_aggregate([Record(b"inner", "a")]), "b"),
        Record(b"\xf3\x89\x9a\xc2", "c"),
    ],
}
cases = pytest.mark.parametrize("records", CASES.values(), ids=CASES.keys())


def test_the_target_is_used_and_not_exceeded() -> None:
    assert 0.98 * TARGET_BYTES < len(encode_aggregate(CASES["up to the target"])) <= TARGET_BYTES


@cases
def test_python_reads_what_we_write(records: list[Record]) -> None:
    assert python_reads(encode_aggregate(records)) == triples(records)


@cases
def test_we_write_what_python_writes(records: list[Record]) -> None:
    assert encode_aggregate(records) == python_writes(records)


@pytest.mark.node
@cases
def test_node_reads_what_we_write(records: list[Record]) -> None:
    assert node_reads(encode_aggregate(records)) == triples(records)


@pytest.mark.node
@cases
def test_we_write_what_node_writes(records: list[Record]) -> None:
    assert encode_aggregate(records) == node_writes(records)


@pytest.mark.node
def test_a_broken_aggregate_is_noticed() -> None:
    """Else the cases above would say nothing about the digest."""
    written = bytearray(encode_aggregate(CASES["plain keys"]))
    written[-20] ^= 1
    assert python_reads(bytes(written)) == [("outer", None, bytes(written))]
    with pytest.raises(ValueError, match="checksum"):
        node_reads(bytes(written))


@pytest.mark.node
def test_readers_mistake_a_record_without_explicit_hash_key_beside_one_with_it() -> None:
    """Why the kinds are never mixed: an absent index reads as 0, the first of the table.

    The bytes are as they should be (their writer makes the same), and yet "a" would seem to belong
    to the shard of hash key 42; KCL drops an aggregate of which a record belongs elsewhere.
    """
    mixed = [Record(b"plain", "a"), Record(b"explicit", "b", "42")]
    written = encode_aggregate(mixed)
    assert written == python_writes(mixed)
    mistaken = [("a", "42", b"plain"), ("b", "42", b"explicit")]
    assert python_reads(written) == mistaken
    assert node_reads(written) == mistaken

"""What is written can be read, and what was damaged is found out."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.record import Record
from kdaemon.spool.codec import (
    CorruptFrame,
    checksum,
    decode_records,
    encode_records,
    settled_indices,
)
from tests.kit.stores import encode_settled

records = st.lists(
    st.builds(
        Record,
        data=st.binary(max_size=64),
        partition_key=st.text(
            st.characters(codec="utf-8"), max_size=300
        ),  # shorter and longer than the wire takes
        explicit_hash_key=st.none() | st.integers(0, 2**128 - 1).map(str),
    ),
    max_size=20,
)


@given(records)
def test_records_are_read_as_they_were_written(written: list[Record]) -> None:
    assert decode_records(encode_records(written)) == written


def test_a_key_that_asks_to_be_spread_survives_though_the_wire_takes_none() -> None:
    assert decode_records(encode_records([Record(b"x", "")])) == [Record(b"x", "")]


@given(records)
def test_a_payload_of_version_1_begins_with_a_msgpack_array(written: list[Record]) -> None:
    first = encode_records(written)[0]
    assert 0x90 <= first <= 0x9F or first in {0xDC, 0xDD}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01",
        b"\x91",
        encode_records([Record(b"abc", "k")])[:-1],
        encode_records([Record(b"abc", "k")]) + b"\x00",
        msgspec.msgpack.encode([{"Data": b"x"}]),
        msgspec.msgpack.encode({"Data": b"x", "PartitionKey": "k"}),
        encode_records([Record(b"", "\x7f")]).replace(b"\x7f", b"\xff"),  # no UTF-8
    ],
)
def test_a_payload_that_is_no_list_of_records_is_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptFrame):
        decode_records(payload)


def test_the_checksum_is_what_the_first_release_wrote() -> None:
    assert checksum("orders", 7, 2, 1_763_760_000_000, b"payload") == 0xB8DAACF9


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["stream", "id", "count", "time", "payload"]),
)
def test_the_checksum_covers_all_that_a_row_says(salt: int, changed: str) -> None:
    row = {"stream": "orders", "id": salt, "count": 3, "time": salt, "payload": b"abc"}
    other = {"stream": "order", "id": salt + 1, "count": 4, "time": salt + 1, "payload": b"abd"}

    def summed(values: dict[str, object]) -> int:
        return checksum(*values.values())  # type: ignore[arg-type]  # of the types above

    assert summed(row) != summed({**row, changed: other[changed]})


def test_a_byte_cannot_move_from_the_name_into_the_payload() -> None:
    assert checksum("ab", 1, 1, 1, b"c") != checksum("a", 1, 1, 1, b"bc")


@given(st.integers(1, 600).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_a_bitmap_gives_back_the_indices_it_was_given(case: tuple[int, set[int]]) -> None:
    record_count, indices = case
    settled = encode_settled(indices, record_count)
    assert settled_indices(settled, record_count) == sorted(indices)
    assert len(settled) == (record_count + 7) // 8 + 4


@given(st.integers(1, 100), st.data())
def test_a_bitmap_with_one_changed_bit_is_corrupt(record_count: int, data: st.DataObject) -> None:
    settled = bytearray(encode_settled([0], record_count))
    bit = data.draw(st.integers(0, 8 * len(settled) - 1))
    settled[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptFrame):
        settled_indices(bytes(settled), record_count)


@pytest.mark.parametrize("settled", [b"", b"\x00", encode_settled([], 9)])
def test_a_bitmap_of_another_length_is_corrupt(settled: bytes) -> None:
    with pytest.raises(CorruptFrame):
        settled_indices(settled, 8)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_the_frame_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="frame of 3"):
        encode_settled([index], 3)

"""CBOR to plain values and back: what is not well-formed is refused, at a small price."""

import random
import struct
import tracemalloc
from contextlib import suppress

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.wire import cbor
from kdaemon.wire.cbor import DEPTH_MAX, ITEMS_MAX, CborError, Repeating, decode, encode, head
from tests.kit.cbor import any_way, java

MIB = 1024 * 1024

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text("abcé"), inner, max_size=4)
    ),
    max_leaves=12,
)


def as_read(value: object) -> object:
    """Lists for tuples."""
    if isinstance(value, tuple):
        return [as_read(each) for each in value]
    if isinstance(value, dict):
        return {name: as_read(member) for name, member in value.items()}
    return value


@settings(deadline=None)
@given(value=values, seed=st.integers(0, 2**32))
def test_a_value_is_read_however_it_is_written(value: object, seed: int) -> None:
    for body in (any_way(value, random.Random(seed)), java(value), cbor2.dumps(as_read(value))):
        assert decode(body) == as_read(value)


@settings(deadline=None)
@given(value=values)
def test_what_is_written_is_read_by_others(value: object) -> None:
    plain = as_read(value)
    if not has_float(plain):
        assert cbor2.loads(encode(plain)) == plain


def has_float(value: object) -> bool:
    if isinstance(value, list):
        return any(map(has_float, value))
    if isinstance(value, dict):
        return any(map(has_float, value.values()))
    return isinstance(value, float)


@pytest.mark.parametrize(
    "count", [0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1]
)
def test_a_head_is_as_short_as_can_be(count: int) -> None:
    assert head(0, count) == cbor2.dumps(count)


def test_a_moment_is_whole_milliseconds_under_tag_1() -> None:
    body = encode({"StreamCreationTimestamp": 7, "ApproximateArrivalTimestamp": 1787036486.712})
    assert body == (
        b"\xa2\x77StreamCreationTimestamp\xc1\x19\x1b\x58"
        b"\x78\x1bApproximateArrivalTimestamp\xc1\x1b" + struct.pack(">Q", 1787036486712)
    )
    assert decode(body) == {
        "StreamCreationTimestamp": 7,
        "ApproximateArrivalTimestamp": 1787036486.712,
    }


def test_what_has_no_form_is_a_defect() -> None:
    for value in ((1,), object(), {"x": 1.5j}):
        with pytest.raises(TypeError):
            encode(value)


@pytest.mark.parametrize("body", [b"\xa2\x61a\x01\x61a\x02", b"\xbf\x61a\x01\x7f\x61a\xff\x02\xff"])
def test_a_map_with_a_member_twice_says_so(body: bytes) -> None:
    found = decode(body)
    assert isinstance(found, Repeating)
    assert (found.name, found) == ("a", {"a": 2})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "ends in the middle"),
        (b"\x18", "ends in the middle"),
        (b"\x19\x00", "ends in the middle"),
        (b"\x1b\x00\x00\x00\x00\x00\x00\x00", "ends in the middle"),
        (b"\x41", "ends in the middle"),
        (b"\x62a", "ends in the middle"),
        (b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff", "ends in the middle"),
        (b"\x7b\x7f\xff\xff\xff\xff\xff\xff\xffabc", "ends in the middle"),
        (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff\x00", "ends in the middle"),
        (b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff\x60\x00", "ends in the middle"),
        (b"\x82\x00", "ends in the middle"),
        (b"\x9f\x00", "ends in the middle"),
        (b"\xbf\x60", "ends in the middle"),
        (b"\xa1\x60", "ends in the middle"),
        (b"\x5f\x41a", "ends in the middle"),
        (b"\xfb\x00", "ends in the middle"),
        (b"\x00\x00", "bytes follow its end (byte 1)"),
        (b"\xff", "a break stands where a value should"),
        (b"\x81\xff", "a break stands where a value should"),
        (b"\xa1\x60\xff", "a break stands where a value should"),
        (b"\xbf\x60\xff", "a break stands where a value should"),
        (b"\xa1\xff\x00", "name of a member is no text"),
        (b"\x1c", "0x1c begins no value"),
        (b"\x5d\x00", "0x5d begins no value"),
        (b"\x1f", "0x1f begins no value"),
        (b"\x3f", "0x3f begins no value"),
        (b"\xdf\x00", "0xdf begins no value"),
        (b"\xe0", "0xe0 stands where a value should"),
        (b"\xf8\x20", "0xf8 stands where a value should"),
        (b"\xfc", "0xfc stands where a value should"),
        (b"\xa1\x00\x00", "name of a member is no text"),
        (b"\xa1\x41a\x00", "name of a member is no text"),
        (b"\xbf\xf6\x00\xff", "name of a member is no text"),
        (b"\x5f\x61a\xff", "piece of a string is of another type"),
        (b"\x7f\x41a\xff", "piece of a string is of another type"),
        (b"\x7f\x7f\x61a\xff\xff", "piece of a string is of another type"),
        (b"\x5f\xf6\xff", "piece of a string is of another type"),
        (b"\xc0\x60", "tag 0 is not read here"),
        (b"\xc2\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00", "tag 2 is not read here"),
        (b"\xc4\x82\x00\x00", "tag 4 is not read here"),
        (b"\xd8\x1c\x81\xd8\x1d\x00", "tag 28 is not read here"),
        (b"\xd9\x01\x00\x00", "tag 256 is not read here"),
        (b"\xd9\xd9\xf7\x00", "tag 55799 is not read here"),
        (b"\xc1\x60", "a moment is no number"),
        (b"\xc1\xf5", "a moment is no number"),
        (b"\xc1\xc1\xf6", "a moment is no number"),
        (b"\x62\xc3\x28", "not UTF-8"),
        (b"\x7f\x61\xc3\x61\xa9\xff", "not UTF-8"),
        (b"\xa1\x61\xff\x00", "not UTF-8"),
        (b"\x63\xed\xa0\x80", "not UTF-8"),
        (b'{"StreamName":"s"}', "The body is JSON, and its content type says CBOR."),
    ],
)
def test_what_is_not_well_formed_is_refused_with_the_reason(body: bytes, text: str) -> None:
    with pytest.raises(CborError) as caught:
        decode(body)
    assert text in caught.value.text
    assert len(caught.value.text) < 120


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_an_error(body: bytes) -> None:
    with suppress(CborError):
        decode(body)


@pytest.mark.parametrize(
    "many",
    [
        b"\x80" * MIB,
        b"\xa0" * MIB,
        b"\xf6" * MIB,
        b"\xa1\x60\x00" * (MIB // 3),
        b"\x5f\xff" * (MIB // 2),
        b"\x5f" + b"\x40" * MIB,
        b"\xbf" + b"".join(b"\x64%04d\xa0" % (number % 10_000) for number in range(MIB // 6)),
    ],
    ids=["lists", "maps", "nulls", "small maps", "empty strings", "pieces", "members"],
)
def test_many_small_values_cost_little_whatever_the_size(many: bytes) -> None:
    for start in (b"\x9f", b"\x9a%b" % len(many).to_bytes(4, "big")):
        body = start + many * 8
        tracemalloc.start()
        with pytest.raises(CborError) as caught:
            decode(body)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert f"more than {ITEMS_MAX} values" in caught.value.text
        assert peak < 4 * MIB


@pytest.mark.parametrize("size", [200, 4000, MIB])
def test_texts_that_are_not_ascii_have_a_bound_together(size: int) -> None:
    wide = ("é" * (size // 2)).encode()
    one = cbor.head(cbor.TEXT, len(wide)) + wide
    at_most = cbor.WIDE_BYTES_MAX // len(wide)
    for body in (b"\x9f%b\xff", b"\x7f%b\xff"):
        decode(body % (one * at_most))
        with pytest.raises(CborError, match="not ASCII"):
            decode(body % (one * (at_most + 1)))
    assert decode(cbor.head(cbor.TEXT, 14 * MIB) + b"A" * 14 * MIB) == "A" * 14 * MIB


@pytest.mark.parametrize("opening", [b"\x81", b"\x9f", b"\xa1\x60", b"\xbf\x60", b"\xc1"])
def test_nesting_has_an_end(opening: bytes) -> None:
    with pytest.raises(CborError, match="nested too deeply"):
        decode(opening * MIB)
    assert decode(b"\x81" * DEPTH_MAX + b"\x00")


def test_a_string_in_pieces_is_no_longer_than_the_body() -> None:
    pieces = b"\x5f" + (b"\x59\x10\x00" + b"x" * 4096) * 2560 + b"\xff"
    assert decode(pieces) == b"x" * 4096 * 2560
    assert cbor.ITEMS_MAX > 2560 + 3500

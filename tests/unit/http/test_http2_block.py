"""A block of HTTP/2 headers means what the library says of it, and is refused where it is."""

from collections.abc import Callable

import pytest
from hpack.exceptions import HPACKDecodingError, HPACKError
from hpack.hpack import Decoder, Encoder
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kdaemon.http.http2_block import SIZE_CHANGES, BlockDecoder

LIST_BYTES_MAX = 4_096

names = st.sampled_from([b":method", b":path", b"host", b"x-amz-date", b"authorization", b"x"])
values = st.one_of(
    st.sampled_from([b"", b"GET", b"/", b"a" * 63, b"b" * 127, b"c" * 300, b"20261128T190000Z"]),
    st.binary(max_size=40),
)
fields = st.lists(st.tuples(names, values, st.booleans()), max_size=8)


def outcome(decode: Callable[[bytes], list[tuple[bytes, bytes]]], block: bytes) -> object:
    """The fields, or that there are none; IndexError is what the library lets through."""
    try:
        return decode(block)
    except (HPACKError, IndexError):
        return None


class Pair:
    """Both decoders of one connection."""

    def __init__(self) -> None:
        self.ours = BlockDecoder(LIST_BYTES_MAX)
        self.library = Decoder(LIST_BYTES_MAX)

    def agree(self, block: bytes) -> bool:
        """Whether the block could be read, which both must say, and what both made of it."""

        def ours(block: bytes) -> list[tuple[bytes, bytes]]:
            assert self.ours.decode(block) == ()
            return self.ours.decoded

        def library(block: bytes) -> list[tuple[bytes, bytes]]:
            return [tuple(field) for field in self.library.decode(block, raw=True)]  # type: ignore[misc]

        found = outcome(ours, block)
        assert found == outcome(library, block)
        tables = self.ours.header_table, self.library.header_table
        if found is not None:
            assert tables[0].dynamic_entries == tables[1].dynamic_entries
            assert tables[0].maxsize == tables[1].maxsize
        return found is not None


@given(
    st.lists(st.tuples(fields, st.booleans()), max_size=4),
    st.sampled_from([None, 0, 40, 200, 4_096]),
)
def test_what_an_encoder_writes_is_read(
    blocks: list[tuple[list[tuple[bytes, bytes, bool]], bool]], table_bytes: int | None
) -> None:
    """One block after another, whose tables carry over."""
    encoder, pair = Encoder(), Pair()
    for headers, huffman in blocks:
        if table_bytes is not None:
            encoder.header_table_size = table_bytes
        assert pair.agree(encoder.encode(headers, huffman=huffman))
        assert pair.ours.decoded == [(name, value) for name, value, _ in headers]


@given(fields, st.booleans(), st.data())
def test_what_is_damaged_is_taken_or_refused_alike(
    headers: list[tuple[bytes, bytes, bool]], huffman: bool, data: st.DataObject
) -> None:
    pair = Pair()
    block = bytearray(Encoder().encode(headers, huffman=huffman))
    for _ in range(data.draw(st.integers(1, 3))):
        if block:
            block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(block[: data.draw(st.integers(0, len(block)))])
    assume(not SIZE_CHANGES.match(cut))  # there the library has more patience
    pair.agree(cut)


@given(st.binary(max_size=60))
@example(b"\x80")  # index 0
@example(b"\xff\xff\xff\xff\xff\x00")  # the longest integer
@example(b"\xff\xff\xff\xff\xff\xff\x00")  # and one that is longer
@example(b"\x00\x01a\x7f\x80\x80\x80\x80\x00")
@example(b"\x82\x20")  # a size of the table behind a field
@example(b"\x20\x3f\xe1\x1f\x82")
@example(b"\x3f\xff\x1f")  # a larger table than there may be
@example(b"\x00\x81\xff\x81\xff")  # padding that is too long
@example(b"\x00\x84\xff\xff\xff\xff\x00")  # the end of a text in it
def test_noise_is_taken_or_refused_alike(block: bytes) -> None:
    assume(not SIZE_CHANGES.match(block))
    Pair().agree(block)


def test_every_byte_can_be_in_a_compressed_text() -> None:
    for each in range(256):
        assert Pair().agree(Encoder().encode([(b"x", bytes((each,)) * 9)], huffman=True))


def test_a_list_is_no_longer_than_its_bound() -> None:
    for size, is_taken in ((LIST_BYTES_MAX - 33, True), (LIST_BYTES_MAX - 32, False)):
        block = Encoder().encode([(b"x", b"a" * size, True)], huffman=False)
        assert Pair().agree(block) is is_taken


def test_the_table_changes_its_size_twice_at_most() -> None:
    BlockDecoder(LIST_BYTES_MAX).decode(b"\x20\x3e\x82")
    with pytest.raises(HPACKDecodingError, match="again and again"):
        BlockDecoder(LIST_BYTES_MAX).decode(b"\x20\x3e\x3e\x82")

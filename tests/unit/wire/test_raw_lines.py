"""Raw lines: each line that is not blank is one record, and its data is the line, to the byte."""

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.admission import FRAME_FOOTPRINT_BYTES, frame_footprint_bytes
from kdaemon.base.limits import KIB, MIB, SPREAD_KEY_BYTES
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.wire.line_buffer import BLOCK_BYTES, LineBuffer
from kdaemon.wire.line_form import ENVELOPE, LineForm
from kdaemon.wire.line_shapes import Parsed
from kdaemon.wire.lines_read import Lines
from kdaemon.wire.raw_lines import BLOCK_LINES_MAX, KEY_BYTES_MAX, raw_form

RAW = raw_form()
KEYED = raw_form(("user", "id"))
ROUTES = {"a": "a", "b": "arn:b"}
ROUTED = raw_form(("id",), ("to",), ROUTES)


def read(form: LineForm, block: bytes, first: int = 1) -> Parsed:
    return at_once(form.read(block, first, "s", None))


def lines_of(form: LineForm, block: bytes) -> Lines:
    parsed = read(form, block)
    assert parsed.rejected == []
    assert list(parsed.by_stream) in (["s"], [])
    return parsed.by_stream.get("s", Lines([], [], []))


@pytest.mark.parametrize(
    ("block", "data"),
    [
        (b"one\ntwo\n", [b"one", b"two"]),
        (b"one\r\ntwo\r\n", [b"one", b"two"]),
        (b"one\ntwo", [b"one", b"two"]),
        (b"one\r\r\n", [b"one\r"]),  # one line end is cut off, and no more
        (b"\rone\n", [b"\rone"]),
        (b" one \t\n", [b" one \t"]),
        (b"\n \n\r\n\t\r\none\n\n", [b"one"]),
        (b"\0\n\xff\xfe\n\xe2\x80\xa8\n", [b"\0", b"\xff\xfe", b"\xe2\x80\xa8"]),
        (b"{\n", [b"{"]),
        (b"GET / HTTP/1.1\r\n\r\n", [b"GET / HTTP/1.1"]),
        (b"", []),
        (b"\n\n", []),
    ],
)
def test_the_data_is_the_line_without_its_end(block: bytes, data: list[bytes]) -> None:
    lines = lines_of(RAW, block)
    assert lines.records == [Record(each, "") for each in data]
    assert lines.sizes == [len(each) + SPREAD_KEY_BYTES for each in data]
    assert read(RAW, block).line_count == len(block.split(b"\n")) - (not block[-1:].strip(b"\n"))


def test_lines_keep_their_numbers_over_blank_ones() -> None:
    parsed = read(RAW, b"\na\n\r\nb\nc", first=10)
    assert parsed.by_stream["s"].numbers == [11, 13, 14]
    assert parsed.line_count == 5


def test_a_key_is_taken_from_the_lines_json_and_the_data_is_untouched() -> None:
    block = b'{"user":{"id":"u1"}} \r\n{"user":{"id":1.0}}\n{"user":{"id":true}}\nplain\n{}\n'
    lines = lines_of(KEYED, block)
    assert [record.partition_key for record in lines.records] == ["u1", "1.0", "true", "", ""]
    assert [record.data for record in lines.records] == [
        line.removesuffix(b"\r") for line in block.splitlines()
    ]
    keys = [2, 3, 4, SPREAD_KEY_BYTES, SPREAD_KEY_BYTES]
    sizes = [len(record.data) + key for record, key in zip(lines.records, keys, strict=True)]
    assert lines.sizes == sizes
    assert read(KEYED, block).without_key == 2
    assert read(RAW, block).without_key == 0  # nobody asked for one


@pytest.mark.parametrize(
    "key", ["k" * KEY_BYTES_MAX, "é" * (KEY_BYTES_MAX // 2), "😀" * (KEY_BYTES_MAX // 4)]
)
def test_a_key_that_is_too_long_becomes_its_digest(key: str) -> None:
    block = "\n".join(f'{{"user":{{"id":"{each}"}}}}' for each in (key, f"{key}+", f"{key}+"))
    first, second, third = lines_of(KEYED, block.encode()).records
    assert first.partition_key == key
    digest = sha256(f"{key}+".encode()).hexdigest()
    assert second.partition_key == third.partition_key == f"sha256:{digest}"


def test_lines_go_to_the_listed_stream_that_they_name() -> None:
    block = b'{"to":"a"}\n{"to":"b","id":1}\n{"to":"c"}\n\nplain\n{"to":"a"}\n{"to":["a"]}\n'
    parsed = read(ROUTED, block)
    numbers = {stream: lines.numbers for stream, lines in parsed.by_stream.items()}
    assert numbers == {"a": [1, 6], "arn:b": [2], "s": [3, 5, 7]}
    assert [record.partition_key for record in parsed.by_stream["arn:b"].records] == ["1"]
    assert (parsed.without_stream, parsed.without_key) == (3, 5)
    assert ROUTED.is_routed
    assert not KEYED.is_routed


def test_a_long_line_is_looked_through_in_steps() -> None:
    line = b'{"to":"a","id":"k","x":"%b"}\n' % (b"x" * 2 * MIB)
    steps = ROUTED.read(line, 1, "s", None)
    next(steps)
    next(steps)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value.by_stream["a"].records == [Record(line[:-1], "k")]


# Any bytes, split anywhere

PIECES = st.lists(
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b" ", b"\0", b"\xff", b"{", b"a", b'{"user":{"id":"k"}}', b"\xef"]
    ),
    max_size=30,
).map(b"".join)


def taken_apart(form: LineForm, text: bytes, cuts: list[int]) -> list[tuple[int, Record]]:
    """What a connection makes of it, whose reads end at `cuts`."""
    buffer = LineBuffer()
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    next_line = 1
    found: list[tuple[int, Record]] = []

    def take() -> None:
        nonlocal next_line
        while buffer.has_lines:
            parsed = read(form, buffer.take_block(form.block_lines_max), next_line)
            next_line += parsed.line_count
            for lines in parsed.by_stream.values():
                found.extend(zip(lines.numbers, lines.records, strict=True))

    for start, end in pairwise(bounds):
        buffer.feed(text[start:end])
        take()
    buffer.finish()
    take()
    return found


@given(st.one_of(st.binary(max_size=60), PIECES), st.lists(st.integers(0, 60), max_size=6))
def test_any_bytes_split_anywhere_are_the_same_records(text: bytes, cuts: list[int]) -> None:
    whole = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    wanted = [
        (number, line.removesuffix(b"\r")) for number, line in enumerate(whole, 1) if line.strip()
    ]
    for form in (RAW, KEYED):
        found = taken_apart(form, text, cuts)
        assert [(number, record.data) for number, record in found] == wanted
        assert found == taken_apart(form, text, [])


# Blocks, and what they hold


def test_a_block_has_so_many_lines_at_most() -> None:
    text = b"\n".join(b"%d" % n for n in range(3 * BLOCK_LINES_MAX)) + b"\nlast"
    buffer = LineBuffer()
    buffer.feed_all(text)
    blocks = []
    while buffer.has_lines:
        blocks.append(buffer.take_block(BLOCK_LINES_MAX))
        assert blocks[-1].count(b"\n") <= BLOCK_LINES_MAX
        assert len(blocks[-1]) <= BLOCK_BYTES
    assert b"".join(blocks) == text
    assert [block.count(b"\n") for block in blocks] == [
        BLOCK_LINES_MAX
    ] * 3  # and the start of a line


def test_a_line_that_is_skipped_leaves_an_empty_one() -> None:
    buffer = LineBuffer()
    buffer.feed(b"one\nlong")
    buffer.skip_partial()
    buffer.feed(b"more")
    assert buffer.partial_bytes == 0
    buffer.feed(b"end\nthree\nfo")
    buffer.feed(b"ur\n")
    assert buffer.take_block() == b"one\n\nthree\nfour\n"
    buffer.feed(b"x")
    buffer.skip_partial()
    buffer.finish()
    assert not buffer.has_lines


@pytest.mark.parametrize("form", [RAW, KEYED, raw_form(("id",), ("to",), ROUTES), ENVELOPE])
@given(text=st.one_of(PIECES, st.lists(st.sampled_from([b'{"to":"a"}', b'{"to":"b"}', b"x"]))))
def test_the_bound_holds_whatever_the_lines_are(form: LineForm, text: bytes | list[bytes]) -> None:
    body = text if isinstance(text, bytes) else b"\n".join(text)
    bound = form.footprint_bytes_bound(len(body), body.count(b"\n"))
    bound += FRAME_FOOTPRINT_BYTES * form.frames_max(len(body), body.count(b"\n"))
    held = 0
    buffer = LineBuffer()
    buffer.feed_all(body)
    while buffer.has_lines:
        for lines in read(form, buffer.take_block(form.block_lines_max)).by_stream.values():
            held += frame_footprint_bytes(len(lines.sizes), sum(lines.sizes))
    assert held <= bound


def test_the_bound_holds_for_many_frames() -> None:
    for body, form in (
        (b"x\n" * 200 * KIB, RAW),
        (b'{"to":"a"}\n{"to":"b"}\nx\n' * 20 * KIB, ROUTED),
        (b'{"user":{"id":"' + b"k" * 300 + b'"}}\n', KEYED),
        (b'{"user":{"id":1}}\n' * 20 * KIB, KEYED),
    ):
        frames = sizes = 0
        buffer = LineBuffer()
        buffer.feed_all(body)
        while buffer.has_lines:
            parsed = read(form, buffer.take_block(form.block_lines_max))
            frames += len(parsed.by_stream)
            sizes += sum(
                frame_footprint_bytes(len(lines.sizes), sum(lines.sizes))
                for lines in parsed.by_stream.values()
            )
        bound = form.footprint_bytes_bound(len(body), body.count(b"\n"))
        bound += FRAME_FOOTPRINT_BYTES * form.frames_max(len(body), body.count(b"\n"))
        assert sizes <= bound
        assert frames - 1 <= form.frames_max(len(body), body.count(b"\n"))

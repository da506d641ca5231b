"""NDJSON on the wire, both ways."""

import contextlib
import gc
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.admission import make_frame
from kdaemon.base.errors import RefusedError
from kdaemon.base.frame import Acknowledge
from kdaemon.base.limits import RECORD_BYTES_MAX, SPREAD_KEY_BYTES
from kdaemon.base.record import Record
from kdaemon.wire.limits import PutLimits
from kdaemon.wire.line_buffer import LineBuffer
from kdaemon.wire.line_shapes import Setup
from kdaemon.wire.lines import (
    SERIALIZATION,
    SETUP_BYTES_MAX,
    footprint_bytes_bound,
    parse_lines,
    parse_setup,
)
from kdaemon.wire.lines_read import VALIDATION, Lines, refuse_oversized
from kdaemon.wire.put import parse_put_record, parse_put_records
from kdaemon.wire.refusals import ApiError
from kdaemon.wire.rejections import (
    EXPLAINED_MAX,
    NUMBERED_MAX,
    Problems,
    Rejected,
    encode_acknowledged,
    encode_answer,
    encode_rejected,
)


def only(block: bytes) -> Lines:
    parsed = parse_lines(block)
    assert not parsed.rejected
    (lines,) = parsed.by_stream.values()
    return lines


@pytest.mark.parametrize(
    ("line", "record", "size"),
    [
        (b'{"data":"hi"}', Record(b"hi", ""), 8),
        (b'{"data":""}', Record(b"", ""), 6),
        (b'{"data_base64":"aGk="}', Record(b"hi", ""), 8),
        (b'{"data":"hi","partition_key":"k"}', Record(b"hi", "k"), 3),
        ('{"data":"é","partition_key":"é"}'.encode(), Record(b"\xc3\xa9", "é"), 4),
        (b'{"data":"hi","explicit_hash_key":"0"}', Record(b"hi", "", "0"), 8),
        (b'{"data":"\\u0000\\n"}', Record(b"\0\n", ""), 8),
        (
            b'{"data":"","partition_key":null,"explicit_hash_key":null,"stream":null}',
            Record(b"", ""),
            6,
        ),
    ],
)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_becomes_a_record(line: bytes, record: Record, size: int, end: bytes) -> None:
    assert only(line + end) == Lines([record], [size], [1])


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        (b"x", "SerializationException", "malformed"),
        (b'{"data":"a"', "SerializationException", "truncated"),
        (b'{"data":"a"}{"data":"b"}', "SerializationException", "trailing"),
        (b'{"data":"\xff"}', "SerializationException", "UTF-8"),
        (b'{"data":"\\ud800"}', "SerializationException", "truncated"),
        (b'{"data":"\x00"}', "SerializationException", "malformed"),
        (b"[" * 100_000, "ValidationException", "Expected `object`"),
        (b'{"data":' + b"[" * 100_000, "ValidationException", "$.data"),
        (b"[]", "ValidationException", "`data_base64`"),
        (b"{}", "ValidationException", "There is no data"),
        (b'{"partition_key":"a"}', "ValidationException", "There is no data"),
        (b'{"data":{"a":1}}', "ValidationException", "$.data"),
        (b'{"data":"a","partiton_key":"b"}', "ValidationException", "unknown field `partiton_key`"),
        (b'{"data":"a","data_base64":"YQ=="}', "ValidationException", "not both"),
        (b'{"data_base64":"YQ"}', "ValidationException", "base64"),
        (b'{"data":"a","partition_key":""}', "ValidationException", "length >= 1"),
        (
            b'{"data":"a","partition_key":"%b"}' % (b"k" * 257),
            "ValidationException",
            "length <= 256",
        ),
        (b'{"data":"a","explicit_hash_key":"01"}', "ValidationException", "2^128-1"),
        (b'{"data":"a","explicit_hash_key":"-1"}', "ValidationException", "2^128-1"),
        (
            b'{"data":"a","explicit_hash_key":"340282366920938463463374607431768211456"}',
            "ValidationException",
            "2^128-1",
        ),
        ('{"data":"a","explicit_hash_key":"٣"}'.encode(), "ValidationException", "2^128-1"),
        (b'{"data":"a","stream":""}', "ValidationException", "$.stream"),
    ],
)
def test_a_bad_line_is_refused_alone_and_says_why(line: bytes, code: str, told: str) -> None:
    parsed = parse_lines(b'{"data":"1"}\n' + line + b'\n{"data":"3"}\n')
    (rejected,) = parsed.rejected
    assert (rejected.line, rejected.code) == (2, code)
    assert told in (rejected.message or "")
    assert len(rejected.message or "") < 600
    assert parsed.by_stream == {None: Lines([Record(b"1", ""), Record(b"3", "")], [7, 7], [1, 3])}


def test_a_long_field_name_is_not_repeated_whole() -> None:
    (rejected,) = parse_lines(b'{"%b":1}' % (b"x" * 100_000)).rejected
    assert 0 < len(rejected.message or "") < 600


def test_blank_lines_are_counted_and_nothing_else() -> None:
    parsed = parse_lines(b'\n  \n{"data":"a"}\n\r\n{"data":"b"}', first_line=10)
    assert parsed.by_stream[None].numbers == [12, 14]
    assert parsed.line_count == 5
    assert not parsed.rejected


def test_lines_are_grouped_by_stream_in_their_order() -> None:
    parsed = parse_lines(
        b'{"data":"1","stream":"a"}\n{"data":"2"}\n{"data":"3","stream":"b"}\n'
        b'{"data":"4","stream":"a"}\n{"data":"5","stream":"b"}\n',
        stream="b",
    )
    found = {
        stream: [(record.data, number) for record, number in zip(lines.records, lines.numbers)]  # noqa: B905
        for stream, lines in parsed.by_stream.items()
    }
    assert found == {"a": [(b"1", 1), (b"4", 4)], "b": [(b"2", 2), (b"3", 3), (b"5", 5)]}


LINES = st.sampled_from(
    [
        b'{"data":"a"}',
        b'{"data":"b","partition_key":"k","stream":"s"}',
        b'{"data_base64":"Yw=="}',
        b"",
        b"x",
        b'{"dta":"a"}',
        b'{"data":"a"}{"data":"b"}',
        b'{"data":"a","explicit_hash_key":"x"}',
    ]
)


@given(st.lists(LINES, max_size=20))
def test_a_block_means_the_same_as_its_lines_one_by_one(lines: list[bytes]) -> None:
    """And each line that is not blank becomes one record or one rejection."""
    whole = parse_lines(b"".join(line + b"\n" for line in lines))
    records: dict[str | None, list[tuple[int, Record, int]]] = {}
    rejected = []
    for number, line in enumerate(lines, 1):
        one = parse_lines(line + b"\n", first_line=number)
        rejected += one.rejected
        for stream, found in one.by_stream.items():
            records.setdefault(stream, []).append(
                (found.numbers[0], found.records[0], found.sizes[0])
            )
        assert len(one.rejected) + len(one.by_stream) == (1 if line else 0)
    assert [(each.line, each.code) for each in whole.rejected] == [
        (each.line, each.code) for each in rejected
    ]
    assert whole.rejected[:EXPLAINED_MAX] == rejected[:EXPLAINED_MAX]
    assert whole.rejected_count == len(rejected)
    assert whole.line_count == len(lines)
    assert {
        stream: list(zip(found.numbers, found.records, found.sizes, strict=True))
        for stream, found in whole.by_stream.items()
    } == records


@given(st.binary(max_size=200), st.integers(1, 1000))
def test_noise_never_raises(block: bytes, first_line: int) -> None:
    parsed = parse_lines(block, first_line)
    numbers = [rejected.line for rejected in parsed.rejected]
    assert all(first_line <= number < first_line + parsed.line_count for number in numbers)


@given(st.text(), st.text(min_size=1, max_size=256) | st.none())
def test_what_an_encoder_writes_is_read_back(data: str, key: str | None) -> None:
    try:
        line: dict[str, Any] = {"data": data, "partition_key": key}
        block = json.dumps(line, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    lines = only(block)
    assert lines.records == [Record(data.encode(), key or "")]
    assert lines.sizes == [len(data.encode()) + (len(key.encode()) if key else SPREAD_KEY_BYTES)]


def test_oversized_records_are_taken_out_and_the_rest_stays() -> None:
    lines = only(b'{"data":"12345"}\n{"data":"123456"}\n{"data":"1234","partition_key":"kk"}\n')
    rejected = refuse_oversized(lines, PutLimits(record_bytes_max=11))
    assert [one.line for one in rejected] == [2]
    assert "11 bytes with its partition key; this has 12" in (rejected[0].message or "")
    assert lines.sizes == [11, 6]


def test_a_key_may_be_measured_in_bytes() -> None:
    lines = only('{"data":"","partition_key":"éé"}\n{"data":"","partition_key":"eee"}'.encode())
    rejected = refuse_oversized(lines, PutLimits(partition_key_bytes_max=3))
    assert [one.line for one in rejected] == [1]
    assert lines.numbers == [2]


@pytest.mark.parametrize(
    ("line", "setup"),
    [
        (b'{"stream":"a"}', Setup("a")),
        (b'{"acknowledge":"none"}', Setup(None, Acknowledge.NONE)),
        (b'{"stream":"a","acknowledge":"accepted"}\n', Setup("a", Acknowledge.ACCEPTED)),
        (b"{}", Setup()),
        (b'{"data":"a"}', None),
        (b'{"data":"a","acknowledge":"none"}', None),
        (b'{"data_base64":"YQ=="}', None),
        (b"not JSON", None),
        (b"\xff", None),
        (b"[]", None),
    ],
)
def test_a_first_line_without_data_is_a_setup(line: bytes, setup: Setup | None) -> None:
    assert parse_setup(line) == setup


@pytest.mark.parametrize(
    "line", [b'{"strem":"a"}', b'{"stream":""}', b'{"acknowledge":"maybe"}', b'{"stream":1}']
)
def test_a_setup_that_is_wrong_is_refused_with_what_was_expected(line: bytes) -> None:
    with pytest.raises(RefusedError, match='"stored", "accepted" or "none"') as caught:
        parse_setup(line)
    assert caught.value.code == "ValidationException"


def test_answers_are_one_line_each() -> None:
    assert encode_acknowledged(12) == b'{"acknowledged":12}\n'
    assert encode_rejected(Rejected(3, "C", 'a "b"\n')) == (
        b'{"rejected":3,"code":"C","message":"a \\"b\\"\\n"}\n'
    )


def test_a_record_without_a_key_is_counted_with_the_key_it_will_be_given() -> None:
    line = json.dumps({"data": "x" * (RECORD_BYTES_MAX - SPREAD_KEY_BYTES)}).encode()
    lines = parse_lines(line, 1, "s").by_stream["s"]
    assert lines.sizes == [RECORD_BYTES_MAX]
    assert not refuse_oversized(lines, PutLimits())
    longer = json.dumps({"data": "x" * (RECORD_BYTES_MAX - SPREAD_KEY_BYTES + 1)}).encode()
    lines = parse_lines(longer, 1, "s").by_stream["s"]
    assert [rejected.line for rejected in refuse_oversized(lines, PutLimits())] == [1]


# --- bounds


def test_ten_problems_are_explained_a_thousand_numbered_and_all_are_counted() -> None:
    problems = Problems()
    for first_line in (1, 701, 1401):
        parsed = parse_lines(b'x\n{"data":"a"}\n{}\n' * 233 + b"x\n", first_line, None, problems)
        assert parsed.rejected_count == 467
        assert len(parsed.by_stream[None].records) == 233
        assert parsed.line_count == 700
    assert problems.count == 1401
    assert problems.is_hopeless
    assert len(problems.rejected) == NUMBERED_MAX
    assert [each.line for each in problems.rejected[:4]] == [1, 3, 4, 6]
    assert [each.code for each in problems.rejected[:2]] == [SERIALIZATION, VALIDATION]
    texts = [each.message for each in problems.rejected]
    assert all(texts[:EXPLAINED_MAX])
    assert not any(texts[EXPLAINED_MAX:])


def test_the_answer_of_http_counts_all_and_tells_some() -> None:
    problems = Problems()
    problems.extend([Rejected(2, "C", "Why."), Rejected(1, "D", "So.")])
    assert encode_answer(7, problems) == (
        b'{"acknowledged":7,"rejected":[{"line":1,"code":"D","message":"So."},'
        b'{"line":2,"code":"C","message":"Why."}],"rejected_count":2}'
    )
    parse_lines(b"x\n" * 100_000, 3, None, problems)
    answer = json.loads(encode_answer(0, problems))
    assert answer["rejected_count"] == 100_002
    assert [set(each) for each in answer["rejected"]] == (
        [{"line", "code", "message"}] * EXPLAINED_MAX
        + [{"line", "code"}] * (NUMBERED_MAX - EXPLAINED_MAX)
    )
    assert len(encode_answer(0, problems)) < 100_000


@pytest.mark.parametrize("block", [b"\n" * 65_536, b" \n\t\r\n", b"\n" * 9 + b" ", b"\n"])
def test_a_blank_block_is_nothing_but_lines(block: bytes) -> None:
    parsed = parse_lines(block)
    assert (parsed.by_stream, parsed.rejected_count) == ({}, 0)
    assert parsed.line_count == len(block.split(b"\n")) - block.endswith(b"\n")


@pytest.mark.parametrize(
    "line", [b"x", b"{}", b"", b"1", b"[]", b'{"data":""}', b'{"data":"aaaaa"}']
)
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_what_lines_hold_is_within_what_they_are_charged(line: bytes, count: int) -> None:
    block = (line + b"\n") * count
    bound = footprint_bytes_bound(len(block), block.count(b"\n"))
    for lines in parse_lines(block).by_stream.values():
        frame = make_frame(lines.records, lines.sizes, Acknowledge.ACCEPTED, None, None)
        assert frame.footprint_bytes <= bound
    assert bound <= 60 * len(block) + 5_000


def test_a_byte_order_mark_is_left_out_at_the_start_and_only_there() -> None:
    line = b'\xef\xbb\xbf{"data":"a"}\n'
    buffer = LineBuffer()
    buffer.feed(line + line)
    parsed = parse_lines(buffer.take_block())
    assert parsed.by_stream[None].numbers == [1]
    assert [each.line for each in parsed.rejected] == [2]
    assert parse_lines(line).rejected_count == 1


@pytest.mark.parametrize(
    "line",
    [
        b'{"x":"%b"}' % (b"0" * SETUP_BYTES_MAX),
        b'{"x":[%b[]]}' % (b"[]," * 500_000),
        b'{"stream":"s"%b}' % (b" " * SETUP_BYTES_MAX),
        b'{"data":null,"x":1}',
        b'{"data":[1]}',
    ],
)
def test_a_line_that_is_no_setup_is_left_to_the_reader_of_records(line: bytes) -> None:
    assert parse_setup(line) is None
    (rejected,) = parse_lines(line).rejected
    assert 0 < len(rejected.message or "") < 600


@pytest.mark.parametrize(
    "line",
    [b'{"x":[%b[]]}' % (b"[]," * 1000), b'{"x":1e999999}', b'{"x":%b}' % (b"1" * 4000)],
)
def test_a_small_setup_that_is_wrong_is_told_in_a_few_words(line: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_setup(line)
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    "value", [b"1" * 1_000_000, b"1e999999999", b"NaN", b"0." + b"1" * 1_000_000, b"-", b"Infinity"]
)
def test_a_number_of_any_length_is_no_trouble(value: bytes) -> None:
    for line in (b'{"data":%b}' % value, b'{"x":%b}' % value, value):
        assert parse_lines(line).rejected_count == 1


def test_nothing_that_a_client_sent_outlives_the_reading_of_it() -> None:
    """No cycle holds it: an exception that is kept holds its frame, and that the bytes."""
    body = b'{"x":["%b"]}' % (b"0" * 3000)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            with contextlib.suppress(RefusedError):
                parse_setup(body)
            parse_lines(body + b"\n" + body + b'\n{"data":1}\n{"data":"a","data":"b"}\nx\n\xff')
            for parse in (parse_put_records, parse_put_record):
                for sent in (body, body * 40, b'{"Data":1}', b"[" * 5000, b'{"Records":[{}]}'):
                    with contextlib.suppress(ApiError):
                        parse(sent, PutLimits())
        gc.collect()
        found = [each for each in gc.garbage if not isinstance(each, type)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert found == []

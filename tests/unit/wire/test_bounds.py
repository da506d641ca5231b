"""What a body or a line takes while it is read, whatever it holds: a small multiple of its size.

Measured in bytes of Python's memory, so that the machine's speed does not matter.
"""

import contextlib
import tracemalloc
from collections.abc import Callable

import pytest

from kdaemon.base.errors import RefusedError
from kdaemon.base.limits import KIB, MIB
from kdaemon.wire.limits import PutLimits
from kdaemon.wire.line_buffer import LineBuffer
from kdaemon.wire.lines import parse_lines, parse_setup
from kdaemon.wire.put import parse_put_record, parse_put_records
from kdaemon.wire.refusals import ApiError, render
from kdaemon.wire.rejections import Problems, encode_answer

SIZE = 2 * MIB
BLOCKS_BYTES = 256 * KIB  # of lines: four blocks
HEAD = b'{"StreamName":"s","Records":['
ENTRY = b'{"Data":"eA==","PartitionKey":"k"}'


def filled(head: bytes, unit: bytes, tail: bytes) -> bytes:
    return head + unit * ((SIZE - len(head) - len(tail)) // len(unit)) + tail


BODIES = {
    "empty records": filled(HEAD, b"{},", b"{}]}"),
    "nulls": filled(HEAD, b"null,", b"null]}"),
    "lists": filled(HEAD, b"[],", b"[]]}"),
    "tiny records": filled(HEAD, ENTRY + b",", ENTRY + b"]}"),
    "tinier records": filled(HEAD, b'{"Data":""},', b'{"Data":""}]}'),
    "lists in what is unknown": filled(HEAD + ENTRY + b'],"X":[', b"[],", b"[]]}"),
    "members in what is unknown": filled(HEAD + ENTRY + b'],"X":{', b'"a":0,', b'"a":0}}'),
    "members": filled(HEAD + ENTRY + b"],", b'"a":0,', b'"b":0}'),
    "only lists": filled(b"", b"[]", b""),
    "a list of lists": filled(b"[", b"[],", b"[]]"),
    "depth": filled(b'{"X":', b"[", b""),
    "depth of objects": filled(b"", b'{"X":', b""),
    "a number": filled(b'{"X":', b"1", b"}"),
    "a number as data": filled(HEAD + b'{"Data":', b"1", b"}]}"),
    "a text": filled(b'{"X":"', b"x", b'"}'),
    "a key": filled(HEAD + b'{"Data":"","PartitionKey":"', b"k", b'"}]}'),
    "an escaped key": filled(HEAD + b'{"Data":"","PartitionKey":"', b"\\u00e9", b'"}]}'),
    "a name": filled(b'{"StreamName":"', b"a/", b'","Records":[' + ENTRY + b"]}"),
    "an ARN": filled(b'{"StreamARN":"arn:aws', b":kinesis:", b'","Records":[' + ENTRY + b"]}"),
    "the same member": filled(HEAD + b"{", b'"Data":"",', b'"PartitionKey":"k"}]}'),
    "blanks": filled(HEAD + ENTRY + b"]", b" ", b"}"),
    "no JSON": filled(b"", b"x", b""),
    "zeros": filled(b"", b"\0", b""),
    "no base64": filled(HEAD + b'{"Data":"', b"#", b'","PartitionKey":"k"}]}'),
    "much data": filled(HEAD + b'{"Data":"', b"AAAA", b'","PartitionKey":"k"}]}'),
}
LINES = {
    "one letter": b"x\n",
    "objects": b"{}\n",
    "nothing": b"\n",
    "blanks": b" \n",
    "numbers": b"1\n",
    "lists": b"[]\n",
    "records": b'{"data":"a"}\n',
    "wrong types": b'{"data":1}\n',
    "unknown fields": b'{"x":1,"y":2}\n',
    "fields twice": b'{"data":"a","data":"b"}\n',
    "no UTF-8": b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\n",
}
FIRST_LINES = {
    "lists": filled(b'{"x":[', b"[],", b"[]]}"),
    "texts": filled(b'{"x":[', b'"000",', b'""]}'),
    "depth": filled(b'{"x":', b"[", b""),
    "a field's name": filled(b'{"', b"k", b'":1}'),
    "a number": filled(b'{"data":', b"1", b"}"),
    "fields": filled(b"{", b'"stream":"s",', b'"stream":"s"}'),
    "data twice": filled(b"{", b'"data":"s",', b'"data":"s"}'),
    "escapes, twice": filled(b'{"data":"","data":"', b'\\"', b'"}'),
}


def peak_of(read: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(RefusedError, ApiError):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("parse", [parse_put_records, parse_put_record])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_takes_a_few_times_its_size(
    name: str, parse: Callable[[bytes, PutLimits], object]
) -> None:
    body = BODIES[name]
    assert peak_of(lambda: parse(body, PutLimits())) <= 8 * SIZE


@pytest.mark.parametrize("name", sorted(set(BODIES) - {"blanks"}))
def test_its_refusal_is_short(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_put_records(BODIES[name], PutLimits())
    assert len(render(caught.value.refusal, caught.value.encoding).body) <= 4 * KIB


@pytest.mark.parametrize("name", LINES)
def test_a_block_of_lines_takes_little_and_a_body_of_blocks_no_more(name: str) -> None:
    buffer, problems = LineBuffer(), Problems()
    buffer.feed(LINES[name] * (BLOCKS_BYTES // len(LINES[name])))
    line_count = 0

    def read() -> None:
        nonlocal line_count
        while buffer.has_lines:
            line_count += parse_lines(buffer.take_block(), line_count + 1, "s", problems).line_count

    assert peak_of(read) <= 4 * MIB
    assert line_count == BLOCKS_BYTES // len(LINES[name])
    assert len(encode_answer(0, problems)) <= 64 * KIB


@pytest.mark.parametrize("name", FIRST_LINES)
def test_a_first_line_takes_a_few_times_its_size(name: str) -> None:
    line = FIRST_LINES[name]

    def read() -> None:
        if parse_setup(line) is None:
            assert parse_lines(line).rejected_count == 1

    assert peak_of(read) <= 8 * SIZE

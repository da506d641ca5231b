"""NDJSON: blocks of lines, the first line of a connection, and bytes that come in pieces.

The first byte of an input says how it is cut into pieces; the rest is what a client sends.
"""

import base64
import json
import random
from typing import Any

from kdaemon.base.admission import make_frame
from kdaemon.base.errors import RefusedError
from kdaemon.base.frame import Acknowledge
from kdaemon.wire.line_buffer import BYTE_ORDER_MARK, LineBuffer
from kdaemon.wire.line_shapes import Parsed
from kdaemon.wire.lines import footprint_bytes_bound, parse_lines, parse_setup
from kdaemon.wire.rejections import (
    EXPLAINED_MAX,
    NUMBERED_MAX,
    Problems,
    encode_answer,
    encode_rejected,
)
from tests.fuzz.json_text import TEXTS, Pairs, write

_LINES = [
    b'{"data":"one"}',
    b'{"data":"two","partition_key":"k","explicit_hash_key":"7","stream":"s"}',
    b'{"data_base64":"aGk="}',
    b'{"data": "say \\"no\\"", "partition_key": null}',
    b'{"data":"a","data":"b"}',
    b'{"stream":"s","acknowledge":"none"}',
    b'{"stream":"s","lines":"raw","partition_key_field":"user.id","stream_field":null}',
    b"{}",
    b"x",
    b"",
]
SEEDS = [
    *(b"\x05" + line for line in _LINES),
    b"\x05" + b"\n".join(_LINES),
    b"\x40" + BYTE_ORDER_MARK + _LINES[0] + b"\n" + _LINES[1] + b"\n",
    b"\x01" + b"\n".join(_LINES[:4]) + b"\r\n",
]
TOKENS = [
    *(b'"data":', b'"data_base64":', b'"partition_key":', b'"explicit_hash_key":', b'"stream":'),
    *(b'"lines":', b'"raw"', b'"envelope"', b'"partition_key_field":', b'"stream_field":'),
    *(b'"acknowledge":', b'"stored"', b'"delivered"', b'"x"', b"null", b"1e999", b"[]", b"{}"),
    *(b"\n", b"\r\n", b",", b":", b'"', b'\\"', b"\\\\", b"\\u0022", b"\\ud800", b"\\u0000"),
    *(
        BYTE_ORDER_MARK,
        b'{"data":"x"}\n',
        b"x\n",
        b"{}\n",
        b'"d\\u0061ta":',
        b"]",
        b"}",
        b"[",
        b"{",
    ),
    *(b"340282366920938463463374607431768211456", b'"aGk="', b'"data":"","data":"x",'),
]
_MESSAGE_CHARACTERS_MAX = 800
_KNOWN = {"data", "data_base64", "partition_key", "explicit_hash_key", "stream"}
_SETUP_KNOWN = {"stream", "acknowledge", "lines", "partition_key_field", "stream_field"}


def build(dice: random.Random) -> bytes:
    """Lines that are nearly right."""
    lines = [_line(dice) for _ in range(dice.choice((1, 2, 3, 20)))]
    if not dice.randrange(30):
        lines *= 600
    mark = BYTE_ORDER_MARK if not dice.randrange(8) else b""
    end = dice.choice((b"\n", b"\n", b"\r\n", b""))
    return bytes([dice.randrange(256)]) + mark + b"\n".join(lines) + end


def _line(dice: random.Random) -> bytes:
    if not dice.randrange(8):
        return dice.choice((b"", b" ", b"x", b"{}", b"[]", b"\xff", b'{"stream":"s"}'))
    name = dice.choice(("data", "data", "data", "data_base64"))
    value = dice.choice(TEXTS if name == "data" else ("aGk=", "", "eA==", "#"))
    members: Pairs = [(name, value)]
    optional: Pairs = [
        ("partition_key", dice.choice((None, 7, *TEXTS))),
        ("explicit_hash_key", dice.choice(("7", "07", "", None, str(2**128)))),
        ("stream", dice.choice(("s", "t", "", None))),
        ("other", "x"),
        (name, dice.choice((None, value, "aGk="))),
    ]
    members += dice.sample(optional, dice.choice((0, 0, 1, 1, 2, 3)))
    dice.shuffle(members)
    return write(dice, members).replace(b"\n", b" ")


def one_input(data: bytes) -> None:
    piece_bytes, sent = max(1, data[0] if data else 1), data[1:]
    _check_setup(sent.partition(b"\n")[0])
    problems = Problems()
    parsed = parse_lines(sent, 1, None, problems)
    raw = sent.removesuffix(b"\n").split(b"\n") if sent else []
    _check_block(parsed, raw, problems)
    _check_charge(parsed, sent)
    _compare_with_json(parsed, raw)
    _compare_line_by_line(parsed, raw)
    _check_buffer(sent, piece_bytes)


def _check_setup(line: bytes) -> None:
    try:
        setup = parse_setup(line)
    except RefusedError as error:
        assert error.code == "ValidationException"
        assert len(error.message) <= _MESSAGE_CHARACTERS_MAX
    else:
        if setup is not None:
            found = json.loads(line, object_pairs_hook=list)
            assert len(dict(found)) == len(found), "a field of the setup is lost"
            assert set(dict(found)) <= _SETUP_KNOWN


def _check_block(parsed: Parsed, raw: list[bytes], problems: Problems) -> None:
    assert parsed.line_count == len(raw)
    numbers = [number for lines in parsed.by_stream.values() for number in lines.numbers]
    told = [each.line for each in parsed.rejected]
    assert told == sorted(told)
    assert len(set(numbers) | set(told)) == len(numbers) + len(told)
    filled = [number for number, line in enumerate(raw, 1) if line.strip(b" \t\r\v\f")]
    assert len(numbers) + parsed.rejected_count == len(filled)
    if parsed.rejected_count <= NUMBERED_MAX:
        assert sorted(numbers + told) == filled
    assert problems.count == parsed.rejected_count
    assert all(each.message for each in problems.rejected[:EXPLAINED_MAX])
    assert not any(each.message for each in problems.rejected[EXPLAINED_MAX:])
    for each in problems.rejected[:EXPLAINED_MAX]:
        assert len(each.message or "") <= _MESSAGE_CHARACTERS_MAX
        assert encode_rejected(each).count(b"\n") == 1
    assert len(encode_answer(len(numbers), problems)) < 128 * 1024


def _check_charge(parsed: Parsed, sent: bytes) -> None:
    bound = footprint_bytes_bound(len(sent), sent.count(b"\n"))
    for lines in parsed.by_stream.values():
        frame = make_frame(lines.records, lines.sizes, Acknowledge.ACCEPTED, None, None)
        assert frame.footprint_bytes <= bound


def _compare_with_json(parsed: Parsed, raw: list[bytes]) -> None:
    """Each record is what Python's own reader finds in its line, and nothing of it is lost."""
    for stream, lines in parsed.by_stream.items():
        for record, number in zip(lines.records, lines.numbers, strict=True):
            pairs: Any = json.loads(raw[number - 1].decode(), object_pairs_hook=list)
            found = dict(pairs)
            assert len(found) == len(pairs), "a field is lost"
            assert set(found) <= _KNOWN
            data = found.get("data")
            if data is None:
                assert record.data == base64.b64decode(found["data_base64"], validate=True)
            else:
                assert found.get("data_base64") is None
                assert record.data == data.encode()
            assert record.partition_key == (found.get("partition_key") or "")
            assert record.explicit_hash_key == found.get("explicit_hash_key")
            assert stream == found.get("stream")


def _compare_line_by_line(parsed: Parsed, raw: list[bytes]) -> None:
    if len(raw) > 200:
        return
    for number, line in enumerate(raw, 1):
        one = parse_lines(line + b"\n", number)
        for stream, lines in one.by_stream.items():
            at = parsed.by_stream[stream].numbers.index(number)
            assert parsed.by_stream[stream].records[at] == lines.records[0]
            assert parsed.by_stream[stream].sizes[at] == lines.sizes[0]
        if one.rejected_count:
            codes = {each.line: each.code for each in parsed.rejected}
            assert codes[number] == one.rejected[0].code


def _check_buffer(sent: bytes, piece_bytes: int) -> None:
    """However the bytes come, the lines are the same: all of them, in order, without the mark."""
    step = piece_bytes if piece_bytes < 200 else len(sent) or 1
    if len(sent) // step > 2_000:
        step = len(sent) // 2_000
    buffer = LineBuffer()
    taken: list[bytes] = []
    for start in range(0, len(sent), step):
        buffer.feed(sent[start : start + step])
        while buffer.has_lines:
            block = buffer.take_line() if len(taken) % 2 else buffer.take_block()
            assert block.endswith(b"\n")
            taken.append(block)
    buffer.finish()
    while buffer.has_lines:
        taken.append(buffer.take_block())
    assert b"".join(taken) == sent.removeprefix(BYTE_ORDER_MARK)

"""Raw lines: any bytes in pieces, and the fields of lines that are JSON, or nearly.

The first byte of an input says how it is cut into pieces, the second which fields are looked up;
the rest is what a client sends.
"""

import json
import random
import re
from typing import Any

from kdaemon.base.admission import FRAME_FOOTPRINT_BYTES, frame_footprint_bytes
from kdaemon.base.field_path import parse_field_path
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.wire.line_buffer import BYTE_ORDER_MARK, LineBuffer
from kdaemon.wire.line_form import LineForm
from kdaemon.wire.raw_lines import HASHED, KEY_BYTES_MAX, raw_form
from tests.fuzz.json_text import TEXTS, write

_ROUTES = {"a": "a", "b": "arn:b"}
_PATHS = ("id", "user.id", "", r"a\.b", "é", "a/b")
_LINES = [
    b'{"id":1.0,"to":"a","user":{"id":"u"}}',
    b'{"user":{"id":"u","id":"v"}}',
    b'{"id":1,"id":2}',
    b'{"i\\u0064":1,"id":2}',
    b'{"id":"\\u0000","a.b":true,"a\\/b":1}',
    b'{"id":{"id":1},"x":[{"id":3}]}',
    b"plain text",
    b"\0\xff\r",
    b" ",
    b"",
]
SEEDS = [
    *(bytes([5, n]) + line for n, line in enumerate(_LINES)),
    b"\x05\x01" + b"\n".join(_LINES),
    b"\x01\x00" + BYTE_ORDER_MARK + b"\r\n".join(_LINES),
    b"\x40\x01" + _LINES[0] * 2 + b"\n" + _LINES[0],
]
TOKENS = [
    *(b'"id":', b'"user":', b'"to":', b'"a.b":', b'"a/b":', b'"a\\/b":', b'"i\\u0064":', b'"x":'),
    *(b'"\xc3\xa9":', b'"\\u00e9":', b'"a"', b'"b"', b"null", b"1.0", b"true", b"[", b"]", b"{"),
    *(b"}", b",", b":", b'"', b'\\"', b"\\\\", b"\\u0022", b"\\ud800", b"\n", b"\r\n", b"\0"),
    *(b"\xff", BYTE_ORDER_MARK, b'{"id":"x"}\n', b'{"user":{"id":"u"}}\n'),
]


def build(dice: random.Random) -> bytes:
    """Lines of a log that are nearly right."""
    lines = [_line(dice) for _ in range(dice.choice((1, 2, 3, 20)))]
    if not dice.randrange(30):
        lines *= 300
    end = dice.choice((b"\n", b"\n", b"\r\n", b""))
    return bytes([dice.randrange(256), dice.randrange(256)]) + b"\n".join(lines) + end


def _line(dice: random.Random) -> bytes:
    if not dice.randrange(6):
        return dice.choice(_LINES)
    scalars: list[Any] = [None, True, 7, 0.5, "k", "a", *TEXTS]
    inner: Any = [(dice.choice(("id", "x", "é")), dice.choice(scalars)) for _ in range(2)]
    names = ("id", "user", "to", "a.b", "a/b", "é", "x")
    members: Any = [
        (dice.choice(names), dice.choice((dice.choice(scalars), inner)))
        for _ in range(dice.choice((1, 2, 4)))
    ]
    return write(dice, members).replace(b"\n", b" ")


def one_input(data: bytes) -> None:
    piece_bytes, chosen, sent = max(1, data[0] if data else 1), data[1:2], data[2:]
    path = _PATHS[(chosen[0] if chosen else 0) % len(_PATHS)]
    names = parse_field_path(path)
    form = raw_form(names, ("to",), _ROUTES)
    step = piece_bytes if piece_bytes < 200 else len(sent) or 1
    step = max(step, len(sent) // 2_000 or 1)
    found = _read(form, [sent[at : at + step] for at in range(0, len(sent), step)])
    lines = sent.removeprefix(BYTE_ORDER_MARK).split(b"\n")
    wanted = {n: line.removesuffix(b"\r") for n, line in enumerate(lines, 1) if line.strip()}
    assert {number: record.data for number, _, record in found} == wanted
    assert len(found) == len(wanted), "a line is there twice"
    for _, stream, record in found:
        if _has_half_a_pair(record.data):  # of surrogates: Python reads it, the decoder may not
            continue
        key = _key(_look_up(record.data, names) if names else None)
        to = _ROUTES.get(_look_up(record.data, ("to",)) or "", "s")
        is_odd = _is_odd(record.data)  # then the field may tell nothing
        assert record.partition_key == key or (is_odd and not record.partition_key)
        assert stream == to or (is_odd and stream == "s")
        assert len(record.partition_key.encode()) <= KEY_BYTES_MAX
    _check_charge(form, sent, found)


def _read(form: LineForm, pieces: list[bytes]) -> list[tuple[int, str | None, Record]]:
    """As a connection does."""
    buffer = LineBuffer()
    found: list[tuple[int, str | None, Record]] = []
    next_line = 1
    for piece in [*pieces, None]:
        if piece is None:
            buffer.finish()
        else:
            buffer.feed(piece)
        while buffer.has_lines:
            block = buffer.take_block(form.block_lines_max)
            parsed = at_once(form.read(block, next_line, "s", None))
            next_line += parsed.line_count
            assert not parsed.rejected_count
            for stream, lines in parsed.by_stream.items():
                for number, record in zip(lines.numbers, lines.records, strict=True):
                    found.append((number, stream, record))
    return sorted(found, key=lambda each: each[0])


def _look_up(line: bytes, names: tuple[str, ...]) -> str | None:
    """What Python's own reader finds, if the path is there once."""
    try:
        value: Any = json.loads(
            line.decode(errors="surrogateescape"),
            object_pairs_hook=tuple,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=lambda _: 1 / 0,
        )
        for name in names:
            if not isinstance(value, tuple):
                return None
            (value,) = [inner for other, inner in value if other == name]
    except (ValueError, RecursionError, ZeroDivisionError):
        return None
    if value is True or value is False:
        return "true" if value else "false"
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return str(value)


def _has_half_a_pair(line: bytes) -> bool:
    for text in re.findall(rb'"(?:[^"\\]|\\.)*"', line) if b"\\u" in line else []:
        try:
            json.loads(text).encode()
        except UnicodeEncodeError:
            return True
        except ValueError:
            continue
    return False


def _is_odd(line: bytes) -> bool:
    """An object in it has a member twice, or a name with a quote in it, or one that is no text."""
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        found.extend(name for name in names if '"' in name or not name.isprintable())
        found.extend(names if len(set(names)) < len(names) else ())

    try:
        json.loads(line.decode(errors="surrogateescape"), object_pairs_hook=look)
    except (ValueError, RecursionError):
        return True
    return bool(found)


class _Number(str):
    """As it is written."""

    __slots__ = ()


def _key(text: str | None) -> str:
    if not text or len(text.encode()) <= KEY_BYTES_MAX:
        return text or ""
    (key,) = {each for each in (_hashed(text),) if each.startswith(HASHED)}
    return key


def _hashed(text: str) -> str:
    line = json.dumps({"id": text}).encode()
    (lines,) = at_once(raw_form(("id",)).read(line, 1, "s", None)).by_stream.values()
    return lines.records[0].partition_key


def _check_charge(form: LineForm, sent: bytes, found: list[tuple[int, str | None, Record]]) -> None:
    newlines = sent.count(b"\n")
    bound = form.footprint_bytes_bound(len(sent), newlines)
    bound += FRAME_FOOTPRINT_BYTES * form.frames_max(len(sent), newlines)
    by_stream: dict[str | None, list[int]] = {}
    for _, stream, record in found:
        size = len(record.data) + (len(record.partition_key.encode()) or 6)
        by_stream.setdefault(stream, []).append(size)
    held = sum(frame_footprint_bytes(len(sizes), sum(sizes)) for sizes in by_stream.values())
    assert held <= bound

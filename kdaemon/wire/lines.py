"""NDJSON, the daemon's own wire form: lines of one JSON object each. Pure.

A record line: {"data": text} or {"data_base64": base64}, optionally with "partition_key",
"explicit_hash_key" and "stream". A record without a key gets the empty key, which asks the engine
to spread it. A first line without data sets the connection: {"stream", "acknowledge"}. In a block
only the bad line is refused. An unknown field refuses its line: a misspelt partition key must not
become a record without one. A field that is there twice refuses its line, too.

A line of more than AT_ONCE_BYTES_MAX is read in steps, so that its client delays no other.

Invariant: every line that is not blank becomes either one record or one rejection; whatever comes,
the rejections that are kept and told are bounded.
Where it sits: a connection's bytes, in blocks -> here -> the door -> `rejections.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import sub
from typing import Final

import msgspec

from kdaemon.base.admission import frame_footprint_bytes
from kdaemon.base.errors import RefusedError
from kdaemon.base.limits import HASH_KEY_MAX, KIB, MIB, RECORD_BYTES_MAX_AWS, SPREAD_KEY_BYTES
from kdaemon.base.record import Record
from kdaemon.base.steps import Steps
from kdaemon.wire.explain import HASH_KEY_DIGITS_MAX, UNREADABLE, is_decimal
from kdaemon.wire.line_shapes import Glance, Line, Parsed, Setup
from kdaemon.wire.lines_read import VALIDATION, Lines
from kdaemon.wire.members import LONG_LINE_REST_MAX, repeated_in_line, repeated_in_long_line
from kdaemon.wire.refusals import echo
from kdaemon.wire.rejections import NUMBERED_MAX, Problems

SERIALIZATION = "SerializationException"  # the code for a line that cannot be read

REASON_CHARACTERS_MAX = 200  # of the decoder's message; ours, 2026-11-21
SETUP_BYTES_MAX = 4 * KIB  # of a first line that sets the connection; ours, 2026-11-28

LINE_BYTES_MAX = RECORD_BYTES_MAX_AWS * 4 // 3 + 64 * KIB
"""The largest record in base64, with room for its key and the names of fields. A text in which
every character is escaped may be longer, and must be sent as base64. Ours, 2026-11-21."""

AT_ONCE_BYTES_MAX = MIB
"""A longer line is weighed first, and then read in steps. Ours, 2026-11-28: any line of this size
is read within 6 ms."""

WEIGHT_MAX = 16 * MIB
ESCAPE_WEIGHT = 8
"""The bound on the cost of a long line, and what an escape adds to it: a byte weighs 1, an escape
weighs ESCAPE_WEIGHT more, since reading it takes longer. Ours, 2026-11-28: the worst of this weight
takes 18 ms in its longest step. 10 MiB of text with every 13th character escaped weigh less, and so
do 1.7 MiB with every character escaped."""

FIELD_QUOTES_MAX = 4 * 5  # quotes that are not escaped: four for each of five fields, all texts

LINE_BYTES_MIN: Final = len(b'{"data":""}')  # no shorter line is a record

FIELDS = (
    "A record line has `data` (a text) or `data_base64`, and may have `partition_key`, "
    "`explicit_hash_key` and `stream`; all are texts."
)
SETUP_FIELDS = (
    "A first line without data sets the connection and has only `stream` (a name), `acknowledge` "
    '("delivered", "stored", "accepted" or "none"), `lines` ("envelope" or "raw"), and for raw '
    "lines `partition_key_field` and `stream_field`."
)


_decode_line: Final = msgspec.json.Decoder(Line).decode
_decode_setup = msgspec.json.Decoder(Setup).decode


_glance = msgspec.json.Decoder(Glance).decode

# Bytes of a line beside its values, in the shortest JSON.
_WITH_DATA: Final = LINE_BYTES_MIN
_WITH_DATA_BASE64: Final = len(b'{"data_base64":""}')
_WITH_KEY: Final = len(b',"partition_key":""')
_SPARE_MIN: Final = len(b',"data":""')  # the least that a repeated field takes


def parse_lines(
    block: bytes,
    first_line: int = 1,
    stream: str | None = None,
    problems: Problems | None = None,
) -> Parsed:
    """Reads whole lines; the last one may lack its newline.

    `first_line`: the number of the block's first line. `stream`: the stream of lines that name
    none. `problems`: those of earlier blocks, to which this block's are added. Sizes are not
    checked here: see `refuse_oversized`.
    """
    if problems is None:
        problems = Problems()
    if block.isspace():
        return Parsed({}, [], 0, block.count(b"\n") + (not block.endswith(b"\n")))
    raw = block.split(b"\n")
    if not raw[-1]:
        raw.pop()
    by_stream: dict[str | None, Lines] = {}
    count_before, told_before = problems.count, len(problems.rejected)
    try:
        # Not `decode_lines`, which accepts values that end anywhere: each line must be one record.
        lines = list(map(_decode_line, raw))
    except UNREADABLE:  # a bad line, or a blank one
        each = _read_each(raw, first_line, problems)
        _collect(each, stream, by_stream, problems, lambda: False)
    else:
        ordinary = _ordinary(raw, lines, first_line) if raw else None
        if ordinary is not None:
            by_stream[stream] = ordinary
        else:
            numbered = zip(range(first_line, first_line + len(raw)), raw, lines, strict=True)
            _collect(numbered, stream, by_stream, problems, lambda: _is_sound_block(block, lines))
    rejected = problems.rejected[told_before:]
    return Parsed(by_stream, rejected, problems.count - count_before, len(raw))


def read_lines(
    block: bytes,
    first_line: int = 1,
    stream: str | None = None,
    problems: Problems | None = None,
) -> Steps[Parsed]:
    """As `parse_lines`; in steps if the block is one long line."""
    if len(block) <= AT_ONCE_BYTES_MAX or 0 <= block.find(b"\n") < len(block) - 1:
        return parse_lines(block, first_line, stream, problems)
    if problems is None:
        problems = Problems()
    by_stream: dict[str | None, Lines] = {}
    count_before, told_before = problems.count, len(problems.rejected)
    yield  # the block was put together in this turn
    if not block.isspace():
        problem = _weigh(block)
        if problem is None:
            yield
            for numbered in list(_read_each([block], first_line, problems)):
                yield  # one step compares the line with its text, the next one collects its record
                problem = _find_repeat(block)
                if problem is None:
                    yield
                    _collect(iter([numbered]), stream, by_stream, problems, lambda: True)
        if problem is not None:
            problems.add(first_line, *problem)
    rejected = problems.rejected[told_before:]
    return Parsed(by_stream, rejected, problems.count - count_before, 1)


def _weigh(line: bytes) -> tuple[str, str] | None:
    """Why a long line is refused before it is decoded, as a code and a text; None: it is not."""
    if len(line) > LINE_BYTES_MAX:
        return VALIDATION, f"A line may have {LINE_BYTES_MAX} bytes; this has {len(line)}."
    escape_count = line.count(b"\\")
    if len(line) + ESCAPE_WEIGHT * escape_count > WEIGHT_MAX:
        text = f"{escape_count} escapes are too many in a line of {len(line)} bytes"
        return VALIDATION, f"{text}; send such data as `data_base64`."
    if line.count(b'"') - escape_count > FIELD_QUOTES_MAX:
        text = "There are more quotes than five fields have: one is there twice, or not known."
        return VALIDATION, f"{text} {FIELDS}"
    return None


def _find_repeat(line: bytes) -> tuple[str, str] | None:
    """Why a decoded long line is refused: a field is there twice, or much stands beside its data.
    The line has only texts, so finding their ends costs little.
    """
    try:
        name = repeated_in_long_line(line)
    except ValueError:
        text = f"More than {LONG_LINE_REST_MAX} bytes stand beside the longest value."
        return VALIDATION, f"{text} {FIELDS}"
    return None if name is None else (VALIDATION, f"{_twice(name)} {FIELDS}")


def parse_setup(line: bytes) -> Setup | None:
    """Reads the first line of a connection. None: it is a record line (or no JSON at all).

    Raises RefusedError if it has no data and is no setup either. A line of more than
    SETUP_BYTES_MAX is no setup: it is refused as a record line, without a closer look.
    """
    if len(line) > SETUP_BYTES_MAX:
        return None
    try:
        setup = _decode_setup(line)
    except UNREADABLE as error:
        reason = _reason(error)
    else:
        name = repeated_in_line(line)
        if name is None:
            return setup
        reason = _twice(name)
    try:
        seen = _glance(line)
    except UNREADABLE:
        return None
    if seen.data is not msgspec.UNSET or seen.data_base64 is not msgspec.UNSET:
        return None
    raise RefusedError(VALIDATION, f"{reason} {SETUP_FIELDS} {FIELDS}")


def footprint_bytes_bound(byte_count: int, line_count: int) -> int:
    """The most memory that unread lines can take as the records of one stream.

    `byte_count`: of the lines as they came; `line_count`: their newlines. The memory of the raw
    bytes is not counted.
    """
    shortest = LINE_BYTES_MIN + 1
    record_count = min(line_count + 1, (byte_count + 1) // shortest)
    # A missing key counts as the bytes that it will have, which any line has to spare.
    return frame_footprint_bytes(record_count, byte_count)


def _ordinary(raw: list[bytes], lines: list[Line], first_line: int) -> Lines | None:
    """The records of lines that all have a text as data and nothing else; or a key besides, in all
    of them. At least one line. None: a line may have more, or may be wrong.

    The hot path of `_collect`, column by column. A line that is as long as its names and values has
    no room for another field, except for a few blanks.
    """
    first = lines[0]
    if first.explicit_hash_key is not None or first.stream is not None:
        return None  # so all may have one
    keys = [line.partition_key or "" for line in lines]
    try:
        datas = list(map(str.encode, [line.data for line in lines]))  # type: ignore[arg-type]
    except TypeError:  # a line has no such data
        return None
    joined_keys = "".join(keys)
    if joined_keys and not all(keys):
        return None
    key_sizes = map(len, keys)
    if not joined_keys.isascii():
        key_sizes = map(len, map(str.encode, keys))
    sizes = [len(data) + key_size for data, key_size in zip(datas, key_sizes, strict=True)]
    too_much = _WITH_DATA + (_WITH_KEY if joined_keys else 0) + _SPARE_MIN
    spares = list(map(sub, map(len, raw), sizes))
    if max(spares) >= too_much:
        quotes = [data.count(b'"') for data in datas]  # each is escaped, which takes a byte
        if max(map(sub, spares, quotes)) >= too_much:
            return None
    if not joined_keys:
        sizes = [size + SPREAD_KEY_BYTES for size in sizes]
    numbers = list(range(first_line, first_line + len(raw)))
    return Lines(list(map(Record, datas, keys)), sizes, numbers)


def _collect(
    numbered: Iterator[tuple[int, bytes, Line]],
    stream: str | None,
    by_stream: dict[str | None, Lines],
    problems: Problems,
    prove: Callable[[], bool],
) -> None:
    """Adds decoded lines as records of their streams, or as rejections.

    `prove`: whether it is certain that no line has a field twice.
    """
    is_proven: bool | None = None  # not yet asked
    lines = Lines([], [], [])
    current: str | None = None  # the stream of `lines`; set with the first record
    for number, text, line in numbered:
        if line.data is None:
            if line.data_base64 is None:
                problems.add(number, VALIDATION, f"There is no data. {FIELDS}")
                continue
            data = line.data_base64
            spare = len(text) - _WITH_DATA_BASE64 - (len(data) + 2) // 3 * 4
        elif line.data_base64 is None:
            data = line.data.encode()
            spare = len(text) - _WITH_DATA - len(data)
        else:
            message = "A record has `data` or `data_base64`, not both."
            problems.add(number, VALIDATION, message)
            continue
        key = line.partition_key or ""
        key_bytes = len(key) if key.isascii() else len(key.encode())
        if key:
            spare -= _WITH_KEY + key_bytes
        if spare >= _SPARE_MIN and line.data is not None:
            spare -= line.data.count('"')  # each is escaped, which takes a byte
        if spare >= _SPARE_MIN:  # only a line longer than its values can have a field twice
            if is_proven is None:
                is_proven = prove()
            twice = None if is_proven else repeated_in_line(text)
            if twice is not None:
                problems.add(number, VALIDATION, f"{_twice(twice)} {FIELDS}")
                continue
        hash_key = line.explicit_hash_key
        if hash_key is not None and not _is_hash_key(hash_key):
            message = "An explicit hash key is a decimal from 0 to 2^128-1 without leading zeros."
            problems.add(number, VALIDATION, message)
            continue
        name = line.stream or stream
        if name != current or not lines.records:
            current = name
            lines = by_stream.setdefault(name, Lines([], [], []))
        lines.records.append(Record(data, key, hash_key))
        lines.sizes.append(len(data) + (key_bytes or SPREAD_KEY_BYTES))
        lines.numbers.append(number)


def _is_sound_block(block: bytes, lines: list[Line]) -> bool:
    """Whether it is certain that no line of a block has a field twice, however long the lines are:
    blanks and escapes take room, too. If it is not certain, each line is checked.

    A field that is a text has four quotes of its own; all others are escaped, within a text.
    """
    datas = [line.data for line in lines]
    keys = [line.partition_key for line in lines]
    columns: list[Sequence[str | bytes | None]] = [
        datas,
        keys,
        [line.explicit_hash_key for line in lines],
        [line.stream for line in lines],
    ]
    if None in datas:  # else a second form of the data is one too many in any case
        columns.append([line.data_base64 for line in lines])
    null_count = sum([column.count(None) for column in columns])
    quote_count = 4 * (len(columns) * len(lines) - null_count)
    if b"\\" in block:
        if b"u0022" in block:  # a quote may be written as its code
            return False
        for texts in (datas, keys):
            quote_count += "".join(filter(None, texts)).count('"')
    return block.count(b'"') == quote_count


def _twice(name: str) -> str:
    return f"The field `{echo(name)}` is there twice."


def _is_hash_key(text: str) -> bool:
    return is_decimal(text, HASH_KEY_DIGITS_MAX) and int(text) <= HASH_KEY_MAX


def _read_each(
    raw: list[bytes], first_line: int, problems: Problems
) -> Iterator[tuple[int, bytes, Line]]:
    for number, text in enumerate(raw, first_line):
        if not text or text.isspace():
            continue
        if len(text) < LINE_BYTES_MIN and problems.count > NUMBERED_MAX:
            problems.count += 1  # no client will be told more about it
            continue
        try:
            line = _decode_line(text)
        except UNREADABLE as error:
            problems.add(number, *_problem(error, is_explained=problems.wants_text))
        else:
            yield number, text, line


def _problem(error: Exception, *, is_explained: bool) -> tuple[str, str | None]:
    """The code of a decoder's error, and a text if it is wanted."""
    code = VALIDATION if isinstance(error, msgspec.ValidationError) else SERIALIZATION
    if not is_explained:
        return code, None
    reason = _reason(error)
    return code, f"{reason} {FIELDS}" if code is VALIDATION else reason


def _reason(error: Exception) -> str:
    """What is wrong and where, in the decoder's words; cut, since it repeats names of fields."""
    if isinstance(error, UnicodeDecodeError):
        return "The line is not UTF-8."
    if isinstance(error, RecursionError):
        return "The line is nested too deeply."
    text = str(error)
    return f"{text[:REASON_CHARACTERS_MAX]}..." if len(text) > REASON_CHARACTERS_MAX else f"{text}."

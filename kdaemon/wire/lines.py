"""NDJSON, the daemon's own wire form: one JSON object a line in, answer lines out. Pure.

A record line: {"data": text} or {"data_base64": base64}, and if wanted "partition_key",
"explicit_hash_key" and "stream". A record without a key gets the empty one, which asks the engine
to spread it. A first line without data sets a connection: {"stream", "acknowledge"}. Of a block
only the bad line is refused. A field that is not known refuses its line: a misspelt partition key
must not become a record without one.

Invariant: every line that is not blank becomes one record or one rejection, never both or neither.
Where it sits: `unix.py` and the gateway's NDJSON route -> here -> admission.
"""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from kdaemon.base.errors import RejectedRecord
from kdaemon.base.frame import Acknowledge
from kdaemon.base.limits import HASH_KEY_MAX, PARTITION_KEY_CHARACTERS_MAX, SPREAD_KEY_BYTES
from kdaemon.base.record import Record, RecordResult
from kdaemon.wire.put import PutLimits
from kdaemon.wire.refusals import HASH_KEY

SERIALIZATION = "SerializationException"  # it cannot be read
VALIDATION = "ValidationException"  # it can be read, and breaks a limit
FULL = "ProvisionedThroughputExceededException"  # there is no room now
NOTHING_TAKEN = "No room now: nothing was taken."

REASON_CHARACTERS_MAX = 200  # of the decoder's words; ours, 2026-11-21

FIELDS = (
    "A record line has `data` (a text) or `data_base64`, and may have `partition_key`, "
    "`explicit_hash_key` and `stream`; all are texts."
)
SETUP_FIELDS = (
    "A first line without data sets the connection and has only `stream` (a name) and "
    '`acknowledge` ("delivered", "accepted" or "none").'
)


class Rejected(msgspec.Struct, gc=False):
    """One refused line: its number from 1, the service's word for the reason, a text for people."""

    line: int
    code: str
    message: str


class Lines(msgspec.Struct):
    """Records of one stream, in the order of their lines.

    `sizes[i]`: data + partition key of record i, in UTF-8 bytes; `numbers[i]`: its line, from 1.
    """

    records: list[Record]
    sizes: list[int]
    numbers: list[int]


class Parsed(msgspec.Struct):
    """`by_stream`: under None the lines that name no stream. `line_count`: blank ones included."""

    by_stream: dict[str | None, Lines]
    rejected: list[Rejected]
    line_count: int


class Setup(msgspec.Struct, forbid_unknown_fields=True):
    """What a first line may set."""

    stream: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    acknowledge: Acknowledge | None = None


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    data: str | None = None
    data_base64: bytes | None = None
    partition_key: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=PARTITION_KEY_CHARACTERS_MAX)] | None
    ) = None
    explicit_hash_key: str | None = None
    stream: Annotated[str, msgspec.Meta(min_length=1)] | None = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_setup = msgspec.json.Decoder(Setup).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_lines(block: bytes, first_line: int = 1, stream: str | None = None) -> Parsed:
    """Reads whole lines; the last one may lack its newline.

    `first_line`: the number of the block's first line. `stream`: that of lines which name none.
    Sizes are not judged here: see `refuse_oversized`.
    """
    raw = block.split(b"\n")
    if not raw[-1]:
        raw.pop()
    parsed = Parsed({}, [], len(raw))
    try:
        # Not `decode_lines`, which takes values wherever they end: a line must be one record.
        lines = list(map(_decode_line, raw))
    except _UNREADABLE:  # a bad line, or a blank one
        _collect(_read_each(raw, first_line, parsed.rejected), stream, parsed)
        parsed.rejected.sort(key=lambda rejected: rejected.line)
    else:
        _collect(enumerate(lines, first_line), stream, parsed)
    return parsed


def parse_setup(line: bytes) -> Setup | None:
    """Reads the first line of a connection; None if it is a record line (or not JSON at all).

    Raises RejectedRecord if it has no data and is no setup either.
    """
    try:
        return _decode_setup(line)
    except _UNREADABLE as error:
        reason = error
    try:
        value = msgspec.json.decode(line)
    except _UNREADABLE:
        return None
    if not isinstance(value, dict) or "data" in value or "data_base64" in value:
        return None
    raise RejectedRecord(VALIDATION, f"{_reason(reason)} {SETUP_FIELDS} {FIELDS}")


def refuse_oversized(lines: Lines, limits: PutLimits) -> list[Rejected]:
    """Takes the records over a stream's limits out of `lines` and says why of each."""
    size_max, key_max = limits.record_bytes_max, limits.partition_key_bytes_max
    sizes = lines.sizes
    if (not sizes or max(sizes) <= size_max) and key_max is None:
        return []
    rejected = []
    kept = Lines([], [], [])
    for record, size, number in zip(lines.records, sizes, lines.numbers, strict=True):
        key_bytes = size - len(record.data)
        if size > size_max:
            text = f"A record may have {size_max} bytes with its partition key; this has {size}."
            rejected.append(Rejected(number, VALIDATION, text))
        elif key_max is not None and key_bytes > key_max:
            text = f"A partition key may have {key_max} bytes in UTF-8; this has {key_bytes}."
            rejected.append(Rejected(number, VALIDATION, text))
        else:
            kept.records.append(record)
            kept.sizes.append(size)
            kept.numbers.append(number)
    if rejected:
        lines.records, lines.sizes, lines.numbers = kept.records, kept.sizes, kept.numbers
    return rejected


def refused_at_once(numbers: list[int], results: list[RecordResult | None]) -> list[Rejected]:
    """Of a frame that was just taken: the lines whose records were not, their shard's queue being
    full. `results`: those of the frame, same length and order as `numbers`.
    """
    return [
        Rejected(number, result.error_code or FULL, result.error_message or NOTHING_TAKEN)
        for number, result in zip(numbers, results, strict=True)
        if result is not None
    ]


def encode_acknowledged(count: int) -> bytes:
    """`count`: records acknowledged on this connection so far, in the order of their lines."""
    return b'{"acknowledged":%d}\n' % count


def encode_rejected(rejected: Rejected) -> bytes:
    """One line that was refused, or whose record was not delivered."""
    answer = {"rejected": rejected.line, "code": rejected.code, "message": rejected.message}
    return _encode(answer) + b"\n"


def _collect(numbered: "Iterator[tuple[int, _Line]]", stream: str | None, parsed: Parsed) -> None:
    """Lines that could be read -> records under their streams, or rejections."""
    by_stream, rejected = parsed.by_stream, parsed.rejected
    lines = Lines([], [], [])
    current: str | None = None  # whose `lines` these are; set with the first record
    for number, line in numbered:
        if line.data is None:
            if line.data_base64 is None:
                rejected.append(Rejected(number, VALIDATION, f"There is no data. {FIELDS}"))
                continue
            data = line.data_base64
        elif line.data_base64 is None:
            data = line.data.encode()
        else:
            text = "A record has `data` or `data_base64`, not both."
            rejected.append(Rejected(number, VALIDATION, text))
            continue
        hash_key = line.explicit_hash_key
        if hash_key is not None and not _is_hash_key(hash_key):
            text = "An explicit hash key is a decimal from 0 to 2^128-1 without leading zeros."
            rejected.append(Rejected(number, VALIDATION, text))
            continue
        name = line.stream or stream
        if name != current or not lines.records:
            current = name
            lines = by_stream.setdefault(name, Lines([], [], []))
        key = line.partition_key or ""
        key_bytes = len(key) if key.isascii() else len(key.encode())
        lines.records.append(Record(data, key, hash_key))
        lines.sizes.append(len(data) + (key_bytes or SPREAD_KEY_BYTES))
        lines.numbers.append(number)


def _is_hash_key(text: str) -> bool:
    return HASH_KEY.fullmatch(text) is not None and int(text) <= HASH_KEY_MAX


def _read_each(
    raw: list[bytes], first_line: int, rejected: list[Rejected]
) -> Iterator[tuple[int, _Line]]:
    for number, text in enumerate(raw, first_line):
        if not text or text.isspace():
            continue
        try:
            line = _decode_line(text)
        except _UNREADABLE as error:
            rejected.append(_explain(number, error))
        else:
            yield number, line


def _explain(number: int, error: Exception) -> Rejected:
    if isinstance(error, msgspec.ValidationError):
        return Rejected(number, VALIDATION, f"{_reason(error)} {FIELDS}")
    return Rejected(number, SERIALIZATION, _reason(error))


def _reason(error: Exception) -> str:
    """What is wrong and where, in the decoder's words. It repeats names of fields, so it is cut."""
    if isinstance(error, UnicodeDecodeError):
        return "The line is not UTF-8."
    if isinstance(error, RecursionError):
        return "The line is nested too deeply."
    text = str(error)
    return f"{text[:REASON_CHARACTERS_MAX]}..." if len(text) > REASON_CHARACTERS_MAX else f"{text}."

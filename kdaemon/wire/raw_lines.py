r"""Raw lines: each line is the data of a record, so any log can be sent as it is. Pure.

The data is the bytes of the line without its line end (`\n` or `\r\n`); blank lines are skipped.
Nothing is decoded, unless a field of the line's JSON gives the key or the stream. A line without
that field is counted and kept: without a key it is spread, without a listed stream it goes to the
stream of its connection or request. A log cannot be asked to send a line again.

A key that is longer than the services take becomes its SHA-256: lines with one key still have one
key. The data keeps the whole key.

Invariant: every line that is not blank becomes one record, and its data is the line, to the byte.
Where it sits: as `lines.py`, which reads the other form, envelopes.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import count
from types import MappingProxyType

from kdaemon.base.admission import frame_footprint_bytes
from kdaemon.base.limits import (
    MIB,
    PARTITION_KEY_BYTES_MAX_YANDEX,
    RECORD_BYTES_MAX_AWS,
    SPREAD_KEY_BYTES,
)
from kdaemon.base.record import Record
from kdaemon.base.steps import Steps
from kdaemon.wire.json_field import field_at
from kdaemon.wire.line_form import LineForm
from kdaemon.wire.line_shapes import Parsed
from kdaemon.wire.lines_read import Lines
from kdaemon.wire.rejections import Problems

RAW_LINE_BYTES_MAX = RECORD_BYTES_MAX_AWS + 2  # no record is longer; two bytes are the line end's

BLOCK_LINES_MAX = 2_000
"""Lines of one frame. Ours, 2026-11-28: a line may have one byte, and a record takes 480 bytes of
memory beside its data; so many lines are routed in 2 ms."""

KEY_BYTES_MAX = PARTITION_KEY_BYTES_MAX_YANDEX  # in UTF-8; both services take such a key
HASHED = "sha256:"

NO_ROUTES: Mapping[str, str] = MappingProxyType({})


def raw_form(
    key_names: tuple[str, ...] = (),
    stream_names: tuple[str, ...] = (),
    routes: Mapping[str, str] = NO_ROUTES,
) -> LineForm:
    """The form of raw lines. `key_names`, `stream_names`: paths of the fields that have the key and
    the stream; empty: no field has it. `routes`: the stream for each value of the stream's field.
    """
    reader = _RawReader(key_names, stream_names, routes)
    return LineForm(
        reader.read,
        reader.footprint_bytes_bound,
        BLOCK_LINES_MAX,
        RAW_LINE_BYTES_MAX,
        is_raw=True,
        streams_max=1 + len(set(routes.values())) if stream_names else 1,
    )


class _RawReader:
    """Reads blocks of raw lines, as `LineForm` has it."""

    __slots__ = ("_key", "_routes", "_stream")

    def __init__(
        self,
        key_names: tuple[str, ...],
        stream_names: tuple[str, ...],
        routes: Mapping[str, str],
    ) -> None:
        self._key = field_at(key_names) if key_names else None
        self._stream = field_at(stream_names) if stream_names else None
        self._routes = routes

    def footprint_bytes_bound(self, byte_count: int, line_count: int) -> int:
        """As `LineForm`'s: a key from a field is held beside the line."""
        record_count = line_count + 1
        key_bytes = record_count * SPREAD_KEY_BYTES
        if self._key is not None:
            key_bytes += min(byte_count, record_count * KEY_BYTES_MAX)
        return frame_footprint_bytes(record_count, byte_count + key_bytes)

    def read(
        self,
        block: bytes,
        first_line: int = 1,
        stream: str | None = None,
        problems: Problems | None = None,  # noqa: ARG002 - raw lines have none
    ) -> Steps[Parsed]:
        """As `LineForm`'s; in steps if the block is one long line with fields to find."""
        texts = block.split(b"\n")
        if not texts[-1]:
            texts.pop()
        line_count = len(texts)
        if b"\r" in block:
            texts = [text.removesuffix(b"\r") for text in texts]
        numbers = list(range(first_line, first_line + line_count))
        if not all(texts) or any(map(bytes.isspace, texts)):
            numbers = [n for n, text in zip(numbers, texts, strict=True) if text.strip()]
            texts = [text for text in texts if text.strip()]
        parsed = Parsed({}, [], 0, line_count)
        if not texts:
            return parsed
        if len(block) > MIB and (self._key or self._stream):
            yield  # the block was put together in this turn
        if self._key is None:
            records = [Record(text, "") for text in texts]
            sizes = [len(text) + SPREAD_KEY_BYTES for text in texts]
        else:
            keys = [text or "" for text in self._key.find(texts, block)]
            key_bytes = list(map(len, keys))
            if max(key_bytes) > KEY_BYTES_MAX // 4 or not "".join(keys).isascii():
                keys = list(map(_key_of, keys))
                key_bytes = [len(key.encode()) for key in keys]
            records = list(map(Record, texts, keys))
            sizes = [
                len(text) + (key or SPREAD_KEY_BYTES)
                for text, key in zip(texts, key_bytes, strict=True)
            ]
            parsed.without_key = key_bytes.count(0)
        lines = Lines(records, sizes, numbers)
        if self._stream is None:
            parsed.by_stream[stream] = lines
            return parsed
        if len(block) > MIB:
            yield
        told = [self._routes.get(text or "") for text in self._stream.find(texts, block)]
        parsed.without_stream = told.count(None)
        parsed.by_stream = _sorted_out(lines, (each or stream for each in told))
        return parsed


def _sorted_out(lines: Lines, streams: Iterable[str | None]) -> dict[str | None, Lines]:
    """The same lines, each under its stream."""
    by_stream: dict[str | None, Lines] = {}
    for at, stream in zip(count(), streams, strict=False):
        into = by_stream.get(stream)
        if into is None:
            into = by_stream[stream] = Lines([], [], [])
        into.records.append(lines.records[at])
        into.sizes.append(lines.sizes[at])
        into.numbers.append(lines.numbers[at])
    return by_stream


def _key_of(text: str) -> str:
    """The partition key for the text of a field."""
    if len(text) <= KEY_BYTES_MAX // 4:  # a character has at most four bytes
        return text
    key = text.encode()
    return text if len(key) <= KEY_BYTES_MAX else HASHED + sha256(key).hexdigest()

"""Lines of a file -> record lines of the daemon's NDJSON, for `kdaemon put`.

Pure. Knows the two forms a line can have (a record line, or data) and where a partition key comes
from; knows nothing of files or sockets. Invariant: each line that is not blank becomes one record
line or is refused with a reason; the data of a record is the line's bytes without its line end.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from kdaemon.base.limits import RECORD_BYTES_MAX_AWS

# A record of the largest size in base64, and its key. The daemon's own bound may be lower, and it
# says so; this one keeps a file without line ends out of memory. Ours, 2026-11-21
LINE_BYTES_MAX = RECORD_BYTES_MAX_AWS * 4 // 3 + 64 * 1024
RECORD_FIELDS = frozenset({"data", "data_base64", "partition_key", "explicit_hash_key", "stream"})
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_LineForm = Callable[[bytes], bytes]  # raises BadLine
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class FormError(Exception):
    """The file cannot be read as asked."""


class BadLine(Exception):  # noqa: N818 - a line is bad, the program is not
    """One line cannot be sent; the text completes "line 7 ..."."""


@dataclass(frozen=True, slots=True)
class Form:
    """How lines are read. With neither switch, the first line decides: record lines, or data.

    `partition_key`: for each record that names none. `key_field`: the field of a JSON object, or
    the column of a CSV file (whose header is not sent), that holds the key; the line is the data.
    """

    partition_key: str | None = None
    key_field: str | None = None
    is_csv: bool = False
    is_data: bool = False


class _RecordLine(msgspec.Struct, omit_defaults=True):
    data: str | None = None
    data_base64: bytes | None = None
    partition_key: str | None = None


class LineSplitter:
    """Blocks of bytes -> lines. Holds one unfinished line, of LINE_BYTES_MAX at most."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_skipping = False  # within a line that was too long

    def feed(self, block: bytes) -> list[bytes | None]:
        """The lines that `block` completes, without line ends; None stands for one too long."""
        *lines, rest = (self._rest + block).split(b"\n")
        found: list[bytes | None] = [_strip(line) for line in lines]
        if self._is_skipping and found:
            self._is_skipping = False
            found[0] = None
        self._rest = b"" if self._is_skipping else rest
        if len(self._rest) > LINE_BYTES_MAX:
            self._is_skipping, self._rest = True, b""
        return found

    def finish(self) -> list[bytes | None]:
        """The last line, if the file does not end in a line end."""
        if self._is_skipping:
            return [None]
        return [_strip(self._rest)] if self._rest else []


def _strip(line: bytes) -> bytes | None:
    if len(line) > LINE_BYTES_MAX:
        return None
    return line[:-1] if line.endswith(b"\r") else line


class LineFormer:
    """Lines -> record lines, each with its line end."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._line_form: _LineForm | None = None
        self.line_number = 0  # of the line that was formed last, from 1

    def form(self, lines: list[bytes | None]) -> Iterator[tuple[int, bytes | BadLine]]:
        """(line number, record line) for each line that is not blank, or why it cannot be sent.

        A header without the key's column is a FormError: then no line of the file can be sent.
        """
        for line in lines:
            self.line_number += 1
            if line is None:
                yield self.line_number, BadLine(f"is longer than {LINE_BYTES_MAX} bytes")
            elif line.strip():
                clean = line.removeprefix(BYTE_ORDER_MARK) if self.line_number == 1 else line
                if self._line_form is None:
                    self._line_form = _choose(self._form, clean)
                    if self._form.is_csv:
                        continue  # the header
                try:
                    yield self.line_number, self._line_form(clean)
                except BadLine as wrong:
                    yield self.line_number, wrong


def _choose(form: Form, first: bytes) -> _LineForm:
    if form.is_csv:
        return _csv_form(first, form)
    if form.key_field is not None:
        return _field_form(form.key_field)
    if not form.is_data and _is_record_line(first):
        return _record_form(form.partition_key)
    return lambda line: _encode(line, form.partition_key)


def _is_record_line(line: bytes) -> bool:
    """An object that has data and none but the fields of a record line."""
    try:
        found = msgspec.json.decode(line)
    except _UNREADABLE:
        return False
    is_record = isinstance(found, dict) and found.keys() <= RECORD_FIELDS
    return is_record and ("data" in found or "data_base64" in found)


def _record_form(partition_key: str | None) -> _LineForm:
    """Record lines go as they are: the daemon checks them. A key is put in where there is none."""
    if partition_key is None:
        return lambda line: line + b"\n"

    def form(line: bytes) -> bytes:
        record = _decode_object(line)
        record.setdefault("partition_key", partition_key)
        return msgspec.json.encode(record) + b"\n"

    return form


def _field_form(key_field: str) -> _LineForm:
    def form(line: bytes) -> bytes:
        record = _decode_object(line)
        if key_field not in record:
            raise BadLine(f'has no field "{key_field}"')
        value = record[key_field]
        if isinstance(value, dict | list):
            raise BadLine(f'field "{key_field}" is no text or number, so it cannot be a key')
        key = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return _encode(line, None if value is None else key)

    return form


def _csv_form(header: bytes, form: Form) -> _LineForm:
    if form.key_field is None:
        return lambda line: _encode(line, form.partition_key)
    try:
        names = _csv_fields(header)
    except BadLine as wrong:
        raise FormError(f"the header {wrong}") from None
    if form.key_field not in names:
        raise FormError(f'no column "{form.key_field}"; the header has: {", ".join(names)}')
    column, count = names.index(form.key_field), len(names)

    def form_line(line: bytes) -> bytes:
        fields = _csv_fields(line)
        if len(fields) != count:
            raise BadLine(f"has {len(fields)} columns; the header has {count}")
        return _encode(line, fields[column])

    return form_line


def _csv_fields(line: bytes) -> list[str]:
    text = line.decode(errors="surrogateescape")
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise BadLine(f"is not one line of CSV: {error}") from None


def _decode_object(line: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(line)
    except _UNREADABLE as error:
        raise BadLine(f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadLine("is not a JSON object")
    return found


def _encode(data: bytes, partition_key: str | None) -> bytes:
    """A record line. An empty key is none: the daemon spreads such records over the shards."""
    try:
        record = _RecordLine(data=data.decode(), partition_key=partition_key or None)
    except UnicodeDecodeError:
        record = _RecordLine(data_base64=data, partition_key=partition_key or None)
    try:
        return msgspec.json.encode(record) + b"\n"
    except UnicodeEncodeError:
        raise BadLine("has a key that is not UTF-8") from None

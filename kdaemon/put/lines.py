"""Makes the lines of a file into record lines of the daemon's NDJSON, for `kdaemon put`.

Pure. Knows the forms of a record (a record line, a line of data, a record of a CSV file) and the
origins of a partition key; knows nothing of files or sockets. Invariant: each line that is not
blank is in exactly one record, or is refused with a reason. The data of a record is the bytes of
its line (or lines, in CSV), without the last line end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from kdaemon.base.field_path import parse_field_path
from kdaemon.base.limits import RECORD_BYTES_MAX_AWS
from kdaemon.put.csv_records import CsvError, CsvReader, CsvRecord
from kdaemon.wire.json_field import field_at, text_of

# A record of the largest size in base64, with its key. The daemon's own bound may be lower, and the
# daemon says so; this bound keeps a file without line ends out of memory. Ours, 2026-11-21
LINE_BYTES_MAX = RECORD_BYTES_MAX_AWS * 4 // 3 + 64 * 1024
RECORD_FIELDS = frozenset({"data", "data_base64", "partition_key", "explicit_hash_key", "stream"})
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # of UTF-8: it says nothing, and is no part of the first record
_COLUMNS_SHOWN_BYTES = 300  # of a header, in an error
_OTHER_BEGINNINGS = {  # beginnings of files that are no text of ours, and what to do about each
    b"\xff\xfe": "is UTF-16 text: convert it (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "is UTF-16 text: convert it (iconv -f UTF-16 -t UTF-8)",
    b"\x00\x00\xfe\xff": "is UTF-32 text: convert it (iconv -f UTF-32 -t UTF-8)",
    b"\x1f\x8b\x08": "is gzip data: give the file a name that ends in .gz, or inflate it (gunzip)",
}

_LineForm = Callable[[bytes], bytes]  # raises BadLine
_CsvForm = Callable[[CsvRecord], bytes]  # raises BadLine
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class FormError(Exception):
    """The file cannot be read in the given form."""


class BadLine(Exception):  # noqa: N818 - a line is bad, the program is not
    """One line cannot be sent; the text completes "line 7 ..."."""


@dataclass(frozen=True, slots=True)
class Form:
    """How lines are read. With neither switch, the first line decides: record lines, or data.

    `partition_key`: for each record that names none. `key_field`: the path of a field of a JSON
    object, or the column of a CSV file (whose header is not sent), that has the key; then the line
    is the data. `names_streams`: no stream is given, so each line has to name its own.
    """

    partition_key: str | None = None
    key_field: str | None = None
    is_csv: bool = False
    is_data: bool = False
    names_streams: bool = False


class _RecordLine(msgspec.Struct, omit_defaults=True):
    data: str | None = None
    data_base64: bytes | None = None
    partition_key: str | None = None


class LineSplitter:
    """Splits blocks of bytes into lines. Holds one unfinished line, of LINE_BYTES_MAX at most."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_skipping = False  # inside a line that is too long

    def feed(self, block: bytes) -> list[bytes | None]:
        """The lines that `block` completes, without their LF; None: a line that is too long."""
        *lines, rest = (self._rest + block).split(b"\n")
        found = [_bounded(line) for line in lines]
        if self._is_skipping and found:
            self._is_skipping = False
            found[0] = None
        self._rest = b"" if self._is_skipping else rest
        if len(self._rest) > LINE_BYTES_MAX:
            self._is_skipping, self._rest = True, b""
        return found

    @property
    def kept_bytes(self) -> int:
        """What it holds of an unfinished line."""
        return len(self._rest)

    def finish(self) -> list[bytes | None]:
        """The last line, if the file does not end with a line end."""
        if self._is_skipping:
            return [None]
        return [_bounded(self._rest)] if self._rest else []


def _bounded(line: bytes) -> bytes | None:
    return None if len(line) > LINE_BYTES_MAX else line


class LineFormer:
    """Makes lines into record lines, each with its line end."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._csv = CsvReader(LINE_BYTES_MAX) if form.is_csv else None
        self._csv_form: _CsvForm | None = None  # made from the header
        self._line_form: _LineForm | None = None  # chosen by the first line
        self.line_number = 0  # number of the last formed line, from 1
        self.stream: str | None = None  # that the last formed line names, if lines have to

    @property
    def held(self) -> int:
        """Lines and fields that it holds of an unfinished record."""
        return 0 if self._csv is None else self._csv.held

    def form(self, lines: list[bytes | None]) -> Iterator[tuple[int, bytes | BadLine]]:
        """For each record its line number and its record line, or why the record cannot be sent.
        For a record with several lines (CSV), the number is that of the first line.

        Raises FormError: no line of the file can be sent, or none from here on.
        """
        for line in lines:
            self.line_number += 1
            if self.line_number == 1 and line is not None:
                line = _without_mark(line)  # noqa: PLW2901 - the line without its mark
            if self._csv is not None:
                yield from self._form_csv(self._csv, line)
            elif line is None:
                yield self.line_number, BadLine(f"is longer than {LINE_BYTES_MAX} bytes")
            elif line.strip():
                clean = line.removesuffix(b"\r")
                if self._line_form is None:
                    self._line_form = self._choose(clean)
                try:
                    yield self.line_number, self._line_form(clean)
                except BadLine as wrong:
                    yield self.line_number, wrong

    def finish(self) -> Iterator[tuple[int, BadLine]]:
        """The record that the end of the file leaves unfinished. Raises FormError for a header."""
        if self._csv is not None and self._csv.first:
            reason = f"opens a quote that is not closed by line {self.line_number}, the last one"
            if self._csv_form is None:
                raise FormError(f"the header {reason}")
            yield self._csv.first, BadLine(reason)

    def _form_csv(
        self, reader: CsvReader, line: bytes | None
    ) -> Iterator[tuple[int, bytes | BadLine]]:
        number = self.line_number
        if line is None:
            raise FormError(
                f"line {number} is longer than {LINE_BYTES_MAX} bytes, so where its CSV record "
                "ends cannot be told, and nothing from there on is sent"
            )
        if not reader.first and not line.strip(b"\r"):
            return
        try:
            record = reader.add(line, number)
        except CsvError as error:
            raise FormError(str(error)) from None
        if record is None:
            return
        if self._csv_form is None:
            self._csv_form = _csv_form(record, self._form)  # the header
            return
        try:
            yield record.first, self._csv_form(record)
        except BadLine as wrong:
            of = "" if record.first == record.last else f"to {record.last}: the record "
            yield record.first, BadLine(f"{of}{wrong}")

    def _choose(self, first: bytes) -> _LineForm:
        form = self._form
        if form.key_field is not None:
            return _field_form(form.key_field)
        if not form.is_data and _is_record_line(first):
            return self._record_line
        if form.names_streams:
            raise FormError(
                f"line {self.line_number} is no record line, so that every line is data and none"
                " names its stream: say --stream NAME"
            )
        return lambda line: _encode(line, form.partition_key)

    def _record_line(self, line: bytes) -> bytes:
        """A record line is sent as it is, since the daemon checks it. A missing key is put in
        front, so that the rest stays as it is written.
        """
        key = self._form.partition_key
        if key is None and not self._form.names_streams:
            return line + b"\n"
        record = _decode_object(line)
        if self._form.names_streams:
            stream = record.get("stream")
            if not isinstance(stream, str):
                raise BadLine('names no stream: add "stream" to it, or say --stream NAME')
            self.stream = stream
        if key is None or "partition_key" in record:
            return line + b"\n"
        comma = b"," if record else b""
        rest = line.lstrip()[1:]
        return b'{"partition_key":%b%b%b\n' % (msgspec.json.encode(key), comma, rest)


def _without_mark(first: bytes) -> bytes:
    for beginning, what in _OTHER_BEGINNINGS.items():
        if first.startswith(beginning):
            raise FormError(f"the input {what}")
    return first.removeprefix(BYTE_ORDER_MARK)


def _is_record_line(line: bytes) -> bool:
    """Whether a line is an object that has data, and only fields of a record line."""
    try:
        found = msgspec.json.decode(line)
    except _UNREADABLE:
        return False
    is_record = isinstance(found, dict) and found.keys() <= RECORD_FIELDS
    return is_record and ("data" in found or "data_base64" in found)


def _field_form(key_field: str) -> _LineForm:
    """The form of lines with a key field. The key is the text of the field, as the daemon reads it
    from raw lines. A line without the field cannot be sent, unless the field is null.
    """
    try:
        names = parse_field_path(key_field)
    except ValueError as error:
        raise FormError(f"--partition-key-field is {key_field!r}; expected {error}") from None
    field = field_at(names)

    def form(line: bytes) -> bytes:
        value = field.value(line)
        if value is None:
            raise BadLine(_why_none(line, names, key_field))
        key = text_of(value)
        if key is None and value != b"null":
            raise BadLine(f'field "{key_field}" is no text or number, so it cannot be a key')
        return _encode(line, key)

    return form


def _why_none(line: bytes, names: Sequence[str], key_field: str) -> str:
    """Why a line has no single value at a path. Raises BadLine if the line is no object."""
    value: Any = _decode_object(line)
    for name in names:
        if not isinstance(value, dict) or name not in value:
            return f'has no field "{key_field}"'
        value = value[name]
    return f'has the field "{key_field}" more than once'


def _csv_form(header: CsvRecord, form: Form) -> _CsvForm:
    names, key_field = header.fields, form.key_field
    if header.raw is None:
        raise FormError(f"the header is longer than {LINE_BYTES_MAX} bytes")
    if key_field is not None and names.count(key_field) != 1:
        shown = ", ".join(names)
        if len(shown) > _COLUMNS_SHOWN_BYTES:
            shown = f"{shown[:_COLUMNS_SHOWN_BYTES]}... ({len(names)} columns)"
        how = "more than one" if key_field in names else "no"
        raise FormError(f'{how} column "{key_field}"; the header has: {shown}')
    column = None if key_field is None else names.index(key_field)

    def form_record(record: CsvRecord) -> bytes:
        if record.raw is None:
            raise BadLine(f"is longer than {LINE_BYTES_MAX} bytes")
        if len(record.fields) != len(names):
            raise BadLine(f"has {len(record.fields)} columns; the header has {len(names)}")
        key = form.partition_key if column is None else record.fields[column]
        return _encode(record.raw, key)

    return form_record


def _decode_object(line: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(line)
    except _UNREADABLE as error:
        raise BadLine(f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadLine("is not a JSON object")
    return found


def _encode(data: bytes, partition_key: str | None) -> bytes:
    """A record line. An empty key counts as none: the daemon spreads such records over shards."""
    try:
        record = _RecordLine(data=data.decode(), partition_key=partition_key or None)
    except UnicodeDecodeError:
        record = _RecordLine(data_base64=data, partition_key=partition_key or None)
    try:
        return msgspec.json.encode(record) + b"\n"
    except UnicodeEncodeError:
        raise BadLine("has a key that is not UTF-8") from None

"""Makes the lines of a CSV file into records: a CSV reader's records, with their own text.

Pure. The csv module reads each line; this file only joins the lines of a record whose quoted field
goes on over line ends. Knows nothing of record lines or keys; `lines.py` makes those.
Invariant: a record is returned once it is whole. Where no reader could tell a record's end, no more
records are returned (`CsvError`).
"""

import csv
from dataclasses import dataclass


class CsvError(Exception):
    """From here on the beginnings of records are unknown. The text names the line and says why."""


@dataclass(frozen=True, slots=True)
class CsvRecord:
    """`raw`: its own text, with the line ends inside it; None: it is longer than the bound.
    `first`, `last`: its lines, from 1. `fields`: as the csv module reads them; empty if it is too
    long.
    """

    raw: bytes | None
    first: int
    last: int
    fields: list[str]


class CsvReader:
    """Joins lines into records. Holds one record, of `bytes_max` at most."""

    def __init__(self, bytes_max: int) -> None:
        # Of the process: the default of 128 KiB is less than a record may have.
        csv.field_size_limit(bytes_max)
        self._bytes_max = bytes_max
        self.first = 0  # line of the record whose quoted field is open; 0: none is open
        self._kept_bytes = 0
        self._lines: list[bytes] = []
        self._fields: list[str] = []  # fields of the open record, before its open field
        self._parts: list[str] = []  # parts of the open field

    @property
    def held(self) -> int:
        """Lines, fields and parts of a field that it holds."""
        return len(self._lines) + len(self._fields) + len(self._parts)

    def add(self, line: bytes, number: int) -> CsvRecord | None:
        """The record that this line (without its LF) completes, if any. Raises CsvError."""
        body = line.removesuffix(b"\r")
        text = body.decode(errors="surrogateescape")
        if not self.first and '"' not in text and "\r" not in text:
            return CsvRecord(body, number, number, text.split(","))
        try:
            # Within a quoted field, a line is read as if a quote had been opened just before it.
            fields, is_open = _parse(f'"{text}' if self.first else text)
        except csv.Error as error:
            begun = f" (its record begins in line {self.first})" if self.first else ""
            raise CsvError(
                f"line {number}{begun} is not CSV: {error}; where the next record begins cannot be "
                "told, so nothing from there on is sent"
            ) from None
        if not is_open:
            return self._complete(body, fields, number)
        self._hold(line, fields, number)
        return None

    def _hold(self, line: bytes, fields: list[str], number: int) -> None:
        self.first = self.first or number
        self._kept_bytes += len(line) + 1
        if self._kept_bytes > self._bytes_max:  # from here on only its end is looked for
            self._lines, self._fields, self._parts = [], [], []
            return
        self._lines.append(line)
        if len(fields) > 1:
            self._fields += ["".join([*self._parts, fields[0]]), *fields[1:-1]]
            self._parts = []
        self._parts += [fields[-1], "\r\n" if line.endswith(b"\r") else "\n"]

    def _complete(self, body: bytes, fields: list[str], number: int) -> CsvRecord:
        first = self.first or number
        if self._kept_bytes + len(body) > self._bytes_max:
            record = CsvRecord(None, first, number, [])
        else:
            joined = "".join([*self._parts, fields[0]])
            raw = b"\n".join([*self._lines, body])
            record = CsvRecord(raw, first, number, [*self._fields, joined, *fields[1:]])
        self.first = self._kept_bytes = 0
        self._lines, self._fields, self._parts = [], [], []
        return record


def _parse(text: str) -> tuple[list[str], bool]:
    """The fields of one line, and whether the last one is quoted and still open. Raises csv.Error.

    The field is open if a quote at the end of the line makes it valid.
    """
    try:
        return next(csv.reader([text], strict=True)), False
    except csv.Error as error:
        try:
            return next(csv.reader([text + '"'], strict=True)), True
        except csv.Error:
            raise error from None

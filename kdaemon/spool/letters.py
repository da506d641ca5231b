"""Dead letters: records that will not be delivered, kept with the reason, in the spool's database.

Knows no frame and no stream's state. Another process may read and delete letters while a daemon
runs.
Invariant: letters are bounded by bytes: the oldest make room for the newest, and are counted.
Where it sits: `store.py` adds letters; the commands read and delete them.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from kdaemon.base.errors import SpoolError
from kdaemon.spool.database import Database

LETTER_OVERHEAD_BYTES = 64  # beside data and words: a row's numbers, and SQLite's head of the row
LETTER_FOOTPRINT_BYTES = 600  # beside data and key: struct, heads of bytes and texts, message
_BLOCK_LETTERS = 256  # ids looked up, or letters deleted, a transaction: some milliseconds


class DeadLetter(msgspec.Struct, gc=False):
    """One record, and why it is dead.

    `reason`: one of `base/counters.DeadReason`. `code`, `message`: the service's last words, or
    ours. `attempts`: how often the record was sent; if it was given up with others of its request:
    how often the one was that was sent most. `first_ms`, `last_ms`: when the record was accepted
    and when it died, Unix milliseconds. `id`: given by the store, never given twice; 0 before.
    `is_intact`: False if the stored letter is not the one that was written; then it must
    not be replayed.
    """

    stream: str
    partition_key: str
    explicit_hash_key: str | None
    data: bytes
    reason: str
    code: str
    message: str
    attempts: int
    first_ms: int
    last_ms: int
    id: int = 0
    is_intact: bool = True

    @property
    def footprint_bytes(self) -> int:
        """About how much memory the letter takes."""
        return len(self.data) + len(self.partition_key) + LETTER_FOOTPRINT_BYTES


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Selects the letters that meet every condition given; with no condition, all letters.

    Times are of death (`last_ms`): `since_ms` inclusive, `until_ms` exclusive.
    """

    stream: str | None = None
    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class LetterTotal:
    """`byte_count`: bytes as `letters_bytes_max` counts them: data, key and words, and 64 bytes a
    letter.
    """

    letter_count: int
    byte_count: int


class Letters:
    """The letters of one open database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self, which: LetterFilter) -> LetterTotal:
        """How many letters there are, and their bytes. Raises SpoolError."""
        condition, values = _condition(which)
        with self._database.reading() as connection:
            letter_count, byte_count = connection.execute(
                f"SELECT count(*), coalesce(sum(byte_count), 0) FROM letter WHERE {condition}",  # noqa: S608 - built of our own words
                values,
            ).fetchone()
        return LetterTotal(letter_count, byte_count)

    def select(
        self, which: LetterFilter, *, newest_first: bool = False, limit: int | None = None
    ) -> Iterator[DeadLetter]:
        """Yields one letter at a time, oldest first unless `newest_first`. No transaction is open
        between two letters, however slowly the caller takes them; a letter that comes or goes
        meanwhile may be yielded or not.
        """
        after: int | None = None
        left = limit
        while left is None or left > 0:
            block = _BLOCK_LETTERS if left is None else min(left, _BLOCK_LETTERS)
            ids = self._ids(which, after, block, newest_first=newest_first)
            for letter_id in ids:
                letter = self._get(letter_id)
                if letter is not None:
                    yield letter
            if len(ids) < block:
                return
            after = ids[-1]
            left = None if left is None else left - len(ids)

    def delete(self, which: LetterFilter) -> LetterTotal:
        """Deletes in short transactions; returns how much was deleted, durably."""
        letter_count = byte_count = 0
        while ids := self._ids(which, None, _BLOCK_LETTERS, newest_first=False):
            with self._database.writing() as connection:
                block = _delete(connection, ids)
                letter_count += block.letter_count
                byte_count += block.byte_count
        return LetterTotal(letter_count, byte_count)

    def _ids(
        self, which: LetterFilter, after: int | None, limit: int, *, newest_first: bool
    ) -> list[int]:
        condition, values = _condition(which)
        if after is not None:
            condition += " AND id < ?" if newest_first else " AND id > ?"
            values.append(after)
        order = "DESC" if newest_first else "ASC"
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT id FROM letter WHERE {condition} ORDER BY id {order} LIMIT ?",  # noqa: S608 - as above
                (*values, limit),
            ).fetchall()
        return [row[0] for row in rows]

    def _get(self, letter_id: int) -> DeadLetter | None:
        try:
            with self._database.reading() as connection:
                row = connection.execute(f"{SELECT_LETTER} WHERE id = ?", (letter_id,)).fetchone()
        except SpoolError as error:
            if error.kind != "corrupt":
                raise
            row = (*(None,) * 10, letter_id, None)  # on a bad page: it is shown empty
        return None if row is None else letter_of(row)


_FIELDS = (
    "stream, partition_key, explicit_hash_key, data, reason, code, message, attempts, first_ms,"
    " last_ms"
)
LETTER_COLUMNS = f"{_FIELDS}, id, checksum"
SELECT_LETTER = f"SELECT {LETTER_COLUMNS} FROM letter"  # noqa: S608 - our own words


def letter_of(row: Sequence[Any]) -> DeadLetter:
    """The letter of a row of `SELECT_LETTER`. A field that damage gave another type is empty,
    or 0.
    """
    *fields, letter_id, checksum = row
    is_intact = checksum == _checksum(fields)
    if not is_intact:
        types = (str, str, str, bytes, str, str, str, int, int, int)
        fields = [
            value if isinstance(value, kind) else kind()
            for value, kind in zip(fields, types, strict=True)
        ]
    letter = DeadLetter(*fields)
    letter.id = letter_id
    letter.is_intact = is_intact
    return letter


def add_letters(connection: sqlite3.Connection, letters: list[DeadLetter], bytes_max: int) -> int:
    """Writes letters in the transaction that is open, and drops the oldest until all take at most
    `bytes_max`, but never drops the newest one. Returns how many were dropped.
    """
    rows = [(letter, _fields(letter)) for letter in letters]
    connection.executemany(
        f"INSERT INTO letter ({_FIELDS}, checksum, byte_count)"  # noqa: S608 - our own words
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*fields, _checksum(fields), _size(letter)) for letter, fields in rows],
    )
    connection.execute(
        "UPDATE total SET letter_count = letter_count + ?, letter_bytes = letter_bytes + ?",
        (len(letters), sum(map(_size, letters))),
    )
    dropped_count = 0
    while True:
        count, byte_count = connection.execute(
            "SELECT letter_count, letter_bytes FROM total"
        ).fetchone()
        if byte_count <= bytes_max or count <= 1:
            return dropped_count
        oldest = _oldest(connection, byte_count - bytes_max, count - 1)
        if not oldest:  # damage made the total wrong: count the rows
            recount_letters(connection)
            return dropped_count
        dropped_count += _delete(connection, oldest).letter_count


def recount_letters(connection: sqlite3.Connection) -> None:
    """Sets the totals to the sums of the rows."""
    connection.execute(
        "UPDATE total SET letter_count = (SELECT count(*) FROM letter),"
        " letter_bytes = (SELECT coalesce(sum(byte_count), 0) FROM letter)"
    )


def _oldest(connection: sqlite3.Connection, byte_count: int, count_max: int) -> list[int]:
    """Ids of the oldest letters that take `byte_count` bytes together; one block at most."""
    ids: list[int] = []
    for letter_id, letter_bytes in connection.execute(
        "SELECT id, ifnull(CAST(byte_count AS INTEGER), 0) FROM letter ORDER BY id LIMIT ?",
        (min(count_max, _BLOCK_LETTERS),),
    ):
        ids.append(letter_id)
        byte_count -= letter_bytes
        if byte_count <= 0:
            break
    return ids


def _delete(connection: sqlite3.Connection, ids: list[int]) -> LetterTotal:
    sizes = [
        row[0]
        for letter_id in ids
        for row in connection.execute(
            "DELETE FROM letter WHERE id = ? RETURNING ifnull(CAST(byte_count AS INTEGER), 0)",
            (letter_id,),
        ).fetchall()
    ]
    connection.execute(
        "UPDATE total SET letter_count = letter_count - ?, letter_bytes = letter_bytes - ?",
        (len(sizes), sum(sizes)),
    )
    return LetterTotal(len(sizes), sum(sizes))


def _fields(letter: DeadLetter) -> tuple[Any, ...]:
    return msgspec.structs.astuple(letter)[:-2]  # without `id` and `is_intact`


def _size(letter: DeadLetter) -> int:
    words = (letter.stream, letter.partition_key, letter.reason, letter.code, letter.message)
    return LETTER_OVERHEAD_BYTES + len(letter.data) + sum(len(word.encode()) for word in words)


def _checksum(fields: Sequence[object]) -> int:
    return zlib.crc32(msgspec.msgpack.encode(tuple(fields)))


def _condition(which: LetterFilter) -> tuple[str, list[str | int]]:
    """Returns SQL and its values. The SQL is ours; the values are bound."""
    conditions = {
        "stream = ?": which.stream,
        "reason = ?": which.reason,
        "last_ms >= ?": which.since_ms,
        "last_ms < ?": which.until_ms,
        "id IN (SELECT value FROM json_each(?))": (
            None if which.ids is None else json.dumps(which.ids)
        ),
    }
    given = {sql: value for sql, value in conditions.items() if value is not None}
    return " AND ".join(given) or "TRUE", list(given.values())

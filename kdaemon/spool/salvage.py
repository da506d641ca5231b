"""Saves all that can be read of a damaged database into a new one.

Reads the old database and never writes it. Each row is read by itself, so that a bad page costs
only the rows on it. Knows rows and checksums; not how a database comes to be damaged, or what
becomes of the old one.
Invariant: each frame and letter that is written into the new database has a checksum that held.
Where it sits: `upkeep.py` calls it, with the old database in its place, a copy of it, or one that
is still open.
"""

import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from kdaemon.base.errors import SpoolError
from kdaemon.spool import schema
from kdaemon.spool.codec import CorruptFrame
from kdaemon.spool.database import Database
from kdaemon.spool.letters import LETTER_COLUMNS, DeadLetter, add_letters, letter_of
from kdaemon.spool.rows import frame_of, stream_checksum
from kdaemon.spool.values import NewFrame, Salvage
from kdaemon.spool.writes import append_frames

_BLOCK_BYTES = 4 * 1024 * 1024  # of payload, saved in one transaction


def salvage(old: Database, new: Database, letters_bytes_max: int) -> Salvage:
    """Copies frames with their progress, and letters, from `old` to `new`. An error of the old
    database is never raised: it is told in `problem`. A failure of the new one (a full disk) ends
    the copying, and is told in `problem` and `cut_off_by`; what was copied before stays in the new
    database.
    """
    work = _Salvage(old, new, letters_bytes_max)
    try:
        work.run()
    except SpoolError as error:
        work.saved.cut_off_by = error
        work.problems.append(error.message)
    work.saved.problem = "; ".join(work.problems) or None
    return work.saved


class _Salvage:
    """One salvage: its two databases, and the counts of rows that were saved or lost."""

    def __init__(self, old: Database, new: Database, letters_bytes_max: int) -> None:
        self._old = old.connection
        self._new = new
        self._letters_bytes_max = letters_bytes_max
        self.saved = Salvage(old.path)
        self._lost_count = 0
        self.problems: list[str] = []

    def run(self) -> None:
        """Copies frames, then letters, then the next free id, each block of rows in a transaction
        of its own. Raises SpoolError for the new database; then the blocks before stay, and the
        counts are of these.
        """
        names = self._names()
        frames: list[tuple[NewFrame, bytes | None]] = []
        byte_count = 0
        for row in self._rows("frame", "stream, id, record_count, accepted_ms, checksum, payload"):
            name = names.get(row[0])
            frame = self._frame(name, row) if name is not None else None
            if frame is None:
                self._lost_count += 1
                continue
            frames.append(frame)
            byte_count += len(frame[0].payload)
            if byte_count >= _BLOCK_BYTES:
                self._save(frames)
                frames, byte_count = [], 0
        self._save(frames)
        self._save_letters()
        self._keep_ids_unused()
        if self._lost_count:
            self.problems.append(f"{self._lost_count} rows cannot be read or are not as written")

    def _names(self) -> dict[int, str]:
        """Names of streams by key, from the table and from its index: two copies on two pages. A
        name whose checksum holds is preferred; otherwise each frame's checksum tells whether the
        name was right.
        """
        checksums: dict[int, Any] = {}
        with suppress(sqlite3.Error):
            checksums.update(self._old.execute("SELECT key, checksum FROM stream NOT INDEXED"))
        names: dict[int, str] = {}
        for source in ("NOT INDEXED", "INDEXED BY stream_name"):
            with suppress(sqlite3.Error):
                for key, name in self._old.execute(f"SELECT key, name FROM stream {source}"):  # noqa: S608 - our own words
                    if not (isinstance(key, int) and isinstance(name, str)):
                        continue
                    is_sure = checksums.get(key) == stream_checksum(key, name)
                    if is_sure or key not in names:
                        names[key] = name
        return names

    def _frame(self, name: str, row: Sequence[Any]) -> tuple[NewFrame, bytes | None] | None:
        settled = None
        with suppress(sqlite3.Error):
            (settled,) = self._old.execute(
                "SELECT settled FROM progress WHERE id = ?", (row[1],)
            ).fetchone() or (None,)
        _, frame_id, record_count, accepted_ms, checksum, payload = row
        try:
            stored = frame_of(
                name, (frame_id, record_count, accepted_ms, checksum, settled, payload)
            )
        except CorruptFrame:
            return None
        assert isinstance(payload, bytes), "frame_of looked"
        return (
            NewFrame(stored.id, name, len(stored.records), stored.accepted_ms, payload),
            stored.settled,
        )

    def _save(self, frames: list[tuple[NewFrame, bytes | None]]) -> None:
        with self._new.writing() as connection:
            append_frames(connection, [frame for frame, _ in frames])
            connection.executemany(
                "INSERT INTO progress VALUES (?, ?)",
                [(frame.id, settled) for frame, settled in frames if settled is not None],
            )
        self.saved.frame_count += len(frames)
        self.saved.record_count += sum(frame.record_count for frame, _ in frames)

    def _save_letters(self) -> None:
        letters: list[DeadLetter] = []
        byte_count = 0
        for row in self._rows("letter", LETTER_COLUMNS):
            letter = letter_of(row)
            if not letter.is_intact:
                self._lost_count += 1
                continue
            letters.append(letter)
            byte_count += len(letter.data)
            if byte_count >= _BLOCK_BYTES:
                self._add(letters)
                letters, byte_count = [], 0
        self._add(letters)

    def _add(self, letters: list[DeadLetter]) -> None:
        with self._new.writing() as connection:
            add_letters(connection, letters, self._letters_bytes_max)
        self.saved.letter_count += len(letters)

    def _keep_ids_unused(self) -> None:
        row = None
        with suppress(sqlite3.Error):
            row = self._old.execute("SELECT next_frame_id FROM total").fetchone()
        if row is not None and isinstance(row[0], int) and 0 < row[0] < schema.ID_MAX:
            with self._new.writing() as connection:
                connection.execute("UPDATE total SET next_frame_id = max(next_frame_id, ?)", row)

    def _rows(self, table: str, columns: str) -> Iterator[Sequence[Any]]:
        """All rows that can be read, in order of id. Counts those that cannot."""
        one = f"SELECT {columns} FROM {table} WHERE id = ?"  # noqa: S608 - our own words
        for row_id in self._row_ids(table):
            try:
                row = self._old.execute(one, (row_id,)).fetchone()
            except sqlite3.Error:
                row = None
            if row is None:
                self._lost_count += 1
            else:
                yield row

    def _row_ids(self, table: str) -> "array[int]":
        """All ids that can be found. Where a scan breaks on a bad page, the table is also scanned
        from the other end, and a frame's id is also looked for in the index, which is a second
        copy.
        """
        ids = array("q")
        scans = [
            f"SELECT id FROM {table} NOT INDEXED ORDER BY id",  # noqa: S608 - our own words
            f"SELECT id FROM {table} NOT INDEXED ORDER BY id DESC",  # noqa: S608 - our own words
        ]
        if table == "frame":
            scans.append("SELECT id FROM frame INDEXED BY frame_stream")
        for scan in scans:
            try:
                # Where the schema is damaged, the ids may be those of another column.
                ids.extend(row[0] for row in self._old.execute(scan) if isinstance(row[0], int))
            except sqlite3.Error as error:
                self._note(f"{table}: {error}")
            else:
                if scan is scans[0]:
                    return ids
        return array("q", sorted(set(ids)))

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

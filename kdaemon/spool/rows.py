"""Reads a spool's database: streams, their totals and frames, and whether all of it is sound.

Changes nothing. Knows tables; not whose connection it is: the daemon's own, or that of a process
that only looks.
Invariant: a frame is given out only if its checksum holds.
Where it sits: `store.py`, `view.py`, `upkeep.py` and `salvage.py` call it.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kdaemon.spool import schema
from kdaemon.spool.codec import CorruptFrame, checksum, count_settled, decode_records, settled_bits
from kdaemon.spool.letters import SELECT_LETTER, letter_of
from kdaemon.spool.values import ReadBack, Settled, StoredFrame, StoredTotals, Verification

ID_END = 2**63 - 1  # above every id that SQLite can hold

_PROBLEMS_MAX = 100  # more of them would tell no more
_VERIFY_BLOCK_ROWS = 256  # read by one statement; the log cannot shrink during a longer one

_SELECT_FRAME = (
    "SELECT f.id, f.record_count, f.accepted_ms, f.checksum, p.settled, f.payload"
    " FROM frame f LEFT JOIN progress p ON p.id = f.id"
)


def stream_checksum(key: int, name: str) -> int:
    """The checksum of a stream's row. Under a wrong name, no frame of the stream could be
    believed.
    """
    return zlib.crc32(name.encode(), key)


def stream_keys(connection: sqlite3.Connection) -> dict[str, int]:
    """Keys of streams by name. Raises sqlite3.DatabaseError (corrupt) for a damaged row."""
    keys = {}
    for key, name, found in connection.execute("SELECT key, name, checksum FROM stream"):
        is_sound = isinstance(key, int) and isinstance(name, str)
        if not is_sound or found != stream_checksum(key, name):
            raise schema.damage(f"the name of stream {key} is damaged")
        keys[name] = key
    return keys


def stored_totals(connection: sqlite3.Connection) -> list[StoredTotals]:
    """Totals of the streams that have a frame. Reads a few pages a stream, however much is stored.
    Raises sqlite3.DatabaseError.
    """
    found = []
    for key, name, frame_count, record_count, byte_count in connection.execute(
        "SELECT key, name, frame_count, record_count, byte_count FROM stream"
        " WHERE frame_count > 0 ORDER BY name"
    ).fetchall():
        if not all(isinstance(each, int) for each in (frame_count, record_count, byte_count)):
            raise schema.damage("the totals of a stream are no numbers")
        first = connection.execute(
            "SELECT id, accepted_ms FROM frame WHERE stream = ? ORDER BY id LIMIT 1", (key,)
        ).fetchone()
        last = connection.execute(
            "SELECT id FROM frame WHERE stream = ? ORDER BY id DESC LIMIT 1", (key,)
        ).fetchone()
        if first is not None and last is not None:
            oldest_ms = first[1] if isinstance(first[1], int) else 0
            found.append(
                StoredTotals(
                    name, frame_count, record_count, byte_count, first[0], last[0], oldest_ms
                )
            )
    return found


def live_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the pages in use."""
    (page_count,) = connection.execute("PRAGMA page_count").fetchone()
    (free_count,) = connection.execute("PRAGMA freelist_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int((page_count - free_count) * page_bytes)


def look_over(connection: sqlite3.Connection, path: str) -> None:
    """Raises sqlite3.DatabaseError if the database cannot be used: its tables are not ours, a page
    is missing, or not every frame can be found. Reads the index of frames (about 12 bytes each) and
    a few pages; a bad payload is found when it is read.
    """
    if not schema.is_whole(connection):
        raise schema.damage("its tables are not as kdaemon makes them")
    for name, key in stream_keys(connection).items():
        # A name that is missing in its index would be written again, under another key: its frames
        # would not be read.
        by_name = "SELECT key FROM stream INDEXED BY stream_name WHERE name = ?"
        if connection.execute(by_name, (name,)).fetchall() != [(key,)]:
            raise schema.damage(f"stream {name} cannot be found by its name")
    lost = connection.execute(
        "SELECT name FROM stream s WHERE frame_count <>"
        " (SELECT count(*) FROM frame INDEXED BY frame_stream WHERE stream = s.key)"
    ).fetchone()
    if lost is not None:
        raise schema.damage(f"frames of stream {lost[0]} cannot be found")
    (has_strays,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM frame WHERE stream NOT IN (SELECT key FROM stream))"
    ).fetchone()
    if has_strays:
        raise schema.damage("frames are of a stream that is not there")
    for table in ("progress", "letter", "quarantine"):
        # Not min and max in one SELECT: that reads all of the table.
        for order in ("ASC", "DESC"):
            connection.execute(f"SELECT id FROM {table} ORDER BY id {order} LIMIT 1").fetchone()  # noqa: S608 - our own words
    totals = connection.execute(
        "SELECT typeof(next_frame_id), typeof(letter_count), typeof(letter_bytes),"
        " next_frame_id BETWEEN 1 AND ? FROM total",
        (schema.ID_MAX,),
    ).fetchall()
    sums = connection.execute(
        "SELECT DISTINCT typeof(frame_count), typeof(record_count), typeof(byte_count) FROM stream"
    ).fetchall()
    whole = ("integer",) * 3  # a flipped bit may make a number text, which counts as 0 in a sum
    if totals != [(*whole, 1)] or sums not in ([], [whole]):
        raise schema.damage("its totals are missing")
    busy, in_log, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    (page_count,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    is_all_in_file = not busy and in_log == copied  # else some pages stand only in the log
    if is_all_in_file and Path(path).stat().st_size < page_count * page_bytes:
        raise schema.damage("its end is missing")


def read_frames(
    connection: sqlite3.Connection,
    key: int,
    stream: str,
    after_id: int,
    byte_count_max: int,
    until_id: int = ID_END,
) -> tuple[ReadBack, list[int]]:
    """Reads frames of a stream after `after_id` and up to `until_id`: at least one row, and rows up
    to about `byte_count_max` bytes of the memory that their frames take. Returns them, and the ids
    of those that are damaged.
    """
    frames: list[StoredFrame] = []
    corrupt_ids: list[int] = []
    corrupt_record_count = byte_count = 0
    last_id = after_id
    cursor = connection.execute(
        f"{_SELECT_FRAME} WHERE f.stream = ? AND f.id > ? AND f.id <= ? ORDER BY f.id",
        (key, after_id, until_id),
    )
    for row in cursor:
        if row[0] <= last_id:
            raise schema.damage("the index of frames is out of order")
        last_id = row[0]
        payload_bytes = len(row[5]) if isinstance(row[5], bytes) else 0
        try:
            frames.append(frame_of(stream, row))
        except CorruptFrame:
            corrupt_ids.append(last_id)
            corrupt_record_count += row[1] if isinstance(row[1], int) else 0
            byte_count += payload_bytes
        else:
            byte_count += frames[-1].footprint_bytes
        if byte_count >= byte_count_max:
            break
    cursor.close()
    is_end = not connection.execute(
        "SELECT EXISTS (SELECT 1 FROM frame WHERE stream = ? AND id > ? AND id <= ?)",
        (key, last_id, until_id),
    ).fetchone()[0]
    read = ReadBack(frames, len(corrupt_ids), corrupt_record_count, last_id, is_end)
    return read, corrupt_ids


def settled_of(connection: sqlite3.Connection, ids: Iterable[int]) -> list[Settled]:
    """The notes of settled records of these frames: one `Settled` for each, whether or not a note
    stands there.
    """
    found = []
    for frame_id in ids:
        record_count, settled = connection.execute(
            "SELECT f.record_count, p.settled FROM frame f LEFT JOIN progress p ON p.id = f.id"
            " WHERE f.id = ?",
            (frame_id,),
        ).fetchone() or (0, None)
        found.append(
            Settled(
                frame_id,
                record_count if isinstance(record_count, int) else 0,
                count_settled(settled) if isinstance(settled, bytes) else 0,
            )
        )
    return found


def frame_of(stream: str, row: Sequence[object]) -> StoredFrame:
    """A frame from id, record count, accepted_ms, checksum, settled, payload. Raises CorruptFrame.

    A damaged bitmap is no error: then no record is known to be settled.
    """
    frame_id, record_count, accepted_ms, found, settled, payload = row
    if not (
        isinstance(frame_id, int)
        and isinstance(record_count, int)
        and isinstance(accepted_ms, int)
        and isinstance(payload, bytes)
        and 0 < record_count < 2**32
        and abs(accepted_ms) < 2**63
        and found == checksum(stream, frame_id, record_count, accepted_ms, payload)
    ):
        raise CorruptFrame("a row is not what was written")
    records = decode_records(payload)
    if len(records) != record_count:
        raise CorruptFrame("a payload holds another number of records than its row says")
    if settled is not None:
        try:
            settled_bits(settled if isinstance(settled, bytes) else b"", record_count)
        except CorruptFrame:
            settled = None
    return StoredFrame(
        frame_id,
        stream,
        records,
        accepted_ms,
        len(payload),
        settled if isinstance(settled, bytes) else None,
    )


def verify(connection: sqlite3.Connection) -> Verification:
    """Reads every row and every page. Takes seconds a GiB; its memory is bounded by a few
    frames.
    """
    found = Verification()
    try:
        for (line,) in connection.execute(f"PRAGMA integrity_check({_PROBLEMS_MAX})"):
            found.problems += [line] if line != "ok" else []
        names = {key: name for name, key in stream_keys(connection).items()}
        found.problems += _totals_that_differ(connection)
        for stream_key, row in _all_frames(connection):
            found.frame_count += 1
            try:
                found.record_count += len(frame_of(names[stream_key], row).records)
            except (CorruptFrame, KeyError):
                found.corrupt_count += 1
                if len(found.corrupt_ids) < _PROBLEMS_MAX:
                    found.corrupt_ids.append(int(str(row[0])))
        for (letter_id,) in connection.execute("SELECT id FROM letter").fetchall():
            letter = connection.execute(f"{SELECT_LETTER} WHERE id = ?", (letter_id,)).fetchone()
            if letter is not None:
                found.letter_count += 1
                found.corrupt_letter_count += not letter_of(letter).is_intact
        (found.quarantine_count,) = connection.execute("SELECT count(*) FROM quarantine").fetchone()
    except sqlite3.DatabaseError as error:
        found.problems.append(f"reading stopped: {error}")
    del found.problems[_PROBLEMS_MAX:]
    return found


def _totals_that_differ(connection: sqlite3.Connection) -> Iterator[str]:
    """One statement each, so that both sides are of one moment, even while a daemon writes."""
    for name, said, found in connection.execute(
        "SELECT s.name, s.frame_count || ' frames, ' || s.record_count || ' records, '"
        " || s.byte_count || ' bytes' AS said,"
        " count(f.id) || ' frames, ' || coalesce(sum(f.record_count), 0) || ' records, '"
        " || coalesce(sum(length(f.payload)), 0) || ' bytes' AS found"
        " FROM stream s LEFT JOIN frame f ON f.stream = s.key GROUP BY s.key HAVING said <> found"
    ):
        yield f"stream {name}: the total says {said}; there are {found}"
    for said, found in connection.execute(
        "SELECT letter_count || ' letters, ' || letter_bytes || ' bytes' AS said,"
        " (SELECT count(*) || ' letters, ' || coalesce(sum(byte_count), 0) || ' bytes' FROM letter)"
        " AS found FROM total WHERE said <> found"
    ):
        yield f"dead letters: the total says {said}; there are {found}"


def _all_frames(connection: sqlite3.Connection) -> Iterator[tuple[int, Sequence[object]]]:
    after_id = -(2**63)
    while True:
        ids = connection.execute(
            "SELECT id FROM frame WHERE id > ? ORDER BY id LIMIT ?", (after_id, _VERIFY_BLOCK_ROWS)
        ).fetchall()
        for (frame_id,) in ids:
            row = connection.execute(
                "SELECT f.stream, f.id, f.record_count, f.accepted_ms, f.checksum, p.settled,"
                " f.payload FROM frame f LEFT JOIN progress p ON p.id = f.id WHERE f.id = ?",
                (frame_id,),
            ).fetchone()
            if row is not None:  # else its frame has settled since
                yield row[0], row[1:]
        if not ids:
            return
        after_id = ids[-1][0]

"""The SQL statements that change frames. Each runs in the transaction that its caller opened.

Knows rows and totals; no connection's life, and no reason for a change.
Invariant: the totals in `stream` and `total` change in the same transaction as the rows.
Where it sits: `store.py` and `salvage.py` call it.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable

from kdaemon.spool.codec import checksum
from kdaemon.spool.rows import stream_checksum
from kdaemon.spool.values import NewFrame

# Damaged rows are kept for people to look at; the daemon has no use for them.
QUARANTINE_ROWS_MAX = 1000
QUARANTINE_BYTES_MAX = 64 * 1024 * 1024
# Frame ids that the database notes as used before they are. So most commits write one page less, of
# the four that one record takes. A start passes over the ids that were not used. Ours, 2026-11-29
IDS_AHEAD = 1_000
# So many rows of streams are kept even if no frame of the stream is stored: most streams come
# again. Ours
STREAM_ROWS_MAX = 256


def append_frames(connection: sqlite3.Connection, frames: list[NewFrame]) -> None:
    """Adds frames, and the rows of streams that are new. No id may be in use."""
    if not frames:
        return
    keys = _keys_of({frame.stream for frame in frames}, connection)
    connection.executemany(
        "INSERT INTO frame VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                frame.id,
                keys[frame.stream],
                frame.record_count,
                frame.accepted_ms,
                checksum(
                    frame.stream, frame.id, frame.record_count, frame.accepted_ms, frame.payload
                ),
                frame.payload,
            )
            for frame in frames
        ],
    )
    added = {key: [0, 0, 0] for key in keys.values()}
    for frame in frames:
        sums = added[keys[frame.stream]]
        sums[0] += 1
        sums[1] += frame.record_count
        sums[2] += len(frame.payload)
    _add_to_totals(connection, added)
    connection.execute(
        "UPDATE total SET next_frame_id = ?1 + ?2 WHERE next_frame_id <= ?1",
        (max(frame.id for frame in frames), IDS_AHEAD),
    )


def remove_frames(connection: sqlite3.Connection, ids: Iterable[int]) -> tuple[int, int, int]:
    """Deletes frames and their noted progress; an id that is not there is no error. Returns how
    many frames, records and bytes of payload went.
    """
    asked = (json.dumps(list(ids)),)  # one statement for all; IN takes each id once
    removed: dict[int, list[int]] = {}
    # Not RETURNING, for which SQLite reads all of the payload; this reads only its length. CAST,
    # because damage may have given a field any type.
    for key, record_count, byte_count in connection.execute(
        "SELECT stream, ifnull(CAST(record_count AS INTEGER), 0), ifnull(length(payload), 0)"
        " FROM frame WHERE id IN (SELECT value FROM json_each(?))",
        asked,
    ):
        sums = removed.setdefault(key, [0, 0, 0])
        sums[0] -= 1
        sums[1] -= record_count
        sums[2] -= byte_count
    connection.execute("DELETE FROM frame WHERE id IN (SELECT value FROM json_each(?))", asked)
    connection.execute("DELETE FROM progress WHERE id IN (SELECT value FROM json_each(?))", asked)
    _add_to_totals(connection, removed)
    frame_count, record_count, byte_count = (
        -sum(sums[at] for sums in removed.values()) for at in range(3)
    )
    return frame_count, record_count, byte_count


def note_progress(connection: sqlite3.Connection, progress: list[tuple[int, bytes]]) -> None:
    """Notes the bitmaps of frames that are stored; bitmaps of other frames are passed over."""
    connection.executemany(
        "INSERT OR REPLACE INTO progress SELECT id, ?2 FROM frame WHERE id = ?1", progress
    )


def write_something(connection: sqlite3.Connection) -> None:
    """Makes the transaction one that writes, and leaves no row behind."""
    connection.execute("INSERT INTO progress VALUES (-1, x'00')")
    connection.execute("DELETE FROM progress WHERE id = -1")


def quarantine(
    connection: sqlite3.Connection, key: int, ids: list[int], now_ms: int
) -> tuple[int, int]:
    """Moves damaged frames of a stream to quarantine; the oldest frames there make room. Returns
    how many frames and records left the stream, by the totals, because what a damaged row says of
    itself may be wrong.
    """
    before = _totals(connection, key)
    for frame_id in ids:
        connection.execute(
            "INSERT OR REPLACE INTO quarantine SELECT id, stream, record_count, accepted_ms,"
            " checksum, ?, payload FROM frame WHERE id = ?",
            (now_ms, frame_id),
        )
        connection.execute("DELETE FROM frame WHERE id = ?", (frame_id,))
        connection.execute("DELETE FROM progress WHERE id = ?", (frame_id,))
    connection.execute(
        "UPDATE stream SET (frame_count, record_count, byte_count) = ("
        " SELECT count(*), coalesce(sum(record_count), 0), coalesce(sum(length(payload)), 0)"
        " FROM frame WHERE stream = ?1) WHERE key = ?1",
        (key,),
    )
    connection.execute(
        "DELETE FROM quarantine WHERE id IN (SELECT id FROM ("
        " SELECT id, row_number() OVER newest AS number,"
        " sum(length(payload)) OVER newest AS byte_count"
        " FROM quarantine WINDOW newest AS (ORDER BY quarantined_ms DESC, id DESC))"
        " WHERE number > ? OR byte_count > ?)",
        (QUARANTINE_ROWS_MAX, QUARANTINE_BYTES_MAX),
    )
    after = _totals(connection, key)
    return before[0] - after[0], before[1] - after[1]


def forget_quarantine(connection: sqlite3.Connection, stream: str) -> int:
    """Deletes a stream's frames in quarantine; returns how many."""
    return connection.execute(
        "DELETE FROM quarantine WHERE stream = (SELECT key FROM stream WHERE name = ?)", (stream,)
    ).rowcount


def oldest_frames(
    connection: sqlite3.Connection,
    key: int,
    after_id: int,
    byte_count: int,
    kept: Collection[int] = (),
) -> tuple[list[int], int]:
    """Returns (ids of a stream's oldest frames after `after_id` that hold `byte_count` bytes
    together, without those to be `kept`; the id up to which no frame has to be kept).
    """
    ids = []
    cursor = connection.execute(
        "SELECT id, ifnull(length(payload), 0) FROM frame WHERE stream = ? AND id > ? ORDER BY id",
        (key, after_id),
    )
    until_id, has_kept = after_id, False
    for frame_id, payload_bytes in cursor:
        if frame_id in kept:
            has_kept = True
            continue
        ids.append(frame_id)
        if not has_kept:
            until_id = frame_id
        byte_count -= payload_bytes
        if byte_count <= 0:
            break
    cursor.close()
    return ids, until_id


def _keys_of(names: set[str], connection: sqlite3.Connection) -> dict[str, int]:
    """Keys of streams; a new stream gets the next key. Keys are looked up each time: there are few
    streams, and a key remembered from a transaction that was undone would be wrong.
    """
    keys = {}
    for name in names:
        row = connection.execute("SELECT key FROM stream WHERE name = ?", (name,)).fetchone()
        if row is not None:
            (keys[name],) = row
    new = names - keys.keys()
    if new:
        _forget_streams(connection, keys)
    for name in new:
        (key,) = connection.execute("SELECT coalesce(max(key), 0) + 1 FROM stream").fetchone()
        connection.execute(
            "INSERT INTO stream (key, name, checksum) VALUES (?, ?, ?)",
            (key, name, stream_checksum(key, name)),
        )
        keys[name] = key
    return keys


def _forget_streams(connection: sqlite3.Connection, kept: dict[str, int]) -> None:
    """Where there are many rows of streams, deletes those of which no frame is stored or in
    quarantine.
    """
    (row_count,) = connection.execute("SELECT count(*) FROM stream").fetchone()
    if row_count >= STREAM_ROWS_MAX:
        connection.execute(
            "DELETE FROM stream WHERE key NOT IN (SELECT value FROM json_each(?))"
            " AND NOT EXISTS (SELECT 1 FROM frame WHERE stream = key)"
            " AND NOT EXISTS (SELECT 1 FROM quarantine WHERE stream = key)",
            (json.dumps(list(kept.values())),),
        )


def _add_to_totals(connection: sqlite3.Connection, added: dict[int, list[int]]) -> None:
    """Adds to the totals of streams. A stream without frames gets totals of 0, whatever a damaged
    row said of itself.
    """
    for key, (frame_count, record_count, byte_count) in added.items():
        connection.execute(
            "UPDATE stream SET frame_count = frame_count + ?1,"
            " record_count = iif(frame_count + ?1 > 0, record_count + ?2, 0),"
            " byte_count = iif(frame_count + ?1 > 0, byte_count + ?3, 0) WHERE key = ?4",
            (frame_count, record_count, byte_count, key),
        )


def _totals(connection: sqlite3.Connection, key: int) -> tuple[int, int]:
    row = connection.execute(
        "SELECT frame_count, record_count FROM stream WHERE key = ?", (key,)
    ).fetchone()
    return (0, 0) if row is None else (row[0], row[1])

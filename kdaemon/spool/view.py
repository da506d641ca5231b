"""A look at a spool by a process that does not hold it: for commands, also while a daemon runs.

Changes no frame; dead letters may be deleted. Knows tables and totals; no daemon and no engine.
Invariant: no transaction outlives a call, so that a daemon's log does not grow because someone
looks slowly.
Where it sits: the commands and `shared.py` call it.
"""

import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from kdaemon.base.errors import SpoolError
from kdaemon.spool import schema
from kdaemon.spool.codec import count_settled
from kdaemon.spool.database import Database
from kdaemon.spool.directory import database_path, size_bytes
from kdaemon.spool.letters import Letters
from kdaemon.spool.lock import holder_pid
from kdaemon.spool.log import is_log_whole
from kdaemon.spool.rights import directory_error
from kdaemon.spool.rows import read_frames, stored_totals, stream_keys, verify
from kdaemon.spool.values import Census, ReadBack, StoredTotals, Verification


class StoreView:
    """An open look. `holder_pid`: the process that held the spool when the look was opened; 0: a
    process whose pid cannot be told; None: no process held it.
    """

    def __init__(self, directory: str) -> None:
        self._path = database_path(directory)
        if not Path(directory).is_dir():
            raise SpoolError("directory", directory, "no such directory: look at spool.directory")
        self.holder_pid = holder_pid(directory)
        if self.holder_pid is None:
            _refuse_damaged_log(self._path + "-wal")
        self._database = _opened(self._path)
        self.letters = Letters(self._database)

    @property
    def size_bytes(self) -> int:
        """Bytes that the database and its log take on disk."""
        return size_bytes(self._path)

    def stored_totals(self) -> list[StoredTotals]:
        """As `Store.stored_totals`, of this moment. Raises SpoolError."""
        with self._database.reading() as connection:
            return stored_totals(connection)

    def census(self) -> Census:
        """Counts of letters, of frames in quarantine, and of settled records whose frames still
        stand here. Raises SpoolError.
        """
        with self._database.reading() as connection:
            letters = connection.execute(
                "SELECT CASE typeof(stream) WHEN 'text' THEN stream ELSE '' END,"  # else damaged
                " count(*), sum(byte_count) FROM letter GROUP BY 1"
            ).fetchall()
            quarantine = connection.execute(
                "SELECT coalesce(s.name, ''), count(*) FROM quarantine q"
                " LEFT JOIN stream s ON s.key = q.stream GROUP BY 1"
            ).fetchall()
            settled: Counter[str] = Counter()
            for name, bitmap in connection.execute(
                "SELECT s.name, p.settled FROM progress p JOIN frame f ON f.id = p.id"
                " JOIN stream s ON s.key = f.stream WHERE typeof(p.settled) = 'blob'"
            ):
                settled[name] += count_settled(bitmap)
        return Census({row[0]: (row[1], row[2]) for row in letters}, dict(quarantine), settled)

    def read(self, stream: str, after_id: int, byte_count_max: int) -> ReadBack:
        """As `Store.read`, except that damaged frames stay where they are."""
        with self._database.reading() as connection:
            key = stream_keys(connection).get(stream, 0)
            return read_frames(connection, key, stream, after_id, byte_count_max)[0]

    def verify(self) -> Verification:
        """As `Store.verify`. A daemon's log grows while pages are checked, and shrinks
        afterwards.
        """
        with self._database.reading() as connection:
            return verify(connection)

    def watch(self, on_statement: Callable[[], object] | None) -> None:
        """`on_statement` is called before each statement from now on, in the thread that runs it.
        None: it is called no more.
        """
        heard = None if on_statement is None else lambda _sql: on_statement()
        self._database.connection.set_trace_callback(heard)

    def interrupt(self) -> None:
        """Ends the statement that another thread runs now: that statement raises SpoolError."""
        self._database.connection.interrupt()

    def close(self) -> None:
        self._database.close()


def _refuse_damaged_log(path: str) -> None:
    """Raises SpoolError for a damaged log: SQLite would read only a part of it, and would delete it
    at our close, if we are the last that have it open.
    """
    try:
        is_whole = is_log_whole(path)
    except OSError as error:
        raise directory_error(path, error) from error
    if not is_whole:
        raise SpoolError("corrupt", path, "the log of the database is damaged: look at the disk")


def _opened(path: str) -> Database:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise SpoolError("foreign", path, "not a regular file: look at spool.directory")
    except FileNotFoundError as error:
        raise SpoolError("directory", path, "no spool here: look at spool.directory") from error
    except OSError as error:
        raise directory_error(path, error) from error
    database = _connected(path)
    try:
        with database.reading() as connection:
            _refuse_unknown(connection, path)
    except BaseException:
        database.close()
        raise
    return database


def _connected(path: str) -> Database:
    """On a read-only disk SQLite cannot make the files beside the database, and has to be told that
    no process can be writing there.
    """
    if os.access(path, os.W_OK) and os.access(Path(path).parent, os.W_OK):
        return Database(path, is_owner=False)
    if size_bytes(path) > Path(path).stat().st_size:
        raise SpoolError(
            "read_only",
            path,
            "has a log that is not copied, and cannot be written: run as its owner",
        )
    return Database(path, is_owner=False, mode="ro&immutable=1")


def _refuse_unknown(connection: sqlite3.Connection, path: str) -> None:
    if schema.application_id(connection) != schema.APPLICATION_ID:
        raise SpoolError("foreign", path, "not a database of kdaemon: look at spool.directory")
    schema.refuse_newer(connection, path)
    found = schema.version(connection)
    if found < len(schema.MIGRATIONS):
        raise SpoolError(
            "version",
            path,
            f"written by an older kdaemon (schema {found}, now {len(schema.MIGRATIONS)}): "
            "start the daemon once, which brings it up to date",
        )

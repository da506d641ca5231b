"""One connection to a spool's database, with SQLite's errors in our words.

Knows no table. Invariant: after an error the transaction is undone, and the connection can be used
again as soon as the disk can.
Where it sits: `upkeep.py` and `view.py` open it; `store.py` works on it.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdaemon.base.errors import SpoolError
from kdaemon.spool.schema import configure, damage
from kdaemon.spool.standing import Files

# Primary result codes of SQLite [sqlite.org/rescode.html].
_PRIMARY = 0xFF


def _readable(call: Callable[..., sqlite3.Cursor]) -> Callable[..., sqlite3.Cursor]:
    """The call, whose every failure is an sqlite3.Error. SQLite's message about a damaged schema
    quotes it, and Python fails to decode the quote before it can raise SQLite's error.
    """

    def called(*arguments: Any) -> sqlite3.Cursor:
        try:
            return call(*arguments)
        except UnicodeDecodeError as error:
            raise damage("the schema is not readable") from error

    return called


class _Connection(sqlite3.Connection):
    execute = _readable(sqlite3.Connection.execute)
    executemany = _readable(sqlite3.Connection.executemany)
    executescript = _readable(sqlite3.Connection.executescript)


class Database:
    """An open database. Its calls come from one thread at a time, not always from the same one."""

    def __init__(
        self, path: str, *, is_owner: bool, mode: str = "rw", is_damaged: bool = False
    ) -> None:
        """Opens a database that is there; never makes a file. `mode`: `rw`, `ro`, or
        `ro&immutable=1`. `is_damaged`: all that can be read is read, even of a file that is shorter
        than its header says. Raises SpoolError.
        """
        self.path = path
        self._is_owner = is_owner
        self._mode = mode
        self._is_damaged = is_damaged
        self.files: Files | None = None  # if set, they are checked: see `standing.py`
        self.connection = self._connect()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: durable when the block is left, undone when the block raises. Raises
        SpoolError.
        """
        connection, files = self.connection, self.files
        if files is not None:
            files.check()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
            if files is not None:
                files.note_log()
        except sqlite3.Error as error:
            self._undo()
            raise spool_error(self.path, error) from error
        except BaseException:
            self._undo()
            raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Statements without a transaction of ours; SQLite's errors become SpoolError."""
        try:
            yield self.connection
        except sqlite3.Error as error:
            raise spool_error(self.path, error) from error

    def reopen(self) -> None:
        """Puts a new connection in the place of one that is in doubt. The old one stays if no new
        one can be opened, which raises SpoolError.
        """
        old, self.connection = self.connection, self._connect()
        with suppress(sqlite3.Error):
            old.close()

    def reconnect(self) -> None:
        """Closes, then opens: SQLite begins a new log and a new index. If that raises SpoolError,
        nothing is open, and each call fails (`io`) until `reopen` succeeds.
        """
        self.close()
        self.connection = self._connect()

    def close(self) -> None:
        """Closes the connection; each later call fails (`io`). Failing to copy the log is no
        error.
        """
        with suppress(sqlite3.Error):  # copying the log may fail; the next start reads it
            self.connection.close()

    def _undo(self) -> None:
        with suppress(sqlite3.Error):
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        uri = f"file:{_quoted(self.path)}?mode={self._mode}"
        try:
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, factory=_Connection
            )
        except sqlite3.Error as error:
            raise spool_error(self.path, error) from error
        try:
            # A damaged text must not stop the reading of whole rows: the checksum finds the text.
            connection.text_factory = _text
            if self._is_damaged:
                connection.execute("PRAGMA writable_schema = ON")
            configure(connection, is_owner=self._is_owner)
        except sqlite3.Error as error:
            connection.close()
            raise spool_error(self.path, error) from error
        return connection


def spool_error(path: str, error: sqlite3.Error) -> SpoolError:
    """The SpoolError for an error of SQLite: what it means, and what to do about it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    if isinstance(error, sqlite3.ProgrammingError):  # a closed connection: see `reconnect`
        return SpoolError("io", path, f"{error}: it is opened again")
    match code & _PRIMARY:
        case sqlite3.SQLITE_FULL:
            return _full(path)
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if _is_disk_full(path):
            return _full(path)
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if _is_read_only(path):
            return _read_only(path, name)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return _read_only(path, name)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return SpoolError(
                "busy", path, f"another process keeps it locked ({name}): see who with fuser {path}"
            )
        # SQLITE_ERROR: our statement has no meaning in this database, so its tables are not ours.
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR:
            return SpoolError(
                "corrupt", path, f"the database is damaged ({name}: {error}): look at the disk"
            )
        case _:
            return SpoolError("io", path, f"{error} ({name}): look at the disk (dmesg)")


def _full(path: str) -> SpoolError:
    return SpoolError("full", path, f"no space left on the disk: free some in {Path(path).parent}")


def _read_only(path: str, name: str) -> SpoolError:
    text = f"cannot be written ({name}): remount the disk for writing, or look at the file's mode"
    return SpoolError("read_only", path, text)


def _is_disk_full(path: str) -> bool:
    """A full disk makes SQLite fail also in places where its code does not say so (its shared
    memory).
    """
    try:
        return os.statvfs(Path(path).parent).f_bavail == 0
    except OSError:
        return False


def _is_read_only(path: str) -> bool:
    """For files that were open before the disk became read-only, SQLite says only that a write
    fails.
    """
    try:
        return bool(os.statvfs(Path(path).parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")

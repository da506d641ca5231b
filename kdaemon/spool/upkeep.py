"""The database of a spool, kept open and whole while this process holds the spool.

Opens the database that stands in the place, or makes a new one where there is none or a damaged
one; makes files again that were taken away while it was open. Knows that there are tables, and
nothing of a frame: `salvage.py` decides which rows of a damaged database are saved.
Invariants: a database that may hold a record is set aside, never deleted, and that is told
(`salvage`, `restored`); a call that meets damage is run again on a whole database; whatever a
process leaves unfinished when it is cut off, the next start finishes.
Where it sits: `store.py` runs each call through it; `directory.py` and `standing.py` know the
files.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kdaemon.base.errors import SpoolError
from kdaemon.spool import schema
from kdaemon.spool.database import Database
from kdaemon.spool.directory import Found, SpoolDirectory, size_bytes
from kdaemon.spool.log import LogState, mend_log
from kdaemon.spool.reserve import Reserve
from kdaemon.spool.rights import directory_error
from kdaemon.spool.rows import look_over, stored_totals
from kdaemon.spool.salvage import salvage
from kdaemon.spool.standing import CUT_LOG, DATABASE, LOCK, LOG, Files, gone
from kdaemon.spool.values import Salvage

_FAILURES_BEFORE_REOPEN = 2  # in a row; then the connection itself is in doubt
_REPAIRS_MAX = 3  # by one process: each takes the space of another database

T = TypeVar("T")


class Upkeep:
    """`database`: the open one; each repair puts another one there."""

    def __init__(
        self,
        directory: SpoolDirectory,
        letters_bytes_max: int,
        wall_ms: Callable[[], int],
    ) -> None:
        """Opens the database. Raises SpoolError as `Store` does; then nothing is open."""
        self._directory = directory
        self.reserve = Reserve(directory.path)
        self._letters_bytes_max = letters_bytes_max
        self._wall_ms = wall_ms
        self._failure_count = 0
        self._repair_count = 0
        # A damaged database that was put aside: the owner tells it loudly, then sets this to None.
        self.salvage: Salvage | None = None
        self.mended_count = 0  # damaged bytes of the log that were mended
        # Files that were taken away and made again: told and set to None in the same way.
        self.restored: str | None = None
        self.files: Files
        self.database = self._begin()

    def run(self, call: Callable[[], T]) -> T:
        """Runs a call. On a damaged database, repairs it and runs the call again. After several
        failures in a row, the connection is opened anew first, for it may hold on to a file that is
        gone. Raises SpoolError: the call's, or that of the repair.
        """
        if self._directory.is_exchanging:
            self._end_failed_exchange()
        elif self._failure_count >= _FAILURES_BEFORE_REOPEN and not self.files.taken():
            self.database.reopen()
        try:
            result = call()
        except SpoolError as error:
            if error.kind == "gone":
                self._restore(error)
                return call()
            if error.kind == "corrupt":
                if self._repair_count == _REPAIRS_MAX:
                    raise
                self.repair()
                return call()
            if error.kind in ("io", "read_only"):
                self._failure_count += 1
            raise
        self._failure_count = 0
        return result

    def look(self) -> None:
        """Looks whether the files are where they were; files that were taken away are made again if
        they can be. Raises SpoolError: `gone`, and the errors that kept files from being made
        again.
        """
        if self._directory.is_exchanging:
            self._end_failed_exchange()
        try:
            self.files.check()
        except SpoolError as error:
            self._restore(error)

    def repair(self) -> None:
        """Puts the database aside and begins a new one with all that can be read of the old one.
        `salvage` then tells how much was saved.
        """
        self._repair_count += 1
        self.database = self._renewed(self.database)

    def checkpoint(self, how: str) -> None:
        """Copies the log into the database. A failure is no error: the log keeps its pages."""
        with contextlib.suppress(sqlite3.Error):
            self.database.connection.execute(f"PRAGMA wal_checkpoint({how})").fetchall()
        self.files.note_log()

    def close(self) -> None:
        """Copies the log into the database, and closes the database."""
        self.database.close()

    def _begin(self) -> Database:
        """Opens the database. An exchange that an earlier process did not finish is finished first,
        and told.
        """
        aside = self._directory.exchange(self._wall_ms()) if self._directory.is_exchanging else ""
        database = self._found()
        if aside and self.salvage is None:
            self.salvage = self._saved(aside, database)
        return database

    def _found(self) -> Database:
        found = self._directory.look()
        log = self._mended_log()
        if found is Found.DAMAGED or not log.is_whole:
            return self._renewed(lost=log.lost)
        try:
            return self._opened(found)
        except SpoolError as error:
            if error.kind == "full" and self.reserve.free():
                return self._opened(self._directory.look())  # a new one may be in its place by now
            if error.kind == "corrupt":
                return self._renewed()
            raise

    def _mended_log(self) -> LogState:
        path = self._directory.database_path + "-wal"
        try:
            log = mend_log(path)
        except OSError as error:
            raise directory_error(path, error) from error
        self.mended_count += log.mended_count
        return log

    def _opened(self, found: Found) -> Database:
        if found is Found.NOTHING:
            self._directory.make(_make_tables)
            self._directory.exchange(self._wall_ms())
        database = Database(self._directory.database_path, is_owner=True)
        try:
            with database.reading() as connection:
                schema.begin(connection, database.path)
                schema.migrate(connection, database.path)
                look_over(connection, database.path)
        except BaseException:
            database.close()
            raise
        self._directory.lock.sign()
        self.reserve.take()
        self.files = database.files = Files(self._directory.path)
        return database

    def _renewed(self, damaged: Database | None = None, *, lost: tuple[int, ...] = ()) -> Database:
        """A new database in the place of a damaged one, with all that can be read of that one. The
        old one stays in its place until the new one is made, so that a start after a cut-off begins
        this again. `lost`: frames of the log that SQLite would not read by itself.
        """
        saved = Salvage("", problem="it cannot be opened")

        def fill(path: str) -> None:
            """Makes the new database at `path`, with all that can be saved of the old one: SQLite
            reads the old one in its place; or a copy of it is read, where `lost` frames of its log
            have to be put in or its schema is damaged. What cannot be read at all leaves a new
            database without frames.
            """
            nonlocal saved
            _make_tables(path)
            # SQLite would delete the log of an empty database.
            if size_bytes(self._directory.database_path, with_log=False) == 0:
                return
            with contextlib.closing(Database(path, is_owner=True)) as new:
                model = None if self._has_whole_schema() else path
                if lost or model:
                    with (
                        contextlib.suppress(OSError, SpoolError),  # no room for a copy
                        self._directory.copied(lost or self._mended_log().read, model) as copy,
                    ):
                        saved = self._salvaged(copy, "ro&immutable=1", new)
                        return
                with contextlib.suppress(SpoolError):
                    saved = self._salvaged(self._directory.database_path, "ro", new)

        self._directory.make(fill)
        if damaged is not None:
            damaged.close()
        saved.path = self._directory.exchange(self._wall_ms())
        self.salvage = saved
        return self._opened(Found.SPOOL)

    def _saved(self, path: str, database: Database) -> Salvage:
        """The `Salvage` of a database that an earlier process or call saved and could not tell."""
        with database.reading() as connection:
            saved = stored_totals(connection)
        frame_count = sum(each.frame_count for each in saved)
        record_count = sum(each.record_count for each in saved)
        return Salvage(path, frame_count, record_count, problem="who saved it was cut off in it")

    def _has_whole_schema(self) -> bool:
        """Whether the schema of the database in its place is whole, as far as SQLite reads it."""
        with contextlib.suppress(SpoolError):
            old = Database(self._directory.database_path, is_owner=False, mode="ro")
            with contextlib.closing(old), old.reading() as connection:
                return schema.is_whole(connection)
        return False

    def _salvaged(self, path: str, mode: str, new: Database) -> Salvage:
        old = Database(path, is_owner=False, mode=mode, is_damaged=True)
        with contextlib.closing(old):
            return salvage(old, new, self._letters_bytes_max)

    def _restore(self, error: SpoolError) -> None:
        """Makes files that were taken away again, out of those that are still open. Does nothing if
        they were put back. Raises `error` if that is not `gone`, and a SpoolError if the files
        cannot be made again.
        """
        taken = self.files.taken()
        if error.kind != "gone" or not taken:
            if taken:
                raise error
            return  # the files were put back
        try:
            self._directory.claim_again(self.files.device)
            if DATABASE in taken:
                self._make_again()
            elif taken != [LOCK]:
                self._begin_log(taken)
            self.files.note()
        except SpoolError as obstacle:
            if obstacle.kind in ("full", "io", "read_only"):
                raise
            text = f"{' and '.join(taken)} cannot be made again: {obstacle.message}"
            raise gone(self._directory.path, text) from obstacle
        self.restored = f"{' and '.join(taken)} in {self._directory.path}"
        if CUT_LOG in taken:
            self.restored += ": what had been in it and not in the database is lost"

    def _make_again(self) -> None:
        """Makes a new database in the place of one whose file is gone but still open."""

        def fill(path: str) -> None:
            """Makes the new database at `path`, with all that can be read of the open one. Raises
            the SpoolError that ended the copying, if one did: then the open one stays.
            """
            _make_tables(path)
            with contextlib.closing(Database(path, is_owner=True)) as new:
                saved = salvage(self.database, new, self._letters_bytes_max)
            if saved.cut_off_by is not None:
                raise saved.cut_off_by

        if Path(self._directory.database_path).exists():
            raise SpoolError(
                "foreign", self._directory.database_path, "another file is in its place"
            )
        self._directory.make(fill)
        self._end_exchange()

    def _end_exchange(self) -> str:
        """Puts the new database in its place and opens it instead of the old one. Returns the path
        that the old one has now.
        """
        path = self._directory.exchange(self._wall_ms())
        old, self.database = self.database, self._opened(Found.SPOOL)
        old.close()
        return path

    def _end_failed_exchange(self) -> None:
        """Ends an exchange that failed, before any other call: the new database is whole, and the
        old one may already be set aside in part.
        """
        path = self._end_exchange()
        self.salvage = self._saved(path, self.database) if path else None

    def _begin_log(self, taken: list[str]) -> None:
        """Begins a new log. The database is in its place; its log or the log's index is not, or is
        not whole. No other process may have the database open meanwhile: two logs, or two indexes,
        of one database would ruin it.
        """
        if CUT_LOG not in taken:
            if LOG in taken:
                self._directory.set_log_aside(self._wall_ms())
                open_fd = self.files.open_log()
                if open_fd is not None:
                    self._directory.put_log(open_fd)
            with self.database.reading() as connection:  # copies the log; fails unless we are alone
                connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        self.database.reconnect()  # copies the rest of a log that was cut: half a commit, maybe
        try:
            with self.database.reading() as connection:
                schema.begin(connection, self.database.path)
                look_over(connection, self.database.path)  # this read makes the log and its index
        except SpoolError as error:
            if error.kind != "corrupt":
                raise
            self.repair()


def _make_tables(path: str) -> None:
    """Makes an empty file a database with our tables; all of it is in that file, none of it in a
    log.
    """
    database = Database(path, is_owner=True)
    with contextlib.closing(database), database.reading() as connection:
        schema.begin(connection, path)
        schema.migrate(connection, path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

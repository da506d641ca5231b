"""The database of a spool, kept open and whole while this process holds the spool.

Opens what stands in the place, makes a new one where there is none or a damaged one, and makes
again what was taken away while it was open. Knows that there are tables, and nothing of a frame:
what is worth saving out of a damaged database is `salvage.py`'s. Invariants: a database that may
hold a record is set aside, never deleted, and that is told (`salvage`, `restored`); a call that
meets damage is run again on a database that is whole; cut off anywhere, the next start ends what
was begun. Where it sits: `store.py` runs each call through it; `directory.py` and `standing.py`
know the files.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import replace
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

_FAILURES_BEFORE_REOPEN = 2  # in a row; one may pass, then the connection itself is in doubt
_REPAIRS_MAX = 3  # in a process's life: each takes the space of another database

T = TypeVar("T")


class Upkeep:
    """`database`: the open one; it is another one after each repair."""

    def __init__(
        self,
        place: SpoolDirectory,
        reserve: Reserve,
        letters_bytes_max: int,
        wall_ms: Callable[[], int],
    ) -> None:
        """Opens it. SpoolError as for `Store.open`; then nothing is open."""
        self._place = place
        self._reserve = reserve
        self._letters_bytes_max = letters_bytes_max
        self._wall_ms = wall_ms
        self._failure_count = 0
        self._repair_count = 0
        # A damaged database that was put aside: say so loudly, then set to None.
        self.salvage: Salvage | None = None
        self.mended_count = 0  # damaged bytes of the log that were made right again
        # What was made again of files that were taken away: say so loudly, then set to None.
        self.restored: str | None = None
        self._files: Files
        self.database = self._begin()

    def run(self, call: Callable[[], T]) -> T:
        """Runs a call; on a damaged database mends it and runs it again. A connection that failed
        several times is opened anew first, for it may hold on to a file that is gone.
        """
        if self._place.is_exchanging:
            self._end_failed_exchange()
        elif self._failure_count >= _FAILURES_BEFORE_REOPEN and not self._files.taken():
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
        """Whether the files are where they were; what was taken away is made again if it can be.
        SpoolError: gone, and what else kept it from that.
        """
        if self._place.is_exchanging:
            self._end_failed_exchange()
        try:
            self._files.check()
        except SpoolError as error:
            self._restore(error)

    def repair(self) -> None:
        """Puts the database aside and begins a new one with what can be read of it."""
        self._repair_count += 1
        self.database = self._renewed(self.database)

    @property
    def has_lost_files(self) -> bool:
        """Some are gone, or others stand in their place. SpoolError: directory, io."""
        return bool(self._files.taken())

    def checkpoint(self, how: str) -> None:
        """Copies the log into the database. Failing is no error: the log keeps what it has."""
        with contextlib.suppress(sqlite3.Error):
            self.database.connection.execute(f"PRAGMA wal_checkpoint({how})").fetchall()
        self._files.note_log()

    def close(self) -> None:
        """Copies the log into the database."""
        self.database.close()

    def _begin(self) -> Database:
        """An exchange that an earlier process did not end is ended first, and told."""
        aside = self._place.exchange(self._wall_ms()) if self._place.is_exchanging else ""
        database = self._found()
        if aside and self.salvage is None:
            self.salvage = self._saved(aside, database)
        return database

    def _found(self) -> Database:
        found = self._place.look()
        log = self._mended_log()
        if found is Found.DAMAGED or not log.is_whole:
            return self._renewed(lost=log.lost)
        try:
            return self._opened(found)
        except SpoolError as error:
            if error.kind == "full" and self._reserve.free():
                return self._opened(self._place.look())  # what was made may be in its place
            if error.kind == "corrupt":
                return self._renewed()
            raise

    def _mended_log(self) -> LogState:
        path = self._place.database_path + "-wal"
        try:
            log = mend_log(path)
        except OSError as error:
            raise directory_error(path, error) from error
        self.mended_count += log.mended_count
        return log

    def _opened(self, found: Found) -> Database:
        if found is Found.NOTHING:
            self._place.make(_make_tables)
            self._place.exchange(self._wall_ms())
        database = Database(self._place.database_path, is_owner=True)
        try:
            with database.reading() as connection:
                schema.begin(connection, database.path)
                schema.migrate(connection, database.path)
                look_over(connection, database.path)
        except BaseException:
            database.close()
            raise
        self._place.sign()
        self._reserve.take()
        self._files = database.files = Files(self._place.directory)
        return database

    def _renewed(self, damaged: Database | None = None, *, lost: tuple[int, ...] = ()) -> Database:
        """A new database in the place of a damaged one, with what can be read of that. The old one
        stays in its place until the new one is made, so that one cut off in this begins again.
        `lost`: frames of its log that SQLite would not read by itself.
        """
        saved = Salvage("", 0, 0, 0, "it cannot be opened")

        def fill(path: str) -> None:
            nonlocal saved
            _make_tables(path)
            # Of an empty database SQLite would delete the log.
            if size_bytes(self._place.database_path, with_log=False) == 0:
                return
            with contextlib.closing(Database(path, is_owner=True)) as new:
                model = None if self._has_whole_schema() else path
                if lost or model:
                    with (
                        contextlib.suppress(OSError, SpoolError),  # no room for a copy
                        self._place.copied(lost or self._mended_log().read, model) as copy,
                    ):
                        saved = self._salvaged(copy, "ro&immutable=1", new)
                        return
                with contextlib.suppress(SpoolError):
                    saved = self._salvaged(self._place.database_path, "ro", new)

        self._place.make(fill)
        if damaged is not None:
            damaged.close()
        path = self._place.exchange(self._wall_ms())
        self.salvage = replace(saved, path=path)
        return self._opened(Found.SPOOL)

    def _saved(self, path: str, database: Database) -> Salvage:
        """What is to be said of a database that was saved before, by one who could not say it."""
        with database.reading() as connection:
            saved = stored_totals(connection)
        frame_count = sum(each.frame_count for each in saved)
        record_count = sum(each.record_count for each in saved)
        return Salvage(path, frame_count, record_count, 0, "who saved it was cut off in it")

    def _has_whole_schema(self) -> bool:
        """Of the database that stands in its place, as far as SQLite reads it."""
        with contextlib.suppress(SpoolError):
            old = Database(self._place.database_path, is_owner=False, mode="ro")
            with contextlib.closing(old), old.reading() as connection:
                return schema.is_whole(connection)
        return False

    def _salvaged(self, path: str, mode: str, new: Database) -> Salvage:
        old = Database(path, is_owner=False, mode=mode, is_damaged=True)
        with contextlib.closing(old):
            return salvage(old, new, self._letters_bytes_max)

    def _restore(self, error: SpoolError) -> None:
        """Makes again what was taken away, from what is still open; raises `error` if it cannot."""
        taken = self._files.taken()
        if error.kind != "gone" or not taken:
            if taken:
                raise error
            return  # it was put back
        try:
            self._place.claim_again(self._files.device)
            if DATABASE in taken:
                self._make_again()
            elif taken != [LOCK]:
                self._begin_log(taken)
            self._files.note()
        except SpoolError as obstacle:
            if obstacle.kind in ("full", "io", "read_only"):
                raise
            text = f"{' and '.join(taken)} cannot be made again: {obstacle.message}"
            raise gone(self._place.directory, text) from obstacle
        self.restored = f"{' and '.join(taken)} in {self._place.directory}"
        if CUT_LOG in taken:
            self.restored += ": what had been in it and not in the database is lost"

    def _make_again(self) -> None:
        """A new database in the place of one that is not there any more but still open."""

        def fill(path: str) -> None:
            _make_tables(path)
            with contextlib.closing(Database(path, is_owner=True)) as new:
                saved = salvage(self.database, new, self._letters_bytes_max)
            if saved.cut_off_by is not None:
                raise saved.cut_off_by

        if Path(self._place.database_path).exists():
            raise SpoolError("foreign", self._place.database_path, "another file is in its place")
        self._place.make(fill)
        self._end_exchange()

    def _end_exchange(self) -> str:
        """What stood in the place is in use no more; the path that it has now."""
        path = self._place.exchange(self._wall_ms())
        old, self.database = self.database, self._opened(Found.SPOOL)
        old.close()
        return path

    def _end_failed_exchange(self) -> None:
        """Before anything else: what was saved is whole, and what stood there may be half away."""
        path = self._end_exchange()
        self.salvage = self._saved(path, self.database) if path else None

    def _begin_log(self, taken: list[str]) -> None:
        """The database is there, its log or the index of it is not, or not whole. Nobody else may
        have it open meanwhile: two logs, or two indexes, of one database would ruin it.
        """
        if CUT_LOG not in taken:
            if LOG in taken:
                self._place.set_log_aside(self._wall_ms())
                open_fd = self._files.open_log()
                if open_fd is not None:
                    self._place.put_log(open_fd)
            with self.database.reading() as connection:  # copies the log; fails unless alone
                connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        self.database.reconnect()  # copies what is left of a log that was cut: half a commit, maybe
        try:
            with self.database.reading() as connection:
                schema.begin(connection, self.database.path)
                look_over(connection, self.database.path)  # a read: makes the log and the index
        except SpoolError as error:
            if error.kind != "corrupt":
                raise
            self.repair()


def _make_tables(path: str) -> None:
    """A database with our tables out of an empty file; all of it in that file, none in a log."""
    database = Database(path, is_owner=True)
    try:
        with database.reading() as connection:
            schema.begin(connection, path)
            schema.migrate(connection, path)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        database.close()

"""The spool's store: frames and dead letters in SQLite, durable when a call returns.

Synchronous: each method is called by one thread at a time, the spool's own. Knows no engine and no
client. Files: `place.py`; tables: `schema.py`; statements: `rows.py`, `writes.py`; damage:
`salvage.py`.
Invariants: what a commit holds is on disk, all of it or none; an id is never used twice; nothing
that may hold a record is deleted but by `settled`, `drop_oldest`, `drop_stream` and the bounds of
letters and quarantine, each of which is counted.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from kdaemon.base.errors import SpoolError, SpoolErrorKind
from kdaemon.spool import schema
from kdaemon.spool.database import Database
from kdaemon.spool.letters import DeadLetter, Letters, add_letters
from kdaemon.spool.log import LogState, mend_log
from kdaemon.spool.place import Found, Place, size_bytes
from kdaemon.spool.reserve import Reserve
from kdaemon.spool.rights import directory_error
from kdaemon.spool.rows import (
    ID_END,
    backlogs,
    look_over,
    read_frames,
    settled_of,
    stream_keys,
    verify,
)
from kdaemon.spool.salvage import salvage
from kdaemon.spool.standing import CUT_LOG, DATABASE, LOCK, LOG, Files, gone
from kdaemon.spool.values import (
    Backlog,
    Changes,
    Committed,
    Dropped,
    DroppedStream,
    NewFrame,
    ReadBack,
    Salvage,
    StoredFrame,
    Verification,
)
from kdaemon.spool.view import StoreView
from kdaemon.spool.writes import (
    append_frames,
    forget_quarantine,
    note_progress,
    oldest_frames,
    quarantine,
    remove_frames,
    write_something,
)

__all__ = [
    "Backlog",
    "Changes",
    "Committed",
    "DeadLetter",
    "Dropped",
    "DroppedStream",
    "NewFrame",
    "ReadBack",
    "Salvage",
    "Store",
    "StoreView",
    "StoredFrame",
    "Verification",
]

_FAILURES_BEFORE_REOPEN = 2  # in a row; one may pass, then the connection itself is in doubt
_DROP_BYTES = 64 * 1024 * 1024  # of payload deleted, or of pages given back, at once; ours
_REPAIRS_MAX = 3  # in a process's life: each takes the space of another database

T = TypeVar("T")


class Store:
    """A spool that this process holds. Made by `open`."""

    def __init__(self, place: Place, letters_bytes_max: int, wall_ms: Callable[[], int]) -> None:
        self._place = place
        self._letters_bytes_max = letters_bytes_max
        self._wall_ms = wall_ms
        self._failure_count = 0
        self._repair_count = 0
        self._is_closed = False
        self._reserve = Reserve(place.directory)
        # A damaged database that `open` or a later call put aside: say so loudly, then set to None.
        self.salvage: Salvage | None = None
        self.mended_count = 0  # damaged bytes of the log that `open` made right again
        # What was made again of files that were taken away: say so loudly, then set to None.
        self.restored: str | None = None
        self._files: Files
        self._database = self._begin()
        self.letters = Letters(self._database)

    @classmethod
    def open(cls, directory: str, *, letters_bytes_max: int, wall_ms: Callable[[], int]) -> "Store":
        """Takes a spool, or begins one; makes the directory if its parent is there. Reads no
        payload, however much is stored. `letters_bytes_max`: beyond it the oldest dead letters go.
        `wall_ms`: Unix milliseconds.

        A damaged database is put aside under a new name and what can be read of it is copied into
        a new one: see `salvage`. SpoolError: directory, foreign, busy, version, full, io,
        read_only; then nothing is held and nothing was changed.
        """
        place = Place.claim(directory)
        try:
            return cls(place, letters_bytes_max, wall_ms)
        except BaseException:
            place.release()
            raise

    @classmethod
    def open_for_reading(cls, directory: str) -> StoreView:
        """A look at a spool, also while a daemon has it. SpoolError as for `open`."""
        return StoreView(directory)

    @property
    def set_aside(self) -> str | None:
        """Where a damaged database was put since this was last set to None."""
        return None if self.salvage is None else self.salvage.path

    @set_aside.setter
    def set_aside(self, path: None) -> None:
        self.salvage = path

    @property
    def warning(self) -> str | None:
        """What is to be said of the directory: that others may write there."""
        return self._place.warning

    @property
    def lack(self) -> SpoolError | None:
        """Why no frame can be stored before the disk has more space; None: one can be tried."""
        return self._reserve.lack

    @property
    def is_emptied(self) -> bool:
        """Whether a spool stood here and its database is empty or gone, with all that it held."""
        return self._place.is_emptied

    @property
    def salvaged_count(self) -> int:
        """Frames that were saved from it."""
        return 0 if self.salvage is None else self.salvage.frame_count

    @property
    def next_id(self) -> int:
        """Above every id that this database ever held."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT max(next_frame_id, (SELECT coalesce(max(id), 0) + 1 FROM frame)) FROM total"
            ).fetchone()
        return int(row[0])

    @property
    def size_bytes(self) -> int:
        """What the database and its log take on disk. Beside it stands a reserve of 16 MiB."""
        return size_bytes(self._place.database_path)

    @property
    def live_bytes(self) -> int:
        """Pages in use: falls as frames settle, while the files shrink by `give_back` only."""
        with self._database.reading() as connection:
            (page_count,) = connection.execute("PRAGMA page_count").fetchone()
            (free_count,) = connection.execute("PRAGMA freelist_count").fetchone()
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        return int((page_count - free_count) * page_bytes)

    def commit(self, changes: Changes) -> Committed:
        """Applies all of it in one transaction, on disk when this returns, or nothing of it.

        SpoolError: full, io, read_only, busy, gone. The store stays usable: the same call succeeds
        when the disk does. On a full disk changes without `appended` go through a reserve, so that
        settled frames can be deleted and make room: after `full`, commit the rest without them.
        """
        if (changes.appended or changes.probes is not None) and not self._reserve.is_taken:
            self._reserve.take()
            lack = self.lack
            if lack is not None and changes.appended:
                raise lack
        try:
            committed = self._mending(lambda: self._apply(changes))
        except SpoolError as error:
            if error.kind != "full" or changes.appended or not self._reserve.free():
                raise
            self._checkpoint("PASSIVE")
            committed = self._mending(lambda: self._apply(changes))
        self.look()  # where it went must be where the next start looks
        return committed

    def look(self) -> None:
        """Whether the files are where they were; what was taken away is made again if it can be:
        see `restored`. SpoolError: gone, and what else kept it from that.
        """
        if self._place.is_exchanging:
            self._end_failed_exchange()
        try:
            self._files.check()
        except SpoolError as error:
            self._restore(error)

    def read(
        self, stream: str, after_id: int, byte_count_max: int, until_id: int = ID_END
    ) -> ReadBack:
        """Frames of a stream with ids above `after_id` and up to `until_id`, in order, up to about
        `byte_count_max` bytes of memory and at least one if there is one. Damaged ones are moved to
        quarantine.

        SpoolError: full, io, read_only, busy.
        """
        return self._mending(lambda: self._read(stream, after_id, byte_count_max, until_id))

    def backlogs(self) -> list[Backlog]:
        """What is stored, by stream; streams without a frame are left out."""

        def look() -> list[Backlog]:
            with self._database.reading() as connection:
                return backlogs(connection)

        return self._mending(look)

    def drop_oldest(
        self, stream: str, byte_count: int, *, after_id: int = 0, kept: Collection[int] = ()
    ) -> Dropped:
        """Deletes a stream's oldest frames after `after_id` that hold `byte_count` bytes of payload
        together, or all there are; none that is to be `kept`. Durable. SpoolError as for `commit`.
        """

        def drop() -> Dropped:
            with self._database.writing() as connection:
                key = stream_keys(connection).get(stream, 0)
                ids, until_id = oldest_frames(connection, key, after_id, byte_count, kept)
                settled = [each for each in settled_of(connection, ids) if each.settled_count]
                dropped = remove_frames(connection, ids)
            return Dropped(*dropped, until_id, tuple(settled))

        return self._mending(drop)

    def drop_stream(self, stream: str, on_dropped: Callable[[int], None]) -> DroppedStream:
        """Deletes all of a stream's frames, those in quarantine too, and gives the space back;
        its dead letters stay. Durable, some at a time; `on_dropped` hears how many records are
        gone. For one who has no daemon's work to do: it takes the disk for seconds a GiB.
        SpoolError as for `commit`.
        """
        frame_count = record_count = byte_count = 0
        while (dropped := self.drop_oldest(stream, _DROP_BYTES)).frame_count:
            frame_count += dropped.frame_count
            record_count += dropped.record_count
            byte_count += dropped.byte_count
            on_dropped(record_count)

        def forget() -> int:
            with self._database.writing() as connection:
                return forget_quarantine(connection, stream)

        quarantine_count = self._mending(forget)
        size_bytes = self.size_bytes + 1
        while self.size_bytes < size_bytes:
            size_bytes = self.size_bytes
            self.give_back(_DROP_BYTES // schema.PAGE_BYTES)
        return DroppedStream(frame_count, record_count, byte_count, quarantine_count)

    def give_back(self, page_count: int) -> None:
        """Gives up to `page_count` free pages and the log back to the file system, for a moment
        when nobody waits; nothing while files are gone. A page is 16 KiB. SpoolError: full, io,
        read_only, busy, directory.
        """

        def shrink() -> None:
            with self._database.reading() as connection:
                # Each step frees one page and gives a row without columns, at which `execute` would
                # stop; a script is run to its end.
                connection.executescript(f"PRAGMA incremental_vacuum({page_count:d})")

        if self._files.taken():  # a copy of the log may stand there, which must not grow old
            return
        self._checkpoint("TRUNCATE")  # on a full disk the log's own space is what there is
        self._mending(shrink)
        self._checkpoint("TRUNCATE")
        if not self._reserve.is_taken:
            self._reserve.take()

    def repair(self) -> None:
        """Puts the database aside and begins a new one with what can be read of it. Every call does
        that by itself when it meets damage; here for those who know of it from elsewhere.
        """
        self._repair_count += 1
        self._database = self._renewed(self._database)
        self.letters = Letters(self._database)

    def verify(self) -> Verification:
        """Reads all of it: seconds a GiB."""
        with self._database.reading() as connection:
            return verify(connection)

    def close(self) -> None:
        """Copies the log into the database and lets go of both. Closing twice is no error."""
        if not self._is_closed:
            self._is_closed = True
            self._database.close()
            self._place.release()

    # Opening and mending

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
            saved = backlogs(connection)
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

    def _mending(self, call: Callable[[], T]) -> T:
        """Runs a call; on a damaged database mends it and runs it again. A connection that failed
        several times is opened anew first, for it may hold on to a file that is gone.
        """
        if self._place.is_exchanging:
            self._end_failed_exchange()
        elif self._failure_count >= _FAILURES_BEFORE_REOPEN and not self._files.taken():
            self._database.reopen()
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
                saved = salvage(self._database, new, self._letters_bytes_max)
            if saved.cut_off_by is not None:
                raise saved.cut_off_by

        if Path(self._place.database_path).exists():
            raise SpoolError("foreign", self._place.database_path, "another file is in its place")
        self._place.make(fill)
        self._end_exchange()

    def _end_exchange(self) -> str:
        """What stood in the place is in use no more; the path that it has now."""
        path = self._place.exchange(self._wall_ms())
        old, self._database = self._database, self._opened(Found.SPOOL)
        old.close()
        self.letters = Letters(self._database)
        return path

    def _end_failed_exchange(self) -> None:
        """Before anything else: what was saved is whole, and what stood there may be half away."""
        path = self._end_exchange()
        self.salvage = self._saved(path, self._database) if path else None

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
            with self._database.reading() as connection:  # copies the log; fails unless alone
                connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        self._database.reconnect()
        with self._database.reading() as connection:
            schema.begin(connection, self._database.path)
            look_over(connection, self._database.path)  # a read: it makes the log and the index

    # What calls do

    def _apply(self, changes: Changes) -> Committed:
        letters_dropped = 0
        with self._database.writing() as connection:
            append_frames(connection, changes.appended)
            if changes.progress:
                note_progress(connection, changes.progress)
            if changes.settled:
                remove_frames(connection, changes.settled)
            if changes.dead:
                letters_dropped = add_letters(connection, changes.dead, self._letters_bytes_max)
            if changes.probes is not None:
                write_something(connection)
        return Committed(letters_dropped, bool(changes.appended) or self._is_over(changes.probes))

    def _is_over(self, probed: SpoolErrorKind | None) -> bool:
        """Whether a trouble of this kind is, now that a commit without frames has written."""
        if probed == "full":
            return self._reserve.is_taken and self._reserve.has_room()
        return probed is not None

    def _read(self, stream: str, after_id: int, byte_count_max: int, until_id: int) -> ReadBack:
        with self._database.reading() as connection:
            key = stream_keys(connection).get(stream, 0)
            read, corrupt_ids = read_frames(
                connection, key, stream, after_id, byte_count_max, until_id
            )
        if not corrupt_ids:
            return read
        with self._database.writing() as connection:
            corrupt = tuple(settled_of(connection, corrupt_ids))
            frame_count, record_count = quarantine(connection, key, corrupt_ids, self._wall_ms())
        return ReadBack(read.frames, frame_count, record_count, read.last_id, read.is_end, corrupt)

    def _checkpoint(self, how: str) -> None:
        """Copies the log into the database. Failing is no error: the log keeps what it has."""
        with contextlib.suppress(sqlite3.Error):
            self._database.connection.execute(f"PRAGMA wal_checkpoint({how})").fetchall()
        self._files.note_log()


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

"""The spool's store: frames and dead letters in SQLite, durable when a call returns.

Synchronous: each method is called by one thread at a time, the spool's own. Knows no engine and no
client.
Invariants: all of a commit is on disk, or none of it; an id is never used twice; a row that may
hold a record is deleted only by `settled`, `drop_oldest`, `drop_stream` and the bounds of letters
and quarantine, and each of these counts it.
Where it sits: above `directory.py` (files), `schema.py` (tables), `rows.py` and `writes.py`
(statements) and `upkeep.py` (keeps the database open and whole); `spool.py` and `delivery.py` call
it.
"""

from collections.abc import Callable, Collection
from contextlib import ExitStack

from kdaemon.base.errors import SpoolError, SpoolErrorKind
from kdaemon.spool import schema
from kdaemon.spool.database import Database
from kdaemon.spool.directory import SpoolDirectory, size_bytes
from kdaemon.spool.letters import Letters, add_letters
from kdaemon.spool.rows import (
    ID_END,
    live_bytes,
    read_frames,
    settled_of,
    stored_totals,
    stream_keys,
    verify,
)
from kdaemon.spool.upkeep import Upkeep
from kdaemon.spool.values import (
    Changes,
    Committed,
    Dropped,
    DroppedStream,
    ReadBack,
    Sizes,
    StoredTotals,
    Verification,
)
from kdaemon.spool.writes import (
    append_frames,
    forget_quarantine,
    note_progress,
    oldest_frames,
    quarantine,
    remove_frames,
    write_something,
)

_DROP_BYTES = 64 * 1024 * 1024  # payload deleted, or pages given back, at once; ours


class Store:
    """A spool that this process holds, until `close`. `directory`: where it stands. `upkeep`: what
    was found damaged or gone and was made whole, and whether the disk has room. `next_id`: an id
    above every id that this database ever held; a start passes over some ids.
    """

    def __init__(
        self, directory: str, *, letters_bytes_max: int, wall_ms: Callable[[], int]
    ) -> None:
        """Takes a spool, or begins one; makes the directory if its parent is there. Reads no
        payload, however much is stored. `letters_bytes_max`: beyond this bound the oldest dead
        letters are dropped. `wall_ms`: Unix milliseconds.

        A damaged database is put aside under a new name, and all that can be read of it is copied
        into a new one: see `Upkeep.salvage`. Raises SpoolError: directory, foreign, busy, version,
        full, io, read_only; then nothing is held and nothing was changed.
        """
        self._letters_bytes_max = letters_bytes_max
        self._wall_ms = wall_ms
        self.directory = SpoolDirectory(directory)
        with ExitStack() as held:
            held.callback(self.directory.release)
            self.upkeep = Upkeep(self.directory, letters_bytes_max, wall_ms)
            held.callback(self.upkeep.close)
            self.next_id = self.upkeep.run(self._found_next_id)
            self._held = held.pop_all()

    @property
    def letters(self) -> Letters:
        return Letters(self._database)

    @property
    def sizes(self) -> Sizes:
        """The sizes of the database as they are now. The reserve takes 16 MiB more. Raises
        SpoolError.
        """
        with self._database.reading() as connection:
            return Sizes(live_bytes(connection), self._file_bytes)

    def commit(self, changes: Changes) -> Committed:
        """Applies all changes in one transaction, which is on disk when this returns, or none of
        them.

        Raises SpoolError: full, io, read_only, busy, gone. The store stays usable: the same call
        succeeds once the disk works. On a full disk, changes without `appended` use a reserve, so
        that settled frames can be deleted and make room: after `full`, commit the rest without the
        frames.
        """
        if (changes.appended or changes.probes is not None) and not self.upkeep.reserve.is_taken:
            self.upkeep.reserve.take()
            lack = self.upkeep.reserve.lack
            if lack is not None and changes.appended:
                raise lack
        try:
            committed = self.upkeep.run(lambda: self._apply(changes))
        except SpoolError as error:
            if error.kind != "full" or changes.appended or not self.upkeep.reserve.free():
                raise
            self.upkeep.checkpoint("PASSIVE")
            committed = self.upkeep.run(lambda: self._apply(changes))
        self.upkeep.look()  # the next start must find the commit in these files
        for frame in changes.appended:
            self.next_id = max(self.next_id, frame.id + 1)
        return committed

    def read(
        self, stream: str, after_id: int, byte_count_max: int, until_id: int = ID_END
    ) -> ReadBack:
        """Reads frames of a stream with ids above `after_id` and up to `until_id`, in order: up to
        about `byte_count_max` bytes of memory, and at least one if there is one. Damaged frames are
        moved to quarantine.

        Raises SpoolError: full, io, read_only, busy.
        """
        return self.upkeep.run(lambda: self._read(stream, after_id, byte_count_max, until_id))

    def stored_totals(self) -> list[StoredTotals]:
        """Totals of stored frames, by stream; streams without a frame are left out."""

        def look() -> list[StoredTotals]:
            with self._database.reading() as connection:
                return stored_totals(connection)

        return self.upkeep.run(look)

    def drop_oldest(
        self, stream: str, byte_count: int, *, after_id: int = 0, kept: Collection[int] = ()
    ) -> Dropped:
        """Deletes a stream's oldest frames after `after_id` that hold `byte_count` bytes of payload
        together, or all there are, but none that is to be `kept`. Durable. Raises SpoolError as for
        `commit`.
        """

        def drop() -> Dropped:
            with self._database.writing() as connection:
                key = stream_keys(connection).get(stream, 0)
                ids, until_id = oldest_frames(connection, key, after_id, byte_count, kept)
                settled = [each for each in settled_of(connection, ids) if each.settled_count]
                dropped = remove_frames(connection, ids)
            return Dropped(*dropped, until_id, tuple(settled))

        return self.upkeep.run(drop)

    def drop_stream(self, stream: str, on_dropped: Callable[[int], object]) -> DroppedStream:
        """Deletes all of a stream's frames, also those in quarantine, and gives the space back; its
        dead letters stay. Durable, a part at a time; `on_dropped` is called with how many records
        are gone so far. For a process that has no daemon's work to do: it takes the disk for
        seconds a GiB. Raises SpoolError as for `commit`.
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

        quarantine_count = self.upkeep.run(forget)
        file_bytes = self._file_bytes + 1
        while self._file_bytes < file_bytes:
            file_bytes = self._file_bytes
            self.give_back(_DROP_BYTES // schema.PAGE_BYTES)
        return DroppedStream(frame_count, record_count, byte_count, quarantine_count)

    def give_back(self, page_count: int) -> None:
        """Gives up to `page_count` free pages (16 KiB each) and the log back to the file system;
        for a moment when nobody waits. Gives nothing while files are gone. Raises SpoolError: full,
        io, read_only, busy, directory.
        """

        def shrink() -> None:
            with self._database.reading() as connection:
                # Each step frees one page and yields a row without columns. `execute` would stop at
                # the first such row; a script runs to its end.
                connection.executescript(f"PRAGMA incremental_vacuum({page_count:d})")

        # Where files are gone, a copy of the log may stand there, which must not grow old.
        if self.upkeep.files.taken():
            return
        self.upkeep.checkpoint("TRUNCATE")  # on a full disk only the log's space can be used
        self.upkeep.run(shrink)
        self.upkeep.checkpoint("TRUNCATE")
        if not self.upkeep.reserve.is_taken:
            self.upkeep.reserve.take()

    def verify(self) -> Verification:
        """Reads every row and every page: seconds a GiB."""
        with self._database.reading() as connection:
            return verify(connection)

    def close(self) -> None:
        """Copies the log into the database, closes it and gives up the directory. Closing twice is
        no error.
        """
        self._held.close()

    @property
    def _database(self) -> Database:
        return self.upkeep.database

    @property
    def _file_bytes(self) -> int:
        return size_bytes(self.directory.database_path)

    def _found_next_id(self) -> int:
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT max(next_frame_id, (SELECT coalesce(max(id), 0) + 1 FROM frame)) FROM total"
            ).fetchone()
        return int(row[0])

    def _apply(self, changes: Changes) -> Committed:
        letters_dropped = 0
        with self._database.writing() as connection:
            if changes.settled:  # first: new frames take their pages, and fewer are copied
                remove_frames(connection, changes.settled)
            append_frames(connection, changes.appended)
            if changes.progress:
                note_progress(connection, changes.progress)
            if changes.dead:
                letters_dropped = add_letters(connection, changes.dead, self._letters_bytes_max)
            if changes.probes is not None:
                write_something(connection)
            # In the transaction, whose locks each of these statements would otherwise take.
            used_bytes = live_bytes(connection)
        has_proved = bool(changes.appended) or self._is_over(changes.probes)
        return Committed(letters_dropped, Sizes(used_bytes, self._file_bytes), has_proved)

    def _is_over(self, probed: SpoolErrorKind | None) -> bool:
        """Whether a trouble of this kind is over, now that a commit without frames has written."""
        if probed == "full":
            return self.upkeep.reserve.is_taken and self.upkeep.reserve.has_room()
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

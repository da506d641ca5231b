"""The spool's store: frames and dead letters in SQLite, durable when a call returns.

Synchronous: each method is called by one thread at a time, the spool's own. Knows no engine and no
client. Files: `directory.py`; tables: `schema.py`; statements: `rows.py`, `writes.py`; a database
that stays open and whole: `upkeep.py`. Invariants: what a commit holds is on disk, all of it or
none; an id is never used twice; nothing that may hold a record is deleted but by `settled`,
`drop_oldest`, `drop_stream` and the bounds of letters and quarantine, each of which is counted.
"""

from collections.abc import Callable, Collection

from kdaemon.base.errors import SpoolError, SpoolErrorKind
from kdaemon.spool import schema
from kdaemon.spool.database import Database
from kdaemon.spool.directory import SpoolDirectory, size_bytes
from kdaemon.spool.letters import DeadLetter, Letters, add_letters
from kdaemon.spool.reserve import Reserve
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
    NewFrame,
    ReadBack,
    Salvage,
    Sizes,
    StoredFrame,
    StoredTotals,
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
    "StoredTotals",
    "Verification",
]

_DROP_BYTES = 64 * 1024 * 1024  # of payload deleted, or of pages given back, at once; ours


class Store:
    """A spool that this process holds. Made by `open`."""

    def __init__(
        self, place: SpoolDirectory, letters_bytes_max: int, wall_ms: Callable[[], int]
    ) -> None:
        self._place = place
        self._letters_bytes_max = letters_bytes_max
        self._wall_ms = wall_ms
        self._is_closed = False
        self._reserve = Reserve(place.directory)
        self._upkeep = Upkeep(place, self._reserve, letters_bytes_max, wall_ms)
        try:
            self._next_id = self._upkeep.run(self._found_next_id)
        except BaseException:
            self._upkeep.close()
            raise

    @classmethod
    def open(cls, directory: str, *, letters_bytes_max: int, wall_ms: Callable[[], int]) -> "Store":
        """Takes a spool, or begins one; makes the directory if its parent is there. Reads no
        payload, however much is stored. `letters_bytes_max`: beyond it the oldest dead letters go.
        `wall_ms`: Unix milliseconds.

        A damaged database is put aside under a new name and what can be read of it is copied into
        a new one: see `salvage`. SpoolError: directory, foreign, busy, version, full, io,
        read_only; then nothing is held and nothing was changed.
        """
        place = SpoolDirectory.claim(directory)
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
    def letters(self) -> Letters:
        return Letters(self._database)

    @property
    def salvage(self) -> Salvage | None:
        """What was saved of a damaged database since `set_aside` was last set to None."""
        return self._upkeep.salvage

    @property
    def set_aside(self) -> str | None:
        """Where it was put: say so loudly, then set to None."""
        return None if self.salvage is None else self.salvage.path

    @set_aside.setter
    def set_aside(self, path: None) -> None:
        self._upkeep.salvage = path

    @property
    def restored(self) -> str | None:
        """What was made again of files that were taken away: say so loudly, then set to None."""
        return self._upkeep.restored

    @restored.setter
    def restored(self, what: None) -> None:
        self._upkeep.restored = what

    @property
    def mended_count(self) -> int:
        """Damaged bytes of the log that `open` made right again."""
        return self._upkeep.mended_count

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
        """Above every id that this database ever held. A start passes over some."""
        return self._next_id

    @property
    def size_bytes(self) -> int:
        """What the database and its log take on disk. Beside it stands a reserve of 16 MiB."""
        return size_bytes(self._place.database_path)

    @property
    def live_bytes(self) -> int:
        """Pages in use: falls as frames settle, while the files shrink by `give_back` only."""
        with self._database.reading() as connection:
            return live_bytes(connection)

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.live_bytes, self.size_bytes)

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
            committed = self._upkeep.run(lambda: self._apply(changes))
        except SpoolError as error:
            if error.kind != "full" or changes.appended or not self._reserve.free():
                raise
            self._upkeep.checkpoint("PASSIVE")
            committed = self._upkeep.run(lambda: self._apply(changes))
        self.look()  # where it went must be where the next start looks
        for frame in changes.appended:
            self._next_id = max(self._next_id, frame.id + 1)
        return committed

    def look(self) -> None:
        """Whether the files are where they were; what was taken away is made again if it can be:
        see `restored`. SpoolError: gone, and what else kept it from that.
        """
        self._upkeep.look()

    def read(
        self, stream: str, after_id: int, byte_count_max: int, until_id: int = ID_END
    ) -> ReadBack:
        """Frames of a stream with ids above `after_id` and up to `until_id`, in order, up to about
        `byte_count_max` bytes of memory and at least one if there is one. Damaged ones are moved to
        quarantine.

        SpoolError: full, io, read_only, busy.
        """
        return self._upkeep.run(lambda: self._read(stream, after_id, byte_count_max, until_id))

    def stored_totals(self) -> list[StoredTotals]:
        """What is stored, by stream; streams without a frame are left out."""

        def look() -> list[StoredTotals]:
            with self._database.reading() as connection:
                return stored_totals(connection)

        return self._upkeep.run(look)

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

        return self._upkeep.run(drop)

    def drop_stream(self, stream: str, on_dropped: Callable[[int], object]) -> DroppedStream:
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

        quarantine_count = self._upkeep.run(forget)
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

        if (
            self._upkeep.has_lost_files
        ):  # a copy of the log may stand there, which must not grow old
            return
        self._upkeep.checkpoint("TRUNCATE")  # on a full disk the log's own space is what there is
        self._upkeep.run(shrink)
        self._upkeep.checkpoint("TRUNCATE")
        if not self._reserve.is_taken:
            self._reserve.take()

    def repair(self) -> None:
        """Puts the database aside and begins a new one with what can be read of it. Every call does
        that by itself when it meets damage; here for those who know of it from elsewhere.
        """
        self._upkeep.repair()

    def verify(self) -> Verification:
        """Reads all of it: seconds a GiB."""
        with self._database.reading() as connection:
            return verify(connection)

    def close(self) -> None:
        """Copies the log into the database and lets go of both. Closing twice is no error."""
        if not self._is_closed:
            self._is_closed = True
            self._upkeep.close()
            self._place.release()

    @property
    def _database(self) -> Database:
        return self._upkeep.database

    def _found_next_id(self) -> int:
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT max(next_frame_id, (SELECT coalesce(max(id), 0) + 1 FROM frame)) FROM total"
            ).fetchone()
        return int(row[0])

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
            # In the transaction, which has the locks that each of these would take for itself.
            used_bytes = live_bytes(connection)
        has_proved = bool(changes.appended) or self._is_over(changes.probes)
        return Committed(letters_dropped, Sizes(used_bytes, self.size_bytes), has_proved)

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

"""The directory of a spool: which files stand in it, and how one database takes the place of
another.

    spool.db, spool.db-wal, spool.db-shm   the database (SQLite's)
    spool.db.new                           a database that is being made
    spool.db.next                          one that was made and now counts: the one that still
                                           stands in its place is put aside
    spool.db-wal.copy                      of a log that has lost its name, while it is made
    spool.db.copy                          of a damaged database with its log, while it is salvaged
    spool.lock                             held while a daemon has the spool (`lock.py`)
    spool.reserve                          space set aside for a full disk (`reserve.py`)
    spool.probe                            for an instant: whether a full disk has space again
    spool.db.corrupt-<UTC time>            a damaged database, put aside; only you delete it
    spool.db-wal.foreign-<UTC time>        a file in the place of an open log; as above

Knows nothing of tables. Invariant: nothing here deletes or overwrites a file that may hold a
record.
Where it sits: `store.py` claims it; `upkeep.py` looks, makes and exchanges.
"""

import contextlib
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from kdaemon.base.errors import SpoolError
from kdaemon.base.limits import MIB
from kdaemon.spool.lock import Lock, sync
from kdaemon.spool.log import apply_frames
from kdaemon.spool.rights import directory_error, kind_of_none
from kdaemon.spool.schema import APPLICATION_ID, PAGE_BYTES

RESERVE = "spool.reserve"

_MAGIC = b"SQLite format 3\x00"  # the first 16 bytes of every SQLite database
_APPLICATION_ID_AT = 68  # offset in the header, 4 bytes big-endian [sqlite.org/fileformat2.html]
_PAGE_COUNT_AT = 28  # then the first page of the free list, and its page count
_HEADER_BYTES = 100
_SUFFIXES = ("-wal", "-shm", "")  # of the files of a database
_WAL_VERSIONS = b"\x02\x02"  # at offsets 18 and 19: both writing and reading need a log


class Found(Enum):
    """What stands in the place of the database."""

    NOTHING = "nothing"
    SPOOL = "spool"
    DAMAGED = "damaged"  # a database of ours, damaged


class SpoolDirectory:
    """A directory that this process holds, until `release`. `lock`: the one that stands there."""

    def __init__(self, directory: str) -> None:
        """Makes the directory, and takes its lock. Raises SpoolError as `Lock`."""
        self.path = str(Path(directory).absolute())
        self.database_path = database_path(directory)
        self._next_path = Path(self.database_path + ".next")
        self.lock = Lock(self.path)
        self._was_spool = self.lock.is_signed
        self._log_copy: os.stat_result | None = None  # our copy in the place of the log
        self.is_emptied = False  # a spool stood here, and its database was found empty or gone

    def claim_again(self, device: int) -> None:
        """Takes the directory that stands in the place of ours, or makes one, if that is on the
        same disk (`device`); otherwise touches nothing. Raises SpoolError as when it was made.
        """
        try:
            try:
                found = os.stat(self.path).st_dev  # noqa: PTH116 - its siblings are os's, too
            except FileNotFoundError:
                found = Path(self.path).parent.stat().st_dev
            if found != device:
                text = "another disk stands there: mount the spool's own again"
                raise SpoolError("directory", self.path, text)
            if self.lock.is_standing:
                return
        except OSError as error:
            raise directory_error(self.path, error) from error
        old, self.lock = self.lock, Lock(self.path)
        old.release()
        self.lock.sign()

    def release(self) -> None:
        self.lock.release()

    def look(self) -> Found:
        """As `look_at`; sets `is_emptied`."""
        found = look_at(self.path, was_spool=self._was_spool)
        if found is Found.NOTHING:
            self.is_emptied = self._was_spool  # we never leave a database empty
        return found

    def make(self, fill: Callable[[str], object]) -> None:
        """Makes a new database beside the place, which only its owner can read; SQLite gives its
        other files the same mode. `fill`, given its path, fills it and closes it. When this
        returns, the new database counts (`is_exchanging`), and `exchange` must follow. Raises
        SpoolError.
        """
        path = Path(self.database_path + ".new")
        try:
            for suffix in ("", "-wal", "-shm", "-journal"):  # of a start that was cut off
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            Path(self.database_path + ".copy").unlink(missing_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fill(str(path))
                os.fsync(fd)
            finally:
                os.close(fd)
            path.rename(self._next_path)
            sync(Path(self.path))
        except OSError as error:
            raise directory_error(self.database_path, error) from error

    @contextlib.contextmanager
    def copied(self, frames: tuple[int, ...], model: str | None) -> Iterator[str]:
        """A copy of the database with these frames of its log in it, while the block lasts; the log
        is left alone. `model`: a new database, whose first page (the header and the schema)
        replaces a damaged one in the copy. Raises OSError.
        """
        path = Path(self.database_path + ".copy")
        try:
            path.touch(0o600, exist_ok=False)
            shutil.copyfile(self.database_path, path)
            if frames:
                apply_frames(self.database_path + "-wal", frames, str(path))
            if model is not None:
                _put_first_page(model, path)
            yield str(path)
        finally:
            path.unlink(missing_ok=True)

    @property
    def is_exchanging(self) -> bool:
        """Whether a new database was made and is not in its place yet, by this process or an
        earlier one: then the database in the place must not be used any more.
        """
        # False where the disk is in trouble: the next call that uses it raises that.
        return os.path.isfile(self._next_path)  # noqa: PTH113 - at each commit; a Path costs more

    def exchange(self, now_ms: int) -> str:
        """Sets aside the database in the place, and puts the new one there. Returns the path that
        the old one has then ("": there never was one). If it fails, or is cut off by a kill or a
        loss of power, whoever finds `is_exchanging` calls it again. Raises SpoolError.
        """
        try:
            if self._stands_something():
                aside = self.set_aside(now_ms)
            else:  # an exchange that was cut off put it there
                aside = next(reversed(set_aside_files(self.path)), "")
            self._next_path.rename(self.database_path)
            sync(Path(self.path))
        except OSError as error:
            raise directory_error(self.database_path, error) from error
        return aside

    def _stands_something(self) -> bool:
        """Whether anything worth keeping stands in the place: not an empty file without a log."""
        return size_bytes(self.database_path) > 0 or Path(self.database_path).is_dir()

    def set_aside(self, now_ms: int) -> str:
        """Renames the database and its log; returns the new path. Raises SpoolError."""
        stamp = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        aside = base = f"{self.database_path}.corrupt-{stamp}"
        number = 1
        while any(Path(aside + suffix).exists() for suffix in _SUFFIXES):
            number += 1
            aside = f"{base}-{number}"
        try:
            for suffix in _SUFFIXES:
                with contextlib.suppress(FileNotFoundError):
                    Path(self.database_path + suffix).rename(aside + suffix)
            sync(Path(self.path))
        except OSError as error:
            raise directory_error(self.database_path, error) from error
        return aside

    def set_log_aside(self, now_ms: int) -> None:
        """Renames the file in the place of the log, for SQLite does not have this one open, and
        closing the database would delete it. Raises SpoolError.
        """
        stamp = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        log = Path(self.database_path + "-wal")
        try:
            with contextlib.suppress(FileNotFoundError):
                if self._log_copy is not None and os.path.samestat(log.lstat(), self._log_copy):
                    return  # our copy, from a try that failed: it is replaced
                log.rename(f"{log}.foreign-{stamp}")
            sync(Path(self.path))
        except OSError as error:
            raise directory_error(self.database_path, error) from error

    def put_log(self, open_fd: int) -> None:
        """Gives the open log a name again, by a copy that is on disk when this returns. So pages
        that are copied out of it into the database can be copied again after a loss of power. Where
        there is no room for the copy, none is made, and no more can be lost than before.
        """
        log, copy = Path(self.database_path + "-wal"), Path(self.database_path + "-wal.copy")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            try:
                with os.fdopen(os.open(copy, flags, 0o600), "wb") as file:
                    at = 0
                    while part := os.pread(open_fd, MIB, at):
                        file.write(part)
                        at += len(part)
                    file.flush()
                    os.fsync(file.fileno())
                    self._log_copy = os.fstat(file.fileno())
                copy.rename(log)
                sync(Path(self.path))
            finally:
                copy.unlink(missing_ok=True)


def look_at(directory: str, *, was_spool: bool) -> Found:
    """What stands in the place of the database. `was_spool`: a spool stood there before. Raises
    SpoolError: `foreign` for a file that is not ours; `directory`, `io` and others of
    `directory_error`.

    Must not be called while SQLite has the file open in this process: closing the file here would
    drop SQLite's locks (POSIX locks belong to the process).
    """
    path = database_path(directory)
    for beside in (path + "-wal", path + "-shm", str(Path(directory, RESERVE))):
        what = kind_of_none(beside)
        if what:
            raise SpoolError(
                "foreign", beside, f"{what} in the place of a file of ours: move it away"
            )
    try:
        status = Path(path).lstat()
    except FileNotFoundError:  # a log without its database: opening would delete it
        return Found.DAMAGED if file_bytes(path + "-wal") else Found.NOTHING
    if stat.S_ISDIR(status.st_mode) and was_spool:
        return Found.DAMAGED
    if not stat.S_ISREG(status.st_mode):
        raise SpoolError(
            "foreign", path, "not a regular file: remove it, or set another spool.directory"
        )
    if status.st_size == 0:  # begun and not written, or cut off: its log tells which
        return Found.DAMAGED if file_bytes(path + "-wal") else Found.NOTHING
    try:
        with Path(path).open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise directory_error(path, error) from error
    if header.startswith(_MAGIC) and len(header) == _HEADER_BYTES:
        (found,) = struct.unpack_from(">I", header, _APPLICATION_ID_AT)
        if found == APPLICATION_ID:
            # SQLite never writes a database whose versions it does not know.
            return Found.SPOOL if header[18:20] == _WAL_VERSIONS else Found.DAMAGED
    if was_spool:
        return Found.DAMAGED
    raise SpoolError(
        "foreign",
        path,
        "not a database of kdaemon, and so left alone: move it away, or set another "
        "spool.directory",
    )


def _put_first_page(model: str, copy: Path) -> None:
    """Puts the first page of `model` into the copy. Tables are made in one order, and their roots
    stay where they are, so every spool has the same schema page. The list of free pages is left
    out; a reader needs none.
    """
    with Path(model).open("rb") as file:
        first = bytearray(file.read(PAGE_BYTES))
    page_count = copy.stat().st_size // PAGE_BYTES
    struct.pack_into(">3I", first, _PAGE_COUNT_AT, page_count, 0, 0)
    with copy.open("r+b") as file:
        file.write(first)


def set_aside_files(directory: str) -> list[str]:
    """Damaged databases that were put aside in the directory and that nobody has removed."""
    return sorted(
        str(path)
        for path in Path(directory).glob("spool.db.corrupt-*")
        if not path.name.endswith(("-wal", "-shm"))
    )


def database_path(directory: str) -> str:
    return str(Path(directory).absolute() / "spool.db")


def size_bytes(path: str, *, with_log: bool = True) -> int:
    """Bytes that a database and its log take on disk."""
    return file_bytes(path) + (file_bytes(path + "-wal") if with_log else 0)


def file_bytes(path: str) -> int:
    """The size of a file; 0: it is not there."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - at each commit; a Path costs more
    except OSError:
        return 0

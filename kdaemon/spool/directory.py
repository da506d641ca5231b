"""The directory of a spool: which files stand in it, and how one takes the place of another.

    spool.db, spool.db-wal, spool.db-shm   the database (SQLite's)
    spool.db.new, spool.db.next            one that is being made; one that is, and is the one that
                                           counts: what stands in its place is put aside
    spool.db-wal.copy                      of a log that has no name any more, while it is made
    spool.db.copy                          of a damaged one with its log, while it is salvaged
    spool.lock                             held while a daemon has the spool (`lock.py`)
    spool.reserve                          space set aside for a full disk (`reserve.py`)
    spool.probe                            for an instant: whether a full disk has space again
    spool.db.corrupt-<UTC time>            a damaged database, put aside; nobody deletes it but you
    spool.db-wal.foreign-<UTC time>        what stood in the place of an open log; as above

Knows nothing of tables. Invariant: nothing here deletes or overwrites what may hold a record.
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
from kdaemon.spool.lock import Lock
from kdaemon.spool.log import apply_frames
from kdaemon.spool.rights import directory_error, kind_of_none
from kdaemon.spool.schema import APPLICATION_ID, PAGE_BYTES

RESERVE = "spool.reserve"

_MAGIC = b"SQLite format 3\x00"  # the first 16 bytes of every SQLite database
_APPLICATION_ID_AT = 68  # offset in the header, 4 bytes big-endian [sqlite.org/fileformat2.html]
_PAGE_COUNT_AT = 28  # then the first page of the free list, and how many are in it
_HEADER_BYTES = 100
_SUFFIXES = ("-wal", "-shm", "")  # of the files of a database
_WAL_VERSIONS = b"\x02\x02"  # at 18 and 19: to write and to read it, a log is needed


class Found(Enum):
    """What stands where the database should be."""

    NOTHING = "nothing"
    SPOOL = "spool"
    DAMAGED = "damaged"  # was one of ours


class SpoolDirectory:
    """A directory that this process holds. Made by `claim`; `release` lets go."""

    def __init__(self, directory: str, lock: Lock) -> None:
        self.directory = directory
        self.database_path = database_path(directory)
        self._next_path = Path(self.database_path + ".next")
        self._lock = lock
        self._was_spool = lock.is_signed
        self._log_copy: os.stat_result | None = None  # that stands in the place of the log
        self.is_emptied = False  # the database of a spool was found empty, or not at all

    @classmethod
    def claim(cls, directory: str) -> "SpoolDirectory":
        """Makes the directory, and takes its lock. SpoolError as for `Lock.claim`."""
        directory = str(Path(directory).absolute())
        return cls(directory, Lock.claim(directory))

    @property
    def warning(self) -> str | None:
        """What is to be said of the directory."""
        return self._lock.warning

    def claim_again(self, device: int) -> None:
        """Takes the directory that stands in the place of ours, or makes one, on the same disk:
        `device`, or nothing is touched. SpoolError as for `claim`.
        """
        try:
            try:
                found = os.stat(self.directory).st_dev  # noqa: PTH116 - its siblings are os's, too
            except FileNotFoundError:
                found = Path(self.directory).parent.stat().st_dev
            if found != device:
                text = "another disk stands there: mount the spool's own again"
                raise SpoolError("directory", self.directory, text)
            if self._lock.is_standing:
                return
        except OSError as error:
            raise directory_error(self.directory, error) from error
        old, self._lock = self._lock, Lock.claim(self.directory)
        old.release()
        self.sign()

    def sign(self) -> None:
        """A spool stands here now, and we hold it."""
        self._lock.sign()

    def release(self) -> None:
        self._lock.release()

    def look(self) -> Found:
        """As `look_at`."""
        found = look_at(self.directory, was_spool=self._was_spool)
        if found is Found.NOTHING:
            self.is_emptied = self._was_spool  # nothing of ours is ever left empty
        return found

    def make(self, fill: Callable[[str], object]) -> None:
        """A new database beside the place, that only its owner can read; SQLite gives its other
        files the same mode. `fill` makes it one, given its path, and closes it. When this returns,
        the new one is the one that counts (`is_exchanging`), and `exchange` is next.
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
            self._sync()
        except OSError as error:
            raise directory_error(self.database_path, error) from error

    @contextlib.contextmanager
    def copied(self, frames: tuple[int, ...], model: str | None) -> Iterator[str]:
        """A copy of the database with these frames of its log in it, for as long as the block
        lasts; the log is left alone. `model`: a new database, whose first page (the head and the
        schema) the copy gets in the place of a damaged one. Raises OSError.
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
        """Whether a new database was made and is not in its place, by this process or an earlier
        one: then what stands there is not to be used any more.
        """
        # Not where the disk is in trouble: whoever asks for more of it hears of that.
        return os.path.isfile(self._next_path)  # noqa: PTH113 - at each commit; a Path costs more

    def exchange(self, now_ms: int) -> str:
        """Gives what was made the place of what stands there, which is set aside; the path that it
        has then ("": nothing ever stood there). Cut off anywhere, by a kill or a loss of power, or
        failed: whoever finds it `is_exchanging` calls this again. SpoolError.
        """
        try:
            aside = self.set_aside(now_ms) if self._stands_something() else self._last_aside()
            self._next_path.rename(self.database_path)
            self._sync()
        except OSError as error:
            raise directory_error(self.database_path, error) from error
        return aside

    def _stands_something(self) -> bool:
        """But for an empty file without a log, which holds nothing that is worth keeping."""
        return size_bytes(self.database_path) > 0 or Path(self.database_path).is_dir()

    def _last_aside(self) -> str:
        """Where an exchange that was cut off put what stood here."""
        base = Path(self.database_path + ".corrupt-")
        asides = [str(each) for each in base.parent.glob(f"{base.name}*")]
        return max((each for each in asides if not each.endswith(_SUFFIXES[:2])), default="")

    def _sync(self) -> None:
        """Fsync of the directory: names made or changed in it survive a power loss."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def set_aside(self, now_ms: int) -> str:
        """Renames the database and its log; the new path."""
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
            self._sync()
        except OSError as error:
            raise directory_error(self.database_path, error) from error
        return aside

    def set_log_aside(self, now_ms: int) -> None:
        """Renames what stands in the place of the log, for it is not what SQLite has open. Closing
        the database would delete it.
        """
        stamp = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        log = Path(self.database_path + "-wal")
        try:
            with contextlib.suppress(FileNotFoundError):
                if self._log_copy is not None and os.path.samestat(log.lstat(), self._log_copy):
                    return  # ours, of a try that failed: it is replaced
                log.rename(f"{log}.foreign-{stamp}")
            self._sync()
        except OSError as error:
            raise directory_error(self.database_path, error) from error

    def put_log(self, open_fd: int) -> None:
        """Gives the log that is open a name again: a copy of it, on disk when this returns. So what
        is copied out of it into the database can be copied again after a loss of power. Where there
        is no room for it, there is none, and what may be lost is no more than before.
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
                self._sync()
            finally:
                copy.unlink(missing_ok=True)


def look_at(directory: str, *, was_spool: bool) -> Found:
    """What stands where the database should be. `was_spool`: one stood there before. SpoolError
    `foreign` for what is none of ours.

    Must not be called while SQLite has the file open in this process: closing it here would drop
    SQLite's locks (POSIX locks belong to the process).
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
    if status.st_size == 0:  # begun and not written, or cut off: its log says which
        return Found.DAMAGED if file_bytes(path + "-wal") else Found.NOTHING
    try:
        with Path(path).open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise directory_error(path, error) from error
    if header.startswith(_MAGIC) and len(header) == _HEADER_BYTES:
        (found,) = struct.unpack_from(">I", header, _APPLICATION_ID_AT)
        if found == APPLICATION_ID:
            # SQLite never writes a database with a version it does not know.
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
    """Tables are made in one order, and their roots stay where they are: the schema of one spool is
    that of another. The list of free pages is left out; who only reads needs none.
    """
    with Path(model).open("rb") as file:
        first = bytearray(file.read(PAGE_BYTES))
    page_count = copy.stat().st_size // PAGE_BYTES
    struct.pack_into(">3I", first, _PAGE_COUNT_AT, page_count, 0, 0)
    with copy.open("r+b") as file:
        file.write(first)


def set_aside_files(directory: str) -> list[str]:
    """Damaged databases that were put aside there and that nobody has removed."""
    return sorted(
        str(path)
        for path in Path(directory).glob("spool.db.corrupt-*")
        if not path.name.endswith(("-wal", "-shm"))
    )


def database_path(directory: str) -> str:
    return str(Path(directory).absolute() / "spool.db")


def size_bytes(path: str, *, with_log: bool = True) -> int:
    """What a database and its log take on disk."""
    return file_bytes(path) + (file_bytes(path + "-wal") if with_log else 0)


def file_bytes(path: str) -> int:
    """0: it is not there."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - at each commit; a Path costs more
    except OSError:
        return 0

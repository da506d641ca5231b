"""The lock of a spool's directory: the process that has the spool holds it.

This file makes the directory, says which other users may change it, and writes the holder's pid for
other processes to read. It knows the directory and `spool.lock`, and no other file.
Invariants: two processes never hold one directory; a lock file that was taken away is told from the
one that is held; nothing here waits for long.
Where it sits: `directory.py` takes the lock and gives it back; `view.py` and the commands ask who
holds it.
"""

import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from kdaemon.base.errors import SpoolError
from kdaemon.spool.rights import directory_error, kind_of_none, strangers

_FILE = "spool.lock"
# A process that only looks whether a spool is held takes the lock for an instant: we try again.
_LOCK_TRIES = 5
_LOCK_WAIT_S = 0.02


class Lock:
    """Held until `release`. `warning`: what an operator should hear of the directory."""

    __slots__ = ("_directory", "_fd", "warning")

    def __init__(self, directory: str) -> None:
        """Makes the directory (0700) if its parent is there, and takes its lock. Raises SpoolError:
        `directory`, `foreign`, `busy`, `full`, `io`, `read_only`.
        """
        self._directory = directory
        try:
            make_directory(directory)
            refusal, self.warning = strangers(directory)
            if refusal is not None:
                raise SpoolError("directory", directory, refusal)
            what = kind_of_none(str(Path(directory, _FILE)))
            if what:
                text = f"its {_FILE} is {what}, no file of ours: move it away"
                raise SpoolError("foreign", directory, text)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            self._fd = os.open(Path(directory, _FILE), flags, 0o600)
        except OSError as error:
            raise directory_error(directory, error) from error
        try:
            _lock(self._fd, directory)
        except BaseException:
            self.release()
            raise

    @property
    def is_signed(self) -> bool:
        """Whether a spool stood here: each holder signs the lock."""
        return os.fstat(self._fd).st_size > 0

    @property
    def is_standing(self) -> bool:
        """Whether another process that wants the lock would meet this one. Raises OSError."""
        try:
            status = Path(self._directory, _FILE).lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(status, os.fstat(self._fd))

    def sign(self) -> None:
        """Writes our pid into the lock: a spool stands here now, and this process holds it."""
        with contextlib.suppress(OSError):  # a full disk; the lock holds without the pid
            os.pwrite(self._fd, f"{os.getpid():<10}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def is_signed(directory: str) -> bool:
    """Whether a spool stood in this directory, as `Lock.is_signed`; for a process that does not
    hold the lock.
    """
    try:
        status = Path(directory, _FILE).lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def holder_pid(directory: str) -> int | None:
    """The pid of the process that holds a spool; 0: a process holds it whose pid cannot be told
    (one in another container, say); None: no process holds it.
    """
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe in its place must not wait
        fd = os.open(Path(directory, _FILE), flags)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _written_pid(fd)
    finally:
        os.close(fd)
    return None


@contextlib.contextmanager
def kept_still(directory: str) -> Iterator[bool]:
    """No daemon takes the spool in `directory` inside of this: one that starts hears "busy". Yields
    False where a daemon has the spool already, True where no spool ever stood. Raises OSError.
    """
    try:
        fd = os.open(Path(directory, _FILE), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def make_directory(directory: str) -> None:
    """Makes the directory with mode 0700; it is on disk when this returns. Its parent must be
    there. One that is there stays as it is. Raises OSError.
    """
    try:
        make_new_directory(directory)
    except FileExistsError:
        if not Path(directory).is_dir():
            raise


def make_new_directory(directory: str) -> None:
    """As `make_directory`. Raises FileExistsError for one that is there."""
    Path(directory).mkdir(0o700)
    sync(Path(directory).parent)


def sync(path: Path) -> None:
    """A file's bytes, or a directory's names, are on disk when this returns. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(fd: int, directory: str) -> None:
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            threading.Event().wait(_LOCK_WAIT_S)
        except OSError as error:
            raise directory_error(directory, error) from error
        else:
            return
    pid = _written_pid(fd)
    holder = f"process {pid}" if pid else "another process"
    raise SpoolError(
        "busy", directory, f"in use by {holder}: stop it, or set another spool.directory"
    )


def _written_pid(fd: int) -> int:
    text = os.pread(fd, 32, 0).split(maxsplit=1)
    return int(text[0]) if text and text[0].isdigit() else 0

"""A new spool out of a database file, wherever the file stands: one that a start has set aside, a
copy from a dying disk, a part of a database.

The file and its log are copied into a new directory, and opened there as a start opens a spool:
damage is mended, or whole rows are saved one by one. Knows no record and no command.
Invariants: the file is only read; a failure leaves no directory behind.
Where it sits: above `store.py`, which does the work; `kdaemon spool salvage` calls it.
"""

import shutil
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from kdaemon.base.errors import SpoolError
from kdaemon.spool.directory import SpoolDirectory, database_path, set_aside_files
from kdaemon.spool.lock import holder_pid, make_directory
from kdaemon.spool.rights import directory_error
from kdaemon.spool.standing import DATABASE
from kdaemon.spool.store import Store
from kdaemon.spool.values import Salvage, Verification


@dataclass(frozen=True, slots=True)
class SavedCopy:
    """`found`: the rows of the new spool, read again. `salvage`: the rows that were saved one by
    one; None: the database could be used as it was.
    """

    found: Verification
    salvage: Salvage | None

    @property
    def problems(self) -> list[str]:
        """Why not all of the file is in the new spool, or not whole; empty: all of it is."""
        told = [self.salvage.problem] if self.salvage and self.salvage.problem else []
        return told + self.found.problems

    @property
    def is_all(self) -> bool:
        """Whether all of the file is in the new spool, and whole."""
        return self.found.is_sound and not self.problems


def save_copy(file: str, directory: str, wall_ms: Callable[[], int]) -> SavedCopy:
    """Makes `directory`, which must not be there yet, a spool with the rows of `file`. `wall_ms`:
    Unix milliseconds.

    Raises SpoolError: foreign, for a file of which nothing can be read or a directory that is
    there; busy, for the database of a running daemon; and as for `Store.open`. Then no directory is
    left.
    """
    _refuse_unfit(Path(file))
    if Path(directory).exists():
        text = "is there already, and is left alone: name a directory that is not there yet"
        raise SpoolError("foreign", directory, text)
    try:
        make_directory(directory)
        try:
            _copy(file, directory)
            return _opened(file, directory, wall_ms)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    except OSError as error:
        raise directory_error(directory, error) from error


def _refuse_unfit(file: Path) -> None:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise SpoolError("foreign", str(file), "not a regular file")
    except FileNotFoundError as error:
        raise SpoolError("foreign", str(file), "no such file") from error
    except OSError as error:
        raise directory_error(str(file), error) from error
    file = file.resolve()
    pid = holder_pid(str(file.parent)) if file.name == DATABASE else None
    if pid is not None:
        raise SpoolError(
            "busy",
            str(file),
            f"a daemon runs on it (pid {pid or 'unknown'}), and saves by itself what it can when it"
            " meets damage: stop it, or name the file that it has set aside (spool.db.corrupt-...)",
        )


def _copy(file: str, directory: str) -> None:
    """Copies the file and its log to the place where a start finds them, and signs the directory as
    that of a spool.
    """
    for suffix in ("", "-wal"):
        if suffix and not Path(file + suffix).is_file():
            continue
        copy = Path(database_path(directory) + suffix)
        copy.touch(0o600)
        shutil.copyfile(file + suffix, copy)
    place = SpoolDirectory.claim(directory)
    place.sign()
    place.release()


def _opened(file: str, directory: str, wall_ms: Callable[[], int]) -> SavedCopy:
    store = Store.open(directory, letters_bytes_max=sys.maxsize, wall_ms=wall_ms)
    with closing(store):
        found = store.verify()
        if found.problems:
            store.repair()
            found = store.verify()
        salvage, is_emptied = store.salvage, store.is_emptied
    for aside in set_aside_files(directory):  # copies of `file`, which still stands
        for suffix in ("", "-wal", "-shm"):
            Path(aside + suffix).unlink(missing_ok=True)
    has_any = found.frame_count or found.letter_count
    if not has_any and (salvage is not None or is_emptied):
        raise SpoolError("foreign", file, "nothing of a spool can be read of it")
    return SavedCopy(found, salvage)

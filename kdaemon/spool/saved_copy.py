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
from kdaemon.spool.directory import database_path, set_aside_files
from kdaemon.spool.lock import Lock, holder_pid, kept_still, make_new_directory, sync
from kdaemon.spool.rights import directory_error
from kdaemon.spool.standing import DATABASE
from kdaemon.spool.store import Store
from kdaemon.spool.values import Salvage, Verification


@dataclass(frozen=True, slots=True)
class SavedCopy:
    """`found`: all that the new spool has, read again. `has_log`: a log stood beside the file.
    `problems`: why not all that was in the file is in the new spool, or not whole; empty: all is.
    """

    found: Verification
    has_log: bool
    problems: list[str]

    @property
    def is_all(self) -> bool:
        """Whether all of the file is in the new spool, and whole."""
        return self.found.is_sound and not self.problems


def save_copy(file: str, directory: str, wall_ms: Callable[[], int]) -> SavedCopy:
    """Makes `directory`, which must not be there yet, a spool with the rows of `file`. `wall_ms`:
    Unix milliseconds.

    Raises SpoolError: foreign, for a file of which nothing can be read or a directory that is
    there; busy, for the database of a running daemon; and as for `Store`. Then no directory is
    left.
    """
    _refuse_unfit(Path(file))
    source = Path(file).resolve()  # its log stands beside it, not beside a link to it
    try:
        make_new_directory(directory)
        try:
            has_log = _copy_still(source, directory)
            return _opened(file, directory, wall_ms, has_log=has_log)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    except FileExistsError as error:
        text = "is there already, and is left alone: name a directory that is not there yet"
        raise SpoolError("foreign", directory, text) from error
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


def _copy_still(source: Path, directory: str) -> bool:
    """As `_copy`, while no daemon works on what is copied, nor begins to."""
    if source.name != DATABASE:
        return _copy(source, directory)
    beside = str(source.parent)
    with kept_still(beside) as is_still:
        if is_still:
            return _copy(source, directory)
    raise SpoolError(
        "busy",
        str(source),
        f"a daemon runs on it (pid {holder_pid(beside) or 'unknown'}), and saves by itself what it"
        " can when it meets damage: stop it, or name the file that it has set aside"
        " (spool.db.corrupt-...)",
    )


def _copy(source: Path, directory: str) -> bool:
    """Where a start finds them, as those of a spool that stood there, and on disk. Whether there
    was a log.
    """
    has_log = Path(f"{source}-wal").is_file()
    for suffix in ("", "-wal") if has_log else ("",):
        copy = Path(database_path(directory) + suffix)
        copy.touch(0o600)
        shutil.copyfile(f"{source}{suffix}", copy)
        sync(copy)
    lock = Lock(directory)
    lock.sign()
    lock.release()
    sync(Path(directory))
    return has_log


def _opened(file: str, directory: str, wall_ms: Callable[[], int], *, has_log: bool) -> SavedCopy:
    store = Store(directory, letters_bytes_max=sys.maxsize, wall_ms=wall_ms)
    problems: list[str] = []
    with closing(store):
        first, found = store.upkeep.salvage, store.verify()
        if found.problems:
            quarantine_count = found.quarantine_count
            store.upkeep.repair()
            found = store.verify()
            if store.upkeep.salvage is not first:
                problems += _problem_of(first)
            lost_count = quarantine_count - found.quarantine_count
            if lost_count > 0:
                problems.append(f"frames in quarantine that were not copied: {lost_count}")
        salvage, is_emptied = store.upkeep.salvage, store.directory.is_emptied
    for aside in set_aside_files(directory):  # copies of the file, which stands where it stood
        for suffix in ("", "-wal", "-shm"):
            Path(aside + suffix).unlink(missing_ok=True)
    has_any = found.frame_count or found.letter_count
    if not has_any and (salvage is not None or is_emptied):
        raise SpoolError("foreign", file, "nothing of a spool can be read of it")
    return SavedCopy(found, has_log, [*problems, *_problem_of(salvage), *found.problems])


def _problem_of(salvage: Salvage | None) -> list[str]:
    return [salvage.problem] if salvage is not None and salvage.problem is not None else []

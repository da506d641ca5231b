"""Whether the files that SQLite has open are still those that stand under their names.

SQLite trusts its descriptors: it goes on to commit to files that were deleted, moved or replaced,
and no later start finds these commits. So `Database` asks here before each transaction, and `Store`
asks again before it calls a commit stored. Reads only the results of `stat`: some microseconds,
beside an fsync. Knows no table.
Invariant: `check` raises unless all files that a start needs are there.
Where it sits: `database.py` and `upkeep.py` call it.
"""

import contextlib
import os
from pathlib import Path

from kdaemon.base.errors import SpoolError
from kdaemon.spool.rights import directory_error
from kdaemon.spool.schema import WAL_BYTES_MAX

DATABASE, LOG, INDEX, LOCK = "spool.db", "spool.db-wal", "spool.db-shm", "spool.lock"
CUT_LOG = "the end of spool.db-wal"
"""What `taken` calls a log that is the same file, but shorter than SQLite left it."""


class Files:
    """The four files of an open spool, as they were at the last `note`."""

    def __init__(self, directory: str) -> None:
        self._paths = {name: str(Path(directory, name)) for name in (DATABASE, LOG, INDEX, LOCK)}
        self._known: dict[str, tuple[int, int]] = {}  # device and inode
        self._log_bytes = 0
        self.directory = directory
        self.device = 0  # of the directory
        self.note()

    def note(self) -> None:
        """Notes that the files that stand there now are those that SQLite has open. Raises
        SpoolError.
        """
        self._known.clear()
        self.device = self._stat(self.directory, LOCK).st_dev
        for name, path in self._paths.items():
            status = self._stat(path, name)
            self._known[name] = status.st_dev, status.st_ino
        self.note_log()

    def note_log(self) -> None:
        """Notes the length that the log has now: SQLite wrote it, or cut it."""
        try:
            self._log_bytes = os.stat(self._paths[LOG]).st_size  # noqa: PTH116 - each commit
        except OSError:
            self._log_bytes = 0  # `check` tells

    def open_log(self) -> int | None:
        """The descriptor by which SQLite has the log open, whatever file stands under the log's
        name; None: it cannot be found. The caller must not close it.
        """
        with contextlib.suppress(OSError):  # this system has no such directory
            for each in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers
                with contextlib.suppress(OSError):  # the descriptor that lists them
                    status = os.fstat(int(each))
                    if (status.st_dev, status.st_ino) == self._known.get(LOG):
                        return int(each)
        return None

    def check(self) -> None:
        """Raises SpoolError: `gone` if a file is not there or is another one; `directory` or `io`
        if that cannot be told.
        """
        taken = self.taken()
        if taken:
            were = "was" if len(taken) == 1 else "were"
            raise gone(self.directory, f"{' and '.join(taken)} {were} taken away")

    def taken(self) -> list[str]:
        """Names of the files that are gone or are others. Raises SpoolError: `directory`, `io`."""
        taken = []
        for name, known in self._known.items():
            try:
                status = os.stat(self._paths[name])  # noqa: PTH116 - a Path costs more than this
            except (FileNotFoundError, NotADirectoryError):
                taken.append(name)
                continue
            except OSError as error:
                raise directory_error(self._paths[name], error) from error
            if (status.st_dev, status.st_ino) != known:
                taken.append(name)
            # Only this process shortens the log, and never below its limit.
            elif name is LOG and status.st_size < min(self._log_bytes, WAL_BYTES_MAX):
                taken.append(CUT_LOG)
        return taken

    def _stat(self, path: str, name: str) -> os.stat_result:
        try:
            return os.stat(path)  # noqa: PTH116 - as above
        except (FileNotFoundError, NotADirectoryError) as error:
            raise gone(self.directory, f"{name} was taken away") from error
        except OSError as error:
            raise directory_error(path, error) from error


def gone(directory: str, what: str) -> SpoolError:
    """The SpoolError `gone`. `what`: in words; the remedy is added."""
    return SpoolError(
        "gone",
        directory,
        f"{what} while the daemon runs: put back what was there, or empty the place, and it is made"
        " again from what the daemon still has open; a restart before that loses what is there"
        " alone",
    )

"""Space that is set aside on the disk, so that a spool on a full disk can be emptied.

A deletion writes, too. When the disk is full, the reserve is given back to the disk so that
deletions go on; it is taken again when there is space. Knows the directory and sizes; no table and
no frame.
Invariant: `is_taken` says whether the space is set aside; while it is not, no frame may be stored.
Where it sits: `store.py` asks before a commit and after one that failed.
"""

import contextlib
import os
from pathlib import Path

from kdaemon.base.errors import SpoolError
from kdaemon.base.limits import MIB
from kdaemon.spool.directory import RESERVE, file_bytes

# Enough for the log (16 MiB at most) to be copied into the database when the disk is full. Without
# that copy deletions could not go on, and the disk would stay full.
RESERVE_BYTES = 16 * MIB
# So much must be free before a full disk counts as one with space again, unless a frame proves it:
# a commit of the largest size. With less, the disk would be full again at once. Ours, 2026-11-28.
PROBE_BYTES = 8 * MIB


class Reserve:
    """The reserve of one directory."""

    __slots__ = ("_directory", "_path", "is_taken")

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = Path(directory, RESERVE)
        self.is_taken = False

    @property
    def lack(self) -> SpoolError | None:
        """Why no frame can be stored before the disk has more space; None: one can be tried."""
        if self.is_taken:
            return None
        path, reserve_mib = self._directory, RESERVE_BYTES // MIB
        total_bytes = free_bytes = 0
        with contextlib.suppress(OSError):
            disk = os.statvfs(path)
            total_bytes = disk.f_blocks * disk.f_frsize
            free_bytes = disk.f_bavail * disk.f_frsize
        least_mib = (RESERVE_BYTES + PROBE_BYTES) // MIB
        if 0 < total_bytes < RESERVE_BYTES + PROBE_BYTES:
            text = (
                f"the disk has {total_bytes // MIB} MiB in all, and the spool needs {least_mib}"
                f" MiB at least ({reserve_mib} MiB in reserve for deletions, and a commit):"
                " take a larger disk, or set another spool.directory"
            )
        else:
            text = (
                f"no space left on the disk but for deletions ({free_bytes // MIB} MiB are free,"
                f" and the spool keeps {reserve_mib} MiB in reserve): free {least_mib} MiB,"
                " or inodes, or raise the quota"
            )
        return SpoolError("full", path, text)

    def take(self) -> bool:
        """Sets the space aside, if it is not; returns whether `RESERVE_BYTES` are set aside on disk
        now.
        """
        self.is_taken = file_bytes(str(self._path)) >= RESERVE_BYTES
        if self.is_taken:
            return True
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
            finally:
                os.close(fd)
        except OSError:
            self.free()  # a part of the reserve would only take space
        else:
            self.is_taken = True
        return self.is_taken

    def free(self) -> bool:
        """Gives the space back to the disk; returns whether there was any."""
        had = file_bytes(str(self._path)) > 0
        with contextlib.suppress(OSError):
            self._path.unlink()
        if had:
            self.is_taken = False
        return had

    def has_room(self) -> bool:
        """Whether the disk has space for a commit of the largest size, beside the reserve. Tries
        that with `spool.probe`, which is gone when this returns.
        """
        path = Path(self._directory, "spool.probe")
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(path, flags, 0o600)
            try:
                os.posix_fallocate(fd, 0, PROBE_BYTES)
            finally:
                os.close(fd)
                path.unlink()
        except OSError:
            return False
        return True

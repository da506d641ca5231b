"""Whether a daemon could have a directory for its spool: for `kdaemon check`, before a start tries.

Reads names, modes and the first bytes of the database. Takes no lock, and makes nothing. Must not
be called for the spool that this process has open: see `directory.look_at`. A full disk, another
daemon and a newer schema are found only by the start itself.
Where it sits: the commands -> here -> directory.py, rights.py.
"""

import errno
import os
from pathlib import Path

from kdaemon.base.errors import SpoolError
from kdaemon.spool.directory import look_at
from kdaemon.spool.lock import is_signed
from kdaemon.spool.rights import directory_error, strangers


def look_over(directory: str) -> tuple[list[str], list[str]]:
    """Returns (reasons why a daemon of this user could not have the directory, warnings)."""
    try:
        if not _stands(directory):
            return [], []
        refusal, odd = strangers(directory)
        if refusal is not None:
            return [f"{directory}: {refusal}"], []
        _may_write(directory)
        look_at(str(Path(directory).absolute()), was_spool=is_signed(directory))
    except SpoolError as error:
        return [str(error)], []
    except OSError as error:
        return [str(directory_error(directory, error))], []
    return [], [] if odd is None else [f"{directory}: {odd}"]


def _stands(directory: str) -> bool:
    """Whether the directory is there; False: it can be made. Raises OSError."""
    path = Path(directory)
    if path.is_dir():
        return True
    if os.path.lexists(path):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    _may_write(str(path.parent))
    return False


def _may_write(directory: str) -> None:
    """Raises OSError if this user may not write there."""
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), directory)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)

"""What the operating system says about a spool's directory, in words: whose it is, and what failed.

Reads only. Knows no file of a spool. Invariant: each error names the path and tells what to do.
Where it sits: `lock.py`, `directory.py` and the others that open files call here.
"""

import errno
import grp
import os
import pwd
import stat
from pathlib import Path

from kdaemon.base.errors import SpoolError


def directory_error(path: str, error: OSError) -> SpoolError:
    """What an error of the operating system means for a spool at `path`, and what to do."""
    reason = os.strerror(error.errno or 0)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return SpoolError(
                "full", path, f"{reason}: free space there, or set another spool.directory"
            )
        case errno.EROFS:
            return SpoolError(
                "read_only",
                path,
                f"{reason}: remount it for writing, or set another spool.directory",
            )
        case errno.EACCES | errno.EPERM:
            return SpoolError("directory", path, _denied(path, reason))
        case errno.ENOTDIR | errno.EEXIST | errno.ELOOP:
            return SpoolError(
                "directory",
                path,
                "not a directory, or a link in its place: move it away, or set another "
                "spool.directory",
            )
        case errno.ENOENT if Path(path).is_dir():
            text = "no file can be made in it (is it a disk?): set another spool.directory"
            return SpoolError("directory", path, text)
        case errno.ENOENT:
            return SpoolError(
                "directory",
                path,
                f"does not exist, nor does the directory above it: mkdir -p {path}, or set another "
                "spool.directory",
            )
        case _:
            return SpoolError("io", path, f"{reason}: look at the disk (dmesg)")


def _denied(path: str, reason: str) -> str:
    me, above = _user(os.geteuid()), Path(path).parent
    if os.path.lexists(path) or not above.is_dir():
        return (
            f"{reason} for user {me}; it belongs to {_owner(path)}: chown -R {me} it, or set"
            " another spool.directory"
        )
    return (
        f"cannot be made: {reason} for user {me}; {above} belongs to {_owner(str(above))}: mkdir it"
        f" and chown {me} it, or set another spool.directory"
    )


def strangers(directory: str) -> tuple[str | None, str | None]:
    """Which users but us may change the files of an existing directory. Returns (why the directory
    is not used, a warning about it), at least one of them None. A user who may write there can take
    away acknowledged records, or put others in their place. Raises OSError.

    The rule is that of PostgreSQL and sshd, except that a group may write: a Kubernetes volume with
    an fsGroup belongs to root and to a group that shares it, and cannot be had otherwise.
    """
    status = Path(directory).stat()
    me, owner, mode = os.geteuid(), status.st_uid, stat.S_IMODE(status.st_mode)
    if me == 0 and owner != 0:
        # Every mode lets root in, and the owner could not read the files that root leaves there.
        remedy = f"run as {_user(owner)}, or chown -R root it, or set another spool.directory"
        return f"belongs to {_user(owner)}, and this is root: {remedy}", None
    if owner not in (me, 0):
        remedy = f"chown -R {_user(me)} it, or set another spool.directory"
        return f"belongs to {_user(owner)}, and this is {_user(me)}: {remedy}", None
    if mode & stat.S_IWOTH:
        return f"everybody may write there (mode {mode:04o}): chmod 0700 it", None
    if mode & stat.S_IWGRP:
        group = _group(status.st_gid)
        return (
            None,
            f"the group {group} may write there (mode {mode:04o}): if it need not, chmod g-w",
        )
    return None, None


def kind_of_none(path: str) -> str:
    """What stands in the place of a file and is neither a file nor a link; "": a file, a link or
    nothing.

    A pipe would make whoever opens it wait.
    """
    try:
        mode = Path(path).lstat().st_mode
    except OSError:
        return ""
    if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        return ""
    return "a directory" if stat.S_ISDIR(mode) else "a pipe or a device"


def _owner(path: str) -> str:
    try:
        return _user(Path(path).stat().st_uid)
    except OSError:
        return "another user"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"

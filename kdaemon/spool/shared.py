"""Where the spools of several workers stand, and which of them no worker has any more.

    spool.directory/            the spool of a daemon without workers
    spool.directory/worker-N/   that of worker N

Knows names, and whether records stand in a spool. Changes nothing, except that `prepare_root` makes
the directory above.
Invariant: a spool that holds a record, or that may hold one as far as can be told, is found: a
daemon that starts with fewer workers, or with one, has a worker deliver it.
Where it sits: daemon/ and the commands -> here -> lock.py, view.py.
"""

import os
import re
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from kdaemon.base.errors import SpoolError
from kdaemon.spool.directory import database_path
from kdaemon.spool.lock import holder_pid, is_signed, make_directory
from kdaemon.spool.rights import directory_error, strangers
from kdaemon.spool.view import StoreView

_name = re.compile(r"worker-([1-9][0-9]{0,3})").fullmatch


def worker_directory(root: str, number: int) -> str:
    return str(Path(root) / f"worker-{number}")


def prepare_root(root: str) -> str | None:
    """Makes the directory above the workers' spools; returns a warning about it, or None. Raises
    SpoolError as for a spool's own directory: a user who may write there could put another
    directory in the place of a worker's.
    """
    try:
        make_directory(root)
        refusal, warning = strangers(root)
    except OSError as error:
        raise directory_error(root, error) from error
    if refusal is not None:
        raise SpoolError("directory", root, refusal)
    return warning


def refuse_held(root: str) -> None:
    """Raises SpoolError `busy` where another daemon runs on this directory, with workers or
    without. Of two daemons, each would leave records in spools that the other one does not know.
    """
    _refuse(root, root, "")
    refuse_workers(root)


def refuse_workers(root: str) -> None:
    """As `refuse_held`, where workers run on it; or still end, because their supervisor was
    killed.
    """
    for number, directory in _workers(root).items():
        _refuse(root, directory, f", worker {number} of another kdaemon")


def _refuse(root: str, directory: str, whose: str) -> None:
    pid = holder_pid(directory)
    if pid is not None:
        who = f"process {pid}" if pid else "another process"
        text = f"in use by {who}{whose}: stop that kdaemon, or set another spool.directory"
        raise SpoolError("busy", root, text)


def worker_spools(root: str) -> dict[int, str]:
    """The directories of the workers' spools that stand there, by number."""
    return {number: directory for number, directory in _workers(root).items() if _stands(directory)}


def left_spools(root: str, kept: Collection[str]) -> dict[int, str]:
    """Spools with records that none of the workers that begin now has (`kept`: their directories),
    by the number of the worker that had them; 0: the spool of a daemon without workers.
    """
    found = {0: root} if _stands(root) else {}
    found |= worker_spools(root)
    return {
        number: directory
        for number, directory in found.items()
        if directory not in kept and may_hold_records(directory)
    }


def may_hold_records(directory: str) -> bool:
    """Whether frames stand in a spool that is there; True if that cannot be told."""
    try:
        with closing(StoreView(directory)) as view:
            return bool(view.stored_totals())
    except SpoolError:  # the worker that delivers it mends it, or says why not
        return True


def _workers(root: str) -> dict[int, str]:
    """The directories whose names are those of workers' spools, by number."""
    try:
        names = [each.name for each in Path(root).iterdir()]
    except OSError:
        return {}
    found = {int(match[1]): name for name in names if (match := _name(name)) is not None}
    return {number: str(Path(root) / found[number]) for number in sorted(found)}


def _stands(directory: str) -> bool:
    return is_signed(directory) or os.path.lexists(database_path(directory))

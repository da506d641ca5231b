"""Where the spools of several workers stand, and which of them nobody has any more.

    spool.directory/            the spool of a daemon without workers
    spool.directory/worker-N/   that of worker N

About: names, and whether records stand there. Changes nothing, but makes the directory above.
Invariant: a spool that holds a record, or of which that cannot be told, is told of: whoever starts
with fewer workers, or with one, has somebody deliver what is there.
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
    """Makes the directory above the workers' spools; what is to be said of it. SpoolError, as for a
    spool's own: who may write there could put another one in the place of a worker's.
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
    """SpoolError `busy`, where another daemon runs on this directory, with workers or without. Two
    would leave records in spools that the other one knows nothing of.
    """
    _refuse(root, root, "")
    refuse_workers(root)


def refuse_workers(root: str) -> None:
    """The same, where workers do; or did, and end still, because their supervisor was killed."""
    for number, directory in _workers(root).items():
        _refuse(root, directory, f", worker {number} of another kdaemon")


def _refuse(root: str, directory: str, whose: str) -> None:
    pid = holder_pid(directory)
    if pid is not None:
        who = f"process {pid}" if pid else "another process"
        text = f"in use by {who}{whose}: stop that kdaemon, or set another spool.directory"
        raise SpoolError("busy", root, text)


def worker_spools(root: str) -> dict[int, str]:
    """The directories of workers' spools that stand there, by number."""
    return {number: directory for number, directory in _workers(root).items() if _stands(directory)}


def left_spools(root: str, kept: Collection[str]) -> dict[int, str]:
    """Spools with records that none of those who begin now has (`kept`: their directories), by the
    numbers of the workers that had them; 0: the one of a daemon without workers.
    """
    found = {0: root} if _stands(root) else {}
    found |= worker_spools(root)
    return {
        number: directory
        for number, directory in found.items()
        if directory not in kept and may_hold_records(directory)
    }


def may_hold_records(directory: str) -> bool:
    """Whether frames stand in a spool that is there, as far as a look can tell."""
    try:
        with closing(StoreView(directory)) as view:
            return bool(view.stored_totals())
    except SpoolError:  # who opens it to deliver mends it, or says why not
        return True


def _workers(root: str) -> dict[int, str]:
    """The directories that are called as a worker's, by number."""
    try:
        names = [each.name for each in Path(root).iterdir()]
    except OSError:
        return {}
    found = {int(match[1]): name for name in names if (match := _name(name)) is not None}
    return {number: str(Path(root) / found[number]) for number in sorted(found)}


def _stands(directory: str) -> bool:
    return is_signed(directory) or os.path.lexists(database_path(directory))

"""A process that works with a store and tells what it was promised: for the power to fail under it.

`main` runs in a copy of the template: arguments: the spool's directory, the work's name. What a
commit promised is told on the standard error, a line each, when it has returned.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes
from tests.kit.stores import append, make_letter, open_store

MODULE = "tests.kit.store_work"
TAKEN = "to be taken"


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _append(store: Store) -> None:
    frame_id = store.next_id
    append(store, frame_id, record_bytes=2_000)
    _tell(str(frame_id))


def _nothing_more(_directory: Path) -> None:
    """The files stay."""


def _take_database(directory: Path) -> None:
    (directory / "spool.db").unlink()


def _take_log(directory: Path) -> None:
    (directory / "spool.db-wal").unlink()


def _take_index(directory: Path) -> None:
    (directory / "spool.db-shm").unlink()


def _replace_log(directory: Path) -> None:
    """By an older copy of it, as who restores a backup does."""
    path = directory / "spool.db-wal"
    copy = directory / "copy"
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


def _take_all(directory: Path) -> None:
    for path in list(directory.iterdir()):
        path.unlink()


TAKINGS: dict[str, Callable[[Path], object]] = {
    "none": _nothing_more,
    "database": _take_database,
    "log": _take_log,
    "index": _take_index,
    "log replaced": _replace_log,
    "all": _take_all,
}


def main() -> None:
    """Opens, commits, has files taken away, commits again."""
    directory, taking = Path(sys.argv[1]), sys.argv[2]
    store = open_store(directory)
    _append(store)
    if taking != "none":
        _tell(TAKEN)
    TAKINGS[taking](directory)
    _append(store)
    store.commit(Changes(dead=[make_letter(1)]))
    store.give_back(50)
    store.close()

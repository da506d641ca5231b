"""Spools of several workers below one directory: who has them."""

from contextlib import closing
from pathlib import Path

import pytest

from kdaemon.base.errors import SpoolError
from kdaemon.spool.shared import refuse_held, refuse_workers, worker_directory
from kdaemon.spool.store import Store
from tests.unit.spool.rig import open_store


def opened(directory: str) -> Store:
    return open_store(Path(directory))()


@pytest.mark.parametrize("number", [1, 2, 1000])
def test_a_directory_with_a_worker_at_work_is_refused(tmp_path: Path, number: int) -> None:
    """To a daemon of any number of workers, though nothing is stored; whoever has ended is no
    hindrance.
    """
    root = str(tmp_path)
    with closing(opened(worker_directory(root, number))):
        for refuse in (refuse_workers, refuse_held):
            with pytest.raises(
                SpoolError, match=f"process .*, worker {number} of another kdaemon: "
            ):
                refuse(root)
    refuse_held(root)


def test_a_directory_with_a_lone_daemon_at_work_is_refused_to_workers(tmp_path: Path) -> None:
    root = str(tmp_path)
    with closing(opened(root)):
        with pytest.raises(SpoolError, match="in use by process"):
            refuse_held(root)
        refuse_workers(root)  # who wants the same spool takes its lock, and waits a moment for it
    refuse_held(root)


def test_what_is_only_called_so_holds_nobody_up(tmp_path: Path) -> None:
    refuse_held(str(tmp_path / "none"))
    (tmp_path / "worker-1").write_text("a file")
    (tmp_path / "worker-2").mkdir()
    (tmp_path / "worker-02").mkdir()
    refuse_held(str(tmp_path))

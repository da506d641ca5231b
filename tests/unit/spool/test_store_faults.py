"""The disk fails: the commit in hand is refused, nothing of it is applied, and the next one may do.

Faults come from below SQLite (`tests/kit/disk.py`) or from the kernel (limits, small disks).
"""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kdaemon.base.errors import SpoolError
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.reserve import Reserve
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes
from tests.kit.disk import SQLITE_OK, Disk, attach, works
from tests.kit.stores import (
    append,
    encode_settled,
    make_letter,
    new_frame,
    open_store,
    stored_ids,
)

FAULTS = {
    "no space": (sqlite3.SQLITE_FULL, "full"),
    "write error": (sqlite3.SQLITE_IOERR_WRITE, "io"),
    "sync error": (sqlite3.SQLITE_IOERR_FSYNC, "io"),
    "truncate error": (sqlite3.SQLITE_IOERR_TRUNCATE, "io"),
    "read-only": (sqlite3.SQLITE_READONLY, "read_only"),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with attach(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("Python's SQLite cannot be reached from outside")
        yield disk


def refusal(store: Store, changes: Changes) -> SpoolError:
    with pytest.raises(SpoolError) as caught:
        store.commit(changes)
    return caught.value


def refusal_or_none(store: Store, changes: Changes) -> SpoolError | None:
    try:
        store.commit(changes)
    except SpoolError as error:
        return error
    return None


def some_changes(first_id: int) -> Changes:
    """All that a commit can do: two frames more, one settled, one noted, one letter."""
    return Changes(
        appended=[new_frame(first_id), new_frame(first_id + 1, record_bytes=20_000)],
        settled=[first_id - 1],
        progress=[(first_id - 2, encode_settled([1], 3))],
        dead=[make_letter(1)],
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_commit_that_fails_at_any_operation_leaves_nothing_and_the_next_one_holds(
    disk: Disk, fault: str
) -> None:
    code, kind = FAULTS[fault]
    store = open_store(disk.directory)
    append(store, 1, 2)
    failed_count = at = 0
    while failed_count == at:
        before = stored_ids(store), store.stored_totals(), store.verify()
        operations = 0

        def fail(_operation: str, _name: str, at: int = at) -> int:
            nonlocal operations
            operations += 1
            return code if operations > at else SQLITE_OK

        disk.before = fail
        error = refusal_or_none(store, some_changes(store.next_id))
        disk.before = works
        if error is not None:
            failed_count += 1
            assert error.kind == kind
            assert str(disk.directory) in str(error)
            assert (stored_ids(store), store.stored_totals(), store.verify()) == before
            store.commit(some_changes(store.next_id))
        assert stored_ids(store)[-2:] == [store.next_id - 2, store.next_id - 1]
        assert store.verify().is_sound
        at += 1
    assert failed_count > 10  # each operation of a commit, up to one in which nothing failed
    ids = stored_ids(store)
    store.close()
    store = open_store(disk.directory)
    assert stored_ids(store) == ids
    assert store.upkeep.salvage is None


@pytest.mark.parametrize("fault", FAULTS)
def test_the_log_is_kept_if_it_cannot_be_copied_into_the_database(disk: Disk, fault: str) -> None:
    code, _ = FAULTS[fault]
    store = open_store(disk.directory)
    append(store, *range(1, 40), record_bytes=30_000)  # 3.5 MB: the next commit copies the log
    disk.before = lambda _operation, name: code if name == "spool.db" else SQLITE_OK
    append(store, *range(40, 60), record_bytes=30_000)
    assert stored_ids(store) == list(range(1, 60))
    store.close()
    disk.before = works
    store = open_store(disk.directory)
    assert stored_ids(store) == list(range(1, 60))
    assert store.verify().is_sound


def test_a_read_that_fails_changes_nothing_and_may_be_tried_again(disk: Disk) -> None:
    store = open_store(disk.directory)
    append(store, 1)
    store.upkeep.database.connection.execute("UPDATE frame SET accepted_ms = 0")  # damaged
    disk.before = lambda _operation, _name: sqlite3.SQLITE_IOERR_WRITE
    with pytest.raises(SpoolError) as caught:
        store.read("orders", 0, 1)  # cannot move it to quarantine
    assert caught.value.kind == "io"
    disk.before = works
    read = store.read("orders", 0, 1)
    assert (read.corrupt_count, read.corrupt_record_count, read.frames) == (1, 3, [])


def test_a_start_on_a_disk_that_fails_is_refused_and_works_later(disk: Disk) -> None:
    disk.before = lambda _operation, _name: sqlite3.SQLITE_FULL
    with pytest.raises(SpoolError) as caught:
        open_store(disk.directory)
    assert caught.value.kind == "full"
    disk.before = works
    store = open_store(disk.directory)
    append(store, 1)


def test_a_write_beyond_the_kernels_limit_is_refused_and_done_when_the_limit_is_lifted(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.sizes.file_bytes + 100_000, hard))
    try:
        error = refusal(store, Changes(appended=[new_frame(2, count=3, record_bytes=200_000)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.kind == "io"
    assert "disk I/O error" in str(error)
    assert stored_ids(store) == [1]
    append(store, 2, record_bytes=200_000)
    assert stored_ids(store) == [1, 2]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR_WRITE])
def test_a_disk_that_turns_read_only_takes_an_empty_commit_and_no_probe(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Of files that were open before, SQLite says only that writing failed."""
    store = open_store(disk.directory)
    append(store, 1)
    real = os.statvfs(disk.directory)

    class ReadOnly:
        f_flag, f_bavail = os.ST_RDONLY, real.f_bavail

    with monkeypatch.context() as turned:
        turned.setattr(os, "statvfs", lambda _path: ReadOnly)
        disk.before = lambda _operation, _name: code
        for _ in range(4):
            assert not store.commit(Changes()).has_proved
            for changes in (Changes(appended=[new_frame(2)]), Changes(probes="read_only")):
                error = refusal(store, changes)
                assert error.kind == "read_only"
                assert "remount" in str(error)
            assert stored_ids(store) == [1]
    disk.before = works
    assert store.commit(Changes(probes="read_only")).has_proved
    append(store, 2)
    assert stored_ids(store) == [1, 2]
    assert store.upkeep.salvage is None


def test_a_database_that_may_not_grow_says_that_it_is_full(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    connection = store.upkeep.database.connection
    (page_count,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {page_count}")
    error = refusal(store, Changes(appended=[new_frame(2, record_bytes=100_000)]))
    assert error.kind == "full"
    assert f"no space left on the disk: free some in {tmp_path}" in str(error)
    connection.execute("PRAGMA max_page_count = 1000000")
    append(store, 2, record_bytes=100_000)
    assert stored_ids(store) == [1, 2]


def test_a_connection_that_fails_again_and_again_is_opened_anew(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    store.upkeep.database.connection.execute("PRAGMA query_only = ON")  # of this connection only
    assert refusal(store, Changes(appended=[new_frame(2)])).kind == "read_only"
    assert refusal(store, Changes(appended=[new_frame(2)])).kind == "read_only"
    append(store, 2)
    assert stored_ids(store) == [1, 2]
    store.letters.count(LetterFilter())  # its letters see the new connection too


def test_who_keeps_the_database_locked_is_waited_for_and_then_named_busy(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.upkeep.database.connection.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(tmp_path / "spool.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert refusal(store, Changes(appended=[new_frame(1)])).kind == "busy"
    append(store, 1)


def test_without_its_reserve_a_store_refuses_frames_but_settles_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    append(store, 1, 2)
    store.upkeep.reserve.free()
    with monkeypatch.context() as full:
        full.setattr(Reserve, "take", lambda _reserve: False)
        assert refusal(store, Changes(appended=[new_frame(3)], settled=[1])).kind == "full"
        assert stored_ids(store) == [1, 2]
        store.commit(Changes(settled=[1]))
        assert stored_ids(store) == [2]
    append(store, 3)
    assert stored_ids(store) == [2, 3]
    assert (tmp_path / "spool.reserve").exists()


# A small disk of its own (tmpfs) in a namespace of its own; each script says what must hold.

SMALL_DISK = """
import sys
from pathlib import Path
from kdaemon.base.errors import SpoolError
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.values import Changes
from tests.kit.stores import append, new_frame, open_store, open_view, stored_ids
disk = Path(sys.argv[1])
"""

FILLS_AND_DRAINS = """
store = open_store(disk)
stored, refused = [], 0
ballast = disk / "ballast"  # what others keep there
ballast.write_bytes(bytes(2 * 1024 * 1024))
for round in range(3):
    for _ in range(400):
        try:
            append(store, store.next_id, record_bytes=100_000)
        except SpoolError as error:
            assert error.kind == "full", error
            refused += 1
            break
        stored.append(store.next_id - 1)
    else:
        raise AssertionError("the disk never filled")
    assert stored_ids(store) == stored
    # Drained by its own deliveries, with no help from outside.
    for frame_id in stored:
        store.commit(Changes(settled=[frame_id]))
    stored.clear()
    assert stored_ids(store) == []
    store.give_back(100_000)
    assert store.sizes.file_bytes < 1_000_000, store.sizes.file_bytes
assert refused == 3
assert store.verify().is_sound
store.close()
"""

FILLED_BY_OTHERS = """
store = open_store(disk)
append(store, 1, 2)
store.upkeep.reserve.free()
ballast = (disk / "ballast").open("wb", buffering=0)
try:
    while ballast.write(bytes(4096)):
        pass
except OSError:
    pass
try:
    append(store, 3)
except SpoolError as error:
    assert error.kind == "full", error
else:
    raise AssertionError("stored on a full disk")
store.close()
try:  # whether a start on a full disk succeeds or not: nothing is lost, and the error is clear
    open_store(disk).close()
except SpoolError as error:
    assert error.kind == "full", error
ballast.truncate(0)
store = open_store(disk)
assert stored_ids(store) == [1, 2] and store.upkeep.salvage is None
append(store, 3)
store.close()
"""

BECOMES_READ_ONLY = """
import subprocess
store = open_store(disk)
append(store, 1, 2)
store.close()
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
try:
    open_store(disk)
except SpoolError as error:
    assert error.kind == "read_only" and "remount" in str(error), error
else:
    raise AssertionError("opened on a read-only disk")
view = open_view(disk)
assert stored_ids(view) == [1, 2]
view.close()
subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
open_store(disk).close()
"""


IS_UNMOUNTED = """
import subprocess
store = open_store(disk)
append(store, 1)
subprocess.run(["umount", "--lazy", str(disk)], check=True)
disk.chmod(0o700)
for _ in range(4):
    try:
        append(store, 2)
    except SpoolError as error:
        assert error.kind == "gone" and "mount the spool's own again" in str(error), error
    else:
        raise AssertionError("stored where nobody will look")
assert list(disk.iterdir()) == [], "and the disk below is left alone"
assert stored_ids(store) == [1], "what is open is read still"
store.close()
"""

HAS_NO_INODES = """
store = open_store(disk)
append(store, 1)
store.upkeep.reserve.free()
count = 0
try:
    while True:
        (disk / f"other-{count}").touch()
        count += 1
except OSError:
    pass
assert store.upkeep.reserve.lack is not None and "inodes" in str(store.upkeep.reserve.lack)
for _ in range(3):
    try:
        append(store, 2)
    except SpoolError as error:
        assert error.kind == "full" and "inodes" in str(error), error
    else:
        raise AssertionError("stored without a reserve")
    assert not store.commit(Changes(probes="full")).has_proved
store.commit(Changes(settled=[1]))
for number in range(count):
    (disk / f"other-{number}").unlink()
assert store.commit(Changes(probes="full")).has_proved
append(store, 2)
assert stored_ids(store) == [2]
store.close()
"""

IS_DELETED_WHEN_FULL = """
import shutil
spool = disk / "spool"
store = open_store(spool)
append(store, *range(1, 40), record_bytes=100_000)
ballast = (disk / "ballast").open("wb", buffering=0)
try:
    while ballast.write(bytes(4096)):
        pass
except OSError:
    pass
shutil.rmtree(spool)  # what is open keeps its space
try:
    while ballast.write(bytes(4096)):
        pass
except OSError:
    pass
for _ in range(3):
    try:
        append(store, 40)
    except SpoolError as error:
        assert error.kind == "full", error
    else:
        raise AssertionError("stored on a full disk")
assert stored_ids(store) == list(range(1, 40))
ballast.truncate(0)
append(store, 40)
assert stored_ids(store) == list(range(1, 41)) and store.upkeep.restored is not None
store.close()
store = open_store(spool)
assert stored_ids(store) == list(range(1, 41)) and store.upkeep.salvage is None
store.close()
"""


@pytest.mark.parametrize(
    "script",
    [
        *(FILLS_AND_DRAINS, FILLED_BY_OTHERS, BECOMES_READ_ONLY),
        *(IS_UNMOUNTED, HAS_NO_INODES, IS_DELETED_WHEN_FULL),
    ],
    ids=[
        *("fills and drains", "filled by others", "becomes read-only"),
        *("is unmounted", "has no inodes", "is deleted when full"),
    ],
)
def test_on_a_small_disk(tmp_path: Path, script: str) -> None:
    unshare = shutil.which("unshare")
    options = "size=40m,mode=700,nr_inodes=100"
    mounted = f'mount -t tmpfs -o {options} tmpfs "{tmp_path}" || exit 77; exec "$@"'
    if unshare is None:
        pytest.skip("no unshare here")
    done = subprocess.run(
        [
            *(unshare, "--mount", "--user", "--map-root-user", "sh", "-c", mounted, "sh"),
            *(sys.executable, "-c", SMALL_DISK + script, str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    if done.returncode in {77, 126} or "unshare" in done.stderr:  # no mount, no way to Python
        pytest.skip(f"no disk of our own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr

"""The disk that forgets: it sees all that a process does, and keeps what was synced.

So the other tests may believe it. Each process here is one of its own, under `tests/kit/power.c`.
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.patience import PATIENCE_S
from tests.kit.power import Manners, PowerDisk
from tests.kit.unsynced import Directory, File

QUICK = Manners(fsync_us=(0, 0))
SEEDS = 12

ALL_KINDS = """
import os, shutil, sqlite3, sys
from pathlib import Path
root = Path(os.environ["POWER_LOSS_ROOT"])
(root / "in").mkdir()
with (root / "in" / "a").open("wb") as file:
    file.write(b"0123456789" * 10_000)
    file.seek(5)
    file.write(b"abc")
with (root / "in" / "a").open("ab") as file:
    file.write(b"the end")
fd = os.open(root / "in" / "a", os.O_RDWR)
os.pwrite(fd, b"there", 200_000)
os.ftruncate(fd, 150_000)
os.posix_fallocate(fd, 0, 170_000)
os.writev(fd, [b"x", b"y"])
os.fsync(fd)
os.close(fd)
shutil.copyfile(root / "in" / "a", root / "b")
(root / "b").rename(root / "c")
(root / "b").write_text("again")
(root / "b").unlink()
os.chdir(root)
Path("d").write_text("by a name that is relative")
connection = sqlite3.connect(root / "db")
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE t (x)")
for number in range(100):
    connection.execute("INSERT INTO t VALUES (randomblob(5000))")
    connection.commit()
if sys.argv[1] == "close":
    connection.close()
else:
    os.kill(os.getpid(), 9)
"""

SYNCED = """
import os
from pathlib import Path
root = Path(os.environ["POWER_LOSS_ROOT"])

def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)

(root / "kept").write_bytes(b"k" * 5000)
sync(root / "kept")
(root / "old").write_bytes(b"o" * 5000)
sync(root / "old")
sync(root)
(root / "old").rename(root / "new")
(root / "nameless").write_bytes(b"n" * 5000)
sync(root / "nameless")
(root / "in").mkdir()
fd = os.open(root / "kept", os.O_RDWR)
os.pwrite(fd, b"w" * 5000, 2000)
os.kill(os.getpid(), 9)
"""


pytestmark = pytest.mark.compiler


def run(disk: PowerDisk, script: str, *arguments: str) -> int:
    environment = {**os.environ, **disk.next_process()}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=environment, timeout=PATIENCE_S).returncode


@pytest.mark.parametrize(("how", "code"), [("close", 0), ("killed", -signal.SIGKILL)])
def test_it_sees_all_that_a_process_does(tmp_path: Path, how: str, code: int) -> None:
    disk = PowerDisk(tmp_path, 1, QUICK)
    assert run(disk, ALL_KINDS, how) == code
    disk.check()


def test_what_it_cannot_see_ends_the_process_with_a_word(tmp_path: Path) -> None:
    disk = PowerDisk(tmp_path, 1, QUICK)
    script = """
import mmap, os
fd = os.open(os.environ["POWER_LOSS_ROOT"] + "/a", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 4096)
mmap.mmap(fd, 4096)
"""
    assert run(disk, script) == -signal.SIGABRT


def test_what_was_synced_is_kept_and_the_rest_may_be_either_way(tmp_path: Path) -> None:
    names: set[frozenset[str]] = set()
    tails: set[bytes] = set()
    for seed in range(SEEDS):
        directory = tmp_path / str(seed)
        directory.mkdir()
        disk = PowerDisk(directory, seed, QUICK)
        assert run(disk, SYNCED) == -signal.SIGKILL
        disk.lose_power()
        kept = (disk.root / "kept").read_bytes()
        assert kept[:2000] == b"k" * 2000
        assert set(kept[2000:5000]) <= set(b"kw"), "old or new"
        assert set(kept[5000:]) <= set(b"w\0"), "and nothing else beyond the old end"
        found = frozenset(each.name for each in disk.root.iterdir())
        assert found & {"old", "new"}, "a rename loses no name"
        names.add(found)
        tails.add(kept[2000:])
        disk.check()  # what came back is what is known
    assert len(tails) > 2
    assert any("nameless" in found for found in names)
    assert any("nameless" not in found for found in names), "its directory was not synced"
    assert any("in" not in found for found in names)


def test_a_kill_forgets_nothing_until_the_power_fails(tmp_path: Path) -> None:
    disk = PowerDisk(tmp_path, 3, QUICK)
    assert run(disk, SYNCED) == -signal.SIGKILL
    disk.killed()
    assert (disk.root / "kept").read_bytes() == b"k" * 2000 + b"w" * 5000
    assert disk.forgotten_count == 0
    disk.lose_power()
    assert disk.forgotten_count > 0, "what the process before left unsynced"


def test_a_full_disk_takes_nothing_of_a_write(tmp_path: Path) -> None:
    disk = PowerDisk(tmp_path, 1, Manners(fsync_us=(0, 0), full_every=2))
    script = """
import errno, os
fd = os.open(os.environ["POWER_LOSS_ROOT"] + "/a", os.O_RDWR | os.O_CREAT)
for at in range(300):  # those of a start find room
    os.pwrite(fd, b"y", at)
codes = set()
for at in range(50):
    try:
        os.pwrite(fd, b"x", at)
    except OSError as error:
        codes.add(error.errno)
assert codes == {errno.ENOSPC}
assert 0 < os.pread(fd, 50, 0).count(b"x") < 50
"""
    assert run(disk, script) == 0
    disk.check()


def test_a_sync_covers_what_was_done_before_it_began() -> None:
    file, directory = File(), Directory()
    file.write(0, b"before")
    file.begin_sync(1)
    file.write(6, b" and after")
    file.begin_sync(2)
    file.end_sync(1)
    assert file.synced == b"before"
    assert file.whole() == b"before and after"
    file.end_sync(2)
    assert file.synced == b"before and after"
    directory.name("a", file)
    directory.begin_sync()
    directory.rename("a", "b", file)
    directory.end_sync()
    assert (list(directory.synced), list(directory.whole())) == (["a"], ["b"])


def test_a_file_that_was_cut_or_made_longer_is_either_after_a_power_loss() -> None:
    for length in (3, 10):
        found = set()
        for seed in range(SEEDS):
            file = File(bytearray(b"whole"))
            file.cut(length)
            found.add(bytes(file.after_power_loss(random.Random(seed))))
        assert found == {b"whole", b"whole\0\0\0\0\0"[:length]}

"""The process dies, or the power fails, at any operation of a start, of a repair, of files that are
made anew: the next start finds all that an undisturbed one would have found, and all promises kept.

`test_power_loss.py` does the same to SQLite's own operations; here are the names too, and each
death is a real one (SIGKILL at the n-th operation on the disk).
"""

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.patience import PATIENCE_S
from tests.kit.power import NAMING, Manners, PowerDisk, library
from tests.kit.store_work import MODULE, TAKEN, TAKINGS
from tests.kit.stores import append, open_store, stored_ids
from tests.kit.template import Stage, template

QUICK = Manners(fsync_us=(0, 0))
MANNERS = ("kill", "loss", "loss after a kill")
DEATHS = int(os.environ.get("POWER_DEATHS", "4"))  # of one work, which has some hundred operations
IMAGES = max(3, DEATHS // 4)  # of a loss of power
HEADER_BYTES, FRAME_HEAD_BYTES = 32, 24  # of SQLite's log


pytestmark = pytest.mark.compiler


@dataclass(frozen=True, slots=True)
class Died:
    """What a process was promised before it died, or ended."""

    told: list[str]
    code: int

    def ids(self) -> set[int]:
        return {int(each) for each in self.told if each.isdigit()}


def work(disk: PowerDisk, taking: str, death_at: int) -> Died:
    heard = disk.root.parent / "heard"
    environment = {**os.environ, **disk.next_process(death_at)}
    fd = os.open(heard, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        arguments = [str(disk.root / "spool"), taking]
        stage = Stage(preload=str(library()))
        code = template(stage).start(arguments, environment, fd, MODULE).wait(PATIENCE_S)
    finally:
        os.close(fd)
    told = heard.read_text().splitlines()
    assert code in {0, -9}, "\n".join(told)
    return Died(told, code)


def found_in(spool: Path) -> set[int]:
    store = open_store(spool)
    with contextlib.closing(store):
        assert store.verify().is_sound
        return set(stored_ids(store))


def left_by_a_kill(directory: Path, damage: str = "") -> None:
    """Some frames in the database, some in the log only. `damage`: SQL."""
    place = directory / "running"
    store = open_store(place)
    append(store, *range(1, 31), record_bytes=2_000)
    store.give_back(1)  # copies the log
    for frame_id in range(31, 37):
        append(store, frame_id, record_bytes=2_000)
    store.upkeep.database.connection.executescript(damage)
    shutil.copytree(place, directory / "spool")
    store.close()
    shutil.rmtree(place)
    (directory / "spool" / "spool.db-shm").unlink()


def killed(directory: Path) -> None:
    left_by_a_kill(directory)


def damaged_database(directory: Path) -> None:
    """A start sees it, and all of it can be saved."""
    left_by_a_kill(directory, "UPDATE stream SET frame_count = frame_count + 1;")


def damaged_log(directory: Path) -> None:
    left_by_a_kill(directory)
    path = directory / "spool" / "spool.db-wal"
    content = bytearray(path.read_bytes())
    first = HEADER_BYTES + FRAME_HEAD_BYTES
    content[first + 5_000 : first + 16_000] = b"\xa5" * 11_000
    path.write_bytes(content)


def nothing(directory: Path) -> None:
    """The very first start."""


BEGINNINGS = {each.__name__: each for each in (nothing, killed, damaged_database, damaged_log)}


@pytest.fixture(scope="module")
def beginnings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, make in BEGINNINGS.items():
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name])
    return made


def deaths(operations: str, dice: random.Random) -> Iterator[tuple[int, str]]:
    """At which operations, and how: others in each run. Half of them stand where names change: few
    operations do that, and there is most to lose.
    """
    anywhere = range(1, len(operations) + 1)
    naming = [at for at in anywhere if set(NAMING) & set(operations[max(0, at - 3) : at])]
    for of in (anywhere, naming):
        for at in dice.sample(of, min(len(of), -(-DEATHS // 2))):
            yield at, dice.choice(MANNERS)


@pytest.mark.timeout(1800)  # seconds, for POWER_DEATHS; some 2 else
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_start_that_is_cut_off_anywhere_costs_nothing(
    tmp_path: Path, beginnings: dict[str, Path], beginning: str
) -> None:
    seed = random.randrange(10**6)
    base = beginnings[beginning]
    expected = found_in(shutil.copytree(base, tmp_path / "undisturbed") / "spool")
    for at, manner in deaths(operations_of(tmp_path, base, "none"), random.Random(seed)):
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        disk = disk_with(base, directory, seed)
        died = work(disk, "none", at)
        where = f"seed {seed}, {manner} at operation {at}, after {died.told}"
        for found in what_is_found(disk, manner):
            assert expected | died.ids() <= found, where
        shutil.rmtree(directory)


@pytest.mark.timeout(1800)  # seconds, for POWER_DEATHS; some 2 else
@pytest.mark.parametrize("taking", [each for each in TAKINGS if each != "none"])
def test_files_that_are_made_again_hold_what_was_promised_since(
    tmp_path: Path, beginnings: dict[str, Path], taking: str
) -> None:
    """Once a commit has returned after the taking, all is there again, what was before it too."""
    seed = random.randrange(10**6)
    base = beginnings["killed"]
    expected = found_in(shutil.copytree(base, tmp_path / "undisturbed") / "spool")
    for at, manner in deaths(operations_of(tmp_path, base, taking), random.Random(seed)):
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        disk = disk_with(base, directory, seed)
        died = work(disk, taking, at)
        where = f"seed {seed}, {manner} at operation {at}, after {died.told}"
        # What is only in a file without a name goes with the process, whatever is done; what is
        # found is sound all the same.
        is_taken = died.told[-1:] == [TAKEN]
        for found in what_is_found(disk, manner):
            assert is_taken or expected | died.ids() <= found, where
        shutil.rmtree(directory)


def disk_with(beginning: Path, directory: Path, seed: int) -> PowerDisk:
    return PowerDisk(directory, seed, QUICK, lambda root: shutil.copytree(beginning, root))


def what_is_found(disk: PowerDisk, manner: str) -> Iterator[set[int]]:
    """By the next start; after a loss of power there are several that it may find."""
    if manner != "loss":
        disk.killed()
    for number in range(0 if manner == "kill" else IMAGES):
        image = disk.root.parent / f"image-{number}"
        disk.put_image(image)
        yield found_in(image / "spool")
        shutil.rmtree(image)
    if manner == "kill":
        yield found_in(disk.root / "spool")


def operations_of(tmp_path: Path, beginning: Path, taking: str) -> str:
    """Of the work when nothing cuts it off."""
    directory = tmp_path / "whole"
    directory.mkdir()
    disk = disk_with(beginning, directory, 0)
    assert work(disk, taking, 0).code == 0
    operations = disk.operations()
    disk.check()
    assert len(operations) > 50
    return operations

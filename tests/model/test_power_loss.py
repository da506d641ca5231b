"""The power fails, at any operation of the disk: nothing acknowledged is lost, nothing half done.

How: a store works through a random plan on a disk that remembers what was synced. Before some of
the disk's operations, images are taken of what it may hold if the power failed just then. Each is
opened, and must hold exactly what was committed, with or without the commit that was under way.
"""

import random
import shutil
from pathlib import Path

import pytest

from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes
from tests.kit.depth import some
from tests.kit.disk import SQLITE_OK, attach, works
from tests.kit.stores import make_letter, new_frame, open_store, stored_ids

IMAGES_MAX = 40  # a seed: each is opened, which takes some 20 ms

State = tuple[frozenset[int], int]  # ids of frames, number of letters


def state_of(store: Store) -> State:
    verification = store.verify()
    assert verification.is_sound, verification
    return frozenset(stored_ids(store)), verification.letter_count


class Plan:
    """Random commits, and what the store must hold before and after the one under way."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.committed: State = (frozenset(), 0)
        self.under_way: State = self.committed
        self._next_id = 1

    def run(self, store: Store) -> None:
        ids, letter_count = self.committed
        appended = range(self._next_id, self._next_id + self._dice.randint(0, 6))
        self._next_id = appended.stop
        settled = [one for one in ids if self._dice.random() < 0.3]
        changes = Changes(
            appended=[
                new_frame(one, record_bytes=self._dice.choice((10, 1000, 30_000)))
                for one in appended
            ],
            settled=settled,
            dead=[make_letter(1)] if self._dice.random() < 0.2 else [],
        )
        self.under_way = ((ids | set(appended)) - set(settled), letter_count + len(changes.dead))
        store.commit(changes)
        self.committed = self.under_way
        if self._dice.random() < 0.1:
            store.give_back(50)


@pytest.mark.parametrize("seed", some(range(4)))
def test_what_was_committed_survives_a_power_loss_at_any_operation(
    tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    images: list[tuple[Path, State, State]] = []
    with attach(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("Python's SQLite cannot be reached from outside")
        store = open_store(disk.directory)
        plan = Plan(dice)

        def take_image(_operation: str, _name: str) -> int:
            assert disk is not None
            if len(images) < IMAGES_MAX and dice.random() < 0.03:
                to = tmp_path / f"image-{len(images)}"
                to.mkdir()
                disk.after_power_loss(dice, to)
                images.append((to, plan.committed, plan.under_way))
            return SQLITE_OK

        disk.before = take_image
        while len(images) < IMAGES_MAX:
            plan.run(store)
        store.close()
        for image, before, after in images:
            found_store = open_store(image)
            found = state_of(found_store)
            set_aside = found_store.upkeep.salvage
            found_store.close()
            assert found in {before, after}, f"seed {seed}, {image.name}"
            assert set_aside is None, f"seed {seed}, {image.name}"
            shutil.rmtree(image)


def test_a_commit_has_synced_the_log_when_it_returns(tmp_path: Path) -> None:
    with attach(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("Python's SQLite cannot be reached from outside")
        store = open_store(disk.directory)
        seen: list[str] = []

        def note(operation: str, name: str) -> int:
            seen.append(f"{operation} {name}")
            return SQLITE_OK

        disk.before = note
        store.commit(Changes(appended=[new_frame(1)]))
        disk.before = works
        assert seen[-1] == "sync spool.db-wal"
        store.close()


def test_a_store_begun_just_before_a_power_loss_can_be_opened(tmp_path: Path) -> None:
    """At each operation of the very first start."""
    directory = tmp_path / "disk"
    with attach(directory) as disk:
        if disk is None:
            pytest.skip("Python's SQLite cannot be reached from outside")
        images: list[Path] = []

        def take_image(_operation: str, _name: str) -> int:
            to = tmp_path / f"image-{len(images)}"
            to.mkdir()
            disk.after_power_loss(random.Random(len(images)), to)
            images.append(to)
            return SQLITE_OK

        disk.before = take_image
        open_store(directory).close()
        disk.before = works
        assert len(images) > 10
        for image in images:
            store = open_store(image)
            assert state_of(store) == (frozenset(), 0)
            store.close()

"""Files are taken away under an open store: nothing is called stored that the next start would not
find, and what was stored is there again as soon as its place is.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdaemon.base.errors import SpoolError
from kdaemon.spool.directory import SpoolDirectory, size_bytes
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.log import apply_frames, mend_log
from kdaemon.spool.values import Changes
from tests.kit.stores import append, make_letter, new_frame, open_store, open_view, stored_ids

Taking = Callable[[Path], object]


def after_a_kill(directory: Path, to: Path) -> list[int]:
    """What a start would find if the process died now."""
    shutil.copytree(directory, to)
    store = open_store(to)
    ids = stored_ids(store)
    store.close()
    return ids


def delete(name: str) -> Taking:
    return lambda directory: (directory / name).unlink()


def replace_by_a_copy(name: str) -> Taking:
    def take(directory: Path) -> None:
        shutil.copy(directory / name, directory / "copy")
        (directory / "copy").rename(directory / name)

    return take


def delete_all(*names: str) -> Taking:
    def take(directory: Path) -> None:
        for one in [directory / name for name in names] or list(directory.iterdir()):
            one.unlink()

    return take


def move(name: str) -> Taking:
    return lambda directory: (directory / name).rename(directory / f"{name}.moved")


HEALED: dict[str, Taking] = {
    "directory deleted": shutil.rmtree,
    "directory emptied": delete_all(),
    "directory moved": lambda directory: directory.rename(directory.with_name("moved")),
    "database deleted": delete("spool.db"),
    "database moved": move("spool.db"),
    "log deleted": delete("spool.db-wal"),
    "log moved": move("spool.db-wal"),
    "log replaced": replace_by_a_copy("spool.db-wal"),
    "log and its index deleted": delete_all("spool.db-wal", "spool.db-shm"),
    "index deleted": delete("spool.db-shm"),
    "lock deleted": delete("spool.lock"),
    "lock replaced": replace_by_a_copy("spool.lock"),
    "database and lock deleted": delete_all("spool.db", "spool.lock"),
}


@pytest.mark.parametrize("taking", HEALED)
def test_what_is_stored_is_made_again_before_anything_more_is_called_stored(
    tmp_path: Path, taking: str
) -> None:
    directory = tmp_path / "spool"
    store = open_store(directory)
    append(store, 1, 2, record_bytes=50_000)
    store.commit(Changes(dead=[make_letter(1)], settled=[1]))
    HEALED[taking](directory)
    append(store, 3)
    assert stored_ids(store) == [2, 3]
    assert after_a_kill(directory, tmp_path / "killed") == [2, 3]
    assert store.upkeep.restored is not None
    assert str(directory) in store.upkeep.restored
    with pytest.raises(SpoolError, match="in use"):
        open_store(directory)
    append(store, 4)
    store.commit(Changes(settled=[3]))
    assert store.letters.count(LetterFilter()).letter_count == 1
    assert store.verify().is_sound
    store.close()
    store = open_store(directory)
    assert stored_ids(store) == [2, 4]
    assert store.next_id > 4


@pytest.mark.parametrize("name", ["spool.db-wal", "spool.db-shm"])
def test_a_log_is_not_begun_beside_another_that_a_command_has_open(
    tmp_path: Path, name: str
) -> None:
    """Two logs of one database would ruin it."""
    store = open_store(tmp_path)
    append(store, 1)
    store.upkeep.database.connection.execute("PRAGMA busy_timeout = 10")
    view = open_view(tmp_path)
    assert stored_ids(view) == [1]
    (tmp_path / name).unlink()
    with pytest.raises(SpoolError) as caught:
        append(store, 2)
    assert caught.value.kind == "gone"
    assert "another process" in str(caught.value)
    view.close()
    append(store, 2)
    assert stored_ids(store) == [1, 2]
    store.close()
    store = open_store(tmp_path)
    assert (stored_ids(store), store.upkeep.salvage) == ([1, 2], None)


@pytest.mark.parametrize("taking", ["log deleted", "log replaced"])
@pytest.mark.parametrize("part", [0.25, 0.5, 0.75, 1.0])
def test_the_power_may_fail_while_a_log_without_a_name_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taking: str, part: float
) -> None:
    """Its name leads to a copy of it before the database is touched."""
    directory, lost = tmp_path / "spool", tmp_path / "lost"
    store = open_store(directory)
    for number in range(1, 40):
        append(store, number, record_bytes=5_000)
    HEALED[taking](directory)
    put_log = SpoolDirectory.put_log

    def fail(claimed: SpoolDirectory, open_fd: int) -> None:
        put_log(claimed, open_fd)
        shutil.copytree(directory, lost, ignore=shutil.ignore_patterns("*-shm"))

    monkeypatch.setattr(SpoolDirectory, "put_log", fail)
    append(store, 40)
    assert stored_ids(store) == list(range(1, 41))
    store.close()
    log = str(lost / "spool.db-wal")
    frames = mend_log(log).read
    assert len(frames) > 10  # the last of each page
    apply_frames(log, frames[: int(len(frames) * part)], str(lost / "spool.db"))
    again = open_store(lost)
    assert stored_ids(again) == list(range(1, 40))
    assert again.verify().is_sound
    assert again.upkeep.salvage is None
    again.close()
    assert not list(directory.glob("*.copy"))


def test_tries_that_fail_leave_one_copy_of_the_log_and_nothing_that_is_older(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "spool"
    store = open_store(directory)
    append(store, 1, 2)
    store.upkeep.database.connection.execute("PRAGMA busy_timeout = 10")
    view = open_view(directory)
    assert stored_ids(view) == [1, 2]
    (directory / "spool.db-wal").unlink()
    for _ in range(3):
        with pytest.raises(SpoolError):
            append(store, 3)
        store.give_back(100)
    log_names = sorted(each.name for each in directory.glob("spool.db-wal*"))
    assert log_names == ["spool.db-wal"]
    assert after_a_kill(directory, tmp_path / "killed") == [1, 2]
    view.close()
    append(store, 3)
    assert stored_ids(store) == [1, 2, 3]
    store.close()
    assert after_a_kill(directory, tmp_path / "ended") == [1, 2, 3]


def test_a_log_of_which_no_copy_can_be_made_is_begun_again_all_the_same(
    tmp_path: Path,
) -> None:
    """As on a full disk."""
    store = open_store(tmp_path)
    append(store, 1)
    (tmp_path / "spool.db-wal").unlink()
    (tmp_path / "spool.db-wal.copy").mkdir()
    append(store, 2)
    assert stored_ids(store) == [1, 2]


def another_spool(directory: Path) -> None:
    shutil.rmtree(directory)
    other = open_store(directory)
    append(other, 7)
    other.close()


def a_file(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.write_text("mine")


REFUSED: dict[str, Taking] = {
    "another spool": another_spool,
    "a copy": replace_by_a_copy("spool.db"),
    "a file": a_file,
    "nothing above": lambda directory: shutil.rmtree(directory.parent),
}


@pytest.mark.parametrize("taking", REFUSED)
def test_what_cannot_be_made_again_is_a_failed_commit_and_what_is_open_stays_readable(
    tmp_path: Path, taking: str
) -> None:
    directory = tmp_path / "above" / "spool"
    directory.parent.mkdir()
    store = open_store(directory)
    append(store, 1)
    REFUSED[taking](directory)
    for _ in range(4):
        with pytest.raises(SpoolError) as caught:
            append(store, 2)
        assert caught.value.kind == "gone"
        assert str(directory) in str(caught.value)
        assert stored_ids(store) == [1]
    if taking == "another spool":
        store.close()
        other = open_store(directory)
        assert stored_ids(other) == [7], "what stands there is not ours to touch"
        other.close()
        return


def test_what_is_put_back_is_used_again(tmp_path: Path) -> None:
    directory, away = tmp_path / "spool", tmp_path / "away"
    store = open_store(directory)
    append(store, 1)
    directory.rename(away)
    directory.write_text("something")
    with pytest.raises(SpoolError):
        append(store, 2)
    directory.unlink()
    away.rename(directory)
    append(store, 2)
    assert after_a_kill(directory, tmp_path / "killed") == [1, 2]
    assert store.upkeep.restored is None, "nothing had to be made again"


def test_files_that_go_between_the_commit_and_its_answer_are_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "spool"
    store = open_store(directory)
    append(store, 1)
    measure = size_bytes

    def take_away(path: str) -> int:
        """Called with the transaction on disk."""
        byte_count = measure(path)
        shutil.rmtree(directory)
        directory.write_text("mine")
        return byte_count

    with monkeypatch.context() as taken:
        taken.setattr("kdaemon.spool.store.size_bytes", take_away)
        with pytest.raises(SpoolError) as caught:
            append(store, 2)
    assert caught.value.kind == "gone"


def test_an_empty_directory_of_another_disk_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is gone leaves the directory that it stood on, and its disk is not ours."""
    directory = tmp_path / "spool"
    store = open_store(directory)
    append(store, 1)
    shutil.rmtree(directory)
    directory.mkdir(0o700)
    store.upkeep.files.device += 1
    with pytest.raises(SpoolError, match="mount"):
        append(store, 2)
    assert list(directory.iterdir()) == []
    assert stored_ids(store) == [1]


@pytest.mark.parametrize("left_bytes", [0, 100, 20_000, 33_000])
def test_a_log_that_was_cut_off_is_told_and_nothing_more_is_lost(
    tmp_path: Path, left_bytes: int
) -> None:
    directory = tmp_path / "spool"
    store = open_store(directory)
    append(store, 1)
    store.give_back(0)  # what stands in the database is safe
    append(store, 2, 3)
    os.truncate(directory / "spool.db-wal", left_bytes)
    append(store, 4)
    assert store.upkeep.restored is not None
    assert "the end of spool.db-wal" in store.upkeep.restored
    assert "is lost" in store.upkeep.restored
    ids = stored_ids(store)
    assert {1, 4} <= set(ids)
    assert after_a_kill(directory, tmp_path / "killed") == ids
    append(store, 5)
    assert stored_ids(store) == [*ids, 5]
    assert store.verify().is_sound


def test_a_database_that_was_cut_off_is_mended_with_what_can_be_read(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    store = open_store(directory)
    append(store, *range(1, 30), record_bytes=20_000)
    store.give_back(0)
    os.truncate(directory / "spool.db", 100_000)
    append(store, 30)
    assert stored_ids(store)[-1] == 30
    assert after_a_kill(directory, tmp_path / "killed") == stored_ids(store)
    assert store.upkeep.salvage is not None


def test_a_look_tells_what_is_gone_without_a_commit(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    store = open_store(directory)
    append(store, 1)
    store.upkeep.look()
    shutil.rmtree(directory)
    store.upkeep.look()
    assert after_a_kill(directory, tmp_path / "killed") == [1]
    shutil.rmtree(directory)
    directory.write_text("mine")
    with pytest.raises(SpoolError) as caught:
        store.upkeep.look()
    assert caught.value.kind == "gone"


def test_a_directory_that_cannot_be_looked_at_is_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that fails, a permission that was taken: the kernel's word is passed on."""
    store = open_store(tmp_path / "spool")
    append(store, 1)
    real = os.stat

    def stat(path: str, **options: bool) -> os.stat_result:
        if str(path).endswith("spool.db"):
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    with monkeypatch.context() as taken:
        taken.setattr(os, "stat", stat)
        with pytest.raises(SpoolError, match="Permission denied") as caught:
            append(store, 2)
        assert caught.value.kind == "directory"
    append(store, 2)
    assert stored_ids(store) == [1, 2]


def test_changes_of_a_commit_that_was_refused_are_not_applied(tmp_path: Path) -> None:
    directory, away = tmp_path / "spool", tmp_path / "away"
    store = open_store(directory)
    append(store, 1)
    directory.rename(away)
    directory.write_text("mine")
    with pytest.raises(SpoolError):
        store.commit(Changes(appended=[new_frame(2)], settled=[1]))
    directory.unlink()
    away.rename(directory)
    assert stored_ids(store) == [1]


@pytest.mark.parametrize("taking", ["directory deleted", "database deleted", "database moved"])
@pytest.mark.parametrize("step", ["make", "exchange"])
def test_a_kill_while_it_is_made_again_loses_nothing_that_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taking: str, step: str
) -> None:
    directory, killed = tmp_path / "spool", tmp_path / "killed"
    store = open_store(directory)
    append(store, 1, 2)
    HEALED[taking](directory)

    class Killed(BaseException):
        pass

    real = getattr(SpoolDirectory, step)

    def kill(claimed: SpoolDirectory, *arguments: object) -> None:
        real(claimed, *arguments)
        shutil.copytree(directory, killed)
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(SpoolDirectory, step, kill)
        with pytest.raises(Killed):
            append(store, 3)
    again = open_store(killed)
    assert stored_ids(again) == [1, 2]


@pytest.mark.parametrize("names", [["spool.db"], ["spool.db", "spool.reserve"]])
def test_a_database_that_is_gone_at_start_is_told(tmp_path: Path, names: list[str]) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    assert not store.directory.is_emptied
    store.close()
    delete_all(*names)(tmp_path)
    store = open_store(tmp_path)
    assert store.directory.is_emptied
    append(store, 1)
    store.close()
    store = open_store(tmp_path)
    assert not store.directory.is_emptied

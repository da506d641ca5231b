"""`kdaemon spool salvage`: a new spool out of a file that is damaged, wherever that stands."""

import errno
import json
import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdaemon.base.errors import SpoolError
from kdaemon.cli import cli
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.schema import PAGE_BYTES
from kdaemon.spool.values import Changes
from tests.kit.depth import some
from tests.kit.stores import (
    append,
    encode_settled,
    make_letter,
    make_records,
    open_store,
    open_view,
    stored_ids,
)
from tests.kit.watching import before

FRAMES = 40
LEAF = 13  # what a page of rows begins with
RECORD_BYTES = 3_000  # three of them a frame: two frames a page, and some that go on in another


def fill(directory: Path) -> None:
    store = open_store(directory)
    append(store, *range(1, FRAMES + 1), record_bytes=RECORD_BYTES)
    store.commit(
        Changes(
            progress=[(2, encode_settled([0], 3))],
            dead=[make_letter(number) for number in range(5)],
        )
    )
    store.close()


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sound") / "spool"
    fill(directory)
    return directory / "spool.db"


@pytest.fixture
def file(sound: Path, tmp_path: Path) -> Path:
    """A copy, as of a disk that dies."""
    return Path(shutil.copyfile(sound, tmp_path / "rescued.db"))


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "saved"


def salvage(file: Path, into: Path) -> Result:
    """The command, which changes nothing of the file."""
    before = file.read_bytes() if file.is_file() else None
    names = sorted(os.listdir(file.parent)) if file.parent != into.parent else None
    result = CliRunner().invoke(cli, ["spool", "salvage", str(file), "--into", str(into)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert before is None or file.read_bytes() == before
    assert names is None or sorted(os.listdir(file.parent)) == names
    return result


def saved_ids(into: Path) -> list[int]:
    """Ids of the frames in the new spool, each of which is to the letter what was stored."""
    view = open_view(into)
    try:
        for frame in view.read("orders", 0, 10**9).frames:
            assert frame.records == make_records(frame.id, 3, RECORD_BYTES)
        return stored_ids(view)
    finally:
        view.close()


def overwrite(file: Path, page: int, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(page * PAGE_BYTES)
        opened.write(content)


def test_a_sound_file_is_saved_whole_with_letters_and_progress(file: Path, into: Path) -> None:
    result = salvage(file, into)
    assert (result.exit_code, "NOT ALL" in result.stdout) == (0, False)
    assert f"{into}: 120 records in 40 frames and 5 dead letters saved\n" in result.stdout
    assert saved_ids(into) == list(range(1, FRAMES + 1))
    view = open_view(into)
    assert view.letters.count(LetterFilter()).letter_count == 5
    assert view.census().settled == {"orders": 1}
    view.close()
    exported = CliRunner().invoke(cli, ["spool", "export", "--directory", str(into)])
    lines = [json.loads(line) for line in exported.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 3 * FRAMES - 1
    store = open_store(into)  # a daemon can take it as it is, and has nothing to mend
    assert (store.upkeep.salvage, store.verify().is_sound) == (None, True)
    assert store.next_id > FRAMES
    store.close()
    assert not list(into.glob("spool.db.corrupt-*"))


def test_what_a_start_has_set_aside_is_read_again(sound: Path, tmp_path: Path, into: Path) -> None:
    spool = tmp_path / "spool"
    shutil.copytree(sound.parent, spool)
    content = (spool / "spool.db").read_bytes()
    rows = [at for at in range(8, len(content) // PAGE_BYTES) if content[at * PAGE_BYTES] == LEAF]
    overwrite(spool / "spool.db", rows[3], bytes(PAGE_BYTES))
    store = open_store(spool)
    kept = stored_ids(store)
    aside = store.upkeep.salvage
    assert aside is not None
    result = salvage(Path(aside.path), into)  # while a daemon has the spool
    assert (result.exit_code, "NOT ALL" in result.stdout) == (1, True)
    assert "cannot be read or are not as written" in result.stderr
    assert saved_ids(into) == kept
    assert 20 < len(kept) < FRAMES


@pytest.mark.parametrize("part", [0.3, 0.6, 0.97])
def test_of_a_file_that_ends_too_soon_the_rest_is_saved(
    file: Path, into: Path, part: float
) -> None:
    os.truncate(file, int(file.stat().st_size * part))
    result = salvage(file, into)
    assert result.exit_code == 1, result.output
    assert "NOT ALL" in result.stdout
    assert 0 < len(saved_ids(into)) < FRAMES


@pytest.mark.parametrize("seed", some(range(8)))
def test_of_pages_that_are_noise_the_others_are_saved(file: Path, into: Path, seed: int) -> None:
    dice = random.Random(seed)
    for page in dice.sample(range(1, file.stat().st_size // PAGE_BYTES), 3):
        overwrite(file, page, dice.randbytes(PAGE_BYTES))
    result = salvage(file, into)
    if result.exit_code != 78:  # else nothing could be read: said, and nothing is left
        assert len(saved_ids(into)) > 0
        assert "saved" in result.stdout
        store = open_store(into)
        assert not store.verify().problems
        store.close()
    else:
        assert not into.exists()


def test_a_file_without_its_first_page_is_saved(file: Path, into: Path) -> None:
    overwrite(file, 0, bytes(PAGE_BYTES))
    result = salvage(file, into)
    assert result.exit_code in {0, 1}, result.output
    assert saved_ids(into) == list(range(1, FRAMES + 1))


def test_one_bad_row_is_left_out_and_told(file: Path, into: Path) -> None:
    connection = sqlite3.connect(file)
    with connection:
        connection.execute("UPDATE frame SET payload = CAST(payload || x'00' AS BLOB) WHERE id = 7")
        connection.execute("UPDATE letter SET data = x'00' WHERE id = 1")
        connection.execute(
            "UPDATE stream SET byte_count = (SELECT sum(length(payload)) FROM frame)"
        )
    connection.close()
    result = salvage(file, into)
    assert result.exit_code == 1
    assert "1 damaged frame and 1 damaged dead letter are not what was written" in result.stderr
    assert "39 frames and 4 dead letters saved, NOT ALL" in result.stdout


def test_the_log_beside_a_file_is_read_too(tmp_path: Path, into: Path) -> None:
    store = open_store(tmp_path / "spool")
    append(store, 1, 2)
    (tmp_path / "copies").mkdir()
    for suffix in ("", "-wal"):  # as a snapshot of the disk has them
        shutil.copyfile(tmp_path / f"spool/spool.db{suffix}", tmp_path / f"copies/it.db{suffix}")
    store.close()
    (tmp_path / "link.db").symlink_to(tmp_path / "copies/it.db")
    for name in ("copies/it.db", "link.db"):
        result = salvage(tmp_path / name, into)
        assert (result.exit_code, "read, with its log" in result.stderr) == (0, True)
        view = open_view(into)
        assert stored_ids(view) == [1, 2], name
        view.close()
        shutil.rmtree(into)


def test_that_no_log_was_there_is_told(file: Path, into: Path) -> None:
    assert "which has no log beside it" in salvage(file, into).stderr


def test_frames_in_quarantine_that_are_not_copied_are_told(file: Path, into: Path) -> None:
    connection = sqlite3.connect(file)
    with connection:
        connection.execute("INSERT INTO quarantine (id, quarantined_ms) VALUES (1000, 1)")
        connection.execute("UPDATE stream SET record_count = record_count + 1")
    connection.close()
    result = salvage(file, into)
    assert result.exit_code == 1
    assert "frames in quarantine that were not copied: 1" in result.stderr


@pytest.mark.parametrize("content", [b"", b"hello\n" * 10_000, bytes(100_000)])
def test_what_is_no_database_is_told_and_nothing_is_made(
    tmp_path: Path, into: Path, content: bytes
) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    result = salvage(file, into)
    assert result.exit_code == 78, result.output
    assert f"{file}: nothing of a spool can be read of it" in result.stderr
    assert not into.exists()


def test_another_programs_database_is_told_and_nothing_is_made(tmp_path: Path, into: Path) -> None:
    file = tmp_path / "other.db"
    connection = sqlite3.connect(file)
    with connection:
        connection.execute("CREATE TABLE frame (id INTEGER PRIMARY KEY, stream, payload)")
        connection.execute("INSERT INTO frame VALUES (1, 1, x'00')")
    connection.close()
    assert salvage(file, into).exit_code == 78
    assert not into.exists()


def test_what_is_not_a_file_is_told(tmp_path: Path, into: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, told in (("none", "no such file"), ("pipe", "not a regular file")):
        result = salvage(tmp_path / name, into)
        assert (result.exit_code, told in result.stderr) == (78, True)
        assert not into.exists()


def test_the_database_of_a_running_daemon_is_left_to_it(tmp_path: Path, into: Path) -> None:
    store = open_store(tmp_path / "spool")
    append(store, 1)
    (tmp_path / "link.db").symlink_to(tmp_path / "spool/spool.db")
    for file in (tmp_path / "spool/spool.db", tmp_path / "link.db"):
        result = CliRunner().invoke(cli, ["spool", "salvage", str(file), "--into", str(into)])
        assert result.exit_code == 1
        assert f"a daemon runs on it (pid {os.getpid()})" in result.stderr
        assert not into.exists()
    append(store, 2)
    assert stored_ids(store) == [1, 2]


def test_a_daemon_that_starts_while_its_file_is_copied_is_told_to_come_again(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "spool")
    told = []

    def copy(source: str, copy: Path) -> None:
        with pytest.raises(SpoolError) as error:
            open_store(tmp_path / "spool")
        told.append(error.value.kind)

    before(monkeypatch, shutil, "copyfile", copy)
    assert salvage(tmp_path / "spool/spool.db", into).exit_code == 0
    assert set(told) == {"busy"}
    assert saved_ids(into) == list(range(1, FRAMES + 1))
    open_store(tmp_path / "spool").close()


def test_a_directory_that_is_there_is_left_alone(file: Path, into: Path) -> None:
    into.mkdir()
    (into / "mine").write_text("x")
    result = salvage(file, into)
    assert (result.exit_code, "name a directory that is not there yet" in result.stderr) == (
        78,
        True,
    )
    assert os.listdir(into) == ["mine"]


def test_a_newer_kdaemons_file_is_not_touched(file: Path, into: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    result = salvage(file, into)
    assert (result.exit_code, "written by a newer kdaemon" in result.stderr) == (78, True)
    assert not into.exists()


def test_a_full_disk_is_told_and_nothing_is_left(
    file: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_paths: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    result = salvage(file, into)
    assert (result.exit_code, "o space left" in result.stderr) == (1, True)
    assert not into.exists()

"""Bad places for a spool: the error names the path and the remedy, and nothing is touched."""

import os
import sqlite3
from pathlib import Path

import pytest

from kdaemon.base.errors import SpoolError
from kdaemon.spool.directory import SpoolDirectory
from kdaemon.spool.rights import strangers
from tests.kit.stores import append, open_store, open_view, stored_ids

is_root = os.geteuid() == 0


def refusal(directory: Path) -> SpoolError:
    with pytest.raises(SpoolError) as caught:
        open_store(directory)
    return caught.value


def test_a_directory_is_made_if_its_parent_is_there(tmp_path: Path) -> None:
    open_store(tmp_path / "spool").close()
    error = refusal(tmp_path / "no" / "spool")
    assert error.kind == "directory"
    assert f"{tmp_path}/no/spool: does not exist" in str(error)
    assert f"mkdir -p {tmp_path}/no/spool" in str(error)


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("mine")
    error = refusal(tmp_path / "spool")
    assert error.kind == "directory"
    assert "not a directory" in str(error)
    assert (tmp_path / "spool").read_text() == "mine"
    assert refusal(tmp_path / "spool" / "below").kind == "directory"


def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").symlink_to(tmp_path / "nowhere")
    assert refusal(tmp_path / "spool").kind == "directory"


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "spool.lock").symlink_to(tmp_path / "precious")
    assert refusal(tmp_path / "spool").kind == "directory"
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.linux
@pytest.mark.root
def test_a_directory_that_is_no_disk_is_refused_as_what_it_is() -> None:
    error = refusal(Path("/proc"))
    assert error.kind == "directory"
    assert str(error).startswith("/proc: no file can be made in it")


@pytest.mark.root
def test_root_leaves_no_files_in_the_directory_of_another(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    os.chown(tmp_path / "spool", 12345, -1)
    error = refusal(tmp_path / "spool")
    assert error.kind == "directory"
    assert "belongs to uid 12345, and this is root" in str(error)
    assert "chown -R root" in str(error)
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.skipif(is_root, reason="every mode is open to root")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(0o500)
    assert refusal(tmp_path / "spool").kind == "directory"


@pytest.mark.parametrize(
    "content", [b"some notes of mine", b"x" * 10_000, b"SQLite format 3\x00" + bytes(200)]
)
def test_a_foreign_file_is_refused_each_time_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spool.db").write_bytes(content)
    for _ in range(2):
        error = refusal(tmp_path)
        assert error.kind == "foreign"
        assert "spool.db: not a database of kdaemon" in str(error)
    assert (tmp_path / "spool.db").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spool.db", "spool.lock"]


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "spool.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = (tmp_path / "spool.db").read_bytes()
    assert refusal(tmp_path).kind == "foreign"
    with pytest.raises(SpoolError, match="not a database of kdaemon"):
        open_view(tmp_path)
    assert (tmp_path / "spool.db").read_bytes() == before


@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_what_is_no_regular_file_in_the_place_of_the_database_is_refused(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "spool.db"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "elsewhere")
    error = refusal(tmp_path)
    assert error.kind == "foreign"
    assert "not a regular file" in str(error)


def test_an_empty_file_in_the_place_of_the_database_is_begun(tmp_path: Path) -> None:
    """What a crash in the very first moment leaves."""
    (tmp_path / "spool.db").touch()
    store = open_store(tmp_path)
    append(store, 1)
    assert stored_ids(store) == [1]
    assert store.upkeep.salvage is None


def test_a_look_at_nothing_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(SpoolError, match=r"look at spool\.directory") as caught:
            open_view(directory)
        assert caught.value.kind == "directory"
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_signs_that_mean_something_in_a_uri_is_a_name(tmp_path: Path) -> None:
    directory = tmp_path / "a?b#c%20d e"
    store = open_store(directory)
    append(store, 1)
    store.close()
    assert (directory / "spool.db").exists()
    store = open_store(directory)
    assert stored_ids(store) == [1]


def test_the_pid_of_an_earlier_holder_is_not_taken_for_that_of_the_present_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "spool.lock").write_text("1234567890123\n")
    open_store(tmp_path)
    assert (tmp_path / "spool.lock").read_text().split()[0] == str(os.getpid())


def test_a_database_put_aside_twice_in_a_second_gets_two_names(tmp_path: Path) -> None:
    directory = SpoolDirectory(str(tmp_path))
    names = []
    for content in ("first", "second", "third"):
        (tmp_path / "spool.db").write_text(content)
        (tmp_path / "spool.db-wal").write_text(f"log of {content}")
        names.append(directory.set_aside(0))
    directory.release()
    assert [Path(name).name for name in names] == [
        "spool.db.corrupt-19700101T000000Z",
        "spool.db.corrupt-19700101T000000Z-2",
        "spool.db.corrupt-19700101T000000Z-3",
    ]
    assert [Path(name).read_text() for name in names] == ["first", "second", "third"]
    assert Path(names[1] + "-wal").read_text() == "log of second"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o707, 0o702])
def test_a_directory_where_everybody_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    spool.chmod(mode)
    error = refusal(spool)
    assert error.kind == "directory"
    assert f"everybody may write there (mode {mode:04o}): chmod 0700 it" in str(error)
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o2775])
def test_a_directory_where_a_group_may_write_is_taken_and_told(tmp_path: Path, mode: int) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    spool.chmod(mode)
    store = open_store(spool)
    assert store.directory.lock.warning is not None
    assert f"may write there (mode {mode:04o})" in store.directory.lock.warning


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_a_directory_where_only_we_may_write_is_taken_without_a_word(
    tmp_path: Path, mode: int
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    spool.chmod(mode)
    store = open_store(spool)
    assert store.directory.lock.warning is None


@pytest.mark.parametrize(
    ("me", "told"), [(4242, None), (4243, "belongs to uid 4242, and this is uid 4243: chown -R")]
)
def test_a_directory_of_another_user_is_not_used_unless_it_is_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, me: int, told: str | None
) -> None:
    """Root's is: it is root that gives a container its volumes."""

    class Status:
        st_uid, st_gid, st_mode = 4242, 4242, 0o40700

    monkeypatch.setattr(os, "geteuid", lambda: me)
    monkeypatch.setattr(Path, "stat", lambda _self: Status)
    refused, warning = strangers(str(tmp_path))
    assert warning is None
    assert (refused or "").startswith(told or "")
    assert (refused is None) is (told is None)
    Status.st_uid = 0
    assert strangers(str(tmp_path)) == (None, None)

"""Bytes on disk change by themselves: what is whole is delivered, what is not is kept and counted.

A damaged row goes to quarantine; a database that cannot be worked with is put aside under a new
name, and what can be read of it goes on in a new one. Nothing is deleted, nothing false given out.
"""

import contextlib
import errno
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kdaemon.base.errors import SpoolError
from kdaemon.spool.codec import settled_indices
from kdaemon.spool.directory import SpoolDirectory
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.schema import PAGE_BYTES
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes
from kdaemon.spool.writes import QUARANTINE_ROWS_MAX
from tests.kit.depth import examples
from tests.kit.stores import (
    append,
    encode_settled,
    flip,
    make_letter,
    make_records,
    new_frame,
    open_store,
    open_view,
    stored_ids,
)

ORDERS = list(range(1, 41))
CLICKS = list(range(41, 61))
SIZES = (10, 300, 6_000, 30_000)  # inside a page, and over several


def sizes_of(frame_id: int) -> int:
    return SIZES[frame_id % len(SIZES)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool in which there is some of everything."""
    directory = tmp_path_factory.mktemp("sound")
    store = open_store(directory)
    for ids, stream in ((ORDERS, "orders"), (CLICKS, "clicks")):
        frames = [new_frame(one, stream, record_bytes=sizes_of(one)) for one in ids]
        store.commit(Changes(appended=frames))
    append(store, *range(61, 81), stream="gone")
    store.commit(
        Changes(
            settled=list(range(61, 81)),
            progress=[(one, encode_settled([1], 3)) for one in range(1, 10)],
            dead=[make_letter(number, data_bytes=500) for number in range(20)],
        )
    )
    store.close()
    return directory


@pytest.fixture
def spool(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "spool"))


def found_whole(store: Store) -> set[int]:
    """Ids of frames that are given out; each must be to the letter what was stored."""
    found = set()
    for stream in ("orders", "clicks"):
        after_id = 0
        while True:
            read = store.read(stream, after_id, 100_000)
            for frame in read.frames:
                assert frame.records == make_records(frame.id, 3, sizes_of(frame.id))
                assert frame.stream == stream
                assert frame.settled is None or settled_indices(frame.settled, 3) == [1]
                found.add(frame.id)
            after_id = read.last_id
            if read.is_end:
                break
    return found


def in_quarantine(store: Store) -> int:
    return store.verify().quarantine_count


def set_aside(spool: Path) -> list[Path]:
    return sorted(spool.glob("spool.db.corrupt-*Z"))


def damage_payload(store: Store, frame_id: int) -> None:
    store.upkeep.database.connection.execute(
        "UPDATE frame SET payload = CAST(payload || x'00' AS BLOB) WHERE id = ?", (frame_id,)
    )


def test_a_damaged_row_goes_to_quarantine_and_the_rest_is_given_out(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1, 2, 3, 4)
    damage_payload(store, 2)
    damage_payload(store, 4)
    view = open_view(tmp_path)
    assert view.verify().corrupt_ids == [2, 4]
    assert view.read("orders", 0, 10**6).corrupt_count == 2  # who looks moves nothing
    view.close()
    read = store.read("orders", 0, 10**6)
    assert [frame.id for frame in read.frames] == [1, 3]
    assert (read.corrupt_count, read.corrupt_record_count, read.last_id) == (2, 6, 4)
    again = store.read("orders", 0, 10**6)
    assert (again.corrupt_count, [frame.id for frame in again.frames]) == (0, [1, 3])
    assert store.stored_totals()[0].record_count == 6
    verification = store.verify()
    assert verification.is_sound
    assert verification.quarantine_count == 2


@pytest.mark.parametrize(
    "damage",
    [
        "id = id + 1000",
        "record_count = 2",
        "record_count = 1000000000000",
        "record_count = 'x'",
        "accepted_ms = accepted_ms + 1",
        "checksum = checksum + 1",
        "payload = x''",
        "payload = 'text'",
        "payload = zeroblob(100)",
    ],
)
def test_every_field_of_a_row_is_guarded(tmp_path: Path, damage: str) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    store.upkeep.database.connection.execute(f"UPDATE frame SET {damage}")
    read = store.read("orders", 0, 10**6)
    assert (read.frames, read.corrupt_count, read.corrupt_record_count) == ([], 1, 3)
    assert store.stored_totals() == []
    assert store.verify().is_sound


def test_a_row_that_strays_into_another_stream_is_not_delivered_there(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    append(store, 2, stream="clicks")
    store.upkeep.database.connection.execute("UPDATE frame SET stream = 3 - stream")
    assert store.read("orders", 0, 10**6).frames == []
    assert store.read("clicks", 0, 10**6).frames == []
    assert in_quarantine(store) == 2


def test_a_damaged_bitmap_means_that_nothing_is_known_to_be_settled(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    store.commit(Changes(progress=[(1, encode_settled([0, 1], 3))]))
    store.upkeep.database.connection.execute("UPDATE progress SET settled = x'0700000000'")
    (frame,) = store.read("orders", 0, 10**6).frames
    assert frame.settled is None


def test_quarantine_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    ids = range(1, QUARANTINE_ROWS_MAX + 11)
    append(store, *ids, record_bytes=1)
    store.upkeep.database.connection.execute("UPDATE frame SET checksum = 0")
    read = store.read("orders", 0, 10**9)
    assert read.corrupt_count == len(ids)
    (oldest,) = store.upkeep.database.connection.execute(
        "SELECT min(id) FROM quarantine"
    ).fetchone()
    assert (in_quarantine(store), oldest) == (QUARANTINE_ROWS_MAX, 11)


def test_the_sound_spool_is_sound(spool: Path) -> None:
    store = open_store(spool)
    assert found_whole(store) == {*ORDERS, *CLICKS}
    assert store.verify().is_sound
    assert store.upkeep.salvage is None


@pytest.mark.parametrize("seed", range(5))
def test_a_byte_that_changes_anywhere_is_never_given_out_and_what_it_hides_is_kept(
    spool: Path, seed: int
) -> None:
    """Of every page some byte, and of every page's head; each by itself, in a fresh copy."""
    dice = random.Random(seed)
    database = spool / "spool.db"
    content = database.read_bytes()
    pages = len(content) // PAGE_BYTES
    offsets = [page * PAGE_BYTES + dice.randrange(PAGE_BYTES) for page in range(seed, pages, 5)]
    offsets += [page * PAGE_BYTES + dice.randrange(120) for page in range(min(pages, examples(20)))]
    for offset in offsets:
        for path in spool.iterdir():
            if path.name not in {"spool.lock", "spool.reserve"}:
                path.unlink()
        database.write_bytes(content)
        flip(database, offset, 1 << dice.randrange(8))
        where = f"seed {seed}, offset {offset}"
        try:
            store = open_store(spool)
        except SpoolError as error:
            if error.kind != "version":  # the byte that says so may change too
                raise
            continue
        found = found_whole(store)
        letters = [letter for letter in store.letters.select(LetterFilter()) if letter.is_intact]
        lost_count = len(ORDERS) + len(CLICKS) - len(found)
        kept_aside = [path for path in set_aside(spool) if path.stat().st_size == len(content)]
        is_hidden = not store.verify().is_sound  # in the index: still stored, and `verify` tells
        assert kept_aside or is_hidden or lost_count == in_quarantine(store), where
        assert {letter.data for letter in letters} <= {
            make_letter(number, data_bytes=500).data for number in range(20)
        }, where
        append(store, store.next_id)
        store.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames and two letters, closed."""
    directory = tmp_path_factory.mktemp("small")
    store = open_store(directory)
    append(store, 1, 2, 3, record_bytes=20)
    append(store, 4, 5, stream="clicks", record_bytes=20)
    store.commit(
        Changes(
            progress=[(1, encode_settled([1], 3))],
            dead=[make_letter(1, data_bytes=20), make_letter(2, data_bytes=20)],
        )
    )
    store.close()
    return directory


def kind_of(call: Callable[[], object]) -> str | None:
    """The kind of SpoolError that it ends in; None: it ends well. Anything else is a traceback."""
    try:
        call()
    except SpoolError as error:
        return error.kind
    return None


def look_at_all(directory: Path) -> None:
    """As the commands do."""
    view = open_view(directory)
    with contextlib.closing(view):
        view.stored_totals()
        stored_ids(view, "orders")
        view.verify()
        list(view.letters.select(LetterFilter()))


def start(directory: Path, where: str) -> None:
    """All frames and letters are there, or in quarantine, or in a file put aside."""
    store = open_store(directory)
    with contextlib.closing(store):
        found = {one for stream in ("orders", "clicks") for one in stored_ids(store, stream)}
        verification = store.verify()
        letters = list(store.letters.select(LetterFilter()))
        assert all(
            letter.data.startswith((b"1.", b"2.")) for letter in letters if letter.is_intact
        ), where
        is_told = store.upkeep.salvage is not None or not verification.is_sound
        is_all = len(found) + verification.quarantine_count == 5 and len(letters) == 2
        assert is_all or is_told, where
        append(store, store.next_id)


@pytest.mark.parametrize("part", range(4))
def test_a_bit_that_flips_anywhere_ends_in_no_traceback_and_nothing_is_lost_silently(
    small: Path, tmp_path: Path, part: int
) -> None:
    """Bits of the schema (the first page) and of all other pages, each by itself."""
    dice = random.Random(part)
    content = (small / "spool.db").read_bytes()
    written = [at for at, byte in enumerate(content) if byte]
    schema_at = [at for at in written if at < PAGE_BYTES] + list(range(100))
    spool = tmp_path / "spool"
    spool.mkdir()
    shutil.copy(small / "spool.lock", spool)
    for at in dice.sample(schema_at, examples(40)) + dice.sample(written, examples(30)):
        for path in spool.glob("spool.db*"):
            path.unlink()
        (spool / "spool.db").write_bytes(content)
        bit = dice.randrange(8)
        flip(spool / "spool.db", at, 1 << bit)
        where = f"part {part}, byte {at}, bit {bit}"
        assert kind_of(partial(look_at_all, spool)) in {None, "corrupt", "foreign", "version"}, (
            where
        )
        # The number that says which version it is may change too.
        assert kind_of(partial(start, spool, where)) in {None, "version"}, where


@pytest.mark.parametrize("kind", ["a letter", "no text", "the head", "all of it"])
@pytest.mark.parametrize("has_log", [True, False])
def test_with_a_damaged_schema_every_row_is_saved_and_the_old_file_is_kept(
    small: Path, tmp_path: Path, kind: str, *, has_log: bool
) -> None:
    """The schema of one spool is that of another."""
    spool = Path(shutil.copytree(small, tmp_path / "spool"))
    if has_log:  # as a kill leaves it
        store = open_store(spool)
        append(store, 6)
        copy = Path(shutil.copytree(spool, tmp_path / "killed"))
        store.close()
        spool = copy
        (spool / "spool.db-shm").unlink()
    content = (spool / "spool.db").read_bytes()
    if kind == "a letter":
        content = content.replace(b"CREATE TABLE frame", b"CREATE TABME frame")
    elif kind == "no text":
        content = content.replace(b"record_count", b"record\xc0count")
    elif kind == "the head":
        content = b"SQLite formaT 3" + content[15:]
    else:
        content = bytes(PAGE_BYTES) + content[PAGE_BYTES:]
    (spool / "spool.db").write_bytes(content)
    store = open_store(spool)
    assert store.upkeep.salvage is not None
    assert (store.upkeep.salvage.frame_count, store.upkeep.salvage.letter_count) == (5 + has_log, 2)
    assert store.upkeep.salvage.problem is None
    aside = Path(store.upkeep.salvage.path)
    # SQLite may have put its log into it.
    assert has_log or aside.read_bytes()[PAGE_BYTES:] == content[PAGE_BYTES:]
    assert len(stored_ids(store)) == 3 + has_log
    assert store.verify().is_sound
    assert not list(spool.glob("*.copy"))
    append(store, store.next_id)


def test_a_directory_in_the_place_of_the_database_is_put_aside(small: Path, tmp_path: Path) -> None:
    spool = Path(shutil.copytree(small, tmp_path / "spool"))
    (spool / "spool.db").unlink()
    (spool / "spool.db").mkdir()
    (spool / "spool.db" / "x").touch()
    with pytest.raises(SpoolError, match="not a regular file"):
        open_view(spool)
    store = open_store(spool)
    assert store.upkeep.salvage is not None
    assert (Path(store.upkeep.salvage.path) / "x").exists()
    append(store, store.next_id)


@pytest.mark.parametrize("name", ["spool.db-wal", "spool.db-shm", "spool.reserve"])
def test_a_directory_in_the_place_of_a_file_beside_it_is_told(
    small: Path, tmp_path: Path, name: str
) -> None:
    spool = Path(shutil.copytree(small, tmp_path / "spool"))
    (spool / name).unlink(missing_ok=True)
    (spool / name).mkdir()
    with pytest.raises(SpoolError, match=f"{name}: a directory in the place"):
        open_store(spool)
    (spool / name).rmdir()
    store = open_store(spool)
    assert len(stored_ids(store)) == 3


@pytest.mark.parametrize("value", ["x'ff00'", "'a'", "1.5", "-1", "9223372036854775807"])
@pytest.mark.parametrize("column", ["next_frame_id", "letter_count", "letter_bytes"])
def test_a_total_that_is_no_number_of_ours_is_damage(
    small: Path, tmp_path: Path, column: str, value: str
) -> None:
    """One bit of a row's head makes a text of a number. Otherwise: a traceback at every start."""
    spool = Path(shutil.copytree(small, tmp_path / "spool"))
    with contextlib.closing(sqlite3.connect(spool / "spool.db")) as connection, connection:
        connection.execute(f"UPDATE total SET {column} = {value}")
    store = open_store(spool)
    assert len(stored_ids(store)) == 3
    if "'" in value:
        assert store.upkeep.salvage is not None
    append(store, store.next_id)
    store.close()
    store = open_store(spool)
    assert store.upkeep.salvage is None
    assert len(stored_ids(store)) == 4


@pytest.mark.parametrize("name", ["spool.db", "spool.db-wal", "spool.lock", "spool.reserve"])
def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(
    small: Path, tmp_path: Path, name: str
) -> None:
    """Who opens a pipe waits for the other end, for ever."""
    spool = Path(shutil.copytree(small, tmp_path / "spool"))
    (spool / name).unlink(missing_ok=True)
    os.mkfifo(spool / name)
    with pytest.raises(SpoolError, match=r"pipe|not a regular file"):
        open_store(spool)
    if name in ("spool.db", "spool.db-wal"):
        with pytest.raises(SpoolError):
            open_view(spool)
    else:
        open_view(spool).close()


def test_a_database_of_a_spool_that_is_empty_is_told(small: Path, tmp_path: Path) -> None:
    spool = Path(shutil.copytree(small, tmp_path / "spool"))
    store = open_store(spool)
    assert not store.directory.is_emptied
    store.close()
    (spool / "spool.db").write_bytes(b"")
    store = open_store(spool)
    assert store.directory.is_emptied
    append(store, 1)


def test_a_page_of_zeros_in_the_tree_costs_its_rows_and_the_rest_is_saved(spool: Path) -> None:
    database = spool / "spool.db"
    with sqlite3.connect(database) as connection:
        pages = [
            row[0]
            for row in connection.execute(
                "SELECT pageno FROM dbstat WHERE name = 'frame' AND pagetype = 'leaf'"
            )
        ]
    connection.close()
    assert len(pages) > 2
    content = bytearray(database.read_bytes())
    start = (pages[1] - 1) * PAGE_BYTES
    content[start : start + PAGE_BYTES] = bytes(PAGE_BYTES)
    database.write_bytes(content)
    store = open_store(spool)
    found = found_whole(store)
    assert 20 < len(found) < 60
    assert store.upkeep.salvage is not None
    assert store.upkeep.salvage.frame_count == len(found)
    assert store.upkeep.salvage.letter_count == 20
    assert store.upkeep.salvage.problem is not None
    assert f"{60 - len(found)} rows cannot be read" in store.upkeep.salvage.problem
    assert Path(store.upkeep.salvage.path) == set_aside(spool)[0]
    assert store.next_id > 80
    append(store, store.next_id)
    assert store.verify().is_sound


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_database_that_was_cut_off_is_put_aside_and_read(spool: Path, part: float) -> None:
    database = spool / "spool.db"
    content = database.read_bytes()
    database.write_bytes(content[: int(len(content) * part)])
    store = open_store(spool)
    found = found_whole(store)
    if part == 0.0:
        assert (store.upkeep.salvage, found) == (None, set())  # an empty file: nothing to keep
    else:
        assert store.upkeep.salvage is not None
        assert Path(store.upkeep.salvage.path).stat().st_size == int(len(content) * part)
        assert len(found) >= {0.1: 0, 0.5: 20, 0.9: 40, 0.999: 55}[part]
    append(store, store.next_id)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100_000, b"rubbish" * 10_000])
def test_a_database_that_became_rubbish_is_put_aside_and_a_new_one_begun(
    spool: Path, content: bytes
) -> None:
    (spool / "spool.db").write_bytes(content)
    (spool / "spool.db-wal").write_bytes(b"a log of something")
    store = open_store(spool)
    assert store.upkeep.salvage is not None
    assert Path(store.upkeep.salvage.path).read_bytes() == content
    assert Path(store.upkeep.salvage.path + "-wal").read_bytes() == b"a log of something"
    append(store, 1)
    assert stored_ids(store) == [1]


def test_a_log_without_its_database_is_put_aside_not_deleted(spool: Path) -> None:
    (spool / "spool.db").unlink()
    (spool / "spool.db-wal").write_bytes(b"a log of something")
    store = open_store(spool)
    assert store.upkeep.salvage is not None
    assert Path(store.upkeep.salvage.path + "-wal").read_bytes() == b"a log of something"


@pytest.mark.parametrize("call", ["read", "commit", "drop_oldest", "give_back"])
def test_damage_that_is_met_in_mid_run_is_mended_and_the_call_succeeds(
    spool: Path, call: str
) -> None:
    store = open_store(spool)
    (root,) = store.upkeep.database.connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'frame_stream'"
    ).fetchone()
    store.upkeep.database.connection.execute("PRAGMA cache_size = 0").fetchall()
    with (spool / "spool.db").open("r+b") as file:  # as a disk would, under an open database
        file.seek((root - 1) * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
    store.upkeep.database.reopen()
    if call == "read":
        assert len(store.read("orders", 0, 10**9).frames) == 40
    elif call == "commit":
        store.commit(Changes(appended=[new_frame(100)], settled=[1]))
    elif call == "drop_oldest":
        assert store.drop_oldest("orders", 1).frame_count == 1
    else:
        store.upkeep.repair()
    assert store.upkeep.salvage is not None
    assert store.upkeep.salvage.frame_count == 60
    assert store.letters.count(LetterFilter()).letter_count == 20
    assert store.verify().is_sound
    assert len(set_aside(spool)) == 1


def test_a_damaged_name_of_a_stream_is_read_from_its_second_copy(spool: Path) -> None:
    database = spool / "spool.db"
    content = database.read_bytes()
    with sqlite3.connect(database) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'stream'"
        ).fetchone()
    connection.close()
    at = content.index(b"orders", (root - 1) * PAGE_BYTES)
    assert at < root * PAGE_BYTES
    flip(database, at, 1)
    store = open_store(spool)
    assert store.upkeep.salvage is not None
    assert found_whole(store) == {*ORDERS, *CLICKS}


def test_a_name_that_its_index_lacks_is_found_at_the_start(tmp_path: Path) -> None:
    """Else what is written of the stream from then on stands under a second key, and is not read:
    lost, though it was acknowledged.
    """
    path = tmp_path / "spool.db"
    open_store(tmp_path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        select = "SELECT rootpage FROM sqlite_master WHERE name = 'stream_name'"
        (page,) = connection.execute(select).fetchone()
    start = (page - 1) * PAGE_BYTES
    empty = path.read_bytes()[start : start + PAGE_BYTES]
    store = open_store(tmp_path)
    append(store, 1, 2)
    store.close()
    with path.open("r+b") as file:
        file.seek(start)
        file.write(empty)
    store = open_store(tmp_path)
    assert store.upkeep.salvage is not None
    append(store, 3)
    assert stored_ids(store) == [1, 2, 3]


def test_a_salvage_that_fills_the_disk_keeps_the_old_file_and_says_so(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdaemon.spool import salvage

    def full(*_arguments: object) -> None:
        raise SpoolError("full", "spool.db", "no space left on the disk")

    monkeypatch.setattr(salvage, "append_frames", full)
    (spool / "spool.db").write_bytes((spool / "spool.db").read_bytes()[:-PAGE_BYTES])
    store = open_store(spool)
    assert store.upkeep.salvage is not None
    assert store.upkeep.salvage.problem is not None
    assert "no space left" in store.upkeep.salvage.problem
    assert store.upkeep.salvage.frame_count == 0
    assert set_aside(spool)


class CutOffError(Exception):
    """The process ended here."""


@pytest.mark.parametrize("step", ["make", "set_aside", "exchange"])
@pytest.mark.parametrize("is_done", [False, True])
def test_a_repair_that_is_cut_off_is_begun_again_or_ended_at_the_next_start(
    spool: Path, monkeypatch: pytest.MonkeyPatch, step: str, is_done: bool
) -> None:
    content = (spool / "spool.db").read_bytes()[:-PAGE_BYTES]
    (spool / "spool.db").write_bytes(content)
    real = getattr(SpoolDirectory, step)

    def cut_off(*arguments: object) -> None:
        if is_done:
            real(*arguments)
        raise CutOffError

    with monkeypatch.context() as patch:
        patch.setattr(SpoolDirectory, step, cut_off)
        with pytest.raises(CutOffError):
            open_store(spool)
    store = open_store(spool)
    assert len(found_whole(store)) >= 55
    assert [path.read_bytes() for path in set_aside(spool)] == [content]
    assert not list(spool.glob("*.new*"))
    assert not list(spool.glob("*.next*"))


@pytest.mark.parametrize("done_count", range(4))
@pytest.mark.parametrize("has_looked", [False, True])
def test_a_repair_whose_renames_fail_is_ended_by_whoever_comes_next(
    spool: Path, monkeypatch: pytest.MonkeyPatch, done_count: int, *, has_looked: bool
) -> None:
    store = open_store(spool)
    append(store, 81, record_bytes=sizes_of(81))
    real, count = Path.rename, 0

    def rename(path: Path, to: str | Path) -> Path:
        nonlocal count
        count += 1
        if count > 1 + done_count:  # the first makes the new one the one that counts
            raise OSError(errno.EIO, "Input/output error")
        return real(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        for call in (
            store.upkeep.repair,
            store.upkeep.look,
            lambda: append(store, 82, record_bytes=sizes_of(82)),
        ):
            with pytest.raises(SpoolError):
                call()
    if has_looked:
        store.upkeep.look()
    append(store, 82, record_bytes=sizes_of(82))
    assert found_whole(store) == {*ORDERS, *CLICKS, 81, 82}
    assert store.upkeep.salvage is not None
    assert store.verify().is_sound
    store.close()
    store = open_store(spool)
    assert found_whole(store) == {*ORDERS, *CLICKS, 81, 82}
    assert store.upkeep.salvage is None


def test_a_repair_for_which_there_is_no_room_changes_nothing_and_is_tried_again(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(spool)

    def full(*_arguments: object) -> None:
        raise SpoolError("full", "spool.db", "no space left on the disk")

    with monkeypatch.context() as patch:
        patch.setattr(SpoolDirectory, "make", full)
        with pytest.raises(SpoolError, match="no space left"):
            store.upkeep.repair()
    assert found_whole(store) == {*ORDERS, *CLICKS}
    assert not set_aside(spool)
    store.upkeep.repair()
    assert found_whole(store) == {*ORDERS, *CLICKS}


def test_a_disk_that_damages_everything_does_not_fill_with_copies(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(spool)

    def damaged(*_arguments: object) -> None:
        raise SpoolError("corrupt", "spool.db", "the database is damaged")

    with monkeypatch.context() as patch:
        patch.setattr("kdaemon.spool.store.append_frames", damaged)
        for _ in range(10):
            with pytest.raises(SpoolError, match="damaged"):
                store.commit(Changes(appended=[new_frame(100)]))
    assert len(list(spool.glob("spool.db.corrupt-*"))) == 3
    append(store, 100)

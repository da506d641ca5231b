"""The store on a disk that works: what goes in comes out, once, in order, after any restart."""

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from kdaemon.spool import schema
from kdaemon.spool.codec import settled_indices
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes, Dropped, StoredTotals
from kdaemon.spool.writes import IDS_AHEAD
from tests.kit.stores import (
    NOW_MS,
    append,
    encode_settled,
    make_letter,
    make_records,
    new_frame,
    open_store,
    open_view,
    stored_ids,
)


def test_frames_come_back_in_order_of_their_ids_and_whole(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.commit(Changes(appended=[new_frame(3), new_frame(1), new_frame(2, "clicks")]))
    read = store.read("orders", 0, 1024 * 1024)
    assert [frame.id for frame in read.frames] == [1, 3]
    assert read.frames[0].records == make_records(1)
    assert read.frames[0].accepted_ms == NOW_MS + 1
    assert read.frames[0].byte_count == len(new_frame(1).payload)
    assert read.frames[0].settled is None
    assert (read.last_id, read.is_end, read.corrupt_count) == (3, True, 0)


def test_a_read_gives_one_frame_at_least_and_stops_at_its_bytes(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1, 2, 3, 4)
    one = store.read("orders", 0, 1)
    frame_bytes = one.frames[0].footprint_bytes  # in memory
    assert ([frame.id for frame in one.frames], one.is_end) == ([1], False)
    two = store.read("orders", one.last_id, 2 * frame_bytes)
    assert ([frame.id for frame in two.frames], two.is_end) == ([2, 3], False)
    rest = store.read("orders", two.last_id, 2 * frame_bytes)
    assert ([frame.id for frame in rest.frames], rest.is_end) == ([4], True)


def test_a_stream_that_nobody_stored_for_is_read_as_empty(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    read = store.read("nothing", 7, 1024)
    assert (read.frames, read.last_id, read.is_end) == ([], 7, True)
    assert store.stored_totals() == []


def test_a_frame_of_the_largest_size_goes_in_and_comes_out(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    frame = new_frame(1, count=14, record_bytes=1024 * 1024)
    store.commit(Changes(appended=[frame]))
    assert store.read("orders", 0, 1).frames[0].records == make_records(1, 14, 1024 * 1024)


def test_what_is_settled_is_gone_and_the_rest_stays(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1, 2, 3)
    store.commit(Changes(settled=[2, 99], progress=[(99, encode_settled([0], 3))]))
    assert stored_ids(store) == [1, 3]
    assert store.verify().is_sound


def test_progress_comes_back_with_its_frame_and_the_latest_counts(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1, 2)
    store.commit(Changes(progress=[(1, encode_settled([0], 3))]))
    store.commit(Changes(progress=[(1, encode_settled([0, 2], 3))]))
    first, second = store.read("orders", 0, 1024 * 1024).frames
    assert first.settled is not None
    assert settled_indices(first.settled, 3) == [0, 2]
    assert second.settled is None
    store.commit(Changes(settled=[1]))
    assert store.verify().is_sound


def test_totals_count_what_stands_of_each_stream(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1, 4, 6)
    append(store, 2, 3, stream="clicks")
    store.commit(Changes(settled=[1, 2, 3]))
    (totals,) = store.stored_totals()
    payload_bytes = len(new_frame(4).payload)
    assert totals == StoredTotals("orders", 2, 6, 2 * payload_bytes, 4, 6, NOW_MS + 4)


def test_ids_are_not_used_again_after_all_frames_are_gone(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store.next_id == 1
    append(store, 41)
    store.commit(Changes(settled=[41]))
    store.close()
    store = open_store(tmp_path)
    assert store.next_id > 41


def test_no_id_comes_again_though_few_commits_say_which_are_used(tmp_path: Path) -> None:
    used_id = 0
    for _ in range(3):
        store = open_store(tmp_path)
        first_id = store.next_id
        assert first_id > used_id
        for used_id in (first_id, *range(first_id + IDS_AHEAD - 1, first_id + IDS_AHEAD + 2)):
            store.commit(Changes(appended=[new_frame(used_id)], settled=[used_id]))
            assert store.next_id > used_id
        store.close()


def test_a_deletion_reads_no_payload(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for frame_id in range(1, 25):
        append(store, frame_id, record_bytes=500_000)
    before = _read_bytes()
    store.commit(Changes(settled=list(range(1, 25))))
    assert _read_bytes() - before < 24 * 500_000 / 4
    assert store.verify().is_sound


def _read_bytes() -> int:
    """What this process has read of files so far."""
    said = Path("/proc/self/io").read_text().split()
    return int(said[said.index("rchar:") + 1])


def test_all_of_it_is_there_after_a_restart(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1, 2)
    store.commit(Changes(progress=[(2, encode_settled([1], 3))], dead=[make_letter(1)]))
    before = store.read("orders", 0, 1024 * 1024), store.stored_totals()
    store.close()
    store = open_store(tmp_path)
    assert (store.read("orders", 0, 1024 * 1024), store.stored_totals()) == before
    assert store.upkeep.salvage is None


def test_the_oldest_are_dropped_until_the_bytes_are_found(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1, 2, 4, 5)
    append(store, 3, stream="clicks")
    size = len(new_frame(1).payload)
    assert store.drop_oldest("orders", size + 1, after_id=1) == Dropped(2, 6, 2 * size, 4)
    assert stored_ids(store) == [1, 5]
    assert store.drop_oldest("orders", 10**9) == Dropped(2, 6, 2 * size, 5)
    assert store.drop_oldest("orders", 10**9, after_id=5) == Dropped(0, 0, 0, 5)
    assert stored_ids(store, "clicks") == [3]
    assert store.verify().is_sound


def test_new_frames_take_the_pages_of_those_that_the_same_commit_deletes(tmp_path: Path) -> None:
    """Else all pages of both are copied into the database at the next checkpoint."""
    store = open_store(tmp_path)
    for number in range(1, 20):
        new = new_frame(number, record_bytes=50_000)
        store.commit(Changes(appended=[new], settled=[number - 1]))
        if number == 1:
            live_bytes, page_count = store.sizes.live_bytes, page_count_of(tmp_path)
    assert store.sizes.live_bytes == live_bytes
    assert page_count_of(tmp_path) == page_count
    assert stored_ids(store) == [19]


def page_count_of(directory: Path) -> int:
    """Pages of the database, those that are free included."""
    with contextlib.closing(sqlite3.connect(directory / "spool.db")) as connection:
        (count,) = connection.execute("PRAGMA page_count").fetchone()
    return int(count)


def test_space_is_given_back_to_the_file_system(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, *range(1, 65), record_bytes=50_000)
    full_bytes, live_bytes = store.sizes.file_bytes, store.sizes.live_bytes
    store.commit(Changes(settled=list(range(1, 65))))
    assert store.sizes.live_bytes < live_bytes / 10
    store.give_back(100)
    part_bytes = store.sizes.file_bytes
    assert part_bytes < full_bytes - 100 * schema.PAGE_BYTES
    store.give_back(10_000)
    assert store.sizes.file_bytes == store.sizes.live_bytes < part_bytes
    append(store, 65)
    assert stored_ids(store) == [65]


def test_the_log_stays_bounded_however_much_is_written(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    wal = tmp_path / "spool.db-wal"
    for first in range(1, 200, 8):
        append(store, *range(first, first + 8), record_bytes=100_000)  # 2.4 MB a commit
        assert wal.stat().st_size <= schema.CHECKPOINT_BYTES + 4 * 1024 * 1024


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    store = open_store(tmp_path / "spool")
    append(store, 1)
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spool").iterdir()
    }
    assert set(modes.values()) == {0o600}
    assert {"spool.db", "spool.db-wal", "spool.lock", "spool.reserve"} <= set(modes)


def test_sqlite_is_set_up_as_designed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    connection = store.upkeep.database.connection

    def pragma(name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert pragma("journal_mode") == "wal"
    assert pragma("synchronous") == 2  # FULL: the log is fsynced at each commit
    assert pragma("auto_vacuum") == 2  # INCREMENTAL
    assert pragma("secure_delete") == 0
    assert pragma("page_size") == schema.PAGE_BYTES
    assert pragma("application_id") == schema.APPLICATION_ID
    assert pragma("user_version") == len(schema.MIGRATIONS)
    plan = connection.execute(
        "EXPLAIN QUERY PLAN SELECT id FROM frame WHERE stream = 1 AND id > 5 ORDER BY id"
    ).fetchall()
    assert "frame_stream (stream=? AND rowid>?)" in plan[0][3]


def test_a_second_store_on_a_directory_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(Exception, match=f"in use by process {os.getpid()}") as caught:
        open_store(tmp_path)
    assert caught.value.kind == "busy"  # type: ignore[attr-defined]  # a SpoolError
    append(store, 1)
    store.close()
    store.close()
    open_store(tmp_path).close()


def test_one_who_looks_sees_the_same_while_a_daemon_has_it_and_after(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1, 2)
    view = open_view(tmp_path)
    assert view.holder_pid == os.getpid()
    assert stored_ids(view) == [1, 2]
    append(store, 3)
    assert stored_ids(view) == [1, 2, 3]
    assert view.stored_totals() == store.stored_totals()
    assert view.verify() == store.verify()
    assert view.size_bytes == store.sizes.file_bytes
    view.close()
    store.close()
    view = open_view(tmp_path)
    assert view.holder_pid is None
    assert stored_ids(view) == [1, 2, 3]


def test_one_who_looks_does_not_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    view = open_view(tmp_path)
    store = open_store(tmp_path)
    append(store, 1)
    assert stored_ids(view) == [1]


def test_an_older_schema_is_brought_up_to_date_and_keeps_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    append(store, 1, 2)
    store.close()
    step = "ALTER TABLE letter ADD COLUMN note TEXT; CREATE TABLE later (id INTEGER PRIMARY KEY);"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
    with pytest.raises(Exception, match="start the daemon once") as caught:
        open_view(tmp_path)
    assert caught.value.kind == "version"  # type: ignore[attr-defined]  # a SpoolError
    store = open_store(tmp_path)
    assert stored_ids(store) == [1, 2]
    assert schema.version(store.upkeep.database.connection) == 2
    store.upkeep.database.connection.execute("SELECT id FROM later").fetchall()


def test_a_step_that_fails_leaves_the_older_schema_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    store.close()
    steps = schema.MIGRATIONS
    monkeypatch.setattr(schema, "MIGRATIONS", (*steps, "CREATE TABLE x (y); nonsense;"))
    with pytest.raises(Exception, match="nonsense"):
        open_store(tmp_path)
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    store = open_store(tmp_path)
    assert stored_ids(store) == [1]
    assert not store.upkeep.database.connection.execute(
        "SELECT name FROM sqlite_schema WHERE name = 'x'"
    ).fetchall()


def test_a_newer_schema_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "SELECT 1;"))
        store = open_store(tmp_path)
        append(store, 1)
        store.close()
    before = (tmp_path / "spool.db").read_bytes()
    for opened in (open_store, open_view):
        with pytest.raises(Exception, match="newer kdaemon") as caught:
            opened(tmp_path)
        assert caught.value.kind == "version"  # type: ignore[attr-defined]  # a SpoolError
    assert (tmp_path / "spool.db").read_bytes() == before


def test_a_store_that_could_not_be_opened_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "spool.db").mkdir()
    with pytest.raises(Exception, match="not a regular file"):
        open_store(tmp_path)
    (tmp_path / "spool.db").rmdir()
    open_store(tmp_path).close()


def test_opening_reads_no_payload_however_much_is_stored(tmp_path: Path) -> None:
    """Counted in bytes that the process reads: a hundredth of what is stored."""

    def bytes_read() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["rchar"])

    store = open_store(tmp_path)
    append(store, *range(1, 301), record_bytes=20_000)  # 18 MB
    store.close()
    before = bytes_read()
    store = open_store(tmp_path)
    assert store.stored_totals()[0].frame_count == 300
    assert bytes_read() - before < 500_000


def test_a_store_is_made_by_one_thread_and_used_by_another(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        store: Store = thread.submit(open_store, tmp_path).result()
        append(store, 1)
        thread.submit(append, store, 2).result()
        assert stored_ids(store) == [1, 2]
        thread.submit(store.close).result()

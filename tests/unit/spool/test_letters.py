"""Dead letters are kept with their reason, found again, bounded, and can be deleted by anyone."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest

from kdaemon.spool.letters import DeadLetter, LetterFilter, LetterTotal
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes
from tests.kit.stores import NOW_MS, append, make_letter, open_store, open_view

ALL = LetterFilter()
DATA_BYTES = 10
SIZE = 64 + DATA_BYTES + len("orderskey-1poisonInvalidArgumentExceptiona word of the service")


def bury(store: Store, *numbers: int, stream: str = "orders", data_bytes: int = 10) -> int:
    letters = [make_letter(number, stream, data_bytes) for number in numbers]
    return store.commit(Changes(dead=letters)).letters_dropped


def numbers(letters: Iterable[DeadLetter]) -> list[int]:
    return [letter.attempts for letter in letters]


def test_a_letter_comes_back_as_it_was_written_with_an_id(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    odd = DeadLetter("s", "", None, b"", "poison", "", "\x00 and \u00e9\U0001f600", 0, -1, 2**62)
    store.commit(Changes(dead=[make_letter(1), odd]))
    plain, strange = make_letter(1), odd
    plain.id, strange.id = 1, 2
    assert list(store.letters.select(ALL)) == [plain, strange]
    assert plain.is_intact


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (ALL, [1, 2, 3, 4, 5]),
        (LetterFilter(stream="clicks"), [5]),
        (LetterFilter(stream="nothing"), []),
        (LetterFilter(reason="poison"), [1, 3, 5]),
        (LetterFilter(since_ms=NOW_MS + 3), [3, 4, 5]),
        (LetterFilter(until_ms=NOW_MS + 3), [1, 2]),
        (LetterFilter(since_ms=NOW_MS + 2, until_ms=NOW_MS + 4), [2, 3]),
        (LetterFilter(ids=(4, 1, 99)), [1, 4]),
        (LetterFilter(ids=()), []),
        (LetterFilter(stream="orders", reason="poison", ids=(2, 3, 5)), [3]),
    ],
)
def test_a_filter_means_the_same_to_all_who_take_one(
    tmp_path: Path, which: LetterFilter, expected: list[int]
) -> None:
    store = open_store(tmp_path)
    bury(store, 1, 2, 3, 4)
    bury(store, 5, stream="clicks")
    assert numbers(store.letters.select(which)) == expected
    assert numbers(store.letters.select(which, newest_first=True)) == expected[::-1]
    assert numbers(store.letters.select(which, limit=2)) == expected[:2]
    total = store.letters.count(which)
    assert total.letter_count == len(expected)
    assert store.letters.delete(which) == total
    assert numbers(store.letters.select(ALL)) == [n for n in range(1, 6) if n not in expected]
    assert store.verify().is_sound


def test_more_letters_than_a_block_are_selected_and_deleted(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    bury(store, *range(1, 701))
    assert numbers(store.letters.select(ALL)) == list(range(1, 701))
    assert numbers(store.letters.select(ALL, newest_first=True, limit=300)) == list(
        range(700, 400, -1)
    )
    assert store.letters.delete(LetterFilter(reason="poison")).letter_count == 350
    assert store.letters.count(ALL).letter_count == 350


def test_the_oldest_letters_make_room_for_the_newest_and_are_counted(tmp_path: Path) -> None:
    store = open_store(tmp_path, letters_bytes_max=3 * SIZE + 10)
    assert bury(store, 1, 3, 5) == 0
    assert bury(store, 7) == 1
    assert bury(store, 9, 11) == 2
    assert numbers(store.letters.select(ALL)) == [7, 9, 11]
    assert store.letters.count(ALL) == LetterTotal(3, store.letters.count(ALL).byte_count)
    assert store.letters.count(ALL).byte_count <= 3 * SIZE + 10
    assert bury(store, *range(1, 1000)) == 999
    assert numbers(store.letters.select(ALL)) == [997, 998, 999]
    assert store.verify().is_sound


def test_the_newest_letter_is_kept_even_if_it_alone_is_above_the_bound(tmp_path: Path) -> None:
    store = open_store(tmp_path, letters_bytes_max=1)
    assert bury(store, 1) == 0
    assert bury(store, 2, data_bytes=1024 * 1024) == 1
    assert numbers(store.letters.select(ALL)) == [2]


def test_a_letter_and_the_end_of_its_frame_are_one_commit(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    store.upkeep.database.connection.execute(
        "CREATE TEMP TRIGGER refuse BEFORE INSERT ON main.letter"
        " BEGIN SELECT raise(ABORT, 'no'); END"
    )
    with pytest.raises(Exception, match="no"):
        store.commit(Changes(settled=[1], dead=[make_letter(1)]))
    assert [frame.id for frame in store.read("orders", 0, 1).frames] == [1]
    store.upkeep.database.connection.execute("DROP TRIGGER refuse")
    store.commit(Changes(settled=[1], dead=[make_letter(1)]))
    assert store.stored_totals() == []
    assert store.letters.count(ALL).letter_count == 1


def test_ids_of_letters_are_not_given_twice(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    bury(store, 1, 2)
    store.letters.delete(ALL)
    bury(store, 3)
    (letter,) = store.letters.select(ALL)
    assert letter.id == 3


def test_another_process_deletes_letters_while_a_daemon_writes(tmp_path: Path) -> None:
    """Two connections, as two processes have them, taking turns for the write lock."""
    store = open_store(tmp_path)
    bury(store, *range(1, 601))
    view = open_view(tmp_path)
    selected = view.letters.select(ALL)
    assert next(selected).attempts == 1
    append(store, 1)  # a letter taken slowly holds up nobody
    assert view.letters.delete(LetterFilter(reason="poison")).letter_count == 300
    bury(store, 601)
    assert store.letters.count(ALL).letter_count == 301
    assert [letter.attempts for letter in selected][-1] in {600, 601}
    view.close()
    assert store.verify().is_sound


def test_a_damaged_letter_is_shown_as_such_and_found_by_verify(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    bury(store, 1, 2, 3, 4)
    connection = store.upkeep.database.connection
    connection.execute("UPDATE letter SET data = x'00' WHERE id = 1")
    connection.execute("UPDATE letter SET message = CAST(x'ff' AS TEXT) WHERE id = 2")
    connection.execute("UPDATE letter SET attempts = 'many', data = 5 WHERE id = 3")
    letters = list(store.letters.select(ALL))
    assert [letter.is_intact for letter in letters] == [False, False, False, True]
    assert (letters[2].attempts, letters[2].data) == (0, b"")
    verification = store.verify()
    assert (verification.letter_count, verification.corrupt_letter_count) == (4, 3)
    assert not verification.is_sound


def test_a_wrong_total_of_letters_mends_itself_instead_of_turning_for_ever(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with sqlite3.connect(tmp_path / "spool.db") as connection:
        connection.execute("UPDATE total SET letter_count = 9, letter_bytes = 100000000")
    connection.close()
    assert bury(store, 1) in {0, 1}
    bury(store, 2)
    assert store.letters.count(ALL).letter_count >= 1
    assert store.verify().problems == []

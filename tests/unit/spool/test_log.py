"""The write-ahead log on a disk that damages it: what was committed is read, or is put aside."""

import contextlib
import random
import shutil
from array import array
from pathlib import Path

import pytest

from kdaemon.base.errors import SpoolError
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.log import is_log_whole, mend_log, sums_of
from kdaemon.spool.schema import PAGE_BYTES
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes
from tests.kit.depth import examples
from tests.kit.stores import (
    append,
    encode_settled,
    flip,
    make_letter,
    open_store,
    open_view,
    stored_ids,
)

FRAME_BYTES = PAGE_BYTES + 24
HEADER_BYTES = 32


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool as a kill leaves it: five frames and two letters, most of them in the log only."""
    directory = tmp_path_factory.mktemp("running")
    store = open_store(directory)
    append(store, 1, 2, 3, record_bytes=20)
    append(store, 4, 5, stream="clicks", record_bytes=20)
    letters = [make_letter(1, data_bytes=20), make_letter(2, data_bytes=20)]
    store.commit(Changes(progress=[(1, encode_settled([1], 3))], dead=letters))
    left = tmp_path_factory.mktemp("killed") / "spool"
    shutil.copytree(directory, left)
    store.close()
    return left


@pytest.fixture
def spool(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "spool"))


def log_of(spool: Path) -> Path:
    return spool / "spool.db-wal"


def found_in(store: Store) -> tuple[int, int]:
    """Frames and letters."""
    found = [one for stream in ("orders", "clicks") for one in stored_ids(store, stream)]
    letters = [each for each in store.letters.select(LetterFilter()) if each.is_intact]
    return len(found), len(letters)


def assert_all_or_aside(spool: Path, where: str) -> bool:
    """Whether all was found without putting anything aside."""
    store = open_store(spool)
    with contextlib.closing(store):
        found = found_in(store)
        quarantined = store.verify().quarantine_count
        assert found == (5, 2) or store.upkeep.salvage is not None, (where, found, quarantined)
        append(store, store.next_id)
        return found == (5, 2) and store.upkeep.salvage is None


def test_sums_are_those_of_the_loop_that_sqlite_runs() -> None:
    dice = random.Random(1)
    for count in (2, 6, 4098):
        words = array("I", [dice.randrange(2**32) for _ in range(count)])
        before = (dice.randrange(2**32), dice.randrange(2**32))
        sum0, sum1 = before
        for at in range(0, count, 2):
            sum0 = (sum0 + words[at] + sum1) % 2**32
            sum1 = (sum1 + words[at + 1] + sum0) % 2**32
        assert sums_of(words, before) == (sum0, sum1)


@pytest.mark.parametrize("part", range(4))
def test_a_bit_that_flips_in_the_log_costs_no_commit(
    killed: Path, tmp_path: Path, part: int
) -> None:
    """Most are mended; where several bytes may be the damaged one, the files are put aside and what
    they hold is saved.
    """
    dice = random.Random(part)
    content = log_of(killed).read_bytes()
    frames = range(HEADER_BYTES, len(content), FRAME_BYTES)
    heads = [at for start in (0, *frames) for at in range(start, start + 24)]
    written = [at for at, byte in enumerate(content) if byte]
    mended = 0
    places = (
        dice.sample(heads, examples(15))
        + dice.sample(written, examples(25))
        + list(range(part * 8, part * 8 + 8))
    )
    for number, at in enumerate(places):
        spool = Path(shutil.copytree(killed, tmp_path / f"{number}"))
        bit = dice.randrange(8)
        flip(log_of(spool), at, 1 << bit)
        assert not is_log_whole(str(log_of(spool)))
        with pytest.raises(SpoolError, match="the log of the database is damaged"):
            open_view(spool)
        mended += assert_all_or_aside(spool, f"part {part}, byte {at}, bit {bit}")
        shutil.rmtree(spool)
    assert mended > len(places) // 2


def test_a_whole_log_is_left_as_it_is(spool: Path) -> None:
    content = log_of(spool).read_bytes()
    assert is_log_whole(str(log_of(spool)))
    state = mend_log(str(log_of(spool)))
    assert (state.mended_count, state.lost) == (0, ())
    assert log_of(spool).read_bytes() == content
    assert is_log_whole(str(spool / "none"))
    assert mend_log(str(spool / "none")).lost == ()
    assert assert_all_or_aside(spool, "whole")


def test_several_damaged_bytes_are_mended_in_place_and_told(spool: Path) -> None:
    content = log_of(spool).read_bytes()
    for at in (HEADER_BYTES + 2000, HEADER_BYTES + FRAME_BYTES + 2001, len(content) - 3000):
        flip(log_of(spool), at, 0x01)
    store = open_store(spool)
    assert (store.upkeep.mended_count, store.upkeep.salvage) == (3, None)
    assert found_in(store) == (5, 2)


def test_what_stands_behind_a_frame_that_cannot_be_mended_is_saved(spool: Path) -> None:
    """Zeros over a part of a page that a later commit wrote anew."""
    content = bytearray(log_of(spool).read_bytes())
    content[HEADER_BYTES + 24 + 5000 : HEADER_BYTES + 24 + 16_000] = b"\xa5" * 11_000
    log_of(spool).write_bytes(content)
    store = open_store(spool)
    assert store.upkeep.salvage is not None
    assert Path(store.upkeep.salvage.path + "-wal").read_bytes() == content
    assert not list(spool.glob("*.copy"))
    frames, letters = found_in(store)
    assert (frames >= 2, letters) == (True, 2)


class CutOffError(Exception):
    """The process ended here."""


@pytest.mark.parametrize("done_count", range(5))
def test_a_repair_that_is_cut_off_between_two_names_costs_nothing_that_it_saved(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done_count: int
) -> None:
    """A database whose log had been put aside, and not yet itself, was opened as if it were all."""
    content = bytearray(log_of(spool).read_bytes())
    content[HEADER_BYTES + 24 + 5000 : HEADER_BYTES + 24 + 16_000] = b"\xa5" * 11_000
    log_of(spool).write_bytes(content)
    undisturbed = open_store(Path(shutil.copytree(spool, tmp_path / "undisturbed")))
    expected = found_in(undisturbed)
    undisturbed.close()
    real, count = Path.rename, 0

    def rename(path: Path, to: str | Path) -> Path:
        nonlocal count
        if count == done_count:
            raise CutOffError
        count += 1
        return real(path, to)

    with monkeypatch.context() as patch, contextlib.suppress(CutOffError):
        patch.setattr(Path, "rename", rename)
        open_store(spool).close()
    store = open_store(spool)
    assert found_in(store) == expected
    assert store.upkeep.salvage is not None, "and it is told"
    assert not list(spool.glob("*.next"))
    assert [path.read_bytes() for path in spool.glob("*.corrupt-*-wal")] == [content]


@pytest.mark.parametrize("kind", ["torn", "cut off", "zeros", "older frames"])
def test_what_a_power_loss_leaves_of_the_last_commit_is_no_damage(spool: Path, kind: str) -> None:
    """It was answered to nobody."""
    content = bytearray(log_of(spool).read_bytes())
    last = len(content) - FRAME_BYTES
    if kind == "torn":  # a sector of the last frame did not arrive
        content[last + 8192 : last + 8704] = bytes(range(256)) * 2
    elif kind == "cut off":
        del content[last + 700 :]
    elif kind == "zeros":
        content[last:] = bytes(FRAME_BYTES)
    else:  # of the log that was overwritten, with other salts
        content += content[HEADER_BYTES : HEADER_BYTES + FRAME_BYTES * 2]
        for start in (last + FRAME_BYTES, last + 2 * FRAME_BYTES):
            content[start + 8 : start + 16] = b"saltsalt"
    log_of(spool).write_bytes(content)
    assert is_log_whole(str(log_of(spool)))
    store = open_store(spool)
    assert (store.upkeep.mended_count, store.upkeep.salvage) == (0, None)
    frames, letters = found_in(store)
    assert (frames, letters) == (5, 2 if kind == "older frames" else 0)


def test_what_failed_writes_left_behind_is_no_damage(spool: Path) -> None:
    """A commit that failed is overwritten from its first frame on; its end still stands there."""
    content = log_of(spool).read_bytes()
    frames = [content[at : at + FRAME_BYTES] for at in range(32, len(content), FRAME_BYTES)]
    stale = frames[-2:]  # hang together, and end in a commit; but not behind what is there
    log_of(spool).write_bytes(content + stale[0] + stale[1])
    assert is_log_whole(str(log_of(spool)))
    assert assert_all_or_aside(spool, "stale")


def test_a_database_of_which_nothing_is_in_the_log_needs_no_look(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1)
    store.close()
    assert not log_of(tmp_path).exists()
    log_of(tmp_path).write_bytes(b"short")
    assert mend_log(str(log_of(tmp_path))).lost == ()
    assert is_log_whole(str(log_of(tmp_path)))


@pytest.mark.parametrize("content", [b"x" * 100_000, b"\x37\x7f\x06\x00" + b"x" * 100_000])
def test_what_is_no_log_at_all_is_put_aside_and_told(spool: Path, content: bytes) -> None:
    """SQLite takes it for a log of which nothing was committed, and says nothing."""
    log_of(spool).write_bytes(content)
    with pytest.raises(SpoolError, match="log of the database is damaged"):
        open_view(spool)
    store = open_store(spool)
    assert store.upkeep.salvage is not None
    assert Path(store.upkeep.salvage.path + "-wal").read_bytes() == content
    store.close()
    with contextlib.closing(open_store(spool)) as store:
        assert store.upkeep.salvage is None, "the new database is a sound one"


def test_zeros_where_the_power_was_lost_are_no_damage(spool: Path) -> None:
    log_of(spool).write_bytes(bytes(100_000))
    store = open_store(spool)
    assert store.upkeep.salvage is None

"""A spool's database whose bytes have changed: it opens, or says why not, and tells nothing false.

An input is a list of changes to a sound database of six frames and three dead letters: four bytes
each, where (two thirds into the file or anywhere) and what. An odd last byte cuts the file off.
"""

import atexit
import contextlib
import random
import shutil
import tempfile
from pathlib import Path

from kdaemon.base.errors import SpoolError
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes
from tests.kit.stores import (
    append,
    encode_settled,
    make_letter,
    make_records,
    new_frame,
    open_store,
)

TEST_INPUTS = 120  # in the ordinary test: each opens a database
SEEDS = [b"", b"\x00\x00\x10\x01", b"\x00\x00\x10\xff\x00\x00\x64\x01", b"\x00\x08\x00\x01\x40"]
TOKENS = [b"\x00\x00\x00\x01", b"\x00\x00\x12\x80", b"\x00\x00\x44\x01", b"\x00\x10\x00\xff"]
_FRAMES = range(1, 7)
_LETTERS = range(3)

_IN_MEMORY = Path("/dev/shm")  # where a sync costs nothing
_directory = Path(
    tempfile.mkdtemp(prefix="kdaemon-fuzz-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None)
)
atexit.register(shutil.rmtree, _directory, ignore_errors=True)


def _make() -> bytes:
    """The sound database's bytes; what stands beside it stays for all inputs (the reserve)."""
    store = open_store(_directory)
    append(store, *_FRAMES, record_bytes=700)
    progress = [(1, encode_settled([1], 3))]
    letters = [make_letter(number) for number in _LETTERS]
    store.commit(Changes(progress=progress, dead=letters))
    store.close()
    return (_directory / "spool.db").read_bytes()


_sound: bytes | None = None


def build(dice: random.Random) -> bytes:
    changes = b"".join(dice.randbytes(4) for _ in range(dice.choice((1, 1, 2, 3, 8, 40))))
    # Half of them in the first pages, where the tables' names and the index stand.
    if dice.randrange(2):
        changes = b"".join(b"\0" + changes[at + 1 : at + 4] for at in range(0, len(changes), 4))
    return changes + (dice.randbytes(1) if not dice.randrange(10) else b"")


def one_input(data: bytes) -> None:
    global _sound  # noqa: PLW0603 - made once, when the first input comes
    if _sound is None:
        _sound = _make()
    content = bytearray(_sound)
    for at in range(0, len(data) - 3, 4):
        content[int.from_bytes(data[at : at + 3], "big") % len(content)] ^= data[at + 3]
    if len(data) % 4:
        del content[len(content) * data[-1] // 256 :]
    for path in _directory.glob("spool.db*"):
        path.unlink()
    (_directory / "spool.db").write_bytes(content)
    _open(bytes(content) == _sound)


def _open(is_sound: bool) -> None:
    try:
        store = open_store(_directory)
    except SpoolError:
        assert not is_sound
        return
    with contextlib.closing(store):
        found = _read(store, is_sound=is_sound)
        with contextlib.suppress(SpoolError):
            _go_on(store, found)


def _read(store: Store, *, is_sound: bool) -> list[int]:
    """Whatever is given out is what was put in, each once, in its order."""
    found: list[int] = []
    after_id = 0
    try:
        while True:
            read = store.read("orders", after_id, 64 * 1024)
            for frame in read.frames:
                assert frame.records == make_records(frame.id, record_bytes=700)
            found += [frame.id for frame in read.frames]
            assert read.is_end or read.last_id > after_id, "it goes round in a circle"
            after_id = read.last_id
            if read.is_end:
                break
        letters = list(store.letters.select(LetterFilter()))
    except SpoolError:
        assert not is_sound
        return found
    assert found == sorted(set(found) & set(_FRAMES))
    intact = [letter for letter in letters if letter.is_intact]
    for letter in intact:
        assert letter.data.rstrip(b".").isdigit()
        assert letter.stream == "orders"
    if is_sound:
        assert found == list(_FRAMES)
        assert len(intact) == len(_LETTERS)
    return found


def _go_on(store: Store, found: list[int]) -> None:
    """What comes next gets an id of its own and is there; or it is told that rows were lost: SQLite
    may write over what stands in a page whose list of free bytes is wrong.
    """
    number = store.next_id
    assert number > max(found, default=0)
    store.commit(Changes(appended=[new_frame(number)]))
    read = store.read("orders", number - 1, 64 * 1024)
    if [frame.id for frame in read.frames] != [number]:
        assert store.upkeep.salvage is not None
        assert store.upkeep.salvage.problem, "lost, and nobody is told"

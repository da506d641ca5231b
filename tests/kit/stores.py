"""What tests of the store make by hand: stores, frames, letters; and damage."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from kdaemon.base.record import Record
from kdaemon.spool.codec import bits_of, encode_bits, encode_records
from kdaemon.spool.letters import DeadLetter
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes, NewFrame
from kdaemon.spool.view import StoreView

NOW_MS = 1_763_760_000_000  # 2025-11-21T21:20:00Z


_opened: list[list[Store | StoreView]] = []  # of those who close them


def open_store(directory: Path, *, letters_bytes_max: int = 1024 * 1024) -> Store:
    found = Store(str(directory), letters_bytes_max=letters_bytes_max, wall_ms=lambda: NOW_MS)
    _keep(found)
    return found


def commit(directory: Path, **changes: Any) -> None:
    """In a store that is opened and closed."""
    with closing(open_store(directory, letters_bytes_max=64 * 1024 * 1024)) as store:
        store.commit(Changes(**changes))


def damage(directory: Path, *statements: str) -> None:
    """Changes the database of a store that nobody has open."""
    with closing(sqlite3.connect(directory / "spool.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def open_view(directory: Path) -> StoreView:
    found = StoreView(str(directory))
    _keep(found)
    return found


@contextmanager
def closed_at_the_end() -> Iterator[None]:
    """Closes what is opened here meanwhile, whatever becomes of the test."""
    _opened.append([])
    try:
        yield
    finally:
        for each in reversed(_opened.pop()):
            each.close()


def _keep(found: Store | StoreView) -> None:
    if _opened:
        _opened[-1].append(found)


def make_records(frame_id: int, count: int = 3, record_bytes: int = 100) -> list[Record]:
    """Records that tell which frame they are of."""
    return [
        Record(
            f"{frame_id}/{index}:".encode().ljust(record_bytes, b"."),
            f"key-{index}",
            str(index) if index % 2 else None,
        )
        for index in range(count)
    ]


def new_frame(
    frame_id: int, stream: str = "orders", count: int = 3, record_bytes: int = 100
) -> NewFrame:
    payload = encode_records(make_records(frame_id, count, record_bytes))
    return NewFrame(frame_id, stream, count, NOW_MS + frame_id, payload)


def append(store: Store, *ids: int, stream: str = "orders", record_bytes: int = 100) -> None:
    frames = [new_frame(one, stream, record_bytes=record_bytes) for one in ids]
    store.commit(Changes(appended=frames))


def stored_ids(store: Store | StoreView, stream: str = "orders") -> list[int]:
    """Ids of all frames of a stream, in the order in which they are read."""
    ids: list[int] = []
    after_id = 0
    while True:
        read = store.read(stream, after_id, 64 * 1024)
        for frame in read.frames:
            assert frame.records[0].data.startswith(f"{frame.id}/0:".encode())
        ids += [frame.id for frame in read.frames]
        after_id = read.last_id
        if read.is_end:
            return ids


def make_letter(number: int, stream: str = "orders", data_bytes: int = 10) -> DeadLetter:
    return DeadLetter(
        stream=stream,
        partition_key=f"key-{number}",
        explicit_hash_key="7" if number % 2 else None,
        data=str(number).encode().ljust(data_bytes, b"."),
        reason="poison" if number % 2 else "expired",
        code="InvalidArgumentException",
        message="a word of the service",
        attempts=number,
        first_ms=NOW_MS,
        last_ms=NOW_MS + number,
    )


def flip(path: Path, offset: int, mask: int = 0xFF) -> None:
    """Changes one byte of a file that nobody has open."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def encode_settled(indices: Iterable[int], record_count: int) -> bytes:
    """The bitmap of these settled records of a frame."""
    return encode_bits(bits_of(indices, record_count), record_count)

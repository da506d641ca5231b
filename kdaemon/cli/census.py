"""What a spool holds beside frames, counted by SQLite; and a verification that can be watched.

Reads only. Sits beside `spool/view.py`, which knows frames and single letters.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from kdaemon.spool.codec import count_settled
from kdaemon.spool.store import StoreView, Verification

_INTERRUPT_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Census:
    """`letters`: (count, bytes) by stream. `quarantine`: frames by stream; "" for those whose
    stream cannot be told any more. `settled`: by stream, records of frames that stand here still
    which are known to be delivered or buried: the rest of their frames waits for slower shards.
    """

    letters: dict[str, tuple[int, int]]
    quarantine: dict[str, int]
    settled: dict[str, int]


def take_census(view: StoreView) -> Census:
    """Raises SpoolError."""
    with view._database.reading() as connection:  # noqa: SLF001 - the look's own connection
        letters = connection.execute(
            "SELECT CASE typeof(stream) WHEN 'text' THEN stream ELSE '' END,"  # else: damaged
            " count(*), sum(byte_count) FROM letter GROUP BY 1"
        ).fetchall()
        quarantine = connection.execute(
            "SELECT coalesce(s.name, ''), count(*) FROM quarantine q"
            " LEFT JOIN stream s ON s.key = q.stream GROUP BY 1"
        ).fetchall()
        settled: Counter[str] = Counter()
        for name, bitmap in connection.execute(
            "SELECT s.name, p.settled FROM progress p JOIN frame f ON f.id = p.id"
            " JOIN stream s ON s.key = f.stream WHERE typeof(p.settled) = 'blob'"
        ):
            settled[name] += count_settled(bitmap)
    return Census({row[0]: (row[1], row[2]) for row in letters}, dict(quarantine), settled)


def set_aside_files(directory: str) -> list[str]:
    """Damaged databases that were put aside there and that nobody has removed."""
    return sorted(
        str(path)
        for path in Path(directory).glob("spool.db.corrupt-*")
        if not path.name.endswith(("-wal", "-shm"))
    )


def verify_watched(view: StoreView, on_statement: Callable[[int], object]) -> Verification:
    """`view.verify()` in a thread, so that Ctrl-C ends it in the middle of a long statement.

    `on_statement`: called in that thread with how many statements were run; each row is one.
    """
    connection = view._database.connection  # noqa: SLF001 - as above
    statement_count = 0

    def counted(_sql: str) -> None:
        nonlocal statement_count
        statement_count += 1
        on_statement(statement_count)

    verification: Future[Verification] = Future()

    def verify() -> None:
        try:
            verification.set_result(view.verify())
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            verification.set_exception(error)

    connection.set_trace_callback(counted)
    thread = Thread(target=verify)
    try:
        thread.start()
        return verification.result()
    finally:
        _end(thread, connection)
        connection.set_trace_callback(None)


def _end(thread: Thread, connection: sqlite3.Connection) -> None:
    """Whatever ended the wait, and however often Ctrl-C is pressed: nobody closes the connection
    while the thread reads.
    """
    while thread.is_alive():
        with suppress(KeyboardInterrupt):
            connection.interrupt()  # again and again: it may be between two statements just now
            thread.join(_INTERRUPT_AGAIN_S)

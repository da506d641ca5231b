"""Counts what a spool holds beside frames, by SQLite, and runs a verification that Ctrl-C can end.

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
    """`letters`: (count, bytes) by stream. `quarantine`: frames by stream; "" for frames whose
    stream is unknown. `settled`: by stream, records that are known to be delivered or buried, in
    frames that are still stored because other records of these frames wait for slower shards.
    """

    letters: dict[str, tuple[int, int]]
    quarantine: dict[str, int]
    settled: dict[str, int]


def take_census(view: StoreView) -> Census:
    """Counts in one read of the database. Raises SpoolError."""
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
    """Paths of damaged databases in this directory that kdaemon set aside and nobody has
    removed.
    """
    return sorted(
        str(path)
        for path in Path(directory).glob("spool.db.corrupt-*")
        if not path.name.endswith(("-wal", "-shm"))
    )


def verify_watched(view: StoreView, on_statement: Callable[[int], object]) -> Verification:
    """Runs `view.verify()` in a thread, so that Ctrl-C can end a long statement.

    `on_statement`: called in that thread with the number of statements that were run. Each row
    takes one statement.
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
    """Waits until the thread has ended, so that nobody closes the connection while the thread
    reads. Further presses of Ctrl-C do not end the wait.
    """
    while thread.is_alive():
        with suppress(KeyboardInterrupt):
            connection.interrupt()  # repeated, because the thread may be between two statements
            thread.join(_INTERRUPT_AGAIN_S)

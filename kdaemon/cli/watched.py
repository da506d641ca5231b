"""A verification that can be watched, and that Ctrl-C ends.

Reads only. Sits between `spool/view.py`, which knows the statements, and `kdaemon spool verify`.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread

from kdaemon.spool.store import StoreView, Verification

_INTERRUPT_AGAIN_S = 0.05


def verify_watched(view: StoreView, on_statement: Callable[[int], object]) -> Verification:
    """`view.verify()` in a thread, so that Ctrl-C ends it in the middle of a long statement.

    `on_statement`: called in that thread with how many statements were run; each row is one.
    """
    statement_count = 0

    def counted() -> None:
        nonlocal statement_count
        statement_count += 1
        on_statement(statement_count)

    verification: Future[Verification] = Future()

    def verify() -> None:
        try:
            verification.set_result(view.verify())
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            verification.set_exception(error)

    view.watch(counted)
    thread = Thread(target=verify)
    try:
        thread.start()
        return verification.result()
    finally:
        _end(thread, view)
        view.watch(None)


def _end(thread: Thread, view: StoreView) -> None:
    """Whatever ended the wait, and however often Ctrl-C is pressed: nobody closes the connection
    while the thread reads.
    """
    while thread.is_alive():
        with suppress(KeyboardInterrupt):
            view.interrupt()  # again and again: it may be between two statements just now
            thread.join(_INTERRUPT_AGAIN_S)

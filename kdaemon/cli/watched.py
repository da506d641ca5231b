"""A verification that can be watched, and that Ctrl-C ends.

Reads only. Sits between `spool/view.py`, which knows the statements, and `kdaemon spool verify`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import count

from kdaemon.spool.values import Verification
from kdaemon.spool.view import StoreView

_INTERRUPT_AGAIN_S = 0.05


def verify_watched(view: StoreView, on_statement: Callable[[int], object]) -> Verification:
    """`view.verify()` in a thread, so that Ctrl-C ends it in the middle of a long statement.

    `on_statement`: called in that thread with how many statements were run; each row is one.
    """
    numbers = count(1)
    view.watch(lambda: on_statement(next(numbers)))
    with ThreadPoolExecutor(1) as pool:
        verifying = pool.submit(view.verify)
        try:
            return verifying.result()
        finally:
            # Whatever ended the wait, and however often Ctrl-C is pressed: nobody closes the
            # connection while the thread reads.
            while not verifying.done():
                with suppress(KeyboardInterrupt):
                    view.interrupt()  # again and again: it may be between two statements just now
                    wait([verifying], _INTERRUPT_AGAIN_S)
            view.watch(None)

"""One call while it is made: how long it may take, and how far it has come.

Knows the loop's clock; must not know what is called or how. `client.py` makes one for each call.
Invariant: a call has no timer of its own. Where it waits for something seldom, `within` bounds the
wait; the wait for the answer is bounded by its connection, whose pool has one timer for all.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from kdaemon.base.errors import ServiceError, Trouble

SEARCH: Final = "in search of credentials"
T = TypeVar("T")


def always() -> bool:
    """For `leave`: lets every request be sent."""
    return True


async def in_time(wait: Awaitable[T], limit_s: float, late: Callable[[], Exception]) -> T:
    """The result of `wait`. Raises what `late` makes if that takes more than `limit_s`; then `wait`
    is cancelled, and the error has none of its stack frames.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await wait
    except TimeoutError:
        pass
    raise late()


class Call:
    """`began_s`, `due_s`: when it began, and when it must be over, by the loop's clock.
    `waits_for`: what it waits for, in words, before it is sent. `is_second`: it is made once more,
    with newer credentials.
    """

    __slots__ = (
        *("_leave", "_limit_s", "_operation", "_was_sent"),
        *("began_s", "due_s", "is_second", "waits_for"),
    )

    def __init__(self, operation: str, limit_s: float, leave: Callable[[], bool] = always) -> None:
        """`leave`: asked before the first byte of a body is written; False: nothing is written."""
        self._operation = operation
        self._limit_s = limit_s
        self._leave = leave
        self._was_sent = False
        self.began_s = asyncio.get_running_loop().time()
        self.due_s = self.began_s + limit_s
        self.is_second = False
        self.waits_for = SEARCH

    def leave(self) -> bool:
        """Whether the first byte of a body may be written. True: it is, now."""
        self._was_sent = self._leave()
        return self._was_sent

    def begin_again(self) -> None:
        """The credentials were refused, so that nothing was written: others are looked for."""
        self.is_second = True
        self._was_sent = False
        self.waits_for = SEARCH

    async def within(self, wait: Awaitable[T]) -> T:
        """The result of `wait`. Raises `overdue` at the call's end."""
        left_s = self.due_s - asyncio.get_running_loop().time()
        return await in_time(wait, left_s, self.overdue)

    def overdue(self) -> ServiceError:
        """The error for a call that took too long."""
        was_sent = self._was_sent
        state = "" if was_sent else f", and was not sent: at last it waited {self.waits_for}"
        text = f"{self._operation} took more than {self._limit_s:g} s{state}"
        return ServiceError(Trouble.CALL_TIMEOUT, text, was_sent=was_sent)

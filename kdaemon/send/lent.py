"""Something that is lent for a time (keys of a role, a token), and asked for anew ahead of its end.

Knows the clock and the loop; must not know what is lent, by whom, or how one asks.
Invariant: as long as what was lent is good, nobody waits for its renewal and no failure of the
renewal is anybody's: the next attempt comes in RETRY_S. When it is over, whoever needs it waits for
one attempt, shared by all, and hears why that failed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from kdaemon.base.errors import ServiceError, Trouble

AHEAD_MAX: Final = timedelta(minutes=15)  # of the end; botocore 1.43.117's "advisory" time
AHEAD_PART: Final = 4  # ours: at most a quarter of the time, where that is short; 2026-11-28
LAST: Final = timedelta(seconds=10)  # ours: what ends so soon may end on the way; 2026-11-28
RETRY: Final = timedelta(seconds=30)  # ours: between two attempts that fail ahead of the end

T = TypeVar("T")
Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Starts a task that ends with the client, if not before."""

log = logging.getLogger("kdaemon.send")


class Lent(Generic[T]):
    """One such thing."""

    __slots__ = (
        *("_ask", "_ends_at", "_limit_s", "_renew_at", "_retry_at", "_spawn", "_task"),
        *("_what", "value"),
    )

    def __init__(
        self,
        ask: Callable[[], Awaitable[tuple[T, datetime]]],
        spawn: Spawn,
        limit_s: float,
        what: str,
    ) -> None:
        """`ask` gives the thing and its end, or raises `ServiceError`, not sent. `limit_s`: nobody
        waits longer for one attempt, which goes on. `what`: for people.
        """
        self._ask = ask
        self._spawn = spawn
        self._limit_s = limit_s
        self._what = what
        self.value: T | None = None  # what was lent last, however long ago
        self._renew_at = self._ends_at = self._retry_at = datetime.min.replace(tzinfo=UTC)
        self._task: asyncio.Task[None] | None = None

    @property
    def ends_at(self) -> datetime | None:
        """When what was lent last ends; None: nothing was lent yet."""
        return None if self.value is None else self._ends_at

    async def get(self) -> T:
        """The same object until it is renewed. Raises `ServiceError`, not sent."""
        now = datetime.now(UTC)
        if self.value is not None and now < self._renew_at:
            return self.value
        if self.value is not None and now < self._ends_at:
            if now >= self._retry_at:
                self._asked(is_early=True)
            return self.value
        task = self._asked(is_early=False)
        try:
            async with asyncio.timeout(self._limit_s):
                await asyncio.shield(task)
        except TimeoutError:
            pass
        else:
            assert self.value is not None
            return self.value
        raise ServiceError(
            Trouble.CREDENTIALS,
            f"{self._what}: no answer within {self._limit_s:g} s",
            was_sent=False,
        )

    async def first(self) -> None:
        """Asks for the first time, and waits as long as that takes. Raises `ServiceError`."""
        await asyncio.shield(self._asked(is_early=False))

    def _asked(self, *, is_early: bool) -> asyncio.Task[None]:
        if self._task is None:
            self._task = self._spawn(self._renew(is_early=is_early), "renewal")
        return self._task

    async def _renew(self, *, is_early: bool) -> None:
        try:
            value, ends_at = await self._ask()
        except ServiceError as error:
            self._retry_at = datetime.now(UTC) + RETRY
            if is_early:
                fields = {"fields": {"error": f"{error.code}: {error.message}"}}
                log.warning("%s: not renewed, and still good", self._what, extra=fields)
            raise
        else:
            self.value = value
            now = datetime.now(UTC)
            self._ends_at = max(ends_at - LAST, now + LAST)  # our clock may be wrong
            self._renew_at = self._ends_at - min(AHEAD_MAX, (self._ends_at - now) / AHEAD_PART)
        finally:
            self._task = None

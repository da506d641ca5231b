"""A thing that is lent for a time (keys of a role, a token), and renewed before its end.

Knows the clock and the loop; must not know what is lent, by whom, or how to ask for it.
Invariant: while the lent thing is good, nobody waits for its renewal, and a failed renewal fails no
caller: the next attempt comes after RETRY. Once it has ended, all who need it wait for one attempt
that they share, and get its error if it fails.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.send.call import in_time

AHEAD_MAX: Final = timedelta(minutes=15)  # before the end; botocore 1.43.117's "advisory" time
AHEAD_PART: Final = 4  # ours: at most a quarter of the time, if the time is short; 2026-11-28
# Ours: closer to its end, a thing may end on the way; 2026-11-28.
LAST: Final = timedelta(seconds=10)
RETRY: Final = timedelta(seconds=30)  # ours: between two failed attempts before the end

T = TypeVar("T")
Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Starts a task that ends with the client, or earlier."""

log = logging.getLogger("kdaemon.send")


class Lent(Generic[T]):
    """One lent thing."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[tuple[T, datetime]]],
        spawn: Spawn,
        limit_s: float,
        what: str,
    ) -> None:
        """`ask` gives the thing and its end, or raises `ServiceError`, not sent. `limit_s`: the
        longest wait for one attempt; the attempt itself goes on. `what`: its name, for people.
        """
        self._ask = ask
        self._spawn = spawn
        self._limit_s = limit_s
        self._what = what
        self.value: T | None = None  # the thing that was lent last, however long ago
        self._renew_at = self._ends_at = self._retry_at = datetime.min.replace(tzinfo=UTC)
        self._task: asyncio.Task[None] | None = None

    @property
    def ends_at(self) -> datetime | None:
        """When the last lent thing ends; None: nothing was lent yet."""
        return None if self.value is None else self._ends_at

    async def get(self) -> T:
        """The thing: the same object until it is renewed. Raises `ServiceError`, not sent."""
        now = datetime.now(UTC)
        if self.value is not None and now < self._renew_at:
            return self.value
        if self.value is not None and now < self._ends_at:
            if now >= self._retry_at:
                self._asked(is_early=True)
            return self.value
        await in_time(self.renewed(), self._limit_s, self._too_late)
        assert self.value is not None
        return self.value

    async def renewed(self) -> None:
        """Asks, together with all who wait for that already, and waits without a limit. Raises
        `ServiceError`; then the thing that was lent last stays.
        """
        await asyncio.shield(self._asked(is_early=False))

    def _too_late(self) -> ServiceError:
        text = f"{self._what}: no answer within {self._limit_s:g} s"
        return ServiceError(Trouble.CREDENTIALS, text, was_sent=False)

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
                fields = {"of": self._what, "code": error.code, "error": error.message}
                log.warning("credentials are not renewed, and still good", extra={"fields": fields})
            raise
        else:
            self.value = value
            now = datetime.now(UTC)
            self._ends_at = max(ends_at - LAST, now + LAST)  # our clock may be wrong
            self._renew_at = self._ends_at - min(AHEAD_MAX, (self._ends_at - now) / AHEAD_PART)
        finally:
            self._task = None

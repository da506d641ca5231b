"""What is lent for a time: renewed ahead of its end, and nobody goes with what has ended."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.send import lent
from kdaemon.send.lent import Lent
from tests.kit.patience import PATIENCE_S

START = datetime(2026, 11, 28, 12, tzinfo=UTC)
HOUR_S = 3600.0


class World:
    """A lender, and a clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lifetime_s: float) -> None:
        self.now_s = 0.0
        self.lifetime_s = lifetime_s
        self.asked = 0
        self.failing = False
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.tasks: list[asyncio.Task[None]] = []
        self.lent: Lent[int] = Lent(self.ask, self.spawn, PATIENCE_S, "the lender")
        world = self

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
                return START + timedelta(seconds=world.now_s)

        monkeypatch.setattr(lent, "datetime", Clock)

    async def ask(self) -> tuple[int, datetime]:
        self.asked += 1
        number, ends_at = self.asked, START + timedelta(seconds=self.now_s + self.lifetime_s)
        await self.let_go.wait()
        if self.failing:
            raise ServiceError(Trouble.CREDENTIALS, "not today", was_sent=False)
        return number, ends_at

    def spawn(self, work: Coroutine[Any, Any, None], _name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda done: done.exception())
        self.tasks.append(task)
        return task

    async def at(self, now_s: float) -> int:
        """What is gone with then; renewals that were begun are over after that."""
        self.now_s = now_s
        value = await self.lent.get()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return value


@pytest.mark.parametrize(
    ("lifetime_s", "renewed_at_s"), [(HOUR_S, 2692.5), (12 * HOUR_S, 42_290.0), (900.0, 667.5)]
)
async def test_the_next_is_asked_for_a_quarter_or_a_quarter_of_an_hour_ahead(
    monkeypatch: pytest.MonkeyPatch, lifetime_s: float, renewed_at_s: float
) -> None:
    world = World(monkeypatch, lifetime_s)
    assert [await world.at(each) for each in (0, 1, renewed_at_s - 1)] == [1, 1, 1]
    assert world.asked == 1
    assert await world.at(renewed_at_s) == 1
    assert world.asked == 2
    assert await world.at(renewed_at_s) == 2


async def test_a_failure_ahead_of_the_end_is_nobodys_and_the_next_attempt_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, HOUR_S)
    await world.at(0)
    world.failing = True
    assert [await world.at(each) for each in (2800, 2801, 2829, 2831)] == [1] * 4
    assert world.asked == 3
    with pytest.raises(ServiceError, match="not today"):
        await world.at(HOUR_S)
    world.failing = False
    assert await world.at(HOUR_S) == 5


async def test_who_waits_at_the_end_for_a_renewal_that_fails_does_not_go_with_what_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, HOUR_S)
    await world.at(0)
    world.failing = True
    world.let_go.clear()
    world.now_s = 2800
    assert await world.lent.get() == 1
    world.now_s = HOUR_S
    late = asyncio.create_task(world.lent.get())
    await asyncio.sleep(0)
    world.let_go.set()
    with pytest.raises(ServiceError, match="not today"):
        await late
    assert world.asked == 2


@pytest.mark.parametrize("lifetime_s", [-HOUR_S, 0.0, 5.0])
async def test_what_has_ended_by_our_clock_is_used_and_not_asked_for_at_each_call(
    monkeypatch: pytest.MonkeyPatch, lifetime_s: float
) -> None:
    """Our clock may be ahead: whether it is good is the service's to say."""
    world = World(monkeypatch, lifetime_s)
    assert [await world.at(each) for each in (0, 1, 2)] == [1, 1, 1]
    assert world.asked == 1


async def test_nobody_waits_longer_than_the_limit_and_what_comes_later_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, HOUR_S)
    world.lent = Lent(world.ask, world.spawn, 0.01, "the lender")
    world.let_go.clear()
    for _ in range(2):
        with pytest.raises(ServiceError, match=r"the lender: no answer within 0.01 s"):
            await world.lent.get()
    world.let_go.set()
    await asyncio.gather(*world.tasks)
    assert (await world.lent.get(), world.asked) == (1, 1)

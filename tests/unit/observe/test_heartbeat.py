"""The heartbeat under a clock of ours; once on a real loop."""

import asyncio
from itertools import pairwise

import pytest

from kdaemon.base.histogram import LAG_BOUNDS_NS, Histogram
from kdaemon.observe.heartbeat import NS_PER_SECOND, STILL_NS_MAX, Heartbeat
from kdaemon.system import SystemClock
from tests.kit.clock import HandClock, jump
from tests.kit.patience import PATIENCE_S


def test_it_is_alive_until_the_last_beat_is_older_than_the_bound() -> None:
    clock = HandClock(5 * NS_PER_SECOND)
    heart = Heartbeat(clock)
    heart.beat()
    beaten_ns = clock.ns
    assert heart.is_alive(beaten_ns + STILL_NS_MAX)
    assert not heart.is_alive(beaten_ns + STILL_NS_MAX + 1)
    assert heart.age_ns(beaten_ns + 3 * NS_PER_SECOND) == 3 * NS_PER_SECOND


def test_a_beat_after_a_stall_makes_it_alive_again() -> None:
    clock = HandClock(5 * NS_PER_SECOND)
    heart = Heartbeat(clock)
    clock.ns += 60 * NS_PER_SECOND
    assert not heart.is_alive(clock.ns), "a start-up that hangs is seen too"
    heart.beat()
    assert heart.is_alive(clock.ns)


def test_it_must_be_slower_than_our_watchdog_is_patient() -> None:
    assert 2 * NS_PER_SECOND < STILL_NS_MAX < 30 * NS_PER_SECOND


@pytest.mark.parametrize("late_ns", [0, 700_000, NS_PER_SECOND // 3])
def test_the_watchdog_is_fed_at_least_as_often_as_it_wants_and_not_at_each_beat(
    late_ns: int,
) -> None:
    """Beats come `late_ns` late, each of them, as the timers of a busy loop do."""
    clock = HandClock(5 * NS_PER_SECOND)
    fed: list[int] = []
    heart = Heartbeat(clock, lambda: fed.append(clock.ns), 15.0)
    first_ns = clock.ns
    for _ in range(120):
        heart.beat()
        clock.ns += NS_PER_SECOND + late_ns
    assert fed[0] == first_ns, "the first beat feeds"
    gaps_ns = [late - early for early, late in pairwise(fed)]
    assert gaps_ns
    assert max(gaps_ns) <= 15 * NS_PER_SECOND
    assert min(gaps_ns) >= 13 * NS_PER_SECOND


def test_a_loop_that_stands_still_feeds_nobody() -> None:
    clock = HandClock(5 * NS_PER_SECOND)
    fed: list[int] = []
    heart = Heartbeat(clock, lambda: fed.append(clock.ns), 15.0)
    heart.beat()
    clock.ns += 60 * NS_PER_SECOND
    assert len(fed) == 1
    heart.beat()
    assert len(fed) == 2


class Eater:
    """Counts how often it was fed; `is_full` is set at the fifth time."""

    def __init__(self) -> None:
        self.fed = 0
        self.is_full = asyncio.Event()

    def feed(self) -> None:
        self.fed += 1
        if self.fed == 5:
            self.is_full.set()


async def test_on_a_loop_it_beats_as_fast_as_an_impatient_watchdog_wants_until_stopped() -> None:
    clock = SystemClock()
    eater, other = Eater(), Eater()
    heart, other_heart = Heartbeat(clock, eater.feed, 0.001), Heartbeat(clock, other.feed, 0.001)
    heart.start()
    assert eater.fed == 1, "the first beat is at once"
    await asyncio.wait_for(eater.is_full.wait(), PATIENCE_S)
    assert heart.is_alive(clock.now_ns())
    heart.stop()
    heart.stop()
    count = eater.fed
    other_heart.start()
    await asyncio.wait_for(other.is_full.wait(), PATIENCE_S)
    other_heart.stop()
    assert eater.fed == count, "another beat five times meanwhile"


async def test_how_late_a_beat_is_is_the_lag_of_the_loop() -> None:
    lag = Histogram(LAG_BOUNDS_NS)
    heart = Heartbeat(SystemClock(), lag=lag)
    heart.start()
    assert sum(lag.counts) == 0, "the first beat is at once, and nobody waited for it"
    jump(8.0)  # the next one is due within a second and a half, and comes that much later
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    heart.stop()
    assert sum(lag.counts) == 1
    assert 6 * NS_PER_SECOND < lag.sum < 8 * NS_PER_SECOND


async def test_without_a_watchdog_it_only_writes_down_the_time() -> None:
    fed: list[int] = []
    for feed, interval_s in ((None, 0.001), (lambda: fed.append(1), None)):
        heart = Heartbeat(SystemClock(), feed, interval_s)
        heart.start()
        heart.stop()
    assert fed == []


async def test_what_is_called_at_each_beat_cannot_stop_the_heart() -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: errors.append(context.get("exception"))
    )
    called = Eater()

    def on_beat() -> None:
        called.feed()
        if called.fed == 2:
            raise ValueError("the second look broke")

    heart = Heartbeat(SystemClock(), lambda: None, 0.001, on_beat)
    heart.start()
    assert called.fed == 1, "at the first beat too"
    await asyncio.wait_for(called.is_full.wait(), PATIENCE_S)
    heart.stop()
    assert [str(error) for error in errors] == ["the second look broke"]

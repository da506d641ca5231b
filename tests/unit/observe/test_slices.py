"""When a large page is made, and who gets it. A step costs what the test's clock says."""

import asyncio
from collections.abc import Callable

import pytest

from kdaemon.base.principal import ANYBODY
from kdaemon.http.request import HttpRequest
from kdaemon.observe.slices import PAUSE_FACTOR, PAUSE_NS_MAX, SLICE_NS, Page, SlicedPages, Steps

MS = 1_000_000


class Owner:
    """The connection of a request."""

    is_last_answer = False
    client = 1
    principal = ANYBODY

    def __init__(self) -> None:
        self.answered: list[HttpRequest] = []
        self.on_answer: Callable[[], object] = lambda: None

    def flush_answers(self, request: HttpRequest) -> None:
        self.answered.append(request)
        self.on_answer()

    def go_on(self) -> None: ...

    def reset(self) -> None: ...


class World:
    """Pages of ten steps, on a loop whose clock only steps and the test move."""

    def __init__(self) -> None:
        self.now = 1
        self.step_ns = MS
        self.begun: list[str] = []
        self.steps = 0
        self.owner = Owner()
        self.breaks = False
        self.breaks_at_once = False  # before the first step
        self.pages = SlicedPages(self, {name: self.maker(name) for name in ("a", "b")})

    def now_ns(self) -> int:
        return self.now

    def maker(self, name: str) -> Callable[[], Steps]:
        def steps() -> Steps:
            self.begun.append(name)
            for _ in range(10):
                self.now += self.step_ns
                self.steps += 1
                if self.breaks:
                    raise ValueError("broken")
                yield
            return Page(200, b"%s %d" % (name.encode(), len(self.begun)))

        def begun() -> Steps:
            if self.breaks_at_once:
                raise ImportError("the file is gone")
            return steps()

        return begun

    def ask(self, name: str = "a") -> HttpRequest:
        request = HttpRequest(self.owner, "GET", "/", "", {}, b"", closes=False, is_http_1_0=False)
        self.pages.ask(name, request)
        return request


def body(request: HttpRequest) -> bytes:
    assert request.answer is not None
    return request.answer.body


async def turns(world: World, *requests: HttpRequest) -> int:
    """Lets the loop turn until all have their answers; how often."""
    for turn in range(1_000):
        if all(request.answer is not None for request in requests):
            return turn
        await asyncio.sleep(0)
    raise AssertionError("no answer")


@pytest.fixture
def world() -> World:
    return World()


async def test_a_small_page_is_answered_in_the_next_turn(world: World) -> None:
    world.step_ns = 100
    request = world.ask()
    assert await turns(world, request) == 1
    assert body(request) == b"a 1"


async def test_a_large_page_lets_the_loop_turn_after_each_slice(world: World) -> None:
    request = world.ask()
    await asyncio.sleep(0)
    assert world.steps == SLICE_NS // MS, "the first slice, and no more"
    assert request.answer is None
    assert await turns(world, request) >= 10 * MS // SLICE_NS - 1


async def test_all_who_ask_together_share_one_page(world: World) -> None:
    requests = [world.ask() for _ in range(17)]
    await turns(world, *requests)
    assert world.begun == ["a"]
    assert {body(request) for request in requests} == {b"a 1"}


async def test_who_asks_while_a_page_is_made_shares_the_next_one(world: World) -> None:
    """What was read before somebody asked is not told to him as of now."""
    first = world.ask()
    await asyncio.sleep(0)
    assert world.begun == ["a"]
    others = []
    for _ in range(16):
        others.append(world.ask())
        await asyncio.sleep(0)
    await turns(world, first)
    assert [request.answer for request in others] == [None] * 16
    others.append(world.ask())
    world.now += PAUSE_NS_MAX
    world.pages.end_pause()  # the timer of the real loop has another clock
    await turns(world, *others)
    assert world.begun == ["a", "a"], "one for all of them"
    assert {body(request) for request in others} == {b"a 2"}
    world.pages.close()


async def test_a_large_page_is_given_in_a_turn_of_its_own(world: World) -> None:
    request = world.ask()
    while world.steps < 10:
        await asyncio.sleep(0)
    assert request.answer is None
    assert await turns(world, request) <= 2


async def test_the_answers_leave_one_in_a_turn_of_the_loop(world: World) -> None:
    requests = [world.ask() for _ in range(16)]
    await turns(world, requests[0])
    assert sum(request.answer is not None for request in requests) == 1
    assert await turns(world, *requests) >= 14


async def test_another_page_waits_for_its_turn_and_is_made_too(world: World) -> None:
    first, second = world.ask("a"), world.ask("b")
    await turns(world, first)
    assert world.begun == ["a"], "never two at a time"
    world.now += PAUSE_NS_MAX
    world.pages.end_pause()  # the timer of the real loop has another clock
    await turns(world, second)
    assert body(second) == b"b 2"
    world.pages.close()


async def test_after_a_page_the_loop_is_left_to_others(world: World) -> None:
    """Ten times as long as the page took: whoever asks then gets a new one, later."""
    await turns(world, world.ask())
    later = world.ask()
    pause_ns = PAUSE_FACTOR * 10 * MS
    world.now += pause_ns - 1
    world.pages.end_pause()
    assert world.begun == ["a"]
    world.now += 1
    world.pages.end_pause()
    await turns(world, later)
    assert body(later) == b"a 2", "of the moment, not a copy"
    world.pages.close()


async def test_the_pause_is_a_second_at_most(world: World) -> None:
    world.step_ns = 10 * PAUSE_NS_MAX
    await turns(world, world.ask())
    world.now += PAUSE_NS_MAX
    world.step_ns = 1
    request = world.ask()
    assert await turns(world, request) == 1
    assert body(request) == b"a 2"


async def test_a_page_that_nobody_waits_for_is_not_finished(world: World) -> None:
    requests = [world.ask(), world.ask()]
    await asyncio.sleep(0)
    for request in requests:
        request.owner = None
    for _ in range(20):
        await asyncio.sleep(0)
    assert world.steps < 10
    assert [request.answer for request in requests] == [None, None]
    world.now += PAUSE_NS_MAX
    world.step_ns = 1
    later = world.ask()
    await turns(world, later)
    assert body(later) == b"a 2", "and the next one is made"


@pytest.mark.parametrize("where", ["breaks", "breaks_at_once"])
async def test_a_page_that_breaks_is_told_to_all_and_the_next_is_made(
    world: World, where: str
) -> None:
    setattr(world, where, True)
    request = world.ask()
    await turns(world, request)
    assert request.answer is not None
    assert request.answer.status == 500
    setattr(world, where, False)
    world.now += PAUSE_NS_MAX
    world.step_ns = 1
    request = world.ask()
    await turns(world, request)
    assert body(request) == b"a %d" % len(world.begun)


async def test_who_asks_again_with_each_answer_does_not_keep_the_loop(world: World) -> None:
    """As a client does that sends requests without waiting: each answer lets the next one in."""
    again: list[HttpRequest] = []

    def ask_again() -> None:
        if len(again) < 100:
            again.append(world.ask())

    world.owner.on_answer = ask_again
    await turns(world, world.ask())
    assert len(again) == 1
    assert world.begun == ["a"]
    world.pages.close()


async def test_a_closed_one_makes_nothing_more(world: World) -> None:
    for is_begun in (False, True):
        request = world.ask()
        if is_begun:
            await asyncio.sleep(0)
        world.pages.close()
        steps = world.steps
        for _ in range(20):
            await asyncio.sleep(0)
        assert (world.steps, request.answer) == (steps, None)

"""Control calls: listed streams first, what is missing is remembered, queues are bounded."""

import asyncio
from typing import Any

import pytest

from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.send import control as control_module
from kdaemon.send.control import (
    CALLS_PER_SECOND,
    MISSING_S,
    UNLISTED_WAITING_MAX,
    ControlCalls,
    ControlSettings,
    calls_per_second,
)

MISSING = ServiceError("ResourceNotFoundException", "Stream not found", status=400)
Payload = dict[str, object]


class HalfDice:
    def random(self) -> float:
        return 0.5


class Gate:
    """Stands in for the throttler: turns are given by hand."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(0)

    async def acquire(self) -> None:
        await self.turns.acquire()

    async def open(self, count: int) -> None:
        for _ in range(count):
            self.turns.release()
        await settle()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Of all calls."""
    found = Gate()
    monkeypatch.setattr(control_module, "Throttler", lambda *_, **__: found)
    return found


class Service:
    """Answers by stream name; notes who asked, and when (by hand)."""

    def __init__(self, **answers: ServiceError) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.slept_s: list[float] = []
        self.now_s = 0.0

    async def call(self, operation: str, _payload: Payload, target: StreamTarget) -> dict[str, Any]:
        self.asked.append(target.name)
        error = self.answers.get(target.name)
        if error is not None:
            raise error
        return {"Operation": operation}

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)

    def control(self, calls_per_second: float = 1e6, attempts_max: int = 3) -> ControlCalls:
        settings = ControlSettings(calls_per_second=calls_per_second, attempts_max=attempts_max)
        return ControlCalls(self.call, settings, HalfDice(), self.sleep, lambda: self.now_s)


def ask(calls: ControlCalls, name: str, *, is_listed: bool = False) -> "asyncio.Task[Any]":
    target = StreamTarget(name, None, is_listed)
    return asyncio.create_task(calls.ask("ListShards", {}, target))


async def failure(task: "asyncio.Task[Any]") -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await task
    return caught.value


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_listed_stream_does_not_wait_for_names_that_clients_made_up(gate: Gate) -> None:
    service = Service()
    calls = service.control()
    bogus = [ask(calls, f"bogus-{number}") for number in range(40)]
    await gate.open(4)
    listed = ask(calls, "listed", is_listed=True)
    await settle()
    await gate.open(1)
    assert await listed == {"Operation": "ListShards"}
    assert service.asked == ["bogus-0", "bogus-1", "bogus-2", "bogus-3", "listed"]
    for task in bogus:
        task.cancel()
    await asyncio.wait(bogus)
    await calls.aclose()


async def test_among_equals_who_came_first_is_asked_first() -> None:
    service = Service()
    calls = service.control()
    await asyncio.gather(*(ask(calls, name) for name in "abc"))
    assert service.asked == ["a", "b", "c"]


def test_workers_have_one_quota_together_and_an_embedded_service_has_none_to_spare() -> None:
    assert calls_per_second(4) * 4 == calls_per_second() == CALLS_PER_SECOND
    assert calls_per_second(is_embedded=True) > 100


async def test_one_of_many_workers_asks_for_a_shard_map_without_a_pause() -> None:
    """Or it would not know the shards for as long as the pause, and begin them anew after it."""
    service = Service()
    calls = service.control(calls_per_second=calls_per_second(32))
    tasks = [ask(calls, name) for name in "abc"]
    await settle()
    assert service.asked == ["a", "b"], "the calls of one map"
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await calls.aclose()


async def test_a_caller_that_left_uses_up_no_turn(gate: Gate) -> None:
    service = Service()
    calls = service.control()
    tasks = [ask(calls, f"s{number}") for number in range(6)]
    await gate.open(2)
    for task in tasks[2:]:
        task.cancel()
    await asyncio.wait(tasks)
    last = ask(calls, "last")
    await gate.open(1)
    assert await last is not None
    assert service.asked == ["s0", "s1", "last"]


async def test_too_many_that_wait_are_refused_at_once_and_listed_ones_are_not(gate: Gate) -> None:
    service = Service()
    calls = service.control()
    waiting = [ask(calls, f"u{number}") for number in range(UNLISTED_WAITING_MAX)]
    await settle()
    error = await failure(ask(calls, "one-more"))
    assert (error.trouble, error.was_sent) == (Trouble.BUSY, False)
    assert "list the streams that matter" in error.message
    listed = ask(calls, "listed", is_listed=True)
    await settle()
    await gate.open(1)
    assert await listed is not None
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await calls.aclose()


async def test_that_a_stream_is_missing_is_remembered_for_a_while() -> None:
    service = Service(gone=MISSING)
    calls = service.control()
    for _ in range(5):
        assert (await failure(ask(calls, "gone"))).code == MISSING.code
    assert service.asked == ["gone"]
    assert await ask(calls, "there") is not None
    service.now_s = MISSING_S
    del service.answers["gone"]
    assert await ask(calls, "gone") is not None
    assert service.asked == ["gone", "there", "gone"]


async def test_a_listed_stream_that_is_missing_is_asked_for_each_time() -> None:
    service = Service(gone=MISSING)
    calls = service.control()
    for _ in range(2):
        await failure(ask(calls, "gone", is_listed=True))
    assert service.asked == ["gone", "gone"]


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "MISSING_MAX", 3)
    service = Service(**{f"s{number}": MISSING for number in range(5)})
    calls = service.control()
    for number in range(5):
        await failure(ask(calls, f"s{number}"))
    await failure(ask(calls, "s4"))
    assert len(service.asked) == 5
    await failure(ask(calls, "s0"))
    assert len(service.asked) == 6


@pytest.mark.parametrize(
    ("asked_s", "waited_s"), [(0.0, [0.1, 0.2]), (2.0, [2.0, 2.0]), (60.0, [5.1, 5.2])]
)
async def test_a_service_that_asks_to_be_left_alone_is_left_alone_within_reason(
    asked_s: float, waited_s: list[float]
) -> None:
    busy = ServiceError("Http503", "", status=503, retry_after_ns=int(asked_s * 1e9))
    service = Service(s=busy)
    assert (await failure(ask(service.control(), "s"))).code == "Http503"
    assert service.slept_s == pytest.approx(waited_s)


@pytest.mark.parametrize(
    "error",
    [
        ServiceError("AccessDeniedException", "", status=400),
        ServiceError("ValidationException", "", status=400),
        ServiceError(Trouble.NO_CREDENTIALS, "", was_sent=False),
    ],
)
async def test_what_cannot_pass_is_not_asked_again(error: ServiceError) -> None:
    service = Service(s=error)
    found = await failure(ask(service.control(), "s"))
    assert found.code == error.code
    assert service.asked == ["s"]


# Turns for calls that are passed on for clients


def client_turn(calls: ControlCalls) -> "asyncio.Task[None]":
    return asyncio.create_task(calls.turn_for_client())


async def test_listed_streams_go_before_clients_and_the_others_take_turns_with_them(
    gate: Gate,
) -> None:
    service = Service()
    calls = service.control()
    clients = [client_turn(calls) for _ in range(4)]
    unlisted = [ask(calls, f"u{number}") for number in range(4)]
    listed = [ask(calls, f"l{number}", is_listed=True) for number in range(2)]
    await settle()
    seen = []
    for _ in range(10):
        await gate.open(1)
        seen.append((sum(map(asyncio.Task.done, clients)), len(service.asked)))
    assert seen[:2] == [(0, 1), (0, 2)], "listed first"
    assert service.asked[:2] == ["l0", "l1"]
    for turns, (of_clients, _) in enumerate(seen[2:], 1):
        assert of_clients == (turns + 1) // 2, "every other turn"
    await asyncio.gather(*clients, *unlisted, *listed)


async def test_clients_have_all_turns_that_nobody_else_wants_and_none_that_they_left(
    gate: Gate,
) -> None:
    service = Service()
    calls = service.control()
    clients = [client_turn(calls) for _ in range(3)]
    await settle()
    clients[0].cancel()
    await gate.open(2)
    assert [each.done() for each in clients] == [True, True, True]
    assert [each.cancelled() for each in clients] == [True, False, False]
    last = ask(calls, "u")
    await gate.open(1)
    assert await last is not None

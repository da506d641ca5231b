"""How many bodies of calls may be in memory: by the rules alone, and where nobody reads them."""

import asyncio
import random
from typing import cast

import pytest

from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import ServiceError
from kdaemon.base.record import Record
from kdaemon.send.bodies import BODIES_BYTES_MAX, STREAM_PART, Bodies
from kdaemon.send.client import ClientSettings
from tests.kit.depth import some
from tests.kit.patience import PATIENCE_S, until
from tests.unit.send.scripted import failure, opened, raw_server

MIB = 1024 * 1024
LARGE = 7 * MIB
TARGETS = [StreamTarget(f"stream-{number}") for number in range(3)]


async def put(bodies: Bodies, stream: str, byte_count: int, go: asyncio.Event) -> None:
    """A call: its body is there until `go`."""
    await bodies.room(stream)
    held = bodies.add(stream, byte_count)
    try:
        await go.wait()
    finally:
        held.give()
        held.give()


async def test_one_body_of_any_size_always_goes() -> None:
    bodies = Bodies()
    assert bodies.has_room("a")
    held = bodies.add("a", 2 * BODIES_BYTES_MAX)
    assert not bodies.has_room("a")
    assert not bodies.has_room("b")
    held.give()
    assert bodies.has_room("a")
    assert not bodies.byte_count


async def test_a_stream_that_is_not_read_leaves_room_to_another() -> None:
    bodies, go, never = Bodies(), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as calls:
        stuck = [calls.create_task(put(bodies, "stuck", LARGE, never)) for _ in range(16)]
        await asyncio.sleep(0)
        assert bodies.byte_count <= BODIES_BYTES_MAX // STREAM_PART + LARGE
        for _ in range(5):
            well = calls.create_task(put(bodies, "well", LARGE, go))
            go.set()
            await well
        never.set()
    assert all(each.done() for each in stuck)
    assert not bodies.byte_count


@pytest.mark.parametrize("seed", some(range(20)))
async def test_whoever_waits_goes_at_last_and_the_bound_is_kept(seed: int) -> None:
    """Calls come, are written and are cancelled at any moment, also while they are woken."""
    dice, bodies = random.Random(seed), Bodies()
    calls: list[tuple[asyncio.Task[None], asyncio.Event]] = []
    largest = 0
    for _ in range(300):
        at = dice.randrange(3)
        if at == 0 or not calls:
            go = asyncio.Event()
            size = dice.choice((1_000, MIB, LARGE, 14 * MIB))
            largest = max(largest, size)
            stream = dice.choice("abcd")
            calls.append((asyncio.create_task(put(bodies, stream, size, go)), go))
        elif at == 1:
            dice.choice(calls)[1].set()
        else:
            dice.choice(calls)[0].cancel()
        if dice.randrange(2):
            await asyncio.sleep(0)
        assert bodies.byte_count < BODIES_BYTES_MAX + largest
    for _, go in calls:
        go.set()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(task for task, _ in calls), return_exceptions=True)
    assert not bodies.byte_count
    assert bodies.has_room("a")


@pytest.mark.usefixtures("aws_environment")
async def test_a_service_that_reads_nothing_fills_no_memory_and_what_waited_was_not_sent() -> None:
    arrived = 0

    async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        arrived += 1
        cast("asyncio.Transport", writer.transport).pause_reading()
        await asyncio.Event().wait()

    records = [Record(b"x" * MIB, "key") for _ in range(8)]
    async with raw_server(say_nothing) as url:
        settings = ClientSettings(endpoint_url=url, call_timeout_s=2.0)
        async with opened(settings) as client:
            calls = [
                asyncio.create_task(client.put_records(TARGETS[number % 3], records))
                for number in range(12)
            ]
            async with asyncio.timeout(PATIENCE_S):
                await until(lambda: arrived)
                peak = client.audit().exchanges.bodies.byte_count
                control = await failure(client.call("ListShards", {"StreamName": "orders"}))
                assert control.was_sent  # it waited for no room
                failures = await asyncio.gather(*calls, return_exceptions=True)
            assert 0 < peak < BODIES_BYTES_MAX + 12 * MIB
            assert not client.audit().exchanges.bodies.byte_count
    unsent = [each for each in failures if isinstance(each, ServiceError) and not each.was_sent]
    assert len(unsent) >= len(calls) - 4  # three or four of 11 MB are encoded before the rest waits
    assert all("did not read earlier calls" in each.message for each in unsent)

"""No client makes the others wait, and none keeps the others out."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from kdaemon.base.memory import ByteBudget
from kdaemon.http.arrivals import GRACE_TICKS, Arrival, Arrivals
from kdaemon.http.hub import VISITED_A_TURN, ConnectionLimits, ConnectionPlaces, Hub
from kdaemon.http.request import HttpRequest
from kdaemon.http.turns import ALL_TIME_NS_MAX, BYTES_MAX, PIECES_MAX, TIME_NS_MAX, Turn, Turns
from tests.unit.http.harness import GET, HEAD, Harness, Make, statuses

# --- turns


async def test_a_connection_that_pipelines_does_its_part_and_others_have_their_turn(
    harness: Make,
) -> None:
    greedy, other = harness(echoes=True), harness(echoes=True)
    greedy.protocol.data_received(GET * 1000)
    assert len(greedy.requests) == PIECES_MAX
    assert not greedy.transport.reads()
    assert statuses(other.feed(GET)) == [200]
    turns = 1
    while len(greedy.requests) < 1000:
        await asyncio.sleep(0)
        turns += 1
    assert turns == -(-1000 // PIECES_MAX)
    await asyncio.sleep(0)
    assert greedy.transport.reads()
    assert statuses(greedy.transport.take()) == [200] * 1000


async def test_input_is_bounded_in_bytes_a_turn(harness: Make) -> None:
    one = harness(echoes=True)
    request = HEAD + b"Content-Length: 10000\r\n\r\n" + bytes(10_000)
    one.protocol.data_received(request * 25)
    assert len(one.requests) <= BYTES_MAX // 10_000 + 1


async def test_a_read_that_filled_its_turn_is_the_last_of_it(harness: Make) -> None:
    """A loop may read 32 times in a turn while each read is full."""
    one = harness(echoes=True)
    one.protocol.data_received(HEAD + b"Content-Length: 500000\r\n\r\n" + bytes(250_000))
    assert not one.transport.reads()
    await asyncio.sleep(0)
    assert one.transport.reads()
    one.protocol.data_received(bytes(250_000))
    assert one.bodies == [bytes(500_000)]


async def test_a_slow_request_is_the_last_of_its_turn(harness: Make) -> None:
    now_ns = [0]
    one = harness(hub=Hub(ConnectionLimits(), now_ns=lambda: now_ns[0]))

    def handle(request: HttpRequest) -> None:
        now_ns[0] += TIME_NS_MAX
        request.respond(200, b"")

    one.on_request = handle
    one.protocol.data_received(GET * 5)
    for count in range(2, 6):
        assert len(one.requests) == count
        await asyncio.sleep(0)


async def test_a_lost_connection_does_nothing_in_its_next_turn(harness: Make) -> None:
    one = harness(echoes=True)
    one.protocol.data_received(GET * 1000)
    one.lose()
    await asyncio.sleep(0)
    assert len(one.requests) == PIECES_MAX


async def test_a_turn_goes_on_once_for_each_pass() -> None:
    calls: list[int] = []
    turn = Turn(lambda: calls.append(1), Turns(lambda: 0))
    turn.begin()
    assert all(turn.spend(1) for _ in range(PIECES_MAX - 1))
    assert not turn.spend(1)
    turn.pass_on()
    turn.pass_on()
    assert turn.is_over
    await asyncio.sleep(0)
    assert (calls, turn.is_over) == ([1], False)
    assert not turn.spend(BYTES_MAX)
    turn.pass_on()
    turn.close()
    await asyncio.sleep(0)
    assert calls == [1]


async def test_all_that_wait_do_a_part_of_a_turn_together_and_in_their_order() -> None:
    now_ns = [0]
    done: list[int] = []
    turns = Turns(lambda: now_ns[0])

    def work(number: int) -> None:
        done.append(number)
        now_ns[0] += ALL_TIME_NS_MAX // 2

    for number in range(10):
        turns.later(partial(work, number))
    assert not turns.may_go_on()
    for count in range(2, 12, 2):
        await asyncio.sleep(0)
        assert len(done) == count
    assert done == list(range(10))
    await asyncio.sleep(0)
    assert turns.may_go_on()
    now_ns[0] += ALL_TIME_NS_MAX
    assert not turns.may_go_on(), "a turn's worth was done"
    await asyncio.sleep(0)
    assert turns.may_go_on()


async def test_one_that_has_its_turn_may_ask_for_another() -> None:
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: failures.append(told))
    done: list[int] = []
    turns = Turns(lambda: 0)

    def again() -> None:
        done.append(1)
        turns.later(lambda: done.append(2))

    turns.later(again)
    for expected in ([1], [1, 2], [1, 2]):
        await asyncio.sleep(0)
        assert done == expected
    assert failures == []


async def test_a_defect_of_one_that_waits_holds_up_none_of_the_others() -> None:
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: failures.append(told))
    done: list[int] = []
    turns = Turns(lambda: 0)
    turns.later(lambda: done.append(1 // 0))
    turns.later(lambda: done.append(1))
    for _ in range(3):
        await asyncio.sleep(0)
    assert done == [1]
    assert len(failures) == 1


@pytest.mark.parametrize("way", ["read", "answered"])
async def test_many_connections_with_work_left_do_not_do_it_all_in_one_turn(
    harness: Make, way: str
) -> None:
    """Each with its 2 ms a turn: 1,000 of them were 2 s."""
    now_ns = [0]
    hub = Hub(ConnectionLimits(pipeline_max=1), now_ns=lambda: now_ns[0])
    greedy = [harness(hub=hub) for _ in range(50)]
    seen: list[HttpRequest] = []

    def handle(request: HttpRequest) -> None:
        seen.append(request)
        now_ns[0] += TIME_NS_MAX // 2
        if way == "read":
            request.respond(200, b"")

    for one in greedy:
        one.on_request = handle
        one.protocol.data_received(GET * 9)
    if way == "answered":
        assert len(seen) == 50
        for request in seen[:]:
            request.respond(200, b"")
    parts = ALL_TIME_NS_MAX // (TIME_NS_MAX // 2) + 2
    assert len(seen) <= 50 + 2 * parts
    before = len(seen)
    await asyncio.sleep(0)
    assert before < len(seen) <= before + 2 * parts
    if way == "read":
        while len(seen) < 50 * 9:
            await asyncio.sleep(0)
        assert all(statuses(one.transport.take()) == [200] * 9 for one in greedy)


# --- what is arriving

HALF = HEAD + b"Content-Length: 1000\r\n\r\n"


async def test_what_waits_for_its_turn_does_not_give_way_to_what_waits_for_an_answer(
    harness: Make,
) -> None:
    now_ns = [0]
    arrivals = Arrivals(ByteBudget(1_000_000))
    hub = Hub(ConnectionLimits(pipeline_max=1), arrivals=arrivals, now_ns=lambda: now_ns[0])
    ahead = [harness(hub=hub) for _ in range(3)]
    for one in ahead:
        one.protocol.data_received(GET * (250_000 // len(GET)))
    await asyncio.sleep(0)
    assert hub.turns.may_go_on()
    now_ns[0] += ALL_TIME_NS_MAX
    body = harness(hub=hub, echoes=True)
    body.protocol.data_received(HEAD + b"Content-Length: 500000\r\n\r\n" + bytes(200_000))
    assert body.protocol.audit().unread_bytes is not None
    last = harness(hub=hub)
    last.protocol.data_received(GET * (400_000 // len(GET)))
    assert body.protocol.audit().unread_bytes is not None
    assert None in [one.protocol.audit().unread_bytes for one in ahead]
    await asyncio.sleep(0)
    body.protocol.data_received(bytes(300_000))
    for _ in range(5):
        await asyncio.sleep(0)
    assert body.bodies == [bytes(500_000)]


async def test_what_clients_sent_ahead_counts_as_what_arrives(harness: Make) -> None:
    """Each may send a read (256 KiB) ahead of its answer: 10,000 connections were 2.5 GB."""
    arrivals = Arrivals(ByteBudget(1_000_000))
    hub = Hub(ConnectionLimits(pipeline_max=1), arrivals=arrivals)
    clients = [harness(hub=hub) for _ in range(10)]
    ahead = GET * (250_000 // len(GET))
    for one in clients:
        one.protocol.data_received(ahead)
        held = sum(each.protocol.audit().unread_bytes or 0 for each in clients)
        assert held <= arrivals.budget.bytes_taken <= 1_000_000
    refused = [one for one in clients if one.protocol.audit().unread_bytes is None]
    assert len(refused) == 6
    for one in refused:  # and what was handed over is answered first
        one.requests[0].respond(200, b"")
        assert statuses(one.transport.take()) == [200, 503]
    kept = next(one for one in clients if one not in refused)
    for number in range(len(ahead) // len(GET)):
        kept.requests[number].respond(200, b"")
        await asyncio.sleep(0)
    assert kept.protocol.audit().unread_bytes is None
    assert statuses(kept.transport.take()) == [200] * (len(ahead) // len(GET))
    for one in clients:
        one.lose()
    assert arrivals.budget.bytes_taken == 0


def sharing(harness: Make, byte_count: int, count: int) -> list[Harness]:
    arrivals = Arrivals(ByteBudget(byte_count))
    return [harness(hub=Hub(ConnectionLimits(), arrivals=arrivals)) for _ in range(count)]


def sweep(connections: list[Harness], times: int = 1) -> None:
    for _ in range(times):
        for one in connections:
            one.hub.sweep()


async def test_the_first_byte_that_is_kept_is_charged(harness: Make) -> None:
    (one,) = sharing(harness, 10_000, 1)
    one.feed(HALF + b"a")
    assert one.hub.bodies.bytes_taken == 1
    one.feed(b"bc")
    assert one.hub.bodies.bytes_taken == 3


async def test_a_head_that_takes_more_than_one_read_is_charged(harness: Make) -> None:
    (one,) = sharing(harness, 10_000, 1)
    one.feed(HALF[:30])
    assert one.hub.bodies.bytes_taken == 30
    one.feed(HALF[30:] + bytes(1000))
    assert [len(body) for body in one.bodies] == [1000]
    one.requests[0].respond(200, b"")
    assert one.hub.bodies.bytes_taken == 0


async def test_who_stalls_goes_before_who_comes(harness: Make) -> None:
    stalled, *others = sharing(harness, 2000, 3)
    stalled.feed(HALF + bytes(999))
    sweep([stalled, *others], 3)
    others[0].feed(HALF + bytes(600))
    others[1].feed(HALF + bytes(600))
    answer = stalled.transport.take()
    assert statuses(answer) == [503]
    assert b"Retry-After: 1\r\n" in answer
    for one in others:
        one.feed(bytes(400))
        assert [len(body) for body in one.bodies] == [1000]
        one.requests[0].drop_body()
    assert stalled.hub.bodies.bytes_taken == 0


async def test_five_that_hold_everything_keep_nobody_out(harness: Make) -> None:
    *greedy, newcomer = sharing(harness, 5000, 6)
    for one in greedy:
        one.feed(HALF + bytes(999))
    newcomer.feed(HALF + bytes(100))
    newcomer.feed(bytes(900))
    assert len(newcomer.bodies) == 1
    refused = [one for one in greedy if statuses(one.transport.take()) == [503]]
    assert len(refused) == 1


async def test_one_largest_body_can_arrive_when_nothing_else_does(harness: Make) -> None:
    (one,) = sharing(harness, 1000, 1)
    for _ in range(10):
        one.feed(HALF[: len(HALF) * (not one.hub.bodies.bytes_taken)] + bytes(100))
    assert [len(body) for body in one.bodies] == [1000]


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n"]
)
async def test_what_could_never_arrive_is_refused_for_good(harness: Make, framing: bytes) -> None:
    (one,) = sharing(harness, 1000, 1)
    assert statuses(one.feed(HEAD + framing)) == [413]


async def test_memory_that_records_hold_makes_nobody_go(harness: Make) -> None:
    """Where the whole is full, and not the part of the bodies, the newcomer waits."""
    memory = ByteBudget(2000)
    arrivals = Arrivals(ByteBudget(1000, memory))
    first, second = (harness(hub=Hub(ConnectionLimits(), arrivals=arrivals)) for _ in range(2))
    first.feed(HALF + bytes(100))
    memory.take(1900)
    answer = second.feed(HALF + bytes(100))
    assert statuses(answer) == [503]
    assert b"Retry-After: 1\r\n" in answer
    assert not first.transport.has_ended()
    memory.give(1900)


async def test_a_request_can_arrive_to_be_told_that_memory_is_full(harness: Make) -> None:
    memory = ByteBudget(2000)
    arrivals = Arrivals(ByteBudget(1000, memory), reserve_bytes=1000)
    first, second = (harness(hub=Hub(ConnectionLimits(), arrivals=arrivals)) for _ in range(2))
    memory.take(1900)
    for sent in (HALF + bytes(100), bytes(500)):
        first.feed(sent)
    assert statuses(second.feed(HALF + bytes(900))) == [503], "the reserve is bounded"
    first.feed(bytes(400))
    assert [len(body) for body in first.bodies] == [1000]
    first.requests[0].respond(400, b"")
    assert (memory.bytes_taken, arrivals.budget.bytes_taken) == (1900, 0)
    memory.give(1900)
    assert not second.bodies
    third = harness(hub=Hub(ConnectionLimits(), arrivals=arrivals))
    third.feed(HALF + bytes(900))
    third.feed(bytes(100))
    assert len(third.bodies) == 1


async def test_a_body_must_come_at_a_least_speed_after_its_grace(harness: Make) -> None:
    slow, fast = sharing(harness, 1_000_000, 2)
    for one in (slow, fast):
        one.feed(HEAD + b"Content-Length: 900000\r\n\r\n")
    for _ in range(GRACE_TICKS + 3):
        slow.protocol.data_received(b"x")
        fast.protocol.data_received(bytes(3000))
        sweep([slow, fast])
    assert statuses(slow.transport.take()) == [408]
    assert slow.hub.counters.timed_out["body"] == 1
    assert not fast.transport.has_ended()


def test_ranks_put_the_stalled_first_then_the_large_then_the_slow() -> None:
    arrivals = Arrivals(ByteBudget(8000))
    gone: list[str] = []
    made = {}
    for name, size in (("small", 100), ("large", 3000), ("slow", 50), ("stalled", 10)):
        made[name] = Arrival(arrivals, lambda name=name: gone.append(name))  # type: ignore[misc]
        assert made[name].grow(size)
        if name == "stalled":
            made[name].tick()
            made[name].tick()
    newcomer = Arrival(arrivals, lambda: gone.append("newcomer"))
    for expected in (["stalled"], ["stalled", "large"]):
        assert newcomer.grow(arrivals.budget.free_bytes() + 1)
        assert gone == expected
    newcomer.release()
    assert arrivals.budget.bytes_taken == 150


# --- places


async def test_all_listeners_share_their_places(harness: Make) -> None:
    places = ConnectionPlaces(2)
    hubs = [Hub(ConnectionLimits(), places=places) for _ in range(2)]
    made = [harness(hub=hubs[at % 2]) for at in range(3)]
    assert [one.transport.is_closed for one in made] == [False, False, True]
    assert hubs[0].counters.refused["connections"] == 1
    made[0].lose()
    assert not harness(hub=hubs[1]).transport.is_closed


@pytest.mark.parametrize("count", [1, 5])
async def test_who_says_nothing_loses_its_place_to_who_comes(harness: Make, count: int) -> None:
    places = ConnectionPlaces(count)
    hub = Hub(ConnectionLimits(), places=places)
    gone: list[int] = []

    class Silent:
        def __init__(self, name: int) -> None:
            self.name = name

        def check_time(self, tick: int) -> None: ...
        def idle_ticks(self, tick: int) -> int:
            return -1

        def close_if_idle(self) -> None: ...
        def reset(self) -> None: ...
        def leave(self) -> None:
            gone.append(self.name)

    for name in range(count):
        assert hub.attach(Silent(name), is_silent=True)
    one = harness(hub=hub)
    assert gone == [0]
    assert not one.transport.is_closed
    assert (places.taken, hub.counters.open) == (count, count)
    assert hub.counters.refused["connections"] == 1
    for silent in tuple(places.silent):
        hub.detach(silent)


@pytest.mark.pure("derives a class from one of kdaemon's")
async def test_very_many_connections_are_swept_in_turns(harness: Make) -> None:
    """10,000 that time out together held the loop for 0.2 s."""
    waiting: list[Callable[[], object]] = []

    class Waiting(Turns):
        def later(self, callback: Callable[[], object]) -> None:
            waiting.append(callback)

    hub = Hub(ConnectionLimits(idle_timeout_s=1.0), turns=Waiting(lambda: 0))
    count = 2 * VISITED_A_TURN + 10
    kept = [harness(hub=hub, echoes=True) for _ in range(count)]
    for one in kept:
        one.feed(GET)
    hub.tick += 5
    hub.sweep()
    closed = [one.transport.is_closed for one in kept].count(True)
    assert closed == VISITED_A_TURN
    kept[-1].protocol.connection_lost(None)  # it goes meanwhile
    while waiting:
        before = closed
        waiting.pop(0)()
        closed = [one.transport.is_closed for one in kept].count(True)
        assert closed - before <= VISITED_A_TURN
    assert closed >= count - 1
    assert hub.counters.timed_out["idle"] == count - 1


async def test_who_only_keeps_a_connection_loses_it_to_who_comes(harness: Make) -> None:
    hub = Hub(ConnectionLimits(), places=ConnectionPlaces(3))
    busy, kept, used = (harness(hub=hub, echoes=at > 0) for at in range(3))
    for one in (busy, kept, used):
        one.feed(GET)
    hub.sweep()
    used.feed(GET)
    newcomer = harness(hub=hub)
    assert not newcomer.transport.is_closed
    assert [one.transport.is_closed for one in (busy, kept, used)] == [False, True, False]
    assert harness(hub=hub).transport.is_closed, "nobody is idle for a second"
    assert hub.counters.open == 3


async def test_the_place_of_one_that_is_idle_goes_to_a_newcomer_of_any_listener(
    harness: Make,
) -> None:
    places = ConnectionPlaces(2)
    hubs = [Hub(ConnectionLimits(), places=places) for _ in range(2)]
    kept = [harness(hub=hubs[0], echoes=True) for _ in range(2)]
    for one in kept:
        one.feed(GET)
    hubs[0].sweep()
    assert not harness(hub=hubs[1]).transport.is_closed
    assert [one.transport.is_closed for one in kept].count(True) == 1


HALF_A_HEAD = b"GET / HTTP/1.1\r\nHo"


@pytest.mark.parametrize("ticks", [0, 1, 3])
@pytest.mark.parametrize(
    ("sent", "leaves_after"),
    [
        (HALF_A_HEAD, 0),
        (HALF, 3),
        (HALF + b"a", 3),
        (b"GARBAGE\r\n\r\n", 1),
        (HEAD + b"\r\n", None),
    ],
    ids=["half a head", "no body", "half a body", "refused", "waits for its answer"],
)
async def test_who_does_not_go_on_loses_its_place_to_who_comes(
    harness: Make, sent: bytes, leaves_after: int | None, ticks: int
) -> None:
    hub = Hub(ConnectionLimits(body_timeout_s=60, discard_timeout_s=60), places=ConnectionPlaces(1))
    one = harness(hub=hub)
    one.feed(sent)
    sweep([one], ticks)
    is_dropped = not harness(hub=hub).transport.is_closed
    if leaves_after is None:
        assert not is_dropped
    elif ticks >= leaves_after:
        assert is_dropped
        assert one.transport.is_closed


async def test_all_connections_are_looked_at_for_one_that_is_idle(harness: Make) -> None:
    hub = Hub(ConnectionLimits(), places=ConnectionPlaces(200))
    waiting = [harness(hub=hub) for _ in range(199)]
    for one in waiting:
        one.feed(GET)
    idle = harness(hub=hub, echoes=True)
    idle.feed(GET)
    hub.sweep()
    assert not all(harness(hub=hub).transport.is_closed for _ in range(4))
    assert idle.transport.is_closed


# --- answers that nobody reads

ANSWER = bytes(100_000)


def answers_hub(bytes_max: int) -> tuple[Hub, ByteBudget]:
    budget = ByteBudget(bytes_max)
    return Hub(ConnectionLimits(), arrivals=Arrivals(budget)), budget


async def test_answers_that_are_not_read_have_their_memory_and_the_largest_go_first(
    harness: Make,
) -> None:
    hub, budget = answers_hub(1_000_000)
    clients = [harness(hub=hub) for _ in range(30)]
    for client in clients:
        client.transport.pauses_when_written = 65_536
        client.feed(GET * 3)
        for request in client.requests:
            request.respond(200, ANSWER)
        assert budget.bytes_taken <= budget.bytes_max
        await asyncio.sleep(0)
    lost = [client for client in clients if client.transport.abort_count]
    assert 20 <= len(lost) < len(clients)
    assert budget.bytes_taken > budget.bytes_max // 2
    for client in clients:
        client.lose()
    assert budget.bytes_taken == 0


async def test_answers_that_wait_for_an_earlier_one_have_their_memory(harness: Make) -> None:
    hub, budget = answers_hub(10_000_000)
    client = harness(hub=hub)
    client.feed(GET * 20)
    first, *others = client.requests
    for request in others:
        request.respond(200, ANSWER)
    assert budget.bytes_taken == len(others) * len(ANSWER)
    first.respond(200, b"")
    assert budget.bytes_taken == 0
    assert statuses(client.transport.take()) == [200] * 20


async def test_a_client_that_reads_again_gives_the_memory_back_and_small_answers_take_none(
    harness: Make,
) -> None:
    hub, budget = answers_hub(1_000_000)
    client = harness(hub=hub)
    client.transport.pauses_when_written = 65_536
    client.feed(GET * 2)
    client.requests[1].respond(200, b"small")
    assert budget.bytes_taken == 0
    client.requests[0].respond(200, ANSWER)
    assert budget.bytes_taken > len(ANSWER)
    client.transport.take()
    client.protocol.resume_writing()
    assert budget.bytes_taken == 0
    assert not client.transport.abort_count


def test_who_makes_room_and_ends_the_newcomer_with_it_leaves_nothing_charged() -> None:
    """A connection's raw input goes for a body of the same connection, which ends both."""
    budget = ByteBudget(100)
    pool = Arrivals(budget)
    newcomer = Arrival(pool, lambda: None)
    other = Arrival(pool, newcomer.release)
    assert other.grow(80)
    other.waits = True
    newcomer.grow(50)
    other.release()
    newcomer.release()
    assert budget.bytes_taken == 0

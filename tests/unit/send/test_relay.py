"""Calls passed on for clients: one for many askers, in turns, within bounds, nobody forgotten."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from kdaemon.base.counters import NotPassedOn, PassedOnOutcome
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import MIB
from kdaemon.base.memory import ByteBudget
from kdaemon.base.operations import OTHER_OPERATIONS, PASSED_ON_DEFAULT
from kdaemon.base.service import AWS, SERVICES, Service
from kdaemon.send import kept as kept_module
from kdaemon.send import relay as relay_module
from kdaemon.send.arriving import HasRoom, TooLargeError
from kdaemon.send.relay import CALLS_MAX, Asker, Outcome, Question, Relay
from kdaemon.send.relayed import Relayed
from kdaemon.send.waiting import PLACES_MAX
from tests.kit.patience import until

PATIENT_S = 3_600.0
READS = ("GetRecords", "GetShardIterator")


class Upstream:
    """Answers when it is told to, in any order; notes who was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.open: dict[bytes, list[asyncio.Future[Relayed]]] = {}
        self.cancelled: list[bytes] = []
        self.answer_bytes = 0  # asked room for, before the answer
        self.says: Callable[[bytes], Relayed] | None = None  # at once

    async def pass_on(
        self, operation: str, body: bytes, arn: str | None, bytes_max: int, has_room: HasRoom
    ) -> Relayed:
        self.asked.append(body)
        if not has_room(self.answer_bytes):
            raise TooLargeError("no memory", 200, has_room=False)
        if self.says is not None:
            return self.says(body)
        future: asyncio.Future[Relayed] = asyncio.get_running_loop().create_future()
        self.open.setdefault(body, []).append(future)
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled.append(body)
            raise

    async def answer(self, body: bytes, answer: Relayed | Exception) -> None:
        future = self.open[body].pop(0)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        await settle()


class Turns:
    """Turns of the control quota, given by hand; at first as many as are wanted."""

    def __init__(self) -> None:
        self.is_open = True
        self.waiting = 0
        self._given = asyncio.Semaphore(0)

    async def turn(self) -> None:
        if self.is_open:
            return
        self.waiting += 1
        try:
            await self._given.acquire()
        finally:
            self.waiting -= 1

    async def give(self, count: int = 1) -> None:
        for _ in range(count):
            self._given.release()
        await settle()


class Free:
    """In place of an operation's own rate."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    async def acquire(self) -> None:
        pass


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


class Rig:
    def __init__(
        self,
        service: Service = AWS,
        memory_bytes: int = 256 * MIB,
        operations: Iterable[str] = (*PASSED_ON_DEFAULT, *READS),
        patience_s: float = PATIENT_S,
    ) -> None:
        self.upstream = Upstream()
        self.turns = Turns()
        self.memory = ByteBudget(memory_bytes)
        self.relay = Relay(
            self.upstream.pass_on, self.turns.turn, service, self.memory, operations, patience_s
        )
        self.told: dict[str, list[Outcome]] = {}

    def ask(self, who: str, body: bytes, operation: str = "ListShards", client: int = 1) -> Asker:
        question = Question(OTHER_OPERATIONS[operation], body, body, None)
        return self.relay.ask(question, client, self.told.setdefault(who, []).append)

    def counters(self, operation: str = "ListShards") -> Any:
        return self.relay.counters_of(OTHER_OPERATIONS[operation])


@pytest.fixture
def free_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "Throttler", Free)


Make = Callable[..., Rig]


@pytest.fixture
async def make(free_rates: None) -> AsyncIterator[Make]:
    rigs: list[Rig] = []

    def new(*arguments: Any, **more: Any) -> Rig:
        rigs.append(Rig(*arguments, **more))
        return rigs[-1]

    yield new
    for rig in rigs:
        await rig.relay.aclose()
        assert rig.memory.bytes_taken == 0, "all memory is given back"
        assert rig.relay.waiting_count == rig.relay.call_count == rig.relay.kept_bytes == 0


def ok(body: bytes = b'{"Shards":[]}') -> Relayed:
    return Relayed(200, body)


REFUSED = Relayed(400, b'{"__type":"ResourceNotFoundException"}')


async def test_the_service_s_answer_is_told_as_it_is(make: Make) -> None:
    rig = make()
    answers = [ok(), REFUSED, Relayed(500, b'{"__type":"InternalFailure"}')]
    for number, answer in enumerate(answers):
        body = b"%d" % number
        asker = rig.ask("a", body)
        assert asker.is_waiting
        await settle()
        await rig.upstream.answer(body, answer)
        assert not asker.is_waiting
    assert rig.told["a"] == answers
    calls = rig.counters().calls
    assert calls == dict.fromkeys(PassedOnOutcome, 1)


async def test_other_operations_may_be_asked_and_what_was_asked_before_is_answered(
    make: Make,
) -> None:
    rig = make(operations=["ListShards"])
    rig.ask("a", b"1")
    await settle()
    rig.relay.take_operations(["ListStreams"])
    assert not rig.relay.allows(OTHER_OPERATIONS["ListShards"])
    assert rig.relay.allows(OTHER_OPERATIONS["ListStreams"])
    await rig.upstream.answer(b"1", ok())
    assert rig.told["a"] == [ok()]
    assert rig.counters() is rig.relay.others, "what is asked from now on"
    assert sum(rig.relay.counters["ListShards"].calls.values()) == 1, "a total outlives a reload"
    rig.ask("b", b"2", "ListStreams")
    await settle()
    await rig.upstream.answer(b"2", ok())
    assert rig.told["b"] == [ok()]


# One call for many


async def test_those_who_ask_the_same_at_one_time_share_one_call(make: Make) -> None:
    rig = make()
    for number in range(200):
        rig.ask("all", b"same", client=number)
    await settle()
    rig.ask("late", b"same", client=1_000)
    await rig.upstream.answer(b"same", ok())
    assert rig.upstream.asked == [b"same"]
    assert rig.told == {"all": [ok()] * 200, "late": [ok()]}
    assert rig.counters().shared == 200


async def test_who_asks_within_a_second_is_told_what_was_said(make: Make) -> None:
    rig = make()
    rig.ask("a", b"same")
    await settle()
    await rig.upstream.answer(b"same", ok())
    assert not rig.ask("b", b"same", client=2).is_waiting
    assert rig.told["b"] == [ok()]
    rig.ask("c", b"other")
    rig.ask("d", b"same", operation="DescribeStream")
    await settle()
    assert rig.upstream.asked == [b"same", b"other", b"same"]


async def test_what_is_kept_is_forgotten_by_itself(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "KEPT_S", 0.0)
    rig = make()
    rig.upstream.says = lambda _: ok()
    rig.ask("a", b"same")
    await settle()
    while rig.relay.kept_bytes:
        await asyncio.sleep(0)
    rig.ask("a", b"same")
    await settle()
    assert rig.upstream.asked == [b"same", b"same"]


@pytest.mark.parametrize("answer", [REFUSED, ServiceError(Trouble.CONNECT, "no", was_sent=False)])
async def test_a_refusal_is_shared_by_those_who_wait_and_kept_for_nobody(
    make: Make, answer: Relayed | ServiceError
) -> None:
    rig = make()
    rig.ask("a", b"same")
    rig.ask("b", b"same", client=2)
    await settle()
    await rig.upstream.answer(b"same", answer)
    assert len(rig.told["a"]) == len(rig.told["b"]) == 1
    rig.ask("c", b"same")
    await settle()
    assert rig.upstream.asked == [b"same", b"same"]
    await rig.upstream.answer(b"same", ok())
    assert rig.told["c"] == [ok()]


@pytest.mark.parametrize("operation", READS)
async def test_reads_are_never_shared(make: Make, operation: str) -> None:
    rig = make()
    for who in "ab":
        rig.ask(who, b"same", operation)
        await settle()
    assert rig.upstream.asked == [b"same", b"same"]
    await rig.upstream.answer(b"same", ok(b'{"Records":[1]}'))
    await rig.upstream.answer(b"same", ok(b'{"Records":[2]}'))
    assert rig.told == {"a": [ok(b'{"Records":[1]}')], "b": [ok(b'{"Records":[2]}')]}
    rig.ask("c", b"same", operation)
    await settle()
    assert len(rig.upstream.asked) == 3
    assert rig.relay.kept_bytes == 0


async def test_what_is_kept_is_bounded_in_number_in_bytes_and_by_memory(make: Make) -> None:
    rig = make()
    rig.upstream.says = lambda _: ok(b"x" * 1000)
    for number in range(kept_module.KEPT_MAX * 2):
        rig.ask("a", b"%d" % number)
        await settle()
    assert 0 < rig.relay.kept_bytes <= kept_module.KEPT_MAX * (1000 + kept_module.ENTRY_BYTES)
    rig.upstream.says = lambda _: ok(b"x" * (MIB - kept_module.ENTRY_BYTES))
    for number in range(20):
        rig.ask("b", b"large %d" % number)
        await settle()
    assert rig.relay.kept_bytes == kept_module.KEPT_BYTES_MAX
    rig.upstream.says = lambda _: ok(b"x" * MIB)
    rig.ask("c", b"too large")
    await settle()
    assert rig.relay.kept_bytes == kept_module.KEPT_BYTES_MAX
    assert len(rig.told["c"]) == 1
    full = make(memory_bytes=2 * MIB)
    full.upstream.says = lambda _: ok(b"x" * (MIB - kept_module.ENTRY_BYTES))
    for number in range(5):
        full.ask("d", b"%d" % number)
        await settle()
    assert len(full.told["d"]) == 5
    assert full.relay.kept_bytes <= MIB


# Turns and bounds


async def test_a_flood_of_one_client_does_not_take_the_quota_of_another(make: Make) -> None:
    rig = make()
    rig.turns.is_open = False
    for number in range(100):
        rig.ask("flood", b"a%d" % number, client=1)
    await settle()
    rig.ask("quiet", b"b0", client=2)
    await rig.turns.give(2)
    assert rig.upstream.asked == [b"a0", b"b0"]


async def test_who_asks_what_a_flood_asked_comes_to_its_own_turn(make: Make) -> None:
    rig = make()
    rig.turns.is_open = False
    for number in range(20):
        rig.ask("flood", b"a%d" % number, client=1)
    rig.ask("quiet", b"a19", client=2)
    await rig.turns.give(2)
    assert rig.upstream.asked == [b"a0", b"a19"]


async def test_an_operation_does_not_wait_for_the_rate_of_another() -> None:
    rig = Rig()
    for number in range(3):
        rig.ask("limits", b"l%d" % number, operation="DescribeLimits")
    rig.ask("shards", b"s", client=2)
    while b"s" not in rig.upstream.asked:
        await asyncio.sleep(0)
    assert [body for body in rig.upstream.asked if body != b"s"] == [b"l0"]
    await rig.relay.aclose()


async def test_too_many_that_wait_are_refused_as_the_service_would(make: Make) -> None:
    rig = make()
    rig.turns.is_open = False
    for number in range(10 * PLACES_MAX):
        rig.ask("flood", b"%d" % number, client=1)
    refused = rig.told["flood"]
    assert len(refused) == 10 * PLACES_MAX - PLACES_MAX // 2
    for each in refused:
        assert isinstance(each, ServiceError)
        assert (each.code, each.status) == ("LimitExceededException", 400)
    assert rig.counters().refused[NotPassedOn.FULL] == len(refused)
    rig.ask("quiet", b"b", client=2)
    assert rig.told["quiet"] == []


@pytest.mark.parametrize(
    ("service", "operation", "code"),
    [
        ("aws", "ListShards", "LimitExceededException"),
        ("aws", "GetRecords", "ProvisionedThroughputExceededException"),
        ("yandex", "DescribeStream", "ThrottlingException"),
    ],
)
async def test_the_refusal_is_the_service_s_own(
    make: Make, service: str, operation: str, code: str
) -> None:
    rig = make(SERVICES[service])
    rig.upstream.answer_bytes = 64 * MIB
    rig.ask("a", b"x", operation)
    await settle()
    (told,) = rig.told["a"]
    assert isinstance(told, ServiceError)
    assert (told.code, told.status) == (code, 400)


async def test_only_so_many_calls_are_made_at_a_time_and_reads_hold_up_no_looks(
    make: Make,
) -> None:
    rig = make()
    for number in range(2 * CALLS_MAX):
        rig.ask("reads", b"r%d" % number, "GetRecords", client=number)
    await settle()
    assert rig.relay.call_count == CALLS_MAX
    rig.ask("look", b"look")
    await settle()
    assert rig.upstream.asked[-1] == b"look"
    await rig.upstream.answer(b"r0", ok())
    assert rig.upstream.asked[-1] == b"r%d" % CALLS_MAX


async def test_reads_wait_for_no_turn_of_control_calls(make: Make) -> None:
    rig = make()
    rig.turns.is_open = False
    rig.ask("read", b"r", "GetRecords")
    rig.ask("look", b"l", "ListShards")
    await settle()
    assert rig.upstream.asked == [b"r"]


async def test_no_memory_is_a_refusal_and_all_of_it_comes_back(make: Make) -> None:
    rig = make(memory_bytes=4 * MIB)
    rig.upstream.answer_bytes = 3 * MIB
    rig.ask("large", b"x", "GetRecords")
    await settle()
    (told,) = rig.told["large"]
    assert isinstance(told, ServiceError)
    assert told.code == "ProvisionedThroughputExceededException"
    assert rig.memory.bytes_taken == 0
    assert rig.memory.take(rig.memory.bytes_max)
    rig.ask("none", b"y", "GetRecords")
    rig.memory.give(rig.memory.bytes_max)
    assert len(rig.told["none"]) == 1
    assert rig.upstream.asked == [b"x"]


async def test_an_answer_beyond_its_bound_says_what_to_ask_for(make: Make) -> None:
    rig = make()
    rig.ask("a", b"x")
    await settle()
    await rig.upstream.answer(b"x", TooLargeError("an answer of more", 200, has_room=True))
    (told,) = rig.told["a"]
    assert isinstance(told, ServiceError)
    assert (told.code, told.status) == ("InvalidArgumentException", 400)
    assert "MaxResults" in told.message
    assert rig.counters().refused[NotPassedOn.TOO_LARGE] == 1


# What is no answer of the service's


@pytest.mark.parametrize(
    "trouble",
    [Trouble.CONNECT, Trouble.READ_TIMEOUT, Trouble.NO_CREDENTIALS, Trouble.FOREIGN, Trouble.DNS],
)
async def test_no_answer_is_an_error_that_sdks_try_again(make: Make, trouble: Trouble) -> None:
    rig = make()
    rig.ask("a", b"x")
    await settle()
    await rig.upstream.answer(b"x", ServiceError(trouble, "the words"))
    (told,) = rig.told["a"]
    assert isinstance(told, ServiceError)
    assert (told.code, told.status) == ("ServiceUnavailable", 503)
    assert f"{trouble.value}: the words" in told.message


async def test_what_nobody_foresaw_is_told_and_the_next_call_goes_on(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make()
    rig.ask("a", b"x")
    await settle()
    await rig.upstream.answer(b"x", RuntimeError("secret words"))
    (told,) = rig.told["a"]
    assert isinstance(told, ServiceError)
    assert (told.code, told.status) == ("InternalFailure", 500)
    assert "secret words" not in told.message
    assert "a call could not be passed on: a defect of kdaemon" in caplog.text
    rig.upstream.says = lambda _: ok()
    rig.ask("b", b"x")
    await settle()
    assert rig.told["b"] == [ok()]


async def test_one_who_breaks_while_told_keeps_the_answer_from_nobody(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make()
    question = Question(OTHER_OPERATIONS["ListShards"], b"x", b"x", None)

    def break_down(_: Outcome) -> None:
        raise RuntimeError

    rig.relay.ask(question, 1, break_down)
    rig.ask("b", b"x", client=2)
    await settle()
    await rig.upstream.answer(b"x", ok())
    assert rig.told["b"] == [ok()]
    assert "could not be given" in caplog.text


# Clients that go, and patience


async def test_who_leaves_is_not_told_and_the_others_are(make: Make) -> None:
    rig = make()
    gone = rig.ask("gone", b"x")
    rig.ask("there", b"x", client=2)
    await settle()
    gone.leave()
    gone.leave()
    await rig.upstream.answer(b"x", ok())
    assert rig.told == {"gone": [], "there": [ok()]}


async def test_a_call_that_nobody_waits_for_is_given_up_and_not_joined(make: Make) -> None:
    rig = make()
    asker = rig.ask("gone", b"x")
    await settle()
    asker.leave()
    rig.ask("next", b"x", client=2)
    await settle()
    assert rig.upstream.cancelled == [b"x"]
    assert rig.upstream.asked == [b"x", b"x"]
    rig.upstream.open[b"x"].pop(0)  # of the call that was given up
    await rig.upstream.answer(b"x", ok())
    assert rig.told["next"] == [ok()]
    assert rig.told["gone"] == []


async def test_a_call_that_is_given_up_while_it_waits_is_not_made(make: Make) -> None:
    rig = make()
    rig.turns.is_open = False
    askers = [rig.ask("gone", b"%d" % number) for number in range(10)]
    rig.ask("there", b"x", client=2)
    for asker in askers:
        asker.leave()
    assert rig.relay.waiting_count == 1
    await rig.turns.give()
    assert rig.upstream.asked == [b"x"]


async def test_who_leaves_in_the_turn_in_which_its_call_begins_costs_nothing(make: Make) -> None:
    rig = make()
    asker = rig.ask("gone", b"x")
    while not rig.relay.call_count:
        await asyncio.sleep(0)
    asker.leave()  # the task was made, and has not had its first step, or just that
    await settle()
    assert rig.relay.call_count == 0
    assert rig.memory.bytes_taken == 0


async def test_a_client_is_told_in_time_whatever_becomes_of_its_call(make: Make) -> None:
    rig = make(patience_s=0.01)
    rig.ask("silent", b"x")
    await settle()
    rig.turns.is_open = False
    rig.ask("waits", b"y")
    await until(lambda: rig.told["silent"] and rig.told["waits"])
    (silent,), (waits,) = rig.told["silent"], rig.told["waits"]
    assert isinstance(silent, ServiceError)
    assert (silent.code, silent.status) == ("ServiceUnavailable", 503)
    assert isinstance(waits, ServiceError)
    assert (waits.code, waits.status) == ("LimitExceededException", 400)
    await settle()
    assert rig.upstream.cancelled == [b"x"]
    assert rig.counters().refused[NotPassedOn.LATE] == 2


async def test_a_call_that_hangs_is_not_joined_by_those_who_try_again(make: Make) -> None:
    rig = make(patience_s=0.01)
    rig.ask("first", b"x")
    await settle()
    future = rig.upstream.open[b"x"][0]
    rig.relay.patience_s = PATIENT_S
    rig.ask("stays", b"x", client=2)  # so that the call goes on
    await until(lambda: rig.told["first"])
    rig.ask("again", b"x")
    await settle()
    assert rig.upstream.asked == [b"x", b"x"]
    await rig.upstream.answer(b"x", REFUSED)
    assert future.done()
    await rig.upstream.answer(b"x", ok())
    assert rig.told["stays"] == [REFUSED]
    assert rig.told["again"] == [ok()]


async def test_many_who_wait_for_one_answer_are_told_over_several_turns(make: Make) -> None:
    rig = make()
    askers = [rig.ask("all", b"x", client=number) for number in range(1_000)]
    await settle()
    future = rig.upstream.open[b"x"][0]
    future.set_result(ok())
    while not rig.told["all"]:
        await asyncio.sleep(0)
    assert len(rig.told["all"]) == relay_module.TOLD_A_TURN
    askers[-1].leave()
    while len(rig.told["all"]) < 999:
        await asyncio.sleep(0)
    await settle()
    assert len(rig.told["all"]) == 999


async def test_the_end_of_the_daemon_ends_what_waits_and_what_is_made(make: Make) -> None:
    rig = make()
    rig.ask("made", b"x")
    await settle()
    rig.turns.is_open = False
    rig.ask("waits", b"y")
    await settle()
    await rig.relay.aclose()
    assert rig.told == {"made": [], "waits": []}
    assert rig.upstream.cancelled == [b"x"]

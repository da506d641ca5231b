"""One engine a stream, bounded in number; what is listed is never crowded out."""

import asyncio
import gc
from collections.abc import Callable

import pytest

from kdaemon.base.admission import make_frame
from kdaemon.base.billing import BilledUnit
from kdaemon.base.counters import DeadReason, RefuseReason
from kdaemon.base.description import Caller
from kdaemon.base.endpoint import Endpoint
from kdaemon.base.errors import RefusedError, ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.engine.snapshot import Reason, StreamState
from kdaemon.streams import Stream, Streams
from kdaemon.streams.inquiry import MISSING_NS, Existence
from kdaemon.streams.slots import FORGOTTEN_NS
from tests.kit.clock import HandClock
from tests.kit.observing import delivered_by
from tests.kit.streams import DENIED, MISSING, FakeService, found, make_streams, refused, turn

OURS, OTHERS = "111111111111", "222222222222"
REGION = "region = 'eu-central-1'\n"


def arn(account: str = OURS, name: str = "orders") -> str:
    return f"arn:aws:kinesis:eu-central-1:{account}:stream/{name}"


Open = Callable[..., Streams]


@pytest.fixture
async def opened() -> Open:
    def make(service: FakeService, text: str = "", clock: HandClock | None = None) -> Streams:
        return make_streams(service, REGION + text, clock=clock)

    return make


def accepted(*data: bytes) -> Frame:
    records = [Record(each, "k") for each in data]
    sizes = [len(each) + 1 for each in data]
    return make_frame(records, sizes, Acknowledge.ACCEPTED, None, None)


def put_waiting(stream: Stream) -> None:
    """A record whose client waits: it is refused at once where waiting is no use."""
    frame = make_frame([Record(b"a", "k")], [2], Acknowledge.DELIVERED, None, 2**62)
    assert stream.submit(frame)


def put(stream: Stream, *data: bytes) -> None:
    assert stream.submit(accepted(*data))


# P1: one stream, whatever it is called by


async def asked(streams: Streams, spelling: str) -> Stream:
    """What a spelling means once nobody is asked for the account any more."""
    streams.find(spelling)
    await turn()
    return found(streams, spelling)


@pytest.mark.parametrize("way", ["described", "STS", "setting", "keys"])
@pytest.mark.parametrize("spellings", [("orders", arn()), (arn(), "orders")])
async def test_a_name_and_its_arn_lead_to_one_engine_from_the_first_record_on(
    opened: Open, spellings: tuple[str, str], way: str
) -> None:
    service = FakeService()
    service.describe_error = None if way == "described" else DENIED
    service.arn_of = lambda _: arn() if way == "described" else ""
    service.account_id = OURS if way == "STS" else None
    streams = opened(service, f"account_id = '{OURS}'\n" if way == "setting" else "")
    if way == "keys":
        assert service.on_new_keys is not None
        service.on_new_keys(Caller(OURS, "eu-central-1"))
    first = found(streams, spellings[0])
    assert found(streams, spellings[1]) is first
    await turn()
    assert found(streams, spellings[0]) is found(streams, spellings[1]) is first
    assert len(list(streams.engines())) == 1


@pytest.mark.parametrize("spellings", [("orders", arn()), (arn(), "orders")])
async def test_while_nobody_tells_the_account_a_name_and_an_arn_are_two(
    opened: Open, spellings: tuple[str, str]
) -> None:
    service = FakeService()
    service.describe_error = DENIED
    streams = opened(service)
    first, second = [await asked(streams, each) for each in spellings]
    assert first is not second
    assert found(streams, spellings[0]) is first


async def test_a_stream_that_holds_records_is_found_by_its_arn_until_it_is_idle(
    opened: Open,
) -> None:
    service = FakeService()
    service.describe_error = DENIED
    streams = opened(service, "[default]\nlinger_ms = 0")
    by_arn = await asked(streams, arn())
    service.answer.clear()
    put(by_arn, b"a")
    await turn()
    assert service.on_new_keys is not None
    service.on_new_keys(Caller(OURS, "eu-central-1"))
    assert found(streams, arn()) is by_arn
    assert found(streams, "orders") is not by_arn
    service.answer.set()
    await turn()
    assert found(streams, arn()) is found(streams, "orders") is not by_arn
    assert len(list(streams.engines())) == 1
    assert streams.upstreams["default"].closed.delivered == 1


async def test_what_the_spool_has_by_an_arn_is_sent_by_it_and_goes_first(opened: Open) -> None:
    service = FakeService()
    service.account_id = OURS
    streams = opened(service, "[streams.orders]")
    stored = streams.find_stored(arn())
    assert stored.name == arn(), "the spool finds its rows by this name"
    stored.counters.spooled += 1  # as the spool does
    assert await asked(streams, arn()) is stored
    assert found(streams, "orders") is streams.find_stored("orders") is not stored
    stored.counters.spooled -= 1
    assert found(streams, arn()) is found(streams, "orders")


async def test_what_the_spool_has_by_a_name_stays_ours_when_the_name_is_listed_as_anothers(
    opened: Open,
) -> None:
    streams = opened(FakeService(), f"[streams.'{arn(OTHERS)}']")
    stored = streams.find_stored("orders")
    stored.counters.spooled += 1
    assert stored.name == "orders"
    assert found(streams, "orders").name == arn(OTHERS)
    stored.counters.spooled -= 1


@pytest.mark.parametrize(
    ("listing", "name"),
    [("", "s"), ("[streams.s]", "/region/cloud/db/s")],
    ids=["not listed any more", "listed by another spelling since"],
)
async def test_what_the_spool_has_by_a_name_that_is_spelt_otherwise_now_is_told(
    opened: Open, listing: str, name: str
) -> None:
    yandex = "service = 'yandex'\nendpoint_url = 'http://127.0.0.1/region/cloud/db'\n"
    streams = opened(FakeService(), yandex + listing)
    with pytest.raises(RefusedError, match="list it as it was"):
        streams.find_stored(name)


async def test_a_stream_whose_account_is_known_is_called_by_its_name(opened: Open) -> None:
    service = FakeService()
    service.account_id = OURS
    streams = opened(service)
    put(found(streams, arn()), b"a")
    await turn()
    assert [(target.name, target.arn) for target, _ in service.calls] == [("orders", None)]


async def test_observers_see_the_region_that_was_configured_whatever_the_service_tells(
    opened: Open,
) -> None:
    """A sandbox, or another stand-in, tells one of its own."""
    service, url = FakeService(), "http://127.0.0.1:4567"
    service.arn_of = lambda target: arn(name=target.name).replace("eu-central-1", "us-east-1")
    streams = opened(service, f"endpoint_url = '{url}'")
    found(streams, "orders")
    await turn()
    (upstream,) = streams.upstreams
    assert service.described
    assert (upstream.region, upstream.account) == ("eu-central-1", OURS)
    service.endpoint = Endpoint("http://127.0.0.1:1", "AWS_ENDPOINT_URL")
    assert upstream.endpoint == Endpoint(url)
    beside = make_streams(service)
    found(beside, "orders")
    await turn()
    (upstream,) = beside.upstreams
    assert upstream.region == "us-east-1", "nothing is configured: the service's word counts"
    await beside.aclose()


async def test_another_accounts_stream_is_another_stream_and_is_called_by_its_arn(
    opened: Open,
) -> None:
    service = FakeService()
    service.account_id = OURS
    streams = opened(service)
    foreign = await asked(streams, arn(OTHERS))
    assert foreign is not found(streams, "orders")
    put(foreign, b"a")
    await turn()
    assert [target.arn for target, _ in service.calls] == [arn(OTHERS)]


async def test_no_clients_arn_leads_the_records_of_others_to_another_account(opened: Open) -> None:
    service = FakeService()
    service.describe_error = DENIED  # nobody ever learns whose account it is
    streams = opened(service)
    for spelling, data in ((arn(OTHERS), b"theirs"), ("orders", b"ours"), (arn(OTHERS), b"theirs")):
        put(await asked(streams, spelling), data)
        await turn()
    assert [(target.arn, data) for target, data in service.calls] == [
        (arn(OTHERS), [b"theirs"]),
        (None, [b"ours"]),
        (arn(OTHERS), [b"theirs"]),
    ]


async def test_a_thousand_accounts_of_one_name_take_no_more_than_their_places(opened: Open) -> None:
    service = FakeService()
    service.describe_error = DENIED
    streams = opened(service, "streams_max = 4\n[streams.orders]")
    for number in range(1000):
        streams.find(arn(f"{number:012d}"))
        await turn(2)
    assert found(streams, "orders").is_listed
    assert len(list(streams.engines())) <= 4


# H10: only ARNs that are configured or learnt


async def test_where_only_listed_streams_are_taken_a_foreign_arn_of_their_name_is_not(
    opened: Open,
) -> None:
    service = FakeService()
    service.arn_of = lambda target: arn(OURS, target.name)
    streams = opened(service, "accept_unlisted = false\n[streams.orders]")
    assert refused(streams, arn(OTHERS, "clicks")).is_permanent
    assert await asked(streams, arn(OURS)) is found(streams, "orders")
    after = refused(streams, arn(OTHERS))
    assert (after.reason, after.code) == (RefuseReason.UNLISTED, "ResourceNotFoundException")
    assert len(list(streams.engines())) == 1


async def test_an_account_that_cannot_be_learnt_leaves_arns_of_listed_names_refused(
    opened: Open,
) -> None:
    service = FakeService()
    service.describe_error = DENIED
    streams = opened(service, "accept_unlisted = false\n[streams.orders]")
    streams.find(arn(OURS))
    await turn()
    answer = refused(streams, arn(OURS))
    assert (answer.code, answer.is_permanent) == ("ResourceNotFoundException", True)
    assert "list it by its ARN" in answer.message
    assert "account_id" in answer.message


# H6: what is listed is never crowded out


async def test_unlisted_streams_leave_half_of_the_memory_to_the_listed_ones(opened: Open) -> None:
    service = FakeService()
    service.is_stalled = True
    sizes = "memory_bytes_max = 33554432\n[default]\nin_flight_max = 1\nlinger_ms = 0\n"
    streams = opened(service, sizes + "[streams.orders]")
    stray = found(streams, "stray")
    while stray.submit(accepted(bytes(500_000))):
        pass
    assert streams.memory.bytes_taken <= streams.memory.bytes_max // 2
    assert found(streams, "orders").submit(accepted(bytes(500_000)))


async def test_a_thousand_names_never_take_a_listed_streams_place(opened: Open) -> None:
    service = FakeService()
    service.missing = {f"bogus{number}" for number in range(1000)}
    streams = opened(service, "streams_max = 4\n[streams.orders]")
    for number in range(1000):
        found(streams, f"bogus{number}")
        await turn(2)
    assert found(streams, "orders").is_listed
    assert len(list(streams.engines())) <= 4
    assert found(streams, "real") is found(streams, "real")


async def test_streams_that_hold_records_keep_their_place(opened: Open) -> None:
    service = FakeService()
    service.is_stalled = True
    streams = opened(service, "streams_max = 2")
    for name in ("a", "b"):
        put(found(streams, name), b"x")
    answer = refused(streams, "c")
    assert (answer.reason, answer.code) == (RefuseReason.SLOTS, "LimitExceededException")
    assert not answer.is_permanent


async def test_a_stream_that_does_not_exist_is_closed_before_one_that_does(opened: Open) -> None:
    service = FakeService()
    service.missing = {"bogus"}
    streams = opened(service, "streams_max = 2")
    real = found(streams, "real")
    found(streams, "bogus")
    await turn()
    found(streams, "other")
    assert found(streams, "real") is real


# L6: totals never fall


async def test_what_closed_streams_have_counted_stays_counted(opened: Open) -> None:
    service = FakeService()
    streams = opened(service, "streams_max = 2\n[default]\nlinger_ms = 0")
    for number in range(12):
        put(found(streams, f"s{number}"), *[b"x"] * 10)
        await turn()
    assert delivered_by(streams) == 120
    still_open = sum(engine.counters.received for _, engine in streams.engines())
    assert streams.upstreams["default"].closed.received + still_open == 120
    assert (
        sum(streams.upstreams["default"].closed.delivery_ns.counts)
        == streams.upstreams["default"].closed.delivered
        == 100
    )
    assert streams.upstreams["default"].closed.unaccounted() == 0


# Whether an unlisted stream is there


async def test_an_unlisted_stream_is_unsure_until_the_service_speaks(opened: Open) -> None:
    service = FakeService()
    streams = opened(service)
    stream = found(streams, "orders")
    told = asyncio.Event()
    assert stream.existence() is Existence.UNSURE
    stream.inquiry.when_word(told.set)
    await turn()
    assert told.is_set()
    assert stream.existence() is Existence.THERE
    assert stream.missing() is None


@pytest.mark.parametrize("learnt_by", ["describing", "putting"])
async def test_a_missing_unlisted_stream_is_refused_for_a_while_and_then_looked_up_again(
    opened: Open, learnt_by: str
) -> None:
    service, clock = FakeService(), HandClock()
    service.missing = {"orders"}
    service.describe_error = None if learnt_by == "describing" else DENIED
    if learnt_by == "putting":
        service.missing = set()
    streams = opened(service, "[default]\nlinger_ms = 0", clock=clock)
    stream = found(streams, "orders")
    await turn()
    if learnt_by == "putting":
        service.missing = {"orders"}
        put(stream, b"a")
        await turn()
    error = stream.missing()
    assert error is not None
    assert error.code == "ResourceNotFoundException"
    asked = len(service.described)
    await turn()
    assert stream.missing() is not None
    assert len(service.described) == asked, "its look-up is good for a while"
    service.missing, service.describe_error = set(), None
    clock.ns += MISSING_NS
    assert stream.missing() is None
    assert stream.existence() is Existence.UNSURE
    await turn()
    assert stream.existence() is Existence.THERE


async def test_nothing_is_kept_for_a_missing_unlisted_stream(opened: Open) -> None:
    service = FakeService()
    service.missing = {"bogus"}
    service.describe_error = DENIED
    streams = opened(service, "[default]\nlinger_ms = 0")
    bogus = found(streams, "bogus")
    service.is_silent = True
    for _ in range(3):
        put(bogus, b"a", b"b")
    await turn()
    assert bogus.counters.dead[DeadReason.MISSING_STREAM] == 6
    assert streams.memory.bytes_taken == 0
    assert bogus.engine.is_idle
    assert bogus.counters.unaccounted() == 0


async def test_a_misspelt_name_is_no_hold_and_its_clients_hear_the_service(opened: Open) -> None:
    """Only the client can act, and was told: nobody must be woken for it."""
    service = FakeService()
    service.missing = {"bogus"}
    clock = HandClock()
    streams = opened(service, "[default]\nlinger_ms = 0", clock=clock)
    bogus = found(streams, "bogus")
    put(bogus, b"a")
    await turn()
    assert bogus.engine.hold is None
    assert bogus.engine.missing is not None
    assert bogus.missing() is bogus.engine.missing
    assert bogus.engine.missing.message == MISSING.message
    service.missing = set()
    clock.ns += MISSING_NS
    assert bogus.missing() is None
    await turn()
    assert bogus.engine.missing is None, "the stream was made"


@pytest.mark.parametrize("why", ["missing", "denied"])
async def test_a_name_that_only_a_client_wrote_is_forgotten_a_minute_after_its_last_record(
    opened: Open, why: str
) -> None:
    """Least rights say "denied" of a misspelt name. Nothing is left that could end that hold."""
    service, clock = FakeService(), HandClock()
    getattr(service, why).add("bogus")
    streams = opened(service, "[default]\nlinger_ms = 0", clock)
    kept = found(streams, "orders")
    put(kept, b"a")
    for _ in range(2):
        bogus = found(streams, "bogus")
        bogus.refuse(RefuseReason.HOLD, 1, 1)
        put_waiting(bogus)
        await turn()
        assert bogus.is_useless
        streams.look()
        clock.ns += FORGOTTEN_NS - 1
        streams.look()
        assert streams.known("bogus") is bogus
    clock.ns += 1
    streams.look()
    assert streams.known("bogus") is None
    assert streams.known("orders") is kept
    (upstream,) = streams.upstreams
    assert upstream.closed.received == bogus.counters.received, "totals never fall"


async def test_a_stream_that_somebody_needs_is_not_forgotten(opened: Open) -> None:
    """It is listed, has records, or was there: its hold wakes somebody."""
    service, clock = FakeService(), HandClock()
    service.denied = {"listed", "full"}
    streams = opened(service, "[default]\nlinger_ms = 0\n[streams.listed]", clock)
    there = found(streams, "there")
    put(there, b"a")
    await turn()
    service.denied.add("there")
    for each in (there, found(streams, "listed")):
        put_waiting(each)
    put(found(streams, "full"), b"a")
    await turn()
    for _ in range(3):
        streams.look()
        clock.ns += FORGOTTEN_NS
    for name in ("listed", "full", "there"):
        stream = streams.known(name)
        assert stream is not None
        assert stream.engine.hold is not None


async def test_a_missing_listed_stream_keeps_what_was_accepted(opened: Open) -> None:
    service = FakeService()
    service.missing = {"orders"}
    streams = opened(service, "[default]\nlinger_ms = 0\n[streams.orders]")
    orders = found(streams, "orders")
    put(orders, b"a")
    await turn()
    assert orders.counters.buffered == 1
    assert orders.missing() is None


async def test_an_arn_of_the_wrong_partition_is_refused_and_says_so(opened: Open) -> None:
    answer = refused(opened(FakeService()), arn().replace("arn:aws:", "arn:aws-cn:"))
    assert answer.is_permanent
    assert "partition aws-cn" in answer.message


async def test_a_closed_stream_leaves_nothing_to_the_collector(opened: Open) -> None:
    service = FakeService()
    service.missing = {f"s{number}" for number in range(5, 10)}
    streams = opened(service, "streams_max = 1\n[default]\nlinger_ms = 0\n")
    put(found(streams, "before"), b"a")
    await turn()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for number in range(10):
            put(found(streams, f"s{number}"), b"a")
            await turn()
        service.is_silent = True
        for number in range(10, 20):  # closed while the service is asked for them
            found(streams, f"s{number}")
            await turn()
        gc.collect()
        assert gc.garbage == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def test_whether_two_names_are_one_stream_is_told_without_opening_any(opened: Open) -> None:
    streams = opened(FakeService())
    assert streams.spellings.are_distinct(["a", "b", arn(name="c"), "no name!", "no name!"])
    assert not streams.spellings.are_distinct(["a", "b", arn(name="a")])
    assert list(streams.engines()) == []


@pytest.mark.parametrize("is_idle", [True, False])
async def test_who_waits_for_room_is_told_once_however_often_he_asked(
    opened: Open, is_idle: bool
) -> None:
    """A commit, say, wakes who waits for memory too, and he asks once more."""
    service = FakeService()
    service.answer.clear()
    streams = opened(service, "[default]\nlinger_ms = 0\n")
    stream = found(streams, "s")
    if not is_idle:
        put(stream, b"a")
    assert stream.engine.is_idle is is_idle
    told: list[int] = []

    def tell() -> None:
        told.append(1)

    for _ in range(3):
        stream.when_room(tell)
    if is_idle:
        assert stream.memory.take(1)
        stream.memory.give(1)
    service.answer.set()
    await turn()
    assert told == [1]


async def test_units_are_billed_in_the_sizes_that_are_set(opened: Open) -> None:
    streams = opened(FakeService(), "[billing]\nput_payload_kib = 2\n[default]\nlinger_ms = 0\n")
    stream = found(streams, "s")
    put(stream, bytes(5 * 1024))
    await turn()
    assert stream.engine.is_idle
    assert stream.engine.counters.billed.snapshot()[BilledUnit.PUT_PAYLOAD] == 3


@pytest.mark.parametrize("error", [MISSING, DENIED], ids=lambda error: str(error.code))
async def test_a_listed_stream_that_is_not_seen_is_said_before_its_first_record(
    opened: Open, error: ServiceError
) -> None:
    """The daemon asks for what is listed when it starts, and once: no call is made for this."""
    service = FakeService()
    service.describe_error = error
    streams = opened(service, "[streams.orders]")
    await turn()
    orders = found(streams, "orders")
    told = at_once(orders.engine.snapshot(0))
    assert (told.state, told.unseen) == (StreamState.UNSEEN, Reason(error.code, error.message))
    assert told.hold is told.missing is None
    assert len(service.described) == 1

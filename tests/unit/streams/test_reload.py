"""Another configuration for streams that are open: what they are told, and who is found then."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from kdaemon.base.admission import make_frame
from kdaemon.base.description import Caller
from kdaemon.base.frame import Acknowledge
from kdaemon.base.names import Arn, parse_arn
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.config.load import load_config
from kdaemon.streams import Stream, Streams
from kdaemon.streams.inquiry import Existence
from tests.kit.clock import HandClock
from tests.kit.observing import delivered_by
from tests.kit.streams import FakeService, found, make_streams, reaches, refused, turn

BASE = "region = 'eu-west-1'\naccount_id = '000000000001'\n"
CLOSED = BASE + "accept_unlisted = false\n"
EU = "[upstreams.eu]\nregion = 'eu-central-1'\naccount_id = '111111111111'\n"


def put(stream: Stream, *data: bytes) -> None:
    records = [Record(each, "k") for each in data]
    sizes = [len(each) + 1 for each in data]
    assert stream.submit(make_frame(records, sizes, Acknowledge.ACCEPTED, None, None))


def change(streams: Streams, text: str, **services: FakeService) -> None:
    config = load_config(text=text)
    assert streams.conflicts(config) == ()
    streams.memory.bytes_max = config.memory_bytes_max
    at_once(streams.take_config(config, reaches(**services)))


async def test_a_stream_keeps_its_engine_and_is_told_its_new_settings() -> None:
    streams = make_streams(FakeService(), BASE + "[streams.a]\n")
    stream = found(streams, "a")
    change(streams, BASE + "[streams.a]\nwhen_full = 'reject'\nacknowledge = 'accepted'\n")
    assert found(streams, "a") is stream
    assert stream.acknowledge is Acknowledge.ACCEPTED
    assert stream.config.when_full == "reject"


async def test_what_goes_delivers_what_it_has_and_takes_no_more() -> None:
    service = FakeService()
    service.answer.clear()
    streams = make_streams(service, CLOSED + "[streams.a]\n[streams.b]\n")
    stream = found(streams, "a")
    put(stream, b"1")
    await turn()
    put(stream, b"2")
    change(streams, CLOSED + "[streams.b]\n")
    assert "not listed" in refused(streams, "a").message
    streams.look()
    assert len(list(streams.engines())) == 2  # in use still
    service.answer.set()
    streams.begin_drain()
    await turn()
    assert [data for _, data in service.calls] == [[b"1"], [b"2"]]
    streams.look()
    assert [name for name, _ in streams.engines()] == ["b"]
    assert delivered_by(streams) == 2  # totals never fall
    assert streams.memory.bytes_taken == 0


async def test_what_goes_is_taken_as_unlisted_where_those_are() -> None:
    streams = make_streams(FakeService(), BASE + "[streams.a]\nlinger_ms = 3\n[streams.b]\n")
    stream = found(streams, "a")
    put(stream, b"1")
    held = stream.memory.bytes_taken
    assert held > 0
    change(streams, BASE + "[streams.b]\n")
    assert found(streams, "a") is stream
    assert not stream.is_listed
    assert stream.config.linger_ms == load_config().default.linger_ms
    assert (stream.memory.bytes_taken, streams.memory.bytes_taken) == (held, held)
    change(streams, BASE + "[streams.a]\n[streams.b]\n")
    assert stream.memory is streams.memory
    streams.begin_drain()
    await turn()
    assert delivered_by(streams) == 1
    assert streams.memory.bytes_taken == 0


async def test_a_stream_that_was_missing_is_taken_to_be_there_once_it_is_listed() -> None:
    service = FakeService()
    service.missing.add("a")
    streams = make_streams(service, BASE)
    stream = found(streams, "a")
    await turn()
    assert stream.existence() is Existence.MISSING
    change(streams, BASE + "[streams.a]\n")
    assert found(streams, "a").existence() is Existence.THERE
    assert stream.engine.missing is None
    put(stream, b"1")
    await turn()
    assert stream.engine.hold is not None, "a missing stream that is listed is a hold"
    assert stream.counters.buffered == 1


async def test_queues_of_another_kind_stand_against_a_table_while_they_hold_records() -> None:
    service = FakeService()
    service.answer.clear()
    streams = make_streams(service, BASE)
    stream = found(streams, "a")
    put(stream, b"1")
    await turn()
    ordered = load_config(text=BASE + "[streams.a]\nordering = 'partition_key'\n")
    assert streams.conflicts(ordered) == ("streams.a",)
    service.answer.set()
    await turn()
    assert streams.conflicts(ordered) == ()
    at_once(streams.take_config(ordered, {}))
    assert found(streams, "a") is not stream  # it was idle: opened anew
    assert found(streams, "a").is_ordered


async def test_what_kept_order_keeps_it_until_it_is_idle() -> None:
    service = FakeService()
    service.answer.clear()
    streams = make_streams(service, BASE + "[streams.a]\nordering = 'partition_key'\n")
    stream = found(streams, "a")
    put(stream, b"1")
    await turn()
    change(streams, BASE)
    assert found(streams, "a") is stream
    assert stream.is_ordered
    service.answer.set()
    await turn()
    streams.look()
    assert not found(streams, "a").is_ordered


async def test_a_lower_deadline_holds_when_nobody_is_left_with_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine ends frames in the order in which they came."""
    streams = make_streams(FakeService(), BASE + "[streams.a]\ndeadline_ms = 5000\n")
    stream = found(streams, "a")
    later: list[tuple[float, Callable[[], object]]] = []
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patch:
        patch.setattr(
            loop, "call_later", lambda wait_s, do, *args: later.append((wait_s, partial(do, *args)))
        )
        change(streams, BASE + "[streams.a]\ndeadline_ms = 2000\n")
    assert stream.deadline_ns == 5_000_000_000
    [end] = [do for wait_s, do in later if wait_s == 3.0]
    end()
    assert stream.deadline_ns == 2_000_000_000
    change(streams, BASE + "[streams.a]\ndeadline_ms = 7000\n")
    assert stream.deadline_ns == 7_000_000_000


@pytest.mark.parametrize("grown", ["buffer_bytes_max", "memory_bytes_max"])
async def test_who_waits_for_room_is_told_of_more(grown: str) -> None:
    """In an outage nothing settles, and more room is what the operator gives."""
    service = FakeService()
    service.answer.clear()
    table, top = "[streams.a]\n", ""
    if grown == "buffer_bytes_max":
        table += "buffer_bytes_max = 1048576\n"
    else:
        top = "memory_bytes_max = 16777216\n"
    streams = make_streams(service, top + BASE + table + "[streams.b]\n")
    waiting = found(streams, "b" if top else "a")
    put(found(streams, "a"), b"1")
    await turn()
    called: list[bool] = []
    waiting.when_room(lambda: called.append(True))
    change(streams, BASE + "[streams.a]\n[streams.b]\n")
    await turn()
    assert called


async def test_an_upstream_comes_and_goes() -> None:
    default, eu = FakeService(), FakeService()
    streams = make_streams(default, BASE + "[streams.a]\n")
    put(found(streams, "a"), b"0")
    held = streams.memory.bytes_taken
    change(streams, BASE + EU + "[streams.a]\n[streams.u]\nupstream = 'eu'\n", eu=eu)
    assert streams.memory.bytes_taken == held  # also of the part that an upstream has now
    stream = found(streams, "u")
    assert found(streams, "@eu/u") is stream
    eu.answer.clear()
    put(stream, b"1")
    await turn()
    put(stream, b"2")
    change(streams, BASE + "[streams.a]\n")
    assert "no upstream eu" in refused(streams, "@eu/u").message
    assert streams.left_upstreams == set()  # it has records still
    assert streams.conflicts(load_config(text=BASE + EU + "[streams.a]\n")) == ("upstreams.eu",)
    eu.answer.set()
    streams.begin_drain()
    await turn()
    assert [data for _, data in eu.calls] == [[b"1"], [b"2"]]
    streams.look()
    assert streams.left_upstreams == {"eu"}
    assert delivered_by(streams) == 3
    change(streams, BASE + EU + "[streams.a]\n", eu=FakeService())  # and again
    assert streams.left_upstreams == set()
    assert delivered_by(streams) == 3
    assert streams.memory.bytes_taken == 0


OWN = "arn:aws:kinesis:eu-west-1:000000000001:stream/a"
OTHERS = "arn:aws:kinesis:eu-west-1:222222222222:stream/a"
KNOWN = BASE
UNKNOWN = "region = 'eu-west-1'\n"
BY_NAME, BY_ARN = "[streams.a]\n", f"[streams.a]\narn = '{OWN}'\n"
RENAMED = f"[streams.b]\narn = '{OWN}'\n"  # another table's name
ORDERED = "ordering = 'partition_key'\n"


@pytest.mark.parametrize("base", [KNOWN, UNKNOWN], ids=["known", "unknown"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(BY_NAME, BY_ARN), (BY_ARN, BY_NAME), (BY_NAME, RENAMED)],
    ids=["named", "unnamed", "renamed"],
)
async def test_one_stream_by_another_spelling_waits_for_what_is_ordered(
    base: str, before: str, after: str
) -> None:
    """It is another engine's, which would send later records of a key before those of this one."""
    service = FakeService()
    service.answer.clear()
    streams = make_streams(service, base + before + ORDERED)
    put(found(streams, "a"), b"1")
    await turn()
    put(found(streams, "a"), b"2")
    table = after.split("]", maxsplit=1)[0].removeprefix("[")
    new = load_config(text=base + after + ORDERED)
    assert streams.conflicts(new) == (table,)
    assert streams.conflicts(load_config(text=base + after)) == (), "no order is promised then"
    others = after.replace(OWN, OTHERS) + ORDERED
    if OTHERS in others and base is KNOWN:
        assert streams.conflicts(load_config(text=base + others)) == (), "it is another stream"
    service.answer.set()
    streams.begin_drain()
    await turn()
    assert streams.conflicts(new) == ()


async def test_two_that_may_be_one_and_are_listed_both_stand_against_nothing() -> None:
    service = FakeService()
    service.answer.clear()
    both = UNKNOWN + BY_NAME + ORDERED + RENAMED.replace(OWN, OTHERS) + ORDERED
    streams = make_streams(service, both)
    put(found(streams, "a"), b"1")
    put(found(streams, "b"), b"2")
    await turn()
    assert streams.conflicts(load_config(text=both)) == ()


async def test_spellings_that_meant_a_stream_mean_what_the_new_configuration_says() -> None:
    streams = make_streams(FakeService(), BASE + "[streams.a]\n")
    before = found(streams, "a")
    arn = "arn:aws:kinesis:eu-west-1:222222222222:stream/a"
    change(streams, BASE + f"[streams.a]\narn = '{arn}'\n")
    after = found(streams, "a")
    assert after is not before
    assert after.target.arn == arn
    assert isinstance(parse_arn(arn), Arn)
    assert streams.routes == {"a": arn, arn: arn}


async def test_spellings_are_forgotten_after_a_stream_was_closed() -> None:
    """The account is learnt late: what an ARN means has changed."""
    service = FakeService()
    streams = make_streams(service, "region = 'eu-west-1'\nstreams_max = 1\n", clock=HandClock())
    found(streams, "x")
    await turn()
    found(streams, "y")  # closes the idle one
    found(streams, "y")
    assert service.on_new_keys is not None
    service.on_new_keys(Caller("000000000001", "eu-west-1"))
    arn = "arn:aws:kinesis:eu-west-1:000000000001:stream/y"
    assert found(streams, arn) is found(streams, "y")

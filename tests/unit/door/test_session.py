"""One NDJSON connection against a transport and an intake in memory."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.limits import SPREAD_KEY_BYTES
from kdaemon.base.record import RecordResult
from kdaemon.door import rounds
from kdaemon.door.door import Door
from kdaemon.door.session import PATIENCE_TICKS, NdjsonSession
from kdaemon.http.arrivals import Arrival
from kdaemon.http.hub import ConnectionLimits, ConnectionPlaces, Hub
from kdaemon.http.turns import ALL_TIME_NS_MAX, PIECES_MAX
from kdaemon.wire import line_buffer
from kdaemon.wire.limits import PutLimits
from tests.kit.depth import examples
from tests.kit.doors import DELIVERED, SHARD_FULL, FakeDoor, FakeTransport

SETUP = b'{"stream":"s"}\n'
FAILED = RecordResult(error_code="InternalFailure", error_message="Why.")


def line(text: str, **fields: str) -> bytes:
    extra = "".join(f',"{name}":"{value}"' for name, value in fields.items())
    return f'{{"data":"{text}"{extra}}}\n'.encode()


class Harness:
    def __init__(
        self,
        limits: ConnectionLimits | None = None,
        *,
        record_limits: PutLimits | None = None,
        line_bytes_max: int = 1000,
        hub: Hub | None = None,
        door: FakeDoor | None = None,
    ) -> None:
        self.hub = hub or Hub(limits or ConnectionLimits())
        self.door = door or FakeDoor(record_limits)
        self.transport = FakeTransport()
        self.session = NdjsonSession(cast("Door", self.door), self.hub, line_bytes_max)
        self.transport.protocol = self.session
        self.hub.attach(self.session)
        self.session.take_over(self.transport)
        self.is_lost = False

    async def feed(self, *pieces: bytes) -> list[dict[str, Any]]:
        for piece in pieces:
            self.session.data_received(piece)
        return await self.told()

    async def told(self) -> list[dict[str, Any]]:
        """What the client hears once the loop has had its turns."""
        for _ in range(5):
            await asyncio.sleep(0)
        return self.transport.lines()

    def lose(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.session.connection_lost(None)


Make = Callable[..., Harness]


@pytest.fixture
async def harness() -> AsyncIterator[Make]:
    made: list[Harness] = []

    def make(*args: Any, **kwargs: Any) -> Harness:
        made.append(Harness(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.lose()
        await asyncio.sleep(0)
        assert one.hub.counters.open == 0
        assert one.hub.bodies.bytes_taken == 0
        await one.hub.aclose(0)


async def test_the_lines_of_one_read_are_one_frame(harness: Make) -> None:
    one = harness()
    await one.feed(SETUP + line("a") + line("b"))
    (submitted,) = one.door.submitted
    assert submitted.stream == "s"
    assert one.door.data == [b"a", b"b"]


async def test_bytes_one_at_a_time_are_the_same_records(harness: Make) -> None:
    one = harness()
    text = SETUP + line("a") + b"\n" + b"bad\n" + line("b", stream="t")
    told = await one.feed(*(text[i : i + 1] for i in range(len(text))))
    assert one.door.data == [b"a", b"b"]
    assert [submitted.stream for submitted in one.door.submitted] == ["s", "t"]
    assert [answer["rejected"] for answer in told] == [4]


async def test_a_setup_is_not_needed_where_lines_name_their_stream(harness: Make) -> None:
    one = harness()
    await one.feed(b"\n" + line("a", stream="t"))
    one.door.submitted[0].settle()
    assert await one.told() == [{"acknowledged": 1}]


async def test_a_line_without_a_stream_is_refused(harness: Make) -> None:
    one = harness()
    (answer,) = await one.feed(line("a"))
    assert answer["rejected"] == 1
    assert "No stream" in answer["message"]
    assert one.door.rejected_count == 1


async def test_acknowledgements_are_cumulative_and_in_order(harness: Make) -> None:
    one = harness()
    await one.feed(SETUP + line("a"))
    await one.feed(line("b") + line("c"))
    await one.feed(line("d"))
    first, second, third = one.door.submitted
    second.settle()
    third.settle()
    assert await one.told() == []
    first.settle()
    assert await one.told() == [{"acknowledged": 4}]


async def test_a_burst_of_settlements_is_one_acknowledgement(harness: Make) -> None:
    one = harness()
    for i in range(10):
        await one.feed((SETUP if i == 0 else b"") + line(str(i)))
    for submitted in one.door.submitted:
        submitted.settle()
    assert await one.told() == [{"acknowledged": 10}]
    assert one.transport.write_count == 1


async def test_streams_in_one_read_are_acknowledged_together(harness: Make) -> None:
    one = harness()
    await one.feed(SETUP)
    await one.feed(line("1", stream="a") + line("2", stream="b") + line("3", stream="a"))
    a, b = one.door.submitted
    assert [record.data for record in a.records] == [b"1", b"3"]
    a.settle()
    assert await one.told() == []
    b.settle()
    assert await one.told() == [{"acknowledged": 3}]


async def test_a_bad_line_is_refused_and_the_others_are_taken(harness: Make) -> None:
    one = harness()
    told = await one.feed(SETUP + line("a") + b"bad\n" + line("b") + b'{"dta":"x"}\n')
    assert [answer["rejected"] for answer in told] == [3, 5]
    assert one.door.data == [b"a", b"b"]
    assert one.door.rejected_count == 2


async def test_a_record_that_was_not_delivered_is_told_by_its_line(harness: Make) -> None:
    one = harness()
    await one.feed(SETUP + line("a") + b"\n" + line("b") + line("c"))
    one.door.submitted[0].settle(DELIVERED, FAILED, DELIVERED)
    assert await one.told() == [
        {"rejected": 4, "code": "InternalFailure", "message": "Why."},
        {"acknowledged": 2},
    ]


async def test_a_frame_that_was_refused_whole_is_told_for_each_line(harness: Make) -> None:
    one = harness()
    await one.feed(SETUP + line("a") + line("b"))
    frame = one.door.submitted[0].frame
    frame.refusal = ("ResourceNotFoundException", "Stream s not found.")
    one.door.submitted[0].settle(FAILED, FAILED)
    told = await one.told()
    assert [(answer["rejected"], answer["code"]) for answer in told] == [
        (2, "ResourceNotFoundException"),
        (3, "ResourceNotFoundException"),
    ]


async def test_an_unknown_stream_refuses_its_lines_alone(harness: Make) -> None:
    one = harness()
    told = await one.feed(SETUP + line("a", stream="unknown") + line("b"))
    assert [(answer["rejected"], answer["code"]) for answer in told] == [
        (2, "ResourceNotFoundException")
    ]
    assert one.door.data == [b"b"]
    assert one.door.rejected_count == 1


async def test_a_record_over_its_streams_limit_is_refused_alone(harness: Make) -> None:
    one = harness(record_limits=PutLimits(record_bytes_max=3 + SPREAD_KEY_BYTES))
    told = await one.feed(SETUP + line("1234") + line("123"))
    assert [answer["rejected"] for answer in told] == [2]
    assert one.door.data == [b"123"]
    told = await one.feed(line("12345"))
    assert [answer["rejected"] for answer in told] == [4]
    one.door.submitted[0].settle()
    assert await one.told() == [{"acknowledged": 1}]


async def test_accepted_is_acknowledged_at_once(harness: Make) -> None:
    one = harness()
    told = await one.feed(b'{"stream":"s","acknowledge":"accepted"}\n' + line("a") + line("b"))
    assert told == [{"acknowledged": 2}]


@pytest.mark.parametrize("word", ["accepted", "none"])
async def test_records_of_a_full_shard_are_refused_at_once_and_the_rest_is_taken(
    harness: Make, word: str
) -> None:
    one = harness()
    one.door.full_keys = {"hot"}
    lines = [line("a", partition_key="hot"), line("b"), line("c", partition_key="hot"), line("d")]
    told = await one.feed(f'{{"stream":"s","acknowledge":"{word}"}}\n'.encode() + b"".join(lines))
    rejected = [(each["rejected"], each["code"]) for each in told if "rejected" in each]
    assert rejected == [(number, SHARD_FULL.error_code) for number in (2, 4)]
    acknowledged = [each["acknowledged"] for each in told if "acknowledged" in each]
    assert acknowledged == ([2] if word == "accepted" else [])


async def test_none_is_never_acknowledged_but_rejections_are_told(harness: Make) -> None:
    one = harness()
    setup = b'{"stream":"s","acknowledge":"none"}\n'
    told = await one.feed(setup + line("a") + b"bad\n" + line("b", stream="unknown"))
    assert [answer["rejected"] for answer in told] == [3, 4]
    one.session.eof_received()
    assert await one.told() == []
    assert one.transport.is_closed


@pytest.mark.parametrize(
    ("setup", "code"),
    [
        (b'{"strem":"s"}\n', "ValidationException"),
        (b'{"stream":"unknown"}\n', "ResourceNotFoundException"),
        (b'{"stream":"ordered","acknowledge":"stored"}\n', "InvalidArgumentException"),
    ],
)
@pytest.mark.parametrize("ends", [False, True])
async def test_a_wrong_setup_is_refused_and_nothing_after_it_is_taken(
    harness: Make, setup: bytes, code: str, ends: bool
) -> None:
    one = harness()
    one.session.data_received(setup + line("a", stream="s"))
    if ends:
        one.session.eof_received()
    (answer,) = await one.told()
    assert (answer["rejected"], answer["code"]) == (1, code)
    assert one.transport.has_ended()
    assert not one.door.submitted


# --- held back


async def test_a_full_intake_is_felt_as_a_socket_that_is_not_read(harness: Make) -> None:
    one = harness()
    one.door.has_room = False
    await one.feed(SETUP + line("a") + line("b"))
    assert not one.transport.reads()
    assert one.door.tries == 1
    one.door.make_room()
    assert one.door.data == [b"a", b"b"]
    assert one.transport.reads()
    one.door.submitted[0].settle()
    assert await one.told() == [{"acknowledged": 2}]


async def test_room_that_is_gone_again_is_waited_for_again(harness: Make) -> None:
    one = harness()
    one.door.has_room = False
    await one.feed(SETUP + line("a"))
    for _ in range(3):
        waiting, one.door.waiting = one.door.waiting, []
        assert len(waiting) == 1
        waiting[0]()
    assert one.door.tries == 4
    assert not one.transport.reads()


async def test_many_sessions_that_wait_for_room_do_not_all_go_on_in_one_turn(
    harness: Make,
) -> None:
    """Each is told of room: 1,000 of them held the loop for half a second."""
    now_ns = [0]
    door = FakeDoor()
    hub = Hub(ConnectionLimits(), now_ns=lambda: now_ns[0])
    door.has_room = False
    sessions = [harness(hub=hub, door=door) for _ in range(50)]
    for one in sessions:
        await one.feed(SETUP + line("a"))
    admit = door.admit

    def slow(*args: Any, **kwargs: Any) -> Any:
        now_ns[0] += ALL_TIME_NS_MAX // 4
        return admit(*args, **kwargs)

    door.admit = slow  # type: ignore[method-assign]
    door.make_room()
    turns = 1
    while len(door.submitted) < 50:
        before = len(door.submitted)
        assert before <= turns * 5
        await asyncio.sleep(0)
        turns += 1
    for one in sessions:
        one.lose()


async def test_too_many_unsettled_blocks_stop_the_reading(
    harness: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "ROUNDS_MAX", 3)
    one = harness()
    await one.feed(SETUP)
    for text in "abc":
        await one.feed(line(text))
    assert not one.transport.reads()
    one.door.submitted[0].settle()
    await one.told()
    assert one.transport.reads()


async def test_too_many_unsettled_bytes_stop_the_reading(
    harness: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "UNSETTLED_BYTES_MAX", 10)
    one = harness()
    await one.feed(SETUP + line("a" * 10))
    assert not one.transport.reads()
    one.door.submitted[0].settle()
    await one.told()
    assert one.transport.reads()


async def test_a_long_read_is_submitted_in_blocks_of_whole_lines(
    harness: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_buffer, "BLOCK_BYTES", 50)
    one = harness()
    texts = [str(i) * (1 + i % 60) for i in range(100)]
    await one.feed(SETUP + b"".join(map(line, texts)))
    while one.session.audit()[2]:
        await asyncio.sleep(0)
    assert one.door.data == [text.encode() for text in texts]
    assert len(one.door.submitted) > 50
    for submitted in reversed(one.door.submitted):
        submitted.settle()
    assert await one.told() == [{"acknowledged": 100}]


async def test_a_client_that_does_not_read_its_answers_is_not_read_either(harness: Make) -> None:
    one = harness(ConnectionLimits(write_timeout_s=3))
    one.transport.pauses_when_written = 1
    await one.feed(SETUP + b"bad\n")
    assert not one.transport.reads()
    one.session.resume_writing()
    assert one.transport.reads()
    one.session.pause_writing()
    for _ in range(4):
        one.hub.sweep()
    assert one.transport.abort_count == 1
    assert one.hub.counters.timed_out["write"] == 1


# --- the end


async def test_the_last_line_needs_no_newline_and_is_acknowledged_after_a_half_close(
    harness: Make,
) -> None:
    one = harness()
    await one.feed(line("a", stream="s")[:-1])
    assert one.session.eof_received()
    assert not one.transport.has_ended()
    one.door.submitted[0].settle()
    assert await one.told() == [{"acknowledged": 1}]
    assert one.transport.is_closed


async def test_a_half_close_while_there_is_no_room_loses_nothing(harness: Make) -> None:
    one = harness()
    one.door.has_room = False
    await one.feed(SETUP + line("a"))
    one.session.data_received(line("b"))  # a transport may deliver what it had read already
    one.session.eof_received()
    await one.told()
    one.door.make_room()
    for submitted in one.door.submitted:
        submitted.settle()
    assert await one.told() == [{"acknowledged": 2}]
    assert one.transport.is_closed


async def test_what_was_read_of_a_client_that_did_not_wait_is_admitted_when_it_is_gone(
    harness: Make,
) -> None:
    one = harness()
    one.door.has_room = False
    await one.feed(b'{"stream":"s","acknowledge":"accepted"}\n' + line("a"))
    one.lose()
    assert one.door.data == []
    one.door.make_room()
    assert one.door.data == [b"a"]
    assert one.door.gone_count == 0


async def test_what_waits_for_room_without_its_client_is_bounded_and_charged(
    harness: Make,
) -> None:
    hub = Hub(ConnectionLimits(bodies_bytes_max=4_000_000))
    door = FakeDoor()
    door.has_room = False
    for _ in range(100):
        one = harness(hub=hub, door=door)
        await one.feed(b'{"stream":"s","acknowledge":"accepted"}\n' + line("x" * 40_000) * 3)
        one.lose()
        for _ in range(5):
            await asyncio.sleep(0)
    assert 0 < door.gone_count < 300
    assert 0 < hub.arrivals.left_behind.bytes_taken <= 500_000
    door.make_room()
    await asyncio.sleep(0)
    assert len(door.data) + door.gone_count == 300
    assert hub.arrivals.left_behind.bytes_taken == 0


@pytest.mark.parametrize("word", ["delivered", "accepted"])
async def test_a_stream_without_room_keeps_nothing_of_a_client_that_was_refused_and_left(
    word: str,
) -> None:
    hub, door = Hub(ConnectionLimits(bodies_bytes_max=10_000)), FakeDoor()
    door.has_room = False
    session = NdjsonSession(cast("Door", door), hub)
    hub.attach(session)
    session.take_over(FakeTransport())
    session.data_received(f'{{"stream":"s","acknowledge":"{word}"}}\n'.encode() + line("a"))
    session.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert door.gone_count == 1
    number = id(session)
    del session
    left = [each for each in gc.get_objects() if type(each) is NdjsonSession]
    assert number not in map(id, left)
    door.make_room()
    assert door.data == []
    await hub.aclose(0)


async def test_what_arrives_is_not_kept_out_by_what_was_left_behind(harness: Make) -> None:
    one = harness(ConnectionLimits(bodies_bytes_max=100_000))
    one.door.has_room = False
    await one.feed(b'{"stream":"s","acknowledge":"none"}\n' + line("a"))
    one.lose()
    assert one.hub.arrivals.left_behind.bytes_taken > 0
    newcomer = Arrival(one.hub.arrivals, lambda: None)
    assert newcomer.grow(100_000)
    newcomer.release()
    one.door.make_room()
    assert one.door.data == [b"a"]


async def test_what_a_client_waits_for_is_withdrawn_when_it_is_gone(harness: Make) -> None:
    one = harness()
    await one.feed(SETUP + line("a") + line("b"))
    one.door.has_room = False
    await one.feed(line("c") + line("d") + line("e"))
    one.lose()
    assert one.door.withdrawn == [each.frame for each in one.door.submitted]
    assert one.door.gone_count == 3
    assert one.door.data == [b"a", b"b"]


async def test_a_connection_has_its_part_of_a_turn_and_then_others_have_theirs(
    harness: Make,
) -> None:
    one = harness()
    one.session.data_received(SETUP + b"".join(line(str(number)) for number in range(20_000)))
    assert 0 < len(one.door.data) < 20_000
    assert not one.transport.reads()
    while len(one.door.data) < 20_000:
        await asyncio.sleep(0)
    assert one.transport.reads()
    assert one.door.data == [str(number).encode() for number in range(20_000)]


@pytest.mark.parametrize("is_gone", [False, True])
async def test_lines_for_many_streams_take_many_turns_though_they_came_in_one_block(
    harness: Make, is_gone: bool
) -> None:
    one = harness()
    block = b"".join(line("a", stream=f"s{number}") for number in range(1_000))
    assert len(block) < line_buffer.BLOCK_BYTES
    one.session.data_received(b'{"acknowledge":"accepted"}\n')
    one.session.data_received(block)
    before = len(one.door.submitted)
    assert 0 < before <= PIECES_MAX
    assert not one.transport.reads()
    if is_gone:
        one.lose()
    while len(one.door.submitted) < 1_000:
        await asyncio.sleep(0)
        assert len(one.door.submitted) - before <= PIECES_MAX
        before = len(one.door.submitted)
    assert [each.stream for each in one.door.submitted] == [f"s{number}" for number in range(1_000)]
    if not is_gone:
        assert (await one.told())[-1] == {"acknowledged": 1_000}
        assert one.transport.reads()


async def test_a_block_of_which_little_can_be_read_ends_the_connection(harness: Make) -> None:
    one = harness()
    told = await one.feed(SETUP + b"x\n" * 40_000 + line("a"))
    assert len(told) <= 1_002
    assert "the connection is closed" in told[-1]["message"]
    assert one.door.rejected_count == 40_000 + 1
    assert one.transport.has_ended()


async def test_a_drain_settles_what_was_read_and_then_ends(harness: Make) -> None:
    one = harness()
    await one.feed(SETUP + line("a") + b'{"data":"half')
    one.hub.close_idle()
    await one.told()
    assert not one.transport.has_ended()
    one.session.data_received(line("too late"))
    one.door.submitted[0].settle()
    assert await one.told() == [{"acknowledged": 1}]
    assert one.transport.has_ended()
    assert one.door.data == [b"a"]


async def test_an_idle_session_ends_at_once_in_a_drain(harness: Make) -> None:
    one = harness()
    await one.feed(SETUP)
    one.hub.close_idle()
    await one.told()
    assert one.transport.has_ended()


async def test_a_line_that_never_ends_is_refused_after_what_came_before(harness: Make) -> None:
    one = harness(line_bytes_max=100)
    await one.feed(SETUP + line("a"))
    assert await one.feed(b"x" * 60, b"x" * 60, b"x" * 60) == []
    assert not one.transport.has_ended()
    one.door.submitted[0].settle()
    ok, refused = await one.told()
    assert ok == {"acknowledged": 1}
    assert (refused["rejected"], refused["code"]) == (3, "ValidationException")
    assert "100 bytes" in refused["message"]
    assert one.transport.has_ended()
    assert one.hub.counters.refused["body_too_large"] == 1


async def test_long_lines_share_a_budget(harness: Make) -> None:
    one = harness(ConnectionLimits(bodies_bytes_max=50))
    (refused,) = await one.feed(SETUP + b"x" * 51)
    assert (refused["rejected"], refused["code"]) == (2, "ServiceUnavailableException")
    assert one.hub.counters.refused["bodies_full"] == 1


@pytest.mark.parametrize("sent", [b"", SETUP, SETUP + b'{"da'], ids=["nothing", "setup", "half"])
async def test_a_session_that_has_nothing_to_do_loses_its_place_to_who_comes(
    harness: Make, sent: bytes
) -> None:
    hub = Hub(ConnectionLimits(), places=ConnectionPlaces(2))
    door = FakeDoor()
    waits, idle = harness(hub=hub, door=door), harness(hub=hub, door=door)
    await waits.feed(SETUP + line("a"))
    if sent:
        await idle.feed(sent)
    for _ in range(PATIENCE_TICKS):
        hub.sweep()
    assert not hub.places.take()
    hub.sweep()
    assert hub.places.take()
    hub.places.taken -= 1
    assert (waits.transport.is_closed, idle.transport.is_closed) == (False, True)
    waits.lose()


def kept_bytes(one: Harness) -> int:
    """What a session keeps of what has come: raw lines, and records that wait for room."""
    return one.session.audit()[1]


async def test_lines_that_wait_for_room_count_as_what_arrives(harness: Make) -> None:
    """A read of the shortest lines holds 1.2 MB when it is parsed: 1,000 sessions were 1 GB."""
    hub = Hub(ConnectionLimits(bodies_bytes_max=4_000_000))
    door = FakeDoor()
    door.has_room = False
    sessions = [harness(hub=hub, door=door) for _ in range(10)]
    read = b'{"data":""}\n' * 20_000
    for one in sessions:
        await one.feed(b'{"stream":"s","acknowledge":"accepted"}\n')
        await one.feed(read)
        assert sum(map(kept_bytes, sessions)) <= hub.bodies.bytes_taken <= 4_000_000
    refused = [one for one in sessions if one.transport.has_ended()]
    assert 0 < len(refused) < 10
    for one in refused:
        assert kept_bytes(one) == 0
    assert door.gave_way_count == 20_000 * len(refused)
    newcomer = Arrival(hub.arrivals, lambda: None)
    for _ in range(20):  # who waits goes before who arrives
        assert newcomer.grow(100_000)
    newcomer.release()
    assert sum(map(kept_bytes, sessions)) <= 2_000_000
    door.make_room()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(door.data) + door.gave_way_count == 20_000 * 10
    assert hub.bodies.bytes_taken == 0
    for one in sessions:
        one.lose()


async def test_who_gives_way_is_told_from_where_on_nothing_was_taken(harness: Make) -> None:
    one = harness(ConnectionLimits(bodies_bytes_max=2_000))
    await one.feed(SETUP + line("a"))
    one.door.has_room = False
    told = await one.feed(line("b"), line("x" * 900) + line("c") * 5)
    assert told == []
    newcomer = Arrival(one.hub.arrivals, lambda: None)
    one.hub.sweep()
    assert newcomer.grow(2_000)
    one.door.submitted[0].settle()
    told = await one.told()
    assert told[0] == {"acknowledged": 1}
    assert (told[1]["rejected"], told[1]["code"]) == (3, "ServiceUnavailableException")
    assert one.door.gave_way_count == 7
    assert one.transport.has_ended()
    newcomer.release()


async def test_half_lines_that_stall_keep_nobody_out(harness: Make) -> None:
    """Lines and bodies hold one budget, on all listeners, and who stalls goes first."""
    stalled = harness(ConnectionLimits(bodies_bytes_max=1200))
    await stalled.feed(SETUP + b'{"data":"b"}\n' + b"x" * 900)
    for _ in range(3):
        stalled.hub.sweep()
    newcomer = Arrival(stalled.hub.arrivals, lambda: None)
    assert newcomer.grow(800)
    stalled.door.submitted[0].settle()
    refused, acknowledged = sorted(await stalled.told(), key=len, reverse=True)
    assert refused["code"] == "ServiceUnavailableException"
    assert acknowledged == {"acknowledged": 1}
    assert stalled.transport.has_ended()
    newcomer.release()
    assert stalled.hub.bodies.bytes_taken == 0


async def test_a_line_that_is_whole_holds_nothing_of_the_next(harness: Make) -> None:
    one = harness(ConnectionLimits(bodies_bytes_max=1200))
    await one.feed(SETUP + b'{"data":"' + b"x" * 800)
    assert one.hub.bodies.bytes_taken > 800
    await one.feed(b'"}\n{"da')
    assert one.hub.bodies.bytes_taken == 4


async def test_half_a_line_for_ever_is_cut_off_and_an_idle_session_is_not(harness: Make) -> None:
    one = harness(ConnectionLimits(body_timeout_s=3))
    await one.feed(SETUP)
    for _ in range(1000):
        one.hub.sweep()
    await one.feed(b"x")
    for _ in range(3):
        one.hub.sweep()
    assert not one.transport.has_ended()
    one.hub.sweep()
    (refused,) = await one.told()
    assert (refused["rejected"], refused["code"]) == (2, "RequestTimeoutException")
    assert one.transport.has_ended()
    for _ in range(3):
        one.hub.sweep()
    assert one.transport.abort_count == 1


# --- noise

PIECES = st.sampled_from(
    [
        *(SETUP, line("a"), line("b", stream="t"), line("c", stream="unknown"), b"bad\n", b"\n"),
        *(b'{"data"', b':"x"}', b"\n\n", b'{"stream":"unknown"}\n', b"x" * 80, b"\xff\x00\n", b"{"),
        *("settle", "room", "full", "sweep", "pause", "resume", "eof", "drain"),
    ]
)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(PIECES, max_size=30), st.sampled_from([200, 2_000, 20_000]))
def test_whatever_happens_nothing_raises_and_no_line_is_lost(
    pieces: list[bytes | str], arriving_bytes_max: int
) -> None:
    """Each line that was read whole is acknowledged or refused, or came after the end."""

    async def run() -> None:
        one = Harness(ConnectionLimits(bodies_bytes_max=arriving_bytes_max), line_bytes_max=100)
        is_paused = False
        for piece in pieces:
            if one.transport.is_closed:
                break
            if isinstance(piece, bytes):
                one.session.data_received(piece)
            elif piece == "settle":
                settle_all(one)
            elif piece == "room":
                one.door.make_room()
            elif piece == "full":
                one.door.has_room = False
            elif piece == "sweep":
                one.hub.sweep()
            elif piece == "pause" and not is_paused:
                is_paused = True
                one.session.pause_writing()
            elif piece == "resume" and is_paused:
                is_paused = False
                one.session.resume_writing()
            elif piece == "eof":
                one.session.eof_received()
            elif piece == "drain":
                one.hub.close_idle()
            await asyncio.sleep(0)
        if is_paused:
            one.session.resume_writing()
        if not one.transport.is_closed:
            one.session.eof_received()
        one.door.make_room()
        for _ in range(5):
            settle_all(one)
            await asyncio.sleep(0)
        assert one.transport.has_ended()
        submitted = sum(len(each.frame.records) for each in one.door.submitted)
        answers = one.transport.lines()
        told = [answer["acknowledged"] for answer in answers if "acknowledged" in answer]
        assert told == sorted(set(told))
        assert (told[-1] if told else 0) == submitted
        counted = one.door.rejected_count
        told_count = len([answer for answer in answers if "rejected" in answer])
        gave_way = one.door.gave_way_count > 0
        told_count -= gave_way  # all that gave way are told in one line
        # What follows such a setup is refused unread; where lines gave way, a later line that was
        # refused by itself is one of those from which on nothing was taken.
        if gave_way or b'{"stream":"unknown"}\n' in pieces:
            assert counted >= told_count
        else:
            assert counted == told_count
        rejected = [answer["rejected"] for answer in answers if "rejected" in answer]
        assert len(rejected) == len(set(rejected))
        one.lose()
        assert one.hub.bodies.bytes_taken == 0
        await one.hub.aclose(0)

    def settle_all(one: Harness) -> None:
        for each in one.door.submitted:
            if each.frame.unsettled:
                each.frame.unsettled = 0
                each.settle()

    asyncio.run(run())

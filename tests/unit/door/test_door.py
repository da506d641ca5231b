"""The one place that admits: each record is received once and counted once, and each answer is
true.

The streams are real, over a service in memory. What is tried is tried on every way in: the Kinesis
API's two operations, NDJSON over HTTP, and the lines of a connection.
"""

import asyncio
import base64
import gc
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Frame
from kdaemon.base.limits import MIB
from kdaemon.base.record import Record
from kdaemon.door.dry_runs import DRY_RUNS_MAX
from kdaemon.door.ndjson import NdjsonDoor
from kdaemon.door.routes import make_handler
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.request import HttpRequest
from kdaemon.send.driver import StreamDriver
from kdaemon.streams import Stream, inquiry
from kdaemon.streams.inquiry import MISSING_NS, Word
from tests.kit import cbor
from tests.kit.clock import HandClock
from tests.kit.doors import Doors, open_session
from tests.kit.endpoints import CONTENT_TYPES
from tests.kit.patience import PATIENCE_S, until
from tests.kit.streams import DENIED, FakeService, make_streams, turn
from tests.unit.door.fake_streams import Answer, api_request, make_request, read_answer

THROUGHPUT = "ProvisionedThroughputExceededException"
HEADER = "x-kdaemon-acknowledge"
YANDEX = "service = 'yandex'\nendpoint_url = 'http://127.0.0.1/db'"


class Daemon(Doors):
    """Every way in, over one registry of streams. `encoding`: of the Kinesis API's requests."""

    encoding = "json"

    def __init__(self, service: FakeService, text: str = "", spool: Any = None) -> None:
        self.service = service
        self.clock = HandClock()
        streams = make_streams(service, text, clock=self.clock, spool=spool)
        super().__init__(streams, self.clock)
        self.steps: deque[Callable[[], object]] = deque()
        self.is_stepped = False
        self.ndjson = NdjsonDoor(self.door, self._later)

    def _later(self, step: Callable[[], object]) -> None:
        if self.is_stepped:
            self.steps.append(step)
        else:
            asyncio.get_running_loop().call_soon(step)

    def ndjson_step(self) -> bool:
        """The next part of a body of lines that takes several turns. False: there is none."""
        if self.steps:
            self.steps.popleft()()
            return True
        return False

    def api(self, operation: str, members: dict[str, Any], acknowledge: str | None) -> HttpRequest:
        request = api_request(operation, members, acknowledge, self.encoding)
        self.kinesis.handle(request)
        return request

    def put_record(
        self, stream: str = "s", acknowledge: str | None = None, **members: Any
    ) -> HttpRequest:
        record = {"StreamName": stream, "Data": "aGk=", "PartitionKey": "k", **members}
        return self.api("PutRecord", record, acknowledge)

    def put_records(
        self, stream: str = "s", acknowledge: str | None = None, *, count: int = 3, **members: Any
    ) -> HttpRequest:
        record = {"Data": base64.b64encode(b"hi").decode(), "PartitionKey": "k", **members}
        body = {"StreamName": stream, "Records": [record] * count}
        return self.api("PutRecords", body, acknowledge)

    def lines(
        self, stream: str = "s", acknowledge: str | None = None, *lines: bytes
    ) -> HttpRequest:
        headers = {} if acknowledge is None else {HEADER: acknowledge}
        body = b"\n".join(lines or [b'{"data":"hi"}'])
        request = make_request(f"/v1/streams/{stream}/records", headers, body)
        self.ndjson.handle(request)
        return request

    def stream(self, name: str = "s") -> Stream:
        found = self.streams.find(name)
        assert isinstance(found, Stream)
        return found

    def driver(self) -> StreamDriver:
        """Of its only stream."""
        (found,) = self.streams.audit()
        return found

    def rejected(self, name: str = "s") -> dict[str, int]:
        return told(self.stream(name).counters.rejected)

    def received(self) -> int:
        """All records that came in, as all series of the metrics sum up."""
        counters = [engine.counters for _, engine in self.streams.engines()]
        counters += [self.streams.door, *(each.closed for each in self.streams.upstreams)]
        assert all(each.unaccounted() == 0 for each in counters)
        return sum(each.received for each in counters)


def told(rejected: dict[RefuseReason, int]) -> dict[str, int]:
    return {reason.value: count for reason, count in rejected.items() if count}


Make = Callable[..., Daemon]


@pytest.fixture
async def daemon() -> AsyncIterator[Make]:
    made: list[Daemon] = []

    def make(service: FakeService | None = None, text: str = "", spool: Any = None) -> Daemon:
        made.append(Daemon(service or FakeService(), text, spool))
        return made[-1]

    yield make
    for each in made:
        await each.streams.give_up()
        await each.streams.aclose()


async def answered(request: HttpRequest, turns: int = 200) -> Answer:
    for _ in range(turns):
        if request.answer is not None:
            break
        await asyncio.sleep(0)
    return read_answer(request)


@pytest.fixture(params=["json", "cbor"], autouse=True)
def encoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Daemon, "encoding", request.param)
    return str(request.param)


WAYS = ["PutRecord", "PutRecords", "lines"]


def ask(daemon: Daemon, way: str, stream: str = "s", acknowledge: str | None = None) -> HttpRequest:
    """One or three records by this way."""
    if way == "lines":
        return daemon.lines(stream, acknowledge)
    put = daemon.put_record if way == "PutRecord" else daemon.put_records
    return put(stream, acknowledge)


# L4: what an answer promises


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (None, "delivered"),
        ("delivered", "delivered"),
        ("accepted", "accepted"),
        ("none", "accepted"),
    ],
)
async def test_every_success_says_on_which_promise(
    daemon: Make, way: str, asked: str | None, said: str
) -> None:
    answer = await answered(ask(daemon(), way, acknowledge=asked))
    assert (answer.status, answer.headers[HEADER]) == (200, said)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", ["delivered", "accepted", "stored", "soon"])
async def test_a_refusal_promises_nothing(daemon: Make, way: str, asked: str) -> None:
    place = daemon(text="accept_unlisted = false\n[streams.other]")
    answer = await answered(ask(place, way, acknowledge=asked))
    assert answer.status >= 400
    assert HEADER not in answer.headers


@pytest.mark.parametrize("way", WAYS)
async def test_an_error_has_the_content_type_of_its_door(
    daemon: Make, way: str, encoding: str
) -> None:
    request = ask(daemon(), way, acknowledge="soon")
    assert request.answer is not None
    kind = "application/json" if way == "lines" else CONTENT_TYPES[encoding]
    assert request.answer.content_type.decode() == kind


# L3: what will be refused for ever is a 400


@pytest.mark.parametrize("way", WAYS)
async def test_stored_without_a_spool_is_refused_for_good(daemon: Make, way: str) -> None:
    place = daemon()
    answer = await answered(ask(place, way, acknowledge="stored"))
    assert (answer.status, answer.body["__type"]) == (400, "InvalidArgumentException")
    assert "spool.directory" in answer.body["message"]
    assert "retry-after" not in answer.headers


# L2: every record of every request is received once and counted once


@pytest.mark.parametrize(
    ("members", "count"),
    [
        ({"PartitionKey": ""}, 3),
        ({"PartitionKey": None}, 3),
        ({"PartitionKey": "k" * 257}, 3),
        ({"Data": "not base64"}, 3),
        ({"ExplicitHashKey": "01"}, 3),
        ({"ExplicitHashKey": str(2**128)}, 3),
        ({"Data": base64.b64encode(bytes(1024 * 1024)).decode()}, 3),
    ],
)
async def test_an_invalid_request_counts_all_its_records(
    daemon: Make, members: dict[str, Any], count: int
) -> None:
    place = daemon(text="[streams.s]\nrecord_bytes_max = 1048576")
    assert (await answered(place.put_records(count=count, **members))).status == 400
    assert place.received() == count
    assert (await answered(place.put_record(**members))).status == 400
    assert place.received() == count + 1
    assert place.rejected() == {"invalid": count + 1}


async def test_bad_lines_are_counted_beside_good_ones(daemon: Make) -> None:
    place = daemon()
    good, bad = b'{"data":"a"}', b'{"data":"a","partition_key":7}'
    answer = await answered(place.lines("s", None, good, bad, b"", bad, good))
    assert (answer.status, answer.body["acknowledged"]) == (207, 2)
    assert [each["line"] for each in answer.body["rejected"]] == [2, 4]
    assert place.received() == 4
    assert place.rejected() == {"invalid": 2}


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_refused_before_its_stream_is_known_is_counted_at_the_door(
    daemon: Make, way: str
) -> None:
    place = daemon(text="accept_unlisted = false\n[streams.other]")
    await answered(ask(place, way))
    count = 3 if way == "PutRecords" else 1
    assert place.received() == count
    assert told(place.streams.door.rejected) == {"unlisted": count}


async def test_lines_for_another_stream_than_the_paths_are_refused_and_counted(
    daemon: Make,
) -> None:
    place = daemon()
    answer = await answered(place.lines("s", None, b'{"data":"a","stream":"t"}'))
    assert (answer.status, answer.body["rejected_count"]) == (400, 1)
    assert place.received() == 1


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n \n\t\n", b"\n" * 100_000])
async def test_a_request_without_a_line_is_no_success(daemon: Make, body: bytes) -> None:
    place = daemon()
    answer = await answered(place.lines("s", None, body), turns=200)
    assert answer.status == 400
    assert "no line" in answer.body["message"]
    assert place.received() == 0


# L10: where nothing was taken, the status says so


async def failing(daemon: Make, code: str, way: str) -> Answer:
    """The answer of a stream whose service fails every record with this code."""
    place = daemon(text="[default]\nlinger_ms = 0\ndeadline_ms = 1000")
    place.service.record_code = code
    request = ask(place, way)
    for _ in range(30):
        await turn(5)
        place.clock.ns += 100_000_000
        place.driver().pump_soon()
    return await answered(request)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("code", "status", "lines_status"),
    [(THROUGHPUT, 400, 503), ("InternalFailure", 500, 500)],
)
async def test_where_nothing_was_delivered_the_status_says_so_with_the_services_type(
    daemon: Make, way: str, code: str, status: int, lines_status: int
) -> None:
    answer = await failing(daemon, code, way)
    assert answer.status == (lines_status if way == "lines" else status)
    assert answer.body["__type"] == code
    assert HEADER not in answer.headers


@pytest.mark.parametrize("way", WAYS)
async def test_a_full_buffer_is_told_by_the_status(daemon: Make, way: str) -> None:
    place = daemon(text="[default]\nbuffer_bytes_max = 1048576\nlinger_ms = 0\nin_flight_max = 1")
    await answered(place.put_record())  # the stream is known: what comes is taken at once
    place.service.is_stalled = True
    stream = place.stream()
    for size in (90_000, 1000, 1):
        data = base64.b64encode(bytes(size)).decode()
        while (filled := place.put_record(acknowledge="accepted", Data=data).answer) is not None:
            if filled.status != 200:
                break
    while (full := ask(place, way)).answer is None:
        pass
    answer = read_answer(full)
    assert answer.status == (503 if way == "lines" else 400)
    assert answer.body["__type"] == THROUGHPUT
    assert place.received() == sum(told(stream.counters.rejected).values()) + (
        stream.counters.accepted
    )


# L11: a client that goes away


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_queued_of_a_client_that_went_away_is_withdrawn(
    daemon: Make, way: str
) -> None:
    place = daemon(text="[default]\nlinger_ms = 1000\nin_flight_max = 1")
    place.service.is_stalled = True
    first = place.put_record()
    await turn()
    request = ask(place, way)
    await turn()
    assert place.stream().counters.buffered == (3 if way == "PutRecords" else 1)
    assert request.on_gone is not None
    request.on_gone()
    await turn()
    assert place.stream().counters.buffered == 0
    assert place.rejected() == {"client_gone": 3 if way == "PutRecords" else 1}
    assert first.on_gone is not None
    first.on_gone()  # in flight: it may be in the stream
    await turn()
    assert place.stream().counters.possible_duplicates == 1
    assert place.received() == (4 if way == "PutRecords" else 2)


async def test_a_connection_of_lines_that_is_lost_takes_back_what_it_waits_for(
    daemon: Make,
) -> None:
    place = daemon(text="[default]\nlinger_ms = 1000\nin_flight_max = 1")
    place.service.is_stalled = True
    session, _ = open_session(place.door)
    session.data_received(b'{"stream":"s","data":"a"}\n')
    await turn()
    session.data_received(b'{"stream":"s","data":"b"}\n{"stream":"s","data":"c"}\n')
    await turn()
    assert place.stream().counters.buffered == 2
    session.connection_lost(None)
    await turn()
    assert place.rejected() == {"client_gone": 2}


@pytest.mark.parametrize("turns", [0, 1, 5, 7])
async def test_of_lines_whose_client_goes_while_they_are_read_nothing_is_sent(
    daemon: Make, turns: int
) -> None:
    place = daemon(text="[default]\nlinger_ms = 0\n[streams.s]")
    await turn()
    place.is_stepped = True
    lines = [b'{"data":"%b"}' % (b"x" * 1_000)] * 1_500  # in 24 blocks: six turns each
    request = place.lines("s", "delivered", *lines)
    assert request.on_gone is not None
    for _ in range(turns):
        place.ndjson_step()
    sent = sum(len(records) for _, records in place.service.calls)
    request.owner = None
    request.on_gone()
    while place.ndjson_step():
        pass
    await turn()
    assert sum(len(records) for _, records in place.service.calls) == sent == 0
    assert place.rejected() == {"client_gone": 1_500}
    assert place.streams.memory.bytes_taken == 0


# A connection of lines waits for room


@pytest.mark.parametrize("is_listed", [True, False])
@pytest.mark.parametrize("acknowledge", ["delivered", "accepted"])
async def test_lines_for_an_idle_stream_wait_for_room_that_others_hold(
    daemon: Make, acknowledge: str, is_listed: bool
) -> None:
    listed = "[streams.idle]\n" if is_listed else ""
    place = daemon(text="[default]\nlinger_ms = 0\n[streams.busy]\n" + listed)
    place.streams.find("idle")
    await turn()
    place.service.answer.clear()
    request = place.put_record("busy", "delivered")
    await turn()
    memory = place.stream("idle").memory
    memory.take(memory.free_bytes())
    session, transport = open_session(place.door)
    setup = json.dumps({"stream": "idle", "acknowledge": acknowledge}).encode()
    session.data_received(setup + b'\n{"data":"hi"}\n')
    await turn()
    assert transport.lines() == []
    memory.give(memory.bytes_taken // 2)  # a request's body, say
    await turn()
    place.service.answer.set()
    await turn()
    assert read_answer(request).status == 200
    assert transport.lines() == [{"acknowledged": 1}]


@pytest.mark.parametrize("has_room_to_wait", [True, False])
async def test_each_line_of_a_client_that_left_is_counted_once(
    daemon: Make, has_room_to_wait: bool
) -> None:
    place = daemon(text=f"{YANDEX}\n[streams.s]\n[streams.t]")
    await turn()
    memory = place.streams.memory
    taken_bytes = memory.free_bytes()
    memory.take(taken_bytes)
    hub = Hub(ConnectionLimits(bodies_bytes_max=64 * MIB if has_room_to_wait else 4 * MIB))
    session, _ = open_session(place.door, hub)
    long_key = '{"data":"a","partition_key":"%s"}\n' % ("\u00e9" * 200)
    lines = [long_key.encode(), b"broken\n\n", b'{"data":"a"}\n' * 9_000]
    lines.append(b'{"stream":"t","data":"b"}\n' * 3)
    session.data_received(b'{"stream":"s","acknowledge":"accepted"}\n' + b"".join(lines))
    session.connection_lost(None)
    await turn()
    assert (hub.arrivals.left_behind.bytes_taken > 0) is has_room_to_wait
    memory.give(taken_bytes)
    await turn(100)
    assert place.received() == 9_005
    assert hub.arrivals.left_behind.bytes_taken == 0
    gone = {} if has_room_to_wait else {"client_gone": 9_000}
    assert place.rejected() == {"invalid": 2, **gone}


# Unlisted streams that do not exist


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("acknowledge", ["delivered", "accepted", "none"])
async def test_a_missing_unlisted_stream_is_refused_whatever_its_client_waits_for(
    daemon: Make, way: str, acknowledge: str
) -> None:
    place = daemon(text="[default]\nlinger_ms = 0")
    place.service.missing = {"bogus"}
    for _ in range(2):  # before anything is known, and after
        answer = await answered(ask(place, way, "bogus", acknowledge))
        assert answer.status == (404 if way == "lines" else 400)
        assert answer.body["__type"] == "ResourceNotFoundException"
    count = 6 if way == "PutRecords" else 2
    assert place.rejected("bogus") == {"missing_stream": count}
    assert place.received() == count
    assert place.streams.memory.bytes_taken == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("acknowledge", ["accepted", "none"])
async def test_what_is_promised_nothing_waits_for_a_new_word_when_the_old_one_is_too_old(
    daemon: Make, way: str, acknowledge: str
) -> None:
    place = daemon()
    place.service.missing = {"bogus"}
    for _ in range(3):
        answer = await answered(ask(place, way, "bogus", acknowledge))
        assert answer.body["__type"] == "ResourceNotFoundException"
        place.clock.ns += MISSING_NS + 1
    counters = place.stream("bogus").counters
    assert counters.accepted == 0
    assert sum(counters.dead.values()) == 0


@pytest.mark.parametrize("way", [*WAYS, "session"])
async def test_who_waits_in_memory_for_a_stream_that_is_missing_is_told_once(
    daemon: Make, way: str
) -> None:
    service = FakeService()
    service.is_stalled, service.missing = True, {"bogus"}
    service.word.clear()
    place = daemon(service, "[default]\nlinger_ms = 0\nin_flight_max = 1")
    in_flight = place.put_record("bogus", "delivered")
    await turn()
    if way == "session":
        session, _ = open_session(place.door)
        session.data_received(b'{"stream":"bogus","acknowledge":"delivered"}\n{"data":"hi"}\n')
    else:
        queued = ask(place, way, "bogus", "delivered")
    await turn()
    service.word.set()
    await turn()
    if way != "session":
        assert read_answer(queued).body["__type"] == "ResourceNotFoundException"
    footprint_bytes = place.streams.memory.bytes_taken
    stream = place.stream("bogus")
    assert footprint_bytes == stream.engine.ledger.footprint_bytes > 0
    assert in_flight.answer is None
    place.clock.ns += 60_000_000_000  # the deadlines of both are over
    stream.engine.handle_timeout(place.clock.ns)
    assert stream.counters.buffered == 0
    assert place.streams.memory.bytes_taken == 0
    await place.streams.give_up()
    assert stream.counters.unaccounted() == 0


@pytest.mark.parametrize("way", [*WAYS, "dry run", "session"])
async def test_a_stream_that_a_client_waits_for_keeps_its_place(daemon: Make, way: str) -> None:
    service = FakeService()
    service.word.clear()
    service.answer.clear()
    place = daemon(service, "streams_max = 2\n[default]\nlinger_ms = 0")
    if way == "session":
        session, transport = open_session(place.door)
        session.data_received(b'{"stream":"new","acknowledge":"accepted"}\n{"data":"hi"}\n')
    elif way == "dry run":
        waiting = place.put_record("new", DryRun=True)
    else:
        waiting = ask(place, way, "new", "accepted")
    await turn()
    names = [f"s{number}" for number in range(5)]
    assert all(isinstance(place.streams.find(name), Stream) for name in names[:1])
    for name in names[1:]:  # the others take turns in the other place
        place.streams.find(name)
        await turn()
    service.word.set()
    service.answer.set()
    await turn()
    if way == "session":
        assert transport.lines() == [{"acknowledged": 1}]
    elif way == "dry run":
        assert read_answer(waiting).body["__type"] == "DryRunOperationException"
    else:
        assert read_answer(waiting).status == 200
    await turn()
    assert place.streams.memory.bytes_taken == 0


async def test_before_the_service_spoke_the_memory_of_what_waits_is_taken(daemon: Make) -> None:
    place = daemon()
    place.service.is_silent = True
    request = place.put_record("new", "accepted")
    await turn()
    assert request.answer is None
    assert place.streams.memory.bytes_taken > 0
    place.service.is_silent = False


@pytest.mark.parametrize("way", WAYS)
async def test_while_nobody_can_be_asked_yet_the_time_for_word_has_not_begun(
    daemon: Make, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Just after a start: to take a record for a stream that is missing would lose it."""
    monkeypatch.setattr(inquiry, "WORD_WAIT_S", 0)
    service = FakeService()
    service.is_ready, service.missing = False, {"bogus"}
    service.word.clear()
    place = daemon(service)
    request = ask(place, way, "bogus", "accepted")
    await turn()
    assert request.answer is None
    monkeypatch.setattr(inquiry, "WORD_WAIT_S", PATIENCE_S)
    await turn()  # the last short one is over
    service.is_ready = True
    service.word.set()
    answer = await answered(request)
    assert answer.body["__type"] == "ResourceNotFoundException"
    assert place.streams.memory.bytes_taken == 0


async def test_where_nobody_may_ask_an_unlisted_stream_is_taken_at_its_name(daemon: Make) -> None:
    place = daemon()
    place.service.describe_error = DENIED
    answer = await answered(place.put_record("new", "accepted"))
    assert (answer.status, answer.headers[HEADER]) == (200, "accepted")
    assert place.stream("new").counters.accepted == 1


# P3, P4, P5: keys, order, dry runs


async def test_a_record_without_a_key_is_for_an_auto_stream_only(daemon: Make) -> None:
    place = daemon(text="[default]\nlinger_ms = 0")
    refused = await answered(place.put_record(PartitionKey=None))
    assert (refused.status, refused.body["__type"]) == (400, "ValidationException")
    assert "'partitionKey' failed to satisfy constraint" in refused.body["message"]
    place.service.is_auto = True
    place.driver().ask_again()
    await turn()
    for way in (place.put_record, place.put_records):
        assert (await answered(way(PartitionKey=None))).status == 200
    assert place.rejected() == {"invalid": 1}


async def test_an_order_cannot_be_asked_of_an_auto_stream(daemon: Make) -> None:
    place = daemon(text="[default]\nlinger_ms = 0")
    assert (await answered(place.put_record(SequenceNumberForOrdering="1"))).status == 200
    malformed = await answered(place.put_record(SequenceNumberForOrdering="01"))
    assert (malformed.status, malformed.body["__type"]) == (400, "ValidationException")
    place.service.is_auto = True
    place.driver().ask_again()
    await turn()
    refused = await answered(place.put_record(SequenceNumberForOrdering="1"))
    assert (refused.status, refused.body["__type"]) == (400, "InvalidArgumentException")


async def test_a_serial_client_gets_its_order(daemon: Make) -> None:
    place = daemon(text="[default]\nlinger_ms = 0")
    number = "1"
    for each in range(20):
        data = base64.b64encode(b"%d" % each).decode()
        request = place.put_record(Data=data, SequenceNumberForOrdering=number)
        number = (await answered(request)).body["SequenceNumber"]
    sent = [data for _, records in place.service.calls for data in records]
    assert sent == [b"%d" % each for each in range(20)]


@pytest.mark.parametrize("way", ["PutRecord", "PutRecords"])
async def test_a_dry_run_is_asked_of_the_service_and_delivers_nothing(
    daemon: Make, way: str
) -> None:
    place = daemon()
    request = place.put_record(DryRun=True)
    if way == "PutRecords":
        body = {"StreamName": "s", "DryRun": True, "Records": [{"Data": "", "PartitionKey": "a"}]}
        request = place.api(way, body, None)
    answer = await answered(request)
    assert (answer.status, answer.body["__type"]) == (400, "DryRunOperationException")
    assert place.service.dry_runs[-1].name == "s"
    assert place.service.calls == []
    assert place.received() == place.rejected()["dry_run"]


@pytest.mark.parametrize("way", ["PutRecord", "PutRecords"])
async def test_a_dry_run_of_a_record_without_a_key_is_one_that_the_service_can_read(
    daemon: Make, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = daemon(text="[streams.s]")
    place.service.is_auto = True
    asked: list[Record] = []

    async def dry_run(_: StreamTarget, records: list[Record]) -> ServiceError:
        asked.extend(records)
        return ServiceError("DryRunOperationException", "It would have.", status=400)

    monkeypatch.setattr(place.service, "dry_run", dry_run)
    await turn()
    entry = {"Data": "aGk=", "ExplicitHashKey": "7"}
    members = entry if way == "PutRecord" else {"Records": [entry, {**entry, "PartitionKey": "k"}]}
    request = place.api(way, {"StreamName": "s", "DryRun": True, **members}, None)
    assert (await answered(request)).body["__type"] == "DryRunOperationException"
    assert all(each.partition_key and each.explicit_hash_key == "7" for each in asked)
    assert len(asked) == (1 if way == "PutRecord" else 2)


async def test_dry_runs_have_a_bound_of_their_own(daemon: Make) -> None:
    """Each takes a connection to the service, and is no call of a stream's."""
    place = daemon()
    place.service.answer.clear()
    requests = [place.put_record(DryRun=True) for _ in range(DRY_RUNS_MAX)]
    assert all(each.answer is None for each in requests)
    refused = await answered(place.put_record(StreamName="other", DryRun=True))
    assert refused.body["__type"] == THROUGHPUT
    assert "dry runs" in refused.body["message"]
    place.service.answer.set()
    for request in requests:
        assert (await answered(request)).body["__type"] == "DryRunOperationException"
    again = await answered(place.put_record(DryRun=True))
    assert again.body["__type"] == "DryRunOperationException"
    assert place.received() == DRY_RUNS_MAX + 2


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_dry_run_holds_memory_until_it_is_answered(
    daemon: Make, breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise ValueError("a defect of ours")

    place = daemon(text="memory_bytes_max = 16777216\n[default]\nbuffer_bytes_max = 8388608")
    if breaks:
        monkeypatch.setattr(place.service, "dry_run", broken)
    place.service.answer.clear()
    data = base64.b64encode(b"x" * 780_000).decode()  # a body that is read at once
    requests = [place.put_record(Data=data, DryRun=True) for _ in range(24)]
    refused = [read_answer(each) for each in requests if each.answer is not None]
    assert {each.body["__type"] for each in refused} == {THROUGHPUT}, refused[0].body
    assert place.streams.memory.bytes_taken > 16_000_000
    place.service.answer.set()
    for request in requests:
        assert (await answered(request)).status in (400, 500)
    assert place.streams.memory.bytes_taken == 0
    assert place.received() == 24


async def test_a_dry_run_that_is_not_answered_is_told_so_at_the_streams_deadline(
    daemon: Make,
) -> None:
    """SDKs lose patience before a call to the service does."""
    place = daemon(text="[default]\nlinger_ms = 1\ndeadline_ms = 20")
    place.service.answer.clear()
    request = place.put_record(DryRun=True)
    await until(lambda: request.answer is not None)
    answer = read_answer(request)
    assert (answer.status, answer.body["__type"]) == (503, "ServiceUnavailable")
    assert place.streams.memory.bytes_taken == 0


async def test_yandex_has_no_dry_run(daemon: Make) -> None:
    place = daemon(text=YANDEX)
    answer = await answered(place.put_record("/db/s", DryRun=True))
    assert (answer.status, answer.body["__type"]) == (400, "InvalidArgumentException")
    assert place.service.dry_runs == []


# P1: lines that call the stream of their path by another spelling

OWN_ARN = "arn:aws:kinesis:eu-central-1:111111111111:stream/s"
OTHER_ARN = "arn:aws:kinesis:eu-central-1:222222222222:stream/s"


def spelt(*spellings: str) -> list[bytes]:
    """A line for each, which says its number and, if not "", its stream."""
    return [
        json.dumps({"data": f"{number}", **({"stream": name} if name else {})}).encode()
        for number, name in enumerate(spellings)
    ]


async def learnt(daemon: Make, text: str = "region = 'eu-central-1'") -> Daemon:
    """A daemon that knows its account."""
    text = f"account_id = '111111111111'\n{text}\n[default]\nlinger_ms = 0"
    place = daemon(text=f"{text}\nordering = 'partition_key'")
    await answered(place.put_record())
    return place


@pytest.mark.parametrize("path", ["s", OWN_ARN])
async def test_a_line_may_call_the_stream_of_its_path_as_it_likes(daemon: Make, path: str) -> None:
    place = await learnt(daemon)
    before = len(place.service.calls)
    request = place.lines(path, None, *spelt("", OWN_ARN, "s", "s", OWN_ARN, ""))
    answer = await answered(request)
    assert (answer.status, answer.body["acknowledged"]) == (200, 6)
    assert [data for _, call in place.service.calls[before:] for data in call] == [
        b"%d" % number for number in range(6)
    ]


async def test_at_yandex_a_name_and_its_path_are_one_stream_too(daemon: Make) -> None:
    place = daemon(text=YANDEX + "\n[default]\nlinger_ms = 0")
    answer = await answered(place.lines("s", None, *spelt("/db/s", "s", "db/s")))
    assert (answer.status, answer.body["acknowledged"]) == (207, 2)
    assert [each["line"] for each in answer.body["rejected"]] == [3]  # /db/db/s


@pytest.mark.parametrize("account", ["111111111111", None])
async def test_a_line_for_what_may_be_another_stream_is_refused(
    daemon: Make, account: str | None
) -> None:
    service = FakeService()
    service.account_id = account
    place = daemon(service, "region = 'eu-central-1'\n[default]\nlinger_ms = 0")
    streams = len(list(place.streams.engines()))
    answer = await answered(place.lines("s", None, *spelt("", OTHER_ARN, "t", "", "a b")))
    assert (answer.status, answer.body["acknowledged"]) == (207, 2)
    assert [each["line"] for each in answer.body["rejected"]] == [2, 3, 5]
    assert len(list(place.streams.engines())) == streams + 1, "a refused line opens no stream"


# L2: requests that are for no door


@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE", "FOO"])
async def test_lines_that_come_by_another_method_are_counted(daemon: Make, method: str) -> None:
    place = daemon(text="[streams.s]")
    request = make_request("/v1/streams/s/records", {}, b'{"data":"a"}\n{"data":"b"}', method)
    place.ndjson.handle(request)
    assert read_answer(request).status == 405
    assert (place.received(), place.rejected()) == (2, {"invalid": 2})


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [
        ("PUT", "application/x-amz-json-1.1", 403),
        ("POST", "text/plain", 404),
        ("POST", "application/json", 404),
        ("PUT", "application/x-amz-cbor-1.1", 403),
    ],
)
@pytest.mark.parametrize("operation", ["PutRecord", "PutRecords"])
async def test_requests_that_are_refused_unread_are_counted_by_their_records(
    daemon: Make, method: str, content_type: str, status: int, operation: str
) -> None:
    place = daemon(text="[streams.s]")
    record = {"Data": "aGk=", "PartitionKey": "k"}
    members = record if operation == "PutRecord" else {"Records": [record] * 3}
    headers = {"Content-Type": content_type, "X-Amz-Target": f"Kinesis_20131202.{operation}"}
    named = {"StreamName": "s", **members}
    body = json.dumps(named).encode()
    if content_type == CONTENT_TYPES["cbor"]:
        body = cbor.java(cbor.of_json(named))
    request = make_request("/", headers, body, method)
    place.kinesis.handle(request)
    assert request.answer is not None
    assert request.answer.status == status
    count = 1 if operation == "PutRecord" else 3
    assert (place.received(), place.rejected()) == (count, {"invalid": count})


@pytest.mark.parametrize("path", ["/v1/", "/v1/streams/s/record", "/v1/streams/s/records/"])
async def test_lines_for_a_path_that_is_none_are_counted(daemon: Make, path: str) -> None:
    place = daemon(text="[streams.s]")
    request = make_request(path, {}, b'{"data":"a"}\n{"data":"b"}')
    make_handler(place.kinesis, place.ndjson)(request)
    answer = read_answer(request)
    assert (answer.status, answer.body["__type"]) == (404, "NotFound")
    assert place.received() == 2
    assert told(place.streams.door.rejected) == {"invalid": 2}


# L7: the service's word on encryption


@pytest.mark.parametrize("way", ["PutRecord", "PutRecords"])
async def test_clients_are_told_how_the_service_keeps_their_records(daemon: Make, way: str) -> None:
    place = daemon(text="[default]\nlinger_ms = 0")
    place.service.encryption_type = "KMS"
    assert (await answered(ask(place, way))).body["EncryptionType"] == "KMS"


@pytest.mark.parametrize("way", ["PutRecord", "PutRecords"])
@pytest.mark.parametrize("acknowledge", ["accepted", "none"])
async def test_clients_that_do_not_wait_are_told_what_the_stream_says_of_itself(
    daemon: Make, way: str, acknowledge: str
) -> None:
    """The first of them is answered before any record was sent."""
    service = FakeService()
    service.encryption_type = "KMS"
    service.is_stalled = True
    place = daemon(service, "[default]\nlinger_ms = 0")
    found = await answered(ask(place, way, acknowledge=acknowledge))
    assert found.body["EncryptionType"] == "KMS"


@pytest.mark.parametrize("way", ["PutRecord", "PutRecords"])
async def test_clients_are_told_so_while_the_account_is_learnt(daemon: Make, way: str) -> None:
    service = FakeService()
    service.encryption_type = "KMS"
    service.arn_of = lambda target: (
        f"arn:aws:kinesis:eu-central-1:111111111111:stream/{target.name}"
    )
    service.word.clear()
    service.answer.clear()
    place = daemon(service, "region = 'eu-central-1'\n[default]\nlinger_ms = 0")
    request = ask(place, way)
    await turn()
    service.word.set()
    await turn()
    service.answer.set()
    assert (await answered(request)).body["EncryptionType"] == "KMS"


# H2: a body of lines that is large, or hopeless


async def test_a_body_of_which_nothing_can_be_read_is_refused_whole_and_briefly(
    daemon: Make,
) -> None:
    place = daemon()
    lines = 200_000
    request = place.lines("s", None, b"x\n" * lines)
    assert (answer := await answered(request, turns=1000)).status == 400
    assert answer.body["rejected_count"] > 1_000
    assert len(request.answer.body) < 100_000 if request.answer else False
    assert sum("message" in each for each in answer.body["rejected"]) <= 10
    assert place.received() >= lines
    assert place.streams.memory.bytes_taken == 0


async def test_one_bad_line_among_a_thousand_blocks_is_told_and_the_rest_is_taken(
    daemon: Make,
) -> None:
    place = daemon(text="[default]\nlinger_ms = 0")
    line = b'{"data":"%s"}' % (b"a" * 1000)
    body = [line] * 2_000
    body[777] = b"bad"
    request = place.lines("s", "accepted", *body)
    assert request.answer is None, "not all in one turn"
    answer = await answered(request, turns=1000)
    assert (answer.status, answer.body["acknowledged"]) == (207, 1_999)
    assert [each["line"] for each in answer.body["rejected"]] == [778]
    assert place.received() == 2_000


async def test_what_lines_may_hold_is_looked_at_before_they_are_read(daemon: Make) -> None:
    place = daemon(text="[default]\nbuffer_bytes_max = 2097152")
    request = place.lines("s", None, b'{"data":""}\n' * 20_000)
    answer = await answered(request)
    assert (answer.status, answer.body["__type"]) == (400, "ValidationException")
    assert "buffer_bytes_max" in answer.body["message"]
    assert place.received() == 20_000
    assert place.streams.memory.bytes_taken == 0


async def test_what_lines_may_hold_is_kept_for_them_until_each_block_is_admitted(
    daemon: Make,
) -> None:
    place = daemon(text="[default]\nlinger_ms = 0\n[streams.s]")
    await turn()
    place.service.is_stalled = True
    place.is_stepped = True
    lines = [b'{"data":"%b"}' % (b"x" * 1_000)] * 1_500  # in 24 blocks: six turns each
    request = place.lines("s", "accepted", *lines)
    memory = place.streams.memory
    others_bytes = 0
    while True:  # others take all that is free, in every turn
        free_bytes = memory.free_bytes()
        assert memory.take(free_bytes)
        others_bytes += free_bytes
        if not place.ndjson_step():
            break
    answer = read_answer(request)
    assert (answer.status, answer.body["acknowledged"]) == (200, 1_500)
    memory.give(others_bytes)
    assert memory.bytes_taken == place.stream().engine.ledger.footprint_bytes


@pytest.mark.parametrize("line_bytes", [11, 600, 65_000, 70_000])
async def test_the_memory_of_lines_is_given_back_whatever_blocks_they_make(
    daemon: Make, line_bytes: int
) -> None:
    text = "[default]\nlinger_ms = 0\nshard_records_per_second = 100000\n[streams.s]"
    place = daemon(text=text)
    await turn()
    place.service.is_stalled = True
    long = b'{"data":"%b"}' % (b"x" * (line_bytes - 11))
    short = b'{"data":"","partition_key":"k"}'
    count = 1_000_000 // line_bytes // 2
    answer = await answered(place.lines("s", "accepted", *[short, long] * count))
    assert (answer.status, answer.body["acknowledged"]) == (200, 2 * count)
    assert place.streams.memory.bytes_taken == place.stream().engine.ledger.footprint_bytes


# Whatever is asked is answered, also where no line is left to take


ARN = "arn:aws:kinesis:eu-central-1:%s:stream/s"
LARGE = b'{"data":"%b"}' % (b"x" * 1_048_600)


@pytest.mark.parametrize("is_listed", [True, False])
@pytest.mark.parametrize("acknowledge", ["delivered", "accepted"])
@pytest.mark.parametrize("is_warm", [True, False])
async def test_lines_that_are_all_too_large_are_answered(
    daemon: Make, is_listed: bool, acknowledge: str, is_warm: bool
) -> None:
    place = daemon(text="[streams.s]" if is_listed else "")
    if is_warm:
        await answered(place.put_record())
    before = place.received()
    answer = await answered(place.lines("s", acknowledge, LARGE, LARGE), 500)
    assert answer.status == 400
    assert [each["line"] for each in answer.body["rejected"]] == [1, 2]
    assert place.received() == before + 2


@pytest.mark.parametrize("acknowledge", ["delivered", "accepted"])
@pytest.mark.parametrize("is_warm", [True, False])
async def test_a_line_that_is_too_large_is_told_beside_those_that_were_taken(
    daemon: Make, acknowledge: str, is_warm: bool
) -> None:
    place = daemon()
    if is_warm:
        await answered(place.put_record())
    small = b'{"data":"hi"}'
    answer = await answered(place.lines("s", acknowledge, small, LARGE, small), 500)
    assert (answer.status, answer.body["acknowledged"]) == (207, 2)
    assert [each["line"] for each in answer.body["rejected"]] == [2]


@pytest.mark.parametrize("way", ["PutRecord", "PutRecords"])
@pytest.mark.parametrize("is_listed", [True, False])
async def test_a_record_without_a_key_waits_to_hear_whether_its_stream_is_auto(
    daemon: Make, way: str, is_listed: bool
) -> None:
    service = FakeService()
    service.is_auto = True
    place = daemon(service, "[streams.s]" if is_listed else "")
    put = place.put_record if way == "PutRecord" else place.put_records
    answer = await answered(put("s", PartitionKey=None))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("text", ["", "[streams.s]"])
async def test_an_arn_that_may_be_anothers_waits_until_the_account_is_known(
    daemon: Make, text: str
) -> None:
    service = FakeService()
    service.arn_of = lambda target: target.arn or ARN % "111111111111"
    service.word.clear()
    place = daemon(service, text)
    by_name = place.put_record("s", Data="b3Vycw==")
    theirs = ARN % "222222222222"
    by_arn = place.put_record("s", StreamName=None, StreamARN=theirs, Data="dGhlaXJz")
    await turn()
    service.word.set()
    assert [(await answered(each)).status for each in (by_name, by_arn)] == [200, 200]
    sent = {target.arn: data for target, data in service.calls}
    assert sent == {None: [b"ours"], theirs: [b"theirs"]}


async def test_an_arn_that_was_there_before_its_name_stays_another_accounts(daemon: Make) -> None:
    service = FakeService()
    service.arn_of = lambda target: target.arn or ARN % "111111111111"
    place = daemon(service)
    theirs = ARN % "222222222222"
    by_arn = {"StreamName": None, "StreamARN": theirs, "Data": "dGhlaXJz"}
    assert (await answered(place.put_record("s", **by_arn))).status == 200
    assert (await answered(place.put_record("s", Data="b3Vycw=="))).status == 200
    assert (await answered(place.put_record("s", **by_arn))).status == 200
    assert [(target.arn, data) for target, data in service.calls] == [
        (theirs, [b"theirs"]),
        (None, [b"ours"]),
        (theirs, [b"theirs"]),
    ]


async def test_what_waits_for_word_goes_on_a_part_at_a_time(daemon: Make) -> None:
    service = FakeService()
    service.word.clear()
    place = daemon(service)
    waiting = [place.put_record(acknowledge="accepted") for _ in range(1_000)]
    place.stream().inquiry.hear(Word.FOUND)
    answers = [sum(each.answer is not None for each in waiting)]
    while answers[-1] < len(waiting):
        await asyncio.sleep(0)
        answers.append(sum(each.answer is not None for each in waiting))
        assert answers[-1] > answers[-2]
    assert max(b - a for a, b in pairwise(answers)) <= 64


async def test_the_wait_for_word_is_a_part_of_the_deadline(daemon: Make) -> None:
    service = FakeService()
    service.word.clear()
    place = daemon(service, "[default]\nordering = 'partition_key'")
    stream, start_ns = place.stream(), place.clock.ns
    frames: list[Frame] = []

    def submit(frame: Frame, is_patient: bool = False) -> bool:
        frames.append(frame)
        return True

    stream.submit = submit
    place.put_record(acknowledge="accepted")
    place.put_record(acknowledge="delivered")
    place.clock.ns += 1_500_000_000
    stream.inquiry.hear(Word.FOUND)
    assert [each.deadline_ns for each in frames] == [None, start_ns + stream.deadline_ns]


async def test_one_that_breaks_does_not_keep_the_others_from_going_on(daemon: Make) -> None:
    service = FakeService()
    service.word.clear()
    place = daemon(service)

    def broken() -> None:
        raise ValueError("a defect of ours")

    place.stream().inquiry.queue(broken)
    behind = place.put_record(acknowledge="accepted")
    place.stream().inquiry.hear(Word.FOUND)
    assert (await answered(behind)).status == 200


async def test_what_is_settled_leaves_no_cycle_behind(daemon: Make) -> None:
    place = daemon()
    session, _ = open_session(place.door)

    async def put_all() -> None:
        session.data_received(b'{"stream":"s","data":"a"}\n' * 3)
        for way in WAYS:
            assert (await answered(ask(place, way))).status == 200
        await turn(50)

    await put_all()
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(each, Frame) for each in gc.get_objects())
        await put_all()
        assert sum(isinstance(each, Frame) for each in gc.get_objects()) == before
    finally:
        gc.enable()
    session.connection_lost(None)

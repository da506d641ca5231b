"""What lines mean, over HTTP and for the sessions of the Unix socket, on a stream in memory."""

from typing import Any

import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.principal import ANYBODY
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.refused import Refused
from kdaemon.config import StreamConfig
from kdaemon.door.admission import Admission
from kdaemon.door.block import Block
from kdaemon.door.ndjson import NdjsonDoor
from kdaemon.wire.limits import PutLimits
from kdaemon.wire.lines_read import Lines
from tests.unit.door.fake_streams import (
    SHARD_FULL,
    THROUGHPUT,
    Answer,
    FakeStream,
    FakeStreams,
    door_over,
    make_request,
    read_answer,
)

AUTO = ServiceError("InvalidArgumentException", "The shards are the service's: no order here.")


class Place:
    """A gateway over one stream with this configuration."""

    def __init__(self, **config: Any) -> None:
        self.stream = FakeStream(StreamConfig(name="s", **config))
        self.door = door_over(FakeStreams(self.stream))
        self._http = NdjsonDoor(self.door)
        self.settled: list[Frame] = []

    def post(self, *lines: str, acknowledge: str | None = None) -> Any:
        headers = {} if acknowledge is None else {"X-Kdaemon-Acknowledge": acknowledge}
        request = make_request("/v1/streams/s/records", headers, "\n".join(lines).encode())
        self._http.handle(request)
        return request

    def submit(self, *keys: str, acknowledge: Acknowledge | None = None) -> Frame | Refused | None:
        """As a connection of lines does."""
        records = [Record(b"hi", key) for key in keys]
        sizes = [2 + len(key) for key in keys]
        block = Block(Lines(records, sizes, list(range(1, len(keys) + 1))))
        taken = self.door.admit(
            "s", block, acknowledge, self.settled.append, 1, ANYBODY, is_patient=True
        )
        return taken.frame if isinstance(taken, Admission) else taken


def line(key: str) -> str:
    return f'{{"data":"hi","partition_key":"{key}"}}'


def told(answer: Answer) -> tuple[int, int, dict[int, str]]:
    """Status, how many were acknowledged, the code of each rejected line."""
    rejected = {one["line"]: one["code"] for one in answer.body["rejected"]}
    return answer.status, answer.body["acknowledged"], rejected


# Partial room, over HTTP


@pytest.mark.parametrize("acknowledge", ["accepted", "none"])
def test_of_lines_that_do_not_wait_those_of_a_full_shard_are_rejected_at_once(
    acknowledge: str,
) -> None:
    place = Place()
    place.stream.full_keys = {"hot"}
    lines = [line("hot"), "not json", line("a"), line("hot"), line("b")]
    answer = read_answer(place.post(*lines, acknowledge=acknowledge))
    codes = {1: THROUGHPUT, 2: "SerializationException", 4: THROUGHPUT}
    assert told(answer) == (207, 2, codes)
    assert answer.body["rejected"][0]["message"] == SHARD_FULL.error_message
    assert place.stream.rejected == {"full": 2, "invalid": 1}


def test_of_lines_that_wait_such_are_told_when_the_others_have_settled() -> None:
    place = Place()
    place.stream.full_keys = {"hot"}
    request = place.post(line("hot"), line("a"))
    assert request.answer is None
    frame = place.stream.taken[0]
    frame.results[1] = RecordResult(sequence_number="1", shard_id="shardId-000000000000")
    assert frame.on_settled is not None
    frame.on_settled(frame)
    assert told(read_answer(request)) == (207, 1, {1: THROUGHPUT})


@pytest.mark.parametrize("acknowledge", ["accepted", "delivered"])
def test_lines_of_which_nothing_fits_are_refused_whole_and_to_be_sent_again(
    acknowledge: str,
) -> None:
    place = Place()
    place.stream.full_keys = {"hot"}
    answer = read_answer(place.post(line("hot"), line("hot"), acknowledge=acknowledge))
    assert (answer.status, answer.body["__type"]) == (503, THROUGHPUT)
    assert answer.headers["retry-after"] == "1"


def test_lines_that_fit_are_accepted_whole() -> None:
    place = Place(acknowledge="accepted")
    assert told(read_answer(place.post(line("a"), line("b")))) == (200, 2, {})


# Partial room, for a session


@pytest.mark.parametrize("acknowledge", [Acknowledge.ACCEPTED, Acknowledge.DELIVERED])
@pytest.mark.parametrize("when_full", ["block", "drop_oldest"])
def test_a_session_is_held_back_while_one_shard_is_full(
    when_full: str, acknowledge: Acknowledge
) -> None:
    place = Place(when_full=when_full)
    place.stream.full_keys = {"hot"}
    assert place.submit("a", "hot", acknowledge=acknowledge) is None
    assert place.stream.taken == []
    assert place.stream.counters.received == 0
    place.stream.full_keys = set()
    frame = place.submit("a", "hot", acknowledge=acknowledge)
    assert isinstance(frame, Frame)
    assert frame.results == [None, None]


def test_a_session_of_a_stream_that_rejects_hears_which_records_were_refused() -> None:
    place = Place(when_full="reject")
    place.stream.full_keys = {"hot"}
    frame = place.submit("a", "hot", acknowledge=Acknowledge.ACCEPTED)
    assert isinstance(frame, Frame)
    assert frame.results == [None, SHARD_FULL]


@pytest.mark.parametrize("is_memory_full", [True, False])
def test_a_session_of_a_stream_that_rejects_is_refused_what_does_not_fit_at_all(
    is_memory_full: bool,
) -> None:
    place = Place(when_full="reject")
    place.stream.is_memory_full = is_memory_full
    place.stream.full_keys = {"hot"}
    refused = place.submit("hot", "hot")
    assert isinstance(refused, Refused)
    assert (refused.code, refused.is_permanent) == (THROUGHPUT, False)
    assert place.stream.rejected == {"full": 2}


def test_a_session_is_held_back_while_memory_is_full() -> None:
    place = Place()
    place.stream.is_memory_full = True
    assert place.submit("a") is None
    assert place.stream.counters.received == 0


@pytest.mark.parametrize("when_full", ["block", "reject"])
def test_records_that_could_never_fit_are_refused_for_good(when_full: str) -> None:
    place = Place(when_full=when_full, buffer_bytes_max=1000)
    refused = place.submit("a")
    assert isinstance(refused, Refused)
    assert (refused.code, refused.is_permanent) == ("ValidationException", True)
    assert "buffer_bytes_max" in refused.message
    assert place.stream.rejected == {"full": 1}


# A stream that takes nothing


@pytest.mark.parametrize("acknowledge", [None, *Acknowledge])
def test_a_stream_that_is_unavailable_refuses_all_lines_and_says_why(
    acknowledge: Acknowledge | None,
) -> None:
    place = Place()
    place.stream.unavailable = AUTO
    asked = acknowledge.value if acknowledge else None
    answer = read_answer(place.post(line("a"), "not json", acknowledge=asked))
    assert answer.status == 400
    assert (answer.body["__type"], answer.body["message"]) == (AUTO.code, AUTO.message)
    refused = place.submit("a", "b", acknowledge=acknowledge)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.message) == (AUTO.code, AUTO.message)
    assert place.stream.rejected == {"unavailable": 3, "invalid": 1}
    assert place.stream.taken == place.stream.stored == []


# Order: one path for all records of a stream

CROSSINGS = [
    ("delivered", Acknowledge.STORED),
    ("accepted", Acknowledge.STORED),
    ("stored", Acknowledge.DELIVERED),
    ("stored", Acknowledge.ACCEPTED),
    ("stored", Acknowledge.NONE),
]


@pytest.mark.parametrize(("configured", "asked"), CROSSINGS)
def test_lines_that_ask_a_stream_with_order_for_the_other_path_are_refused(
    configured: str, asked: Acknowledge
) -> None:
    place = Place(acknowledge=configured, ordering="partition_key")
    answer = read_answer(place.post(line("a"), line("b"), acknowledge=asked.value))
    assert (answer.status, answer.body["__type"]) == (400, "InvalidArgumentException")
    assert 'ordering = "partition_key"' in answer.body["message"]
    refused = place.submit("a", acknowledge=asked)
    assert isinstance(refused, Refused)
    assert refused.message == answer.body["message"]
    assert place.stream.rejected == {"invalid": 3}
    assert place.stream.taken == place.stream.stored == []


@pytest.mark.parametrize(("configured", "asked"), CROSSINGS)
def test_a_connection_can_learn_before_its_first_record_that_it_would_be_refused(
    configured: str, asked: Acknowledge
) -> None:
    door = Place(acknowledge=configured, ordering="partition_key").door
    refused = door.limits_of("s", asked, ANYBODY)
    assert isinstance(refused, Refused)
    assert "keeps the order" in refused.message
    limits = door.limits_of("s", None, ANYBODY)
    assert isinstance(limits, PutLimits)
    assert Place(acknowledge=configured).door.limits_of("s", asked, ANYBODY) == limits


@pytest.mark.parametrize("configured", ["delivered", "stored", "accepted"])
def test_lines_that_ask_a_stream_with_order_for_nothing_in_particular_are_taken(
    configured: str,
) -> None:
    place = Place(acknowledge=configured, ordering="partition_key")
    place.post(line("a"))
    assert place.submit("a") is not None
    taken = place.stream.stored if configured == "stored" else place.stream.taken
    assert [frame.acknowledge.value for frame in taken] == [configured] * 2

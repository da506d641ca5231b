"""What the Kinesis API's requests mean, on a stream in memory: the same in JSON and in CBOR."""

from typing import Any

import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.base.record import RecordResult
from kdaemon.base.service import AWS
from kdaemon.config import StreamConfig
from kdaemon.door.kinesis import KinesisDoor, widest_limits
from tests.unit.door.fake_streams import (
    SHARD_FULL,
    THROUGHPUT,
    Answer,
    FakeStream,
    FakeStreams,
    api_request,
    door_over,
    read_answer,
)

HEADER = "X-Kdaemon-Acknowledge"
AUTO = ServiceError("InvalidArgumentException", "The shards are the service's: no order here.")


class Place:
    """A gateway over one stream with this configuration."""

    encoding = "json"

    def __init__(self, **config: Any) -> None:
        self.stream = FakeStream(StreamConfig(name="s", **config))
        self._door = KinesisDoor(door_over(FakeStreams(self.stream)), widest_limits([AWS]), 1)

    def send(self, operation: str, members: dict[str, Any], acknowledge: str | None) -> Any:
        request = api_request(operation, {"StreamName": "s", **members}, acknowledge, self.encoding)
        self._door.handle(request)
        return request

    def put_records(self, *keys: str, acknowledge: str | None = None) -> Any:
        records = [{"Data": "aGk=", "PartitionKey": key} for key in keys]
        return self.send("PutRecords", {"Records": records}, acknowledge)

    def put_record(self, key: str, acknowledge: str | None = None) -> Any:
        return self.send("PutRecord", {"Data": "aGk=", "PartitionKey": key}, acknowledge)


@pytest.fixture(params=["json", "cbor"], autouse=True)
def encoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Place, "encoding", request.param)


def codes(answer: Answer) -> list[str | None]:
    return [entry.get("ErrorCode") for entry in answer.body["Records"]]


# Partial room


@pytest.mark.parametrize("acknowledge", ["accepted", "none"])
def test_of_a_request_that_does_not_wait_the_records_of_a_full_shard_are_refused_at_once(
    acknowledge: str,
) -> None:
    place = Place()
    place.stream.full_keys = {"hot"}
    answer = read_answer(place.put_records("a", "hot", "b", "hot", acknowledge=acknowledge))
    assert answer.status == 200
    assert answer.headers[HEADER.lower()] == "accepted"
    assert codes(answer) == [None, THROUGHPUT, None, THROUGHPUT]
    assert answer.body["FailedRecordCount"] == 2
    assert answer.body["Records"][0]["SequenceNumber"] == "accepted"
    assert answer.body["Records"][1]["ErrorMessage"] == SHARD_FULL.error_message


def test_of_a_request_that_waits_such_records_are_told_when_the_others_have_settled() -> None:
    place = Place()
    place.stream.full_keys = {"hot"}
    request = place.put_records("a", "hot")
    assert request.answer is None
    frame = place.stream.taken[0]
    frame.results[0] = RecordResult(sequence_number="1", shard_id="shardId-000000000000")
    assert frame.on_settled is not None
    frame.on_settled(frame)
    assert codes(read_answer(request)) == [None, THROUGHPUT]


@pytest.mark.parametrize("acknowledge", ["accepted", "delivered"])
def test_a_request_of_which_nothing_fits_is_refused_whole(acknowledge: str) -> None:
    place = Place()
    place.stream.full_keys = {"hot"}
    answer = read_answer(place.put_records("hot", "hot", acknowledge=acknowledge))
    assert (answer.status, answer.body["__type"]) == (400, THROUGHPUT)
    assert HEADER.lower() not in answer.headers
    assert place.stream.rejected == {"full": 2}
    single = read_answer(place.put_record("hot", acknowledge=acknowledge))
    assert (single.status, single.body["__type"]) == (400, THROUGHPUT)


def test_a_request_that_fits_is_accepted_whole() -> None:
    place = Place(acknowledge="accepted")
    assert codes(read_answer(place.put_records("a", "b"))) == [None, None]
    assert read_answer(place.put_record("a")).body["SequenceNumber"] == "accepted"
    assert place.stream.rejected == {}


# A stream that takes nothing


@pytest.mark.parametrize("acknowledge", [None, "delivered", "stored", "accepted", "none"])
def test_a_stream_that_is_unavailable_refuses_every_request_and_says_why(
    acknowledge: str | None,
) -> None:
    place = Place()
    place.stream.unavailable = AUTO
    answers = [
        read_answer(place.put_records("a", "b", acknowledge=acknowledge)),
        read_answer(place.put_record("a", acknowledge=acknowledge)),
    ]
    for answer in answers:
        assert answer.status == 400
        assert answer.body == {"__type": AUTO.code, "message": AUTO.message}
    assert place.stream.rejected == {"unavailable": 3}
    assert place.stream.taken == place.stream.stored == []


def test_a_stream_that_is_available_again_takes_records() -> None:
    place = Place(acknowledge="accepted")
    place.stream.unavailable = AUTO
    assert read_answer(place.put_record("a")).status == 400
    place.stream.unavailable = None
    assert read_answer(place.put_record("a")).status == 200


# Order: one path for all records of a stream

CROSSINGS = [
    ("delivered", "stored"),
    ("accepted", "stored"),
    ("stored", "delivered"),
    ("stored", "accepted"),
    ("stored", "none"),
]


@pytest.mark.parametrize(("configured", "asked"), CROSSINGS)
def test_who_asks_a_stream_with_order_for_the_other_path_is_refused_with_the_remedy(
    configured: str, asked: str
) -> None:
    place = Place(acknowledge=configured, ordering="partition_key")
    answer = read_answer(place.put_records("a", "b", acknowledge=asked))
    assert (answer.status, answer.body["__type"]) == (400, "InvalidArgumentException")
    text = answer.body["message"]
    assert f'"{asked}" was asked for' in text
    assert 'ordering = "partition_key"' in text
    remedy = '"stored"' if asked == "stored" else '"delivered" or "accepted"'
    assert f"set acknowledge = {remedy}" in text
    assert place.stream.rejected == {"invalid": 2}
    assert place.stream.taken == place.stream.stored == []


@pytest.mark.parametrize(("configured", "asked"), CROSSINGS)
def test_a_stream_without_order_gives_each_request_the_promise_that_it_asks_for(
    configured: str, asked: str
) -> None:
    place = Place(acknowledge=configured)
    place.put_records("a", acknowledge=asked)
    assert [frame.acknowledge.value for frame in place.stream.taken + place.stream.stored] == [
        asked
    ]


@pytest.mark.parametrize(
    ("configured", "asked"),
    [
        ("delivered", "accepted"),
        ("accepted", "delivered"),
        ("delivered", "none"),
        ("stored", "stored"),
        ("stored", None),
        ("delivered", None),
    ],
)
def test_a_stream_with_order_takes_what_stays_on_its_path(
    configured: str, asked: str | None
) -> None:
    place = Place(acknowledge=configured, ordering="partition_key")
    place.put_records("a", acknowledge=asked)
    taken = place.stream.stored if configured == "stored" else place.stream.taken
    assert [frame.acknowledge.value for frame in taken] == [asked or configured]
    assert place.stream.rejected == {}


def test_an_acknowledgement_that_is_none_is_refused_and_counted() -> None:
    place = Place()
    answer = read_answer(place.put_record("a", acknowledge="soon"))
    assert (answer.status, answer.body["__type"]) == (400, "InvalidArgumentException")
    assert place.stream.rejected == {"invalid": 1}

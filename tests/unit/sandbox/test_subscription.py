"""SubscribeToShard as the pure service has it: positions, events, and how each kind ends."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import KIB
from kdaemon.base.record import Record
from kdaemon.sandbox.consumer import CREATING_NS
from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota
from kdaemon.sandbox.subscription import (
    EVENT_BYTES_MAX,
    EVENT_INTERVAL_NS,
    EVENT_RECORDS_MAX,
    LIFETIME_NS,
    TAKEOVER_NS,
    Subscription,
)
from tests.kit.depth import examples
from tests.unit.sandbox.calls import SECOND, WALL_OFFSET

ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
FIRST = "shardId-000000000000"
HALF = str(2**127)


class Reader:
    """A service with one stream and one consumer, and a hand on the clock."""

    def __init__(self) -> None:
        self.service = Service(wall_offset_ns=WALL_OFFSET)
        self.service.create_stream("orders", 1)
        self.service.create_stream("other", 1)
        self.now_ns = 0
        self.arn: str = self.call("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="mine")[
            "Consumer"
        ]["ConsumerARN"]
        self.now_ns = CREATING_NS

    def call(self, operation: str, **members: Any) -> Any:
        return self.service.handle(operation, members, self.now_ns)

    def put(self, *data: bytes, stream: str = "orders") -> list[str]:
        records = [Record(each, "k") for each in data]
        results = self.service.put_records(stream, records, self.now_ns)
        return [str(result.sequence_number) for result in results]

    def asked(self, kind: str = "TRIM_HORIZON", shard: str = FIRST, **position: Any) -> Any:
        start = {"Type": kind, **position}
        return {"ConsumerARN": self.arn, "ShardId": shard, "StartingPosition": start}

    def subscribe(self, kind: str = "TRIM_HORIZON", shard: str = FIRST, **position: Any) -> Any:
        """After the time in which a second call is refused."""
        self.now_ns += TAKEOVER_NS
        return self.service.subscribe(self.asked(kind, shard, **position), self.now_ns)

    def refused(self, payload: Any) -> str:
        with pytest.raises(ServiceError) as caught:
            self.service.subscribe(payload, self.now_ns)
        return caught.value.code

    def take(self, subscription: Subscription) -> Any:
        return subscription.take(self.now_ns)

    def read(self, subscription: Subscription) -> list[bytes]:
        """The data of all events that are there."""
        found: list[bytes] = []
        while (event := self.take(subscription)) is not None:
            found += [record["Data"] for record in event["Records"]]
        return found


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_a_first_event_comes_at_once_and_others_with_their_records(reader: Reader) -> None:
    subscription = reader.subscribe()
    event = reader.take(subscription)
    assert event["Records"] == []
    assert event["MillisBehindLatest"] == 0
    assert "ChildShards" not in event
    assert reader.take(subscription) is None
    (number,) = reader.put(b"a")
    event = reader.take(subscription)
    assert event == {
        "Records": [
            {
                "SequenceNumber": number,
                "ApproximateArrivalTimestamp": 1_700_000_005.5,
                "Data": b"a",
                "PartitionKey": "k",
            }
        ],
        "ContinuationSequenceNumber": number,
        "MillisBehindLatest": 0,
    }
    assert reader.take(subscription) is None


def test_a_quiet_shard_says_so_now_and_then(reader: Reader) -> None:
    subscription = reader.subscribe()
    reader.take(subscription)
    assert subscription.wakes_ns == reader.now_ns + EVENT_INTERVAL_NS
    reader.now_ns += EVENT_INTERVAL_NS
    assert reader.take(subscription)["Records"] == []
    assert reader.take(subscription) is None


def test_each_position_reads_what_it_says(reader: Reader) -> None:
    numbers = reader.put(b"a", b"b")
    reader.now_ns += 10 * SECOND
    numbers += reader.put(b"c")
    at_s = 1_700_000_000 + reader.now_ns / SECOND
    cases: list[tuple[Any, list[bytes]]] = [
        (("TRIM_HORIZON", {}), [b"a", b"b", b"c"]),
        (("AT_SEQUENCE_NUMBER", {"SequenceNumber": numbers[1]}), [b"b", b"c"]),
        (("AFTER_SEQUENCE_NUMBER", {"SequenceNumber": numbers[1]}), [b"c"]),
        (("AT_TIMESTAMP", {"Timestamp": at_s}), [b"c"]),
        (("AT_TIMESTAMP", {"Timestamp": at_s + 1}), []),
        (("LATEST", {}), []),
    ]
    for (kind, position), expected in cases:
        assert reader.read(reader.subscribe(kind, **position)) == expected, kind
    subscription = reader.subscribe("LATEST")
    reader.put(b"d")
    assert reader.read(subscription) == [b"d"]


def test_whatever_the_event_the_next_subscription_goes_on_where_it_ended(reader: Reader) -> None:
    reader.put(b"x" * 100, stream="other")
    data: list[bytes] = []
    position: dict[str, Any] = {"kind": "TRIM_HORIZON"}
    for round_ in range(6):
        subscription = reader.subscribe(**position)
        event = reader.take(subscription)
        data += [record["Data"] for record in event["Records"]]
        number = event["ContinuationSequenceNumber"]
        position = {"kind": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": number}
        reader.put(b"not ours", stream="other")
        if round_ % 2:
            reader.put(b"%d" % round_, b"+")
    assert data == [b"1", b"+", b"3", b"+"]


def test_an_empty_shard_goes_on_from_its_start(reader: Reader) -> None:
    for kind in ("TRIM_HORIZON", "LATEST"):
        event = reader.take(reader.subscribe(kind))
        number = event["ContinuationSequenceNumber"]
        for same in ("AFTER_SEQUENCE_NUMBER", "AT_SEQUENCE_NUMBER"):
            subscription = reader.subscribe(same, SequenceNumber=number)
            assert reader.read(subscription) == []


def test_an_event_is_bounded_and_says_how_far_behind_it_is(reader: Reader) -> None:
    reader.put(*[b"x" * 100 * KIB] * 5)
    reader.now_ns += SECOND
    reader.put(*[b"y"] * 400)
    reader.now_ns += SECOND
    reader.put(*[b"z"] * 500)
    subscription = reader.subscribe()
    sizes, behind = [], []
    while (event := reader.take(subscription)) is not None:
        sizes.append(len(event["Records"]))
        behind.append(event["MillisBehindLatest"])
        assert sum(len(record["Data"]) for record in event["Records"]) <= EVENT_BYTES_MAX
    assert sizes == [2, 2, 901]
    assert behind == [7000, 7000, 0]
    reader.now_ns += SECOND
    reader.put(*[b"w"] * 500)
    reader.now_ns += SECOND
    reader.put(*[b"v"] * 400)
    reader.put(*[b"v"] * 200)
    assert len(reader.take(subscription)["Records"]) == EVENT_RECORDS_MAX
    assert len(reader.take(subscription)["Records"]) == 100


def test_a_record_larger_than_an_event_is_one(reader: Reader) -> None:
    large = b"x" * 1000 * KIB
    reader.put(large)
    reader.now_ns += SECOND
    reader.put(b"small")
    subscription = reader.subscribe()
    assert [each["Data"] for each in reader.take(subscription)["Records"]] == [large]
    assert [each["Data"] for each in reader.take(subscription)["Records"]] == [b"small"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_end_of_a_closed_shard_names_its_children(reader: Reader, when: str) -> None:
    reader.put(b"a")
    subscription = reader.subscribe()
    if when == "after":
        assert reader.read(subscription) == [b"a"]
    told: list[str] = []
    subscription.on_change = lambda: told.append("changed")
    reader.call("SplitShard", StreamName="orders", ShardToSplit=FIRST, NewStartingHashKey=HALF)
    assert told
    event = reader.take(subscription)
    assert event["ContinuationSequenceNumber"] is None
    assert [record["Data"] for record in event["Records"]] == ([b"a"] if when == "before" else [])
    assert [(each["ShardId"][-1], each["ParentShards"]) for each in event["ChildShards"]] == [
        ("1", [FIRST]),
        ("2", [FIRST]),
    ]
    assert subscription.is_over
    assert reader.take(subscription) is None
    children = [reader.subscribe(shard=each["ShardId"]) for each in event["ChildShards"]]
    reader.put(b"b")
    assert [data for child in children for data in reader.read(child)] == [b"b"]


def test_a_subscription_lasts_five_minutes(reader: Reader) -> None:
    subscription = reader.subscribe()
    began_ns = reader.now_ns
    reader.take(subscription)
    reader.now_ns = began_ns + LIFETIME_NS - 1
    assert reader.take(subscription)["Records"] == []
    assert subscription.wakes_ns == began_ns + LIFETIME_NS
    reader.put(b"late")
    reader.now_ns += 1
    assert reader.take(subscription) is None
    assert subscription.is_over
    number = reader.take(reader.subscribe("LATEST"))["ContinuationSequenceNumber"]
    assert number


def test_a_second_call_is_refused_and_then_takes_over(reader: Reader) -> None:
    first = reader.subscribe()
    reader.take(first)
    reader.now_ns += TAKEOVER_NS - 1
    assert reader.refused(reader.asked()) == "ResourceInUseException"
    reader.now_ns += 1
    told: list[str] = []
    first.on_change = lambda: told.append("changed")
    second = reader.service.subscribe(reader.asked(), reader.now_ns)
    assert told
    failure = reader.take(first)
    assert isinstance(failure, ServiceError)
    assert failure.code == "ResourceInUseException"
    assert first.is_over
    assert reader.take(first) is None
    reader.put(b"a")
    assert reader.read(second) == [b"a"]


def test_a_call_that_is_refused_takes_nothing_over(reader: Reader) -> None:
    first = reader.subscribe()
    reader.now_ns += TAKEOVER_NS
    wrong = reader.asked("AT_TIMESTAMP")
    assert reader.refused(wrong) == "InvalidArgumentException"
    dry = {**reader.asked(), "DryRun": True}
    assert reader.refused(dry) == "DryRunOperationException"
    reader.put(b"a")
    assert reader.read(first) == [b"a"]


def test_another_consumer_and_another_shard_are_none_of_its_business(reader: Reader) -> None:
    reader.call("SplitShard", StreamName="orders", ShardToSplit=FIRST, NewStartingHashKey=HALF)
    other = reader.call("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="other")
    reader.now_ns += CREATING_NS
    for shard in (FIRST, "shardId-000000000001"):
        reader.service.subscribe(reader.asked(shard=shard), reader.now_ns)
    reader.arn = other["Consumer"]["ConsumerARN"]
    reader.service.subscribe(reader.asked(), reader.now_ns)


def test_a_consumer_that_is_not_active_yet_does_not_subscribe(reader: Reader) -> None:
    other = reader.call("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="other")
    reader.arn = other["Consumer"]["ConsumerARN"]
    assert reader.refused(reader.asked()) == "ResourceInUseException"


@pytest.mark.parametrize("by", ["DeregisterStreamConsumer", "DeleteStream"])
def test_who_reads_for_what_is_no_more_is_told(reader: Reader, by: str) -> None:
    subscription = reader.subscribe()
    if by == "DeleteStream":
        reader.call("DeleteStream", StreamName="orders", EnforceConsumerDeletion=True)
    else:
        reader.call("DeregisterStreamConsumer", ConsumerARN=reader.arn)
    failure = reader.take(subscription)
    assert isinstance(failure, ServiceError)
    assert failure.code == "ResourceNotFoundException"
    assert subscription.is_over
    assert reader.refused(reader.asked()) == "ResourceNotFoundException"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ConsumerARN": None}, "ValidationException"),
        ({"ConsumerARN": "arn"}, "ValidationException"),
        ({"ConsumerARN": f"{ARN}/consumer/none:1"}, "ResourceNotFoundException"),
        ({"ShardId": None}, "ValidationException"),
        ({"ShardId": "shardId-000000000009"}, "ResourceNotFoundException"),
        ({"StartingPosition": None}, "ValidationException"),
        ({"StartingPosition": "LATEST"}, "SerializationException"),
        ({"StartingPosition": {}}, "ValidationException"),
        ({"StartingPosition": {"Type": "SOMEWHERE"}}, "ValidationException"),
        ({"StartingPosition": {"Type": "AT_SEQUENCE_NUMBER"}}, "InvalidArgumentException"),
        (
            {"StartingPosition": {"Type": "AT_SEQUENCE_NUMBER", "SequenceNumber": "7"}},
            "InvalidArgumentException",
        ),
        (
            {"StartingPosition": {"Type": "AT_SEQUENCE_NUMBER", "SequenceNumber": "x"}},
            "ValidationException",
        ),
        (
            {"StartingPosition": {"Type": "LATEST", "SequenceNumber": "7"}},
            "InvalidArgumentException",
        ),
    ],
)
def test_what_is_out_of_order_is_refused(reader: Reader, change: dict[str, Any], code: str) -> None:
    assert reader.refused({**reader.asked(), **change}) == code


def test_a_fault_is_chosen_by_operation_and_stream(reader: Reader) -> None:
    for stream, code in (("other", None), ("orders", "AccessDeniedException")):
        fault = Fault(kind=FaultKind.ACCESS_DENIED, operation="SubscribeToShard", stream=stream)
        reader.service.add_faults(fault)
        found = reader.service.next_fault(
            "SubscribeToShard", reader.service.stream_in(reader.asked())
        )
        if code is None:
            assert found is None
            reader.service.clear_faults()
        else:
            with pytest.raises(ServiceError, match=code):
                reader.service.subscribe(reader.asked(), reader.now_ns, found)


def test_an_end_of_ours_is_no_failure(reader: Reader) -> None:
    subscription = reader.subscribe()
    subscription.end()
    subscription.end()
    assert reader.take(subscription) is None
    assert subscription.is_over


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 5)),
        st.tuples(st.sampled_from(["split", "merge", "other", "read", "renew", "wait"])),
    ),
    max_size=40,
)


class Follower:
    """Reads a stream as a library of consumers does: from shard to shard, renewing as it goes."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._open: dict[str, tuple[Subscription, str | None]] = {}
        self._closed: set[str] = set()
        self.data: list[bytes] = []
        self._begin(FIRST)

    def _begin(self, shard: str) -> None:
        if shard not in self._open and shard not in self._closed:
            self._open[shard] = (self._reader.subscribe(shard=shard), None)

    def read(self) -> None:
        """All that is there."""
        for shard in [*self._open]:
            subscription, number = self._open[shard]
            while (event := self._reader.take(subscription)) is not None:
                self.data += [record["Data"] for record in event["Records"]]
                number = event["ContinuationSequenceNumber"]
                if number is None:
                    del self._open[shard]
                    self._closed.add(shard)
                    for child in event["ChildShards"]:
                        if set(child["ParentShards"]) <= self._closed:
                            self._begin(child["ShardId"])
                    break
            if shard in self._open:
                self._open[shard] = (subscription, number)

    def renew(self) -> None:
        for shard, (_, number) in [*self._open.items()]:
            if number is None:
                found = self._reader.subscribe(shard=shard)
            else:
                after = {"SequenceNumber": number}
                found = self._reader.subscribe("AFTER_SEQUENCE_NUMBER", shard, **after)
            self._open[shard] = (found, number)


@settings(deadline=None, max_examples=examples(100))
@given(steps)
def test_whoever_follows_the_shards_reads_each_record_once(plan: list[tuple[Any, ...]]) -> None:
    reader = Reader()
    reader.service.set_quota(Quota(10**6, 10**9), reader.now_ns)
    follower, put = Follower(reader), list[bytes]()
    for step in plan:
        reader.now_ns += SECOND
        shards = reader.service.stream("orders").open_shards
        if step[0] == "put":
            records = [
                Record(b"%d" % (len(put) + index), f"k{index * 7919}") for index in range(step[1])
            ]
            put += [record.data for record in records]
            reader.service.put_records("orders", records, reader.now_ns)
        elif step[0] == "split" and len(shards) < 4:
            reader.service.split_shard("orders", shards[0].shard_id, reader.now_ns)
        elif step[0] == "merge" and len(shards) > 1:
            lower, upper = shards[0].shard_id, shards[1].shard_id
            asked = {"ShardToMerge": lower, "AdjacentShardToMerge": upper}
            reader.call("MergeShards", StreamName="orders", **asked)
        elif step[0] == "other":
            reader.put(b"not ours", stream="other")
        elif step[0] == "read":
            follower.read()
        elif step[0] == "renew":
            follower.renew()
        elif step[0] == "wait":
            reader.now_ns += EVENT_INTERVAL_NS
    for _ in range(len(plan) + 2):
        reader.now_ns += SECOND
        follower.read()
        follower.renew()
    assert sorted(follower.data) == sorted(put)

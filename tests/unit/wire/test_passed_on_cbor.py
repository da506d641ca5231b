"""What is passed on in CBOR means what it would in JSON, both ways, and is bounded alike."""

import base64
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.steps import Steps, at_once
from kdaemon.wire import cbor as our_cbor
from kdaemon.wire.passed_on import BODY_BYTES_MAX, read_asked
from kdaemon.wire.passed_on_cbor import STEP_BYTES, cbor_of, json_of
from kdaemon.wire.refusals import ApiError
from tests.kit.cbor import any_way, java, members_of, of_json

REQUESTS = [
    {},
    {"StreamName": "orders", "Limit": 10},
    {"ShardFilter": {"Type": "AT_TIMESTAMP", "Timestamp": 1_700_000_000.5}, "StreamName": "s"},
    {"StreamARN": "arn:aws:kinesis:eu-west-1:123456789012:stream/orders", "X": [1, [True, None]]},
]


@pytest.mark.parametrize("members", REQUESTS)
def test_a_body_means_the_same_in_json(members: dict[str, object]) -> None:
    bodies = [java(of_json(members))]
    bodies += [any_way(of_json(members), random.Random(seed)) for seed in range(20)]
    for body in bodies:
        assert json.loads(json_of(body)) == members
        asked = read_asked(json_of(body), is_stream_name_free=False)
        assert asked == read_asked(json.dumps(members).encode(), is_stream_name_free=False)


@pytest.mark.parametrize(
    "body",
    [
        java([("StreamName", "a"), ("StreamName", "b")]),
        java({"ShardFilter": [("Type", "a"), ("Type", "b")]}),
        java({"X": ([("a", 1), ("a", 2)],)}),
        java(("StreamName",)),
        java("StreamName"),
        b"\xff",
        b"\xbf\x61a",
        b"{}",
        b"\x81" * 5_000,
    ],
)
def test_what_says_nothing_certain_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        json_of(body)
    assert caught.value.refusal.code == "SerializationException"
    assert caught.value.record_count == 0


@pytest.mark.parametrize("body", [b"", b"\xbf" + b"x" * BODY_BYTES_MAX])
def test_what_is_empty_or_too_large_is_left_to_the_reader_of_json(body: bytes) -> None:
    assert json_of(body) is body
    with pytest.raises(ApiError):
        read_asked(json_of(body), is_stream_name_free=False)


RECORD = {
    "Data": base64.b64encode(b"\x00\xff data").decode(),
    "PartitionKey": "ключ",
    "SequenceNumber": "49600000000000000000000000000000000000000000000000000000",
    "ApproximateArrivalTimestamp": 1_700_000_000.125,
}
ANSWERS = [
    {},
    {"Shards": [], "NextToken": "AAA"},
    {"StreamDescription": {"Shards": [{"ShardId": "s"}], "StreamCreationTimestamp": 1_700_000_000}},
    {"Records": [RECORD, RECORD], "MillisBehindLatest": 0, "NextShardIterator": "i"},
    {"Records": [], "ChildShards": [{"HashKeyRange": {"StartingHashKey": "0"}}]},
    {"WarmThroughput": {"TargetMiBps": 1.5, "Data": "no data"}, "Flags": [True, None, -7, "a"]},
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_means_the_same_in_cbor(answer: dict[str, object]) -> None:
    written = at_once(cbor_of(json.dumps(answer).encode()))
    assert members_of(written) == answer


def test_data_are_bytes_and_moments_are_moments() -> None:
    written = at_once(cbor_of(json.dumps({"Records": [RECORD]}).encode()))
    (record,) = our_cbor.decode(written)["Records"]  # type: ignore[index]
    assert record["Data"] == b"\x00\xff data"
    assert b"\xc1\x1b" in written, "tag 1, and a number of eight bytes: milliseconds"


def test_a_large_answer_is_written_in_steps() -> None:
    answer = {"Shards": [{"ShardId": f"shardId-{number:012}"} for number in range(20_000)]}
    text = json.dumps(answer).encode()
    count = 0

    def counted() -> Steps[bytes]:
        nonlocal count
        steps = cbor_of(text)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                written: bytes = end.value
                return written
            count += 1
            yield

    assert members_of(at_once(counted())) == answer
    assert count >= len(text) // STEP_BYTES - 1 > 0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inside: st.lists(inside) | st.dictionaries(st.text(max_size=5), inside),
        max_leaves=20,
    )
)  # fmt: skip
def test_any_value_that_a_service_may_come_to_say_is_written(value: object) -> None:
    answer = {"Something": value, "List": [value]}
    assert members_of(at_once(cbor_of(json.dumps(answer).encode()))) == answer

"""What is read of a body that is passed on: bounded, one meaning, and the stream that it names."""

import json
import tracemalloc

import pytest

from kdaemon.wire.passed_on import BODY_BYTES_MAX, Asked, read_asked
from kdaemon.wire.refusals import ApiError

ARN = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"


def read(body: bytes, *, is_stream_name_free: bool = False) -> Asked:
    return read_asked(body, is_stream_name_free=is_stream_name_free)


def refusal(body: bytes, *, is_stream_name_free: bool = False) -> tuple[str, str]:
    with pytest.raises(ApiError) as caught:
        read(body, is_stream_name_free=is_stream_name_free)
    found = caught.value.refusal
    assert found.status == 400
    assert caught.value.record_count == 0, "no record was refused"
    assert found.message is not None
    assert len(found.message) < 5_000
    return found.code, found.message


@pytest.mark.parametrize(
    ("members", "spellings", "arn"),
    [
        ({}, (), None),
        ({"Limit": 3, "Unknown": [1, {"a": None}]}, (), None),
        ({"StreamName": "orders"}, ("orders",), None),
        ({"StreamARN": ARN}, (ARN,), ARN),
        ({"StreamName": "orders", "StreamARN": ARN}, ("orders", ARN), ARN),
        ({"StreamName": None, "StreamARN": ARN}, (ARN,), ARN),
        ({"ConsumerARN": f"{ARN}/consumer/app:1500000000"}, (ARN,), ARN),
        (
            {"ConsumerARN": f"{ARN}/consumer/a:1", "StreamARN": f"{ARN}2"},
            (f"{ARN}2", ARN),
            ARN + "2",
        ),
        ({"ResourceARN": ARN}, (ARN,), ARN),
        ({"ResourceARN": ARN.replace("stream/", "channel/")}, (), None),
        ({"ResourceARN": "nonsense"}, (), None),
        ({"StreamId": "x-1", "StreamName": "orders"}, ("orders",), None),
        ({"NextToken": "AAA"}, (), None),
    ],
)
def test_a_stream_is_named_in_one_of_several_ways(
    members: dict[str, object], spellings: tuple[str, ...], arn: str | None
) -> None:
    asked = read(json.dumps(members).encode())
    assert (asked.spellings, asked.arn) == (spellings, arn)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"StreamName":"a","Limit":1}', b'\n{ "Limit" : 1, "StreamName":"\\u0061" }'),
        (b'{"A":{"y":[1,2],"x":null}}', b'{"A":{"x":null,"y":[1, 2]}}'),
    ],
)
def test_bodies_that_mean_the_same_have_one_form(one: bytes, other: bytes) -> None:
    assert read(one).canonical == read(other).canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"Limit":1}', b'{"Limit":"1"}'),
        (b'{"Limit":1}', b'{"Limit":1.5}'),
        (b'{"Limit":true}', b'{"Limit":1}'),
        (b'{"A":[1,2]}', b'{"A":[2,1]}'),
        (b'{"StreamName":"a"}', b'{"StreamName":"A"}'),
        (b'{"A":null}', b"{}"),
    ],
)
def test_bodies_that_may_mean_another_thing_have_another(one: bytes, other: bytes) -> None:
    assert read(one).canonical != read(other).canonical


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"StreamName"',
        b"null",
        b"\xff{}",
        b'{"StreamName":"\xff"}',
        b'{"StreamName":7}',
        b'{"StreamARN":{}}',
        b'{"ConsumerARN":[]}',
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"[" * 60_000,
        b'{"a":NaN}',
        b'{"a":1}{"a":1}',
    ],
)
def test_what_is_no_object_of_the_right_types_cannot_be_read(body: bytes) -> None:
    code, message = refusal(body)
    assert code == "SerializationException"
    assert message


@pytest.mark.parametrize(
    "body",
    [
        b'{"StreamName":"a","StreamName":"b"}',
        b'{"StreamName":"a","\\u0053treamName":"a"}',
        b'{"ShardFilter":{"Type":"AT_LATEST","Type":"AT_TRIM_HORIZON"}}',
        b'{"a":[{"b":1,"b":2}]}',
    ],
)
def test_a_member_that_is_there_twice_is_refused_wherever_it_stands(body: bytes) -> None:
    code, message = refusal(body)
    assert code == "SerializationException"
    assert "twice" in message


def test_a_body_is_bounded_before_it_is_read() -> None:
    rest = len(b'{"NextToken":""}')
    largest = b'{"NextToken":"%b"}' % (b"x" * (BODY_BYTES_MAX - rest))
    assert len(largest) == BODY_BYTES_MAX
    assert read(largest).spellings == ()
    tracemalloc.start()
    code, message = refusal(b'{"a":' * 3_000_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert code == "SerializationException"
    assert str(BODY_BYTES_MAX) in message
    assert peak_bytes < 16 * 1024 * 1024 + 100_000, "the body itself, and nothing of it"


@pytest.mark.parametrize(
    "members",
    [
        {"StreamName": ""},
        {"StreamName": "a b"},
        {"StreamName": "x" * 129},
        {"StreamName": "x" * 60_000},
        {"StreamARN": "arn:aws" + ":kinesis:" * 6_000},
        {"StreamARN": "orders"},
        {"StreamARN": ARN.replace("arn:aws:", "arn:aws-cn:")},
    ],
)
def test_a_name_that_no_stream_has_is_refused_in_the_service_s_words(
    members: dict[str, object],
) -> None:
    code, message = refusal(json.dumps(members).encode())
    assert code == "ValidationException"
    assert message.startswith(("1 validation error", "2 validation errors"))


def test_at_yandex_a_name_is_a_path() -> None:
    body = b'{"StreamName":"/ru-central1/b1g/etn/orders"}'
    assert read(body, is_stream_name_free=True).spellings == ("/ru-central1/b1g/etn/orders",)
    assert refusal(body)[0] == "ValidationException"


@pytest.mark.parametrize("length", [2_049, 60_000])
def test_an_arn_that_is_too_long_leads_nowhere(length: int) -> None:
    asked = read(json.dumps({"ResourceARN": ARN + "x" * length}).encode())
    assert asked.arn is None

"""What a producer is refused, and that nothing of it stays behind. Runs through `put_url`."""

import json
from typing import Any

import pytest

from tests.kit.endpoints import Endpoint, entry

MIB = 1024 * 1024
GOOD = entry(b"good", "k")

VALIDATION = (400, "ValidationException")
SERIALIZATION = (400, "SerializationException")
ARGUMENT = (400, "InvalidArgumentException")

# name -> (members of PutRecords beside StreamName, the answer)
BAD: dict[str, tuple[dict[str, Any], tuple[int, str]]] = {
    "no records": ({"Records": []}, VALIDATION),
    "records missing": ({}, VALIDATION),
    "records null": ({"Records": None}, VALIDATION),
    "501 records": ({"Records": [GOOD] * 501}, VALIDATION),
    "empty key": ({"Records": [GOOD, entry(b"x", "")]}, VALIDATION),
    "key of 257": ({"Records": [GOOD, entry(b"x", "k" * 257)]}, VALIDATION),
    "key missing": ({"Records": [GOOD, {"Data": "eA=="}]}, VALIDATION),
    "data missing": ({"Records": [GOOD, {"PartitionKey": "k"}]}, VALIDATION),
    "data over 1 MiB": ({"Records": [GOOD, entry(b"x" * (MIB + 1), "k")]}, VALIDATION),
    "data and key over 1 MiB": ({"Records": [GOOD, entry(b"x" * MIB, "k")]}, VALIDATION),
    "hash key no number": ({"Records": [GOOD, entry(b"x", "k", "x1")]}, VALIDATION),
    "hash key negative": ({"Records": [GOOD, entry(b"x", "k", "-1")]}, VALIDATION),
    "hash key leading zero": ({"Records": [GOOD, entry(b"x", "k", "01")]}, VALIDATION),
    "hash key 2**128": ({"Records": [GOOD, entry(b"x", "k", str(2**128))]}, ARGUMENT),
    "hash key a number": ({"Records": [{**GOOD, "ExplicitHashKey": 1}]}, SERIALIZATION),
    "data a number": ({"Records": [{**GOOD, "Data": 1}]}, SERIALIZATION),
    "data not base64": ({"Records": [GOOD, {**GOOD, "Data": "a#b="}]}, SERIALIZATION),
    "data base64 cut": ({"Records": [GOOD, {**GOOD, "Data": "abc"}]}, SERIALIZATION),
    "records a map": ({"Records": {}}, SERIALIZATION),
    "record a string": ({"Records": ["x"]}, SERIALIZATION),
    "over 10 MiB": ({"Records": [entry(b"x" * MIB, "k")] * 11}, ARGUMENT),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused(endpoint: Endpoint, stream: str, case: str) -> None:
    members, expected = BAD[case]
    answer = endpoint.put("PutRecords", StreamName=stream, **members)
    assert answer.refusal == expected, answer.body[:300]


def test_a_refused_request_leaves_nothing_behind(endpoint: Endpoint, stream: str) -> None:
    for case in ("empty key", "key of 257", "hash key 2**128", "data over 1 MiB"):
        assert endpoint.put("PutRecords", StreamName=stream, **BAD[case][0]).status == 400
    assert endpoint.read_stream(stream) == []


def test_put_record_is_held_to_the_same_limits(endpoint: Endpoint, stream: str) -> None:
    for bad, expected in (
        (entry(b"x", ""), VALIDATION),
        (entry(b"x", "k" * 257), VALIDATION),
        (entry(b"x" * (MIB + 1), "k"), VALIDATION),
        (entry(b"x", "k", str(2**128)), ARGUMENT),
    ):
        answer = endpoint.put("PutRecord", StreamName=stream, **bad)
        assert answer.refusal == expected, answer.body[:300]


def test_an_unknown_stream_is_not_found(endpoint: Endpoint) -> None:
    for members in ({"Records": [GOOD]}, GOOD):
        operation = "PutRecords" if "Records" in members else "PutRecord"
        answer = endpoint.put(operation, StreamName="no-such-stream", **members)
        assert answer.refusal == (400, "ResourceNotFoundException")
        assert "no-such-stream" in answer.members["message"]


@pytest.mark.parametrize("case", ["wrong characters", "empty", "too long"])
def test_a_bad_stream_name_is_refused(endpoint: Endpoint, case: str) -> None:
    name = {"wrong characters": "no/such name", "empty": "", "too long": "n" * 129}[case]
    answer = endpoint.put("PutRecords", StreamName=name, Records=[GOOD])
    assert answer.refusal == VALIDATION


def test_no_stream_is_refused(endpoint: Endpoint) -> None:
    assert endpoint.put("PutRecords", Records=[GOOD]).refusal == VALIDATION


@pytest.mark.parametrize("case", ["cut off", "empty", "null"])
def test_a_body_that_is_no_json_object_is_refused(endpoint: Endpoint, case: str) -> None:
    body = {"cut off": b"{", "empty": b"", "null": b"null"}[case]
    assert endpoint.put_raw("PutRecords", body).refusal == SERIALIZATION


def test_an_unknown_operation_is_refused(endpoint: Endpoint) -> None:
    body = json.dumps({"StreamName": "x", "Records": [GOOD]}).encode()
    answer = endpoint.put_raw("PutRecordz", body)
    assert answer.refusal == (400, "UnknownOperationException")


def test_a_wrong_content_type_is_no_operation(endpoint: Endpoint) -> None:
    body = json.dumps({"StreamName": "x", "Records": [GOOD]}).encode()
    for content_type in ("text/plain", "application/x-amz-json-1.0"):
        answer = endpoint.put_raw("PutRecords", body, content_type=content_type)
        assert answer.status == 404


def test_a_request_without_authorization_is_answered(endpoint: Endpoint, stream: str) -> None:
    body = json.dumps({"StreamName": stream, "Records": [GOOD]}).encode()
    answer = endpoint.put_raw("PutRecords", body, authorization=None, x_amz_date=None)
    assert answer.status == 200

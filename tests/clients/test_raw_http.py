"""Clients that are no SDK: unsigned requests, pipelines, NDJSON over HTTP."""

import base64
import json
from pathlib import Path

import pytest

from tests.kit.daemon import Daemon, running
from tests.kit.endpoints import Endpoint, data_of, entry
from tests.kit.patience import wait_for
from tests.kit.sockets import read_answers

PIPELINED = 200


def request(target: str, body: bytes, *headers: str) -> bytes:
    """One POST to the Kinesis API, unsigned."""
    head = [
        "POST / HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/x-amz-json-1.1",
        f"X-Amz-Target: Kinesis_20131202.{target}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def test_pipelined_answers_come_in_the_order_of_their_requests(
    daemon: Daemon, endpoint: Endpoint, stream: str
) -> None:
    """Good ones and bad ones: a refusal is ready at once, and waits for its turn."""
    requests = []
    for number in range(PIPELINED):
        key = "" if number % 10 == 3 else f"key-{number}"
        record = entry(b"%d" % number, key)
        requests.append(request("PutRecord", json.dumps({"StreamName": stream, **record}).encode()))
    with daemon.connect() as client:
        client.sendall(b"".join(requests))
        answers = read_answers(client, PIPELINED)
    stored = {r["SequenceNumber"]: int(data_of(r)) for r in endpoint.read_stream(stream)}
    assert len(stored) == PIPELINED - PIPELINED // 10
    for number, (status, body) in enumerate(answers):
        members = json.loads(body)
        if number % 10 == 3:
            assert (status, members["__type"]) == (400, "ValidationException")
        else:
            assert (status, stored[str(members["SequenceNumber"])]) == (200, number)


def test_the_unix_socket_takes_the_same_requests(
    daemon: Daemon, endpoint: Endpoint, stream: str
) -> None:
    body = json.dumps({"StreamName": stream, "Records": [entry(b"x", "k")]}).encode()
    with daemon.connect("unix") as client:
        client.sendall(request("PutRecords", body))
        ((status, body),) = read_answers(client, 1)
        members = json.loads(body)
    assert (status, members["FailedRecordCount"]) == (200, 0)
    assert len(endpoint.read_stream(stream)) == 1


def test_a_chunked_body_after_100_continue_is_taken(
    daemon: Daemon, endpoint: Endpoint, stream: str
) -> None:
    body = json.dumps({"StreamName": stream, "Records": [entry(b"x" * 1000, "k")]}).encode()
    head = request("PutRecords", b"", "Expect: 100-continue", "Transfer-Encoding: chunked")
    head = head.replace(b"Content-Length: 0\r\n", b"")
    with daemon.connect() as client:
        client.sendall(head)
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        for start in range(0, len(body), 100):
            piece = body[start : start + 100]
            client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.sendall(b"0\r\n\r\n")
        ((status, body),) = read_answers(client, 1)
        members = json.loads(body)
    assert (status, members["FailedRecordCount"]) == (200, 0)
    assert len(endpoint.read_stream(stream)) == 1


def test_accepted_says_so_and_invents_no_sequence_number(
    endpoint: Endpoint, daemon: Daemon, stream: str
) -> None:
    body = json.dumps({"StreamName": stream, "Records": [entry(b"x", "k")]}).encode()
    answer = endpoint.put_raw("PutRecords", body, x_kdaemon_acknowledge="accepted")
    assert answer.status == 200
    assert answer.headers["x-kdaemon-acknowledge"] == "accepted"
    assert not answer.members["Records"][0]["SequenceNumber"].isdigit()
    daemon.wait_settled()
    assert len(endpoint.read_stream(stream)) == 1


def test_delivered_is_the_default_and_is_said(endpoint: Endpoint, stream: str) -> None:
    body = json.dumps({"StreamName": stream, "Records": [entry(b"x", "k")]}).encode()
    for headers in ({}, {"x_kdaemon_acknowledge": "delivered"}):
        answer = endpoint.put_raw("PutRecords", body, **headers)
        assert answer.headers["x-kdaemon-acknowledge"] == "delivered"
        assert answer.members["Records"][0]["SequenceNumber"].isdigit()


def test_a_word_that_is_no_acknowledgement_is_refused(endpoint: Endpoint, stream: str) -> None:
    body = json.dumps({"StreamName": stream, "Records": [entry(b"x", "k")]}).encode()
    answer = endpoint.put_raw("PutRecords", body, x_kdaemon_acknowledge="surely")
    assert answer.refusal == (400, "InvalidArgumentException")
    assert endpoint.read_stream(stream) == []


# NDJSON over HTTP


def test_good_lines_are_taken_and_bad_ones_named(
    daemon: Daemon, endpoint: Endpoint, stream: str
) -> None:
    lines = [
        b'{"partition_key": "k", "data": "one"}',
        b"",
        b"nonsense",
        b'{"partition_key": "", "data": "no key"}',
        b'{"data_base64": "%b"}' % base64.b64encode(b"\xff\x00"),
        b'{"partition_key": "k", "explicit_hash_key": "0", "data": "last, no newline"}',
    ]
    said = Endpoint.of(daemon).put_lines(stream, b"\n".join(lines))
    assert said.status == 207
    assert said.members["acknowledged"] == 3
    rejected = said.members["rejected"]
    assert isinstance(rejected, list)
    assert [each["line"] for each in rejected] == [3, 4]
    assert all(each["code"] and each["message"] for each in rejected)
    stored = sorted(data_of(record) for record in endpoint.read_stream(stream))
    assert stored == sorted([b"one", b"\xff\x00", b"last, no newline"])


def test_lines_of_an_unknown_stream_are_refused(daemon: Daemon) -> None:
    said = Endpoint.of(daemon).put_lines("no-such-stream", b'{"data": "x"}\n')
    assert said.status == 404
    assert said.members["__type"] == "ResourceNotFoundException"


def test_lines_may_be_accepted_only(daemon: Daemon, endpoint: Endpoint, stream: str) -> None:
    line = b'{"partition_key": "k", "data": "x"}\n'
    said = Endpoint.of(daemon).put_lines(stream, line * 10, x_kdaemon_acknowledge="accepted")
    assert (said.status, said.members["acknowledged"]) == (200, 10)
    daemon.wait_settled()
    assert len(endpoint.read_stream(stream)) == 10


def test_lines_without_a_key_go_to_all_shards_that_have_room(tmp_path: Path) -> None:
    """No shard has room for all of them; who has most of it left comes first."""
    with running(tmp_path, {"default.shard_records_per_second": 150}) as daemon:
        endpoint = Endpoint.of(daemon)
        endpoint.put_all("demo", [entry(b"first", "k")])
        shards = endpoint.shards("demo")
        wait_for(
            lambda: daemon.counted("kdaemon_shards", stream="demo") == len(shards) > 1 or None,
            "the map to be known",
        )
        said = Endpoint.of(daemon).put_lines("demo", b'{"data": "x"}\n' * 400)
        assert (said.status, said.members["acknowledged"]) == (200, 400)
        counts = [len(endpoint.read_shard("demo", shard["ShardId"])) for shard in shards]
        assert sum(counts) == 401
        assert min(counts) > 1, counts


# What agents ask before they write, as they write it


@pytest.mark.parametrize(
    ("target", "members", "headers", "found"),
    [
        pytest.param(
            "DescribeStreamSummary",
            {},
            (
                "User-Agent: aws-sdk-go-v2/1.41.0 ua/2.1 os/linux lang/go#1.25 api/kinesis#1.42.9",
                "Accept-Encoding: identity",
                "Amz-Sdk-Invocation-Id: 4d7a3f0c-2f7c-4a51-8a3c-0b4d3c1e2f10",
                "Amz-Sdk-Request: attempt=1; max=3",
                "X-Amz-Date: 20261128T000000Z",
            ),
            "StreamDescriptionSummary",
            id="Telegraf",
        ),
        pytest.param(
            "ListShards",
            {"ShardFilter": {"Type": "AT_LATEST"}},
            ("Accept: */*", "Expect: 100-continue"),
            "Shards",
            id="KPL",
        ),
    ],
)
def test_what_agents_ask_before_they_write_is_answered(
    daemon: Daemon,
    endpoint: Endpoint,
    stream: str,
    target: str,
    members: dict[str, object],
    headers: tuple[str, ...],
    found: str,
) -> None:
    body = json.dumps({**members, "StreamName": stream}).encode()
    with daemon.connect() as client:
        sent = request(target, body, *headers)
        client.sendall(sent[: -len(body)])
        if "Expect: 100-continue" in headers:
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        ((status, said),) = read_answers(client, 1)
    assert status == 200
    answer = json.loads(said)
    assert answer == endpoint.answer(target, **members, StreamName=stream)
    assert answer[found]

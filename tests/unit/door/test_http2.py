"""The same requests over HTTP/1.1 and HTTP/2 at the record door: the same status, body and headers.

A differential test: what the door answers is told elsewhere; here it must only be one thing.
"""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from kdaemon.base.service import AWS
from kdaemon.config import StreamConfig
from kdaemon.door.kinesis import KinesisDoor, widest_limits
from kdaemon.door.ndjson import NdjsonDoor
from kdaemon.door.routes import make_handler
from kdaemon.http.connection import HttpProtocol
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.origin import Gate
from kdaemon.http.request import HttpRequest
from tests.kit.doors import DELIVERED, attached
from tests.unit.door.fake_streams import FakeStream, FakeStreams, door_over
from tests.unit.http.http2_harness import TURNS, Http2Harness, fields

LIMITS = ConnectionLimits(body_bytes_max=1024 * 1024, head_bytes_max=4096, headers_max=30)
TARGET = "X-Amz-Target"
JSON = {"Content-Type": "application/x-amz-json-1.1"}
LINES = "/v1/streams/s/records"

Headers = dict[str, str]
Told = tuple[int, bytes, dict[str, str]]


def record(key: str = "k", data: str = "aGk=") -> dict[str, str]:
    return {"Data": data, "PartitionKey": key}


def put(operation: str, **members: Any) -> tuple[str, str, Headers, bytes]:
    headers = {**JSON, TARGET: f"Kinesis_20131202.{operation}"}
    return "POST", "/", headers, json.dumps({"StreamName": "s", **members}).encode()


def lines(*texts: str, **headers: str) -> tuple[str, str, Headers, bytes]:
    return "POST", LINES, headers, "\n".join(texts).encode()


REQUESTS: dict[str, tuple[str, str, Headers, bytes]] = {
    "PutRecord": put("PutRecord", **record()),
    "PutRecords": put("PutRecords", Records=[record(str(n)) for n in range(500)]),
    "PutRecords, accepted": (
        "POST",
        "/",
        {**JSON, TARGET: "Kinesis_20131202.PutRecords", "X-Kdaemon-Acknowledge": "accepted"},
        json.dumps({"StreamName": "s", "Records": [record()]}).encode(),
    ),
    "a full shard": put("PutRecords", Records=[record("full"), record("a")]),
    "all shards full": put("PutRecords", Records=[record("full")]),
    "no records": put("PutRecords", Records=[]),
    "501 records": put("PutRecords", Records=[record()] * 501),
    "a long key": put("PutRecord", **record("k" * 257)),
    "an unknown stream": (
        "POST",
        "/",
        {**JSON, TARGET: "Kinesis_20131202.PutRecord"},
        json.dumps({"StreamName": "unknown", **record()}).encode(),
    ),
    "another operation": put("DescribeStream"),
    "no target": ("POST", "/", JSON, b"{}"),
    "no JSON": ("POST", "/", {**JSON, TARGET: "Kinesis_20131202.PutRecord"}, b"{"),
    "no body": ("POST", "/", {**JSON, TARGET: "Kinesis_20131202.PutRecord"}, b""),
    "a word that is no acknowledgement": (
        "POST",
        "/",
        {**JSON, TARGET: "Kinesis_20131202.PutRecord", "X-Kdaemon-Acknowledge": "perhaps"},
        json.dumps({"StreamName": "s", **record()}).encode(),
    ),
    "CBOR": ("POST", "/", {"Content-Type": "application/x-amz-cbor-1.1"}, b"\xbf\xff"),
    "lines": lines('{"data":"a"}', '{"data":"b","partition_key":"k"}'),
    "lines that cannot be read": lines("{", '{"data":"b"}'),
    "many lines": lines(*['{"data":"' + "x" * 100 + '"}'] * 5000),
    "lines that are compressed": lines('{"data":"a"}', **{"Content-Encoding": "gzip"}),
    "lines of identity": lines('{"data":"a"}', **{"Content-Encoding": "identity"}),
    "lines without a line": ("POST", LINES, {}, b""),
    "another path": ("POST", "/v1/nowhere", {}, b"x"),
    "GET": ("GET", LINES, {}, b""),
    "GET of the root": ("GET", "/", {}, b""),
    "HEAD": ("HEAD", LINES, {}, b""),
    "a query": ("POST", LINES + "?x=y", {}, b'{"data":"a"}'),
    "a page of another site": ("POST", LINES, {"Origin": "http://evil.example"}, b'{"data":"a"}'),
    "a page, as its browser says": ("POST", LINES, {"Sec-Fetch-Site": "cross-site"}, b"{}"),
    "a page of this port": ("POST", LINES, {"Origin": "http://localhost"}, b'{"data":"a"}'),
    "a page that names its type": (
        "POST",
        LINES,
        {"Origin": "http://localhost", "Content-Type": "application/json"},
        b'{"data":"a"}',
    ),
    "another host": ("POST", LINES, {"Host": "evil.example"}, b'{"data":"a"}'),
    "a host with a port": ("POST", LINES, {"Host": "127.0.0.1:8990"}, b'{"data":"a"}'),
    "a host that is none": ("POST", LINES, {"Host": "a/b"}, b'{"data":"a"}'),
    "a body that is too large": ("POST", LINES, {}, bytes(1024 * 1024 + 1)),
    "a head that is too large": ("POST", LINES, {"X": "y" * 5000}, b""),
    "too many headers": ("POST", LINES, {f"X{n}": "y" for n in range(40)}, b""),
    "an expectation": ("POST", LINES, {"Expect": "else"}, b""),
    "a method that is rare": ("PROPFIND", LINES, {}, b""),
}


class Place:
    """One door over one stream in memory, each of whose records is delivered at once."""

    def __init__(self) -> None:
        self.stream = FakeStream(StreamConfig(name="s"))
        self.stream.full_keys = {"full"}
        door = door_over(FakeStreams(self.stream))
        self._handle = make_handler(KinesisDoor(door, widest_limits([AWS]), 1), NdjsonDoor(door))
        self.hub = Hub(LIMITS, gate=Gate())
        self.requests: list[HttpRequest] = []

    def handle(self, request: HttpRequest) -> None:
        self.requests.append(request)
        self._handle(request)

    async def settle_all(self, is_answered: Callable[[], bool]) -> None:
        settled = 0
        for _ in range(1000):
            if all(request.answer is not None for request in self.requests) and is_answered():
                return
            owed = [] if all(each.answer for each in self.requests) else self.stream.taken
            for frame in owed[settled:]:
                settled += 1
                frame.results = [result or DELIVERED for result in frame.results]
                if frame.on_settled is not None:
                    frame.on_settled(frame)
            await asyncio.sleep(0)


async def by_http_1_1(method: str, path: str, headers: Headers, body: bytes) -> tuple[Told, Place]:
    place = Place()
    protocol = HttpProtocol(place.handle, hub=place.hub)
    transport = attached(protocol)
    given = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    protocol.data_received(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    await place.settle_all(lambda: bool(transport.written))
    told, _, answer = transport.take().partition(b"\r\n\r\n")
    status, *found = told.decode().split("\r\n")
    pairs = [line.split(": ", 1) for line in found]
    protocol.connection_lost(None)
    await place.hub.aclose(0)
    return (
        int(status.split()[1]),
        answer,
        {name.lower(): value for name, value in pairs if name != "Connection"},
    ), place


async def by_http_2(method: str, path: str, headers: Headers, body: bytes) -> tuple[Told, Place]:
    place = Place()
    one = Http2Harness(hub=place.hub)
    one.on_request = place.handle
    given = {"content-length": str(len(body)), **headers}
    host = given.pop("Host", "localhost")
    asked = fields(method.encode(), path.encode())
    asked[2] = (b":authority", host.encode())
    asked += [(name.lower().encode(), value.encode()) for name, value in given.items()]
    await one.send()
    stream = one.begin(asked, ends=not body)
    at = 0
    while at < len(body):
        if stream in one.answers and one.answers[stream].status:
            break  # it is refused
        piece = body[at : at + 16 * 1024]
        at += len(piece)
        one.client.send_data(stream, piece, end_stream=at == len(body))
        await one.send()
    await one.send()
    for _ in range(50):
        if stream in one.answers and one.answers[stream].status:
            break
        await place.settle_all(lambda: bool(one.transport.written))
        await one.receive()
    answer = one.answers[stream]
    for _ in range(TURNS):
        if answer.is_whole:
            break
        await one.send()
    one.lose()
    await place.hub.aclose(0)
    found = {name.decode(): value.decode() for name, value in answer.fields.items()}
    return (int(found.pop(":status")), answer.body, found), place


def comparable(told: Told) -> Told:
    """Without what differs from request to request, or names the protocol."""
    status, body, headers = told
    text = body.replace(b"HTTP/1.1", b"HTTP").replace(b"HTTP/2", b"HTTP")
    kept = {name: value for name, value in headers.items() if name != "content-length"}
    for name in ("x-amzn-requestid", "x-amz-id-2"):
        if name in kept:
            kept[name] = re.sub("[0-9a-f]+", "#", kept[name])
    return status, text, kept


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_protocols_say_the_same(name: str) -> None:
    first, one = await by_http_1_1(*REQUESTS[name])
    second, other = await by_http_2(*REQUESTS[name])
    assert comparable(first) == comparable(second)
    assert one.stream.rejected == other.stream.rejected
    taken = [[frame.records for frame in place.stream.taken] for place in (one, other)]
    assert taken[0] == taken[1]
    for ours, theirs in zip(one.requests, other.requests, strict=True):
        assert (ours.method, ours.path, ours.query) == (theirs.method, theirs.path, theirs.query)
    refused = [place.hub.counters.refused for place in (one, other)]
    assert refused[0] == refused[1]


def test_the_requests_are_of_many_kinds() -> None:
    """A differential test says nothing where all is refused for one reason."""

    async def main() -> set[int]:
        return {(await by_http_2(*request))[0][0] for request in REQUESTS.values()}

    assert asyncio.run(main()) >= {200, 400, 403, 404, 413, 415, 417, 431}

"""A daemon's doors over a service in memory that has streams of every account.

A call by name reaches the stream of the credentials' account, a call by ARN that of the ARN's.
"""

import base64
import json
from typing import Any
from urllib.parse import quote

from kdaemon.base.names import parse_arn
from kdaemon.streams import Stream
from tests.kit.clock import HandClock
from tests.kit.doors import Doors, FakeTransport
from tests.kit.streams import FakeService, make_streams, turn

OURS, OTHERS, THIRD = "111111111111", "222222222222", "333333333333"
REGION = "region = 'eu-central-1'\n"
WAYS = ["PutRecord", "PutRecords", "lines", "session"]


def arn(account: str, name: str = "s") -> str:
    return f"arn:aws:kinesis:eu-central-1:{account}:stream/{name}"


class Place(Doors):
    """A daemon's doors; `ours`: the account of its credentials, whoever knows that."""

    def __init__(self, text: str, service: FakeService, ours: str = OURS) -> None:
        self.service, self.ours = service, ours
        self.clock = HandClock()
        super().__init__(make_streams(service, REGION + text, clock=self.clock), self.clock)
        self.clients: list[FakeTransport] = []

    def connect(self, way: str) -> FakeTransport:
        self.clients.append(self.session() if way == "session" else self.http())
        return self.clients[-1]

    def put(self, way: str, spelling: str, *data: bytes, asked: str = "delivered") -> FakeTransport:
        """One request on a connection of its own."""
        client = self.connect(way)
        if way == "session":
            client.protocol.data_received(json.dumps({"acknowledge": asked}).encode() + b"\n")
        client.protocol.data_received(bytes_of(way, spelling, list(data), asked))
        return client

    def written(self) -> dict[str, list[bytes]]:
        """What each account's stream got, in order."""
        found: dict[str, list[bytes]] = {}
        for target, data in self.service.calls:
            parsed = parse_arn(target.arn or "")
            found.setdefault(self.ours if parsed is None else parsed.account, []).extend(data)
        return found

    async def settle(self, seconds: int = 40) -> None:
        """Lets time pass: a shard's pace is a matter of it."""
        for _ in range(seconds):
            await turn(20)
            self.clock.ns += 1_000_000_000
            for driver in self.streams.audit():
                driver.pump_soon()

    def engines(self) -> list[str]:
        return sorted(name for name, _ in self.streams.engines())

    def stream(self, spelling: str) -> Stream:
        found = self.streams.meant(spelling)
        assert isinstance(found, Stream), found
        return found


def bytes_of(way: str, spelling: str, data: list[bytes], asked: str) -> bytes:
    """A request; of a session lines, which have said before what they ask for."""
    stream = b'"stream":"%b",' % spelling.encode() if way == "session" else b""
    lines = b"".join(b'{%b"partition_key":"k","data":"%b"}\n' % (stream, each) for each in data)
    if way == "session":
        return lines
    if way == "lines":
        return http_bytes(f"/v1/streams/{quote(spelling, safe='')}/records", "", asked, lines)
    entries: list[dict[str, Any]] = [
        {"Data": base64.b64encode(each).decode(), "PartitionKey": "k"} for each in data
    ]
    named = {"StreamName" if parse_arn(spelling) is None else "StreamARN": spelling}
    members = entries[0] if way == "PutRecord" else {"Records": entries}
    head = f"Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: Kinesis_20131202.{way}\r\n"
    return http_bytes("/", head, asked, json.dumps(named | members).encode())


def http_bytes(path: str, head: str, asked: str, body: bytes) -> bytes:
    head += f"X-Kdaemon-Acknowledge: {asked}\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode() + body


def is_success(client: FakeTransport) -> bool:
    heard = bytes(client.written)
    return heard.startswith((b"HTTP/1.1 200", b'{"acknowledged":'))

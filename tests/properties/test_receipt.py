"""Receipt: whatever comes in, by whatever way, is received once, counted once, and answered truly.

Raw bytes of connections go in, valid, invalid and cut off, over a service in memory that delivers,
throttles and fails single records. Each record has data of its own, so that what the service has
can be held against what each client was told.
"""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.description import StreamTarget
from kdaemon.base.record import Record, RecordResult
from kdaemon.send.client import PutAnswer
from tests.kit.clock import HandClock
from tests.kit.depth import examples
from tests.kit.doors import Doors, FakeTransport
from tests.kit.streams import FakeService, make_streams

THROUGHPUT = "ProvisionedThroughputExceededException"
OUTCOMES = ("delivered", "delivered", "delivered", "throttled", "failed", "failed and written")


class Service(FakeService):
    """Delivers, throttles or fails each record as `outcomes` says, in turn; then delivers all."""

    def __init__(self, outcomes: list[str]) -> None:
        super().__init__()
        self.outcomes = outcomes
        self.written: list[bytes] = []

    async def put_records(
        self, target: StreamTarget, records: list[Record], leave: Callable[[], bool]
    ) -> PutAnswer:
        assert leave()
        if target.name in self.missing:
            return await super().put_records(target, records, leave)
        results = []
        for record in records:
            outcome = self.outcomes.pop(0) if self.outcomes else "delivered"
            if outcome == "throttled":
                results.append(RecordResult(error_code=THROUGHPUT, error_message="Slow down."))
                continue
            if outcome != "failed":
                self.written.append(record.data)
            if outcome == "delivered":
                results.append(RecordResult(sequence_number="7", shard_id="shardId-0"))
            else:
                results.append(RecordResult(error_code="InternalFailure", error_message="Oops."))
        return PutAnswer(results, "NONE")


@dataclass
class Sent:
    """What one client sent. `records`: data of those that can be read; `count`: all that were
    sent.
    """

    way: str
    records: list[bytes]
    count: int
    transport: FakeTransport


@dataclass
class Client:
    """How one request is to be: see `st.builds` below."""

    way: str
    record_count: int
    flaw: str
    acknowledge: str
    stream: str
    cut: float

    number: ClassVar[int] = 0

    def data(self) -> list[bytes]:
        found = []
        for _ in range(self.record_count):
            Client.number += 1
            found.append(b"r%d" % Client.number)
        return found

    def bytes_of(self, records: list[bytes]) -> tuple[bytes, int]:
        """What goes over the connection, and how many records that is."""
        if self.way in ("PutRecord", "PutRecords"):
            return self._api(records)
        lines = [b'{"data":"%b"}' % data for data in records]
        count = len(lines)
        if self.flaw == "record":
            lines.insert(0, b'{"data":7}')
            count += 1
        elif self.flaw == "body":
            lines.append(b"{broken")
            count += 1
        body = b"\n".join([*lines, b"", b"  "]) + b"\n"
        if self.way == "session":
            setup = {"stream": self.stream, "acknowledge": self.acknowledge}
            return json.dumps(setup).encode() + b"\n" + body, count
        return self._http(f"/v1/streams/{self.stream}/records", "", body), count

    def _api(self, records: list[bytes]) -> tuple[bytes, int]:
        entries: list[dict[str, Any]] = [
            {"Data": base64.b64encode(data).decode(), "PartitionKey": "k"} for data in records
        ]
        if self.flaw == "record":
            entries[-1]["PartitionKey"] = ""
        members = entries[0] if self.way == "PutRecord" else {"Records": entries}
        body = json.dumps({"StreamName": self.stream, **members}).encode()
        count = len(entries)
        if self.flaw == "body":
            body, count = body[:-1], 1  # nobody can count what cannot be read
        target = f"X-Amz-Target: Kinesis_20131202.{self.way}"
        head = f"Content-Type: application/x-amz-json-1.1\r\n{target}\r\n"
        return self._http("/", head, body), count

    def _http(self, path: str, head: str, body: bytes) -> bytes:
        head += f"X-Kdaemon-Acknowledge: {self.acknowledge}\r\nContent-Length: {len(body)}\r\n"
        return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode() + body


CLIENTS = st.builds(
    Client,
    way=st.sampled_from(["PutRecord", "PutRecords", "lines", "session"]),
    record_count=st.integers(1, 5),
    flaw=st.sampled_from(["", "", "", "record", "body"]),
    acknowledge=st.sampled_from(["delivered", "delivered", "accepted"]),
    stream=st.sampled_from(["s", "s", "t", "missing"]),
    cut=st.sampled_from([1.0, 1.0, 1.0, 0.3, 0.9]),
)


@settings(max_examples=examples(150), deadline=None)
@given(
    clients=st.lists(CLIENTS, min_size=1, max_size=6),
    outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=12),
)
def test_everything_is_received_once_and_each_success_is_true(
    clients: list[Client], outcomes: list[str]
) -> None:
    asyncio.run(_play(clients, outcomes))


async def _play(clients: list[Client], outcomes: list[str]) -> None:
    service, clock = Service(list(outcomes)), HandClock()
    service.missing = {"missing"}
    text = "[default]\nlinger_ms = 0\ndeadline_ms = 3600000\n[streams.s]"
    streams = make_streams(service, text, clock=clock)
    doors = Doors(streams, clock)
    sent = [_send(client, doors) for client in clients]
    for _ in range(200):
        await asyncio.sleep(0)
        clock.ns += 500_000_000
        for driver in streams.audit():
            driver.pump_soon()
    try:
        counters = [engine.counters for _, engine in streams.engines()]
        counters += [streams.door, *(each.closed for each in streams.upstreams)]
        assert all(each.unaccounted() == 0 for each in counters)
        assert sum(each.received for each in counters) == sum(each.count for each in sent)
        assert not any(each.buffered or each.in_flight for each in counters)
        for each in sent:
            _check(each, service)
    finally:
        for each in sent:
            each.transport.protocol.connection_lost(None)
        await streams.aclose()


def _send(client: Client, doors: Doors) -> Sent:
    """Feeds one connection; one that is cut off then says that it sends no more."""
    if client.way == "PutRecord":
        client.record_count = 1
    records = client.data()
    raw, count = client.bytes_of(records)
    is_cut = client.cut < 1.0 and client.way != "session"
    transport = doors.session() if client.way == "session" else doors.http()
    whole, protocol = Sent(client.way, records, count, transport), transport.protocol
    protocol.data_received(raw[: int(len(raw) * client.cut)] if is_cut else raw)
    if is_cut:
        protocol.eof_received()
        whole.count = 0  # a body that was announced and did not arrive was never received
    return whole


def _check(sent: Sent, service: Service) -> None:
    """What the client heard is true of what the service has."""
    heard = bytes(sent.transport.written)
    delivered = [data for data in sent.records if data in service.written]
    if sent.way == "session":
        told = [json.loads(line) for line in heard.splitlines()]
        acknowledged = max((each.get("acknowledged", 0) for each in told), default=0)
        assert acknowledged <= len(delivered), "acknowledged, and not there"
        return
    heads = [part for part in heard.split(b"HTTP/1.1 ") if part]
    assert len(heads) <= 1, "one request, one answer"
    if not heads:
        return
    status = int(heads[0][:3])
    body = json.loads(heads[0].partition(b"\r\n\r\n")[2] or b"{}")
    if not sent.count:
        assert status >= 400, "a body that did not arrive is no success"
        assert delivered == []
    elif status in (200, 207):
        if "acknowledged" in body:
            assert 0 < body["acknowledged"] <= len(delivered)
        else:
            results = body.get("Records", [body])
            good = [each for each in results if "SequenceNumber" in each]
            assert 0 < len(good) <= len(delivered)
    elif status == 500:  # the outcome of some is unknown
        assert body["__type"] == "InternalFailure"
    else:
        assert delivered == [], f"{status}, and yet it is there"

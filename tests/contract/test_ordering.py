"""Order per key, end to end: the daemon in front of each service, and a proxy in between that loses
calls, loses answers and fails single records. What is read back is in order, and nothing is lost.
"""

import contextlib
import json
import random
import socket
import struct
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kdaemon.sandbox.shards import hash_key_of
from tests.contract.conftest import started
from tests.kit.aggregates import python_reads
from tests.kit.daemon import Daemon, running
from tests.kit.endpoints import Endpoint, data_of, post
from tests.kit.web import Handler, serving

RECORD_COUNT = 180
FRAME_RECORDS = 12
KEY_COUNT = 16
HOT_EVERY = 10  # one record in so many is the hot key's
SPLIT_AFTER = 7  # frames


class Proxy:
    """Between the daemon and a service: what goes wrong is rolled for each PutRecords."""

    def __init__(self, url: str, seed: int) -> None:
        self._dice = random.Random(seed)
        self._rolls = iter((0.05, 0.2, 0.45, 0.2, 0.45, 0.05))  # so that each happens, early
        self._url = url

    def put(self, body: bytes) -> tuple[int, bytes] | None:
        """An answer to PutRecords; None: the connection is reset instead, before the service heard
        of the call or after it took it.
        """
        roll = next(self._rolls, self._dice.random())
        if roll < 0.1:
            return None
        if roll < 0.4:
            return 200, self._put_some(json.loads(body))
        answer = post(self._url, "PutRecords", body)
        return None if roll < 0.5 else (answer.status, answer.body)

    def _put_some(self, request: dict[str, Any]) -> bytes:
        """Sends a part of the records on; the others fail, each by itself."""
        entries = request["Records"]
        kept = [self._dice.random() < 0.6 for _ in entries]
        told: Iterator[dict[str, Any]] = iter(())
        if any(kept):
            some = [entry for entry, keep in zip(entries, kept, strict=True) if keep]
            answer = post(
                self._url, "PutRecords", json.dumps({**request, "Records": some}).encode()
            )
            assert answer.status == 200, answer
            told = iter(answer.members["Records"])
        code = self._dice.choice(("ProvisionedThroughputExceededException", "InternalFailure"))
        failed = {"ErrorCode": code, "ErrorMessage": "failed by the test"}
        results = [next(told) if keep else failed for keep in kept]
        count = sum("ErrorCode" in result for result in results)
        return json.dumps({"FailedRecordCount": count, "Records": results}).encode()

    def other(self, operation: str, body: bytes) -> tuple[int, bytes]:
        """Any other call goes through as it is."""
        answer = post(self._url, operation, body)
        return answer.status, answer.body


@contextlib.contextmanager
def listening(proxy: Proxy) -> Iterator[str]:
    """The proxy on a port of its own; its URL."""

    class Passing(Handler):
        def do_POST(self) -> None:
            body = self.read_body()
            operation = self.headers["X-Amz-Target"].rpartition(".")[2]
            answer = proxy.put(body) if operation == "PutRecords" else proxy.other(operation, body)
            if answer is None:
                # SO_LINGER on, 0 seconds: close sends RST.
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.close_connection = True
                return
            self.answer(*answer, {"Content-Type": "application/x-amz-json-1.1"})

    class Server(ThreadingHTTPServer):
        def shutdown_request(self, request: Any) -> None:
            self.close_request(request)  # no FIN before the RST

    with serving(Server(("127.0.0.1", 0), Passing)) as url:
        yield url


def put_lines(daemon: Daemon, stream: str, records: list[tuple[str, str]]) -> None:
    """One frame of (key, data), accepted."""
    lines = "\n".join(json.dumps({"partition_key": key, "data": data}) for key, data in records)
    answer = Endpoint.of(daemon, "accepted").put_lines(stream, lines.encode()).members
    assert answer == {"acknowledged": len(records), "rejected": [], "rejected_count": 0}


def split_first(endpoint: Endpoint, stream: str) -> None:
    shard = endpoint.shards(stream)[0]
    ends = shard["HashKeyRange"]
    middle = (int(ends["StartingHashKey"]) + int(ends["EndingHashKey"])) // 2
    endpoint.answer_empty(
        "SplitShard",
        StreamName=stream,
        ShardToSplit=shard["ShardId"],
        NewStartingHashKey=str(middle),
    )


def read_in_order(endpoint: Endpoint, stream: str) -> list[bytes]:
    """Every record as a consumer reads them: a shard's children after the shard, and no aggregate
    with a key that does not belong to its shard.
    """
    read = []
    for shard in endpoint.shards(stream):
        ends = shard["HashKeyRange"]
        low, high = int(ends["StartingHashKey"]), int(ends["EndingHashKey"])
        for record in endpoint.read_shard(stream, shard["ShardId"]):
            carried = python_reads(data_of(record))
            keys = [hash_key_of(key.encode()) for key, _, _ in carried]
            if len(carried) == 1 or all(low <= each <= high for each in keys):
                read += [data for _, _, data in carried]
    return read


@pytest.fixture(params=["kinesalite", "kinesis_local"], scope="module")
def emulator(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    with started(request.param) as url:
        yield Endpoint(request.param, url=url, put_url=url)


@pytest.mark.node
@pytest.mark.parametrize("aggregation", ["none", "kpl"])
def test_what_fails_on_the_way_is_delivered_in_its_order(
    emulator: Endpoint, tmp_path: Path, aggregation: str
) -> None:
    stream = emulator.make_stream(f"ordered-{aggregation}", 3)
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    proxy = Proxy(emulator.url, seed)
    settings: dict[str, object] = {
        "default.ordering": "partition_key",
        "default.aggregation": aggregation,
        "default.linger_ms": 5,
    }
    counts: dict[str, int] = {}
    with listening(proxy) as url, running(tmp_path, settings, service=url) as daemon:
        for frame in range(RECORD_COUNT // FRAME_RECORDS):
            records = []
            for position in range(FRAME_RECORDS):
                number = frame * FRAME_RECORDS + position
                key = "hot" if number % HOT_EVERY == 0 else f"key-{dice.randrange(KEY_COUNT)}"
                counts[key] = counts.get(key, -1) + 1
                records.append((key, f"{key} {counts[key]} {'x' * dice.randrange(100)}"))
            put_lines(daemon, stream, records)
            if frame == SPLIT_AFTER:
                split_first(emulator, stream)
        metrics = daemon.wait_settled()
        delivered = metrics.total("kdaemon_records_delivered_total", stream=stream)
        repeats_most = metrics.total("kdaemon_records_possible_duplicates_total", stream=stream)
        assert daemon.stop() == 0
    assert delivered == RECORD_COUNT
    last = dict.fromkeys(counts, -1)
    repeats = 0
    for data in read_in_order(emulator, stream):
        key, told, _ = data.decode().split(" ")
        number = int(told)
        if number <= last[key]:
            repeats += 1
        else:
            assert number == last[key] + 1, f"seed {seed}: {data!r} after {last[key]}"
            last[key] = number
    assert last == counts, f"seed {seed}: lost"
    assert repeats <= repeats_most, f"seed {seed}"

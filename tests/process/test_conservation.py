"""received = rejected + delivered + dead + buffered + in flight, at every scrape, whatever happens;
and in the end nothing that was answered as delivered is missing.
"""

import http.client
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest

from tests.kit.daemon import Daemon, Metrics, sandbox
from tests.kit.endpoints import Endpoint, data_of, entry
from tests.kit.patience import PATIENCE_S, wait_for
from tests.process.conftest import Run

HEADERS = {
    "Content-Type": "application/x-amz-json-1.1",
    "X-Amz-Target": "Kinesis_20131202.PutRecords",
}

# One of each kind, in this order, while the load runs; each is taken by the next call or calls.
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 500, "calls": 2},
    {"kind": "status", "status": 503, "is_written": True},
    {"kind": "reset"},
    {"kind": "reset", "is_written": True},
    {"kind": "wrong_count"},
    {"kind": "unparsable_body", "is_written": True},
    {"kind": "empty_body"},
    {"kind": "record_failure", "fraction": 0.3, "calls": 5},
    {"kind": "expired_token"},
    {"kind": "throttle", "calls": 2},
    {"kind": "latency", "latency_ms": 200, "calls": 5},
    {"kind": "hang", "is_written": True},
)


class Producer(threading.Thread):
    """Puts records, each with a text of its own, and keeps what it was told of each."""

    def __init__(self, port: int, stream: str, number: int, seed: int) -> None:
        super().__init__(name=f"producer-{number}", daemon=True)
        self.delivered: list[str] = []
        self.failed: list[str] = []
        self.unknown: list[str] = []  # its request had no answer
        self.is_stopped = threading.Event()
        self._port = port
        self._stream = stream
        self._number = number
        self._dice = random.Random(seed + number)

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        sent = 0
        with closing(connection):
            while not self.is_stopped.is_set():
                count = self._dice.choice((1, 20, 200))
                texts = [f"{self._number}-{sent + index}" for index in range(count)]
                sent += count
                self._put(connection, texts)

    def _put(self, connection: http.client.HTTPConnection, texts: list[str]) -> None:
        keys = [f"key-{self._dice.randrange(50)}" for _ in texts]
        entries = [entry(text.encode(), key) for text, key in zip(texts, keys, strict=True)]
        body = json.dumps({"StreamName": self._stream, "Records": entries})
        try:
            connection.request("POST", "/", body, HEADERS)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException):
            connection.close()
            self.unknown += texts
            return
        if response.status != 200:
            self.failed += texts
            return
        for text, result in zip(texts, answer["Records"], strict=True):
            (self.failed if "ErrorCode" in result else self.delivered).append(text)


@contextmanager
def producing(daemon: Daemon, stream: str, count: int) -> Iterator[list[Producer]]:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    producers = [Producer(daemon.port, stream, number, seed) for number in range(count)]
    for producer in producers:
        producer.start()
    try:
        yield producers
    finally:
        for producer in producers:
            producer.is_stopped.set()
        for producer in producers:
            producer.join(PATIENCE_S)
            assert not producer.is_alive()


def assert_conserved(metrics: Metrics) -> None:
    for stream in metrics.streams:
        assert metrics.left_over(stream) == 0, stream
        assert metrics.total("kdaemon_records_unaccounted", stream=stream) == 0, stream


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """Shards of a small quota, so that they throttle."""
    with sandbox("demo", 3, shard_records_per_second=2000) as url:
        yield url


def test_every_scrape_conserves_under_load_throttles_and_faults(run: Run, service: str) -> None:
    settings: dict[str, object] = {
        "send.call_timeout_ms": 4000,
        "default.deadline_ms": 8000,
        "default.shard_records_per_second": 3000,  # more than there is: the service throttles
    }
    daemon = run(settings, service=service)
    stored = Endpoint("sandbox", url=service, put_url=service)
    scrapes = 0
    with producing(daemon, "demo", 6) as producers:

        def delivered_more(than: int, throttled: int = 0) -> int | None:
            """Records delivered by now, if more than `than`."""
            nonlocal scrapes
            metrics = daemon.metrics()
            assert_conserved(metrics)
            scrapes += 1
            is_well = metrics.total("kdaemon_records_throttled_total") >= throttled
            delivered = metrics.total("kdaemon_records_delivered_total")
            return delivered if delivered > than and is_well else None

        done = 0
        for fault in FAULTS:
            daemon.inject({**fault, "stream": "demo"})
            wait_for(
                lambda: pending_faults(service) == [] or delivered_more(10**9), f"{fault} to show"
            )
            done = wait_for(partial(delivered_more, done), f"an end of {fault}")
        wait_for(partial(delivered_more, done + 1000, 1), "a shard to throttle")
    metrics = daemon.wait_settled()
    assert_conserved(metrics)
    assert scrapes > len(FAULTS)
    assert metrics.total("kdaemon_records_dead_total") == 0

    found = Counter(data_of(record).decode() for record in stored.read_stream("demo"))
    delivered = [text for producer in producers for text in producer.delivered]
    failed = [text for producer in producers for text in producer.failed]
    assert not [text for producer in producers for text in producer.unknown]
    missing = [text for text in delivered if text not in found]
    assert missing == [], f"{len(missing)} of {len(delivered)} are lost"
    assert len(delivered) == len(set(delivered))
    assert len(delivered) <= metrics.total("kdaemon_records_delivered_total")
    doubled = sum(count - 1 for count in found.values())
    told_as_failed = sum(1 for text in failed if text in found)
    duplicates = metrics.total("kdaemon_records_possible_duplicates_total")
    assert 0 < doubled + told_as_failed <= duplicates
    assert metrics.total("kdaemon_put_records_calls_total", outcome="ambiguous") > 0
    assert metrics.total("kdaemon_record_failures_total", code="InternalFailure") > 0
    assert daemon.stop() == 0


def pending_faults(service: str) -> list[dict[str, Any]]:
    with closing(http.client.HTTPConnection(service.removeprefix("http://"))) as connection:
        connection.request("GET", "/sandbox/faults")
        faults: list[dict[str, Any]] = json.loads(connection.getresponse().read())["faults"]
        return faults

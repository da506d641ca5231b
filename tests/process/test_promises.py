"""An acknowledgement is a promise: it holds through a SIGTERM in the middle of the load, and while
the service is gone.
"""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.kit.daemon import MIB, Daemon, sandbox, started
from tests.kit.endpoints import Endpoint, data_of, entry, read_all
from tests.kit.patience import PATIENCE_S, wait_for
from tests.process.conftest import Run


class HttpClient(threading.Thread):
    """PutRecords of 50 until the daemon does not answer any more."""

    def __init__(self, daemon: Daemon, number: int, acknowledge: str) -> None:
        super().__init__(name=f"http-{number}", daemon=True)
        self.promised: list[str] = []
        self._port = daemon.port
        self._number = number
        self._headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "Kinesis_20131202.PutRecords",
            "X-Kdaemon-Acknowledge": acknowledge,
        }

    def run(self) -> None:
        sent = 0
        while True:
            texts = [f"{self.name}-{sent + index}" for index in range(50)]
            sent += 50
            body = json.dumps(
                {"StreamName": "demo", "Records": [entry(t.encode(), t) for t in texts]}
            )
            try:
                with contextlib.closing(
                    http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
                ) as connection:
                    connection.request("POST", "/", body, self._headers)
                    response = connection.getresponse()
                    answer = json.loads(response.read())
            except (OSError, http.client.HTTPException):
                return
            if response.status != 200:
                continue
            results = zip(texts, answer["Records"], strict=True)
            self.promised += [text for text, result in results if "ErrorCode" not in result]


class Session(threading.Thread):
    """Lines on the Unix socket until the daemon ends the connection; what it acknowledged."""

    def __init__(self, path: str, acknowledge: str) -> None:
        super().__init__(name=f"session-{acknowledge}", daemon=True)
        self._acknowledged = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(path)
        self._setup = json.dumps({"stream": "demo", "acknowledge": acknowledge}) + "\n"

    @property
    def promised(self) -> list[str]:
        return [f"{self.name}-{number}" for number in range(self._acknowledged)]

    def run(self) -> None:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        with contextlib.suppress(OSError):
            self._socket.sendall(self._setup.encode())
            for number in range(10**9):
                text = f"{self.name}-{number}"
                line = json.dumps({"partition_key": text, "data": text}) + "\n"
                self._socket.sendall(line.encode())
        reader.join(PATIENCE_S)
        self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    self._acknowledged = json.loads(line)["acknowledged"]


def test_what_was_acknowledged_under_load_is_delivered_after_sigterm(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "k.sock"
    with sandbox("demo", 4, shard_records_per_second=3000) as service:
        settings: dict[str, object] = {
            "drain.lame_duck_ms": 500,
            "listen.unix": str(path),
            "default.shard_records_per_second": 3000,
            "default.buffer_bytes_max": 10 * MIB,  # it fills, and what is refused is no promise
        }
        daemon = run(settings, service=service)
        clients: list[HttpClient | Session] = [
            *(HttpClient(daemon, number, "accepted") for number in range(2)),
            *(HttpClient(daemon, number, "delivered") for number in range(2, 4)),
            Session(str(path), "accepted"),
            Session(str(path), "delivered"),
        ]
        for client in clients:
            client.start()
        wait_for(
            lambda: daemon.counted("kdaemon_records_delivered_total") > 3000 or None,
            "the load to flow",
        )
        wait_for(lambda: all(client.promised for client in clients) or None, "each to be promised")
        code = daemon.stop()
        for client in clients:
            client.join(PATIENCE_S)
            assert not client.is_alive()
        found = Counter(data.decode() for data in read_all(service))
    assert code == 0, daemon.lines[-3:]
    for client in clients:
        assert client.promised, client.name
        lost = [text for text in client.promised if text not in found]
        assert lost == [], f"{client.name}: {len(lost)} of {len(client.promised)}"
    assert daemon.log[-1]["fields"] == {"delivered": found.total(), "undelivered": 0}
    assert found.total() == len(found), "no record is there twice"


def test_what_was_accepted_while_the_service_is_gone_is_delivered_when_it_is_back(
    run: Run,
) -> None:
    with sandbox() as service:
        daemon = run(service=service)
        endpoint = Endpoint("daemon", url=service, put_url=daemon.url)
        endpoint.put_all("demo", [entry(b"x", "k")])
    body = json.dumps({"StreamName": "demo", "Records": [entry(b"%d" % n, "k") for n in range(99)]})
    answer = endpoint.put_raw("PutRecords", body.encode(), x_kdaemon_acknowledge="accepted")
    assert answer.status == 200
    wait_for(
        lambda: daemon.counted("kdaemon_put_records_calls_total", outcome="not_sent") or None,
        "a call to find nobody",
    )
    assert daemon.page("/readyz")[0] == 200, "clients may come: there is room"
    address = service.removeprefix("http://")
    with started(["sandbox", "--listen", address, "--stream", "demo"]) as again:
        again.wait_log("listening")
        daemon.wait_settled()
        stored = sorted(int(data_of(record)) for record in endpoint.read_stream("demo"))
    assert stored == list(range(99))


@pytest.mark.parametrize("shard_count", [8, 2])
def test_no_record_is_lost_or_doubled_while_the_shards_change(run: Run, shard_count: int) -> None:
    with sandbox("demo", 4) as service:
        daemon = run(service=service)
        endpoint = Endpoint("daemon", url=service, put_url=daemon.url)
        clients = [HttpClient(daemon, number, "delivered") for number in range(3)]
        for client in clients:
            client.start()

        def delivered_above(count: int) -> int | None:
            delivered = daemon.counted("kdaemon_records_delivered_total")
            return delivered if delivered > count else None

        before = wait_for(lambda: delivered_above(500), "the load to flow")
        change = {"TargetShardCount": shard_count, "ScalingType": "UNIFORM_SCALING"}
        endpoint.answer("UpdateShardCount", StreamName="demo", **change)
        wait_for(lambda: delivered_above(before + 500), "the load to go on")
        wait_for(
            lambda: daemon.counted("kdaemon_shards", stream="demo") == shard_count or None,
            "the daemon to learn the shards",
        )
        assert daemon.stop() == 0
        for client in clients:
            client.join(PATIENCE_S)
        stored = Counter(data_of(record).decode() for record in endpoint.read_stream("demo"))
    promised = [text for client in clients for text in client.promised]
    assert stored.total() == len(stored)
    assert [text for text in promised if text not in stored] == []


def test_a_client_that_waits_is_answered_by_its_deadline_and_nothing_is_held_for_it(
    run: Run,
) -> None:
    """The status alone says so: the outcome is unknown. (Where the machine was so slow that no call
    was out by then, the records are withdrawn.)
    """
    daemon = run({"default.deadline_ms": 1000})
    daemon.inject({"kind": "hang", "calls": None})
    endpoint = Endpoint.of(daemon)
    began = time.monotonic()
    answer = endpoint.put("PutRecords", StreamName="demo", Records=[entry(b"x", "k")] * 10)
    assert time.monotonic() - began > 0.9
    metrics = daemon.metrics()
    attempts = metrics.total("kdaemon_records_attempts_total")
    code = "InternalFailure" if attempts else "ProvisionedThroughputExceededException"
    assert answer.refusal == (500 if attempts else 400, code)
    assert metrics.left_over("demo") == 0
    assert metrics.total("kdaemon_memory_bytes") == 0
    assert metrics.total("kdaemon_records_possible_duplicates_total") == attempts

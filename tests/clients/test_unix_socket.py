"""The Unix socket as programs and people use it: NDJSON sessions, `kdaemon put`, one line."""

import gzip
import json
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.kit.daemon import ROOT, Daemon, environment
from tests.kit.endpoints import Endpoint, data_of
from tests.kit.patience import PATIENCE_S

SAMPLE = Path(__file__).parents[1] / "data" / "flights-sample.csv.gz"
FLIGHT_COUNT = 5_000


def talk(daemon: Daemon, data: bytes) -> list[dict[str, object]]:
    """Sends everything, ends its side, and reads what the daemon says until it ends its own."""
    with daemon.connect("unix") as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            return [json.loads(line) for line in file]


def test_one_line_without_a_setup_is_acknowledged(
    daemon: Daemon, endpoint: Endpoint, stream: str
) -> None:
    """As of `echo '{...}' | nc -U SOCKET`."""
    line = json.dumps({"stream": stream, "partition_key": "k", "data": "x"}).encode()
    assert talk(daemon, line) == [{"acknowledged": 1}]
    assert len(endpoint.read_stream(stream)) == 1


@pytest.mark.parametrize("acknowledge", ["delivered", "accepted", "none"])
def test_a_session_is_acknowledged_as_it_asked(
    daemon: Daemon, endpoint: Endpoint, stream: str, acknowledge: str
) -> None:
    setup = json.dumps({"stream": stream, "acknowledge": acknowledge})
    lines = [json.dumps({"partition_key": f"k{n}", "data": str(n)}) for n in range(2000)]
    said = talk(daemon, "\n".join([setup, *lines]).encode())
    if acknowledge == "none":
        assert said == []
    else:
        assert said[-1] == {"acknowledged": 2000}
    daemon.wait_settled()
    stored = Counter(int(data_of(record)) for record in endpoint.read_stream(stream))
    assert stored == Counter(range(2000))


def test_only_the_bad_line_of_a_session_is_refused(
    daemon: Daemon, endpoint: Endpoint, stream: str
) -> None:
    lines = [
        json.dumps({"stream": stream}),
        json.dumps({"partition_key": "k", "data": "one"}),
        '{"partition_key": "k", "daat": "typo"}',
        json.dumps({"partition_key": "k", "data": "two"}),
        json.dumps({"stream": "no-such-stream", "data": "x"}),
    ]
    said = talk(daemon, "\n".join(lines).encode())
    assert [each for each in said if "acknowledged" in each][-1] == {"acknowledged": 2}
    refused = {each["rejected"]: each for each in said if "rejected" in each}
    assert refused.keys() == {3, 5}
    assert "daat" in str(refused[3]["message"])
    assert refused[5]["code"] == "ResourceNotFoundException"
    assert sorted(data_of(record) for record in endpoint.read_stream(stream)) == [b"one", b"two"]


def test_kdaemon_put_delivers_every_flight_of_the_sample_once(
    daemon: Daemon, endpoint: Endpoint, stream: str
) -> None:
    command = [sys.executable, "-m", "kdaemon", "put", "--stream", stream]
    command += ["--socket", daemon.address("unix")]
    command += ["--csv", "--partition-key-field", "tailnum", str(SAMPLE)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert f"sent {FLIGHT_COUNT:,} records, acknowledged {FLIGHT_COUNT:,}" in done.stdout
    with gzip.open(SAMPLE, "rt", encoding="utf-8", newline="\n") as file:
        column = file.readline().rstrip("\n").split(",").index("tailnum")
        lines = [line.rstrip("\n") for line in file]
    expected = Counter((line.split(",")[column], line) for line in lines)
    stored = Counter(
        (record["PartitionKey"], data_of(record).decode())
        for record in endpoint.read_stream(stream)
    )
    with_key = {pair: count for pair, count in expected.items() if pair[0]}
    assert {pair: count for pair, count in stored.items() if pair in with_key} == with_key
    assert Counter(line for _, line in stored.elements()) == Counter(lines)


def test_kdaemon_put_to_an_unknown_stream_fails_and_says_why(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "kdaemon", "put", "--stream", "no-such-stream"]
    command += ["--socket", daemon.address("unix"), "--partition-key", "k"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        input="a line\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert "ResourceNotFoundException" in done.stderr
    assert "Traceback" not in done.stderr

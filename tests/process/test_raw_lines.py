"""Raw lines through a running daemon: a log as it is, by every way in, and across a restart."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.kit import sockets
from tests.kit.daemon import Daemon, running, sandbox
from tests.kit.endpoints import Endpoint, data_of, read_all
from tests.kit.patience import PATIENCE_S, wait_for

# What `nc -U PATH` does: its input to the socket, what comes to its output, until the socket ends.
NC = """
import os, socket, sys, threading
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
def copy():
    while piece := os.read(0, 65536):
        s.sendall(piece)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=copy, daemon=True).start()
while piece := s.recv(65536):
    os.write(1, piece)
"""
# What `tail -F` does of a file that only grows.
TAIL = """
import os, sys, time
f = os.open(sys.argv[1], os.O_RDONLY)
while True:
    piece = os.read(f, 65536)
    if piece:
        os.write(1, piece)
    else:
        time.sleep(0.01)
"""


def settings(directory: Path, **more: object) -> dict[str, object]:
    return {
        "listen.unix": str(directory / "k.sock"),
        "sandbox.streams": ["demo", "app", "orders"],
        "default.only_writer": True,
        "streams.app.lines": "raw",
        "streams.app.partition_key_field": "user.id",
        "streams.app.stream_field": "to",
        "streams.app.socket": str(directory / "app.sock"),
        "streams.orders.ordering": "partition_key",
        **more,
    }


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("raw")
    with running(directory, settings(directory)) as daemon:
        yield daemon


def records(daemon: Daemon, stream: str) -> list[tuple[str, bytes]]:
    found = Endpoint("sandbox", daemon.sandbox_url, daemon.sandbox_url).read_stream(stream)
    return [(each["PartitionKey"], data_of(each)) for each in found]


def wait_until(claim: Callable[[], bool], what: str = "what was written to arrive") -> None:
    wait_for(lambda: claim() or None, what)


def test_a_log_that_is_followed_arrives_line_by_line(daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_bytes(b"first\n")
    tail = subprocess.Popen([sys.executable, "-c", TAIL, str(log)], stdout=subprocess.PIPE)
    nc = subprocess.Popen(
        [sys.executable, "-c", NC, daemon.address("streams.app")],
        stdin=tail.stdout,
        stdout=subprocess.PIPE,
    )
    try:
        with log.open("ab", 0) as file:
            for n in range(300):
                file.write(b'{"user":{"id":"u%d"},"n":%d}\r\n' % (n % 7, n))
            file.write(b"GET / HTTP/1.1\r\n\r\nlast line, no ")
            file.write(b"end")
        wait_until(lambda: len(records(daemon, "app")) == 302)
        tail.kill()  # the writer ends; its last line may lack its line end
        assert tail.stdout is not None
        tail.stdout.close()
        assert nc.communicate(timeout=PATIENCE_S)[0] == b"", "nothing is answered"
        wait_until(lambda: len(records(daemon, "app")) == 303)
    finally:
        for each in (tail, nc):
            each.kill()
            each.wait()
    found = records(daemon, "app")
    assert {key for key, data in found if b'"n"' in data} == {f"u{n}" for n in range(7)}
    data = sorted(data for _, data in found)
    wanted = [b'{"user":{"id":"u%d"},"n":%d}' % (n % 7, n) for n in range(300)]
    assert data == sorted([b"first", b"GET / HTTP/1.1", b"last line, no end", *wanted])
    assert daemon.counted("kdaemon_lines_without_key_total", stream="app") == 3


def test_lines_choose_among_listed_streams_and_make_none(daemon: Daemon) -> None:
    before = len(records(daemon, "orders"))
    unrouted = daemon.counted("kdaemon_lines_without_stream_total", stream="app")
    with daemon.connect("streams.app") as client:
        client.sendall(b'{"to":"orders","user":{"id":"o"}}\n{"to":"demo"}\n{"to":"../x"}\n')
    wait_until(lambda: len(records(daemon, "orders")) == before + 1)
    wait_until(
        lambda: daemon.counted("kdaemon_lines_without_stream_total", stream="app") == unrouted + 2
    )
    assert set(daemon.metrics().streams) <= {"", "(closed)", "app", "orders", "demo"}


def test_a_request_with_a_header_sends_any_text(daemon: Daemon) -> None:
    body = b'plain\r\n\xff\x00\n{"id":5,"id":6}\n{"id":5.50}\n\n{"id":"\\u0000"}'
    answer = Endpoint.of(daemon).put_lines(
        "demo", body, X_Kdaemon_Lines="raw", X_Kdaemon_Partition_Key_Field="id"
    )
    told = answer.members
    assert (answer.status, told["acknowledged"], told["rejected"]) == (200, 5, [])
    found = {data: key for key, data in records(daemon, "demo")}
    assert found[b'{"id":5.50}'] == "5.50"
    assert found[b'{"id":"\\u0000"}'] == "\0"
    assert {b"plain", b"\xff\x00", b'{"id":5,"id":6}'} < found.keys()
    answer = Endpoint.of(daemon).put_lines("demo", body, X_Kdaemon_Lines="yes")
    assert (answer.status, answer.members["__type"]) == (400, "InvalidArgumentException")


def test_lines_keep_the_order_of_each_key(daemon: Daemon) -> None:
    setup = {"stream": "orders", "lines": "raw", "partition_key_field": "k"}
    with daemon.connect("unix") as client:
        client.sendall(json.dumps(setup).encode() + b"\n")
        for n in range(400):
            client.sendall(b'{"k":%d,"n":%d}\n' % (n % 5, n))
        client.shutdown(socket.SHUT_WR)
        answers = sockets.read_all(client)
    assert json.loads(answers.splitlines()[-1]) == {"acknowledged": 400}
    by_key: dict[str, list[int]] = {}
    for key, data in records(daemon, "orders"):
        if b'"k"' in data:
            by_key.setdefault(key, []).append(json.loads(data)["n"])
    assert by_key == {str(k): list(range(k, 400, 5)) for k in range(5)}


HOSTILE = {
    "deep": b'{"user":' * 100_000 + b"1" + b"}" * 100_000,
    "wide": b"{" + b",".join(b'"k%d":{"user":1}' % n for n in range(50_000)) + b',"user":{"id":1}}',
    "twice": b'{"user":{"id":1},"user":{"id":2}}',
    "broken": b'{"user":{"id":"\xff"}}',
    "zeros": b"\0" * 1000,
    "tls": b"\x16\x03\x01\x02\x00\x01",
    "long key": b'{"user":{"id":"' + b"k" * 5000 + b'"}}',
    "escapes": b'{"user":{"id":"' + b"\\u0001" * 40 + b'"}}',
}


def test_no_line_is_too_strange(daemon: Daemon) -> None:
    rest = [b"x" * 900_000, *HOSTILE.values()]
    with daemon.connect("streams.app") as client:
        client.sendall(b"\n".join(rest) + b"\n")
    wait_until(lambda: set(rest) <= {data for _, data in records(daemon, "app")})
    keys = {data: key for key, data in records(daemon, "app")}
    assert keys[HOSTILE["long key"]].startswith("sha256:")
    assert keys[HOSTILE["escapes"]] == "\x01" * 40
    assert daemon.counted("kdaemon_records_unaccounted") == 0


def test_a_line_without_an_end_holds_nobody_up_and_no_memory(daemon: Daemon) -> None:
    refused = daemon.counted("kdaemon_records_rejected_total", stream="app")
    with daemon.connect("streams.app") as client:
        for _ in range(40):
            client.sendall(b"x" * 1024 * 1024)
            assert Endpoint.of(daemon).put_lines("demo", b'{"data":"other"}\n').status == 200
        client.sendall(b"\nafter the long one\n")
        wait_until(lambda: b"after the long one" in {data for _, data in records(daemon, "app")})
    assert daemon.counted("kdaemon_records_rejected_total", stream="app") == refused + 1
    assert daemon.peak_bytes() < 250 * 1024 * 1024


def test_a_client_that_never_reads_is_never_stopped(daemon: Daemon) -> None:
    """More lines than a socket would hold answers, none of which is read."""
    before = daemon.counted("kdaemon_records_accepted_total", stream="app")
    with daemon.connect("streams.app") as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        for n in range(3_000):
            client.sendall(b'{"user":{"id":%d}}\n' % n)
    wait_until(
        lambda: daemon.counted("kdaemon_records_accepted_total", stream="app") == before + 3_000
    )


@pytest.mark.parametrize("is_stored", [True, False])
def test_what_was_written_before_a_restart_arrives_and_what_came_after_too(
    tmp_path: Path, is_stored: bool
) -> None:
    """A writer that connects anew when it is cut off, and repeats the line that failed."""
    more: dict[str, object] = {"drain.lame_duck_ms": 50}
    if is_stored:
        more["spool.directory"] = str(tmp_path / "spool")
    given = settings(tmp_path, **more)
    path = str(tmp_path / "app.sock")
    is_over = threading.Event()
    written: list[int] = []

    def has_written(count: int) -> bool:
        return len(written) >= count

    def write() -> None:
        client: socket.socket | None = None
        n = 0
        while not is_over.is_set():
            try:
                if client is None:
                    client = sockets.connected(path)
                client.sendall(b'{"user":{"id":"u%d"},"n":%d}\n' % (n % 3, n))
            except OSError:
                if client is not None:
                    client.close()
                client = None
                is_over.wait(0.005)
            else:
                written.append(n)
                n += 1
                is_over.wait(0.0005)
        if client is not None:
            client.close()

    with sandbox("app", 2) as service:
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for count in (200, 400, 600):
                with running(tmp_path, given, service=service) as daemon:
                    wait_until(partial(has_written, count))
                    assert daemon.stop() == 0
            with running(tmp_path, given, service=service) as daemon:
                is_over.set()
                writer.join(PATIENCE_S)
                daemon.wait_settled()
                assert daemon.stop() == 0
        finally:
            is_over.set()
            writer.join(PATIENCE_S)
        numbers = [json.loads(each)["n"] for each in read_all(service, "app")]
    assert set(written) <= set(numbers)
    # A line that failed may have been written in part; only such a one may be there twice.
    assert len(numbers) - len(set(numbers)) <= 3


def test_the_socket_has_its_mode_and_goes_with_the_daemon(tmp_path: Path) -> None:
    given = settings(tmp_path) | {"listen.unix_mode": "0600", "listen.unix": "", "listen.http": ""}
    path = tmp_path / "app.sock"
    with running(tmp_path, given) as daemon:
        assert path.stat().st_mode & 0o777 == 0o600
        path.unlink()
        wait_until(path.exists)  # it is made again
        with contextlib.closing(sockets.connected(str(path))) as client:
            client.sendall(b"a line\n")
        daemon.wait_settled()
        assert records(daemon, "app")[-1][1] == b"a line"
        assert daemon.counted("kdaemon_client_rebinds_total", listener="streams.app") == 1
        daemon.stop()
    assert not os.path.lexists(path)

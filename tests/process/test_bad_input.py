"""Whatever a client sends, it gets a clear error or is cut off; the daemon lives, the records of
others are untouched, and memory stays bounded.

One daemon takes all of it, with tiny time limits, while one good client goes on putting records.
"""

import contextlib
import http.client
import json
import random
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.kit.daemon import MIB, Daemon, from_scratch, running
from tests.kit.endpoints import Endpoint, data_of, entry
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.sockets import read_all

HEAD = (
    "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"
    "X-Amz-Target: Kinesis_20131202.PutRecords\r\n"
)
HASTY = """
from dataclasses import replace
from kdaemon.daemon import hubs
limits_of = hubs.limits_of
hubs.limits_of = lambda listen: replace(limits_of(listen), head_timeout_s=3.0, body_timeout_s=3.0)
"""
# So little time for a head or a body; the good client's are whole in one turn or two.
IDLE_COUNT = 5_000
IDLE_BYTES = 16 * 1024  # of one idle connection at most; 5 KiB are measured
SPARE_BYTES = 24 * MIB  # what an allocator may keep after it held something large


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("bad")
    settings = {
        "listen.unix": str(directory / "k.sock"),
        "listen.idle_timeout_ms": 600_000,
        "sandbox.streams": ["demo"],
        "sandbox.shard_records_per_second": 100_000,
        "default.shard_records_per_second": 100_000,
    }
    with from_scratch(), running(directory, settings, before=HASTY) as daemon:
        yield daemon


@pytest.fixture
def endpoint(daemon: Daemon) -> Endpoint:
    return Endpoint.of(daemon)


@pytest.fixture(autouse=True)
def _others_are_untouched(daemon: Daemon, endpoint: Endpoint) -> Iterator[None]:
    """Around each test: another client's records arrive, all and once, and nothing is left over."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
    ) as other:
        put_on(other, "before")
        yield
        assert daemon.is_alive
        put_on(other, "after")
    metrics = daemon.metrics()
    for stream in metrics.streams:
        assert metrics.left_over(stream) == 0, stream
    assert metrics.total("kdaemon_client_handler_failures_total") == 0
    assert not [line for line in daemon.log if line["level"] == "error"]
    texts = [data_of(record) for record in endpoint.read_stream("demo")]
    assert texts.count(b"before") == texts.count(b"after")


def put_on(connection: http.client.HTTPConnection, text: str) -> None:
    """A good client's request on its kept connection."""
    body = json.dumps({"StreamName": "demo", "Records": [entry(text.encode(), text)]})
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "Kinesis_20131202.PutRecords",
    }
    connection.request("POST", "/", body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert (response.status, answer["FailedRecordCount"]) == (200, 0), answer


def exchange(daemon: Daemon, data: bytes, *, has_end: bool = True) -> bytes:
    """Sends bytes and reads until the daemon ends the connection. It may end it while we send."""
    with daemon.connect() as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
            if has_end:
                client.shutdown(socket.SHUT_WR)
        return read_all(client)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


GOOD_BODY = json.dumps({"StreamName": "demo", "Records": [entry(b"x", "k")]}).encode()


NO_REQUESTS = {
    "binary": (b"\x16\x00\x02\x03" * 100, 400, b"not HTTP/1.1"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01" * 20, 400, b"https://"),
    "no target": (b"GET\r\n\r\n", 400, b"not HTTP/1.1"),
    "truncated head": (b"POST / HTTP/1.1\r\nHost:", 400, b"middle"),
    **{
        name: (f"{HEAD}{rest}".encode(), status, says)
        for name, rest, status, says in (
            ("length below 0", "Content-Length: -1\r\n\r\n", 400, b"not HTTP/1.1"),
            ("two lengths", "Content-Length: 5\r\nContent-Length: 7\r\n\r\n", 400, b"not HTTP/1.1"),
            ("length", f"Content-Length: {10**30}\r\n\r\n", 400, b"not HTTP/1.1"),
            ("oversized", f"Content-Length: {10**12}\r\n\r\n", 413, b"bytes"),
            ("bad chunk", "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, b"not HTTP/1.1"),
            ("long header", f"X: {'x' * 100_000}\r\n\r\n", 431, b"headers"),
            ("truncated", "Content-Length: 100\r\n\r\nhalf", 400, b"middle"),
        )
    },
}


@pytest.mark.parametrize("name", NO_REQUESTS)
def test_what_is_no_request_gets_a_clear_error(daemon: Daemon, name: str) -> None:
    data, status, says = NO_REQUESTS[name]
    answer = exchange(daemon, data)
    assert status_of(answer) == status, answer
    assert says in answer


def test_what_does_not_begin_as_http_is_taken_for_lines(daemon: Daemon) -> None:
    (answer,) = exchange(daemon, b"\x00\x01\x02\x03" * 100).splitlines()
    assert json.loads(answer)["rejected"] == 1


def test_a_client_of_http_2_that_sends_no_frames_is_told_in_frames(daemon: Daemon) -> None:
    answer = exchange(daemon, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n")
    assert answer[3] == 4  # SETTINGS
    assert b"A frame may have up to" in answer  # in GOAWAY


def test_a_length_that_is_too_short_spoils_only_its_own_connection(daemon: Daemon) -> None:
    """The rest of the body is read as the next request, and is none."""
    data = f"{HEAD}Content-Length: 10\r\n\r\n".encode() + GOOD_BODY
    answers = exchange(daemon, data)
    assert answers.count(b"HTTP/1.1 400") == 2, answers


def test_a_length_that_is_too_long_is_cut_off_in_time(daemon: Daemon) -> None:
    before = daemon.counted("kdaemon_client_timeouts_total", part="body")
    data = f"{HEAD}Content-Length: {len(GOOD_BODY) + 10}\r\n\r\n".encode() + GOOD_BODY
    answer = exchange(daemon, data, has_end=False)
    assert status_of(answer) == 408
    assert daemon.counted("kdaemon_client_timeouts_total", part="body") == before + 1


def test_half_a_head_is_cut_off_in_time(daemon: Daemon) -> None:
    answer = exchange(daemon, HEAD[:40].encode(), has_end=False)
    assert status_of(answer) == 408


def test_a_body_that_drips_is_cut_off_in_time(daemon: Daemon) -> None:
    """A byte now and then does not extend the limit."""
    with daemon.connect() as client:
        client.sendall(f"{HEAD}Content-Length: {len(GOOD_BODY)}\r\n\r\n".encode())
        client.settimeout(0.2)
        answer = b""
        for byte in GOOD_BODY[:60]:
            with contextlib.suppress(ConnectionError):
                client.sendall(bytes([byte]))
            try:
                answer = client.recv(65536)
                break
            except TimeoutError:
                continue
    assert status_of(answer) == 408, answer


def test_a_thousand_random_openings_do_not_hurt(daemon: Daemon) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    good = f"{HEAD}Content-Length: {len(GOOD_BODY)}\r\n\r\n".encode() + GOOD_BODY
    for number in range(1000):
        noise = bytearray(good if number % 2 else dice.randbytes(dice.randrange(1, 2000)))
        for _ in range(dice.randrange(1, 20)):
            noise[dice.randrange(len(noise))] = dice.randrange(256)
        with daemon.connect() as client, contextlib.suppress(ConnectionError):
            client.sendall(noise)
            if dice.random() < 0.5:  # a reset, its answer never read
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(
        lambda: daemon.counted("kdaemon_client_connections", listener="http") <= 1 or None,
        "the noise to be gone",
    )


def test_noise_on_the_unix_socket_does_not_hurt(daemon: Daemon) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    line = b'{"stream": "demo", "partition_key": "k", "data": "noise"}\n'
    for number in range(500):
        noise = bytearray(line * 5 if number % 2 else dice.randbytes(dice.randrange(1, 2000)))
        for _ in range(dice.randrange(1, 20)):
            noise[dice.randrange(len(noise))] = dice.randrange(256)
        with daemon.connect("unix") as client, contextlib.suppress(ConnectionError):
            client.sendall(noise)
            if number % 3 == 0:
                client.shutdown(socket.SHUT_WR)
                assert read_all(client), noise[:100]
    daemon.wait_settled()


# Memory


def test_a_client_that_never_reads_its_answers_is_not_served_for_ever(daemon: Daemon) -> None:
    """Pipelined requests with answers that nobody takes: the daemon stops reading them."""
    before = daemon.rss_bytes()
    request = b"GET /v1/" + b"n" * 1000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sent = 0
    with daemon.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(1.0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < 400 * MIB:
                sent += client.send(request * 64)
        assert sent < 400 * MIB, "everything was read"
        assert daemon.rss_bytes() - before < SPARE_BYTES


def test_a_client_that_never_reads_refusals_of_its_lines_takes_no_memory(daemon: Daemon) -> None:
    """Refusals are told in few words, however many lines there are, or the client is not read."""
    before = daemon.rss_bytes()
    sent = 0
    with daemon.connect("unix") as client:
        client.settimeout(1.0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < 100 * MIB:
                sent += client.send(b"nonsense\n" * 1000)
        assert daemon.rss_bytes() - before < SPARE_BYTES


def test_a_line_without_end_is_refused(daemon: Daemon) -> None:
    before = daemon.rss_bytes()
    with daemon.connect("unix") as client:
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                client.sendall(b"x" * MIB)
        assert b"rejected" in read_all(client)
    assert daemon.rss_bytes() - before < SPARE_BYTES + 16 * MIB


def test_bodies_that_never_end_share_one_bound(daemon: Daemon) -> None:
    """100 clients who each begin a body of 10 MiB hold a quarter of memory_bytes_max, not 1 GiB."""
    before, cut_off_before = daemon.rss_bytes(), cut_off(daemon)
    opening = f"{HEAD}Content-Length: {10 * MIB}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.connect()) for _ in range(100)]
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(opening + b" " * (5 * MIB))
        grown = daemon.rss_bytes() - before
        # On a slow machine the time of the first is over before the last have begun.
        wait_for(lambda: cut_off(daemon) - cut_off_before > 50 or None, "them to be cut off")
    assert grown < 64 * MIB * 1.25 + SPARE_BYTES


def cut_off(daemon: Daemon) -> int:
    """Connections that ended before their body was whole."""
    metrics = daemon.metrics()
    full = metrics.total("kdaemon_client_connections_refused_total", reason="bodies_full")
    return full + metrics.total("kdaemon_client_timeouts_total", part="body")


def test_5000_idle_connections_cost_little(daemon: Daemon) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE_COUNT + 1000
    theirs = int(open_files_max(daemon))
    if (hard != resource.RLIM_INFINITY and hard < wanted) or theirs < wanted:
        pytest.skip(f"{wanted} open files are not allowed here: {soft}, {hard}, {theirs}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    before = daemon.rss_bytes()
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(IDLE_COUNT):
                stack.enter_context(daemon.connect())
            wait_for(
                lambda: daemon.counted("kdaemon_client_connections") >= IDLE_COUNT or None,
                "all connections to be there",
            )
            grown = daemon.rss_bytes() - before
            assert grown < IDLE_COUNT * IDLE_BYTES
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
            ) as other:
                put_on(other, "before")
                put_on(other, "after")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(
        lambda: daemon.counted("kdaemon_client_connections", listener="http") <= 1 or None,
        "all connections to be gone",
    )


def open_files_max(daemon: Daemon) -> str:
    """The soft limit of the daemon's own process."""
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    return next(line for line in limits.splitlines() if line.startswith("Max open")).split()[3]


@pytest.mark.parametrize(
    "name",
    ["a b", "a/b", "x" * 129, "n" * MIB, "line\nbreak", "\x00", "żółw", "arn:", "arn:aws:x:y:z"],
    ids=["space", "slash", "129", "1 MiB", "newline", "NUL", "letters", "arn", "other arn"],
)
def test_what_no_stream_can_be_called_becomes_no_stream(daemon: Daemon, name: str) -> None:
    """Or one line would make a label of a MiB, which every sample of every scrape repeats."""
    line = json.dumps({"stream": name, "partition_key": "k", "data": "x"}).encode()
    with daemon.connect("unix") as client:
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        (answer,) = read_all(client).splitlines()
    assert json.loads(answer)["code"] == "ValidationException"
    assert len(answer) < 1000
    if len(name) < 1000:
        path = f"/v1/streams/{quote(name, safe='')}/records"
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
        ) as connection:
            connection.request("POST", path, b'{"data": "x"}')
            response = connection.getresponse()
            assert (response.status, b"ValidationException" in response.read()) == (400, True)
    assert name not in daemon.metrics().streams

"""Every listener of a running daemon holds to HTTP, keeps web pages out, and stays reachable."""

import contextlib
import json
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.daemon import (
    READY,
    Daemon,
    environment,
    get,
    running,
    write_config,
)
from tests.kit.patience import wait_for
from tests.kit.sockets import read_all

INNER = (
    b"POST /v1/streams/demo/records HTTP/1.1\r\nHost: localhost\r\n"
    b'Content-Length: 15\r\n\r\n{"data":"evil"}'
)
LINE = b'{"data":"good"}\n'
OFFER = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
)
LISTENERS = ("http", "unix", "admin", "sandbox")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("listeners")
    settings = {"listen.unix": str(directory / "k.sock"), "sandbox.streams": ["demo"]}
    with running(directory, settings) as daemon:
        yield daemon


def exchange(daemon: Daemon, listener: str, *pieces: bytes) -> bytes:
    """What the daemon says until it ends the connection; the client ends its side last."""
    with daemon.connect(listener) as client:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        return read_all(client)


def statuses(answers: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def framed(body: bytes, is_chunked: bool) -> bytes:
    if is_chunked:
        return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("offer", [OFFER, b"Connection: upgrade\r\nUpgrade: websocket\r\n"])
def test_an_offer_to_upgrade_is_declined_and_nothing_in_the_body_is_executed(
    daemon: Daemon, listener: str, is_chunked: bool, offer: bytes
) -> None:
    delivered = daemon.counted("kdaemon_records_delivered_total")
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n" + offer
    answers = exchange(daemon, listener, head + framed(INNER, is_chunked))
    assert len(statuses(answers)) == 1, answers
    assert statuses(answers) != [101]
    assert daemon.counted("kdaemon_records_delivered_total") == delivered


@pytest.mark.parametrize("listener", ["http", "unix"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_lines_behind_an_offer_are_taken(daemon: Daemon, listener: str, is_chunked: bool) -> None:
    delivered = daemon.counted("kdaemon_records_delivered_total")
    head = b"POST /v1/streams/demo/records HTTP/1.1\r\nHost: localhost\r\n" + OFFER
    body = framed(LINE, is_chunked)
    answers = exchange(daemon, listener, head, body[:10], body[10:] + head + body)
    assert statuses(answers) == [200, 200]
    assert answers.count(b'"acknowledged":1') == 2
    assert daemon.counted("kdaemon_records_delivered_total") == delivered + 2


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_body_that_did_not_arrive_is_no_success(daemon: Daemon, listener: str) -> None:
    received = daemon.counted("kdaemon_records_received_total")
    for head in (OFFER, b""):
        for is_chunked in (False, True):
            sent = b"POST /v1/streams/demo/records HTTP/1.1\r\nHost: localhost\r\n" + head
            answer = exchange(daemon, listener, (sent + framed(LINE, is_chunked))[:-8])
            assert statuses(answer)[0] in (400, 413)
            assert len(statuses(answer)) == 1
    assert daemon.counted("kdaemon_records_received_total") == received


@pytest.mark.parametrize("listener", ["http", "admin", "sandbox"])
@pytest.mark.parametrize(
    "headers",
    [
        b"Host: x.example\r\n",
        b"Host: localhost\r\nOrigin: https://x.example\r\n",
        b"Host: localhost\r\nOrigin: null\r\n",
        b"Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"DELETE"])
def test_a_web_page_is_kept_out(
    daemon: Daemon, listener: str, headers: bytes, method: bytes
) -> None:
    for path in (b"/", b"/v1/streams/demo/records", b"/statusz", b"/sandbox/faults"):
        sent = method + b" " + path + b" HTTP/1.1\r\n" + headers + b"Content-Length: 0\r\n\r\n"
        assert statuses(exchange(daemon, listener, sent)) == [403]


@pytest.mark.parametrize("listener", LISTENERS)
def test_there_is_one_host(daemon: Daemon, listener: str) -> None:
    for hosts in (b"", b"Host: localhost\r\nHost: localhost\r\n"):
        answer = exchange(daemon, listener, b"GET / HTTP/1.1\r\n" + hosts + b"\r\n")
        assert statuses(answer) == [400]


def test_the_admin_pages_take_no_bodies_and_small_heads(daemon: Daemon) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
    for framing in (b"Content-Length: 1\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        assert statuses(exchange(daemon, "admin", head + framing)) == [413]
    sent = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 9000 + b"\r\n\r\n"
    assert statuses(exchange(daemon, "admin", sent)) == [431]


def test_lines_come_in_over_tcp(daemon: Daemon) -> None:
    answer = exchange(daemon, "http", b'{"stream":"demo","data":"a"}\n{"stream":"demo","data":"b"}')
    assert json.loads(answer.splitlines()[-1]) == {"acknowledged": 2}


def test_one_connection_that_pipelines_does_not_make_others_wait(daemon: Daemon) -> None:
    """Each answer of the other one comes while the first one's requests are far from done."""
    flood = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000
    with daemon.connect("http") as greedy, daemon.connect("http") as other:
        greedy.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            greedy.sendall(flood)
        other.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 ")


PUT = b'{"StreamName":"demo","PartitionKey":"k","Data":"aGk="}'
PUT_RECORD = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"
    b"X-Amz-Target: Kinesis_20131202.PutRecord\r\nContent-Length: %d\r\n\r\n%b" % (len(PUT), PUT)
)


@pytest.mark.parametrize("listener", ["http", "unix"])
@pytest.mark.parametrize("is_gone", [True, False], ids=["closed", "half closed"])
def test_what_a_client_left_is_withdrawn_and_who_only_sends_no_more_is_served(
    daemon: Daemon, listener: str, is_gone: bool
) -> None:
    """An SDK that ran out of patience tries again: what it left would be written twice."""
    rejected = daemon.counted("kdaemon_records_rejected_total")
    delivered = daemon.counted("kdaemon_records_delivered_total")
    throttled = daemon.counted("kdaemon_records_throttled_total")
    daemon.inject({"kind": "throttle", "calls": None})
    try:
        with daemon.connect(listener) as client:
            client.sendall(PUT_RECORD)
            wait_for(
                lambda: daemon.counted("kdaemon_records_throttled_total") > throttled or None,
                "the service to throttle",
            )
            if is_gone:
                client.close()
                wait_for(
                    lambda: daemon.counted("kdaemon_records_rejected_total") > rejected or None,
                    "the record to be withdrawn",
                )
            else:
                client.shutdown(socket.SHUT_WR)
            daemon.clear_faults()
            if not is_gone:
                assert statuses(read_all(client)) == [200]
        daemon.wait_settled()
        assert daemon.counted("kdaemon_records_delivered_total") == delivered + (not is_gone)
        assert daemon.counted("kdaemon_records_rejected_total") == rejected + is_gone
    finally:
        daemon.clear_faults()


# --- a daemon of its own


def test_a_socket_file_that_was_removed_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    with running(tmp_path, {"listen.unix": str(path)}) as daemon:
        path.unlink()
        name = "kdaemon_client_rebinds_total"
        wait_for(lambda: daemon.counted(name, listener="unix") or None, "the socket file")
        line = b'{"stream":"demo","data":"a"}'
        assert json.loads(exchange(daemon, "unix", line)) == {"acknowledged": 1}
        path.unlink()
        path.mkdir()
        wait_for(lambda: daemon.page("/readyz")[0] == 503 or None, "the trouble to be told")
        assert str(path) in daemon.page("/readyz")[1]
        path.rmdir()
        wait_for(lambda: daemon.page("/readyz")[0] == 200 or None, "the trouble to be over")
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert daemon.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize("kind", ["a file", "missing", "relative", "not ours"])
def test_a_runtime_directory_that_cannot_be_used_is_done_without(tmp_path: Path, kind: str) -> None:
    runtime = tmp_path / "run"
    if kind == "a file":
        runtime.write_text("")
    elif kind == "not ours":
        (runtime / "kdaemon").mkdir(parents=True)
        (runtime / "kdaemon" / "kdaemon.sock").write_text("somebody's")
    elif kind == "relative":
        runtime = Path(os.path.relpath(tmp_path / "run"))
        (tmp_path / "run").mkdir()
    else:
        runtime = tmp_path / "run" / "user"
    config = write_config(tmp_path, {"listen.unix": "auto"})
    arguments = ["run", "--sandbox", "--config", str(config)]
    daemon = Daemon(arguments, environment(XDG_RUNTIME_DIR=str(runtime)))
    try:
        daemon.wait_log(READY)
        warnings = [line["text"] for line in daemon.log if line["level"] == "warning"]
        assert any(text.startswith("no Unix socket: ") for text in warnings), warnings
        assert get(daemon.address("admin") + "/readyz")[0] == 200
        assert kind == "not ours" or not (runtime / "kdaemon").exists()
        assert kind != "missing" or not (tmp_path / "run").exists()
    finally:
        daemon.close()


def test_silent_connections_keep_nobody_out(tmp_path: Path) -> None:
    """With few open files: the soft limit is raised, clients leave room, who speaks is served."""
    limit = "import resource as r,runpy; r.setrlimit(r.RLIMIT_NOFILE, (200, 400));"
    program = ("-c", f"{limit} runpy.run_module('kdaemon', run_name='__main__', alter_sys=True)")
    config = write_config(tmp_path, {"listen.unix": str(tmp_path / "k.sock")})
    daemon = Daemon(["run", "--sandbox", "--config", str(config)], environment(), program)
    assert sys.executable
    try:
        daemon.wait_log(READY)
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
        soft = next(line for line in limits.splitlines() if line.startswith("Max open")).split()[3]
        assert soft == "400"
        line = b'{"stream":"demo","data":"a"}'
        with contextlib.ExitStack() as stack:
            for number in range(600):
                client = daemon.connect(("http", "unix")[number % 2])
                stack.enter_context(contextlib.closing(client))
            for listener in ("http", "unix"):
                assert json.loads(exchange(daemon, listener, line)) == {"acknowledged": 1}
            assert daemon.page("/livez")[0] == 200
            name = "kdaemon_client_connections_refused_total"
            assert daemon.counted(name, reason="connections") > 300
            assert daemon.counted(name, reason="descriptors") == 0
        assert daemon.is_alive
    finally:
        daemon.close()

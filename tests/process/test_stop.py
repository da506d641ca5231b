"""SIGTERM: served on, then drained; what could not be delivered is said, and is the exit code."""

import http.client
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.kit import endpoints
from tests.kit.daemon import (
    Daemon,
    Process,
    environment,
    sandbox,
    started,
    write_config,
)
from tests.kit.endpoints import Answer, Endpoint, entry
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.sockets import read_all
from tests.process.conftest import Run

ACCEPTED = {"x_kdaemon_acknowledge": "accepted"}
HANG: dict[str, object] = {"kind": "hang", "calls": None}
THROTTLE: dict[str, object] = {"kind": "throttle", "calls": None}
THROUGHPUT = "ProvisionedThroughputExceededException"
IN_FLIGHT = (500, "InternalFailure")
DRAIN_MS = 3000  # where the deadline is met; clients are told in the last quarter of it


def kind_of(fault: dict[str, object]) -> str:
    return str(fault["kind"])


def put(daemon: Daemon, count: int, **headers: str | None) -> dict[str, object]:
    """PutRecords of so many records to `demo`; the answer's members. It must be a 200."""
    answer = ask(daemon, count, **headers)
    assert answer.status == 200, answer
    return answer.members


def ask(daemon: Daemon, count: int, **headers: str | None) -> Answer:
    """PutRecords of so many records to `demo`, whatever comes of it."""
    endpoint = Endpoint.of(daemon)
    entries = [entry(b"%d" % index, f"key-{index}") for index in range(count)]
    body = json.dumps({"StreamName": "demo", "Records": entries}).encode()
    return endpoint.put_raw("PutRecords", body, **headers)


def last_words(daemon: Daemon) -> dict[str, object]:
    last = daemon.log[-1]
    assert last["text"] == "stopped"
    fields: dict[str, object] = last["fields"]
    return fields


def test_in_the_lame_duck_clients_are_served_and_readiness_is_off(run: Run) -> None:
    daemon = run({"drain.lame_duck_ms": 300_000})
    daemon.signal()
    daemon.wait_log("draining")
    status, reason = daemon.page("/readyz")
    assert status == 503
    assert "draining" in reason
    assert daemon.page("/livez")[0] == 200
    assert put(daemon, 10)["FailedRecordCount"] == 0
    daemon.signal()
    assert daemon.wait() == 1, "a second signal ends it at once"


def test_after_the_lame_duck_the_end_is_0_and_tells_what_was_delivered(run: Run) -> None:
    daemon = run({"drain.lame_duck_ms": 10})
    assert put(daemon, 10)["FailedRecordCount"] == 0
    assert daemon.stop() == 0
    assert last_words(daemon) == {"delivered": 10, "undelivered": 0}


def test_what_was_accepted_is_delivered_before_the_end(run: Run) -> None:
    with sandbox() as service:
        daemon = run({"default.linger_ms": 10_000, "default.deadline_ms": 20_000}, service=service)
        daemon.inject({"kind": "latency", "latency_ms": 500, "calls": 1})
        for _ in range(5):  # the first call is out; the rest gathers for company
            put(daemon, 100, **ACCEPTED)
        assert daemon.stop() == 0
        assert last_words(daemon) == {"delivered": 500, "undelivered": 0}
        assert len(endpoints.read_all(service)) == 500


@pytest.mark.parametrize(
    "fault", [HANG, {"kind": "status", "status": 503, "calls": None}], ids=kind_of
)
def test_what_is_left_at_the_drain_deadline_is_told_and_exits_with_1(
    run: Run, fault: dict[str, object]
) -> None:
    daemon = run({"drain.deadline_ms": 500})
    daemon.inject(fault)
    put(daemon, 300, **ACCEPTED)
    put(daemon, 200, **ACCEPTED)
    assert daemon.stop() == 1
    assert last_words(daemon) == {"delivered": 0, "undelivered": 500}
    assert not any("stack" in line for line in daemon.log)


@pytest.mark.parametrize(
    ("fault", "count", "refusal"),
    [
        (HANG, "kdaemon_records_attempts_total", IN_FLIGHT),
        (THROTTLE, "kdaemon_records_throttled_total", (400, THROUGHPUT)),
    ],
    ids=["hang", "throttle"],
)
def test_a_client_that_waits_is_answered_at_the_drain_deadline(
    run: Run, fault: dict[str, object], count: str, refusal: tuple[int, str]
) -> None:
    """Whether its records are in flight by then or queued, and with the reason. They count as
    undelivered. What is throttled is tried again, and may be in flight by then, too.
    """
    daemon = run({"drain.deadline_ms": DRAIN_MS})
    daemon.inject(fault)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, daemon, 10)
        wait_for(lambda: daemon.counted(count) or None, "the call")
        assert daemon.stop() == 1
        answer = waiting.result(PATIENCE_S)
    assert answer.refusal in {refusal, IN_FLIGHT}
    assert refusal[1] in answer.body.decode()
    assert last_words(daemon) == {"delivered": 0, "undelivered": 10}


def test_a_session_that_waits_is_told_at_the_drain_deadline(run: Run, tmp_path: Path) -> None:
    daemon = run({"drain.deadline_ms": DRAIN_MS, "listen.unix": str(tmp_path / "k.sock")})
    daemon.inject(THROTTLE)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(tmp_path / "k.sock"))
        client.sendall(b'{"stream": "demo", "partition_key": "k", "data": "x"}\n')
        wait_for(lambda: daemon.counted("kdaemon_records_attempts_total") or None, "the call")
        assert daemon.stop() == 1
        assert b'{"rejected":1,' in read_all(client)
    assert last_words(daemon) == {"delivered": 0, "undelivered": 1}


def test_a_request_that_ends_during_the_drain_is_kept_or_refused_but_never_lost(run: Run) -> None:
    """Half a request is there when the drain begins with nothing to do. Whatever the daemon says
    to the rest, it must be true.
    """
    with sandbox() as service:
        daemon = run(service=service)
        body = json.dumps({"StreamName": "demo", "Records": [entry(b"late", "k")]}).encode()
        head = (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"
            "X-Amz-Target: Kinesis_20131202.PutRecords\r\nX-Kdaemon-Acknowledge: accepted\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with daemon.connect() as client:
            client.sendall(head.encode() + body[:-1])
            wait_for(
                lambda: daemon.counted("kdaemon_client_connections", listener="http") or None,
                "the connection to be there",
            )
            daemon.signal()
            daemon.wait_log("draining")
            wait_for(lambda: None if is_listening(daemon) else True, "the listener to be closed")
            client.sendall(body[-1:])
            answer = read_all(client)
        code = daemon.wait()
        stored = len(endpoints.read_all(service))
    if b" 200 " in answer[:20] and b'"FailedRecordCount":0' in answer:
        assert (stored, code) == (1, 0), (answer, last_words(daemon))
    else:
        assert stored == 0, answer


def is_listening(daemon: Daemon) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", daemon.port)) == 0


def test_a_kept_connection_hears_close_while_the_daemon_drains(run: Run) -> None:
    """And an idle one is closed, so that a pool of connections does not hold up the end: waiting
    for it would take longer than this test waits.
    """
    daemon = run({"drain.deadline_ms": 300_000})
    idle = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
    with closing(idle):
        idle.request("GET", "/v1/none")
        idle.getresponse().read()
        assert daemon.stop() == 0


@pytest.mark.parametrize("when", ["lame duck", "drain"])
def test_a_second_signal_ends_it_at_once(run: Run, when: str) -> None:
    lame_duck_ms = 300_000 if when == "lame duck" else 0
    daemon = run({"drain.lame_duck_ms": lame_duck_ms, "drain.deadline_ms": 300_000})
    daemon.inject(HANG)
    put(daemon, 10, **ACCEPTED)
    daemon.signal()
    daemon.wait_log("draining")
    if when == "drain":
        wait_for(lambda: None if is_listening(daemon) else True, "the listener to be closed")
    daemon.signal()
    assert daemon.wait() == 1, "long before the drain would be over"
    assert "second signal" in daemon.log[-1]["text"]
    assert not any("Traceback" in line or '"stack"' in line for line in daemon.lines)


def test_the_socket_file_is_gone_after_the_end(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    daemon = run({"listen.unix": str(path)})
    with socket.socket(socket.AF_UNIX) as idle:
        idle.settimeout(PATIENCE_S)
        idle.connect(str(path))
        idle.sendall(b'{"stream": "demo"}\n')
        assert daemon.stop() == 0
        assert idle.recv(1) == b"", "a session that is idle is closed"
    assert not path.exists()


# Signals


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGIO])
@pytest.mark.parametrize("command", ["run", "sandbox"])
def test_signals_that_mean_nothing_here_are_ignored_and_told(
    command: str, number: signal.Signals, run: Run
) -> None:
    """Their default would end it at once, and what it had accepted would be gone."""
    with ExitStack() as stack:
        process: Process
        if command == "run":
            process = run()
        else:
            process = stack.enter_context(started(["sandbox", "--listen", "127.0.0.1:0"]))
            process.wait_log("listening")
        process.signal(number)
        if command == "run" and number == signal.SIGHUP:  # reads its configuration again
            process.wait_log("the configuration was read again: nothing has changed")
            assert process.stop() == 0
            return
        line = process.wait_log("a signal is ignored: it means nothing to kdaemon")
        assert line["fields"] == {"signal": number.name}
        assert process.stop() == 0


@pytest.mark.parametrize(
    "number", [signal.SIGQUIT, signal.SIGINT, signal.SIGTERM, signal.SIGPWR, signal.SIGXCPU]
)
def test_each_signal_that_asks_for_the_end_drains(run: Run, number: signal.Signals) -> None:
    daemon = run()
    put(daemon, 10, **ACCEPTED)
    daemon.signal(number)
    assert daemon.wait() == 0
    assert last_words(daemon) == {"delivered": 10, "undelivered": 0}


def test_the_sandbox_ends_by_sigquit_without_a_core() -> None:
    with started(["sandbox", "--listen", "127.0.0.1:0"]) as process:
        process.wait_log("listening")
        process.signal(signal.SIGQUIT)
        assert process.wait() == 0


SLOW_START = """
import os, sys, kdaemon.__main__
from kdaemon.spool.store import Store
def opens(*_, **__):
    os.write(2, b"it begins\\n")
    os.read(os.pipe()[0], 1)  # as a salvage that takes an hour
Store.__init__ = opens
kdaemon.__main__.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_during_the_start_is_heard_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """Though a thread is busy with the spool and cannot be interrupted. Nothing was taken: 0."""
    config = write_config(tmp_path, {"spool.directory": str(tmp_path / "spool")})
    arguments = ["run", "--sandbox", "--config", str(config)]
    process = Process(arguments, environment(), ("-c", SLOW_START))
    with closing(process):
        wait_for(lambda: "it begins" in process.lines or None, "the spool to be opened")
        process.signal(number)
        assert process.wait() == 0
        assert process.log[-1]["text"] == "stopped before it was ready: nothing was taken"


HANGS_AT_THE_END = """
import os, kdaemon.__main__
from kdaemon.spool.store import Store
Store.close = lambda _: os.read(os.pipe()[0], 1)  # as a disk that does not answer
kdaemon.__main__.main()
"""


def test_what_hangs_when_everything_is_done_is_left_by_another_signal(tmp_path: Path) -> None:
    """And the exit code is still the one of the drain."""
    config = write_config(tmp_path, {"spool.directory": str(tmp_path / "spool")})
    arguments = ["run", "--sandbox", "--config", str(config)]
    with closing(Process(arguments, environment(), ("-c", HANGS_AT_THE_END))) as process:
        process.wait_log("ready")
        process.signal()
        process.wait_log("stopped")
        process.signal()
        assert process.wait() == 0
        assert "not all could be closed" in process.log[-1]["text"]


def test_a_thread_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Whoever waits for a program that does not end (here: the AWS libraries, for the one that
    tells the credentials) cannot be interrupted.
    """
    fifo, aws = tmp_path / "pipe", tmp_path / "aws"
    os.mkfifo(fifo)
    aws.write_text(f"[default]\ncredential_process = cat {fifo}\n")
    no_keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    given = {"endpoint_url": "http://127.0.0.1:1", "region": "us-east-1", "drain.deadline_ms": 100}
    config = write_config(tmp_path, given)
    try:
        with started(
            ["run", "--config", str(config)], AWS_CONFIG_FILE=str(aws), **no_keys
        ) as process:
            process.wait_log("ready")
            url = process.address("http")
            body = json.dumps({"StreamName": "demo", "Records": [entry(b"x", "k")]}).encode()
            endpoint = Endpoint("daemon", url=url, put_url=url)
            assert endpoint.put_raw("PutRecords", body, **ACCEPTED).status == 200
            assert process.stop() == 1
            assert process.log[-1]["fields"] == {"delivered": 0, "undelivered": 1}
    finally:
        os.close(os.open(fifo, os.O_RDWR))  # ends that program

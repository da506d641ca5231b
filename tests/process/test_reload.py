"""A daemon reads its configuration again: by SIGHUP and by `kdaemon reload`. What is right takes
effect, whole; what is wrong or needs a restart changes nothing; connections stay open through it.
"""

import base64
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from kdaemon.system import start_of
from tests.kit.certificates import Authority
from tests.kit.daemon import (
    LOOPBACK,
    Daemon,
    command,
    environment,
    running,
    sandbox,
    send,
    write_config,
)
from tests.kit.endpoints import Endpoint, data_of, entry
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.web import Handler, serving
from tests.process.conftest import Run

DIRECTORY = "spool.directory"


def settings(tmp_path: Path, **more: object) -> dict[str, object]:
    return {
        "accept_unlisted": False,
        "sandbox.streams": ["demo", "late"],
        DIRECTORY: str(tmp_path / "spool"),
        "streams.demo.linger_ms": 5,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def configz(daemon: Daemon) -> dict[str, Any]:
    status, text = daemon.page("/configz")
    assert status == 200, text
    page: dict[str, Any] = json.loads(text)
    return page


def hang_up(daemon: Daemon) -> dict[str, Any]:
    """SIGHUP, and what became of it."""
    before = configz(daemon)["reloads"]
    daemon.signal(signal.SIGHUP)

    def over() -> dict[str, Any] | None:
        page = configz(daemon)
        return page if page["reloads"] > before else None

    found: dict[str, Any] = wait_for(over, "the reload to be over")
    return found


class Client:
    """One connection, for the whole test."""

    def __init__(self, daemon: Daemon) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)

    def put(self, stream: str, *data: str) -> tuple[int, dict[str, Any]]:
        """The daemon's answer to PutRecords, on the connection that was opened first."""
        was = self.connection.sock
        records = [
            {"Data": base64.b64encode(each.encode()).decode(), "PartitionKey": each}
            for each in data
        ]
        self.connection.request(
            "POST",
            "/",
            json.dumps({"StreamName": stream, "Records": records}),
            {
                "X-Amz-Target": "Kinesis_20131202.PutRecords",
                "Content-Type": "application/x-amz-json-1.1",
            },
        )
        answer = self.connection.getresponse()
        body = json.loads(answer.read())
        assert was is None or self.connection.sock is was, "the connection was closed"
        return answer.status, body


Connect = Callable[[Daemon], Client]


@pytest.fixture
def client_of() -> Iterator[Connect]:
    with ExitStack() as stack:

        def connected(daemon: Daemon) -> Client:
            client = Client(daemon)
            stack.callback(client.connection.close)
            return client

        yield connected


def test_an_upstream_beside_embedded_services_needs_a_restart_and_no_patience(
    run: Run, tmp_path: Path
) -> None:
    daemon = run(settings(tmp_path))
    eu = {"upstreams__eu__region": "eu-west-1", "upstreams__eu__account_id": "111111111111"}
    write_config(tmp_path, settings(tmp_path, **eu))
    hang_up(daemon)
    text = "the configuration was read again and needs a restart: nothing of it was taken"
    assert "upstreams.eu" in str(daemon.wait_log(text)["fields"])
    log = "\n".join(daemon.lines)
    assert "records are under way" not in log


def test_a_stream_comes_and_goes_and_a_connection_stays(
    run: Run, tmp_path: Path, client_of: Connect
) -> None:
    daemon = run(settings(tmp_path))
    client = client_of(daemon)
    assert client.put("demo", "a", "b")[0] == 200
    assert client.put("late", "a")[0] == 400  # not listed

    write_config(tmp_path, settings(tmp_path, streams__late__linger_ms=5, log__level="debug"))
    page = hang_up(daemon)
    assert page["last_reload"] == {
        "outcome": "applied",
        "keys": ["log.level", "streams.late"],
        "problems": [],
    }
    assert page["generation"] == 2
    assert client.put("late", "c")[0] == 200
    assert client.put("demo", "d")[0] == 200
    daemon.wait_log("the configuration was read again, and is in force")

    only_late = settings(tmp_path, streams__late__linger_ms=5, log__level="debug")
    del only_late["streams.demo.linger_ms"]
    write_config(tmp_path, only_late)
    assert hang_up(daemon)["generation"] == 3
    assert client.put("demo", "e")[0] == 400
    assert client.put("late", "f")[0] == 200
    metrics = daemon.wait_settled()
    assert metrics.total("kdaemon_records_delivered_total") == 5
    assert metrics.total("kdaemon_records_unaccounted") == 0
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("text", "outcome", "said"),
    [
        ("this is no TOML", "wrong", "is not TOML"),
        ("[streams.late]\nlinger_ms = -1\n", "wrong", "streams.late.linger_ms"),
        ("[auth]\nprincipals_file = '/nowhere'\nhttp = 'sigv4'\n", "wrong", "/nowhere"),
    ],
)
def test_a_wrong_file_changes_nothing_and_is_told(
    run: Run, tmp_path: Path, client_of: Connect, text: str, outcome: str, said: str
) -> None:
    daemon = run(settings(tmp_path))
    client = client_of(daemon)
    assert client.put("demo", "a")[0] == 200
    path = write_config(tmp_path, settings(tmp_path, streams__late__linger_ms=5))
    path.write_text(text)
    page = hang_up(daemon)
    assert page["last_reload"]["outcome"] == outcome
    assert any(said in each for each in page["last_reload"]["problems"]), page
    assert page["generation"] == 1
    assert client.put("late", "a")[0] == 400
    assert client.put("demo", "a")[0] == 200
    metrics = daemon.metrics()
    assert metrics.total("kdaemon_config_reloads_total") == 1
    assert metrics.total("kdaemon_config_reload_failures_total") == 1
    assert metrics.total("kdaemon_config_last_reload_successful") == 0
    daemon.wait_log(
        "the configuration was read again and cannot be used: the old one stays in force"
    )

    write_config(tmp_path, settings(tmp_path, streams__late__linger_ms=5))
    hang_up(daemon)
    metrics = daemon.metrics()
    assert metrics.total("kdaemon_config_reload_failures_total") == 1
    assert metrics.total("kdaemon_config_last_reload_successful") == 1
    assert client.put("late", "a")[0] == 200


def test_what_needs_a_restart_is_named_and_nothing_is_taken(
    run: Run, tmp_path: Path, client_of: Connect
) -> None:
    daemon = run(settings(tmp_path))
    client = client_of(daemon)
    more = {
        "streams__late__linger_ms": 5,
        "metrics__emf_namespace": "kdaemon",
        "spool__letters_bytes_max": 2**24,
    }
    write_config(tmp_path, settings(tmp_path, **more))
    page = hang_up(daemon)
    assert page["last_reload"]["outcome"] == "restart"
    assert page["last_reload"]["keys"] == ["spool.letters_bytes_max", "metrics.emf_namespace"]
    assert client.put("late", "a")[0] == 400


def describe(daemon: Daemon, host: str = "localhost") -> int:
    """DescribeStream, as a client that calls the daemon by this name."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
    target = "Kinesis_20131202.DescribeStream"
    headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1", "Host": host}
    connection.request("POST", "/", json.dumps({"StreamName": "demo"}), headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_what_an_operator_wants_to_change_at_night_holds_at_once(
    run: Run, tmp_path: Path, client_of: Connect
) -> None:
    """What is asked and shown; who may come, and for how long."""
    hot = {
        "sandbox__shard_count": 1,
        "default__acknowledge": "accepted",
        "default__shard_records_per_second": 50,
    }
    before = settings(tmp_path, listen__operations_passed_on=[], **hot)
    daemon = run(before)
    client = client_of(daemon)
    keys = ["customer-42"] * 500

    def page() -> str:
        return daemon.page("/statusz")[1]

    def is_hot() -> str | None:
        client.put("demo", *keys)
        return page() if '"keys"' in page() else None

    assert "customer-42" not in wait_for(is_hot, "the keys of the hot shard")
    assert "kdaemon_shard_records_buffered{" not in daemon.page("/metrics")[1]
    assert (describe(daemon), describe(daemon, "kdaemon.internal")) == (400, 403)
    assert daemon.page("/tap?stream=demo")[0] == 403

    night = {
        "observe__show_keys": True,
        "metrics__per_shard": True,
        "listen__hosts": ["kdaemon.internal"],
        "listen__admin_tap": True,
        "spool__bytes_max": 2**29,
    }
    write_config(tmp_path, settings(tmp_path, **hot, **night))
    assert hang_up(daemon)["last_reload"]["outcome"] == "applied"
    assert "customer-42" in page()
    assert json.loads(page())["spool"]["bytes_max"] == 2**29
    assert daemon.metrics().total("kdaemon_spool_bytes_max") == 2**29
    assert (describe(daemon), describe(daemon, "kdaemon.internal")) == (200, 200)
    assert daemon.page("/tap?stream=demo")[0] == 200
    assert "kdaemon_shard_records_buffered{" in daemon.page("/metrics")[1]

    write_config(tmp_path, settings(tmp_path, **hot, listen__connections_max=1))
    assert hang_up(daemon)["last_reload"]["outcome"] == "applied"
    refused = {"name": "kdaemon_client_connections_refused_total", "reason": "connections"}
    assert daemon.counted(**refused) == 0
    with suppress(OSError, http.client.HTTPException):
        describe(daemon)
    assert daemon.counted(**refused) == 1, "the newcomer, or the one that was there and idle"

    write_config(tmp_path, settings(tmp_path, **hot, listen__idle_timeout_ms=1))
    assert hang_up(daemon)["last_reload"]["outcome"] == "applied"
    client = client_of(daemon)
    client.put("demo", "a")
    assert client.connection.sock.recv(1) == b"", "it is idle for too long now"
    assert "customer-42" not in page()
    assert (describe(daemon), describe(daemon, "kdaemon.internal")) == (200, 403)


def reload(*arguments: str) -> subprocess.CompletedProcess[str]:
    return command("reload", *arguments)


def test_the_command_says_what_became_of_it(run: Run, tmp_path: Path) -> None:
    daemon = run(settings(tmp_path))
    admin = daemon.address("admin").removeprefix("http://")
    path = write_config(tmp_path, settings(tmp_path, streams__late__linger_ms=5))
    where = ("--config", str(path), "--admin", admin)

    done = reload(*where)
    assert (done.returncode, done.stdout) == (0, "in force (generation 2): streams.late\n")
    done = reload(*where)
    assert (done.returncode, done.stdout) == (0, f"nothing has changed in {path}\n")
    assert configz(daemon)["file"] == str(path)

    write_config(tmp_path, settings(tmp_path, log__format="json"))
    done = reload(*where)
    assert done.returncode == 1
    assert done.stderr == "needs a restart, and nothing of it was taken: log.format\n"

    path.write_text("accept_unlisted = 3\n[listen]\nhttp = 'x'\n")
    done = reload(*where)
    assert done.returncode == 78
    assert "accept_unlisted" in done.stderr
    assert "listen.http" in done.stderr
    assert "the old configuration stays in force" in done.stderr


def test_a_file_that_the_daemon_does_not_read_is_refused_and_the_daemon_s_own_is_named(
    run: Run, tmp_path: Path
) -> None:
    """It would say that nothing has changed, and the new file would never be in force."""
    daemon = run(settings(tmp_path))
    where = ("--admin", daemon.address("admin").removeprefix("http://"))
    own, other = tmp_path / "kdaemon.toml", tmp_path / "other.toml"
    other.write_text(own.read_text() + "\n[streams.late]\n")
    done = reload("--config", str(other), *where)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"reads {own}: {other} would not be read" in done.stderr
    assert configz(daemon)["reloads"] == 0
    link = tmp_path / "link.toml"
    link.symlink_to(own)
    assert reload("--config", str(link), *where).returncode == 0, "another name of the same file"


def test_a_daemon_without_a_file_says_so(tmp_path: Path) -> None:
    flags = [f"{key}={value}" for key, value in LOOPBACK.items()]
    arguments = [word for flag in flags for word in ("--set", flag)]
    daemon = Daemon(["run", "--sandbox", *arguments], environment())
    try:
        daemon.wait_log("ready")
        where = ("--admin", daemon.address("admin").removeprefix("http://"))
        done = reload(*where)
        assert done.stdout == "nothing has changed: the daemon reads no file\n"
        done = reload("--config", str(write_config(tmp_path, {})), *where)
    finally:
        daemon.close()
    assert done.returncode == 1
    assert "was started without a file" in done.stderr


def test_the_command_says_that_there_is_no_daemon(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, and not listening: nobody answers
        taken.bind(("127.0.0.1", 0))
        done = reload("--admin", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert "nobody listens there: is kdaemon running, with this listen.admin?" in done.stderr
    assert reload("--set", "listen.admin=").returncode == 1
    assert reload("--admin", "nonsense").returncode == 2


def test_the_command_speaks_tls_where_the_pages_do(run: Run, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue()
    given = {**settings(tmp_path), **files.settings, "listen.admin_tls": True}
    daemon = run(given)
    path = write_config(tmp_path, {**given, "log.level": "debug"})
    at = daemon.address("admin").removeprefix("https://").replace("localhost", "127.0.0.1")
    done = reload("--config", str(path), "--admin", at)
    assert (done.returncode, done.stdout) == (0, "in force (generation 2): log.level\n"), done


def test_the_command_shows_a_certificate_where_the_pages_ask_for_one(
    run: Run, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files, own = authority.issue(), authority.issue("own", is_for_clients=True)
    client = {"listen.tls_client_ca": str(files.authority), "listen.admin_tls": True}
    given = {**settings(tmp_path), **files.settings, **client}
    daemon = run(given)
    path = write_config(tmp_path, {**given, "log.level": "debug"})
    at = daemon.address("admin").removeprefix("https://").replace("localhost", "127.0.0.1")
    done = reload("--config", str(path), "--admin", at)
    assert done.returncode == 1
    assert "asks for a certificate (listen.tls_client_ca): give --client-certificate" in done.stderr
    shown = ("--client-certificate", str(own.certificate), "--client-key", str(own.key))
    done = reload("--config", str(path), "--admin", at, *shown)
    assert (done.returncode, done.stdout) == (0, "in force (generation 2): log.level\n"), done
    done = reload("--config", str(path), "--admin", at, "--client-certificate", str(path))
    assert (done.returncode, "cannot be used" in done.stderr) == (1, True)


def command_at(page: dict[str, Any], user: int | None = None) -> subprocess.CompletedProcess[str]:
    """`kdaemon reload`, where a process of this user answers with this page."""

    class Page(Handler):
        def do_GET(self) -> None:
            self.answer(200, json.dumps(page).encode())

    own = os.geteuid()
    os.seteuid(own if user is None else user)  # whose the socket is
    try:
        sock = socket.socket()
    finally:
        os.seteuid(own)
    sock.bind(("127.0.0.1", 0))
    server = http.server.HTTPServer(sock.getsockname(), Page, bind_and_activate=False)
    server.socket.close()
    server.socket, server.server_port = sock, sock.getsockname()[1]
    server.server_activate()
    with serving(server):
        return reload("--admin", f"127.0.0.1:{server.server_port}")


def test_whoever_listens_has_nobody_signalled_but_processes_of_his_own() -> None:
    """On the daemon's port, when it does not run: root believes the page of nobody."""
    is_root = os.geteuid() == 0
    pid = os.getpid() if is_root else 1  # another user's than the one who listens
    page = {"pid": pid, "start": start_of(pid), "reloads": 0, "is_reloading": False}
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))
    try:
        done = command_at(page, 65534 if is_root else None)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done.returncode == 1
    assert f"process {pid} is another user's" in done.stderr
    assert heard == []


@pytest.mark.parametrize("pid", [0, -1, "1", None, 1.5, [1]])
def test_a_page_that_names_no_process_is_no_daemon_s(pid: object) -> None:
    done = command_at({"pid": pid, "start": None, "reloads": 0, "is_reloading": False})
    assert done.returncode == 1
    assert "no daemon that can be told to reload" in done.stderr


@pytest.mark.parametrize("start", [1, None])
def test_the_command_signals_no_process_but_the_daemon(start: int | None) -> None:
    """Behind the port of a container the number of the process is another one's here."""
    page = {"pid": os.getpid(), "start": start, "reloads": 0, "is_reloading": False}
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))

    try:
        done = command_at(page)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done.returncode == 1
    assert "of another container" in done.stderr
    assert heard == []


def test_systemd_is_told_of_a_reload(tmp_path: Path) -> None:
    """As Type=notify-reload asks: RELOADING with the monotonic time, READY when it is over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = str(tmp_path / "notify")
        manager.bind(name)
        manager.settimeout(PATIENCE_S)
        path = write_config(tmp_path, settings(tmp_path))
        daemon = Daemon(
            ["run", "--sandbox", "--config", str(path)], environment(NOTIFY_SOCKET=name)
        )
        try:
            daemon.wait_log("ready")
            asked_us = time.monotonic_ns() // 1000
            daemon.signal(signal.SIGHUP)
            told = ""
            while not told.startswith("RELOADING"):
                told = manager.recv(4096).decode()
            usec = int(told.partition("MONOTONIC_USEC=")[2])
            assert usec >= asked_us
            while not told.startswith("READY"):
                told = manager.recv(4096).decode()
        finally:
            daemon.close()


def texts(name: str, count: int) -> list[bytes]:
    return [f"{name}-{number}".encode() for number in range(count)]


def put(
    daemon: Daemon, stream: str, data: list[bytes], acknowledge: str, key: str | None = None
) -> int:
    """`key`: of each; None: each has its own."""
    records = [entry(each, key or f"k{each!r}") for each in data]
    front = Endpoint.of(daemon, acknowledge)
    return front.put("PutRecords", StreamName=stream, Records=records).status


def read(service: str) -> Counter[bytes]:
    records = Endpoint("service", url=service, put_url=service).read_stream("orders")
    return Counter(data_of(each) for each in records)


def test_an_upstream_comes_and_one_that_goes_delivers_what_is_on_disk(
    run: Run, tmp_path: Path
) -> None:
    with sandbox("orders", 2) as default, sandbox("orders", 2) as eu:
        alone: dict[str, object] = {
            "account_id": "000000000000",
            DIRECTORY: str(tmp_path / "spool"),
            "default.linger_ms": 5,
        }
        both = {
            **alone,
            "upstreams.eu.region": "eu-central-1",
            "upstreams.eu.account_id": "111111111111",
            "upstreams.eu.endpoint_url": eu,
            "streams.orders-eu.upstream": "eu",
            "streams.orders-eu.upstream_name": "orders",
        }
        daemon = run(alone, service=default)
        where = {"endpoint_url": default, "region": "us-east-1"}
        assert put(daemon, "orders", texts("a", 20), "stored") == 200
        write_config(tmp_path, {**where, **both})
        assert hang_up(daemon)["last_reload"]["outcome"] == "applied"
        assert put(daemon, "orders-eu", texts("b", 20), "delivered") == 200

        faults = eu + "/sandbox/faults"
        fault = json.dumps([{"kind": "status", "status": 503, "calls": None}])
        assert send("POST", faults, fault)[0] == 200
        assert put(daemon, "orders-eu", texts("c", 200), "stored") == 200
        write_config(tmp_path, {**where, **alone})
        assert hang_up(daemon)["last_reload"]["outcome"] == "applied"
        assert put(daemon, "@eu/orders", texts("d", 1), "stored") == 400
        assert put(daemon, "orders", texts("e", 20), "delivered") == 200
        write_config(tmp_path, {**where, **both})
        page = hang_up(daemon)  # it has records yet
        assert page["last_reload"]["outcome"] == "restart"
        assert page["last_reload"]["keys"] == ["upstreams.eu"]

        assert send("DELETE", faults)[0] == 200
        daemon.wait_log("an upstream that the configuration has no more is closed")
        assert hang_up(daemon)["last_reload"]["outcome"] == "applied"  # and comes back
        assert put(daemon, "orders-eu", texts("f", 20), "delivered") == 200
        metrics = daemon.wait_settled()
        assert metrics.total("kdaemon_records_delivered_total") == 280
        assert metrics.total("kdaemon_records_unaccounted") == 0
        assert daemon.stop() == 0
        assert read(default) == Counter(texts("a", 20) + texts("e", 20))
        assert read(eu) == Counter(texts("b", 20) + texts("c", 200) + texts("f", 20))


@pytest.mark.parametrize("is_upstream", [False, True], ids=["stream", "upstream"])
def test_what_a_start_without_a_stream_left_on_disk_goes_first_when_a_reload_brings_it(
    run: Run, tmp_path: Path, *, is_upstream: bool
) -> None:
    """In an outage, so that all of it stands there."""
    with sandbox("orders", 1) as default, sandbox("orders", 1) as eu:
        alone: dict[str, object] = {
            "account_id": "000000000000",
            "accept_unlisted": False,
            "streams.other.in_flight_max": 16,
            DIRECTORY: str(tmp_path / "spool"),
            "drain.deadline_ms": 200,
            "default.linger_ms": 5,
        }
        ordered = {
            **alone,
            "streams.orders.ordering": "partition_key",
            "streams.orders.acknowledge": "stored",
        }
        if is_upstream:
            ordered |= {
                "upstreams.eu.region": "eu-central-1",
                "upstreams.eu.account_id": "111111111111",
                "upstreams.eu.endpoint_url": eu,
                "streams.orders.upstream": "eu",
            }
        service = eu if is_upstream else default
        faults = service + "/sandbox/faults"
        fault = json.dumps([{"kind": "status", "status": 503, "calls": None}])
        with running(tmp_path, ordered, service=default) as first:
            assert send("POST", faults, fault)[0] == 200
            for text in ("a", "b"):
                assert put(first, "orders", [text.encode()], "stored", "key") == 200
            assert first.stop() == 0
        daemon = run(alone, service=default)
        assert put(daemon, "orders", [b"no"], "stored") == 400
        write_config(tmp_path, {"endpoint_url": default, "region": "us-east-1", **ordered})
        assert hang_up(daemon)["last_reload"]["outcome"] == "applied"
        assert put(daemon, "orders", [b"c"], "stored", "key") == 200
        assert send("DELETE", faults)[0] == 200
        metrics = daemon.wait_settled()
        assert metrics.total("kdaemon_records_unaccounted") == 0
        assert daemon.stop() == 0
        found = Endpoint("service", url=service, put_url=service).read_stream("orders")
        assert [data_of(each) for each in found] == [b"a", b"b", b"c"]


def test_an_upstream_that_comes_back_at_once_is_another_one(run: Run, tmp_path: Path) -> None:
    """What was opened for the one before is closed all the same."""
    with sandbox("orders", 1) as default, sandbox("orders", 1) as eu:
        where: dict[str, object] = {"endpoint_url": default, "region": "us-east-1"}
        alone: dict[str, object] = {**where, "account_id": "000000000000"}
        both = {
            **alone,
            "upstreams.eu.region": "eu-central-1",
            "upstreams.eu.account_id": "111111111111",
            "upstreams.eu.endpoint_url": eu,
        }
        daemon = run({**both, "default.linger_ms": 5}, service=default)
        assert put(daemon, "@eu/orders", texts("a", 5), "delivered") == 200
        for file in (alone, both, alone):
            write_config(tmp_path, {**file, "default.linger_ms": 5})
            assert hang_up(daemon)["last_reload"]["outcome"] == "applied"
        closed = "an upstream that the configuration has no more is closed"

        def count() -> bool | None:
            return [line["text"] for line in daemon.log].count(closed) == 2 or None

        wait_for(count, "both to be closed")
        assert daemon.metrics().total("kdaemon_records_delivered_total") == 5
        assert daemon.stop() == 0


def test_clients_notice_nothing_of_reloads(run: Run, tmp_path: Path) -> None:
    """Six clients put to a listed stream while the file changes, is wrong, and needs a restart."""
    daemon = run(settings(tmp_path))
    is_over = threading.Event()
    outcomes: list[tuple[int, int]] = []

    def load(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
        client = Client(daemon)
        client.connection = connection
        sent = 0
        while not is_over.is_set():
            status, body = client.put("demo", f"{number}-{sent}", f"{number}+{sent}")
            assert (status, body["FailedRecordCount"]) == (200, 0)
            sent += 2
        connection.close()
        outcomes.append((number, sent))

    clients = [threading.Thread(target=load, args=(number,)) for number in range(6)]
    for each in clients:
        each.start()
    files = [
        settings(tmp_path, streams__late__linger_ms=5),
        settings(tmp_path, metrics__emf_namespace="kdaemon"),
        settings(tmp_path, metrics__per_shard=True, observe__show_keys=True),
        settings(tmp_path, spool__bytes_max=2**29, listen__connections_max=50),
        settings(tmp_path, listen__operations_passed_on=[], listen__idle_timeout_ms=50_000),
        settings(tmp_path, default__linger_ms=1, streams_max=7, log__level="warning"),
        settings(tmp_path, streams__demo__linger_ms=0, streams__demo__batch_bytes_max=300),
        settings(tmp_path, streams__demo__in_flight_max=0),  # wrong
        settings(tmp_path, memory_bytes_max=2**28 + 1, streams__demo__buffer_bytes_max=2**24),
        settings(tmp_path, send__call_timeout_ms=30_000, send__connections_max=40),
        settings(tmp_path, accept_unlisted=True, streams__demo__deadline_ms=40_000),
    ]
    found: list[str] = []
    for _ in range(3):
        for file in files:
            if found:  # it may grow, and not shrink
                file.setdefault("memory_bytes_max", 2**28 + 1)
            write_config(tmp_path, file)
            found.append(hang_up(daemon)["last_reload"]["outcome"])
    is_over.set()
    for each in clients:
        each.join()
    assert len(outcomes) == 6  # nobody was refused, cut off or failed
    assert Counter(found) == {"applied": 27, "restart": 3, "wrong": 3}
    sent = sum(count for _, count in outcomes)
    metrics = daemon.wait_settled()
    assert metrics.total("kdaemon_records_delivered_total", stream="demo") == sent
    assert metrics.total("kdaemon_records_received_total") == sent
    assert metrics.total("kdaemon_records_possible_duplicates_total") == 0
    assert metrics.total("kdaemon_client_connections_opened_total", listener="http") == 6
    assert daemon.stop() == 0

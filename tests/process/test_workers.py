"""Several workers as one daemon: load, a worker that dies, a drain, spools that are adopted."""

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.kit.daemon import (
    READY,
    Daemon,
    command,
    environment,
    from_scratch,
    running,
    sandbox,
    started,
    write_config,
)
from tests.kit.endpoints import Endpoint, read_all
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.restarts import Load
from tests.kit.systemd import Activated, Manager

DEAD_PORT = "http://127.0.0.1:9"  # nobody listens: an outage


@pytest.fixture
def service() -> Iterator[str]:
    with sandbox("demo", 8) as url:
        yield url


def settings_of(directory: Path, **more: object) -> dict[str, object]:
    return {
        "workers": 2,
        "region": "us-east-1",
        "listen.unix": str(directory / "k.sock"),
        "spool.directory": str(directory / "spool"),
        "default.only_writer": True,
        **more,
    }


def workers_of(daemon: Daemon) -> list[dict[str, Any]]:
    status, text = daemon.page("/statusz")
    assert status == 200, "\n".join([text, *daemon.lines])
    page: dict[str, Any] = json.loads(text)
    found: list[dict[str, Any]] = page["workers"]
    return found


def put_lines(daemon: Daemon, names: list[str], acknowledge: str = "stored") -> None:
    """Over a connection of its own."""
    body = "".join(json.dumps({"data": name}) + "\n" for name in names)
    answer = Endpoint.of(daemon, acknowledge).put_lines("demo", body.encode())
    assert answer.status == 200, answer


class Connections:
    """Kept ones, each of which has put a record."""

    def __init__(self, daemon: Daemon, count: int, stack: ExitStack) -> None:
        self._daemon, self._stack = daemon, stack
        self.all: list[http.client.HTTPConnection] = []
        for _ in range(count):
            self.put(self.open())

    def open(self) -> http.client.HTTPConnection:
        host, _, port = self._daemon.url.removeprefix("http://").partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        self._stack.callback(connection.close)
        self.all.append(connection)
        return connection

    @staticmethod
    def put(
        connection: http.client.HTTPConnection, data: str = "x", acknowledge: str = "accepted"
    ) -> int:
        body = json.dumps({"data": data})
        headers = {"X-Kdaemon-Acknowledge": acknowledge}
        connection.request("POST", "/v1/streams/demo/records", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def test_connections_are_shared_evenly_and_all_is_delivered(tmp_path: Path, service: str) -> None:
    with running(tmp_path, settings_of(tmp_path), service=service) as daemon, ExitStack() as stack:
        Connections(daemon, 8, stack)
        assert [each["connections"] for each in workers_of(daemon)] == [4, 4]
        with Load("demo", daemon.url, daemon.address("unix")) as load:
            load.wait_progress(50)
        metrics = daemon.wait_settled()
        for number in ("1", "2"):
            assert metrics.total("kdaemon_records_delivered_total", worker=number) > 4
            assert metrics.total("kdaemon_records_unaccounted", worker=number) == 0
        assert metrics.left_over("demo") == 0
        page = json.loads(daemon.page("/statusz")[1])
        (stream,) = page["streams"]
        assert stream["delivered"] == metrics.total("kdaemon_records_delivered_total")
        assert stream["received"] == metrics.total("kdaemon_records_received_total", stream="demo")
        assert daemon.stop() == 0
        assert daemon.log[-1]["text"] == "stopped"
        assert daemon.log[-1]["fields"]["delivered"] == stream["delivered"]
        assert {line["fields"].get("worker") for line in daemon.log if "fields" in line} >= {1, 2}
        records = read_all(service)
        load.check([record for record in records if record != b"x"])
        assert len(records) == stream["delivered"]


def test_a_worker_that_is_killed_is_started_again_and_its_spool_is_delivered(
    tmp_path: Path, service: str
) -> None:
    names = [f"stored-{number}" for number in range(40)]
    with (
        running(tmp_path, settings_of(tmp_path), service=service) as daemon,
        ExitStack() as stack,
    ):
        # Nothing leaves: what is stored stands on the disks of both workers.
        daemon.inject({"kind": "status", "status": 500, "calls": None})
        for name in names:
            put_lines(daemon, [name])
        assert daemon.counted("kdaemon_spool_frames", worker="1") > 0
        assert daemon.counted("kdaemon_spool_frames", worker="2") > 0
        first, second = workers_of(daemon)
        os.kill(first["pid"], signal.SIGKILL)
        ended = daemon.wait_log(
            "a worker ended: it is started again; what it had on disk is delivered"
        )
        assert ended["fields"]["how"] == "signal SIGKILL"

        def again() -> dict[str, Any] | None:
            found = workers_of(daemon)[0]
            return found if found["state"] == "serving" and found["restarts"] == 1 else None

        Connections(daemon, 2, stack)  # the other one serves meanwhile
        found = wait_for(again, "the worker to serve again")
        assert found["pid"] != first["pid"]
        assert workers_of(daemon)[1]["pid"] == second["pid"]
        assert daemon.counted("kdaemon_worker_restarts_total", worker="1") == 1
        daemon.clear_faults()
        wait_for(
            lambda: (
                (
                    daemon.counted("kdaemon_records_spooled") == 0
                    and daemon.counted("kdaemon_spool_frames") == 0
                )
                or None
            ),
            "the spools to be empty",
        )
        metrics = daemon.wait_settled()
        assert metrics.total("kdaemon_records_recovered_total", worker="1") > 0
        assert metrics.left_over("demo") == 0
        assert daemon.stop() == 0
    delivered = {record.decode() for record in read_all(service)}
    assert set(names) <= delivered


def store_in_outage(directory: Path, names: list[str], **more: object) -> None:
    """By a daemon that ends with all of them on disk, each of its workers with as many."""
    config = settings_of(directory, **{"drain.deadline_ms": 200, **more})
    with running(directory, config, service=DEAD_PORT) as daemon:
        with ExitStack() as stack:
            connections = Connections(daemon, 0, stack)
            for name in names:  # each over its own: workers get as many as their connections are
                assert connections.put(connections.open(), name, "stored") == 200
        assert daemon.stop() == 0
        assert daemon.log[-1]["fields"]["spooled"] == len(names)


@pytest.mark.parametrize(("before", "after"), [(3, 2), (3, 1), (1, 2), (2, 3)])
def test_another_number_of_workers_delivers_what_is_on_disk(
    tmp_path: Path, service: str, before: int, after: int
) -> None:
    names = [f"stored-{number}" for number in range(30)]
    store_in_outage(tmp_path, names, workers=before)
    config = settings_of(tmp_path, workers=after)
    with running(tmp_path, config, service=service) as daemon:
        wait_for(lambda: set(read_all(service)) == {n.encode() for n in names} or None, "all of it")
        put_lines(daemon, ["one more"])
        if (before, after) != (2, 3):
            daemon.wait_log("what stood in the spool of a worker that is no more is delivered")
            # Processes of their own delivered it, and are gone.
            gone = lambda: not any(each["is_heir"] for each in workers_of(daemon)) or None
            wait_for(gone, "the heirs to end")
        assert daemon.stop() == 0
    assert sorted(read_all(service)) == sorted([*(n.encode() for n in names), b"one more"])
    with running(tmp_path, config, service=service) as daemon:
        if after == 1:  # no supervisor any more: nothing is left
            assert "workers" not in json.loads(daemon.page("/statusz")[1])
        assert daemon.stop() == 0
    assert len(read_all(service)) == len(names) + 1


def test_one_worker_is_a_lone_daemon(tmp_path: Path, service: str) -> None:
    with running(tmp_path, settings_of(tmp_path, workers=1), service=service) as daemon:
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text()
        assert children == ""
        assert "workers" not in json.loads(daemon.page("/statusz")[1])
        assert "worker=" not in daemon.page("/metrics")[1]
        assert daemon.stop() == 0


def test_a_supervisor_that_is_killed_takes_its_workers_along(tmp_path: Path, service: str) -> None:
    config = settings_of(tmp_path, **{"listen.unix": ""})
    with running(tmp_path, config, service=service) as daemon:
        put_lines(daemon, ["a"])
        pids = [each["pid"] for each in workers_of(daemon)]
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids) or None, "the end")
    assert read_all(service) == [b"a"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_is_one_drain(
    tmp_path: Path, service: str, number: signal.Signals
) -> None:
    """As a terminal or a service manager sends it."""
    with running(tmp_path, settings_of(tmp_path), service=service) as daemon:
        put_lines(daemon, ["a"], "accepted")
        for worker in workers_of(daemon):
            os.kill(worker["pid"], number)
        put_lines(daemon, ["b"], "accepted")
        daemon.signal(number)
        assert daemon.wait() == 0
    assert sorted(read_all(service)) == [b"a", b"b"]


def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    config = settings_of(tmp_path, **{"spool.directory": ""})
    with running(tmp_path, config, service=DEAD_PORT) as daemon:
        put_lines(daemon, ["a"], "accepted")
        pids = [each["pid"] for each in workers_of(daemon)]
        daemon.signal()
        daemon.wait_log("draining")
        daemon.signal()
        assert daemon.wait() == 1
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_start_that_cannot_be_says_so_and_leaves_nobody(tmp_path: Path, service: str) -> None:
    (tmp_path / "spool" / "worker-2").mkdir(parents=True)
    (tmp_path / "spool" / "worker-2" / "spool.db").write_text("somebody else's file" * 10)
    given = settings_of(tmp_path, endpoint_url=service)
    with started(["run", "--config", str(write_config(tmp_path, given))]) as process:
        assert process.wait() == 1
        said = [line["text"] for line in process.log]
        assert any("not a database of kdaemon" in text for text in said)
        assert any("worker 2 ended: its lines above say why" in text for text in said)


def test_a_start_that_fails_behind_open_spools_leaves_them_alone(
    tmp_path: Path, service: str
) -> None:
    """And says what else is wrong, but not that a worker of its own has a spool."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        more = {"endpoint_url": service, "listen.http": at, "ca_file": str(tmp_path / "none.pem")}
        config = write_config(tmp_path, settings_of(tmp_path, **more))
        with started(["run", "--config", str(config)]) as process:
            assert process.wait() == 1
            log = "\n".join(process.lines)
    assert "cannot start: listen.http" in log
    assert log.count("to be mended, too: ") == 1
    assert "ca_file" in log
    assert '"stopped"' in log


def test_a_lone_daemon_on_the_same_spool_is_told_of(tmp_path: Path, service: str) -> None:
    with running(tmp_path, settings_of(tmp_path, workers=1), service=service) as lone:
        other = tmp_path / "other"
        other.mkdir()
        given = settings_of(
            tmp_path, **{"endpoint_url": service, "listen.unix": str(other / "k.sock")}
        )
        with started(["run", "--config", str(write_config(other, given))]) as process:
            assert process.wait() == 1
            assert any(f"in use by process {lone.pid}" in line for line in process.lines)


def test_a_worker_without_descriptors_is_spared_and_has_its_part_again_later(
    tmp_path: Path, service: str
) -> None:
    """A connection that it could not take is counted once, and not as on its way for ever."""
    with running(tmp_path, settings_of(tmp_path), service=service) as daemon:
        pid = workers_of(daemon)[0]["pid"]
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
        with ExitStack() as stack:
            lost, connections = 0, Connections(daemon, 0, stack)
            for _ in range(20):
                try:
                    connections.put(connections.open())
                except OSError:
                    lost += 1
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            assert 1 <= lost <= 10, "the other one took them"
            refused = daemon.metrics().total(
                "kdaemon_client_connections_refused_total", reason="descriptors", worker="1"
            )
            assert refused == lost
        wait_for(
            lambda: not any(each["connections"] for each in workers_of(daemon)) or None,
            "the connections to be gone",
        )
        with ExitStack() as stack:

            def is_even() -> bool | None:
                Connections(daemon, 1, stack)
                return workers_of(daemon)[0]["connections"] > 1 or None

            wait_for(is_even, "the first worker to get connections again")


def test_an_end_while_workers_start_is_an_end_like_any(tmp_path: Path) -> None:
    """One order is enough for who has taken nothing: nobody speaks of a disk that hangs."""
    config = write_config(tmp_path, settings_of(tmp_path, endpoint_url=DEAD_PORT))
    with started(["run", "--config", str(config)]) as process:
        wait_for(lambda: '"spool"' in "".join(process.lines) or None, "a worker that starts")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        texts = [line["text"] for line in process.log]
    assert not [text for text in texts if text.startswith("not all could be closed")]
    assert not [text for text in texts if "defect" in text]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_workers_on_the_same_spool_are_told_of(tmp_path: Path, count: int) -> None:
    """Though nothing stands in their spools, and some number is nobody's yet."""
    with running(tmp_path, settings_of(tmp_path), service=DEAD_PORT):
        other = tmp_path / "other"
        other.mkdir()
        more = {"workers": count, "endpoint_url": DEAD_PORT, "listen.unix": str(other / "k.sock")}
        config = write_config(other, settings_of(tmp_path, **more))
        with started(["run", "--config", str(config)]) as process:
            assert process.wait() == 1
            assert ", worker 1 of another kdaemon: stop that" in "".join(process.lines)


def test_probes_and_commands_see_one_daemon(tmp_path: Path, service: str) -> None:
    with running(tmp_path, settings_of(tmp_path), service=service) as daemon:
        admin = daemon.address("admin")
        assert daemon.page("/readyz") == (200, "ok\n")
        assert daemon.page("/livez") == (200, "ok\n")
        assert json.loads(daemon.page("/configz")[1])["pid"] == daemon.pid
        for command in (["status"], ["health"], ["top", "--count", "2", "--every", "0.1"]):
            with started([*command, "--admin", admin]) as process:
                assert process.wait() == 0, process.lines
        assert daemon.stop() == 0


def test_the_watchdog_and_readiness_are_the_supervisor_s(tmp_path: Path, service: str) -> None:
    with Manager(tmp_path / "notify") as manager:
        config = write_config(tmp_path, settings_of(tmp_path, endpoint_url=service))
        variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
        with (
            from_scratch(),  # /proc tells of a process, and not of a copy, what it was started with
            closing(Daemon(["run", "--config", str(config)], environment(**variables))) as daemon,
        ):
            daemon.wait_log(READY)
            manager.wait("READY=1")
            for worker in workers_of(daemon):
                environ = Path(f"/proc/{worker['pid']}/environ").read_bytes()
                assert b"NOTIFY_SOCKET" not in environ
                assert b"WATCHDOG" not in environ
            assert daemon.stop() == 0
            manager.wait("STOPPING=1")


def test_sockets_of_systemd_are_served_through_a_restart(tmp_path: Path, service: str) -> None:
    with ExitStack() as stack:
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(tmp_path / "k.sock"))
        unix.listen(64)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        given = settings_of(
            tmp_path,
            **{
                "endpoint_url": service,
                "listen.http": f"127.0.0.1:{tcp.getsockname()[1]}",
                "drain.lame_duck_ms": 600,
            },
        )
        activated = Activated(write_config(tmp_path, given), {"unix": unix, "http": tcp})
        daemon = stack.enter_context(activated.started())
        with Load("demo", daemon.url, daemon.address("unix")) as load:
            load.wait_progress(20)
            assert daemon.stop() == 0
            daemon = stack.enter_context(activated.started())
            load.wait_progress(20)
        assert daemon.stop() == 0
        load.check(read_all(service))


def test_the_commands_for_a_spool_find_those_of_all_workers(tmp_path: Path) -> None:
    store_in_outage(tmp_path, [f"stored-{number}" for number in range(6)])
    config = str(write_config(tmp_path, settings_of(tmp_path)))

    def spool(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return command("spool", *arguments, "--config", config)

    lines = spool("status", "--json").stdout.splitlines()
    assert [json.loads(line)["streams"][0]["records"] for line in lines] == [3, 3]
    found = spool("verify")
    assert found.returncode == 78
    assert "name one of them with --directory" in found.stderr
    one = spool("verify", "--directory", str(tmp_path / "spool" / "worker-2"))
    assert "3 sound records" in one.stdout


def test_a_worker_that_stands_still_is_told_on_each_page_and_fails_none(
    tmp_path: Path, service: str
) -> None:
    with running(tmp_path, settings_of(tmp_path), service=service) as daemon:
        for name in ("a", "b"):  # a connection each, and so a worker each
            put_lines(daemon, [name], "delivered")
        still = workers_of(daemon)[0]
        os.kill(still["pid"], signal.SIGSTOP)

        def missing() -> list[str | None]:
            return [each["missing_because"] for each in workers_of(daemon)]

        def up() -> list[int]:
            metrics = daemon.metrics()
            return [metrics.total("kdaemon_worker_up", worker=number) for number in ("1", "2")]

        try:  # the other one may be late, too, where the machine is busy
            wait_for(lambda: missing() == ["no answer within 3 s", None], "the page to tell")
            wait_for(lambda: up() == [0, 1], "the metrics to tell")
            assert daemon.page("/readyz")[0] == 200
            shown = command("status", "--admin", daemon.address("admin"), "--timeout", "30")
            assert "1: not counted here, no answer within 3 s" in shown.stdout
        finally:
            with suppress(ProcessLookupError):  # after 30 s it is ended, and started again
                os.kill(still["pid"], signal.SIGCONT)
        wait_for(lambda: missing() == [None, None], "both workers to answer")

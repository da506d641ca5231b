"""`kdaemon run --takeover`: another process listens on the same sockets; nobody is refused."""

import contextlib
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.daemon import READY, Daemon, environment, get, sandbox, started, write_config
from tests.kit.endpoints import read_all
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.restarts import Load, settings_of


@pytest.fixture
def service() -> Iterator[str]:
    with sandbox("demo", 8) as url:
        yield url


def start(config: Path, *flags: str) -> Daemon:
    return Daemon(["run", *flags, "--config", str(config)], environment())


def ready(stack: ExitStack, config: Path, *flags: str) -> Daemon:
    daemon = start(config, *flags)
    stack.callback(daemon.close)
    daemon.wait_log(READY)
    return daemon


def run(config: Path, stack: ExitStack, service: str) -> Daemon:
    """One that is ready, in front of a service that is told what to do."""
    daemon = ready(stack, config)
    daemon.sandbox_url = service
    return daemon


def took_over(config: Path, stack: ExitStack) -> Daemon:
    return ready(stack, config, "--takeover")


def test_under_load_nobody_is_refused_and_nothing_is_lost_or_repeated(
    tmp_path: Path, service: str
) -> None:
    config = write_config(tmp_path, settings_of(tmp_path, service))
    with ExitStack() as stack:
        daemon = run(config, stack, service)
        with Load("demo", daemon.url, daemon.address("unix")) as load:
            load.wait_progress(20)
            for _ in range(3):
                old, daemon = daemon, took_over(config, stack)
                assert daemon.url == old.url
                assert old.wait() == 0
                assert old.log[-1]["fields"]["undelivered"] == 0
                load.wait_progress(20)
        assert daemon.stop() == 0
        load.check(read_all(service))
        assert not (tmp_path / "k.sock").exists()
        assert not (tmp_path / "k.sock.takeover").exists()


def test_what_is_to_be_stored_waits_for_the_spool_of_the_one_before(
    tmp_path: Path, service: str
) -> None:
    more = {"drain.lame_duck_ms": 0, "drain.deadline_ms": 4_000, "send.call_timeout_ms": 40_000}
    config = write_config(tmp_path, settings_of(tmp_path, service, **more))
    with ExitStack() as stack:
        old = run(config, stack, service)
        old.inject({"kind": "hang", "calls": None})
        assert store(tmp_path, "one") == {"acknowledged": 1}
        wait_for(lambda: old.counted("kdaemon_records_in_flight") or None, "the first call")
        new = took_over(config, stack)
        assert new.page("/readyz") == (503, f"spool: it is held by process {old.pid} still\n")
        old.clear_faults()
        assert store(tmp_path, "two") == {"acknowledged": 1}
        new.wait_log("spool")
        assert old.wait() == 0
        wait_for(lambda: new.page("/readyz")[0] == 200 or None, "the new one to be ready")
        new.wait_settled()
        assert new.stop() == 0
    assert sorted(read_all(service)) == [b"one", b"two"]


def test_what_stands_in_the_spool_is_left_to_the_new_one(tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(sandbox("demo", 1))
        config = write_config(tmp_path, settings_of(tmp_path, service))
        old = run(config, stack, service)
        names = [str(number) for number in range(6_000)]  # the shard takes 1,000 a second
        setup = {"stream": "demo", "acknowledge": "stored"}
        lines = [setup, *({"data": name, "partition_key": name} for name in names)]
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(tmp_path / "k.sock"))
            client.sendall("".join(json.dumps(line) + "\n" for line in lines).encode())
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as answers:
                assert json.loads(list(answers)[-1]) == {"acknowledged": len(names)}
        new = took_over(config, stack)
        assert old.wait() == 0
        last = old.log[-1]["fields"]
        assert last["undelivered"] == 0
        assert last["spooled"] > 0, "or the new one waited for all of it"
        new.wait_log("spool")
        wait_for(lambda: new.counted("kdaemon_records_spooled") == 0 or None, "the backlog")
        new.wait_settled()
        assert new.stop() == 0
        assert sorted(read_all(service)) == sorted(name.encode() for name in names)


def test_order_in_memory_outlives_the_change_of_process(tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(sandbox("demo", 1))
        more = {"default.ordering": "partition_key", "spool.directory": ""}
        config = write_config(tmp_path, settings_of(tmp_path, service, **more))
        old = run(config, stack, service)
        old.inject({"kind": "latency", "latency_ms": 50, "calls": 40})
        accept(tmp_path, [str(number) for number in range(300)])
        new = start(config, "--takeover")
        stack.callback(new.close)
        old.wait_log("draining")
        accept(tmp_path, [str(number) for number in range(300, 400)])
        assert old.wait() == 0
        new.wait_log(READY)
        new.wait_settled()
        assert new.stop() == 0
        assert read_all(service) == [str(number).encode() for number in range(400)]


def accept(directory: Path, names: list[str]) -> None:
    """Records of one key, which the daemon that has the socket accepts."""
    lines = [{"stream": "demo", "acknowledge": "accepted"}]
    lines += [{"data": name, "partition_key": "k"} for name in names]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(directory / "k.sock"))
        client.sendall("".join(json.dumps(line) + "\n" for line in lines).encode())
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answers:
            assert json.loads(list(answers)[-1]) == {"acknowledged": len(names)}


def store(directory: Path, data: str, key: str | None = None) -> dict[str, object]:
    """What is answered to one line that is to be stored."""
    line = {"data": data} | ({} if key is None else {"partition_key": key})
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(directory / "k.sock"))
        setup = {"stream": "demo", "acknowledge": "stored"}
        client.sendall(f"{json.dumps(setup)}\n{json.dumps(line)}\n".encode())
        with client.makefile("rb") as answers:
            said: dict[str, object] = json.loads(answers.readline())
            return said


def test_one_that_cannot_start_leaves_the_one_that_runs_untouched(
    tmp_path: Path, service: str
) -> None:
    settings = settings_of(tmp_path, service)
    config = write_config(tmp_path, settings)
    with ExitStack() as stack:
        daemon = run(config, stack, service)
        (tmp_path / "other").mkdir()
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = taken.getsockname()[1]
        bad = {**settings, "listen.admin": f"127.0.0.1:{port}"}
        other = start(write_config(tmp_path / "other", bad), "--takeover")
        stack.callback(other.close)
        assert other.wait() == 1
        assert any("listen.admin" in line["text"] for line in other.log)
        assert get(daemon.address("admin") + "/readyz")[0] == 200
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "k.sock"))
        assert daemon.stop() == 0


def test_where_nobody_runs_it_is_a_start(tmp_path: Path, service: str) -> None:
    config = write_config(tmp_path, settings_of(tmp_path, service))
    with contextlib.closing(start(config, "--takeover")) as daemon:
        daemon.wait_log(READY)
        assert daemon.stop() == 0


def test_without_a_unix_socket_they_meet_in_the_spool(tmp_path: Path, service: str) -> None:
    config = write_config(tmp_path, settings_of(tmp_path, service, **{"listen.unix": ""}))
    with ExitStack() as stack:
        old = run(config, stack, service)
        new = took_over(config, stack)
        assert old.wait() == 0
        new.wait_log("spool")
        assert new.url == old.url
        assert new.stop() == 0
        assert not (tmp_path / "spool" / "takeover.sock").exists()


def test_without_a_place_to_meet_it_says_so(tmp_path: Path, service: str) -> None:
    settings = settings_of(tmp_path, service, **{"listen.unix": "", "spool.directory": ""})
    config = write_config(tmp_path, settings)
    with started(["run", "--takeover", "--config", str(config)]) as process:
        assert process.wait() == 1
        assert "listen.unix or spool.directory" in process.lines[-1]

"""A takeover by several workers, or from several: what a lone daemon promises holds for them."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.daemon import READY, Daemon, environment, sandbox, write_config
from tests.kit.patience import wait_for
from tests.kit.restarts import settings_of
from tests.process.test_takeover import accept, read_all, start, store, took_over
from tests.process.test_takeover_ends import FAILS_LATE, broken, put_accepted

HELD = "the spool is still held: what is to be stored waits for it"
COUNTS = [(2, 2), (1, 2), (2, 1)]
BREAKS = "import sys; {}; from kdaemon.__main__ import main; main()"


@pytest.fixture
def service() -> Iterator[str]:
    with sandbox("demo", 1) as url:
        yield url


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def config_of(directory: Path, settings: dict[str, object], workers: int) -> Path:
    directory.mkdir(exist_ok=True)
    return write_config(directory, {**settings, "workers": workers})


def run(config: Path, stack: ExitStack, service: str) -> Daemon:
    daemon = start(config)
    stack.callback(daemon.close)
    daemon.wait_log(READY)
    daemon.sandbox_url = service
    return daemon


@pytest.mark.parametrize("counts", COUNTS)
def test_what_was_ordered_in_memory_goes_before_what_comes(
    tmp_path: Path, service: str, stack: ExitStack, counts: tuple[int, int]
) -> None:
    ordered = {"default.ordering": "partition_key", "spool.directory": ""}
    settings = settings_of(tmp_path, service, **ordered)
    old = run(config_of(tmp_path / "a", settings, counts[0]), stack, service)
    old.inject({"kind": "throttle", "calls": 1, "latency_ms": 3_000})
    accept(tmp_path, ["one", "two"])
    wait_for(lambda: old.counted("kdaemon_records_in_flight") or None, "the first call")
    stored = {"default.acknowledge": "stored", "spool.directory": str(tmp_path / "spool")}
    new = start(config_of(tmp_path / "b", settings | stored, counts[1]), "--takeover")
    stack.callback(new.close)
    old.wait_log("draining")
    assert store(tmp_path, "three", key="k") == {"acknowledged": 1}
    assert old.wait() == 0
    new.wait_log(READY)
    new.wait_settled()
    assert new.stop() == 0
    assert read_all(service) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("counts", COUNTS)
def test_what_is_left_on_disk_in_order_is_delivered_by_who_comes(
    tmp_path: Path, service: str, stack: ExitStack, counts: tuple[int, int]
) -> None:
    """And the doors open behind the end of who left it."""
    stored = {"default.ordering": "partition_key", "default.acknowledge": "stored"}
    settings = settings_of(tmp_path, service, **stored)
    old = run(config_of(tmp_path / "a", settings, counts[0]), stack, service)
    old.inject({"kind": "throttle", "calls": None})
    assert store(tmp_path, "one", key="k") == {"acknowledged": 1}
    memory = {"default.acknowledge": "delivered"}
    new = took_over(config_of(tmp_path / "b", settings | memory, counts[1]), stack)
    assert old.wait() == 0
    assert old.log[-1]["fields"]["spooled"] == 1
    new.sandbox_url = service
    new.clear_faults()
    wait_for(lambda: read_all(service) == [b"one"] or None, "what was left")
    new.wait_settled()
    assert new.stop() == 0


@pytest.mark.parametrize("counts", [(1, 2), (2, 2)])
@pytest.mark.parametrize("third_count", [1, 2])
def test_a_spool_that_a_third_process_has_is_not_waited_for(
    tmp_path: Path, service: str, stack: ExitStack, counts: tuple[int, int], third_count: int
) -> None:
    """The lone one's stands above those of workers."""
    settings = settings_of(tmp_path, service)
    old = run(config_of(tmp_path / "a", settings, counts[0]), stack, service)
    (tmp_path / "third").mkdir()
    of_third = settings_of(tmp_path / "third", service)
    third = run(config_of(tmp_path / "third", of_third, third_count), stack, service)
    other = {"spool.directory": str(tmp_path / "third" / "spool")}
    new = start(config_of(tmp_path / "b", settings | other, counts[1]), "--takeover")
    stack.callback(new.close)
    assert new.wait() == 1
    log = "\n".join(new.lines)
    assert "cannot start: " in log
    assert "in use by process " in log
    assert old.page("/readyz")[0] == 200
    accept(tmp_path, ["one"])
    old.wait_settled()
    assert old.stop() == 0
    assert third.stop() == 0


@pytest.mark.parametrize("ordering", ["none", "partition_key"])
@pytest.mark.parametrize("name", ["botocore", "prometheus_client"])
def test_workers_whose_libraries_cannot_be_loaded_leave_the_other_one_alone(
    tmp_path: Path, service: str, stack: ExitStack, name: str, ordering: str
) -> None:
    more = {"default.ordering": ordering, "spool.directory": ""}
    settings = settings_of(tmp_path, service, **more)
    old = run(config_of(tmp_path, settings, 2), stack, service)
    package = tmp_path / "packages" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('half of it')")
    program = BREAKS.format(f"sys.path.insert(0, {str(package.parent)!r})")
    arguments = ["run", "--takeover", "--config", str(config_of(tmp_path, settings, 2))]
    new = Daemon(arguments, environment(), program=("-c", program))
    stack.callback(new.close)
    assert new.wait() == 1
    log = "\n".join(new.lines)
    assert "cannot start: a part of kdaemon cannot be loaded (ImportError: half of it)" in log
    assert "Traceback" not in log
    assert not any(line["text"] == READY for line in new.log)
    assert old.page("/readyz")[0] == 200
    put_accepted(old.url, b"one")
    accept(tmp_path, ["two"])
    old.wait_settled()
    assert old.stop() == 0
    assert sorted(read_all(service)) == [b"one", b"two"]


def test_with_order_in_memory_too_a_place_that_is_taken_leaves_the_other_one_alone(
    tmp_path: Path, service: str, stack: ExitStack
) -> None:
    ordered = {"default.ordering": "partition_key", "spool.directory": ""}
    settings = settings_of(tmp_path, service, **ordered)
    old = run(config_of(tmp_path / "a", settings, 2), stack, service)
    taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    at = {"listen.http": f"127.0.0.1:{taken.getsockname()[1]}"}
    new = start(config_of(tmp_path / "b", settings | at, 2), "--takeover")
    stack.callback(new.close)
    assert new.wait() == 1
    assert any("cannot start" in line["text"] for line in new.log)
    assert old.page("/readyz")[0] == 200
    accept(tmp_path, ["one"])
    old.wait_settled()
    assert old.stop() == 0
    assert read_all(service) == [b"one"]


def test_a_start_that_fails_behind_its_doors_delivers_what_it_took(
    tmp_path: Path, service: str, stack: ExitStack
) -> None:
    config = config_of(tmp_path, settings_of(tmp_path, service), 2)
    old = run(config, stack, service)
    url = old.url
    told = tmp_path / "fail"
    new = broken(config, stack, FAILS_LATE.format(path=str(told)))
    old.inject({"kind": "throttle", "calls": None})
    os.kill(old.pid, signal.SIGSTOP)  # so that the new one takes it
    try:
        put_accepted(url, b"one")
        told.touch()
        new.wait_log("cannot start: broken late")
    finally:
        os.kill(old.pid, signal.SIGCONT)
    old.clear_faults()
    assert new.wait() == 1
    put_accepted(url, b"two")
    accept(tmp_path, ["three"])  # the file of the socket is the old one's still
    assert old.stop() == 0
    assert sorted(set(read_all(service))) == [b"one", b"three", b"two"]


def test_workers_that_wait_for_spools_themselves_are_taken_over_by_the_next(
    tmp_path: Path, service: str, stack: ExitStack
) -> None:
    settings = settings_of(tmp_path, service, **{"send.call_timeout_ms": 40_000})
    config = config_of(tmp_path / "a", settings, 2)
    first = run(config, stack, service)
    first.inject({"kind": "throttle", "calls": None})
    accept(tmp_path, ["one"])
    second = took_over(config, stack)
    second.wait_log(HELD)
    third = took_over(config, stack)
    third.wait_log(HELD)
    assert second.wait() == 0
    first.clear_faults()
    assert first.wait() == 0
    assert store(tmp_path, "two") == {"acknowledged": 1}
    third.wait_settled()
    assert third.stop() == 0
    assert sorted(read_all(service)) == [b"one", b"two"]

"""A takeover that goes wrong: whichever process ends, and when, what was taken is sent."""

import json
import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.daemon import READY, Daemon, environment, write_config
from tests.kit.endpoints import Endpoint, entry, read_all
from tests.kit.patience import wait_for
from tests.kit.restarts import settings_of
from tests.process.test_takeover import accept, run, start, store, took_over

# Fails behind its doors, once it is told to: a record was taken by then.
FAILS_LATE = """
import asyncio, os
from kdaemon.__main__ import main
from kdaemon.http.listener import ListenerError
from kdaemon.http.takeover import Taken

async def fails(self, *_):
    while not os.path.exists({path!r}):
        await asyncio.sleep(0.01)
    raise ListenerError("broken late")

Taken.listening = fails
main()
"""

# Says that it listens when it is told to.
LISTENS_LATE = """
import asyncio, os
from kdaemon.__main__ import main
from kdaemon.http.takeover import Taken

listening = Taken.listening

async def late(self, *what):
    while not os.path.exists({path!r}):
        await asyncio.sleep(0.01)
    await listening(self, *what)

Taken.listening = late
main()
"""


def hold_up(daemon: Daemon) -> None:
    daemon.inject({"kind": "throttle", "calls": None})


def put_accepted(url: str, data: bytes) -> None:
    """One record by HTTP, whose daemon has only memory for it."""
    body = json.dumps({"StreamName": "demo", "Records": [entry(data, "k")]}).encode()
    answer = Endpoint("daemon", url=url, put_url=url).put_raw(
        "PutRecords", body, x_kdaemon_acknowledge="accepted"
    )
    assert answer.status == 200, answer


def test_the_first_signal_asks_for_the_drain_that_goes_on_already(
    tmp_path: Path, one_shard: str, stack: ExitStack
) -> None:
    config = write_config(tmp_path, settings_of(tmp_path, one_shard))
    old = run(config, stack, one_shard)
    hold_up(old)
    accept(tmp_path, ["one", "two"])
    new = took_over(config, stack)
    old.wait_log("draining")
    old.signal()  # of whoever does not know that a takeover ends the old one
    new.page("/livez")
    old.clear_faults()
    assert old.wait() == 0
    assert old.log[-1]["fields"]["undelivered"] == 0
    assert new.stop() == 0
    assert sorted(set(read_all(one_shard))) == [b"one", b"two"]


def test_the_second_signal_ends_it_at_once(
    tmp_path: Path, one_shard: str, stack: ExitStack
) -> None:
    config = write_config(tmp_path, settings_of(tmp_path, one_shard))
    old = run(config, stack, one_shard)
    hold_up(old)
    accept(tmp_path, ["one"])
    new = took_over(config, stack)
    old.wait_log("draining")
    old.signal()
    old.signal(signal.SIGINT)
    assert old.wait() == 1
    assert any("second signal" in line["text"] for line in old.log)
    old.clear_faults()
    assert new.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_start_that_fails_behind_its_doors_delivers_what_it_took(
    tmp_path: Path, one_shard: str, stack: ExitStack, workers: int
) -> None:
    config = write_config(tmp_path, settings_of(tmp_path, one_shard, workers=workers))
    old = run(config, stack, one_shard)
    url = old.url
    told = tmp_path / "fail"
    new = broken(config, stack, FAILS_LATE.format(path=str(told)))
    hold_up(old)
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
    assert sorted(set(read_all(one_shard))) == [b"one", b"three", b"two"]


def test_a_daemon_in_its_lame_duck_is_taken_over_still(
    tmp_path: Path, one_shard: str, stack: ExitStack
) -> None:
    """It was told to end a moment before another one starts: nobody is refused."""
    more = {"drain.lame_duck_ms": 300_000}
    config = write_config(tmp_path, settings_of(tmp_path, one_shard, **more))
    old = run(config, stack, one_shard)
    old.signal()
    old.wait_log("draining")
    new = took_over(config, stack)
    assert old.wait() == 0, "its lame duck ends with the last client"
    accept(tmp_path, ["one"])
    new.wait_settled()
    new.signal()
    new.signal(signal.SIGINT)
    assert new.wait() == 1


@pytest.mark.parametrize("other", ["", "elsewhere"], ids=["none", "another"])
def test_what_stands_in_a_spool_that_the_new_one_has_not_is_delivered_first(
    tmp_path: Path, one_shard: str, stack: ExitStack, other: str
) -> None:
    settings = settings_of(tmp_path, one_shard)
    old = run(write_config(tmp_path, settings), stack, one_shard)
    hold_up(old)
    assert store(tmp_path, "one") == {"acknowledged": 1}
    (tmp_path / "other").mkdir()
    directory = str(tmp_path / other) if other else ""
    new = took_over(
        write_config(tmp_path / "other", {**settings, "spool.directory": directory}), stack
    )
    old.wait_log("draining")
    assert new.page("/readyz")[0] == 200, "it waits for no spool"
    old.clear_faults()
    assert old.wait() == 0
    assert old.log[-1]["fields"]["spooled"] == 0
    assert new.stop() == 0
    assert read_all(one_shard) == [b"one"]


@pytest.mark.parametrize(("kind", "workers"), [("http", 1), ("admin", 1), ("own", 1), ("http", 2)])
def test_with_order_in_memory_too_a_place_that_is_taken_leaves_the_other_one_alone(
    tmp_path: Path, one_shard: str, stack: ExitStack, kind: str, workers: int
) -> None:
    """It waits for the other one's end before it opens its doors."""
    ordered = {"default.ordering": "partition_key", "spool.directory": "", "workers": workers}
    settings = settings_of(tmp_path, one_shard, **ordered)
    old = run(write_config(tmp_path, settings), stack, one_shard)
    taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    at = f"127.0.0.1:{taken.getsockname()[1]}"
    place = str(tmp_path / "file")
    Path(place).touch()
    raw = {"streams.demo.lines": "raw", "streams.demo.partition_key_field": "k"}
    more = {
        "http": {"listen.http": at},
        "admin": {"listen.admin": at},
        "own": {"streams.demo.socket": place, **raw},
    }[kind]
    (tmp_path / "other").mkdir()
    new = start(write_config(tmp_path / "other", {**settings, **more}), "--takeover")
    stack.callback(new.close)
    assert new.wait() == 1
    assert any("cannot start" in line["text"] for line in new.log)
    assert old.page("/readyz")[0] == 200
    accept(tmp_path, ["one"])
    old.wait_settled()
    assert old.stop() == 0
    assert read_all(one_shard) == [b"one"]


@pytest.mark.parametrize("ordering", ["none", "partition_key"])
@pytest.mark.parametrize("is_there", [False, True], ids=["missing", "broken"])
@pytest.mark.parametrize("name", ["botocore", "prometheus_client"])
def test_one_whose_libraries_cannot_be_loaded_leaves_the_other_one_alone(
    tmp_path: Path, one_shard: str, stack: ExitStack, name: str, ordering: str, *, is_there: bool
) -> None:
    """A new version that was installed in part: the one that runs can send."""
    more = {"default.ordering": ordering, "spool.directory": ""}
    config = write_config(tmp_path, settings_of(tmp_path, one_shard, **more))
    old = run(config, stack, one_shard)
    package = tmp_path / "packages" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('half of it')")
    broken = f"sys.path.insert(0, {str(package.parent)!r})"
    lacks = broken if is_there else f"sys.modules[{name!r}] = None"
    program = f"import sys; {lacks}; from kdaemon.__main__ import main; main()"
    arguments = ["run", "--takeover", "--config", str(config)]
    new = Daemon(arguments, environment(), program=("-c", program))
    stack.callback(new.close)
    assert new.wait() == 1
    assert any("cannot start: a part of kdaemon" in line["text"] for line in new.log)
    assert not any(line["text"] == READY for line in new.log)
    assert old.page("/readyz")[0] == 200
    put_accepted(old.url, b"one")
    accept(tmp_path, ["two"])
    old.wait_settled()
    assert old.stop() == 0
    assert sorted(read_all(one_shard)) == [b"one", b"two"]


@pytest.mark.parametrize("is_told", [True, False], ids=["listens", "ends"])
def test_a_daemon_that_is_told_to_end_while_another_starts_leaves_it_the_sockets(
    tmp_path: Path, one_shard: str, stack: ExitStack, *, is_told: bool
) -> None:
    config = write_config(tmp_path, settings_of(tmp_path, one_shard, **{"drain.lame_duck_ms": 0}))
    old = run(config, stack, one_shard)
    told = tmp_path / "listen"
    new = broken(config, stack, LISTENS_LATE.format(path=str(told)))
    assert old.stop() == 0
    accept(tmp_path, ["one"])
    put_accepted(new.url, b"two")
    if is_told:
        told.touch()
        new.wait_log(READY)
        assert (tmp_path / "k.sock.takeover").exists()
        newer = took_over(config, stack)
        assert new.wait() == 0
        accept(tmp_path, ["three"])
        new = newer
    assert new.stop() == 0
    assert not (tmp_path / "k.sock").exists() or not is_told
    assert sorted(read_all(one_shard)) == sorted([b"one", b"two", *[b"three"] * is_told])


def broken(config: Path, stack: ExitStack, program: str) -> Daemon:
    """A daemon that takes over, not quite as it should; its doors are open."""
    arguments = ["run", "--takeover", "--config", str(config)]
    daemon = Daemon(arguments, environment(), program=("-c", program))
    stack.callback(daemon.close)
    wait_for(lambda: _listens(daemon, "unix") or None, "the new one's doors")
    return daemon


def _listens(daemon: Daemon, name: str) -> bool:
    return any(
        line["text"] == "listening" and line["fields"]["listener"] == name for line in daemon.log
    )

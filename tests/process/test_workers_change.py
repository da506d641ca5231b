"""Several workers: another configuration, another daemon in their place, and who watches."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kdaemon.spool.shared import left_spools
from tests.kit.daemon import (
    READY,
    Daemon,
    running,
    sandbox,
    started,
    write_config,
)
from tests.kit.endpoints import read_all
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.restarts import Load
from tests.process.test_takeover import start
from tests.process.test_workers import (
    put_lines,
    settings_of,
    store_in_outage,
    workers_of,
)

LAME_DUCK_MS = 600  # longer than a client of the load takes between two requests


@pytest.fixture
def service() -> Iterator[str]:
    with sandbox("demo", 8) as url:
        yield url


def reload(daemon: Daemon) -> tuple[int, str]:
    with started(["reload", "--admin", daemon.address("admin").removeprefix("http://")]) as process:
        return process.wait(), "\n".join(process.lines)


def test_all_workers_take_another_configuration_or_none_does(tmp_path: Path, service: str) -> None:
    given = {"endpoint_url": service, **settings_of(tmp_path)}
    with running(tmp_path, given, service=service) as daemon:
        refused = {**given, "streams.orders.record_bytes_max": 10}
        write_config(tmp_path, refused)
        assert reload(daemon)[0] == 0
        # Each worker holds what it takes to the new configuration.
        for _ in range(4):
            assert put_to(daemon, "orders", "x" * 100) == 400
        write_config(tmp_path, {**given, "workers": 3})
        code, _ = reload(daemon)
        assert code == 1
        write_config(tmp_path, {**given, "log.level": "no such"})
        assert reload(daemon)[0] == 78
        page = json.loads(daemon.page("/configz")[1])
        assert (page["generation"], page["reloads"]) == (2, 3)
        # What is started again begins with what is in force, not with what the file says.
        first = workers_of(daemon)[0]
        os.kill(first["pid"], signal.SIGKILL)
        wait_for(lambda: workers_of(daemon)[0]["restarts"] == 1 or None, "its end")
        wait_for(lambda: workers_of(daemon)[0]["state"] == "serving" or None, "its start")
        for _ in range(4):
            assert put_to(daemon, "orders", "x" * 100) == 400
        assert daemon.stop() == 0


@pytest.mark.parametrize(("before", "after"), [(2, 2), (3, 2)])
def test_each_worker_delivers_what_was_stored_of_a_stream_that_is_taken_again(
    tmp_path: Path, service: str, before: int, after: int
) -> None:
    """And so does who has the spool of a worker that is no more."""
    names = [f"stored-{number}" for number in range(12)]
    store_in_outage(tmp_path, names, workers=before)
    given = {"endpoint_url": service, **settings_of(tmp_path, workers=after)}
    listed = {**given, "accept_unlisted": False, "streams.orders.record_bytes_max": 1_000}
    with running(tmp_path, listed, service=service) as daemon:
        told = "records of a stream that is not taken any more stay in the spool"
        wait_for(lambda: [each["text"] for each in daemon.log].count(told) == before or None, told)
        assert read_all(service) == []
        assert len(workers_of(daemon)) == before
        write_config(tmp_path, {**listed, "streams.demo.record_bytes_max": 1_000})
        assert reload(daemon)[0] == 0
        wait_for(lambda: len(read_all(service)) == len(names) or None, "all of it")
        wait_for(lambda: len(workers_of(daemon)) == after or None, "the end of who is not needed")
        assert daemon.stop() == 0
    assert sorted(read_all(service)) == sorted(name.encode() for name in names)


def put_to(daemon: Daemon, stream: str, data: str) -> int:
    """The status."""
    request = urllib.request.Request(
        f"{daemon.url}/v1/streams/{stream}/records",
        data=json.dumps({"data": data}).encode(),
        headers={"Connection": "close"},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("counts", [(2, 2, 3), (1, 2, 1)])
def test_under_load_a_takeover_refuses_nobody(
    tmp_path: Path, service: str, counts: tuple[int, ...]
) -> None:
    def config(count: int) -> Path:
        given = {"endpoint_url": service, "drain.lame_duck_ms": LAME_DUCK_MS, "workers": count}
        return write_config(tmp_path, settings_of(tmp_path, **given))

    with ExitStack() as stack:
        daemon = start(config(counts[0]))
        stack.callback(daemon.close)
        daemon.wait_log(READY)
        with Load("demo", daemon.url, daemon.address("unix")) as load:
            load.wait_progress(20)
            for count in counts[1:]:
                old, daemon = daemon, start(config(count), "--takeover")
                stack.callback(daemon.close)
                daemon.wait_log(READY)
                assert daemon.url == old.url
                assert old.wait() == 0
                assert old.log[-1]["fields"]["undelivered"] == 0
                load.wait_progress(20)
        # On disk, not in /metrics: an heir that has not begun tells nothing there.
        wait_for(lambda: not left_spools(str(tmp_path / "spool"), ()) or None, "the spools")
        daemon.wait_settled()
        assert daemon.stop() == 0
        load.check(read_all(service))
        assert not (tmp_path / "k.sock").exists()
        assert not (tmp_path / "k.sock.takeover").exists()


def test_the_live_page_and_looks_show_all_workers(tmp_path: Path, service: str) -> None:
    given = settings_of(tmp_path, **{"listen.admin_tap": True})
    with running(tmp_path, given, service=service) as daemon:
        for number in range(8):
            put_lines(daemon, [f"record {number}"])
        daemon.wait_settled()
        event = next_event(daemon)
        assert event["records"]["received"] == 8
        assert event["records"]["delivered"] == 8
        assert [each["name"] for each in event["streams"]] == ["demo"]
        assert event["memory"]["bytes_max"] == 256 * 1024 * 1024
        status, text = daemon.page("/tap?stream=demo&data=1")
        assert status == 200
        assert json.loads(text.splitlines()[0])["seen"] == 0
        assert daemon.page("/tap")[0] == 400
        status, text = daemon.page("/configz/effective")
        settings = {each["key"]: each["value"] for each in json.loads(text)["settings"]}
        assert settings["memory_bytes_max"] == 256 * 1024 * 1024  # of all, not a part of it
        assert settings["workers"] == 2
        assert daemon.stop() == 0


def next_event(daemon: Daemon) -> dict[str, Any]:
    with urllib.request.urlopen(daemon.address("admin") + "/events", timeout=PATIENCE_S) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                return found
    raise AssertionError("no event")

"""The order of a reload's steps, and who is told: over a configuration and a daemon by hand."""

import asyncio
import socket
from pathlib import Path
from threading import Event

import pytest

from kdaemon.base.errors import WorkerError
from kdaemon.config import Config
from kdaemon.config.load import Loaded, Sources, load_config, load_sources
from kdaemon.daemon.reload import Reload
from kdaemon.observe.notify import Notifier
from kdaemon.observe.reloads import Outcome, Reloads
from tests.kit.clock import HandClock


class Place:
    """`texts`: what is read next, the last one for ever."""

    def __init__(self, *texts: str, notifier: Notifier | None = None) -> None:
        self.texts = list(texts)
        self.changes: list[tuple[Config, Config]] = []
        self.conflicts: tuple[str, ...] = ()
        self.fixed: tuple[str, ...] = ()
        self.error: Exception | None = None
        self.may_read = Event()
        self.may_read.set()
        self.read_count = 0
        self.reloads = Reloads(lambda: 5.0, 1, 1)
        clock = HandClock()
        clock.ns = 7_000
        self.reload = Reload(
            load_config(), self.read, self, self.reloads, notifier or Notifier({}), clock.now_ns
        )

    def read(self, _old: Config) -> Loaded:
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        self.read_count += 1
        self.may_read.wait()
        if text == "broken":
            raise RuntimeError("a defect")
        return load_sources(Sources(text), {})

    def needs_restart(self, old: Config, new: Config) -> tuple[str, ...]:
        return self.fixed

    async def change(self, old: Config, new: Config) -> tuple[str, ...]:
        if self.error is not None:
            raise self.error
        if not self.conflicts:
            self.changes.append((old, new))
        return self.conflicts

    async def outcome(self) -> Outcome:
        count = self.reloads.count
        self.reload.ask()
        while self.reloads.count == count:
            await asyncio.sleep(0)
        assert self.reloads.last is not None
        return self.reloads.last.outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("streams_max = 3", Outcome.APPLIED),
        ("", Outcome.UNCHANGED),
        ("streams_max = 'x'", Outcome.WRONG),
        ("streams_max = 3\n[log]\nformat = 'json'", Outcome.RESTART),
        ("broken", Outcome.FAILED),
    ],
)
async def test_what_a_reload_comes_to(text: str, outcome: Outcome) -> None:
    place = Place(text)
    before = place.reload.config
    assert await place.outcome() is outcome
    is_applied = outcome is Outcome.APPLIED
    assert (place.reload.config is not before) is is_applied
    assert len(place.changes) == is_applied
    assert place.reloads.generation == 1 + is_applied


async def test_who_looks_sees_the_configuration_that_is_in_force_and_who_gave_it() -> None:
    place = Place("streams_max = 3", "streams_max = 3\nregion = ''", "streams_max = 'x'")
    assert await place.outcome() is Outcome.APPLIED
    first = place.reloads.loaded
    assert first is not None
    assert first.config is place.reload.config
    assert await place.outcome() is Outcome.UNCHANGED
    second = place.reloads.loaded
    assert second is not None
    assert second.givers.keys() - first.givers.keys() == {("region",)}, "the same value, given"
    assert await place.outcome() is Outcome.WRONG
    assert place.reloads.loaded is second


async def test_what_is_under_way_or_breaks_leaves_the_old_one() -> None:
    place = Place("streams_max = 3")
    before = place.reload.config
    place.conflicts = ("streams.a",)
    assert await place.outcome() is Outcome.RESTART
    assert place.reloads.last is not None
    assert place.reloads.last.keys == ("streams.a",)
    place.error = OSError("no such device")
    assert await place.outcome() is Outcome.FAILED
    assert place.reload.config is before
    place.error, place.conflicts = None, ()
    assert await place.outcome() is Outcome.APPLIED


async def test_what_a_worker_says_against_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    place = Place("streams_max = 3")
    place.error = WorkerError("worker 2 does not answer")
    assert await place.outcome() is Outcome.FAILED
    assert place.reloads.last is not None
    assert place.reloads.last.problems == ("worker 2 does not answer",)
    assert not [line for line in caplog.records if line.exc_info], "it is no defect"


async def test_what_this_daemon_cannot_take_needs_a_restart_and_no_patience() -> None:
    place = Place("streams_max = 3")
    place.fixed = ("upstreams.eu",)
    assert await place.outcome() is Outcome.RESTART
    assert place.reloads.last is not None
    assert (place.reloads.last.keys, place.reloads.last.problems) == (("upstreams.eu",), ())
    assert not place.changes


async def test_whoever_asks_meanwhile_is_answered_by_one_more() -> None:
    """Which reads after it was asked: the file may have been changed in between."""
    place = Place("streams_max = 3", "streams_max = 4")
    place.may_read.clear()
    place.reload.ask()
    while not place.read_count:
        await asyncio.sleep(0)
    for _ in range(5):
        place.reload.ask()
    place.may_read.set()
    while place.reloads.count < 2:
        await asyncio.sleep(0)
    assert place.reload.config.streams_max == 4
    assert place.read_count == 2
    assert not place.reloads.is_going_on


async def test_none_begins_once_it_is_closed() -> None:
    place = Place("streams_max = 3")
    await place.reload.aclose()
    place.reload.ask()
    await asyncio.sleep(0)
    assert (place.read_count, place.reloads.count) == (0, 0)


async def test_each_problem_is_told(caplog: pytest.LogCaptureFixture) -> None:
    place = Place("streams_max = 'x'\nregion = 3\n")
    await place.outcome()
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "streams_max" in text
    assert "region" in text


@pytest.mark.parametrize("text", ["streams_max = 3", "streams_max = 'x'"])
async def test_the_service_manager_hears_of_both_ends(tmp_path: Path, text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = str(tmp_path / "notify")
        manager.bind(name)
        await Place(text, notifier=Notifier({"NOTIFY_SOCKET": name})).outcome()
        manager.setblocking(False)
        await asyncio.sleep(0)  # READY follows the count
        told = [manager.recv(4096), manager.recv(4096)]
    assert told[0] == b"RELOADING=1\nMONOTONIC_USEC=7"
    said = "configuration 1 stays in force" if "x'" in text else "configuration 2 is in force"
    assert told[1].decode().startswith(f"READY=1\nSTATUS={said}")

"""A client whose libraries are loaded later: calls wait, and are made; or fail as not sent."""

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from kdaemon.base.description import Caller, StreamTarget
from kdaemon.base.errors import Trouble
from kdaemon.base.record import Record
from kdaemon.send import late
from kdaemon.send.late import LateClient, Libraries, LoadError
from kdaemon.send.settings import ClientSettings
from tests.unit.send.scripted import ScriptedService, answering_json, failure

TARGET = StreamTarget("s")
RECORDS = [Record(b"x", "k")]

CALLS: dict[str, Callable[[LateClient], Awaitable[object]]] = {
    "put_records": lambda client: client.put_records(TARGET, RECORDS, lambda: True),
    "dry_run": lambda client: client.dry_run(TARGET, RECORDS),
    "call": lambda client: client.call("ListShards", {"StreamName": "s"}, TARGET),
    "pass_on": lambda client: client.pass_on("ListStreams", b"{}", None, 1000, lambda _: True),
    "caller": lambda client: client.caller(),
}


@pytest.fixture
def settings(service: ScriptedService, aws_environment: None) -> ClientSettings:
    return ClientSettings(endpoint_url=service.url)


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_waits_until_the_libraries_are_loaded_and_is_made_then(
    service: ScriptedService, settings: ClientSettings, name: str
) -> None:
    told: list[str | None] = []
    libraries = Libraries(told.append)
    client = LateClient(settings, libraries)
    call = asyncio.ensure_future(CALLS[name](client))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not call.done()
    assert not service.received
    assert client.credentials_end_s is None
    was_ready = client.is_ready
    libraries.load()
    libraries.load()  # twice is nothing
    await call
    assert (was_ready, client.is_ready) == (False, True)
    await client.aclose()
    await libraries.aclose()
    assert told == [None]
    assert len(service.received) == (name != "caller")  # which asks no STS beside a stand-in


async def test_all_who_wait_have_one_client_and_what_was_set_before(
    service: ScriptedService, settings: ClientSettings
) -> None:
    libraries = Libraries(lambda _: None)
    client = LateClient(settings, libraries)
    callers: list[Caller] = []
    client.on_new_keys = callers.append
    client.take_limits(replace(settings, connections_max=1, endpoint_url="http://elsewhere"))
    service.script.extend([answering_json({})] * 3)
    asked = [client.call("ListShards", {}, TARGET) for _ in range(3)]
    libraries.load()
    await asyncio.gather(*asked)
    loaded = client.audit()
    assert loaded is not None
    slots = loaded.audit().exchanges.slots
    assert slots.limit == 1
    assert len(service.received) == 3, "where is called stays as it was"
    assert len(callers) == 1
    client.take_limits(replace(settings, connections_max=7))
    assert slots.limit == 7
    await client.aclose()
    await libraries.aclose()


async def test_what_cannot_be_loaded_is_told_and_calls_fail_as_not_sent(
    service: ScriptedService, settings: ClientSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kdaemon.send.client", None)  # an import of it fails
    told: list[str | None] = []
    libraries = Libraries(told.append)
    client = LateClient(settings, libraries)
    libraries.load()
    error = await failure(client.put_records(TARGET, RECORDS, lambda: True))
    assert (error.trouble, error.was_sent) == (Trouble.UNPREPARED, False)
    assert told == [error.message]
    assert "install kdaemon anew" in error.message
    assert not service.received
    await client.aclose()
    await libraries.aclose()


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_waits_no_longer_than_for_a_connection(
    service: ScriptedService, settings: ClientSettings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    libraries, go_on = held_up(monkeypatch)
    client = LateClient(replace(settings, connect_timeout_s=0.01), libraries)
    libraries.load()
    error = await failure(CALLS[name](client))
    assert (error.trouble, error.was_sent) == (Trouble.CONNECT_TIMEOUT, False)
    assert not service.received
    go_on.set()
    await libraries.aclose()


async def test_before_loading_begins_a_call_waits_for_a_start_that_takes_long(
    service: ScriptedService, settings: ClientSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries, go_on = held_up(monkeypatch)
    client = LateClient(replace(settings, connect_timeout_s=0.01), libraries)
    call = asyncio.ensure_future(CALLS["call"](client))
    await asyncio.wait({call}, timeout=0.1)
    assert not call.done(), "nobody was told to load anything yet"
    libraries.load()
    error = await failure(call)
    assert "is the disk slow?" in error.message
    go_on.set()
    await libraries.aclose()


async def test_calls_are_made_though_what_else_can_wait_cannot_be_loaded(
    service: ScriptedService, settings: ClientSettings
) -> None:
    """The daemon ends for that, and delivers what it took first."""

    def broken() -> None:
        raise ImportError("no pages")

    told: list[str | None] = []
    libraries = Libraries(told.append, broken)
    client = LateClient(settings, libraries)
    with pytest.raises(LoadError, match="no pages"):
        await libraries.load_all()
    assert told == [libraries.problem]
    service.script.append(answering_json({}))
    await client.call("ListShards", {}, TARGET)
    await client.aclose()
    await libraries.aclose()


async def test_who_is_cancelled_while_he_waits_for_the_libraries_stops_no_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libraries, go_on = held_up(monkeypatch)
    waiting = asyncio.ensure_future(libraries.load_all())
    await asyncio.wait({waiting}, timeout=0.01)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    go_on.set()
    await libraries.load_all()
    await libraries.aclose()


def held_up(monkeypatch: pytest.MonkeyPatch) -> tuple[Libraries, threading.Event]:
    """Libraries that are not loaded before the event is set."""
    go_on = threading.Event()
    monkeypatch.setattr(late, "import_them", lambda **_: go_on.wait())
    return Libraries(lambda _: None), go_on

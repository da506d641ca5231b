"""A person hears what a `put` waits for: after some seconds, seldom, and in the daemon's words."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from kdaemon.put import waiting
from kdaemon.put.http import HttpPut
from kdaemon.put.unix import Block, UnixPut
from kdaemon.put.waiting import TOLD_AFTER_S, TOLD_AGAIN_S, Person, Totals, Wait
from tests.kit.patience import PATIENCE_S, until
from tests.unit.put.test_http import http_daemon

WHY = "demo is failing: EndpointConnectionError: nobody listens"
Send = Callable[[AsyncIterator[Block]], Awaitable[None]]


def test_a_line_comes_after_some_seconds_and_then_seldom() -> None:
    wait, totals = Wait(0.0), Totals(sent=3)
    told = [
        second
        for second in range(200)
        if wait.due(totals, float(second), is_waiting=True) is not None
    ]
    assert told == [
        int(TOLD_AFTER_S + begin) for begin in (0, TOLD_AGAIN_S, 2 * TOLD_AGAIN_S, 3 * TOLD_AGAIN_S)
    ]


def test_an_answer_begins_the_wait_anew_and_input_that_does_not_come_is_none() -> None:
    wait, totals = Wait(0.0), Totals(sent=3)
    assert wait.due(totals, 4.0, is_waiting=True) is None
    totals.acknowledged = 1
    assert wait.due(totals, 6.0, is_waiting=True) is None
    totals.reject(2, "no", is_sent=True)
    assert wait.due(totals, 10.0, is_waiting=True) is None
    assert wait.due(totals, 14.0, is_waiting=True) is None
    assert wait.due(totals, 15.5, is_waiting=True) == 5.5
    assert wait.due(totals, 1_000.0, is_waiting=False) is None
    assert wait.due(totals, 1_004.0, is_waiting=True) is None
    assert wait.due(totals, 1_005.0, is_waiting=True) == 5.0


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_S", "TOLD_AFTER_S"):
        monkeypatch.setattr(waiting, name, 0.0)


class Heard:
    """What a person hears; `why`: what the looks find."""

    def __init__(self, why: str | None = WHY) -> None:
        self.told: list[str] = []
        self.totals = Totals()
        self.shown: list[str | None] = []
        self._why = why
        self.person = Person(
            lambda: self.shown.append(self.totals.waits_for), self.told.append, self._look
        )

    async def _look(self) -> str | None:
        return self._why


async def way(kind: str, heard: Heard, path: Path, stack: AsyncExitStack) -> Send:
    """To a daemon that answers when a person was told that nothing goes on."""
    if kind == "http":

        async def answer(request: web.Request) -> web.Response:
            count = len((await request.read()).splitlines())
            await until(lambda: bool(heard.told))
            return web.json_response({"acknowledged": count, "rejected": []})

        endpoint = await stack.enter_async_context(http_daemon(answer))
        http = HttpPut("demo", "delivered", heard.totals, heard.person)
        return lambda blocks: http.send(endpoint, blocks)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.read()).splitlines()
        await until(lambda: bool(heard.told))
        writer.write(b'{"acknowledged": %d}\n' % (len(lines) - 1) if kind == "delivered" else b"")
        await writer.drain()
        writer.close()

    socket = str(path / "k.sock")
    server = await asyncio.start_unix_server(serve, socket)
    stack.push_async_callback(server.wait_closed)
    stack.callback(server.close)
    unix = UnixPut("demo", kind, heard.totals, heard.person)
    return lambda blocks: unix.send(socket, blocks)


async def blocks_of(count: int) -> AsyncIterator[Block]:
    yield Block([b'{"data":"x"}\n'] * count, list(range(1, count + 1)))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["http", "delivered", "none"])
@pytest.mark.parametrize("why", [WHY, None])
async def test_a_daemon_that_does_not_answer_is_told_with_its_reason(
    tmp_path: Path, kind: str, why: str | None
) -> None:
    heard = Heard(why)
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE_S):
        send = await way(kind, heard, tmp_path, stack)
        await send(blocks_of(2))
    what = "reads what was written" if kind == "none" else "answers for 2 records"
    reason = why or "`kdaemon status` tells more"
    assert heard.told[0] == f"waiting for 0 s until the daemon {what}: {reason}"
    assert why in heard.shown, "a bar shows it too"
    if kind != "none":
        assert None in heard.shown[heard.shown.index(why) :], "and then no more"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["http", "delivered", "none"])
async def test_nobody_is_told_that_his_own_input_does_not_come(tmp_path: Path, kind: str) -> None:
    heard = Heard()
    may_end = asyncio.Event()

    async def nothing() -> AsyncIterator[Block]:
        await may_end.wait()
        if not may_end.is_set():
            yield Block([], [])  # never: this only makes a generator of it

    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE_S):
        send = await way(kind, heard, tmp_path, stack)
        sending = asyncio.ensure_future(send(nothing()))
        for _ in range(100):
            await asyncio.sleep(0)
        assert heard.told == []
        heard.told.append("the daemon may answer")
        may_end.set()
        await sending


@pytest.mark.usefixtures("at_once")
async def test_what_the_daemon_says_itself_is_told_and_nobody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "TOLD_AGAIN_S", 0.0)
    heard = Heard("a look")
    body = {"__type": "ServiceUnavailable", "message": "memory is full", "acknowledged": 0}

    async def answer(_request: web.Request) -> web.Response:
        if any("HTTP 503" in line for line in heard.told):
            return web.json_response({"acknowledged": 2, "rejected": []})
        return web.json_response(body, status=503, headers={"Retry-After": "0"})

    async with http_daemon(answer) as endpoint, asyncio.timeout(PATIENCE_S):
        await HttpPut("demo", "delivered", heard.totals, heard.person).send(endpoint, blocks_of(2))
    assert heard.told[-1].endswith(": HTTP 503 ServiceUnavailable: memory is full")
    assert heard.shown[-1] is None

"""The live page of a daemon that runs: its events, and, where there is a browser, the page."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

from tests.kit.daemon import Daemon, running, sandbox, send
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.tools import find_chromium


def host_of(daemon: Daemon) -> str:
    return daemon.address("admin").removeprefix("http://")


def put(daemon: Daemon) -> int:
    return send("POST", f"{daemon.url}/v1/streams/demo/records", '{"data": "a"}\n')[0]


def test_three_events_follow_one_another(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        connection = HTTPConnection(host_of(daemon), timeout=PATIENCE_S)
        connection.request("GET", "/events", headers={"Accept": "text/event-stream"})
        answer = connection.getresponse()
        assert answer.getheader("Content-Type") == "text/event-stream"

        def event() -> Any:
            while not (line := answer.readline()).startswith(b"data: "):
                assert line, "the answer ended"
            return json.loads(line.removeprefix(b"data: "))

        first = event()
        assert put(daemon) == 200
        second, third = event(), event()
        assert first["uptime_s"] < second["uptime_s"] < third["uptime_s"]
        assert first["state"] == "ready"
        assert third["records"]["received"] == third["records"]["delivered"] == 1
        assert [each["name"] for each in third["streams"]] == ["demo"]
        daemon.signal()
        answer.read()  # to its end, which is whole: else this raises
        assert daemon.wait() == 0, "an open page holds no drain up"
        connection.close()


class Browser:
    """Chromium without a window, over its DevTools protocol."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.complaints: list[Any] = []  # of the console: the policy's too

    async def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            told = await asyncio.wait_for(self._socket.receive_json(), PATIENCE_S)
            if told.get("id") == self._number:
                return told["result"]
            if told.get("method") in {"Log.entryAdded", "Runtime.exceptionThrown"}:
                self.complaints.append(told)

    async def value(self, expression: str) -> Any:
        told = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return told["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until it is true in the page."""

        async def looking() -> None:
            while not await self.value(expression):
                await asyncio.sleep(0.05)

        await asyncio.wait_for(looking(), PATIENCE_S)


def port_in(told: Path) -> str | None:
    """Where the browser listens, when its file is whole."""
    lines = told.read_text().split() if told.exists() else []
    return lines[0] if len(lines) == 2 else None


@asynccontextmanager
async def browsing(directory: Path) -> AsyncIterator[Browser]:
    """It reaches this machine alone, and is killed at the end."""
    chromium = find_chromium()
    assert chromium is not None
    flags = [
        "--headless",
        "--no-sandbox",  # tests run as root here and there; it shows our own page alone
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--remote-debugging-port=0",
        f"--user-data-dir={directory}",
    ]
    told = directory / "DevToolsActivePort"
    process = subprocess.Popen(
        [chromium, *flags, "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = await asyncio.to_thread(wait_for, lambda: port_in(told), "the browser")
        address = f"http://127.0.0.1:{port}"
        async with ClientSession() as session:
            tabs = await (await session.get(f"{address}/json/list")).json()
            tab = next(each for each in tabs if each["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                browser = Browser(socket)
                for room in ("Log", "Runtime", "Page"):
                    await browser.call(f"{room}.enable")
                yield browser
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)


def put_to(daemon: Daemon, stream: str, *records: dict[str, str]) -> int:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    return send("POST", f"{daemon.url}/v1/streams/{stream}/records", lines)[0]


async def has_as_many_cells_as_heads(browser: Browser) -> None:
    rows = (
        "[...document.querySelectorAll('tbody tr:not(.detail)')].filter((row) =>"
        " row.children.length !== row.closest('table').tHead.rows[0].children.length).length"
    )
    assert await browser.value("document.querySelectorAll('tbody tr').length") > 20
    assert await browser.value(rows) == 0


async def is_whole_on_a_telephone(browser: Browser) -> None:
    """Names of a usual length: no table is cut off, though longer ones can be scrolled to."""
    size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    await browser.call("Emulation.setDeviceMetricsOverride", **size)
    cut = (
        "[...document.querySelectorAll('.scroll')].filter((each) =>"
        " each.scrollWidth > each.clientWidth).map((each) => each.innerText).join()"
    )
    assert await browser.value(cut) == ""
    assert await browser.value("document.documentElement.scrollWidth") <= 400


async def press(browser: Browser, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        words = {"key": key, "code": key, "windowsVirtualKeyCode": {"Enter": 13, "Tab": 9}[key]}
        text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
        await browser.call("Input.dispatchKeyEvent", type=kind, **words, **text)


@pytest.mark.chromium
async def test_a_browser_opens_a_stream_s_shards_and_shows_errors_costs_and_the_configuration(
    tmp_path: Path,
) -> None:
    settings = {
        "default.acknowledge": "accepted",
        "upstreams.eu.region": "eu-central-1",
        "upstreams.eu.account_id": "123456789012",
        "upstreams.eu.proxy_url": "http://u:wonderful-word@p:3128",
    }
    with sandbox("demo", 20) as service, running(tmp_path, settings, service=service) as daemon:
        words = {"code": "InternalFailure", "message": "x <b>not bold</b>"}
        daemon.inject({"kind": "record_failure", "indices": [0], "calls": 1, **words})
        assert await asyncio.to_thread(put_to, daemon, "demo", *[{"data": "a" * 190}] * 40) == 200
        await asyncio.to_thread(daemon.wait_settled)
        async with browsing(tmp_path / "browser") as browser:
            await browser.call("Page.navigate", url=daemon.address("admin") + "/")
            await browser.until("document.querySelectorAll('#stream-rows button').length === 1")
            # By the keyboard: the row opens, and closes again.
            await browser.value("document.querySelector('#stream-rows button').focus()")
            await press(browser, "Enter")
            rows = "document.querySelectorAll('#stream-rows tr.detail tbody tr').length"
            await browser.until(f"{rows} === 16")
            button = "document.querySelector('#stream-rows button').getAttribute('aria-expanded')"
            assert await browser.value(button) == "true"
            detail = await browser.value("document.querySelector('tr.detail').innerText")
            assert "And 4 more, calm." in detail
            label = "document.querySelector('tr.detail [role=img]').getAttribute('aria-label')"
            assert "of the quota is taken; our share is" in await browser.value(label)
            # The last errors, though they have passed.
            errors = await browser.value("document.getElementById('errors').innerText")
            assert "demo: InternalFailure: x <b>not bold</b>" in errors
            # Costs.
            await browser.until("document.querySelectorAll('#cost-rows tr').length > 0")
            costs = await browser.value("document.getElementById('costs').innerText")
            assert "PUT payload units" in costs
            assert "B records: 9" in costs
            assert "% less" in costs
            # The configuration, read when it is opened.
            assert await browser.value("byId('given-rows').children.length") == 0
            await browser.value("byId('config').querySelector('summary').click()")
            await browser.until("byId('given-rows').children.length > 2")
            config = await browser.value("byId('config').innerText")
            assert '"http://***@p:3128"' in config
            assert "wonderful" not in await browser.value("document.documentElement.innerHTML")
            await has_as_many_cells_as_heads(browser)
            await is_whole_on_a_telephone(browser)
            await browser.value("document.querySelector('#stream-rows button').click()")
            assert await browser.value(rows) == 0
            assert browser.complaints == []


async def look_at_numbers(browser: Browser) -> None:
    """What the page computes of what it is told."""
    now, then = "{bounds_s: [1, 2], counts: [3, 9, 1]}", "{bounds_s: [1, 2], counts: [3, 1, 0]}"
    assert await browser.value(f"quantile(0.5, {now}, {then}, 99)") == "1.6 s"  # 1 + 4.5 / 8
    assert await browser.value(f"quantile(0.99, {now}, {then}, 99)") == "over 2 s"
    assert await browser.value(f"quantile(0.5, {now}, {then}, 1.7)") == "over 1 s", "2 cannot be"
    assert await browser.value(f"quantile(0.5, {now}, {now}, 99)") is None
    wide = "{bounds_s: [20, 60], counts: [0, 5, 0]}"
    nothing = "{bounds_s: [20, 60], counts: [0, 0, 0]}"
    assert await browser.value(f"quantile(0.99, {wide}, {nothing}, 99)") == "20 to 60 s"
    assert await browser.value(f"quantile(0.99, {wide}, {nothing}, 44)") == "over 20 s"
    assert await browser.value("rate(30, 10, 4)") == 5
    assert await browser.value("rate(30, undefined, 4) === null && rate(3, 3, 0) === null")
    # Rows that are not wanted any more go, and two of one key are two.
    row = "{key: 'a', cells: [{text: '<b>'}]}"
    for wanted, count in {f"{row}, {row}": 2, row: 1, f"{row}, {row}, {row}": 3, "": 0}.items():
        await browser.value(f"rows(byId('key-rows'), [{wanted}])")
        assert await browser.value("byId('key-rows').children.length") == count
    # A stream that was closed and opened again counts from 0: there is no rate below 0.
    assert await browser.value("rate(3, 1000, 4)") is None
    # Memory is full before its last byte is held: what comes is refused from then on.
    memory = "{bytes_taken: 95, bytes_max: 100, is_full: true}"
    await browser.value(f"showRoom({{...shown[0], memory: {memory}}}, shown[1], shown[2])")
    assert "full" in await browser.value("byId('room-rows').children[0].children[3].textContent")
    # After a restart all counters begin at 0, and the configuration may be another one, however
    # long the page had no connection.
    for uptime_s in ("0.5", "9e6"):
        await browser.value("configOf = 0")
        another = f"{{...seen[seen.length - 1], began: '{uptime_s}', uptime_s: {uptime_s}}}"
        await browser.value(f"show({another})")
        assert await browser.value("seen.length") == 1
        assert await browser.value("configOf") == -1


async def leaves_its_place_while_nobody_looks(browser: Browser) -> None:
    """There are eight, and pages are forgotten in tabs."""
    seen = "document.dispatchEvent(new Event('visibilitychange'))"
    hide = "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}})"
    await browser.value("later = setTimeout; setTimeout = (then) => (then(), 0)")  # an hour
    await browser.value(hide.format("true"))
    await browser.value(seen)
    assert await browser.value("source") is None
    assert "not watched" in await browser.value("document.title")
    await browser.value(hide.format("false"))
    await browser.value(seen)
    await browser.until("!document.title.includes('not watched')")
    await browser.value("delete document.hidden; setTimeout = later")


@pytest.mark.chromium
async def test_a_browser_draws_it_narrow_and_wide_and_text_of_strangers_is_text(
    tmp_path: Path,
) -> None:
    evil = "you may <img src=x> not"
    with running(tmp_path, {"default.acknowledge": "accepted"}) as daemon:
        words = {"code": "AccessDeniedException", "message": evil}
        daemon.inject({"kind": "status", "status": 400, "calls": None, **words})
        assert await asyncio.to_thread(put, daemon) == 200
        async with browsing(tmp_path / "browser") as browser:
            await browser.call("Page.navigate", url=daemon.address("admin") + "/")
            await browser.until("document.querySelectorAll('#hold-list li').length === 1")
            shown = await browser.value("document.getElementById('holds').innerText")
            assert f"demo is on hold: AccessDeniedException: {evil}" in shown
            assert "kdaemon iam" in shown
            assert await browser.value("document.querySelectorAll('img').length") == 0
            await browser.until("/[0-9]/.test(document.getElementById('rate-in').textContent)")
            for width in (400, 1600):
                await browser.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=900,
                    deviceScaleFactor=1,
                    mobile=False,
                )
                assert await browser.value(
                    "(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth)"
                    "(document.documentElement)"
                )
            colours = set()
            for scheme in ("light", "dark"):
                feature = {"name": "prefers-color-scheme", "value": scheme}
                await browser.call("Emulation.setEmulatedMedia", features=[feature])
                colours.add(await browser.value("getComputedStyle(document.body).backgroundColor"))
            assert len(colours) == 2
            await look_at_numbers(browser)
            await leaves_its_place_while_nobody_looks(browser)
            assert browser.complaints == []
            daemon.close()
            await browser.until("document.getElementById('state').innerText.includes('is old')")

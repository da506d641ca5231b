"""The live page of a daemon that runs: its events, and, where there is a browser, the page."""

import json
import shutil
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.kit.daemon import Daemon, running, send
from tests.kit.patience import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


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
        connection.close()

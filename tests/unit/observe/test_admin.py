"""The admin pages over a real loopback socket."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kdaemon.base.memory import ByteBudget
from kdaemon.engine import Engine
from kdaemon.http.counters import ListenerCounters
from kdaemon.http.server import ConnectionServer
from kdaemon.observe import slices
from kdaemon.observe.admin import Admin
from kdaemon.observe.heartbeat import STILL_NS_MAX, Heartbeat
from kdaemon.observe.metrics import Metrics
from kdaemon.observe.readiness import Readiness, is_memory_full
from kdaemon.observe.reading import SnapshotReader
from kdaemon.observe.reloads import Reloads
from kdaemon.system import SystemDice
from tests.kit.clock import HandClock
from tests.kit.listening import serve_http
from tests.kit.observing import Observing, reader_of
from tests.kit.patience import PATIENCE_S
from tests.kit.watching import before
from tests.kit.world import SETTINGS


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Place:
    """An admin listener over one stream, with a clock of ours."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.memory = ByteBudget(16_000)
        engine = Engine(SETTINGS, self.memory, SystemDice(1), self.clock.now_ns())
        observing = Observing(self.memory, {"orders": engine})
        listeners: dict[str, ListenerCounters] = {}
        self.readiness = Readiness(lambda: is_memory_full(self.memory))
        self.heart = Heartbeat(self.clock)
        reader = reader_of(
            observing,
            self.clock,
            listeners=listeners,
            readiness=self.readiness,
            heartbeat=self.heart,
        )
        self.reloads = Reloads(lambda: 1.0, 7, 9)
        self.admin = Admin(
            Metrics(reader),
            reader,
            self.readiness,
            self.heart,
            self.clock,
            self.reloads,
        )
        self.listeners = listeners
        self.server: ConnectionServer

    async def open(self) -> None:
        self.server = await serve_http(self.admin.handle)
        self.listeners["admin"] = self.server.counters

    async def ask(self, method: str, path: str, *headers: str) -> Answer:
        """One request on a connection of its own; the answer is all there is until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            "Connection: close",
            *headers,
            "",
            "",
        ]
        writer.write("\r\n".join(lines).encode())
        raw = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        await writer.wait_closed()
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        pairs = (line.partition(": ")[::2] for line in rest)
        return Answer(int(first.split()[1]), {k.lower(): v for k, v in pairs}, body)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    await place.open()
    yield place
    await place.server.aclose()


async def test_metrics_are_text_for_a_browser_and_openmetrics_for_who_asks(place: Place) -> None:
    plain = await place.ask("GET", "/metrics")
    assert plain.status == 200
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert plain.headers["cache-control"] == "no-store"
    families = {family.name for family in text_string_to_metric_families(plain.body.decode())}
    assert {"kdaemon_records_received", "kdaemon_build_info"} <= families
    assert b'kdaemon_client_connections_opened_total{listener="admin"} 1.0\n' in plain.body
    accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    modern = await place.ask("GET", "/metrics", accept)
    assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert modern.body.endswith(b"# EOF\n")


async def test_readyz_says_no_while_starting_draining_or_full_and_says_why(place: Place) -> None:
    answer = await place.ask("GET", "/readyz")
    assert (answer.status, answer.body) == (503, b"starting\n")
    place.readiness.started()
    answer = await place.ask("GET", "/readyz")
    assert (answer.status, answer.body) == (200, b"ok\n")
    place.memory.take(15_500)
    answer = await place.ask("GET", "/readyz")
    assert (answer.status, answer.body) == (503, b"memory is full\n")
    place.memory.give(15_500)
    place.readiness.told_to_stop()
    answer = await place.ask("GET", "/readyz")
    assert (answer.status, answer.body) == (503, b"draining\n")


async def test_livez_follows_the_heartbeat_and_nothing_else(place: Place) -> None:
    place.memory.take(16_000)
    place.readiness.told_to_stop()
    answer = await place.ask("GET", "/livez")
    assert (answer.status, answer.body) == (200, b"ok\n"), "not ready is not dead"
    place.clock.ns += STILL_NS_MAX + 1
    answer = await place.ask("GET", "/livez")
    assert (answer.status, answer.body) == (503, b"the event loop stood still for 10.0 s\n")
    place.heart.beat()
    assert (await place.ask("GET", "/livez")).status == 200


async def test_statusz_is_json_for_people(place: Place) -> None:
    answer = await place.ask("GET", "/statusz")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    page = json.loads(answer.body)
    assert page["state"] == "starting"
    assert [stream["name"] for stream in page["streams"]] == ["orders"]
    assert answer.body.count(b"\n") > 20, "indented, a line for each fact"


async def test_the_index_names_every_page_and_each_of_them_is_there(place: Place) -> None:
    place.readiness.started()
    answer = await place.ask("GET", "/")
    assert answer.status == 200
    named = [word.decode() for word in answer.body.split() if word.startswith(b"/")]
    pages = ["/metrics", "/livez", "/readyz", "/statusz", "/configz", "/configz/effective"]
    assert named == [*pages, "/events"]
    for path in named[:-1]:  # the last one does not end: test_live.py
        assert (await place.ask("GET", path)).status == 200


async def test_a_browser_takes_no_page_for_what_its_type_does_not_say(place: Place) -> None:
    """Names, errors and sampled records are written by others; and no page is kept."""
    index = (await place.ask("GET", "/")).body.decode()
    paths = [line.split()[0] for line in index.splitlines() if line.startswith("/")]
    for path in {*paths, "/"} - {"/events"}:  # which does not end
        headers = (await place.ask("GET", path)).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["cache-control"] == "no-store", path


def test_what_only_people_look_at_is_not_loaded_before_somebody_looks() -> None:
    names = ("live", "live_event", "status", "page", "config_page")
    late = {*(f"kdaemon.observe.{name}" for name in names), "kdaemon.config.effective"}
    code = f"import sys, kdaemon.daemon; print(sorted({late} & sys.modules.keys()))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout == "[]\n"


@pytest.mark.parametrize("path", ["/", "/metrics", "/livez", "/readyz", "/statusz"])
async def test_head_has_the_head_of_get_and_no_body(place: Place, path: str) -> None:
    place.readiness.started()
    head = await place.ask("HEAD", path)
    get = await place.ask("GET", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize("path", ["/metric", "/metrics/", "/../livez", "/%6civez"])
async def test_other_paths_are_404_and_name_those_there_are(place: Place, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await place.ask(method, path)
        assert answer.status == 404
        assert b"/statusz" in answer.body
    answer = await place.ask("HEAD", path)
    assert (answer.status, answer.body) == (404, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_405_and_change_nothing(place: Place, method: str) -> None:
    answer = await place.ask(method, "/readyz", "Content-Length: 0")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


async def test_a_query_is_no_part_of_the_path(place: Place) -> None:
    assert (await place.ask("GET", "/livez?verbose=1")).status == 200


async def test_an_accept_header_of_noise_is_answered_in_text(place: Place) -> None:
    for accept in ("application/openmetrics-text;version=x.y", ",;=", "text/plain;version=x"):
        answer = await place.ask("GET", "/metrics", f"Accept: {accept}")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert place.server.counters.handler_failures == 0


async def test_scrapes_that_meet_share_a_page_and_none_tells_of_before_it_was_asked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each counts its own connection, and so tells of a time after that was made."""
    reads = 0

    def counted(reader: SnapshotReader, shards_max: int | None = None) -> None:
        nonlocal reads
        reads += 1

    before(monkeypatch, SnapshotReader, "read", counted)
    monkeypatch.setattr(slices, "PAUSE_FACTOR", 0)
    loop, looks = asyncio.get_running_loop(), count(0, slices.SLICE_NS)  # a step is a slice
    monkeypatch.setattr(HandClock, "now_ns", lambda _: int(loop.time() * 1e9) + next(looks))
    scrapes = []
    for _ in range(16):
        scrapes.append(asyncio.ensure_future(place.ask("GET", "/metrics")))
        while place.server.counters.opened < len(scrapes) or not reads:
            await asyncio.sleep(0)
    opened = b'kdaemon_client_connections_opened_total{listener="admin"} '
    for number, scrape in enumerate(scrapes, 1):
        body = (await scrape).body
        assert float(body.partition(opened)[2].partition(b"\n")[0]) >= number
    assert reads < 8, "of 16 scrapes"

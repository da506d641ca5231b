"""The live page: what is served, and the events over a real loopback socket."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.counting import StreamCounters
from kdaemon.base.errors import ServiceError
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.http.server import ConnectionServer
from kdaemon.observe import live, live_event
from kdaemon.observe.keys import KEY_FIELD
from kdaemon.observe.live import VIEWERS_MAX, Live, LivePage
from kdaemon.observe.live_event import (
    ERRORS_MAX,
    SHARDS_MAX,
    STREAMS_MAX,
    WORDS_CHARACTERS_MAX,
    event_steps,
)
from kdaemon.observe.log_queue import LogQueue
from kdaemon.observe.logs import Line
from kdaemon.observe.page import HotKeyStatus, LoadStatus
from kdaemon.observe.recent import Recent
from kdaemon.system import SystemClock, SystemDice
from tests.kit.frames import describe, even_shards, make_frame
from tests.kit.listening import serve_http
from tests.kit.observing import At, Observing, reader_of
from tests.kit.patience import PATIENCE_S
from tests.kit.queues import lanes_of
from tests.kit.watching import made_of
from tests.kit.world import SECOND, SETTINGS, Faults, World
from tests.unit.observe.test_admin import Place

HTML = LivePage().body.decode()
ROOMY = replace(SETTINGS, buffer_bytes_max=1 << 30)
SCRIPT = HTML.partition("<script>")[2].partition("</script>")[0]


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    await place.open()
    yield place
    place.admin.close()
    await place.server.aclose()


async def test_a_browser_gets_the_page_and_others_the_index(place: Place) -> None:
    seen = await place.ask("GET", "/", "Accept: text/html,application/xhtml+xml,*/*;q=0.8")
    assert (seen.status, seen.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert seen.body.decode() == HTML
    assert seen.headers["x-content-type-options"] == "nosniff"
    assert seen.headers["cache-control"] == "no-store"
    plain = await place.ask("GET", "/", "Accept: */*")
    assert plain.body.startswith(b"kdaemon\n")
    assert (await place.ask("GET", "/", "Accept: text/html", "Host: evil.test")).status != 200
    foreign = await place.ask("GET", "/events", "Origin: http://evil.test")
    assert foreign.status == 403


async def test_the_policy_lets_in_what_is_in_the_page_and_nothing_else(place: Place) -> None:
    answer = await place.ask("GET", "/", "Accept: text/html")
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy.pop("connect-src") == "'self'"
    kept = {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert policy == dict.fromkeys(kept, "'none'")


def test_the_page_stands_alone_and_writes_text_alone() -> None:
    names = {"http://www.w3.org/2000/svg"}  # of a namespace: nobody fetches it
    assert set(re.findall(r"https?://[^\"' <)]+", HTML)) == names
    assert not re.search(r"\b(src|srcset)=|@import|url\(|<link|<img|\sstyle=|\son\w+=", HTML)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", SCRIPT)


def test_each_id_that_the_script_uses_is_there_once() -> None:
    ids = re.findall(r'\bid="([^"]+)"', HTML)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:byId|told)\("([^"]+)"', SCRIPT))
    assert len(used) > 10
    assert used <= set(ids)
    assert set(re.findall(r'aria-labelledby="([^"]+)"', HTML)) <= set(ids)
    for table in re.findall(r"<thead>.*?</thead>", HTML, re.DOTALL):
        assert table.count("<th ") == table.count('scope="col"') > 1


ROWS = {
    "room-rows": 5,
    "upstream-rows": 8,
    "shard-rows": 7,
    "key-rows": 5,
    "error-rows": 4,
    "said-rows": 3,
    "stream-rows": 11,
    "cost-rows": 4,
    "given-rows": 3,
    "rest-rows": 3,
}


def test_each_table_has_as_many_cells_as_heads() -> None:
    """A row that `rows` makes has its cells in the order of the heads; test_live_page.py counts the
    cells in a browser.
    """
    assert set(re.findall(r'<tbody id="([^"]+)"', HTML)) == set(ROWS)
    for body, row in ROWS.items():
        head = HTML.partition(f'<tbody id="{body}">')[0].rpartition("<thead>")[2]
        assert head.count("<th ") == row
    template = HTML.partition("<template")[2].partition("</template>")[0]
    assert template.count("<th ") == ROWS["shard-rows"]
    assert f'colspan="{ROWS["stream-rows"]}"' in template


def one(event: bytes) -> Any:
    """What an event says."""
    lines = event.decode().removesuffix("\n\n").split("\n")
    assert [line.partition(": ")[0] for line in lines] == ["retry", "data"]
    return json.loads(lines[1].removeprefix("data: "))


def observing(*streams: str) -> Observing:
    memory = ByteBudget(16_000_000)
    engines = {name: Engine(SETTINGS, memory, SystemDice(1), 1) for name in streams}
    return Observing(memory, engines)


def test_an_event_conserves() -> None:
    seen = observing("a", "b")
    for number, engine in enumerate(seen.streams.values(), 1):
        engine.counters.receive(100 * number, 10)
        engine.counters.delivered += 60 * number
        engine.counters.buffered += 30 * number
        engine.counters.in_flight += 10 * number
        engine.counters.delivery_ns.observe(3_000_000, 60 * number)
    seen.door.refuse(RefuseReason.INVALID, 7, 70)
    closed = StreamCounters()
    closed.receive(5, 50)
    closed.delivered += 5
    seen.upstreams[0].closed.add(closed)
    told = one(at_once(event_steps(reader_of(seen, SystemClock()))))
    records = told["records"]
    assert (records["received"], records["delivered"]) == (312, 185)
    assert records["received"] + records["recovered"] == sum(
        sum(value.values()) if isinstance(value := records[name], dict) else value
        for name in (
            *("rejected", "delivered", "dead", "dropped", "recovered_settled"),
            *("buffered", "in_flight", "spooled"),
        )
    )
    assert records["rejected"] == {"invalid": 7}
    assert sum(told["delivery"]["counts"]) == 180
    assert len(told["delivery"]["counts"]) == len(told["delivery"]["bounds_s"]) + 1


def test_a_stream_that_delivers_nothing_says_so_in_its_row() -> None:
    """Its calls are answered, so that it is not ill, and nobody listed the other."""
    world = World(1, faults=Faults(record_failure=1.0))
    failing, missing, unseen = world.add_engine(), world.add_engine(), world.add_engine()
    seen = Observing(world.memory, {"failing": failing, "missing": missing, "unseen": unseen})
    world.run_until(world.now_ns + SECOND // 10)
    world.submit(failing, make_frame([Record(b"x", f"k{number}") for number in range(50)]))
    world.run_until(world.now_ns + 2 * SECOND)
    error = ServiceError("ResourceNotFoundException", "not found", status=400)
    missing.give_up_missing(error, world.now_ns)
    unseen.handle_no_description(error, world.now_ns)
    event = one(at_once(event_steps(reader_of(seen, At(world)))))
    assert {each["name"]: each["health"] for each in event["streams"]} == {
        "failing": "failing",
        "missing": "missing",
        "unseen": "unseen",
    }
    assert {each["unseen"] and each["unseen"]["code"] for each in event["streams"]} == {
        None,
        error.code,
    }
    assert event["on_hold"] == 0


def test_a_name_of_a_stranger_is_text_and_never_a_line() -> None:
    name = "<script>alert(1)</script>\n\ndata: {}\r"
    event = at_once(event_steps(reader_of(observing(name), SystemClock())))
    (stream,) = one(event)["streams"]
    assert stream["name"].startswith("<script>alert(1)</script>\\n")
    assert event.count(b"\n") == 3


def test_an_event_tells_of_a_bounded_number_of_streams() -> None:
    seen = observing(*(f"s{i}" for i in range(STREAMS_MAX + 5)))
    seen.streams[f"s{STREAMS_MAX + 4}"].counters.buffered += 3
    told = one(at_once(event_steps(reader_of(seen, SystemClock()))))
    assert told["stream_count"] == STREAMS_MAX + 5
    assert len(told["streams"]) == STREAMS_MAX
    assert f"s{STREAMS_MAX + 4}" in {each["name"] for each in told["streams"]}


SHARDS = even_shards(64)


def loaded(*streams: str, shards: int = 64) -> Observing:
    """Streams whose shards are known, each of which took something."""
    memory = ByteBudget(1 << 30)
    engines = {name: Engine(ROOMY, memory, SystemDice(1), 1) for name in streams}
    for engine in engines.values():
        engine.freshness.ask(1)
        at_once(engine.take_description(describe(even_shards(shards)), 1))
        for number, lane in enumerate(lanes_of(engine)):
            lane.taken = number
    return Observing(memory, engines)


def test_of_a_stream_its_hottest_shards_are_told_and_how_many_there_are() -> None:
    seen = loaded("a")
    engine, now_ns = seen.streams["a"], SystemClock().now_ns()
    records = [Record(b"x" * 9, "k", str(SHARDS[3].first_hash_key)) for _ in range(2_900)]
    assert engine.handle_frame(make_frame(records), now_ns)
    (stream,) = one(at_once(event_steps(reader_of(seen, SystemClock()))))["streams"]
    shards = stream["shards"]
    assert (stream["shard_count"], stream["shards_backlogged"]) == (64, 1)
    assert len(shards) == SHARDS_MAX
    assert (shards[0]["id"], shards[0]["is_hot"], shards[0]["waiting"]) == ("shard-3", True, 2_900)
    assert [each["taken"] for each in shards[1:3]] == [63, 62], "then those that took most"
    assert not shards[1]["is_hot"]
    assert shards[1]["quota_records"] == 1_000
    assert shards[1]["quota_bytes"] == pytest.approx(1 << 20, rel=0.001)


def test_shards_that_the_service_has_not_told_of_are_none() -> None:
    """The engine takes such a stream for one shard."""
    memory = ByteBudget(1 << 30)
    seen = Observing(memory, {"a": Engine(ROOMY, memory, SystemDice(1), 1)})
    (stream,) = one(at_once(event_steps(reader_of(seen, SystemClock()))))["streams"]
    assert stream["shard_count"] == 0
    assert 'each.shard_count ? behind + number(each.shard_count) : "unknown"' in SCRIPT


def test_where_records_go_out_in_aggregates_their_number_is_no_part_of_the_quota() -> None:
    """A shard takes 1,000 aggregates a second: the bytes in them are what bounds."""
    engine = Engine(
        replace(ROOMY, aggregate_bytes_max=51_200), ByteBudget(1 << 30), SystemDice(1), 1
    )
    engine.freshness.ask(1)
    at_once(engine.take_description(describe(even_shards(1)), 1))
    seen = Observing(ByteBudget(1 << 30), {"a": engine})
    (stream,) = one(at_once(event_steps(reader_of(seen, SystemClock()))))["streams"]
    assert stream["shards"][0]["quota_records"] == 0
    assert stream["shards"][0]["quota_bytes"] == pytest.approx(1 << 20, rel=0.001)


def test_an_event_tells_of_which_process_it_is() -> None:
    """The page forgets what another one said."""
    seen, clock = loaded("a"), SystemClock()
    first, other = reader_of(seen, clock), reader_of(seen, clock)
    began = [one(at_once(event_steps(reader)))["began"] for reader in (first, first, other)]
    assert began[0] == began[1] != began[2]


@pytest.mark.parametrize(("streams", "shown"), [(1, 16), (20, 12), (100, 2), (300, 0)])
def test_shards_are_told_of_fewer_a_stream_where_there_are_more_streams(
    streams: int, shown: int
) -> None:
    seen = loaded(*(f"s{number}" for number in range(streams)), shards=20)
    event = at_once(event_steps(reader_of(seen, SystemClock())))
    assert {len(each["shards"]) for each in one(event)["streams"]} == {shown}
    assert len(event) < 128 * 1024


def test_the_last_errors_of_all_streams_are_told_clean_and_bounded() -> None:
    seen = observing(*(f"s{number}" for number in range(ERRORS_MAX + 4)))
    now_ns = SystemClock().now_ns()
    for number, engine in enumerate(seen.streams.values()):
        failures = engine.audit().settlement.failures
        failures.call("Http500", "x <b> password=hunter2hunter2\nmore", 5, now_ns - number * 10**9)
    errors = one(at_once(event_steps(reader_of(seen, SystemClock()))))["errors"]
    assert len(errors) == ERRORS_MAX
    assert [each["stream"] for each in errors[:2]] == ["s0", "s1"], "the last first"
    assert errors[1]["age_s"] >= 1.0
    assert (errors[0]["calls"], errors[0]["records"]) == (1, 5)
    assert (errors[0]["code"], errors[0]["message"]) == ("Http500", "x <b> password=***")


def test_what_the_log_said_is_told() -> None:
    recent = Recent()
    line = Line(0.0, "warning", "kdaemon", "slow", {"stream": "a", "text": "y" * 5_000})
    for _ in range(3):
        recent.note(("f.py", 1), line, SystemClock().now_ns())
    queue = LogQueue(lambda _: None, lambda _: b"")
    reader = reader_of(observing("a"), SystemClock(), log_queue=queue, recent=recent)
    (said,) = one(at_once(event_steps(reader)))["log"]
    queue.close(PATIENCE_S)
    assert (said["level"], said["count"]) == ("warning", 3)
    assert said["words"].startswith("slow stream=a text=yyy")
    assert len(said["words"]) == WORDS_CHARACTERS_MAX + 1


@pytest.mark.parametrize("shows_keys", [True, False])
def test_a_key_that_the_log_named_is_told_while_keys_are_shown(shows_keys: bool) -> None:
    """It was said under another configuration, perhaps: a reload took that right away."""
    recent = Recent()
    fields: dict[str, str | float] = {"stream": "a", KEY_FIELD: "Ada Lovelace", "share": 1.0}
    recent.note(("hot.py", 1), Line(0.0, "warning", "kdaemon", "a shard is hot", fields), 0)
    queue = LogQueue(lambda _: None, lambda _: b"")
    reader = reader_of(observing("a"), SystemClock(), log_queue=queue, recent=recent)
    event = at_once(event_steps(reader, shows_keys=shows_keys))
    queue.close(PATIENCE_S)
    assert (b"Ada" in event) == shows_keys
    (said,) = one(event)["log"]
    assert said["words"].startswith("a shard is hot stream=a ")
    assert said["words"].endswith("share=1.0")


def test_the_page_names_no_size_of_a_unit_that_can_be_set() -> None:
    assert not re.search(r"\d+ KiB", SCRIPT)


def test_what_is_billed_is_told_of_each_stream_and_of_all() -> None:
    seen = observing("a", "b")
    for engine in seen.streams.values():
        billed = engine.counters.billed
        billed.see([200] * 1_000)
        billed.byte_count += 200_000
    told = one(at_once(event_steps(reader_of(seen, SystemClock()))))
    bill = told["streams"][0]["bill"]
    assert bill["units"] == {"put_payload_units": 1_000, "on_demand_bytes": 1_000 * 1024}
    assert bill["record_bytes"] == 200
    assert 0.9 < bill["saves"]["put_payload_units"] < 1
    assert told["units"] == {"put_payload_units": 2_000, "on_demand_bytes": 2_000 * 1024}


def test_keys_that_are_too_light_to_matter_are_left_out() -> None:
    keys = [
        HotKeyStatus("a", is_explicit_hash_key=False, records_part=0.6, bytes_part=0.5),
        HotKeyStatus("b", is_explicit_hash_key=False, records_part=0.002, bytes_part=0.01),
        HotKeyStatus("c", is_explicit_hash_key=False, records_part=0.009, bytes_part=0.009),
    ]
    load = LoadStatus(1_000.0, 1_000.0, 1.2, "at 120% of its quota", keys)
    assert [key.key for key in live_event.heavy(load).keys] == ["a", "b"]


class Watched:
    """An admin listener whose events come one after another."""

    def __init__(self) -> None:
        self.observing = observing("orders")
        self.live = Live(reader_of(self.observing, SystemClock()), SystemClock())
        self.server: ConnectionServer

    async def look(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """The head of the answer is read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        return reader, writer, head

    async def until(self, holds: Callable[[], bool]) -> None:
        async def turn() -> None:
            while not holds():
                await asyncio.sleep(0)

        await asyncio.wait_for(turn(), PATIENCE_S)


async def event_of(reader: asyncio.StreamReader) -> Any:
    size = int(await asyncio.wait_for(reader.readline(), PATIENCE_S), 16)
    chunk = await asyncio.wait_for(reader.readexactly(size + 2), PATIENCE_S)
    return one(chunk[:-2])


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(live, "INTERVAL_S", 0.0)
    watched = Watched()
    watched.server = await serve_http(watched.live.ask)
    yield watched
    watched.live.close()
    await watched.server.aclose()


async def test_events_come_while_somebody_watches_and_none_is_made_after(watched: Watched) -> None:
    reader, writer, head = await watched.look()
    assert b"text/event-stream" in head
    assert b"no-store" in head
    first = await event_of(reader)
    watched.observing.streams["orders"].counters.receive(3, 3)
    while (later := await event_of(reader))["records"]["received"] != 3:
        assert later["uptime_s"] >= first["uptime_s"]
    writer.close()
    await watched.until(lambda: watched.live.viewer_count == 0)
    assert watched.live.newest == (0, b"")
    assert not watched.live.is_planned


async def test_so_many_watch_and_the_next_one_hears_why_not(watched: Watched) -> None:
    there = [await watched.look() for _ in range(VIEWERS_MAX)]
    reader, writer, head = await watched.look()
    assert b" 503 " in head
    assert b"Retry-After: 5" in head
    assert await asyncio.wait_for(reader.readline(), PATIENCE_S) == live.MANY
    writer.close()
    there[0][1].close()
    await watched.until(lambda: watched.live.viewer_count == VIEWERS_MAX - 1)
    again = await watched.look()
    assert b" 200 " in again[2]
    for _, each, _ in (*there, again):
        each.close()
    await watched.until(lambda: watched.live.viewer_count == 0)


async def test_who_does_not_read_costs_one_event_and_gets_a_whole_one_later(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_of(monkeypatch, live, "Viewer")
    _, slow, _ = await watched.look()
    quick, writer, _ = await watched.look()
    viewer = made[0]
    slow.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(50):
        await event_of(quick)
    assert watched.live.viewer_count == 2
    assert watched.live.newest[0] >= 50
    kept = [name for name in viewer.__slots__ if isinstance(getattr(viewer, name), bytes | list)]
    assert kept == [], "what it misses is kept nowhere"
    slow.close()
    writer.close()
    await watched.until(lambda: watched.live.viewer_count == 0)


async def test_a_viewer_is_given_each_event_once_and_those_that_it_missed_never(
    watched: Watched,
) -> None:
    viewer = live.Viewer(watched.live)
    watched.live.newest = (1, b"one")
    assert viewer.next_piece() == b"one"
    assert viewer.next_piece() == b""
    watched.live.newest = (3, b"three")
    assert viewer.next_piece() == b"three"
    viewer.drain()
    assert viewer.next_piece() is None


async def test_a_drain_ends_the_answer_whole(watched: Watched) -> None:
    reader, writer, _ = await watched.look()
    await event_of(reader)
    await asyncio.wait_for(watched.server.aclose(), PATIENCE_S)
    rest = await asyncio.wait_for(reader.read(), PATIENCE_S)
    assert rest.endswith(b"0\r\n\r\n")
    writer.close()
    assert watched.live.viewer_count == 0


async def test_a_defect_ends_the_answers_and_is_in_the_log(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> Any:
        yield
        raise ValueError("broken")

    monkeypatch.setattr(live, "event_steps", broken)
    reader, writer, _ = await watched.look()
    assert await asyncio.wait_for(reader.read(5), PATIENCE_S) == b"0\r\n\r\n"
    assert "a defect of kdaemon" in caplog.text
    writer.close()
    await watched.until(lambda: watched.live.viewer_count == 0)


async def test_a_head_has_no_events(place: Place) -> None:
    answer = await place.ask("HEAD", "/events")
    assert (answer.status, answer.body) == (200, b"")
    assert place.admin.live.viewer_count == 0

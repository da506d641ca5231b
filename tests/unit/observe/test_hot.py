"""Which shards the log calls hot: literal engines under a clock moved by hand."""

import logging
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.engine.heat import LANES_A_STEP
from kdaemon.observe.hot import LOOK_INTERVAL_NS, TOLD_INTERVAL_NS, WATCHED_MAX, HotWatch
from kdaemon.observe.slices import SLICE_NS
from tests.kit.engine_rig import SETTINGS, T
from tests.kit.frames import SECOND, LoadedDice, describe, even_shards, make_frame
from tests.kit.observing import Observing, reader_of
from tests.kit.queues import lanes_of
from tests.kit.watching import before

ROOMY = replace(SETTINGS, buffer_bytes_max=1 << 30)
SHARDS = even_shards(3)


class Place:
    """Streams of three shards of 1,000 records a second, and the watch over them.

    Nothing is sent: a test says what a shard took, and puts what comes for it.
    """

    def __init__(self, caplog: pytest.LogCaptureFixture, *names: str) -> None:
        memory = ByteBudget(1 << 30)
        self.time_ns = T
        self.streams = {name: Engine(ROOMY, memory, LoadedDice(0.5), T) for name in names}
        for engine in self.streams.values():
            engine.freshness.ask(T)
            at_once(engine.take_description(describe(SHARDS), T))
        self.watch = HotWatch(reader_of(Observing(memory, self.streams), self), self)
        self._caplog = caplog

    def now_ns(self) -> int:
        return self.time_ns

    def put(self, name: str, shard: int, count: int) -> None:
        hash_key = str(SHARDS[shard].first_hash_key)
        frame = make_frame([Record(b"x", "k", hash_key) for _ in range(count)])
        assert self.streams[name].handle_frame(frame, self.time_ns)

    def sold_out(self, name: str) -> None:
        """From now on, nothing is saved up in any bucket of the stream."""
        for lane in lanes_of(self.streams[name]):
            lane.budget.refill(self.time_ns)
            lane.budget.records.pay(lane.budget.records.available)

    def pass_seconds(self, seconds: int, **taken: int) -> None:
        """Looks each second. `taken`: what the first shard of a stream takes in each of them."""
        for _ in range(seconds):
            self.time_ns += SECOND
            for name, count in taken.items():
                lanes_of(self.streams[name])[0].taken += count
            for name in self.streams:
                self.sold_out(name)
            self.watch.look()

    def told(self) -> list[dict[str, Any]]:
        """Fields of the warnings since the last call, with the text as one of them."""
        lines = []
        for record in self._caplog.records:
            assert record.levelno == logging.WARNING
            assert record.name == "kdaemon.observe"
            lines.append({"text": record.getMessage(), **record.__dict__["fields"]})
        self._caplog.clear()
        return lines


def test_a_shard_that_stays_hot_is_named_with_its_backlog_and_a_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Place(caplog, "a", "b")
    place.put("a", 0, 5000)
    place.pass_seconds(19, a=1000)
    assert place.told() == [], "hot at one look only"
    place.pass_seconds(1, a=1000)
    assert place.told() == [
        {
            "text": "a shard is hot: more comes for it than it takes; spread its keys, or split the"
            " shard",
            "stream": "a",
            "shard_id": "shard-0",
            "backlog_seconds": 5.0,
            "backlog_records": 5000,
            "share": 1.0,
            "shards_backlogged": "1 of 3",
        }
    ]


def test_a_shard_whose_keys_are_known_is_named_with_the_advice_that_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Place(caplog, "a")
    place.put("a", 0, 5000)
    place.pass_seconds(10, a=1000)
    for _ in range(10):
        place.put("a", 0, 2120)
        place.pass_seconds(1, a=1000)
    (line,) = place.told()
    assert line["text"] == (
        "a shard is hot: at 212% of its quota of records: key #1 is 100% of that, more than a shard"
        " takes: splitting will not help; spread this key"
    )
    assert line["heaviest_key"] == sha256(b"0").hexdigest()[:12]


def test_no_more_shards_are_watched_than_may_be_of_all_streams(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = [f"s{number}" for number in range(WATCHED_MAX)]
    place = Place(caplog, *names)
    for name in names:
        place.put(name, 0, 50_000)
        place.put(name, 1, 50_000)
    place.pass_seconds(30)
    watched = [len(engine.audit().hot_keys.watched) for engine in place.streams.values()]
    assert sum(watched) == WATCHED_MAX
    for engine in place.streams.values():
        engine.ledger.footprint_bytes, engine.counters.buffered = 0, 0
    place.pass_seconds(90)
    assert not any(engine.audit().hot_keys.is_on for engine in place.streams.values())


def test_it_is_told_once_a_minute_and_stream(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(caplog, "a", "b")
    for name in ("a", "b"):
        place.put(name, 0, 5000)
    place.pass_seconds(79, a=1000, b=1000)
    assert [line["stream"] for line in place.told()] == ["a", "b"]
    place.pass_seconds(1, a=1000, b=1000)
    assert [line["stream"] for line in place.told()] == ["a", "b"]
    assert TOLD_INTERVAL_NS == 60 * SECOND


def test_a_burst_that_is_gone_at_the_next_look_is_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Place(caplog, "a")
    place.put("a", 0, 5000)
    place.pass_seconds(15, a=300)
    for run in lanes_of(place.streams["a"])[0].take_all():
        assert run.indices
    place.pass_seconds(30, a=300)
    assert place.told() == []


def test_in_an_outage_no_shard_is_hot(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(caplog, "a")
    place.put("a", 0, 5000)
    place.pass_seconds(60)
    assert place.told() == [], "nothing was answered"


def test_what_an_outage_left_is_not_heat_while_it_gets_shorter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Place(caplog, "a")
    place.put("a", 0, 40_000)
    lane = lanes_of(place.streams["a"])[0]
    for _ in range(30):
        place.pass_seconds(1, a=1000)
        for _ in range(300):  # 700 came while 1,000 went
            lane.take(1)
    assert place.told() == []
    for _ in range(20):
        place.pass_seconds(1, a=1000)
        for _ in range(100):  # 900 came
            lane.take(1)
    assert len(place.told()) == 1


def test_where_all_shards_are_behind_the_stream_is_told_and_not_one_of_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Place(caplog, "a")
    for shard in range(3):
        place.put("a", shard, 3000 + shard)
    place.pass_seconds(10, a=1000)
    lanes_of(place.streams["a"])[2].throttled = 50
    place.pass_seconds(10, a=1000)
    (line,) = place.told()
    assert line["text"].startswith("a stream is behind: more comes than its shards take")
    assert line["shards_backlogged"] == "3 of 3"
    assert line["shard_id"] == "shard-2", "the hottest that answered"


def test_a_stream_that_is_gone_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(caplog, "a", "b")
    for name in ("a", "b"):
        place.put(name, 0, 5000)
    place.pass_seconds(20, a=1000, b=1000)
    assert len(place.told()) == 2
    gone = place.streams.pop("a")
    place.pass_seconds(10, b=1000)
    place.streams["a"] = gone
    place.pass_seconds(10, a=1000, b=1000)
    assert place.told() == [], "it was not seen before"
    place.pass_seconds(10, a=1000, b=1000)
    assert [line["stream"] for line in place.told()] == ["a"]


def test_between_looks_and_where_nothing_waits_no_engine_is_read(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(caplog, "busy", "idle")
    place.put("busy", 0, 1)
    read: list[Engine] = []
    before(monkeypatch, Engine, "snapshot", lambda engine, *_: read.append(engine))
    place.pass_seconds(30)
    assert read == [place.streams["busy"]] * (30 * SECOND // LOOK_INTERVAL_NS)


def test_many_streams_are_looked_at_in_parts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes a millisecond here: 30 streams would hold the loop for 30."""
    names = [f"s{number:02}" for number in range(30)]
    place = Place(caplog, *names)
    for name in names:
        place.put(name, 0, 5000)
    looks = 0

    def slow(engine: Engine, now_ns: int, shards_max: int | None, calm_max: int) -> None:
        nonlocal looks
        looks += 1
        place.time_ns += 1_000_000

    before(monkeypatch, Engine, "snapshot", slow)
    most = 0
    for _ in range(60):
        looks = 0
        place.pass_seconds(1, **dict.fromkeys(names, 1000))
        most = max(most, looks)
    assert most * 1_000_000 == SLICE_NS
    assert sorted(line["stream"] for line in place.told()) == names, "each of them, once"


def test_a_look_at_many_shards_takes_several_calls(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(caplog, "s")
    engine = place.streams["s"]
    at_once(engine.take_description(describe(even_shards(3 * LANES_A_STEP)), T))
    place.put("s", 0, 5)
    looked: list[int] = []

    def now_ns() -> int:  # each step takes as long as a call may
        looked.append(1)
        return place.time_ns + len(looked) * SLICE_NS

    place.time_ns += LOOK_INTERVAL_NS
    place.now_ns = now_ns  # type: ignore[method-assign]
    calls = 0
    while place.watch.is_looking or not calls:
        place.watch.look()
        calls += 1
    assert calls == 1 + 3
    assert "s" in place.watch.audit()

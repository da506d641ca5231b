"""A hot shard in a simulated world: its ten heaviest keys are on the page, and the advice is true.

The load has known skew; a watch looks each ten seconds, as the heartbeat lets it. What is found is
held to counts of what came in the last of its windows, and the advice to what the load was made of.
"""

import json
import logging
import random
from bisect import bisect
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest

from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.observe.hot import WATCHED_MAX, HotWatch
from kdaemon.observe.keys import key_name
from kdaemon.observe.status import status_steps
from kdaemon.route.shard_map import ShardMap
from tests.kit.depth import some
from tests.kit.frames import describe
from tests.kit.observing import At, Observing, reader_of
from tests.kit.world import MS, SECOND, SETTINGS, World, make_frame
from tests.unit.observe.whole import whole

SHARD_COUNT = 8
HOT = 3
STEP_NS = 100 * MS
RECORDS_A_STEP = 212  # for the hot shard, which takes 100: 212 % of its quota
SECONDS = 31
FEW = 1 << 22  # bytes of buffer: the hot shard's queue fills, and records are refused

Draw = Callable[[random.Random, list[str]], str]


def zipf(dice: random.Random, keys: list[str]) -> str:
    return keys[bisect(ZIPF, dice.random() * ZIPF[-1])]


ZIPF = list(accumulate(1 / rank**1.1 for rank in range(1, 3_001)))


def heavy(dice: random.Random, keys: list[str]) -> str:
    return keys[0] if dice.random() < 0.61 else keys[dice.randrange(1, len(keys))]


def uniform(dice: random.Random, keys: list[str]) -> str:
    return keys[dice.randrange(len(keys))]


class Scene:
    """The load on one stream, and those who look at it."""

    def __init__(self, seed: int, draw: Draw) -> None:
        print("seed", seed)
        self.world = World(
            seed,
            shard_count=SHARD_COUNT,
            settings=replace(SETTINGS, first_share=1.0, buffer_bytes_max=FEW),
            keeps_records=False,
        )
        self.engine = self.world.add_engine()
        observing = Observing(self.world.memory, {"orders": self.engine})
        self.reader = reader_of(observing, At(self.world))
        self.watch = HotWatch(self.reader, At(self.world), shows_keys=True)
        self.counts: Counter[str] = Counter()  # of the hot shard's keys, weighed as the sketch does
        self._dice = random.Random(seed)
        self._draw = draw
        self.world.run_until(self.world.now_ns + SECOND)
        shards = self.shards()
        shard_map = ShardMap(shards)
        of_hot = (f"key-{n}" for n in range(1_000_000))
        self.keys: list[str] = []
        while len(self.keys) < len(ZIPF):
            key = next(of_hot)
            if shard_map.index_of_key(key) == HOT:
                self.keys.append(key)
        calm = (f"calm-{n}" for n in range(10_000))
        self._calm = [key for key in calm if shard_map.index_of_key(key) != HOT]
        self.hot_range = shards[HOT]

    def shards(self) -> Any:
        shard_map = self.engine.audit().queues.shards.shard_map
        assert shard_map is not None
        return shard_map.shards

    def run(self, seconds: int) -> None:
        steps = seconds * SECOND // STEP_NS
        for step in range(steps):
            keys = [self._draw(self._dice, self.keys) for _ in range(RECORDS_A_STEP)]
            calm = [self._dice.choice(self._calm) for _ in range(100)]
            self.counts.update(keys)
            records = [Record(bytes(60), key) for key in (*keys, *calm)]
            self._dice.shuffle(records)
            self.world.submit(self.engine, make_frame(records))
            self.world.run_until(self.world.now_ns + STEP_NS)
            if step % 10 == 0:
                self.watch.look()

    def stream(self, *, shows_keys: bool = True) -> Any:
        page = whole(status_steps(self.reader, shows_keys=shows_keys)).body
        (stream,) = json.loads(page)["streams"]
        return stream

    def load(self) -> Any:
        hottest = self.stream()["hottest_shards"][0]
        assert hottest["shard_id"] == self.hot_range.shard_id
        return hottest["load"]


@pytest.mark.parametrize("seed", some(range(3)))
def test_of_a_skewed_load_the_ten_heaviest_keys_are_told(seed: int) -> None:
    scene = Scene(seed, zipf)
    scene.run(SECONDS)
    load = scene.load()
    tenth = scene.counts.most_common(10)[-1][1]
    found = [each["key"] for each in load["keys"]]
    assert len(found) == 10
    right = sum(scene.counts[key] >= 0.95 * tenth for key in found)  # that is chance, not rank
    assert right / 10 >= 0.95
    total = scene.counts.total()
    for each in load["keys"][:3]:
        part = scene.counts[each["key"]] / total
        assert each["records_part"] == pytest.approx(part, rel=0.15)


@pytest.mark.parametrize("seed", some(range(3)))
def test_one_heavy_key_is_named_and_a_split_is_not_advised(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(seed, heavy)
    scene.run(SECONDS)
    load = scene.load()
    assert load["keys"][0]["key"] == scene.keys[0]
    assert load["keys"][0]["records_part"] == pytest.approx(0.61, abs=0.03)
    assert load["quota_part"] == pytest.approx(2.12, abs=0.1)
    assert "splitting will not help; spread this key" in load["advice"]
    (line,) = [each for each in caplog.records if "hot" in each.getMessage()]
    assert "splitting will not help" in line.getMessage()
    assert line.__dict__["fields"]["heaviest_key"] == scene.keys[0]
    assert line.levelno == logging.WARNING
    assert scene.keys[0] not in line.getMessage()


@pytest.mark.parametrize("seed", some(range(3)))
def test_where_no_key_is_heavy_a_split_is_advised_that_halves_the_load(seed: int) -> None:
    scene = Scene(seed, uniform)
    scene.run(SECONDS)
    load = scene.load()
    assert max(each["records_part"] for each in load["keys"]) < 0.02
    at = int(load["advice"].partition("split at hash ")[2].split()[0])
    shard = scene.hot_range
    assert shard.first_hash_key < at <= shard.last_hash_key
    halved = ShardMap(
        [
            replace(shard, shard_id="below", first_hash_key=0, last_hash_key=at - 1),
            replace(shard, shard_id="above", first_hash_key=at, last_hash_key=HASH_KEY_MAX),
        ]
    )
    below = sum(n for key, n in scene.counts.items() if halved.index_of_key(key) == 0)
    assert below / scene.counts.total() == pytest.approx(0.5, abs=0.03)


def test_keys_are_hashed_unless_they_are_to_be_shown() -> None:
    scene = Scene(1, heavy)
    scene.run(21)
    text = json.dumps(scene.stream(shows_keys=False))
    assert scene.keys[0] not in text
    assert key_name(scene.keys[0], shows_keys=False) in text


def test_calm_shards_are_not_watched_and_a_shard_that_cools_is_forgotten() -> None:
    scene = Scene(1, heavy)
    engine = scene.engine
    assert not engine.audit().hot_keys.is_on
    scene.run(21)
    watched = engine.audit().hot_keys.watched
    assert [lane.shard_id for lane in watched] == [scene.hot_range.shard_id]
    scene.world.run_until(scene.world.now_ns + 60 * SECOND)  # the queue goes down
    for _ in range(80):
        scene.world.run_until(scene.world.now_ns + SECOND)
        scene.watch.look()
    assert not engine.audit().hot_keys.is_on
    assert scene.stream()["hottest_shards"] == []


def test_a_shard_whose_range_has_changed_is_watched_anew() -> None:
    scene = Scene(1, heavy)
    scene.run(21)
    engine = scene.engine
    shards = scene.shards()
    merged = replace(shards[HOT], shard_id="merged", last_hash_key=shards[HOT + 1].last_hash_key)
    after = (*shards[:HOT], merged, *shards[HOT + 2 :])
    at_once(engine.take_description(describe(after), scene.world.now_ns))
    assert engine.handle_hot(["merged"], WATCHED_MAX, scene.world.now_ns) == 1
    assert [lane.shard_id for lane in engine.audit().hot_keys.watched] == ["merged"]

"""What an engine shows of the keys of hot shards: what counts, what does not, and the bounds."""

from dataclasses import replace

import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.frame import Frame
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.engine.hot_keys import CALM_LOOKS_MAX, WATCHED_MAX, ShardLoad
from tests.kit.engine_rig import SETTINGS, Rig
from tests.kit.frames import SECOND, describe, even_shards, failed, make_frame
from tests.kit.queues import lanes_of

ORDERED = replace(SETTINGS, is_ordered=True)


def rig_of(settings: EngineSettings = SETTINGS, shard_count: int = 1) -> Rig:
    rig = Rig(settings, shard_count)
    rig.engine.handle_hot(["shard-0"], 8, rig.now_ns)
    return rig


def put(rig: Rig, *records: Record) -> Frame:
    frame = make_frame(records)
    rig.engine.handle_frame(frame, rig.now_ns)
    return frame


def loads(rig: Rig) -> dict[str, ShardLoad]:
    rig.now_ns += SECOND
    return dict(at_once(rig.engine.snapshot(rig.now_ns)).loads)


@pytest.mark.parametrize("settings", [SETTINGS, ORDERED], ids=["unordered", "ordered"])
def test_what_comes_is_told_by_key_with_its_rate_and_its_part_of_the_quota(
    settings: EngineSettings,
) -> None:
    rig = rig_of(settings)
    put(rig, *[Record(bytes(9), "a")] * 30, *[Record(bytes(99), "b")] * 10)
    load = loads(rig)["shard-0"]
    assert (load.records_per_second, load.bytes_per_second) == (40, 1300)
    assert (load.quota_part, load.is_of_bytes) == (0.04, False)
    parts = {each.key: (each.records_part, each.bytes_part) for each in load.keys}
    assert parts == {"a": (0.75, 300 / 1300), "b": (0.25, 1000 / 1300)}
    assert load.keys[0].key == "a", "30 x (10 + 1,048) outweigh 10 x (100 + 1,048)"
    assert load.part_of(load.keys[0]) == 0.75


def test_of_what_goes_out_in_aggregates_the_bytes_count() -> None:
    """2,000 small records a second are few records to the shard, and a fifth of its bytes."""
    rig = rig_of(replace(SETTINGS, aggregate_bytes_max=51_200))
    put(rig, *[Record(bytes(99), "a")] * 1900, *[Record(bytes(9_999), "b")] * 100)
    load = loads(rig)["shard-0"]
    assert (load.records_per_second, load.is_of_bytes) == (2000, True)
    assert load.quota_part == pytest.approx(load.bytes_per_second / SETTINGS.shard_bytes_per_second)
    assert load.keys[0].key == "b", "100 x 10,000 outweigh 1,900 x 100"


def test_nothing_is_counted_or_told_of_shards_that_are_not_watched() -> None:
    rig = Rig(shard_count=2)
    put(rig, Record(b"x", "k", "0"))
    assert loads(rig) == {}
    rig.engine.handle_hot(["shard-0", "shard-9", None], 8, rig.now_ns)
    put(rig, Record(b"x", "k", "0"), Record(b"x", "k", str(2**127)))
    load = loads(rig)["shard-0"]
    assert load.records_per_second == 1
    assert [each.key for each in load.keys] == [0]


def test_records_without_a_key_have_none_to_blame() -> None:
    rig = rig_of()
    put(rig, Record(b"x", ""), Record(b"x", "k"))
    assert loads(rig)["shard-0"].records_per_second == 1


def test_what_is_sent_again_came_once() -> None:
    rig = rig_of()
    put(rig, *[Record(b"x", "k")] * 5)
    rig.answer(rig.call(), [failed()] * 5)
    rig.wait()
    rig.answer(rig.call())
    assert loads(rig)["shard-0"].keys[0].records_part == 1
    assert rig.engine.audit().hot_keys.watched[lanes_of(rig.engine)[0]].sketch.records == 5


def test_what_is_refused_because_its_shard_is_full_came_too() -> None:
    rig = rig_of(shard_count=2)
    count = 0
    while not rig.counters.rejected[RefuseReason.FULL]:
        put(rig, *[Record(bytes(1000), "k", "0")] * 10)
        count += 10
        assert count < 100_000
    rig.engine.handle_frame(make_frame([Record(bytes(1000), "k", "0")]), rig.now_ns)
    sketch = rig.engine.audit().hot_keys.watched[lanes_of(rig.engine)[0]].sketch
    assert sketch.records == count + 1


def test_a_client_that_waits_for_room_comes_once() -> None:
    rig = rig_of(shard_count=2)
    while rig.engine.handle_frame(
        make_frame([Record(bytes(1000), "k", "0")] * 10), rig.now_ns, is_patient=True
    ):
        pass
    sketch = rig.engine.audit().hot_keys.watched[lanes_of(rig.engine)[0]].sketch
    came = sketch.records
    again = make_frame([Record(bytes(1000), "k", "0")] * 10)
    assert not rig.engine.handle_frame(again, rig.now_ns, is_patient=True)
    assert sketch.records == came


def test_what_comes_from_the_disk_came() -> None:
    rig = rig_of()
    rig.counters.recovered += 1
    rig.counters.spooled += 1
    assert rig.engine.handle_spooled(make_frame([Record(b"x", "k")]), rig.now_ns)
    assert loads(rig)["shard-0"].records_per_second == 1


def test_half_of_the_past_is_forgotten_at_each_look_of_rates_too() -> None:
    rig = rig_of()
    for key in ("old", "new"):
        for _ in range(5):
            put(rig, *[Record(b"x", key)] * 100)
            rig.now_ns += SECOND
        rig.engine.handle_hot(["shard-0"], 8, rig.now_ns)
    load = at_once(rig.engine.snapshot(rig.now_ns)).loads["shard-0"]
    assert load.records_per_second == pytest.approx(100)
    assert [each.key for each in load.keys] == ["new", "old"]
    assert load.keys[0].records_part == pytest.approx(2 / 3)


def test_a_shard_that_is_calm_is_watched_for_some_looks_more() -> None:
    rig = rig_of()
    for _ in range(CALM_LOOKS_MAX):
        assert rig.engine.handle_hot([], 8, rig.now_ns) == 1
    assert rig.engine.handle_hot([], 8, rig.now_ns) == 0
    assert not rig.engine.audit().hot_keys.is_on


def test_no_more_shards_are_watched_than_may_be_and_the_hot_go_before_the_calm() -> None:
    rig = Rig(shard_count=20)
    engine = rig.engine
    names = [f"shard-{number}" for number in range(20)]
    assert engine.handle_hot(names, 100, rig.now_ns) == WATCHED_MAX
    assert [lane.shard_id for lane in engine.audit().hot_keys.watched] == names[:WATCHED_MAX]
    assert engine.handle_hot(names[-3:], 100, rig.now_ns) == WATCHED_MAX
    assert {lane.shard_id for lane in engine.audit().hot_keys.watched} >= set(names[-3:])
    other = Rig(shard_count=20)
    assert other.engine.handle_hot(names, 2, rig.now_ns) == 2
    assert other.engine.handle_hot(names, 0, rig.now_ns) == 2, "they stay while they are hot"
    assert Rig(shard_count=20).engine.handle_hot(names, 0, rig.now_ns) == 0


def test_a_shard_that_is_gone_is_watched_no_more_and_without_a_map_none_is() -> None:
    rig = rig_of()
    at_once(rig.engine.take_description(describe(even_shards(2)), rig.now_ns))
    assert rig.engine.handle_hot(["shard-0"], 8, rig.now_ns) == 1
    (lane,) = rig.engine.audit().hot_keys.watched
    assert lane is lanes_of(rig.engine)[0]
    at_once(rig.engine.take_description(describe(even_shards(1), is_auto=True), rig.now_ns))
    assert rig.engine.handle_hot([None], 8, rig.now_ns) == 0

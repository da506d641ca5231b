"""Where stored records would go, which shards are full for the disk, and which are read for."""

from dataclasses import replace

from kdaemon.base.admission import footprint_bytes
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.engine.health import Health
from kdaemon.engine.ways import CLOSED_LOOK_NS, FULL_NS, LOW_NS, MEMORY_LOOK_NS, Way
from tests.kit.engine_rig import SETTINGS, Rig
from tests.kit.frames import describe, even_shards, make_frame
from tests.kit.streams import FixedDice

MUCH = 1 << 40  # bytes
RATE = SETTINGS.shard_records_per_second
FULL = FULL_NS * RATE // 10**9
LOW = LOW_NS * RATE // 10**9
ROOMY = replace(SETTINGS, buffer_bytes_max=MUCH)


def a_rig(**settings: object) -> Rig:
    return Rig(replace(ROOMY, **settings), shard_count=2)  # type: ignore[arg-type]


def key_of(rig: Rig, shard_id: str) -> str:
    """A key that goes to this shard."""
    for number in range(1_000):
        key = f"k{number}"
        (way,) = rig.engine.ways.of(make_frame([Record(b"", key)]), {}, MUCH) or []
        if way.lane == shard_id:
            return key
    raise AssertionError(shard_id)


def hold(rig: Rig, shard_id: str, count: int) -> Frame:
    frame = make_frame([Record(b"x", key_of(rig, shard_id))] * count)
    assert rig.engine.handle_spooled(frame, rig.now_ns)
    return frame


def full_ways(rig: Rig, queued: dict[str, tuple[int, int]], free_bytes: int = MUCH) -> list[Way]:
    records = [Record(b"x", key_of(rig, shard_id)) for shard_id in ("shard-0", "shard-1")]
    ways = rig.engine.ways.of(make_frame([*records, Record(b"x", "")]), queued, free_bytes)
    assert ways is not None
    assert sorted(index for way in ways for index in way.indices) == [0, 1, 2]
    return [way for way in ways if way.is_full]


def test_a_shard_is_full_with_more_than_its_pace_takes_in_a_while() -> None:
    rig = a_rig()
    hold(rig, "shard-0", FULL)
    assert full_ways(rig, {"shard-0": (FULL, FULL)}) == []
    hold(rig, "shard-0", 1)
    (full,) = full_ways(rig, {"shard-0": (FULL + 1, FULL)})
    assert (full.lane, full.order, full.indices) == ("shard-0", "shard-0", [0])


def test_what_clients_wait_for_makes_no_shard_full_for_the_disk() -> None:
    rig = a_rig()
    hold(rig, "shard-0", 10 * FULL)
    assert full_ways(rig, {"shard-0": (LOW - 1, LOW)}) == []
    low = rig.engine.ways.low_shards({"shard-0": (LOW - 1, LOW)}, MUCH)
    assert low is not None
    assert low[0] == {"shard-0", "shard-1"}


def test_what_waits_for_another_shard_of_its_frame_makes_none_full() -> None:
    """The disk gave it, and it is delivered, but its frame is not settled."""
    rig = a_rig()
    assert full_ways(rig, {"shard-0": (10 * FULL, FULL)}) == []


def test_a_stream_is_crowded_when_a_shard_may_be_full_or_nothing_goes() -> None:
    rig = a_rig()
    assert not rig.engine.ways.is_crowded(MUCH)
    hold(rig, "shard-0", FULL)
    assert not rig.engine.ways.is_crowded(MUCH)
    assert rig.engine.ways.is_crowded(footprint_bytes(FULL, 3 * FULL) - 1)
    hold(rig, "shard-0", 1)
    assert rig.engine.ways.is_crowded(MUCH)
    out = a_rig()
    hold(out, "shard-0", 1)
    out.fail(out.call(), ServiceError("ReadTimeout", ""))
    assert out.engine.ways.is_crowded(MUCH)
    alone = Rig(ROOMY, shard_count=1)
    hold(alone, "shard-0", 10 * FULL)
    assert not alone.engine.ways.is_crowded(MUCH)


def test_in_little_memory_a_shard_with_much_of_it_is_full() -> None:
    rig = a_rig()
    hold(rig, "shard-0", 100)
    given_bytes = footprint_bytes(100, 300)
    queued = {"shard-0": (100, 300)}
    assert full_ways(rig, queued, given_bytes) == []
    assert [way.lane for way in full_ways(rig, queued, given_bytes - 1)] == ["shard-0"]
    assert rig.engine.ways.low_shards(queued, given_bytes - 1) == ({"shard-1"}, MEMORY_LOOK_NS)
    hold(rig, "shard-1", 4_000)  # now it is a small part of all
    assert full_ways(rig, queued, given_bytes - 1) == []


def test_no_memory_makes_no_shard_full_that_has_none() -> None:
    """Others have more than the backlog's part; the first frame of a stream goes all the same."""
    rig = a_rig()
    assert full_ways(rig, {}, -MUCH) == []
    assert rig.engine.ways.low_shards({}, -MUCH) == ({"shard-0", "shard-1"}, FULL_NS)


def test_shards_are_read_for_while_little_waits_for_them() -> None:
    rig = a_rig()
    hold(rig, "shard-0", LOW + 100)
    queued = {"shard-0": (LOW + 100, LOW)}
    low = rig.engine.ways.low_shards(queued, MUCH)
    assert low == ({"shard-1"}, 100 * 10**9 // RATE), "and the other when a hundred are gone"
    hold(rig, "shard-1", 10 * LOW)
    low = rig.engine.ways.low_shards({**queued, "shard-1": (10 * LOW, LOW)}, MUCH)
    assert low == (set(), 100 * 10**9 // RATE)


def test_aggregates_cost_a_shard_one_record_each() -> None:
    rig = a_rig(aggregate_bytes_max=50_000)
    hold(rig, "shard-0", 2 * FULL)
    assert full_ways(rig, {"shard-0": (2 * FULL, 6 * FULL)}) == []


def test_in_an_outage_nothing_goes_and_nothing_is_read() -> None:
    rig = a_rig()
    hold(rig, "shard-0", 1)
    rig.fail(rig.call(), ServiceError("ReadTimeout", ""))
    assert rig.engine.ways.of(make_frame([Record(b"x", "k")]), {}, MUCH) is None
    assert rig.engine.ways.low_shards({}, MUCH) == (set(), CLOSED_LOOK_NS)


def test_in_an_outage_an_engine_that_has_nothing_takes_what_it_probes_with() -> None:
    """Else nothing ever showed that the outage is over; also where others have the memory."""
    rig = a_rig()
    frame = rig.put(deadline_ns=rig.now_ns + 1)
    rig.fail(rig.call(), ServiceError("ReadTimeout", ""))
    rig.now_ns += 2
    rig.engine.handle_timeout(rig.now_ns)
    assert frame in rig.settled()  # its client waits no more
    assert rig.engine.is_idle
    for free_bytes in (MUCH, -MUCH):
        (way,) = rig.engine.ways.of(make_frame([Record(b"x", "k")]), {}, free_bytes) or []
        assert not way.is_full
        low = rig.engine.ways.low_shards({}, free_bytes)
        assert low is not None
        assert low[0] == {"shard-0", "shard-1"}


def test_the_health_of_a_stream_is_what_its_last_call_says() -> None:
    seen = [Engine(ROOMY, ByteBudget(MUCH), FixedDice(), 0).health]
    rig = a_rig()
    seen.append(rig.engine.health)
    rig.put()
    rig.fail(rig.call(), ServiceError("ReadTimeout", ""))
    seen.append(rig.engine.health)
    rig.wait()
    rig.answer(rig.call())
    seen.append(rig.engine.health)
    rig.put()
    rig.fail(rig.call(), ServiceError("AccessDeniedException", "", status=400))
    seen.append(rig.engine.health)
    assert seen == [Health.UNTRIED, Health.TOLD, Health.ILL, Health.WELL, Health.ILL]


def test_one_lane_takes_what_comes() -> None:
    rig = Rig(ROOMY, shard_count=1)
    hold(rig, "shard-0", 10 * FULL)
    queued = {"shard-0": (10 * FULL, FULL)}
    (way,) = rig.engine.ways.of(make_frame([Record(b"x", "k")]), queued, MUCH) or []
    assert not way.is_full
    assert rig.engine.ways.low_shards(queued, MUCH) is None


def test_each_map_has_a_number_of_its_own() -> None:
    rig = a_rig()
    before = rig.engine.ways.map_count
    at_once(rig.engine.take_description(describe(even_shards(2)), rig.now_ns))
    assert rig.engine.ways.map_count == before, "nothing has changed"
    at_once(rig.engine.take_description(describe(even_shards(3)), rig.now_ns))
    assert rig.engine.ways.map_count == before + 1


def test_a_key_has_one_order_whatever_shards_its_records_are_sent_to() -> None:
    rig = a_rig(is_ordered=True)
    key = key_of(rig, "shard-0")
    records = [Record(b"x", key), Record(b"x", key, str(2**128 - 1)), Record(b"x", "", "0")]
    ways = rig.engine.ways.of(make_frame(records), {}, MUCH) or []
    found = {index: (way.order, way.lane) for way in ways for index in way.indices}
    assert found == {
        0: ("shard-0", "shard-0"),
        1: ("shard-0", "shard-1"),
        2: ("shard-0", "shard-0"),
    }
    plain = a_rig()
    ways = plain.engine.ways.of(make_frame(records), {}, MUCH) or []
    assert {way.lane: way.order for way in ways} == {"shard-0": "shard-0", "shard-1": "shard-1"}

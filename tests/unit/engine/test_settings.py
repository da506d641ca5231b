"""An engine that is told other limits: from now on they hold, and what is queued goes on."""

from dataclasses import replace

import pytest

from kdaemon.base.counters import DeadReason
from kdaemon.base.description import StreamDescription
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from tests.kit.engine_rig import SETTINGS, Rig
from tests.kit.frames import MS, SECOND, make_frame
from tests.kit.queues import lanes_of


def tell(rig: Rig, settings: EngineSettings) -> None:
    at_once(rig.engine.handle_settings(settings, rig.now_ns))
    assert rig.counters.unaccounted() == 0


def test_a_batch_has_the_new_size() -> None:
    rig = Rig()
    rig.put(30)
    tell(rig, replace(SETTINGS, batch_records_max=4, in_flight_max=2))
    assert [len(rig.call().records) for _ in range(2)] == [4, 4]
    assert rig.poll() is None  # two calls at once
    tell(rig, replace(SETTINGS, batch_records_max=20, in_flight_max=5))
    assert len(rig.call().records) == 20


def test_a_shorter_linger_holds_for_what_waits() -> None:
    rig = Rig(replace(SETTINGS, linger_ns=50 * SECOND))
    first = rig.put()
    rig.call()
    rig.put()
    assert rig.poll() is None
    tell(rig, SETTINGS)
    rig.wait()
    assert rig.now_ns <= first.accepted_ns + SETTINGS.linger_ns
    assert len(rig.call().records) == 1


@pytest.mark.parametrize("shard_count", [1, 3, 600])
def test_a_lane_that_waits_for_a_slow_rate_goes_by_the_new_one(shard_count: int) -> None:
    slow = replace(SETTINGS, shard_records_per_second=1, shard_bytes_per_second=1_000)
    rig = Rig(slow, shard_count)
    rig.put(3)
    rig.answer(rig.call())
    assert rig.poll() is None  # each has to wait for a second
    tell(rig, SETTINGS)
    assert {lane.budget.records.rate for lane in lanes_of(rig.engine)} == {1000}
    since_ns = rig.now_ns
    rig.wait()
    assert rig.now_ns - since_ns <= SETTINGS.linger_ns
    rig.answer(rig.call())
    tell(rig, slow)
    assert {lane.budget.records.rate for lane in lanes_of(rig.engine)} == {1}


def test_a_smaller_buffer_keeps_what_it_has_and_takes_no_more() -> None:
    rig = Rig()
    frame = rig.put(5)
    tell(rig, replace(SETTINGS, buffer_bytes_max=frame.footprint_bytes - 1))
    more = make_frame([Record(b"x", "k")])
    assert not rig.engine.handle_frame(more, rig.now_ns)
    rig.answer(rig.call())
    assert rig.settled() == [frame]
    assert rig.memory.bytes_taken == 0


def test_a_limit_that_the_service_told_weighs_more_than_another_setting() -> None:
    rig = Rig()
    untold = rig.engine.record_bytes_max
    tell(rig, replace(SETTINGS, record_bytes_max=untold - 1))
    assert rig.engine.record_bytes_max == untold - 1
    at_once(
        rig.engine.take_description(
            StreamDescription(None, 7_000, is_auto=False, stream_arn=None), rig.now_ns
        )
    )
    tell(rig, replace(SETTINGS, record_bytes_max=9_000))
    assert rig.engine.record_bytes_max == 7_000


def old_and_new(before_ns: int | None, after_ns: int | None) -> Rig:
    """Two records, of which one was taken before the limit changed. None of them is sent."""
    rig = Rig(replace(SETTINGS, max_age_ns=before_ns, in_flight_max=1))
    rig.put()
    rig.call()  # and nothing more goes
    rig.put()
    tell(rig, replace(SETTINGS, max_age_ns=after_ns, in_flight_max=1))
    rig.put()
    return rig


@pytest.mark.parametrize(
    ("before_s", "after_s", "dead"),
    [
        (100, 10, [(11, 1), (101, 2)]),
        (10, 100, [(11, 1), (101, 2)]),
        (None, 10, [(11, 1), (101, 1)]),
        (10, None, [(11, 0), (101, 0)]),
    ],
)
def test_a_record_grows_too_old_by_the_limit_under_which_it_was_taken(
    before_s: int | None, after_s: int | None, dead: list[tuple[int, int]]
) -> None:
    """What is off is off for all."""
    before_ns, after_ns = (each and each * SECOND for each in (before_s, after_s))
    rig = old_and_new(before_ns, after_ns)
    start_ns = rig.now_ns
    for at_s, count in dead:
        while rig.now_ns < start_ns + at_s * SECOND:
            rig.now_ns += 100 * MS
            rig.poll()
        assert rig.counters.dead[DeadReason.EXPIRED] == count

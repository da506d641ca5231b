"""Frames that go whole: which do, what they pay, and how they are taken apart."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.frame import Frame
from kdaemon.base.record import Record, RecordResult
from kdaemon.pace.budget import Interval
from kdaemon.pack.batch import Batch
from kdaemon.pack.packer import Packer
from kdaemon.pack.queues import Queues
from kdaemon.pack.whole import WAITING_RECORDS_MAX
from tests.kit.engine_rig import SETTINGS, Rig
from tests.kit.frames import MS, SECOND, delivered, describe, even_shards, failed, make_frame
from tests.kit.queues import lanes_of, make_queues

RATE = 1000
SHARDS = 4
CALL = 20  # records of one, at most


def start(rate: int = RATE) -> tuple[Queues, Packer]:
    queues = make_queues(records_max=CALL, bytes_max=100_000, rate=rate)
    for _ in queues.shards.remap(describe(even_shards(SHARDS)), 0):
        pass
    return queues, queues.packer


def frame_of(count: int, name: str = "k") -> Frame:
    return make_frame(Record(b"%d" % number, f"{name}{number}") for number in range(count))


def send(queues: Queues, packer: Packer, frame: Frame) -> bool:
    """Whether it goes whole; else it is queued by shard."""
    whole = queues.plan_whole(frame)
    if whole is None:
        queues.put(queues.plan(frame, frame.byte_count), 0)
        return False
    packer.push_whole(whole)
    return True


def frames_of(batch: Batch | None) -> set[Frame]:
    assert batch is not None
    assert batch.records == [run.frame.records[i] for run in batch.runs for i in run.indices]
    assert batch.byte_count == sum(run.byte_count for run in batch.runs)
    assert sum(records for records, _ in batch.paid.values()) == batch.record_count
    assert sum(byte_count for _, byte_count in batch.paid.values()) == batch.byte_count
    return batch.frames


def tokens(packer: Packer) -> list[tuple[int, int]]:
    budgets = [lane.budget for lane in packer.lanes]
    return [(each.records.available, each.bytes.available) for each in budgets]


def ready(packer: Packer) -> tuple[int, int]:
    return packer.ready_records, packer.ready_bytes


def test_a_frame_that_is_a_call_goes_as_one_and_each_shard_pays_for_its_part() -> None:
    queues, packer = start()
    before = tokens(packer)
    frame = frame_of(CALL)
    assert send(queues, packer, frame)
    assert ready(packer) == (CALL, frame.byte_count)
    batch = packer.draw(0)
    assert frames_of(batch) == {frame}
    assert batch is not None
    assert sorted(batch.records, key=id) == sorted(frame.records, key=id)
    for lane, (had, had_bytes), (has, has_bytes) in zip(
        packer.lanes, before, tokens(packer), strict=True
    ):
        assert batch.paid.get(lane, (0, 0)) == (had - has, had_bytes - has_bytes)
    assert not packer.has_ready
    assert ready(packer) == (0, 0)


@pytest.mark.parametrize("count", [1, CALL // 4 - 1, CALL + 1])
def test_what_is_little_of_a_call_or_more_than_one_is_queued_by_shard(count: int) -> None:
    queues, packer = start()
    assert not send(queues, packer, frame_of(count))
    assert ready(packer)[0] == count


def test_where_something_is_queued_the_next_is_queued_behind_it() -> None:
    queues, packer = start()
    assert not send(queues, packer, frame_of(1))
    assert not send(queues, packer, frame_of(CALL))


def test_where_a_shard_waits_frames_are_queued_by_shard() -> None:
    queues, packer = start()
    lane = packer.lanes[0]
    packer.postpone(lane, 10 * MS, 0)
    frame = make_frame([Record(b"x", "k", "0")])
    queues.put(queues.plan(frame, frame.byte_count), 0)
    assert not packer.has_ready
    assert not send(queues, packer, frame_of(CALL))


def test_records_without_a_key_are_queued_by_shard() -> None:
    queues, packer = start()
    frame = make_frame([Record(b"x", ""), *frame_of(CALL - 1).records])
    assert not send(queues, packer, frame)
    assert packer.keyless_lane.queued_records == 1
    while packer.draw(0):
        pass
    assert not send(queues, packer, frame_of(CALL)), "names are given from now on"


@pytest.mark.parametrize("is_blocked", [True, False])
def test_where_a_shard_cannot_pay_none_has_paid_and_what_can_be_paid_goes(
    *, is_blocked: bool
) -> None:
    queues, packer = start()
    frames = [frame_of(CALL // 2), frame_of(CALL // 2, "other")]
    for frame in frames:
        assert send(queues, packer, frame)
    short = packer.lanes[-1]
    if is_blocked:
        packer.postpone(short, 10 * MS, 0)
    else:
        short.budget.records.pay(short.budget.records.available)
    before = tokens(packer)
    batch = packer.draw(0)
    assert batch is not None
    assert frames_of(batch) == set(frames)
    assert short not in batch.paid
    paid = [batch.paid.get(lane, (0, 0)) for lane in packer.lanes]
    assert tokens(packer) == [
        (had - records, had_bytes - byte_count)
        for (had, had_bytes), (records, byte_count) in zip(before, paid, strict=True)
    ]
    assert short.queued_records == CALL - batch.record_count > 0
    assert ready(packer) == (0, 0)
    packer.wake(SECOND)
    rest = packer.draw(SECOND)
    assert rest is not None
    assert batch.record_count + rest.record_count == CALL


def test_frames_that_fill_a_call_together_go_together() -> None:
    queues, packer = start()
    frames = [frame_of(CALL // 2), frame_of(CALL // 2, "other"), frame_of(CALL // 2, "last")]
    assert all(send(queues, packer, frame) for frame in frames)
    assert frames_of(packer.draw(0)) == set(frames[:2])
    assert frames_of(packer.draw(0)) == {frames[2]}


def test_a_call_that_is_almost_full_is_not_filled_with_a_part_of_the_next_frame() -> None:
    queues, packer = start()
    frames = [frame_of(CALL * 3 // 4), frame_of(CALL * 3 // 4, "other")]
    assert all(send(queues, packer, frame) for frame in frames)
    assert frames_of(packer.draw(0)) == {frames[0]}
    assert frames_of(packer.draw(0)) == {frames[1]}


def test_frames_that_fit_no_call_well_are_taken_apart_and_calls_are_full() -> None:
    queues, packer = start()
    frames = [frame_of(CALL * 3 // 5), frame_of(CALL * 3 // 5, "other")]
    assert all(send(queues, packer, frame) for frame in frames)
    first, second = packer.draw(0), packer.draw(0)
    assert first is not None
    assert second is not None
    assert (first.record_count, second.record_count) == (CALL, CALL * 6 // 5 - CALL)


def test_so_many_records_wait_and_no_more() -> None:
    queues, packer = start()
    for number in range(WAITING_RECORDS_MAX // CALL):
        assert send(queues, packer, frame_of(CALL, str(number)))
    assert not send(queues, packer, frame_of(CALL, "more"))
    assert not packer.whole_frames, "what came before it is queued before it"
    assert ready(packer)[0] == WAITING_RECORDS_MAX + CALL


def test_what_is_queued_by_shard_goes_behind_what_waits_whole() -> None:
    queues, packer = start()
    first, second = frame_of(CALL), frame_of(1)
    assert send(queues, packer, first)
    assert not send(queues, packer, second)
    (lane,) = [lane for lane in packer.lanes if lane.queue[-1].frame is second]
    assert [run.frame for run in lane.queue] == [first, second]


def test_a_new_map_routes_what_waits_whole_anew() -> None:
    queues, packer = start()
    frame = frame_of(CALL)
    assert send(queues, packer, frame)
    for _ in queues.shards.remap(describe(even_shards(2 * SHARDS)), 0):
        pass
    while queues.shards.orphans:
        queues.route_orphans(0)
    batch = packer.draw(0)
    assert frames_of(batch) == {frame}
    assert batch is not None
    assert set(batch.paid) <= set(packer.lanes)


# In an engine

ROOMY = replace(SETTINGS, batch_records_max=CALL)


def rig_of(settings: EngineSettings = ROOMY) -> Rig:
    return Rig(settings, SHARDS)


def put(rig: Rig, count: int = CALL) -> Frame:
    frame = frame_of(count)
    assert rig.engine.handle_frame(frame, rig.now_ns)
    return frame


def as_predicted(batch: Batch) -> list[str | None]:
    return [run.lane.shard_id for run in batch.runs for _ in run.indices]


def test_a_whole_frame_settles_and_its_shards_took_its_records() -> None:
    rig = rig_of()
    frame = put(rig)
    batch = rig.call()
    assert batch.wholes
    rig.answer(batch, [delivered(str(shard_id)) for shard_id in as_predicted(batch)])
    assert rig.settled() == [frame]
    assert [each.shard_id for each in frame.results if each is not None] == [
        run.lane.shard_id for index in range(CALL) for run in batch.runs if index in run.indices
    ]
    assert rig.counters.map_mismatches == 0
    assert sum(lane.taken for lane in lanes_of(rig.engine)) == CALL
    assert rig.counters.delivered_bytes == frame.byte_count


def test_of_a_whole_frame_only_what_failed_is_sent_again() -> None:
    rig = rig_of()
    frame = put(rig)
    batch = rig.call()
    results = [delivered(str(shard_id)) for shard_id in as_predicted(batch)]
    results[3] = failed("InternalFailure")
    rig.answer(batch, results)
    assert not rig.settled()
    assert frame.results.count(None) == 1
    rig.now_ns += SECOND
    again = rig.call()
    assert again.records == [batch.records[3]]
    rig.answer(again, [delivered(str(shard_id)) for shard_id in as_predicted(again)])
    assert rig.settled() == [frame]
    assert sum(lane.taken for lane in lanes_of(rig.engine)) == CALL


def test_a_record_of_a_whole_frame_that_landed_elsewhere_makes_the_map_stale() -> None:
    rig = rig_of()
    frame = put(rig)
    batch = rig.call()
    results = [delivered(str(shard_id)) for shard_id in as_predicted(batch)]
    results[-1] = delivered("elsewhere")
    rig.answer(batch, results)
    assert rig.settled() == [frame]
    assert rig.counters.map_mismatches == 1
    assert sum(lane.taken for lane in lanes_of(rig.engine)) == CALL


def test_a_call_of_whole_frames_that_failed_is_sent_again() -> None:
    rig = rig_of()
    frame = put(rig)
    batch = rig.call()
    rig.engine.begin_drain()
    rig.answer(batch, [failed("InternalFailure")] * CALL)
    rig.now_ns += 5 * SECOND
    again = rig.call()
    assert again.frames == {frame}
    rig.answer(again, [delivered(str(shard_id)) for shard_id in as_predicted(again)])
    assert rig.settled() == [frame]


def test_what_no_call_is_to_be_had_for_is_queued_by_shard() -> None:
    rig = rig_of(replace(ROOMY, in_flight_max=1))
    put(rig)
    rig.call()
    put(rig)
    assert rig.poll() is None
    assert sum(lane.queued_records for lane in lanes_of(rig.engine)) == CALL


def test_the_client_of_a_whole_frame_that_goes_before_the_call_has_it_withdrawn() -> None:
    rig = rig_of()
    frame = put(rig)
    rig.engine.handle_clients_gone([frame], rig.now_ns)
    assert rig.settled() == [frame]
    assert rig.poll() is None
    assert rig.engine.is_idle


def test_results_of_a_whole_frame_whose_client_was_told_are_written_nowhere() -> None:
    rig = rig_of()
    frame = put(rig)
    batch = rig.call()
    rig.engine.handle_clients_gone([frame], rig.now_ns)
    told = list(frame.results)
    rig.answer(batch, [delivered(str(shard_id)) for shard_id in as_predicted(batch)])
    assert frame.results == told
    assert rig.counters.delivered == CALL


# Taken apart, as if they had been queued by shard


Outcome = Callable[[Frame, int, str], RecordResult]
"""What the service says of a record: of which frame, the how manyth, for which shard."""


def seen(rig: Rig, frames: list[Frame]) -> object:
    """All that an answer changes."""
    engine = rig.engine
    of_lanes = [
        (
            (lane.failure_count, lane.blocked_until_ns, lane.taken, lane.throttled, lane.state),
            [sorted(run.indices) for run in lane.queue],
            (lane.budget.records_share, lane.budget.bytes_share),
            {name: getattr(lane.budget.interval, name) for name in Interval.__slots__},
        )
        for lane in lanes_of(engine)
    ]
    hold = None if engine.hold is None else engine.hold.code
    results = [[each and (each.error_code, each.shard_id) for each in f.results] for f in frames]
    return of_lanes, hold, results, rig.counters.snapshot(), len(engine.take_settled())


def answered(outcome: Outcome, clients: int, *, is_whole: bool) -> object:
    """Frames of two clients with the same keys, so that most shards have records of both, in one
    call, and what its answer made of them.
    """
    rig = rig_of()
    frames = [frame_of(CALL // 2) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        if not is_whole:
            patch.setattr(Packer, "may_go_whole", lambda *_: False)
        for client, frame in enumerate(frames, 1):
            frame.client = client
            assert rig.engine.handle_frame(frame, rig.now_ns)
        batch = rig.call()
    assert bool(batch.wholes) is is_whole
    gone = [frame for frame in frames if frame.client > clients]
    rig.engine.handle_clients_gone(gone, rig.now_ns)
    rig.now_ns += 5 * MS
    rig.answer(
        batch,
        [
            outcome(run.frame, index, str(run.lane.shard_id))
            for run in batch.runs
            for index in run.indices
        ],
    )
    return seen(rig, frames)


def only(code: str, *, client: int, part: int) -> Outcome:
    """One in so many of a client's records fails so; all others are taken."""

    def outcome(frame: Frame, index: int, shard_id: str) -> RecordResult:
        if frame.client == client and not index % part:
            return failed(code)
        return delivered(shard_id)

    return outcome


def elsewhere(client: int) -> Outcome:
    return lambda frame, _, shard_id: delivered("x" if frame.client == client else shard_id)


@pytest.mark.pure("puts another method in the place of one")
@pytest.mark.parametrize("clients", [0, 1, 2])
@pytest.mark.parametrize("client", [1, 2])
@pytest.mark.parametrize("part", [1, 3])
@pytest.mark.parametrize(
    "code",
    [
        "ProvisionedThroughputExceededException",
        "InternalFailure",
        "KMSAccessDeniedException",
        "ValidationException",
    ],
)
def test_what_an_answer_means_for_whole_frames_is_what_it_means_by_shard(
    code: str, part: int, client: int, clients: int
) -> None:
    """Also where one frame of a call has all of it taken: a shard is throttled by what is refused
    of all that the call brought it, and one that took the other frame's took something.
    """
    outcome = only(code, client=client, part=part)
    assert answered(outcome, clients, is_whole=True) == answered(outcome, clients, is_whole=False)


@pytest.mark.pure("puts another method in the place of one")
@pytest.mark.parametrize("client", [1, 2, 3])
def test_whole_frames_that_landed_elsewhere_tell_as_much_of_the_map(client: int) -> None:
    outcome = elsewhere(client)
    assert answered(outcome, 2, is_whole=True) == answered(outcome, 2, is_whole=False)


def test_with_order_nothing_goes_whole() -> None:
    rig = rig_of(replace(ROOMY, is_ordered=True))
    put(rig)
    assert not rig.call().wholes

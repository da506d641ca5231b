"""What takes long is done in slices, held by counting: what one call of an engine does at most, and
that between any two calls the counters conserve and nothing is sent that its client was told is
not.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from kdaemon.base.counters import DeadReason, RefuseReason
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.pack.lane import Lane
from kdaemon.pack.packer import Packer
from kdaemon.pack.queues import ROUTED_A_SLICE, RUN_PIECES
from kdaemon.pack.shard_lanes import LANES_A_STEP
from kdaemon.pack.sweep import LOOKS_A_SLICE
from kdaemon.settle.deadlines import FRAME_PIECES
from kdaemon.settle.partings import GONE_INTERVAL_NS, PIECES_A_ROUND, PIECES_A_SLICE
from tests.kit.engine_rig import SETTINGS, Rig, T
from tests.kit.frames import SECOND, describe, even_shards, make_frame
from tests.kit.queues import lanes_of

DENIED = ServiceError("AccessDeniedException", "no", status=400)
MISSING = ServiceError("ResourceNotFoundException", "Not found.", status=400)

COUNT = 2 * LOOKS_A_SLICE + 500  # frames of one record: three slices or more of each kind of work
FRAMES_A_SLICE = PIECES_A_SLICE // (1 + FRAME_PIECES) + 1


class Crowd(Rig):
    """An engine with a call out and very many frames behind it. `looks`: queued runs that were
    looked at in the last call of the engine.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_ordered: bool = False,
        acknowledge: Acknowledge = Acknowledge.DELIVERED,
        max_age_ns: int | None = None,
        shard_count: int = 4,
    ) -> None:
        settings = replace(
            SETTINGS,
            is_ordered=is_ordered,
            max_age_ns=max_age_ns,
            buffer_bytes_max=10**9,
            in_flight_max=1,
        )
        super().__init__(settings, shard_count)
        self.memory.bytes_max = 10**9
        self.looks = 0
        drop = Packer.drop_abandoned

        def counting(
            packer: Packer, lane: Lane, client: int | None, start: int, count: int
        ) -> object:
            self.looks += count
            return drop(packer, lane, client, start, count)

        monkeypatch.setattr(Packer, "drop_abandoned", counting)
        self.acknowledge = acknowledge
        self.frames: list[Frame] = []
        self.add(10)
        self.batch = self.call()
        self.add(COUNT)

    def add(self, count: int) -> None:
        waits = self.acknowledge is Acknowledge.DELIVERED
        for _ in range(count):
            number = len(self.frames)
            frame = make_frame([Record(b"%d" % number, f"k{number % 997}")])
            frame.acknowledge = self.acknowledge
            if waits:
                frame.deadline_ns = T + 20 * SECOND
            assert self.engine.handle_frame(frame, self.now_ns)
            self.frames.append(frame)

    def slice(self, act: Callable[[], object]) -> list[Frame]:
        """One call; who was told by it."""
        self.looks = 0
        act()
        told = self.settled()
        assert self.looks <= LOOKS_A_SLICE
        assert len(told) <= FRAMES_A_SLICE
        assert self.counters.unaccounted() == 0
        batch = self.engine.poll_batch(self.now_ns)
        assert batch is None, "one call is out, and it is the only one"
        return told

    def run(self, act: Callable[[], object]) -> list[Frame]:
        """A call, and then as long as the engine asks for more at once; who was told."""
        told = self.slice(act)
        slices = 1
        while (at_ns := self.engine.next_wakeup_ns()) is not None and at_ns <= self.now_ns:
            told += self.slice(lambda: self.engine.handle_timeout(self.now_ns))
            slices += 1
            assert slices < COUNT
        assert slices > 2, "that was all at once"
        return told


def expire(crowd: Crowd) -> Callable[[], object]:
    crowd.now_ns = T + 30 * SECOND
    return lambda: crowd.engine.handle_timeout(crowd.now_ns)


def hold(crowd: Crowd) -> Callable[[], object]:
    return lambda: crowd.engine.handle_failure(crowd.batch, DENIED, crowd.now_ns)


def give_up(crowd: Crowd) -> Callable[[], object]:
    return lambda: crowd.engine.give_up(crowd.now_ns)


def go(crowd: Crowd) -> Callable[[], object]:
    return lambda: crowd.engine.handle_clients_gone(crowd.frames, crowd.now_ns)


def miss(crowd: Crowd) -> Callable[[], object]:
    return lambda: crowd.engine.give_up_missing(MISSING, crowd.now_ns)


@pytest.mark.parametrize("is_ordered", [False, True])
@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (expire, RefuseReason.DEADLINE),
        (give_up, RefuseReason.DRAINING),
        (go, RefuseReason.CLIENT_GONE),
        (miss, None),
    ],
)
def test_very_many_frames_end_in_slices(
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[Crowd], Callable[[], object]],
    reason: RefuseReason | None,
    *,
    is_ordered: bool,
) -> None:
    crowd = Crowd(monkeypatch, is_ordered=is_ordered)
    told = crowd.run(begin(crowd))
    if begin is go:  # those of another round
        crowd.now_ns += GONE_INTERVAL_NS
        told += crowd.slice(lambda: crowd.engine.handle_timeout(crowd.now_ns))
    counters = crowd.counters
    assert counters.buffered == 0
    assert all(not lane.queued_records and not lane.queue for lane in lanes_of(crowd.engine))
    assert all(not lane.waiting_records for lane in lanes_of(crowd.engine))
    if reason is None:
        assert counters.dead[DeadReason.MISSING_STREAM] == COUNT
    else:
        assert counters.rejected[reason] == COUNT
        assert len(set(told)) == COUNT + 10, "those in flight hear at once, too"
    crowd.answer(crowd.batch)
    assert counters.in_flight == 0
    assert crowd.memory.bytes_taken == 0
    assert crowd.engine.poll_batch(crowd.now_ns) is None


@pytest.mark.parametrize("is_ordered", [False, True])
def test_records_that_are_too_old_expire_in_slices(
    monkeypatch: pytest.MonkeyPatch, *, is_ordered: bool
) -> None:
    crowd = Crowd(
        monkeypatch,
        is_ordered=is_ordered,
        acknowledge=Acknowledge.ACCEPTED,
        max_age_ns=10 * SECOND,
    )
    crowd.run(expire(crowd))
    assert crowd.counters.dead[DeadReason.EXPIRED] == COUNT
    assert crowd.counters.buffered == 0


@pytest.mark.parametrize("is_ordered", [False, True])
def test_a_hold_is_told_in_slices_to_those_who_waited_when_it_began(
    monkeypatch: pytest.MonkeyPatch, *, is_ordered: bool
) -> None:
    crowd = Crowd(monkeypatch, is_ordered=is_ordered)
    told = crowd.slice(hold(crowd))
    crowd.now_ns += 1
    crowd.add(5)
    told += crowd.run(lambda: crowd.engine.handle_timeout(crowd.now_ns))
    assert set(told) == set(crowd.frames[:-5])
    assert crowd.counters.buffered == 5


def test_who_was_not_told_of_a_hold_when_it_ends_goes_on_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowd = Crowd(monkeypatch)
    told = crowd.slice(hold(crowd))
    crowd.now_ns += 60 * SECOND
    for frame in crowd.frames:
        frame.deadline_ns = None
    crowd.engine.hold = None
    crowd.engine.audit().partings.keep_waiting()
    while crowd.engine.audit().partings.due_at_ns is not None:
        crowd.engine.handle_timeout(crowd.now_ns)
        assert crowd.counters.unaccounted() == 0
        if crowd.counters.rejected[RefuseReason.DEADLINE]:
            break
    assert crowd.counters.rejected[RefuseReason.HOLD] == len(told)


def test_nothing_is_drawn_while_what_ended_is_queued_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was told no sends its records again: the old ones must not go out."""
    crowd = Crowd(monkeypatch)
    crowd.now_ns = T + 30 * SECOND
    late = make_frame([Record(b"late", "late")], deadline_ns=T + 60 * SECOND)
    assert crowd.engine.handle_frame(late, crowd.now_ns)
    crowd.answer(crowd.batch)
    while True:
        crowd.engine.handle_timeout(crowd.now_ns)
        told = set(crowd.settled())
        batch = crowd.engine.poll_batch(crowd.now_ns)
        if batch is not None:
            break
        assert told or crowd.engine.audit().partings.is_sweep_due
    assert not any(run.frame.is_abandoned for run in batch.runs)


def test_between_two_rounds_of_an_expiry_the_stream_is_drawn_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many expire, those who are not too late wait for a round, not for all."""
    crowd = Crowd(monkeypatch)
    crowd.add(LOOKS_A_SLICE)
    crowd.answer(crowd.batch)
    crowd.now_ns = T + 30 * SECOND
    ended = 0
    while crowd.engine.audit().partings.due_at_ns is not None or not ended:
        crowd.engine.handle_timeout(crowd.now_ns)
        ended += sum(frame.is_abandoned for frame in crowd.settled())
        if not crowd.engine.audit().partings.is_sweep_due and crowd.counters.buffered:
            break
    assert ended * (1 + FRAME_PIECES) <= PIECES_A_ROUND + PIECES_A_SLICE + 1 + FRAME_PIECES
    assert crowd.counters.buffered > 0


def test_clients_that_go_one_by_one_have_the_queue_swept_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each for itself would have all of it walked each time."""
    crowd = Crowd(monkeypatch)
    looks = 0
    gone = crowd.frames[20:120]
    for frame in gone:
        crowd.looks = 0
        crowd.engine.handle_clients_gone([frame], crowd.now_ns)
        looks += crowd.looks
    for _ in range(20):
        crowd.looks = 0
        crowd.engine.handle_timeout(crowd.now_ns)
        looks += crowd.looks
    assert looks <= 2 * COUNT
    crowd.now_ns += GONE_INTERVAL_NS
    crowd.run(lambda: crowd.engine.handle_timeout(crowd.now_ns))
    assert all(frame.is_abandoned for frame in gone)
    assert crowd.counters.rejected[RefuseReason.CLIENT_GONE] == len(gone)


@pytest.mark.parametrize("is_ordered", [False, True])
@pytest.mark.parametrize("after", [2, 4 * LANES_A_STEP, None])
def test_a_new_map_is_taken_in_steps_and_what_was_queued_moves_in_slices(
    monkeypatch: pytest.MonkeyPatch, after: int | None, *, is_ordered: bool
) -> None:
    crowd = Crowd(monkeypatch, is_ordered=is_ordered)
    most = ROUTED_A_SLICE // (1 + RUN_PIECES) + 2  # frames of one record

    def queued() -> int:
        return sum(lane.queued_records for lane in lanes_of(crowd.engine))

    if after is None:  # it is missing, and its shards are forgotten
        crowd.engine.handle_failure(crowd.batch, MISSING, crowd.now_ns)
    else:
        steps = list(crowd.engine.take_description(describe(even_shards(after)), crowd.now_ns))
        assert len(steps) >= after // LANES_A_STEP
    assert queued() <= most + crowd.batch.record_count, "a slice, and what came back"
    slices = 0
    while (at_ns := crowd.engine.next_wakeup_ns()) is not None and at_ns <= crowd.now_ns:
        queued_before = queued()
        crowd.engine.handle_timeout(crowd.now_ns)
        assert queued() - queued_before <= most
        assert crowd.counters.unaccounted() == 0
        slices += 1
        if crowd.engine.freshness.ask(crowd.now_ns):
            continue
    if not is_ordered:  # else most wait behind others of their keys
        backlog = sum(lane.backlog_records for lane in lanes_of(crowd.engine))
        assert backlog == crowd.counters.buffered
    if after is not None:
        assert crowd.counters.buffered == COUNT
        assert is_ordered or slices > 10


def test_who_is_gone_while_a_new_map_is_taken_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(monkeypatch, is_ordered=True)
    at_once(crowd.engine.take_description(describe(even_shards(9)), crowd.now_ns))
    crowd.engine.handle_clients_gone(crowd.frames[10:], crowd.now_ns)
    crowd.answer(crowd.batch)
    while (at_ns := crowd.engine.next_wakeup_ns()) is not None and at_ns <= crowd.now_ns:
        crowd.engine.handle_timeout(crowd.now_ns)
        batch = crowd.engine.poll_batch(crowd.now_ns)
        if batch is not None:
            assert not any(run.frame.is_abandoned for run in batch.runs)
            crowd.answer(batch)
    assert crowd.counters.buffered == 0
    assert crowd.memory.bytes_taken == 0
    crowd.settled()
    assert crowd.counters.unaccounted() == 0

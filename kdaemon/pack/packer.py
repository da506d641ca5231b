"""Batches out of lanes: pace before pack.

The packer draws from the lanes that can pay, from a rotating start so that a large lane cannot
starve the rest. It takes the tokens in the same call: a packed batch never waits on one hot shard.
Lanes that cannot pay wait (`waits.py`) until they can. Pure; knows no answers and no frames'
deadlines.
Where it sits: `queues.py` fills the lanes; the engine polls batches.

Invariants: a lane is in the ring if and only if it is READY; `ready_records` and `ready_bytes` are
the sums over the ring and the whole frames; a record is in exactly one lane, one whole frame or one
batch.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.frame import Frame
from kdaemon.pack.aggregate import Aggregator
from kdaemon.pack.batch import Batch, Draft
from kdaemon.pack.client_turns import SLICE_RECORDS
from kdaemon.pack.key_order import NoOrder
from kdaemon.pack.keyless import Keyless, Names
from kdaemon.pack.lane import Lane, LaneMove, LaneState
from kdaemon.pack.run import Run
from kdaemon.pack.stalls import Stalls
from kdaemon.pack.waits import Waits
from kdaemon.pack.whole import WholeFrame, WholeFrames, is_much

# An attribute of an Enum costs four times a global, and these are read for every request.
_IDLE: Final[LaneState] = LaneState.IDLE
_READY: Final[LaneState] = LaneState.READY

STALL_RECHECK_NS = 1_000_000_000  # 1 s; sooner, the return of its call wakes a stalled lane

GROWTH_RECHECK_NS = 1_000_000_000
"""1 s: a share grows only when it is looked at, at most by a second's growth (`adaptive.py`). So a
growing share pays a debt sooner than its rate of now says."""


class Packer:
    """The lanes of one stream: ready lanes in a ring, waiting lanes in a heap."""

    def __init__(self, settings: EngineSettings, order: NoOrder, now_ns: int) -> None:
        self._order = order
        # Records behind others of their key go along where the service takes or refuses all records
        # of a shard in a call together.
        self._draws_behind = settings.is_shard_atomic and order.is_kept
        self.stalls = Stalls(now_ns, may_be=settings.is_shard_atomic)
        self.is_pressed = False  # records are ready, and no call can be made for them
        self.names = Names()
        aggregate_bytes_max = settings.aggregate_bytes_max
        self._aggregator = (
            Aggregator(aggregate_bytes_max, order, self.names) if aggregate_bytes_max else None
        )
        self._keyless = Keyless(self.names, is_joined=self._aggregator is not None, now_ns=now_ns)
        self._wholes = WholeFrames()
        self._ring: deque[Lane] = deque()
        self._waits = Waits()
        self.lanes: list[Lane] = []
        self.ready_records = 0
        self.ready_bytes = 0
        self.take_settings(settings)

    def take_settings(self, settings: EngineSettings) -> None:
        """Sets other limits from now on. Whether aggregates are made stays as it was."""
        self.records_max = settings.batch_records_max
        self._bytes_max = settings.batch_bytes_max
        # A saturated lane waits for this much of its rate before it is drawn from again.
        self.linger_ns = settings.linger_ns
        if self._aggregator is not None:
            self._aggregator.bytes_max = settings.aggregate_bytes_max

    def wait_anew(self, lane: Lane, now_ns: int) -> None:
        """The lane's rate or the linger has changed: the lane's waiting time is worked out
        again.
        """
        if lane.state is LaneState.WAITING:
            self._wait(lane, now_ns)

    @property
    def aggregate_bytes_max(self) -> int:
        """The bytes that one aggregate may have; 0: none are made."""
        return 0 if self._aggregator is None else self._aggregator.bytes_max

    @property
    def has_ready(self) -> bool:
        return bool(self._ring) or bool(self._wholes)

    def may_go_whole(self, frame: Frame) -> bool:
        """Whether the frame need not be queued by shard: no lane has anything queued, and the frame
        fills much of a call.
        """
        if not is_much(frame, self.records_max, self._bytes_max):
            return False
        if self._ring or self.stalls.may_be or self._aggregator is not None or self.names.is_used:
            return False
        return self._wholes.has_room(frame) and self.next_due_ns() is None

    def push_whole(self, whole: WholeFrame) -> None:
        """Queues a frame behind the whole frames that wait. Only if it `may_go_whole`."""
        self._wholes.add(whole)
        self.ready_records += len(whole.frame.records)
        self.ready_bytes += whole.frame.byte_count

    def part_frames(self, now_ns: int) -> None:
        """Queues by shard the frames that wait whole."""
        if self._wholes:
            self.ready_records -= self._wholes.record_count
            self.ready_bytes -= self._wholes.byte_count
            for whole in self._wholes.take_all():
                self.push_all(whole.runs(), now_ns)

    @property
    def whole_frames(self) -> list[Frame]:
        """The frames that wait whole, not queued by shard."""
        return self._wholes.frames()

    @property
    def keyless_lane(self) -> Lane:
        """The lane where records without a key queue, for any shard."""
        return self._keyless.lane

    @property
    def has_full_batch(self) -> bool:
        """Whether more records would not make a better batch."""
        if self._aggregator is not None:
            full_bytes = min(self._bytes_max, self._aggregator.bytes_max * len(self._ring))
            return self.ready_bytes >= full_bytes
        return self.ready_records >= self.records_max or self.ready_bytes >= self._bytes_max

    def push_all(self, runs: Iterable[Run], now_ns: int) -> None:
        """Queues runs on their lanes, in their order."""
        self.part_frames(now_ns)
        is_pressed = self.is_pressed
        records = byte_count = 0  # of runs on lanes that are ready
        for run in runs:
            lane = run.lane
            if lane.state is _READY:
                records += len(run.indices)  # before the lane splits it, where clients take turns
                byte_count += run.byte_count
                lane.push(run, is_pressed=is_pressed)
            else:
                lane.push(run, is_pressed=is_pressed)
                self._pushed(lane, run.frame, now_ns)
        self.ready_records += records
        self.ready_bytes += byte_count

    def push_front(self, run: Run, now_ns: int) -> None:
        """Queues a run that failed before all other runs of its lane."""
        self.part_frames(now_ns)
        lane = run.lane
        lane.push_front(run)
        if lane.state is _READY:
            self.ready_records += len(run.indices)
            self.ready_bytes += run.byte_count
        else:
            self._pushed(lane, run.frame, now_ns)

    def postpone(self, lane: Lane, until_ns: int, now_ns: int) -> None:
        """Nothing leaves this lane before `until_ns` (the shard's backoff)."""
        lane.blocked_until_ns = max(lane.blocked_until_ns, until_ns)
        if lane.state is _READY:
            self._leave_ring(lane)
            self._wait(lane, now_ns)
        elif lane.state is LaneState.WAITING:
            self._wait(lane, now_ns)

    def wake(self, now_ns: int) -> None:
        """Moves the lanes that are due into the ring."""
        while (lane := self._waits.take_due(now_ns)) is not None:
            lane.move(LaneMove.DUE)
            self._enter_ring(lane)

    def next_due_ns(self) -> int | None:
        """When the next waiting lane is due."""
        return self._waits.next_due_ns()

    def draw(self, now_ns: int) -> Batch | None:
        """One batch of the records that shards can pay for now; None if there are none."""
        if self._wholes:
            batch = self._draw_whole(now_ns)
            if batch is not None:
                return batch
        draft = Draft(self.records_max, self._bytes_max)
        ring = self._ring
        keyless = self._keyless.lane
        if (
            keyless.state is _READY
            and len(ring) > 1
            and keyless.first_size <= self._bytes_max  # above it, only an empty batch will do
        ):
            ring.remove(keyless)  # last: keyless records get what the others leave
            ring.append(keyless)
        if len(ring) > 1 and self.ready_records > self.records_max:
            self._draw_parts(draft, now_ns)
        for _ in range(len(ring)):
            if not ring:
                break  # the keyless records have joined other lanes
            lane = ring[0]
            records_left = draft.records_left
            self._draw_ready(lane, draft, draft.records_left, now_ns)
            if not lane.queue:
                ring.popleft()
                lane.move(LaneMove.EMPTIED)
                continue
            if self._is_held_up_by_batch(lane, draft):
                if draft.records_left < records_left:
                    ring.rotate(-1)
                break
            self._leave_ring(lane)
            self._wait(lane, now_ns)
        if not draft.runs:
            return None
        sent = draft.records
        if not sent and self.names.is_used:
            sent = self.names.as_sent(draft.runs)
        return Batch(
            draft.runs,
            self._bytes_max - draft.bytes_left,
            paid=draft.paid,
            records=sent,
            widths=draft.widths,
        )

    def _draw_whole(self, now_ns: int) -> Batch | None:
        """A batch of whole frames. None: the frames are queued by shard now, because a shard cannot
        pay or because they would not fill a call.
        """
        wholes = self._wholes.draw(self.records_max, self._bytes_max, now_ns)
        if not wholes:
            self.part_frames(now_ns)
            return None
        byte_count = sum([whole.frame.byte_count for whole in wholes])
        batch = Batch([], byte_count, paid={}, wholes=wholes)
        self.ready_records -= batch.record_count
        self.ready_bytes -= byte_count
        return batch

    def _draw_parts(self, draft: Draft, now_ns: int) -> None:
        """If more is ready than a batch takes, and clients wait for each other, each lane has a
        part of the batch, in proportion to its queue. Then a client that asks for little is in each
        batch.
        """
        ring = self._ring
        if self._aggregator is not None or all(lane.turns is None for lane in ring):
            return
        ready_records = self.ready_records
        for _ in range(len(ring)):
            if draft.records_left <= 0:
                return
            lane = ring[0]
            part = max(SLICE_RECORDS, self.records_max * lane.queued_records // ready_records)
            self._draw_ready(lane, draft, min(part, draft.records_left), now_ns)
            if lane.queue:
                ring.rotate(-1)
            else:
                ring.popleft()
                lane.move(LaneMove.EMPTIED)

    def _draw_ready(self, lane: Lane, draft: Draft, records_max: int, now_ns: int) -> None:
        """Moves to the draft the records of a ready lane that can be paid for, and counts them."""
        records, byte_count = lane.queued_records, lane.queued_bytes
        keyless = self._keyless
        if lane is keyless.lane:
            keyless.draw(self.lanes, draft, now_ns, self._draw_lane)
        else:
            if keyless.is_crowded_out:
                self._join(lane)
                records, byte_count = lane.queued_records, lane.queued_bytes
            self._draw_lane(lane, draft, now_ns, records_max)
        self.ready_records -= records - lane.queued_records
        self.ready_bytes -= byte_count - lane.queued_bytes

    def _join(self, lane: Lane) -> None:
        """Every shard looked at has records of its own: keyless records join this lane, which must
        be ready, and take turns there.
        """
        own = self._keyless.lane
        records, byte_count = own.queued_records, own.queued_bytes
        self._keyless.join(lane, max(SLICE_RECORDS, self._quantum(lane)[0] // 2))
        if own.state is not _READY:
            self.ready_records += records - own.queued_records
            self.ready_bytes += byte_count - own.queued_bytes
        if not own.queue and own.state is not _IDLE:
            if own.state is _READY:
                self._ring.remove(own)
            own.move(LaneMove.EMPTIED)

    def _draw_lane(self, lane: Lane, draft: Draft, now_ns: int, records_max: int) -> None:
        """Moves to the draft the records that this shard can pay for, and takes the tokens."""
        start = len(draft.runs)
        if self._aggregator is not None and lane.shard_id is not None:
            self._aggregator.draw(lane, draft, now_ns)
            lane.let_go(draft.runs[start:])
            return
        if self.stalls.may_be and self.stalls.is_stalled(lane, now_ns):
            return
        records, byte_count = lane.draw(records_max, draft.bytes_left, now_ns, draft.runs)
        if records:
            draft.pay(lane, records, byte_count)
            if lane.joined_records:
                lane.let_go(draft.runs[start:])
        if self._draws_behind:
            self._draw_behind(lane, draft, start)

    def returned(self, batch: Batch, now_ns: int) -> None:
        """The batch's call was answered, or failed: lanes that it stalled may go on."""
        for lane in self.stalls.returned(batch):
            # Tokens saved up meanwhile would only make a call that is stalled again.
            lane.budget.refill(now_ns)
            lane.budget.keep_at_most(*self._quantum(lane))
            if lane.state is LaneState.WAITING:
                self._wait(lane, now_ns)

    def _draw_behind(self, lane: Lane, draft: Draft, start: int) -> None:
        """Records behind those just drawn (`draft.runs` from `start`) go along in the same call:
        the service takes them together or not at all.
        """
        budget = lane.budget
        for run in draft.runs[start:]:
            if run.is_keyless:
                continue
            for index in run.indices:
                while draft.records_left > 0 and budget.records.available > 0:
                    room = min(draft.bytes_left, budget.bytes.available)
                    follower = self._order.next_behind(run, index, room)
                    if follower is None:
                        break
                    draft.runs.append(follower)
                    draft.pay(lane, 1, follower.byte_count)

    def audit(self) -> tuple[list[Lane], list[tuple[int, Lane]]]:
        """For tests: the ring, and the entries of lanes that wait, with the time of each."""
        return list(self._ring), self._waits.audit()

    @property
    def all_lanes(self) -> tuple[Lane, ...]:
        """All lanes, with the keyless one."""
        return (*self.lanes, self._keyless.lane)

    def drop_abandoned(self, lane: Lane, client: int | None, start: int, count: int) -> list[Run]:
        """Drops the runs of abandoned frames, as `Lane.drop_abandoned`. Only while the lane has
        runs queued.
        """
        records, byte_count = lane.queued_records, lane.queued_bytes
        dropped = lane.drop_abandoned(client, start, count)
        if lane.state is _READY:
            self.ready_records -= records - lane.queued_records
            self.ready_bytes -= byte_count - lane.queued_bytes
            if not lane.queue:
                self._ring.remove(lane)
                lane.move(LaneMove.EMPTIED)
        elif not lane.queue:
            lane.move(LaneMove.EMPTIED)
        return dropped

    def take_keyless(self) -> deque[Run]:
        """Empties the queue of records without a key; the caller sends them in another way."""
        lane = self._keyless.lane
        if not lane.queue:
            return deque()
        if lane.state is _READY:
            self._leave_ring(lane)
        lane.move(LaneMove.EMPTIED)
        return lane.take_all()

    def replace_lanes(self, lanes: list[Lane]) -> list[deque[Run]]:
        """Puts `lanes` in place of the lanes before; lanes that are not among them are retired.
        Returns the queues of retired lanes that are not empty, in order; the caller routes them
        again.
        """
        kept = set(lanes)
        orphans: list[deque[Run]] = []
        for lane in self.lanes:
            if lane not in kept:
                if lane.state is _READY:
                    self.ready_records -= lane.queued_records
                    self.ready_bytes -= lane.queued_bytes
                lane.move(LaneMove.RETIRED)
                if lane.queue:
                    orphans.append(lane.take_all())
        if orphans:
            self._ring = deque(lane for lane in self._ring if lane.state is _READY)
        self.lanes = lanes
        return orphans

    def _pushed(self, lane: Lane, frame: Frame, now_ns: int) -> None:
        """Records of the frame were queued on a lane that is not ready."""
        if lane.state is _IDLE:
            if lane.blocked_until_ns <= now_ns:  # the next draw shows whether it can pay
                lane.move(LaneMove.FILLED)
                self._enter_ring(lane)
            else:
                self._wait(lane, now_ns)
        elif lane.queue[0].frame is frame and lane.state is LaneState.WAITING:
            self._wait(lane, now_ns)  # the new first record may cost less than the old one

    def _is_held_up_by_batch(self, lane: Lane, draft: Draft) -> bool:
        """Whether the batch is full, and the lane has not stopped because the shard cannot pay."""
        if not draft.has_places:
            return True
        size = lane.first_size
        if lane is self._keyless.lane:
            return not draft.has_room(size)
        if self._aggregator is not None:
            size = max(size, min(self._aggregator.bytes_max, lane.queued_bytes))
        return not draft.has_room(size) and lane.budget.can_pay(1, size)

    def _enter_ring(self, lane: Lane) -> None:
        self._ring.append(lane)
        self.ready_records += lane.queued_records
        self.ready_bytes += lane.queued_bytes

    def _leave_ring(self, lane: Lane) -> None:
        if self._ring[0] is lane:
            self._ring.popleft()
        else:
            self._ring.remove(lane)
        self.ready_records -= lane.queued_records
        self.ready_bytes -= lane.queued_bytes

    def _wait(self, lane: Lane, now_ns: int) -> None:
        lane.move(LaneMove.POSTPONED)
        if lane is self._keyless.lane:
            lane.ready_at_ns = self._keyless.ready_at_ns(self.lanes, self.linger_ns, now_ns)
        elif lane.is_stalled:
            lane.ready_at_ns = now_ns + STALL_RECHECK_NS
        else:
            lane.ready_at_ns = lane.payable_at_ns(*self._quantum(lane))
            if lane.budget.is_contended:
                recheck_ns = max(now_ns + GROWTH_RECHECK_NS, lane.blocked_until_ns)
                lane.ready_at_ns = min(lane.ready_at_ns, recheck_ns)
        self._waits.put(lane, len(self.lanes))

    def _quantum(self, lane: Lane) -> tuple[int, int]:
        """How many records and bytes a lane waits for when it cannot pay for its whole queue."""
        budget = lane.budget
        # Where others write to the shard, a call too late in a second is throttled whole.
        linger_ns = self.linger_ns // 2 if budget.is_contended else self.linger_ns
        quantum_bytes = budget.bytes.rate * linger_ns // 1_000_000_000
        quantum_records = max(1, budget.records.rate * linger_ns // 1_000_000_000)
        if self._aggregator is not None:
            quantum_bytes = max(quantum_bytes, self._aggregator.bytes_max)
            quantum_records = quantum_bytes // self._aggregator.bytes_max
        return quantum_records, quantum_bytes

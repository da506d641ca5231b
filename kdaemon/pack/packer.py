"""Batches out of lanes: pace before pack.

The packer draws from the lanes that can pay, from a rotating start so that a large one cannot
starve the rest, and takes the tokens in the same call: a packed batch never waits on one hot
shard. Lanes that cannot pay wait in a heap by the time at which they can.

Invariants: a lane is in the ring if and only if it is READY; `ready_records` and `ready_bytes` are
the sums over the ring; a record is in exactly one lane or one batch.
"""

from collections import deque
from heapq import heapify, heappop, heappush

from kdaemon.base.record import Record
from kdaemon.pack.lane import Lane, LaneMove, LaneState, Run

STALE_WAITS_MAX = (
    1_024  # stale heap entries tolerated above twice the lanes before the heap is rebuilt
)


class Batch:
    """One PutRecords call: runs in order, and their records flat, in the same order.

    `byte_count`: data + partition keys. `is_probe`: the one call of a stream that is coming back.
    """

    __slots__ = ("byte_count", "is_probe", "records", "runs", "sent_ns")

    def __init__(self, runs: list[Run], byte_count: int) -> None:
        self.runs = runs
        self.byte_count = byte_count
        self.records: list[Record] = []
        for run in runs:
            records = run.frame.records
            self.records += [records[index] for index in run.indices]
        self.is_probe = False
        self.sent_ns = 0


class Packer:
    """Lanes of one stream, those ready in a ring, those waiting in a heap."""

    def __init__(self, records_max: int, bytes_max: int, linger_ns: int) -> None:
        """`records_max`, `bytes_max`: of one batch. `linger_ns`: a saturated lane waits for this
        much of its rate before it is drawn from again.
        """
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._linger_ns = linger_ns
        self._ring: deque[Lane] = deque()
        self._waits: list[tuple[int, int, Lane]] = []
        self._wait_count = 0  # breaks ties in the heap
        self.lanes: list[Lane] = []
        self.ready_records = 0
        self.ready_bytes = 0

    @property
    def has_ready(self) -> bool:
        return bool(self._ring)

    @property
    def has_full_batch(self) -> bool:
        return self.ready_records >= self._records_max or self.ready_bytes >= self._bytes_max

    def push(self, run: Run, now_ns: int) -> None:
        """Queues a run on its lane."""
        lane = run.lane
        lane.push(run)
        self._pushed(lane, run, now_ns)

    def push_front(self, run: Run, now_ns: int) -> None:
        """Queues what failed before everything else on its lane."""
        lane = run.lane
        lane.push_front(run)
        self._pushed(lane, run, now_ns)

    def hold_back(self, lane: Lane, until_ns: int) -> None:
        """Nothing leaves this lane before `until_ns` (the shard's backoff)."""
        lane.blocked_until_ns = max(lane.blocked_until_ns, until_ns)
        if lane.state is LaneState.READY:
            self._leave_ring(lane)
            self._wait(lane)
        elif lane.state is LaneState.WAITING:
            self._wait(lane)

    def wake(self, now_ns: int) -> None:
        """Moves the lanes that are due into the ring."""
        waits = self._waits
        while waits and waits[0][0] <= now_ns:
            ready_at_ns, _, lane = heappop(waits)
            if lane.state is LaneState.WAITING and lane.ready_at_ns == ready_at_ns:
                lane.move(LaneMove.DUE)
                self._enter_ring(lane)

    def next_due_ns(self) -> int | None:
        """When the next waiting lane is due."""
        waits = self._waits
        while waits:
            ready_at_ns, _, lane = waits[0]
            if lane.state is LaneState.WAITING and lane.ready_at_ns == ready_at_ns:
                return ready_at_ns
            heappop(waits)
        return None

    def draw(self, now_ns: int) -> Batch | None:
        """One batch of what can be paid for now; None if nothing can."""
        runs: list[Run] = []
        records_left = self._records_max
        bytes_left = self._bytes_max
        ring = self._ring
        for _ in range(len(ring)):
            lane = ring[0]
            records, byte_count = lane.draw(records_left, bytes_left, now_ns, runs)
            records_left -= records
            bytes_left -= byte_count
            self.ready_records -= records
            self.ready_bytes -= byte_count
            if not lane.queue:
                ring.popleft()
                lane.move(LaneMove.EMPTIED)
                continue
            if self._is_held_up_by_batch(lane, records_left, bytes_left):
                if records:
                    ring.rotate(-1)
                break
            self._leave_ring(lane)
            self._wait(lane)
        if not runs:
            return None
        return Batch(runs, self._bytes_max - bytes_left)

    def drop_abandoned(self) -> None:
        """Forgets the queued runs of abandoned frames, in every lane."""
        for lane in self.lanes:
            if not lane.queue:
                continue
            records, byte_count = lane.drop_abandoned()
            if lane.state is LaneState.READY:
                self.ready_records -= records
                self.ready_bytes -= byte_count
                if not lane.queue:
                    self._ring.remove(lane)
                    lane.move(LaneMove.EMPTIED)
            elif not lane.queue:
                lane.move(LaneMove.EMPTIED)

    def replace_lanes(self, lanes: list[Lane]) -> list[Run]:
        """Other lanes from now on; those not among them are retired. Returns what was queued in
        the retired ones, in order, for the caller to route again.
        """
        kept = set(lanes)
        orphans: list[Run] = []
        for lane in self.lanes:
            if lane not in kept:
                if lane.state is LaneState.READY:
                    self._leave_ring(lane)
                lane.move(LaneMove.RETIRED)
                orphans += lane.take_all()
        self.lanes = lanes
        return orphans

    def _pushed(self, lane: Lane, run: Run, now_ns: int) -> None:
        if lane.state is LaneState.READY:
            self.ready_records += len(run.indices)
            self.ready_bytes += run.byte_count
        elif lane.state is LaneState.IDLE:
            if lane.blocked_until_ns <= now_ns:  # whether it can pay shows when it is drawn from
                lane.move(LaneMove.FILLED)
                self._enter_ring(lane)
            else:
                self._wait(lane)

    def _is_held_up_by_batch(self, lane: Lane, records_left: int, bytes_left: int) -> bool:
        """Whether the lane stopped because the batch is full, not because the shard cannot pay."""
        if records_left <= 0:
            return True
        first = lane.queue[0]
        size = first.frame.sizes[first.indices[0]]
        return size > bytes_left and lane.budget.can_pay(1, size)

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

    def _wait(self, lane: Lane) -> None:
        lane.move(LaneMove.HELD_BACK)
        budget = lane.budget
        quantum_records = max(1, budget.records.rate * self._linger_ns // 1_000_000_000)
        quantum_bytes = budget.bytes.rate * self._linger_ns // 1_000_000_000
        lane.ready_at_ns = lane.payable_at_ns(quantum_records, quantum_bytes)
        if len(self._waits) > 2 * len(self.lanes) + STALE_WAITS_MAX:
            self._waits = [
                wait
                for wait in self._waits
                if wait[2].state is LaneState.WAITING and wait[2].ready_at_ns == wait[0]
            ]
            heapify(self._waits)
        self._wait_count += 1
        heappush(self._waits, (lane.ready_at_ns, self._wait_count, lane))

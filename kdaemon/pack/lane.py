"""The queue of one shard, and how much of it the shard can pay for now.

A lane holds runs (records of one frame for this shard, in order). Bound: the engine admits no
frame beyond the stream's memory, so all lanes together hold at most that; a lane has no bound of
its own. When full, the client is refused or held back at the door. Drained by the packer.
Knows nothing of other lanes.
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum

from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.run import Run, affordable


class LaneState(Enum):
    IDLE = "idle"  # nothing queued
    READY = "ready"  # in the packer's ring: something queued, and the shard may be able to pay
    WAITING = "waiting"  # something queued; the shard can pay at `ready_at_ns`, not before
    RETIRED = "retired"  # the shard is no longer in the map; nothing may be queued

    __hash__ = object.__hash__  # by identity, in C: Enum's own is a Python call, twice a record


class LaneMove(Enum):
    FILLED = "filled"  # a run was queued, and the shard is not backing off
    EMPTIED = "emptied"  # the last run left
    HELD_BACK = "held back"  # tokens or backoff: not before `ready_at_ns`
    DUE = "due"  # `ready_at_ns` has come
    RETIRED = "retired"

    __hash__ = object.__hash__  # as LaneState's


_NEXT: dict[tuple[LaneState, LaneMove], LaneState] = {
    (LaneState.IDLE, LaneMove.FILLED): LaneState.READY,
    (LaneState.IDLE, LaneMove.HELD_BACK): LaneState.WAITING,
    (LaneState.IDLE, LaneMove.RETIRED): LaneState.RETIRED,
    (LaneState.READY, LaneMove.EMPTIED): LaneState.IDLE,
    (LaneState.READY, LaneMove.HELD_BACK): LaneState.WAITING,
    (LaneState.READY, LaneMove.RETIRED): LaneState.RETIRED,
    (LaneState.WAITING, LaneMove.DUE): LaneState.READY,
    (LaneState.WAITING, LaneMove.EMPTIED): LaneState.IDLE,
    (LaneState.WAITING, LaneMove.HELD_BACK): LaneState.WAITING,
    (LaneState.WAITING, LaneMove.RETIRED): LaneState.RETIRED,
}


class Lane:
    """One shard's queue, budget and backoff. `shard_id` is None where shards are not predicted.

    `hash_key`: a decimal well inside the shard's range, for records that may go anywhere; "" where
    no shard is predicted. `waiting_*`: records behind others of their key (`key_order.py`).
    `taken`, `throttled`: records of ours, since the shard is known. `doubted_ns`: when one of its
    records landed elsewhere last; then it makes no aggregates (None: it is trusted).
    """

    __slots__ = (
        "blocked_until_ns",
        "budget",
        "calls_sent_ns",
        "doubted_ns",
        "failure_count",
        "hash_key",
        "is_held",
        "queue",
        "queued_bytes",
        "queued_records",
        "ready_at_ns",
        "shard_id",
        "state",
        "taken",
        "throttled",
        "waiting_bytes",
        "waiting_records",
    )

    def __init__(self, shard_id: str | None, budget: ShardBudget, hash_key: str = "") -> None:
        self.shard_id = shard_id
        self.budget = budget
        self.hash_key = hash_key
        self.doubted_ns: int | None = None
        self.queue: deque[Run] = deque()
        self.queued_records = 0
        self.queued_bytes = 0
        self.state = LaneState.IDLE
        self.ready_at_ns = 0  # meaningful while WAITING
        self.blocked_until_ns = 0  # the end of the shard's backoff
        self.failure_count = 0  # calls in a row in which this shard failed records and took none
        self.calls_sent_ns: list[int] = []  # where the service holds calls: those that are out
        self.is_held = False  # nothing is drawn until a call that it holds returns
        self.waiting_records = 0
        self.waiting_bytes = 0
        self.taken = 0
        self.throttled = 0

    def move(self, move: LaneMove) -> None:
        """The one place that changes `state`; an illegal move raises KeyError and changes
        nothing.
        """
        self.state = _NEXT[self.state, move]

    def push(self, run: Run) -> None:
        self.queue.append(run)
        self.queued_records += len(run.indices)
        self.queued_bytes += run.byte_count

    def push_front(self, run: Run) -> None:
        """What failed goes before what has not been tried."""
        self.queue.appendleft(run)
        self.queued_records += len(run.indices)
        self.queued_bytes += run.byte_count

    def wait(self, record_count: int, byte_count: int) -> None:
        """So many more records (fewer, if negative) wait behind others of their keys."""
        self.waiting_records += record_count
        self.waiting_bytes += byte_count

    @property
    def first_size(self) -> int:
        """Data + partition key of the record that is next. Only while something is queued."""
        first = self.queue[0]
        return first.frame.sizes[first.indices[0]]

    @property
    def backlog_bytes(self) -> int:
        """Data + partition keys of all that is to go to this shard and is not in a call."""
        return self.queued_bytes + self.waiting_bytes

    @property
    def backlog_records(self) -> int:
        return self.queued_records + self.waiting_records

    def draw(
        self, records_max: int, bytes_max: int, now_ns: int, out: list[Run]
    ) -> tuple[int, int]:
        """Moves to `out` what the shard can pay for and the batch has room for; the caller pays.

        Returns (records, bytes) drawn. A single record above the byte bucket's capacity is drawn
        alone, into debt, once the bucket is full; and one above `bytes_max`, if `out` (all of the
        batch) is empty.
        """
        budget = self.budget
        budget.refill(now_ns)
        records_left = min(records_max, budget.records.available)
        bytes_left = min(bytes_max, budget.bytes.available)
        record_count = byte_count = 0
        queue = self.queue
        while queue and records_left > 0:
            run = queue[0]
            count = len(run.indices)
            if count > records_left or run.byte_count > bytes_left:
                count = affordable(run, records_left, bytes_left)
                if count == 0:
                    size = run.frame.sizes[run.indices[0]]
                    has_room = not out or (record_count == 0 and size <= bytes_max)
                    if not (has_room and budget.can_pay(1, size)):
                        break
                    count = 1
            run = self.take(count)
            out.append(run)
            record_count += count
            byte_count += run.byte_count
            records_left -= count
            bytes_left -= run.byte_count
        return record_count, byte_count

    def take(self, count: int) -> Run:
        """The first `count` records of the first run leave the queue, as a run; at most all."""
        run = self.queue[0]
        if count < len(run.indices):
            run = run.split(count)
        else:
            self.queue.popleft()
        self.queued_records -= count
        self.queued_bytes -= run.byte_count
        return run

    def payable_at_ns(self, quantum_records: int, quantum_bytes: int) -> int:
        """When the shard can pay for a quantum of its queue (or all of it), and its backoff is
        over.

        Waiting for a quantum rather than for one token is what keeps a saturated shard from
        being sent a record at a time. Only while something is queued; after `budget.refill`.
        """
        records = min(self.queued_records, quantum_records)
        byte_count = max(self.first_size, min(self.queued_bytes, quantum_bytes))
        return max(self.blocked_until_ns, self.budget.ready_at_ns(records, byte_count))

    def drop_abandoned(self) -> list[Run]:
        """Forgets the runs whose frames were abandoned, and returns them."""
        dropped = [run for run in self.queue if run.frame.is_abandoned]
        if dropped:
            self.queue = deque(run for run in self.queue if not run.frame.is_abandoned)
            self.queued_records -= sum(len(run.indices) for run in dropped)
            self.queued_bytes -= sum(run.byte_count for run in dropped)
        return dropped

    def take_all(self) -> Iterable[Run]:
        """Empties the queue, in order."""
        runs, self.queue = self.queue, deque()
        self.queued_records = self.queued_bytes = 0
        return runs

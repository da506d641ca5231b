"""The queue of one shard, and how much of it the shard can pay for now.

A lane holds runs (records of one frame for this shard, in order). A client that is alone has the
queue for itself; where a second one has to wait, they take turns (`client_turns.py`), and `queue`
holds what goes next. Bound: the engine admits no frame beyond the stream's memory, and no client's
beyond what `engine/crowding.py` says. When full, the client is refused or held back at the door.
Drained by the packer. Knows nothing of other lanes.
Invariants: a client's runs keep their order; while anything is queued, `queue` is not empty.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import islice
from typing import Final

from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.client_turns import SLICE_BYTES, SLICE_RECORDS, ClientTurns, is_large
from kdaemon.pack.run import Run, affordable

SEVERAL: Final = -1  # in place of a client: what is queued is of several, and is short

SHORT_RECORDS = 256
SHORT_BYTES = 256 * 1024
"""A queue in which nobody has to take turns while the shard can pay and calls are to be had: what
8 clients with 500 records each have for one of 16 shards, which comes and goes in one turn of the
loop. Otherwise that is a slice. Ours, 2026-11-28."""


class LaneState(Enum):
    IDLE = "idle"  # nothing queued
    READY = "ready"  # in the packer's ring: something queued, and the shard may be able to pay
    WAITING = "waiting"  # something queued; the shard can pay at `ready_at_ns`, not before
    RETIRED = "retired"  # the shard is no longer in the map; nothing may be queued

    __hash__ = object.__hash__  # by identity, in C: Enum's own is a Python call, twice a record


class LaneMove(Enum):
    FILLED = "filled"  # a run was queued, and the shard is not backing off
    EMPTIED = "emptied"  # the last run left
    POSTPONED = "postponed"  # tokens or backoff: not before `ready_at_ns`
    DUE = "due"  # `ready_at_ns` has come
    RETIRED = "retired"

    __hash__ = object.__hash__  # as LaneState's


_WAITING: Final[LaneState] = LaneState.WAITING  # an attribute of an Enum costs four times a global

_NEXT: dict[tuple[LaneState, LaneMove], LaneState] = {
    (LaneState.IDLE, LaneMove.FILLED): LaneState.READY,
    (LaneState.IDLE, LaneMove.POSTPONED): LaneState.WAITING,
    (LaneState.IDLE, LaneMove.RETIRED): LaneState.RETIRED,
    (LaneState.READY, LaneMove.EMPTIED): LaneState.IDLE,
    (LaneState.READY, LaneMove.POSTPONED): LaneState.WAITING,
    (LaneState.READY, LaneMove.RETIRED): LaneState.RETIRED,
    (LaneState.WAITING, LaneMove.DUE): LaneState.READY,
    (LaneState.WAITING, LaneMove.EMPTIED): LaneState.IDLE,
    (LaneState.WAITING, LaneMove.POSTPONED): LaneState.WAITING,
    (LaneState.WAITING, LaneMove.RETIRED): LaneState.RETIRED,
}


class Lane:
    """One shard's queue, budget and backoff. `shard_id` is None where shards are not predicted.

    `hash_key`: a decimal well inside the shard's range, for records that may go anywhere; "" where
    no shard is predicted. `owner`: whose the queue is, but for what failed and came back.
    `joined_records`: of those queued, came without a key and take their turn here.
    `turns`: of clients that wait for each other (None: nobody has to). `waiting_*`: records behind
    others of their key (`key_order.py`); `waiting_of`: how many, and bytes, of each client.
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
        "is_stalled",
        "joined_records",
        "owner",
        "queue",
        "queued_bytes",
        "queued_records",
        "ready_at_ns",
        "shard_id",
        "state",
        "taken",
        "throttled",
        "turns",
        "waiting_bytes",
        "waiting_of",
        "waiting_records",
    )

    def __init__(self, shard_id: str | None, budget: ShardBudget, hash_key: str = "") -> None:
        self.shard_id = shard_id
        self.budget = budget
        self.hash_key = hash_key
        self.doubted_ns: int | None = None
        self.queue: deque[Run] = deque()
        self.owner = 0
        self.turns: ClientTurns | None = None
        self.joined_records = 0
        self.queued_records = 0
        self.queued_bytes = 0
        self.state = LaneState.IDLE
        self.ready_at_ns = 0  # meaningful while WAITING
        self.blocked_until_ns = 0  # the end of the shard's backoff
        self.failure_count = 0  # calls in a row in which this shard failed records and took none
        self.calls_sent_ns: list[int] = []  # where the service holds calls: those that are out
        self.is_stalled = False  # nothing is drawn until a call that its shard stalls returns
        self.waiting_records = 0
        self.waiting_bytes = 0
        self.waiting_of: dict[int, tuple[int, int]] = {}
        self.taken = 0
        self.throttled = 0

    def move(self, move: LaneMove) -> None:
        """The one place that changes `state`; an illegal move raises KeyError and changes
        nothing.
        """
        self.state = _NEXT[self.state, move]

    def push(self, run: Run, *, is_pressed: bool = False) -> None:
        """Queues a run behind what its client has here. `is_pressed`: no call is to be had."""
        self.queued_records += len(run.indices)
        self.queued_bytes += run.byte_count
        if self.turns is not None:
            self._push_in_turn(run, self.turns)
            return
        client = run.frame.client
        if not self.queue:
            self.owner = client
        elif client != self.owner:
            if self._is_long(is_pressed=is_pressed):
                self._push_in_turn(run, self._begin_turns())
                return
            self.owner = SEVERAL
        self.queue.append(run)

    def _is_long(self, *, is_pressed: bool) -> bool:
        """Whether clients are to take turns in what is queued."""
        if is_pressed or self.state is _WAITING:
            return self.queued_records > SLICE_RECORDS or self.queued_bytes > SLICE_BYTES
        return self.queued_records > SHORT_RECORDS or self.queued_bytes > SHORT_BYTES

    def _push_in_turn(self, run: Run, turns: ClientTurns) -> None:
        """Behind what goes next, unless that is a large record, which the shard saves up for."""
        turns.add(run)
        if len(self.queue) == 1 and is_large(self.queue[0]):
            self._queue_next(turns)

    def _begin_turns(self) -> ClientTurns:
        """A second client has to wait: what goes next is a slice of the first one."""
        turns = self.turns = ClientTurns()
        if self.owner != SEVERAL:
            queue = self.queue
            first = queue.popleft()
            count = affordable(first, SLICE_RECORDS, SLICE_BYTES) or 1
            if count < len(first.indices):
                queue.appendleft(first)
                first = first.split(count)
            self.queue = deque((first,))
            if queue:
                turns.begin_with(self.owner, queue)
        return turns

    def push_front(self, run: Run) -> None:
        """What failed goes before what has not been tried; but a large record lets others pass
        while the shard saves up for it again.
        """
        if not self.queue:
            self.owner = run.frame.client
        if self.turns is not None and is_large(run) and not is_large(self.queue[-1]):
            self.queue.append(run)
        else:
            self.queue.appendleft(run)
        self.queued_records += len(run.indices)
        self.queued_bytes += run.byte_count

    def lend(self, run: Run) -> None:
        """Queues a run, whosever it is: what is not drawn of it is taken back at once."""
        self.queue.append(run)
        self.queued_records += len(run.indices)
        self.queued_bytes += run.byte_count

    def wait(self, client: int, record_count: int, byte_count: int) -> None:
        """So many more records (fewer, if negative) wait behind others of their keys."""
        self.waiting_records += record_count
        self.waiting_bytes += byte_count
        records, waiting_bytes = self.waiting_of.get(client, (0, 0))
        if records + record_count:
            self.waiting_of[client] = records + record_count, waiting_bytes + byte_count
        else:
            del self.waiting_of[client]

    def part_of(self, client: int) -> tuple[int, int]:
        """Records and bytes of this client that are to go to this shard and are not in a call, but
        for what goes next.
        """
        records, byte_count = self.waiting_of.get(client, (0, 0))
        if self.turns is not None:
            queued_records, queued_bytes = self.turns.part_of(client)
        elif client == self.owner:
            queued_records, queued_bytes = self.queued_records, self.queued_bytes
        else:
            return records, byte_count
        return records + queued_records, byte_count + queued_bytes

    @property
    def client_count(self) -> int:
        """How many clients wait for each other here, about."""
        queued = 1 if self.turns is None else self.turns.client_count
        return max(queued, len(self.waiting_of))

    def runs(self) -> Iterator[Run]:
        """All that is queued; each client's in its order."""
        yield from self.queue
        if self.turns is not None:
            yield from self.turns.runs()

    def oldest_ns(self) -> int:
        """Since when the oldest queued record is accepted: who has his turn next is seldom it. Only
        while something is queued.
        """
        if self.turns is None:
            return self.queue[0].frame.accepted_ns
        oldest_ns = min([run.frame.accepted_ns for run in self.queue])
        return min(oldest_ns, self.turns.oldest_ns()) if self.turns.client_count else oldest_ns

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
        if self.turns is not None:
            self.prefer_large(bytes_max, is_first=not out)
        records_left = min(records_max, budget.records.available)
        bytes_left = min(bytes_max, budget.bytes.available)
        record_count, byte_count = self.queued_records, self.queued_bytes
        if self.turns is None and record_count <= records_left and byte_count <= bytes_left:
            out += self.queue
            self.queue.clear()
            self.queued_records = self.queued_bytes = 0
            return record_count, byte_count
        record_count = byte_count = 0
        while self.queue and records_left > 0:
            run = self.queue[0]
            count = len(run.indices)
            if count > records_left or run.byte_count > bytes_left:
                count = affordable(run, records_left, bytes_left)
                if count == 0:
                    size = run.frame.sizes[run.indices[0]]
                    has_room = not out or (record_count == 0 and size <= bytes_max)
                    if not (has_room and budget.can_pay(1, size)):
                        break
                    count = 1
            if count < len(run.indices):
                run = run.split(count)
            elif self.turns is None:
                self.queue.popleft()
            else:
                self._let_first_go(self.turns)
            out.append(run)
            record_count += count
            byte_count += run.byte_count
            records_left -= count
            bytes_left -= run.byte_count
        self.queued_records -= record_count
        self.queued_bytes -= byte_count
        return record_count, byte_count

    def prefer_large(self, bytes_max: int, *, is_first: bool) -> None:
        """A large record that others passed while the shard saved up for it goes before them once
        it can be paid for. After `budget.refill`; `bytes_max`, `is_first`: of the batch.
        """
        last = self.queue[-1]
        if len(self.queue) > 1 and is_large(last):
            size = last.byte_count
            if (is_first or size <= bytes_max) and self.budget.can_pay(1, size):
                self.queue.rotate(1)

    def take(self, count: int) -> Run:
        """The first `count` records of the first run leave the queue, as a run; at most all."""
        run = self.queue[0]
        if count < len(run.indices):
            run = run.split(count)
        elif self.turns is None:
            self.queue.popleft()
        else:
            self._let_first_go(self.turns)
        self.queued_records -= count
        self.queued_bytes -= run.byte_count
        return run

    def _let_first_go(self, turns: ClientTurns) -> None:
        """The first run leaves the queue."""
        self.queue.popleft()
        if len(self.queue) <= 1:
            self._queue_next(turns)

    def _queue_next(self, turns: ClientTurns) -> None:
        """The next client has its turn, and others before it if its record is large. The last
        client has the queue for itself from then on.
        """
        queue = self.queue
        if not queue:
            if not turns.client_count:
                self.turns = None
                return
            queue.extend(turns.next_slice())
            self.owner = queue[0].frame.client
        if is_large(queue[0]) and turns.client_count:
            queue.extendleft(reversed(turns.slice_before(queue[0])))
        elif turns.client_count == 1:
            runs = queue
            self.owner, self.queue = turns.take_last()
            self.queue.extendleft(reversed(runs))
            self.turns = None
        if not turns.client_count and not (len(queue) > 1 and is_large(queue[-1])):
            self.turns = None

    def payable_at_ns(self, quantum_records: int, quantum_bytes: int) -> int:
        """When the shard can pay for a quantum of its queue (or all of it), and its backoff is
        over.

        Waiting for a quantum rather than for one token is what keeps a saturated shard from
        being sent a record at a time. Only while something is queued; after `budget.refill`.
        """
        records = min(self.queued_records, quantum_records)
        byte_count = max(self.first_size, min(self.queued_bytes, quantum_bytes))
        return max(self.blocked_until_ns, self.budget.ready_at_ns(records, byte_count))

    def parts(self) -> Iterator[int | None]:
        """Of a walk over all that is queued: the clients that wait, also those that begin to wait
        meanwhile, and what goes next (None) after each look for such.
        """
        seen: set[int] = set()
        while True:
            fresh = [] if self.turns is None else [*self.turns.clients - seen]
            yield from fresh
            yield None
            seen.update(fresh)
            if self.turns is None or self.turns.clients <= seen:
                return

    def part(self, client: int | None) -> deque[Run]:
        """What is queued of such a part, as of now."""
        if client is None:
            return self.queue
        return deque() if self.turns is None else self.turns.runs_of(client)

    def drop_abandoned(self, client: int | None, start: int, count: int) -> list[Run]:
        """Of `count` runs of a part from the `start`th on, forgets those whose frames were
        abandoned, and returns them.
        """
        queue = self.part(client)
        queue.rotate(-start)
        looked_at = list(islice(queue, count))
        dropped = [run for run in looked_at if run.frame.is_abandoned]
        if dropped:
            for _ in looked_at:
                queue.popleft()
            queue.extendleft(run for run in reversed(looked_at) if not run.frame.is_abandoned)
            self.queued_records -= sum([len(run.indices) for run in dropped])
            self.queued_bytes -= sum([run.byte_count for run in dropped])
            self.let_go(dropped)
        queue.rotate(start)
        if self.turns is not None and dropped:
            if client is not None:
                self.turns.dropped(client, dropped)
            if len(self.queue) <= 1:
                self._queue_next(self.turns)
        return dropped

    def let_go(self, runs: Iterable[Run]) -> None:
        """These have left the queue: those without a key count as joined no more."""
        if self.joined_records:
            self.joined_records -= sum([len(run.indices) for run in runs if run.is_keyless])

    def take_all(self) -> deque[Run]:
        """Empties the queue; each client's runs in their order."""
        runs = self.queue if self.turns is None else deque(self.runs())
        self.queue, self.turns = deque(), None
        self.queued_records = self.queued_bytes = self.joined_records = 0
        return runs

"""The queue of one shard, and how much of the queue the shard can pay for now.

A lane holds runs (records of one frame for this shard, in order). A client that is alone has the
queue for itself. When a second client has to wait, the clients take turns (`client_turns.py`), and
`queue` holds the runs that go next. Bound: the engine admits no frame beyond the stream's memory,
and no records of a client beyond the bounds of `engine/crowding.py`. When the lane is full, the
client is refused, or made to wait at the door. Drained by the packer. Knows nothing of other lanes.
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

SEVERAL: Final = -1  # in place of a client: the queue is short, and has runs of several clients

SHORT_RECORDS = 256
SHORT_BYTES = 256 * 1024
"""While the shard can pay and a call can be made, clients take no turns in a queue up to this size.
It is what 8 clients with 500 records each have for one of 16 shards; such a queue comes and goes in
one turn of the loop. Otherwise the bound is a slice. Ours, 2026-11-28."""


class LaneState(Enum):
    IDLE = "idle"  # nothing queued
    READY = "ready"  # in the packer's ring: something queued, and the shard may be able to pay
    WAITING = "waiting"  # something queued; the shard can pay at `ready_at_ns`, not before
    RETIRED = "retired"  # the shard is no longer in the map; nothing may be queued

    __hash__ = object.__hash__  # by identity, in C: Enum's own is a Python call, twice a record


class LaneMove(Enum):
    FILLED = "filled"  # a run was queued, and the shard is not backing off
    EMPTIED = "emptied"  # the last run left
    POSTPONED = "postponed"  # tokens or backoff: nothing leaves before `ready_at_ns`
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
    no shard is predicted. `owner`: the client whose runs are queued, except runs in front of them
    that came back or are the rest of another's turn. `joined_records`: queued records that came
    without a key and take their turn here. `turns`: the clients that wait for each other (None: no
    client has to). `waiting_*`: records behind others of their key (`key_order.py`); `waiting_of`:
    their number and bytes, by client. `taken`, `throttled`: records of ours, since the shard is
    known. `doubted_ns`: when a record of the lane last landed on another shard; the lane then makes
    no aggregates (None: it is trusted).
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
        self.calls_sent_ns: list[int] = []  # where the service may stall calls: those that are out
        self.is_stalled = False  # nothing is drawn until the call that the shard stalls returns
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
        """Queues a run behind its client's runs. `is_pressed`: no call can be made now."""
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
        """Whether clients must take turns in the queue."""
        if is_pressed or self.state is _WAITING:
            return self.queued_records > SLICE_RECORDS or self.queued_bytes > SLICE_BYTES
        return self.queued_records > SHORT_RECORDS or self.queued_bytes > SHORT_BYTES

    def _push_in_turn(self, run: Run, turns: ClientTurns) -> None:
        """Queues the run behind the runs that go next. If only a large record goes next, the shard
        saves up for it, and others may go before it.
        """
        turns.add(run)
        if len(self.queue) == 1 and is_large(self.queue[0]):
            self._queue_next(turns)

    def _begin_turns(self) -> ClientTurns:
        """A second client has to wait: the first client keeps one slice in `queue`. Runs of others
        that go before those of the owner (the rest of a turn, or what came back) stay there whole.
        """
        turns = self.turns = ClientTurns()
        if self.owner == SEVERAL:
            return turns
        queue, self.queue = self.queue, deque()
        while queue and queue[0].frame.client != self.owner:
            self.queue.append(queue.popleft())
        if not self.queue:
            first = queue.popleft()
            count = affordable(first, SLICE_RECORDS, SLICE_BYTES) or 1
            if count < len(first.indices):
                queue.appendleft(first)
                first = first.split(count)
            self.queue.append(first)
        if queue:
            turns.begin_with(self.owner, queue)
        return turns

    def push_front(self, run: Run) -> None:
        """Puts records that failed before records that have not been tried. But a large record lets
        others pass while the shard saves up for it again.
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
        """Queues a run of any client; the caller takes back at once the records that are not
        drawn.
        """
        self.queue.append(run)
        self.queued_records += len(run.indices)
        self.queued_bytes += run.byte_count

    def wait(self, client: int, record_count: int, byte_count: int) -> None:
        """Counts more records (fewer, if negative) as waiting behind others of their keys."""
        self.waiting_records += record_count
        self.waiting_bytes += byte_count
        records, waiting_bytes = self.waiting_of.get(client, (0, 0))
        if records + record_count:
            self.waiting_of[client] = records + record_count, waiting_bytes + byte_count
        else:
            del self.waiting_of[client]

    def part_of(self, client: int) -> tuple[int, int]:
        """Records and bytes of this client that wait for this shard and are in no call; where
        clients take turns, without those in `queue`.
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
        """About how many clients wait for each other here."""
        queued = 1 if self.turns is None else self.turns.client_count
        return max(queued, len(self.waiting_of))

    def runs(self) -> Iterator[Run]:
        """All queued runs; each client's in its order."""
        yield from self.queue
        if self.turns is not None:
            yield from self.turns.runs()

    def oldest_ns(self) -> int:
        """When the oldest queued record was accepted: it is seldom the record that goes next. Only
        while something is queued.
        """
        if self.turns is None:
            return self.queue[0].frame.accepted_ns
        oldest_ns = min([run.frame.accepted_ns for run in self.queue])
        return min(oldest_ns, self.turns.oldest_ns()) if self.turns.client_count else oldest_ns

    @property
    def first_size(self) -> int:
        """Data + partition key of the record that goes next. Only while something is queued."""
        first = self.queue[0]
        return first.frame.sizes[first.indices[0]]

    @property
    def backlog_bytes(self) -> int:
        """Data + partition keys of all records that wait for this shard and are in no call."""
        return self.queued_bytes + self.waiting_bytes

    @property
    def backlog_records(self) -> int:
        return self.queued_records + self.waiting_records

    def draw(
        self, records_max: int, bytes_max: int, now_ns: int, out: list[Run]
    ) -> tuple[int, int]:
        """Moves runs to `out`, as far as the shard can pay and the batch has room; the caller pays.

        Returns (records, bytes) drawn. A single record above the byte bucket's capacity is drawn
        alone, into debt, once the bucket is full. A single record above `bytes_max` is drawn if
        `out` (all of the batch) is empty.
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
        """Puts a large record back in front once the shard can pay for it: others passed it while
        the shard saved up. After `budget.refill`; `bytes_max`, `is_first`: of the batch.
        """
        last = self.queue[-1]
        if len(self.queue) > 1 and is_large(last):
            size = last.byte_count
            if (is_first or size <= bytes_max) and self.budget.can_pay(1, size):
                self.queue.rotate(1)

    def take(self, count: int) -> Run:
        """Takes the first `count` records of the first run out of the queue, as a run; at most all
        of the run.
        """
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
        """Takes the first run out of the queue."""
        self.queue.popleft()
        if len(self.queue) <= 1:
            self._queue_next(turns)

    def _queue_next(self, turns: ClientTurns) -> None:
        """The next client has its turn; others go before it if its record is large. When one client
        is left, it has the queue for itself from then on.
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

        A saturated shard would be sent a record at a time if the lane waited for one token and not
        for a quantum. Only while something is queued; after `budget.refill`.
        """
        records = min(self.queued_records, quantum_records)
        byte_count = max(self.first_size, min(self.queued_bytes, quantum_bytes))
        return max(self.blocked_until_ns, self.budget.ready_at_ns(records, byte_count))

    def parts(self) -> Iterator[int | None]:
        """The parts of the queue, for a walk over all of it: the clients that wait, also those that
        begin to wait during the walk, and None (`queue`) after each look for such clients.
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
        """The queued runs of such a part, as of now."""
        if client is None:
            return self.queue
        return deque() if self.turns is None else self.turns.runs_of(client)

    def drop_abandoned(self, client: int | None, start: int, count: int) -> list[Run]:
        """Drops the runs of abandoned frames among `count` runs of a part, from the `start`th on;
        returns them.
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
        """These runs have left the queue: their keyless records count as joined no more."""
        if self.joined_records:
            self.joined_records -= sum([len(run.indices) for run in runs if run.is_keyless])

    def take_all(self) -> deque[Run]:
        """Empties the queue; returns the runs, each client's in its order."""
        runs = self.queue if self.turns is None else deque(self.runs())
        self.queue, self.turns = deque(), None
        self.queued_records = self.queued_bytes = self.joined_records = 0
        return runs

"""Records without a key: they go where there is room, and their shard is chosen as late as
possible.

They have a queue of their own, on no shard's lane. When a batch is drawn, each record goes to one
of the shards that can pay most just then and have no records of their own waiting. It goes under an
explicit hash key inside that shard's range. Records that a shard throttled come back here and go to
another shard. While every shard has records of its own waiting, some keyless records queue on the
shards' lanes and take turns with the clients there.
Bound, and who drains it: as a lane.
Invariant: a client's record stays as the client sent it. The keys that we invent are on the copies
that go out (`Names`), so that a dead letter and its replay show what the client meant.
"""

from collections.abc import Callable, Iterable

from kdaemon.base.record import Record
from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.batch import Draft
from kdaemon.pack.lane import Lane
from kdaemon.pack.run import Run
from kdaemon.route.shard_map import keyless_key, spread_hash_key

LOOKED_AT_MIN = 4
LOOKED_AT_MAX = 32
"""Lanes that are compared for one batch, from a rotating start: looking at thousands of buckets for
one record would cost more than the record."""

RECHECK_NS_MIN = 10_000_000
"""10 ms: the least time before the next look, where all shards have records of their own. Without
this bound and with no linger, the next look would come at once, again and again."""

DrawLane = Callable[[Lane, Draft, int, int], object]


class Names:
    """Keys for records that came without one. `is_used`: such a record has come."""

    __slots__ = ("_count", "is_used")

    def __init__(self) -> None:
        self.is_used = False
        self._count = 0

    def as_sent(self, runs: Iterable[Run]) -> list[Record]:
        """The records of runs as they go out: a record without a partition key as a copy with
        one.
        """
        sent: list[Record] = []
        for run in runs:
            records = run.frame.records
            if not self.is_used:
                sent += [records[index] for index in run.indices]
                continue
            for index in run.indices:
                record = records[index]
                if not record.partition_key:
                    record = self._named(record, run)
                sent.append(record)
        return sent

    def _named(self, record: Record, run: Run) -> Record:
        self._count += 1
        hash_key = record.explicit_hash_key
        if hash_key is None:
            hash_key = run.lane.hash_key or spread_hash_key(self._count)
        return Record(record.data, keyless_key(self._count), hash_key)


class Keyless:
    """The queue of records without a key. `lane`: in the packer's ring like any other."""

    def __init__(self, names: Names, *, is_joined: bool, now_ns: int) -> None:
        """`is_joined`: records go into aggregates, which take one token whatever they carry."""
        self._names = names
        self._is_joined = is_joined
        self.lane = Lane(None, ShardBudget(1, 1, now_ns))  # the budget is never used: shards pay
        self._start = 0
        self.is_crowded_out = False  # every shard looked at has records of its own waiting

    def draw(self, lanes: list[Lane], draft: Draft, now_ns: int, draw_lane: DrawLane) -> None:
        """Moves to the draft the records that any shard can pay for. `draw_lane`: draws from a
        shard's lane and pays.
        """
        own = self.lane
        self._names.is_used = True
        self.is_crowded_out = bool(own.queue)
        looked_at = 0
        while own.queue and draft.has_places and looked_at < len(lanes):
            count = min(
                len(lanes) - looked_at,
                max(LOOKED_AT_MIN, min(LOOKED_AT_MAX, own.queued_records // 8)),
            )
            start = self._start
            chosen = [lanes[(start + offset) % len(lanes)] for offset in range(count)]
            looked_at += count
            self._start = (start + count) % len(lanes)
            if self.is_crowded_out:
                self.is_crowded_out = all(lane.queue for lane in chosen)
            for lane in self._roomiest(chosen, now_ns):
                if not own.queue or not draft.has_places:
                    break
                self._lend(lane, draft, now_ns, draw_lane)

    def join(self, lane: Lane, records_max: int) -> None:
        """Moves records to the lane of a shard that has others waiting, to take their turn there:
        at most `records_max` at a time.
        """
        own = self.lane
        while own.queue and lane.joined_records < records_max:
            count = min(records_max - lane.joined_records, len(own.queue[0].indices))
            run = own.take(count)
            run.lane = lane
            lane.push(run)
            lane.joined_records += count

    def ready_at_ns(self, lanes: list[Lane], linger_ns: int, now_ns: int) -> int:
        """When the first shard can pay for a linger's worth of the queue."""
        own = self.lane
        first = own.queue[0]
        size = first.frame.sizes[first.indices[0]]
        # Lanes with records of their own may run dry; lanes that are stalled may go on.
        earliest_ns = now_ns + max(linger_ns, RECHECK_NS_MIN)
        for lane in lanes:
            if lane.queue or lane.is_stalled:
                continue
            budget = lane.budget
            budget.refill(now_ns)
            records = min(own.queued_records, max(1, budget.records.rate * linger_ns // 10**9))
            byte_count = max(size, min(own.queued_bytes, budget.bytes.rate * linger_ns // 10**9))
            ready_ns = max(lane.blocked_until_ns, budget.ready_at_ns(records, byte_count))
            earliest_ns = min(earliest_ns, ready_ns)
        return max(earliest_ns, now_ns + 1)

    def _roomiest(self, lanes: list[Lane], now_ns: int) -> list[Lane]:
        """The lanes that can take records now, the one with the most budget first."""
        able: list[tuple[int, int, Lane]] = []
        for position, lane in enumerate(lanes):
            if lane.queue or lane.is_stalled or lane.blocked_until_ns > now_ns:
                continue
            budget = lane.budget
            budget.refill(now_ns)
            if budget.records.available > 0 and budget.bytes.available > 0:
                able.append((-budget.records.available, position, lane))
        able.sort()
        return [lane for _, _, lane in able]

    def _lend(self, lane: Lane, draft: Draft, now_ns: int, draw_lane: DrawLane) -> None:
        """Puts on the lane the records that it can pay for, draws them, and takes back the rest."""
        own = self.lane
        records_left = min(draft.records_left, lane.budget.records.available)
        bytes_left = min(draft.bytes_left, lane.budget.bytes.available)
        if self._is_joined:
            records_left = own.queued_records  # only the bytes limit an aggregate
        while own.queue and records_left > 0 and bytes_left > 0:
            run = own.take(min(records_left, len(own.queue[0].indices)))
            run.lane = lane
            lane.lend(run)
            records_left -= len(run.indices)
            bytes_left -= run.byte_count
        draw_lane(lane, draft, now_ns, draft.records_left)
        for run in reversed(lane.take_all()):
            own.push_front(run)

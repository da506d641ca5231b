"""Aggregates out of a lane: many records as the data of one, in KPL's format (`kpl.py`).

Only records that are predicted for one shard go together, and only records of one kind: all with an
explicit hash key or all without (readers of the format mix the kinds up otherwise). A record that
would be alone is sent as it is. The shard pays for what is sent: one record, and the bytes of the
aggregate. Pure. Invariant: records leave the lane in its order, within one kind.
Knows lanes and drafts. Where it sits: beside `Lane.draw`, which draws without aggregates.
"""

from kdaemon.base.limits import SPREAD_KEY_BYTES
from kdaemon.base.record import Record
from kdaemon.pack.batch import CARRIED_MAX, Draft
from kdaemon.pack.key_order import NoOrder
from kdaemon.pack.keyless import Names
from kdaemon.pack.kpl import (
    AGGREGATE_OVERHEAD_BYTES,
    EXPLICIT_INDEX_BYTES_MAX,
    EXPLICIT_KEY_BYTES_MAX,
    RECORD_OVERHEAD_BYTES_MAX,
    encode_aggregate,
    outer_hash_key,
)
from kdaemon.pack.lane import Lane
from kdaemon.pack.run import Run, affordable


class Aggregator:
    """Draws a lane's records as aggregates of at most `bytes_max` (data + partition key)."""

    def __init__(self, bytes_max: int, order: NoOrder, names: Names) -> None:
        self.bytes_max = bytes_max
        self._order = order
        self._names = names

    def draw(self, lane: Lane, draft: Draft, now_ns: int) -> None:
        """Moves records to the draft, as far as the shard can pay and the batch has room, and pays
        for them. From a doubted lane it draws records as they are.
        """
        aggregate_bytes_max = self.bytes_max if lane.doubted_ns is None else 0
        budget = lane.budget
        budget.refill(now_ns)
        if lane.turns is not None:
            lane.prefer_large(draft.bytes_left, is_first=not draft.runs)
        record_count = byte_count = 0
        while lane.queue and draft.carried < CARRIED_MAX:
            records_left = min(draft.records_left, budget.records.available) - record_count
            bytes_left = min(draft.bytes_left, budget.bytes.available) - byte_count
            if records_left <= 0:
                break
            if record_count and bytes_left < min(aggregate_bytes_max, lane.queued_bytes):
                break  # a full aggregate later is better than a part of one now
            runs = self._take(lane, min(aggregate_bytes_max, bytes_left))
            if not runs:
                first = lane.queue[0]
                size = first.frame.sizes[first.indices[0]]
                is_payable = draft.has_room(size + byte_count) and (
                    size <= bytes_left or (not record_count and budget.can_pay(1, size))
                )
                if not is_payable:
                    break
                runs = [lane.take(1)]
            record = _joined(self._names.as_sent(runs))
            draft.records.append(record)
            width = sum([len(run.indices) for run in runs])
            draft.widths.append(width)
            draft.carried += width
            draft.runs += runs
            record_count += 1
            byte_count += len(record.data) + len(record.partition_key.encode())
        if record_count:
            draft.pay(lane, record_count, byte_count)

    def _take(self, lane: Lane, bytes_max: int) -> list[Run]:
        """Takes runs of one kind from the front of the queue that fit one aggregate; none if not
        even the first record fits.
        """
        other_kind: list[Run] = []
        taken: list[Run] = []
        first = lane.queue[0]
        is_explicit = _is_explicit(first)
        room = bytes_max - AGGREGATE_OVERHEAD_BYTES - _key_bytes(first)
        if first.is_keyless:
            room -= EXPLICIT_KEY_BYTES_MAX  # keyless records share their explicit hash key
        while lane.queue:
            run = lane.queue[0]
            if _is_explicit(run) is not is_explicit or run.is_keyless is not first.is_keyless:
                other_kind.append(lane.take(len(run.indices)))
                continue
            overhead = _overhead_bytes(run, is_explicit=is_explicit)
            count = len(run.indices)
            if run.byte_count + overhead * count > room:
                count = affordable(run, count, room, overhead)
                if count == 0:
                    break
            part = lane.take(count)
            taken.append(part)
            room -= part.byte_count + overhead * count
            if self._order.is_kept and not part.is_keyless:
                room = self._take_behind(part, room, overhead, taken)
        for run in reversed(other_kind):
            lane.push_front(run)
        return taken

    def _take_behind(self, run: Run, room: int, overhead: int, taken: list[Run]) -> int:
        """Adds the records behind those of the run, as far as there is room; returns the room
        left.
        """
        for index in run.indices:
            while (follower := self._order.next_behind(run, index, room - overhead)) is not None:
                taken.append(follower)
                room -= follower.byte_count + overhead
        return room


def _key_bytes(run: Run) -> int:
    """The size of the first record's partition key, which becomes the aggregate's key."""
    key = run.frame.records[run.indices[0]].partition_key
    return len(key.encode()) or SPREAD_KEY_BYTES


def _is_explicit(run: Run) -> bool:
    """Whether its records go out with explicit hash keys; `queues.py` makes runs of one kind."""
    if run.is_keyless:
        return True
    return run.frame.records[run.indices[0]].explicit_hash_key is not None


def _overhead_bytes(run: Run, *, is_explicit: bool) -> int:
    if not is_explicit:
        return RECORD_OVERHEAD_BYTES_MAX
    own_key = 0 if run.is_keyless else EXPLICIT_KEY_BYTES_MAX
    return RECORD_OVERHEAD_BYTES_MAX + EXPLICIT_INDEX_BYTES_MAX + own_key


def _joined(records: list[Record]) -> Record:
    """The aggregate has the key of its first record. If all aggregates of a shard had the same key,
    consumers that work in parallel by key (AWS Lambda) would handle them one after another.
    """
    if len(records) == 1:
        return records[0]
    return Record(encode_aggregate(records), records[0].partition_key, outer_hash_key(records))

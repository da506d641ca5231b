"""Frames that go whole: a frame that fills about a call by itself goes out as it came.

The records of a frame of 500 fall on hundreds of shards. Queued by shard, each record would be a
run that enters a queue and leaves it in the same turn of the loop. While nothing is queued on any
shard, such a frame waits here instead. It goes out if a call can be made at once and all its shards
can pay for it. Otherwise it is taken apart, and each shard's records queue on their lane: records
that really wait are counted by shard, and take turns there.

Knows frames, lanes and their budgets; nothing of records without a key, of order or of aggregates:
streams and frames with those are queued by shard. Pure. Invariant: while a frame waits here, no
lane has anything queued, so that nothing can overtake the frame and it overtakes nothing.
Bound: WAITING_RECORDS_MAX; frames beyond that are queued by shard, where clients take turns.
Where it sits: `queues.py` makes whole frames, the packer queues them, batches carry them.
Settlement takes them apart if a record was not delivered as predicted.
"""

from collections import deque
from collections.abc import Sequence

from kdaemon.base.frame import Frame
from kdaemon.base.record import Record, RecordResult
from kdaemon.pack.lane import Lane
from kdaemon.pack.run import Run

WHOLE_PART = 4
"""A frame goes whole if it is at least a call divided by this, in records or in bytes: smaller
frames are better joined with others. Ours, 2026-11-28."""

FULL_PARTS = 3  # of those parts: a call is then full enough, and no frame is taken apart for more

WAITING_RECORDS_MAX = 4_000
"""As many records as 8 clients with a call's worth each have, as `lane.SHORT_RECORDS`. Ours,
2026-11-28."""

Paid = dict[Lane, tuple[int, int]]
"""(records, bytes) that each lane paid for, as they were sent."""


class WholeFrame:
    """`lanes`: the lanes of the frame's shards; `groups`: for each lane, the indices of its
    records, ascending; `byte_counts`: for each lane, the bytes it paid for, once it has paid. On
    many shards almost every record is a group: three lists cost less than an object for each group.
    """

    __slots__ = ("byte_counts", "frame", "groups", "lanes")

    def __init__(self, frame: Frame, lanes: list[Lane], groups: list[list[int]]) -> None:
        self.frame = frame
        self.lanes = lanes
        self.groups = groups
        self.byte_counts: list[int] = []

    def pay(self, now_ns: int) -> bool:
        """Pays for all records. False: a shard cannot pay, and no shard has paid."""
        sizes, groups = self.frame.sizes, self.groups
        byte_counts = self.byte_counts
        for position, lane in enumerate(self.lanes):
            indices = groups[position]
            count = len(indices)
            size = sizes[indices[0]] if count == 1 else sum([sizes[index] for index in indices])
            if lane.blocked_until_ns > now_ns or not lane.budget.take(count, size, now_ns):
                self.take_back()
                return False
            byte_counts.append(size)
        return True

    def take_back(self) -> None:
        """Gives back the tokens that were just paid."""
        for position, byte_count in enumerate(self.byte_counts):
            self.lanes[position].budget.give_back(len(self.groups[position]), byte_count)
        self.byte_counts.clear()

    def tell_budgets(self, sent_ns: int, now_ns: int) -> None:
        """Tells the shards' budgets of a call that carried this frame alone and was taken whole."""
        groups, byte_counts = self.groups, self.byte_counts
        for position, lane in enumerate(self.lanes):
            records, byte_count = len(groups[position]), byte_counts[position]
            lane.budget.hear(records, byte_count, 0.0, sent_ns, now_ns)

    def records(self) -> list[Record]:
        """The frame's records, in the order of `runs`."""
        records = self.frame.records
        return [records[index] for indices in self.groups for index in indices]

    def settle(self, results: Sequence[RecordResult]) -> bool:
        """Writes the results, in the order of `records`. False if a record was not delivered as
        predicted; some results are written then.
        """
        frame, groups = self.frame, self.groups
        # An abandoned frame's client was told already; its answer may still be on its way out.
        slots = frame.results if not frame.is_abandoned else list(frame.results)
        answers = iter(results)
        for position, lane in enumerate(self.lanes):
            indices = groups[position]
            shard_id = lane.shard_id
            for index in indices:
                result = next(answers)
                if result.shard_id != shard_id or result.error_code or not result.sequence_number:
                    return False
                slots[index] = result
        return True

    def took(self) -> None:
        """Counts for each lane that its shard took all its records."""
        groups = self.groups
        for position, lane in enumerate(self.lanes):
            lane.taken += len(groups[position])
            lane.failure_count = 0

    def runs(self) -> list[Run]:
        """The frame's records as runs, by shard."""
        frame, sizes = self.frame, self.frame.sizes
        return [
            Run(frame, indices, sum([sizes[index] for index in indices]), lane)
            for lane, indices in zip(self.lanes, self.groups, strict=True)
        ]


def paid_of(wholes: Sequence[WholeFrame]) -> Paid:
    """The records and bytes that each lane paid for, in a call of these frames."""
    paid: Paid = {}
    for whole in wholes:
        for position, lane in enumerate(whole.lanes):
            records, byte_count = paid.get(lane, (0, 0))
            records += len(whole.groups[position])
            paid[lane] = records, byte_count + whole.byte_counts[position]
    return paid


class WholeFrames:
    """The whole frames that wait, first come first."""

    __slots__ = ("_queue", "byte_count", "record_count")

    def __init__(self) -> None:
        self._queue: deque[WholeFrame] = deque()
        self.record_count = 0
        self.byte_count = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def has_room(self, frame: Frame) -> bool:
        return self.record_count + len(frame.records) <= WAITING_RECORDS_MAX

    def add(self, whole: WholeFrame) -> None:
        self._queue.append(whole)
        self._count(whole, 1)

    def _next_call(self, records_max: int, bytes_max: int) -> list[WholeFrame]:
        """The frames that go in one call; empty if the call would be far from full though more
        frames wait.
        """
        chosen: list[WholeFrame] = []
        records = byte_count = 0
        for whole in self._queue:
            frame = whole.frame
            if records + len(frame.records) > records_max:
                break
            if byte_count + frame.byte_count > bytes_max:
                break
            chosen.append(whole)
            records += len(frame.records)
            byte_count += frame.byte_count
        is_full = _is_part(FULL_PARTS, records, records_max) or _is_part(
            FULL_PARTS, byte_count, bytes_max
        )
        return chosen if is_full or len(chosen) == len(self._queue) else []

    def draw(self, records_max: int, bytes_max: int, now_ns: int) -> list[WholeFrame]:
        """Takes out the frames of one call, which have paid. Empty: they are to be queued by shard
        now, because a shard cannot pay or because they would not fill a call.
        """
        chosen = self._next_call(records_max, bytes_max)
        payable = [whole for whole in chosen if whole.pay(now_ns)]
        if len(payable) == len(chosen):
            return self._take(len(chosen))
        for whole in payable:
            whole.take_back()
        return []

    def _take(self, count: int) -> list[WholeFrame]:
        """Takes out the first `count` frames."""
        taken = [self._queue.popleft() for _ in range(count)]
        for whole in taken:
            self._count(whole, -1)
        return taken

    def take_all(self) -> list[WholeFrame]:
        return self._take(len(self._queue))

    def frames(self) -> list[Frame]:
        return [whole.frame for whole in self._queue]

    def _count(self, whole: WholeFrame, sign: int) -> None:
        self.record_count += sign * len(whole.frame.records)
        self.byte_count += sign * whole.frame.byte_count


def is_much(frame: Frame, records_max: int, bytes_max: int) -> bool:
    """Whether the frame is at least one WHOLE_PART of a call, and not more than one call."""
    records, byte_count = len(frame.records), frame.byte_count
    if records > records_max or byte_count > bytes_max:
        return False
    return _is_part(1, records, records_max) or _is_part(1, byte_count, bytes_max)


def _is_part(parts: int, amount: int, of: int) -> bool:
    """Whether `amount` is at least `parts` WHOLE_PARTs of a call."""
    return WHOLE_PART * amount >= parts * of

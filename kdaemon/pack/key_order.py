"""Order per key: of the records of one partition key, only those of one call at a time are out.

The first record of a key goes on to its lane. The records that come after it wait here, behind it,
until it is settled, whatever shard it is on and however often it is sent. So order survives partial
failures, retries and new shard maps, and no other key waits. In two cases records behind another
may go along with it in the same call (`next_behind`): in an aggregate, and where the service takes
or refuses all records of a shard in a call together.

Invariant: a key has a turn if and only if a record of the key is in a lane or in a call. `out`
counts these records, and all of them were queued or sent together. Bound: the records of the
stream's frames. Drained by settlement. Records without a partition key have no turn: those with
only an explicit hash key pass through, and those with neither never come here.
Where it sits: `queues.py` brings new runs, says which records are settled or come back, and queues
those whose turn has come.
"""

from collections.abc import Iterable

from kdaemon.base.frame import Frame
from kdaemon.pack.lane import Lane
from kdaemon.pack.run import Run


class Kept:
    """Records of one run that wait behind others of their keys; counted as waiting on `lane`.
    `free`: indices of records whose turn has come, and which are not queued yet.
    """

    __slots__ = ("attempt_count", "frame", "free", "lane")

    def __init__(self, frame: Frame, lane: Lane, attempt_count: int) -> None:
        self.frame = frame
        self.lane = lane
        self.attempt_count = attempt_count
        self.free: list[int] = []


class Waiting:
    """A record that waits behind another record of its key. `next`: the record behind it.
    `has_left`: it waits no more.
    """

    __slots__ = ("has_left", "index", "kept", "next")

    def __init__(self, kept: Kept, index: int) -> None:
        self.kept = kept
        self.index = index
        self.next: Waiting | None = None
        self.has_left = False

    def leave(self) -> None:
        """The record waits no more, and its lane counts it no more."""
        self.has_left = True
        frame = self.kept.frame
        self.kept.lane.wait(frame.client, -1, -frame.sizes[self.index])


class _Turn:
    """The turn of a key: how many of its records are out, and the records behind them, each linked
    to the next. (A queue object for each key would take more memory than all its records.)
    """

    __slots__ = ("first", "last", "out")

    def __init__(self) -> None:
        self.out = 1
        self.first: Waiting | None = None
        self.last: Waiting | None = None

    def next(self) -> Waiting | None:
        """The first record that waits; before that, records of abandoned frames are dropped."""
        first = self.first
        while first is not None and first.kept.frame.is_abandoned:
            first.leave()
            first = self.first = first.next
        if first is None:
            self.last = None
        return first

    def take(self) -> Waiting | None:
        """As `next`, and the record waits no more; the caller tells its lane."""
        first = self.next()
        if first is not None:
            first.has_left = True
            self.first = first.next
            if first.next is None:
                self.last = None
        return first


class NoOrder:
    """No order is kept: each record may go at once, and none is behind another. `KeyOrder` is the
    other kind. `is_kept` is for those who would do work for each record in vain.
    """

    __slots__ = ("is_kept",)

    def __init__(self, *, is_kept: bool = False) -> None:
        self.is_kept = is_kept

    def enter(self, runs: list[Run], *, has_explicit: bool = True) -> list[Run]:
        return runs

    def keys(self) -> list[str]:
        return []

    def out_of(self, key: str) -> int:
        return 0

    def behind(self, key: str) -> list[Waiting]:
        return []

    def next_behind(self, run: Run, index: int, bytes_max: int) -> Run | None:
        return None

    def settled(self, frame: Frame, indices: Iterable[int]) -> None:
        pass

    def freed(self) -> list[Run]:
        return []

    def back(self, run: Run) -> bool:
        return True

    def forget_abandoned(
        self, key: str, after: Waiting | None, count: int
    ) -> tuple[Waiting | None, int]:
        return None, 0


class KeyOrder(NoOrder):
    """The turns of all keys of a stream. Most keys have one record out and never had one behind it:
    their turn is None.
    """

    __slots__ = ("_freed", "_turns")

    def __init__(self) -> None:
        super().__init__(is_kept=True)
        self._turns: dict[str, _Turn | None] = {}
        self._freed: list[Kept] = []  # each has a record whose turn has come

    def enter(self, runs: list[Run], *, has_explicit: bool = True) -> list[Run]:
        """Keeps back the records that must wait: the new runs of one frame keep only the first
        records of their keys. Returns the runs that have any left. `has_explicit`: False: no record
        has an explicit hash key, so that all records of a key are in one run.
        """
        frame = runs[0].frame
        keys = frame.keys = [each.partition_key for each in frame.records]
        if has_explicit and len(runs) > 1:
            self._enter_in_parts(runs, keys)
        else:
            for run in runs:
                self._enter(run, keys)
        return [run for run in runs if run.indices]

    def _enter(self, run: Run, keys: list[str]) -> None:
        turns = self._turns
        first: list[int] = []
        late: list[int] = []
        for index in run.indices:
            key = keys[index]
            if key in turns:
                late.append(index)
                continue
            first.append(index)
            if key:
                turns[key] = None
        if late:
            self._keep_back(run, Kept(run.frame, run.lane, run.attempt_count), late)
            run.indices = first

    def _enter_in_parts(self, runs: list[Run], keys: list[str]) -> None:
        """As `_enter`, where a key's records may be in several of the runs: they enter in the
        frame's order all the same.
        """
        turns = self._turns
        run_of = {index: run for run in runs for index in run.indices}
        kept_of = {run: Kept(run.frame, run.lane, run.attempt_count) for run in runs}
        for run in runs:
            run.indices = []
        for index in sorted(run_of):
            run = run_of[index]
            key = keys[index]
            if key in turns:
                self._keep_back(run, kept_of[run], [index])
                continue
            run.indices.append(index)
            if key:
                turns[key] = None

    def _keep_back(self, run: Run, kept: Kept, late: list[int]) -> None:
        """These records of a new run wait: they are not the first of their keys."""
        turns, frame = self._turns, run.frame
        keys, sizes = frame.keys, frame.sizes
        for index in late:
            waiting = Waiting(kept, index)
            turn = turns[keys[index]]
            if turn is None:
                turn = turns[keys[index]] = _Turn()
            last = turn.last
            if last is None:
                turn.first = waiting
            else:
                last.next = waiting
            turn.last = waiting
        byte_count = sum([sizes[index] for index in late])
        run.lane.wait(frame.client, len(late), byte_count)
        run.byte_count -= byte_count

    def keys(self) -> list[str]:
        """The keys that have a turn."""
        return list(self._turns)

    def out_of(self, key: str) -> int:
        """How many records of this key are out; the key has a turn."""
        turn = self._turns[key]
        return 1 if turn is None else turn.out

    def behind(self, key: str) -> list[Waiting]:
        """The records that wait now behind the first record of this key."""
        turn = self._turns.get(key)
        found: list[Waiting] = []
        each = None if turn is None else turn.first
        while each is not None:
            found.append(each)
            each = each.next
        return found

    def next_behind(self, run: Run, index: int, bytes_max: int) -> Run | None:
        """The record that may follow record `index` of a run that is being drawn, in the same call:
        the next of its key, if it goes to the same shard and takes at most `bytes_max`. It leaves
        the queue as a run. None: there is no such record.
        """
        record = run.frame.records[index]
        turn = self._turns.get(record.partition_key)
        if turn is None:
            return None
        first = turn.next()
        if first is None:
            return None
        frame, at = first.kept.frame, first.index
        size = frame.sizes[at]
        if size > bytes_max or frame.records[at].explicit_hash_key != record.explicit_hash_key:
            return None
        turn.take()
        first.leave()
        turn.out += 1
        # On the run's lane: the map may have changed since the follower came.
        return Run(frame, [at], size, run.lane, first.kept.attempt_count)

    def settled(self, frame: Frame, indices: Iterable[int]) -> None:
        """These records are out no more: they are delivered, dead or withdrawn. `freed` has the
        records whose turn comes now; the caller calls it before it looks at anything else.
        """
        turns, keys = self._turns, frame.keys
        for index in indices:
            key = keys[index]
            if not key:
                continue
            turn = turns[key]
            if turn is None:
                del turns[key]
                continue
            if turn.out > 1:
                turn.out -= 1
                continue
            first = turn.take()
            if first is None:
                del turns[key]
                continue
            kept = first.kept
            if not kept.free:
                self._freed.append(kept)
            kept.free.append(first.index)

    def freed(self) -> list[Run]:
        """The records whose turn has come since the last call, as runs. They are out now, and the
        caller queues them.
        """
        runs: list[Run] = []
        for kept in self._freed:
            frame, indices = kept.frame, kept.free
            kept.free = []
            indices.sort()
            sizes = frame.sizes
            byte_count = sum([sizes[index] for index in indices])
            kept.lane.wait(frame.client, -len(indices), -byte_count)
            runs.append(Run(frame, indices, byte_count, kept.lane, kept.attempt_count))
        if runs:
            self._freed = []
        return runs

    def back(self, run: Run) -> bool:
        """Records that were sent come back; the caller brings the last run of a call first. The run
        keeps the records that are the only ones of their keys still out; the others wait again, in
        their order. False if the run keeps none.
        """
        turns = self._turns
        frame = run.frame
        keys, sizes = frame.keys, frame.sizes
        kept = Kept(frame, run.lane, run.attempt_count)
        heads: list[int] = []
        for index in reversed(run.indices):
            turn = turns.get(keys[index])
            if turn is None or turn.out == 1:
                heads.append(index)
                continue
            turn.out -= 1
            waiting = Waiting(kept, index)
            waiting.next = turn.first
            if turn.first is None:
                turn.last = waiting
            turn.first = waiting
            run.lane.wait(frame.client, 1, sizes[index])
        if len(heads) < len(run.indices):
            heads.reverse()
            run.indices = heads
            run.byte_count = sum([sizes[index] for index in heads])
        return bool(heads)

    def forget_abandoned(
        self, key: str, after: Waiting | None, count: int
    ) -> tuple[Waiting | None, int]:
        """Drops the records behind the first record of this key whose frames are abandoned: their
        clients were told that they failed. Looks at `count` records, starting behind `after` (None:
        at the first). Returns the record after which to go on, and how many were looked at: fewer
        than `count` if there are no more.
        """
        turn = self._turns.get(key)
        if turn is None:
            return None, 0
        # A record that has left was the first, and so was every record looked at before it.
        before = None if after is None or after.has_left else after
        each = turn.first if before is None else before.next
        looked_at = 0
        while each is not None and looked_at < count:
            looked_at += 1
            if not each.kept.frame.is_abandoned:
                before = each
            else:
                each.leave()
                if before is None:
                    turn.first = each.next
                else:
                    before.next = each.next
            each = each.next
        if each is None:
            turn.last = before
        return before, looked_at

"""Order per key: of the records of one partition key, only those of one call at a time are out.

The first record of a key goes on to its lane; those that come after it wait here, behind it, until
it is settled, whatever shard it is on, however often it is sent. So order survives partial
failures, retries and new shard maps, and no other key waits. Where the service takes or refuses
all records of a shard in a call together, and in an aggregate, those behind may go along with
theirs in the same call (`next_behind`).

Invariant: a key has a turn if and only if a record of it is in a lane or in a call; `out` counts
these, and all of them were queued or sent together. Bound: the records of the stream's frames.
Drained by settlement. Records without a partition key have no turn: those with an explicit hash key
alone pass through, those without either never come here.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from kdaemon.base.frame import Frame
from kdaemon.pack.lane import Lane
from kdaemon.pack.run import Run


class Waiting:
    """A record behind another one of its key. `lane`: where it is counted as waiting."""

    __slots__ = ("attempt_count", "frame", "index", "lane")

    def __init__(self, frame: Frame, index: int, lane: Lane, attempt_count: int) -> None:
        self.frame = frame
        self.index = index
        self.lane = lane
        self.attempt_count = attempt_count


class _Turn:
    __slots__ = ("behind", "out")

    def __init__(self) -> None:
        self.out = 1
        self.behind: deque[Waiting] = deque()


class KeyOrder:
    """The turns of all keys of a stream. Most have one record out and never had one behind it:
    None.
    """

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: dict[str, _Turn | None] = {}

    def enter(self, runs: list[Run]) -> list[Run]:
        """Keeps back what must wait: new runs of one frame are left with the first records of their
        keys. Returns those that have any left.

        A key's records may be in several of the runs, by explicit hash keys; they come in the
        frame's order all the same.
        """
        turns = self._turns
        records = runs[0].frame.records
        parts: list[tuple[Run, list[int]]] = [(run, run.indices) for run in runs]
        explicit = [each.explicit_hash_key for each in records]
        if len(runs) > 1 and explicit.count(None) < len(explicit):
            parts = [(run, [index]) for run, indices in parts for index in indices]
            parts.sort(key=_first_index)
        firsts: dict[Run, list[int]] = {run: [] for run in runs}
        for run, indices in parts:
            first = firsts[run]
            late: list[int] = []
            for index in indices:
                key = records[index].partition_key
                if key in turns:
                    late.append(index)
                    continue
                first.append(index)
                if key:
                    turns[key] = None
            if late:
                self._keep_back(run, late)
        for run, first in firsts.items():
            run.indices = first
        return [run for run in runs if run.indices]

    def _keep_back(self, run: Run, late: list[int]) -> None:
        """These records of a new run are not the first of their keys."""
        turns, frame, lane = self._turns, run.frame, run.lane
        records, sizes = frame.records, frame.sizes
        for index in late:
            key = records[index].partition_key
            turn = turns[key]
            if turn is None:
                turn = turns[key] = _Turn()
            turn.behind.append(Waiting(frame, index, lane, run.attempt_count))
        byte_count = sum([sizes[index] for index in late])
        lane.wait(frame.client, len(late), byte_count)
        run.byte_count -= byte_count

    def keys(self) -> list[str]:
        """Those that have a turn."""
        return list(self._turns)

    def behind(self, key: str) -> Collection[Waiting]:
        """What waits behind the first record of this key, as of now."""
        turn = self._turns.get(key)
        return () if turn is None else turn.behind

    def next_behind(self, run: Run, index: int, bytes_max: int) -> Run | None:
        """The record that may follow this one of a run that is being drawn into the same call: the
        next of its key, if it goes to the same shard and takes at most `bytes_max`.
        """
        record = run.frame.records[index]
        turn = self._turns.get(record.partition_key)
        if turn is None:
            return None
        behind = turn.behind
        while behind and behind[0].frame.is_abandoned:
            self._leave(behind.popleft())
        if not behind:
            return None
        first = behind[0]
        size = first.frame.sizes[first.index]
        follower = first.frame.records[first.index]
        if size > bytes_max or follower.explicit_hash_key != record.explicit_hash_key:
            return None
        self._leave(behind.popleft())
        turn.out += 1
        # For the run's lane: the map may be another one than when the follower came.
        return Run(first.frame, [first.index], size, run.lane, first.attempt_count)

    def settled(self, frame: Frame, indices: Iterable[int]) -> list[Waiting]:
        """These are out no more: delivered, dead or withdrawn. Returns whose turn it is now; the
        caller queues them.
        """
        turns = self._turns
        records = frame.records
        released: list[Waiting] = []
        for index in indices:
            key = records[index].partition_key
            if not key:
                continue
            turn = turns.pop(key)
            if turn is None:
                continue
            if turn.out > 1:
                turn.out -= 1
                turns[key] = turn
                continue
            behind = turn.behind
            while behind and behind[0].frame.is_abandoned:
                self._leave(behind.popleft())
            if behind:
                first = behind.popleft()
                self._leave(first)
                released.append(first)
                turns[key] = turn
        return released

    def back(self, run: Run) -> bool:
        """Records that were sent go back, the last of a call first: the run is left with those
        that are alone out of their keys, the others wait again, in their order. False if none is
        left.
        """
        turns = self._turns
        frame = run.frame
        heads: list[int] = []
        for index in reversed(run.indices):
            turn = turns.get(frame.records[index].partition_key)
            if turn is None or turn.out == 1:
                heads.append(index)
                continue
            turn.out -= 1
            turn.behind.appendleft(Waiting(frame, index, run.lane, run.attempt_count))
            run.lane.wait(frame.client, 1, frame.sizes[index])
        if len(heads) < len(run.indices):
            heads.reverse()
            run.indices = heads
            run.byte_count = sum([frame.sizes[index] for index in heads])
        return bool(heads)

    def forget_abandoned(self, key: str, start: int, count: int) -> int:
        """Of `count` records from the `start`th on behind the first of this key, lets go of those
        whose clients were told that they failed; how many.
        """
        turn = self._turns.get(key)
        if turn is None:
            return 0
        behind = turn.behind
        behind.rotate(-start)
        looked_at = list(islice(behind, count))
        gone = [each for each in looked_at if each.frame.is_abandoned]
        if gone:
            for _ in looked_at:
                behind.popleft()
            behind.extendleft(each for each in reversed(looked_at) if not each.frame.is_abandoned)
            for each in gone:
                self._leave(each)
        behind.rotate(start)
        return len(gone)

    def _leave(self, waiting: Waiting) -> None:
        frame = waiting.frame
        waiting.lane.wait(frame.client, -1, -frame.sizes[waiting.index])


def _first_index(part: tuple[Run, list[int]]) -> int:
    return part[1][0]


def runs_of(released: Sequence[Waiting]) -> list[Run]:
    """Records whose turn it is, those of one frame for one lane together, and of one kind (with an
    explicit hash key or without); each frame's in its order.
    """
    groups: dict[tuple[Frame, int, Lane, bool], list[int]] = {}
    for each in released:
        is_explicit = each.frame.records[each.index].explicit_hash_key is not None
        at = (each.frame, each.attempt_count, each.lane, is_explicit)
        groups.setdefault(at, []).append(each.index)
    runs = []
    for (frame, attempt_count, lane, _), indices in groups.items():
        indices.sort()
        byte_count = sum([frame.sizes[index] for index in indices])
        runs.append(Run(frame, indices, byte_count, lane, attempt_count))
    return runs

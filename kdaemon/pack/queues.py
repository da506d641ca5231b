"""The queues of one stream: where each record waits until a call takes it.

The one face of this room: records of a frame are planned and put, records that come back are put
back, records that are settled leave, and records of frames that ended are withdrawn. Knows the map,
the lanes, the turns of keys and the halves of refused calls. Must not know why records come back,
leave or end. Where a shard is known, a run queues on the shard's lane; a record without a key goes
where there is room (`keyless.py`). Pure.
Invariant: a record that waits is in one place: a lane, a whole frame, behind another record of its
key, a half of a refused call, or among the orphans (runs whose shards are gone).
Where it sits: the engine puts frames and draws calls (`packer`), and tells the shards (`shards`);
settlement and partings go through this module to all of these.
"""

from collections.abc import Iterator
from itertools import chain

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.frame import Frame
from kdaemon.base.steps import Steps
from kdaemon.pack.batch import Batch
from kdaemon.pack.halves import Halves
from kdaemon.pack.key_order import KeyOrder, NoOrder
from kdaemon.pack.lane import LaneState
from kdaemon.pack.packer import Packer
from kdaemon.pack.run import Run
from kdaemon.pack.shard_lanes import ShardLanes
from kdaemon.pack.sweep import abandoned_runs, queued_frames
from kdaemon.pack.whole import WholeFrame
from kdaemon.route.shard_map import ANY_SHARD

ROUTED_A_SLICE = 2_000
"""Records whose shards are gone that get their place in one slice: 1.5 ms. Each run counts as
RUN_PIECES records more. Ours, 2026-11-28."""

RUN_PIECES = 10


class Queues:
    """All queues of one stream. `packer`: makes calls of what is queued. `shards`: the lanes and
    their rates. `order`: whose turn it is. `halves`: parts of refused calls. `names`: keys for
    records that came without one.
    """

    def __init__(self, settings: EngineSettings, now_ns: int) -> None:
        self.order = KeyOrder() if settings.is_ordered else NoOrder()
        self.packer = Packer(settings, self.order, now_ns)
        self.shards = ShardLanes(self.packer, settings, now_ns)
        self.names = self.packer.names
        # No aggregate mixes records with and without an explicit hash key: no run does, either.
        self._is_kind_split = settings.aggregate_bytes_max > 0
        self.halves = Halves()
        self._walk: Iterator[tuple[list[Run], bool]] | None = None  # that withdraws records

    def take_settings(self, settings: EngineSettings, now_ns: int) -> Steps[None]:
        """Sets other limits and rates from now on; in steps, for each lane has its rates."""
        self.packer.take_settings(settings)
        yield from self.shards.take_settings(settings, now_ns)

    # New records

    def plan(self, frame: Frame, byte_count: int) -> list[Run]:
        """The runs of a frame, each with the lane where it must queue; nothing is queued yet.
        `byte_count`: data + partition keys of all records.
        """
        records = frame.records
        shard_map = self.shards.shard_map
        if shard_map is None:
            return self._plan_without_map(frame, byte_count)
        if len(records) == 1:
            run = self._run(frame, [0], byte_count, shard_map.index_of(records[0]), 0)
            if shard_map.has_unnamed:
                self.names.is_used = True
            return [run]
        groups = shard_map.group(records)
        if shard_map.has_unnamed:
            self.names.is_used = True
        if len(groups) == 1:
            shard, group = groups.popitem()
            runs = [self._run(frame, group, byte_count, shard, 0)]
        else:
            lanes, sizes = self.packer.lanes, frame.sizes
            keyless = groups.pop(ANY_SHARD, None)
            # On many shards almost every run has one record: making such a run must be cheap.
            runs = [
                Run(frame, group, sizes[group[0]], lanes[shard])
                if len(group) == 1
                else Run(frame, group, sum([sizes[index] for index in group]), lanes[shard])
                for shard, group in groups.items()
            ]
            if keyless is not None:
                keyless_bytes = sum([sizes[index] for index in keyless])
                runs.append(self._run(frame, keyless, keyless_bytes, ANY_SHARD, 0))
        return [part for run in runs for part in _kinds(run)] if self._is_kind_split else runs

    def plan_whole(self, frame: Frame) -> WholeFrame | None:
        """The frame as one that goes whole; None: the caller queues it by shard. Nothing is queued
        yet.
        """
        shard_map, packer = self.shards.shard_map, self.packer
        if shard_map is None or self.order.is_kept or not packer.may_go_whole(frame):
            return None
        groups = shard_map.group(frame.records)
        if ANY_SHARD in groups or shard_map.has_unnamed:
            return None
        lanes = packer.lanes
        return WholeFrame(frame, [lanes[shard] for shard in groups], list(groups.values()))

    def _plan_without_map(self, frame: Frame, byte_count: int) -> list[Run]:
        """All records to the one lane; those without any key as a run of their own."""
        lane = self.packer.lanes[0]
        records = frame.records
        unnamed = [index for index, record in enumerate(records) if not record.partition_key]
        if not unnamed:
            return [Run(frame, list(range(len(records))), byte_count, lane)]
        self.names.is_used = True
        keyless = [index for index in unnamed if records[index].explicit_hash_key is None]
        if not keyless:
            return [Run(frame, list(range(len(records))), byte_count, lane)]
        keyless_bytes = sum([frame.sizes[index] for index in keyless])
        runs = [Run(frame, keyless, keyless_bytes, lane, is_keyless=True)]
        if len(keyless) < len(records):
            gone = set(keyless)
            keyed = [index for index in range(len(records)) if index not in gone]
            runs.append(Run(frame, keyed, byte_count - keyless_bytes, lane))
        return runs

    def put(self, runs: list[Run], now_ns: int) -> None:
        """Queues planned runs on their lanes, except records whose turn has not come."""
        if self.order.is_kept:
            keyed = [run for run in runs if not run.is_keyless]
            keyless = [run for run in runs if run.is_keyless]
            shard_map = self.shards.shard_map
            has_explicit = shard_map is not None and shard_map.has_explicit
            if keyed:
                keyed = self.order.enter(keyed, has_explicit=has_explicit)
            runs = keyless + keyed
        self.packer.push_all(runs, now_ns)

    # Records that were in a call

    def put_back(self, run: Run, now_ns: int) -> None:
        """Queues records that came back, before those of their lane that were never out. The caller
        brings the last run of a call first. Of records of one key that were out together only the
        first may go; the others wait behind it again.
        """
        if not run.is_keyless:
            if not self.order.back(run):
                return
        elif self.shards.shard_map is not None:
            run.lane = self.packer.keyless_lane
        if run.lane.state is LaneState.RETIRED:
            self._put_anew(run, now_ns)
        else:
            self.packer.push_front(run, now_ns)

    def leave(self, run: Run, indices: list[int]) -> None:
        """These records of a run are settled, or were withdrawn. The records behind them are queued
        by `take_turns`.
        """
        if not run.is_keyless:
            self.order.settled(run.frame, indices)

    def take_turns(self, now_ns: int) -> None:
        """Queues the records whose turn has come. The caller calls it when all of a call's records
        have left or were put back.
        """
        runs: list[Run] = []
        for run in self.order.freed():
            if run.lane.state is LaneState.RETIRED:
                self._put_anew(run, now_ns)
            else:
                runs.append(run)
        if runs:
            self.packer.push_all(runs, now_ns)

    def halve(self, runs: list[Run]) -> None:
        """Queues the halves of a call that was refused as wrong, each to go as a call of its own.
        Of each key only the first record is among them: halves may not pass one another.
        """
        kept = [run for run in reversed(runs) if run.is_keyless or self.order.back(run)]
        kept.reverse()
        self.halves.add(kept, self.packer.records_max)

    @property
    def has_halves(self) -> bool:
        return bool(self.halves.parts)

    def draw_half(self) -> Batch | None:
        """A half of a refused call, as a call of its own; None: there is none. It is paid for."""
        runs = self.halves.take()
        if not runs:
            return None
        byte_count = sum([run.byte_count for run in runs])
        return Batch(runs, byte_count, paid={}, records=self.names.as_sent(runs))

    # Frames that ended, in slices

    def frames(self) -> Iterator[Frame]:
        """The frames of all records that wait now, for a walk in slices. A frame may come more than
        once, and may have ended since.
        """
        return chain(self.halves.frames(), queued_frames(self.packer, self.order))

    @property
    def is_withdrawing(self) -> bool:
        """A withdrawal has begun and is not over: no batch may be drawn."""
        return self._walk is not None

    def withdraw(self, now_ns: int) -> bool:
        """Takes out the records of abandoned frames, by a slice. True: there is more."""
        if self._walk is None:
            self.packer.part_frames(now_ns)
            self._walk = abandoned_runs(self.packer, self.order)
        dropped, has_more = next(self._walk)
        if not has_more:
            self._walk = None
            dropped += self.halves.drop_abandoned()
        self._drop(dropped, now_ns)
        return has_more

    def route_orphans(self, now_ns: int) -> bool:
        """Gives a slice of the runs whose shards are gone their place by the map that holds now, in
        order. True: there is more.
        """
        pieces = 0
        abandoned: list[Run] = []
        orphans = self.shards.orphans
        while orphans and pieces < ROUTED_A_SLICE:
            queue = orphans[0]
            while queue and pieces < ROUTED_A_SLICE:
                run = queue.popleft()
                pieces += len(run.indices) + RUN_PIECES
                if run.frame.is_abandoned:
                    abandoned.append(run)
                else:
                    self._put_anew(run, now_ns)
            if not queue:
                orphans.popleft()
        self._drop(abandoned, now_ns)
        return bool(orphans)

    def _drop(self, runs: list[Run], now_ns: int) -> None:
        """Runs of abandoned frames were taken out of their queues."""
        for run in runs:
            self.leave(run, run.indices)
        self.take_turns(now_ns)

    def _put_anew(self, run: Run, now_ns: int) -> None:
        """Queues a run whose lane may be retired, by the map that holds now."""
        self.packer.push_all(self._plan_again(run), now_ns)

    def _plan_again(self, run: Run) -> list[Run]:
        frame = run.frame
        sizes = frame.sizes
        attempts = run.attempt_count
        lanes = self.packer.lanes
        if self.shards.shard_map is None:
            is_keyless = run.is_keyless
            return [
                Run(frame, run.indices, run.byte_count, lanes[0], attempts, is_keyless=is_keyless)
            ]
        if run.is_keyless:
            return [self._run(frame, run.indices, run.byte_count, ANY_SHARD, attempts)]
        runs: list[Run] = []
        groups = self.shards.shard_map.group([frame.records[index] for index in run.indices])
        for shard, positions in groups.items():
            group = [run.indices[position] for position in positions]
            group_bytes = sum([sizes[index] for index in group])
            runs.append(self._run(frame, group, group_bytes, shard, attempts))
        return [part for each in runs for part in _kinds(each)] if self._is_kind_split else runs

    def _run(
        self, frame: Frame, indices: list[int], byte_count: int, shard: int, attempt_count: int
    ) -> Run:
        if shard == ANY_SHARD:
            lane = self.packer.keyless_lane
            self.names.is_used = True
            return Run(frame, indices, byte_count, lane, attempt_count, is_keyless=True)
        return Run(frame, indices, byte_count, self.packer.lanes[shard], attempt_count)


def _kinds(run: Run) -> list[Run]:
    """The run as two: records without an explicit hash key, and records with one. A run of one kind
    stays as it is.
    """
    records = run.frame.records
    explicit = [index for index in run.indices if records[index].explicit_hash_key is not None]
    if not explicit or run.is_keyless or len(explicit) == len(run.indices):
        return [run]
    sizes = run.frame.sizes
    plain = [index for index in run.indices if records[index].explicit_hash_key is None]
    return [
        Run(
            run.frame,
            indices,
            sum([sizes[index] for index in indices]),
            run.lane,
            run.attempt_count,
        )
        for indices in (plain, explicit)
    ]

"""Where a frame's records queue: on the lane of their shard, or on one lane for the whole stream.

There are three regimes. With a map: one lane a shard, and one for records without a key, which go
where there is room. AUTO (the service itself spreads records): one lane, paced for all shards.
Unknown (kdaemon may not ask for the shards, or has no answer yet): one lane, paced for as many
shards as answers have named, at least one; the limiter is never off. A new map replaces the old one
in one call. The records that were queued for shards that are gone (`orphans`) are routed again, in
slices. Pure.
Invariant: a queued run is on one lane or among the orphans, once.
Where it sits: the engine routes frames and takes descriptions here; the packer has the lanes.
"""

from collections import deque
from dataclasses import dataclass, replace

from kdaemon.base.description import OpenShard, StreamDescription
from kdaemon.base.frame import Frame
from kdaemon.base.record import RecordResult
from kdaemon.base.steps import Steps
from kdaemon.pace.adaptive import warm_first_share
from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.key_order import KeyOrder
from kdaemon.pack.lane import Lane
from kdaemon.pack.packer import Packer
from kdaemon.pack.run import Run
from kdaemon.pack.whole import WholeFrame
from kdaemon.route.seen import SeenShards
from kdaemon.route.shard_map import ANY_SHARD, ShardMap

LANES_A_STEP = 250  # lanes that a new map makes in one step: 1 to 1.5 ms; ours, 2026-11-28

ROUTED_A_SLICE = 2_000
"""Records whose shards are gone that get their place in one slice: 1.5 ms. Each run counts as
RUN_PIECES records more. Ours, 2026-11-28."""

RUN_PIECES = 10


@dataclass(frozen=True, slots=True)
class ShardRates:
    """What this daemon may send to one shard, a second, and the part of it that a lane begins
    with.
    """

    records_per_second: int
    bytes_per_second: int
    first_share: float

    def budget(self, shard_count: int, now_ns: int) -> ShardBudget:
        """A new budget for `shard_count` shards together."""
        return ShardBudget(
            self.records_per_second * shard_count,
            self.bytes_per_second * shard_count,
            now_ns,
            self.first_share,
        )

    def first_share_of(self, warm_bytes_per_second: int, shard_count: int) -> float:
        """The first share of a warm stream. All producers share the warm throughput, so it is
        compared with the quotas of all the stream's shards.
        """
        bytes_per_second = self.bytes_per_second * shard_count
        return warm_first_share(self.first_share, warm_bytes_per_second / bytes_per_second)

    def within(self, quota_bytes_per_second: int) -> "ShardRates":
        """These rates, or less: `quota_bytes_per_second` is what the service says that a whole
        shard takes.
        """
        told = max(1, quota_bytes_per_second)
        return replace(self, bytes_per_second=min(self.bytes_per_second, told))

    def apply(self, budget: ShardBudget, shard_count: int, now_ns: int) -> None:
        """Sets the ceilings of a budget for `shard_count` shards together."""
        budget.set_ceilings(
            self.records_per_second * shard_count, self.bytes_per_second * shard_count, now_ns
        )


class Dispatcher:
    """Owns the shard map and decides the packer's lanes."""

    def __init__(
        self,
        packer: Packer,
        rates: ShardRates,
        now_ns: int,
        *,
        order: KeyOrder | None = None,
        is_kind_split: bool = False,
    ) -> None:
        """`order`: keeps records behind others of their key. `is_kind_split`: no run mixes records
        with and without an explicit hash key (aggregates need that).
        """
        self._packer = packer
        self._rates_max = rates  # as configured; the service may say that a shard takes less
        self._rates = rates
        self._order = order
        self._is_kind_split = is_kind_split
        self._orphans: deque[deque[Run]] = deque()
        self._auto_shards: frozenset[str] = frozenset()  # their ids; in the AUTO regime only
        self._seen = SeenShards()
        self.shard_map: ShardMap | None = None
        self.map_since_ns = now_ns
        self.map_count = 0  # maps so far: the number of the map that holds now
        self._told_ns = now_ns  # when the service last told the shards, changed or not
        self._quota_bytes_per_second: int | None = None  # of a shard, as the service tells it
        self._warm_bytes_per_second = 0  # of the whole stream; 0: none, or unknown
        self._first_share = rates.first_share  # of the lanes that exist now
        packer.replace_lanes([Lane(None, rates.budget(1, now_ns))])

    @property
    def shard_count(self) -> int:
        """Open shards as far as is known; 0 if nothing is known."""
        if self.shard_map is not None:
            return len(self.shard_map.shards)
        return len(self._auto_shards) or self._seen.count

    @property
    def shard_records_per_second(self) -> int:
        """The most records a second that this daemon sends to one shard."""
        return self._rates.records_per_second

    @property
    def shard_bytes_per_second(self) -> int:
        """The most bytes a second that this daemon sends to one shard: data + partition keys."""
        return self._rates.bytes_per_second

    @property
    def is_auto(self) -> bool:
        """Whether the service is known to spread the stream's records itself."""
        return bool(self._auto_shards)

    def route(self, frame: Frame, byte_count: int) -> list[Run]:
        """The runs of a frame, each with the lane where it must queue; nothing is queued yet.
        `byte_count`: data + partition keys of all records.
        """
        records = frame.records
        shard_map = self.shard_map
        if shard_map is None:
            return self._route_without_map(frame, byte_count)
        if len(records) == 1:
            run = self._run(frame, [0], byte_count, shard_map.index_of(records[0]), 0)
            if shard_map.has_unnamed:
                self._packer.names.is_used = True
            return [run]
        groups = shard_map.group(records)
        if shard_map.has_unnamed:
            self._packer.names.is_used = True
        if len(groups) == 1:
            shard, group = groups.popitem()
            runs = [self._run(frame, group, byte_count, shard, 0)]
        else:
            lanes, sizes = self._packer.lanes, frame.sizes
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

    def route_whole(self, frame: Frame) -> WholeFrame | None:
        """The frame as one that goes whole; None: the caller queues it by shard. Nothing is queued
        yet.
        """
        shard_map, packer = self.shard_map, self._packer
        if shard_map is None or self._order is not None or not packer.may_go_whole(frame):
            return None
        groups = shard_map.group(frame.records)
        if ANY_SHARD in groups or shard_map.has_unnamed:
            return None
        lanes = packer.lanes
        return WholeFrame(frame, [lanes[shard] for shard in groups], list(groups.values()))

    def _route_without_map(self, frame: Frame, byte_count: int) -> list[Run]:
        """All records to the one lane; those without any key as a run of their own."""
        lane = self._packer.lanes[0]
        records = frame.records
        unnamed = [index for index, record in enumerate(records) if not record.partition_key]
        if not unnamed:
            return [Run(frame, list(range(len(records))), byte_count, lane)]
        self._packer.names.is_used = True
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

    def queue(self, runs: list[Run], now_ns: int) -> None:
        """Queues runs on their lanes, except records whose turn has not come."""
        if self._order is not None:
            keyed = [run for run in runs if not run.is_keyless]
            keyless = [run for run in runs if run.is_keyless]
            shard_map = self.shard_map
            has_explicit = shard_map is not None and shard_map.has_explicit
            if keyed:
                keyed = self._order.enter(keyed, has_explicit=has_explicit)
            runs = keyless + keyed
        self._packer.push_all(runs, now_ns)

    @property
    def has_orphans(self) -> bool:
        """Runs whose lanes are gone wait for a place by the map that holds now."""
        return bool(self._orphans)

    def route_orphans(self, now_ns: int) -> list[Run]:
        """Gives a slice of the orphans their place, in order. Runs of abandoned frames are dropped,
        and returned.
        """
        pieces = 0
        abandoned: list[Run] = []
        while self._orphans and pieces < ROUTED_A_SLICE:
            queue = self._orphans[0]
            while queue and pieces < ROUTED_A_SLICE:
                run = queue.popleft()
                pieces += len(run.indices) + RUN_PIECES
                if run.frame.is_abandoned:
                    abandoned.append(run)
                else:
                    self.queue_again(run, now_ns)
            if not queue:
                self._orphans.popleft()
        return abandoned

    def queue_again(self, run: Run, now_ns: int) -> None:
        """Queues a run whose lane may be retired, by the map that holds now."""
        self._packer.push_all(self._route_again(run), now_ns)

    def _route_again(self, run: Run) -> list[Run]:
        frame = run.frame
        sizes = frame.sizes
        attempts = run.attempt_count
        lanes = self._packer.lanes
        if self.shard_map is None:
            is_keyless = run.is_keyless
            return [
                Run(frame, run.indices, run.byte_count, lanes[0], attempts, is_keyless=is_keyless)
            ]
        if run.is_keyless:
            return [self._run(frame, run.indices, run.byte_count, ANY_SHARD, attempts)]
        runs: list[Run] = []
        groups = self.shard_map.group([frame.records[index] for index in run.indices])
        for shard, positions in groups.items():
            group = [run.indices[position] for position in positions]
            group_bytes = sum([sizes[index] for index in group])
            runs.append(self._run(frame, group, group_bytes, shard, attempts))
        return [part for each in runs for part in _kinds(each)] if self._is_kind_split else runs

    def _run(
        self, frame: Frame, indices: list[int], byte_count: int, shard: int, attempt_count: int
    ) -> Run:
        if shard == ANY_SHARD:
            lane = self._packer.keyless_lane
            self._packer.names.is_used = True
            return Run(frame, indices, byte_count, lane, attempt_count, is_keyless=True)
        return Run(frame, indices, byte_count, self._packer.lanes[shard], attempt_count)

    def remap(self, description: StreamDescription, now_ns: int) -> Steps[bool]:
        """Takes the description of the shards; True if it changed the lanes. If the shards are
        unknown (None), the map stays. In steps, for there may be thousands of shards; the lanes are
        replaced in one of the steps.
        """
        if description.capacity is not None:
            self._warm_bytes_per_second = description.capacity.warm_bytes_per_second or 0
        if description.shard_bytes_per_second is not None:
            yield from self._take_quota(description.shard_bytes_per_second, now_ns)
        is_changed = yield from self._take_shards(description, now_ns)
        first_share = self._rates.first_share_of(
            self._warm_bytes_per_second, max(1, self.shard_count)
        )
        before = self._rates.first_share if is_changed else self._first_share
        self._first_share = first_share
        if first_share > before:
            yield from self._begin_lanes_at(first_share, now_ns)
        return is_changed

    def set_rates(self, rates: ShardRates, now_ns: int) -> Steps[None]:
        """Takes other configured rates: new lanes have them at once, and existing lanes get them in
        steps.
        """
        quota = self._quota_bytes_per_second
        self._rates_max = rates
        self._rates = rates if quota is None else rates.within(quota)
        yield from self._apply_rates(now_ns)
        self._packer.wait_anew(self._packer.keyless_lane, now_ns)

    def _take_quota(self, quota_bytes_per_second: int, now_ns: int) -> Steps[None]:
        self._quota_bytes_per_second = quota_bytes_per_second
        rates = self._rates_max.within(quota_bytes_per_second)
        if rates == self._rates:
            return
        self._rates = rates
        yield from self._apply_rates(now_ns)

    def _apply_rates(self, now_ns: int) -> Steps[None]:
        for number, lane in enumerate(tuple(self._packer.lanes), 1):
            shard_count = 1 if lane.shard_id is not None else max(1, self.shard_count)
            self._rates.apply(lane.budget, shard_count, now_ns)
            self._packer.wait_anew(lane, now_ns)
            if not number % LANES_A_STEP:
                yield

    def _begin_lanes_at(self, share: float, now_ns: int) -> Steps[None]:
        """Raises the share of the lanes that know nothing of their shards yet."""
        for number, lane in enumerate(tuple(self._packer.lanes), 1):
            lane.budget.begin_at(share, now_ns)
            if not number % LANES_A_STEP:
                yield

    def _take_shards(self, description: StreamDescription, now_ns: int) -> Steps[bool]:
        shards = description.shards
        if shards is None:
            return False
        self._trust(now_ns)
        if description.is_auto:
            names = frozenset(shard.shard_id for shard in shards)
            if self._auto_shards == names:
                return False
            lanes = [self._lane_of_all(len(shards), now_ns)]
            self.shard_map = None
            self._auto_shards = names
        else:
            if self.shard_map is not None and set(self.shard_map.shards) == set(shards):
                return False
            before = self._packer.lanes
            yield
            shard_map, lanes = yield from self._mapped_lanes(shards, now_ns)
            yield
            if self._packer.lanes is not before:  # `forget` replaced the lanes meanwhile
                return (yield from self._take_shards(description, now_ns))
            self.shard_map = shard_map
            self._auto_shards = frozenset()
        self._replace_lanes(lanes, now_ns)
        return True

    def _trust(self, now_ns: int) -> None:
        """The service told the shards: a lane of which no record landed elsewhere since they were
        told before is trusted again. (A lane whose records always land elsewhere, on an AUTO stream
        whose description does not say so, is not.)
        """
        for lane in self._packer.lanes:
            if lane.doubted_ns is not None and lane.doubted_ns < self._told_ns:
                lane.doubted_ns = None
        self._told_ns = now_ns

    def forget(self, now_ns: int) -> None:
        """The stream is missing. If somebody makes it anew, its shards may have the names of the
        old ones and other ranges, and records that land there would look as predicted.
        """
        self.shard_map = None
        self._auto_shards = frozenset()
        self._warm_bytes_per_second, self._first_share = 0, self._rates.first_share
        self._quota_bytes_per_second = None
        self._rates = self._rates_max
        self._replace_lanes([self._lane_of_all(1, now_ns)], now_ns)

    def _replace_lanes(self, lanes: list[Lane], now_ns: int) -> None:
        self.map_since_ns = now_ns
        self.map_count += 1
        self._packer.part_frames(now_ns)
        self._orphans += self._packer.replace_lanes(lanes)
        if self.shard_map is None:
            self._orphans.append(self._packer.take_keyless())

    def _lane_of_all(self, shard_count: int, now_ns: int) -> Lane:
        first = self._packer.lanes[0]
        if first.shard_id is None:
            self._rates.apply(first.budget, shard_count, now_ns)
            return first
        lane = Lane(None, self._rates.budget(shard_count, now_ns))
        lane.budget.inherit(first.budget, now_ns)
        return lane

    def _mapped_lanes(
        self, shards: tuple[OpenShard, ...], now_ns: int
    ) -> Steps[tuple[ShardMap, list[Lane]]]:
        """The map, and a lane for each shard; old lanes where nothing changed.

        A new shard begins with the share of the shard that had its place in the old map.
        """
        before, old_lanes = self.shard_map, self._packer.lanes
        known = {} if before is None else {shard.shard_id: shard for shard in before.shards}
        lane_of = {lane.shard_id: lane for lane in old_lanes}
        after = ShardMap(shards)
        lanes: list[Lane] = []
        for shard, hash_key in zip(after.shards, after.hash_keys, strict=True):
            if len(lanes) % LANES_A_STEP == LANES_A_STEP - 1:
                yield
            lane = lane_of.get(shard.shard_id)
            if lane is None:
                lane = Lane(shard.shard_id, self._rates.budget(1, now_ns), hash_key)
                if before is not None:
                    parent = old_lanes[before.index_of_hash_key(shard.first_hash_key)]
                    lane.budget.inherit(parent.budget, now_ns)
            elif known[shard.shard_id] != shard:  # another range: the lane's queue is routed anew
                lane = Lane(shard.shard_id, lane.budget, hash_key)
            lanes.append(lane)
        if None in lane_of:
            # Records sent without a prediction may all have gone to one shard, whichever it was.
            spent = lane_of[None].budget
            spent.refill(now_ns)
            for lane in lanes:
                lane.budget.take_over(spent)
        return after, lanes

    def learn(self, lane: Lane, answers: list[RecordResult], now_ns: int) -> bool:
        """Where no shard is predicted, answers tell how many shards there are. True if they name a
        shard that an AUTO stream did not have at its last description.
        """
        if self._auto_shards:
            return any(
                result.is_delivered and result.shard_id not in self._auto_shards
                for result in answers
            )
        if self._seen.see(answers, now_ns):
            self._rates.apply(lane.budget, max(1, self._seen.count), now_ns)
        return False


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

"""Where a frame's records queue: on the lane of their shard, or on one lane for the whole stream.

Three regimes. With a map: one lane a shard. AUTO (the service itself spreads records): one lane,
paced for all shards. Unknown (nobody may ask, or nobody has answered yet): one lane, paced for as
many shards as answers have named, at least one; the limiter is never off. A new map replaces the
old in one call, and what was queued for shards that are gone is routed again.
"""

from kdaemon.base.description import StreamDescription
from kdaemon.base.frame import Frame
from kdaemon.base.record import RecordResult
from kdaemon.pace.bucket import ShardBudget
from kdaemon.pack.lane import Lane, Run
from kdaemon.pack.packer import Packer
from kdaemon.route.seen import SeenShards
from kdaemon.route.shard_map import ShardMap, spread_without_map


class Dispatcher:
    """Owns the shard map and decides the packer's lanes."""

    def __init__(
        self, packer: Packer, records_per_second: int, bytes_per_second: int, now_ns: int
    ) -> None:
        """Rates are what one shard may take from this daemon."""
        self._packer = packer
        self._records_per_second = records_per_second
        self._bytes_per_second = bytes_per_second
        self._auto_shard_count = 0  # more than 0 in the AUTO regime, and only there
        self._seen = SeenShards()
        self._spread_count = 0
        self.shard_map: ShardMap | None = None
        self.map_since_ns = now_ns
        packer.replace_lanes([Lane(None, self._budget(1, now_ns))])

    @property
    def shard_count(self) -> int:
        """Open shards as far as known; 0 if nothing is known."""
        if self.shard_map is not None:
            return len(self.shard_map.shards)
        return self._auto_shard_count or self._seen.count

    def dispatch(self, frame: Frame, byte_count: int, now_ns: int) -> None:
        """Queues all records of a frame. `byte_count`: data + partition keys of all of them."""
        packer = self._packer
        lanes = packer.lanes
        shard_map = self.shard_map
        if shard_map is None:
            self._spread_count = spread_without_map(frame.records, self._spread_count)
            run = Run(frame, list(range(len(frame.records))), byte_count, lanes[0])
            packer.push(run, now_ns)
            return
        if len(frame.records) == 1:
            shard = shard_map.index_of(frame.records[0])
            packer.push(Run(frame, [0], byte_count, lanes[shard]), now_ns)
            return
        groups = shard_map.group(frame.records)
        if len(groups) == 1:
            shard, group = groups.popitem()
            packer.push(Run(frame, group, byte_count, lanes[shard]), now_ns)
            return
        sizes = frame.sizes
        for shard, group in groups.items():
            group_bytes = sum([sizes[index] for index in group])
            packer.push(Run(frame, group, group_bytes, lanes[shard]), now_ns)

    def dispatch_again(self, run: Run, now_ns: int) -> None:
        """Queues a run whose lane is retired, by the map as it is now."""
        frame = run.frame
        sizes = frame.sizes
        lanes = self._packer.lanes
        groups: dict[int, list[int]] = {0: list(range(len(run.indices)))}
        if self.shard_map is not None:
            groups = self.shard_map.group([frame.records[index] for index in run.indices])
        for shard, positions in groups.items():
            group = [run.indices[position] for position in positions]
            group_bytes = sum([sizes[index] for index in group])
            self._packer.push(
                Run(frame, group, group_bytes, lanes[shard], run.attempt_count), now_ns
            )

    def remap(self, description: StreamDescription, now_ns: int) -> bool:
        """Takes what is told of the shards; true if it changed the lanes. Unknown shards (None)
        leave the map as it is.
        """
        shards = description.shards
        if shards is None:
            return False
        known = {shard.shard_id: shard for shard in self.shard_map.shards} if self.shard_map else {}
        if description.is_auto:
            is_known = self._auto_shard_count == len(shards)
        else:
            is_known = set(known.values()) == set(shards)
        if is_known:
            return False
        lane_of = {lane.shard_id: lane for lane in self._packer.lanes}
        self.map_since_ns = now_ns
        lanes: list[Lane] = []
        if description.is_auto:
            self.shard_map = None
            self._auto_shard_count = len(shards)
            lanes = [lane_of.get(None) or Lane(None, self._budget(len(shards), now_ns))]
            self._rate(lanes[0], len(shards), now_ns)
        else:
            self.shard_map = ShardMap(shards)
            self._auto_shard_count = 0
            for shard in self.shard_map.shards:
                lane = lane_of.get(shard.shard_id)
                if lane is None:
                    lane = Lane(shard.shard_id, self._budget(1, now_ns))
                elif known[shard.shard_id] != shard:
                    lane = Lane(shard.shard_id, lane.budget)  # another range: route its queue anew
                lanes.append(lane)
            if None in lane_of:
                # What nobody predicted may all have gone to one shard, whichever it was.
                spent = lane_of[None].budget
                spent.refill(now_ns)
                for lane in lanes:
                    lane.budget.take_over(spent)
        for run in self._packer.replace_lanes(lanes):
            self.dispatch_again(run, now_ns)
        return True

    def learn(self, lane: Lane, answers: list[RecordResult], now_ns: int) -> None:
        """Where nothing is predicted, answers tell how many shards there are."""
        if not self._auto_shard_count and self._seen.see(answers, now_ns):
            self._rate(lane, max(1, self._seen.count), now_ns)

    def _budget(self, shard_count: int, now_ns: int) -> ShardBudget:
        return ShardBudget(
            self._records_per_second * shard_count, self._bytes_per_second * shard_count, now_ns
        )

    def _rate(self, lane: Lane, shard_count: int, now_ns: int) -> None:
        lane.budget.set_rates(
            self._records_per_second * shard_count, self._bytes_per_second * shard_count, now_ns
        )

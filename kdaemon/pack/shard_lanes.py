"""The lanes of one stream: one a shard as far as the shards are known, and what each may send.

There are three regimes. With a map: one lane a shard. AUTO (the service itself spreads records):
one lane, paced for all shards. Unknown (kdaemon may not ask for the shards, or has no answer yet):
one lane, paced for as many shards as answers have named, at least one; the limiter is never off.
A new map replaces the old one in one call. The queues of shards that are gone are `orphans`. Pure;
routes nothing.
Invariant: the packer's lanes are those of `shard_map`, in its order; without a map there is one.
Where it sits: the engine brings descriptions, settlement brings answers that name shards; the
packer has the lanes, and `queues.py` routes by the map.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kdaemon.base.description import OpenShard, StreamDescription
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.record import RecordResult
from kdaemon.base.steps import Steps
from kdaemon.pace.adaptive import warm_first_share
from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.lane import Lane
from kdaemon.pack.packer import Packer
from kdaemon.pack.run import Run
from kdaemon.route.seen import SeenShards
from kdaemon.route.shard_map import ShardMap

LANES_A_STEP = 250  # lanes that a new map makes in one step: 1 to 1.5 ms; ours, 2026-11-28


@dataclass(frozen=True, slots=True)
class ShardRates:
    """What this daemon may send to one shard, a second, and the parts of it that a lane begins
    with.
    """

    records_per_second: int
    bytes_per_second: int
    first_share: float
    first_bytes_share: float | None

    @classmethod
    def of(cls, settings: EngineSettings) -> "ShardRates":
        """The rates that are configured."""
        return cls(
            settings.shard_records_per_second,
            settings.shard_bytes_per_second,
            settings.first_share,
            settings.first_bytes_share,
        )

    def budget(self, shard_count: int, now_ns: int) -> ShardBudget:
        """A new budget for `shard_count` shards together."""
        return ShardBudget(
            self.records_per_second * shard_count,
            self.bytes_per_second * shard_count,
            now_ns,
            self.first_share,
            self.first_bytes_share,
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


class ShardLanes:
    """Owns the shard map, and decides the packer's lanes and their rates. `orphans`: the queues of
    lanes that are gone, in order; whoever routes their runs takes them out.
    """

    def __init__(self, packer: Packer, settings: EngineSettings, now_ns: int) -> None:
        rates = ShardRates.of(settings)
        self._packer = packer
        self._rates_max = rates  # as configured; the service may say that a shard takes less
        self._rates = rates
        self._linger_ns = settings.linger_ns
        self.orphans: deque[deque[Run]] = deque()
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

    def found(self, shard_ids: Iterable[str | None]) -> dict[Lane, OpenShard]:
        """The lanes and ranges of those of these shards that the map has, in the same order."""
        if self.shard_map is None:
            return {}
        known = {
            shard.shard_id: (lane, shard)
            for lane, shard in zip(self._packer.lanes, self.shard_map.shards, strict=True)
        }
        return dict(known[shard_id] for shard_id in shard_ids if shard_id in known)

    @property
    def is_auto(self) -> bool:
        """Whether the service is known to spread the stream's records itself."""
        return bool(self._auto_shards)

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

    def take_settings(self, settings: EngineSettings, now_ns: int) -> Steps[None]:
        """Takes other configured rates: new lanes have them at once, and existing lanes get them in
        steps, as they get another linger.
        """
        rates, quota = ShardRates.of(settings), self._quota_bytes_per_second
        if (rates, settings.linger_ns) == (self._rates_max, self._linger_ns):
            return
        self._linger_ns = settings.linger_ns
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
        self.orphans += self._packer.replace_lanes(lanes)
        if self.shard_map is None:
            self.orphans.append(self._packer.take_keyless())

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

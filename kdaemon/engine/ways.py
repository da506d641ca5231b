"""Where the records of a stored frame go, and which shards' queues take no more from the disk.

Records for a full queue are left on disk (`spool/left.py`), and only those. Part of the engine;
pure. Knows lanes, and how much the disk gave them; nothing of frames on disk.
Where it sits: an engine has one, which the spool's delivery asks before it hands a frame over, and
before it reads on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from kdaemon.base.admission import footprint_bytes
from kdaemon.base.counting import StreamCounters
from kdaemon.base.frame import Frame
from kdaemon.pace.bucket import NS_PER_SECOND
from kdaemon.pace.flow import Flow, FlowState
from kdaemon.pack.lane import Lane
from kdaemon.pack.queues import Queues
from kdaemon.pack.run import Run
from kdaemon.route.shard_map import ShardMap
from kdaemon.settle.ledger import FrameLedger

# An attribute of an Enum costs four times a global, and this is read for each stored frame.
_OPEN: Final[FlowState] = FlowState.OPEN

FULL_NS = 2_200_000_000
"""2.2 s of the shard's pace: the disk gives a shard no more than that. Ours, 2026-11-28: with
LOW_NS, each reading for a hot shard brings it a second of its pace."""

LOW_NS = 1_200_000_000
"""1.2 s of the shard's pace: a shard for which less is waiting is read for. Ours, 2026-11-28: a
read and its hand-over take some 20 ms, behind a commit on a slow disk 100 ms more. A shard for
which records are left on disk is more than `heat.BACKLOGGED_NS` behind."""

CLOSED_LOOK_NS = 200_000_000
"""0.2 s: in an outage nothing is read; the end of the outage is seen this soon. Ours,
2026-11-28."""

MEMORY_LOOK_NS = 50_000_000  # 50 ms: by then a shard that fills a small memory has less; ours

PARTS_FOR_ONE = 4
"""Where memory is small: a shard is also full if the disk gave it more than the memory divided by
this, and more than is free. Ours, 2026-11-28."""

Queued = Mapping[str, tuple[int, int]]
"""For each shard: the records and bytes that the disk gave it and that are not settled."""


@dataclass(frozen=True, slots=True)
class Way:
    """Records of a stored frame that go one way. `lane`: their shard; None: any. `order`: records
    with the same `order` must be handed over in the order in which they came. `is_full`: the
    shard's queue takes no more from the disk.
    """

    order: str | None
    lane: str | None
    indices: list[int]
    byte_count: int
    is_full: bool


class Ways:
    """Where the records of one stream would go. Nothing is queued by asking."""

    def __init__(
        self, queues: Queues, ledger: FrameLedger, flow: Flow, counters: StreamCounters
    ) -> None:
        self._queues = queues
        self._packer = queues.packer
        self._shards = queues.shards
        self._ledger = ledger
        self._flow = flow
        self._counters = counters

    @property
    def map_count(self) -> int:
        """The number of the map by which the ways are told: with another number they are others."""
        return self._shards.map_count

    def is_crowded(self, free_bytes: int) -> bool:
        """Whether the caller must ask `of` for each stored frame: a shard may be full, or nothing
        goes out now. Looks at all shards. `free_bytes`: the memory that the disk may still fill.
        """
        lanes = self._packer.lanes
        if len(lanes) == 1:
            return False
        return self._is_closed or self._look({}, free_bytes).has_full(lanes)

    def of(self, frame: Frame, queued: Queued, free_bytes: int) -> list[Way] | None:
        """Where the records of a stored frame would go, and which of these ways are full. None:
        only a probe goes out now, the engine has records for one, and the frame is safe on disk.
        """
        has_shards = len(self._packer.lanes) > 1
        if has_shards and self._is_closed:
            return None
        runs = self._queues.plan(frame, frame.byte_count)
        return self._look(queued, free_bytes).of(runs, may_be_full=has_shards)

    def low_shards(self, queued: Queued, free_bytes: int) -> tuple[set[str | None], int] | None:
        """The shards for which more must be read from disk; if there is none, the nanoseconds after
        which to ask again. None: all shards take whatever comes.
        """
        lanes = self._packer.lanes
        if len(lanes) == 1:
            return None
        if self._is_closed:
            return set(), CLOSED_LOOK_NS
        return self._look(queued, free_bytes).low(lanes)

    @property
    def _is_closed(self) -> bool:
        """Only a probe may go out now, and the engine has records for a probe."""
        has_any = self._counters.buffered or self._counters.in_flight
        return self._flow.state is not _OPEN and bool(has_any)

    def _look(self, queued: Queued, free_bytes: int) -> "_Look":
        key_map = self._shards.shard_map if self._queues.order.is_kept else None
        all_bytes = self._ledger.footprint_bytes + free_bytes
        return _Look(queued, free_bytes, all_bytes, self._packer.aggregate_bytes_max, key_map)


@dataclass(slots=True)
class _Look:
    """One look at the lanes. `queued`: as `Queued`. `free_bytes`: the memory that the disk may
    still fill; `all_bytes`: with what the stream holds now. `key_map`: the map, where order per key
    is kept.
    """

    queued: Queued
    free_bytes: int
    all_bytes: int
    aggregate_bytes_max: int
    key_map: ShardMap | None

    def of(self, runs: Iterable[Run], *, may_be_full: bool) -> list[Way]:
        """The ways of these runs. `may_be_full`: False: all lanes take whatever comes."""
        ways: list[Way] = []
        for run in runs:
            lane = run.lane
            shard_id = lane.shard_id
            is_full = may_be_full and shard_id is not None and self._is_full(lane, shard_id)
            for order, indices in self._orders(run):
                ways.append(Way(order, shard_id, indices, _bytes_of(run, indices), is_full))
        return ways

    def has_full(self, lanes: Iterable[Lane]) -> bool:
        """Whether a shard may be full, whatever brought its backlog."""
        return any(
            self._wait_ns(lane, lane.backlog_records, lane.backlog_bytes) > FULL_NS
            or self._is_much(footprint_bytes(lane.backlog_records, lane.backlog_bytes))
            for lane in lanes
        )

    def low(self, lanes: Iterable[Lane]) -> tuple[set[str | None], int]:
        """The shards that must be read for, and the nanoseconds until the next shard must be read
        for.
        """
        low: set[str | None] = set()
        soonest_ns = FULL_NS
        for lane in lanes:
            wait_ns = self._wait_ns(lane, lane.backlog_records, lane.backlog_bytes)
            if wait_ns >= LOW_NS and lane.shard_id is not None:
                # Clients that wait for delivery may fill a queue for ever: the disk has a part too.
                wait_ns = min(wait_ns, self._wait_ns(lane, *self.queued.get(lane.shard_id, _NONE)))
            if wait_ns >= LOW_NS:
                soonest_ns = min(soonest_ns, wait_ns - LOW_NS)
            elif lane.shard_id is not None and self._has_much(lane.shard_id):
                soonest_ns = min(soonest_ns, MEMORY_LOOK_NS)
            else:
                low.add(lane.shard_id)
        return low, soonest_ns

    def _is_full(self, lane: Lane, shard_id: str) -> bool:
        records, byte_count = self.queued.get(shard_id, _NONE)
        if self._wait_ns(lane, records, byte_count) > FULL_NS:
            return self._wait_ns(lane, lane.backlog_records, lane.backlog_bytes) > FULL_NS
        return self._has_much(shard_id)

    def _has_much(self, shard_id: str) -> bool:
        """Whether the shard has much of a small memory. Never for a shard that has nothing from the
        disk: its first records may go beyond the free memory (`room.py`).
        """
        if shard_id not in self.queued:
            return False
        return self._is_much(footprint_bytes(*self.queued[shard_id]))

    def _is_much(self, lane_bytes: int) -> bool:
        return lane_bytes > self.free_bytes and PARTS_FOR_ONE * lane_bytes > self.all_bytes

    def _wait_ns(self, lane: Lane, records: int, byte_count: int) -> int:
        """About how long the shard needs for these records and bytes. An aggregate costs the shard
        one record.
        """
        if self.aggregate_bytes_max:
            records = min(records, 1 + byte_count // self.aggregate_bytes_max)
        budget = lane.budget
        return max(
            records * NS_PER_SECOND // budget.records.rate,
            byte_count * NS_PER_SECOND // budget.bytes.rate,
        )

    def _orders(self, run: Run) -> Iterable[tuple[str | None, list[int]]]:
        """A key's records may go to several shards, by explicit hash keys. The order of the key is
        one, and belongs to the shard of the partition key.
        """
        records, key_map = run.frame.records, self.key_map
        if key_map is None or all(
            records[index].explicit_hash_key is None or not records[index].partition_key
            for index in run.indices
        ):
            return [(run.lane.shard_id, run.indices)]
        orders: dict[str | None, list[int]] = {}
        for index in run.indices:
            key = records[index].partition_key
            shard_id = run.lane.shard_id
            if key:
                shard_id = key_map.shards[key_map.index_of_key(key)].shard_id
            orders.setdefault(shard_id, []).append(index)
        return orders.items()


def _bytes_of(run: Run, indices: list[int]) -> int:
    sizes = run.frame.sizes
    return run.byte_count if indices is run.indices else sum([sizes[index] for index in indices])


_NONE = (0, 0)

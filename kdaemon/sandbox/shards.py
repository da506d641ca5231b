"""Streams and their shards: hash ranges, resharding, and the records that each shard holds.

Pure. Knows how keys map to shards, what splitting and merging does, and how sequence numbers look;
nothing of requests, errors on the wire or faults. It does not use the daemon's own `route/`, on
purpose: a test double that shared the daemon's routing code could not show an error in it.

Invariants: the open shards of a stream cover 0..2**128-1 exactly, without overlap. A closed shard
never grows. A shard's records are in the order of their arrival; a write that waited for quota
arrives when it gets the quota. Sequence numbers strictly increase in the order of writing (AWS:
over the whole service, so that a stream that is made again never repeats one; Yandex: an offset per
shard, from 0, without gaps).
"""

from bisect import bisect_left
from hashlib import md5
from heapq import heapify, heappop, heappush

import msgspec

from kdaemon.base.limits import HASH_KEY_MAX, RECORD_BYTES_MAX
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.service import AWS, YANDEX, Service
from kdaemon.sandbox.consumer import Consumer
from kdaemon.sandbox.quota import Limiter, TokenBuckets, make_limiter
from kdaemon.sandbox.settings import LimiterKind, Quota

# Bytes that Python holds for one stored record beside its data and key: 92 for StoredRecord, its
# number and a list slot (RSS over 200,000 records), 48 for Record, headers of a bytes and a str
# (33, 49), 10 for rounding up by the allocator. CPython 3.11, 2026-11-21.
STORED_OVERHEAD_BYTES = 92 + 48 + 33 + 49 + 10

# AWS: "4965", 40 digits that count writes, 12 digits of the shard: 56 in all, as in real ones.
_AWS_SEQUENCE_PREFIX = "4965"
_AWS_COUNTER_DIGITS = 40


def hash_key_of(partition_key: bytes) -> int:
    """MD5 of the UTF-8 key, read as a big-endian 128-bit number."""
    return int.from_bytes(md5(partition_key, usedforsecurity=False).digest(), "big")


class Sequencer:
    """A counter of writes: `next` is the number of the next write."""

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = 0


class StoredRecord(msgspec.Struct, gc=False):
    """One stored record. `sequence`: the counter, not the text that a client sees. Before
    `arrival_ns` no client can read the record: it waits for quota.
    """

    sequence: int
    arrival_ns: int
    record: Record

    @property
    def retained_bytes(self) -> int:
        """About how many bytes Python holds for it."""
        key_bytes = len(self.record.partition_key.encode())
        return len(self.record.data) + key_bytes + STORED_OVERHEAD_BYTES


class Shard:
    """One shard: its range (both ends inclusive), its parents, its quota, its records in order.

    `closed_ns`: None while it is open. Only retention removes records from `log`, at its head.
    `granted_ns`: when the last stalled write gets its quota, perhaps in the future; the next one
    queues behind it.
    """

    __slots__ = (
        "closed_ns",
        "ending_hash_key",
        "ending_sequence",
        "granted_ns",
        "index",
        "limiter",
        "log",
        "opened_ns",
        "parents",
        "sequencer",
        "shard_id",
        "starting_hash_key",
        "starting_sequence",
        "template",
        "throttled_count",
        "written_count",
    )

    def __init__(
        self,
        service: Service,
        index: int,
        hash_range: tuple[int, int],
        parents: tuple["Shard", ...],
        sequencer: Sequencer,
        limiter: Limiter,
        now_ns: int,
    ) -> None:
        self.index = index
        self.starting_hash_key, self.ending_hash_key = hash_range
        self.parents = parents
        self.sequencer = sequencer
        self.limiter = limiter
        self.opened_ns = now_ns
        self.closed_ns: int | None = None
        self.granted_ns = now_ns
        self.log: list[StoredRecord] = []
        self.written_count = 0
        self.throttled_count = 0
        if service is YANDEX:
            self.shard_id = f"shard-{index:06d}"
            self.template = "%d"
            self.starting_sequence = 0
        else:
            self.shard_id = f"shardId-{index:012d}"
            self.template = f"{_AWS_SEQUENCE_PREFIX}%0{_AWS_COUNTER_DIGITS}d{index:012d}"
            self.starting_sequence = sequencer.next
            sequencer.next += 1
        self.ending_sequence: int | None = None

    @property
    def is_open(self) -> bool:
        return self.closed_ns is None

    def append(self, record: Record, now_ns: int) -> RecordResult:
        """Stores a record; returns the result for the client. Does not check the quota."""
        sequencer = self.sequencer
        sequence = sequencer.next
        sequencer.next = sequence + 1
        self.log.append(StoredRecord(sequence, now_ns, record))
        self.written_count += 1
        return RecordResult(self.template % sequence, self.shard_id)

    def sequence_of(self, text: str) -> int | None:
        """The counter in a sequence number of this shard; None: this shard cannot have given it."""
        prefix, _, suffix = self.template.partition("%")
        suffix = suffix[suffix.index("d") + 1 :]
        digits = text[len(prefix) : len(text) - len(suffix)]
        if not digits.isascii() or not digits.isdigit() or len(text) > 128:
            return None
        sequence = int(digits)
        return sequence if self.template % sequence == text else None

    def position_of(self, sequence: int) -> int:
        """Index in `log` of the first record whose counter is at least `sequence`."""
        return bisect_left(self.log, sequence, key=lambda stored: stored.sequence)

    def position_at_ns(self, at_ns: int) -> int:
        """Index in `log` of the first record that arrived at `at_ns` or later."""
        return bisect_left(self.log, at_ns, key=lambda stored: stored.arrival_ns)

    def close(self, now_ns: int) -> None:
        assert self.is_open, f"{self.shard_id} is closed already"
        self.closed_ns = now_ns
        self.ending_sequence = self.sequencer.next
        self.sequencer.next += 1


class Stream:
    """A stream and all the shards it ever had; `shards[i].index == i`.

    `is_auto` (AWS, RecordDistributionStrategy AUTO; only with `is_on_demand`): keys are ignored,
    and records are spread over the open shards. It may be set at any time: the next call heeds it.
    `can_split` (Yandex, auto-partitioning): a split closes the shard; the shards of a static stream
    stay open and change their ranges. `record_bytes_max` may also be set at any time.
    `warm_mib_per_second` (AWS, on demand): None: no client has set it.
    """

    def __init__(
        self,
        name: str,
        shard_count: int,
        *,
        service: Service,
        quota: Quota,
        limiter_kind: LimiterKind,
        sequencer: Sequencer,
        now_ns: int,
        record_bytes_max: int = RECORD_BYTES_MAX,
        request_units: TokenBuckets | None = None,
        is_on_demand: bool = False,
        is_auto: bool = False,
        can_split: bool = False,
    ) -> None:
        self.name = name
        self.service = service
        self.quota = quota
        self.created_ns = now_ns
        self.record_bytes_max = record_bytes_max
        self.request_units = request_units
        self.is_on_demand = is_on_demand
        self.is_auto = is_auto
        self.warm_mib_per_second: int | None = None
        self.tags: dict[str, str] = {}
        self.consumers: dict[str, Consumer] = {}
        self.can_split = can_split or service is AWS
        self.next_turn = 0  # AUTO: counts records, so that they are spread
        self.shards: list[Shard] = []
        self._limiter_kind = limiter_kind
        self._sequencer = sequencer
        for hash_range in uniform_ranges(shard_count, service):
            self._open(hash_range, (), now_ns)
        self._reindex()

    def shard_of(self, hash_key: int) -> Shard:
        """The open shard whose range holds the hash key."""
        return self._open_shards[bisect_left(self._open_ends, hash_key)]

    @property
    def open_shards(self) -> list[Shard]:
        """The open shards, in the order of their hash ranges."""
        return self._open_shards

    def find(self, shard_id: str) -> Shard | None:
        """The shard with this id, open or closed; None: there never was one."""
        digits = shard_id.rpartition("-")[2]
        if not digits.isascii() or not digits.isdigit() or int(digits[-12:]) >= len(self.shards):
            return None
        shard = self.shards[int(digits[-12:])]
        return shard if shard.shard_id == shard_id else None

    def children_of(self, parent: Shard) -> list[Shard]:
        return [shard for shard in self.shards if parent in shard.parents]

    def changed(self) -> None:
        """Tells all consumers that there are more records, or other shards."""
        for consumer in self.consumers.values():
            consumer.changed()

    def set_quota(self, quota: Quota, now_ns: int) -> None:
        """Sets the quota at once, for present and later shards; none of it is spent yet."""
        self.quota = quota
        for shard in self.shards:
            shard.limiter = make_limiter(self._limiter_kind, quota, now_ns)

    def split(self, shard: Shard, new_starting_hash_key: int, now_ns: int) -> None:
        """Closes a shard and opens two: below the new key, and from the new key on. Writes that
        wait for quota in the old shard stay there.
        """
        self._split(shard, new_starting_hash_key, now_ns)
        self._reindex()

    def halve_all(self, now_ns: int) -> None:
        """Splits every open shard in its middle."""
        for shard in self._open_shards:
            self._split(shard, (shard.starting_hash_key + shard.ending_hash_key + 1) // 2, now_ns)
        self._reindex()

    def _split(self, shard: Shard, new_starting_hash_key: int, now_ns: int) -> None:
        assert self.can_split, "a static stream of Yandex's has no splits"
        assert shard.starting_hash_key < new_starting_hash_key <= shard.ending_hash_key
        shard.close(now_ns)
        self._open((shard.starting_hash_key, new_starting_hash_key - 1), (shard,), now_ns)
        self._open((new_starting_hash_key, shard.ending_hash_key), (shard,), now_ns)

    def merge(self, lower: Shard, upper: Shard, now_ns: int) -> None:
        """Closes two neighbouring shards, and opens one for both ranges."""
        assert lower.ending_hash_key + 1 == upper.starting_hash_key
        lower.close(now_ns)
        upper.close(now_ns)
        self._open((lower.starting_hash_key, upper.ending_hash_key), (lower, upper), now_ns)
        self._reindex()

    def resize(self, target_count: int, now_ns: int) -> None:
        """Makes the open shards `target_count` equal ranges.

        AWS: by splits and merges, which leave short-lived shards in between. Yandex: present shards
        stay open with other ranges, so that keys map anew, and new shards join them; never fewer
        shards, and not for a stream that splits by itself.
        """
        ranges = uniform_ranges(target_count, self.service)
        if self.service is YANDEX:
            assert not self.can_split
            assert target_count >= len(self.shards)
            for shard, (start, end) in zip(self.shards, ranges, strict=False):
                shard.starting_hash_key, shard.ending_hash_key = start, end
            for hash_range in ranges[len(self.shards) :]:
                self._open(hash_range, (), now_ns)
            self._reindex()
            return
        for start, _ in ranges:
            shard = self.shard_of(start)
            if shard.starting_hash_key != start:
                self.split(shard, start, now_ns)
        for start, end in ranges:
            while (shard := self.shard_of(start)).ending_hash_key != end:
                self.merge(shard, self.shard_of(shard.ending_hash_key + 1), now_ns)

    def shards_added_by_resize(self, target_count: int) -> int:
        """An upper bound on the shards that `resize` opens, with those that it closes again."""
        return 3 * (target_count + len(self._open_shards))

    def told_range(self, shard: Shard) -> tuple[int, int]:
        """The range as the service tells it, both ends inclusive.

        For a Yandex stream with `can_split` the told range is one too high: DescribeStream gives
        (from, to], but writes go by [from, to). So the last hash key of a told range goes to the
        next shard [YS: `TDescribeStreamActor::ReplyAndDie`, `TBoundaryChooser`].
        """
        start, end = shard.starting_hash_key, shard.ending_hash_key
        if self.service is AWS or not self.can_split:
            return start, end
        return start + 1 if start else 0, min(end + 1, HASH_KEY_MAX)

    def _open(self, hash_range: tuple[int, int], parents: tuple[Shard, ...], now_ns: int) -> None:
        is_yandex = self.service is YANDEX
        self.shards.append(
            Shard(
                self.service,
                len(self.shards),
                hash_range,
                parents,
                Sequencer() if is_yandex else self._sequencer,
                make_limiter(self._limiter_kind, self.quota, now_ns),
                now_ns,
            )
        )

    def _reindex(self) -> None:
        self._open_shards = sorted(
            (shard for shard in self.shards if shard.is_open),
            key=lambda shard: shard.starting_hash_key,
        )
        self._open_ends = [shard.ending_hash_key for shard in self._open_shards]
        self.changed()


def uniform_ranges(shard_count: int, service: Service) -> list[tuple[int, int]]:
    """Equal hash ranges, both ends inclusive. The last one takes the rest of the division.

    AWS divides 2**128, Yandex 2**128 - 1: so with two shards AWS's first ends one higher.
    """
    width = (HASH_KEY_MAX if service is YANDEX else HASH_KEY_MAX + 1) // shard_count
    starts = [index * width for index in range(shard_count)]
    return list(
        zip(starts, [start - 1 for start in starts[1:]] + [HASH_KEY_MAX], strict=True),
    )


def trim_oldest(streams: list[Stream], bytes_to_free: int) -> int:
    """Drops the oldest records of all streams until `bytes_to_free` are free; returns the bytes."""
    shards = [shard for stream in streams for shard in stream.shards if shard.log]
    heads = [(shard.log[0].arrival_ns, order, 0) for order, shard in enumerate(shards)]
    heapify(heads)
    trimmed = [0] * len(shards)
    freed_bytes = 0
    while heads and freed_bytes < bytes_to_free:
        _, order, position = heappop(heads)
        log = shards[order].log
        freed_bytes += log[position].retained_bytes
        trimmed[order] = position + 1
        if position + 1 < len(log):
            heappush(heads, (log[position + 1].arrival_ns, order, position + 1))
    for shard, count in zip(shards, trimmed, strict=True):
        del shard.log[:count]
    return freed_bytes

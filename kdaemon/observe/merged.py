"""Merges the snapshots of several workers into one, for the pages of their supervisor.

About: how each value of a snapshot goes together with the same value of another worker. Counts and
waiting records are added. A bound of each becomes a bound of all together. Of times the worst is
taken. Of texts the first one that says something is taken, since one worker that needs somebody is
enough. A stream, a shard, an upstream and a listener are one each, whichever worker has them. Pure:
values in, a value out.
Invariants: in each sum, received = rejected + delivered + dead + buffered + in flight holds as in
its parts; everything of a worker is merged, only its number is lost.
Cost (one core, 2026-11-28): a stream of two workers with five shards 60 us; a step is a stream.
Flow: snapshot.py of each worker -> daemon/pages.py -> here -> status.py, live_event.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from kdaemon.base.billing import Bill
from kdaemon.base.counters import Buckets, OperationCounts, StreamCounts
from kdaemon.base.failures import FailureSnapshot
from kdaemon.base.steps import Steps
from kdaemon.engine.health import Health
from kdaemon.engine.hot_keys import ShardLoad
from kdaemon.engine.snapshot import EngineSnapshot, ShardSnapshot, ShardsSnapshot
from kdaemon.http.counters import ListenerCounts
from kdaemon.observe.snapshot import (
    CertificatesSnapshot,
    LogSnapshot,
    MemorySnapshot,
    PrincipalsSnapshot,
    RelaySnapshot,
    Snapshot,
    SpoolSnapshot,
    StreamSnapshot,
    UpstreamSnapshot,
    WorkerSnapshot,
)

T = TypeVar("T")
K = TypeVar("K")

FAILURES_MAX = 8  # codes of a stream, as in `base/failures.py`; 2026-11-28
SAID_MAX = 16  # places of the log, as in `recent.py`; 2026-11-28


def merged(
    own: Snapshot, parts: Sequence[Snapshot], workers: tuple[WorkerSnapshot, ...]
) -> Steps[Snapshot]:
    """`own`: the snapshot of the supervisor, which has no streams. `parts`: those of the workers
    that answered.
    """
    streams = yield from _streams(parts)
    spools = [each.spool for each in parts if each.spool is not None]
    principals = [each.principals for each in parts if each.principals is not None]
    certificates = [each.certificates for each in (*parts, own) if each.certificates is not None]
    everybody = (own, *parts)
    return msgspec.structs.replace(
        own,
        heartbeat_age_ns=max(each.heartbeat_age_ns for each in everybody),
        memory=_memory([each.memory for each in parts]),
        loop_lag=_buckets([each.loop_lag for each in everybody]),
        door=_counts([each.door for each in everybody]),
        listeners=_by_key([each.listeners for each in everybody], _listener),
        upstreams=_upstreams(parts),
        spool=_spool(spools) if spools else None,
        log=_log([each.log for each in everybody if each.log is not None]),
        principals=_principals(principals) if principals else None,
        certificates=_certificates(certificates) if certificates else None,
        streams=streams,
        workers=workers,
    )


# What many have in common


def _first(values: Iterable[T | None]) -> T | None:
    return next((each for each in values if each is not None), None)


def _sum(values: Iterable[Mapping[K, Any]]) -> dict[K, Any]:
    sums: dict[K, Any] = {}
    for each in values:
        for key, number in each.items():
            sums[key] = sums.get(key, 0) + number
    return sums


def _by_key(tables: Iterable[Mapping[K, T]], together: Callable[[list[T]], T]) -> dict[K, T]:
    found: dict[K, list[T]] = {}
    for table in tables:
        for key, value in table.items():
            found.setdefault(key, []).append(value)
    return {
        key: values[0] if len(values) == 1 else together(values) for key, values in found.items()
    }


def _buckets(several: Sequence[Buckets]) -> Buckets:
    counts = tuple(map(sum, zip(*(each.counts for each in several), strict=True)))
    return Buckets(several[0].bounds, counts, sum(each.sum for each in several))


def _added(several: Sequence[T]) -> dict[str, Any]:
    """Sums of Structs whose fields are all counts, tables of counts or histograms."""
    sums: dict[str, Any] = {}
    for name in several[0].__struct_fields__:  # type: ignore[attr-defined]
        values = [getattr(each, name) for each in several]
        if isinstance(values[0], Buckets):
            sums[name] = _buckets(values)
        else:
            sums[name] = _sum(values) if isinstance(values[0], Mapping) else sum(values)
    return sums


def _counts(several: Sequence[StreamCounts]) -> StreamCounts:
    return StreamCounts(**_added(several))


def _listener(several: Sequence[ListenerCounts]) -> ListenerCounts:
    return ListenerCounts(**_added(several))


# The daemon


def _memory(several: Sequence[MemorySnapshot]) -> MemorySnapshot:
    return MemorySnapshot(
        sum(each.bytes_taken for each in several),
        sum(each.bytes_max for each in several),
        bool(several) and all(each.is_full for each in several),
    )


def _log(several: Sequence[LogSnapshot]) -> LogSnapshot:
    recent = sorted((said for each in several for said in each.recent), key=lambda s: s.age_ns)
    return LogSnapshot(
        sum(each.waiting for each in several),
        sum(each.lines_dropped for each in several),
        tuple(recent[:SAID_MAX]),
    )


def _principals(several: Sequence[PrincipalsSnapshot]) -> PrincipalsSnapshot:
    return PrincipalsSnapshot(
        min(each.key_count for each in several),
        max(each.reload_count for each in several),
        _first(each.problem for each in several),
    )


def _certificates(several: Sequence[CertificatesSnapshot]) -> CertificatesSnapshot:
    soonest = min(several, key=lambda each: each.expires_s)
    return msgspec.structs.replace(
        soonest,
        reloads=max(each.reloads for each in several),
        failures=max(each.failures for each in several),
        trouble=_first(each.trouble for each in several),
    )


def _spool(several: Sequence[SpoolSnapshot]) -> SpoolSnapshot:
    oldest = [each.oldest_ms for each in several if each.oldest_ms]
    return SpoolSnapshot(
        frame_count=sum(each.frame_count for each in several),
        held_records=sum(each.held_records for each in several),
        live_bytes=sum(each.live_bytes for each in several),
        file_bytes=sum(each.file_bytes for each in several),
        bytes_max=sum(each.bytes_max for each in several),
        oldest_ms=min(oldest, default=0),
        corrupt_rows=sum(each.corrupt_rows for each in several),
        trouble=_first(each.trouble for each in several),
        commit_failures=sum(each.commit_failures for each in several),
        restorations=sum(each.restorations for each in several),
        letters_dropped=sum(each.letters_dropped for each in several),
        commit_duration_ns=_buckets([each.commit_duration_ns for each in several]),
        commit_frames=_buckets([each.commit_frames for each in several]),
    )


def _upstreams(parts: Sequence[Snapshot]) -> tuple[UpstreamSnapshot, ...]:
    tables = [{each.name: each for each in part.upstreams} for part in parts]
    return tuple(_by_key(tables, _upstream).values())


def _upstream(several: Sequence[UpstreamSnapshot]) -> UpstreamSnapshot:
    ends = [each.credentials_end_s for each in several if each.credentials_end_s is not None]
    relays = [each.relay for each in several if each.relay is not None]
    return UpstreamSnapshot(
        several[0].name,
        several[0].service,
        _first(each.region or None for each in several) or "",
        _first(each.account or None for each in several) or "",
        several[0].endpoint,
        _counts([each.closed for each in several]),
        _relay(relays) if relays else None,
        min(ends, default=None),
    )


def _relay(several: Sequence[RelaySnapshot]) -> RelaySnapshot:
    return RelaySnapshot(
        several[0].operations,
        _by_key([each.counters for each in several], lambda c: OperationCounts(**_added(c))),
        sum(each.waiting_count for each in several),
        sum(each.call_count for each in several),
        sum(each.kept_bytes for each in several),
    )


# Streams


def _streams(parts: Sequence[Snapshot]) -> Steps[tuple[StreamSnapshot, ...]]:
    found: dict[str, list[StreamSnapshot]] = {}
    for part in parts:
        for stream in part.streams:
            found.setdefault(stream.name, []).append(stream)
    streams = []
    for name, several in found.items():
        engine = several[0].engine
        if len(several) > 1:
            engine = _engine([each.engine for each in several])
        streams.append(StreamSnapshot(name, several[0].called, engine))
        yield
    return tuple(streams)


def _engine(several: Sequence[EngineSnapshot]) -> EngineSnapshot:
    healths = {each.health for each in several}
    health = next(each for each in (Health.WELL, Health.ILL, *Health) if each in healths)
    is_seen = any(each.unseen is None for each in several)
    return msgspec.structs.replace(
        several[0],
        read_ns=max(each.read_ns for each in several),
        counters=_counts([each.counters for each in several]),
        bill=_bill([each.bill for each in several]),
        footprint_bytes=sum(each.footprint_bytes for each in several),
        health=health,
        hold=_first(each.hold for each in several),
        unavailable=_first(each.unavailable for each in several),
        missing=_first(each.missing for each in several),
        unseen=None if is_seen else several[0].unseen,
        failures=_failures(several),
        capacity=_first(each.capacity for each in several),
        record_bytes_max=min(each.record_bytes_max for each in several),
        is_auto=any(each.is_auto for each in several),
        has_record_readers=any(each.has_record_readers for each in several),
        shard_count=max(each.shard_count for each in several),
        is_asking=any(each.is_asking for each in several),
        asks_in_ns=min(each.asks_in_ns for each in several),
        shards=_shards([each.shards for each in several]),
        splits_shards=any(each.splits_shards for each in several),
        loads=_by_key([each.loads for each in several], _load),
    )


def _bill(several: Sequence[Bill]) -> Bill:
    """Savings and means are weighted by how much each worker has sent."""
    units = _sum(each.units for each in several)
    saves: dict[Any, float] = {}
    for unit, total in units.items():
        saved = sum(each.saves.get(unit, 0.0) * each.units.get(unit, 0) for each in several)
        saves[unit] = saved / total if total else 0.0
    sent = [(each.record_bytes, max(1, *each.units.values(), 0)) for each in several]
    means = [(mean, weight) for mean, weight in sent if mean is not None]
    weights = sum(weight for _, weight in means)
    mean = sum(mean * weight for mean, weight in means) / weights if means else None
    return Bill(units, saves, mean)


def _failures(several: Sequence[EngineSnapshot]) -> tuple[FailureSnapshot, ...]:
    def together(found: list[FailureSnapshot]) -> FailureSnapshot:
        return msgspec.structs.replace(
            max(found, key=lambda each: each.last_ns),
            calls=sum(each.calls for each in found),
            records=sum(each.records for each in found),
        )

    tables = [{each.code: each for each in engine.failures} for engine in several]
    found = sorted(_by_key(tables, together).values(), key=lambda each: -each.last_ns)
    return tuple(found[:FAILURES_MAX])


def _shards(several: Sequence[ShardsSnapshot]) -> ShardsSnapshot:
    """The hottest first, as in each worker; then those that took most."""
    tables = [{each.shard_id: each for each in shards.shards} for shards in several]
    found = list(_by_key(tables, _shard).values())
    found.sort(key=lambda each: (not each.is_hot, -each.backlog_ns, -each.throttled, -each.taken))
    oldest = [each.oldest_ns for each in several if each.oldest_ns is not None]
    return ShardsSnapshot(
        shards=tuple(found),
        count=max(each.count for each in several),
        backlogged_count=max(each.backlogged_count for each in several),
        share_min=min(1.0, sum(each.share_min for each in several)),
        keyless_records=sum(each.keyless_records for each in several),
        oldest_ns=min(oldest, default=None),
    )


def _shard(several: Sequence[ShardSnapshot]) -> ShardSnapshot:
    """Workers share a shard as the daemons of a fleet do: their rates and shares add up, and the
    shard is as far from sending as the worker that is furthest.
    """
    states = list(type(several[0].state))  # the state that is furthest from sending is last
    return ShardSnapshot(
        shard_id=several[0].shard_id,
        state=max((each.state for each in several), key=states.index),
        is_hot=any(each.is_hot for each in several),
        backlog_records=sum(each.backlog_records for each in several),
        backlog_bytes=sum(each.backlog_bytes for each in several),
        backlog_ns=max(each.backlog_ns for each in several),
        records_rate=sum(each.records_rate for each in several),
        bytes_rate=sum(each.bytes_rate for each in several),
        records_share=min(1.0, sum(each.records_share for each in several)),
        bytes_share=min(1.0, sum(each.bytes_share for each in several)),
        records_tokens=sum(each.records_tokens for each in several),
        bytes_tokens=sum(each.bytes_tokens for each in several),
        taken=sum(each.taken for each in several),
        throttled=sum(each.throttled for each in several),
        backoff_ns=max(each.backoff_ns for each in several),
        failure_count=max(each.failure_count for each in several),
    )


def _load(several: Sequence[ShardLoad]) -> ShardLoad:
    """The load of a shard that is hot for several workers. Rates add up. The keys and the place to
    split are those of the worker that gets most for the shard.
    """
    most = max(several, key=lambda each: each.quota_part)
    return ShardLoad(
        records_per_second=sum(each.records_per_second for each in several),
        bytes_per_second=sum(each.bytes_per_second for each in several),
        quota_part=sum(each.quota_part for each in several),
        is_of_bytes=most.is_of_bytes,
        keys=most.keys,
        split=most.split,
    )

"""Merges the snapshots of several workers into one, for the pages of their supervisor.

About: how each value of a snapshot goes together with the same value of another worker. Counts and
waiting records are added. A bound of each becomes a bound of all together. Of texts the first one
that says something is taken, and a truth of one is a truth of all, since one worker that needs
somebody is enough. That is the rule (`_together`); each kind of value names the fields that have
another one: of times, for example, the worst is taken. A stream, a shard, an upstream and a
listener are one each, whichever worker has them. Pure: values in, a value out.
Invariants: in each sum, received = rejected + delivered + dead + buffered + in flight holds as in
its parts; everything of a worker is merged, only its number is lost.
Cost (one core, 2026-11-28): a stream of two workers with five shards 90 us; a step is a stream.
Flow: snapshot.py of each worker -> daemon/pages.py -> here -> status.py, live_event.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from kdaemon.base.billing import Bill
from kdaemon.base.counters import Buckets
from kdaemon.base.failures import FailureSnapshot
from kdaemon.base.steps import Steps
from kdaemon.engine.health import Health
from kdaemon.engine.hot_keys import ShardLoad
from kdaemon.engine.snapshot import EngineSnapshot, ShardSnapshot, ShardsSnapshot
from kdaemon.observe.snapshot import (
    CertificatesSnapshot,
    LogSnapshot,
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
StructT = TypeVar("StructT", bound=msgspec.Struct)

FAILURES_MAX = 8  # codes of a stream, as in `base/failures.py`; 2026-11-28
SAID_MAX = 16  # places of the log, as in `recent.py`; 2026-11-28


def merged(
    own: Snapshot, parts: Sequence[Snapshot], workers: tuple[WorkerSnapshot, ...]
) -> Steps[Snapshot]:
    """`own`: the snapshot of the supervisor, which has no streams. `parts`: those of the workers
    that answered.
    """
    streams = yield from _streams(parts)
    everybody = (own, *parts)
    return msgspec.structs.replace(
        own,
        heartbeat_age_ns=max(each.heartbeat_age_ns for each in everybody),
        memory=_together([each.memory for each in parts or (own,)], is_full=all),
        loop_lag=_usual([each.loop_lag for each in everybody]),
        door=_together([each.door for each in everybody]),
        listeners=_by_key([each.listeners for each in everybody], _together),
        upstreams=_upstreams(parts),
        spool=_known([each.spool for each in parts], _spool),
        log=_known([each.log for each in everybody], _log),
        principals=_known([each.principals for each in parts], _principals),
        certificates=_known([each.certificates for each in (*parts, own)], _certificates),
        streams=streams,
        workers=workers,
    )


# What all have in common


def _together(several: Sequence[StructT], **others: Callable[[list[Any]], Any]) -> StructT:
    """Values of one kind as one. `others`: how the values of a field are merged for which the
    usual rule is wrong.
    """
    kind = type(several[0])
    return kind(
        **{
            name: others.get(name, _usual)([getattr(each, name) for each in several])
            for name in kind.__struct_fields__
        }
    )


def _usual(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Buckets):
        counts = tuple(map(sum, zip(*(each.counts for each in values), strict=True)))
        return Buckets(first.bounds, counts, sum(each.sum for each in values))
    if isinstance(first, Mapping):
        return _sum(values)
    if isinstance(first, bool):
        return any(values)
    return sum(values) if isinstance(first, int | float) else _first(values)


def _first(values: list[T]) -> T:
    """The first value that says something."""
    return next(filter(None, values), values[0])


def _known(values: Sequence[T | None], rule: Callable[[list[T]], T]) -> T | None:
    """The values that are there, by the rule; None: none is."""
    known = [each for each in values if each is not None]
    return rule(known) if known else None


def _earliest(values: list[int | None]) -> int | None:
    return _known(values, min)


def _share(values: list[float]) -> float:
    """Parts of one quota, 0..1."""
    return min(1.0, sum(values))


def _sum(values: Sequence[Mapping[K, Any]]) -> dict[K, Any]:
    sums: dict[K, Any] = {}
    for each in values:
        for key, number in each.items():
            sums[key] = sums.get(key, 0) + number
    return sums


def _by_key(tables: Sequence[Mapping[K, T]], rule: Callable[[list[T]], T]) -> dict[K, T]:
    found: dict[K, list[T]] = {}
    for table in tables:
        for key, value in table.items():
            found.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else rule(values) for key, values in found.items()}


# The daemon


def _log(several: list[LogSnapshot]) -> LogSnapshot:
    recent = sorted((said for each in several for said in each.recent), key=lambda s: s.age_ns)
    return _together(several, recent=lambda _: tuple(recent[:SAID_MAX]))


def _principals(several: list[PrincipalsSnapshot]) -> PrincipalsSnapshot:
    return _together(several, key_count=min, reload_count=max)


def _certificates(several: list[CertificatesSnapshot]) -> CertificatesSnapshot:
    """The one that ends first."""
    soonest_first = sorted(several, key=lambda each: each.expires_s)
    return _together(soonest_first, expires_s=min, faults=_of_first, reloads=max, failures=max)


def _of_first(values: list[T]) -> T:
    return values[0]


def _spool(several: list[SpoolSnapshot]) -> SpoolSnapshot:
    return _together(several, oldest_ms=lambda times: min(filter(None, times), default=0))


def _upstreams(parts: Sequence[Snapshot]) -> tuple[UpstreamSnapshot, ...]:
    tables = [{each.name: each for each in part.upstreams} for part in parts]
    return tuple(_by_key(tables, _upstream).values())


def _upstream(several: list[UpstreamSnapshot]) -> UpstreamSnapshot:
    return _together(
        several,
        closed=_together,
        relay=lambda relays: _known(relays, _relay),
        credentials_end_s=_earliest,
    )


def _relay(several: list[RelaySnapshot]) -> RelaySnapshot:
    return _together(several, counters=lambda tables: _by_key(tables, _together))


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


def _engine(several: list[EngineSnapshot]) -> EngineSnapshot:
    return _together(
        several,
        read_ns=max,
        counters=_together,
        bill=_bill,
        health=lambda all_of: next(h for h in (Health.WELL, Health.ILL, *Health) if h in all_of),
        # One worker that has seen the stream is enough.
        unseen=lambda reasons: None if None in reasons else reasons[0],
        failures=_failures,
        record_bytes_max=min,
        shard_bytes_per_second=_of_first,
        shard_count=max,
        asks_in_ns=min,
        shards=_shards,
        loads=lambda tables: _by_key(tables, _load),
    )


def _bill(several: Sequence[Bill]) -> Bill:
    """Savings and means are weighted by how much each worker has sent."""
    units = _sum([each.units for each in several])
    saves: dict[Any, float] = {}
    for unit, total in units.items():
        saved = sum(each.saves.get(unit, 0.0) * each.units.get(unit, 0) for each in several)
        saves[unit] = saved / total if total else 0.0
    sent = [(each.record_bytes, max(1, *each.units.values(), 0)) for each in several]
    means = [(mean, weight) for mean, weight in sent if mean is not None]
    weights = sum(weight for _, weight in means)
    mean = sum(mean * weight for mean, weight in means) / weights if means else None
    return Bill(units, saves, mean)


def _failures(several: list[tuple[FailureSnapshot, ...]]) -> tuple[FailureSnapshot, ...]:
    def together(found: list[FailureSnapshot]) -> FailureSnapshot:
        return _together(sorted(found, key=lambda each: -each.last_ns), last_ns=max)

    tables = [{each.code: each for each in failures} for failures in several]
    found = sorted(_by_key(tables, together).values(), key=lambda each: -each.last_ns)
    return tuple(found[:FAILURES_MAX])


def _shards(several: list[ShardsSnapshot]) -> ShardsSnapshot:
    """The hottest first, as in each worker; then those that took most."""
    tables = [{each.shard_id: each for each in shards.shards} for shards in several]
    found = list(_by_key(tables, _shard).values())
    found.sort(key=lambda each: (not each.is_hot, -each.backlog_ns, -each.throttled, -each.taken))
    return _together(
        several,
        shards=lambda _: tuple(found),
        count=max,
        backlogged_count=max,
        share_min=_share,
        oldest_ns=_earliest,
    )


def _shard(several: list[ShardSnapshot]) -> ShardSnapshot:
    """Workers share a shard as the daemons of a fleet do: their rates and shares add up, and the
    shard is as far from sending as the worker that is furthest.
    """
    states = list(type(several[0].state))  # the state that is furthest from sending is last
    return _together(
        several,
        state=lambda of_each: max(of_each, key=states.index),
        backlog_ns=max,
        records_share=_share,
        bytes_share=_share,
        backoff_ns=max,
        failure_count=max,
    )


def _load(several: list[ShardLoad]) -> ShardLoad:
    """The load of a shard that is hot for several workers. Rates add up. The keys and the place to
    split are those of the worker that gets most for the shard.
    """
    return replace(
        max(several, key=lambda each: each.quota_part),
        records_per_second=sum(each.records_per_second for each in several),
        bytes_per_second=sum(each.bytes_per_second for each in several),
        quota_part=sum(each.quota_part for each in several),
    )

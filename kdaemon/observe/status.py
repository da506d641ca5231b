"""The status page for people: the state of the daemon.

About: `/statusz`, what an operator wants to see at three in the morning: what is held up, since
when, and why. Knows names, counts, codes and times, of one snapshot (snapshot.py). Must not show
data or secrets; shows partition keys as hashes, unless it is told to show text (keys.py). Texts of
others are cleaned of secrets and made printable.
Invariant: a look changes nothing. The streams are written in steps (slices.py).
Flow: snapshot.py -> here -> admin.py.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET

from kdaemon.base.billing import Bill
from kdaemon.base.counters import Buckets, NotPassedOn, StreamCounts
from kdaemon.base.failures import FailureSnapshot
from kdaemon.base.redact import SHOWN_CHARACTERS_MAX, harmless_line
from kdaemon.base.text import printable
from kdaemon.engine.health import Health
from kdaemon.engine.hot_keys import ShardLoad
from kdaemon.engine.snapshot import EngineSnapshot, Reason, ShardSnapshot
from kdaemon.http.counters import ListenerCounts
from kdaemon.observe.keys import advice, key_name
from kdaemon.observe.page import (
    BacklogStatus,
    BillingStatus,
    DoorStatus,
    ErrorStatus,
    HoldStatus,
    HotKeyStatus,
    ListenerStatus,
    LoadStatus,
    LogStatus,
    MapStatus,
    PaceStatus,
    PassedOnStatus,
    PrincipalsStatus,
    RatesStatus,
    ReloadStatus,
    ShardStatus,
    SpoolStatus,
    StatusPage,
    StreamStatus,
    TlsStatus,
    UpstreamStatus,
    WorkerStatus,
)
from kdaemon.observe.reading import Reader
from kdaemon.observe.slices import JSON, Page, Steps
from kdaemon.observe.snapshot import (
    CertificatesSnapshot,
    PrincipalsSnapshot,
    RelaySnapshot,
    ReloadsSnapshot,
    Snapshot,
    SpoolSnapshot,
    StreamSnapshot,
    UpstreamSnapshot,
    WorkerSnapshot,
)

NS_PER_SECOND = 1_000_000_000  # nanoseconds in a second


def status_steps(reader: Reader, *, shows_keys: bool = False) -> Steps:
    """Makes the page, as indented JSON. Reads a snapshot, then writes a stream a step: first those
    that need somebody, then those with the most records. `shows_keys`: keys of hot shards are shown
    as text; otherwise as hashes.
    """
    snapshot = yield from reader.read()
    before, _, after = _json(_page(snapshot), b"\n").rpartition(b"[]")
    yield
    uptime_ns, last_first = snapshot.uptime_ns, sorted(snapshot.streams, key=urgency)[::-1]
    del snapshot  # its streams are freed as they are written: freeing all at once takes long
    pieces: list[bytes] = []
    while last_first:
        status = _stream(last_first.pop(), uptime_ns, shows_keys=shows_keys)
        pieces.append(_json(status, b"\n    "))
        yield
    streams = b"[\n    %b\n  ]" % b",\n    ".join(pieces) if pieces else b"[]"
    return Page(200, b"%b%b%b\n" % (before, streams, after), JSON)


def _page(snapshot: Snapshot) -> StatusPage:
    """Everything but the streams."""
    log, door = snapshot.log, snapshot.door
    tls, principals = snapshot.certificates, snapshot.principals
    return StatusPage(
        version=snapshot.version,
        uptime_s=seconds_of(snapshot.uptime_ns),
        state=snapshot.state.value,
        not_ready_because=snapshot.why_not_ready,
        heartbeat_age_s=seconds_of(snapshot.heartbeat_age_ns),
        memory=snapshot.memory,
        spool=None if snapshot.spool is None else spool_of(snapshot.spool),
        log=None if log is None else LogStatus(log.waiting, log.lines_dropped),
        principals=None if principals is None else _principals(principals),
        tls=None if tls is None else _tls(tls),
        refused_reload=_refused_reload(snapshot.reloads),
        listeners={name: _listener(counts) for name, counts in snapshot.listeners.items()},
        door=DoorStatus(door.received, happened(door.rejected)),
        upstreams=upstreams_of(snapshot),
        workers=[_worker(each) for each in snapshot.workers] or UNSET,
        streams=[],
    )


def _worker(worker: WorkerSnapshot) -> WorkerStatus:
    return WorkerStatus(
        worker=worker.number,
        is_heir=worker.is_heir,
        pid=worker.pid,
        state=worker.state,
        not_ready_because=_cleaned(worker.why_not_ready),
        missing_because=_cleaned(worker.why_not_told),
        uptime_s=seconds_of(worker.uptime_ns),
        restarts=worker.restarts,
        connections=worker.connections,
        memory_bytes=worker.memory_bytes,
        delivered=worker.delivered,
    )


def upstreams_of(snapshot: Snapshot) -> list[UpstreamStatus]:
    of_each: dict[str, list[EngineSnapshot]] = {each.name: [] for each in snapshot.upstreams}
    for stream in snapshot.streams:
        # An upstream that a reload took out of the configuration may still have streams.
        of_each.setdefault(stream.called.upstream, []).append(stream.engine)
    return [_upstream(each, of_each[each.name]) for each in snapshot.upstreams]


def _upstream(upstream: UpstreamSnapshot, engines: Sequence[EngineSnapshot]) -> UpstreamStatus:
    # That a stream is missing says nothing of the upstream.
    healths = {engine.health for engine in engines if engine.missing is None}
    health = next((each for each in (Health.WELL, Health.ILL) if each in healths), Health.UNTRIED)
    holds = [engine.hold for engine in engines if engine.hold is not None]
    counters = [engine.counters for engine in engines]
    return UpstreamStatus(
        name=upstream.name,
        service=upstream.service,
        region=upstream.region,
        account=upstream.account,
        endpoint=harmless_line(upstream.endpoint.url),
        endpoint_giver=upstream.endpoint.giver,
        health=health.value,
        streams=len(engines),
        on_hold=len(holds),
        hold=hold_of(holds[0] if holds else None),
        buffered=sum(each.buffered for each in counters),
        in_flight_calls=sum(each.in_flight_calls for each in counters),
        delivered=upstream.closed.delivered + sum(each.delivered for each in counters),
        passed_on=None if upstream.relay is None else _passed_on(upstream.relay),
    )


def _json(value: object, line_break: bytes) -> bytes:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    return text if line_break == b"\n" else text.replace(b"\n", line_break)


def urgency(stream: StreamSnapshot) -> tuple[int, int, str]:
    """Sorts streams: those that need somebody, those that fail or are unseen, then those with the
    most queued.
    """
    engine = stream.engine
    needs_somebody = engine.hold is not None or engine.unavailable is not None
    is_troubled = engine.failing is not None or engine.unseen is not None
    rank = 0 if needs_somebody else 1 if is_troubled else 2
    return rank, -engine.counters.buffered, stream.name


def _passed_on(relay: RelaySnapshot) -> PassedOnStatus:
    counters = list(relay.counters.values())
    refused = {why: sum(each.refused[why] for each in counters) for why in NotPassedOn}
    return PassedOnStatus(
        operations=list(relay.operations),
        waiting=relay.waiting_count,
        in_flight=relay.call_count,
        kept_bytes=relay.kept_bytes,
        requests=sum(each.requests for each in counters),
        refused=happened(refused),
    )


def _principals(principals: PrincipalsSnapshot) -> PrincipalsStatus:
    problem = _cleaned(principals.problem)
    return PrincipalsStatus(principals.key_count, principals.reload_count, problem)


def _refused_reload(reloads: ReloadsSnapshot | None) -> ReloadStatus | None:
    if reloads is None or reloads.refused is None:
        return None
    outcome, why = reloads.refused
    return ReloadStatus(outcome, harmless_line(why))


def _tls(certificates: CertificatesSnapshot) -> TlsStatus:
    ends = datetime.fromtimestamp(certificates.expires_s, UTC)
    return TlsStatus(
        certificate=printable(certificates.path, SHOWN_CHARACTERS_MAX),
        expires=ends.isoformat(),
        faults=list(certificates.faults),
        reloads=certificates.reloads,
        reload_failures=certificates.failures,
        trouble=_cleaned(certificates.trouble),
    )


def spool_of(spool: SpoolSnapshot) -> SpoolStatus:
    return SpoolStatus(
        frames=spool.frame_count,
        live_bytes=spool.live_bytes,
        file_bytes=spool.file_bytes,
        bytes_max=spool.bytes_max,
        trouble=_cleaned(spool.trouble),
        commit_mean_s=_mean_s(spool.commit_duration_ns),
        commit_failures=spool.commit_failures,
        corrupt_frames=spool.corrupt_rows,
    )


def _stream(stream: StreamSnapshot, uptime_ns: int, *, shows_keys: bool) -> StreamStatus:
    engine, called = stream.engine, stream.called
    counters, shards = engine.counters, engine.shards
    oldest_ns = shards.oldest_ns
    return StreamStatus(
        name=printable(called.name),
        upstream=called.upstream,
        state=engine.state.value,
        hold=hold_of(engine.hold),
        unavailable=hold_of(engine.unavailable),
        failing=hold_of(engine.failing),
        missing=hold_of(engine.missing),
        unseen=hold_of(engine.unseen),
        spooled=counters.spooled,
        buffered=counters.buffered,
        keyless=shards.keyless_records,
        in_flight=counters.in_flight,
        in_flight_calls=counters.in_flight_calls,
        memory_bytes=engine.footprint_bytes,
        oldest_queued_s=None if oldest_ns is None else seconds_of(engine.read_ns - oldest_ns),
        received=counters.received,
        delivered=counters.delivered,
        rejected=happened(counters.rejected),
        dead=happened(counters.dead),
        attempts=counters.attempts,
        throttled=counters.throttled,
        throttled_share=round(counters.throttled / max(1, counters.attempts), 4),
        possible_duplicates=counters.possible_duplicates,
        retries=happened(counters.retries),
        failures=happened(counters.failures),
        last_errors=errors_of(engine),
        calls=happened(counters.calls),
        call_mean_s=_mean_s(counters.call_duration_ns),
        delivery_mean_s=_mean_s(counters.delivery_ns),
        per_second=_rates(counters, uptime_ns),
        billing=_billing(engine.bill, uptime_ns),
        capacity=engine.capacity,
        record_bytes_max=engine.record_bytes_max,
        is_auto=engine.is_auto,
        has_record_readers=engine.has_record_readers,
        shard_bytes_per_second=engine.shard_bytes_per_second,
        shard_map=MapStatus(
            engine.shard_count,
            counters.map_refreshes,
            counters.map_mismatches,
            engine.is_asking,
            seconds_of(engine.asks_in_ns),
        ),
        shards_backlogged=shards.backlogged_count,
        hottest_shards=[
            shard_of(shard, engine, shows_keys=shows_keys) for shard in stream.hottest()
        ],
    )


def shard_of(shard: ShardSnapshot, engine: EngineSnapshot, *, shows_keys: bool) -> ShardStatus:
    """A shard's row. `shows_keys`: keys of a hot shard are shown as text; otherwise as hashes."""
    load = engine.loads.get(shard.shard_id or "")
    return ShardStatus(
        shard_id=None if shard.shard_id is None else printable(shard.shard_id),
        backlog=BacklogStatus(
            shard.backlog_records, shard.backlog_bytes, seconds_of(shard.backlog_ns)
        ),
        pace=PaceStatus(
            shard.records_rate,
            shard.bytes_rate,
            round(shard.records_share, 3),
            round(shard.bytes_share, 3),
        ),
        taken=shard.taken,
        throttled=shard.throttled,
        state=shard.state.value,
        backoff_s=seconds_of(shard.backoff_ns),
        failures_in_a_row=shard.failure_count,
        load=None if load is None else load_status(load, engine, shows_keys=shows_keys),
    )


def load_status(load: ShardLoad, engine: EngineSnapshot, *, shows_keys: bool) -> LoadStatus:
    """What comes for a hot shard, its heaviest keys, and advice."""
    keys = [
        HotKeyStatus(
            key=key_name(each.key, shows_keys=shows_keys),
            is_explicit_hash_key=isinstance(each.key, int),
            records_part=round(each.records_part, 3),
            bytes_part=round(each.bytes_part, 3),
        )
        for each in load.keys
    ]
    return LoadStatus(
        records_per_second=round(load.records_per_second, 1),
        bytes_per_second=round(load.bytes_per_second, 1),
        quota_part=round(load.quota_part, 3),
        advice=advice(load, engine),
        keys=keys,
    )


def errors_of(engine: EngineSnapshot) -> list[ErrorStatus]:
    return [error_of(each, engine.read_ns) for each in engine.failures]


def error_of(failure: FailureSnapshot, now_ns: int) -> ErrorStatus:
    return ErrorStatus(
        harmless_line(failure.code),
        harmless_line(failure.message),
        failure.calls,
        failure.records,
        seconds_of(max(0, now_ns - failure.last_ns)),
    )


def hold_of(reason: Reason | None) -> HoldStatus | None:
    if reason is None:
        return None
    return HoldStatus(harmless_line(reason.code), harmless_line(reason.message))


def _listener(counters: ListenerCounts) -> ListenerStatus:
    return ListenerStatus(
        connections=counters.open,
        opened=counters.opened,
        refused=happened(counters.refused),
        timed_out=happened(counters.timed_out),
        handler_failures=counters.handler_failures,
    )


def _rates(counters: StreamCounts, uptime_ns: int) -> RatesStatus:
    def per_second(count: int) -> float:
        return round(count * NS_PER_SECOND / max(1, uptime_ns), 1)

    return RatesStatus(
        per_second(counters.received),
        per_second(counters.delivered),
        per_second(counters.delivered_bytes),
    )


def _billing(bill: Bill, uptime_ns: int) -> BillingStatus:
    return BillingStatus(
        units={unit.value: count for unit, count in bill.units.items()},
        units_per_second={
            unit.value: round(count * NS_PER_SECOND / max(1, uptime_ns), 1)
            for unit, count in bill.units.items()
        },
        record_mean_bytes=None if bill.record_bytes is None else round(bill.record_bytes, 1),
        aggregation_saves={unit.value: round(part, 3) for unit, part in bill.saves.items()},
    )


def happened(counts: Mapping[Any, int]) -> dict[str, int]:
    """The counts above 0, under the words that the metrics' labels have."""
    return {
        (key.value if isinstance(key, Enum) else key): count
        for key, count in counts.items()
        if count
    }


def _mean_s(histogram: Buckets) -> float | None:
    """The mean of a histogram of nanoseconds, in seconds; None: it has no values."""
    count = sum(histogram.counts)
    return seconds_of(histogram.sum // count) if count else None


def _cleaned(text: str | None) -> str | None:
    return None if text is None else harmless_line(text)


def seconds_of(duration_ns: int) -> float:
    return round(duration_ns / NS_PER_SECOND, 3)

"""An event of the live page: everything that the page shows, as one line of JSON.

About: which values of a snapshot the page gets, and how they are made in steps. Counters are sent
as they are: the browser makes rates of their differences. Holds no data or secret. Keys of hot
shards are named as keys.py says. Texts of others are cleaned, as in status.py.
Invariant: in each event's `records`, for all streams and the door together,

    received + recovered = rejected + delivered + dead + dropped + recovered_settled
                           + buffered + in_flight + spooled

Bounds: an event has STREAMS_MAX streams (those that need somebody come first), SHARDS_MAX shards of
a stream and about SHARDS_TOLD of all streams, and ERRORS_MAX errors.
Cost (one core, 2026-11-28): with 1,000 streams 29 ms an event, in steps of 1.4 ms at most.
Flow: snapshot.py -> here -> live.py. Loaded for the first viewer.
"""

from collections.abc import Iterable
from dataclasses import replace
from heapq import nsmallest

import msgspec

from kdaemon.base.billing import Bill
from kdaemon.base.steps import Steps
from kdaemon.base.text import printable
from kdaemon.engine.health import Health
from kdaemon.engine.snapshot import EngineSnapshot, Reason, ShardSnapshot, StreamState
from kdaemon.observe.keys import KEY_FIELD
from kdaemon.observe.logs import words_of
from kdaemon.observe.page import (
    ErrorStatus,
    HoldStatus,
    LoadStatus,
    SpoolStatus,
    UpstreamStatus,
)
from kdaemon.observe.reading import Reader
from kdaemon.observe.recent import SaidSnapshot
from kdaemon.observe.remedies import advised
from kdaemon.observe.snapshot import HOT_SHARDS_MAX, MemorySnapshot, Snapshot, StreamSnapshot
from kdaemon.observe.status import (
    NS_PER_SECOND,
    error_of,
    happened,
    hold_of,
    load_status,
    seconds_of,
    spool_of,
    upstreams_of,
    urgency,
)

STREAMS_MAX = 50  # in an event; ours, 2026-11-28: 30 KB
SHARDS_MAX = 16  # of a stream, the hottest; ours: as many as a screen shows
SHARDS_TOLD = 256  # of all streams together, beside HOT_SHARDS_MAX of each; 50 KB; ours
ERRORS_MAX = 16  # the last ones, of all streams; ours: as many as a screen shows
KEY_PART_MIN = 0.01  # of a hot shard: spreading a lighter key changes nothing; ours
WORDS_CHARACTERS_MAX = 500  # of one line of the log; ours
RETRY_MS = 2000  # after this time a browser that lost the daemon asks again; ours


class LiveHold(HoldStatus, frozen=True):
    """`remedy`: what to do; None: no remedy is known."""

    remedy: str | None


class LiveShard(msgspec.Struct, frozen=True):
    """`id`: None where shards are not predicted. `behind_s`: the time that the shard needs for all
    records that wait for it. `taken`, `throttled`: our records, since the shard is known.
    `quota_*`: a second; 0: this quota is not the bound (records, where many go out as one).
    `share`: our part of the quota, 0..1. `load`: None: the shard is calm, or not hot for long
    enough.
    """

    id: str | None
    is_hot: bool
    behind_s: float
    waiting: int
    taken: int
    throttled: int
    quota_records: int
    quota_bytes: int
    share: float
    load: LoadStatus | None


class LiveStream(msgspec.Struct, frozen=True):
    """`key`: unique in the daemon. `health`: as of the engine; "failing": calls are answered, and
    take no record; "missing": there is no such stream, and no configuration lists it; "unseen":
    nothing has shown yet that there is one. Counts are since the start; other values are of now.
    `shards`: the hottest of `shard_count`, then those that took most; `shard_count`: 0: the service
    has not told of them.
    """

    key: str
    name: str
    upstream: str
    health: str
    hold: LiveHold | None
    unavailable: LiveHold | None
    unseen: LiveHold | None
    buffered: int
    in_flight: int
    in_flight_calls: int
    received: int
    delivered: int
    delivered_bytes: int
    throttled: int
    rejected: dict[str, int]
    dead: int
    oldest_queued_s: float | None
    shard_count: int
    shards_backlogged: int
    shards: list[LiveShard]
    bill: Bill


class LiveError(ErrorStatus, frozen=True):
    """An error of the service, or of the way to it."""

    stream: str


class LiveSaid(msgspec.Struct, frozen=True):
    """A warning or an error of the log: the last line, and the number of lines of its kind."""

    level: str
    words: str
    count: int
    age_s: float


class LiveRecords(msgspec.Struct, frozen=True):
    """Of all streams, closed ones too, and of the door. `dead`, `rejected`: by reason,
    without 0.
    """

    received: int
    received_bytes: int
    recovered: int
    rejected: dict[str, int]
    delivered: int
    delivered_bytes: int
    dead: dict[str, int]
    dropped: dict[str, int]
    recovered_settled: int
    buffered: int
    in_flight: int
    in_flight_calls: int
    spooled: int
    attempts: int
    throttled: int
    retried: int


class LiveDelivery(msgspec.Struct, frozen=True):
    """Records by the time from acceptance to delivery. `counts` has one entry more than `bounds_s`:
    of the times above the last bound.
    """

    bounds_s: list[float]
    counts: list[int]


class LiveEvent(msgspec.Struct, frozen=True):
    """`began`: names the processes that counted; it changes with them. `streams`: at most
    STREAMS_MAX of `stream_count`. `units`: billed, of all open streams. `reloads`: how often the
    configuration was read again. `is_reload_good`: whether the last one read is in force.
    """

    version: str
    began: str
    uptime_s: float
    state: str
    not_ready_because: str | None
    reloads: int
    is_reload_good: bool
    memory: MemorySnapshot
    spool: SpoolStatus | None
    records: LiveRecords
    delivery: LiveDelivery
    units: dict[str, int]
    upstreams: list[UpstreamStatus]
    errors: list[LiveError]
    log: list[LiveSaid]
    stream_count: int
    on_hold: int
    streams: list[LiveStream]


def shards_told(stream_count: int) -> int:
    """How many shards of each stream an event has; HOT_SHARDS_MAX hot ones in any case."""
    return min(SHARDS_MAX, SHARDS_TOLD // max(1, stream_count))


def event_steps(reader: Reader, *, shows_keys: bool = False) -> Steps[bytes]:
    """One event as it is sent: a field `data` of one line, since this JSON has no line breaks."""
    shards_max = shards_told(reader.stream_count)
    snapshot = yield from reader.read(max(HOT_SHARDS_MAX, shards_max), shards_max)
    records, counts, units = yield from _sums(snapshot)
    upstreams = upstreams_of(snapshot)
    yield
    on_hold = sum(each.engine.hold is not None for each in snapshot.streams)
    shown = nsmallest(STREAMS_MAX, snapshot.streams, key=urgency)
    yield
    errors = yield from _errors(snapshot)
    recent = () if snapshot.log is None else snapshot.log.recent
    said = yield from _said(recent, shows_keys=shows_keys)
    bounds = snapshot.door.delivery_ns.bounds
    reloads = snapshot.reloads
    event = LiveEvent(
        version=snapshot.version,
        began=_began(snapshot),
        uptime_s=seconds_of(snapshot.uptime_ns),
        state=snapshot.state.value,
        not_ready_because=snapshot.why_not_ready,
        reloads=0 if reloads is None else reloads.count,
        is_reload_good=reloads is None or reloads.is_last_successful,
        memory=snapshot.memory,
        spool=None if snapshot.spool is None else spool_of(snapshot.spool),
        records=records,
        delivery=LiveDelivery([bound / NS_PER_SECOND for bound in bounds], counts),
        units=units,
        upstreams=upstreams,
        errors=errors,
        log=said,
        stream_count=len(snapshot.streams),
        on_hold=on_hold,
        streams=[],
    )
    yield
    left = [*snapshot.streams]
    del snapshot  # its streams are freed one by one: freeing all at once takes long
    while left:
        left.pop()
        yield
    for stream in shown:
        event.streams.append(_stream(stream, shards_max, shows_keys=shows_keys))
        yield
    return b"retry: %d\ndata: %b\n\n" % (RETRY_MS, msgspec.json.encode(event))


def _began(snapshot: Snapshot) -> str:
    """Names the processes that counted: a new process, or another set of workers, has other counts.
    A text: JavaScript would round the number.
    """
    told = (f"-{each.number}.{each.pid}" for each in snapshot.workers if each.is_serving)
    return f"{snapshot.began_ns}{''.join(told)}"


def _sums(snapshot: Snapshot) -> Steps[tuple[LiveRecords, list[int], dict[str, int]]]:
    """All counts, the records by their time to delivery, and the billed units."""
    plain = dict.fromkeys(_PLAIN, 0)
    by_reason: dict[str, dict[str, int]] = {"rejected": {}, "dead": {}, "dropped": {}}
    retried, times = 0, [0] * len(snapshot.door.delivery_ns.counts)
    for counts in (snapshot.door, *snapshot.counts()):
        for name in _PLAIN:
            plain[name] += getattr(counts, name)
        for name, sums in by_reason.items():
            for reason, count in getattr(counts, name).items():
                if count:
                    sums[reason.value] = sums.get(reason.value, 0) + count
        retried += sum(counts.retries.values())
        times = [a + b for a, b in zip(times, counts.delivery_ns.counts, strict=True)]
        yield
    records = LiveRecords(**plain, **by_reason, retried=retried)  # type: ignore[arg-type]
    units: dict[str, int] = {}
    for stream in snapshot.streams:
        for unit, count in stream.engine.bill.units.items():
            units[unit.value] = units.get(unit.value, 0) + count
    return records, times, units


_PLAIN = (
    *("received", "received_bytes", "recovered", "delivered", "delivered_bytes"),
    *("recovered_settled", "buffered", "in_flight", "in_flight_calls", "spooled"),
    *("attempts", "throttled"),
)


def _errors(snapshot: Snapshot) -> Steps[list[LiveError]]:
    """The last errors of all open streams. Cleaning one takes a tenth of a millisecond."""
    found = (
        (stream.engine.read_ns - failure.last_ns, stream, failure)
        for stream in snapshot.streams
        for failure in stream.engine.failures
    )
    errors = []
    for _, stream, failure in nsmallest(ERRORS_MAX, found, key=lambda e: (e[0], e[1].name)):
        error = error_of(failure, stream.engine.read_ns)
        errors.append(LiveError(**msgspec.structs.asdict(error), stream=printable(stream.name)))
        yield
    return errors


def _said(recent: Iterable[SaidSnapshot], *, shows_keys: bool) -> Steps[list[LiveSaid]]:
    """Warnings and errors of the log. A line may be from before a reload that hid the keys."""
    said = []
    for each in recent:
        line, fields = each.line, each.line.fields
        if not shows_keys and KEY_FIELD in fields:
            line = replace(line, fields={key: fields[key] for key in fields if key != KEY_FIELD})
        words = words_of(line)
        words = words if len(words) <= WORDS_CHARACTERS_MAX else words[:WORDS_CHARACTERS_MAX] + "…"
        said.append(LiveSaid(each.line.level, words, each.count, seconds_of(each.age_ns)))
        yield
    return said


def _stream(stream: StreamSnapshot, shards_max: int, *, shows_keys: bool) -> LiveStream:
    engine, called, counters = stream.engine, stream.called, stream.engine.counters
    oldest_ns = engine.shards.oldest_ns
    shards = engine.shards.shards[: max(HOT_SHARDS_MAX, shards_max)]
    return LiveStream(
        key=printable(stream.name),
        name=printable(called.name),
        upstream=called.upstream,
        health=_health(engine),
        hold=_hold(engine.hold),
        unavailable=_hold(engine.unavailable),
        unseen=_hold(engine.unseen),
        buffered=counters.buffered,
        in_flight=counters.in_flight,
        in_flight_calls=counters.in_flight_calls,
        received=counters.received,
        delivered=counters.delivered,
        delivered_bytes=counters.delivered_bytes,
        throttled=counters.throttled,
        rejected=happened(counters.rejected),
        dead=sum(counters.dead.values()),
        oldest_queued_s=None if oldest_ns is None else seconds_of(engine.read_ns - oldest_ns),
        shard_count=engine.shards.count if engine.shard_count else 0,
        shards_backlogged=engine.shards.backlogged_count,
        shards=[_shard(shard, engine, shows_keys=shows_keys) for shard in shards],
        bill=engine.bill,
    )


def _health(engine: EngineSnapshot) -> str:
    """The word of the stream's state where calls that fail do not say more."""
    if engine.health is not Health.ILL and engine.state is StreamState.FAILING:
        return StreamState.FAILING.value
    is_told = engine.state in (StreamState.MISSING, StreamState.UNSEEN)
    return engine.state.value if is_told else engine.health.value


def _shard(shard: ShardSnapshot, engine: EngineSnapshot, *, shows_keys: bool) -> LiveShard:
    load = engine.loads.get(shard.shard_id or "") if shard.is_hot else None
    return LiveShard(
        id=None if shard.shard_id is None else printable(shard.shard_id),
        is_hot=shard.is_hot,
        behind_s=seconds_of(shard.backlog_ns),
        waiting=shard.backlog_records,
        taken=shard.taken,
        throttled=shard.throttled,
        quota_records=0 if engine.is_joined else _quota(shard.records_rate, shard.records_share),
        quota_bytes=_quota(shard.bytes_rate, shard.bytes_share),
        share=round(shard.share, 3),
        load=None if load is None else heavy(load_status(load, engine, shows_keys=shows_keys)),
    )


def _quota(rate: int, share: float) -> int:
    """The quota of which `rate` is our `share`."""
    return round(rate / share) if share > 0 else 0


def heavy(load: LoadStatus) -> LoadStatus:
    """The load without keys that are too light to matter."""
    keys = [key for key in load.keys if max(key.records_part, key.bytes_part) >= KEY_PART_MIN]
    return msgspec.structs.replace(load, keys=keys)


def _hold(reason: Reason | None) -> LiveHold | None:
    told = hold_of(reason)
    if reason is None or told is None:
        return None
    return LiveHold(told.code, *advised(told.code, told.message))

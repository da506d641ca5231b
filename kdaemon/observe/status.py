"""How the daemon stands: whether clients should come (`Readiness`), and the page for people.

About: `/statusz`, what an operator wants to see at three in the morning: what is held up, since
when, and why. Knows names, counts, codes and times; must not show data, partition keys or secrets:
what others wrote is cleaned of secrets and made printable.
Invariant: what the page counts of a stream was read in one synchronous pass, and so was all that is
not about streams; nothing is changed by looking. The streams follow in steps (slices.py).
Flow: engines, listeners, heartbeat -> here -> admin.py.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from kdaemon.base.counters import NotPassedOn, StreamCounters
from kdaemon.base.description import Capacity
from kdaemon.base.errors import ServiceError
from kdaemon.base.histogram import Histogram
from kdaemon.base.memory import ByteBudget
from kdaemon.base.names import parse_qualified
from kdaemon.base.ports import Clock
from kdaemon.base.redact import SECRETS
from kdaemon.base.text import printable
from kdaemon.door.principals import Principals
from kdaemon.engine import Engine
from kdaemon.engine.health import Health
from kdaemon.engine.heat import ShardHeat
from kdaemon.http.hub import HttpCounters
from kdaemon.http.renewal import Certificates
from kdaemon.observe.heartbeat import Heartbeat
from kdaemon.observe.log_queue import LogQueue
from kdaemon.observe.metrics import NO_RELAYS, Observed, SeenUpstream
from kdaemon.observe.page import (
    BacklogStatus,
    CapacityStatus,
    DoorStatus,
    HoldStatus,
    ListenerStatus,
    LogStatus,
    MapStatus,
    MemoryStatus,
    PaceStatus,
    PassedOnStatus,
    PrincipalsStatus,
    RatesStatus,
    ShardStatus,
    SpoolStatus,
    StatusPage,
    StreamStatus,
    TlsStatus,
    UpstreamStatus,
)
from kdaemon.observe.slices import JSON, Page, Steps
from kdaemon.observe.table import HOT_SHARDS_MAX
from kdaemon.send.relay import Relay

if TYPE_CHECKING:
    from kdaemon.spool.spool import Spool

NS = 1_000_000_000  # nanoseconds in a second

TEXT_CHARACTERS_MAX = 300  # of the service's words; ours: two lines of a terminal, 2026-11-21

FULL_FRACTION = 16
"""Memory is full when less than 1/16 of it is free. Ours, 2026-11-21: of the default 256 MiB that
is 16 MiB, which the largest request with what it holds besides needs, and no more."""


class ReadyState(Enum):
    STARTING = "starting"  # not everything is built and bound
    READY = "ready"  # clients are served
    DRAINING = (
        "draining"  # told to stop: clients are still served for a while, and none should come
    )


class ReadyMove(Enum):
    STARTED = "started"
    TOLD_TO_STOP = "told to stop"


_NEXT: dict[tuple[ReadyState, ReadyMove], ReadyState] = {
    (ReadyState.STARTING, ReadyMove.STARTED): ReadyState.READY,
    (ReadyState.STARTING, ReadyMove.TOLD_TO_STOP): ReadyState.DRAINING,
    (ReadyState.READY, ReadyMove.TOLD_TO_STOP): ReadyState.DRAINING,
}


class Readiness:
    """Whether clients should come. An illegal move raises KeyError and changes nothing."""

    __slots__ = ("_is_full", "_trouble", "state")

    def __init__(
        self, is_full: Callable[[], bool], trouble: Callable[[], str | None] = lambda: None
    ) -> None:
        """`is_full`: whether there is no room for more records now (`is_memory_full`, say).
        `trouble`: what else should keep clients away now (the spool's disk), for people; or None.
        """
        self._is_full = is_full
        self._trouble = trouble
        self.state = ReadyState.STARTING

    def started(self) -> None:
        """Listeners are bound. Not "the service was reached"."""
        self._move(ReadyMove.STARTED)

    def told_to_stop(self) -> None:
        """The lame duck begins; there is no way back."""
        self._move(ReadyMove.TOLD_TO_STOP)

    def why_not(self) -> str | None:
        """Why clients should stay away, in a few words; None: they may come."""
        if self.state is not ReadyState.READY:
            return str(self.state.value)
        if self._is_full():
            return "memory is full"
        trouble = self._trouble()
        return None if trouble is None else _said(trouble)

    def _move(self, move: ReadyMove) -> None:
        self.state = _NEXT[self.state, move]


def _principals(principals: Principals | None) -> PrincipalsStatus | None:
    if principals is None:
        return None
    problem = None if principals.problem is None else _said(principals.problem)
    return PrincipalsStatus(len(principals.keys), principals.reload_count, problem)


def is_memory_full(memory: ByteBudget) -> bool:
    """Whether a large request would find no room. Small ones may still be taken."""
    return memory.bytes_max - memory.bytes_taken < memory.bytes_max // FULL_FRACTION


class Status:
    """Makes the page. `listeners` is read anew each time; uptime counts from creation."""

    def __init__(
        self,
        observed: Observed,
        listeners: Mapping[str, HttpCounters],
        readiness: Readiness,
        heartbeat: Heartbeat,
        clock: Clock,
        version: str,
        spool: "Spool | None" = None,
        log_queue: LogQueue | None = None,
        relays: Mapping[str, Relay] = NO_RELAYS,
        principals: Principals | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self._observed = observed
        self._principals = principals
        self._certificates = certificates
        self._spool = spool
        self._log_queue = log_queue
        self._relays = relays
        self._listeners = listeners
        self._readiness = readiness
        self._heartbeat = heartbeat
        self._clock = clock
        self._version = version
        self._started_ns = clock.now_ns()

    def steps(self) -> Steps:
        """The page as indented JSON: a stream a step, read and written, those first that need
        somebody, with the most records; one of many shards takes more steps.
        """
        page, engines = self._page(), sorted(self._observed.engines(), key=_urgency)
        uptime_ns = self._clock.now_ns() - self._started_ns
        yield
        before, _, after = _json(page, b"\n").rpartition(b"[]")
        pieces: list[bytes] = []
        for name, engine in engines:
            stream = yield from _stream(name, engine, uptime_ns, self._clock.now_ns())
            pieces.append(_json(stream, b"\n    "))
            yield
        streams = b"[\n    %b\n  ]" % b",\n    ".join(pieces) if pieces else b"[]"
        return Page(200, b"%b%b%b\n" % (before, streams, after), JSON)

    def _page(self) -> StatusPage:
        """All but the streams."""
        observed, memory, now_ns = self._observed, self._observed.memory, self._clock.now_ns()
        queue = self._log_queue
        return StatusPage(
            version=self._version,
            uptime_s=_seconds(now_ns - self._started_ns),
            state=self._readiness.state.value,
            not_ready_because=self._readiness.why_not(),
            heartbeat_age_s=_seconds(self._heartbeat.age_ns(now_ns)),
            memory=MemoryStatus(memory.bytes_taken, memory.bytes_max, is_memory_full(memory)),
            spool=None if self._spool is None else _spool(self._spool),
            log=None if queue is None else LogStatus(queue.waiting, queue.lines_dropped),
            principals=_principals(self._principals),
            tls=None if self._certificates is None else _tls(self._certificates),
            listeners={name: _listener(counters) for name, counters in self._listeners.items()},
            door=DoorStatus(observed.door.received, _happened(observed.door.rejected)),
            upstreams=self._upstreams(),
            streams=[],
        )

    def _upstreams(self) -> list[UpstreamStatus]:
        of_each: dict[str, list[Engine]] = {each.name: [] for each in self._observed.upstreams}
        for name, engine in self._observed.engines():
            of_each[parse_qualified(name).upstream].append(engine)
        return [
            _upstream(each, of_each[each.name], self._relays.get(each.name))
            for each in self._observed.upstreams
        ]


def _upstream(
    upstream: SeenUpstream, engines: Sequence[Engine], relay: Relay | None
) -> UpstreamStatus:
    healths = {engine.health for engine in engines}
    health = next((each for each in (Health.WELL, Health.ILL) if each in healths), Health.UNTRIED)
    holds = [engine.hold for engine in engines if engine.hold is not None]
    counters = [engine.counters for engine in engines]
    return UpstreamStatus(
        name=upstream.name,
        service=upstream.service.name,
        region=upstream.region,
        account=upstream.account,
        health=health.value,
        streams=len(engines),
        on_hold=len(holds),
        hold=_hold(holds[0] if holds else None),
        buffered=sum(each.buffered for each in counters),
        in_flight_calls=sum(each.in_flight_calls for each in counters),
        delivered=upstream.closed.delivered + sum(each.delivered for each in counters),
        passed_on=None if relay is None else _passed_on(relay),
    )


def _json(value: object, line_break: bytes) -> bytes:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    return text if line_break == b"\n" else text.replace(b"\n", line_break)


def _urgency(named: tuple[str, Engine]) -> tuple[bool, int, str]:
    name, engine = named
    needs_nobody = engine.hold is None and engine.unavailable is None
    return needs_nobody, -engine.counters.buffered, name


def _passed_on(relay: Relay) -> PassedOnStatus:
    counters = list(relay.counters.values())
    refused = {why: sum(each.refused[why] for each in counters) for why in NotPassedOn}
    return PassedOnStatus(
        operations=list(relay.operations),
        waiting=relay.waiting_count,
        in_flight=relay.call_count,
        kept_bytes=relay.kept_bytes,
        requests=sum(each.requests for each in counters),
        refused=_happened(refused),
    )


def _tls(certificates: Certificates) -> TlsStatus:
    ends = datetime.fromtimestamp(certificates.expires_s, UTC)
    trouble = certificates.trouble
    return TlsStatus(
        certificate=printable(certificates.files.certificate, TEXT_CHARACTERS_MAX),
        expires=ends.isoformat(),
        faults=certificates.faults,
        reloads=certificates.reloads,
        reload_failures=certificates.failures,
        trouble=None if trouble is None else _said(trouble),
    )


def _spool(spool: "Spool") -> SpoolStatus:
    counters = spool.counters
    return SpoolStatus(
        frames=spool.frame_count,
        live_bytes=spool.space.live_bytes,
        file_bytes=spool.space.file_bytes,
        bytes_max=spool.space.bytes_max,
        trouble=None if spool.trouble is None else _said(str(spool.trouble)),
        commit_mean_s=_mean_s(counters.commit_duration_ns),
        commit_failures=counters.commit_failures,
        corrupt_frames=spool.corrupt_rows,
    )


def _stream(
    name: str, engine: Engine, uptime_ns: int, now_ns: int
) -> Generator[None, None, StreamStatus]:
    heat = yield from engine.heat(now_ns)
    counters = engine.counters
    lanes = (*engine.lanes, heat.keyless)
    heads_ns = [lane.queue[0].frame.accepted_ns for lane in lanes if lane.queue]
    called = parse_qualified(name)
    return StreamStatus(
        name=printable(called.name),
        upstream=called.upstream,
        hold=_hold(engine.hold),
        unavailable=_hold(engine.unavailable),
        spooled=counters.spooled,
        buffered=counters.buffered,
        keyless=heat.keyless.queued_records,
        in_flight=counters.in_flight,
        in_flight_calls=counters.in_flight_calls,
        held_bytes=engine.ledger.held_bytes,
        oldest_queued_s=_seconds(now_ns - min(heads_ns)) if heads_ns else None,
        received=counters.received,
        delivered=counters.delivered,
        rejected=_happened(counters.rejected),
        dead=_happened(counters.dead),
        attempts=counters.attempts,
        throttled_share=round(counters.throttled / max(1, counters.attempts), 4),
        possible_duplicates=counters.possible_duplicates,
        retries=_happened(counters.retries),
        failures=_happened(counters.failures),
        calls=_happened(counters.calls),
        call_mean_s=_mean_s(counters.call_duration_ns),
        delivery_mean_s=_mean_s(counters.delivery_ns),
        per_second=_rates(counters, uptime_ns),
        capacity=_capacity(engine.capacity),
        record_bytes_max=engine.record_bytes_max,
        is_auto=engine.is_auto,
        has_record_readers=engine.has_record_readers,
        shard_bytes_per_second=engine.shard_bytes_per_second,
        shard_map=MapStatus(
            engine.shard_count,
            counters.map_refreshes,
            counters.map_mismatches,
            engine.freshness.is_asking,
            _seconds(engine.freshness.due_at_ns - now_ns),
        ),
        shards_backlogged=heat.backlogged_count,
        hottest_shards=[_shard(shard, now_ns) for shard in heat.hottest(HOT_SHARDS_MAX)],
    )


def _capacity(capacity: Capacity | None) -> CapacityStatus | None:
    if capacity is None:
        return None
    return CapacityStatus(
        capacity.is_on_demand,
        capacity.warm_bytes_per_second,
        capacity.warm_target_bytes_per_second,
    )


def _shard(shard: ShardHeat, now_ns: int) -> ShardStatus:
    lane = shard.lane
    budget = lane.budget
    return ShardStatus(
        shard_id=None if lane.shard_id is None else printable(lane.shard_id),
        backlog=BacklogStatus(lane.backlog_records, lane.backlog_bytes, _seconds(shard.backlog_ns)),
        pace=PaceStatus(
            budget.records.rate,
            budget.bytes.rate,
            round(budget.records_share, 3),
            round(budget.bytes_share, 3),
        ),
        taken=lane.taken,
        throttled=lane.throttled,
        state=lane.state.value,
        backoff_s=_seconds(max(0, lane.blocked_until_ns - now_ns)),
        failures_in_a_row=lane.failure_count,
    )


def _hold(error: ServiceError | None) -> HoldStatus | None:
    if error is None:
        return None
    return HoldStatus(_said(error.code), _said(error.message))


def _said(text: str) -> str:
    """The first line of what a service says, or of what another wrote: safe to show, bounded."""
    line = next(iter(SECRETS.clean(text).splitlines()), "")
    return printable(line, TEXT_CHARACTERS_MAX)


def _listener(counters: HttpCounters) -> ListenerStatus:
    return ListenerStatus(
        connections=counters.open,
        opened=counters.opened,
        refused=_happened(counters.refused),
        timed_out=_happened(counters.timed_out),
        handler_failures=counters.handler_failures,
    )


def _rates(counters: StreamCounters, uptime_ns: int) -> RatesStatus:
    def per_second(count: int) -> float:
        return round(count * NS / max(1, uptime_ns), 1)

    return RatesStatus(
        per_second(counters.received),
        per_second(counters.delivered),
        per_second(counters.delivered_bytes),
    )


def _happened(counts: Mapping[Any, int]) -> dict[str, int]:
    """What is not 0, by the words of the metrics' labels."""
    return {
        (key.value if isinstance(key, Enum) else key): count
        for key, count in counts.items()
        if count
    }


def _mean_s(histogram: Histogram) -> float | None:
    """Of what a histogram of nanoseconds has seen; None: nothing."""
    count = sum(histogram.counts)
    return _seconds(histogram.sum // count) if count else None


def _seconds(duration_ns: int) -> float:
    return round(duration_ns / NS, 3)

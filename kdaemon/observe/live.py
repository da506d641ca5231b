"""The live page: one HTML page, and the events that it draws, a second apart.

About: `GET /events` of the admin listener, server-sent events (WHATWG HTML, 9.2), each with all
that the page shows; and the page itself (live_page.html) with the policy under which a browser
shows it. Counters are sent as they are: the browser makes rates of their differences. Holds no data
or secret; keys of hot shards as keys.py names them; what others wrote is cleaned, as in status.py.
Invariants: an event is made once for all who watch, in slices of the loop, and only while somebody
watches. Who does not read costs one event that all share: he misses those between, and the next one
that he takes is whole. In each event's `records`, for all streams and the door together,

    received + recovered = rejected + delivered + dead + dropped + settled_before
                           + buffered + in_flight + spooled

Bounds: VIEWERS_MAX watch; an event tells of STREAMS_MAX streams, those first that need somebody.
Cost (one core, 2026-11-28): of 1,000 streams 23 ms an event, in steps of half a millisecond.
Flow: snapshot.py -> here -> http/pieces.py, admin.py.
"""

import asyncio
import base64
import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path

import msgspec

from kdaemon.base.counters import StreamCounts
from kdaemon.base.ports import Clock
from kdaemon.base.redact import harmless_line
from kdaemon.base.steps import Steps
from kdaemon.base.text import printable
from kdaemon.engine.snapshot import Reason
from kdaemon.http.pieces import Pieces
from kdaemon.http.request import HttpRequest
from kdaemon.observe.page import MemoryStatus, ShardStatus, UpstreamStatus
from kdaemon.observe.remedies import remedy
from kdaemon.observe.slices import NO_STORE, SLICE_NS, TEXT
from kdaemon.observe.snapshot import Snapshot, SnapshotReader, SpoolSnapshot, StreamSnapshot
from kdaemon.observe.status import NS, hold_of, seconds_of, shard_of, upstreams_of, urgency

INTERVAL_S = 1.0  # between two events; ours, 2026-11-28: what an eye follows
VIEWERS_MAX = 8  # at one time: a wall, and some who look; of the listener's 64 places; ours
STREAMS_MAX = 50  # of an event: 16 KB, and 2 for each hot shard; ours, 2026-11-28
RETRY_MS = 2000  # a browser that lost the daemon asks again after so long; ours

PAGE = Path(__file__).with_name("live_page.html")
EVENT_STREAM = b"text/event-stream"
HTML = b"text/html; charset=utf-8"
NO_SNIFF = (b"X-Content-Type-Options", b"nosniff")

_MANY = b"%d watch already: close one of the pages.\n" % VIEWERS_MAX
_RETRY = (b"Retry-After", b"5")

log = logging.getLogger("kdaemon.observe")


@dataclass(frozen=True, slots=True)
class LiveHold:
    """Why nothing can be sent, or is taken. `remedy`: what to do; None: nobody knows one."""

    code: str
    message: str
    remedy: str | None


@dataclass(frozen=True, slots=True)
class LiveStream:
    """`key`: unique in the daemon. Counts since the start; the rest as it stands."""

    key: str
    name: str
    upstream: str
    health: str
    hold: LiveHold | None
    unavailable: LiveHold | None
    buffered: int
    in_flight: int
    in_flight_calls: int
    received: int
    delivered: int
    delivered_bytes: int
    throttled: int
    dead: int
    oldest_queued_s: float | None
    shards: int
    shards_backlogged: int
    hottest_shards: list[ShardStatus]


@dataclass(frozen=True, slots=True)
class LiveRecords:
    """Of all streams, closed ones too, and the door. `dead`, `rejected`: by reason, not 0."""

    received: int
    received_bytes: int
    recovered: int
    rejected: dict[str, int]
    delivered: int
    delivered_bytes: int
    dead: dict[str, int]
    dropped: dict[str, int]
    settled_before: int
    buffered: int
    in_flight: int
    in_flight_calls: int
    spooled: int
    attempts: int
    throttled: int
    retried: int


@dataclass(frozen=True, slots=True)
class LiveDelivery:
    """Records by the time from acceptance to delivery. `counts` has one more, without a bound."""

    bounds_s: list[float]
    counts: list[int]


@dataclass(frozen=True, slots=True)
class LiveSpool:
    live_bytes: int
    bytes_max: int
    frames: int
    trouble: str | None


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """`streams`: at most STREAMS_MAX of `stream_count`."""

    version: str
    uptime_s: float
    state: str
    not_ready_because: str | None
    memory: MemoryStatus
    spool: LiveSpool | None
    records: LiveRecords
    delivery: LiveDelivery
    upstreams: list[UpstreamStatus]
    stream_count: int
    held_count: int
    streams: list[LiveStream]


class LivePage:
    """The HTML, and the headers that it is served with."""

    def __init__(self) -> None:
        text = PAGE.read_text(encoding="utf-8")
        self.body = text.encode()
        policy = (
            "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none';"
            f" frame-ancestors 'none'; style-src '{_hash(text, 'style')}';"
            f" script-src '{_hash(text, 'script')}'"
        )
        self.headers = (
            NO_STORE,
            (b"Content-Security-Policy", policy.encode()),
            NO_SNIFF,
            (b"Referrer-Policy", b"no-referrer"),
            (b"Vary", b"Accept"),
        )

    def give(self, request: HttpRequest) -> None:
        request.respond(200, self.body, content_type=HTML, headers=self.headers)


def _hash(text: str, tag: str) -> str:
    """Of the one element of this kind, as a Content-Security-Policy names it (CSP 3, 2.3.1)."""
    found = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert len(found) == 1, f"the page has {len(found)} elements {tag}"
    return "sha256-" + base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()


class _Viewer:
    """One who watches: a `PieceSource`."""

    __slots__ = ("_is_over", "_live", "_seen", "pieces")

    def __init__(self, live: "Live") -> None:
        self._live = live
        self._seen = 0  # the number of the event that was taken last
        self._is_over = False
        self.pieces: Pieces | None = None

    def next_piece(self) -> bytes | None:
        if self._is_over:
            self._live.leave(self)
            return None
        number, event = self._live.newest
        if number == self._seen:
            return b""
        self._seen = number
        return event

    def drain(self) -> None:
        self._is_over = True
        if self.pieces is not None:
            self.pieces.wake()

    def gone(self) -> None:
        self._live.leave(self)

    def wake(self) -> None:
        if self.pieces is not None:
            self.pieces.wake()


class Live:
    """All who watch one daemon. In the loop's thread only."""

    def __init__(self, reader: SnapshotReader, clock: Clock, *, shows_keys: bool = False) -> None:
        """`shows_keys`: of hot shards, as text; otherwise hashed."""
        self._reader = reader
        self._clock = clock
        self._shows_keys = shows_keys
        self._viewers: list[_Viewer] = []
        self.newest = (0, b"")  # number and bytes of an event; 0: there is none yet
        self._number = 0
        self._steps: Steps[bytes] | None = None
        self._next: asyncio.Handle | None = None  # the next slice, or the next event

    @property
    def viewer_count(self) -> int:
        return len(self._viewers)

    def ask(self, request: HttpRequest) -> None:
        """Answers at once, and goes on until its client leaves or the listener drains."""
        headers = (NO_STORE, NO_SNIFF)
        if request.method == "HEAD":
            request.respond(200, b"", content_type=EVENT_STREAM, headers=headers)
            return
        if len(self._viewers) >= VIEWERS_MAX:
            request.respond(503, _MANY, content_type=TEXT, headers=(*headers, _RETRY))
            return
        viewer = _Viewer(self)
        self._viewers.append(viewer)
        viewer.pieces = request.respond_in_pieces(
            200, viewer, content_type=EVENT_STREAM, headers=headers
        )
        if self._next is None and self._viewers:
            self._next = asyncio.get_running_loop().call_soon(self._begin)

    def leave(self, viewer: _Viewer) -> None:
        """Of no effect for who has left. With the last one, no event is made any more."""
        if viewer in self._viewers:
            self._viewers.remove(viewer)
        if not self._viewers:
            self._stop()

    def close(self) -> None:
        """Who watches sees the end of the answer."""
        self._stop()
        for viewer in self._viewers[:]:
            viewer.drain()

    def _stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next, self._steps = None, None
        self.newest = (0, b"")  # the next who comes is told nothing old

    def _begin(self) -> None:
        self._steps = event_steps(self._reader, shows_keys=self._shows_keys)
        self._slice()

    def _slice(self) -> None:
        assert self._steps is not None
        loop, until_ns = asyncio.get_running_loop(), self._clock.now_ns() + SLICE_NS
        try:
            while self._clock.now_ns() < until_ns:
                next(self._steps)
        except StopIteration as end:
            self._number += 1
            self.newest = (self._number, end.value)
            self._steps = None
            self._next = loop.call_later(INTERVAL_S, self._begin)
            for viewer in self._viewers[:]:
                viewer.wake()
        except Exception:
            log.exception("an event of the live page could not be made: a defect of kdaemon")
            self.close()
        else:
            self._next = loop.call_soon(self._slice)


def event_steps(reader: SnapshotReader, *, shows_keys: bool = False) -> Steps[bytes]:
    """One event as the wire has it: a field `data` of one line, since JSON breaks none."""
    snapshot = yield from reader.read()
    records, counts = yield from _sums(snapshot)
    upstreams = upstreams_of(snapshot)
    yield
    held_count = sum(each.engine.hold is not None for each in snapshot.streams)
    shown = nsmallest(STREAMS_MAX, snapshot.streams, key=urgency)
    memory, bounds = snapshot.memory, snapshot.door.delivery_ns.bounds
    event = LiveEvent(
        version=snapshot.version,
        uptime_s=seconds_of(snapshot.uptime_ns),
        state=snapshot.state.value,
        not_ready_because=snapshot.why_not_ready,
        memory=MemoryStatus(memory.held_bytes, memory.bytes_max, memory.is_full),
        spool=None if snapshot.spool is None else _spool(snapshot.spool),
        records=records,
        delivery=LiveDelivery([bound / NS for bound in bounds], counts),
        upstreams=upstreams,
        stream_count=len(snapshot.streams),
        held_count=held_count,
        streams=[],
    )
    yield
    left = [*snapshot.streams]
    del snapshot  # its streams go one by one: to free all at once takes long
    while left:
        left.pop()
        yield
    for stream in shown:
        event.streams.append(_stream(stream, shows_keys=shows_keys))
        yield
    return b"retry: %d\ndata: %b\n\n" % (RETRY_MS, msgspec.json.encode(event))


def _sums(snapshot: Snapshot) -> Steps[tuple[LiveRecords, list[int]]]:
    """Everything that was counted, and the records by time to delivery."""
    plain = dict.fromkeys(_PLAIN, 0)
    by_reason: dict[str, dict[str, int]] = {"rejected": {}, "dead": {}, "dropped": {}}
    retried, times = 0, [0] * len(snapshot.door.delivery_ns.counts)
    for counts in _counted(snapshot):
        for name in _PLAIN:
            plain[name] += getattr(counts, name)
        for name, sums in by_reason.items():
            for reason, count in getattr(counts, name).items():
                if count:
                    sums[reason.value] = sums.get(reason.value, 0) + count
        retried += sum(counts.retries.values())
        times = [a + b for a, b in zip(times, counts.delivery_ns.counts, strict=True)]
        yield
    return LiveRecords(**plain, **by_reason, retried=retried), times  # type: ignore[arg-type]


_PLAIN = (
    *("received", "received_bytes", "recovered", "delivered", "delivered_bytes"),
    *("settled_before", "buffered", "in_flight", "in_flight_calls", "spooled"),
    *("attempts", "throttled"),
)


def _counted(snapshot: Snapshot) -> Iterable[StreamCounts]:
    yield snapshot.door
    yield from (upstream.closed for upstream in snapshot.upstreams)
    yield from (stream.engine.counters for stream in snapshot.streams)


def _stream(stream: StreamSnapshot, *, shows_keys: bool) -> LiveStream:
    engine, called, counters = stream.engine, stream.called, stream.engine.counters
    oldest_ns = engine.shards.oldest_ns
    return LiveStream(
        key=printable(stream.name),
        name=printable(called.name),
        upstream=called.upstream,
        health=engine.health.value,
        hold=_hold(engine.hold),
        unavailable=_hold(engine.unavailable),
        buffered=counters.buffered,
        in_flight=counters.in_flight,
        in_flight_calls=counters.in_flight_calls,
        received=counters.received,
        delivered=counters.delivered,
        delivered_bytes=counters.delivered_bytes,
        throttled=counters.throttled,
        dead=sum(counters.dead.values()),
        oldest_queued_s=None if oldest_ns is None else seconds_of(engine.read_ns - oldest_ns),
        shards=engine.shard_count,
        shards_backlogged=engine.shards.backlogged_count,
        hottest_shards=[
            shard_of(shard, engine, shows_keys=shows_keys) for shard in stream.hottest()
        ],
    )


def _hold(reason: Reason | None) -> LiveHold | None:
    told = hold_of(reason)
    if reason is None or told is None:
        return None
    return LiveHold(told.code, told.message, remedy(reason.code, reason.message))


def _spool(spool: SpoolSnapshot) -> LiveSpool:
    trouble = None if spool.trouble is None else harmless_line(spool.trouble)
    return LiveSpool(spool.live_bytes, spool.bytes_max, spool.frame_count, trouble)

"""The admin pages of a supervisor: they show its workers as one daemon.

About: asking the workers before a page is made, and one listener for all workers. The pages are
those of a lone daemon (observe/admin.py), made from one snapshot that observe/merged.py merges from
the workers' snapshots. In `/metrics` each worker has its own series. Probes are answered at once,
from what is known.
Invariants: a page shows no state from before its request. A worker that does not answer, or whose
answer cannot be used, is left out of the sums, and the page says so and why; the page is made.
Where it sits: supervisor.py -> here -> crew.py, observe/.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kdaemon import __version__
from kdaemon.base.counting import StreamCounters
from kdaemon.base.histogram import Histogram
from kdaemon.base.memory import ByteBudget
from kdaemon.base.steps import Steps, at_once
from kdaemon.config import Config
from kdaemon.daemon.crew import Answered, Crew
from kdaemon.daemon.hubs import Hubs
from kdaemon.daemon.listeners import Listeners
from kdaemon.daemon.member import Member, State
from kdaemon.daemon.taps import WorkersTaps
from kdaemon.http.request import HttpRequest
from kdaemon.observe.admin import Admin
from kdaemon.observe.heartbeat import Heartbeat
from kdaemon.observe.live_event import SHARDS_MAX
from kdaemon.observe.logs import LogHandler
from kdaemon.observe.merged import merged
from kdaemon.observe.metrics import Metrics, Workers
from kdaemon.observe.readiness import Readiness
from kdaemon.observe.reading import SeenEngine, SeenUpstream, SnapshotReader, Sources
from kdaemon.observe.reloads import Reloads
from kdaemon.observe.snapshot import HOT_SHARDS_MAX, Snapshot, StreamSnapshot, WorkerSnapshot
from kdaemon.system import SystemClock

log = logging.getLogger("kdaemon")

PAGE_TIMEOUT_S = 3.0
"""For one worker's answer: a scraper waits 10 s by default, and should still get the answers of the
other workers. Ours, 2026-11-28."""


class _NoStreams:
    """The streams of a supervisor: none. As `snapshot.Observed`."""

    def __init__(self, loop_lag: Histogram) -> None:
        self.memory = ByteBudget(0)
        self.loop_lag = loop_lag
        self.door = StreamCounters()
        self.upstreams: tuple[SeenUpstream, ...] = ()

    def engines(self) -> tuple[tuple[str, SeenEngine], ...]:
        return ()


class _Gathered:
    """The last answers of the workers, for pages of one kind. As `snapshot.Reader`."""

    def __init__(self, own: SnapshotReader, workers: Callable[[], Sequence[Member]]) -> None:
        self._own = own
        self._workers = workers
        self.parts: list[tuple[Member, Snapshot]] = []
        self._why_not: dict[Member, str] = {}  # of the workers that gave no answer
        self._asked_count = 0
        self._taken = 0  # the number of the questions whose answers these are

    def asked(self) -> int:
        """The number of the questions that are asked now."""
        self._asked_count += 1
        return self._asked_count

    def take(self, number: int, answers: Mapping[Member, Answered]) -> None:
        """Takes the answers to these questions, if it has none to later questions."""
        if number < self._taken:
            return
        self._taken = number
        self.parts, self._why_not = [], {}
        for member, each in answers.items():
            if each.why_not is None and each.parts:
                self.parts.append((member, _whole(each.parts)))
            else:
                self._why_not[member] = each.why_not or "it told nothing"

    def read(self, _shards_max: int | None = HOT_SHARDS_MAX, _calm_max: int = 0) -> Steps[Snapshot]:
        """Merges the last answers: they have as many shards as the workers were asked for."""
        own = yield from self._own.read()
        told, why_not = dict(self.parts), self._why_not
        workers = tuple(
            _worker(each, told.get(each), why_not.get(each)) for each in self._workers()
        )
        return (yield from merged(own, list(told.values()), workers))

    @property
    def stream_count(self) -> int:
        return len({stream.name for _, part in self.parts for stream in part.streams})

    def by_worker(self) -> Workers:
        """What the answers are, worker by worker."""
        parts = [(str(member.number), part) for member, part in self.parts]
        return Workers(at_once(self._own.read()), parts)


def _connections(told: Snapshot) -> int:
    return sum(each.open for each in told.listeners.values())


def _worker(member: Member, told: Snapshot | None, why_not: str | None) -> WorkerSnapshot:
    return WorkerSnapshot(
        number=member.number,
        is_heir=member.is_heir,
        pid=member.pid if member.is_running else 0,
        state=member.state.value,
        is_serving=member.state is State.SERVING and told is not None,
        why_not_ready=member.why_not_ready,
        why_not_told=why_not,
        uptime_ns=SystemClock.now_ns() - member.began_ns if member.is_running else 0,
        restarts=member.restarts.count,
        connections=member.open_count if told is None else _connections(told),
        handed=member.handed_ever,
        memory_bytes=0 if told is None else told.memory.bytes_taken,
        delivered=0 if told is None else told.delivered,
    )


class Pages:
    """The admin pages of one supervisor."""

    def __init__(
        self,
        config: Config,
        clock: SystemClock,
        crew: Crew,
        listeners: Listeners,
        readiness: Readiness,
        heartbeat: Heartbeat,
        reloads: Reloads,
        logs: LogHandler,
        loop_lag: Histogram,
    ) -> None:
        self._config = config
        self._crew = crew
        self._listeners = listeners
        self._asking: set[asyncio.Task[None]] = set()
        sources = Sources(
            _NoStreams(loop_lag),
            readiness,
            heartbeat,
            __version__,
            listeners=listeners.counters,
            log_queue=logs.queue,
            recent=logs.recent,
            reloads=reloads,
        )
        own = SnapshotReader(sources, clock)
        self._metrics_of, self._status_of, self._events_of = (
            _Gathered(own, lambda: crew.all) for _ in range(3)
        )
        self._metrics = Metrics(
            self._metrics_of,
            per_shard=config.metrics.per_shard,
            workers=self._metrics_of.by_worker,
        )
        self._taps = WorkersTaps(crew, is_on=config.listen.admin_tap)
        self._admin = Admin(
            self._metrics,
            _ByPage(self._status_of, self._events_of),
            readiness,
            heartbeat,
            clock,
            reloads,
            self._taps,
            shows_keys=config.observe.show_keys,
            ahead=self._before_event,
        )

    async def open(self, hubs: Hubs) -> None:
        """Listens for requests, if the configuration has admin pages. Raises ListenerError."""
        address = self._config.listen.admin_address
        if address is not None:
            hub = hubs.admin(address)
            await self._listeners.listen("admin", address, self._handle, hub)

    def close(self) -> None:
        """Answers no more, and forgets what was asked of workers."""
        self._admin.close()
        for asking in self._asking:
            asking.cancel()

    def take_config(self, new: Config) -> None:
        """Takes the settings of what is shown, and to whom."""
        self._config = new
        self._metrics.per_shard = new.metrics.per_shard
        self._admin.show_keys(is_on=new.observe.show_keys)
        self._taps.allow(is_on=new.listen.admin_tap)

    def _handle(self, request: HttpRequest) -> None:
        if request.path == "/metrics":
            shards_max = None if self._metrics.per_shard else HOT_SHARDS_MAX
            self._ahead(self._metrics_of, shards_max, 0, lambda: self._admin.handle(request))
        elif request.path == "/statusz":
            self._ahead(self._status_of, HOT_SHARDS_MAX, 0, lambda: self._admin.handle(request))
        else:
            self._admin.handle(request)

    def _before_event(self, then: Callable[[], object]) -> asyncio.Task[None]:
        return self._ahead(self._events_of, SHARDS_MAX, SHARDS_MAX, then)

    def _ahead(
        self,
        gathered: _Gathered,
        shards_max: int | None,
        calm_max: int,
        then: Callable[[], object],
    ) -> asyncio.Task[None]:
        """Asks the workers, and calls `then` when each has answered or has not within the
        timeout.
        """

        async def ask() -> None:
            number = gathered.asked()
            answers = await self._crew.ask(
                "snapshot", shards_max, calm_max, timeout_s=PAGE_TIMEOUT_S
            )
            gathered.take(number, answers)
            then()

        asking = asyncio.get_running_loop().create_task(ask())
        self._asking.add(asking)
        asking.add_done_callback(self._asked)
        return asking

    def _asked(self, asking: asyncio.Task[None]) -> None:
        self._asking.discard(asking)
        error = None if asking.cancelled() else asking.exception()
        if error is not None:
            log.error("a page could not be made: a defect of kdaemon", exc_info=error)


class _ByPage:
    """Reads for the status page or for the live page, which ask for different shards: only live
    events ask for calm ones, too. As `snapshot.Reader`.
    """

    def __init__(self, status: _Gathered, events: _Gathered) -> None:
        self._status, self._events = status, events

    def read(self, shards_max: int | None = HOT_SHARDS_MAX, calm_max: int = 0) -> Steps[Snapshot]:
        gathered = self._events if calm_max else self._status
        return gathered.read(shards_max, calm_max)

    @property
    def stream_count(self) -> int:
        return self._events.stream_count


def _whole(parts: list[Any]) -> Snapshot:
    """Puts a snapshot together: the first part is everything but the streams."""
    head: Snapshot = parts[0]
    streams: list[StreamSnapshot] = parts[1:]
    return msgspec.structs.replace(head, streams=tuple(streams), reloads=None)

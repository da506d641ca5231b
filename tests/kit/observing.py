"""What those who look see, without the streams and listeners of a daemon behind it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kdaemon.base.counters import RefuseReason
from kdaemon.base.counting import StreamCounters
from kdaemon.base.histogram import LAG_BOUNDS_NS, Histogram
from kdaemon.base.memory import ByteBudget
from kdaemon.base.ports import Clock
from kdaemon.engine import Engine
from kdaemon.observe.heartbeat import Heartbeat
from kdaemon.observe.readiness import Readiness
from kdaemon.observe.reading import SnapshotReader, Sources
from kdaemon.streams import Streams
from tests.kit.upstreams import SeenUpstream
from tests.kit.world import World


@dataclass
class Observing:
    """Stands where `streams/registry.py` stands."""

    memory: ByteBudget
    streams: dict[str, Engine] = field(default_factory=dict)
    door: StreamCounters = field(default_factory=StreamCounters)
    upstreams: list[SeenUpstream] = field(default_factory=lambda: [SeenUpstream()])
    loop_lag: Histogram = field(default_factory=lambda: Histogram(LAG_BOUNDS_NS))

    def engines(self) -> Iterable[tuple[str, Engine]]:
        return self.streams.items()


class At:
    """A clock that reads a world's time."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now_ns(self) -> int:
        return self._world.now_ns


def reader_of(observing: Observing, clock: Clock, **rooms: Any) -> SnapshotReader:
    """`rooms`: as the fields of `Sources`; without them what a daemon has at least."""
    rooms.setdefault("readiness", Readiness(lambda: False))
    rooms.setdefault("heartbeat", Heartbeat(clock))
    rooms.setdefault("version", "1.2.3")
    return SnapshotReader(Sources(observing, **rooms), clock)


def delivered_by(streams: Streams) -> int:
    """Records, since the start."""
    closed = sum(upstream.closed.delivered for upstream in streams.upstreams)
    return closed + sum(engine.counters.delivered for _, engine in streams.engines())


def undelivered_by(streams: Streams) -> int:
    """Records that are queued or in flight now, or were given up by a drain."""
    counters = [upstream.closed for upstream in streams.upstreams]
    counters += [engine.counters for _, engine in streams.engines()]
    return sum(
        each.buffered + each.in_flight + each.rejected[RefuseReason.DRAINING] for each in counters
    )

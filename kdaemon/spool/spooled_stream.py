"""One stream between disk and engine: where its frames are, and what they wait for. Values only.

Knows no store and no engine's insides.
Queue: `ahead`, frames that were read and are not passed on yet. Bound: one read.
Where it sits: `delivery.py` moves it; `streams/stream.py` is its `Target`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kdaemon.base.counting import StreamCounters
from kdaemon.base.frame import Frame
from kdaemon.base.names import parse_qualified
from kdaemon.base.ports import Clock
from kdaemon.engine.health import Health
from kdaemon.engine.ways import Queued, Way
from kdaemon.spool.left import Left
from kdaemon.spool.read_position import ReadPosition
from kdaemon.spool.room import Share
from kdaemon.spool.values import StoredFrame


class WallClock(Clock, Protocol):
    """Monotonic time, and the time of day, which is kept on disk."""

    def wall_seconds(self) -> float: ...


def unix_ms(clock: WallClock) -> int:
    """Milliseconds since 1970."""
    return int(clock.wall_seconds() * 1000)


def upstream_of(stream: str) -> str:
    """The upstream of a stream, from the name that the spool has for the stream."""
    return parse_qualified(stream).upstream


class Target(Protocol):
    """A stream whose frames the spool stores and delivers (`streams/stream.py`)."""

    @property
    def name(self) -> str: ...

    @property
    def is_listed(self) -> bool:
        """Whether the configuration names the stream."""
        ...

    @property
    def counters(self) -> StreamCounters: ...

    @property
    def drops_oldest(self) -> bool:
        """Whether a full spool makes room by dropping the frames that have waited longest."""
        ...

    @property
    def health(self) -> Health:
        """Whether the stream's calls succeed, as far as is known."""
        ...

    @property
    def map_count(self) -> int:
        """The count of the map of shards by which `ways` goes."""
        ...

    def is_calm(self, free_bytes: int) -> bool:
        """Whether the stream has so little in memory that no shard can have much of it.
        `free_bytes`: of memory, that the spool may still give to the stream.
        """
        ...

    def is_crowded(self, free_bytes: int) -> bool:
        """Whether a shard may be full, or no record goes now: then `ways` says more. Costs as much
        as routing some records.
        """
        ...

    def ways(self, frame: Frame, queued: Queued, free_bytes: int) -> list[Way] | None:
        """Where the frame's records would go, and for which shards there is no room; None: there is
        no room for any, as in an outage. `queued`: the records that the spool gave, by shard.
        """
        ...

    def low_shards(self, queued: Queued, free_bytes: int) -> tuple[set[str | None], int] | None:
        """(The shards for which frames are to be read; if there are none, in how many nanoseconds
        to ask again). None: all shards take what comes.
        """
        ...

    def submit_spooled(self, frame: Frame) -> bool:
        """Takes a frame that stands in the spool; returns False if there is no room for the
        frame.
        """
        ...

    def when_settled(self, callback: Callable[[], object]) -> None:
        """Calls back once when a record has settled and there may be room."""
        ...


@dataclass(slots=True, eq=False)
class Scan:
    """Frames after `at_id` and up to `until_id`, in order. `is_again`: for the records that were
    left of them. `at_id`: frames up to it were passed on; `end_id`: frames up to it were read.
    `record_count`: records that were read; `handed_count`: of these, those that were handed over.
    """

    at_id: int
    until_id: int
    is_again: bool
    end_id: int = 0
    record_count: int = 0
    handed_count: int = 0


@dataclass(slots=True, eq=False)
class SpooledStream:
    """One stream's frames between disk and engine. `share`: the memory that they have. `ahead`:
    frames that were read and are not passed on yet, each with the bits of the records that must not
    be sent; bound: one read. `in_hand`: frames that wait for their commit, or that the engine has.
    `stored_bytes`: about the bytes of its rows. `counted_until`: up to this id, records that
    settled before the start are counted.
    """

    target: Target
    share: Share
    upstream: str = field(init=False)
    position: ReadPosition = field(default_factory=ReadPosition)
    left: Left = field(default_factory=Left)
    scan: Scan | None = None
    ahead: deque[tuple[StoredFrame, int]] = field(default_factory=deque)
    in_hand: int = 0
    stored_bytes: int = 0
    counted_until: int = 0
    is_crowded: bool = False  # at the last look; the next look is after so many records:
    next_look_count: int = 0
    pause_s: float = 0.0  # after the last scan, if too little of it could be handed over
    is_reading: bool = False  # a read is under way, or a drop of its oldest frames
    is_dropping: bool = False
    is_pausing: bool = False  # until the timer ends the pause
    is_waiting_for_room: bool = False
    is_turn_due: bool = False  # the rest of `ahead` is passed on in the next turn
    is_called_back: bool = False  # `when_settled` was asked; once at a time
    timer: asyncio.TimerHandle | None = None  # the end of a wait

    def __post_init__(self) -> None:
        self.upstream = upstream_of(self.target.name)

    @property
    def is_passed_on(self) -> bool:
        """Whether no record of it stands only on disk."""
        return self.position.is_read and self.left.is_empty

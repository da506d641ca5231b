"""One stream between disk and engine: what of it is where, and what it waits for. Values only.

`delivery.py` moves it. Queue: `ahead`, what was read and is not passed on yet. Bound: one read.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kdaemon.base.counters import StreamCounters
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
    """Monotonic time, and the time of day for what is kept on disk."""

    def wall_seconds(self) -> float: ...


def unix_ms(clock: WallClock) -> int:
    """Milliseconds since 1970."""
    return int(clock.wall_seconds() * 1000)


def upstream_of(stream: str) -> str:
    """By what the spool calls the stream."""
    return parse_qualified(stream).upstream


class Target(Protocol):
    """A stream that is stored for and delivered to (`streams.py`)."""

    @property
    def name(self) -> str: ...

    @property
    def counters(self) -> StreamCounters: ...

    @property
    def drops_oldest(self) -> bool:
        """Whether a full spool makes room by dropping what has waited longest."""
        ...

    @property
    def health(self) -> Health:
        """Whether its calls succeed, as far as is known."""
        ...

    @property
    def map_count(self) -> int:
        """Which map of the shards `ways` goes by."""
        ...

    def is_calm(self, free_bytes: int) -> bool:
        """Whether it holds so little that no shard can have much of it. `free_bytes`: of memory,
        that the spool may still give to it.
        """
        ...

    def is_crowded(self, free_bytes: int) -> bool:
        """Whether a shard may be full, or nothing goes now: then `ways` says more. Costs as much as
        some records.
        """
        ...

    def ways(self, frame: Frame, queued: Queued, free_bytes: int) -> list[Way] | None:
        """Where the frame's records would go, and for which shards there is no room; None: there is
        none for any, as in an outage. `queued`: what the spool gave.
        """
        ...

    def low_shards(self, queued: Queued, free_bytes: int) -> tuple[set[str | None], int] | None:
        """Which shards are to be read for, and in how many nanoseconds to ask again if there is
        none; None: all take what comes.
        """
        ...

    def submit_spooled(self, frame: Frame) -> bool:
        """Takes a frame that stands in the spool; False if there is no room for it."""
        ...

    def when_settled(self, callback: Callable[[], object]) -> None:
        """Calls back once when something has settled and there may be room."""
        ...


@dataclass(slots=True, eq=False)
class Scan:
    """Frames after `at_id` and up to `until_id`, in order. `is_again`: for what was left of them.
    `at_id`: passed on up to that, `end_id`: read up to that. Of the records that were read so many
    were handed over.
    """

    at_id: int
    until_id: int
    is_again: bool
    end_id: int = 0
    record_count: int = 0
    handed_count: int = 0


@dataclass(slots=True, eq=False)
class SpooledStream:
    """One stream's frames between disk and engine. `share`: what these have of the memory. `ahead`:
    read, and not passed on yet, each with the bits of what is not to be sent; bound: one read.
    `in_hand`: frames that wait for their commit, or that its engine has. `stored_bytes`: of its
    rows, about. `counted_until`: up to this id, what was settled before the start is counted.
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
    is_crowded: bool = False  # at the last look; the next one after so many records:
    next_look_count: int = 0
    pause_s: float = 0.0  # after the last scan, of which too little could be handed over
    is_reading: bool = False  # or its oldest frames are being dropped
    is_dropping: bool = False
    is_pausing: bool = False  # until the timer ends that, nothing else
    is_waiting_for_room: bool = False
    is_turn_due: bool = False  # the rest of `ahead` in the next turn
    is_called_back: bool = False  # when something settles; asked for once at a time
    timer: asyncio.TimerHandle | None = None  # the end of a wait

    def __post_init__(self) -> None:
        self.upstream = upstream_of(self.target.name)

    @property
    def is_passed_on(self) -> bool:
        """Nothing of it stands on disk only."""
        return self.position.is_read and self.left.is_empty

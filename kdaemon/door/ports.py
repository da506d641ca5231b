"""What the gateways ask of the streams behind them. `streams.py` is the real thing.

Only words, so that the door and send do not import each other.
"""

from collections.abc import Callable
from typing import Protocol

from kdaemon.base.counters import RejectReason, StreamCounters
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.config import StreamConfig


class Stream(Protocol):
    """One stream, as its clients' side uses it."""

    @property
    def config(self) -> StreamConfig: ...

    @property
    def acknowledge(self) -> Acknowledge:
        """What an acknowledgement means where the client does not choose."""
        ...

    @property
    def unix_acknowledge(self) -> Acknowledge:
        """The same for lines on the Unix socket."""
        ...

    @property
    def deadline_ns(self) -> int:
        """How long a client that waits for delivery waits at most."""
        ...

    @property
    def record_bytes_max(self) -> int:
        """Data + partition key of one record: the stream's own limit once it is known."""
        ...

    def refusal(self) -> ServiceError | None:
        """Why a waiting client should hear no at once."""
        ...

    @property
    def unavailable(self) -> ServiceError | None:
        """Why no record is taken at all now, whatever its client waits for (order is configured,
        and the stream cannot keep it, say); its code and text are for the client.
        """
        ...

    def submit(self, frame: Frame, is_patient: bool = False) -> bool:
        """Takes a checked frame; False, and nothing was taken, if there is no room.

        There may be room for a part: records whose shard's queue is full are then refused, and
        stand with a result in `frame.results` when this returns, while the rest is taken; False
        means that none was, and all are counted as refused. `is_patient`: the client is held back
        instead. Nothing is refused or taken unless all of it fits; False then counts nothing.
        """
        ...

    def store(self, frame: Frame) -> bool:
        """Takes a checked frame to disk, and calls its client back after the commit; False, and
        nothing was taken, if there is no room. Raises RejectedRecord.
        """
        ...

    def bury_dead_of(self, frame: Frame) -> None:
        """To be called when a frame settles whose client was told long before."""
        ...

    def has_room(self, held_bytes: int) -> bool: ...

    def when_room(self, callback: Callable[[], None]) -> None:
        """Calls back once when there may be room again."""
        ...

    def reject(self, reason: RejectReason, record_count: int, byte_count: int) -> None:
        """Counts records that were refused at the door."""
        ...


class Streams(Protocol):
    """All of them."""

    @property
    def door(self) -> StreamCounters:
        """Counts what is refused before its stream is known."""
        ...

    def find(self, name: str) -> Stream:
        """By name or ARN. Raises RejectedRecord if nobody may write to it here."""
        ...

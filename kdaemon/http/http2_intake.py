"""What one HTTP/2 connection sends, frame by frame: what each frame means, and what all may cost.

Knows frames, the library that reads them, and the memory of raw input; nothing of requests, turns
or sockets.
Invariants: nothing that a client sends raises out of here; a frame is judged before the library
sees it; raw input that waits is counted among what arrives (arrivals.py).
Where it sits: http2.py adds what it read and takes one frame at a time; http2_frames.py finds the
frames, http2_core.py reads them.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import msgspec
from h2.exceptions import DenialOfServiceError, ProtocolError

from kdaemon.http.arrivals import Kept
from kdaemon.http.http2_core import LIST_TIMES_MAX, Http2Core
from kdaemon.http.http2_frames import (
    CONTINUATION,
    DATA,
    GOAWAY,
    PRIORITY,
    PROTOCOL_ERROR,
    SETTINGS,
    Broken,
    Effort,
    Frame,
    Frames,
)
from kdaemon.http.hub import HttpHub

_NO_SETTINGS = Broken(PROTOCOL_ERROR, "The first frame is not SETTINGS.")
_NOTHING: Sequence[Any] = ()


class Taken(msgspec.Struct, frozen=True, gc=False):
    """A frame, read. `events`: what the library says of it."""

    byte_count: int
    events: Sequence[Any]


class BrokenOff(NamedTuple):
    """The library has ended the connection, and its GOAWAY waits in the core."""

    reason: str  # of `refusals.REFUSALS`


class Leaving(NamedTuple):
    """The client begins nothing more."""

    byte_count: int


class Intake:
    """`has_next`: whether `next` would give something. `part_tick`: when a frame, or a block of
    headers, began that is not whole. `has_settings`: the first frame was there.
    """

    __slots__ = (
        "_core",
        "_effort",
        "_frames",
        "_hub",
        "_kept",
        "has_next",
        "has_settings",
        "part_tick",
    )

    def __init__(self, core: Http2Core, effort: Effort, hub: HttpHub) -> None:
        self._core = core
        self._effort = effort
        self._hub = hub
        self._frames = Frames(LIST_TIMES_MAX * hub.limits.head_bytes_max)
        self.has_next = self._frames.has_next
        self._kept = Kept(hub.arrivals)  # raw input, of all memory
        self.part_tick = hub.tick
        self.has_settings = False

    def add(self, data: bytes) -> None:
        frames = self._frames
        if not (frames.byte_count or frames.in_block):
            self.part_tick = self._hub.tick
        frames.add(data)

    @property
    def in_block(self) -> bool:
        """A block of headers has begun and not ended."""
        return self._frames.in_block

    @property
    def is_partial(self) -> bool:
        return bool(self._frames.byte_count) or self._frames.in_block

    @property
    def has_unread(self) -> bool:
        return bool(self._frames.byte_count)

    def next(
        self, known: Container[int]
    ) -> Taken | Broken | BrokenOff | Leaving | Exception | None:
        """Takes the next whole frame; None: there is none. An exception: a defect of ours.
        `known`: the streams that are open.
        """
        was_in_block = self._frames.in_block
        frame = self._frames.next()
        if frame is None:
            return None
        if not was_in_block:
            self.part_tick = self._hub.tick
        if isinstance(frame, Broken):
            return frame
        effort = self._effort
        effort.spend(frame)
        if frame.kind == DATA and frame.stream not in known:
            effort.spend_late()
        excess = effort.excess
        if excess is not None:
            return excess
        if not self.has_settings:
            self.has_settings = True
            if frame.kind != SETTINGS or frame.stream or frame.flags:
                return _NO_SETTINGS
        if not was_in_block:
            if frame.kind == GOAWAY and not frame.stream and frame.content_bytes >= 8:
                return Leaving(len(frame.data))  # the library would send nothing after it
            if _changes_nothing(frame):
                return Taken(len(frame.data), _NOTHING)
        try:
            return Taken(len(frame.data), self._core.take(frame.data))
        except ProtocolError as error:
            return BrokenOff("flood" if isinstance(error, DenialOfServiceError) else "malformed")
        except Exception as error:  # noqa: BLE001 - what a client sends must not end the daemon
            return error

    def weigh(self, evict: Callable[[], object], *, owes: bool) -> bool:
        """What a client sent ahead is kept until its turn comes, and counts as what arrives. False:
        there is no room for it. `evict`: told when others need its room. `owes`: some stream is
        open.
        """
        byte_count = self._frames.byte_count + self._frames.block_bytes
        if not byte_count and self._kept.is_empty:
            return True
        return self._kept.weigh(byte_count, evict, waits=self._frames.has_next() and owes)

    def tick(self) -> None:
        """One sweep later."""
        self._kept.tick()
        self._effort.tick()

    def clear(self) -> None:
        """Nothing more is taken."""
        self._frames.clear()
        self._kept.release()


def _changes_nothing(frame: Frame) -> bool:
    """Priorities, which nobody follows here, and frames of kinds that are not known."""
    is_priority = frame.kind == PRIORITY and frame.stream != 0 and frame.content_bytes == 5
    return is_priority or frame.kind > CONTINUATION

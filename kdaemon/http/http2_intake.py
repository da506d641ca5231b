"""Takes the input of one HTTP/2 connection, frame by frame: reads each frame, and bounds what all
cost.

Knows frames, the library that reads them, and the memory of raw input. Must not know requests,
turns or sockets.
Invariants: whatever a client sends, no method here raises. A frame is judged before the library
sees it. Raw input that waits is charged to what arrives (arrivals.py).
Where it sits: http2.py adds what it read and takes one frame at a time; http2_frames.py finds the
frames, http2_core.py reads them.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any

import msgspec
from h2.exceptions import DenialOfServiceError, ProtocolError

from kdaemon.http.arrivals import Kept
from kdaemon.http.handlers import report
from kdaemon.http.http2_core import LIST_TIMES_MAX, Http2Core
from kdaemon.http.http2_frames import (
    CONTINUATION,
    DATA,
    GOAWAY,
    INTERNAL_ERROR,
    PRIORITY,
    PROTOCOL_ERROR,
    SETTINGS,
    Broken,
    Effort,
    Frame,
    Frames,
)
from kdaemon.http.hub import Hub

_NO_SETTINGS = Broken(PROTOCOL_ERROR, "The first frame is not SETTINGS.")


class Taken(msgspec.Struct, frozen=True, gc=False):
    """A frame that was read. `events`: what the library says of it. `is_goodbye`: the client begins
    no new stream (GOAWAY).
    """

    byte_count: int
    events: Sequence[Any] = ()
    is_goodbye: bool = False


class Intake:
    """`has_next`: whether `next` would return something. `part_tick`: when the unfinished frame, or
    block of headers, began. `has_settings`: the first frame was read.
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

    def __init__(self, core: Http2Core, effort: Effort, hub: Hub) -> None:
        self._core = core
        self._effort = effort
        self._hub = hub
        self._frames = Frames(LIST_TIMES_MAX * hub.limits.head_bytes_max)
        self.has_next = self._frames.has_next
        self._kept = Kept(hub.arrivals)  # charges raw input to what all clients have arriving
        self.part_tick = hub.tick
        self.has_settings = False

    def add(self, data: bytes) -> None:
        """Adds one read of the transport."""
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
        """Some input is not read: frames that wait, a part of a frame, or an unfinished block of
        headers.
        """
        return bool(self._frames.byte_count) or self._frames.in_block

    @property
    def has_unread(self) -> bool:
        """Some bytes are not read: frames that wait, or a part of a frame."""
        return bool(self._frames.byte_count)

    def next(self, known: Container[int]) -> Taken | Broken | None:
        """Takes the next whole frame; None: there is none. `known`: the streams that are open."""
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
                # Not for the library, which would send nothing after it.
                return Taken(len(frame.data), is_goodbye=True)
            if _changes_nothing(frame):
                return Taken(len(frame.data))
        try:
            return Taken(len(frame.data), self._core.take(frame.data))
        except ProtocolError as error:
            is_flood = isinstance(error, DenialOfServiceError)
            return Broken(PROTOCOL_ERROR, str(error), is_flood, is_told=True)
        except Exception as error:  # noqa: BLE001 - what a client sends must not end the daemon
            return defect(self._hub, error)

    def weigh(self, evict: Callable[[], object], *, owes: bool) -> bool:
        """Charges the input that waits for its turn to what arrives. False: there is no room for
        it. `evict`: called when others need the memory. `owes`: some stream is open.
        """
        byte_count = self._frames.byte_count + self._frames.block_bytes
        if not byte_count and self._kept.is_empty:
            return True
        return self._kept.weigh(byte_count, evict, waits=self._frames.has_next() and owes)

    def tick(self) -> None:
        """A sweep later."""
        self._kept.tick()
        self._effort.tick()

    def clear(self) -> None:
        """Drops all input and gives its memory back."""
        self._frames.clear()
        self._kept.release()


def defect(hub: Hub, error: Exception) -> Broken:
    """Reports a defect of ours, which ends the connection."""
    report(hub.counters, "a frame of HTTP/2 could not be read", error)
    return Broken(INTERNAL_ERROR, "kdaemon failed to read this; its log says why.")


def _changes_nothing(frame: Frame) -> bool:
    """Whether the frame has no effect: priorities, which are not followed here, and frames of
    unknown kinds.
    """
    is_priority = frame.kind == PRIORITY and frame.stream != 0 and frame.content_bytes == 5
    return is_priority or frame.kind > CONTINUATION

"""The line of a connection that has no end yet: what it may be, and what it holds. Pure.

Knows sizes; nothing of what a line says, and nothing of the connection but its hub's memory.
Invariant: each byte that is kept of the line is charged before it is kept, and given back once.
Where it sits: session.py feeds the buffer, weighs the line, and refuses it for the reason that it
hears.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kdaemon.http.arrivals import Arrival, Arrivals
from kdaemon.wire.line_buffer import LineBuffer
from kdaemon.wire.lines import VALIDATION


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why the line is not waited for. `reason`: as the hub counts it."""

    reason: str
    code: str
    text: str


NO_ROOM = Unfit(
    "bodies_full",
    "ServiceUnavailableException",
    "Too many long lines are arriving at once; send this one again later.",
)
"""There is no room for a line of this size, or others who are faster need it."""


class UnfinishedLine:
    """At the end of `buffer`; of `bytes_max` at most."""

    __slots__ = ("_arrival", "_arrivals", "_buffer", "_bytes_max")

    def __init__(self, buffer: LineBuffer, arrivals: Arrivals, bytes_max: int) -> None:
        self._buffer = buffer
        self._arrivals = arrivals
        self._bytes_max = bytes_max
        self._arrival: Arrival | None = None

    @property
    def byte_count(self) -> int:
        return self._buffer.partial_bytes

    def weigh(self, evict: Callable[[], None]) -> Unfit | None:
        """Holds it to its limit and to what all of them may take. `evict`: called when others need
        its room.
        """
        size = self._buffer.partial_bytes
        if not size:
            return None
        if size > self._bytes_max:
            text = f"A line may have {self._bytes_max} bytes; the connection is closed."
            return Unfit("body_too_large", VALIDATION, text)
        if self._arrival is None:
            self._arrival = Arrival(self._arrivals, evict)
        has_room = self._arrival.grow(size - self._arrival.charged_bytes)
        return None if has_room else NO_ROOM

    def tick(self) -> None:
        """One sweep later. A line may pause, and goes first where room is needed."""
        if self._arrival is not None:
            self._arrival.tick()

    def ended(self) -> None:
        """It is a whole line now: another may begin."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.release()

    def drop(self) -> None:
        """It is not waited for any more."""
        self._buffer.drop_partial()
        self.ended()

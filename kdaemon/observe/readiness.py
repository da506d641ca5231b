"""Whether clients should come: what `/readyz` answers.

About: a small state machine, and the other reasons to keep clients away. Is told whether memory is
full and whether the disk or a listener is in trouble; must not know the service: an outage of the
service keeps no client away.
Invariant: there is no way back from DRAINING.
Flow: daemon/ moves it -> here -> admin.py, reading.py.
"""

from collections.abc import Callable
from enum import Enum

from kdaemon.base.memory import ByteBudget
from kdaemon.base.redact import harmless_line

FULL_FRACTION = 16
"""Memory is full when less than 1/16 of it is free. Ours, 2026-11-21: 1/16 of the default 256 MiB
is 16 MiB, just what the largest request needs with everything that it holds."""


class ReadyState(Enum):
    STARTING = "starting"  # not all parts are built and bound
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
        """`is_full`: whether there is no room for more records now (`is_memory_full`, for example).
        `trouble`: another reason to keep clients away now (the spool's disk), for people; or None.
        """
        self._is_full = is_full
        self._trouble = trouble
        self.state = ReadyState.STARTING

    def started(self) -> None:
        """Listeners are bound. This does not say that the service was reached."""
        self._move(ReadyMove.STARTED)

    def told_to_stop(self) -> None:
        """The lame-duck time begins; there is no way back."""
        self._move(ReadyMove.TOLD_TO_STOP)

    def why_not(self) -> str | None:
        """Why clients should stay away, in a few words; None: they may come."""
        if self.state is not ReadyState.READY:
            return str(self.state.value)
        if self._is_full():
            return "memory is full"
        trouble = self._trouble()
        return None if trouble is None else harmless_line(trouble)

    def _move(self, move: ReadyMove) -> None:
        self.state = _NEXT[self.state, move]


def is_memory_full(memory: ByteBudget) -> bool:
    """Whether a large request would find no room. Small requests may still be admitted."""
    return memory.bytes_max - memory.bytes_taken < memory.bytes_max // FULL_FRACTION

"""Whether a stream may send at all: the circuit around whole calls that fail.

One failed call stops the stream for a jittered backoff. Then one call probes, alone, and its
success opens the stream again. Throttles of single records are the business of their shard, not of
this file. The table below has every move; an illegal move raises and changes nothing.
"""

from enum import Enum

from kdaemon.base.ports import Dice
from kdaemon.pace.backoff import Backoff

BEYOND_BACKOFF_NS_MAX = 5_000_000_000
"""5 s: how much longer than our own backoff a service may make us wait (`x-amz-retry-after`), as in
botocore 1.44, 2026-11-28."""


class FlowState(Enum):
    OPEN = "open"  # calls go out as the packer fills them
    WAITING = "waiting"  # nothing goes out until `resume_at_ns`
    PROBING = "probing"  # one call is in flight; all others wait for its outcome


class FlowMove(Enum):
    SUCCEEDED = "succeeded"  # a call came back with an answer for its records
    FAILED = "failed"  # a whole call failed
    SENT = "sent"  # a call goes out


_NEXT: dict[tuple[FlowState, FlowMove], FlowState] = {
    (FlowState.OPEN, FlowMove.SENT): FlowState.OPEN,
    (FlowState.OPEN, FlowMove.SUCCEEDED): FlowState.OPEN,
    (FlowState.OPEN, FlowMove.FAILED): FlowState.WAITING,
    # Calls that were in flight when the stream stopped come back later: they say nothing new.
    (FlowState.WAITING, FlowMove.SUCCEEDED): FlowState.WAITING,
    (FlowState.WAITING, FlowMove.FAILED): FlowState.WAITING,
    (FlowState.WAITING, FlowMove.SENT): FlowState.PROBING,
    (FlowState.PROBING, FlowMove.SUCCEEDED): FlowState.OPEN,
    (FlowState.PROBING, FlowMove.FAILED): FlowState.WAITING,
}


class Flow:
    """The circuit: its state, the failures in a row, and when a waiting stream may probe."""

    __slots__ = ("failure_count", "resume_at_ns", "state")

    def __init__(self) -> None:
        self.state = FlowState.OPEN
        self.failure_count = 0
        self.resume_at_ns = 0

    def may_send(self, now_ns: int) -> bool:
        if self.state is FlowState.OPEN:
            return True
        return self.state is FlowState.WAITING and now_ns >= self.resume_at_ns

    def next_send_ns(self) -> int | None:
        """When a call may go out: 0: now; None: only the probe's outcome can tell."""
        if self.state is FlowState.OPEN:
            return 0
        return self.resume_at_ns if self.state is FlowState.WAITING else None

    def sent(self) -> bool:
        """A call goes out; returns True if it is the probe. Call it only after `may_send`."""
        self._move(FlowMove.SENT)
        return self.state is FlowState.PROBING

    def succeeded(self, *, is_probe: bool) -> None:
        if self.state is FlowState.PROBING and not is_probe:
            return  # an older call: only the probe shows how the service is now
        self._move(FlowMove.SUCCEEDED)
        if self.state is FlowState.OPEN:
            self.failure_count = 0

    def failed(
        self, backoff: Backoff, now_ns: int, dice: Dice, *, is_probe: bool, asked_ns: int = 0
    ) -> None:
        """A whole call failed. `asked_ns`: how long the service asks to be left alone; 0: it does
        not ask.
        """
        if self.state is FlowState.PROBING and not is_probe:
            return
        was_waiting = self.state is FlowState.WAITING
        self._move(FlowMove.FAILED)
        if not was_waiting:
            self.failure_count += 1
            wait_ns = backoff.wait_ns(self.failure_count, dice)
            if asked_ns > wait_ns:
                wait_ns = min(asked_ns, wait_ns + BEYOND_BACKOFF_NS_MAX)
            self.resume_at_ns = now_ns + wait_ns

    def _move(self, move: FlowMove) -> None:
        self.state = _NEXT[self.state, move]

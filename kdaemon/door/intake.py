"""The seam between an NDJSON connection and whoever takes its records (the gateway).

Only words: what a session may ask and what it is promised. Kept apart so that neither side imports
the other.
"""

from collections.abc import Callable
from typing import Protocol

from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.record import Record
from kdaemon.wire.put import PutLimits

WAITED_FOR = (Acknowledge.DELIVERED, Acknowledge.STORED)
"""What a session does not acknowledge until the frame's callback says so."""


class Intake(Protocol):
    """Who takes the records: the gateway."""

    def limits_of(self, stream: str, acknowledge: Acknowledge | None = None) -> PutLimits:
        """What one record of this stream may hold. Raises RejectedRecord if the stream is not
        taken, or not on the promise of this acknowledgement (None: the stream's own).
        """
        ...

    def submit(
        self,
        stream: str,
        records: list[Record],
        sizes: list[int],
        acknowledge: Acknowledge | None,
        on_settled: Callable[[Frame], None],
    ) -> Frame | None:
        """Takes records within their limits; `acknowledge` None means the stream's own.

        None: there is no room and nothing was taken. Raises RejectedRecord to refuse them all, also
        records that could never fit. The frame says by `acknowledge` what holds: `on_settled` is
        called once, after this returned, for DELIVERED and STORED; what is only ACCEPTED or NONE is
        settled here: taken, but for records that have a result already, which were refused.
        """
        ...

    def when_room(self, stream: str, callback: Callable[[], None]) -> None:
        """Calls back once, after this returned, when `submit` is worth another try."""
        ...

    def count_rejected(self, stream: str | None, record_count: int, byte_count: int) -> None:
        """Lines were refused here (cannot be read, or over a limit); `submit` counts its own."""
        ...

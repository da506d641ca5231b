"""What passes between a way in and the door: the records to be admitted, and the door's answer.

Decides nothing. Knows frames and streams. Must not know a wire form or a connection.
Where it sits: kinesis.py, ndjson.py and handover.py bring a `Put` (`wire/limits.py`) to `door.py`,
and get an `Admission` or a `Refused`.
"""

from collections.abc import Callable
from typing import Final

from kdaemon.base.counters import RefuseReason
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.refused import Refused
from kdaemon.streams import Stream

# Reading an attribute of an Enum costs four times a global, and every request reads these.
DELIVERED: Final[Acknowledge] = Acknowledge.DELIVERED
STORED: Final[Acknowledge] = Acknowledge.STORED

WAITED_FOR: Final = frozenset({DELIVERED, STORED})
"""Promises that the client hears of only after `admit` has returned."""

OnSettled = Callable[[Frame], object]


class Admission:
    """Records that were admitted. `frame.acknowledge` is the promise on which they were.

    The door calls the client back once: after `admit` returned if the promise is in WAITED_FOR,
    else before `admit` returns. The call may still say that all records were refused
    (`frame.refusal`).
    """

    __slots__ = ("frame", "stream")

    def __init__(self, frame: Frame, stream: Stream) -> None:
        self.frame = frame
        self.stream = stream

    def withdraw(self) -> None:
        """The client has gone: records that wait for delivery, and are in no call yet, are not
        sent.
        """
        if self.frame.acknowledge is DELIVERED:
            self.stream.withdraw(self.frame)


class Pending(Admission):
    """Records that wait until the service has first told of their stream; after that, `admitted`
    acts for them (None as long as they wait, or if they were refused). `is_gone`: the client went
    while they waited.
    """

    __slots__ = ("admitted", "is_gone")

    def __init__(self, frame: Frame, stream: Stream) -> None:
        super().__init__(frame, stream)
        self.admitted: Admission | None = None
        self.is_gone = False

    def withdraw(self) -> None:
        """As for `Admission`; records that still wait will be refused instead of admitted."""
        if self.admitted is not None:
            self.admitted.withdraw()
        elif self.frame.acknowledge is DELIVERED:
            self.is_gone = True


CLIENT_GONE = Refused(
    RefuseReason.CLIENT_GONE,
    "ServiceUnavailable",
    "The client went away before these records were admitted.",
    is_permanent=False,
)

GAVE_WAY = Refused(
    RefuseReason.FULL,
    "ServiceUnavailableException",
    "Too much waits to be taken: from this line on nothing was taken, and the connection is closed."
    " Send these lines again later.",
    is_permanent=False,
)

NO_ROOM = Refused(
    RefuseReason.FULL,
    "ProvisionedThroughputExceededException",
    "kdaemon has no room for this stream's records now: nothing was taken. Try again later.",
    is_permanent=False,
)


def never_fits(footprint_bytes: int, buffer_bytes_max: int) -> Refused:
    """Refusal of records that are larger than their stream's whole memory."""
    return Refused(
        RefuseReason.FULL,
        "ValidationException",
        f"These records may take {footprint_bytes} bytes of memory, and the stream has"
        f" {buffer_bytes_max} in all (buffer_bytes_max): send fewer at a time.",
        is_permanent=True,
    )


def said(reason: RefuseReason, error: ServiceError) -> Refused:
    """A refusal that carries the type and the words of the service's error."""
    is_permanent = error.status < 500
    return Refused(reason, error.code, error.message, is_permanent=is_permanent)

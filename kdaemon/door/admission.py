"""What passes between a way in and the door: records to be admitted, and what became of them.

Decides nothing. Knows frames and streams, no wire form and no connection.
Where it sits: kinesis.py, ndjson.py and handover.py bring a `Put` to `door.py`, and get an
`Admission` or a `Refused`.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from kdaemon.base.counters import RejectReason
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.record import Record
from kdaemon.base.refused import Refused
from kdaemon.streams import Stream
from kdaemon.wire.put import PutLimits

# An attribute of an Enum costs four times a global, and these are read for every request.
DELIVERED, STORED = Acknowledge.DELIVERED, Acknowledge.STORED

WAITED_FOR = frozenset({DELIVERED, STORED})
"""Promises that are told later than they are asked for."""

OnSettled = Callable[[Frame], object]


class Put(Protocol):
    """Records that were read, in whatever form, and are to be admitted together.

    `refused_count`: records that came with them and were refused by the form itself.
    """

    @property
    def records(self) -> list[Record]: ...

    @property
    def sizes(self) -> list[int]: ...

    @property
    def byte_count(self) -> int:
        """The sum of `sizes`."""
        ...

    @property
    def refused_count(self) -> int: ...

    @property
    def is_reserved(self) -> bool:
        """Whether memory was set aside for them, and given back just now."""
        ...

    @property
    def depends_on_kind(self) -> bool:
        """Whether it matters to these records if their stream is AUTO."""
        ...

    def hold_to_kind(self, *, is_auto: bool) -> Refused | None:
        """Why a stream that is AUTO, or is not, does not take them."""
        ...

    def hold_to(self, limits: PutLimits) -> Refused | None:
        """Holds the records to these limits. What the form refuses record by record leaves
        `records` and grows `refused_count`; what it refuses whole is said.
        """
        ...


class Admission(msgspec.Struct):
    """Records that were taken. `frame.acknowledge` says on which promise.

    The client is called back once: later where the promise is in WAITED_FOR, else before `admit`
    returned. It may hear then that all were refused after all (`frame.refusal`).
    """

    frame: Frame
    stream: Stream

    def withdraw(self) -> None:
        """The client has gone: what it waits for, and was not sent, is not sent."""
        if self.frame.acknowledge is DELIVERED:
            self.stream.withdraw(self.frame)


class Pending(Admission):
    """Records that wait for the first word of their stream; then `admitted` stands for them."""

    admitted: Admission | None = None
    is_gone: bool = False

    def withdraw(self) -> None:
        if self.admitted is not None:
            self.admitted.withdraw()
        elif self.frame.acknowledge is DELIVERED:
            self.is_gone = True


CLIENT_GONE = Refused(
    RejectReason.CLIENT_GONE,
    "ServiceUnavailable",
    "The client went away before these records were admitted.",
    is_permanent=False,
)

GAVE_WAY = Refused(
    RejectReason.FULL,
    "ServiceUnavailableException",
    "Too much waits to be taken: from this line on nothing was taken, and the connection is closed."
    " Send these lines again later.",
    is_permanent=False,
)

NO_ROOM = Refused(
    RejectReason.FULL,
    "ProvisionedThroughputExceededException",
    "kdaemon has no room for this stream's records now: nothing was taken. Try again later.",
    is_permanent=False,
)


def never_fits(held_bytes: int, buffer_bytes_max: int) -> Refused:
    return Refused(
        RejectReason.FULL,
        "ValidationException",
        f"These records may take {held_bytes} bytes of memory, and the stream has"
        f" {buffer_bytes_max} in all (buffer_bytes_max): send fewer at a time.",
        is_permanent=True,
    )


def said(reason: RejectReason, error: ServiceError) -> Refused:
    """What the service said, with its type and its words."""
    is_permanent = error.status < 500
    return Refused(reason, error.code, error.message, is_permanent=is_permanent)

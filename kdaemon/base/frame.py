"""The unit of promise: what one client sent in one request or one read.

A frame has its records, one result slot for each, and one countdown. When the countdown reaches
zero the frame is settled, and its submitter is called back, once. There is no future for each
record.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

from kdaemon.base.counters import DeadReason, RefuseReason
from kdaemon.base.record import Record, RecordResult


class Acknowledge(Enum):
    """What an acknowledgement means to the client. There is never a vaguer one."""

    NONE = "none"  # the client gets no answer; the record is treated as `accepted`
    ACCEPTED = "accepted"  # the record is in memory
    STORED = "stored"  # the record is on disk, fsynced
    DELIVERED = "delivered"  # the service has the record

    __hash__ = object.__hash__  # by identity, in C: Enum's own is a Python call for each request


_NO_KEYS: Final[list[str]] = []


class FrameHistory:
    """What happened to single records of a frame, by index. Most frames have no history.

    `doubtful`: an earlier call may have written them. `failures`: the service's last answer about
    each alone. `unknown_counts`: how often that was an unknown code. `dead_reasons`: why records
    are dead that the service did not refuse. `refuse_reason`: under what records count that were in
    flight when their client was refused, if they come back.
    """

    __slots__ = ("dead_reasons", "doubtful", "failures", "refuse_reason", "unknown_counts")

    def __init__(self) -> None:
        self.doubtful: set[int] = set()
        self.failures: dict[int, RecordResult] = {}
        self.unknown_counts: dict[int, int] = {}
        self.dead_reasons: dict[int, DeadReason] = {}
        self.refuse_reason = RefuseReason.DEADLINE


class Frame:
    """Records of one request for one stream, in the client's order.

    `results` has the same length and order as `records`; an entry is None until its record is
    settled. `unsettled` counts the Nones. `sizes[i]` is data + partition key of record i in bytes,
    as the service counts them, and `byte_count` is their sum. `size_max`: the largest of them; 0:
    not computed yet. `footprint_bytes` is the memory that the frame takes from the budget.
    `deadline_ns` is when a client stops waiting (None: it waits for ever).
    `attempt_counts`: how often a dead record had been sent, by index (None: no record is dead).
    `keys`: the records' partition keys, where order is kept; elsewhere the list is empty.
    `history`: what happened to single records (None: nothing).
    `client`: the number of its sender (a connection); 0: no sender that can be asked to wait.
    `refusal` is set when the whole request failed for one reason that the client must hear in the
    service's words (a missing stream, for example): (code, message).
    """

    __slots__ = (
        "accepted_ns",
        "acknowledge",
        "attempt_count",
        "attempt_counts",
        "byte_count",
        "client",
        "deadline_ns",
        "footprint_bytes",
        "history",
        "is_abandoned",
        "is_reserved",
        "keys",
        "on_settled",
        "records",
        "refusal",
        "results",
        "size_max",
        "sizes",
        "unsettled",
    )

    def __init__(
        self,
        records: list[Record],
        sizes: list[int],
        acknowledge: Acknowledge,
        on_settled: Callable[["Frame"], object] | None,
    ) -> None:
        count = len(records)
        is_single = count == 1  # as often as there are requests of one record
        self.records = records
        self.sizes = sizes
        self.byte_count = sizes[0] if is_single else sum(sizes)
        self.size_max = 0
        self.results: list[RecordResult | None] = [None] if is_single else [None] * count
        self.unsettled = count
        self.acknowledge = acknowledge
        self.on_settled = on_settled
        self.client = 0
        self.footprint_bytes = 0
        self.accepted_ns = 0
        self.deadline_ns: int | None = None
        self.is_abandoned = (
            False  # its client was told the outcome; what is in flight is not sent again
        )
        self.is_reserved = False  # its memory was set aside before the frame was made
        self.keys = _NO_KEYS
        self.attempt_count = 0  # from how many calls the record came back that was sent most
        self.attempt_counts: dict[int, int] | None = None
        self.history: FrameHistory | None = None
        self.refusal: tuple[str, str] | None = None

    def remember(self) -> FrameHistory:
        """The frame's history, made if there was none."""
        if self.history is None:
            self.history = FrameHistory()
        return self.history

"""The unit of promise: what one client sent in one request or one read.

A frame holds its records, one result slot for each, and one countdown. When the countdown reaches
zero the frame is settled and whoever submitted it is called back, once. There is no future per
record.
"""

from collections.abc import Callable
from enum import Enum

from kdaemon.base.counters import DeadReason, RejectReason
from kdaemon.base.record import Record, RecordResult


class Acknowledge(Enum):
    """What an acknowledgement to the client means. Never a fourth, vaguer thing."""

    NONE = "none"  # nothing is answered; the record is treated as `accepted`
    ACCEPTED = "accepted"  # it is in memory
    STORED = "stored"  # it is on disk, fsynced
    DELIVERED = "delivered"  # the service has it

    __hash__ = object.__hash__  # by identity, in C: Enum's own is a Python call for each request


_NO_KEYS: list[str] = []


class FrameHistory:
    """What befell single records of a frame on their way, by index. Most frames have none.

    `doubtful`: an earlier call may have written them. `failures`: what the service last said of
    them alone. `unknown_counts`: how often that was a code which nobody knows. `dead_reasons`: why
    those are dead that the service did not refuse. `reject_reason`: of those that were in flight
    when their client was told no: what they count as if they come back.
    """

    __slots__ = ("dead_reasons", "doubtful", "failures", "reject_reason", "unknown_counts")

    def __init__(self) -> None:
        self.doubtful: set[int] = set()
        self.failures: dict[int, RecordResult] = {}
        self.unknown_counts: dict[int, int] = {}
        self.dead_reasons: dict[int, DeadReason] = {}
        self.reject_reason = RejectReason.DEADLINE


class Frame:
    """Records of one request for one stream, in the client's order.

    `results` has the same length and order as `records`; an entry is None until its record is
    settled. `unsettled` counts the Nones. `sizes[i]` is data + partition key of record i in bytes,
    as the service counts them, and `byte_count` their sum. `size_max`: the largest of them; 0:
    nobody has looked yet. `held_bytes` is what the frame takes
    from the memory budget.
    `deadline_ns` is when a client stops waiting (None: it waits for ever).
    `attempt_counts`: how often a dead record had been sent, by index (None: no record is dead).
    `keys`: the records' partition keys, where order is kept; else nobody needs them twice.
    `history`: what befell single records (None: nothing did).
    `client`: a number of who sent it (a connection); 0: nobody who could be asked to wait.
    `refusal` is set when the whole request failed for one reason that the client must hear as
    the service would say it (a missing stream, say): (code, message).
    """

    __slots__ = (
        "accepted_ns",
        "acknowledge",
        "attempt_counts",
        "byte_count",
        "client",
        "deadline_ns",
        "held_bytes",
        "history",
        "is_abandoned",
        "is_reserved",
        "is_tried",
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
        self.records = records
        self.sizes = sizes
        self.byte_count = sum(sizes)
        self.size_max = 0
        self.results: list[RecordResult | None] = [None] * len(records)
        self.unsettled = len(records)
        self.acknowledge = acknowledge
        self.on_settled = on_settled
        self.client = 0
        self.held_bytes = 0
        self.accepted_ns = 0
        self.deadline_ns: int | None = None
        self.is_abandoned = (
            False  # its client was told the outcome; what is in flight is not sent again
        )
        self.is_reserved = False  # its memory was set aside for it before it was made
        self.is_tried = False  # some of it came back from a call
        self.keys = _NO_KEYS
        self.attempt_counts: dict[int, int] | None = None
        self.history: FrameHistory | None = None
        self.refusal: tuple[str, str] | None = None

    def remember(self) -> FrameHistory:
        """The frame's history, begun if there was none."""
        if self.history is None:
            self.history = FrameHistory()
        return self.history

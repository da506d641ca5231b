"""What one stream has counted, as plain integers. They are read together at a scrape, where

    received + recovered = rejected + delivered + dead + dropped + recovered settled
                           + buffered + in flight + spooled

Each number has one owner: the engine of the stream. All labels are enums of this file, and all
counts start at 0. Calls that are passed on to the service have counters of their own, by operation;
they bring no records. Observers take a `snapshot`: it has the fields of the counters, and never
changes.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from kdaemon.base.billing import UNIT_SIZES, BilledUnit, SentSizes, UnitSizes
from kdaemon.base.histogram import (
    BATCH_BYTES_BOUNDS,
    BATCH_RECORDS_BOUNDS,
    LATENCY_BOUNDS_NS,
    Buckets,
    Histogram,
)
from kdaemon.base.verdict import CALL_OUTCOMES, RETRY_REASONS, Verdict


class RejectReason(Enum):
    INVALID = "invalid"  # breaks a limit, or cannot be read
    FULL = "full"  # no room in memory
    DEADLINE = "deadline"  # not delivered while its client waited; withdrawn, or not sent again
    MISSING_STREAM = "missing_stream"  # the service has no such stream
    UNLISTED = "unlisted"  # the configuration does not allow this stream
    DRAINING = "draining"  # the daemon was told to stop
    SPOOL = "spool"  # the disk did not take it
    HOLD = "hold"  # nothing can be sent until a person acts, and its client was told why
    UNAVAILABLE = "unavailable"  # the stream, as it is, cannot keep the configured promises
    CLIENT_GONE = "client_gone"  # not delivered before its client went away; withdrawn
    SLOTS = "slots"  # the limit of streams in use is reached
    UNAUTHENTICATED = "unauthenticated"  # the client has not shown who it is, or is not known
    FORBIDDEN = "forbidden"  # the client may not write to this stream
    DRY_RUN = "dry_run"  # its client only asked what would become of it


class DeadReason(Enum):
    POISON = "poison"  # the service refuses this record for itself
    EXPIRED = "expired"  # older than the stream's max_age
    MISSING_STREAM = "missing_stream"  # its stream is not listed, and turned out not to exist


class DropReason(Enum):
    """Why an acknowledged record is gone without being a dead letter."""

    SPOOL_FULL = "spool_full"  # when_full = drop_oldest
    CORRUPT = "corrupt"  # its row on disk is damaged; the remains are in quarantine


class FailureCode(Enum):
    """The service's code for a single record; all other codes are `other`."""

    THROUGHPUT = "ProvisionedThroughputExceededException"
    THROTTLING = "ThrottlingException"
    KMS_THROTTLING = "KMSThrottlingException"
    INTERNAL = "InternalFailure"
    INVALID_ARGUMENT = "InvalidArgumentException"
    OTHER = "other"


_FAILURE_CODES = {code.value: code for code in FailureCode}


def failure_code(code: str) -> FailureCode:
    """The label for a record's `ErrorCode`: one of a few, whatever a service invents."""
    return _FAILURE_CODES.get(code, FailureCode.OTHER)


class PassedOnOutcome(Enum):
    """How a call that was made for clients ended."""

    ANSWERED = "answered"
    REFUSED = "refused"  # the service refused
    FAILED = "failed"  # the service failed, or there was no answer from it


class NotPassedOn(Enum):
    """Why kdaemon itself refused to pass a request on, or to wait any longer."""

    NOT_ALLOWED = "not_allowed"  # the configuration does not name the operation
    INVALID = "invalid"  # it cannot be read
    UNAUTHENTICATED = "unauthenticated"  # the client is not known
    STREAM = "stream"  # the daemon is not for its stream
    FULL = "full"  # too many wait, or there is no memory
    LATE = "late"  # it waited as long as its client can be expected to
    TOO_LARGE = "too_large"  # the answer is too large


class OperationCounts(msgspec.Struct, frozen=True):
    """`OperationCounters` at one time."""

    requests: int
    shared: int
    calls: Mapping[PassedOnOutcome, int]
    refused: Mapping[NotPassedOn, int]


class OperationCounters:
    """Counts one operation that is passed on. Requests are clients', calls are ours."""

    def __init__(self) -> None:
        self.requests = 0
        self.shared = 0  # requests that got the answer to another request
        self.calls = dict.fromkeys(PassedOnOutcome, 0)
        self.refused = dict.fromkeys(NotPassedOn, 0)

    def snapshot(self) -> OperationCounts:
        return OperationCounts(self.requests, self.shared, dict(self.calls), dict(self.refused))


class StreamCounts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`StreamCounters` at one time."""

    received: int
    received_bytes: int
    accepted: int
    accepted_bytes: int
    delivered: int
    delivered_bytes: int
    attempts: int
    throttled: int
    possible_duplicates: int
    lines_without_key: int
    lines_without_stream: int
    map_refreshes: int
    map_mismatches: int
    recovered: int
    recovered_settled: int
    spooled: int
    buffered: int
    in_flight: int
    in_flight_calls: int
    rejected: Mapping[RejectReason, int]
    dead: Mapping[DeadReason, int]
    dropped: Mapping[DropReason, int]
    retries: Mapping[Verdict, int]
    failures: Mapping[FailureCode, int]
    calls: Mapping[Verdict, int]
    call_duration_ns: Buckets
    batch_records: Buckets
    batch_bytes: Buckets
    delivery_ns: Buckets
    billed: Mapping[BilledUnit, int]

    def unaccounted(self) -> int:
        """Received records that are nowhere. Anything but 0 is a defect."""
        return _unaccounted(self)


class StreamCounters:
    """Counters and gauges of one stream. They count records, unless the name says bytes or
    calls.
    """

    def __init__(self, units: UnitSizes = UNIT_SIZES) -> None:
        """`units`: the units that it is billed in."""
        self.received = 0
        self.received_bytes = 0
        self.accepted = 0
        self.accepted_bytes = 0
        self.delivered = 0
        self.delivered_bytes = 0
        self.attempts = 0  # records in calls that were made
        self.throttled = 0  # records, by the service
        self.possible_duplicates = 0
        self.lines_without_key = 0  # raw lines whose field gave no key
        self.lines_without_stream = 0  # raw lines whose field gave no listed stream
        self.map_refreshes = 0
        self.map_mismatches = 0  # answers from another shard than the predicted one
        self.recovered = 0  # found in the spool at the start
        self.recovered_settled = 0  # of the recovered ones: an earlier process had settled them
        self.spooled = 0  # on disk and not in the engine: waits for its commit or for room
        self.buffered = 0
        self.in_flight = 0
        self.in_flight_calls = 0
        self.rejected = dict.fromkeys(RejectReason, 0)
        self.dead = dict.fromkeys(DeadReason, 0)
        self.dropped = dict.fromkeys(DropReason, 0)
        self.retries = dict.fromkeys(RETRY_REASONS, 0)
        self.failures = dict.fromkeys(FailureCode, 0)
        self.calls = dict.fromkeys(CALL_OUTCOMES, 0)
        self.call_duration_ns = Histogram(LATENCY_BOUNDS_NS)
        self.batch_records = Histogram(BATCH_RECORDS_BOUNDS)
        self.batch_bytes = Histogram(BATCH_BYTES_BOUNDS)
        # From acceptance to delivery, for each record.
        self.delivery_ns = Histogram(LATENCY_BOUNDS_NS)
        self.billed = SentSizes(units)  # the records that the service took, as they were sent

    def receive(self, record_count: int, byte_count: int) -> None:
        """Records came in; later calls count where they went."""
        self.received += record_count
        self.received_bytes += byte_count

    def accept(self, record_count: int, byte_count: int) -> None:
        """Received records are admitted."""
        self.accepted += record_count
        self.accepted_bytes += byte_count

    def refuse(self, reason: RejectReason, record_count: int, byte_count: int) -> None:
        """Records came in and were refused at the door."""
        self.receive(record_count, byte_count)
        self.rejected[reason] += record_count

    def add(self, other: "StreamCounters") -> None:
        """Adds the counts of a stream that is closed. Its gauges are 0 by then."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(value, Histogram | SentSizes):
                mine.add(value)
            elif isinstance(value, dict):
                for key, count in value.items():
                    mine[key] += count
            else:
                setattr(self, name, mine + value)

    def snapshot(self) -> StreamCounts:
        """All counts as they are now."""
        return StreamCounts(**{name: _still(value) for name, value in vars(self).items()})

    def unaccounted(self) -> int:
        """As that of a snapshot, without one: tests ask after each step."""
        return _unaccounted(self)


def _unaccounted(counts: StreamCounts | StreamCounters) -> int:
    return (counts.received + counts.recovered) - (
        sum(counts.rejected.values())
        + counts.delivered
        + sum(counts.dead.values())
        + sum(counts.dropped.values())
        + counts.buffered
        + counts.in_flight
        + counts.spooled
        + counts.recovered_settled
    )


def _still(value: Any) -> Any:
    if isinstance(value, int):
        return value
    return value.copy() if isinstance(value, dict) else value.snapshot()

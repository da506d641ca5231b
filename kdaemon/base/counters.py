"""What one stream counts: its labels, and its counts at one time, which are read together:

    received + recovered = rejected + delivered + dead + dropped + recovered settled
                           + buffered + in flight + spooled

All labels are enums of this file. `counting.py` counts, and gives observers a snapshot: a value of
this file, which never changes. Calls that are passed on to the service have counts of their own, by
operation; they bring no records.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from kdaemon.base.billing import BilledUnit
from kdaemon.base.verdict import Verdict


class RefuseReason(Enum):
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


class Buckets(msgspec.Struct, frozen=True, gc=False):
    """The values of a histogram at one time. `counts`: of each bucket, with the last one."""

    bounds: tuple[int, ...]
    counts: tuple[int, ...]
    sum: int


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
    rejected: Mapping[RefuseReason, int]
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
        return unaccounted(self)


def unaccounted(counts: Any) -> int:
    """Of `StreamCounts`, or of `StreamCounters`, which has the same fields."""
    total: int = (counts.received + counts.recovered) - (
        sum(counts.rejected.values())
        + counts.delivered
        + sum(counts.dead.values())
        + sum(counts.dropped.values())
        + counts.buffered
        + counts.in_flight
        + counts.spooled
        + counts.recovered_settled
    )
    return total

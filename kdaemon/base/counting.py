"""Counts what becomes of the records of one stream, as plain integers. Pure.

Apart from `counters.py`, which says what is counted and has the counts at one time, because msgspec
makes its classes, and mypyc makes what every record counts.
Invariant: each number has one owner, the engine of the stream. All counts start at 0.
"""

from typing import Any, Final

from kdaemon.base.billing import UNIT_SIZES, SentSizes, UnitSizes
from kdaemon.base.counters import (
    DeadReason,
    DropReason,
    FailureCode,
    NotPassedOn,
    OperationCounts,
    PassedOnOutcome,
    RefuseReason,
    StreamCounts,
    unaccounted,
)
from kdaemon.base.histogram import (
    BATCH_BYTES_BOUNDS,
    BATCH_RECORDS_BOUNDS,
    LATENCY_BOUNDS_NS,
    Histogram,
)
from kdaemon.base.verdict import CALL_OUTCOMES, RETRY_REASONS

_FIELDS: Final = StreamCounts.__struct_fields__


class OperationCounters:
    """Counts one operation that is passed on. Requests are clients', calls are ours."""

    def __init__(self) -> None:
        self.requests = 0
        self.shared = 0  # requests that got the answer to another request
        self.calls = dict.fromkeys(PassedOnOutcome, 0)
        self.refused = dict.fromkeys(NotPassedOn, 0)

    def snapshot(self) -> OperationCounts:
        return OperationCounts(self.requests, self.shared, dict(self.calls), dict(self.refused))


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
        self.rejected = dict.fromkeys(RefuseReason, 0)
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

    def refuse(self, reason: RefuseReason, record_count: int, byte_count: int) -> None:
        """Records came in and were refused at the door."""
        self.receive(record_count, byte_count)
        self.rejected[reason] += record_count

    def add(self, other: "StreamCounters") -> None:
        """Adds the counts of a stream that is closed. Its gauges are 0 by then."""
        for name in _FIELDS:
            value, mine = getattr(other, name), getattr(self, name)
            if isinstance(value, Histogram | SentSizes):
                mine.add(value)
            elif isinstance(value, dict):
                for key, count in value.items():
                    mine[key] += count
            else:
                setattr(self, name, mine + value)

    def snapshot(self) -> StreamCounts:
        """All counts as they are now."""
        return StreamCounts(**{name: _still(getattr(self, name)) for name in _FIELDS})

    def unaccounted(self) -> int:
        """As that of a snapshot, without one: tests ask after each step."""
        return unaccounted(self)


def _still(value: Any) -> Any:
    if isinstance(value, int):
        return value
    return value.copy() if isinstance(value, dict) else value.snapshot()

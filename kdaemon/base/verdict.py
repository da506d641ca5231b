"""The outcome of a call or of a record: one word for every class of outcome, used by all rooms.

`settle/verdict.py` judges; `base/counters.py` counts, under these values as labels.
Invariant: the classes are few and fixed, whatever code a service invents. Pure.
"""

from enum import Enum


class Verdict(Enum):
    DELIVERED = "delivered"  # the service has it
    PARTIAL = "partial"  # of a call: some of its records were delivered
    THROTTLED = "throttled"  # not written: the shard or the stream is over its rate; slow down
    NOT_SENT = "not_sent"  # never left, or certainly not written; safe to send again
    AMBIGUOUS = "ambiguous"  # may have been written; sent again, counted as a possible duplicate
    HOLD = "hold"  # credentials, access, a missing stream: keep, probe slowly, alarm
    POISON = "poison"  # the request is wrong: find the record (bisect), and bury it
    # Of a record: its call was POISON, and the record is sent in a part of that call.
    BISECTED = "bisected"
    OUTSIDE = "outside_range"  # written where readers of aggregates drop it; sent again
    UNKNOWN = "unknown"  # of a record: an unknown code; sent again, but not for ever

    __hash__ = object.__hash__  # by identity, in C: Enum's own is a Python call for each record


CALL_OUTCOMES = (
    Verdict.DELIVERED,
    Verdict.PARTIAL,
    Verdict.THROTTLED,
    Verdict.NOT_SENT,
    Verdict.AMBIGUOUS,
    Verdict.HOLD,
    Verdict.POISON,
)
"""How a PutRecords call can end: labels of `kdaemon_put_records_calls_total`."""

RETRY_REASONS = (
    Verdict.THROTTLED,
    Verdict.NOT_SENT,
    Verdict.AMBIGUOUS,
    Verdict.HOLD,
    Verdict.BISECTED,
    Verdict.OUTSIDE,
)
"""Why a record can be sent again: labels of `kdaemon_records_retries_total`."""

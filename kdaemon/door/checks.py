"""Why a stream takes no records of a put now, whoever brings them.

Knows what a stream says of itself, and what a put can check of its records. Must not know a client
or a connection. Counts only what the caller tells it to.
Where it sits: door.py checks each put before it takes any of it, dry_runs.py before it asks.
"""

from kdaemon.base.counters import RefuseReason
from kdaemon.base.counting import StreamCounters
from kdaemon.base.frame import Acknowledge
from kdaemon.base.refused import Refused
from kdaemon.door.admission import said
from kdaemon.door.promise import check_promise
from kdaemon.streams import Stream
from kdaemon.wire.limits import Put


def check(stream: Stream, put: Put, asked: Acknowledge | None) -> Refused | None:
    """Why the stream, as it is now, takes these records from no client; None: it takes them.
    `asked`: the promise that the client asked for; None: the stream's own.
    """
    unavailable = stream.unavailable
    if unavailable is not None:
        return said(RefuseReason.UNAVAILABLE, unavailable)
    missing = stream.missing() if stream.inquiry.was_missing else None
    if missing is not None:
        return said(RefuseReason.MISSING_STREAM, missing)
    if put.depends_on_kind:
        refused = put.check_kind(is_auto=stream.is_auto)
        if refused is not None:
            return refused
    byte_count = put.byte_count
    is_large = byte_count > stream.record_bytes_max or stream.key_bytes_max is not None
    if is_large or byte_count > stream.config.request_bytes_max:
        refused = put.check_limits(stream.limits)
        if refused is not None:
            return refused
    return None if asked is None else check_promise(stream, asked)


def refuse_all(counters: StreamCounters, put: Put, refused: Refused) -> Refused:
    """Counts all records of the put as refused, those that were refused one by one too."""
    counters.refuse(refused.reason, len(put.sizes) + put.refused_count, put.byte_count)
    return refused

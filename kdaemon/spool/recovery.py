"""Finds, at a start, the streams that have frames on disk, and how much of each stands there.

Each stream that is taken becomes a spooled stream again, which knows how much of it is stored. The
frames of a stream that is not taken stay, count as space that is used, and are taken up when a
configuration takes the stream. Knows streams and totals; no frame, no commit and no read.
Invariant: at a start every stream is looked at once, and told to the operator.
Where it sits: `spool.py` calls here after the store was opened, and after another configuration
came into force; it then has the found frames read.
"""

import logging
from collections.abc import Callable, Iterator

from kdaemon.base.errors import RefusedError
from kdaemon.spool.alarms import CLOCK_JUMP_MS
from kdaemon.spool.spooled_stream import SpooledStream, Target
from kdaemon.spool.spooled_streams import SpooledStreams
from kdaemon.spool.values import StoredTotals

log = logging.getLogger("kdaemon.spool")

STREAMS_A_TURN = 100  # streams found, or begun to be read, a turn of the loop: 3 ms. Ours


def find_streams(
    streams: SpooledStreams,
    totals_of_streams: list[StoredTotals],
    now_ms: int,
    find: Callable[[str], Target],
) -> Iterator[SpooledStream | None]:
    """At a start, yields each spooled stream, or None for a stream that is not taken. `now_ms`:
    since 1970. `find`: as for `Spool.recover`.
    """
    for stored in totals_of_streams:
        streams.found(stored)
    for stored in totals_of_streams:
        age_ms = now_ms - stored.oldest_ms
        if age_ms < -CLOCK_JUMP_MS:
            text = "records in the spool are from the future: the clock was set back"
            fields = {"stream": stored.stream, "records": stored.record_count}
            log.warning(text, extra={"fields": {**fields, "by_seconds": -age_ms // 1000}})
        try:
            yield _take_up(streams, stored, age_ms, find)
        except RefusedError as error:
            text = "records of a stream that is not taken any more stay in the spool"
            fields = {"stream": stored.stream, "records": stored.record_count}
            log.warning(text, extra={"fields": {**fields, "error": error.message}})
            yield None


def take_up(
    streams: SpooledStreams,
    now_ms: int,
    find: Callable[[str], Target],
) -> Iterator[SpooledStream | None]:
    """Under another configuration, yields each spooled stream of those that were not taken before,
    or None for a stream that is still not taken.
    """
    for stored in streams.not_taken:
        try:
            yield _take_up(streams, stored, now_ms - stored.oldest_ms, find)
        except RefusedError:
            yield None  # the start told it


def _take_up(
    streams: SpooledStreams,
    stored: StoredTotals,
    age_ms: int,
    find: Callable[[str], Target],
) -> SpooledStream:
    """Makes the spooled stream. Raises RefusedError if the stream is not taken."""
    target = find(stored.stream)
    spooled = streams.get(target, is_listed=target.is_listed)
    fields = {"stream": stored.stream, "records": stored.record_count}
    found = {**fields, "oldest_seconds": max(0, age_ms // 1000)}
    log.info("records found in the spool", extra={"fields": found})
    return spooled

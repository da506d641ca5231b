"""What stands on disk at a start is found: which streams, and how much of each.

Each stream that is taken has a lane again, which knows how much of it stands there; of one that is
not taken the frames stay, count as taking space, and are taken up when a configuration takes the
stream. Knows lanes and totals; no frame, no commit and no read. Invariant: every stream is looked
at once at a start, and is told.
Where it sits: `spool.py` calls here after the store was opened, and after another configuration
came into force, and has what was found read.
"""

import logging
from collections.abc import Callable, Iterator

from kdaemon.base.errors import RejectedRecord
from kdaemon.spool.alarms import CLOCK_JUMP_MS
from kdaemon.spool.spooled_stream import SpooledStream, Target
from kdaemon.spool.spooled_streams import SpooledStreams
from kdaemon.spool.values import StoredTotals

log = logging.getLogger("kdaemon.spool")

LANES_A_TURN = 100  # streams that are found, or begun to be read, in a turn of the loop: 3 ms. Ours


def find_lanes(
    lanes: SpooledStreams,
    totals_of_streams: list[StoredTotals],
    now_ms: int,
    find: Callable[[str], Target],
    is_listed: Callable[[str], bool],
) -> Iterator[SpooledStream | None]:
    """At a start, each stream's lane; None: it is not taken. `now_ms`: since 1970. `find`,
    `is_listed`: as `Spool.recover` has them.
    """
    for stored in totals_of_streams:
        lanes.found(stored)
    for stored in totals_of_streams:
        age_ms = now_ms - stored.oldest_ms
        if age_ms < -CLOCK_JUMP_MS:
            text = "records in the spool are from the future: the clock was set back"
            fields = {"stream": stored.stream, "records": stored.record_count}
            log.warning(text, extra={"fields": {**fields, "by_seconds": -age_ms // 1000}})
        try:
            yield _take_up(lanes, stored, age_ms, find, is_listed)
        except RejectedRecord as error:
            text = "records of a stream that is not taken any more stay in the spool"
            fields = {"stream": stored.stream, "records": stored.record_count}
            log.warning(text, extra={"fields": {**fields, "why": error.message}})
            yield None


def take_up(
    lanes: SpooledStreams,
    now_ms: int,
    find: Callable[[str], Target],
    is_listed: Callable[[str], bool],
) -> Iterator[SpooledStream | None]:
    """By another configuration, the lanes of those that were not taken; None: one is not still."""
    for stored in lanes.not_taken:
        try:
            yield _take_up(lanes, stored, now_ms - stored.oldest_ms, find, is_listed)
        except RejectedRecord:
            yield None  # it was told at the start


def _take_up(
    lanes: SpooledStreams,
    stored: StoredTotals,
    age_ms: int,
    find: Callable[[str], Target],
    is_listed: Callable[[str], bool],
) -> SpooledStream:
    """Raises RejectedRecord: the stream is not taken."""
    lane = lanes.get(find(stored.stream), is_listed=is_listed(stored.stream))
    fields = {"stream": stored.stream, "records": stored.record_count}
    found = {**fields, "oldest_seconds": max(0, age_ms // 1000)}
    log.info("records found in the spool", extra={"fields": found})
    return lane

"""What stands on disk at a start is found: which streams, and how much of each.

Each stream that is still taken has a lane again, which knows how much of it stands there; of one
that is not taken any more the frames stay, and count as taking space. Knows lanes and totals; no
frame, no commit and no read. Invariant: every stream is looked at once, and is told.
Where it sits: `spool.py` calls it once, after the store was opened, and has what was found read.
"""

import asyncio
import logging
from collections.abc import Callable

from kdaemon.base.errors import RejectedRecord
from kdaemon.spool.alarms import CLOCK_JUMP_MS
from kdaemon.spool.backlog import Backlog
from kdaemon.spool.held import frames_bytes
from kdaemon.spool.lane import Lane, Target
from kdaemon.spool.lanes import Lanes
from kdaemon.spool.values import Backlog as StoredBacklog

log = logging.getLogger("kdaemon.spool")

LANES_A_TURN = 100  # streams that are found, or begun to be read, in a turn of the loop: 3 ms. Ours


async def find_lanes(
    lanes: Lanes,
    stored_backlogs: list[StoredBacklog],
    now_ms: int,
    find: Callable[[str], Target],
    is_listed: Callable[[str], bool],
) -> list[Lane]:
    """`now_ms`: since 1970. `find`, `is_listed`: as `Spool.recover` has them."""
    found: list[Lane] = []
    for stored in stored_backlogs:
        target = _taken(stored, now_ms, find)
        row_bytes = frames_bytes(stored.frame_count, stored.byte_count)
        if target is None:
            lanes.left_alone(stored.stream, row_bytes)
            continue
        target.counters.recovered += stored.record_count
        target.counters.spooled += stored.record_count
        lane = lanes.get(target, is_listed=is_listed(stored.stream))
        lane.backlog = Backlog(read_until=stored.first_id - 1, last_id=stored.last_id)
        lanes.frame_count += stored.frame_count
        lanes.add(lane, 0, row_bytes)
        found.append(lane)
        if not len(found) % LANES_A_TURN:
            await asyncio.sleep(0)
    return found


def _taken(stored: StoredBacklog, now_ms: int, find: Callable[[str], Target]) -> Target | None:
    """Whose frames they are; None: the stream is not taken any more. Tells either."""
    age_ms = now_ms - stored.oldest_ms
    fields = {"stream": stored.stream, "records": stored.record_count}
    if age_ms < -CLOCK_JUMP_MS:
        text = "records in the spool are from the future: the clock was set back"
        log.warning(text, extra={"fields": {**fields, "by_seconds": -age_ms // 1000}})
    try:
        target = find(stored.stream)
    except RejectedRecord as error:
        text = "records of a stream that is not taken any more stay in the spool"
        log.warning(text, extra={"fields": {**fields, "why": error.message}})
        return None
    found = {**fields, "oldest_seconds": max(0, age_ms // 1000)}
    log.info("records found in the spool", extra={"fields": found})
    return target

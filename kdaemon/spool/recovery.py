"""What stands on disk at a start is found, and begins to be read back.

Each stream that is still taken has a lane again, which knows how much of it stands there; of one
that is not taken any more the frames stay, and are counted as taking space. Knows lanes and totals;
no frame and no commit. Invariant: every stream is looked at once, and nothing is read before all
are found.
Where it sits: `spool.py` calls it once, after the store was opened.
"""

import asyncio
import logging
from collections.abc import Callable

from kdaemon.base.errors import RejectedRecord
from kdaemon.spool.alarms import CLOCK_JUMP_MS
from kdaemon.spool.backlog import Backlog
from kdaemon.spool.delivery import Delivery
from kdaemon.spool.held import frames_bytes
from kdaemon.spool.lane import Lane, Target
from kdaemon.spool.values import Backlog as StoredBacklog

log = logging.getLogger("kdaemon.spool")

LANES_A_TURN = 100  # streams that are found, or begun to be read, in a turn of the loop: 3 ms. Ours


async def read_back(
    delivery: Delivery,
    stored_backlogs: list[StoredBacklog],
    find: Callable[[str], Target],
    is_listed: Callable[[str], bool],
) -> None:
    """`find`: as `Spool.recover` has it."""
    lanes: list[Lane] = []
    for stored in stored_backlogs:
        lane = _found(delivery, stored, find, is_listed)
        if lane is None:
            continue
        lanes.append(lane)
        if not len(lanes) % LANES_A_TURN:
            await asyncio.sleep(0)
    for number, lane in enumerate(lanes, 1):
        delivery.read_on(lane)
        if not number % LANES_A_TURN:
            await asyncio.sleep(0)


def _found(
    delivery: Delivery,
    stored: StoredBacklog,
    find: Callable[[str], Target],
    is_listed: Callable[[str], bool],
) -> Lane | None:
    """The lane of a stream; None: it is not taken any more."""
    row_bytes = frames_bytes(stored.frame_count, stored.byte_count)
    age_ms = delivery.now_ms() - stored.oldest_ms
    fields = {"stream": stored.stream, "records": stored.record_count}
    if age_ms < -CLOCK_JUMP_MS:
        text = "records in the spool are from the future: the clock was set back"
        log.warning(text, extra={"fields": {**fields, "by_seconds": -age_ms // 1000}})
    try:
        target = find(stored.stream)
    except RejectedRecord as error:
        text = "records of a stream that is not taken any more stay in the spool"
        log.warning(text, extra={"fields": {**fields, "why": error.message}})
        delivery.unlisted_bytes += row_bytes
        return None
    found = {**fields, "oldest_seconds": max(0, age_ms // 1000)}
    log.info("records found in the spool", extra={"fields": found})
    delivery.frame_count += stored.frame_count
    target.counters.recovered += stored.record_count
    target.counters.spooled += stored.record_count
    lane = delivery.lane(target, is_listed=is_listed(stored.stream))
    lane.backlog = Backlog(read_until=stored.first_id - 1, last_id=stored.last_id)
    delivery.add(lane, 0, row_bytes)
    return lane

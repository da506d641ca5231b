"""Finds, at a start, the streams that have frames on disk, and how much of each stands there.

Each stream that is taken becomes a spooled stream again, which knows how much of it is stored. The
frames of a stream that is not taken stay, count as space that is used, and are taken up when a
configuration takes the stream. Knows streams and totals; no frame, no commit and no read.
Invariant: at a start every stream is looked at once, and told to the operator.
Where it sits: `spool.py` calls here after the store was opened, and after another configuration
came into force; it has the frames of each stream read.
"""

import logging
from collections.abc import Callable, Iterator

from kdaemon.base.errors import RefusedError
from kdaemon.spool.alarms import CLOCK_JUMP_MS
from kdaemon.spool.spooled_stream import SpooledStream, Target
from kdaemon.spool.spooled_streams import SpooledStreams

log = logging.getLogger("kdaemon.spool")

STREAMS_A_TURN = 100  # streams found, or begun to be read, a turn of the loop: 3 ms. Ours


def take_up(
    streams: SpooledStreams,
    now_ms: int,
    find: Callable[[str], Target],
    *,
    is_start: bool,
) -> Iterator[SpooledStream | None]:
    """Yields, of each stream that is not taken yet, the spooled stream if it is taken now; None: it
    still is not. `now_ms`: since 1970. `find`: as for `Spool.recover`. `is_start`: what is odd is
    told, as no start before has.
    """
    for stored in streams.not_taken:
        age_ms = now_ms - stored.oldest_ms
        fields = {"stream": stored.stream, "records": stored.record_count}
        if is_start and age_ms < -CLOCK_JUMP_MS:
            text = "records in the spool are from the future: the clock was set back"
            log.warning(text, extra={"fields": {**fields, "by_seconds": -age_ms // 1000}})
        try:
            target = find(stored.stream)
        except RefusedError as error:
            if is_start:
                text = "records of a stream that is not taken any more stay in the spool"
                log.warning(text, extra={"fields": {**fields, "error": error.message}})
            yield None
            continue
        spooled = streams.get(target, is_listed=target.is_listed)
        found = {**fields, "oldest_seconds": max(0, age_ms // 1000)}
        log.info("records found in the spool", extra={"fields": found})
        yield spooled

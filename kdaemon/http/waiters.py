"""Calls back those who waited for something: room, or word of a stream.

Knows nothing of who waits, nor for what.
Invariant: a callback that breaks is told in the log, and holds up nobody else.
Where it sits: beside `turns.py`; streams, their drivers and the spool's commits call here.
"""

import logging
from collections.abc import Callable, Iterable

log = logging.getLogger("kdaemon")


def call_back(waiters: Iterable[Callable[[], object]], stream: str | None = None) -> None:
    """Calls each once, in order. `stream`: what they waited for is of this stream, for the log."""
    for waiter in waiters:
        try:
            waiter()
        except Exception:  # a defect of ours: the others must still go on
            fields = {} if stream is None else {"stream": stream}
            text = "what waited for word or room broke: a defect of kdaemon"
            log.exception(text, extra={"fields": fields})

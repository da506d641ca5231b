"""Tells the operator about the spool, each thing once: damage, loss, files that were taken away,
dead letters that are dropped, a clock that was set.

Each is a line of the log, and a counter where there is one. Knows the store and the clock; no
frame, no stream, and nothing of when a commit is made.
Invariant: nothing is told twice. A drop of letters that goes on is told at most once a minute, with
the number since the last line.
Where it sits: `commits.py` calls here after each commit, `spool.py` after each look.
"""

import logging

from kdaemon.spool.counters import SpoolCounters
from kdaemon.spool.spooled_stream import WallClock
from kdaemon.spool.store import Store

log = logging.getLogger("kdaemon.spool")

CLOCK_JUMP_MS = 60_000  # a clock set by less is no news: ages are kept in hours. Ours
TELL_LETTERS_S = 60  # at least, between two lines on dropped dead letters. Ours
LETTERS_DROPPED = (
    "dead letters are dropped for newer ones: export them, or raise spool.letters_bytes_max"
)


class Alarms:
    """For one spool."""

    __slots__ = ("_clock", "_clock_ahead_ms", "_counters", "_letters_told", "_tell_letters_ns")

    def __init__(self, clock: WallClock, counters: SpoolCounters) -> None:
        self._clock = clock
        self._counters = counters
        self._clock_ahead_ms = self._ahead_ms()
        self._letters_told = 0  # dropped letters that the log has told
        self._tell_letters_ns = 0

    def opened(self, store: Store) -> None:
        """Tells what the store found when it was opened."""
        if store.directory.lock.warning is not None:
            text = "the spool's directory is doubtful"
            log.warning(text, extra={"fields": {"error": store.directory.lock.warning}})
        if store.upkeep.mended_count:
            fields = {"bytes": store.upkeep.mended_count}
            log.warning("damaged bytes of the spool's log are mended", extra={"fields": fields})
        if store.directory.is_emptied:
            log.error("the spool's database was found empty, or gone: what it held is lost")

    def mended(self, store: Store) -> None:
        """Tells what the store has put aside, or made again, since the last call."""
        upkeep = store.upkeep
        salvage, upkeep.salvage = upkeep.salvage, None
        if salvage is not None:
            fields: dict[str, object] = {
                "kept_as": salvage.path,
                "saved_frames": salvage.frame_count,
            }
            if salvage.problem is not None:
                fields["not_all"] = salvage.problem
            log.error(
                "the spool's database was damaged: a new one is begun", extra={"fields": fields}
            )
        restored, upkeep.restored = upkeep.restored, None
        if restored is not None:
            self._counters.restorations += 1
            text = "files of the spool were taken away, and are made again"
            log.error(text, extra={"fields": {"files": restored}})

    def letters_dropped(self, count: int, text: str = LETTERS_DROPPED) -> None:
        """Counts `count` more dropped letters, which may be 0, and tells of all that no line has
        told yet.
        """
        self._counters.letters_dropped += count
        now_ns = self._clock.now_ns()
        if self._counters.letters_dropped > self._letters_told and now_ns >= self._tell_letters_ns:
            fields = {"letters": self._counters.letters_dropped - self._letters_told}
            log.error("%s", text, extra={"fields": fields})
            self._letters_told = self._counters.letters_dropped
            self._tell_letters_ns = now_ns + TELL_LETTERS_S * 1_000_000_000

    def look_at_clock(self) -> None:
        """Tells whether the clock was set since the last look: then stored frames count as older,
        or as younger, than they are.
        """
        ahead_ms = self._ahead_ms()
        jump_ms = ahead_ms - self._clock_ahead_ms
        self._clock_ahead_ms = ahead_ms
        if abs(jump_ms) >= CLOCK_JUMP_MS:
            fields = {"by_seconds": jump_ms // 1000}
            text = "the clock was set: what is stored counts as so much older (max_age_ms)"
            log.warning(text, extra={"fields": fields})

    def _ahead_ms(self) -> int:
        """The time of day less the monotonic time."""
        return int(self._clock.wall_seconds() * 1000) - self._clock.now_ns() // 1_000_000

"""Recounts after the last fault: what was promised, what was taken, what is a dead letter.

A repeat (a record taken twice) must have an excuse: the service did not say that it had taken it,
or the daemon was killed before it can have written down that it was told so. The second is judged
by time: an answer more than SETTLE_WINDOW_S before the kill was known on disk. A machine that is
busy gets more of it: a slack, by how late the test itself was served around that time.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.crash.lag import Lag
from tests.crash.oracle import Call, Oracle
from tests.crash.records import is_poison, shown

SETTLE_WINDOW_S = 1.5
"""Seconds from the service's answer until it is on disk: partly delivered frames are noted once a
second (`spool/commits.py`), a commit takes its time, and the machine has others to serve."""

SLACK_FACTOR = 10.0
"""Of how late this process was served at most: how late the daemon may be, whose way to the disk is
a timer, some turns of its loop, a thread and an fsync, each served by the same machine."""

PAUSE_REACH_S = 2.0  # before the window and after the kill: a pause is noted when it is over
SHORT_S = 0.2  # a whole frame's deletion is on disk by then, unless the disk is slow
AFTERMATH_S = 0.25  # calls that were on their way when the process died are read up to then
READ_TIMEOUT_S = 2.0  # the daemon's
LATE_S = 1.0  # an answer so long after the write may have missed the daemon's read timeout
SHOWN_MAX = 10


@dataclass(slots=True)
class Kill:
    """One SIGKILL, or another end, or a halt. `at_s`: when it was known, in `time.monotonic`'s
    seconds. `is_loss`: the power went with it.
    """

    point: str
    at_s: float
    is_loss: bool = False
    is_end: bool = True  # else it stood still for a while, or went on
    window_s: float = SETTLE_WINDOW_S  # 0: what was answered was written down first
    slack_s: float = 0.0  # beside the window
    exposed_count: int = 0  # records in calls without an answer, or with one within the window
    ages_s: list[float] = field(default_factory=list)
    """Of those that were taken again: from the answer to the kill; below 0: there was none yet."""


@dataclass(slots=True)
class Verdict:
    """What the recount found. Everything is well when `problems` is empty."""

    acknowledged_count: int = 0
    taken_count: int = 0  # different records in the service
    letter_count: int = 0
    untold_repeat_count: int = 0  # the service had not said that it took them
    exposed_count: int = 0  # records whose delivery may not have been on disk at a kill
    short_repeat_count: int = 0  # of those: in flight, or answered at most SHORT_S before
    long_repeat_count: int = 0  # of those: answered earlier, within SETTLE_WINDOW_S
    oldest_repeat_s: float = 0.0  # longest time from an answer to the kill that hid it
    lost: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def judge_repeats(
    verdict: Verdict,
    repeats: Iterable[tuple[int, Call, Call]],
    calls: Iterable[Call],
    kills: Sequence[Kill],
    lag: Lag | None = None,
) -> None:
    """Finds an excuse for each repeat. `kills` in order of time. By `lag` more is allowed for the
    way from an answer to the disk, beside SETTLE_WINDOW_S; the way of an answer is half as long.
    """
    lag = lag or Lag()
    times = [kill.at_s for kill in kills]
    for kill in kills:
        pause_s = lag.worst_s(
            kill.at_s - SETTLE_WINDOW_S - PAUSE_REACH_S, kill.at_s + PAUSE_REACH_S
        )
        kill.slack_s = SLACK_FACTOR * pause_s
    slack_most_s = max([0.0, *(kill.slack_s for kill in kills)])
    for call in calls:
        over = _kill_over(call, times, kills, slack_most_s)
        if over is not None:
            over.exposed_count += call.record_count
    bare: list[str] = []
    for record_id, earlier, later in repeats:
        if earlier.is_untold or record_id in earlier.untold_ids or _is_late(earlier, lag):
            verdict.untold_repeat_count += 1
            continue
        over = _kill_over(earlier, times, kills, slack_most_s)
        if over is None:
            gap_s = later.written_at - earlier.answered_at
            bare.append(f"{shown(record_id)}: taken again {gap_s:.3f} s after its answer")
            continue
        over.ages_s.append(over.at_s - earlier.answered_at)
    ages_s = [age_s for kill in kills for age_s in kill.ages_s]
    verdict.exposed_count = sum(kill.exposed_count for kill in kills)
    verdict.short_repeat_count = sum(age_s <= SHORT_S for age_s in ages_s)
    verdict.long_repeat_count = sum(age_s > SHORT_S for age_s in ages_s)
    verdict.oldest_repeat_s = max([0.0, *ages_s])
    _tell(verdict, "duplicates without an excuse", bare)


def _is_late(call: Call, lag: Lag) -> bool:
    """Whether the answer may have missed the daemon's read timeout."""
    if math.isinf(call.answered_at):
        return False
    pause_s = lag.worst_s(call.written_at, call.answered_at + READ_TIMEOUT_S)
    slack_s = SLACK_FACTOR * pause_s
    return min(LATE_S, READ_TIMEOUT_S - slack_s / 2) < call.answered_at - call.written_at


def _kill_over(
    call: Call, times: Sequence[float], kills: Sequence[Kill], slack_most_s: float
) -> Kill | None:
    """The kill that may have hidden this call's answer from the daemon's disk: the first one that
    came after the call was made.
    """
    index = bisect_left(times, call.written_at - AFTERMATH_S - slack_most_s)
    for kill in kills[index:]:
        if kill.at_s >= call.written_at - AFTERMATH_S - kill.slack_s:
            is_hidden = call.answered_at > kill.at_s - kill.window_s - kill.slack_s
            if is_hidden or kill.is_end:
                return kill if is_hidden else None
    return None


def judge_promises(
    verdict: Verdict,
    promised: Sequence[int],
    taken: Iterable[int],
    letters: Sequence[int],
) -> None:
    """Every acknowledged record is taken or a dead letter; a dead letter is a poisoned record."""
    found = set(taken)
    dead = set(letters)
    verdict.acknowledged_count = len(promised)
    verdict.taken_count = len(found)
    verdict.letter_count = len(letters)
    verdict.lost = [each for each in promised if each not in found and each not in dead]
    _tell(verdict, "acknowledged and lost", map(shown, verdict.lost))
    if len(set(promised)) != len(promised):
        verdict.problems.append("a record was acknowledged twice")
    if len(dead) != len(letters):
        verdict.problems.append("a record is among the dead letters twice")
    good = [shown(each) for each in dead if not is_poison(each)]
    _tell(verdict, "dead, and nothing is wrong with it", good)
    _tell(verdict, "dead and taken", map(shown, dead & found))


def judge_service(verdict: Verdict, oracle: Oracle) -> None:
    """What it took is what was sent, and of an ordered stream each key in its order."""
    if oracle.turned_count:
        texts = "; ".join(oracle.turned)
        verdict.problems.append(f"out of the order of its key: {oracle.turned_count}: {texts}")
    if oracle.stranger_count:
        texts = "; ".join(oracle.strangers)
        verdict.problems.append(f"never sent, or not so: {oracle.stranger_count}: {texts}")


def _tell(verdict: Verdict, what: str, which: Iterable[str]) -> None:
    texts = list(which)
    if texts:
        dots = ", ..." if len(texts) > SHOWN_MAX else ""
        shown_texts = ", ".join(texts[:SHOWN_MAX])
        verdict.problems.append(f"{what}: {len(texts)}: {shown_texts}{dots}")

"""Tells the person at a `put` what the command waits for, if nothing goes on.

About: for how long the daemon has answered nothing, and when a person is told so: after
TOLD_AFTER_S, and then seldom. The daemon's own words come from its answers (`Totals.waits_for`), or
from a look at the daemon by whoever runs the command. Knows totals; must not know a transport.
Invariant: nobody is told of a wait for the input, which is the person's own.
Where it sits: unix.py, http.py -> here -> `cli/`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

LOOK_S = 1.0  # between two looks at the totals; ours, 2026-11-29
TOLD_AFTER_S = 5.0  # of waiting before the first line; ours, 2026-11-28
TOLD_AGAIN_S = 60.0  # between two lines; ours, 2026-11-28
REASONS_MAX = 5  # reasons of rejected lines that are kept for the summary


@dataclass(slots=True)
class Totals:
    """The outcomes so far. `rejected` also counts `unsendable` lines: refused here, never sent.

    `waits_for`: why nothing goes on just now, in words; None: nothing prevents it, or nobody knows
    what does.
    """

    sent: int = 0
    acknowledged: int = 0
    rejected: int = 0
    unsendable: int = 0
    reasons: list[str] = field(default_factory=list)  # of the first rejected lines
    waits_for: str | None = None

    @property
    def awaited(self) -> str | None:
        """What the daemon is to do for the records without an answer; None: there are none."""
        return (
            f"answers for {self.open:,} record{'' if self.open == 1 else 's'}"
            if self.open
            else None
        )

    @property
    def open(self) -> int:
        """Records that were sent and have no answer yet."""
        return self.sent - self.acknowledged - (self.rejected - self.unsendable)

    def reject(self, number: int | None, reason: str, *, is_sent: bool) -> None:
        """Counts a rejected line. `number`: in the file; None: it is no longer known."""
        self.rejected += 1
        self.unsendable += not is_sent
        if len(self.reasons) < REASONS_MAX:
            self.reasons.append(f"line {number or '?'}: {reason}")


async def _unknown() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Person:
    """Who looks at the command. `on_progress`: is called when totals change. `tell`: takes a line.
    `look`: asks the daemon why the stream's records do not go out; None: nobody knows. It does not
    raise.
    """

    on_progress: Callable[[], object] = lambda: None
    tell: Callable[[str], object] = lambda _: None
    look: Callable[[], Awaitable[str | None]] = _unknown


class Wait:
    """For how long the daemon has answered nothing. Pure: time is an argument, in seconds."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._tell_at_s = now_s + TOLD_AFTER_S
        self._seen: tuple[int, int] | None = None

    def due(self, totals: Totals, now_s: float, *, is_waiting: bool) -> float | None:
        """The length of the wait, if a person is to be told of it now. `is_waiting`: the daemon is
        waited for, and not the input.
        """
        seen = (totals.acknowledged, totals.rejected)
        if not is_waiting or seen != self._seen:
            self._seen, self._since_s, self._tell_at_s = seen, now_s, now_s + TOLD_AFTER_S
        if not is_waiting or now_s < self._tell_at_s:
            return None
        self._tell_at_s = now_s + TOLD_AGAIN_S
        return now_s - self._since_s


@asynccontextmanager
async def watched(
    totals: Totals, person: Person, awaited: Callable[[], str | None]
) -> AsyncIterator[None]:
    """Tells the person of each wait for the daemon until the block is left. `awaited`: what the
    daemon is to do now; None: it is not waited for.
    """
    watching = asyncio.create_task(_watch(totals, person, awaited))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def _watch(totals: Totals, person: Person, awaited: Callable[[], str | None]) -> None:
    loop = asyncio.get_running_loop()
    wait = Wait(loop.time())
    found: str | None = None  # by the last look
    while True:
        await asyncio.sleep(LOOK_S)
        what = awaited()
        seconds = wait.due(totals, loop.time(), is_waiting=what is not None)
        if seconds is None:
            continue
        if totals.waits_for in {None, found}:  # the daemon's answers tell nothing
            before = totals.acknowledged, totals.rejected
            found = await person.look()
            if before != (totals.acknowledged, totals.rejected):
                continue  # the wait is over
            totals.waits_for = found
        person.on_progress()
        why = totals.waits_for or "`kdaemon status` tells more"
        person.tell(f"waiting for {seconds:,.0f} s until the daemon {what}: {why}")

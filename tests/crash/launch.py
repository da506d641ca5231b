"""Runs kdaemon's own main in this process, with a point at which the process kills itself.

`CRASH_POINT=name:count:seed python -m tests.crash.launch run --config FILE`: at the count-th time
that the point is passed, SIGKILL. Production code has no hooks: the few functions at those points
are wrapped here, by name, and a name that is gone ends the process with an error at once. A start
is stalled for a moment, too, so that what races with it wins now and then.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

POINT_VARIABLE = "CRASH_POINT"
DELAY_S_MAX = 0.004  # to strike inside a commit: one takes some milliseconds
DELAY_LOSS_S_MAX = 0.060  # on a disk that can lose its power, whose fsyncs are slow
STALL_S = 0.1  # long beside a request and a commit

Wrapped = Callable[..., Any]


class Countdown:
    """Kills this process at the count-th `pass_by`; `pass_by_soon`: soon after it."""

    def __init__(self, count: int, seed: int) -> None:
        self._left = count
        self._dice = random.Random(seed)
        self._guard = threading.Lock()  # the spool's thread and the loop's both pass

    def _is_due(self) -> bool:
        with self._guard:
            self._left -= 1
            return self._left == 0

    def pass_by(self) -> None:
        if self._is_due():
            die()

    def pass_by_soon(self) -> None:
        if self._is_due():
            is_slow = "POWER_LOSS_ROOT" in os.environ
            most_s = DELAY_LOSS_S_MAX if is_slow else DELAY_S_MAX
            threading.Timer(self._dice.uniform(0.0, most_s), die).start()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Point:
    """`name` of the store is called. `is_after`: it has returned, and its caller does not know yet.
    `is_soon`: not at once. `when`: holds for the arguments of the calls that count.
    """

    name: str
    is_after: bool = False
    is_soon: bool = False
    when: Wrapped = lambda *_: True

    def arm(self, countdown: Countdown) -> None:
        from kdaemon.spool.store import Store

        original = getattr(Store, self.name)
        strike = countdown.pass_by_soon if self.is_soon else countdown.pass_by

        def wrapped(*arguments: Any, **named: Any) -> Any:
            counts = self.when(*arguments)
            if counts and not self.is_after:
                strike()
            answer = original(*arguments, **named)
            if counts and self.is_after:
                strike()
            return answer

        setattr(Store, self.name, wrapped)


def _appends(_store: Any, changes: Any) -> bool:
    return bool(changes.appended)


def _deletes(_store: Any, changes: Any) -> bool:
    return bool(changes.settled)


def _buries(_store: Any, changes: Any) -> bool:
    return bool(changes.dead)


STORE = {
    "before_commit": Point("commit", when=_appends),
    "inside_commit": Point("commit", is_soon=True, when=_appends),
    "after_commit": Point("commit", is_after=True, when=_appends),
    "before_delete": Point("commit", when=_deletes),
    "inside_delete": Point("commit", is_soon=True, when=_deletes),
    "after_delete": Point("commit", is_after=True, when=_deletes),
    "before_burial": Point("commit", when=_buries),
    "after_burial": Point("commit", is_after=True, when=_buries),
    "before_read": Point("read"),
    "inside_open": Point("__init__", is_soon=True),
    "after_open": Point("__init__", is_after=True),
}


CLIENT = {"before_send": False, "after_response": True}


def _arm_client(countdown: Countdown, *, is_after: bool) -> None:
    from kdaemon.send.late import LateClient

    original = LateClient.put_records

    async def wrapped(client: Any, *arguments: Any) -> Any:
        if not is_after:
            countdown.pass_by()
        results = await original(client, *arguments)
        if is_after:
            countdown.pass_by()
        return results

    name = "put_records"
    setattr(LateClient, name, wrapped)


def arm(point: str, countdown: Countdown) -> None:
    """Wraps what stands at this point."""
    if point in CLIENT:
        _arm_client(countdown, is_after=CLIENT[point])
    elif point in STORE:
        STORE[point].arm(countdown)
    else:
        raise SystemExit(f"no such point: {point}")


def _stall_start() -> None:
    """The first look at the disk's sizes takes long: what comes in while the daemon starts, if
    anything may, then meets the reading of what an earlier life left.
    """
    from kdaemon.spool.store import Store

    name = "sizes"
    measure: Any = vars(Store)[name].fget
    is_first = True

    def stalled(store: Any) -> Any:
        nonlocal is_first
        if is_first:
            is_first = False
            time.sleep(STALL_S)
        return measure(store)

    setattr(Store, name, property(stalled))


def main() -> None:
    _stall_start()
    point, count, seed = os.environ[POINT_VARIABLE].split(":")
    arm(point, Countdown(int(count), int(seed)))
    from kdaemon.__main__ import main as kdaemon_main

    kdaemon_main()


if __name__ == "__main__":
    main()

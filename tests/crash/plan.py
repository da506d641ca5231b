"""When the daemon is killed, and whether the power goes with it: points, and their order."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Named points inside the daemon, and how often each is passed at most before it strikes.
INNER_POINTS: dict[str, int] = {
    "before_commit": 60,
    "inside_commit": 60,
    "after_commit": 60,  # the frame is on disk, and its client not told
    "before_send": 30,  # the client is told
    "after_response": 30,
    "before_delete": 20,
    "inside_delete": 20,
    "after_delete": 20,
    "before_burial": 1,
    "after_burial": 1,
    "before_read": 1,  # of what an earlier life left, mostly
    "inside_open": 1,
    "after_open": 1,
}
TWICE = "start_twice"  # killed while it starts, and while it starts again
OUTER_POINTS = ("random", "starting", "after_send", "draining", TWICE)
POINTS = (*INNER_POINTS, *OUTER_POINTS)
STOPPED = "stopped"  # it is asked to end, and does
IN_ALL_VERSIONS = ("random", "starting", "after_send", "draining", STOPPED)
ON_DISK = "disk_operation"  # killed at its n-th operation on the disk, which must be a PowerDisk


@dataclass(frozen=True, slots=True)
class Step:
    """One death of the daemon, or two where the point says so. `is_loss`: by a loss of power."""

    point: str
    is_loss: bool = False

    @property
    def kill_count(self) -> int:
        return 2 if self.point == TWICE else 1


def schedule(
    seed: int, kill_count: int, points: Iterable[str], loss_count: int = 0
) -> Iterator[Step]:
    """Every point in turn, each round in another order, until there are so many kills and so many
    losses. Where both are left, the dice choose, so that losses follow kills and other losses.
    """
    dice = random.Random(f"schedule {seed}")
    points = list(points)
    left = {False: kill_count, True: loss_count}
    turns: dict[bool, list[str]] = {False: [], True: []}
    while left[False] > 0 or left[True] > 0:
        is_loss = dice.randrange(max(0, left[False]) + max(0, left[True])) >= max(0, left[False])
        if not turns[is_loss]:
            turns[is_loss] = dice.sample(points, len(points))
        step = Step(turns[is_loss].pop(), is_loss)
        left[is_loss] -= step.kill_count
        yield step

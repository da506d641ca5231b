"""A walk over everything that is queued of a stream, in slices, so that a long walk blocks nothing.

All queues are walked for two reasons: to drop the runs of abandoned frames, and to find the frames
whose records wait. Knows the packer's lanes and the turns of keys; must not know why frames end.
Invariant: between two slices each queue is whole. No batch may be drawn before a walk that drops
runs is over. The walk does not miss runs that are queued or put back meanwhile.
Where it sits: lanes and `key_order.py` -> here -> `queues.py`.
"""

from collections import deque
from collections.abc import Iterator

from kdaemon.base.frame import Frame
from kdaemon.pack.key_order import NoOrder, Waiting
from kdaemon.pack.packer import Packer
from kdaemon.pack.run import Run

LOOKS_A_SLICE = 4_000
"""Queued runs, lanes and keys that one slice looks at: 1 ms. Ours, 2026-11-28."""

# Where order is kept, dropping a run gives the next record of its key its turn: 5 to 12 us. Ours,
# 2026-11-28.
LOOKS_A_STEP_IN_ORDER = 500
LOOKS_OF_A_TURN = 40  # looks that each such run counts as


def abandoned_runs(packer: Packer, order: NoOrder) -> Iterator[tuple[list[Run], bool]]:
    """Drops the queued runs of abandoned frames. Yields for each slice the dropped runs, and
    whether another slice follows.
    """
    left = LOOKS_A_SLICE
    dropped: list[Run] = []
    looks_a_step = LOOKS_A_STEP_IN_ORDER if order.is_kept else LOOKS_A_SLICE
    looks_of_gone = LOOKS_OF_A_TURN if order.is_kept else 0
    for lane in packer.all_lanes:
        for client in lane.parts():
            left -= 1
            start = 0
            while start < len(lane.part(client)):
                if left <= 0:
                    yield dropped, True
                    dropped, left = [], LOOKS_A_SLICE
                count = max(0, min(left, looks_a_step, len(lane.part(client)) - start))
                gone = packer.drop_abandoned(lane, client, start, count) if count else []
                dropped += gone
                start += count - len(gone)
                left -= count + looks_of_gone * len(gone)
    for key in order.keys():  # noqa: SIM118 - no mapping: a list of them, as of now
        left -= 1
        at: Waiting | None = None
        looked_at = count = 1
        while looked_at == count:
            if left <= 0:
                yield dropped, True
                dropped, left = [], LOOKS_A_SLICE
            count = left
            at, looked_at = order.forget_abandoned(key, at, count)
            left -= looked_at
    yield dropped, False


def queued_frames(packer: Packer, order: NoOrder) -> Iterator[Frame]:
    """The frames of all records that are queued now. A frame may come more than once, and may have
    ended since.
    """
    yield from packer.whole_frames
    for lane in packer.all_lanes:
        runs = deque(lane.runs())
        while runs:  # released one by one, so that frames that ended meanwhile are freed
            yield runs.popleft().frame
    for key in order.keys():  # noqa: SIM118 - no mapping: a list of them, as of now
        behind = deque(order.behind(key))
        while behind:
            yield behind.popleft().kept.frame

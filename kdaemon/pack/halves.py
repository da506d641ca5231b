"""Parts of calls that were refused as wrong: each is halved until the bad record is found.

A half goes out as a call of its own, before the queued records. Knows runs; no packer, no tokens
and no answer. Invariants: a record of a refused call is in one half, once, in its order; records of
an abandoned frame are dropped before a half goes out. Bound: the records that were in flight.
Where it sits: `settlement.py` adds the halves of a refused call, and takes the next half.
"""

from collections import deque

from kdaemon.base.frame import Frame
from kdaemon.pack.run import Run


class Halves:
    """`parts`: the parts of refused calls; the first one goes next."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: deque[list[Run]] = deque()

    def add(self, runs: list[Run], records_max: int) -> None:
        """Halves a call of these runs. `records_max`: the most records of a call."""
        self.parts.extend(_pieces(runs, records_max))

    def take(self) -> list[Run]:
        """The next part, without runs of abandoned frames; empty: there is none."""
        while self.parts:
            runs = [run for run in self.parts.popleft() if not run.frame.is_abandoned]
            if runs:
                return runs
        return []

    def frames(self) -> list[Frame]:
        """The frames of all parts; a frame may come more than once."""
        return [run.frame for part in self.parts for run in part]

    def drop_abandoned(self) -> list[Run]:
        """Takes out the runs of abandoned frames, and returns them."""
        dropped: list[Run] = []
        for part in self.parts:
            dropped += [run for run in part if run.frame.is_abandoned]
            part[:] = [run for run in part if not run.frame.is_abandoned]
        return dropped


def _pieces(runs: list[Run], records_max: int) -> list[list[Run]]:
    """Two halves, or more parts if a half has more records than a call takes (records of
    aggregates).
    """
    count = sum(len(run.indices) for run in runs)
    piece_records = min(records_max, (count + 1) // 2)
    pieces: list[list[Run]] = []
    rest = deque(runs)
    while rest:
        piece: list[Run] = []
        missing = piece_records
        while missing and rest:
            run = rest[0]
            part = rest.popleft() if len(run.indices) <= missing else run.split(missing)
            piece.append(part)
            missing -= len(part.indices)
        pieces.append(piece)
    return pieces

"""Parts of calls that were refused as wrong: each is halved until the bad record is found.

A half goes out as a call of its own, before what is queued. Knows runs; no packer, no tokens and no
answer. Invariants: a record of a refused call is in one half, once, in its order; what its client
was told of is dropped before it goes out. Bound: what was in flight.
Where it sits: `settlement.py` adds the halves of a refused call, and takes the next one.
"""

from collections import deque

from kdaemon.base.frame import Frame
from kdaemon.pack.run import Run


class Halves:
    """`parts`: the next one first."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: deque[list[Run]] = deque()

    def add(self, runs: list[Run], records_max: int) -> None:
        """A call of these runs is halved. `records_max`: of a call."""
        self.parts.extend(_pieces(runs, records_max))

    def take(self) -> list[Run]:
        """The next part, without what was given up; empty: there is none."""
        while self.parts:
            runs = [run for run in self.parts.popleft() if not run.frame.is_abandoned]
            if runs:
                return runs
        return []

    def frames(self) -> list[Frame]:
        """Of all parts; one may come more than once."""
        return [run.frame for part in self.parts for run in part]

    def drop_abandoned(self) -> list[Run]:
        """Takes out what was given up."""
        dropped: list[Run] = []
        for part in self.parts:
            dropped += [run for run in part if run.frame.is_abandoned]
            part[:] = [run for run in part if not run.frame.is_abandoned]
        return dropped


def _pieces(runs: list[Run], records_max: int) -> list[list[Run]]:
    """Two halves, or more parts where a half is more than a call takes (records of aggregates)."""
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

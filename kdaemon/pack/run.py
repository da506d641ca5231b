"""Records of one frame that go the same way: they move between queues and calls as one run.

Knows the frame and the run's lane; nothing of other runs, budgets or batches. Pure. Invariant: a
record that is queued or in a call is in one run.
Where it sits: route makes runs, lanes queue them, batches send them, settlement takes them apart.
"""

from typing import TYPE_CHECKING

from kdaemon.base.frame import Frame

if TYPE_CHECKING:
    from kdaemon.pack.lane import Lane


class Run:
    """Records of one frame that go the same way: `indices` into `frame.records`, ascending.

    `byte_count`: data + partition keys of these records. `attempt_count`: how often they were sent.
    `is_keyless`: they came without a key, so that any shard may take them; then `lane` is the lane
    for which they were last drawn.
    """

    __slots__ = ("attempt_count", "byte_count", "frame", "indices", "is_keyless", "lane")

    def __init__(
        self,
        frame: Frame,
        indices: list[int],
        byte_count: int,
        lane: "Lane",
        attempt_count: int = 0,
        *,
        is_keyless: bool = False,
    ) -> None:
        self.frame = frame
        self.indices = indices
        self.byte_count = byte_count
        self.lane = lane
        self.attempt_count = attempt_count
        self.is_keyless = is_keyless

    def split(self, count: int) -> "Run":
        """Takes off the first `count` records (fewer than there are), and returns them as a run."""
        taken = self.indices[:count]
        sizes = self.frame.sizes
        byte_count = sum([sizes[index] for index in taken])
        self.indices = self.indices[count:]
        self.byte_count -= byte_count
        return Run(
            self.frame,
            taken,
            byte_count,
            self.lane,
            self.attempt_count,
            is_keyless=self.is_keyless,
        )


def affordable(run: Run, records_left: int, bytes_left: int, overhead_bytes: int = 0) -> int:
    """How many leading records of the run fit both limits; `overhead_bytes`: added to each
    record.
    """
    indices, sizes = run.indices, run.frame.sizes
    if run.byte_count + overhead_bytes * len(indices) <= bytes_left:
        return min(records_left, len(indices))
    count = 0
    for index in indices[:records_left]:
        bytes_left -= sizes[index] + overhead_bytes
        if bytes_left < 0:
            break
        count += 1
    return count

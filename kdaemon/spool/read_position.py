"""How far the frames of one stream on disk are read. Pure.

Ids grow in the order of acceptance. A frame is passed on when it is committed, if all frames before
it were read and there is room. Otherwise it stays on disk, with all frames after it, until they are
read back. A frame is passed on when each of its records is in an engine, or is left behind for its
shard (`left.py`).
Knows ids; no frame, no disk and no engine.
Invariant: a stream's stored frames are passed on in one order.
Where it sits: `delivery.py` moves it.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class ReadPosition:
    """`read_until`: frames up to this id were passed on, or are gone. `last_id`: the newest
    committed frame. All streams share one sequence of ids, so there are gaps.
    """

    read_until: int = 0
    last_id: int = 0

    @property
    def is_read(self) -> bool:
        """Whether every frame on disk was passed on."""
        return self.read_until >= self.last_id

    def committed(self, frame_id: int, *, is_passed: bool) -> None:
        """A frame was committed. `is_passed`: the frame was passed on, which is possible only if
        `is_read`.
        """
        assert frame_id > self.last_id, "frames are committed in the order of their ids"
        assert not is_passed or self.is_read, "a frame overtook those before it"
        self.last_id = frame_id
        if is_passed:
            self.read_until = frame_id

    def read(self, until_id: int) -> None:
        """Frames up to this id were passed on, or were found not to be there."""
        self.read_until = max(self.read_until, until_id)

    def read_again(self, after_id: int) -> None:
        """Frames after this id are passed on once more: the records of each that no engine
        has had.
        """
        self.read_until = min(self.read_until, after_id)

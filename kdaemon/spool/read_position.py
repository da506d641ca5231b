"""How far the disk is read, of one stream. Pure.

Ids grow in the order of acceptance. A frame is passed on when it is committed, if all before it
were read and there is room; otherwise it stays on disk, and all after it do, until they are read
back. Passed on means that each of its records is an engine's, or is left behind for its shard
(`left.py`). So a stream's stored frames are passed on in one order, always.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class ReadPosition:
    """`read_until`: frames up to this id were passed on, or are gone. `last_id`: the newest
    committed one. Ids belong to all streams together, so there are gaps.
    """

    read_until: int = 0
    last_id: int = 0

    @property
    def is_read(self) -> bool:
        """Every frame on disk was passed on."""
        return self.read_until >= self.last_id

    def committed(self, frame_id: int, *, is_passed: bool) -> None:
        """A frame was committed; `is_passed`: it was passed on (only asked if `is_read`)."""
        assert frame_id > self.last_id, "frames are committed in the order of their ids"
        assert not is_passed or self.is_read, "a frame overtook those before it"
        self.last_id = frame_id
        if is_passed:
            self.read_until = frame_id

    def read(self, until_id: int) -> None:
        """Frames up to this id were passed on, or proved not to be there."""
        self.read_until = max(self.read_until, until_id)

    def read_again(self, after_id: int) -> None:
        """Frames after this id are to be passed on once more: of each, what no engine has had."""
        self.read_until = min(self.read_until, after_id)

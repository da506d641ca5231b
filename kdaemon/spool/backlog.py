"""Which frames of one stream stand on disk only, and which are in memory too. Pure.

Ids grow in the order of acceptance. A frame goes straight to the engine when it is committed, if
nothing before it waits on disk and there is room; otherwise it stays on disk, and all after it do,
until they are read back. So a stream's stored frames reach its engine in one order, always.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Backlog:
    """`read_until`: frames up to this id are in memory, settled or gone. `last_id`: the newest
    committed one. Ids belong to all streams together, so there are gaps.
    """

    read_until: int = 0
    last_id: int = 0

    @property
    def is_empty(self) -> bool:
        """Nothing stands on disk only."""
        return self.read_until >= self.last_id

    def committed(self, frame_id: int, *, is_taken: bool) -> None:
        """A frame was committed; `is_taken`: the engine took it (only asked if `is_empty`)."""
        assert frame_id > self.last_id, "frames are committed in the order of their ids"
        assert not is_taken or self.is_empty, "a frame overtook those before it"
        self.last_id = frame_id
        if is_taken:
            self.read_until = frame_id

    def read(self, until_id: int) -> None:
        """Frames up to this id were taken from disk, or proved not to be there."""
        self.read_until = max(self.read_until, until_id)

"""How much of the disk the spool takes, and who may have what is left. Pure.

Knows sizes, clients, and what those have who may not have all; no disk and no stream. Streams that
are not listed have one of UNLISTED_PARTS parts of the disk, together; the streams of one upstream
of several have UPSTREAM_TIMES times what is left, together; of the last part of the disk no client
has all (`last_part.py`). Invariant: what is about to be committed counts as taken
from the moment in which it was admitted until its commit has returned.
Where it sits: `spool.py` asks before it takes a frame, and notes what each commit leaves.
"""

from typing import NamedTuple

from kdaemon.spool.last_part import LastPart
from kdaemon.spool.values import Sizes

UNLISTED_PARTS = 2  # streams that are not listed have one of so many parts of the disk, together

UPSTREAM_TIMES = 3
"""An upstream that is down leaves a quarter of the disk to the others, two leave a seventh (dynamic
thresholds, Choudhury and Hahne 1998). Ours, 2026-11-28: as of the memory."""


class Had(NamedTuple):
    """Bytes on disk of those who may not have all of it, where a stream is one of them; None: it is
    not. `unlisted`: of streams that are not listed; `upstream`: of its upstream's, of several.
    """

    unlisted: int | None = None
    upstream: int | None = None


class Space:
    """`bytes_max`: pages in use, all streams. `live_bytes`, `file_bytes`: as last measured.
    `uncommitted_bytes`: of frames that wait for their commit, or are in it.
    """

    __slots__ = ("_last_part", "bytes_max", "file_bytes", "live_bytes", "uncommitted_bytes")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.live_bytes = 0
        self.file_bytes = 0
        self.uncommitted_bytes = 0
        self._last_part = LastPart()

    @property
    def free_bytes(self) -> int:
        """What could be given back to the file system."""
        return self.file_bytes - self.live_bytes

    def measured(self, sizes: Sizes) -> None:
        self.live_bytes, self.file_bytes = sizes.live_bytes, sizes.file_bytes

    def is_full(self, byte_count: int, had: Had) -> bool:
        """Whether there is no room for so much."""
        return byte_count > self._left_bytes(had)[0]

    def may_have(self, client: int, byte_count: int, had: Had) -> bool:
        """Whether the client may have so much of what is left; counts it if so."""
        left_bytes, bytes_max = self._left_bytes(had)
        return self._last_part.may_have(client, byte_count, left_bytes, bytes_max)

    def _left_bytes(self, had: Had) -> tuple[int, int]:
        """How much of the disk is left for such a stream, and of how much."""
        left_bytes = self.bytes_max - self.live_bytes - self.uncommitted_bytes
        bytes_max = self.bytes_max
        if had.upstream is not None:
            times = UPSTREAM_TIMES
            left_bytes = (times * left_bytes - had.upstream) // (times + 1)
        if had.unlisted is not None:
            bytes_max //= UNLISTED_PARTS
            left_bytes = min(left_bytes, bytes_max - had.unlisted)
        return left_bytes, bytes_max

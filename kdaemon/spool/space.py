"""How much of the disk the spool takes, and which streams and clients may have the rest. Pure.

Streams that are not listed have one of UNLISTED_PARTS parts of the disk, together. The streams of
one upstream of several have UPSTREAM_TIMES times what is left, together. No client has all of the
last part of the disk (`last_part.py`).
Knows sizes, clients, and how much the bounded streams have; no disk and no stream.
Invariant: a frame counts as taking space from its admission until its commit has returned.
Where it sits: `spool.py` asks before it takes a frame, and notes the sizes after each commit.
"""

from typing import NamedTuple

from kdaemon.spool.last_part import LastPart
from kdaemon.spool.values import Sizes

UNLISTED_PARTS = 2  # unlisted streams have one of so many parts of the disk, together

UPSTREAM_TIMES = 3
"""The streams of one upstream of several may have so many times the space that is left. An upstream
that is down leaves a quarter of the disk to the others, two leave a seventh (dynamic thresholds,
Choudhury and Hahne 1998). Ours, 2026-11-28: as for the memory."""


class Had(NamedTuple):
    """Bytes that the bounded streams have on disk, for a stream that is one of them; None: it is
    not. `unlisted`: of the streams that are not listed. `upstream`: of the streams of its upstream,
    where there are several upstreams.
    """

    unlisted: int | None = None
    upstream: int | None = None


class Space:
    """`bytes_max`: of pages in use, for all streams. `live_bytes`, `file_bytes`: as last measured.
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
        """Bytes that could be given back to the file system."""
        return self.file_bytes - self.live_bytes

    def measured(self, sizes: Sizes) -> None:
        """Notes the sizes that the store measured."""
        self.live_bytes, self.file_bytes = sizes.live_bytes, sizes.file_bytes

    def is_full(self, byte_count: int, had: Had) -> bool:
        """Whether there is no room for `byte_count` bytes more."""
        return byte_count > self._left_bytes(had)[0]

    def may_have(self, client: int, byte_count: int, had: Had) -> bool:
        """Whether the client may have `byte_count` bytes of the space that is left; counts them if
        so.
        """
        left_bytes, bytes_max = self._left_bytes(had)
        return self._last_part.may_have(client, byte_count, left_bytes, bytes_max)

    def _left_bytes(self, had: Had) -> tuple[int, int]:
        """(Bytes of the disk that are left for such a stream, the bound that they are left of)."""
        left_bytes = self.bytes_max - self.live_bytes - self.uncommitted_bytes
        bytes_max = self.bytes_max
        if had.upstream is not None:
            times = UPSTREAM_TIMES
            left_bytes = (times * left_bytes - had.upstream) // (times + 1)
        if had.unlisted is not None:
            bytes_max //= UNLISTED_PARTS
            left_bytes = min(left_bytes, bytes_max - had.unlisted)
        return left_bytes, bytes_max

"""How much of the disk the spool takes, and which streams and clients may have the rest. Pure.

Streams that are not listed have one of UNLISTED_PARTS parts of the disk, together. The streams of
one upstream of several have UPSTREAM_TIMES times what is left, together. While more than one of
LAST_PARTS parts is left, every client may store; of the last part, a client may have one of
CLIENT_PARTS parts of what is left. So clients that store little are not refused because one that
stores much has filled the disk.
Knows sizes, clients, and how much the bounded streams have; no disk and no stream.
Bound: a number for each client that stored while little was left; these are forgotten when there is
room again, or when there are too many.
Invariant: a frame counts as taking space from its admission until its commit has returned.
Where it sits: `spool.py` asks before it takes a frame, and notes the sizes after each commit.
"""

from typing import NamedTuple

from kdaemon.spool.values import Sizes

UNLISTED_PARTS = 2  # unlisted streams have one of so many parts of the disk, together

UPSTREAM_TIMES = 3
"""The streams of one upstream of several may have so many times the space that is left. An upstream
that is down leaves a quarter of the disk to the others, two leave a seventh (dynamic thresholds,
Choudhury and Hahne 1998). Ours, 2026-11-28: as for the memory."""

LAST_PARTS = 16
CLIENT_PARTS = 8
"""One client fills 94 % of the disk, and leaves 5 % of it for clients that store little: of the
default of 1 GiB that is 50 MiB, minutes of 200 records a second (dynamic thresholds, as above).
Ours, 2026-11-28."""

CLIENTS_MAX = 10_000


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

    __slots__ = ("_clients_had", "bytes_max", "file_bytes", "live_bytes", "uncommitted_bytes")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.live_bytes = 0
        self.file_bytes = 0
        self.uncommitted_bytes = 0
        self._clients_had: dict[int, int] = {}  # bytes of each, stored while little was left

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
        so. Client 0 stands for no client that could wait, and is not bounded.
        """
        left_bytes, bytes_max = self._left_bytes(had)
        clients_had = self._clients_had
        if LAST_PARTS * left_bytes > bytes_max or not client:
            if clients_had and LAST_PARTS * left_bytes > 2 * bytes_max:
                clients_had.clear()
            return True
        client_bytes = clients_had.get(client, 0) + byte_count
        if CLIENT_PARTS * client_bytes > left_bytes:
            return False
        if len(clients_had) >= CLIENTS_MAX:
            clients_had.clear()
        clients_had[client] = client_bytes
        return True

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

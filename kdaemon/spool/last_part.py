"""Which clients may have the last part of the disk: clients that store little are not refused
because one that stores much has filled the disk. Pure.

While more than one of LAST_PARTS parts is left, every client may store. Of the last part, a client
may have one of CLIENT_PARTS parts of what is left (dynamic thresholds, Choudhury and Hahne 1998).
Knows sizes and clients; no disk and no stream.
Bound: a number for each client that stored while little was left; these are forgotten when there is
room again, or when there are too many.
Where it sits: `space.py` asks before a frame is taken.
"""

LAST_PARTS = 16
CLIENT_PARTS = 8
"""One client fills 94 % of the disk, and leaves 5 % of it for clients that store little: of the
default of 1 GiB that is 50 MiB, minutes of 200 records a second. Ours, 2026-11-28."""

CLIENTS_MAX = 10_000


class LastPart:
    """For one disk."""

    __slots__ = ("_had",)

    def __init__(self) -> None:
        self._had: dict[int, int] = {}  # bytes that each client stored while little was left

    def may_have(self, client: int, byte_count: int, left_bytes: int, bytes_max: int) -> bool:
        """Whether a client may store `byte_count` of the `left_bytes` that are left of `bytes_max`;
        counts them if so. Client 0 stands for no client that could wait, and is not bounded.
        """
        if LAST_PARTS * left_bytes > bytes_max or not client:
            if self._had and LAST_PARTS * left_bytes > 2 * bytes_max:
                self._had.clear()
            return True
        had_bytes = self._had.get(client, 0) + byte_count
        if CLIENT_PARTS * had_bytes > left_bytes:
            return False
        if len(self._had) >= CLIENTS_MAX:
            self._had.clear()
        self._had[client] = had_bytes
        return True

"""What a listener counts: plain numbers, and a snapshot of them.

Must not know a connection. Apart from hub.py, because msgspec makes one of these classes, and mypyc
makes the hub's. Where it sits: a hub has one, its connections add to it, `observe/` reads it.
"""

from collections.abc import Mapping

import msgspec

from kdaemon.http.refusals import REFUSALS

TIME_OUTS = ("head", "body", "idle", "write", "handshake")


class ListenerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The values of `ListenerCounters` at one time."""

    opened: int
    open: int
    handshakes: int
    rebound: int
    handler_failures: int
    refused: Mapping[str, int]
    timed_out: Mapping[str, int]


class ListenerCounters:
    """Plain numbers since the start."""

    __slots__ = (
        "handler_failures",
        "handshakes",
        "open",
        "opened",
        "rebound",
        "refused",
        "timed_out",
    )

    def __init__(self) -> None:
        self.opened = 0  # connections ever
        self.open = 0  # connections now
        self.handshakes = 0  # TLS handshakes that succeeded
        self.rebound = 0  # times that the socket file was gone and was made again
        self.handler_failures = 0  # exceptions out of the handler: defects of ours
        self.refused = dict.fromkeys(REFUSALS, 0)
        self.timed_out = dict.fromkeys(TIME_OUTS, 0)

    def snapshot(self) -> ListenerCounts:
        """The numbers of now, which do not change any more."""
        return ListenerCounts(
            opened=self.opened,
            open=self.open,
            handshakes=self.handshakes,
            rebound=self.rebound,
            handler_failures=self.handler_failures,
            refused=dict(self.refused),
            timed_out=dict(self.timed_out),
        )

"""One connection's part of a turn of the event loop, so that no client makes the others wait.

About: how much work a connection may do before others have their turn, and how it goes on after
them. Knows no protocol: HTTP spends requests, a session of lines spends blocks.
Invariant: `go_on` is called once for each `pass_on`, in a later turn of the loop, and never after
`close`. Where it sits: a connection owns one; while `is_over` its transport must not be read.
"""

import asyncio
from collections.abc import Callable

# What one connection does in a turn. Ours, 2026-11-28: 100 such connections cost a newcomer 0.2 s.
PIECES_MAX = 64  # requests, or blocks of lines
BYTES_MAX = 64 * 1024  # of raw input
TIME_NS_MAX = 2_000_000


class Turn:
    """`begin`, then `spend` after each piece of work until it says that the turn is over; then
    `pass_on`, which calls `go_on` in the next turn of the loop.
    """

    __slots__ = ("_bytes", "_go_on", "_handle", "_now_ns", "_pieces", "_until_ns")

    def __init__(self, go_on: Callable[[], None], now_ns: Callable[[], int]) -> None:
        self._go_on: Callable[[], None] | None = go_on
        self._now_ns = now_ns
        self._handle: asyncio.Handle | None = None
        self._pieces = 0
        self._bytes = 0
        self._until_ns = 0

    @property
    def is_over(self) -> bool:
        """The rest is done in the next turn."""
        return self._handle is not None

    def begin(self) -> None:
        self._pieces = 0
        self._bytes = 0
        self._until_ns = self._now_ns() + TIME_NS_MAX

    def spend(self, byte_count: int) -> bool:
        """A piece of work was done on so many bytes of input. False: nothing more in this turn."""
        self._pieces += 1
        self._bytes += byte_count
        return (
            self._pieces < PIECES_MAX
            and self._bytes < BYTES_MAX
            and self._now_ns() < self._until_ns
        )

    def pass_on(self) -> None:
        """Lets the others have their turn. Twice in one turn is once."""
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._next)

    def close(self) -> None:
        """Nothing is left to do; breaks the cycle with the connection."""
        self._go_on = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _next(self) -> None:
        self._handle = None
        if self._go_on is not None:
            self.begin()
            self._go_on()

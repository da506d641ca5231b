"""Each connection's part of a turn of the event loop, so that no client makes the others wait.

About: how much work a connection may do before others have their turn, how much all of them
together do in one turn, and who goes on in the next; and a request that is worked on in steps, one
a turn. Knows no protocol: HTTP/1.1 spends requests, HTTP/2 frames, a session of
lines blocks.
Invariants: `go_on` is called once for each `pass_on`, in a later turn of the loop, and never after
`close`; who waits goes on in the order of waiting; however many wait, a turn of the loop does
ALL_TIME_NS_MAX of their work and one part more, so that whoever sends one request is answered soon.
Where it sits: a connection owns a `Turn`, all listeners share one `Turns`; while a turn `is_over`
its transport must not be read.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from kdaemon.base.steps import Steps
from kdaemon.http.request import HttpHandler, HttpRequest

# What one connection does in a turn. Ours, 2026-11-28.
PIECES_MAX = 64  # requests, frames, or blocks of lines
BYTES_MAX = 64 * 1024  # of raw input
TIME_NS_MAX = 2_000_000

# What all that wait for their turn do in one turn of the loop. Ours, 2026-11-28: 1,000 connections
# that pipeline made a newcomer wait 3.7 s.
ALL_TIME_NS_MAX = 4_000_000


class Turns:
    """Those whose work goes on in a later turn of the loop, the first that came first."""

    __slots__ = ("_handle", "_time_ns_max", "_until_ns", "_waiting", "now_ns")

    def __init__(self, now_ns: Callable[[], int], time_ns_max: int = ALL_TIME_NS_MAX) -> None:
        """`time_ns_max`: of one turn of the loop, for all of them together."""
        self.now_ns = now_ns
        self._time_ns_max = time_ns_max
        self._waiting: deque[Callable[[], object]] = deque()
        self._handle: asyncio.Handle | None = None  # of the next turn
        self._until_ns = 0  # of this one

    def later(self, callback: Callable[[], object]) -> None:
        """Calls back in a later turn."""
        self._waiting.append(callback)
        self._see_to_next()

    def may_go_on(self) -> bool:
        """Whether work may be done now that could as well wait: nobody waits already, and not much
        was done in this turn.
        """
        if self._waiting:
            return False
        if self._handle is not None:
            return self.now_ns() < self._until_ns
        self._until_ns = self.now_ns() + self._time_ns_max
        self._handle = asyncio.get_running_loop().call_soon(self._run)
        return True

    def _run(self) -> None:
        self._handle = None
        waiting = self._waiting
        until_ns = self.now_ns() + self._time_ns_max
        try:
            for _ in range(len(waiting)):  # who passes on once more goes behind
                waiting.popleft()()
                if self.now_ns() >= until_ns:
                    break
        finally:  # a defect of one holds up none of the others
            if waiting:
                self._see_to_next()

    def _see_to_next(self) -> None:
        """There is a next turn. A callback may have seen to it already."""
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._run)


class Turn:
    """`begin`, then `spend` after each piece of work until it says that the turn is over; then
    `pass_on`, which calls `go_on` in a later turn of the loop.
    """

    __slots__ = ("_bytes", "_go_on", "_pieces", "_turns", "_until_ns", "is_over")

    def __init__(self, go_on: Callable[[], object], turns: Turns) -> None:
        self._go_on: Callable[[], object] | None = go_on
        self._turns = turns
        self.is_over = False  # the rest is done in a later turn
        self._pieces = 0
        self._bytes = 0
        self._until_ns = 0

    def begin(self) -> None:
        self._pieces = 0
        self._bytes = 0
        self._until_ns = self._turns.now_ns() + TIME_NS_MAX

    def spend(self, byte_count: int) -> bool:
        """A piece of work was done on so many bytes of input. False: nothing more in this turn."""
        self._pieces += 1
        self._bytes += byte_count
        return (
            self._pieces < PIECES_MAX
            and self._bytes < BYTES_MAX
            and self._turns.now_ns() < self._until_ns
        )

    def pass_on(self) -> None:
        """Lets the others have their turn. Twice in one turn is once."""
        if not self.is_over and self._go_on is not None:
            self.is_over = True
            self._turns.later(self._next)

    def go_on_or_pass(self, spent_bytes: int = 0) -> None:
        """Work has come up, beside what others do: now if there is time for it, or later.
        `spent_bytes`: of a first piece that is done already.
        """
        if self.is_over or self._go_on is None:
            return
        if not self._turns.may_go_on():
            self.pass_on()
            return
        self.begin()
        if spent_bytes:
            self.spend(spent_bytes)
        self._go_on()

    def close(self) -> None:
        """Nothing is left to do; breaks the cycle with the connection."""
        self._go_on = None
        self.is_over = False

    def _next(self) -> None:
        self.is_over = False
        if self._go_on is not None:
            self.begin()
            self._go_on()


Later = Callable[[Callable[[], object]], object]
"""Calls back in a later turn of the loop: `Turns.later`, or `soon`."""


def soon(callback: Callable[[], object]) -> None:
    """In the next turn, whoever else waits."""
    asyncio.get_running_loop().call_soon(callback)


def work_in_turns(
    request: HttpRequest, steps: Steps[HttpHandler | None] | Steps[None], later: Later
) -> None:
    """Does the first step now and each other one in a later turn of the loop; the next request of
    the connection is not handed over before the last one. The steps answer the request, or end with
    the handler that is to have it; they go on when its client has gone: its records are there.
    """
    request.holds_next = True
    _Work(request, steps, later).step()


class _Work:
    """What `work_in_turns` has begun. No cycle: at its end all is free, and what it read."""

    __slots__ = ("_charge", "_later", "_request", "_steps")

    def __init__(
        self, request: HttpRequest, steps: Steps[HttpHandler | None] | Steps[None], later: Later
    ) -> None:
        self._later = later
        self._request = request
        self._steps = steps
        # Whoever drops the body of a client that has gone frees nothing while it is worked on.
        self._charge, request.body_charge = request.body_charge, None

    def step(self) -> None:
        try:
            next(self._steps)
        except StopIteration as end:
            if end.value is None:
                self._end()
            else:
                self._hand_on(end.value)
        except Exception:
            self._fail()
            raise
        else:
            self._later(self.step)

    def _fail(self) -> None:
        self._request.fail()
        self._end()

    def _hand_on(self, handler: HttpHandler) -> None:
        """The handler has the request, as if it had just come; it may hold the next one back."""
        request = self._request
        request.body_charge, self._charge = self._charge, None
        request.holds_next = False
        try:
            handler(request)
        except Exception:
            self._fail()
            raise
        finally:
            if request.is_gone:
                request.drop_body()
        if not request.holds_next:
            self._end()

    def _end(self) -> None:
        if self._charge is not None:
            self._charge.release()
        self._request.holds_next = True
        self._request.let_next()

"""Divides each turn of the event loop among connections, so that no client makes the others wait.

About: how much work a connection may do before others have their turn, how much all of them
together do in one turn of the loop, and who goes on in the next; and requests that are worked on in
steps, one step in each turn. Must not know a protocol: HTTP/1.1 spends requests, HTTP/2 frames, a
session of lines blocks.
Invariants: `go_on` is called once for each `pass_on`, in a later turn of the loop, and never after
`close`. Connections that wait go on in the order in which they began to wait. However many wait, a
turn of the loop does ALL_TIME_NS_MAX of their work and one part more, so that a client that sends
one request is answered soon.
Where it sits: a connection owns a `Turn`, all listeners share one `Turns`. While a turn `is_over`,
its transport must not be read.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from kdaemon.base.steps import Steps
from kdaemon.http.request import HttpHandler, HttpRequest

# What one connection may do in a turn. Ours, 2026-11-28.
PIECES_MAX: Final = 64  # requests, frames, or blocks of lines
BYTES_MAX: Final = 64 * 1024  # bytes of raw input
TIME_NS_MAX: Final = 2_000_000

# What all waiting connections together may do in one turn of the loop. Ours, 2026-11-28: 1,000
# connections that pipeline made a new one wait 3.7 s.
ALL_TIME_NS_MAX = 4_000_000


class Turns:
    """The work that goes on in a later turn of the loop, first come, first served."""

    __slots__ = ("_handle", "_time_ns_max", "_until_ns", "_waiting", "now_ns")

    def __init__(self, now_ns: Callable[[], int], time_ns_max: int = ALL_TIME_NS_MAX) -> None:
        """`time_ns_max`: in one turn of the loop, for all waiting work together."""
        self.now_ns = now_ns
        self._time_ns_max = time_ns_max
        self._waiting: deque[Callable[[], object]] = deque()
        self._handle: asyncio.Handle | None = None  # runs the next turn
        self._until_ns = 0  # the end of this turn's time

    def later(self, callback: Callable[[], object]) -> None:
        """Calls back in a later turn."""
        self._waiting.append(callback)
        self._see_to_next()

    def may_go_on(self) -> bool:
        """Whether work that could wait may be done now: nobody waits already, and this turn of the
        loop has time left.
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
            for _ in range(len(waiting)):  # a callback that calls `later` again goes to the end
                waiting.popleft()()
                if self.now_ns() >= until_ns:
                    break
        finally:  # a callback that raises does not stop the others
            if waiting:
                self._see_to_next()

    def _see_to_next(self) -> None:
        """Plans the next turn, unless a callback has planned it already."""
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._run)


class Turn:
    """A connection's part of a turn. Call `begin`, then `spend` after each piece of work until it
    says that the turn is over, then `pass_on`, which calls `go_on` in a later turn of the loop.
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
        """A turn begins: nothing is spent yet."""
        self._pieces = 0
        self._bytes = 0
        self._until_ns = self._turns.now_ns() + TIME_NS_MAX

    def spend(self, byte_count: int) -> bool:
        """A piece of work was done on so many bytes of input. False: the turn is over."""
        self._pieces += 1
        self._bytes += byte_count
        return (
            self._pieces < PIECES_MAX
            and self._bytes < BYTES_MAX
            and self._turns.now_ns() < self._until_ns
        )

    def pass_on(self) -> None:
        """Lets the others have their turn. A second call in one turn does nothing."""
        if not self.is_over and self._go_on is not None:
            self.is_over = True
            self._turns.later(self._next)

    def go_on_or_pass(self, spent_bytes: int = 0) -> None:
        """New work has come up: does it now if there is time, else in a later turn. `spent_bytes`:
        size of a first piece that is done already.
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
        """Nothing is left to do. Breaks the reference cycle with the connection."""
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
    """Calls back in the next turn of the loop, whoever else waits."""
    asyncio.get_running_loop().call_soon(callback)


def work_in_turns(
    request: HttpRequest, steps: Steps[HttpHandler | None] | Steps[None], later: Later
) -> None:
    """Does the first step now and each other step in a later turn of the loop. The next request of
    the connection is not handed over before the last step. The steps answer the request, or end
    with the handler that gets it. They go on when the client has gone, because its records are
    there.
    """
    request.blocks_next = True
    _Work(request, steps, later).step()


class _Work:
    """The work that `work_in_turns` has begun. It has no reference cycle: at its end it and what it
    read are freed.
    """

    __slots__ = ("_charge", "_later", "_request", "_steps")

    def __init__(
        self, request: HttpRequest, steps: Steps[HttpHandler | None] | Steps[None], later: Later
    ) -> None:
        self._later = later
        self._request = request
        self._steps = steps
        # The charge is kept here: dropping the body of a client that has gone frees no memory while
        # the steps work on it.
        self._charge, request.body_charge = request.body_charge, None

    def step(self) -> None:
        """Does the next step. Raises what the steps or the handler raise, after the request was
        answered.
        """
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
        """The handler gets the request as if it had just come; it may hold the next request
        back.
        """
        request = self._request
        request.body_charge, self._charge = self._charge, None
        request.blocks_next = False
        try:
            handler(request)
        except Exception:
            self._fail()
            raise
        finally:
            if request.is_gone:
                request.drop_body()
        if not request.blocks_next:
            self._end()

    def _end(self) -> None:
        if self._charge is not None:
            self._charge.release()
        self._request.blocks_next = True
        self._request.let_next()

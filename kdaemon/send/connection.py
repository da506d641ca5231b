"""One connection to the service: a request out, its answer in, one at a time.

Knows a transport and the loop's clock; `reader.py` reads the answer's bytes. Must not know calls,
where the connection leads, or who else uses it: `pool.py` keeps connections that can be used again.
Invariants: a request is written in one turn, or its unwritten part stays here and nowhere else.
Each request has one outcome. Bytes that come without a request end the connection, so that no
forged or late answer is taken for the answer to another call.
"""

import asyncio
import math
import ssl
from typing import Final, NamedTuple, Protocol, cast

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import KIB
from kdaemon.send.arriving import Answer, Room
from kdaemon.send.bodies import Held
from kdaemon.send.failures import LOST, OVERDUE, READ_TIMEOUT, Failed
from kdaemon.send.reader import AnswerReader

PIECE_BYTES: Final = 512 * KIB  # of a body in one write; eight take 0.2 ms more. Ours, 2026-11-28
NEVER_S: Final = math.inf

Outcome = Answer | ServiceError | Failed
"""The outcome of a request. The caller raises an error; nothing is raised here, where frames of the
stack hold the request.
"""


class Peer(NamedTuple):
    """Where a connection leads. `trust`: the trusted certificates for TLS; None: no TLS."""

    host: str
    port: int
    trust: ssl.SSLContext | bool | None


class Owner(Protocol):
    """The keeper of connections (`pool.py`)."""

    def keep(self, connection: "Connection") -> None:
        """The connection can carry another request."""

    def forget(self, connection: "Connection") -> None:
        """The connection is closed."""

    def watch(self, due_s: float) -> None:
        """A connection is due at this loop time."""


class Connection(asyncio.Protocol):
    """`due_s`: when the pool is to end it, by the loop's clock: it was idle, or had no answer, for
    too long.
    """

    __slots__ = (
        *("_call_due_s", "_held", "_is_paused", "_loop", "_pool", "_reader", "_rest"),
        *("_silence_s", "_transport", "_waiter", "due_s", "peer"),
    )

    def __init__(self, pool: Owner, peer: Peer, loop: asyncio.AbstractEventLoop) -> None:
        self.peer = peer
        self.due_s = NEVER_S
        self._pool = pool
        self._loop = loop
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None  # None: not connected yet, or closed
        # For the answer; None: no request is under way.
        self._waiter: asyncio.Future[Outcome] | None = None
        self._held: Held | None = None  # the memory of the body, until the body is written
        self._rest: memoryview | None = None  # the unwritten rest of a large body
        self._is_paused = False
        self._silence_s = 0.0
        self._call_due_s = NEVER_S

    @property
    def is_usable(self) -> bool:
        """Whether it can carry a request now."""
        return (
            self._waiter is None
            and self._transport is not None
            and not self._transport.is_closing()
        )

    @property
    def is_due(self) -> bool:
        return self.due_s <= self._loop.time()

    def watch(self, limit_s: float) -> None:
        """Makes it due after `limit_s`, unless something happens before."""
        self._watch(self._loop.time() + limit_s)

    def _watch(self, due_s: float) -> None:
        self.due_s = due_s
        self._pool.watch(due_s)

    def send(
        self, head: bytes, body: bytes, held: Held, room: Room, silence_s: float, due_s: float
    ) -> asyncio.Future[Outcome]:
        """Writes a request. `held`: the memory of its body, given back when the body is written or
        dropped. `silence_s`: how long the service may be silent once the request is written.
        `due_s`: when the answer must be there, by the loop's clock.
        """
        transport = self._transport
        assert transport is not None, "the pool gives usable ones"
        self._waiter = waiter = self._loop.create_future()
        self._reader.begin(room)
        self._held = held
        self._silence_s = silence_s
        self._call_due_s = due_s
        if len(body) <= PIECE_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            self._rest = memoryview(body)
        self._write_rest()
        if self._is_paused:  # silence begins when all is written
            self._watch(due_s)
        return waiter

    def drop(self, waiter: asyncio.Future[Outcome]) -> None:
        """The caller has gone: the outcome of its request will be unknown."""
        if self._waiter is waiter:
            self._waiter = None
            self.abort()

    def abort(self) -> None:
        """Closes the connection at once; what is not written is not sent."""
        transport, self._transport = self._transport, None
        self._forget_body()
        self.due_s = NEVER_S
        if transport is not None:
            transport.abort()

    def expire(self) -> None:
        """Ends the connection, which is due."""
        is_call_over = self.due_s == self._call_due_s
        self._end(OVERDUE if is_call_over else READ_TIMEOUT, is_kept=False)

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but no subclass

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._held is not None:
            self._write_rest()

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:
            self.abort()
            return
        outcome = self._reader.feed(data)
        if outcome is not None:
            self._end(outcome, is_kept=self._reader.is_kept)
        elif self._held is None:  # else the wait for the answer has not begun
            self._await_more()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiter is not None:
            self._end(self._reader.end() or self._lost(exc), is_kept=False)
        self._forget_body()
        self._reader.close()
        self._pool.forget(self)

    def _lost(self, exc: Exception | None) -> Failed:
        return LOST if exc is None or self._reader.is_head_read else LOST.because_of(exc)

    def _write_rest(self) -> None:
        """Writes the rest of the body, as far as the transport takes it; then waits for the
        answer.
        """
        while self._rest is not None and not self._is_paused:
            assert self._transport is not None
            piece, rest = self._rest[:PIECE_BYTES], self._rest[PIECE_BYTES:]
            self._rest = rest or None
            self._transport.write(piece)
        if not self._is_paused:
            self._forget_body()
            self._await_more()

    def _await_more(self) -> None:
        self._watch(min(self._loop.time() + self._silence_s, self._call_due_s))

    def _forget_body(self) -> None:
        self._rest = None
        held, self._held = self._held, None
        if held is not None:
            held.give()

    def _end(self, outcome: Outcome, *, is_kept: bool) -> None:
        """Gives the request its outcome."""
        waiter, self._waiter = self._waiter, None
        if is_kept and self._held is None and self.is_usable:
            self._pool.keep(self)
        else:  # also if the answer came before the whole request was written
            self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_result(outcome)

"""The reusable connections of one client, and one timer for all of them.

Knows when a connection was used last; must not know requests. Callers pass in how a connection is
made. Invariants: a connection carries one request at a time. A connection carries no other request
if it got anything between two requests, or if it was idle for KEEPALIVE_S. A connection is known
here only from when it was handed over: of a connection that no caller got, not every loop says that
it is lost. The timer fires no later than the first connection is due; if it fires too early, it is
set again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from kdaemon.send.connection import NEVER_S, Connection, Peer
from kdaemon.send.failures import CONNECT, DialError

KEEPALIVE_S: Final = 12.0  # seconds that an idle connection is kept: aiobotocore 3.10.0's default


Dial = Callable[[Peer, Callable[[], Connection]], Awaitable[Connection]]
"""Makes a connection. Raises `DialError`."""


class Pool:
    """The pool of one client. In the loop's thread only."""

    __slots__ = ("_all_gone", "_dial", "_idle", "_is_closed", "_open", "_timer", "_timer_s")

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._open: set[Connection] = set()
        # By peer; the connection that was used last is last.
        self._idle: dict[Peer, dict[Connection, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = NEVER_S
        self._is_closed = False
        self._all_gone: asyncio.Future[None] | None = None

    @property
    def open_count(self) -> int:
        return len(self._open)

    def take(self, peer: Peer) -> Connection | None:
        """An idle connection: the one that was used last; None: there is none."""
        idle = self._idle.get(peer)
        while idle:
            connection, _ = idle.popitem()
            if connection.is_usable and not connection.is_due:
                return connection
            connection.abort()
        return None

    async def open(self, peer: Peer) -> Connection:
        """Makes a connection. Raises `DialError`."""
        self._refuse_if_closed()
        loop = asyncio.get_running_loop()
        made: list[Connection] = []

        def factory() -> Connection:
            made.append(Connection(self, peer, loop))
            return made[-1]

        try:
            connection = await self._dial(peer, factory)
        except BaseException:
            for each in made:  # uvloop does not tell that these are lost, and ends TLS slowly
                each.abort()
            raise
        if self._is_closed:
            connection.abort()
        if not connection.is_usable:  # closed meanwhile, by the service or by us
            raise DialError(CONNECT)
        self._open.add(connection)
        return connection

    def _refuse_if_closed(self) -> None:
        """A method of its own, since mypy would believe after a dial what was true before it."""
        if self._is_closed:
            raise RuntimeError("the pool is closed")

    def keep(self, connection: Connection, *, is_used: bool = True) -> None:
        """The connection is idle now. `is_used`: False: no request was made on it."""
        if self._is_closed:
            connection.abort()
            return
        self._idle.setdefault(connection.peer, {})[connection] = None
        if is_used or connection.due_s == NEVER_S:
            connection.watch(KEEPALIVE_S)

    def forget(self, connection: Connection) -> None:
        """The connection is closed."""
        self._open.discard(connection)
        idle = self._idle.get(connection.peer)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[connection.peer]
        if not self._open and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    def watch(self, due_s: float) -> None:
        """A connection is due at this loop time."""
        if due_s < self._timer_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_s = due_s
            self._timer = asyncio.get_running_loop().call_at(due_s, self._ring)

    async def aclose(self) -> None:
        """Closes all connections; requests in flight are lost."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._open):
            connection.abort()
        if self._open:
            self._all_gone = asyncio.get_running_loop().create_future()
            await self._all_gone

    def _ring(self) -> None:
        self._timer = None
        self._timer_s = NEVER_S
        for connection in list(self._open):
            if connection.is_due:
                connection.expire()
        self.watch(min((each.due_s for each in self._open), default=NEVER_S))

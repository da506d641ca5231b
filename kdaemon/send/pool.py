"""The connections of one client that may carry another request, and one clock for all of them.

Knows when a connection was used last; must not know requests. How one is made is handed in.
Invariants: a connection carries one request at a time; one that got anything between two requests,
or that nobody used for KEEPALIVE_S, carries no other; one is known here from when it was handed
over, for of one that nobody got no loop need tell that it is lost. One timer rings no later than
the first connection is due; it may ring too early, and moves on then.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from kdaemon.send.connection import NEVER_S, Connection, Peer
from kdaemon.send.failures import CONNECT, DialError

KEEPALIVE_S: Final = 12.0  # seconds an idle connection is kept: aiobotocore 3.10.0's default


Dial = Callable[[Peer, Callable[[], Connection]], Awaitable[Connection]]
"""Makes a connection. Raises `DialError`."""


class Pool:
    """Of one client. In the loop's thread only."""

    __slots__ = ("_all_gone", "_dial", "_idle", "_is_closed", "_open", "_timer", "_timer_s")

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._open: set[Connection] = set()
        self._idle: dict[Peer, dict[Connection, None]] = {}  # those of a peer: used last, last
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = NEVER_S
        self._is_closed = False
        self._all_gone: asyncio.Future[None] | None = None

    @property
    def open_count(self) -> int:
        return len(self._open)

    def take(self, peer: Peer) -> Connection | None:
        """A connection that is there already: the one that was used last."""
        idle = self._idle.get(peer)
        while idle:
            connection, _ = idle.popitem()
            if connection.is_usable and not connection.is_due:
                return connection
            connection.abort()
        return None

    async def open(self, peer: Peer) -> Connection:
        """Another connection. Raises `DialError`."""
        self._refuse_if_closed()
        loop = asyncio.get_running_loop()
        made: list[Connection] = []

        def factory() -> Connection:
            made.append(Connection(self, peer, loop))
            return made[-1]

        try:
            connection = await self._dial(peer, factory)
        except BaseException:
            for each in made:  # uvloop tells nobody that it is lost, and ends TLS in its own time
                each.abort()
            raise
        if self._is_closed:
            connection.abort()
        if not connection.is_usable:  # closed meanwhile, by the service or by us
            raise DialError(CONNECT)
        self._open.add(connection)
        return connection

    def _refuse_if_closed(self) -> None:
        """In a method of its own: else mypy believes after a dial what was so before."""
        if self._is_closed:
            raise RuntimeError("the pool is closed")

    def keep(self, connection: Connection, *, is_used: bool = True) -> None:
        """It is idle now; or still, where nothing was asked on it."""
        if self._is_closed:
            connection.abort()
            return
        self._idle.setdefault(connection.peer, {})[connection] = None
        if is_used or connection.due_s == NEVER_S:
            connection.watch(KEEPALIVE_S)

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._open.discard(connection)
        idle = self._idle.get(connection.peer)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[connection.peer]
        if not self._open and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    def watch(self, due_s: float) -> None:
        """Something is due then."""
        if due_s < self._timer_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_s = due_s
            self._timer = asyncio.get_running_loop().call_at(due_s, self._ring)

    async def aclose(self) -> None:
        """Closes all connections; requests under way are lost."""
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

"""Accepts connections and passes them on as sockets, for processes that share one listener.

About: a listening socket whose connections are served elsewhere: `take` gets each connection, and
closes it or passes it on. Knows sockets and the loop. Must not know who serves.
Invariants: a connection that nobody can take now is kept, and no other connection is accepted
before `resume`, or before a short time has passed. The others wait in the kernel's queue, which
refuses none until it is full. If no file descriptor is left, the loop is not woken again and again
for that.
Where it sits: server.py -> here -> daemon/handing.py. It replaces asyncio's server for one socket.
takeover.py takes the processes here that ask for the sockets.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

ACCEPTED_A_TURN = 64  # connections accepted in one turn of the loop, 2 ms; ours, 2026-11-28
RETRY_S = 1.0  # seconds until a file descriptor may be free again; ours, 2026-11-28
TAKE_RETRY_S = 0.05  # seconds until a busy taker may take a connection; ours, 2026-11-28
OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # accept(2), 2026-11-28


class Acceptor:
    """Accepts on one socket, `sock`, which it owns. In the loop's thread only."""

    def __init__(
        self, sock: socket.socket, backlog: int, take: Callable[[socket.socket], bool]
    ) -> None:
        """`take`: returns whether somebody took the connection; the taker owns it then."""
        self.sock = sock
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._kept: socket.socket | None = None  # accepted, and not taken yet
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(backlog)
        self._loop.add_reader(sock.fileno(), self._accept)

    def resume(self) -> None:
        """Accepts again: somebody may be able to take connections."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_closed:
            return
        kept, self._kept = self._kept, None
        if kept is not None and not self._take(kept):
            self._keep(kept)
            return
        self._loop.add_reader(self.sock.fileno(), self._accept)

    def close(self) -> None:
        """Accepts no more. A second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self.sock.fileno())
        if self._kept is not None:
            self._kept.close()
        self.sock.close()

    async def wait_closed(self) -> None:
        """Does nothing; asyncio's server has this method."""

    def _accept(self) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                connection, _ = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF:
                    self._pause(RETRY_S)
                return  # else the client went before we accepted
            connection.setblocking(False)
            if not self._take(connection):
                self._keep(connection)
                return

    def _keep(self, connection: socket.socket) -> None:
        self._kept = connection
        self._pause(TAKE_RETRY_S)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self.sock.fileno())
        self._timer = self._loop.call_later(seconds, self.resume)

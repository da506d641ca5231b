"""Accepts connections and hands them on as sockets, for processes that share one listener.

About: a listening socket whose connections are served elsewhere: `take` is given each one, and
closes it or hands it on. Knows sockets and the loop; must not know who serves.
Invariants: a connection that nobody can take now is kept, and no other one is accepted, until
`resume`, or a short while later: the others wait in the kernel's queue, which refuses nobody before
it is full; where no file descriptor is left the loop does not turn for that alone.
Where it sits: server.py -> here -> daemon/handing.py; the part of asyncio's server, for one socket.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

ACCEPTED_A_TURN = 64  # connections of one turn of the loop: 2 ms; ours, 2026-11-28
RETRY_S = 1.0  # until a file descriptor may be free again; ours, 2026-11-28
TAKE_RETRY_S = 0.05  # until somebody may take a connection who was only busy; ours, 2026-11-28
OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # accept(2), 2026-11-28


class Acceptor:
    """Of one socket, which it owns. In the loop's thread only."""

    def __init__(
        self, sock: socket.socket, backlog: int, take: Callable[[socket.socket], bool]
    ) -> None:
        """`take`: whether somebody has the connection now; it is the taker's then."""
        self._sock = sock
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._kept: socket.socket | None = None  # accepted, and taken by nobody yet
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(backlog)
        self._loop.add_reader(sock.fileno(), self._accept)

    def resume(self) -> None:
        """Somebody may take connections again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_closed:
            return
        kept, self._kept = self._kept, None
        if kept is not None and not self._take(kept):
            self._keep(kept)
            return
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Accepts no more. Closing twice is nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        if self._kept is not None:
            self._kept.close()
        self._sock.close()

    async def wait_closed(self) -> None:
        """As asyncio's server has it."""

    def _accept(self) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                connection, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF:
                    self._pause(RETRY_S)
                return  # else: it was gone before we came
            connection.setblocking(False)
            if not self._take(connection):
                self._keep(connection)
                return

    def _keep(self, connection: socket.socket) -> None:
        self._kept = connection
        self._pause(TAKE_RETRY_S)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._timer = self._loop.call_later(seconds, self.resume)

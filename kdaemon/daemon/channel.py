"""What a supervisor and a worker tell each other, in order: connections, orders, how the worker is.

The channel is a pair of sockets that keep packets apart (SOCK_SEQPACKET). A packet is a JSON
object, or a connection: the name of its listener, with its file descriptor. Both ends run one
program, as one user.
Knows packets; must not know what a packet means, nor when one is sent.
Invariants: packets arrive in the order in which they were sent, connections included, so an order
to end arrives behind every connection that was handed on before. Nothing here waits: an object that
the other end does not read yet is kept; a connection is not kept, since another worker can have it.
Where it sits: crew.py, handing.py and worker.py -> here -> the socket.
"""

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

PACKET_BYTES_MAX = 64 * 1024  # an object has some hundred bytes; ours, 2026-11-28
PACKETS_A_TURN = 64  # read from one channel in one turn of the loop; ours, 2026-11-28
_CONNECTION, _TOLD = b"c", b"t"
_DESCRIPTOR = struct.Struct("i")
_ROOM = socket.CMSG_SPACE(_DESCRIPTOR.size)  # for the one descriptor that comes with a connection


class Channel:
    """One end of the channel. Used in the loop's thread only; `start` begins to listen."""

    def __init__(
        self,
        sock: socket.socket,
        on_told: Callable[[dict[str, Any]], object],
        on_end: Callable[[], object],
        on_connection: Callable[[str, socket.socket | None], object] | None = None,
    ) -> None:
        """`on_end`: the process at the other end is gone. `on_connection`: is given the listener's
        name and a connection, which is ours now. The connection is None if this process had no file
        descriptor left: then the system has closed it.
        """
        self._sock = sock
        self._on_told, self._on_end, self._on_connection = on_told, on_end, on_connection
        self._loop = asyncio.get_running_loop()
        self._untold: deque[bytes] = deque()
        self._is_closed = False
        sock.setblocking(False)

    def start(self) -> None:
        """Begins to hear the other end."""
        self._loop.add_reader(self._sock.fileno(), self._read)

    def tell(self, fields: dict[str, Any]) -> None:
        """Sends an object: now, or when the other end has read the earlier ones. If the other end
        is gone, the object is dropped.
        """
        self._untold.append(_TOLD + json.dumps(fields).encode())
        self._write()

    def hand(self, name: str, connection: socket.socket) -> bool:
        """True: the connection is closed here, and open at the other end. False: the other end is
        gone, or reads nothing now; the connection is still the caller's.
        """
        if self._is_closed or self._untold:
            return False
        try:
            packet = b"%b%d %b" % (_CONNECTION, connection.family, name.encode())
            socket.send_fds(self._sock, [packet], [connection.fileno()])
        except OSError:
            return False
        connection.close()
        return True

    def drain(self) -> None:
        """Reads everything that the other end has sent before its process ended."""
        while self._read():
            pass

    def close(self) -> None:
        """Sends and reads no more. A second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()

    def _write(self) -> None:
        while self._untold and not self._is_closed:
            try:
                self._sock.send(self._untold[0])
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._write)
                return
            except OSError:  # the other end is gone, as `_read` will find
                self._untold.clear()
                break
            self._untold.popleft()
        if not self._is_closed:
            self._loop.remove_writer(self._sock.fileno())

    def _read(self) -> bool:
        """Whether there may be more to read."""
        for _ in range(PACKETS_A_TURN):
            if self._is_closed:
                return False
            try:
                packet, extra, _, _ = self._sock.recvmsg(
                    PACKET_BYTES_MAX, _ROOM, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return False
            except OSError:
                packet, extra = b"", []
            if not packet:
                self.close()
                self._on_end()
                return False
            self._heard(packet, extra)
        return True

    def _heard(self, packet: bytes, extra: list[tuple[int, int, bytes]]) -> None:
        kind, rest = packet[:1], packet[1:]
        if kind == _TOLD:
            self._on_told(json.loads(rest))
            return
        family, _, name = rest.partition(b" ")
        connection: socket.socket | None = None
        for _, _, data in extra:
            (descriptor,) = _DESCRIPTOR.unpack(data)
            # With family and type given, the socket module does not ask the kernel for them.
            connection = socket.socket(int(family), socket.SOCK_STREAM, 0, descriptor)
            connection.setblocking(False)
        if self._on_connection is not None:
            self._on_connection(name.decode(), connection)
        elif connection is not None:
            connection.close()

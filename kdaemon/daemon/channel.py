"""What a supervisor and a worker tell each other: connections, orders, how it stands; in order.

A pair of sockets that keep packets apart (SOCK_SEQPACKET). A packet is a connection, by the name of
its listener and with its descriptor, or a JSON object. Both ends are of one program and one user.
Knows packets; must not know what is told, nor when.
Invariants: what is told arrives in the order in which it was, connections included, so that an
order to end comes behind every connection that was handed on before; nothing here waits: what the
other end does not read is kept, but for a connection, which another worker may have.
Where it sits: handing.py, crew.py and worker.py -> here -> the socket.
"""

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

PACKET_BYTES_MAX = 64 * 1024  # a packet of what is told has some hundred; ours, 2026-11-28
PACKETS_A_TURN = 64  # of one channel and turn of the loop; ours, 2026-11-28
_CONNECTION, _TOLD = b"c", b"t"
_DESCRIPTOR = struct.Struct("i")
_ROOM = socket.CMSG_SPACE(_DESCRIPTOR.size)  # for the one that comes with a connection


class Channel:
    """One end. In the loop's thread only; `start` begins to hear."""

    def __init__(
        self,
        sock: socket.socket,
        on_told: Callable[[dict[str, Any]], object],
        on_end: Callable[[], object],
        on_connection: Callable[[str, socket.socket | None], object] | None = None,
    ) -> None:
        """`on_end`: the other end is gone, with its process. `on_connection`: the listener's name,
        and a connection that is ours now. None: this process had no file descriptor left for one,
        which the system has closed.
        """
        self._sock = sock
        self._on_told, self._on_end, self._on_connection = on_told, on_end, on_connection
        self._loop = asyncio.get_running_loop()
        self._untold: deque[bytes] = deque()
        self._is_closed = False
        sock.setblocking(False)

    def start(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._read)

    def tell(self, fields: dict[str, Any]) -> None:
        """Now, or when the other end has read what was told before. Nothing if it is gone."""
        self._untold.append(_TOLD + json.dumps(fields).encode())
        self._write()

    def hand(self, name: str, connection: socket.socket) -> bool:
        """False: the other end is gone, or reads nothing now; the connection is the caller's still.
        Otherwise it is closed here, and open there.
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
        """Hears what the other end, which is gone, has told."""
        while self._read():
            pass

    def close(self) -> None:
        """Tells and hears no more. Closing twice is nothing."""
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
            except OSError:  # it is gone, as will be heard
                self._untold.clear()
                break
            self._untold.popleft()
        if not self._is_closed:
            self._loop.remove_writer(self._sock.fileno())

    def _read(self) -> bool:
        """Whether there may be more."""
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
            # What it is was said: the kernel need not be asked.
            connection = socket.socket(int(family), socket.SOCK_STREAM, 0, descriptor)
            connection.setblocking(False)
        if self._on_connection is not None:
            self._on_connection(name.decode(), connection)
        elif connection is not None:
            connection.close()

"""What asyncio's transports do not say or do: a TCP connection that was reset, and resetting one.

Knows sockets, and nothing of what is spoken. Where it sits: below connection.py and opening.py.
"""

import socket
import struct
from typing import Any

TCP_CLOSE = 7  # tcpi_state of Linux (include/net/tcp_states.h)


def reset_transport(transport: Any) -> None:
    """Drops a connection with a reset where it is TCP, so that its client sees an error at once."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def is_reset(transport: Any) -> bool:
    """Whether the other side has reset a TCP connection. False for what is not TCP."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return False  # there a write fails at once
    state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == TCP_CLOSE

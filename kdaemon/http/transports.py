"""What asyncio's transports do not say or do: whether the other side is there, and a TCP reset.

A loop sees nothing of a connection that it does not read: who ended its sending side, and who is
not read for a while, may go unnoticed. Knows sockets, and nothing of what is spoken.
Where it sits: below connection.py, opening.py and the session of lines.
"""

import select
import socket
import struct
from enum import Enum
from typing import Any


class Presence(Enum):
    """Of the other side, as far as this side's kernel knows."""

    THERE = "there"
    SENDS_NO_MORE = "sends no more"  # it may read on; over TCP it may also be gone
    GONE = "gone"  # it closed a Unix socket, or has reset a TCP connection


def reset_transport(transport: Any) -> None:
    """Drops a connection with a reset where it is TCP, so that its client sees an error at once."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def presence(transport: Any) -> Presence:
    """Asks the kernel, without reading. What is no socket is there."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return Presence.THERE
    descriptor = sock.fileno()
    if descriptor < 0:
        return Presence.GONE
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)  # the two others are told unasked
    events = 0
    for _, found in poll.poll(0):
        events |= found
    if events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
        return Presence.GONE
    return Presence.SENDS_NO_MORE if events & select.POLLRDHUP else Presence.THERE

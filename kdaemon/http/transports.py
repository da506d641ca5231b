"""What asyncio's transports do not say or do: whether the other side is there, and a TCP reset.

A loop sees nothing of a connection that it does not read: who ended its sending side, and who is
not read for a while, may go unnoticed. Knows sockets, and nothing of what is spoken.
Where it sits: below connection.py, opening.py and the session of lines.
"""

import asyncio
import os
import select
import socket
import struct
from collections.abc import Callable
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


def stop_other_side(transport: Any) -> bool:
    """The other side of a Unix socket can write no more, and hears so at once. On Linux, what it
    has written is still there to be read, and then its end. False: this is none.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return False
    with socket.socket(fileno=os.dup(sock.fileno())) as same:  # a loop hides the method
        same.shutdown(socket.SHUT_RD)
    return True


def end_writing(transport: Any) -> bool:
    """Ends our side of a connection, and leaves the other one open. False: that cannot be had, or
    the other side is gone already, as its kernel told ours and ours not yet the loop.
    """
    if transport.is_closing() or not transport.can_write_eof():
        return False
    try:
        transport.write_eof()
    except OSError:
        return False
    return True


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


# When to look whether a client that sends no more is gone: on one machine the answer of its kernel
# is there at once. Later it is looked for at each sweep. Our choice, 2026-11-28.
PROBE_S = 0.02


class Probe:
    """Finds out whether a client that sends no more still reads: one that ran out of patience and
    closed its socket looks the same. Its kernel resets the connection when something is sent, so
    the bytes that every answer begins with are sent ahead of it.
    """

    __slots__ = ("_start", "is_out")

    def __init__(self, answer_start: bytes) -> None:
        self._start = answer_start
        self.is_out = False  # of the next answer, this much is sent

    def send(self, transport: Any, look: Callable[[], object]) -> None:
        """`look`: is called when the client's kernel had time to answer."""
        self.is_out = True
        transport.write(self._start)
        asyncio.get_running_loop().call_later(PROBE_S, look)

    def rest_of(self, answer: bytes) -> bytes:
        """What is still to be sent of the next answer."""
        if not self.is_out:
            return answer
        self.is_out = False
        return answer[len(self._start) :]

"""What asyncio's transports do not tell or do: whether the other side is there, and a TCP reset.

A loop sees nothing of a connection that it does not read: the other side may have ended its sending
side, or closed, and the loop does not notice. Knows sockets. Must not know what is spoken.
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

_PEER = struct.Struct("iII")  # pid, uid, gid: struct ucred of unix(7)


class Presence(Enum):
    """The state of the other side, as far as this side's kernel knows."""

    THERE = "there"
    SENDS_NO_MORE = "sends no more"  # it may still read; over TCP it may also be gone
    GONE = "gone"  # it closed a Unix socket, or has reset a TCP connection


def reset_transport(transport: Any) -> None:
    """Drops a connection, over TCP with a reset, so that its client sees an error at once."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def peer_of(sock: Any) -> tuple[int, int, int]:
    """Process id, user id and group id at the other end of a Unix socket, as the kernel tells them
    (SO_PEERCRED: those of the time of connecting). Raises OSError.
    """
    told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, gid = _PEER.unpack(told)
    return pid, uid, gid


def stop_other_side(transport: Any) -> bool:
    """Makes the other side of a Unix socket unable to write; it hears of that at once. On Linux,
    what it has written can still be read, and after that its end. False: this is no Unix socket.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return False
    with socket.socket(fileno=os.dup(sock.fileno())) as same:  # a loop hides the method
        same.shutdown(socket.SHUT_RD)
    return True


def end_writing(transport: Any) -> bool:
    """Ends our side of a connection, and leaves the other side open. False: that is not possible,
    or the other side has gone already, which its kernel has told ours, and ours has not yet told
    the loop.
    """
    if transport.is_closing() or not transport.can_write_eof():
        return False
    try:
        transport.write_eof()
    except OSError:
        return False
    return True


def presence(transport: Any) -> Presence:
    """Asks the kernel, without reading. A transport without a socket counts as there."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return Presence.THERE
    descriptor = sock.fileno()
    if descriptor < 0:
        return Presence.GONE
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)  # poll tells the two other events unasked
    events = 0
    for _, found in poll.poll(0):
        events |= found
    if events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
        return Presence.GONE
    return Presence.SENDS_NO_MORE if events & select.POLLRDHUP else Presence.THERE


def look_for_other_side(
    transport: Any, on_gone: Callable[[], object], on_silence: Callable[[], object]
) -> None:
    """Calls `on_gone` if the other side has gone, and `on_silence` if it sends no more and may have
    gone. The loop notices neither while it does not read.
    """
    other_side = presence(transport)
    if other_side is Presence.GONE:
        on_gone()
    elif other_side is Presence.SENDS_NO_MORE:
        on_silence()


# How many seconds after a probe to look whether the client is gone: on one machine its kernel
# answers at once. Each later sweep looks again. Ours, 2026-11-28.
PROBE_S = 0.02


class Probe:
    """Finds out whether a client that sends no more still reads: a client that gave up and closed
    its socket looks the same. The kernel of such a client resets the connection when something is
    sent, so the bytes with which every answer begins are sent ahead of the answer.
    """

    __slots__ = ("_start", "is_out")

    def __init__(self, answer_start: bytes) -> None:
        self._start = answer_start
        self.is_out = False  # the beginning of the next answer is sent already

    def send(self, transport: Any, look: Callable[[], object]) -> None:
        """Sends the beginning of an answer. `look`: called when the client's kernel had time to
        answer.
        """
        self.is_out = True
        transport.write(self._start)
        asyncio.get_running_loop().call_later(PROBE_S, look)

    def rest_of(self, answer: bytes) -> bytes:
        """The part of the next answer that is still to be sent."""
        if not self.is_out:
            return answer
        self.is_out = False
        return answer[len(self._start) :]

"""Bounds the TLS handshakes that go on at a time, so that a flood of them costs only its own
clients.

About: how many handshakes may be half done, whose turn it is, and whether a client's first bytes
may be the beginning of a handshake. Must not know a key or a socket.
Invariants: all handshakes together get HANDSHAKES_NS_MAX of a turn of the loop, and one signature
more. OpenSSL gets nothing of a client before the client's whole hello is there, so that a client
that stalls in its hello holds no more memory than it sent. When too many are half done, the oldest
one is ended.
Where it sits: tls.py asks here; one object for all listeners of a process.
"""

import ssl
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from kdaemon.http.turns import Turns

HANDSHAKES_NS_MAX = 1_000_000
"""Nanoseconds of a turn of the loop, for all handshakes. One signature by RSA of 2048 bits takes
0.8 ms, by ECDSA 0.1 (OpenSSL 3.0, 2026-11-28)."""

HALF_DONE_MAX = 1_000
"""Handshakes that OpenSSL has begun and whose client has not answered: 60 KiB each. Ours,
2026-11-28: with clients 100 ms away, that allows 10,000 connections a second."""

HELLO_BYTES_MAX = 16 * 1024
"""The largest hello of a client. Hellos with post-quantum keys have 2 KiB. OpenSSL takes 128 KiB,
and reserves as much as the first bytes say. Ours, 2026-11-28."""

HANDSHAKE_BYTES_MAX = 160 * 1024
"""What a client may send before its handshake is done: its hello, twice, and a chain of
certificates, of which OpenSSL takes 100 KiB. Ours, 2026-11-28."""

ALPN = ["http/1.1", "h2"]
"""The protocols that are offered to clients that ask by ALPN (RFC 7301), the best first: a request
of HTTP/1.1 costs a third of one of HTTP/2 here. A client that offers neither goes on without ALPN:
its first bytes tell its protocol, as for any other client."""

HANDSHAKE, CHANGE_CIPHER_SPEC, CLIENT_HELLO = 0x16, 0x14, 0x01  # RFC 8446, 4 and 5.1
RECORD_HEAD_BYTES = 5
RECORD_BYTES_MAX = 16 * 1024  # bytes of plain text in a record (RFC 8446, 5.1)

# An alert that ends a handshake before OpenSSL has seen it (RFC 8446, 6).
UNEXPECTED_MESSAGE = b"\x15\x03\x01\x00\x02\x02\x0a"


class Hello(Enum):
    """What a client's first bytes are."""

    PARTIAL = "partial"  # so far they may be a hello
    WHOLE = "whole"
    NONE = "none"


def judge_hello(data: bytes) -> Hello:
    """Whether a client's first record is there, and is a hello that OpenSSL may get."""
    if data[:1] != b"\x16" or data[1:2] not in (b"", b"\x03"):
        return Hello.NONE
    if len(data) < RECORD_HEAD_BYTES:
        return Hello.PARTIAL
    length = int.from_bytes(data[3:RECORD_HEAD_BYTES], "big")
    if not 4 <= length <= RECORD_BYTES_MAX or data[5:6] not in (b"", b"\x01"):
        return Hello.NONE
    if len(data) >= 9 and int.from_bytes(data[6:9], "big") > HELLO_BYTES_MAX:
        return Hello.NONE
    return Hello.WHOLE if len(data) >= RECORD_HEAD_BYTES + length else Hello.PARTIAL


def asks_for_signature(data: bytes) -> bool:
    """Whether these bytes begin with a hello, which makes the expensive step of a handshake."""
    at = 0
    if data[:1] == b"\x14":  # RFC 8446, D.4: a second hello may come behind this
        at = RECORD_HEAD_BYTES + int.from_bytes(data[3:RECORD_HEAD_BYTES], "big")
    return data[at : at + 1] == b"\x16" and data[at + 5 : at + 6] == b"\x01"


class HalfDone(Protocol):
    """A connection whose handshake has begun."""

    def displace(self) -> None: ...


class Handshakes:
    """The handshakes of all listeners. `context`: gives the context for a handshake that begins
    now.
    """

    __slots__ = ("_half_done", "context", "half_done_max", "later", "may_go_on")

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        now_ns: Callable[[], int],
        half_done_max: int = HALF_DONE_MAX,
    ) -> None:
        turns = Turns(now_ns, HANDSHAKES_NS_MAX)
        self.context = context
        self.half_done_max = half_done_max
        self.later = turns.later
        self.may_go_on = turns.may_go_on
        self._half_done: dict[HalfDone, None] = {}

    @property
    def half_done_count(self) -> int:
        """How many have begun and are not done."""
        return len(self._half_done)

    def begin(self, connection: HalfDone) -> None:
        """OpenSSL holds memory for this connection from now on. May end the oldest half-done
        handshake.
        """
        self._half_done[connection] = None
        if len(self._half_done) > self.half_done_max:
            oldest = next(iter(self._half_done))
            del self._half_done[oldest]
            oldest.displace()

    def end(self, connection: HalfDone) -> None:
        """The handshake is done, or its connection lost. A second call does nothing."""
        self._half_done.pop(connection, None)

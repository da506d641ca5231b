"""Which TLS handshakes go on now, so that a flood of them costs its own clients and nobody else.

About: how many handshakes may be half done, whose turn it is, and whether the bytes that a client
opens with may be the beginning of one. Knows no key and no socket.
Invariants: all handshakes together have HANDSHAKES_NS_MAX of a turn of the loop, and one signature
more; OpenSSL is given nothing of a client before its whole hello is there, so that who stalls in it
holds no more than what it sent; of those half done, the oldest goes when there are too many.
Where it sits: tls.py asks here; one for all listeners of a process.
"""

import ssl
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from kdaemon.http.turns import Turns

HANDSHAKES_NS_MAX = 1_000_000
"""Of a turn of the loop, for all handshakes: one signature by RSA of 2048 bits takes 0.8 ms, by
ECDSA 0.1 (OpenSSL 3.0, 2026-11-28)."""

HALF_DONE_MAX = 1_000
"""Handshakes that OpenSSL has begun and whose client has not answered: 60 KiB each. Ours,
2026-11-28: with a client 100 ms away, 10,000 connections a second."""

HELLO_BYTES_MAX = 16 * 1024
"""Of a client's hello: with keys for after quantum computers they have 2 KiB. OpenSSL takes 128
KiB, and holds as much as the first bytes say. Ours, 2026-11-28."""

HANDSHAKE_BYTES_MAX = 160 * 1024
"""That a client may send before its handshake is done: its hello, twice, and a chain of
certificates, of which OpenSSL takes 100 KiB. Ours, 2026-11-28."""

ALPN = ["http/1.1", "h2"]
"""What is offered to clients that ask by ALPN (RFC 7301), the best first: a request of HTTP/1.1
costs a third of one of HTTP/2 here. A client that offers none of it goes on without: what it speaks
is seen from its first bytes, as of any other."""

HANDSHAKE, CHANGE_CIPHER_SPEC, CLIENT_HELLO = 0x16, 0x14, 0x01  # RFC 8446, 4 and 5.1
RECORD_HEAD_BYTES = 5
RECORD_BYTES_MAX = 16 * 1024  # of plain text (RFC 8446, 5.1)

# Alerts that end a handshake before OpenSSL has seen it (RFC 8446, 6).
UNEXPECTED_MESSAGE = b"\x15\x03\x01\x00\x02\x02\x0a"


class Hello(Enum):
    """What the first bytes of a client are."""

    PARTIAL = "partial"  # so far they may be a hello
    WHOLE = "whole"
    NONE = "none"


def judge_hello(data: bytes) -> Hello:
    """Whether a client's first record is there, and is a hello that OpenSSL may be given."""
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
    """Whether this begins with a hello: the step of a handshake that costs much."""
    at = 0
    if data[:1] == b"\x14":  # RFC 8446, D.4: a second hello may come behind this
        at = RECORD_HEAD_BYTES + int.from_bytes(data[3:RECORD_HEAD_BYTES], "big")
    return data[at : at + 1] == b"\x16" and data[at + 5 : at + 6] == b"\x01"


class HalfDone(Protocol):
    """A connection whose handshake has begun."""

    def displace(self) -> None: ...


class Handshakes:
    """Those of all listeners. `context`: what a handshake that begins now is done with."""

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

    def begin(self, connection: HalfDone) -> None:
        """OpenSSL holds memory for it from now on."""
        self._half_done[connection] = None
        if len(self._half_done) > self.half_done_max:
            oldest = next(iter(self._half_done))
            del self._half_done[oldest]
            oldest.displace()

    def end(self, connection: HalfDone) -> None:
        """It is done, or lost. Twice is nothing."""
        self._half_done.pop(connection, None)

"""The first bytes of a connection decide what it speaks, on TCP and Unix sockets alike.

HTTP begins with an upper-case letter (the method, or the preface of HTTP/2) or with a TLS hello,
whose client is told what this port speaks; anything else is the lines protocol, where the listener
has one. On TCP all that can begin a method goes to HTTP, which refuses methods that it does not
know: a browser lets a page choose a method in lower case, and what such a page sends as a body
would be read as lines.
Knows no protocol beyond its first byte: the lines protocol is handed in as a factory.
Invariant: a connection that has sent nothing costs one place, which it loses to others or in time.
Where it sits: socket -> Opening -> HttpProtocol or a session of lines.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from kdaemon.http.connection import HttpProtocol
from kdaemon.http.hub import HttpHub
from kdaemon.http.request import HttpHandler
from kdaemon.http.transports import reset_transport

UPPER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")  # RFC 9110, 9: methods of note
# All that a method may begin with (token, RFC 9110, 5.6.2)
TOKEN = UPPER | frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~")
TLS_HELLO = 0x16  # RFC 8446, 5.1


class Spoken(Protocol):
    """A protocol that takes a connection over after its first bytes."""

    def take_over(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def check_time(self, tick: int) -> None: ...
    def idle_ticks(self, tick: int) -> int: ...
    def close_if_idle(self) -> None: ...
    def reset(self) -> None: ...


Lines = Callable[[HttpHub], Any]  # makes a `Spoken` that is an asyncio.Protocol


class Opening(asyncio.Protocol):
    """A connection until its first byte; then the transport has another protocol."""

    __slots__ = ("_handler", "_hub", "_lines", "_since_tick", "_transport")

    def __init__(self, handler: HttpHandler, hub: HttpHub, lines: Lines | None) -> None:
        self._handler = handler
        self._hub = hub
        self._lines = lines
        self._since_tick = hub.tick
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if not self._hub.attach(self, is_silent=True):
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._hub.detach(self)

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        is_http = data[0] == TLS_HELLO or data[0] in (
            TOKEN if self._hub.gate.checks_browsers else UPPER
        )
        protocol: Spoken
        if is_http or self._lines is None:
            protocol = HttpProtocol(self._handler, hub=self._hub)
        else:
            protocol = self._lines(self._hub)
        self._hub.hand_over(self, protocol)
        self._transport.set_protocol(protocol)
        protocol.take_over(self._transport)
        protocol.data_received(data)

    def check_time(self, tick: int) -> None:
        """Cuts off a client that connects and says nothing."""
        if tick - self._since_tick > self._hub.idle_ticks_max:
            self._hub.counters.timed_out["idle"] += 1
            self._transport.close()

    def idle_ticks(self, tick: int) -> int:  # noqa: ARG002 - places.silent has it in order
        return -1

    def close_if_idle(self) -> None:
        self._transport.close()

    def reset(self) -> None:
        reset_transport(self._transport)

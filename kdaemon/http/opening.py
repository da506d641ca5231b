"""Finds out from a connection's first bytes what it speaks, on TCP and Unix sockets alike.

TLS: if the listener has a certificate, a TLS hello begins a handshake, and then the first bytes
inside decide. If it has none, the client is told what this port speaks. Plain text at a port of TLS
gets an answer in plain text, which says that the port speaks TLS.
HTTP/2 begins with its preface, whole or in pieces; it need not have been offered. HTTP/1.1 begins
with an upper-case letter (of the method). Lines begin with `{`, if the listener takes lines.
Anything else is refused. On TCP everything that can begin a method goes to HTTP, which refuses
methods that it does not know: a browser lets a page choose a method in lower case, and the body
that such a page sends would be read as lines. Empty lines before either decide nothing (RFC 9112,
2.2); before lines, blanks and a byte order mark do not either. If only lines are spoken (a stream's
own socket), there is nothing to decide: a log line may begin as HTTP does.
Knows only the first bytes of each protocol: the lines protocol is passed in.
Invariants: a connection that has sent nothing costs one place, which it loses to others or in time.
No text of another protocol is read as lines, not even a part of it.
Where it sits: socket -> Opening (-> TlsTransport -> Opening) -> HttpProtocol, Http2Protocol or a
session of lines.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kdaemon.http.connection import HttpProtocol
from kdaemon.http.handshakes import HANDSHAKE, UNEXPECTED_MESSAGE, Handshakes
from kdaemon.http.http2_frames import INADEQUATE_SECURITY, NO_SETTINGS, PREFACE, goaway
from kdaemon.http.hub import Hub
from kdaemon.http.refusals import TLS_MISSING, in_form_of_head
from kdaemon.http.rendering import render
from kdaemon.http.request import HttpHandler
from kdaemon.http.transports import end_writing, reset_transport

if TYPE_CHECKING:
    from kdaemon.http.tls import TlsTransport

log = logging.getLogger("kdaemon.http")

UPPER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")  # RFC 9110, 9: known methods begin so
# All characters that a method may begin with (token, RFC 9110, 5.6.2).
TOKEN = UPPER | frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~")
PREFACE_BYTES = len(PREFACE)
UNDECIDED_BYTES_MAX = 1024  # bytes of empty lines and blanks before anything else; ours, 2026-11-28

_EMPTY_LINES = re.compile(rb"[\r\n]*")
_BEFORE_LINES = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Spoken(Protocol):
    """A protocol that takes over a connection after its first bytes."""

    def take_over(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def check_time(self, tick: int) -> None: ...
    def idle_ticks(self, tick: int) -> int: ...
    def leave(self) -> None: ...
    def close_if_idle(self) -> None: ...
    def reset(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines protocol. `speak`: makes a `Spoken` that is an asyncio.Protocol. `refuse`: takes
    the number and the problem of a connection's first line, counts the line as refused, and returns
    the answer. `refuse_stranger`: the same for a client without any right, and for the lines that
    came. `is_only`: nothing else is spoken here, and all input is lines.
    """

    speak: Callable[[Hub], Any]
    refuse: Callable[[int, str], bytes]
    refuse_stranger: Callable[[int, str, bytes], bytes]
    is_only: bool = False


class Opening(asyncio.Protocol):
    """A connection until its first bytes have decided; then the transport has another protocol.

    Keeps bytes that decide nothing, UNDECIDED_BYTES_MAX at most. After a refusal it reads on for a
    moment, because closing with unread input would destroy the answer.
    """

    __slots__ = (
        "_begun",
        "_handler",
        "_hub",
        "_is_refused",
        "_lines",
        "_since_tick",
        "_tls",
        "_transport",
    )

    def __init__(self, handler: HttpHandler, hub: Hub, lines: Lines | None) -> None:
        self._handler = handler
        self._hub = hub
        self._lines = lines
        self._begun = b""
        self._is_refused = False
        self._since_tick = hub.tick
        self._tls: TlsTransport | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected; reset at once if the hub has no place for it."""
        self._transport = transport
        if not self._hub.attach(self, is_silent=True):
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client has gone before it was known what it speaks."""
        self._hub.detach(self)

    def eof_received(self) -> bool | None:
        """The client sends no more. A part of HTTP/2's preface is refused by HTTP/1.1."""
        if not self._may_be_http_2():
            return None
        protocol = HttpProtocol(self._handler, hub=self._hub)
        self._hand_over(protocol, self._begun)
        return protocol.eof_received()

    def data_received(self, data: bytes) -> None:
        """Hands the connection over to the protocol that its first bytes belong to, with all that
        came; until they decide, they are kept.
        """
        if self._transport.is_closing() or self._is_refused:
            return
        if self._hub.tls is not None and self._tls is None:
            self._begin_tls(self._hub.tls, data)
            return
        lines, begun = self._lines, self._begun + data
        before = _match_end(_BEFORE_LINES, begun)
        first = begun[before : before + 1]
        problem = None
        if lines is not None and lines.is_only:
            self._speak_lines(lines, begun, 0)
        elif PREFACE.startswith(begun[:PREFACE_BYTES]):
            self._speak_http_2(begun)
        elif lines is None:
            self._speak_http_1(begun)
        elif before > UNDECIDED_BYTES_MAX:
            problem = f"More than {UNDECIDED_BYTES_MAX} bytes of blanks come before the first line"
        elif self._is_http(begun):
            self._speak_http_1(begun)
        elif first == b"{":
            self._speak_lines(lines, begun, before)
        elif not first or _BYTE_ORDER_MARK.startswith(begun):
            self._begun = begun
        else:
            problem = 'The first line does not begin with "{": this is neither HTTP nor JSON lines'
        if lines is not None and problem is not None:
            number = begun.count(b"\n", 0, before) + 1
            answer = lines.refuse(number, f"{problem}; the connection is closed.")
            self._refuse("malformed", answer)

    def _speak_lines(self, lines: Lines, begun: bytes, before: int) -> None:
        """`before`: the position of the first line."""
        who = self._hub.who(self._transport)
        if who.is_known:
            self._hand_over(lines.speak(self._hub), begun)
            return
        number = begun.count(b"\n", 0, before) + 1
        answer = lines.refuse_stranger(number, who.why_unknown, begun[before:])
        self._refuse("unauthenticated", answer)

    def _is_http(self, data: bytes) -> bool:
        first = data[_match_end(_EMPTY_LINES, data) :][:1]
        known = TOKEN if self._hub.gate.checks_browsers else UPPER
        return bool(first) and (first[0] in known or data[0] == HANDSHAKE)

    def _speak_http_1(self, begun: bytes) -> None:
        """Hands over to HTTP/1.1. If a TLS hello came, HTTP/1.1 tells the client what this port
        speaks.
        """
        if begun[0] == HANDSHAKE:
            self._tell_tls_unexpected()
        self._hand_over(HttpProtocol(self._handler, hub=self._hub), begun)

    def _speak_http_2(self, begun: bytes) -> None:
        """Handles input that begins as the preface does, or has all of it."""
        if len(begun) < PREFACE_BYTES:
            if not self._begun:
                self._since_tick = self._hub.tick
            self._begun = begun
            return
        # Imported only when somebody speaks HTTP/2: the library takes 2 MiB, which an idle daemon
        # saves.
        from kdaemon.http.http2 import Http2Protocol  # noqa: PLC0415

        self._hand_over(Http2Protocol(self._handler, self._hub), begun[PREFACE_BYTES:])

    def _may_be_http_2(self) -> bool:
        return self._begun[:1] == PREFACE[:1]

    def _hand_over(self, protocol: Spoken, data: bytes) -> None:
        self._begun = b""
        self._hub.hand_over(self, protocol)
        self._transport.set_protocol(protocol)
        protocol.take_over(self._transport)
        if data:
            protocol.data_received(data)

    def _refuse(self, reason: str, answer: bytes) -> None:
        """Answers, and reads on until the client closes or a moment has passed."""
        self._begun = b""
        self._is_refused = True
        self._since_tick = self._hub.tick
        self._hub.counters.refused[reason] += 1
        self._transport.write(answer)
        end_writing(self._transport)

    # --- TLS

    @property
    def is_tls(self) -> bool:
        """Whether the first bytes were those of TLS."""
        return self._tls is not None

    def _begin_tls(self, handshakes: Handshakes, data: bytes) -> None:
        """Handles the first bytes at a listener that speaks only TLS. The client counts as silent
        until it speaks inside.
        """
        if data[0] == HANDSHAKE:
            from kdaemon.http.tls import TlsTransport  # noqa: PLC0415 - as Http2Protocol

            raw = self._transport
            self._tls = self._transport = TlsTransport(raw, self, self._hub, handshakes)
            raw.set_protocol(self._tls)
            self._tls.data_received(data)
        elif data.startswith(b"PRI "):
            goodbye = NO_SETTINGS + goaway(0, INADEQUATE_SECURITY, TLS_MISSING.message)
            self._refuse(TLS_MISSING.reason, goodbye)
        elif self._lines is not None and data[_match_end(_BEFORE_LINES, data) :][:1] == b"{":
            text = "This port speaks TLS and the client plain text: connect with TLS."
            self._refuse(TLS_MISSING.reason, self._lines.refuse(1, text))
        elif data[0] in TOKEN or data[0] in b"\r\n":
            told = in_form_of_head(TLS_MISSING, data).answer()
            answer = render(told, closes=True, is_http_1_0=False, has_body=True)
            self._refuse(TLS_MISSING.reason, answer)
        else:
            self._refuse("tls_failed", UNEXPECTED_MESSAGE)

    def handshake_done(self) -> None:
        """What follows is inside TLS, and its first bytes decide."""
        self._since_tick = self._hub.tick
        self._hub.counters.handshakes += 1

    def handshake_failed(self, problem: str) -> None:
        """Counts and logs a failed handshake. The client's input is discarded from now on."""
        self._is_refused = True
        self._since_tick = self._hub.tick
        self._hub.counters.refused["tls_failed"] += 1
        if self._hub.may_tell(problem):
            fields = {"client": self._shown_client(), "error": problem}
            log.warning("a TLS handshake failed", extra={"fields": fields})

    def _tell_tls_unexpected(self) -> None:
        """Logs the mistake, because the client cannot read the answer: most say `wrong version
        number`.
        """
        if self._hub.may_tell("tls_unexpected"):
            text = (
                "a client speaks TLS where plain HTTP is spoken, and most likely says `wrong"
                " version number`: give it http://, or the listener a certificate"
                " (listen.tls_certificate)"
            )
            log.warning(text, extra={"fields": {"client": self._shown_client()}})

    def _shown_client(self) -> str:
        """The client's address, without its port."""
        address = self._transport.get_extra_info("peername")
        return str(address[0]) if isinstance(address, tuple) else "the Unix socket"

    def check_time(self, tick: int) -> None:
        """Ends the connection of a client that says nothing, or that does not go after a
        refusal.
        """
        ticks = tick - self._since_tick
        if self._tls is not None:
            self._tls.tick()
        if self._is_refused:
            if ticks > self._hub.discard_ticks_max:
                self.reset()
        elif self._tls is not None and self._tls.is_shaking:
            if ticks > self._hub.head_ticks_max:
                self._hub.counters.timed_out["handshake"] += 1
                self.reset()
        elif self._may_be_http_2() and ticks > self._hub.head_ticks_max:
            # As far as one can see, this is a part of a head: HTTP/1.1 tells the client that it is
            # late.
            self._hand_over(HttpProtocol(self._handler, hub=self._hub), self._begun)
        elif ticks > self._hub.idle_ticks_max:
            self._hub.counters.timed_out["idle"] += 1
            self._transport.close()

    def idle_ticks(self, tick: int) -> int:  # noqa: ARG002 - places.silent keeps the order
        """0: a connection that has said nothing loses its place by `places.silent`."""
        return 0

    def leave(self) -> None:
        """Makes place for another connection."""
        self.reset()

    def close_if_idle(self) -> None:
        """Nothing is owed: closes."""
        self._transport.close()

    def reset(self) -> None:
        """Ends the connection at once."""
        reset_transport(self._transport)


def _match_end(pattern: re.Pattern[bytes], data: bytes) -> int:
    found = pattern.match(data)
    assert found is not None, "it matches nothing, too"
    return found.end()

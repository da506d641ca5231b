"""TLS on one connection: a transport for the protocol inside, a protocol for the socket's
transport.

There is no thread, no task and no timer. Knows when what is read, decrypted, encrypted and written.
Must not know OpenSSL's buffers, what is spoken, certificates, or who may come.
Invariants: what is read of the socket is decrypted and handed on before more is read, for at most
TIME_NS_MAX in a turn of the loop. What the client does not read is not encrypted yet, and counts in
`get_write_buffer_size`. Input that OpenSSL does not accept ends the connection, and nothing behind
it is handed on. When a client ends its side, by TLS or only by TCP, the protocol hears of it once,
as an end, and its answers still go out.
Where it sits: socket -> opening.py (a hello) -> TlsTransport (Records) -> opening.py again, for
what is spoken inside.
"""

import asyncio
import ssl
from collections import deque
from enum import Enum
from typing import Any, Protocol

from kdaemon.http.arrivals import Kept
from kdaemon.http.handshakes import (
    HANDSHAKE_BYTES_MAX,
    UNEXPECTED_MESSAGE,
    Handshakes,
    Hello,
    asks_for_signature,
    judge_hello,
)
from kdaemon.http.hub import Hub
from kdaemon.http.tls_records import PIECE_BYTES, Records, reason_of
from kdaemon.http.transports import reset_transport
from kdaemon.http.turns import TIME_NS_MAX


class State(Enum):
    HELLO = "hello"  # the client's first record is not whole
    SHAKING = "shaking hands"
    OPEN = "open"
    ENDING = "ending"  # its last bytes wait for the client to read; input is discarded
    ENDED = "ended"  # nothing is written any more; input is discarded
    LOST = "lost"  # the socket is gone; what was read of it is still handed on
    CLOSED = "closed"


_MOVES = {
    State.HELLO: {State.SHAKING, State.ENDED, State.CLOSED},
    State.SHAKING: {State.OPEN, State.ENDED, State.CLOSED},
    State.OPEN: {State.ENDING, State.ENDED, State.LOST, State.CLOSED},
    State.ENDING: {State.ENDED, State.CLOSED},
    State.ENDED: {State.ENDED, State.CLOSED},
    State.LOST: {State.CLOSED},
    State.CLOSED: {State.CLOSED},
}
_OPEN = State.OPEN
_SHAKES = (State.HELLO, State.SHAKING)


class Greeter(Protocol):
    """Waits for a handshake, and then speaks inside: `opening.py`."""

    def handshake_done(self) -> None: ...
    def handshake_failed(self, problem: str) -> None:
        """The handshake failed. The client was told; its input is discarded from now on."""
        ...

    def connection_lost(self, exc: Exception | None) -> None: ...


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """One connection, from its first byte on.

    Queues: `_unread` (input that is not decrypted: at most one read; meanwhile the socket is not
    read), `_unsent` (output that is not encrypted, because the client does not read).
    """

    __slots__ = (
        "_closes",
        "_half_open",
        "_handshakes",
        "_has_raw_eof",
        "_hub",
        "_is_full",
        "_is_paused",
        "_is_raw_paused",
        "_is_told_full",
        "_kept",
        "_lost_with",
        "_protocol",
        "_raw",
        "_records",
        "_shaken_bytes",
        "_state",
        "_unread",
        "_unsent",
        "_unsent_bytes",
        "_waits_for_turn",
    )

    def __init__(self, raw: Any, greeter: Greeter, hub: Hub, handshakes: Handshakes) -> None:
        super().__init__()
        self._raw = raw
        self._protocol: Any = greeter
        self._hub = hub
        self._handshakes = handshakes
        self._state = State.HELLO
        self._records: Any = None  # Records; None until the hello is whole, and after the end
        self._shaken_bytes = 0
        self._waits_for_turn = False
        # Charges `_unread` of a handshake to what all clients have arriving.
        self._kept = Kept(hub.arrivals)
        self._unread = b""
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._is_full = False  # the socket takes no more for now
        self._is_told_full = False
        self._is_paused = False  # the protocol wants nothing more for now
        self._is_raw_paused = False
        self._has_raw_eof = False
        # None: the client may still send; else whether the connection stays open after its end.
        self._half_open: bool | None = None
        self._closes = False  # when all is written, the socket is closed
        self._lost_with: Exception | None = None

    # --- the socket's calls

    def data_received(self, data: bytes) -> None:
        """Decrypts and hands on, or goes on with the handshake, at once or in its turn."""
        if self._state is _OPEN:
            if self._unread:  # a transport may deliver once more after a pause
                self._unread += data
            elif self._half_open is None:
                self._decrypt(data)
        elif self._state in _SHAKES:
            self._unread += data
            if not self._waits_for_turn:
                self._shake()

    def eof_received(self) -> bool:
        """The client sends no more over TCP; True: the connection stays half open."""
        self._has_raw_eof = True
        if self._state in _SHAKES:
            return self._waits_for_turn
        return bool(self._unread) or self._tell_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone; the protocol is told after what was read of it."""
        if self._state is _OPEN and self._unread and not self._is_paused:
            self._lost_with = exc
            self._move(State.LOST)
        else:
            self._lose(exc)

    def pause_writing(self) -> None:
        """The socket takes no more: what is written waits here, not encrypted."""
        self._is_full = True
        if not self._is_told_full:
            self._is_told_full = True
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The socket takes more: what waits goes on."""
        self._is_full = False
        self._send()
        if self._is_told_full and not self._is_full:
            self._is_told_full = False
            self._protocol.resume_writing()

    # --- the handshake

    def _shake(self) -> None:
        """Goes on with what has come. An expensive step waits for its turn."""
        if self._state is State.HELLO:
            hello = judge_hello(self._unread)
            if hello is Hello.PARTIAL:
                self._weigh()
                return
            if hello is Hello.NONE:
                self._raw.write(UNEXPECTED_MESSAGE)
                self._fail("the client's first record is no hello that is taken")
                return
        if asks_for_signature(self._unread) and not self._handshakes.may_go_on():
            self._waits_for_turn = True
            self._regulate_reading()
            self._weigh()
            self._handshakes.later(self._shake_in_turn)
        else:
            self._shake_now()

    def _weigh(self) -> None:
        if not self._kept.weigh(len(self._unread), self.abort, waits=self._waits_for_turn):
            self.abort()

    def _shake_in_turn(self) -> None:
        self._waits_for_turn = False
        if self._state in _SHAKES and not self._raw.is_closing():
            self._shake_now()
            if not self._has_raw_eof:
                self._regulate_reading()
            elif self._state in _SHAKES:
                self._raw.close()
            elif not self._unread:
                self._tell_eof()

    def _shake_now(self) -> None:
        self._kept.release()
        if self._records is None:
            self._records = Records(self._handshakes.context())
            self._handshakes.begin(self)
            self._move(State.SHAKING)
        data, self._unread = self._unread, b""
        at, is_done = 0, False
        try:
            while at < len(data) and not is_done:
                piece = data[at : at + PIECE_BYTES]
                at += len(piece)
                self._shaken_bytes += len(piece)
                is_done = self._records.shake(piece)
                if self._shaken_bytes > HANDSHAKE_BYTES_MAX and not is_done:
                    self._fail(f"the client sends more than {HANDSHAKE_BYTES_MAX} bytes for it")
                    return
        except ssl.SSLError as error:
            self._write_output()  # the alert of OpenSSL
            self._fail(reason_of(error))
            return
        if is_done:
            self._move(_OPEN)
        self._write_output()
        if is_done:
            self._handshakes.end(self)
            self._protocol.handshake_done()
            self._decrypt(data[at:])

    def _fail(self, problem: str) -> None:
        self._unread = b""
        self._handshakes.end(self)
        self._kept.release()
        self._move(State.ENDED)
        self._regulate_reading()
        if not self._raw.is_closing():
            self._raw.write_eof()
        self._protocol.handshake_failed(problem)

    def tick(self) -> None:
        """One sweep of the listener later."""
        self._kept.tick()

    def displace(self) -> None:
        """Too many handshakes are half done, and this one is the oldest: ends it."""
        self._hub.counters.refused["connections"] += 1
        reset_transport(self)

    @property
    def is_shaking(self) -> bool:
        """The handshake is not done."""
        return self._state in _SHAKES

    # --- reading

    def _decrypt(self, data: bytes) -> None:
        """Decrypts these bytes and hands them on, or as many as a turn of the loop has time for."""
        records: Records = self._records
        now_ns = self._hub.turns.now_ns
        plain: list[bytes] = []
        goes_on, at, until_ns = records.decrypt(data[:PIECE_BYTES], plain), PIECE_BYTES, 0
        while goes_on and at < len(data):
            if until_ns == 0:
                until_ns = now_ns() + TIME_NS_MAX
            elif now_ns() >= until_ns:
                self._unread = data[at:]
                self._hub.turns.later(self._go_on)
                break
            goes_on = records.decrypt(data[at : at + PIECE_BYTES], plain)
            at += PIECE_BYTES
        if self._state is _OPEN:  # else nothing is written any more
            self._write_output()  # an alert, or a new key
        if plain:
            self._protocol.data_received(plain[0] if len(plain) == 1 else b"".join(plain))
        if records.is_broken:
            self._hub.counters.refused["tls_failed"] += 1
            self._break()
        elif records.is_ended:
            self._tell_eof()
        elif self._unread:
            self._regulate_reading()

    def _go_on(self) -> None:
        """Decrypts the rest of a read, in a later turn."""
        if self._state in (_OPEN, State.LOST) and not self._is_paused:
            data, self._unread = self._unread, b""
            self._decrypt(data)
            if self._unread:
                return
            if self._state is State.LOST:
                self._lose(self._lost_with)
            elif self._has_raw_eof:
                self._tell_eof()
            else:
                self._regulate_reading()
        elif self._state is State.LOST:
            self._lose(self._lost_with)

    def _tell_eof(self) -> bool:
        """The client sends no more. True: the connection stays open for the answers that it is
        owed.
        """
        if self._half_open is None and self._state is not State.CLOSED:
            self._half_open = bool(self._protocol.eof_received())
            if not self._half_open:
                self.close()
        return True

    def _break(self) -> None:
        """Ends the connection: the input is no readable TLS, or somebody has changed it on its
        way.
        """
        self._unread = b""
        if self._state is _OPEN:
            self._move(State.ENDED)
            self._raw.close()

    def _regulate_reading(self) -> None:
        is_wanted = not (self._is_paused or self._waits_for_turn or self._unread)
        if is_wanted is not self._is_raw_paused or self._raw.is_closing():
            return
        self._is_raw_paused = not is_wanted
        if is_wanted:
            self._raw.resume_reading()
        else:
            self._raw.pause_reading()

    # --- the protocol's calls: a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the transport of the socket."""
        return self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """What is spoken inside from now on."""
        self._protocol = protocol

    def is_closing(self) -> bool:
        """Nothing is written any more."""
        return self._closes or self._state is State.CLOSED or bool(self._raw.is_closing())

    def pause_reading(self) -> None:
        """The protocol wants nothing more for now; nor is the socket read."""
        self._is_paused = True
        self._regulate_reading()

    def resume_reading(self) -> None:
        """The protocol wants more: what was read and waits comes first, in a later turn."""
        self._is_paused = False
        if self._unread and self._state is _OPEN:
            self._hub.turns.later(self._go_on)
        else:
            self._regulate_reading()

    def write(self, data: Any) -> None:
        """Encrypts and writes now if it is little and nothing waits; else as the socket takes it.
        Does nothing unless the connection is open.
        """
        if self._state is not _OPEN or not data:
            return
        if self._unsent or len(data) > PIECE_BYTES:
            self._unsent.append(memoryview(data))
            self._unsent_bytes += len(data)
            self._send()
        else:
            self._encrypt(data)

    def get_write_buffer_size(self) -> int:
        """Bytes that are written and not sent, encrypted or not."""
        return int(self._raw.get_write_buffer_size()) + self._unsent_bytes

    def can_write_eof(self) -> bool:
        """Always: TLS and TCP can both be half closed."""
        return True

    def write_eof(self) -> None:
        """Tells the client that nothing more comes, by TLS and by TCP. Input is still read, so that
        its end is seen, and discarded.
        """
        if self._state is _OPEN:
            self._unread = b""
            self._move(State.ENDING)
            self._send()
            self._regulate_reading()

    def close(self) -> None:
        """Reads nothing more. What was written is sent, then the connection ends."""
        if self._closes or self._state is State.CLOSED:
            return
        self._closes = True
        self._unread = b""
        if self._state is _OPEN:
            self._move(State.ENDING)
            self._send()
        elif self._state is not State.ENDING:
            self._raw.close()

    def abort(self) -> None:
        """Ends at once. What was written and not sent is lost."""
        self._closes = True
        self._unread = b""
        self._raw.abort()

    # --- writing

    def _send(self) -> None:
        """Encrypts and writes what waits, as far as the socket takes it."""
        while self._unsent and not self._is_full:
            piece = self._unsent.popleft()
            if len(piece) > PIECE_BYTES:
                self._unsent.appendleft(piece[PIECE_BYTES:])
                piece = piece[:PIECE_BYTES]
            self._unsent_bytes -= len(piece)
            if not self._encrypt(piece):
                return
        if self._state is State.ENDING and not self._unsent:
            self._move(State.ENDED)
            self._records.end()
            self._write_output()
            if self._closes:
                self._raw.close()
            else:
                self._raw.write_eof()

    def _encrypt(self, piece: Any) -> bool:
        """Encrypts and writes. False: the input was no TLS, so OpenSSL takes nothing more, and the
        connection ends.
        """
        try:
            data = self._records.encrypt(piece)
        except ssl.SSLError:
            self._unsent.clear()
            self._unsent_bytes = 0
            self._raw.close()
            return False
        self._raw.write(data)
        return True

    def _write_output(self) -> None:
        output = self._records.output()
        if output:
            self._raw.write(output)

    def audit(self) -> tuple[int, list[memoryview]]:
        """Bytes of input that are not decrypted, and output that is not encrypted. Only for
        tests.
        """
        return len(self._unread), list(self._unsent)

    # --- the end

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"a TLS connection cannot go from {self._state} to {state}")
        self._state = state

    def _lose(self, exc: Exception | None) -> None:
        """The connection is lost: frees everything and tells the protocol."""
        self._move(State.CLOSED)
        self._handshakes.end(self)
        self._kept.release()
        self._unread = b""
        self._unsent.clear()
        self._unsent_bytes = 0
        protocol, self._protocol, self._records = self._protocol, None, None
        protocol.connection_lost(exc)

"""The records of one TLS connection: plain text in and out of them, by OpenSSL on two buffers in
memory.

Knows OpenSSL and bytes. Must not know a socket, a turn of the loop or the states of a connection.
Invariants: OpenSSL gets PIECE_BYTES at a time, in either direction. Plain text that came before the
client's end, or before input that is no TLS, is handed on; nothing behind either is.
Where it sits: tls.py owns one from the client's whole hello on.
"""

import ssl
from contextlib import suppress
from typing import Final

from kdaemon.http.handshakes import RECORD_BYTES_MAX

PIECE_BYTES: Final = 16 * 1024
"""Bytes that are given to OpenSSL at a time, in either direction: its buffers stay as large as the
largest piece. Ours, 2026-11-28."""


class Records:
    """`is_ended`: the client has ended its side. `is_broken`: its input is no readable TLS, or
    somebody has changed it on its way.
    """

    __slots__ = ("_incoming", "_object", "_outgoing", "is_broken", "is_ended")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_ended = False
        self.is_broken = False

    def shake(self, piece: bytes) -> bool:
        """Goes on with the handshake; returns whether it is done. `piece`: at most PIECE_BYTES of
        input. What came behind the handshake is kept for `decrypt`. Raises SSLError if the
        handshake has failed; then `output` has the alert for the client.
        """
        self._incoming.write(piece)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def decrypt(self, piece: bytes, plain: list[bytes]) -> bool:
        """Decrypts what has come; `piece`: at most PIECE_BYTES more of it. Adds the plain text to
        `plain`. Returns whether more can be decrypted: the client has not ended, and sends TLS.
        """
        incoming = self._incoming
        incoming.write(piece)
        try:
            with suppress(ssl.SSLWantReadError):
                while incoming.pending:
                    text = self._object.read(RECORD_BYTES_MAX)
                    if not text:
                        self.is_ended = True
                        break
                    plain.append(text)
        except ssl.SSLError:
            self.is_broken = True
        return not (self.is_ended or self.is_broken)

    def encrypt(self, piece: bytes | memoryview) -> bytes:
        """The records of these bytes, at most PIECE_BYTES, behind other output. Raises SSLError
        when the input was no TLS, because OpenSSL takes nothing more then.
        """
        self._object.write(piece)
        return self._outgoing.read()

    def end(self) -> None:
        """Tells the client that nothing more comes; `output` has the record that says so."""
        with suppress(ssl.SSLError):  # the client's own end has not come, and is not waited for
            self._object.unwrap()

    def output(self) -> bytes:
        """What OpenSSL says by itself: its part of a handshake, an alert, a new key, the end."""
        return self._outgoing.read()


def reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's reason, in lower-case words."""
    # The stubs (typeshed) do not know that it may be None.
    reason: str | None = getattr(error, "reason", None)
    return (reason or str(error)).replace("_", " ").lower()

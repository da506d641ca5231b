"""An answer in pieces on one HTTP/1.1 connection: its chunks, and how far it has come.

Knows the framing of HTTP/1.1 (RFC 9112, 7.1) and the bounds of a turn; the socket, its marks and
the order of answers are the connection's.
Invariants: a piece is asked for in a turn of its own, and only while the connection takes more; the
last chunk is written when the source says that all is there, and never else; to a client of
HTTP/1.0 the end of the connection is the end of the answer, so that one that is cut off resets it
(over a Unix socket, which has no reset, such a client cannot tell the two apart).
Where it sits: connection.py makes one when the turn of such an answer has come, and is asked to
write whenever its client takes more.
"""

from typing import Protocol

from kdaemon.http.handlers import lose_pieces, pieces_failed
from kdaemon.http.hub import HttpHub
from kdaemon.http.pieces import PIECE_COST_BYTES, SENT_AT_ONCE_BYTES, Pieces

LAST_CHUNK = b"0\r\n\r\n"
PROBE = b"0"  # the size of a chunk may begin with zeros, and its client waits for the rest


class Writer(Protocol):
    """What is asked of the connection."""

    hub: HttpHub

    @property
    def takes_more(self) -> bool: ...
    def write_parts(self, *parts: bytes) -> None: ...
    def end_pieces(self) -> None: ...
    def reset(self) -> None: ...


class Outflow:
    """`closes`: the connection ends with it. `is_whole`: all of it is written."""

    __slots__ = (
        "_is_chunked",
        "_is_planned",
        "_is_probed",
        "_pieces",
        "_writer",
        "closes",
        "is_whole",
    )

    def __init__(self, writer: Writer, pieces: Pieces, *, closes: bool, is_chunked: bool) -> None:
        self.closes = closes
        self.is_whole = False
        self._writer: Writer | None = writer  # None: nothing more is written
        self._pieces = pieces
        self._is_chunked = is_chunked
        self._is_planned = False  # it goes on in a later turn
        self._is_probed = False

    def begin(self, *, has_body: bool) -> None:
        """Its head is written, which is all where it has no body (HEAD)."""
        if has_body:
            self._pieces.begin(self.send_later)
            self.send_later()
        elif self._writer is not None:
            lose_pieces(self._writer.hub.counters, self._pieces)
            self.is_whole = True

    def send_later(self) -> None:
        """There is more to send, or a client who takes it: both are looked at in a later turn."""
        if self._writer is not None and not self._is_planned:
            self._is_planned = True
            self._writer.hub.turns.later(self._send)

    def _send(self) -> None:
        self._is_planned = False
        writer = self._writer
        if writer is None:
            return
        try:
            if writer.hub.is_draining:
                self._pieces.drain()
            self._send_some(writer)
        except Exception as error:  # noqa: BLE001 - a source's defect must not end the daemon
            self._writer = None
            pieces_failed(writer.hub.counters, error)
            writer.reset()
            return
        if self.is_whole:
            self._writer = None
            writer.end_pieces()

    def _send_some(self, writer: Writer) -> None:
        """As much as there is, the client takes and a turn has room for. Raises what the source
        raises.
        """
        sent_bytes = 0
        while writer.takes_more:
            if sent_bytes >= SENT_AT_ONCE_BYTES:
                self.send_later()
                return
            piece = self._pieces.take()
            if piece is None:
                self.is_whole = True
                if self._is_chunked:
                    writer.write_parts(LAST_CHUNK)
                return
            if not piece:
                return
            sent_bytes += PIECE_COST_BYTES + len(piece)
            self._is_probed = False
            if self._is_chunked:
                writer.write_parts(b"%x\r\n" % len(piece), piece, b"\r\n")
            else:
                writer.write_parts(piece)

    def send_probe(self) -> bool:
        """Writes what has no meaning yet, to see whether the client still reads. False: that cannot
        be had, or was done.
        """
        if self._is_probed or not self._is_chunked or self._writer is None:
            return False
        self._is_probed = True
        self._writer.write_parts(PROBE)
        return True

    def stop(self) -> None:
        """The connection ends."""
        self._writer = None

"""An answer in pieces on one HTTP/1.1 connection: its chunks, and how far it has come.

Knows the framing of HTTP/1.1 (RFC 9112, 7.1) and the bounds of a turn. Must not know the socket,
its marks or the order of answers, which the connection has.
Invariants: a piece is asked for in a turn of its own, and only while the connection takes more. The
last chunk is written only when the source says that the answer is whole. For a client of HTTP/1.0
the end of the connection is the end of the answer, so an answer that is cut off ends with a reset
(over a Unix socket, which has no reset, such a client cannot see the difference).
Where it sits: connection.py makes one when the turn of such an answer has come, and calls
`send_later` whenever its client takes more.
"""

from typing import TYPE_CHECKING

from kdaemon.http.handlers import lose_pieces, pieces_failed
from kdaemon.http.pieces import PIECE_COST_BYTES, SENT_AT_ONCE_BYTES, Pieces

if TYPE_CHECKING:
    from kdaemon.http.sending import Sending

LAST_CHUNK = b"0\r\n\r\n"
PROBE = b"0"  # a chunk's size may begin with zeros, so the client waits for the rest


class Outflow:
    """`closes`: the connection ends with this answer. `is_whole`: all of it is written."""

    __slots__ = (
        "_is_chunked",
        "_is_planned",
        "_is_probed",
        "_pieces",
        "_writer",
        "closes",
        "is_whole",
    )

    def __init__(
        self, writer: "Sending", pieces: Pieces, *, closes: bool, is_chunked: bool
    ) -> None:
        self.closes = closes
        self.is_whole = False
        self._writer: Sending | None = writer  # None: nothing more is written
        self._pieces = pieces
        self._is_chunked = is_chunked
        self._is_planned = False  # `_send` runs in a later turn
        self._is_probed = False

    def begin(self, *, has_body: bool) -> None:
        """The head is written. If the answer has no body (HEAD), that was all."""
        if has_body:
            self._pieces.begin(self.send_later)
            self.send_later()
        elif self._writer is not None:
            lose_pieces(self._writer.hub.counters, self._pieces)
            self.is_whole = True

    def send_later(self) -> None:
        """There may be more to send, or the client may take more: `_send` looks in a later turn."""
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

    def _send_some(self, writer: "Sending") -> None:
        """Sends pieces until there is none, the client takes no more, or the turn has no room.
        Raises what the source raises.
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
        """Writes a byte that has no meaning yet, to find out whether the client still reads. False:
        this is not possible, or was done already.
        """
        if self._is_probed or not self._is_chunked or self._writer is None:
            return False
        self._is_probed = True
        self._writer.write_parts(PROBE)
        return True

    def stop(self) -> None:
        """The connection ends: nothing more is written."""
        self._writer = None

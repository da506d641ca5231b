"""An answer that is made while it is sent: its source, and the connection that sends it. Pure.

Must not know a protocol or a client. A piece is bytes of the body, in whatever frames or chunks it
leaves.
Invariants: the next piece is asked for when the client takes more, so that a client who does not
read costs one piece and what its socket holds, however long the answer. A source is told once that
nobody reads on, and is not called after its end. An answer that does not end as its source says
never looks whole to its client.
Where it sits: a handler answers with a `PieceSource` (request.py); connection.py and
http2_streams.py ask for pieces.
"""

from collections.abc import Callable
from typing import Protocol

# What an answer may send in one turn of the loop. Making a piece counts as sending
# PIECE_COST_BYTES, and no turn sends more than SENT_AT_ONCE_BYTES. Ours, 2026-11-28.
PIECE_COST_BYTES = 4 * 1024
SENT_AT_ONCE_BYTES = 256 * 1024


class PieceSource(Protocol):
    """Makes an answer. Its methods return at once. A source that has nothing to say for long sends
    something now and then, because only a write shows that a client has gone without a word.
    """

    def next_piece(self) -> bytes | None:
        """The next piece, 64 KiB or so. Empty: nothing yet; `Pieces.wake` tells when there is
        something. None: the answer is whole. If it raises, the client sees that its answer was cut
        off.
        """
        ...

    def drain(self) -> None:
        """The listener closes: the answer is to end soon, as well as it can."""
        ...

    def gone(self) -> None:
        """The client reads no more, or `next_piece` raised. This is the last call."""
        ...


class Pieces:
    """What connection and source share. It is over when it has no source any more."""

    __slots__ = ("_is_drained", "_source", "_tell")

    def __init__(self, source: PieceSource) -> None:
        self._source: PieceSource | None = source
        self._tell: Callable[[], object] | None = None
        self._is_drained = False

    def wake(self) -> None:
        """There is something to send, or the end. No effect if the connection does not wait for
        it.
        """
        if self._tell is not None:
            self._tell()

    def begin(self, tell: Callable[[], object]) -> None:
        """The head of the answer is written. `tell`: asks for pieces in a later turn."""
        self._tell = tell

    def take(self) -> bytes | None:
        """The next piece, empty if there is none yet; None: the answer is whole. RuntimeError after
        its end, so that an answer that was cut off never looks whole.
        """
        if self._source is None:
            raise RuntimeError("an answer in pieces was asked for more after its end")
        piece = self._source.next_piece()
        if piece is None:
            self._source = self._tell = None
        return piece

    def drain(self) -> None:
        """The listener closes. A second call does nothing."""
        if self._source is not None and not self._is_drained:
            self._is_drained = True
            self._source.drain()

    def lose(self) -> None:
        """The client reads no more. A second call does nothing."""
        source, self._source, self._tell = self._source, None, None
        if source is not None:
            source.gone()

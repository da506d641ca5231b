"""An answer that is made while it is sent: who makes it, and the connection that sends it.

Pure. Knows neither protocol nor client; a piece is bytes of the body, whatever frames or chunks it
leaves in.
Invariants: the next piece is asked for when the client takes more, so that a client who does not
read costs one piece and what its socket holds, however much there is to come; a source is told once
that nobody reads on, and is called no more after its end; an answer that does not end as its source
says never looks whole to its client.
Where it sits: a handler answers with a `PieceSource` (request.py); connection.py and
http2_streams.py ask for pieces.
"""

from collections.abc import Callable
from typing import Protocol

# Asked for in a turn of the loop, before others have their turn. Ours, 2026-11-28: to make a piece
# costs as much as to send so many bytes, and no turn sends more than SENT_AT_ONCE_BYTES.
PIECE_COST_BYTES = 4 * 1024
SENT_AT_ONCE_BYTES = 256 * 1024


class PieceSource(Protocol):
    """Makes an answer. Its methods return at once. One that has nothing to say for long sends
    something now and then: a client that has gone without a word is noticed by writing to it.
    """

    def next_piece(self) -> bytes | None:
        """What comes next, 64 KiB or so; empty: nothing yet, and `Pieces.wake` tells when there is;
        None: that was all. If it raises, the client sees that its answer was cut off.
        """
        ...

    def drain(self) -> None:
        """The listener closes: the answer is to end soon, as well as it can."""
        ...

    def gone(self) -> None:
        """Nobody reads on, or `next_piece` raised. The last call."""
        ...


class Pieces:
    """What connection and source have in common; over when there is no source any more."""

    __slots__ = ("_is_drained", "_source", "_tell")

    def __init__(self, source: PieceSource) -> None:
        self._source: PieceSource | None = source
        self._tell: Callable[[], object] | None = None
        self._is_drained = False

    def wake(self) -> None:
        """There is something to send, or the end. Of no effect where nobody waits for it."""
        if self._tell is not None:
            self._tell()

    def begin(self, tell: Callable[[], object]) -> None:
        """The head of the answer is written. `tell`: asks for pieces in a later turn."""
        self._tell = tell

    def take(self) -> bytes | None:
        """The next piece, empty where there is none yet; None: the answer is whole. RuntimeError
        after its end, so that what was cut off never looks whole.
        """
        if self._source is None:
            raise RuntimeError("an answer in pieces was asked for more after its end")
        piece = self._source.next_piece()
        if piece is None:
            self._source = self._tell = None
        return piece

    def drain(self) -> None:
        """The listener closes. Twice is nothing."""
        if self._source is not None and not self._is_drained:
            self._is_drained = True
            self._source.drain()

    def lose(self) -> None:
        """Nobody reads on. Twice is nothing."""
        source, self._source, self._tell = self._source, None, None
        if source is not None:
            source.gone()

"""What a listener needs to speak the lines protocol, and to refuse a connection's first bytes.

Knows the door and the lines' form. Must not know a connection. Where it sits: daemon/ -> here ->
http/opening.py.
"""

from functools import partial

from kdaemon.base.counters import RefuseReason
from kdaemon.base.principal import NOBODY
from kdaemon.base.refused import Refused
from kdaemon.door.guard import DENIED
from kdaemon.door.line_door import LineDoor
from kdaemon.door.line_forms import NOTHING_ASKED
from kdaemon.door.session import NdjsonSession
from kdaemon.door.terms import Terms
from kdaemon.http.opening import Lines
from kdaemon.wire.line_buffer import count_lines
from kdaemon.wire.line_form import LineForm
from kdaemon.wire.lines import LINE_BYTES_MAX
from kdaemon.wire.lines_read import VALIDATION
from kdaemon.wire.rejections import Rejected, encode_rejected


def lines_to(door: LineDoor, line_bytes_max: int = LINE_BYTES_MAX) -> Lines:
    """Lines whose records go to `door`."""

    def refuse(number: int, text: str) -> bytes:
        door.refuse_unread(None, 1, principal=NOBODY)
        return encode_rejected(Rejected(number, VALIDATION, text))

    def refuse_stranger(number: int, text: str, lines: bytes) -> bytes:
        _count_stranger(door, text, lines)
        return encode_rejected(Rejected(number, DENIED, text))

    speak = partial(NdjsonSession, door, line_bytes_max=line_bytes_max)
    return Lines(speak, refuse, refuse_stranger)


def lines_behind(door: LineDoor, stream: str | None) -> Lines:
    """Lines on the own socket of this stream, or on a socket for all streams (None)."""
    return lines_to(door) if stream is None else raw_lines_to(door, stream)


def raw_lines_to(door: LineDoor, stream: str) -> Lines:
    """Raw lines for one stream, on a socket of its own: all input is lines, and nothing is
    answered.
    """

    def refuse_stranger(_number: int, text: str, lines: bytes) -> bytes:
        _count_stranger(door, text, lines)
        return b""

    form = door.line_form(stream, NOTHING_ASKED)
    assert isinstance(form, LineForm), "the configuration was checked"
    speak = partial(NdjsonSession, door, own=Terms(stream, form=form))
    return Lines(speak, lambda _number, _text: b"", refuse_stranger, is_only=True)


def _count_stranger(door: LineDoor, text: str, lines: bytes) -> None:
    refused = Refused(RefuseReason.UNAUTHENTICATED, DENIED, text, is_permanent=True)
    door.refuse(None, refused, count_lines(lines), len(lines))

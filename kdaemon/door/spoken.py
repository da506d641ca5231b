"""What a listener needs of the lines protocol: how to speak it, and how to refuse a beginning.

Knows the door and the lines' form; no connection. Where it sits: daemon.py -> http/opening.py.
"""

from functools import partial

from kdaemon.door.door import Door
from kdaemon.door.line_forms import NOTHING_ASKED
from kdaemon.door.session import NdjsonSession, OwnStream
from kdaemon.http.opening import Lines
from kdaemon.wire.line_form import LineForm
from kdaemon.wire.lines import LINE_BYTES_MAX, VALIDATION, Rejected, encode_rejected


def lines_to(door: Door, line_bytes_max: int = LINE_BYTES_MAX) -> Lines:
    """Lines whose records go to `door`."""

    def refuse(number: int, text: str) -> bytes:
        door.refuse_unread(None, 1)
        return encode_rejected(Rejected(number, VALIDATION, text))

    return Lines(partial(NdjsonSession, door, line_bytes_max=line_bytes_max), refuse)


def raw_lines_to(door: Door, stream: str) -> Lines:
    """Raw lines for one stream, on a socket of its own, where whatever comes is a line."""
    form = door.line_form(stream, NOTHING_ASKED)
    assert isinstance(form, LineForm), "the configuration was checked"
    speak = partial(NdjsonSession, door, own=OwnStream(stream, form))
    return Lines(speak, lambda _number, _text: b"", is_only=True)

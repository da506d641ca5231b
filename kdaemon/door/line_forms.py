"""Chooses the form of the lines of a request or a connection: what the client asks for, else what
the settings of its stream say.

Pure. Knows the settings of a stream and what a client may ask for. Must not know a stream or a
connection.
Invariant: each thing that a client asks for is applied or refused in words; none is ignored.
Where it sits: ndjson.py and terms.py read what the client asks for, `door.py` knows the stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kdaemon.base.counters import RefuseReason
from kdaemon.base.field_path import parse_field_path
from kdaemon.base.refused import Refused
from kdaemon.config import StreamConfig
from kdaemon.wire.line_form import ENVELOPE, LineForm
from kdaemon.wire.raw_lines import raw_form

LINES_HEADER = b"x-kdaemon-lines"
KEY_FIELD_HEADER = b"x-kdaemon-partition-key-field"
STREAM_FIELD_HEADER = b"x-kdaemon-stream-field"
"""Headers of a request of lines. They replace the settings `lines`, `partition_key_field` and
`stream_field` for this request. An empty field header means: no field."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for its lines. None: the stream's setting applies."""

    lines: str | None = None
    partition_key_field: str | None = None
    stream_field: str | None = None


NOTHING_ASKED = Asked()


def read_asked(headers: Mapping[bytes, bytes]) -> Asked | Refused:
    """What the headers of a request ask for."""
    lines = headers.get(LINES_HEADER)
    key_field = headers.get(KEY_FIELD_HEADER)
    stream_field = headers.get(STREAM_FIELD_HEADER)
    if lines is key_field is stream_field is None:
        return NOTHING_ASKED
    word = None if lines is None else lines.strip().lower()
    if word not in {None, b"envelope", b"raw"}:
        return _invalid("X-Kdaemon-Lines must be envelope or raw.")
    try:
        return Asked(_text(word), _text(key_field), _text(stream_field))
    except UnicodeDecodeError:
        return _invalid("The path of a field must be UTF-8.")


def form_of(config: StreamConfig, asked: Asked, routes: Mapping[str, str]) -> LineForm | Refused:
    """The form of lines for a stream with these settings. `routes`: as in `raw_form`."""
    if (asked.lines or config.lines) != "raw":
        if asked.partition_key_field or asked.stream_field:
            return _invalid(
                "A field for the partition key or the stream is for raw lines, and these are"
                ' envelopes, which name both themselves: ask for lines = "raw", too.'
            )
        return ENVELOPE
    key_field, stream_field = asked.partition_key_field, asked.stream_field
    if key_field is None:
        key_field = config.partition_key_field
    if stream_field is None:
        stream_field = config.stream_field
    try:
        return raw_form(parse_field_path(key_field), parse_field_path(stream_field), routes)
    except ValueError as error:
        return _invalid(f"A field is named by {error}.")


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode()


def _invalid(text: str) -> Refused:
    return Refused(RefuseReason.INVALID, "InvalidArgumentException", text, is_permanent=True)

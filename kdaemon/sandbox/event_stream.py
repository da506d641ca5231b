"""Messages of `application/vnd.amazon.eventstream`, in which the service answers with events.

Pure. Knows the frame of a message: its lengths, headers and two checksums; not the contents. This
is our own code: botocore and the other SDKs for Python only read messages (smithy-aws-event-stream
also writes them, for Python 3.12 and later), and forty lines are less than a dependency.
Invariant: a message's checksums are those of its bytes; tests read each message with botocore's own
reader.
Where it sits: `feed.py` writes its events with it.
"""

import struct
from collections.abc import Mapping
from zlib import crc32

CONTENT_TYPE = b"application/vnd.amazon.eventstream"
_STRING = 7  # the type of a header's value: a string
_LENGTHS_BYTES = 8  # the length of the message, and that of its headers
_SUM_BYTES = 4


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """A whole message, with headers that are strings."""
    told = b"".join(_header(name, value) for name, value in headers.items())
    byte_count = _LENGTHS_BYTES + _SUM_BYTES + len(told) + len(payload) + _SUM_BYTES
    lengths = struct.pack(">II", byte_count, len(told))
    prelude = lengths + struct.pack(">I", crc32(lengths))
    body = prelude + told + payload
    return body + struct.pack(">I", crc32(body))


def event(kind: str, payload: bytes, content_type: str) -> bytes:
    """`kind`: a member of the operation's event stream, or `initial-response`."""
    headers = {":message-type": "event", ":event-type": kind, ":content-type": content_type}
    return message(headers, payload)


def exception(code: str, payload: bytes, content_type: str) -> bytes:
    """An error of the operation's model; no message follows it."""
    headers = {":message-type": "exception", ":exception-type": code}
    return message({**headers, ":content-type": content_type}, payload)


def _header(name: str, value: str) -> bytes:
    told_name, told = name.encode(), value.encode()
    return (
        struct.pack(f">B{len(told_name)}sBH", len(told_name), told_name, _STRING, len(told)) + told
    )

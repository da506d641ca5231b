"""Passing on in CBOR: a request's body as JSON for the service, its answer as CBOR. Pure.

The service is always asked in JSON, whatever the client speaks, so that there is one form to read,
to search for secrets, and to share. Data are byte strings in CBOR and base64 in JSON; moments are
whole milliseconds in CBOR and seconds in JSON (`cbor.py`).
Invariant: as bounded as the JSON reader; a large answer is written in steps.
Where it sits: door/passthrough.py uses it on the way in and on the way out.
"""

import base64
from typing import Final

import msgspec

from kdaemon.base.limits import MIB
from kdaemon.base.steps import Steps
from kdaemon.wire import cbor
from kdaemon.wire.passed_on import BODY_BYTES_MAX, unread
from kdaemon.wire.refusals import repeated

STEP_BYTES: Final = MIB // 4  # of an answer's JSON between two steps: 3 ms; ours, 2026-11-28

UNWRITABLE: Final = (ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
"""Raised by `cbor_of`: for no JSON, for data that are no base64, for a number beyond 64 bits."""

_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_entries: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode: Final = msgspec.json.decode


def json_of(body: bytes) -> bytes:
    """The same members in JSON. Raises ApiError. A body that is too large is returned as it is: the
    reader of JSON refuses it.
    """
    if not body or len(body) > BODY_BYTES_MAX:
        return body
    try:
        members = cbor.decode(body)
    except cbor.CborError as error:
        raise unread(error.text) from None
    if not isinstance(members, dict):
        raise unread("The body must be a CBOR map.")
    name = _repeated(members)
    if name is not None:
        raise unread(repeated(name))
    return msgspec.json.encode(members)


def cbor_of(answer: bytes) -> Steps[bytes]:
    """A success of the service in CBOR. Raises one of UNWRITABLE."""
    members = _decode_members(answer)
    parts = [cbor.head(cbor.MAP, len(members))]
    done_bytes = 0
    for name, raw in members.items():
        text = bytes(raw)
        if not text.startswith(b"["):
            parts.append(cbor.encode({name: _decode(text)})[1:])  # without the head of the map
            continue
        entries = _decode_entries(text)
        parts += (cbor.text(name), cbor.head(cbor.LIST, len(entries)))
        for entry in entries:
            value = _decode(entry)
            if name == "Records" and isinstance(value, dict) and isinstance(value.get("Data"), str):
                value["Data"] = base64.b64decode(value["Data"], validate=True)
            parts.append(cbor.encode(value))
            done_bytes += len(entry)
            if done_bytes > STEP_BYTES:
                done_bytes = 0
                yield
    return b"".join(parts)


def _repeated(value: object) -> str | None:
    """A member that is there twice, at any depth; `cbor.py` bounds the depth."""
    if isinstance(value, cbor.Repeating):
        return value.name
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return next((name for name in map(_repeated, inside) if name is not None), None)
    return None

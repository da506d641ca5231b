"""JSON objects that name a member twice. Pure.

The typed decoder keeps the last of two members with one name, and loses the other silently: two
values of `Data` are two records, or a mistake. The readers (`put.py`, `lines.py`) compare the
members that they read with the room in the text, which costs next to nothing. Only if the two
differ do they ask here for the exact answer.

Invariant: exact for every text that the typed decoder has accepted, however names are written
(escapes, blanks), and linear in the text's size.
"""

import json
from collections import Counter

import msgspec

from kdaemon.base.limits import KIB, MIB
from kdaemon.base.steps import Steps

STEP_BYTES = MIB  # of records that are checked in one step; ours, 2026-11-28
# Of a line beside its longest value: keys, names, blanks; ours, 2026-11-28.
LONG_LINE_REST_MAX = 64 * KIB
_VALUE_START = 64  # the bytes by which a value is found
NAMED_BYTES_MAX = 64 * KIB  # of a text that plain Python reads to name the member; ours
QUOTES_MAX = 4 * 8  # of seven members, where a line has at most five names; an even number
_MEMBER_BYTES = len(b'"":,')  # of a member beside its name and value
SOME_MEMBER = "a member"

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


def repeated_in_request(body: bytes, *, is_single: bool) -> Steps[str | None]:
    """The member that a request or one of its `Records` names twice; None: each is named once.

    `is_single`: a PutRecord, which has no `Records`. Members that the API does not know are not
    checked inside.
    """
    members = _decode_object(body)
    records = None if is_single else members.get("Records")
    name = _repeated(body, members)
    if name is not None or records is None:
        return name
    is_large = len(body) > STEP_BYTES
    if is_large:
        yield
    entries = _decode_list(records)
    if is_large:
        yield
    seen_bytes = 0
    for record in map(bytes, entries):
        name = _repeated(record, _decode_object(record))
        if name is not None:
            return name
        seen_bytes += len(record)
        if seen_bytes > STEP_BYTES:
            seen_bytes = 0
            yield
    return None


def repeated_in_long_line(line: bytes) -> str | None:
    """As `repeated_in_line`, for a line of any size with any escapes whose rest beside the longest
    value has at most LONG_LINE_REST_MAX. Raises the decoder's errors; ValueError if it has more.

    The longest value is cut out: the rest has all the names.
    """
    members = _decode_object(line)
    value = bytes(max(members.values(), key=len, default=b""))
    rest = len(line) - len(value)
    if rest > LONG_LINE_REST_MAX:
        raise ValueError(rest)
    at = line.find(value[:_VALUE_START], 0, rest + _VALUE_START)
    while not line.startswith(value, at):
        at = line.find(value[:_VALUE_START], at + 1, rest + _VALUE_START)
    return repeated_in_line(line[:at] + b"0" + line[at + len(value) :])


def repeated_in_line(line: bytes) -> str | None:
    """The member that an object of texts and nulls names twice: it is split at its quotes.

    The search goes no further than needed: beyond so many members, one must be there twice.
    """
    parts = line.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', QUOTES_MAX)
    names = Counter(
        _plain(inside)
        for inside, after in zip(parts[1::2], parts[2::2], strict=True)
        if after.lstrip().startswith(b":")
    )
    return next((name for name, count in names.items() if count > 1), None)


def _plain(name: bytes) -> str:
    return _decode_text(b'"%b"' % name) if b"\\" in name else name.decode()


def _repeated(text: bytes, members: dict[str, msgspec.Raw]) -> str | None:
    """The member that is there twice. `members`: what the decoder kept of `text`, one of each name.

    Each member has one colon of its own; all others are in values or in names. If the text has no
    room for another member, nothing is counted.
    """
    used = sum(len(name) + len(raw) + _MEMBER_BYTES for name, raw in members.items())
    if len(text) - used < 1 + len(b'"":0,'):
        return None
    colons = len(members) + sum(bytes(raw).count(b":") for raw in members.values())
    if colons == text.count(b":") and not any(":" in name for name in members):
        return None
    records = members.get("Records")
    if records is not None:
        text = text.replace(bytes(records), b"[]", 1)
    if len(text) > NAMED_BYTES_MAX:
        return SOME_MEMBER
    try:
        names = json.loads(
            text, object_pairs_hook=_names, parse_int=str, parse_float=str, parse_constant=str
        )
    except (ValueError, RecursionError):
        return SOME_MEMBER
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _names(pairs: list[tuple[str, object]]) -> list[str]:
    return [name for name, _ in pairs]

r"""One field of many JSON texts, looked up by its path without reading the rest. Pure.

The decoder skips, in C, what the path does not name. It keeps the last of two members with one
name, and so a value is taken only where the name is certainly there once: a value of two says
nothing. The proof costs one count of the name over all texts together; only texts that it leaves
in doubt are looked at closer, and those that stay in doubt (see `_is_once`) have no value.

Invariant: for every text, whatever it is, there is a value or none; nothing is raised. A value is
the text's own, to the byte.
Where it sits: `raw_lines.py` looks up keys and streams here.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from kdaemon.base.limits import KIB
from kdaemon.wire.explain import UNREADABLE

Raw = msgspec.Raw
Text = bytes | Raw

COLONS_MAX = 20_000
"""A text with more of them is not looked at closer: its name is taken for repeated. Ours,
2026-11-28: taking an object of so many members apart takes 4 ms."""

SPELT_BYTES_MAX = 64 * KIB
"""A longer text whose names are written with escapes is not looked at closer: that is done in plain
Python, 1.5 ms for this much. Ours, 2026-11-28."""

READERS_MAX = 256  # fields that are kept ready, of the configuration and of clients; ours

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class Field:
    """One path. `find` is made for many texts at a time: lines of a block."""

    __slots__ = ("_members",)

    def __init__(self, names: Sequence[str]) -> None:
        self._members = [_Member(name) for name in names]

    def find(self, texts: Sequence[Text], joined: bytes) -> Sequence[Text | None]:
        """The value in each text, as its JSON has it; None: there is none, or not one alone.
        `joined`: has all texts in it.
        """
        found: Sequence[Text | None] = texts
        for depth, member in enumerate(self._members):
            if depth:
                joined = b"\n".join([text for text in found if text is not None])
            found = member.find(found, joined)
        return found


@lru_cache(READERS_MAX)
def field_at(names: tuple[str, ...]) -> Field:
    """The reader of this path: to make one takes 0.2 ms, and clients may name one a request."""
    return Field(names)


def text_of(value: Text) -> str | None:
    """A string's characters; of a number or a boolean its own text (1.0 is not 1); None: of null,
    an object or an array, and of a string that is no text.
    """
    raw = bytes(value)
    first = raw[:1]
    if first == b'"':
        try:
            return _decode_text(raw) if b"\\" in raw else raw[1:-1].decode()
        except UNREADABLE:
            return None
    return None if first in {b"{", b"[", b"n"} else raw.decode()


class _Member:
    """One name of the path."""

    __slots__ = ("_decode", "_escape", "_name", "_quoted")

    def __init__(self, name: str) -> None:
        self._name = name
        self._quoted = _encode(name)
        # What another spelling of the name has in it.
        self._escape = b"\\" if "/" in name else b"\\u"
        field = msgspec.field(default=None, name=name)
        shape: Any = msgspec.defstruct("Member", [("value", Raw, field)], gc=False)
        self._decode = msgspec.json.Decoder(shape).decode

    def find(self, texts: Sequence[Text | None], joined: bytes) -> list[Text | None]:
        decode = self._decode
        try:
            found = [None if text is None else decode(text).value for text in texts]
        except UNREADABLE:
            found = [None if text is None else self._value(text) for text in texts]
        count = len(found) - found.count(None)
        if joined.count(self._quoted) != count or self._escape in joined:
            for at, text in enumerate(texts):
                if found[at] is not None and text is not None and not self._is_once(bytes(text)):
                    found[at] = None
        return found

    def _value(self, text: Text) -> Text | None:
        try:
            value: Text | None = self._decode(text).value
        except UNREADABLE:
            return None
        return value

    def _is_once(self, text: bytes) -> bool:
        """Whether an object that has the member certainly has it once."""
        quoted, escape = self._quoted, self._escape
        count = text.count(quoted)
        escapes = text.count(escape) if b"\\" in text else 0
        if count == 1 and not escapes:
            return True
        if text.count(b":") > COLONS_MAX:
            return False
        # What stands beside the values of the members that were kept: names, and what was dropped.
        values = b"\n".join(_decode_members(text).values())
        if escapes == values.count(escape):
            own = count - values.count(quoted)
            if own == 1:
                return True
        return len(text) <= SPELT_BYTES_MAX and self._count(text) == 1

    def _count(self, text: bytes) -> int:
        """How often the outermost object has the member, however its name is written."""
        try:
            names: list[str] = json.loads(
                text.decode(errors="surrogateescape"),
                object_pairs_hook=_names,
                parse_int=str,
                parse_float=str,
                parse_constant=str,
            )
        except (ValueError, RecursionError):
            return 0
        return names.count(self._name)


def _names(pairs: list[tuple[str, object]]) -> list[str]:
    return [name for name, _ in pairs]

r"""One field of many JSON texts, looked up by its path without reading the rest. Pure.

The decoder skips, in C, what the path does not name. It keeps the last of two members with one
name, and so a value is taken only where the name is certainly there once: a value of two says
nothing. The proof costs one search for the name over all texts together, however it is spelt there;
only texts that it leaves in doubt are looked at closer, and those that stay in doubt (`_is_once`)
have no value.

Invariant: for every text, whatever it is, there is a value or none; nothing is raised; which one
depends on that text alone.
Where it sits: `raw_lines.py` looks up keys and streams here, and `put/lines.py` keys.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from kdaemon.wire.explain import UNREADABLE

Raw = msgspec.Raw
Text = bytes | Raw
T = TypeVar("T")

COLONS_MAX = 20_000
"""A text with more of them is not looked at closer: its name is taken for repeated. Ours,
2026-11-28: taking an object of so many members apart takes 4 ms."""

READERS_MAX = 256  # fields that are kept ready, of the configuration and of clients; ours

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


class Field:
    """One path. `find` is made for many texts at a time: lines of a block."""

    __slots__ = ("_last", "_outer")

    def __init__(self, names: Sequence[str]) -> None:
        *outer, last = names
        self._outer = [_Member(name) for name in outer]
        self._last = _Member(last)

    def find(self, texts: Sequence[Text], joined: bytes) -> list[str | None]:
        """What the field says in each text: a string's characters; of a number or a boolean its own
        text (1.0 is not 1). None: it is not there, or not once, or is null, an object, an array, or
        a string that is no text. `joined`: has all texts in it.
        """
        found: Sequence[Text | None] = texts
        for member in self._outer:
            found = member.values(found, joined)
            joined = b"\n".join([text for text in found if text is not None])
        return self._last.texts(found, joined)

    def value(self, text: bytes) -> bytes | None:
        """What one text has there, as its JSON is written; None: nothing, or not once."""
        found: Text | None = text
        for member in (*self._outer, self._last):
            if found is None:
                return None
            (found,) = member.values([found], bytes(found))
        return None if found is None else bytes(found)


@lru_cache(READERS_MAX)
def field_at(names: tuple[str, ...]) -> Field:
    """The reader of this path: to make one takes 0.1 ms, and clients may name one a request."""
    return Field(names)


def text_of(value: Text) -> str | None:
    """The same of one value, as JSON has it."""
    raw = bytes(value)
    first = raw[:1]
    if first == b'"':
        try:
            return _decode_text(raw)
        except UNREADABLE:
            return None
    return None if first in {b"{", b"[", b"n"} else raw.decode()


class _Member:
    """One name of the path."""

    __slots__ = ("_decode", "_decode_string", "_plain", "_spelt")

    def __init__(self, name: str) -> None:
        # Patterns are found at twice the speed of bytes.count.
        self._plain = re.compile(re.escape(b'"%b"' % name.encode()))
        self._spelt = re.compile(b'"%b"' % b"".join(map(_spellings, name)))
        self._decode = _decoder(name, Raw)
        self._decode_string = _decoder(name, str)

    def values(self, texts: Sequence[Text | None], joined: bytes) -> list[Text | None]:
        """The member of each text, as its JSON has it."""
        decode = self._decode
        found: list[Text | None]
        try:
            found = [None if text is None else decode(text).value for text in texts]
        except UNREADABLE:
            found = [None if text is None else self._value(text) for text in texts]
        self._drop_doubtful(found, texts, joined)
        return found

    def texts(self, texts: Sequence[Text | None], joined: bytes) -> list[str | None]:
        """The same, as `Field.find` has it."""
        decode = self._decode_string
        found: list[str | None]
        try:  # all of them are strings, as a rule
            found = [None if text is None else decode(text).value for text in texts]
        except UNREADABLE:
            values = self.values(texts, joined)
            return [None if value is None else text_of(value) for value in values]
        self._drop_doubtful(found, texts, joined)
        return found

    def _value(self, text: Text) -> Text | None:
        try:
            value: Text | None = self._decode(text).value
        except UNREADABLE:
            return None
        return value

    def _drop_doubtful(
        self, found: list[T | None], texts: Sequence[Text | None], joined: bytes
    ) -> None:
        """Leaves what is certainly there once: all of it, if the name is not there more often."""
        count = len([at for at in found if at is not None])  # to compare with None is dearer
        name = self._spelt if b"\\" in joined else self._plain
        if len(name.findall(joined)) != count:
            for at, text in enumerate(texts):
                if found[at] is not None and text is not None and not self._is_once(bytes(text)):
                    found[at] = None

    def _is_once(self, text: bytes) -> bool:
        """Whether an object that has the member certainly has it once. In doubt are those that have
        another member twice, or the name within another one, in quotes; and very large ones.
        """
        name = self._spelt if b"\\" in text else self._plain
        count = len(name.findall(text))
        if count == 1:
            return True
        if text.count(b":") > COLONS_MAX:
            return False
        # What stands beside the values of the members that were kept: names, and what was dropped.
        try:
            values = b"\n".join(_decode_members(text).values())
        except UNREADABLE:  # a name that is no text
            return False
        return count - len(name.findall(values)) == 1


def _spellings(character: str) -> bytes:
    """A pattern for all ways to write a character within a JSON string."""
    units = character.encode("utf-16-be").hex()
    escaped = "".join(
        r"\\u" + "".join(f"[{digit}{digit.upper()}]" for digit in units[at : at + 4])
        for at in range(0, len(units), 4)
    )
    short = rb"|\\/" if character == "/" else b""
    return b"(?:%b|%b%b)" % (re.escape(character.encode()), escaped.encode(), short)


def _decoder(name: str, kind: Any) -> Callable[[Text], Any]:
    field = msgspec.field(default=None, name=name)
    shape: Any = msgspec.defstruct("Member", [("value", kind, field)], gc=False)
    return msgspec.json.Decoder(shape).decode

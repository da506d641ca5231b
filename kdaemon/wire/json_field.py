r"""Finds one field in many JSON texts by its path, without reading the rest. Pure.

The decoder skips, in C, everything that the path does not name. Of two members with one name it
keeps the last. A field must not take one of two values, so a value counts only if its name is there
once for certain. To prove that, one search counts the name in all texts together, in every
spelling. Only texts that the count leaves in doubt are checked closely; texts that stay in doubt
(`_is_once`) have no value.

Invariant: every text has one value or none; no text raises; the value depends on that text alone.
Where it sits: `raw_lines.py` finds keys and streams here, and `put/lines.py` keys.
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
"""A text with more colons is not checked closely: its name counts as repeated. Ours, 2026-11-28:
decoding an object with so many members takes 4 ms."""

READERS_MAX = 256  # fields that are kept ready, for the configuration and for clients; ours

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


class Field:
    """One path. `find` is made for many texts at a time, as in a block of lines."""

    __slots__ = ("_last", "_outer")

    def __init__(self, names: Sequence[str]) -> None:
        *outer, last = names
        self._outer = [_Member(name) for name in outer]
        self._last = _Member(last)

    def find(self, texts: Sequence[Text], joined: bytes) -> list[str | None]:
        """The field's value in each text: a string's characters; a number or a boolean as it is
        written (1.0 is not 1). None: the field is absent, or not there once, or is null, an object,
        an array, or a string that is no text. `joined`: contains all texts.
        """
        found: Sequence[Text | None] = texts
        for member in self._outer:
            found = member.values(found, joined)
            joined = b"\n".join([text for text in found if text is not None])
        return self._last.texts(found, joined)

    def value(self, text: bytes) -> bytes | None:
        """The field's value in one text, as JSON; None: it is absent, or not there once."""
        found: Text | None = text
        for member in (*self._outer, self._last):
            if found is None:
                return None
            (found,) = member.values([found], bytes(found))
        return None if found is None else bytes(found)


@lru_cache(READERS_MAX)
def field_at(names: tuple[str, ...]) -> Field:
    """The reader of this path. Making one takes 0.1 ms, and each request may name another."""
    return Field(names)


def text_of(value: Text) -> str | None:
    """One JSON value as `Field.find` gives it."""
    raw = bytes(value)
    first = raw[:1]
    if first == b'"':
        try:
            return _decode_text(raw)
        except UNREADABLE:
            return None
    return None if first in {b"{", b"[", b"n"} else raw.decode()


class _Member:
    """One name in the path."""

    __slots__ = ("_decode", "_decode_string", "_plain", "_spelt")

    def __init__(self, name: str) -> None:
        # Patterns are found twice as fast as by bytes.count.
        self._plain = re.compile(re.escape(b'"%b"' % name.encode()))
        self._spelt = re.compile(b'"%b"' % b"".join(map(_spellings, name)))
        self._decode = _decoder(name, Raw)
        self._decode_string = _decoder(name, str)

    def values(self, texts: Sequence[Text | None], joined: bytes) -> list[Text | None]:
        """The member of each text, as JSON."""
        decode = self._decode
        found: list[Text | None]
        try:
            found = [None if text is None else decode(text).value for text in texts]
        except UNREADABLE:
            found = [None if text is None else self._value(text) for text in texts]
        self._drop_doubtful(found, texts, joined)
        return found

    def texts(self, texts: Sequence[Text | None], joined: bytes) -> list[str | None]:
        """The member of each text, as `Field.find` gives it."""
        decode = self._decode_string
        found: list[str | None]
        try:  # as a rule all are strings
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
        """Drops values that may not be there once. None is dropped if the name is there no more
        often than values were found.
        """
        count = len([at for at in found if at is not None])  # comparing with None is slower
        name = self._spelt if b"\\" in joined else self._plain
        if len(name.findall(joined)) != count:
            for at, text in enumerate(texts):
                if found[at] is not None and text is not None and not self._is_once(bytes(text)):
                    found[at] = None

    def _is_once(self, text: bytes) -> bool:
        """Whether an object that has the member has it once for certain. In doubt are objects that
        have another member twice, or the name in quotes within another member; and very large ones.
        """
        name = self._spelt if b"\\" in text else self._plain
        count = len(name.findall(text))
        if count == 1:
            return True
        if text.count(b":") > COLONS_MAX:
            return False
        # The rest of the text, beside the values of the kept members, has the names and every
        # dropped value.
        try:
            values = b"\n".join(_decode_members(text).values())
        except UNREADABLE:  # a name that is no text
            return False
        return count - len(name.findall(values)) == 1


def _spellings(character: str) -> bytes:
    """A pattern for all spellings of a character in a JSON string."""
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

"""CBOR as clients send it, in every way that there is to write a value down.

Our own, and not the daemon's: what is tested must not be what it is tested with. Values: a dict or
a list of pairs is a map (so that a member may be there twice), a tuple is a list, then texts,
bytes, whole numbers, floats, booleans, None. `Blob` is bytes here and base64 in JSON.
"""

import base64
import binascii
import random
import struct
from typing import Any

import cbor2

Value = object


class Blob(bytes):
    """Data of a record."""


class Moment(float):
    """Seconds since 1970; on the wire milliseconds, as the AWS SDKs have it."""


def members_of(body: bytes) -> Any:
    """What an answer says, as the same answer in JSON would: moments in seconds, data in base64."""
    return _plain(cbor2.loads(body, semantic_decoders={1: lambda number, _: number / 1000}))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def of_json(value: Any, name: str = "") -> Value:
    """The members of a request in JSON as an SDK has them: data are bytes, moments moments."""
    if isinstance(value, dict):
        return {each: of_json(member, each) for each, member in value.items()}
    if isinstance(value, list):
        return tuple(map(of_json, value))
    if name == "Data" and isinstance(value, str):
        try:
            return Blob(base64.b64decode(value, validate=True))
        except binascii.Error:
            return value
    return Moment(value) if name == "Timestamp" and isinstance(value, int | float) else value


def java(value: Value) -> bytes:
    """As the AWS SDKs for Java write it: maps and lists end with a break."""
    return _Writer(None).write(value)


def any_way(value: Value, dice: random.Random) -> bytes:
    """With lengths or without, in any width, strings whole or in pieces."""
    return _Writer(dice).write(value)


class _Writer:
    def __init__(self, dice: random.Random | None) -> None:
        self._dice = dice
        self._style = dice.randrange(4) if dice else 1  # 0: with lengths; 1: without; else mixed

    def write(self, value: Value) -> bytes:
        if isinstance(value, dict):
            return self.write(list(value.items()))
        if isinstance(value, list):
            inside = b"".join(self.write(name) + self.write(member) for name, member in value)
            return self._around(5, len(value), inside)
        if isinstance(value, tuple):
            return self._around(4, len(value), b"".join(map(self.write, value)))
        if isinstance(value, str):
            return self._string(3, [character.encode() for character in value])
        if isinstance(value, bytes):
            return self._string(2, [value[at : at + 7] for at in range(0, len(value), 7)])
        if value is None or isinstance(value, bool):
            return b"\xf6" if value is None else b"\xf5" if value else b"\xf4"
        if isinstance(value, int):
            return self._head(0, value) if value >= 0 else self._head(1, -1 - value)
        if isinstance(value, Moment):
            return b"\xc1" + self.write(round(value * 1000))
        if isinstance(value, float):
            return b"\xfb" + struct.pack(">d", value)
        raise TypeError(type(value))

    def _is_open(self) -> bool:
        if self._dice is None or self._style < 2:
            return self._style == 1
        return bool(self._dice.randrange(2))

    def _around(self, major: int, count: int, inside: bytes) -> bytes:
        if self._is_open():
            return bytes([major << 5 | 31]) + inside + b"\xff"
        return self._head(major, count) + inside

    def _string(self, major: int, letters: list[bytes]) -> bytes:
        if self._dice is None or self._style < 2 or self._dice.randrange(4):
            whole = b"".join(letters)
            return self._head(major, len(whole)) + whole
        pieces = []
        at = 0
        while at < len(letters):
            end = at + self._dice.choice((0, 1, 5, 400))
            piece = b"".join(letters[at:end])
            pieces.append(self._head(major, len(piece)) + piece)
            at = end
        return bytes([major << 5 | 31]) + b"".join(pieces) + b"\xff"

    def _head(self, major: int, number: int) -> bytes:
        widths = [info for info in range(4) if number < 1 << (8 << info)]
        shortest = number if number < 24 else None
        if self._dice is None or self._style < 3 or not self._dice.randrange(2):
            if shortest is not None:
                return bytes([major << 5 | shortest])
            width = widths[0]
        else:
            width = self._dice.choice(widths)
        return bytes([major << 5 | 24 + width]) + number.to_bytes(1 << width, "big")

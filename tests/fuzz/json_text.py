"""JSON as somebody might write it: blanks anywhere, characters escaped without need, members twice.

An object is a list of pairs, so that a member may be there twice; a list is a tuple.
"""

import json
import random

Value = object
Pairs = list[tuple[str, Value]]

_BLANKS = ("", "", "", "", " ", "\t", "  ", "\r")
TEXTS = (
    "",
    "a",
    "k",
    "é",
    "😀",
    '"',
    '":',
    "\\",
    "\\\\",
    ":",
    "a:b",
    "{}",
    "\0",
    "x" * 300,
    "a\nb",
)


def write(dice: random.Random, value: Value) -> bytes:
    """The text of a value, each time another one."""
    style = dice.randrange(4)  # 0: as short as can be; 1: as Python does; else anything
    return _text(dice, value, style).encode("utf-8", errors="surrogatepass")


def _text(dice: random.Random, value: Value, style: int) -> str:
    if isinstance(value, list):
        inside = [
            _string(dice, name, style) + _around(dice, ":", style) + _text(dice, member, style)
            for name, member in value
        ]
        return "{" + _around(dice, ",", style).join(inside) + "}"
    if isinstance(value, tuple):
        inside = [_text(dice, each, style) for each in value]
        return "[" + _around(dice, ",", style).join(inside) + "]"
    return _string(dice, value, style) if isinstance(value, str) else json.dumps(value)


def _around(dice: random.Random, sign: str, style: int) -> str:
    if style == 0:
        return sign
    if style == 1:
        return sign + " "
    return dice.choice(_BLANKS) + sign + dice.choice(_BLANKS)


def _string(dice: random.Random, text: str, style: int) -> str:
    if style < 2 or dice.randrange(3):
        return json.dumps(text, ensure_ascii=style == 1)
    return '"' + "".join(_character(dice, each) for each in text) + '"'


def _character(dice: random.Random, character: str) -> str:
    if ord(character) < 0x10000 and not dice.randrange(4):
        return f"\\u{ord(character):04x}"
    return json.dumps(character, ensure_ascii=False)[1:-1]

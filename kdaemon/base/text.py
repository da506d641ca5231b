"""Makes others' text safe to show: on a terminal, in a log, on a page.

About: which characters are shown as they are, and how the others are written. Only `printable`
decides that. Knows nothing of where the text goes; `base/redact.py` hides secrets.
Invariant: the result of `printable` has no control character, no line break, nothing that reorders
or hides text, nothing that UTF-8 cannot carry, and no more characters than asked for.
"""

import codecs
import re

# Printable for Python, but without a glyph (Default_Ignorable_Code_Point of Unicode 15.1,
# 2026-11-28): joiners, Hangul fillers, vowels that are never shown, variation selectors.
_WITHOUT_A_GLYPH = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
CUT = "..."  # follows a text that was cut

# Looked up now: Python opens a file for that, and a text to show may say that no file can be
# opened.
_escape = codecs.getencoder("unicode_escape")

_INVISIBLE = re.compile(f"[{_WITHOUT_A_GLYPH}]")


def printable(text: str, characters_max: int | None = None) -> str:
    r"""`text` as one line; invisible or reordering characters are shown as `\x1b`, `\u202e`.

    These are: control characters (C0, C1, line breaks, tabs), format characters (bidirectional
    controls, zero width), separators except the space, lone surrogates, characters for private use
    and unassigned ones, and letters without a glyph. A backslash stays as it is.

    `characters_max`: of the result. If the text is cut, `...` follows, which is not counted.
    """
    if text.isprintable() and (text.isascii() or _INVISIBLE.search(text) is None):
        if characters_max is None or len(text) <= characters_max:
            return text
        return text[:characters_max] + CUT
    if characters_max is None:
        return "".join(map(_shown, text))
    pieces: list[str] = []
    left = characters_max
    for character in text:
        piece = _shown(character)
        left -= len(piece)
        if left < 0:
            return "".join(pieces) + CUT
        pieces.append(piece)
    return "".join(pieces)


def printable_lines(text: str, characters_max: int) -> str:
    """As `printable`, but line breaks stay: for a stack. Of a stack that is too long the
    end stays.
    """
    if len(text) > characters_max:
        text = text[-characters_max:]
    return "\n".join(map(printable, text.splitlines()))


def _shown(character: str) -> str:
    if character.isprintable() and _INVISIBLE.match(character) is None:
        return character
    return _escape(character)[0].decode()

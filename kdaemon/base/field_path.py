r"""The path of a value in the JSON of a line: `user.id` is the member `id` of the object `user`.

Names are separated by dots; `\.` is a dot within a name. A path cannot have a name with a quote, a
backslash or a control character: no log has one. Pure; knows no JSON. This file is in base, because
both the configuration and clients name fields.
Invariant: no name of a parsed path is empty, and it has at most FIELD_NAMES_MAX names.
"""

FIELD_NAMES_MAX = 8  # no known log is deeper; ours, 2026-11-28
FIELD_CHARACTERS_MAX = 256  # of the whole path; ours, 2026-11-28

FIELD_EXPECTED = (
    f"a path of at most {FIELD_NAMES_MAX} names and {FIELD_CHARACTERS_MAX} characters, such as"
    r" user.id (a dot within a name is \.; no quotes, other backslashes or control characters)"
)

_SURROGATES = range(0xD800, 0xE000)  # halves of UTF-16's pairs, which are no characters
_DOT = "\0"  # stands for a dot within a name during parsing


def parse_field_path(text: str) -> tuple[str, ...]:
    """The names; empty for "". The text of a ValueError completes "expected ..."."""
    if not text:
        return ()
    names = text.replace(r"\.", _DOT).split(".")
    is_short = len(names) <= FIELD_NAMES_MAX and len(text) <= FIELD_CHARACTERS_MAX
    if not (is_short and all(names)) or any(map(_is_odd, text.replace(r"\.", "."))):
        raise ValueError(FIELD_EXPECTED)
    return tuple(name.replace(_DOT, ".") for name in names)


def _is_odd(character: str) -> bool:
    """Whether a path cannot have this character. No UTF-8 JSON has a lone surrogate."""
    return character in {'"', "\\"} or character < " " or ord(character) in _SURROGATES

r"""Where in the JSON of a line a value stands: `user.id` is the member `id` of the object `user`.

Names are separated by dots; `\.` is a dot within a name. A name with a quote, a backslash or a
control character cannot be said: no log has one. Pure; knows no JSON. It stands in base, because
the configuration and clients both name fields.
Invariant: of a path that was read, no name is empty, and there are FIELD_NAMES_MAX of them at most.
"""

FIELD_NAMES_MAX = 8  # deeper is no log that was seen; ours, 2026-11-28
FIELD_CHARACTERS_MAX = 256  # of the whole path; ours, 2026-11-28

FIELD_EXPECTED = (
    f"a path of at most {FIELD_NAMES_MAX} names and {FIELD_CHARACTERS_MAX} characters, such as"
    r" user.id (a dot within a name is \.; no quotes, other backslashes or control characters)"
)

_SURROGATES = range(0xD800, 0xE000)  # halves of UTF-16's pairs, which are no characters
_DOT = "\0"  # stands for one within a name meanwhile


def parse_field_path(text: str) -> tuple[str, ...]:
    """The names; none for "". ValueError completes "expected ..."."""
    if not text:
        return ()
    names = text.replace(r"\.", _DOT).split(".")
    is_short = len(names) <= FIELD_NAMES_MAX and len(text) <= FIELD_CHARACTERS_MAX
    if not (is_short and all(names)) or any(map(_is_odd, text.replace(r"\.", "."))):
        raise ValueError(FIELD_EXPECTED)
    return tuple(name.replace(_DOT, ".") for name in names)


def _is_odd(character: str) -> bool:
    """Not to be said; a lone surrogate is in no JSON that is UTF-8."""
    return character in {'"', "\\"} or character < " " or ord(character) in _SURROGATES

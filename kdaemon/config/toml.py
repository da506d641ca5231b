"""Reads a document of TOML, or tells where it stops being TOML; writes single values. Pure. Where
it sits: `given.py` and `principals.py` read their files by it.
"""

import json
import re
import tomllib
from typing import Any

from kdaemon.base.errors import ConfigError, ConfigProblem
from kdaemon.base.text import printable


def read_toml(text: str, source: str, *, is_secret: bool = False) -> dict[str, Any]:
    """`source`: the file's name, for the problem. `is_secret`: the problem has no word of the text.
    Raises ConfigError.
    """
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))  # some editors write this mark
    except tomllib.TOMLDecodeError as error:
        found = re.search(r" \(at line (\d+), column (\d+)\)", str(error))
        line = found[1] if found else str(max(1, len(text.splitlines())))
        column = f"at column {found[2]}" if found else "at the end of the file"
        why = "it cannot be read on" if is_secret else str(error).partition(" (at ")[0]
        problem = ConfigProblem(source, f"line {line}", f"is not TOML: {why} {column}")
    except RecursionError:
        problem = ConfigProblem(source, "file", "is nested too deeply")
    raise ConfigError([problem])


def toml_text(value: Any) -> str:
    """A truth value, a number, a text or a list of these, as TOML has it. What controls a terminal
    is escaped.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_text, value))}]"
    if not isinstance(value, str):
        return str(value)
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if printable(c) == c else f"\\U{ord(c):08x}" for c in text)

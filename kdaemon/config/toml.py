"""Reads TOML: a document, or where it stops being TOML. Pure. Where it sits: `given.py` and
`principals.py` read their files by it.
"""

import re
import tomllib
from typing import Any

from kdaemon.base.errors import ConfigError, ConfigProblem


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

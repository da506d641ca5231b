"""The file of principals: who may write, how each principal proves its identity, and to which
streams it may write.

Pure: a text comes in, and `Listed` or every problem at once comes out. `door/principals.py` reads
the file, and reads it again when the file changes.
Invariant: no problem repeats a secret, nor a part of one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kdaemon.base.errors import ConfigError, ConfigProblem
from kdaemon.base.names import ARN_CHARACTERS_MAX
from kdaemon.base.principal import Principal, Rights
from kdaemon.config.toml import read_toml

SECRET_CHARACTERS_MIN = 16  # ours, 2026-11-28: AWS's have 40; shorter ones could be guessed
ID_MAX = 2**32 - 2  # the highest id of a Linux user or group; the next number means "no id"

_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{3,128}")  # AWS's have 16 to 128 of \w, 2026-11-28
_SECRET = re.compile(rf"[!-~]{{{SECRET_CHARACTERS_MIN},512}}")
_PATTERN = re.compile(r"[^\s*]*\*?")
_KEYS = ("streams", "keys", "users", "groups")

FindId = Callable[[str], int | None]
"""The number of a user or a group of this system; None: there is none of this name."""


@dataclass(frozen=True, slots=True)
class Key:
    """An access key: who shows it, and its secret."""

    principal: Principal
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Listed:
    """All principals: by access key id, by number of user and by number of group."""

    keys: dict[str, Key] = field(default_factory=dict)
    users: dict[int, Principal] = field(default_factory=dict)
    groups: dict[int, Principal] = field(default_factory=dict)


def parse_principals(text: str, source: str, user_id: FindId, group_id: FindId) -> Listed:
    """Raises ConfigError with every problem there is. `source`: the file's name, for problems."""
    document = read_toml(text, source, is_secret=True)
    reader = _Reader(source, user_id, group_id)
    for name, table in document.items():
        reader.read(name, table)
    if not document:
        reader.note("[NAME]", "is missing: expected a table for each principal")
    if reader.problems:
        raise ConfigError(reader.problems)
    return reader.listed


class _Reader:
    def __init__(self, source: str, user_id: FindId, group_id: FindId) -> None:
        self.problems: list[ConfigProblem] = []
        self.listed = Listed()
        self._source = source
        self._find = {"users": user_id, "groups": group_id}

    def note(self, key: str, problem: str) -> None:
        self.problems.append(ConfigProblem(self._source, key, problem))

    def read(self, name: str, table: object) -> None:
        """One principal."""
        if _NAME.fullmatch(name) is None:
            expected = "1-64 letters, digits, `_`, `.`, `@` and `-`"
            self.note(f"[{name[:80]}]", f"is no name of a principal: expected {expected}")
            return
        if not isinstance(table, dict):
            self.note(name, f"is no principal: expected a table, as [{name}]")
            return
        for key in table:
            if key not in _KEYS:
                self.note(f"{name}.{key[:80]}", f"is no key; known here: {', '.join(_KEYS)}")
        principal = Principal(name, self._rights(name, table.get("streams")))
        self._keys(name, table.get("keys", []), principal)
        for kind, listed, what in (
            ("users", self.listed.users, "user"),
            ("groups", self.listed.groups, "group"),
        ):
            for number in self._numbers(f"{name}.{kind}", table.get(kind, []), what):
                other = listed.setdefault(number, principal)
                if other is not principal:
                    self.note(f"{name}.{kind}", f"has {what} {number}, and so has {other.name}")
        if not any(table.get(kind) for kind in _KEYS[1:]):
            self.note(name, "has neither keys nor users nor groups: nobody could be it")

    def _rights(self, name: str, value: object) -> Rights:
        expected = 'expected streams = [...], names that may end with `*`, such as ["app-*"]'
        if not isinstance(value, list) or not value:
            self.note(f"{name}.streams", f"is missing or no list; {expected}")
            return Rights()
        names, prefixes = set(), []
        for each in value:
            is_pattern = isinstance(each, str) and 0 < len(each) <= ARN_CHARACTERS_MAX
            if not is_pattern or _PATTERN.fullmatch(each) is None:
                self.note(f"{name}.streams", f"has what is no name of a stream; {expected}")
            elif each.endswith("*"):
                prefixes.append(each[:-1])
            else:
                names.add(each)
        return Rights(frozenset(names), tuple(prefixes))

    def _keys(self, name: str, value: object, principal: Principal) -> None:
        at, expected = f"{name}.keys", 'expected keys = [{ id = "...", secret = "..." }]'
        if not isinstance(value, list):
            self.note(at, f"is no list; {expected}")
            return
        for number, each in enumerate(value, 1):
            if not isinstance(each, dict) or set(each) != {"id", "secret"}:
                self.note(at, f"has no id and secret at place {number}; {expected}")
                continue
            key_id, secret = each["id"], each["secret"]
            if not isinstance(key_id, str) or _KEY_ID.fullmatch(key_id) is None:
                text = "has a wrong id at place {}: expected 3-128 letters, digits, `_` and `-`"
                self.note(at, text.format(number))
            elif not isinstance(secret, str) or _SECRET.fullmatch(secret) is None:
                text = "has a wrong secret (not shown) at place {}: expected {} printable"
                text += " characters or more, without blanks"
                self.note(at, text.format(number, SECRET_CHARACTERS_MIN))
            elif key_id in self.listed.keys:
                other = self.listed.keys[key_id].principal.name
                self.note(at, f"has the id {key_id} again, which {other} has: keep one of them")
            else:
                self.listed.keys[key_id] = Key(principal, secret)

    def _numbers(self, at: str, value: Any, what: str) -> Iterator[int]:
        """The numbers of users or groups."""
        if not isinstance(value, list):
            self.note(at, f'is no list; expected names or numbers, such as ["{what}", 1000]')
            return
        for each in value:
            number = self._find[f"{what}s"](each) if isinstance(each, str) else each
            if number is None:
                self.note(at, f"has a name that is no {what} of this system: {each[:80]!r}")
            elif isinstance(number, bool) or not isinstance(number, int):
                self.note(at, f'has what is no {what}; expected names or numbers, as ["a", 1000]')
            elif not 0 <= number <= ID_MAX:
                self.note(at, f"has a number that no {what} has: {number}")
            else:
                yield number

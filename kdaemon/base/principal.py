"""Who sends a request, and to which streams this principal may write. Pure.

A principal travels with each request and each connection of lines: from the code that found out who
it is (`door/access.py`) to the one place that checks its rights (`door/door.py`).
Invariant: an unknown principal has no right: an entrance that forgets to check admits nobody.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rights:
    """The streams that may be written to: by name (or ARN, or path), and by the beginning
    of names.
    """

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def have(self, name: str) -> bool:
        return name in self.names or name.startswith(self.prefixes)

    @property
    def are_all(self) -> bool:
        """Whether they cover any stream, whatever its name."""
        return "" in self.prefixes

    def cover(self, names: Iterable[str]) -> bool:
        """Whether they cover a stream that has all these names."""
        return any(map(self.have, names))


class Principal:
    """Who sends a request. `why_unknown`: the text for an unknown principal; "": it is known.

    A connection keeps the same object as its principal. When the file of principals is read again,
    `become` updates the object's rights.
    """

    __slots__ = ("name", "rights", "why_unknown")

    def __init__(self, name: str, rights: Rights, why_unknown: str = "") -> None:
        self.name = name
        self.rights = rights
        self.why_unknown = why_unknown

    @property
    def is_known(self) -> bool:
        return not self.why_unknown

    def become(self, other: "Principal") -> None:
        """From now on this principal has the name and the rights of the other one."""
        self.name, self.rights = other.name, other.rights
        self.why_unknown = other.why_unknown


ANYBODY: Final = Principal("anybody", Rights(prefixes=("",)))
"""The principal where nobody is asked who they are. The door compares with this very object."""

NOBODY: Final = Principal("nobody", Rights(), "Nobody has shown who he is.")
"""The principal before anybody was asked."""

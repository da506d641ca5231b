"""Who asks, and to which streams he may write. Pure.

A principal travels with each request and each connection of lines, from whoever found out who asks
(`door/access.py`) to the one place that asks what he may (`door/door.py`).
Invariant: who is not known has no right: a way in that forgets to ask who comes lets nobody in.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rights:
    """The streams that may be written to: their names (or ARNs, or paths), and how names begin."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def have(self, name: str) -> bool:
        return name in self.names or name.startswith(self.prefixes)

    @property
    def are_all(self) -> bool:
        """Whether any stream is among them, whatever it is called."""
        return "" in self.prefixes

    def cover(self, names: Iterable[str]) -> bool:
        """Whether a stream is among them that has all these names."""
        return any(map(self.have, names))


class Principal:
    """Who asks. `why_unknown`: what to tell somebody whom nobody knows; "": he is known.

    The principal of a connection is the same object as long as the connection is; whoever reads the
    file of principals again says what he may now (`become`).
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
        """From now on this is the other one."""
        self.name, self.rights = other.name, other.rights
        self.why_unknown = other.why_unknown


ANYBODY = Principal("anybody", Rights(prefixes=("",)))
"""Where nobody is asked who he is. The door compares with this very object."""

NOBODY = Principal("nobody", Rights(), "Nobody has shown who he is.")
"""Before anybody was asked."""

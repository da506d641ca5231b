"""The facts of a setting beside its kind: its meaning, and when a change takes effect.

A field of a table in `reach.py`, `listen.py`, `stream.py`, `sections.py` or `settings.py` is one
setting. The field is the one place that has all facts of the setting: its kind with its bounds
(`values.py`), its default and, by `setting`, its meaning and its mark. The example, the tables of
the documents (`document.py`), the schema and a reload (`changes.py`) read them there. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T")
_ABOUT = "about"


class Mark(Enum):
    """When a changed value takes effect."""

    LIVE = "live"
    RESTART = "restart"
    GROWS = "live where the value grows, else restart"
    UNORDERED = "live, but restart for a stream that keeps order"


@dataclass(frozen=True, slots=True)
class About:
    """`meaning`: one sentence or two. `more`: the rest, for the example; a line that begins with a
    blank is kept as it is. `follows`: the default in words, where it is not one value.
    `of_default`: the mark in [default], where it is another one than in [streams.NAME].
    """

    mark: Mark
    meaning: str
    more: str = ""
    follows: str = ""
    of_default: Mark | None = None


def setting(
    default: T,
    mark: Mark,
    meaning: str,
    more: str = "",
    *,
    follows: str = "",
    of_default: Mark | None = None,
) -> T:
    """A field of a dataclass, as `dataclasses.field`."""
    about = About(mark, meaning, more, follows, of_default)
    return field(default=default, metadata={_ABOUT: about})


def abouts_of(table: type[Any]) -> Mapping[str, About]:
    """Of the settings of one dataclass, in their order; its other fields are none."""
    found = {each.name: each.metadata.get(_ABOUT) for each in fields(table)}
    return MappingProxyType({name: about for name, about in found.items() if about is not None})


def marks_of(table: type[Any]) -> Mapping[str, Mark]:
    """When a change of each setting of one dataclass takes effect."""
    return MappingProxyType({name: about.mark for name, about in abouts_of(table).items()})

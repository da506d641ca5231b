"""The keys that a configuration has, by their paths: the kind of each value, and how a value is
written.

Pure: made from the settings themselves (`about.py`). Where it sits: the rooms that read, show or
document a configuration take the keys from here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from kdaemon.config.about import About, abouts_of
from kdaemon.config.clash import Path
from kdaemon.config.reach import UpstreamConfig
from kdaemon.config.settings import Config
from kdaemon.config.stream import StreamConfig

PREFIX = "KDAEMON_"
SECRET_KEYS = frozenset({"role_external_id"})  # never shown: with it others could pass as kdaemon


@dataclass(frozen=True, slots=True)
class Key:
    """What a value at this path must be, and what is said of it."""

    kind: Any  # a type for msgspec.convert
    expected: str  # completes "expected ..."
    checks: tuple[Callable[[str], object], ...]  # each raises ValueError for a wrong value
    is_list: bool
    about: About


def _key(kind: Any, about: About) -> Key:
    metadata = getattr(kind, "__metadata__", ())
    expected = [meta.description or "" for meta in metadata if isinstance(meta, msgspec.Meta)]
    if not expected:
        *words, last = (f'"{word}"' for word in get_args(kind))
        expected = [f"{', '.join(words)} or {last}"]
    checks = tuple(filter(callable, metadata))
    is_list = get_origin(kind.__origin__) is tuple
    return Key(kind, expected[0], checks, is_list, about)


def _keys_of(table: type) -> dict[str, Key]:
    """The settings of one dataclass, in their order."""
    hints = get_type_hints(table, include_extras=True)
    return {name: _key(hints[name], about) for name, about in abouts_of(table).items()}


def _fixed_keys() -> dict[Path, Key]:
    keys: dict[Path, Key] = {(name,): key for name, key in _keys_of(Config).items()}
    hints = get_type_hints(Config)
    for table in fields(Config):
        if is_dataclass(hints[table.name]):
            found = _keys_of(hints[table.name])
            keys |= {(table.name, name): key for name, key in found.items()}
    for of_one_stream in OF_ONE_STREAM:
        del keys["default", of_one_stream]
    return keys


OF_ONE_STREAM: Mapping[str, str] = MappingProxyType(
    {"arn": "an ARN", "socket": "a socket", "upstream_name": "a name at the upstream"}
)
"""Keys that [default] has not, and what they are."""


KEYS: Mapping[Path, Key] = MappingProxyType(_fixed_keys())
STREAM_KEYS: Mapping[str, Key] = MappingProxyType(_keys_of(StreamConfig))
UPSTREAM_KEYS: Mapping[str, Key] = MappingProxyType(_keys_of(UpstreamConfig))
NAMED_TABLES: Mapping[str, Mapping[str, Key]] = MappingProxyType(
    {"streams": STREAM_KEYS, "upstreams": UPSTREAM_KEYS}
)
"""Tables of tables: the keys of each [streams.NAME], and of each [upstreams.NAME]."""
TABLES = frozenset(path[0] for path in KEYS if len(path) == 2)
VARIABLES: Mapping[str, Path] = MappingProxyType(
    {PREFIX + "_".join(path).upper(): path for path in KEYS}
)


def dotted(path: Path) -> str:
    """As TOML writes it: streams."a.b".linger_ms."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in path)

"""What a new configuration changes, and which of the changes need a restart.

Pure: two loaded Configs come in, names come out. `Mark` says of each key when a change takes
effect; a test checks that each key has one. If a single key needs a restart, a reload changes
nothing at all. Half of a changed file would be a configuration that nobody wrote or checked, and
that no file shows; the next restart would bring another one.

Tables of streams and of upstreams come and go live. A table whose stream has changed (another
`arn`, `upstream` or `upstream_name`) counts as one table removed and one table added.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import get_type_hints

from kdaemon.config.about import Mark, abouts_of, marks_of
from kdaemon.config.clash import Path
from kdaemon.config.keys import OF_ONE_STREAM
from kdaemon.config.reach import UpstreamConfig
from kdaemon.config.settings import Config
from kdaemon.config.stream import StreamConfig

_LIVE, _RESTART = Mark.LIVE, Mark.RESTART


def _tables() -> Iterator[tuple[str, Mapping[str, Mark]]]:
    hints = get_type_hints(Config)
    for table in fields(Config):
        kind = hints[table.name]
        if isinstance(kind, type) and is_dataclass(kind) and table.name != "default":
            yield table.name, marks_of(kind)
    abouts = abouts_of(StreamConfig)
    marks = {key: about.of_default or about.mark for key, about in abouts.items()}
    yield "default", {key: mark for key, mark in marks.items() if key not in OF_ONE_STREAM}


TOP: Mapping[str, Mark] = marks_of(Config)
OF_STREAMS: Mapping[str, Mark] = marks_of(StreamConfig)
OF_UPSTREAMS: Mapping[str, Mark] = marks_of(UpstreamConfig)
TABLES: Mapping[str, Mapping[str, Mark]] = MappingProxyType(dict(_tables()))


@dataclass(frozen=True, slots=True)
class Changes:
    """Keys, as the file writes them. `live`: take effect now; `restart`: would need one."""

    live: tuple[str, ...]
    restart: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.live or self.restart)


def find_changes(old: Config, new: Config) -> Changes:
    """What differs between two loaded configurations."""
    live: list[str] = []
    restart: list[str] = []
    for path, needs_restart in _changes(old, new):
        (restart if needs_restart else live).append(_dotted(path))
    return Changes(tuple(live), tuple(restart))


_Found = Iterator[tuple[Path, bool]]


def _changes(old: Config, new: Config) -> _Found:
    yield from _of_table((), TOP, old, new)
    for table, marks in TABLES.items():
        is_ordered = table == "default" and old.default.ordering != "none"
        before, after = getattr(old, table), getattr(new, table)
        yield from _of_table((table,), marks, before, after, is_ordered=is_ordered)
    yield from _of_upstreams(old, new)
    yield from _of_streams(old, new)


def _of_table(
    at: Path, marks: Mapping[str, Mark], old: object, new: object, *, is_ordered: bool = False
) -> _Found:
    for key, mark in marks.items():
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            shrinks = mark is Mark.GROWS and after < before
            is_turned = mark is Mark.UNORDERED and is_ordered
            yield (*at, key), mark is Mark.RESTART or shrinks or is_turned


def _of_upstreams(old: Config, new: Config) -> _Found:
    for name in old.upstreams.keys() - new.upstreams.keys():
        yield ("upstreams", name), False
    services = {old.upstream(name).service for name in old.upstream_names}
    for name, upstream in new.upstreams.items():
        before = old.upstreams.get(name)
        if before is not None:
            yield from _of_table(("upstreams", name), OF_UPSTREAMS, before, upstream)
        elif upstream.service in services:
            yield ("upstreams", name), False
        else:  # the listeners apply the limits of the services that were there at the start
            yield ("upstreams", name, "service"), True


def _of_streams(old: Config, new: Config) -> _Found:
    """A value that [default] gives to all is told of [default] alone."""
    inherited = {
        key
        for key in OF_STREAMS
        if key in TABLES["default"] and getattr(old.default, key) != getattr(new.default, key)
    }
    for name in old.streams.keys() - new.streams.keys():
        yield from _coming_or_going(name, old.streams[name])
    for name, stream in new.streams.items():
        before = old.streams.get(name)
        if before is None:
            yield from _coming_or_going(name, stream)
            continue
        is_other = _place(before) != _place(stream)
        marks = OF_STREAMS
        if is_other:
            marks = MappingProxyType({**dict.fromkeys(OF_STREAMS, _LIVE), "socket": _RESTART})
        if before.socket:  # its listener keeps the ARN
            marks = MappingProxyType({**marks, "arn": _RESTART})
        is_ordered = before.ordering != "none"
        for path, needs_restart in _of_table(
            ("streams", name), marks, before, stream, is_ordered=is_ordered
        ):
            key = path[-1]
            is_default = key in inherited and _follows(key, before, stream, old, new)
            if needs_restart or not is_default:
                yield path, needs_restart


def _coming_or_going(name: str, stream: StreamConfig) -> _Found:
    """A listener of its own is opened by a start alone."""
    yield (("streams", name, "socket"), True) if stream.socket else (("streams", name), False)


def _place(stream: StreamConfig) -> tuple[str, ...]:
    """Which stream it is, at which upstream."""
    return stream.upstream, stream.arn, stream.upstream_name or stream.name


def _follows(key: str, old: StreamConfig, new: StreamConfig, before: Config, after: Config) -> bool:
    was = bool(getattr(old, key) == getattr(before.default, key))
    return was and bool(getattr(new, key) == getattr(after.default, key))


def _dotted(path: Path) -> str:
    return ".".join(f'"{part}"' if "." in part else part for part in path)

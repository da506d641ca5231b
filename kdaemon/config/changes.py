"""What a new configuration changes, and which of it needs a restart: one table for all keys.

Pure: two loaded Configs come in, names come out. `Mark` says of each key when it takes effect; a
test holds that each key has one. A reload that needs a restart for a single key changes nothing at
all: half of a file that somebody wrote is a configuration that nobody wrote, nobody checked and no
file shows, and the next restart would bring another one.

Tables of streams and of upstreams come and go live. A table whose stream is another one than before
(another `arn`, `upstream` or `upstream_name`) counts as one that went and one that came.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from kdaemon.config.clash import Path
from kdaemon.config.settings import Config, StreamConfig


class Mark(Enum):
    """When a changed value takes effect."""

    LIVE = "live"
    RESTART = "restart"
    GROWS = "live where the value grows, else restart"
    UNORDERED = "live, but restart for a stream that keeps order"


_LIVE, _RESTART = Mark.LIVE, Mark.RESTART

REACH: Mapping[str, Mark] = MappingProxyType(
    dict.fromkeys(
        (
            *("service", "region", "endpoint_url", "profile", "account_id", "role_arn"),
            *("role_external_id", "role_session_name", "fips", "dual_stack", "account_endpoints"),
            *("iam_token_file", "iam_token_url", "proxy_url", "ca_file"),
        ),
        _RESTART,  # what is queued by name would go to another account's stream
    )
)
"""Of the top level and of each [upstreams.NAME]."""

CALLS: Mapping[str, Mark] = MappingProxyType(
    {
        "call_timeout_ms": _LIVE,
        "connections_max": _LIVE,
    }
)
"""Of [send] and of each [upstreams.NAME]."""

OF_UPSTREAMS: Mapping[str, Mark] = MappingProxyType({**REACH, **CALLS})

OF_STREAMS: Mapping[str, Mark] = MappingProxyType(
    {
        "arn": _LIVE,
        "upstream": _LIVE,
        "upstream_name": _LIVE,
        "socket": _RESTART,  # as [listen]'s addresses
        "lines": _LIVE,  # of connections that begin after it
        "partition_key_field": _LIVE,
        "stream_field": _LIVE,
        # What waits by the one way would be overtaken by what comes by the other.
        "acknowledge": Mark.UNORDERED,
        "when_full": _LIVE,
        "max_age_ms": _LIVE,
        # The queues of a stream are laid out for these.
        "ordering": _RESTART,
        "aggregation": _RESTART,
        "aggregate_bytes_max": _LIVE,
        "deadline_ms": _LIVE,
        "linger_ms": _LIVE,
        "batch_bytes_max": _LIVE,
        "request_bytes_max": _LIVE,
        "record_bytes_max": _LIVE,
        "in_flight_max": _LIVE,
        "only_writer": _LIVE,  # of shards that are seen for the first time
        "shard_records_per_second": _LIVE,
        "shard_bytes_per_second": _LIVE,
        "buffer_bytes_max": _LIVE,
    }
)
"""Of [default] and of each [streams.NAME]."""

TOP: Mapping[str, Mark] = MappingProxyType(
    {
        **REACH,
        "workers": _RESTART,  # each has its spool, and its part of all that is bounded
        "accept_unlisted": _LIVE,
        "streams_max": _LIVE,
        "memory_bytes_max": Mark.GROWS,  # what is held was promised room
    }
)

TABLES: Mapping[str, Mapping[str, Mark]] = MappingProxyType(
    {
        "listen": dict.fromkeys(
            # A listener is opened by a start alone, which may find that its place is taken; what
            # was connected to another one was let in by its rules. Files are read again by
            # themselves when they change.
            (
                *("http", "unix", "unix_mode", "admin", "tls_certificate", "tls_key"),
                *("tls_client_ca", "admin_tls", "insecure"),
            ),
            _RESTART,
        )
        | dict.fromkeys(
            (
                *("admin_tap", "hosts", "operations_passed_on", "connections_max"),
                "idle_timeout_ms",
            ),
            _LIVE,
        ),
        # As of a listener. The file is read again by itself when it changes.
        "auth": dict.fromkeys(("http", "unix", "principals_file"), _RESTART),
        "send": CALLS,
        "drain": dict.fromkeys(("lame_duck_ms", "deadline_ms"), _LIVE),
        "spool": {
            "directory": _RESTART,  # what is in the old one would not be delivered
            "bytes_max": _LIVE,
            "letters_bytes_max": _RESTART,  # the thread of the disk opens its files with it
        },
        "log": {"level": _LIVE, "format": _RESTART},  # whoever reads it has to change, too
        "metrics": {"per_shard": _LIVE, "emf_namespace": _RESTART},  # opened by a start
        "observe": {"show_keys": _LIVE},
        # A counter cannot go on in another unit.
        "billing": dict.fromkeys(("put_payload_kib", "on_demand_kib", "yandex_put_kib"), _RESTART),
        "sandbox": dict.fromkeys(  # its records are in memory
            (
                *("listen", "tls_certificate", "tls_key", "tls_client_ca", "streams"),
                *("shard_count", "shard_records_per_second", "shard_bytes_per_second"),
            ),
            _RESTART,
        ),
        "default": {
            key: mark
            for key, mark in OF_STREAMS.items()
            if key not in {"arn", "socket", "upstream_name"}
        }
        | {"upstream": _RESTART},  # whose streams all that is not listed is
    }
)


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
        else:  # the listeners hold requests to the limits of the services that were there
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
        if before.socket:  # its listener has the ARN in hand
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


def mark_of(path: Path) -> Mark | None:
    """Of a key of `load.KEYS`, or of one of a named table; None: it has none."""
    if len(path) == 1:
        return TOP.get(path[0])
    if len(path) == 2:
        return TABLES[path[0]].get(path[1])
    return (OF_STREAMS if path[0] == "streams" else OF_UPSTREAMS).get(path[2])


def _dotted(path: Path) -> str:
    return ".".join(f'"{part}"' if "." in part else part for part in path)

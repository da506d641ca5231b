"""Defaults < TOML < KDAEMON_* environment < flags -> one Config, or every problem at once.

Pure: texts and mappings come in; this file reads nothing. `given.py` collects values and problems.
The rules of `rules.py` check the values that have no problem. Only `load_sources` raises, once,
with all problems.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from kdaemon.base.errors import ConfigError, ConfigProblem
from kdaemon.base.names import DEFAULT_UPSTREAM, parse_arn
from kdaemon.base.service import AWS, SERVICES, Service
from kdaemon.config.clash import Path
from kdaemon.config.given import Given, Setting
from kdaemon.config.keys import TABLES
from kdaemon.config.parts import memory_needed
from kdaemon.config.reach import SendConfig, UpstreamConfig
from kdaemon.config.rules import find_clashes
from kdaemon.config.settings import Config, memory_within, upstream_of_arn
from kdaemon.config.stream import BATCH_BYTES_MAX, StreamConfig
from kdaemon.config.values import WORKERS_MAX


@dataclass(frozen=True, slots=True)
class Sources:
    """What a Config is made of, but for the environment: another process that has the same one
    makes the same of it. `text`: of the TOML file; None: there is none. `source`: the file's name
    in problems. `flags`: pairs of dotted key and text. `memory_limit_bytes`: of the container, for
    who sets no memory_bytes_max. `cores`: which this process may use, for `workers = "auto"`.
    """

    text: str | None = None
    source: str = "config.toml"
    flags: Sequence[tuple[str, str]] = ()
    memory_limit_bytes: int | None = None
    cores: int = 1


@dataclass(frozen=True, slots=True)
class Loaded:
    """A Config, and who gave its values. `givers`: by path; a path that is missing was given by
    nobody. `listed`: the path of each listed stream's table, by the stream's name. `problems`: of
    `good_values`, what is wrong with the others.
    """

    config: Config
    givers: Mapping[Path, Setting]
    listed: Mapping[str, Path]
    sources: Sources
    problems: tuple[ConfigProblem, ...] = ()


def load_sources(sources: Sources, environ: Mapping[str, str]) -> Loaded:
    """The Config that the sources make together. `environ`: all variables, of which only KDAEMON_*
    are looked at. Raises ConfigError with every problem there is.
    """
    given = Given(sources.text, sources.source, environ, sources.flags)
    config = _Builder(given, sources.memory_limit_bytes, sources.cores).build()
    _apply_rules(given, config)
    if given.problems:
        raise ConfigError(given.problems)
    return _loaded(given, config, sources)


def load_config(*, environ: Mapping[str, str] = MappingProxyType({}), **sources: Any) -> Config:
    """The Config of `Sources(**sources)`. Raises as `load_sources`."""
    return load_sources(Sources(**sources), environ).config


def good_values(sources: Sources, environ: Mapping[str, str]) -> Loaded:
    """As `load_sources`, but a key that is broken has its default, and no rule holds: to look
    around a file that cannot be used, and to find a daemon by one. Not to run by.
    """
    given = Given(sources.text, sources.source, environ, sources.flags)
    return _loaded(given, _Builder(given, None, 1).build(), sources)


def _loaded(given: Given, config: Config, sources: Sources) -> Loaded:
    givers, listed = MappingProxyType(given.givers), MappingProxyType(given.listed)
    return Loaded(config, givers, listed, sources, tuple(given.problems))


class _Builder:
    """Makes a Config of what was given, and of defaults."""

    def __init__(self, given: Given, memory_limit_bytes: int | None, cores: int) -> None:
        self._given = given
        self._values = given.values
        self._memory_limit_bytes = memory_limit_bytes
        self._cores = cores

    def build(self) -> Config:
        """The Config of the good values; where a key is broken, its default."""
        values = self._with_following_defaults()
        top = _in_table(values)
        default = Config()
        for table in TABLES:
            top[table] = replace(getattr(default, table), **_in_table(values, table))
        config = Config(**top)
        upstreams = {
            name: self._build_upstream(name, config.send) for name in self._given.upstreams
        }
        config = replace(config, upstreams=MappingProxyType(upstreams))
        streams = {
            name: self._build_stream(name, path, config.default, config)
            for name, path in self._given.listed.items()
        }
        others = {
            name: self._default_at(name, config.default)
            for name in config.upstream_names
            if name != config.default.upstream
        }
        config = replace(
            config, streams=MappingProxyType(streams), defaults=MappingProxyType(others)
        )
        return replace(config, worker_count=self._worker_count(config))

    def _worker_count(self, config: Config) -> int:
        """`auto`: no more than memory has room for, or a machine with many cores could not start
        by the defaults.
        """
        if config.workers != "auto":
            return config.workers
        room = config.memory_bytes_max // memory_needed(config)
        return max(1, min(self._cores, room, WORKERS_MAX))

    def _default_at(self, upstream: str, default: StreamConfig) -> StreamConfig:
        """[default] for streams of an upstream that it does not name: nobody wrote that these are
        to be aggregated where they cannot be.
        """
        service = self._service_of(upstream)
        default = replace(self._as_its_service(default, service), upstream=upstream)
        sizes: dict[str, Any] = _sizes({}, self._values, default)
        default = replace(default, **sizes)
        return default if service.can_aggregate else replace(default, aggregation="none")

    def _build_upstream(self, name: str, send: SendConfig) -> UpstreamConfig:
        """Connections are those of [send] where nobody gave others; how long a call may take
        follows the service.
        """
        given = _in_table(self._values, "upstreams", name)
        service = SERVICES[given.get("service", AWS.name)]
        upstream = UpstreamConfig(
            name=name,
            call_timeout_ms=service.call_timeout_ms,
            connections_max=send.connections_max,
        )
        return replace(upstream, **given)

    def _with_following_defaults(self) -> dict[Path, object]:
        """Defaults that follow another setting, where nobody gave the key itself."""
        service = SERVICES[str(self._values.get(("service",), AWS.name))]
        workers = self._values.get(("workers",), 1)
        memory_default = memory_within(
            self._memory_limit_bytes, workers if isinstance(workers, int) else self._cores
        )
        defaults: dict[Path, object] = {
            ("send", "call_timeout_ms"): service.call_timeout_ms,
            ("memory_bytes_max",): memory_default,
        }
        upstream = self._values.get(("default", "upstream"), DEFAULT_UPSTREAM)
        default = _default_stream(self._service_of(upstream))
        memory_bytes = self._values.get(("memory_bytes_max",), memory_default)
        if isinstance(memory_bytes, int):
            default = replace(default, buffer_bytes_max=min(default.buffer_bytes_max, memory_bytes))
        given = _in_table(self._values, "default")
        sizes = {
            "buffer_bytes_max": default.buffer_bytes_max,
            "batch_bytes_max": default.batch_bytes_max,
            **_sizes(given, {}, default),
        }
        return defaults | {("default", key): size for key, size in sizes.items()} | self._values

    def _build_stream(
        self, name: str, path: Path, default: StreamConfig, config: Config
    ) -> StreamConfig:
        given = _in_table(self._values, *path)
        if parse_arn(path[1]) is not None:
            given.setdefault("arn", path[1])
        arn = parse_arn(given.get("arn", ""))
        if arn is not None:
            home = upstream_of_arn(arn, map(config.upstream, config.upstream_names))
            given.setdefault("upstream", home or default.upstream)
        service = self._service_of(given.get("upstream", default.upstream))
        default = self._as_its_service(default, service)
        given |= _sizes(given, self._values, default)
        return replace(default, name=name, **given)

    def _service_of(self, upstream: object) -> Service:
        """Of one that does not exist, which the rules will tell: the default's."""
        name = str(upstream)
        is_named = name in self._given.upstreams
        path = ("upstreams", name, "service") if is_named else ("service",)
        return SERVICES[str(self._values.get(path, AWS.name))]

    def _as_its_service(self, default: StreamConfig, service: Service) -> StreamConfig:
        """[default] for streams of a service that need not be the default upstream's: sizes that
        nobody gave are this service's, and no size is larger than it takes.
        """
        most = {
            "batch_bytes_max": service.request_bytes_max,
            "request_bytes_max": service.request_bytes_max,
            "record_bytes_max": service.record_bytes_max,
        }
        source = {
            key: default if ("default", key) in self._values else _default_stream(service)
            for key in most
        }
        sizes = {key: min(getattr(source[key], key), bound) for key, bound in most.items()}
        return replace(default, **sizes)


def _in_table(values: Mapping[Path, Any], *table: str) -> dict[str, Any]:
    """The values of one table, by their keys; without a name: of the top level."""
    return {path[-1]: value for path, value in values.items() if path[:-1] == table}


def _apply_rules(given: Given, config: Config) -> None:
    """Note each clash, at the first of its keys that somebody gave."""
    for clash in find_clashes(config, given.listed, given.upstreams):
        if given.broken.intersection(clash.paths):
            continue
        givers = [given.givers[path] for path in clash.paths if path in given.givers]
        is_inherited = clash.paths[0][0] == "streams" and not any(
            giver.path[0] == "streams" for giver in givers
        )
        if givers and not is_inherited:
            given.note(givers[0].source, givers[0].shown_key, clash.problem)


def _default_stream(service: Service) -> StreamConfig:
    """[default] where nobody gave a key: the service's limits are the limits."""
    return StreamConfig(
        batch_bytes_max=min(BATCH_BYTES_MAX, service.request_bytes_max),
        request_bytes_max=service.request_bytes_max,
        record_bytes_max=service.record_bytes_max,
    )


def _sizes(
    given: Mapping[str, Any], values: Mapping[Path, object], default: StreamConfig
) -> dict[str, int]:
    """The sizes of a stream that nobody gave, neither here (`given`) nor in [default] (`values`):
    the default's, or less where a size that was given is smaller. One request fits in the buffer
    while another is being delivered, and one record in a request.
    """
    sizes = {
        key: given.get(key, getattr(default, key))
        for key in ("buffer_bytes_max", "request_bytes_max", "record_bytes_max")
    }

    def is_open(key: str) -> bool:
        return key not in given and ("default", key) not in values

    if is_open("request_bytes_max"):
        sizes["request_bytes_max"] = min(sizes["request_bytes_max"], sizes["buffer_bytes_max"] // 2)
    if is_open("record_bytes_max"):
        sizes["record_bytes_max"] = min(sizes["record_bytes_max"], sizes["request_bytes_max"])
    return {key: sizes[key] for key in ("request_bytes_max", "record_bytes_max") if is_open(key)}

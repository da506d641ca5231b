"""Defaults < TOML < KDAEMON_* environment < flags -> one Config, or every problem at once.

Pure: texts and mappings come in, nothing is read here. The flow never stops at a wrong value: each
reader turns its source into `Setting`s and notes what it cannot place, `_Loader.take` holds each
setting to its key's kind and notes what does not fit, the rules of `rules.py` run over what
is left, and only `load_config` raises, once, with all that was noted.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, get_origin, get_type_hints

import msgspec

from kdaemon.base.errors import ConfigError, ConfigProblem
from kdaemon.base.names import DEFAULT_UPSTREAM, parse_arn
from kdaemon.base.redact import HIDDEN, masked_text, masked_url
from kdaemon.base.service import AWS, SERVICES, Service
from kdaemon.config.about import About, abouts_of
from kdaemon.config.clash import Path
from kdaemon.config.old_keys import OLD_KEYS, what_replaces
from kdaemon.config.parts import memory_needed
from kdaemon.config.reach import SendConfig, UpstreamConfig
from kdaemon.config.rules import find_clashes
from kdaemon.config.settings import Config, memory_within, upstream_of_arn
from kdaemon.config.stream import BATCH_BYTES_MAX, StreamConfig
from kdaemon.config.values import WORKERS_MAX, Check, without_unit

ENVIRONMENT = "environment"
FLAGS = "flags"
PREFIX = "KDAEMON_"
NOT_A_KEY = frozenset({"KDAEMON_CONFIG"})  # names the file; read by the command line
SECRET_KEYS = frozenset({"role_external_id"})  # never shown: others could call themselves us by it
SHOWN_CHARACTERS_MAX = 80  # of a wrong value, in a problem

# Kubernetes puts these into every pod beside a Service whose name starts with `kdaemon`
# (enableServiceLinks, on by default); they are not ours and must not stop a start. 2026-11-21
_SERVICE_LINK = re.compile(r"KDAEMON_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_\w+)")
_SERVICE_LINK_PORT = re.compile(r"KDAEMON_(\w+_)?PORT")


@dataclass(frozen=True, slots=True)
class Key:
    """What a value at this path must be, and what is said of it."""

    kind: Any  # what msgspec.convert takes
    expected: str  # completes "expected ..."
    checks: tuple[Check, ...]
    is_list: bool
    about: About


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that somebody gave. `is_text`: from a variable or a flag, still to be read."""

    source: str
    shown_key: str  # the key in the words of its source: `listen.http`, `KDAEMON_LISTEN_HTTP`
    path: Path
    value: object
    is_text: bool


def _key(kind: Any, about: About) -> Key:
    metadata = getattr(kind, "__metadata__", ())
    expected = [meta.description or "" for meta in metadata if isinstance(meta, msgspec.Meta)]
    checks = tuple(check for check in metadata if isinstance(check, Check))
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
OLD_VARIABLES: Mapping[str, Path] = MappingProxyType(
    {PREFIX + "_".join(path).upper(): path for path in OLD_KEYS}
)


@dataclass(frozen=True, slots=True)
class Sources:
    """What a Config was made of, but for the environment: another process that has the same one
    makes the same of it (`load_sources`).
    """

    text: str | None
    source: str
    flags: tuple[tuple[str, str], ...]
    memory_limit_bytes: int | None
    cores: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A Config, and who gave its values. `givers`: by path; a path that is missing was given by
    nobody. `listed`: the path of each listed stream's table, by the stream's name. `problems`: of
    `good_values`, what is wrong with the others. `sources`: None: nobody kept them.
    """

    config: Config
    givers: Mapping[Path, Setting]
    listed: Mapping[str, Path]
    problems: tuple[ConfigProblem, ...] = ()
    sources: Sources | None = None


def load_sources(sources: Sources, environ: Mapping[str, str]) -> Loaded:
    """Raises ConfigError with every problem there is."""
    loaded = load_with_givers(
        text=sources.text,
        source=sources.source,
        environ=environ,
        flags=sources.flags,
        memory_limit_bytes=sources.memory_limit_bytes,
        cores=sources.cores,
    )
    return replace(loaded, sources=sources)


def load_config(
    *,
    text: str | None = None,
    source: str = "config.toml",
    environ: Mapping[str, str] = MappingProxyType({}),
    flags: Sequence[tuple[str, str]] = (),
    memory_limit_bytes: int | None = None,
    cores: int = 1,
) -> Config:
    """The Config that these sources make together.

    `text`: the TOML file's, `source`: its name in problems; `environ`: all variables, of which only
    KDAEMON_* are looked at; `flags`: pairs of dotted key and text; `memory_limit_bytes`: of the
    container, for who sets no memory_bytes_max; `cores`: which this process may use, for
    `workers = "auto"`. Raises ConfigError with every problem there is.
    """
    loaded = load_with_givers(
        text=text,
        source=source,
        environ=environ,
        flags=flags,
        memory_limit_bytes=memory_limit_bytes,
        cores=cores,
    )
    return loaded.config


def load_with_givers(
    *,
    text: str | None = None,
    source: str = "config.toml",
    environ: Mapping[str, str] = MappingProxyType({}),
    flags: Sequence[tuple[str, str]] = (),
    memory_limit_bytes: int | None = None,
    cores: int = 1,
) -> Loaded:
    """As `load_config`, and who gave what."""
    loader = _Loader(memory_limit_bytes, cores)
    loader.read(text, source, environ, flags)
    config = loader.build()
    loader.apply_rules(config)
    if loader.problems:
        raise ConfigError(loader.problems)
    return loader.loaded(config)


def good_values(
    *,
    text: str | None,
    source: str = "",
    environ: Mapping[str, str] = MappingProxyType({}),
    flags: Sequence[tuple[str, str]] = (),
) -> Loaded:
    """As `load_with_givers`, but a key that is broken has its default, and no rule holds: to look
    around a file that cannot be used, and to find a daemon by one. Not to run by.
    """
    loader = _Loader(None, 1)
    loader.read(text, source, environ, flags)
    return loader.loaded(loader.build())


class _Loader:
    """Collects values and problems. A later setting of the same path wins."""

    def __init__(self, memory_limit_bytes: int | None, cores: int) -> None:
        self._memory_limit_bytes = memory_limit_bytes
        self._cores = cores
        self.problems: list[ConfigProblem] = []
        self.values: dict[Path, object] = {}
        self.givers: dict[Path, Setting] = {}  # who gave the value, for the rules between keys
        self.broken: set[Path] = set()  # a rule says nothing of a key that has a problem already
        self.listed: dict[str, Path] = {}  # stream name -> the path of its table
        self.upstreams: dict[str, Path] = {}  # upstream's name -> the path of its table

    def read(
        self,
        text: str | None,
        source: str,
        environ: Mapping[str, str],
        flags: Sequence[tuple[str, str]],
    ) -> None:
        """All sources, the strongest last."""
        if text is not None:
            self.take(_read_file(text, source, self))
        self.take(_read_environment(environ, self))
        self.take(_read_flags(flags, self))

    def note(self, source: str, key: str, problem: str) -> None:
        self.problems.append(ConfigProblem(source, key, problem))

    def take(self, settings: Iterable[Setting]) -> None:
        for setting in settings:
            path = setting.path
            key = NAMED_TABLES[path[0]][path[2]] if len(path) == 3 else KEYS[path]
            try:
                self.values[setting.path] = _convert(setting, key)
                self.givers[setting.path] = setting
            except ValueError as wrong:
                self.broken.add(setting.path)
                shown = HIDDEN if path[-1] in SECRET_KEYS else _show(setting.value, path[-1])
                problem = f"is {shown}; expected {wrong}{without_unit(setting.value, str(wrong))}"
                self.note(setting.source, setting.shown_key, problem)

    def list_table(self, source: str, kind: str, given: str) -> None:
        """A [streams.GIVEN] or [upstreams.GIVEN] exists, maybe with no key in it."""
        if kind == "streams":
            self._list_stream(source, given)
            return
        path = ("upstreams", given)
        self.upstreams[given] = path
        self.givers[path] = Setting(source, dotted(path), path, given, is_text=False)

    def _list_stream(self, source: str, given: str) -> None:
        """Two of one name are a problem."""
        arn = parse_arn(given)
        name = given if arn is None else arn.name
        path = ("streams", given)
        if self.listed.setdefault(name, path) != path:
            problem = f"is the stream {name} again, which {dotted(self.listed[name])} lists"
            self.note(source, dotted(path), f"{problem}: keep one of them")
        self.givers[path] = Setting(source, dotted(path), path, given, is_text=False)

    def build(self) -> Config:
        """The Config of the good values; where a key is broken, its default."""
        values = self._with_following_defaults()
        top: dict[str, Any] = {path[0]: value for path, value in values.items() if len(path) == 1}
        for table in TABLES:
            given = {p[1]: v for p, v in values.items() if len(p) == 2 and p[0] == table}
            top[table] = replace(_default_of(table), **given)
        config = Config(**top)
        upstreams = {name: self._build_upstream(name, config.send) for name in self.upstreams}
        config = replace(config, upstreams=MappingProxyType(upstreams))
        streams = {
            name: self._build_stream(name, path, config.default, config)
            for name, path in self.listed.items()
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

    def loaded(self, config: Config) -> Loaded:
        givers, listed = MappingProxyType(self.givers), MappingProxyType(self.listed)
        return Loaded(config, givers, listed, tuple(self.problems))

    def _default_at(self, upstream: str, default: StreamConfig) -> StreamConfig:
        """[default] for streams of an upstream that it does not name: nobody wrote that these are
        to be aggregated where they cannot be.
        """
        service = self._service_of(upstream)
        default = replace(self._as_its_service(default, service), upstream=upstream)
        sizes: dict[str, Any] = _sizes({}, self.values, default)
        default = replace(default, **sizes)
        return default if service.can_aggregate else replace(default, aggregation="none")

    def _build_upstream(self, name: str, send: SendConfig) -> UpstreamConfig:
        """Connections are those of [send] where nobody gave others; how long a call may take
        follows the service.
        """
        given: dict[str, Any] = {
            p[2]: v for p, v in self.values.items() if p[:2] == ("upstreams", name)
        }
        service = SERVICES[given.get("service", AWS.name)]
        upstream = UpstreamConfig(
            name=name,
            call_timeout_ms=service.call_timeout_ms,
            connections_max=send.connections_max,
        )
        return replace(upstream, **given)

    def _with_following_defaults(self) -> dict[Path, object]:
        """Defaults that follow another setting, where nobody gave the key itself."""
        service = SERVICES[str(self.values.get(("service",), AWS.name))]
        workers = self.values.get(("workers",), 1)
        memory_default = memory_within(
            self._memory_limit_bytes, workers if isinstance(workers, int) else self._cores
        )
        defaults: dict[Path, object] = {
            ("send", "call_timeout_ms"): service.call_timeout_ms,
            ("memory_bytes_max",): memory_default,
        }
        upstream = self.values.get(("default", "upstream"), DEFAULT_UPSTREAM)
        default = _default_stream(self._service_of(upstream))
        memory_bytes = self.values.get(("memory_bytes_max",), memory_default)
        if isinstance(memory_bytes, int):
            default = replace(default, buffer_bytes_max=min(default.buffer_bytes_max, memory_bytes))
        given = {p[1]: v for p, v in self.values.items() if len(p) == 2 and p[0] == "default"}
        sizes = {
            "buffer_bytes_max": default.buffer_bytes_max,
            "batch_bytes_max": default.batch_bytes_max,
            **_sizes(given, {}, default),
        }
        return defaults | {("default", key): size for key, size in sizes.items()} | self.values

    def _build_stream(
        self, name: str, path: Path, default: StreamConfig, config: Config
    ) -> StreamConfig:
        given: dict[str, Any] = {p[2]: v for p, v in self.values.items() if p[:2] == path}
        if parse_arn(path[1]) is not None:
            given.setdefault("arn", path[1])
        arn = parse_arn(given.get("arn", ""))
        if arn is not None:
            home = upstream_of_arn(arn, map(config.upstream, config.upstream_names))
            given.setdefault("upstream", home or default.upstream)
        service = self._service_of(given.get("upstream", default.upstream))
        default = self._as_its_service(default, service)
        given |= _sizes(given, self.values, default)
        return replace(default, name=name, **given)

    def _service_of(self, upstream: object) -> Service:
        """Of one that does not exist, which the rules will tell: the default's."""
        path = (
            ("service",) if upstream not in self.upstreams else ("upstreams", upstream, "service")
        )
        return SERVICES[str(self.values.get(path, AWS.name))]

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
            key: default if ("default", key) in self.values else _default_stream(service)
            for key in most
        }
        sizes = {key: min(getattr(source[key], key), bound) for key, bound in most.items()}
        return replace(default, **sizes)

    def apply_rules(self, config: Config) -> None:
        """Note each clash, at the first of its keys that somebody gave."""
        for clash in find_clashes(config, self.listed, self.upstreams):
            if self.broken.intersection(clash.paths):
                continue
            givers = [self.givers[path] for path in clash.paths if path in self.givers]
            is_inherited = clash.paths[0][0] == "streams" and not any(
                giver.path[0] == "streams" for giver in givers
            )
            if givers and not is_inherited:
                self.note(givers[0].source, givers[0].shown_key, clash.problem)


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


def _default_of(table: str) -> Any:
    return getattr(Config(), table)


def _convert(setting: Setting, key: Key) -> object:
    """The value as its kind; ValueError carries what was expected."""
    value = setting.value
    if setting.is_text and isinstance(value, str) and key.is_list:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        converted: object = msgspec.convert(value, key.kind, strict=not setting.is_text)
    except msgspec.ValidationError:
        raise ValueError(key.expected) from None
    for check in key.checks:
        check.run(str(converted))
    return converted


def _read_file(text: str, source: str, loader: _Loader) -> Iterator[Setting]:
    try:
        document = tomllib.loads(text.removeprefix("\ufeff"))  # some editors begin so
    except tomllib.TOMLDecodeError as error:
        found = re.search(r" \(at line (\d+), column (\d+)\)", str(error))
        line = found[1] if found else str(max(1, len(text.splitlines())))
        problem = str(error).partition(" (at ")[0]
        column = f" at column {found[2]}" if found else " at the end of the file"
        loader.note(source, f"line {line}", f"is not TOML: {problem}{column}")
        return
    for name, value in document.items():
        if name in NAMED_TABLES:
            yield from _read_tables(name, value, source, loader)
        elif name not in TABLES:
            yield from _place((name,), value, source, loader)
        elif isinstance(value, dict):
            for key, entry in value.items():
                yield from _place((name, key), entry, source, loader)
        else:
            loader.note(source, name, f"is {_show(value)}; expected a table, as [{name}]")


def _read_tables(kind: str, value: object, source: str, loader: _Loader) -> Iterator[Setting]:
    """`kind`: "streams" or "upstreams"."""
    if not isinstance(value, dict):
        loader.note(source, kind, f"is {_show(value)}; expected tables, as [{kind}.NAME]")
        return
    for name, table in value.items():
        if not isinstance(table, dict):
            shown = dotted((kind, name))
            loader.note(source, shown, f"is {_show(table)}; expected a table, as [{shown}]")
            continue
        loader.list_table(source, kind, name)
        for key, entry in table.items():
            yield from _place((kind, name, key), entry, source, loader)


def _place(path: Path, value: object, source: str, loader: _Loader) -> Iterator[Setting]:
    """The setting at a path of the file, or a note that no key has this path."""
    is_known = path in KEYS if len(path) < 3 else path[2] in NAMED_TABLES[path[0]]
    if is_known:
        yield Setting(source, dotted(path), path, value, is_text=False)
        return
    if replaced := what_replaces(path):
        loader.note(source, dotted(path), replaced)
        return
    hint = _hint(path)
    if len(path) == 3 and path[0] == "streams" and isinstance(value, dict):
        hint = f'a name with a dot stands in quotes, as [streams."{path[1]}.{path[2]}"]'
    loader.note(source, dotted(path), f"is no key; {hint}")


def _read_environment(environ: Mapping[str, str], loader: _Loader) -> Iterator[Setting]:
    for name in sorted(name for name in environ if name.startswith(PREFIX)):
        value = environ[name]
        is_port_link = _SERVICE_LINK_PORT.fullmatch(name) and re.match(r"(tcp|udp)://", value)
        if name in VARIABLES:
            yield Setting(ENVIRONMENT, name, VARIABLES[name], value, is_text=True)
        elif replaced := what_replaces(OLD_VARIABLES.get(name, ())):
            loader.note(ENVIRONMENT, name, replaced)
        elif name in NOT_A_KEY or is_port_link or _SERVICE_LINK.fullmatch(name):
            continue
        elif name.startswith("KDAEMON_STREAMS_"):
            problem = "a stream cannot be set by a variable: use [streams.NAME] in the file"
            loader.note(ENVIRONMENT, name, f"{problem}, or KDAEMON_DEFAULT_... for all streams")
        elif name.startswith("KDAEMON_UPSTREAMS_"):
            problem = "an upstream cannot be set by a variable: use [upstreams.NAME] in the file"
            loader.note(ENVIRONMENT, name, f"{problem}, or --set upstreams.NAME.KEY=VALUE")
        else:
            near = _near(name, VARIABLES)
            known = f"did you mean {near}?" if near else "expected KDAEMON_ and a key of the file"
            loader.note(ENVIRONMENT, name, f"is no setting; {known}")


def _read_flags(flags: Sequence[tuple[str, str]], loader: _Loader) -> Iterator[Setting]:
    for key, value in flags:
        parts = key.split(".")
        path: Path = tuple(parts)
        if parts[0] in NAMED_TABLES and len(parts) > 2:  # the name itself may have dots
            path = (parts[0], ".".join(parts[1:-1]).strip("\"'"), parts[-1])
        if path in KEYS or (len(path) == 3 and path[2] in NAMED_TABLES.get(path[0], {})):
            if len(path) == 3 and path[:2] not in loader.givers:
                loader.list_table(FLAGS, path[0], path[1])
            yield Setting(FLAGS, key, path, value, is_text=True)
        else:
            loader.note(FLAGS, key, what_replaces(path) or f"is no key; {_hint(path)}")


def _hint(path: Path) -> str:
    """What the writer of an unknown key may have meant."""
    name = path[-1]
    if name in OF_ONE_STREAM and path[0] != "upstreams":
        return f"{OF_ONE_STREAM[name]} belongs to one stream, in [streams.NAME]"
    if len(path) == 1 and (near := _near(name, [*TABLES, *NAMED_TABLES, *_names(KEYS, 1)])):
        return f'did you mean "{near}"?'
    named = NAMED_TABLES.get(path[0], {}) if len(path) == 3 else {}
    if near := _near(name, named):
        return f'did you mean "{near}"?'
    table = [key[1] for key in KEYS if len(key) == 2 and key[0] == path[0]]
    if len(path) == 2 and (near := _near(name, table)):
        return f'did you mean "{near}"?'
    elsewhere = [dotted(key) for key in KEYS if key[-1] == name]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    known = list(named) or table or [*_names(KEYS, 1), *sorted(TABLES)]
    return f"known here: {', '.join(known)}"


def _names(keys: Iterable[Path], length: int) -> list[str]:
    return [path[-1] for path in keys if len(path) == length]


def _near(name: str, known: Iterable[str]) -> str | None:
    import difflib  # noqa: PLC0415 - memory of those who spell all names right

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return near[0] if near else None


def dotted(path: Path) -> str:
    """As TOML writes it: streams."a.b".linger_ms."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in path)


def _show(value: object, key: str = "") -> str:
    """A wrong value in a problem: short, on one line, as TOML writes it; a URL without its user and
    password. Masked before it is cut: half a password is one, too. `key`: that it was given for.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    text = repr(value)
    if isinstance(value, str):
        masked = masked_url if key.endswith("_url") else masked_text
        text = f'"{masked(text[1:-1])}"'
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}..."

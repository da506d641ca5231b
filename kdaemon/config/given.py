"""The given values: of a file, of variables and of flags, each checked against its key's kind.

Pure: texts and mappings come in. A wrong value never stops the flow. Each reader turns its source
into `Setting`s, and notes the keys that it does not know. `Given.take` checks each setting against
its key's kind, and notes the values that do not fit. Where it sits: `load.py` makes a Config of the
values.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from kdaemon.base.errors import ConfigError, ConfigProblem
from kdaemon.base.names import parse_arn
from kdaemon.base.redact import HIDDEN, masked_text, masked_url
from kdaemon.config.clash import Path
from kdaemon.config.keys import (
    KEYS,
    NAMED_TABLES,
    OF_ONE_STREAM,
    PREFIX,
    SECRET_KEYS,
    TABLES,
    VARIABLES,
    Key,
    dotted,
)
from kdaemon.config.old_keys import what_replaces
from kdaemon.config.toml import read_toml
from kdaemon.config.values import without_unit

ENVIRONMENT = "environment"
FLAGS = "flags"
NOT_A_KEY = frozenset({"KDAEMON_CONFIG", "KDAEMON_BUILD", "KDAEMON_ROOMS", "KDAEMON_OPTIMISE"})
"""Variables that are no settings: the file's name is read by the command line, the others by a
build (setup.py), and `uvx --from . kdaemon run` builds and runs in one environment.
"""
SHOWN_CHARACTERS_MAX = 80  # a problem shows so much of a wrong value

# Kubernetes puts these into every pod beside a Service whose name starts with `kdaemon`
# (enableServiceLinks, on by default). They are not ours and must not stop a start. 2026-11-21
_SERVICE_LINK = re.compile(r"KDAEMON_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_\w+)")
_SERVICE_LINK_PORT = re.compile(r"KDAEMON_(\w+_)?PORT")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that somebody gave. `is_text`: from a variable or a flag, still to be read."""

    source: str
    shown_key: str  # the key in the words of its source: `listen.http`, `KDAEMON_LISTEN_HTTP`
    path: Path
    value: object
    is_text: bool


class Given:
    """Collects values and problems. A later setting of the same path wins."""

    def __init__(
        self,
        text: str | None,
        source: str,
        environ: Mapping[str, str],
        flags: Sequence[tuple[str, str]],
    ) -> None:
        """Of all sources, the strongest last; as `load_sources` has them."""
        self.problems: list[ConfigProblem] = []
        self.values: dict[Path, object] = {}
        self.givers: dict[Path, Setting] = {}  # who gave the value, for the rules between keys
        self.broken: set[Path] = set()  # keys that have a problem already: rules skip them
        self.listed: dict[str, Path] = {}  # stream name -> the path of its table
        self.upstreams: dict[str, Path] = {}  # upstream's name -> the path of its table
        if text is not None:
            self.take(_read_file(text, source, self))
        self.take(_read_environment(environ, self))
        self.take(_read_flags(flags, self))

    def note(self, source: str, key: str, problem: str) -> None:
        """A problem with a key, in the words of its source."""
        self.problems.append(ConfigProblem(source, key, problem))

    def take(self, settings: Iterable[Setting]) -> None:
        """Keeps each value that fits its kind, and notes each that does not."""
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
        """A [streams.GIVEN] or [upstreams.GIVEN] exists, maybe with no key. Two streams of one name
        are a problem.
        """
        path = (kind, given)
        self.givers[path] = Setting(source, dotted(path), path, given, is_text=False)
        if kind == "upstreams":
            self.upstreams[given] = path
            return
        arn = parse_arn(given)
        name = given if arn is None else arn.name
        if self.listed.setdefault(name, path) != path:
            problem = f"is the stream {name} again, which {dotted(self.listed[name])} lists"
            self.note(source, dotted(path), f"{problem}: keep one of them")


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
        check(str(converted))
    return converted


def _read_file(text: str, source: str, given: Given) -> Iterator[Setting]:
    try:
        document = read_toml(text, source)
    except ConfigError as error:
        given.problems += error.problems
        return
    for name, value in document.items():
        if name in NAMED_TABLES:
            yield from _read_tables(name, value, source, given)
        elif name not in TABLES:
            yield from _place((name,), value, source, given)
        elif isinstance(value, dict):
            for key, entry in value.items():
                yield from _place((name, key), entry, source, given)
        else:
            given.note(source, name, f"is {_show(value)}; expected a table, as [{name}]")


def _read_tables(kind: str, value: object, source: str, given: Given) -> Iterator[Setting]:
    """`kind`: "streams" or "upstreams"."""
    if not isinstance(value, dict):
        given.note(source, kind, f"is {_show(value)}; expected tables, as [{kind}.NAME]")
        return
    for name, table in value.items():
        if not isinstance(table, dict):
            shown = dotted((kind, name))
            if replaced := what_replaces((kind, name)):
                given.note(source, shown, replaced)
                continue
            given.note(source, shown, f"is {_show(table)}; expected a table, as [{shown}]")
            continue
        given.list_table(source, kind, name)
        for key, entry in table.items():
            yield from _place((kind, name, key), entry, source, given)


def _place(path: Path, value: object, source: str, given: Given) -> Iterator[Setting]:
    """The setting at a path of the file, or a note that no key has this path."""
    is_known = path in KEYS if len(path) < 3 else path[2] in NAMED_TABLES[path[0]]
    if is_known:
        yield Setting(source, dotted(path), path, value, is_text=False)
        return
    if replaced := what_replaces(path):
        given.note(source, dotted(path), replaced)
        return
    hint = _hint(path)
    if len(path) == 3 and path[0] == "streams" and isinstance(value, dict):
        hint = f'a name with a dot stands in quotes, as [streams."{path[1]}.{path[2]}"]'
    given.note(source, dotted(path), f"is no key; {hint}")


def _read_environment(environ: Mapping[str, str], given: Given) -> Iterator[Setting]:
    for name in sorted(name for name in environ if name.startswith(PREFIX)):
        value = environ[name]
        is_port_link = _SERVICE_LINK_PORT.fullmatch(name) and re.match(r"(tcp|udp)://", value)
        if name in VARIABLES:
            yield Setting(ENVIRONMENT, name, VARIABLES[name], value, is_text=True)
        elif name in NOT_A_KEY or is_port_link or _SERVICE_LINK.fullmatch(name):
            continue
        elif replaced := what_replaces(_path_of(name)):
            given.note(ENVIRONMENT, name, replaced)
        elif name.startswith("KDAEMON_STREAMS_"):
            problem = "a stream cannot be set by a variable: use [streams.NAME] in the file"
            given.note(ENVIRONMENT, name, f"{problem}, or KDAEMON_DEFAULT_... for all streams")
        elif name.startswith("KDAEMON_UPSTREAMS_"):
            problem = "an upstream cannot be set by a variable: use [upstreams.NAME] in the file"
            given.note(ENVIRONMENT, name, f"{problem}, or --set upstreams.NAME.KEY=VALUE")
        else:
            near = _near(name, VARIABLES)
            known = f"did you mean {near}?" if near else "expected KDAEMON_ and a key of the file"
            given.note(ENVIRONMENT, name, f"is no setting; {known}")


def _path_of(variable: str) -> Path:
    """The path that an unknown variable spells: of a key in a table, if it begins with a table's
    name.
    """
    name = variable.removeprefix(PREFIX).lower()
    table = next((each for each in TABLES if name.startswith(f"{each}_")), None)
    return (name,) if table is None else (table, name.removeprefix(f"{table}_"))


def _read_flags(flags: Sequence[tuple[str, str]], given: Given) -> Iterator[Setting]:
    for key, value in flags:
        parts = key.split(".")
        path: Path = tuple(parts)
        if parts[0] in NAMED_TABLES and len(parts) > 2:  # the name itself may have dots
            path = (parts[0], ".".join(parts[1:-1]).strip("\"'"), parts[-1])
        if path in KEYS or (len(path) == 3 and path[2] in NAMED_TABLES.get(path[0], {})):
            if len(path) == 3 and path[:2] not in given.givers:
                given.list_table(FLAGS, path[0], path[1])
            yield Setting(FLAGS, key, path, value, is_text=True)
        elif path[0] in NAMED_TABLES and len(path) < 3:
            given.note(FLAGS, key, f"is no key; expected {path[0]}.NAME.KEY")
        else:
            given.note(FLAGS, key, what_replaces(path) or f"is no key; {_hint(path)}")


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
    import difflib  # noqa: PLC0415 - takes memory, and is needed only for a misspelt name

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return near[0] if near else None


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

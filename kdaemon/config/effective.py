"""The configuration in force: each value, and who gave it; as TOML, or for programs.

Pure. Knows the keys and their givers as `given.py` has them; must not know where a file or a
variable was read. Invariant: the TOML is a whole configuration of its own. It means the same as the
configuration that it shows, except that secrets are masked.
Where it sits: `kdaemon config --effective`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.redact import HIDDEN, SECRETS, masked_text, masked_url
from kdaemon.base.text import printable
from kdaemon.config.clash import Path
from kdaemon.config.given import ENVIRONMENT, FLAGS, Setting
from kdaemon.config.keys import KEYS, SECRET_KEYS, STREAM_KEYS, UPSTREAM_KEYS, dotted
from kdaemon.config.load import Loaded
from kdaemon.config.settings import Config
from kdaemon.config.surroundings import given_beside
from kdaemon.config.toml import toml_text

DEFAULT = "default"
FILE = "file"
FLAG = "flag"
_SIZES = frozenset({"batch_bytes_max", "request_bytes_max", "record_bytes_max"})
_NOTE_COLUMN = 44  # the notes begin here, if the value leaves room; ours


@dataclass(frozen=True, slots=True)
class Effective:
    """One value. `origin`: "default", "file", "environment" or "flag". `giver`: the file, the
    variable, or the flag's key; "" where nobody gave it. `key`: under which it was given, where
    that is another one: a stream has what [default] says. `beside`: a variable of AWS, and what it
    gives, since nobody gave this value.
    """

    path: Path
    value: Any
    origin: str
    giver: str = ""
    key: str = ""
    beside: tuple[str, str] | None = None

    @property
    def shown_beside(self) -> str:
        """What the variable gives, without secrets."""
        return "" if self.beside is None else masked_url(self.beside[1])

    @property
    def shown(self) -> Any:
        """The value without secrets; a list in the place of a tuple."""
        if self.path[-1] in SECRET_KEYS:
            return HIDDEN if self.value else self.value
        return _shown(self.value, is_url=self.path[-1].endswith("_url"))

    @property
    def follows_the_service(self) -> bool:
        """A size in [default] that nobody gave: for streams of another service it is another one,
        and would not be if it stood there.
        """
        is_size = self.path[0] == "default" and self.path[-1] in _SIZES
        return is_size and self.origin == DEFAULT

    @property
    def note(self) -> str:
        """Where it came from, for people."""
        of = f", by {self.key}" if self.key else ""
        if self.beside is not None:
            return f"default; {self.shown_beside} by environment {self.beside[0]}"
        if self.origin == DEFAULT:
            return "default, by the service" if self.follows_the_service else "default"
        kind = {FILE: "", ENVIRONMENT: "environment ", FLAG: "flag --set "}[self.origin]
        return f"{kind}{self.giver}{of}"


def effective(loaded: Loaded, environ: Mapping[str, str]) -> Iterator[Effective]:
    """Each value, in the order of a file: the top level, the tables, upstreams, streams. `environ`:
    where calls look for what no setting gives.
    """
    config, givers = loaded.config, loaded.givers
    beside = given_beside(environ, config.upstream(DEFAULT_UPSTREAM))
    for path in sorted(KEYS, key=len):
        told = _told(path, _value_at(config, path), givers, (path,))
        yield replace(told, beside=beside[path[0]]) if path[0] in beside else told
    for name, upstream in config.upstreams.items():
        beside = given_beside(environ, upstream)
        for key in UPSTREAM_KEYS:
            path = ("upstreams", name, key)
            inherited = [("send", key)] if _comes_from_send(key) else []
            told = _told(path, getattr(upstream, key), givers, (path, *inherited))
            yield replace(told, beside=beside[key]) if key in beside else told
    for name, stream in config.streams.items():
        given_as = loaded.listed[name]
        for key in STREAM_KEYS:
            path = (*given_as, key)
            yield _told(path, getattr(stream, key), givers, (path, ("default", key)))


def _comes_from_send(key: str) -> bool:
    """Keys of an upstream whose value is that of [send] where the table has none."""
    return ("send", key) in KEYS and key != "call_timeout_ms"


def _value_at(config: Config, path: Path) -> Any:
    value: Any = config
    for name in path:
        value = getattr(value, name)
    return value


def _told(
    path: Path, value: Any, givers: Mapping[Path, Setting], candidates: tuple[Path, ...]
) -> Effective:
    """`candidates`: the paths that decide, the nearest first. A value that somebody gave and that
    is not the one in force (a size that is bounded by another) is not that giver's.
    """
    for candidate in candidates:
        giver = givers.get(candidate)
        if giver is None:
            continue
        if candidate != path and not _is_what_was_given(value, giver):
            break
        key = "" if candidate == path else dotted(candidate)
        if giver.source not in {ENVIRONMENT, FLAGS}:
            return Effective(path, value, FILE, giver.source, key)
        origin = FLAG if giver.source == FLAGS else ENVIRONMENT
        return Effective(path, value, origin, giver.shown_key, key)
    return Effective(path, value, DEFAULT)


def _is_what_was_given(value: Any, giver: Setting) -> bool:
    return giver.is_text or not isinstance(value, int) or value == giver.value


def as_toml(values: Iterable[Effective]) -> str:
    """A file that means the same, with a note behind each value."""
    lines = ["# The configuration in force, and where each value came from. Secrets are masked."]
    table: Path = ()
    for each in values:
        if each.path[:-1] != table:
            table = each.path[:-1]
            lines += ["", f"[{dotted(table)}]"]
        setting = f"{'# ' * each.follows_the_service}{each.path[-1]} = {toml_text(each.shown)}"
        lines.append(f"{setting:<{_NOTE_COLUMN}} # {printable(each.note)}")
    return "\n".join(lines) + "\n"


def as_tree(values: Iterable[Effective]) -> dict[str, Any]:
    """The same for programs: tables of {"value", "from", "giver", "key", "beside"}."""
    tree: dict[str, Any] = {}
    for each in values:
        table = tree
        for name in each.path[:-1]:
            table = table.setdefault(name, {})
        told = {"value": each.shown, "from": each.origin}
        told |= {"giver": each.giver} if each.giver else {}
        told |= {"key": each.key} if each.key else {}
        if each.beside is not None:
            told["beside"] = {"variable": each.beside[0], "value": each.shown_beside}
        table[each.path[-1]] = told
    return tree


def _shown(value: Any, *, is_url: bool) -> Any:
    """Without secrets. A proxy's URL may have a password, and need have no scheme."""
    if isinstance(value, tuple):
        return [_shown(part, is_url=is_url) for part in value]
    if not isinstance(value, str):
        return value
    return SECRETS.clean(masked_url(value) if is_url else masked_text(value))

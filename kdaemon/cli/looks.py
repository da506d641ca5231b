"""Finds all that is wrong with a configuration and around it, at once: variables, files,
certificates, principals, the spool's place.

`check`, a failed start and a failed reload use it, so that an operator hears of all problems at
once. Each finding names the place where its setting was given. Looks only: makes and locks nothing,
and asks nobody over a network. For a daemon that runs (`old`: its configuration) it does not look
at files that this daemon has in use, because the daemon has read them.
Invariant: a spool that this process has open (`spool`: its directory) is left alone, also where the
start of its daemon fails (`spool/outlook.py`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaemon.base.errors import ConfigError, ConfigProblem
from kdaemon.cli.common import DEFAULTS, read_sources, surroundings_problems
from kdaemon.system import SystemClock

if TYPE_CHECKING:
    from kdaemon.config import Config
    from kdaemon.config.load import Loaded

Flags = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Looks:
    """`problems`: with these a daemon would not start, or not work. `odd`: it would work, but
    somebody should look at these.
    """

    problems: list[ConfigProblem] = field(default_factory=list)
    odd: list[ConfigProblem] = field(default_factory=list)

    def add(self, source: str, key: str, problems: Sequence[str], odd: Sequence[str]) -> None:
        """Adds problems and odd findings about the setting `key`, which `source` gave."""
        self.problems.extend(ConfigProblem(source, key, each) for each in problems)
        self.odd.extend(ConfigProblem(source, key, each) for each in odd)


def read_checked(config_path: str | None, flags: Flags, old: "Config") -> "Loaded":
    """The new configuration for a daemon that runs by the `old` one. A problem in the surroundings
    that the old one has, too, does not stop the reload: the daemon runs all the same, and its
    environment cannot be changed without a restart. Raises ConfigError with all that `check` finds.
    """
    loaded, looks = read_and_look(config_path, flags, old, spool=old.spool.directory)
    if loaded is None or looks.problems:
        raise ConfigError(looks.problems)
    return loaded


def read_and_look(
    config_path: str | None, flags: Flags, old: "Config | None" = None, *, spool: str = ""
) -> "tuple[Loaded | None, Looks]":
    """The configuration and what is found around it. None: settings are wrong; then the settings
    that are right are looked at all the same.
    """
    from kdaemon.config.load import good_values, load_sources  # noqa: PLC0415 - cli/__init__.py

    sources, unread = read_sources(config_path, flags)
    try:
        loaded = load_sources(sources, os.environ)
    except ConfigError as error:
        wrong = [*unread, *error.problems]
    else:
        if not unread:
            return loaded, look_around(loaded, old, spool=spool)
        wrong = unread
    if unread:
        return None, Looks(wrong)
    known = {each.key for each in wrong}
    around = look_around(good_values(sources, os.environ), old, spool=spool)
    return None, Looks([*wrong, *(each for each in around.problems if each.key not in known)])


def look_around(loaded: "Loaded", old: "Config | None" = None, *, spool: str = "") -> Looks:
    """What is found around a configuration."""
    from kdaemon.config.twins import find_twins  # noqa: PLC0415 - see cli/__init__.py

    config, where = loaded.config, loaded.sources.source or DEFAULTS
    before = [] if old is None else surroundings_problems(where, old)
    looks = Looks([each for each in surroundings_problems(where, config) if each not in before])
    principals = look_at_principals(config)
    looks.problems.extend(principals.problems)
    looks.odd.extend(principals.odd)
    directory = config.spool.directory
    if directory and not _is_same(directory, spool):
        from kdaemon.spool.outlook import look_over  # noqa: PLC0415 - see cli/__init__.py

        looks.add(where, "spool.directory", *look_over(directory))
        for place in _of_workers(config):
            looks.add(where, "spool.directory", *look_over(place))
    _look_at_tls(where, looks, config, old)
    for name, text in find_twins(config):
        looks.odd.append(ConfigProblem(where, f"upstreams.{name}", text))
    problems, odd = (
        [_placed(each, where, loaded) for each in found] for found in (looks.problems, looks.odd)
    )
    return Looks(problems, odd)


def _of_workers(config: "Config") -> list[str]:
    """Directories of the workers' spools that exist. The others will be made."""
    if config.worker_count == 1:
        return []
    from kdaemon.spool.shared import worker_directory  # noqa: PLC0415 - see cli/__init__.py

    root, numbers = config.spool.directory, range(1, config.worker_count + 1)
    places = [worker_directory(root, number) for number in numbers]
    return [place for place in places if os.path.lexists(place)]


def _is_same(directory: str, other: str) -> bool:
    """Whether two paths are one directory, even by different names."""
    try:
        return directory == other or (bool(other) and Path(directory).samefile(other))
    except OSError:
        return False


def _placed(problem: ConfigProblem, where: str, loaded: "Loaded") -> ConfigProblem:
    """The problem, with the source that gave its setting: the file, a variable or a flag."""
    giver = loaded.givers.get(tuple(problem.key.split("."))) if problem.source == where else None
    return problem if giver is None else replace(problem, source=giver.source, key=giver.shown_key)


def look_at_principals(config: "Config") -> Looks:
    """Looks at the file of principals, if one is set."""
    path, looks = config.auth.principals_file, Looks()
    if not path:
        return looks
    from kdaemon.door.principals import Principals, odd_rights  # noqa: PLC0415 - cli/__init__.py

    try:
        Principals(path, SystemClock.wall_seconds)
        odd = odd_rights(path)
    except ConfigError as error:
        return Looks(error.problems)
    except OSError as error:
        odd = f"cannot be looked at: {error.strerror}"
    looks.add(path, "file", [], [odd] if odd is not None else [])
    return looks


def _look_at_tls(where: str, looks: Looks, config: "Config", old: "Config | None") -> None:
    """Whether certificates and keys can be used, and whether clients that check them would accept
    them.
    """
    for name in ("listen", "sandbox"):
        table = getattr(config, name)
        is_whole = table.tls_certificate and table.tls_key
        if not is_whole or (old is not None and _files(table) == _files(getattr(old, name))):
            continue
        from kdaemon.http.renewal import look_over  # noqa: PLC0415 - see cli/__init__.py

        problems, odd = look_over(table, name, SystemClock.wall_seconds())
        for found, into in ((problems, looks.problems), (odd, looks.odd)):
            for text in found:
                key, _, said = text.partition(": ")
                into.append(ConfigProblem(where, key, said))


def _files(table: Any) -> tuple[str, ...]:
    return table.tls_certificate, table.tls_key, table.tls_client_ca

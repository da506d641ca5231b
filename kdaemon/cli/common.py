"""What the commands share: how they end, the options that name a configuration, reading a
configuration.

Prints what `say` is given, and the problems of a configuration. Imports at the top only what
`__main__.py` has loaded, so that a wrong flag is answered at once.
"""

import os
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from kdaemon.base.errors import ConfigError, ConfigProblem, ServiceError
from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.text import printable
from kdaemon.system import SystemClock, memory_limit_bytes, usable_cores

if TYPE_CHECKING:
    from kdaemon.config import Config
    from kdaemon.config.load import Loaded, Sources

DEFAULTS = "defaults and environment"  # the source that is named where there is no file
F = TypeVar("F", bound=Callable[..., Any])

EXIT_CONFIG = 78  # EX_CONFIG, sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as in shells
SYSTEM_SOCKET = "/run/kdaemon/kdaemon.sock"  # deploy/systemd: RuntimeDirectory=kdaemon


class CommandError(click.ClickException):
    """Ends the command: click calls `show`, and exits with `exit_code`."""

    exit_code: int  # type: ignore[misc]  # click's is one of the class

    def __init__(self, *lines: str, exit_code: int = 1) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.exit_code = exit_code

    def show(self, _file: IO[Any] | None = None) -> None:
        for line in self.lines:
            say(line, err=True)


def _pair(text: str) -> tuple[str, str]:
    """(key, value) of `KEY=VALUE`."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        lacks = "key before `=`" if sign else "`=`"
        raise click.BadParameter(f"{text!r} has no {lacks}; expected KEY=VALUE")
    return key.strip(), value


def utf8(text: str) -> str:
    """A text of the command line, which may have any bytes, if it is text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{printable(text)} is not UTF-8 text") from None
    return text


config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    envvar="KDAEMON_CONFIG",
    help="The configuration file (TOML). Default: that of KDAEMON_CONFIG, or none.",
)
set_option = click.option(
    "--set",
    "settings",
    type=_pair,
    metavar="KEY=VALUE",
    multiple=True,
    help="One setting, such as listen.http=127.0.0.1:9000; wins over file and environment."
    " Repeatable.",
)


def now_ms() -> int:
    """The wall clock, in Unix milliseconds."""
    return int(SystemClock.wall_seconds() * 1000)


def count(number: int, noun: str) -> str:
    """`1 record`, `2,000 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def configured(command: F) -> F:
    """Adds the options `config_path` and `settings`."""
    return config_option(set_option(command))


def load(config_path: str | None, flags: Sequence[tuple[str, str]], hint: str) -> "Config":
    """The Config. Raises CommandError with every problem and the hint. `hint`: how the command
    works without a configuration.
    """
    try:
        return read_with_givers(config_path, flags).config
    except ConfigError as error:
        raise wrong_config(error.problems, hint) from None


def wrong_config(problems: Sequence[ConfigProblem], *hints: str) -> CommandError:
    """The end of a command whose configuration cannot be used."""
    return CommandError(*map(str, problems), *hints, exit_code=EXIT_CONFIG)


def read_with_givers(config_path: str | None, flags: Sequence[tuple[str, str]]) -> "Loaded":
    """The configuration that file, environment and flags have now. Raises ConfigError with all
    problems.
    """
    from kdaemon.config.load import load_sources  # noqa: PLC0415 - start-up of the other commands

    sources, problems = read_sources(config_path, flags)
    try:
        loaded = load_sources(sources, os.environ)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return loaded


def read_sources(
    config_path: str | None, flags: Sequence[tuple[str, str]]
) -> "tuple[Sources, list[ConfigProblem]]":
    """What file and flags have now, and why the file cannot be read: then it counts as empty."""
    from kdaemon.config.load import Sources  # noqa: PLC0415 - as above

    text = problem = None
    try:
        if config_path:
            with open(config_path, encoding="utf-8") as file:  # noqa: PTH123 - one read
                text = file.read()
    except OSError as error:
        problem = (
            f"cannot be read: {error.strerror}. Correct --config or KDAEMON_CONFIG; `kdaemon init`"
            " writes a new one"
        )
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text (byte {error.start}); expected TOML"
    source = config_path or ""
    sources = Sources(text, source, tuple(flags), memory_limit_bytes(), usable_cores())
    return sources, [] if problem is None else [ConfigProblem(source, "file", problem)]


def say(text: str, *, err: bool = False) -> None:
    """Prints one line. Control characters in it, which may come from names that others chose (a
    directory, a file, a stream), are made harmless.
    """
    click.echo(printable(text), err=err)


def confirm(question: str) -> None:
    """Asks a question. Ends the command if the answer is no, or if nobody can answer."""
    try:
        is_meant = click.confirm(printable(question), err=True)
    except click.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        click.echo(err=True)
        text = "nobody answers, and nothing is deleted: --yes deletes unasked"
        raise CommandError(text) from None
    if not is_meant:
        raise CommandError("nothing is deleted")


def surroundings_problems(where: str, config: "Config") -> list[ConfigProblem]:
    """Every problem in the AWS and proxy variables, and in the files that these variables and the
    upstreams name.
    """
    from kdaemon.config.surroundings import PROFILES, find_problems  # noqa: PLC0415 - see load

    problems = find_problems(os.environ, config)
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle:
        problems += _trust_problem("environment", "AWS_CA_BUNDLE", bundle, None)
    for name in config.upstream_names:
        upstream = config.upstream(name)
        at = "" if name == DEFAULT_UPSTREAM else f"upstreams.{name}."
        if upstream.ca_file:
            problems += _trust_problem(where, f"{at}ca_file", upstream.ca_file, "the key ca_file")
        if upstream.iam_token_file:
            from kdaemon.send.iam_token import token_file_problem  # noqa: PLC0415 - see load

            problem = token_file_problem(upstream.iam_token_file)
            if problem is not None:
                problems.append(ConfigProblem(where, f"{at}iam_token_file", problem))
        has_profile = upstream.profile or any(each in os.environ for each in PROFILES)
        if has_profile and not upstream.has_token:
            problems += _profile_problem(where, f"{at}profile", upstream.profile)
    return list(dict.fromkeys(problems))  # several upstreams may use one variable


def _profile_problem(where: str, key: str, profile: str) -> list[ConfigProblem]:
    from kdaemon.send.credentials import profile_problem  # noqa: PLC0415 - brings AWS libraries

    found = profile_problem(profile or None)
    if found is None:
        return []
    variable, problem = found
    return [ConfigProblem("environment" if variable else where, variable or key, problem)]


def _trust_problem(source: str, key: str, path: str, setting: str | None) -> list[ConfigProblem]:
    """Why a file of certificates cannot be used; empty: it can be."""
    from kdaemon.send.trust import trusted  # noqa: PLC0415 - see load

    try:
        trusted(path, setting)
    except ServiceError as error:
        return [ConfigProblem(source, key, error.message)]
    return []


def find_daemon(config: "Config") -> tuple[str | None, str | None]:
    """(socket, endpoint) of a daemon on this machine; one of them is None. A socket that exists
    comes first, then HTTP.
    """
    from kdaemon.config import resolve_unix_path  # noqa: PLC0415 - see load

    path = resolve_unix_path(config.listen.unix, os.environ, os.path.isdir)
    http = config.listen.http
    if http and config.listen.tls_certificate:
        http = f"https://{http}"
    if config.listen.unix != "auto":
        return (path, None) if path else (None, http)
    for candidate in (path, SYSTEM_SOCKET):
        if candidate and os.path.exists(candidate):  # noqa: PTH110 - one look
            return candidate, None
    return (None, http) if http else (path or SYSTEM_SOCKET, None)

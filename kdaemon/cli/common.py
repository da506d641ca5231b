"""What the commands share: exit codes, the options that name a configuration, reading it.

What is printed here is what `say` is given, and a configuration that cannot be used. Imports no
room at the top, so that a wrong flag is answered at once.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from kdaemon.base.errors import ConfigError, ConfigProblem, ServiceError
from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.text import printable

if TYPE_CHECKING:
    from kdaemon.config import Config
    from kdaemon.config.load import Loaded

EXIT_CONFIG = 78  # EX_CONFIG, sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
SYSTEM_SOCKET = "/run/kdaemon/kdaemon.sock"  # deploy/systemd: RuntimeDirectory=kdaemon

config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    envvar="KDAEMON_CONFIG",
    help="TOML file; KDAEMON_CONFIG names it too. Without one: defaults and environment.",
)
set_option = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="One setting, such as listen.http=127.0.0.1:9000; wins over file and environment.",
)


def count(number: int, noun: str) -> str:
    """`1 record`, `2,000 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def pairs(settings: Sequence[str]) -> list[tuple[str, str]]:
    """`KEY=VALUE` texts as pairs."""
    for setting in settings:
        if "=" not in setting:
            raise click.BadParameter(
                f"{setting!r} has no `=`; expected KEY=VALUE", param_hint="--set"
            )
    split = [setting.partition("=") for setting in settings]
    return [(key.strip(), value) for key, _, value in split]


def load(config_path: str | None, flags: Sequence[tuple[str, str]]) -> "Config":
    """The Config, or every problem on standard error and exit 78."""
    return load_with_givers(config_path, flags).config


def load_with_givers(config_path: str | None, flags: Sequence[tuple[str, str]]) -> "Loaded":
    """The same, and who gave what."""
    try:
        return read_with_givers(config_path, flags)
    except ConfigError as error:
        _exit_config(error.problems)


def read_with_givers(config_path: str | None, flags: Sequence[tuple[str, str]]) -> "Loaded":
    """As file, environment and flags have it now. Raises ConfigError."""
    from kdaemon.config import load as loading  # noqa: PLC0415 - start-up of the other commands
    from kdaemon.system import memory_limit_bytes  # noqa: PLC0415 - the same

    problems: list[ConfigProblem] = []
    text: str | None = None
    if config_path:
        try:
            with open(config_path, encoding="utf-8") as file:  # noqa: PTH123 - one read
                text = file.read()
        except OSError as error:
            problems.append(ConfigProblem(config_path, "file", f"cannot be read: {error.strerror}"))
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 text (byte {error.start}); expected TOML"
            problems.append(ConfigProblem(config_path, "file", problem))
    try:
        loaded = loading.load_with_givers(
            text=text,
            source=config_path or "",
            environ=os.environ,
            flags=flags,
            memory_limit_bytes=memory_limit_bytes(),
        )
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return loaded


def read_checked(
    config_path: str | None, flags: Sequence[tuple[str, str]], old: "Config"
) -> "Loaded":
    """The configuration of now, for a daemon that runs by the `old` one: with what `check` finds
    around it. What is wrong there by the old one, too, stops no reload: the daemon runs all the
    same, and its environment cannot be mended without a restart. Raises ConfigError.
    """
    loaded = read_with_givers(config_path, flags)
    config = loaded.config
    where = config_path or "defaults and environment"
    before = surroundings_problems(where, old)
    problems = [each for each in surroundings_problems(where, config) if each not in before]
    problems += _principals_problems(config)
    if problems:
        raise ConfigError(problems)
    return loaded


def say(text: str, *, err: bool = False) -> None:
    """One line, whatever others named in it (a directory, a file, a stream)."""
    click.echo(printable(text), err=err)


def confirm(question: str) -> None:
    """Ends the command if the answer is no, or nobody can give one."""
    try:
        is_meant = click.confirm(printable(question), err=True)
    except click.Abort as abort:
        click.echo(err=True)
        if isinstance(abort.__context__, KeyboardInterrupt):
            sys.exit(EXIT_INTERRUPTED)
        say("nobody answers, and nothing is deleted: --yes deletes unasked", err=True)
        sys.exit(1)
    if not is_meant:
        say("nothing is deleted", err=True)
        sys.exit(1)


def check_surroundings(where: str, config: "Config") -> None:
    """Every problem in the AWS and proxy variables, and in the files that these and the upstreams
    name, on standard error and exit 78; or nothing. `where`: the configuration comes from.
    """
    problems = surroundings_problems(where, config)
    if problems:
        _exit_config(problems)


def surroundings_problems(where: str, config: "Config") -> list[ConfigProblem]:
    """Every problem in the AWS and proxy variables, and in the files that these and the upstreams
    name.
    """
    from kdaemon.config.surroundings import find_problems  # noqa: PLC0415 - see load
    from kdaemon.send.credentials import profile_problem  # noqa: PLC0415 - see load

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
        found = None if upstream.has_token else profile_problem(upstream.profile or None)
        if found is not None:
            variable, problem = found
            source = "environment" if variable else where
            problems.append(ConfigProblem(source, variable or f"{at}profile", problem))
    return list(dict.fromkeys(problems))  # a variable may be several upstreams'


def _trust_problem(source: str, key: str, path: str, setting: str | None) -> list[ConfigProblem]:
    """What is wrong with a file of certificates."""
    from kdaemon.send.trust import trusted  # noqa: PLC0415 - see load

    try:
        trusted(path, setting)
    except ServiceError as error:
        return [ConfigProblem(source, key, error.message)]
    return []


def _principals_problems(config: "Config") -> list[ConfigProblem]:
    path = config.auth.principals_file
    if not path:
        return []
    from kdaemon.door.principals import Principals  # noqa: PLC0415 - see load
    from kdaemon.system import SystemClock  # noqa: PLC0415 - see load

    try:
        Principals(path, SystemClock.wall_seconds)
    except ConfigError as error:
        return error.problems
    return []


def check_principals(config: "Config") -> None:
    """Every problem in the file of principals on standard error and exit 78; or what is odd."""
    path = config.auth.principals_file
    if not path:
        return
    from kdaemon.door.principals import Principals, odd_rights  # noqa: PLC0415 - see load
    from kdaemon.system import SystemClock  # noqa: PLC0415 - see load

    try:
        Principals(path, SystemClock.wall_seconds)
        odd = odd_rights(path)
    except ConfigError as error:
        _exit_config(error.problems)
    except OSError as error:
        odd = f"cannot be looked at: {error.strerror}"
    if odd is not None:
        say(f"{path}: {odd}", err=True)


def find_daemon(config: "Config", system_socket: str) -> tuple[str | None, str | None]:
    """(socket, endpoint) of a daemon here, one of them None: a socket that exists, else HTTP.

    `system_socket`: where one listens that the system runs.
    """
    from kdaemon.config import resolve_unix_path  # noqa: PLC0415 - see load

    path = resolve_unix_path(config.listen.unix, os.environ, os.path.isdir)
    http = config.listen.http
    if http and config.listen.tls_certificate:
        http = f"https://{http}"
    if config.listen.unix != "auto":
        return (path, None) if path else (None, http)
    for candidate in (path, system_socket):
        if candidate and os.path.exists(candidate):  # noqa: PTH110 - one look
            return candidate, None
    return (None, http) if http else (path or system_socket, None)


def _exit_config(problems: Sequence[ConfigProblem]) -> NoReturn:
    for problem in problems:
        click.echo(str(problem), err=True)
    sys.exit(EXIT_CONFIG)

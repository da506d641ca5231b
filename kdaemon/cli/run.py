"""`kdaemon run`: the daemon. Reads what it is to run with, and hands over to `daemon/run.py`."""

import os
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdaemon.base.errors import ConfigError, ConfigProblem
from kdaemon.cli.common import configured, read_with_givers, say, wrong_config
from kdaemon.cli.help import Command
from kdaemon.cli.logged import run_logged
from kdaemon.cli.looks import Flags, look_at_principals, read_and_look, read_checked
from kdaemon.cli.sockets import find_sockets
from kdaemon.system import bound_malloc, end_by_signal, import_plain_lists

if TYPE_CHECKING:
    from kdaemon.config import Config
    from kdaemon.config.load import Loaded
    from kdaemon.observe.logs import LogHandler


@click.command(
    cls=Command,
    examples=(
        ("kdaemon run --sandbox", "try it: no account is needed"),
        ("kdaemon run --config kdaemon.toml", "with a configuration, as `kdaemon init` writes it"),
        ("kdaemon run --set region=eu-central-1", "without one: streams are named by clients"),
    ),
)
@configured
@click.option(
    "--sandbox",
    "with_sandbox",
    is_flag=True,
    help="Deliver to a service in this process instead of AWS or Yandex.",
)
@click.option(
    "--takeover",
    "is_takeover",
    is_flag=True,
    help="Take the listening sockets over from the daemon that runs, if there is one. No connection"
    " is refused. The old daemon delivers what it has, and ends.",
)
def run(config_path: str | None, settings: Flags, *, with_sandbox: bool, is_takeover: bool) -> None:
    """Take records and deliver them until SIGTERM or Ctrl-C.

    Clients send to listen.http (127.0.0.1:8990) or to the Unix socket (listen.unix). listen.admin
    (127.0.0.1:8991) has the status page. At SIGTERM the daemon delivers what it has, within
    drain.deadline_ms, and ends. At SIGHUP it reads its configuration again.
    """
    loaded = _to_run(config_path, settings, with_sandbox=with_sandbox)
    config = loaded.config
    inherited, taken = find_sockets(config, is_takeover=is_takeover)
    bound_malloc()
    import_plain_lists()
    end_by_signal()
    from kdaemon.daemon.run import serve  # noqa: PLC0415 - takes a moment, in which a signal may come

    is_supervisor = needs_supervisor(config, is_takeover=taken is not None)

    def start(logs: "LogHandler") -> Coroutine[Any, Any, int]:
        return serve(
            loaded,
            logs,
            with_sandbox=with_sandbox,
            read=partial(read_checked, config_path, settings),
            others=partial(_problems, config_path, settings),
            inherited=inherited,
            taken=taken,
            is_supervisor=is_supervisor,
        )

    run_logged(config, start)


def needs_supervisor(config: "Config", *, is_takeover: bool) -> bool:
    """Whether a supervisor is needed: the configuration asks for several workers, or a worker that
    no longer exists has left records on disk, or, with `is_takeover`, a worker that still runs may
    leave some.
    """
    if config.worker_count > 1 or not config.spool.directory:
        return config.worker_count > 1
    if not any(Path(config.spool.directory).glob("worker-*")):
        return False
    from kdaemon.spool.shared import (  # noqa: PLC0415 - of those who had workers once
        left_spools,
        worker_spools,
    )

    if is_takeover and worker_spools(config.spool.directory):
        return True
    return bool(left_spools(config.spool.directory, {config.spool.directory}))


def _to_run(config_path: str | None, flags: Flags, *, with_sandbox: bool) -> "Loaded":
    """The configuration to run with. Raises CommandError with all that `check` would say."""
    try:
        loaded = read_with_givers(config_path, flags)
        found = look_at_principals(loaded.config)
    except ConfigError:
        raise wrong_config(_problems(config_path, flags)) from None
    from kdaemon.config.surroundings import loop_problems  # noqa: PLC0415 - see cli/__init__.py

    # With a sandbox no call leaves: then the variables say nothing.
    if found.problems or (not with_sandbox and loop_problems(os.environ, loaded.config)):
        raise wrong_config(_problems(config_path, flags))
    for odd in found.odd:
        say(str(odd), err=True)
    return loaded


def _problems(config_path: str | None, flags: Flags, spool: str = "") -> list[ConfigProblem]:
    """All that `check` finds wrong. `spool`: the directory of the spool that this process has
    open.
    """
    return read_and_look(config_path, flags, spool=spool)[1].problems

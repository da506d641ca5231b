"""The commands: the only package that prints or exits.

A command reads the file and the environment, has one Config made of them, and passes it on. Each
has a file of its own, which is imported when the command is asked for; and the other rooms are
imported inside the commands, so that `--help`, `check` and a wrong configuration are answered at
once.
Exit codes: `help.py`; 2 is click's, 78 is EX_CONFIG of sysexits.h.
"""

import click

from kdaemon import __version__, build
from kdaemon.cli.help import Commands

_COMMANDS = {
    "check": "kdaemon.cli.check:check",
    "completion": "kdaemon.cli.completion:completion",
    "config": "kdaemon.cli.config:config",
    "dead-letters": "kdaemon.cli.dead_letters:dead_letters",
    "health": "kdaemon.cli.watch:health",
    "iam": "kdaemon.cli.iam:iam",
    "init": "kdaemon.cli.init:init",
    "put": "kdaemon.cli.put:put",
    "reload": "kdaemon.cli.reload:reload",
    "run": "kdaemon.cli.run:run",
    "sandbox": "kdaemon.cli.sandbox:sandbox",
    "spool": "kdaemon.cli.spool:spool",
    "status": "kdaemon.cli.watch:status",
    "tap": "kdaemon.cli.tap:tap",
    "top": "kdaemon.cli.watch:top",
}
"""Where each command is, as `module:name`."""

_UNLISTED = {"worker": "kdaemon.cli.worker:worker"}  # the same for commands that nobody types


@click.group(
    cls=Commands,
    places=_COMMANDS,
    unlisted=_UNLISTED,
    examples=(
        ("kdaemon run --sandbox", "try it: no account is needed"),
        ("echo hello | kdaemon put --stream demo", "in another terminal: send a record ..."),
        ("kdaemon status", "... and see what became of it"),
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message=f"kdaemon %(version)s ({build()})")
def cli() -> None:
    """Delivers records to Kinesis Data Streams and Yandex Data Streams.

    kdaemon runs beside your application, which sends it records as it would send them to Kinesis.
    `kdaemon COMMAND --help` tells more of a command.
    """

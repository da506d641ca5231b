"""The layout of the help: commands in groups, examples, exit codes, variables.

A command's own words stand with the command: its docstring, its options, its `examples`. The words
that all commands share stand here; `manual.py` puts them into the man page, too. Must not know what
a command does.
Invariant: a command is imported only when it is asked for, so that `kdaemon run` imports no other
command.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from kdaemon.base.errors import ConfigError
from kdaemon.cli.common import EXIT_INTERRUPTED, CommandError, wrong_config

Rows = Sequence[tuple[str, str]]
"""Terms, each with its explanation."""

GROUPS: dict[str, tuple[str, ...]] = {
    "Begin": ("init", "check", "config", "iam"),
    "Run": ("run", "reload"),
    "Try": ("sandbox", "put"),
    "Look": ("health", "status", "top", "tap"),
    "Repair": ("spool", "dead-letters"),
    "Shell": ("completion",),
}
"""The groups, in the order of a new user's questions."""

EXIT_CODES: Rows = (
    ("0", "Done, or the answer is yes."),
    ("1", "The answer is no, or something was refused or lost."),
    ("2", "Wrong usage: an option or an argument."),
    ("78", "The configuration cannot be used: a supervisor should not start again."),
    ("130", "Interrupted by Ctrl-C."),
)
"""The exit codes of every command; `cli/common.py` has the numbers."""

ENVIRONMENT: Rows = (
    ("KDAEMON_CONFIG", "The configuration file, where --config is not given."),
    ("KDAEMON_*", "One setting each: KDAEMON_LISTEN_HTTP is listen.http."),
    ("AWS_*", "Credentials, region, profile and certificates, as AWS SDKs have them."),
    ("HTTPS_PROXY", "A proxy on the way to the service; also HTTP_PROXY and NO_PROXY."),
    ("XDG_RUNTIME_DIR", "Where the Unix socket is; RUNTIME_DIRECTORY of systemd goes first."),
)


class Command(click.Command):
    """A command that has examples: shell commands, each with what it does. `columns`: those of the
    table that it prints, each with what stands there.
    """

    def __init__(
        self, *arguments: Any, examples: Rows = (), columns: Rows = (), **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.examples = examples
        self.columns = columns

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.columns:
            with formatter.section("Columns"):
                formatter.write_dl(self.columns)
        _write_examples(formatter, self.examples)
        super().format_epilog(ctx, formatter)


class Commands(click.Group):
    """The program. `places`: its commands by name, as `module:name`, imported when they are asked
    for. `unlisted`: the same for commands that nobody types; the help does not list them.
    """

    def __init__(
        self,
        *arguments: Any,
        places: Mapping[str, str],
        unlisted: Mapping[str, str],
        examples: Rows = (),
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._places = places
        self._unlisted = unlisted
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click has it
        return sorted(self._places)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported; None: there is none."""
        place = self._places.get(cmd_name) or self._unlisted.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        found: click.Command = getattr(import_module(module), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, which knows no command before it is imported, and so suggests none."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # noqa: PLC0415 - one millisecond, seldom needed

            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            text = f"{error.message} Did you mean {near[0]!r}?"
            raise click.UsageError(text, ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was asked for. The end of each command that something ends is here:
        a wrong configuration, and Ctrl-C.
        """
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise wrong_config(error.problems) from None
        except KeyboardInterrupt:
            raise CommandError("", "interrupted", exit_code=EXIT_INTERRUPTED) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands in their groups, each with its short help in one line."""
        longest = max(map(len, self.list_commands(ctx)))
        for title, names in GROUPS.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                assert command is not None, name
                limit = formatter.width - longest - 4
                rows.append((name.ljust(longest), command.get_short_help_str(limit)))
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(formatter, self.examples)
        for title, rows in (("Exit codes", EXIT_CODES), ("Environment", ENVIRONMENT)):
            with formatter.section(title):
                formatter.write_dl(rows)
        super().format_epilog(ctx, formatter)


def _write_examples(formatter: click.HelpFormatter, examples: Rows) -> None:
    if not examples:
        return
    with formatter.section("Examples"):
        for shell, said in examples:
            formatter.write_text(f"\b\n# {said}\n{shell}")

"""The man page, made from the commands: `python -m kdaemon.cli.manual` prints it.

A build calls it (setup.py) and puts the page into the wheel, as share/man/man1/kdaemon.1; the page
is in no repository. It says what `--help` says, of all commands at once, and adds nothing.
Invariant: it needs no more than click and msgspec, which a build brings. Ours and not click-man:
that one knows the commands of a group only where they are imported already, writes a page for each,
and has no place for exit codes, variables and examples.
"""

import sys
from collections.abc import Iterable, Iterator
from inspect import cleandoc

import click

from kdaemon import __version__
from kdaemon.cli import cli
from kdaemon.cli.help import ENVIRONMENT, EXIT_CODES, GROUPS, Rows

FILES: Rows = (
    ("/run/kdaemon/kdaemon.sock", "The Unix socket of a daemon that systemd runs."),
    ("~/.aws/credentials, ~/.aws/config", "Profiles, as AWS SDKs have them."),
)

_ROFF = str.maketrans(
    {"\\": r"\e", "-": r"\-", "`": r"\(ga", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti"}
)
"""What roff would print as another character (man-pages(7), 2026-11-29)."""


def page() -> str:
    """The whole page, in the macros of man(7)."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    context = click.Context(cli, info_name="kdaemon")
    assert cli.help is not None
    title, *paragraphs = cleandoc(cli.help).split("\n\n")
    yield f'.TH KDAEMON 1 "" "kdaemon {__version__}" "kdaemon"'
    yield ".ad l"
    yield ".SH NAME"
    yield _text(f"kdaemon - {title[0].lower()}{title[1:].rstrip('.')}")
    yield ".SH SYNOPSIS"
    yield r".B kdaemon"
    yield _text(" ".join(cli.collect_usage_pieces(context)))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(paragraphs)
    for heading, names in GROUPS.items():
        yield f'.SH "COMMANDS: {heading.upper()}"'
        for name in names:
            yield from _command(name, context)
    yield ".SH EXAMPLES"
    yield from _examples(cli.examples)
    yield '.SH "EXIT STATUS"'
    yield from _terms(EXIT_CODES)
    yield ".SH ENVIRONMENT"
    yield from _terms(ENVIRONMENT)
    yield ".SH FILES"
    yield from _terms(FILES)


def _command(name: str, parent: click.Context) -> Iterator[str]:
    """A command; those of a group after the group."""
    assert isinstance(parent.command, click.Group)
    command = parent.command.get_command(parent, name)
    assert command is not None
    assert command.help is not None
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f'.SS "{_text(f"{context.command_path} {usage}")}"'
    yield from _paragraphs(cleandoc(command.help).split("\n\n"))
    records = (each.get_help_record(context) for each in command.params)
    yield from _terms(record for record in records if record is not None and record[1])
    examples = getattr(command, "examples", ())
    if examples:
        yield ".PP"
        yield "Examples:"
        yield from _examples(examples)
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            yield from _command(each, context)


def _paragraphs(paragraphs: Iterable[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _terms(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, said in rows:
        yield ".TP"
        yield f'.B "{_text(term)}"'
        yield _text(said)


def _examples(examples: Rows) -> Iterator[str]:
    """Lines as they are, with their indentation."""
    for shell, said in examples:
        yield from (".PP", ".RS 4", ".nf", _text(f"# {said}"), _text(shell), ".fi", ".RE")


def _text(text: str) -> str:
    """Such that roff prints it as it is. It stands in quotes, too."""
    text = text.translate(_ROFF).replace('"', r"\(dq")
    return rf"\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    sys.stdout.write(page())

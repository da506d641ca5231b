"""Makes the man page from the commands: `python -m kdaemon.cli.manual` prints it.

A build calls it (setup.py) and puts the page into the wheel, as share/man/man1/kdaemon.1; the page
is in no repository. The page has the words of `--help`, of all commands at once, and no others.
Invariant: needs only click and msgspec, which a build installs. Own code, because click-man knows
the commands of a group only after they are imported, writes a page for each, and has no place for
exit codes, variables and examples.
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
"""Characters that roff would print as others (man-pages(7), 2026-11-29), with their escapes."""


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
    """A command; if it is a group, its commands follow."""
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
    columns = getattr(command, "columns", ())
    if columns:
        yield ".PP"
        yield "Columns:"
        yield from _terms(columns)
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
    """Examples, line by line as they are written."""
    for shell, said in examples:
        yield from (".PP", ".RS 4", ".nf", _text(f"# {said}"), _text(shell), ".fi", ".RE")


def _text(text: str) -> str:
    """Escapes a text so that roff prints it as it is, also within quotes."""
    text = text.translate(_ROFF).replace('"', r"\(dq")
    return rf"\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    sys.stdout.write(page())

"""`--help` of every command: whole sentences that fit a terminal of 80 columns."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from kdaemon.cli import cli, common
from kdaemon.cli.help import ENVIRONMENT, EXIT_CODES, GROUPS, Command

WIDTH = 80


def walk(group: click.Group, parent: click.Context) -> Iterator[tuple[str, click.Context]]:
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent)
        yield context.command_path.removeprefix("kdaemon "), context
        if isinstance(command, click.Group):
            yield from walk(command, context)


ROOT = click.Context(cli, info_name="kdaemon", **cli.context_settings)
EVERY = dict(walk(cli, ROOT))


def told(*path: str) -> str:
    result = CliRunner().invoke(cli, [*path, "--help"], prog_name="kdaemon", terminal_width=WIDTH)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("path", ["", *EVERY])
def test_no_line_is_wider_than_the_terminal_and_none_is_cut_short(path: str) -> None:
    text = told(*path.split())
    assert max(map(len, text.splitlines())) <= WIDTH
    assert not re.search(r"\w\.\.\.$", text, re.MULTILINE), "a sentence that was cut"
    assert "\\b" not in text


@pytest.mark.parametrize("path", EVERY)
def test_a_command_begins_with_one_whole_sentence(path: str) -> None:
    command = EVERY[path].command
    assert command.help
    first = command.help.partition("\n\n")[0]
    assert re.fullmatch(r"[A-Z][^\n]*[^.\n]\.", first.replace("\n", " ")), "one sentence, one line"
    assert command.get_short_help_str(WIDTH) == first
    assert all(each.rstrip().endswith(".") for each in command.help.split("\n\n"))


@pytest.mark.parametrize("path", EVERY)
def test_each_option_has_a_sentence_and_a_word_for_its_value(path: str) -> None:
    for option in EVERY[path].command.params:
        if not isinstance(option, click.Option) or option.hidden:
            continue
        assert option.help is not None, option.name
        assert re.match(r"[A-Z].*[.`]$", option.help), f"{option.name}: {option.help}"
        value = option.make_metavar(EVERY[path])
        assert not re.search(r"INTEGER|FLOAT|TEXT|RANGE", value or ""), f"{option.name}: {value}"


def test_every_command_is_in_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == cli.list_commands(ROOT)
    text = told()
    for title, names in GROUPS.items():
        section = text.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines()] == [*names]


def test_exit_codes_and_variables_are_told() -> None:
    text = told()
    for term, said in (*EXIT_CODES, *ENVIRONMENT):
        assert re.search(rf"^  {re.escape(term)} ", text, re.MULTILINE), term
        assert said.endswith(".")
    codes = {int(code) for code, _ in EXIT_CODES}
    ours = {getattr(common, name) for name in dir(common) if name.startswith("EXIT_")}
    assert codes == ours | {0, 1, 2}


EXAMPLES = [
    pytest.param(path, shell, id=shell)
    for path, context in [("", ROOT), *EVERY.items()]
    for shell, _ in getattr(context.command, "examples", ())
]


@pytest.mark.parametrize(("path", "shell"), EXAMPLES)
def test_an_example_is_a_command_that_there_is(path: str, shell: str) -> None:
    """Its options are parsed; what it does is not done."""
    assert shell in told(*path.split())
    called = [part for part in re.split(r"\||\$\(", shell) if part.strip().startswith("kdaemon ")]
    for part in called:
        words = shlex.split(part.partition(">")[0].rstrip(')" '))[1:]
        context: click.Context = ROOT
        command: click.Command = cli
        while isinstance(command, click.Group):
            found = command.get_command(context, words[0])
            assert found is not None, shell
            command = found
            words = words[1:]
        command.make_context(command.name, words, parent=ROOT)


def test_every_command_can_have_examples() -> None:
    for path, context in EVERY.items():
        assert isinstance(context.command, Command | click.Group), path

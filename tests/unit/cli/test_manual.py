"""The man page: what the commands say, such that man prints it as it is."""

import re
import shutil
import subprocess

import click
import pytest

from kdaemon import __version__
from kdaemon.cli import cli
from kdaemon.cli.help import ENVIRONMENT, EXIT_CODES
from kdaemon.cli.manual import page


def plain(text: str) -> str:
    """Without roff's escapes and what only it reads."""
    for escape, character in ((r"\-", "-"), (r"\(ga", "`"), (r"\(aq", "'"), (r"\(dq", '"')):
        text = text.replace(escape, character)
    return text


def test_every_command_and_option_is_on_the_page() -> None:
    text = plain(page())
    root = click.Context(cli, info_name="kdaemon")

    def look(group: click.Group, parent: click.Context) -> None:
        for name in group.list_commands(parent):
            command = group.get_command(parent, name)
            assert command is not None
            context = click.Context(command, info_name=name, parent=parent)
            heading = f'\n.SS "{context.command_path}'
            assert heading in text
            said = text.partition(heading)[2].partition("\n.S")[0]
            for option in command.params:
                if isinstance(option, click.Option) and not option.hidden:
                    assert f'\n.B "{option.opts[0]}' in said, f"{context.command_path} {option}"
            if isinstance(command, click.Group):
                look(command, context)

    look(cli, root)
    for term, said in (*EXIT_CODES, *ENVIRONMENT):
        assert f'\n.TP\n.B "{term}"\n{said}\n' in text
    assert f'"kdaemon {__version__}"' in text
    assert "worker" not in re.findall(r'\.SS "kdaemon (\w+)', text), "nobody types it"


def test_no_line_is_taken_for_a_request_that_is_none() -> None:
    known = {".TH", ".ad", ".SH", ".SS", ".PP", ".TP", ".B", ".RS", ".RE", ".nf", ".fi"}
    for line in page().splitlines():
        assert not line.startswith("'")
        assert not line.startswith(".") or line.split()[0] in known, line
        assert "\b" not in line


def test_the_page_is_the_same_each_time() -> None:
    assert page() == page()


def test_man_prints_it() -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not on this machine")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", "-rLL=80n"],
        input=page().encode(),
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    shown = done.stdout.decode()
    assert "kdaemon init --stream orders --region eu-central-1 --output kdaemon.toml" in shown
    assert 'eval "$(kdaemon completion bash)"' in shown

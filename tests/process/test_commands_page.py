"""docs/commands.md says what is there, and its probes are run as they are written."""

import json
import re
import subprocess
from pathlib import Path

import click
import pytest

from kdaemon.cli import cli
from tests.kit.daemon import running

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
COMMANDS = cli.list_commands(click.Context(cli))


def probes() -> list[list[str]]:
    """The two commands of the page, as an argument list each, with more patience."""
    (shell,) = re.findall(r"^timeout 5 bash .*$", PAGE, re.MULTILINE)
    (ecs,) = re.findall(r'^\["CMD", .*\]$', PAGE, re.MULTILINE)
    patient = shell.replace("timeout 5", "timeout 60")
    return [["bash", "-c", patient], ["timeout", "60", *json.loads(ecs)[3:]]]


@pytest.mark.parametrize("number", [0, 1])
def test_a_probe_without_python_says_yes_and_no(tmp_path: Path, number: int) -> None:
    with running(tmp_path) as daemon:
        http, admin = (daemon.address(each).rpartition(":")[2] for each in ("http", "admin"))
        command = [
            part.replace("/8991", f"/{admin}").replace("/8990", f"/{http}")
            for part in probes()[number]
        ]
        assert subprocess.run(command).returncode == 0
        missing = [re.sub("/(readyz|livez)", "/none", part) for part in command]
        assert subprocess.run(missing).returncode == 1
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 1


def test_each_command_is_on_the_page_and_each_on_the_page_is_there() -> None:
    table = PAGE.partition("| command |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`kdaemon ([a-z-]+)", "".join(rows))) == set(COMMANDS)
    for command, option in re.findall(r"kdaemon ([a-z-]+)[^`\n]*?(--[a-z-]+)", PAGE):
        found = cli.get_command(click.Context(cli), command)
        assert found is not None, command
        names = [name for each in found.params for name in each.opts]
        assert option in {*names, "--help"}, f"{command} {option}"

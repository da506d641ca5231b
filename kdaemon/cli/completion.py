"""`kdaemon completion`: prints the script with which a shell completes commands and options."""

import click
from click.shell_completion import get_completion_class

from kdaemon.cli.help import Command

# The variable by which the script asks; click's name for a program `kdaemon`.
VARIABLE = "_KDAEMON_COMPLETE"


@click.command(
    cls=Command,
    examples=(
        ('eval "$(kdaemon completion bash)"', "bash (4.4 or newer), this session"),
        (
            "kdaemon completion bash > ~/.local/share/bash-completion/completions/kdaemon",
            "bash, every session (package bash-completion)",
        ),
        ("kdaemon completion zsh > ~/.zfunc/_kdaemon", "zsh; ~/.zfunc stands in $fpath"),
        ("kdaemon completion fish > ~/.config/fish/completions/kdaemon.fish", "fish"),
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands in bash, zsh or fish."""
    found = get_completion_class(shell)
    assert found is not None, "click has each of them"
    program = found(context.find_root().command, {}, "kdaemon", VARIABLE)
    # Not click's `source`, which runs the bash of this machine to ask for its version.
    click.echo(program.source_template % program.source_vars())

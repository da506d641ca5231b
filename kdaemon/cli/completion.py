"""`kdaemon completion`: the script that has a shell complete commands and options."""

import click
from click.shell_completion import get_completion_class

VARIABLE = "_KDAEMON_COMPLETE"  # by which the script asks; click's name for a program `kdaemon`


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print the completion script for a shell: bash (4.4 or newer), zsh or fish.

    \b
    bash:  kdaemon completion bash > /etc/bash_completion.d/kdaemon
    zsh:   kdaemon completion zsh > ~/.zfunc/_kdaemon     (a directory of $fpath)
    fish:  kdaemon completion fish > ~/.config/fish/completions/kdaemon.fish
    """
    found = get_completion_class(shell)
    assert found is not None, "click has each of them"
    program = found(context.find_root().command, {}, "kdaemon", VARIABLE)
    # Not `source`, which asks the bash of this machine for its version.
    click.echo(program.source_template % program.source_vars())

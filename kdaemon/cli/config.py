"""`kdaemon config`: prints the configuration in force, or the schema of the file. Makes no call."""

import json
import os
import sys

import click

from kdaemon.cli.common import configured, read_with_givers
from kdaemon.cli.help import Command


@click.command(
    cls=Command,
    examples=(
        ("kdaemon config --config kdaemon.toml", "each value, and where it comes from"),
        ("kdaemon config --example", "every setting, its default and what it means"),
        ("kdaemon config --schema > kdaemon.schema.json", "for an editor"),
    ),
)
@configured
@click.option(
    "--effective",
    "_is_effective",
    is_flag=True,
    help="Print it as TOML, with where each value comes from. The default.",
)
@click.option("--schema", "is_schema", is_flag=True, help="Print the JSON schema of the file.")
@click.option(
    "--example", "is_example", is_flag=True, help="Print a file with every setting explained."
)
@click.option("--json", "is_json", is_flag=True, help="Print it as JSON.")
def config(
    config_path: str | None,
    settings: tuple[tuple[str, str], ...],
    *,
    _is_effective: bool,
    is_schema: bool,
    is_example: bool,
    is_json: bool,
) -> None:
    """Print the configuration in force, an example, or the schema.

    The output is a whole configuration that means the same. Passwords and external ids are masked.
    A note at each value says where it comes from: the default, the file, a variable or a flag; and
    the key of [default] or [send] if a stream or an upstream has the value from there. Where
    nothing gives the address or the region, the note says which variable of AWS does.
    """
    if _is_effective + is_schema + is_example > 1:
        raise click.UsageError("--effective, --schema and --example exclude each other.")
    if is_example:
        from kdaemon.config.document import example  # noqa: PLC0415 - only here

        sys.stdout.write(example())
        return
    if is_schema:
        from kdaemon.config.schema import config_schema  # noqa: PLC0415 - only here

        click.echo(json.dumps(config_schema(), indent=2))
        return
    from kdaemon.config.effective import as_toml, as_tree, effective  # noqa: PLC0415 - only here

    values = effective(read_with_givers(config_path, settings), os.environ)
    text = json.dumps(as_tree(values), indent=2) + "\n" if is_json else as_toml(values)
    sys.stdout.write(text)

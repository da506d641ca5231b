"""`kdaemon config`: the configuration in force, and the schema of the file. Calls nobody."""

import json
import sys

import click

from kdaemon.cli.common import config_option, load_with_givers, pairs, set_option


@click.command()
@config_option
@set_option
@click.option(
    "--effective",
    "_is_effective",
    is_flag=True,
    help="The configuration in force, as TOML, with where each value came from. The default.",
)
@click.option("--schema", "is_schema", is_flag=True, help="The JSON schema of the file.")
@click.option("--json", "is_json", is_flag=True, help="The configuration as JSON.")
def config(
    config_path: str | None,
    settings: tuple[str, ...],
    *,
    _is_effective: bool,
    is_schema: bool,
    is_json: bool,
) -> None:
    """Print the configuration in force, or the schema of the file.

    What is printed is a whole configuration, which means the same; only passwords and external ids
    are masked. Each value has a note: "default", the file, the variable or the flag that gave it,
    and the key of [default] or [send] where the value comes from there.
    """
    if is_schema:
        if _is_effective:
            raise click.UsageError("--schema and --effective exclude each other.")
        from kdaemon.config.schema import config_schema  # noqa: PLC0415 - only here

        click.echo(json.dumps(config_schema(), indent=2))
        return
    from kdaemon.config.effective import as_toml, as_tree, effective  # noqa: PLC0415 - only here

    values = effective(load_with_givers(config_path, pairs(settings)))
    text = json.dumps(as_tree(values), indent=2) + "\n" if is_json else as_toml(values)
    sys.stdout.write(text)

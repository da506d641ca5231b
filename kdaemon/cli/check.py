"""`kdaemon check`: reports everything that is wrong in a configuration, all at once. With --service
also what the service says. Exit 78: the configuration cannot be used; 1: the service would not take
records.
"""

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kdaemon.cli.common import (
    DEFAULTS,
    configured,
    count,
    say,
    utf8,
    wrong_config,
)
from kdaemon.cli.help import Command

if TYPE_CHECKING:
    from kdaemon.config import Config


@click.command(
    cls=Command,
    examples=(
        ("kdaemon check --config kdaemon.toml", "the file and what it names; asks nobody"),
        ("kdaemon check --service --config kdaemon.toml", "asks the service, too"),
    ),
)
@configured
@click.option(
    "--service",
    "asks_service",
    is_flag=True,
    help="Also ask each service whether it would take the records.",
)
@click.option(
    "--stream",
    "streams",
    type=utf8,
    metavar="NAME",
    multiple=True,
    help="With --service: a stream that the configuration does not list; repeatable.",
)
@click.option("--json", "is_json", is_flag=True, help="With --service: print one JSON object.")
def check(
    config_path: str | None,
    settings: tuple[tuple[str, str], ...],
    streams: tuple[str, ...],
    *,
    asks_service: bool,
    is_json: bool,
) -> None:
    """Report everything that is wrong in a configuration.

    Exit 78 if the daemon would not start with it.

    With --service, kdaemon asks each service with the credentials that the daemon would have, and
    exits with 1 if records would not be taken. For each listed stream it asks whether records may
    be written, whether the stream may be described, and whether its quota and limits fit the
    configuration. It compares the clocks. No record is written (AWS: DryRun).
    """
    if (streams or is_json) and not asks_service:
        raise click.UsageError("--stream and --json go with --service.")
    config = _looked_at(config_path, settings)
    where = config_path or DEFAULTS
    upstreams = len(config.upstreams)
    beside = f", {count(upstreams, 'upstream')} beside the default one" if upstreams else ""
    if not is_json:
        say(f"{where}: ok, {count(len(config.streams), 'stream')}{beside}")
        for line in _called_elsewhere(config):
            say(line)
    if asks_service:
        _check_service(config, streams, is_json=is_json)


def _called_elsewhere(config: "Config") -> Iterator[str]:
    """The upstreams that are called at another address than the service's own."""
    from kdaemon.base.redact import masked_url  # noqa: PLC0415 - see cli/__init__.py
    from kdaemon.config.surroundings import given_beside  # noqa: PLC0415 - the same

    for name in config.upstream_names:
        upstream = config.upstream(name)
        beside = given_beside(os.environ, upstream).get("endpoint_url")
        url, giver = (upstream.endpoint_url, "endpoint_url") if beside is None else beside[::-1]
        if url:
            yield f"upstream {name} is called at {masked_url(url)}, by {giver}"


def _check_service(config: "Config", streams: tuple[str, ...], *, is_json: bool) -> None:
    """Prints a line for each finding. Exits with 1 if one of them is a problem, else with 0."""
    from kdaemon.cli.findings import Level  # noqa: PLC0415 - see cli/__init__.py
    from kdaemon.cli.service_check import look  # noqa: PLC0415 - see cli/__init__.py

    findings = asyncio.run(look(config, streams))
    has_problem = any(finding.level is Level.PROBLEM for finding in findings)
    if is_json:
        import json  # noqa: PLC0415 - only here

        told = [{**asdict(finding), "level": finding.level.value} for finding in findings]
        click.echo(json.dumps({"is_ok": not has_problem, "findings": told}, indent=2))
    else:
        for finding in findings:
            click.echo(str(finding))
    sys.exit(1 if has_problem else 0)


def _looked_at(config_path: str | None, flags: Sequence[tuple[str, str]]) -> "Config":
    """Prints all that is odd. Raises CommandError with all that is wrong."""
    from kdaemon.cli.looks import read_and_look  # noqa: PLC0415 - see cli/__init__.py

    loaded, looks = read_and_look(config_path, flags)
    for odd in looks.odd:
        click.echo(str(odd), err=True)
    if loaded is None or looks.problems:
        raise wrong_config(looks.problems)
    return loaded.config

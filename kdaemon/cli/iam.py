"""`kdaemon iam`: prints the least rights that a configuration needs. Makes no call, and changes
nothing.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from kdaemon.base.endpoint import region_problem, region_variable
from kdaemon.base.names import DEFAULT_UPSTREAM, parse_arn, parse_qualified
from kdaemon.cli.common import CommandError, configured, read_with_givers, say, utf8
from kdaemon.cli.help import Command

if TYPE_CHECKING:
    from kdaemon.config import Config


@click.command(
    cls=Command,
    examples=(
        ("kdaemon iam --config kdaemon.toml > policy.json", "of the streams that are listed"),
        ("kdaemon iam --stream orders --set region=eu-central-1", "of one stream"),
    ),
)
@configured
@click.option(
    "--stream",
    "streams",
    type=utf8,
    metavar="NAME",
    multiple=True,
    help="Only for this stream, by name or ARN; repeatable. Default: the listed streams.",
)
@click.option(
    "--passed-on",
    "with_passed_on",
    is_flag=True,
    help="Also for what clients may ask through kdaemon (listen.operations_passed_on).",
)
@click.option(
    "--stored",
    "with_stored",
    is_flag=True,
    help="Also for the streams of which the spool has records.",
)
@click.option("--kms-key", metavar="ARN", help="The KMS key that encrypts the streams.")
@click.option("--upstream", metavar="NAME", help="Only for this upstream. Default: all.")
def iam(
    config_path: str | None,
    settings: tuple[tuple[str, str], ...],
    streams: tuple[str, ...],
    kms_key: str | None,
    upstream: str | None,
    *,
    with_passed_on: bool,
    with_stored: bool,
) -> None:
    """Print the least rights that a configuration needs.

    For AWS that is an IAM policy, as JSON; for Yandex the roles, in words. If several policies are
    needed (for several upstreams, or for a role that is assumed), they are members of one JSON
    object, by the names of the upstreams and the ARNs of the roles. Notes go to standard error.
    """
    config = read_with_givers(config_path, settings).config
    from kdaemon.config.stream_rules import stream_name_problem  # noqa: PLC0415 - cli/__init__.py

    _see_that_it_is(config, upstream or DEFAULT_UPSTREAM, "--upstream")
    for each in streams:
        home, name = config.default.upstream, each
        if each.startswith("@"):
            home, name = parse_qualified(each)
        _see_that_it_is(config, home, "--stream")
        problem = stream_name_problem(name, config.upstream(home).traits)
        if problem is not None and parse_arn(name) is None:
            text = f"{each!r} {problem}, or an ARN, or @UPSTREAM/NAME"
            raise click.BadParameter(text, param_hint="--stream")
    if kms_key is not None and not re.fullmatch(r"arn:aws[a-z-]*:kms:[^:\s]+:\d{12}:\S+", kms_key):
        text = f"{kms_key!r} is no ARN of a key; expected arn:aws:kms:REGION:ACCOUNT:key/ID"
        raise click.BadParameter(text, param_hint="--kms-key")
    from kdaemon.cli.policy import rights  # noqa: PLC0415 - after the options are found right

    if with_stored:
        listed = () if streams else tuple(config.streams)
        streams = tuple(
            dict.fromkeys((*listed, *streams, *_stored(config_path, config.spool.directory)))
        )
    names = config.upstream_names if upstream is None else (upstream,)
    config, note = _with_region(config, names)
    found = rights(config, names, streams, with_passed_on=with_passed_on, kms_key=kms_key)
    policies: object = found.policies
    if len(found.policies) == 1:
        (policies,) = found.policies.values()
    if found.policies:
        click.echo(json.dumps(policies, indent=2))
    for line in found.words:
        say(line, err=bool(found.policies))
    for line in (*note, *found.notes):
        say(f"note: {line}", err=True)
    if not (found.policies or found.words):
        raise CommandError("no such stream belongs to this upstream")


def _see_that_it_is(config: "Config", upstream: str, option: str) -> None:
    if upstream not in config.upstream_names:
        known = ", ".join(config.upstream_names)
        text = f"there is no upstream {upstream}; known: {known}"
        raise click.BadParameter(text, param_hint=option)


def _with_region(config: "Config", names: Sequence[str]) -> tuple["Config", list[str]]:
    """The configuration with the region of the environment, where it names none itself and the
    daemon would take that; and a note that says so.
    """
    upstream, variable = config.upstream(DEFAULT_UPSTREAM), region_variable(os.environ)
    is_needed = DEFAULT_UPSTREAM in names and upstream.traits.has_arns and not upstream.home_region
    if variable is None or not is_needed or region_problem(variable[1]) is not None:
        return config, []
    name, region = variable
    note = f"the region {region} is that of {name} here: the daemon must have the same"
    return replace(config, region=region), [note]


def _stored(config_path: str | None, directory: str) -> list[str]:
    """Names of the streams of which the spool has records, in the form in which a client may write
    them.
    """
    from kdaemon.cli.spool_files import opened, spool_directory  # noqa: PLC0415 - brings SQLite

    with opened(spool_directory(directory or None, config_path)) as view:
        return [totals.stream for totals in view.stored_totals()]

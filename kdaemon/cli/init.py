"""`kdaemon init`: writes a commented configuration for some streams, to begin with. Makes no call.

Invariant: `kdaemon check` accepts what is written, and still accepts it after any of its commented
settings is uncommented. An existing file is never changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import click

from kdaemon.base.names import parse_arn
from kdaemon.cli.common import say, utf8
from kdaemon.cli.help import Command
from kdaemon.cli.spool_files import output_option, written

MODE = 0o644  # the file has no secret


@dataclass(frozen=True, slots=True)
class Wanted:
    """The values of the command's options."""

    streams: tuple[str, ...]
    service: str
    region: str
    endpoint_url: str
    spool: str
    is_ordered: bool


@click.command(
    cls=Command,
    examples=(
        (
            "kdaemon init --stream orders --region eu-central-1 --output kdaemon.toml",
            "one stream at AWS",
        ),
        (
            "kdaemon init --stream orders --ordered --spool /var/lib/kdaemon",
            "keep records on disk, and the order of each key",
        ),
    ),
)
@click.option(
    "--stream",
    "streams",
    type=utf8,
    metavar="NAME",
    multiple=True,
    required=True,
    help="A stream, by name or ARN; repeatable.",
)
@click.option(
    "--service",
    type=click.Choice(["aws", "yandex"]),
    default="aws",
    show_default=True,
    help="Kinesis Data Streams or Yandex Data Streams.",
)
@click.option(
    "--region",
    type=utf8,
    default="",
    metavar="REGION",
    help="The region of AWS, such as eu-central-1.",
)
@click.option(
    "--endpoint-url",
    type=utf8,
    default="",
    metavar="URL",
    help="For Yandex: the endpoint, with the path of the database at its end.",
)
@click.option(
    "--spool",
    type=utf8,
    default="",
    metavar="DIR",
    help="Keep records on disk in this directory, so that they survive a crash.",
)
@click.option(
    "--ordered", "is_ordered", is_flag=True, help="Keep the records of each partition key in order."
)
@output_option
def init(output: str, **options: object) -> None:
    """Write a commented configuration to begin with.

    A file that is there already is not touched. `kdaemon check --service` tells whether the
    configuration works.
    """
    from kdaemon.config.load import load_config  # noqa: PLC0415 - after the options are found right

    wanted = Wanted(**options)  # type: ignore[arg-type]  # click's, of these names
    lines = [f"{line}\n" for line in _lines(wanted)]
    load_config(text="".join(lines), source="kdaemon init")
    with written(output, MODE) as out:
        out.writelines(line.encode() for line in lines)
    if output != "-":
        say(f"{output} is written. Next: kdaemon check --service --config {output}", err=True)


def _lines(wanted: Wanted) -> Iterator[str]:
    yield from (
        "# Configuration of kdaemon. All settings, with what they mean: kdaemon config --example",
        "# Is it right?        kdaemon check --service --config FILE",
        "# What is in force:   kdaemon config --config FILE",
        "# Rights it needs:    kdaemon iam --config FILE",
        "# A setting with # before it has this value, or shows an example.",
        "",
    )
    yield f"service = {_toml(wanted.service)}"
    yield from _yandex(wanted) if wanted.service == "yandex" else _aws(wanted)
    yield from (
        "",
        "# Records are taken for the streams below. true: for any stream that a client names.",
        "accept_unlisted = false",
        "",
        "# Memory that clients' data may hold; the process itself takes 90 MiB at most beside it.",
        "# memory_bytes_max = 268435456",
        "",
        "[listen]",
        "# The Kinesis API for SDKs (set their endpoint to http://127.0.0.1:8990), and NDJSON.",
        '# http = "127.0.0.1:8990"',
        "# The Unix socket. auto: in $RUNTIME_DIRECTORY, or in $XDG_RUNTIME_DIR/kdaemon.",
        '# unix = "auto"',
        "# Metrics, probes, status (kdaemon status, kdaemon top).",
        '# admin = "127.0.0.1:8991"',
        "",
        "[drain]",
        "# After SIGTERM: to deliver what is held. Keep it below the supervisor's patience.",
        "# deadline_ms = 25000",
    )
    yield from _spool(wanted)
    for stream in dict.fromkeys(wanted.streams):
        yield from _stream(wanted, stream)


def _aws(wanted: Wanted) -> Iterator[str]:
    yield ""
    yield "# Empty: as AWS_REGION, the profile or the machine says."
    yield f"region = {_toml(wanted.region)}"
    yield ""
    yield "# Credentials come from the AWS environment: a role of the machine, pod or task; AWS_*"
    yield "# variables; or a profile. Another account's role may be assumed with them."
    yield '# profile = "producer"'
    yield '# role_arn = "arn:aws:iam::123456789012:role/producer"'
    if wanted.endpoint_url:
        yield f"endpoint_url = {_toml(wanted.endpoint_url)}"


def _yandex(wanted: Wanted) -> Iterator[str]:
    yield ""
    yield "# With the path of the database, as the console shows it."
    if wanted.endpoint_url:
        yield f"endpoint_url = {_toml(wanted.endpoint_url)}"
    else:
        example = "https://yds.serverless.yandexcloud.net/ru-central1/b1g.../etn..."
        yield f"# endpoint_url = {_toml(example)}"
    if wanted.region:
        yield f"region = {_toml(wanted.region)}"
    yield ""
    yield "# Who calls: a static key (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), or an IAM token:"
    yield "# from a file that something else refreshes, or from the machine (iam_token_url)."
    yield '# iam_token_file = "/run/iam/token"'


def _spool(wanted: Wanted) -> Iterator[str]:
    yield ""
    yield "[spool]"
    yield "# The disk behind the acknowledgement `stored`. It is made if its parent is there."
    if wanted.spool:
        yield f"directory = {_toml(wanted.spool)}"
    else:
        yield '# directory = "/var/lib/kdaemon/spool"'
    yield "# For an outage: bytes a second x seconds that the service may be away."
    yield "# bytes_max = 1073741824"


def _stream(wanted: Wanted, stream: str) -> Iterator[str]:
    yield ""
    yield f"[streams.{_toml(stream) if _needs_quotes(stream) else stream}]"
    yield "# What an answer promises: delivered (the service has the record), stored (on disk here,"
    yield "# fsynced; needs [spool]) or accepted (in memory here)."
    yield f"acknowledge = {_toml('stored' if wanted.spool else 'delivered')}"
    yield "# Nobody else writes to the stream: a shard is begun with at its whole quota."
    yield "# only_writer = false"
    yield "# partition_key: records of one key are delivered in the order they were taken."
    if wanted.is_ordered:
        yield 'ordering = "partition_key"'
    else:
        yield '# ordering = "none"'
    if wanted.service == "aws":
        yield "# kpl: several records travel as one. Only for consumers that take them apart."
        yield '# aggregation = "none"'


def _needs_quotes(name: str) -> bool:
    is_bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return parse_arn(name) is not None or not is_bare


def _toml(text: str) -> str:
    from kdaemon.config.toml import toml_text  # noqa: PLC0415 - see cli/__init__.py

    return toml_text(text)

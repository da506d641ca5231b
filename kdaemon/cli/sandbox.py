"""`kdaemon sandbox`: the embedded service alone."""

import click

from kdaemon.cli.common import configured, read_with_givers, say
from kdaemon.cli.help import Command
from kdaemon.cli.logged import run_logged
from kdaemon.system import end_by_signal


@click.command(
    cls=Command,
    examples=(
        ("kdaemon sandbox --stream orders --shards 2", "a service with one stream"),
        (
            "export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any AWS_REGION=us-east-1",
            "clients need a key and a region: any will do",
        ),
        ("aws kinesis list-streams --endpoint-url http://127.0.0.1:4567", "a client"),
        ("kdaemon run --set endpoint_url=http://127.0.0.1:4567", "a daemon that delivers to it"),
    ),
)
@configured
@click.option("--listen", metavar="HOST:PORT", help="Where to listen. Default: 127.0.0.1:4567.")
@click.option(
    "--stream",
    "streams",
    metavar="NAME",
    multiple=True,
    help="A stream to begin with; repeatable. Default: demo.",
)
@click.option("--shards", type=int, metavar="N", help="Shards of each stream. Default: 4.")
@click.option(
    "--ephemeral-port",
    "is_ephemeral",
    is_flag=True,
    help="Listen on a port that the system chooses, and print its URL.",
)
def sandbox(
    config_path: str | None,
    settings: tuple[tuple[str, str], ...],
    listen: str | None,
    streams: tuple[str, ...],
    shards: int | None,
    *,
    is_ephemeral: bool,
) -> None:
    """Run a Kinesis service on this machine, to try and test with.

    Any Kinesis client can write to it and read from it. It has the quotas of the service, and fails
    if it is told to. Records are in memory only, and are gone when it ends.
    """
    flags = list(settings)
    if is_ephemeral and listen is not None:
        raise click.UsageError("--ephemeral-port chooses the port: leave --listen out.")
    listen = "127.0.0.1:0" if is_ephemeral else listen
    flags += [("sandbox.listen", listen)] if listen is not None else []
    flags += [("sandbox.streams", ",".join(streams))] if streams else []
    flags += [("sandbox.shard_count", str(shards))] if shards is not None else []
    config = read_with_givers(config_path, flags).config
    end_by_signal()
    from kdaemon.sandbox.run import run_sandbox  # noqa: PLC0415 - see cli/__init__.py

    tell = say if is_ephemeral else None
    hosts, service = config.listen.hosts, config.service
    run_logged(config, lambda _: run_sandbox(config.sandbox, hosts, service, tell))

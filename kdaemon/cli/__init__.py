"""The commands: the only package that prints or exits.

Reads the file and the environment, has one Config made of them, and passes it on. The other rooms
are imported inside the commands, so that `--help`, `check` and a wrong configuration are answered
at once. The commands of `_ELSEWHERE` have files of their own.
Exit codes: `help.py`; 2 is click's, 78 is EX_CONFIG of sysexits.h.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from kdaemon import __version__, build
from kdaemon.base.errors import ConfigError, ConfigProblem
from kdaemon.base.text import printable
from kdaemon.cli.common import (
    EITHER_DAEMON,
    EXIT_INTERRUPTED,
    SYSTEM_SOCKET,
    config_option,
    count,
    exit_config,
    find_daemon,
    load,
    pairs,
    read_with_givers,
    say,
    set_option,
)
from kdaemon.cli.help import Command, Commands
from kdaemon.cli.logged import run_logged
from kdaemon.cli.looks import look_at_principals, read_and_look, read_checked
from kdaemon.cli.sockets import find_sockets

if TYPE_CHECKING:
    from kdaemon.config import Config
    from kdaemon.config.load import Loaded
    from kdaemon.observe.logs import LogHandler
    from kdaemon.put.lines import Form
    from kdaemon.put.source import Source
    from kdaemon.put.unix import Totals

log = logging.getLogger("kdaemon")

_load = load  # tests/unit/cli/test_cli.py calls it by this name


_ELSEWHERE = {
    "check": "kdaemon.cli.check:check",
    "completion": "kdaemon.cli.completion:completion",
    "config": "kdaemon.cli.config:config",
    "dead-letters": "kdaemon.cli.dead_letters:dead_letters",
    "health": "kdaemon.cli.watch:health",
    "iam": "kdaemon.cli.iam:iam",
    "init": "kdaemon.cli.init:init",
    "reload": "kdaemon.cli.reload:reload",
    "spool": "kdaemon.cli.spool:spool",
    "status": "kdaemon.cli.watch:status",
    "tap": "kdaemon.cli.tap:tap",
    "top": "kdaemon.cli.watch:top",
}
"""Commands that have a file of their own, and where each is."""

_UNLISTED = {"worker": "kdaemon.cli.worker:worker"}  # the same for commands that nobody types


@click.group(
    cls=Commands,
    elsewhere=_ELSEWHERE,
    unlisted=_UNLISTED,
    examples=(
        ("kdaemon run --sandbox", "try it: no account is needed"),
        ("echo hello | kdaemon put --stream demo", "in another terminal: send a record ..."),
        ("kdaemon status", "... and see what became of it"),
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message=f"kdaemon %(version)s ({build()})")
def cli() -> None:
    """Delivers records to Kinesis Data Streams and Yandex Data Streams.

    kdaemon runs beside your application, which sends it records as it would send them to Kinesis.
    `kdaemon COMMAND --help` tells more of a command.
    """


@cli.command(
    cls=Command,
    examples=(
        ("kdaemon run --sandbox", "try it: no account is needed"),
        ("kdaemon run --config kdaemon.toml", "with a configuration, as `kdaemon init` writes it"),
        ("kdaemon run --set region=eu-central-1", "without one: streams are named by clients"),
    ),
)
@config_option
@set_option
@click.option(
    "--sandbox",
    "with_sandbox",
    is_flag=True,
    help="Deliver to a service in this process instead of AWS or Yandex.",
)
@click.option(
    "--takeover",
    "is_takeover",
    is_flag=True,
    help="Take the listening sockets over from the daemon that runs, if there is one. No connection"
    " is refused. The old daemon delivers what it has, and ends.",
)
def run(
    config_path: str | None, settings: tuple[str, ...], *, with_sandbox: bool, is_takeover: bool
) -> None:
    """Take records and deliver them until SIGTERM or Ctrl-C.

    Clients send to listen.http (127.0.0.1:8990) or to the Unix socket (listen.unix). listen.admin
    (127.0.0.1:8991) has the status page. At SIGTERM the daemon delivers what it has, within
    drain.deadline_ms, and ends. At SIGHUP it reads its configuration again.
    """
    flags = pairs(settings)
    loaded = _to_run(config_path, flags)
    config = loaded.config
    inherited, taken = find_sockets(config, is_takeover=is_takeover)
    from kdaemon.system import (  # noqa: PLC0415 - start-up of the other commands
        bound_malloc,
        end_by_signal,
        import_plain_lists,
    )

    bound_malloc()
    import_plain_lists()
    end_by_signal()
    from kdaemon.daemon.run import serve  # noqa: PLC0415 - takes a moment, in which a signal may come

    is_supervisor = needs_supervisor(config, is_takeover=taken is not None)

    def start(logs: "LogHandler") -> "Coroutine[Any, Any, int]":
        return serve(
            loaded,
            logs,
            with_sandbox=with_sandbox,
            read=partial(read_checked, config_path, flags),
            others=partial(_problems, config_path, flags),
            inherited=inherited,
            taken=taken,
            is_supervisor=is_supervisor,
        )

    run_logged(config, start)


def needs_supervisor(config: "Config", *, is_takeover: bool) -> bool:
    """Whether a supervisor is needed: the configuration asks for several workers, or a worker that
    no longer exists has left records on disk, or, with `is_takeover`, a worker that still runs may
    leave some.
    """
    if config.worker_count > 1 or not config.spool.directory:
        return config.worker_count > 1
    if not any(Path(config.spool.directory).glob("worker-*")):
        return False
    from kdaemon.spool.shared import (  # noqa: PLC0415 - of those who had workers once
        left_spools,
        worker_spools,
    )

    if is_takeover and worker_spools(config.spool.directory):
        return True
    return bool(left_spools(config.spool.directory, {config.spool.directory}))


def _to_run(config_path: str | None, flags: list[tuple[str, str]]) -> "Loaded":
    """The configuration to run with. If it is wrong, exits with 78 and all that `check` would
    say.
    """
    try:
        loaded = read_with_givers(config_path, flags)
        found = look_at_principals(loaded.config)
    except ConfigError:
        exit_config(_problems(config_path, flags))
    if found.problems:
        exit_config(_problems(config_path, flags))
    for odd in found.odd:
        say(str(odd), err=True)
    return loaded


def _problems(
    config_path: str | None, flags: list[tuple[str, str]], spool: str = ""
) -> list[ConfigProblem]:
    """All that `check` finds wrong. `spool`: the directory of the spool that this process has
    open.
    """
    return read_and_look(config_path, flags, spool=spool)[1].problems


@cli.command(
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
@config_option
@set_option
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
    settings: tuple[str, ...],
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
    flags = pairs(settings)
    if is_ephemeral and listen is not None:
        raise click.UsageError("--ephemeral-port chooses the port: leave --listen out.")
    listen = "127.0.0.1:0" if is_ephemeral else listen
    flags += [("sandbox.listen", listen)] if listen is not None else []
    flags += [("sandbox.streams", ",".join(streams))] if streams else []
    flags += [("sandbox.shard_count", str(shards))] if shards is not None else []
    config = load(config_path, flags)
    from kdaemon.system import end_by_signal  # noqa: PLC0415 - see run

    end_by_signal()
    from kdaemon.sandbox.run import run_sandbox  # noqa: PLC0415 - see run

    tell = say if is_ephemeral else None
    hosts, service = config.listen.hosts, config.service
    run_logged(config, lambda _: run_sandbox(config.sandbox, hosts, service, tell))


@cli.command(
    cls=Command,
    examples=(
        ("echo hello | kdaemon put --stream demo", "one record"),
        ("kdaemon put --stream clicks --partition-key-field user.id clicks.jsonl.gz", "JSON lines"),
        ("kdaemon put --stream sales --csv --partition-key-field shop sales.csv", "CSV"),
    ),
)
@click.argument("file", default="-")
@click.option("--stream", required=True, metavar="NAME", help="Name or ARN of the stream.")
@click.option("--partition-key", metavar="KEY", help="Key of each record that names none.")
@click.option(
    "--partition-key-field",
    "key_field",
    metavar="FIELD",
    help="Where the key is: a field of a JSON line (user.id is one in another) or a column of CSV."
    " The data is the whole line.",
)
@click.option(
    "--csv",
    "is_csv",
    is_flag=True,
    help="Each row of CSV is a record; quoted fields may span lines. The header is not sent.",
)
@click.option("--lines", "is_data", is_flag=True, help="Each line is data, also if it is JSON.")
@click.option("--socket", metavar="PATH", help="The daemon's Unix socket.")
@click.option("--endpoint", metavar="HOST:PORT", help="The daemon's HTTP listener, or its URL.")
@click.option("--ca-file", metavar="PATH", help="Certificates to trust at https://, as PEM.")
@click.option("--profile", metavar="NAME", help="The AWS profile whose key signs the requests.")
@click.option(
    "--acknowledge",
    type=click.Choice(["delivered", "stored", "accepted", "none"]),
    default="delivered",
    show_default=True,
    help="What the daemon is to promise before a record counts as sent.",
)
@config_option
def put(
    file: str,
    stream: str,
    partition_key: str | None,
    key_field: str | None,
    socket: str | None,
    endpoint: str | None,
    ca_file: str | None,
    profile: str | None,
    acknowledge: str,
    config_path: str | None,
    *,
    is_csv: bool,
    is_data: bool,
) -> None:
    """Send the lines of a file as records, through a daemon.

    FILE is standard input by default; a file that ends in .gz is inflated. The daemon is found by
    --socket or --endpoint, or else where the configuration says that it listens.

    Each line is a record. If the first line is a JSON object with `data` or `data_base64` (and
    otherwise only `partition_key`, `explicit_hash_key`, `stream`), every line is such an object. If
    not, every line is data. Blank lines are skipped. A record without a key goes to any shard. Text
    is UTF-8; a byte order mark at its start is left out. If the daemon has no room, `put` tries
    again for an hour at most. Exit 1 if a record was refused.

    Over HTTP, requests are signed if there is a key to sign with: that of --profile, else
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else that of the profile AWS_PROFILE. A profile
    stands in ~/.aws/credentials (or AWS_SHARED_CREDENTIALS_FILE) with aws_access_key_id and
    aws_secret_access_key.
    """
    if partition_key is not None and key_field is not None:
        raise click.UsageError("--partition-key and --partition-key-field exclude each other.")
    if is_data and (is_csv or key_field is not None):
        raise click.UsageError("--lines takes lines as they are: no --csv, no key field.")
    if socket is not None and endpoint is not None:
        raise click.UsageError("--socket and --endpoint exclude each other.")
    if socket is None and endpoint is None:
        socket, endpoint = _find_daemon(load(config_path, [], EITHER_DAEMON))
    if endpoint is not None and acknowledge == "none":
        raise click.UsageError("--acknowledge none needs the Unix socket: HTTP always answers.")
    if profile is not None and endpoint is None:
        raise click.UsageError("--profile signs HTTP requests: it needs --endpoint.")
    from kdaemon.put.lines import Form  # noqa: PLC0415 - see run

    form = Form(partition_key, key_field, is_csv=is_csv, is_data=is_data)
    _put(file, form, stream, acknowledge, socket, endpoint, ca_file, profile)


def _find_daemon(config: "Config") -> tuple[str | None, str | None]:
    """(socket, endpoint) of a daemon here, one of them None."""
    return find_daemon(config, SYSTEM_SOCKET)


def _put(
    file: str,
    form: "Form",
    stream: str,
    acknowledge: str,
    socket: str | None,
    endpoint: str | None,
    ca_file: str | None,
    profile: str | None,
) -> NoReturn:
    """Sends the records, with a progress bar on a terminal. Then prints the summary, whatever
    happened, and exits.
    """
    from kdaemon.put.lines import LineFormer  # noqa: PLC0415 - see run
    from kdaemon.put.source import Source  # noqa: PLC0415 - see run
    from kdaemon.put.unix import PutError, Totals, UnixPut, form_blocks  # noqa: PLC0415 - see run
    from kdaemon.system import SystemClock  # noqa: PLC0415 - see run

    name = "standard input" if file == "-" else file
    try:
        descriptor = 0 if file == "-" else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        click.echo(f"cannot read {printable(name)}: {error.strerror}", err=True)
        sys.exit(1)
    totals = Totals()
    source = Source(descriptor, name, is_gzip=file.endswith(".gz"))
    started_ns = SystemClock.now_ns()
    problem: str | None = None
    exit_code = 0
    try:
        with _progress(source, totals) as (on_progress, tell):
            blocks = form_blocks(source, LineFormer(form), totals)
            if endpoint is not None:
                from kdaemon.put.http import HttpPut  # noqa: PLC0415 - brings aiohttp
                from kdaemon.put.signing import signer_of  # noqa: PLC0415 - see run

                signer = signer_of(os.environ, SystemClock.wall_seconds, profile)
                http = HttpPut(stream, acknowledge, totals, on_progress, tell, signer, ca_file)
                asyncio.run(http.send(endpoint, blocks))
            else:
                unix = UnixPut(stream, acknowledge, totals, on_progress)
                asyncio.run(unix.send(socket or SYSTEM_SOCKET, blocks))
    except PutError as error:
        problem, exit_code = str(error), 1
    except KeyboardInterrupt:
        problem = f"interrupted with {count(totals.open, 'record')} unanswered"
        exit_code = EXIT_INTERRUPTED
    seconds = (SystemClock.now_ns() - started_ns) / 1e9
    _summarise(totals, seconds, problem, is_answered=acknowledge != "none")
    sys.exit(exit_code or (1 if totals.rejected else 0))


def _summarise(totals: "Totals", seconds: float, problem: str | None, *, is_answered: bool) -> None:
    """Prints the reasons and the problem on standard error, the counts on standard output."""
    for reason in totals.reasons:
        click.echo(f"rejected: {printable(reason)}", err=True)
    if totals.rejected > len(totals.reasons):
        click.echo(f"rejected: and {totals.rejected - len(totals.reasons):,} more", err=True)
    if problem is not None:
        click.echo(printable(problem), err=True)
    done = totals.acknowledged if is_answered else totals.sent
    answered = f"acknowledged {totals.acknowledged:,}, " if is_answered else ""
    rate = done / seconds if seconds > 0 else 0.0
    summary = (
        f"sent {count(totals.sent, 'record')}, {answered}rejected {totals.rejected:,} "
        f"in {seconds:.1f} s ({rate:,.0f} records/s)"
    )
    try:
        click.echo(summary)
    except BrokenPipeError:  # nobody reads the summary; the exit code says what matters
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())


_Shown = tuple[Callable[[], object], Callable[[str], object]]
"""A function that shows progress, and one that takes the reason why nothing goes on."""


def _tell(line: str) -> None:
    click.echo(printable(line), err=True)


def _progress(source: "Source", totals: "Totals") -> AbstractContextManager[_Shown]:
    """On a terminal a bar: bytes of the file, records acknowledged, rate. Elsewhere only the reason
    why nothing goes on.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext((lambda: None, _tell))
    return _bar(source, totals)


@contextmanager
def _bar(source: "Source", totals: "Totals") -> Iterator[_Shown]:
    from rich.console import Console  # noqa: PLC0415 - see run
    from rich.progress import (  # noqa: PLC0415 - see run
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    progress = Progress(
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[records]:,} records"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[waits]}", markup=False),
        console=Console(stderr=True),
    )
    task = progress.add_task("", total=source.size_bytes, records=0, rate=0.0, waits="")

    def show() -> None:
        elapsed_s = progress.tasks[0].elapsed or 0.0
        done = totals.acknowledged or totals.sent
        rate = done / elapsed_s if elapsed_s else 0.0
        waits = f"waiting: {printable(totals.waits_for)}" if totals.waits_for else ""
        progress.update(task, completed=source.read_bytes, records=done, rate=rate, waits=waits)

    def tell(_: str) -> None:
        """Prints nothing, because the bar shows the reason."""

    with progress:
        yield show, tell
        show()

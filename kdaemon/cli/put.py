"""`kdaemon put`: sends the lines of a file through a daemon, and says what became of them.

The options, one progress and one summary; the client itself is `put/`.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import click

from kdaemon.base.text import printable
from kdaemon.cli.common import EXIT_INTERRUPTED, CommandError, count, say, utf8
from kdaemon.cli.help import Command
from kdaemon.cli.way import Way, tell_rejected, way_options
from kdaemon.system import SystemClock

if TYPE_CHECKING:
    from kdaemon.put.lines import Form
    from kdaemon.put.source import Source
    from kdaemon.put.waiting import Totals


@click.command(
    cls=Command,
    examples=(
        ("echo hello | kdaemon put --stream demo", "one record"),
        ("kdaemon put --stream clicks --partition-key-field user.id clicks.jsonl.gz", "JSON lines"),
        ("kdaemon put --stream sales --csv --partition-key-field shop sales.csv", "CSV"),
        ("kdaemon put rest.ndjson", "lines that name their streams, as `spool export` writes"),
    ),
)
@click.argument("file", default="-")
@click.option(
    "--stream",
    type=utf8,
    metavar="NAME",
    help="Name or ARN of the stream. Not needed if each line is an object that names its `stream`.",
)
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
@way_options
@click.option("--ca-file", metavar="PATH", help="Certificates to trust at https://, as PEM.")
@click.option("--profile", metavar="NAME", help="The AWS profile whose key signs the requests.")
@click.option(
    "--acknowledge",
    type=click.Choice(["delivered", "stored", "accepted", "none"]),
    default="delivered",
    show_default=True,
    help="What the daemon is to promise before a record counts as sent.",
)
def put(
    file: str,
    stream: str | None,
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
    again for an hour at most. If the daemon does not answer for some seconds, a line says so, with
    what the daemon tells of the stream. Exit 1 if a record was refused.

    Over HTTP, requests are signed if there is a key to sign with: that of --profile, else
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else that of the profile AWS_PROFILE. A profile
    stands in ~/.aws/credentials (or AWS_SHARED_CREDENTIALS_FILE) with aws_access_key_id and
    aws_secret_access_key.
    """
    if partition_key is not None and key_field is not None:
        raise click.UsageError("--partition-key and --partition-key-field exclude each other.")
    if is_data and (is_csv or key_field is not None):
        raise click.UsageError("--lines takes lines as they are: no --csv, no key field.")
    if stream is None and (is_csv or is_data or key_field is not None):
        raise click.UsageError("Lines that are data name no stream: say --stream NAME.")
    way = Way(socket, endpoint, config_path).found()
    if way.endpoint is not None and acknowledge == "none":
        raise click.UsageError("--acknowledge none needs the Unix socket: HTTP always answers.")
    if profile is not None and way.endpoint is None:
        raise click.UsageError("--profile signs HTTP requests: it needs --endpoint.")
    from kdaemon.put.lines import Form  # noqa: PLC0415 - see cli/__init__.py

    is_named = stream is None
    form = Form(partition_key, key_field, is_csv=is_csv, is_data=is_data, names_streams=is_named)
    _put(file, form, stream, acknowledge, way, ca_file, profile)


def _put(
    file: str,
    form: "Form",
    stream: str | None,
    acknowledge: str,
    way: Way,
    ca_file: str | None,
    profile: str | None,
) -> NoReturn:
    """Sends the records, with a progress bar on a terminal. Then prints the summary, whatever
    happened, and exits.
    """
    from kdaemon.put.lines import LineFormer  # noqa: PLC0415 - see cli/__init__.py
    from kdaemon.put.signing import signer_of  # noqa: PLC0415 - see cli/__init__.py
    from kdaemon.put.source import Source  # noqa: PLC0415 - see cli/__init__.py
    from kdaemon.put.unix import PutError, form_blocks  # noqa: PLC0415 - see cli/__init__.py
    from kdaemon.put.waiting import Person, Totals  # noqa: PLC0415 - see cli/__init__.py

    name = "standard input" if file == "-" else file
    try:
        descriptor = 0 if file == "-" else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CommandError(f"cannot read {name}: {error.strerror}") from error
    totals = Totals()
    source = Source(descriptor, name, is_gzip=file.endswith(".gz"))
    started_ns = SystemClock.now_ns()
    problem: str | None = None
    exit_code = 0
    try:
        with _progress(source, totals) as (on_progress, tell):
            person = Person(on_progress, tell, partial(way.look, stream))
            blocks = form_blocks(source, LineFormer(form), totals)
            signer = None
            if way.endpoint is not None:
                signer = signer_of(os.environ, SystemClock.wall_seconds, profile)
            asyncio.run(way.send(stream, acknowledge, totals, person, blocks, signer, ca_file))
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
    tell_rejected(totals.rejected, totals.reasons)
    if problem is not None:
        say(problem, err=True)
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


def _progress(source: "Source", totals: "Totals") -> AbstractContextManager[_Shown]:
    """On a terminal a bar: bytes of the file, records acknowledged, rate. Elsewhere only the reason
    why nothing goes on.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext((lambda: None, partial(say, err=True)))
    return _bar(source, totals)


@contextmanager
def _bar(source: "Source", totals: "Totals") -> Iterator[_Shown]:
    from rich.console import Console  # noqa: PLC0415 - see cli/__init__.py
    from rich.progress import (  # noqa: PLC0415 - see cli/__init__.py
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

    with progress:
        yield show, lambda _reason: None  # the bar shows it
        show()

"""`kdaemon dead-letters`: shows records that were not delivered and why; sends or deletes them.

The letters are in the spool's database. Reading and purging needs no daemon and does not disturb
one.
Invariant: only `replay` and `purge` delete, and each deletes only what it said it would.
"""

import asyncio
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from kdaemon.base.counters import DeadReason
from kdaemon.base.text import printable
from kdaemon.cli.common import (
    EXIT_INTERRUPTED,
    CommandError,
    F,
    config_option,
    confirm,
    count,
    now_ms,
    say,
    utf8,
)
from kdaemon.cli.help import Command
from kdaemon.cli.spool_files import (
    directory_option,
    exporting,
    opened,
    output_option,
    spool_directory,
    written,
)
from kdaemon.cli.values_text import byte_text, data_text, printable_json, read_time, time_text
from kdaemon.cli.way import Way, tell_rejected, way_options

if TYPE_CHECKING:
    from kdaemon.cli.replay import Replayed
    from kdaemon.spool.letters import LetterFilter
    from kdaemon.spool.view import StoreView

LIST_LIMIT = 100  # letters in a table if --limit is not given: a few screens; ours

_AGAIN = (
    "this may pass: kdaemon tries a stream that is on hold again within 30 s. Replay when `kdaemon"
    " status` shows the stream as ok; or with --acknowledge stored: the spool keeps the records"
    " until then"
)


def _moment(text: str) -> int:
    """Unix milliseconds of a time that somebody gave."""
    try:
        return read_time(text, now_ms())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _filters(command: F) -> F:
    """Adds the options that choose letters; `_which` reads them."""
    reasons = click.Choice([reason.value for reason in DeadReason])
    options = [
        click.option("--stream", type=utf8, metavar="NAME", help="Only those of this stream."),
        click.option("--reason", type=reasons, help="Only those that died of this."),
        click.option(
            "--since",
            type=_moment,
            metavar="TIME",
            help="Only those that died at TIME or later: 2026-11-21T20:34 (UTC), or 2h (ago).",
        ),
        click.option(
            "--until", type=_moment, metavar="TIME", help="Only those that died before TIME."
        ),
        click.option(
            "--id",
            "ids",
            type=int,
            metavar="ID",
            multiple=True,
            help="Only the one with this ID; repeatable.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _which(
    stream: str | None,
    reason: str | None,
    since: int | None,
    until: int | None,
    ids: tuple[int, ...],
) -> "LetterFilter":
    from kdaemon.spool.letters import LetterFilter  # noqa: PLC0415 - brings SQLite

    if since is not None and until is not None and since >= until:
        text = f"--since ({time_text(since)}) must be before --until ({time_text(until)})."
        raise click.UsageError(text)
    return LetterFilter(stream, reason, since, until, ids or None)


@click.group("dead-letters")
def dead_letters() -> None:
    """List records that could not be delivered; send them again.

    Their clients have an acknowledgement; the spool keeps each record with its reason: `poison`
    (the service refuses this very record), `expired` (the record is older than max_age_ms) or
    `missing_stream` (the stream is not listed, and does not exist).
    """


@dead_letters.command(
    "list", cls=Command, examples=(("kdaemon dead-letters list --since 2h", "of the last 2 hours"),)
)
@config_option
@directory_option
@_filters
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"List N at most. Default: {LIST_LIMIT}, or all with --json.",
)
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object a line.")
def list_(
    config_path: str | None,
    directory: str | None,
    limit: int | None,
    *,
    is_json: bool,
    **filters: Any,
) -> None:
    """List dead letters, the newest first, without their data."""
    which = _which(**filters)
    directory = spool_directory(directory, config_path)
    with opened(directory) as view:
        if is_json:
            _list_json(view, which, limit)
        else:
            _list_table(view, which, limit or LIST_LIMIT)


def _list_json(view: "StoreView", which: "LetterFilter", limit: int | None) -> None:
    import msgspec  # noqa: PLC0415 - only here

    from kdaemon.cli.reading import letter_fields  # noqa: PLC0415 - brings SQLite

    with written("-") as out:
        for letter in view.letters.select(which, newest_first=True, limit=limit):
            out.write(msgspec.json.encode(letter_fields(letter, has_data=False)) + b"\n")


def _list_table(view: "StoreView", which: "LetterFilter", limit: int) -> None:
    from kdaemon.cli.terminal import show_table  # noqa: PLC0415 - brings rich

    rows = [
        (
            str(letter.id),
            time_text(letter.last_ms, "seconds"),
            letter.stream,
            letter.reason if letter.is_intact else f"{letter.reason} (damaged)",
            letter.code,
            str(letter.attempts),
            byte_text(len(letter.data)),
            letter.partition_key,
        )
        for letter in view.letters.select(which, newest_first=True, limit=limit)
    ]
    if not rows:
        say("no dead letters")
        return
    columns = [("ID", "right"), ("DIED", "left"), ("STREAM", "rest"), ("REASON", "left")]
    columns += [("CODE", "rest"), ("ATTEMPTS", "right"), ("SIZE", "right"), ("KEY", "rest")]
    show_table(columns, rows)
    total = view.letters.count(which).letter_count
    if total > len(rows):
        say(f"{len(rows):,} of {total:,}: --limit shows more, --json all", err=True)


@dead_letters.command(cls=Command)
@click.argument("letter_id", metavar="ID", type=int)
@config_option
@directory_option
@click.option(
    "--json", "is_json", is_flag=True, help="Print one JSON object, as `export` writes it."
)
def show(letter_id: int, config_path: str | None, directory: str | None, *, is_json: bool) -> None:
    """Show one dead letter with its data, as text or in base64."""
    import msgspec  # noqa: PLC0415 - only here

    from kdaemon.cli.reading import letter_fields  # noqa: PLC0415 - brings SQLite
    from kdaemon.spool.letters import LetterFilter  # noqa: PLC0415 - as above

    directory = spool_directory(directory, config_path)
    with opened(directory) as view:
        letter = next(view.letters.select(LetterFilter(ids=(letter_id,))), None)
    if letter is None:
        raise CommandError(f"{directory}: no dead letter {letter_id}")
    if is_json:
        text = msgspec.json.encode(letter_fields(letter, has_data=True)).decode()
        click.echo(printable_json(text))
        return
    fields = letter_fields(letter, has_data=False)
    if not letter.is_intact:
        say("what is stored is not what was written, and is never replayed", err=True)
    for name, value in fields.items():
        say(f"{name:<18} {'-' if value in {None, ''} else printable(str(value))}")
    kind, text = data_text(letter.data)
    click.echo(f"{'data (' + kind + ')':<18} {text}")


@dead_letters.command(cls=Command)
@config_option
@directory_option
@_filters
@output_option
def export(config_path: str | None, directory: str | None, output: str, **filters: Any) -> None:
    """Write dead letters as JSON lines, with their data.

    The oldest is the first. They stay in the spool. Exit 1 if one of them is damaged.
    """
    import msgspec  # noqa: PLC0415 - only here

    from kdaemon.cli.reading import letter_fields  # noqa: PLC0415 - brings SQLite

    which = _which(**filters)
    directory = spool_directory(directory, config_path)
    done = damaged = 0
    with opened(directory) as view:
        total = view.letters.count(which).letter_count
        with exporting(output, "dead letters") as (out, on_progress):
            for letter in view.letters.select(which):
                out.write(msgspec.json.encode(letter_fields(letter, has_data=True)) + b"\n")
                done += 1
                damaged += not letter.is_intact
                on_progress(done, max(done, total))
    text = f"exported {count(done, 'dead letter')}"
    say(text if output == "-" else f"{text}: {output}", err=True)
    if damaged:
        raise CommandError(f"{damaged:,} of them are damaged: `is_intact` says which")


@dead_letters.command(cls=Command)
@config_option
@directory_option
@_filters
@click.option(
    "--dry-run",
    "is_dry_run",
    is_flag=True,
    help="Say how many would be deleted, and delete nothing.",
)
@click.option("--yes", "is_confirmed", is_flag=True, help="Delete without asking.")
def purge(
    config_path: str | None,
    directory: str | None,
    *,
    is_dry_run: bool,
    is_confirmed: bool,
    **filters: Any,
) -> None:
    """Delete dead letters for good; all, if no option chooses."""
    which = _which(**filters)
    directory = spool_directory(directory, config_path)
    with opened(directory) as view:
        if not (is_dry_run or is_confirmed) and which.until_ms is None:
            # Letters that are buried while the question is open were not asked about.
            which = replace(which, until_ms=now_ms() + 1)
        total = view.letters.count(which)
        counted = f"{count(total.letter_count, 'dead letter')} ({byte_text(total.byte_count)})"
        if is_dry_run or not total.letter_count:
            say(f"would delete {counted}" if is_dry_run else "no dead letters")
            return
        if not is_confirmed:
            confirm(f"{directory}: delete {counted} for good?")
        deleted = view.letters.delete(which)
    say(f"deleted {count(deleted.letter_count, 'dead letter')} ({byte_text(deleted.byte_count)})")


@dead_letters.command(
    cls=Command,
    examples=(
        ("kdaemon dead-letters replay --reason missing_stream --dry-run", "how many there are"),
        ("kdaemon dead-letters replay --reason missing_stream", "send them"),
    ),
)
@directory_option
@_filters
@way_options
@click.option(
    "--acknowledge",
    type=click.Choice(["delivered", "stored"]),
    default="delivered",
    show_default=True,
    help="What the daemon is to promise before a letter is deleted.",
)
@click.option(
    "--dry-run", "is_dry_run", is_flag=True, help="Say how many would be sent, and send nothing."
)
def replay(
    config_path: str | None,
    directory: str | None,
    socket: str | None,
    endpoint: str | None,
    acknowledge: str,
    *,
    is_dry_run: bool,
    **filters: Any,
) -> None:
    """Send dead letters again, through a running daemon.

    The oldest of each stream is sent first. A letter is deleted when the daemon has acknowledged
    its record, and kept if the record was refused. Exit 1 if one was kept.
    """
    way = Way(socket, endpoint, config_path)
    which = _which(**filters)
    directory = spool_directory(directory, config_path)
    with opened(directory) as view:
        streams = sorted(view.census().letters) if which.stream is None else [which.stream]
        by_stream = {stream: replace(which, stream=stream) for stream in streams}
        counts = {name: view.letters.count(each).letter_count for name, each in by_stream.items()}
        by_stream = {stream: by_stream[stream] for stream in streams if counts[stream]}
        if is_dry_run or not by_stream:
            for stream in by_stream:
                letters = count(counts[stream], "dead letter")
                say(f"would send {letters} to {printable(stream)}")
            if not by_stream:
                say("no dead letters")
            return
        exit_code = _replay(view, by_stream, way.found(), acknowledge, sum(counts.values()))
    sys.exit(exit_code)


def _replay(
    view: "StoreView",
    by_stream: dict[str, "LetterFilter"],
    way: Way,
    acknowledge: str,
    total: int,
) -> int:
    """Sends letters, with a progress bar on a terminal. Then prints the summary, whatever happened.
    Returns the exit code.
    """
    from kdaemon.cli.replay import Replayed  # noqa: PLC0415 - brings SQLite
    from kdaemon.cli.replay import replay as replay_letters  # noqa: PLC0415 - as above
    from kdaemon.cli.terminal import progress  # noqa: PLC0415 - brings rich
    from kdaemon.put.waiting import Person  # noqa: PLC0415 - as above

    replayed = Replayed()
    exit_code = 0
    try:
        with progress("dead letters") as on_progress:

            def show() -> None:
                on_progress(replayed.deleted + replayed.rejected, total)

            def person_of(stream: str) -> Person:
                return Person(show, partial(say, err=True), partial(way.look, stream))

            asyncio.run(
                replay_letters(view.letters, by_stream, way, acknowledge, replayed, person_of)
            )
    except KeyboardInterrupt:
        replayed.problems.append("interrupted")
        exit_code = EXIT_INTERRUPTED
    _summarise(replayed, total, acknowledge)
    is_done = not (replayed.problems or replayed.rejected or replayed.damaged or replayed.open)
    return exit_code or (0 if is_done else 1)


def _summarise(replayed: "Replayed", total: int, acknowledge: str) -> None:
    """Prints reasons and problems on standard error, the counts on standard output."""
    tell_rejected(replayed.rejected, replayed.reasons)
    if replayed.may_pass:
        say(_AGAIN, err=True)
    if replayed.damaged:
        letters = count(replayed.damaged, "dead letter")
        say(f"not sent: {letters} not as written (damaged)", err=True)
    for problem in replayed.problems:
        say(problem, err=True)
    if replayed.open:
        text = "may have been taken or not, and is kept"
        say(f"without an answer: {count(replayed.open, 'record')}; each {text}", err=True)
    say(
        f"sent {replayed.sent:,} of {count(total, 'dead letter')}: "
        f"{replayed.deleted:,} {acknowledge} and deleted, {replayed.rejected:,} rejected and kept"
    )

"""`kdaemon spool`: what is on disk and not delivered yet. Only `drop` deletes, and it asks first;
only `salvage` makes a spool, in a directory of its own.
"""

import sys
from pathlib import Path

import click

from kdaemon.base.names import parse_qualified
from kdaemon.base.text import printable
from kdaemon.cli.common import CommandError, config_option, confirm, count, now_ms, say, utf8
from kdaemon.cli.help import Command
from kdaemon.cli.spool_files import (
    daemon_text,
    directory_option,
    exporting,
    held,
    opened,
    output_option,
    saved_copy,
    spool_directories,
    spool_directory,
)
from kdaemon.cli.values_text import age_text, byte_text, time_text

# Statements that a verification runs before its first row: SQLite's own check, names, totals.
_STATEMENTS_BEFORE_ROWS = 4


@click.group()
def spool() -> None:
    """Look into the records on disk; export them, or drop them."""


@spool.command(cls=Command)
@config_option
@directory_option
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
def status(config_path: str | None, directory: str | None, *, is_json: bool) -> None:
    """Show what is stored of each stream.

    Also whether a daemon runs on the spool. If there are several workers, each has a spool, and all
    of them are shown (with --json, a line for each).
    """
    for each in spool_directories(directory, config_path):
        _tell_spool(each, is_json=is_json)


def _tell_spool(directory: str, *, is_json: bool) -> None:
    from kdaemon.spool.directory import set_aside_files  # noqa: PLC0415 - brings SQLite

    with opened(directory) as view:
        stored_totals = {totals.stream: totals for totals in view.stored_totals()}
        census = view.census()
        pid, size_bytes = view.holder_pid, view.size_bytes
    asked_ms = now_ms()
    streams: list[dict[str, str | int | None]] = []
    for name in sorted({*stored_totals, *census.letters, *census.quarantine}):
        totals = stored_totals.get(name)
        letter_count, letter_bytes = census.letters.get(name, (0, 0))
        streams.append(
            {
                "stream": name,
                "upstream": parse_qualified(name).upstream,
                "frames": totals.frame_count if totals else 0,
                "records": totals.record_count - census.settled.get(name, 0) if totals else 0,
                "bytes": totals.byte_count if totals else 0,
                "oldest": time_text(totals.oldest_ms) if totals else None,
                "oldest_age_ms": max(0, asked_ms - totals.oldest_ms) if totals else None,
                "dead_letters": letter_count,
                "dead_letter_bytes": letter_bytes,
                "quarantined_frames": census.quarantine.get(name, 0),
            }
        )
    aside = set_aside_files(directory)
    if is_json:
        import json  # noqa: PLC0415 - only here

        found = {
            "directory": directory,
            "is_held": pid is not None,
            "daemon_pid": pid or None,
            "size_bytes": size_bytes,
            "streams": streams,
            "set_aside": aside,
        }
        click.echo(json.dumps(found))
        return
    say(f"{directory}: {byte_text(size_bytes)} on disk, {daemon_text(pid)}")
    for path in aside:
        say(f"a damaged database stands aside: {path} (kdaemon spool salvage reads it again)")
    _show_streams(streams)


def _show_streams(streams: list[dict[str, str | int | None]]) -> None:
    from kdaemon.cli.terminal import show_table  # noqa: PLC0415 - brings rich

    if not streams:
        say("nothing is stored")
        return
    rows = []
    for each in streams:
        age_ms = each["oldest_age_ms"]
        rows.append(
            (
                str(each["stream"] or "(unknown)"),
                f"{each['frames']:,}",
                f"{each['records']:,}",
                byte_text(int(each["bytes"] or 0)),
                "-" if age_ms is None else age_text(int(age_ms)),
                f"{each['dead_letters']:,}",
                f"{each['quarantined_frames']:,}",
            )
        )
    headings = ("FRAMES", "RECORDS", "SIZE", "OLDEST", "DEAD LETTERS", "QUARANTINE")
    show_table([("STREAM", "name"), *((heading, "right") for heading in headings)], rows)


@spool.command(cls=Command)
@config_option
@directory_option
def verify(config_path: str | None, directory: str | None) -> None:
    """Check every stored record; exit 1 if one is damaged.

    The daemon may run meanwhile.
    """
    from kdaemon.cli.terminal import progress  # noqa: PLC0415 - brings rich
    from kdaemon.cli.watched import verify_watched  # noqa: PLC0415 - brings SQLite
    from kdaemon.spool.letters import LetterFilter  # noqa: PLC0415 - as above

    directory = spool_directory(directory, config_path)
    with opened(directory) as view, progress("rows") as on_progress:
        total = sum(totals.frame_count for totals in view.stored_totals())
        total += view.letters.count(LetterFilter()).letter_count

        def show(statement_count: int) -> None:
            is_at_rows = statement_count > _STATEMENTS_BEFORE_ROWS
            on_progress(min(statement_count, total), total if is_at_rows else None)

        found = verify_watched(view, show)
        pid = view.holder_pid
    told = [printable(problem) for problem in found.problems]
    told += [f"frame {frame_id}: not what was written" for frame_id in found.corrupt_ids]
    if found.corrupt_count > len(found.corrupt_ids):
        told.append(f"and {found.corrupt_count - len(found.corrupt_ids):,} damaged frames more")
    if found.corrupt_letter_count:
        told.append(f"{count(found.corrupt_letter_count, 'dead letter')}: not what was written")
    for line in told:
        say(f"{directory}: {line}", err=True)
    say(
        f"{directory}: {count(found.frame_count, 'frame')} with "
        f"{count(found.record_count, 'sound record')}, "
        f"{count(found.letter_count, 'dead letter')}, {found.quarantine_count:,} in quarantine, "
        f"{daemon_text(pid)}: {'all sound' if found.is_sound else 'DAMAGED'}"
    )
    if not found.is_sound:
        if found.problems or found.corrupt_count:
            text = "puts damaged frames into quarantine and delivers the rest"
            say(f"The daemon {text}; look at the disk (dmesg).", err=True)
        sys.exit(1)


@spool.command(
    cls=Command,
    examples=(
        ("kdaemon spool export --stream orders --output orders.jsonl", "to a file ..."),
        ("kdaemon put --stream orders orders.jsonl", "... and through a daemon again"),
    ),
)
@config_option
@directory_option
@click.option("--stream", type=utf8, metavar="NAME", help="Only the records of this stream.")
@output_option
@click.option(
    "--while-running", "is_allowed", is_flag=True, help="Export although a daemon delivers them."
)
def export(
    config_path: str | None,
    directory: str | None,
    stream: str | None,
    output: str,
    *,
    is_allowed: bool,
) -> None:
    """Write the records that are not known to be delivered.

    Each is a line that `kdaemon put` takes. Dead letters are left out: `kdaemon dead-letters
    export` writes those. Exit 1 if damaged records had to be left out.
    """
    from kdaemon.cli.reading import export_records  # noqa: PLC0415 - brings SQLite
    from kdaemon.spool.lock import holder_pid  # noqa: PLC0415 - as above

    directory = spool_directory(directory, config_path)
    with opened(directory) as view:
        is_held = view.holder_pid is not None
        if is_held and not is_allowed:
            raise CommandError(
                f"{directory}: {daemon_text(view.holder_pid)} and delivers these records: stop it, "
                "or export all the same with --while-running"
            )
        stored_totals = [each for each in view.stored_totals() if stream in {None, each.stream}]
        with exporting(output, "records") as (out, on_progress):
            exported = export_records(view, stored_totals, out, on_progress)
    text = f"exported {count(exported.record_count, 'record')}"
    if exported.settled_count:
        text += f", left out {exported.settled_count:,} known to be settled"
    say(text if output == "-" else f"{text}: {Path(output)}", err=True)
    if is_held or holder_pid(directory) is not None:
        text = "records may have been delivered, or been added, meanwhile"
        say(f"a daemon runs on the spool: {text}", err=True)
    if exported.corrupt_count:
        frames = count(exported.corrupt_count, "damaged frame")
        raise CommandError(f"left out {frames}: `kdaemon spool verify` names them")


@spool.command(cls=Command)
@click.argument("file")
@click.option("--into", "directory", required=True, metavar="DIR", help="A new directory.")
def salvage(file: str, directory: str) -> None:
    """Make a new spool of all that can be read of a damaged one.

    For a FILE that a daemon has set aside (spool.db.corrupt-...), or a copy of a spool.db. FILE and
    its log (FILE-wal) are only read. A daemon salvages by itself when it meets damage, and goes on
    with what it saved: send what stands in DIR only if that daemon did not, or the records come
    twice. Exit 1 if not all could be read.
    """
    directory = str(Path(directory).absolute())
    saved = saved_copy(file, directory)
    found = saved.found
    log = (
        f"with its log {file}-wal, up to the last commit that is whole in it"
        if saved.has_log
        else "which has no log beside it (-wal): the last commits may have stood there only"
    )
    say(f"{file}: read, {log}", err=True)
    for problem in saved.problems:
        say(f"{file}: {problem}", err=True)
    if found.corrupt_count or found.corrupt_letter_count:
        frames = count(found.corrupt_count, "damaged frame")
        letters = count(found.corrupt_letter_count, "damaged dead letter")
        say(f"{file}: {frames} and {letters} are not what was written", err=True)
    say(
        f"{directory}: {count(found.record_count, 'record')} in "
        f"{count(found.frame_count - found.corrupt_count, 'frame')} and "
        f"{count(found.letter_count - found.corrupt_letter_count, 'dead letter')} saved"
        f"{'' if saved.is_all else ', NOT ALL that was there'}"
    )
    where = f"--directory {directory}"
    say(f"`kdaemon spool export {where}` writes the records as lines for `kdaemon put`,", err=True)
    say(f"`kdaemon dead-letters export {where}` writes the dead letters", err=True)
    if not saved.is_all:
        sys.exit(1)


@spool.command(cls=Command)
@config_option
@directory_option
@click.option(
    "--stream", type=utf8, required=True, metavar="NAME", help="Its name, as `status` shows it."
)
@click.option(
    "--dry-run",
    "is_dry_run",
    is_flag=True,
    help="Say how much would be deleted, and delete nothing.",
)
@click.option("--yes", "is_confirmed", is_flag=True, help="Delete without asking.")
def drop(
    config_path: str | None,
    directory: str | None,
    stream: str,
    *,
    is_dry_run: bool,
    is_confirmed: bool,
) -> None:
    """Delete the stored records of one stream, for good.

    For a stream that will never take its records: they were acknowledged as stored, and are lost.
    `kdaemon spool export` writes them to a file first. The daemon must be stopped. Dead letters
    stay: `kdaemon dead-letters purge --stream NAME` deletes those.
    """
    from kdaemon.cli.terminal import progress  # noqa: PLC0415 - brings rich

    directory = spool_directory(directory, config_path)
    name = printable(stream)
    with opened(directory) as view:
        totals = next((each for each in view.stored_totals() if each.stream == stream), None)
        quarantine_count = view.census().quarantine.get(stream, 0)
        pid = view.holder_pid
    if totals is None and not quarantine_count:
        say(f"nothing is stored of {name}")
        return
    records, frames, size = (
        (totals.record_count, totals.frame_count, totals.byte_count) if totals else (0, 0, 0)
    )
    counted = _drop_text(name, records, frames, size, quarantine_count)
    if is_dry_run:
        say(f"would delete {counted}")
        return
    if pid is not None:
        raise CommandError(f"{directory}: {daemon_text(pid)}: stop it before anything is deleted")
    if not is_confirmed:
        confirm(f"{directory}: delete {counted} for good?")
    with held(directory) as store, progress("records") as on_progress:
        gone = store.drop_stream(stream, lambda done: on_progress(done, max(done, records)))
    counts = (gone.record_count, gone.frame_count, gone.byte_count, gone.quarantine_count)
    say(f"deleted {_drop_text(name, *counts)}")


def _drop_text(stream: str, records: int, frames: int, size: int, quarantine_count: int) -> str:
    text = f"{count(records, 'record')} in {count(frames, 'frame')} ({byte_text(size)})"
    if quarantine_count:
        text += f" and {count(quarantine_count, 'damaged frame')}"
    return f"{text} of {stream}"

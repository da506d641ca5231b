"""`kdaemon tap`: shows a live sample of the records that a stream takes, one line of JSON each."""

import json
import sys
from typing import Any

import click

from kdaemon.cli.admin import AdminError, AdminPlace, Asked, admin_options, get
from kdaemon.cli.common import say, utf8
from kdaemon.cli.help import Command
from kdaemon.cli.values_text import printable_json

TIMEOUT_S = 10.0  # seconds for one look, which takes half a second; ours, 2026-11-28


@click.command(
    cls=Command,
    examples=(("kdaemon tap --stream orders --data --count 1", "one look, with data"),),
)
@admin_options
@click.option(
    "--stream",
    type=utf8,
    required=True,
    metavar="NAME",
    help="The stream, as `kdaemon status` or the configuration names it.",
)
@click.option("--data", "with_data", is_flag=True, help="Show data and keys, not only sizes.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N looks.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=1.0), default=TIMEOUT_S, hidden=True
)
def tap(
    stream: str, count: int | None, timeout_s: float, *, with_data: bool, **options: Any
) -> None:
    """Show a sample of the records that a stream takes.

    The daemon must allow it: listen.admin_tap. Ctrl-C ends it.

    A look takes half a second and shows a hundred records at most; standard error says how many
    there were. Without --data, a line has the size of a record and a digest of its key. With
    --data, `kdaemon put` can send the line again, unless the data was cut at 4 KiB (`is_cut`).
    """
    from urllib.parse import urlencode  # noqa: PLC0415 - after the options are found right

    path = "/tap?" + urlencode({"stream": stream, "data": "1" if with_data else "0"})
    looks = 0
    try:
        place = Asked(**options).place()
        while count is None or looks < count:
            looks += 1
            if not _show(_sample(place, path, timeout_s)) and looks == 1:
                text = f"nothing of {stream} is taken now. `kdaemon status` names the streams"
                say(f"{text}, as --stream has them", err=True)
    except KeyboardInterrupt:
        sys.exit(0)


def _sample(place: AdminPlace, path: str, timeout_s: float) -> bytes:
    status, body = get(place, path, timeout_s)
    if status == 200:
        return body
    text = body[:300].decode(errors="replace").strip()
    if status == 404:
        text = "this daemon has no such page: is it of an older version?"
    raise AdminError(f"{place.url}/tap: {text or f'HTTP {status}'}")


def _show(body: bytes) -> int:
    """Prints a sample. Returns how many records there were, shown or not."""
    try:
        head, *lines = body.decode().splitlines()
        told = json.loads(head)
        seen, shown = int(told["seen"]), int(told["shown"])
    except (ValueError, KeyError, TypeError) as error:
        raise AdminError("the answer is no sample of kdaemon's") from error
    for line in lines:
        click.echo(printable_json(line))
    if seen > shown:
        say(f"{shown} of {seen:,} records are shown", err=True)
    return seen

"""`kdaemon health`, `kdaemon status` and `kdaemon top`: ask a running daemon, and change nothing.
Exit 1: the daemon does not answer, or the answer is no.
"""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from kdaemon.cli.admin import IS_IT, AdminError, Asked, admin_options, get, status_page
from kdaemon.cli.common import say
from kdaemon.cli.help import Command, Rows

if TYPE_CHECKING:
    from kdaemon.cli.screen import Screen

TIMEOUT_S = 5.0  # seconds for one page; ours, 2026-11-28

_STATES = (
    "ok; unseen: nothing has shown yet that the stream is there; failing: nothing goes out, and"
    " kdaemon goes on trying; hold: nothing goes out until somebody acts; off: no record is taken;"
    " missing: there is no such stream, and no configuration lists it. Lines beside the table say"
    " why."
)
COLUMNS: Rows = (
    ("STREAM", "The name; @UPSTREAM/NAME at another upstream than the default one."),
    ("IN/S", "Records a second that clients sent."),
    ("OUT/S", "Records a second that the service took."),
    ("REFUSED/S", "Records a second whose clients were told no."),
    ("BUFFERED", "Records in memory that wait for a call; of the spool, those that were read."),
    ("DISK ONLY", "Records in the spool that are not in memory yet: on disk, or on their way."),
    ("IN FLIGHT", "Records in calls that have no answer yet."),
    ("OLDEST", "How long the oldest buffered record has waited."),
    ("THROTTLED", "The part of all attempts that the service refused for its rate."),
    ("DELIVERY", "The mean time from a record's acceptance to its delivery, since the start."),
    ("STATE", _STATES),
)
"""The columns of the table of streams: the cells of a row of `screen.Screen.streams`."""

timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for an answer.",
)


@click.command(
    cls=Command,
    examples=(("kdaemon health --admin 127.0.0.1:8991", "for a probe: see the exit code"),),
)
@admin_options
@timeout_option
@click.option(
    "--live",
    "is_live",
    is_flag=True,
    help="Ask whether the daemon is alive, not whether it is ready.",
)
def health(timeout_s: float, *, is_live: bool, **options: Any) -> None:
    """Exit 0 if a running daemon is ready for clients, else 1.

    For probes that run a command. A daemon that cannot reach the service is alive and ready: to
    restart it would help nobody.
    """
    place, path = Asked(**options).place(), "/livez" if is_live else "/readyz"
    status, body = get(place, path, timeout_s)
    text = body[:300].decode(errors="replace").strip()
    if status == 503:
        raise AdminError(f"{'not alive' if is_live else 'not ready'}: {text}")
    if status != 200:
        raise AdminError(f"{place.url}{path}: HTTP {status}, and no answer of kdaemon's{IS_IT}")
    say(text)


@click.command(cls=Command, columns=COLUMNS)
@admin_options
@timeout_option
@click.option(
    "--json", "is_json", is_flag=True, help="Print everything that the daemon tells, as JSON."
)
def status(timeout_s: float, *, is_json: bool, **options: Any) -> None:
    """Show what waits in a running daemon, why, and what to do.

    Rates are averages since the daemon started; `kdaemon top` shows the rates of now.
    """
    page = status_page(Asked(**options).place(), timeout_s)
    if is_json:
        click.echo(json.dumps(page, indent=2))
        return
    from kdaemon.cli.live import show_screen  # noqa: PLC0415 - brings rich
    from kdaemon.cli.screen import screen  # noqa: PLC0415 - not for a probe

    show_screen(screen(page))


@click.command(cls=Command, columns=COLUMNS)
@admin_options
@timeout_option
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two looks.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N looks.")
def top(timeout_s: float, *, every_s: float, count: int | None, **options: Any) -> None:
    """Show what a running daemon does now, again every second.

    Ctrl-C ends it. If the output is not a terminal, each look is printed below the one before.
    """
    from kdaemon.cli.screen import screen  # noqa: PLC0415 - not for a probe

    try:
        place = Asked(**options).place()
        before = status_page(place, timeout_s)
        looks = 1
        with _screens() as show:
            show(screen(before), "")
            while count is None or looks < count:
                _wait(every_s)
                looks += 1
                try:
                    page = status_page(place, timeout_s)
                except AdminError as error:
                    if not sys.stdout.isatty():
                        raise
                    show(screen(before), f"NO ANSWER, this is old: {error}")
                    continue
                show(screen(page, before), "")
                before = page
    except KeyboardInterrupt:
        sys.exit(0)


def _wait(seconds: float) -> None:
    from threading import Event  # noqa: PLC0415 - not for a probe

    Event().wait(seconds)


def _screens() -> Any:
    """A context manager. Its value is a function that shows a screen and a line of warning."""
    from kdaemon.cli.live import live_screens, show_screen  # noqa: PLC0415 - brings rich

    if sys.stdout.isatty():
        return live_screens()
    from contextlib import nullcontext  # noqa: PLC0415 - not for a probe

    def show(found: "Screen", _warning: str) -> None:
        show_screen(found)
        click.echo()

    return nullcontext(show)

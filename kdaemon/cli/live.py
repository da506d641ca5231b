"""How a screen of `kdaemon status` and `kdaemon top` is laid out; those of `top` take each other's
place on a terminal. Imports rich.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from kdaemon.base.text import printable
from kdaemon.cli.screen import Screen
from kdaemon.cli.terminal import console, fitted
from kdaemon.cli.watch import COLUMNS

_KINDS = {"STREAM": "name", "HOT KEY": "name", "HOT SHARD": "left", "STATE": "left"}
_SHARDS = ("HOT SHARD", "STREAM", "BACKLOG", "BYTES", "BEHIND", "SHARE", "STATE")
_KEYS = ("", "HOT KEY", "OF RECORDS", "OF BYTES")
STREAM_COLUMNS, SHARD_COLUMNS, KEY_COLUMNS = (
    [(heading, _KINDS.get(heading, "right")) for heading in headings]
    for headings in ([heading for heading, _ in COLUMNS], _SHARDS, _KEYS)
)

HOT_SHARDS_MAX = 15  # rows of hot shards on a screen; ours

Show = Callable[[Screen, str], object]
"""Takes a screen, and a line of warning to show above it; "": no warning."""


def show_screen(found: Screen) -> None:
    """Prints a screen on standard output."""
    out = console()
    out.print(rendered(found, "", out.width, is_live=False))


@contextmanager
def live_screens() -> Iterator[Show]:
    """Restores the terminal when the block is left."""
    with Live(console=Console(), screen=True, auto_refresh=False) as live:

        def show(found: Screen, warning: str) -> None:
            width = live.console.width  # the terminal may have been resized
            live.update(rendered(found, warning, width, is_live=True), refresh=True)

        yield show


def rendered(found: Screen, warning: str, width: int, *, is_live: bool) -> Group:
    """What is shown. `is_live`: a terminal that is too small cuts off the end, so holds come before
    the tables, and a long line is cut.
    """
    head = [Text(printable(warning), style="bold red")] if warning else []
    head += [
        Text(printable(line), no_wrap=is_live, overflow="ellipsis" if is_live else "fold")
        for line in found.head
    ]
    holds = [Text(printable(line), style="bold yellow") for line in found.holds]
    tables: list[list[RenderableType]] = [
        [fitted(STREAM_COLUMNS, found.streams, width)]
        if found.streams
        else [Text("no stream is in use")]
    ]
    if found.shards:
        tables.append([fitted(SHARD_COLUMNS, found.shards[:HOT_SHARDS_MAX], width)])
    for load in found.loads:
        advice = Text(printable(load.advice), style="bold")
        tables.append([advice, fitted(KEY_COLUMNS, load.keys, width)])
    blocks: list[Sequence[RenderableType]] = (
        [[*head, *holds], *tables] if is_live else [head, *tables, holds]
    )
    spaced = [part for block in blocks if block for part in (Text(""), *block)]
    return Group(*spaced[1:])

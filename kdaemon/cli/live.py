"""Shows the screens of `kdaemon top` on a terminal, each in place of the one before. Imports
rich.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from kdaemon.base.text import printable
from kdaemon.cli.screen import KEY_COLUMNS, SHARD_COLUMNS, STREAM_COLUMNS, Screen
from kdaemon.cli.terminal import fitted

Show = Callable[[Screen, str], object]
"""Takes a screen, and a line of warning to show above it; "": no warning."""


@contextmanager
def live_screens(shards_max: int) -> Iterator[Show]:
    """Restores the terminal when the block is left."""
    with Live(console=Console(), screen=True, auto_refresh=False) as live:

        def show(found: Screen, warning: str) -> None:
            width = live.console.width  # the terminal may have been resized
            live.update(rendered(found, warning, shards_max, width), refresh=True)

        yield show


def rendered(found: Screen, warning: str, shards_max: int, width: int) -> Group:
    """What the terminal shows. A terminal that is too small cuts off the end, so holds come before
    the tables.
    """
    warnings = [Text(printable(warning), style="bold red")] if warning else []
    return Group(
        *warnings,
        *(Text(printable(line), no_wrap=True, overflow="ellipsis") for line in found.head),
        *(Text(printable(line), style="bold yellow") for line in found.holds),
        Text(""),
        fitted(STREAM_COLUMNS, found.streams, width),
        *(_below(fitted(SHARD_COLUMNS, found.shards[:shards_max], width)) if found.shards else ()),
        *(
            part
            for load in found.loads
            for part in _below(
                Text(printable(load.advice), style="bold"), fitted(KEY_COLUMNS, load.keys, width)
            )
        ),
    )


def _below(*parts: RenderableType) -> tuple[RenderableType, ...]:
    return (Text(""), *parts)

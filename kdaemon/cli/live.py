"""Screens of `kdaemon top` on a terminal, each in the place of the one before. Brings rich."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kdaemon.base.text import printable
from kdaemon.cli.screen import SHARD_COLUMNS, STREAM_COLUMNS, Screen

Show = Callable[[Screen, str], None]
"""A screen, and a line of warning above all; "": none."""


@contextmanager
def live_screens(shards_max: int) -> Iterator[Show]:
    """The terminal is as it was afterwards."""
    with Live(console=Console(), screen=True, auto_refresh=False) as live:

        def show(found: Screen, warning: str) -> None:
            live.update(rendered(found, warning, shards_max), refresh=True)

        yield show


def rendered(found: Screen, warning: str, shards_max: int) -> Group:
    """What stands on the terminal; a screen that is too small cuts off its end, so that holds come
    before the tables.
    """
    warnings = [Text(printable(warning), style="bold red")] if warning else []
    return Group(
        *warnings,
        *(Text(printable(line), no_wrap=True, overflow="ellipsis") for line in found.head),
        *(Text(printable(line), style="bold yellow") for line in found.holds),
        Text(""),
        _table(STREAM_COLUMNS, found.streams),
        Text(""),
        *([_table(SHARD_COLUMNS, found.shards[:shards_max])] if found.shards else ()),
    )


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, kind in columns:
        table.add_column(
            Text(heading), justify="right" if kind == "right" else "left", no_wrap=True
        )
    for row in rows:
        style = "yellow" if row[-1] in {"hold", "off"} else ""
        table.add_row(*(Text(printable(cell)) for cell in row), style=style)
    return table

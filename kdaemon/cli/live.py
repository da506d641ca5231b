"""Screens of `kdaemon top` on a terminal, each in the place of the one before. Brings rich."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kdaemon.base.text import printable
from kdaemon.cli.screen import KEY_COLUMNS, SHARD_COLUMNS, STREAM_COLUMNS, Screen

Columns = Sequence[tuple[str, str]]
Rows = Sequence[Sequence[str]]

GAP = 2  # blanks between two columns
NAME_WIDTH_MIN = 12  # characters left of a name where the terminal is too narrow; ours, 2026-11-28

LEAVE_FIRST = (
    *("IN FLIGHT", "DELIVERY", "BYTES", "SHARE", "SPOOLED", "OLDEST"),
    *("BUFFERED", "BACKLOG", "THROTTLED"),
)
"""Columns that are left out of a table that is too wide, in this order, until it fits. A number is
never cut: half of one is another number."""

Show = Callable[[Screen, str], None]
"""A screen, and a line of warning above all; "": none."""


@contextmanager
def live_screens(shards_max: int) -> Iterator[Show]:
    """The terminal is as it was afterwards."""
    with Live(console=Console(), screen=True, auto_refresh=False) as live:

        def show(found: Screen, warning: str) -> None:
            width = live.console.width  # of now
            live.update(rendered(found, warning, shards_max, width), refresh=True)

        yield show


def rendered(found: Screen, warning: str, shards_max: int, width: int) -> Group:
    """What stands on the terminal; a screen that is too small cuts off its end, so that holds come
    before the tables.
    """
    warnings = [Text(printable(warning), style="bold red")] if warning else []
    return Group(
        *warnings,
        *(Text(printable(line), no_wrap=True, overflow="ellipsis") for line in found.head),
        *(Text(printable(line), style="bold yellow") for line in found.holds),
        Text(""),
        _table(STREAM_COLUMNS, found.streams, width),
        *(_below(_table(SHARD_COLUMNS, found.shards[:shards_max], width)) if found.shards else ()),
        *(
            part
            for load in found.loads
            for part in _below(
                Text(printable(load.advice), style="bold"), _table(KEY_COLUMNS, load.keys, width)
            )
        ),
    )


def _below(*parts: RenderableType) -> tuple[RenderableType, ...]:
    return (Text(""), *parts)


def _table(columns: Columns, rows: Rows, width: int) -> Table:
    """As wide as the terminal at most: some columns are left out, then names are cut."""
    cells = [[printable(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    widths = _widths(columns, cells, width)
    for at, column_width in widths.items():
        heading, kind = columns[at]
        justify: JustifyMethod = "right" if kind == "right" else "left"
        table.add_column(
            Text(heading), justify=justify, no_wrap=True, overflow="ellipsis", width=column_width
        )
    for row in cells:
        style = "yellow" if row[-1] in {"hold", "off"} else ""
        table.add_row(*(Text(row[at]) for at in widths), style=style)
    return table


def _widths(columns: Columns, cells: Rows, width: int) -> dict[int, int]:
    """By the place of the columns that are shown."""
    widths = {
        at: max(map(cell_len, (heading, *(row[at] for row in cells))))
        for at, (heading, _) in enumerate(columns)
    }
    names = [at for at, (_, kind) in enumerate(columns) if kind == "name"]

    def excess() -> int:
        return sum(widths.values()) + GAP * (len(widths) - 1) - width

    def spare() -> int:
        return sum(max(0, widths[at] - NAME_WIDTH_MIN) for at in names)

    for heading in LEAVE_FIRST:
        if excess() <= spare():
            break
        for at in [at for at in widths if columns[at][0] == heading]:
            del widths[at]
    for at in names:
        widths[at] -= max(0, min(excess(), widths[at] - NAME_WIDTH_MIN))
    return widths

"""Tables and a progress bar. Imports rich, so it is imported only when one is shown."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kdaemon.base.text import printable

# The width of output that is no terminal: each row is one line, however long.
_PIPE_WIDTH = 100_000

LEAVE_FIRST = (
    *("IN FLIGHT", "DELIVERY", "BYTES", "SHARE", "DISK ONLY", "OLDEST"),
    *("REFUSED/S", "BUFFERED", "BACKLOG", "THROTTLED"),
    *("ATTEMPTS", "SIZE"),  # of dead letters, and of what the spool has
)
"""Columns that are left out of a table that is too wide, in this order, until the table fits. A
number is never cut, because a part of a number is another number."""

GAP = 2  # blanks between two columns
LEAST_WIDTHS = {"name": 12, "rest": 6}
"""Characters that are left of a cell that is cut, by the kind of its column. Ours, 2026-11-28."""

Columns = Sequence[tuple[str, str]]
"""(heading, "left" | "right" | "name" | "rest"); those of the last two kinds may be cut."""
Rows = Sequence[Sequence[str]]

OnProgress = Callable[[int, int | None], object]
"""Takes how many are done, and how many there are; None: not known yet."""


def console() -> Console:
    """Prints on standard output."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def show_table(columns: Columns, rows: Rows) -> None:
    """Prints a table on standard output: fitted to a terminal, else whole."""
    out = console()
    out.print(fitted(columns, rows, out.width))


def fitted(columns: Columns, rows: Rows, width: int) -> Table:
    """A table that is not wider than the terminal: some columns are left out (LEAVE_FIRST), then
    columns of the kinds "name" and "rest" are cut.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    widths = _fitted_widths(columns, cells, width)
    for at, column_width in widths.items():
        heading, kind = columns[at]
        justify: JustifyMethod = "right" if kind == "right" else "left"
        table.add_column(
            Text(heading), justify=justify, no_wrap=True, overflow="ellipsis", width=column_width
        )
    for row in cells:
        is_held = columns[-1][0] == "STATE" and row[-1] in {"hold", "off"}
        table.add_row(*(Text(row[at]) for at in widths), style="yellow" if is_held else "")
    return table


def _fitted_widths(columns: Columns, cells: Rows, width: int) -> dict[int, int]:
    """The widths of the columns that are shown, by the column's place."""
    widths = {
        at: max(map(cell_len, (heading, *(row[at] for row in cells))))
        for at, (heading, _) in enumerate(columns)
    }
    least = {at: LEAST_WIDTHS[kind] for at, (_, kind) in enumerate(columns) if kind in LEAST_WIDTHS}

    def excess() -> int:
        return sum(widths.values()) + GAP * (len(widths) - 1) - width

    def spare() -> int:
        return sum(max(0, widths[at] - width_min) for at, width_min in least.items())

    for heading in LEAVE_FIRST:
        if excess() <= spare():
            break
        for at in [at for at in widths if columns[at][0] == heading]:
            del widths[at]
    for at, width_min in least.items():
        widths[at] -= max(0, min(excess(), widths[at] - width_min))
    return widths


def progress(noun: str, *, is_shown: bool = True) -> AbstractContextManager[OnProgress]:
    """A progress bar on standard error if that is a terminal and `is_shown`; else nothing."""
    if not (is_shown and sys.stderr.isatty()):
        return nullcontext(lambda _done, _total: None)
    return _bar(noun)


@contextmanager
def _bar(noun: str) -> Iterator[OnProgress]:
    bar = Progress(
        BarColumn(),
        TextColumn("{task.fields[counted]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task("", total=None, counted=noun)

    def show(done: int, total: int | None) -> None:
        counted = noun if total is None else f"{done:,}/{total:,} {noun}"
        bar.update(task, completed=done, total=total, counted=counted)

    with bar:
        yield show

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
from kdaemon.cli.screen import LEAVE_FIRST

# The width of output that is no terminal: each row is one line, however long.
_PIPE_WIDTH = 100_000
_CUT_WIDTH_MIN = 6  # characters that are left of a cell that is cut

GAP = 2  # blanks between two columns
NAME_WIDTH_MIN = 12  # characters that are left of a name on a narrow terminal; ours, 2026-11-28

Columns = Sequence[tuple[str, str]]
"""(heading, "left" | "right" | "name" | "rest")"""
Rows = Sequence[Sequence[str]]

OnProgress = Callable[[int, int | None], object]
"""Takes how many are done, and how many there are; None: not known yet."""


def show_table(columns: Columns, rows: Rows) -> None:
    """Prints a table on standard output. `columns`: (heading, "left" | "right" | "rest"); a column
    of the kind "rest" is cut at the end of the terminal.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, (heading, kind) in enumerate(columns):
        is_cut = kind == "rest"
        table.add_column(
            _cell(heading),
            justify="right" if kind == "right" else "left",
            no_wrap=not is_cut,  # rich narrows columns that may wrap first
            min_width=_CUT_WIDTH_MIN if is_cut else max(_widths(heading, rows, column)),
        )
    for row in rows:
        table.add_row(*map(_cell, row))
    is_terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if is_terminal else _PIPE_WIDTH)
    console.print(table)


def show_fitted(columns: Columns, rows: Rows) -> None:
    """Prints a table on standard output: fitted to a terminal (`fitted`), else whole."""
    if not sys.stdout.isatty():
        show_table(columns, rows)
        return
    console = Console(file=sys.stdout)
    console.print(fitted(columns, rows, console.width))


def fitted(columns: Columns, rows: Rows, width: int) -> Table:
    """A table that is not wider than the terminal: some columns are left out (LEAVE_FIRST), then
    columns of the kind "name" are cut.
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
        style = "yellow" if row[-1] in {"hold", "off"} else ""
        table.add_row(*(Text(row[at]) for at in widths), style=style)
    return table


def _fitted_widths(columns: Columns, cells: Rows, width: int) -> dict[int, int]:
    """The widths of the columns that are shown, by the column's place."""
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


def _cell(text: str) -> Text:
    return Text(printable(text), no_wrap=True, overflow="ellipsis")


def _widths(heading: str, rows: Sequence[Sequence[str]], column: int) -> Iterator[int]:
    yield cell_len(heading)
    yield from (cell_len(printable(row[column])) for row in rows)


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

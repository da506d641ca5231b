"""A table and a progress bar. Imported when one is shown: it brings rich."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kdaemon.base.text import printable

# Columns of output that no terminal shows: a row is then one line, however long.
_PIPE_WIDTH = 100_000
_CUT_WIDTH_MIN = 6  # characters left of a cell that is cut

OnProgress = Callable[[int, int | None], None]
"""Done so far, and how many there are; None: not known yet."""


def show_table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output. `columns`: (heading, "left" | "right" | "rest"); a column that is
    "rest" is cut where the terminal ends.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, (heading, kind) in enumerate(columns):
        is_cut = kind == "rest"
        table.add_column(
            _cell(heading),
            justify="right" if kind == "right" else "left",
            no_wrap=not is_cut,  # rich narrows the others first
            min_width=_CUT_WIDTH_MIN if is_cut else max(_widths(heading, rows, column)),
        )
    for row in rows:
        table.add_row(*map(_cell, row))
    is_terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if is_terminal else _PIPE_WIDTH)
    console.print(table)


def _cell(text: str) -> Text:
    return Text(printable(text), no_wrap=True, overflow="ellipsis")


def _widths(heading: str, rows: Sequence[Sequence[str]], column: int) -> Iterator[int]:
    yield cell_len(heading)
    yield from (cell_len(printable(row[column])) for row in rows)


def progress(noun: str, *, is_shown: bool = True) -> AbstractContextManager[OnProgress]:
    """A bar on standard error if that is a terminal and `is_shown`; nothing elsewhere."""
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

"""Tables, and the file that they stand in: the form of all figures that a bench prints or writes.

RESULTS.md is an opening ("# ...") and sections ("## ..."): each bench replaces its own and keeps
the others. Knows cells, and nothing of what stands in them. Pure but for the date, the machine's
description and that file. Where it sits: below every bench and report.
"""

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from bench.host import describe

MIB = 1024 * 1024
RESULTS_PATH = Path(__file__).with_name("RESULTS.md")
_SECTION = re.compile(r"^## ", re.MULTILINE)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> list[str]:
    """A Markdown table that stands straight on a terminal, too: so many columns left, the others
    right.
    """
    lines = [list(heading), *map(list, rows)]
    widths = _widths(lines)

    def line_of(cells: list[str]) -> str:
        shown = (
            f"{cell:<{width}}" if at < words else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(shown)} |"

    rule = "|".join(
        "-" * (width + 2) if at < words else "-" * (width + 1) + ":"
        for at, width in enumerate(widths)
    )
    return [line_of(lines[0]), f"|{rule}|", *map(line_of, lines[1:])]


def facts(rows: Iterable[Sequence[str]]) -> list[str]:
    """What was measured where: this machine, and names and words of the bench's own."""
    shown = [("Date", today()), *describe().items(), *rows]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in shown)]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """For a terminal alone."""
    widths = _widths(rows)
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def growth(title: str, counts: Sequence[int], rows: Mapping[str, Sequence[float]]) -> str:
    """A table of figures for growing counts; the last column: how flat they are."""
    heading = (title, *(f"{count:,}" for count in counts), "largest / smallest")
    cells = []
    for name, figures in rows.items():
        shown = (f"{each:,.0f}" if each >= 100 else f"{each:.2f}" for each in figures)
        ratio = f"{max(figures) / min(figures):.2f}" if min(figures) else "-"
        cells.append((name, *shown, ratio))
    return "\n".join(table(heading, cells))


def spread(ratios: Iterable[float]) -> list[str]:
    """Cells of the ratios of pairs: their median, the least and the most."""
    known = list(ratios)
    return [f"{each:.2f}" for each in (median(known), min(known), max(known))]


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached, and what was seen. `form`: as `format` takes it."""

    what: str
    bound: float
    seen: float
    form: str
    is_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.seen <= self.bound if self.is_most else self.seen >= self.bound

    def cells(self) -> list[str]:
        bound = f"{'at most' if self.is_most else 'at least'} {self.bound:,g}"
        seen = format(self.seen, self.form)
        return [self.what, bound, seen, "reached" if self.is_met else "missed"]


def verdicts(targets: Iterable[Target]) -> list[str]:
    """Their table; nothing where there are none."""
    rows = [each.cells() for each in targets]
    return table(("to reach", "target", "here", ""), rows) if rows else []


def today() -> str:
    return f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}"


def with_opening(page: str, opening: str) -> str:
    """`page` with another opening; its sections are kept."""
    first = _SECTION.search(page)
    sections = page[first.start() :] if first else ""
    return opening.rstrip("\n") + "\n" + (f"\n{sections}" if sections else "")


def with_section(page: str, section: str) -> str:
    """`page` with `section` ("## Title", newline, text) in the place of the one of that title, or
    at the end where there was none.
    """
    title = section.partition("\n")[0]
    starts = [found.start() for found in _SECTION.finditer(page)]
    parts = [page[at:end] for at, end in pairwise([0, *starts, len(page)])]
    kept = [section if part.partition("\n")[0] == title else part for part in parts]
    if section not in kept:
        kept.append(section)
    return "\n\n".join(part.strip("\n") for part in kept if part.strip("\n")) + "\n"


def write(part: str) -> None:
    """Puts an opening or a section in its place in RESULTS.md."""
    page = RESULTS_PATH.read_text() if RESULTS_PATH.exists() else ""
    put = with_opening if part.startswith("# ") else with_section
    RESULTS_PATH.write_text(put(page, part))
    print(f"written: {RESULTS_PATH.name}")


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]

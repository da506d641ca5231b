"""Tables: the form of all figures that a bench prints or writes.

Knows cells, and nothing of what stands in them. Where it sits: below every bench and report.
"""

from collections.abc import Iterable, Sequence


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
    """What was measured where: names and words, as Markdown."""
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """For a terminal alone."""
    widths = _widths(rows)
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]

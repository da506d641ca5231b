"""Two versions of the daemon in turn: the table of `python -m bench.compare --pair OLD`.

What is told is the ratio within a round: its two daemons saw the same machine, within seconds. CPU
time on a machine that others use drifts by a factor of two within minutes. Where the least and the
most ratio lie far apart, trust their median little, and `bench.instructions` more.
Pure but for the date. Where it sits: compare.py -> here -> table.py writes it.
"""

from dataclasses import dataclass, field
from statistics import median

from bench.table import spread, table, today

TITLE = "## Beside the version before"
_COLUMNS = ("records a CPU-second", "old", "new", "new of old", "least", "most", "rounds")


@dataclass(slots=True)
class Pairs:
    """`rates`: by scenario, of each round (old, new) records a CPU-second. `lone_ms`: what is added
    to a lone client's request (p50), likewise. `load_before`: load average before the start.
    """

    titles: dict[str, str]
    load_before: float
    rates: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    lone_ms: list[tuple[float, float]] = field(default_factory=list)

    def add(self, name: str, old: float, new: float) -> None:
        self.rates.setdefault(name, []).append((old, new))

    def last(self, name: str) -> str:
        old, new = self.rates[name][-1]
        return f"{self.titles[name]}: {old:,.0f}, {new:,.0f}: {new / old:.2f}"

    def rows(self) -> list[list[str]]:
        """The table's cells, its heading first."""
        rows = [list(_COLUMNS)]
        rows += [[self.titles[name], *_cells(pairs, ",.0f")] for name, pairs in self.rates.items()]
        if self.lone_ms:
            what = "added to a lone client's request, ms (p50; less is better)"
            rows.append([what, *_cells(self.lone_ms, ".2f")])
        return rows

    def markdown(self) -> str:
        """A section of RESULTS.md."""
        heading, *rows = self.rows()
        how = (
            f"`python -m bench.compare --pair OLD --write`, {today()};"
            f" load average {self.load_before:.1f} before the start. Old, new, old, new: a ratio is"
            " that of a round."
        )
        return "\n".join([TITLE, "", how, "", *table(heading, rows)]) + "\n"


def _cells(pairs: list[tuple[float, float]], form: str) -> list[str]:
    old, new = (median(side) for side in zip(*pairs, strict=True))
    ratios = spread(after / before for before, after in pairs)
    return [f"{old:{form}}", f"{new:{form}}", *ratios, str(len(pairs))]

"""Figures to tables: medians over rounds, targets, RESULTS.md.

RESULTS.md is an opening (this table) and sections ("## ..."): each bench replaces its own and keeps
the others. Pure but for the date, the machine's description and that file. Knows nothing of how a
figure came about.
"""

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from bench.host import Cores, describe
from bench.table import facts, table

RESULTS_PATH = Path(__file__).with_name("RESULTS.md")
_SECTION = re.compile(r"^## ", re.MULTILINE)

MIB = 1024 * 1024

# What must be reached (issue "The main job", section Proof).
TARGET_A_PER_CPU_S = 200_000  # records per CPU-second of the daemon
TARGET_B_PER_CPU_S = 25_000  # requests per CPU-second of the daemon
TARGET_RATIO = 3.5  # times fewer CPU-seconds than aiobotocore, in the same run
TARGET_IDLE_RSS_MIB = 80
TARGET_READY_S = 1.5
TARGET_LONE_MS = 3.0  # added to a lone synchronous client's request


@dataclass(frozen=True, slots=True)
class Outcome:
    """One round of one scenario. `startup_cpu_s`: peers only, and in no other figure."""

    records: int
    seconds: float
    cpu_s: float
    records_per_call: float
    peak_rss_bytes: int
    idle_rss_bytes: int | None = None
    ready_s: float | None = None
    startup_cpu_s: float | None = None

    @property
    def records_per_cpu_s(self) -> float:
        return self.records / self.cpu_s

    @property
    def records_per_cpu_s_with_start(self) -> float | None:
        """As above with start-up counted in: what a short-lived program gets."""
        if self.startup_cpu_s is None:
            return None
        return self.records / (self.cpu_s + self.startup_cpu_s)

    @property
    def records_per_s(self) -> float:
        return self.records / self.seconds


@dataclass(frozen=True, slots=True)
class LoneClient:
    """Milliseconds of a request, (p50, p99): straight to the sink, and through the daemon."""

    sink_ms: tuple[float, float]
    daemon_ms: tuple[float, float]

    @property
    def added_ms_p50(self) -> float:
        return self.daemon_ms[0] - self.sink_ms[0]

    def text(self) -> str:
        return (
            f"A lone synchronous PutRecord client: {self.sink_ms[0]:.2f} ms straight to the sink "
            f"(p99 {self.sink_ms[1]:.2f}), {self.daemon_ms[0]:.2f} ms through the daemon "
            f"(p99 {self.daemon_ms[1]:.2f}): {self.added_ms_p50:.2f} ms added."
        )


def median_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Each figure's own median, so that a rate is the median rate."""
    rounds = list(outcomes)
    records = rounds[0].records

    def of(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return median(known) if known else None

    idle = of(one.idle_rss_bytes for one in rounds)
    return Outcome(
        records=records,
        seconds=median(one.seconds for one in rounds),
        cpu_s=median(one.cpu_s for one in rounds),
        records_per_call=median(one.records_per_call for one in rounds),
        peak_rss_bytes=round(median(one.peak_rss_bytes for one in rounds)),
        idle_rss_bytes=None if idle is None else round(idle),
        ready_s=of(one.ready_s for one in rounds),
        startup_cpu_s=of(one.startup_cpu_s for one in rounds),
    )


_COLUMNS = (
    ("records", 9),
    ("rec/CPU-s", 10),
    ("us/rec", 8),
    ("rec/s", 9),
    ("rec/call", 8),
    ("peak MiB", 8),
    ("idle MiB", 8),
    ("ready s", 8),
    ("start CPU s", 11),
    ("with start", 10),
)
_NAME_WIDTH = 63
HEADING = " ".join([f"{'process under test':<{_NAME_WIDTH}}", *(f"{n:>{w}}" for n, w in _COLUMNS)])


def cells(outcome: Outcome) -> list[str]:
    """The row's figures, in the order of the heading; `-` where there is none."""

    def mib(value: int | None) -> str:
        return "-" if value is None else f"{value / MIB:.0f}"

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    with_start = outcome.records_per_cpu_s_with_start
    return [
        f"{outcome.records:,}",
        f"{outcome.records_per_cpu_s:,.0f}",
        f"{1e6 / outcome.records_per_cpu_s:,.2f}",
        f"{outcome.records_per_s:,.0f}",
        f"{outcome.records_per_call:,.1f}",
        mib(outcome.peak_rss_bytes),
        mib(outcome.idle_rss_bytes),
        seconds(outcome.ready_s),
        seconds(outcome.startup_cpu_s),
        "-" if with_start is None else f"{with_start:,.0f}",
    ]


def row(name: str, outcome: Outcome) -> str:
    figures = (f"{cell:>{w}}" for cell, (_, w) in zip(cells(outcome), _COLUMNS, strict=True))
    return " ".join([f"{name:<{_NAME_WIDTH}}", *figures])


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run. `titles` and `outcomes` by scenario name; outcomes in order of the rounds."""

    titles: dict[str, str]
    outcomes: dict[str, list[Outcome]]
    lone: LoneClient | None
    cores: Cores
    rounds: int
    map_mode: str
    load_before: float  # load average of the last minute before the start

    def medians(self) -> dict[str, Outcome]:
        return {name: median_of(rounds) for name, rounds in self.outcomes.items()}

    def targets(self) -> list[tuple[str, str, str, bool]]:
        """What was to be reached, the target, what was seen, whether that reaches it."""
        medians = self.medians()
        found: list[tuple[str, str, str, bool]] = []

        def add(what: str, target: float, seen: float, form: str, *, is_most: bool) -> None:
            bound = "at most" if is_most else "at least"
            is_met = seen <= target if is_most else seen >= target
            found.append((what, f"{bound} {target:,g}", format(seen, form), is_met))

        bulk, single = medians.get("a"), medians.get("b")
        if bulk:
            seen = bulk.records_per_cpu_s
            add("(a) records per CPU-second", TARGET_A_PER_CPU_S, seen, ",.0f", is_most=False)
        if single:
            seen = single.records_per_cpu_s
            add("(b) requests per CPU-second", TARGET_B_PER_CPU_S, seen, ",.0f", is_most=False)
        if bulk and "aiobotocore-500" in medians:
            # neighbours in one round shared the machine's mood; medians of different rounds did not
            pairs = zip(self.outcomes["a"], self.outcomes["aiobotocore-500"], strict=True)
            ratio = median(ours.records_per_cpu_s / peer.records_per_cpu_s for ours, peer in pairs)
            what = "(a) fewer CPU-seconds than aiobotocore, times"
            add(what, TARGET_RATIO, ratio, ".2f", is_most=False)
        idle = [one.idle_rss_bytes for rounds in self.outcomes.values() for one in rounds]
        if known := [value for value in idle if value is not None]:
            add("idle RSS, MiB", TARGET_IDLE_RSS_MIB, median(known) / MIB, ".1f", is_most=True)
        starts = [one.ready_s for rounds in self.outcomes.values() for one in rounds]
        if ready := [value for value in starts if value is not None]:
            add("time to ready, s", TARGET_READY_S, median(ready), ".2f", is_most=True)
        if self.lone:
            what = "added to a lone client's request, ms (p50)"
            add(what, TARGET_LONE_MS, self.lone.added_ms_p50, ".2f", is_most=True)
        return found

    def text(self) -> str:
        lines = ["", f"Medians of {self.rounds}:", HEADING]
        lines += [row(self.titles[name], outcome) for name, outcome in self.medians().items()]
        lines += ["", self.lone.text()] if self.lone else []
        lines.append("")
        for what, target, seen, is_met in self.targets():
            lines.append(
                f"{'reached ' if is_met else 'MISSED  '} {what}: {seen} (target: {target})"
            )
        return "\n".join(lines)

    def _pinned(self) -> str:
        names = {"process under test": "under_test", "sink": "sink", "load": "load"}
        return "; ".join(
            f"{what}: core {', '.join(map(str, sorted(getattr(self.cores, name))))}"
            for what, name in names.items()
        )

    def markdown(self) -> str:
        """The opening of RESULTS.md."""
        names = ["process under test", *(name for name, _ in _COLUMNS)]
        where = [
            ("Date", f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}"),
            *describe().items(),
            ("Pinned", self._pinned()),
            ("Busy before the start", f"load average {self.load_before:.1f}"),
            ("Rounds", f"medians of {self.rounds}, interleaved"),
            ("Sink", f"shard map: {self.map_mode}"),
        ]
        lines = [
            "# Results of the last `python -m bench.compare --write`",
            "",
            "Written by the bench; how it measures and how to read it: [README.md](README.md).",
            "",
            *facts(where),
            "",
            *table(names, ([self.titles[name], *cells(o)] for name, o in self.medians().items())),
        ]
        lines += ["", self.lone.text()] if self.lone else []
        lines += ["", "| to reach | target | here | |", "|---|--:|--:|---|"]
        for what, target, seen, is_met in self.targets():
            lines.append(f"| {what} | {target} | {seen} | {'reached' if is_met else 'missed'} |")
        return "\n".join(lines) + "\n"


def growth(title: str, counts: Sequence[int], rows: Mapping[str, Sequence[float]]) -> str:
    """A table of figures for growing counts; the last column: how flat they are."""
    heading = (title, *(f"{count:,}" for count in counts), "largest / smallest")
    cells = []
    for name, figures in rows.items():
        shown = (f"{each:,.0f}" if each >= 100 else f"{each:.2f}" for each in figures)
        ratio = f"{max(figures) / min(figures):.2f}" if min(figures) else "-"
        cells.append((name, *shown, ratio))
    return "\n".join(table(heading, cells))


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


def write_opening(opening: str) -> None:
    RESULTS_PATH.write_text(with_opening(_results(), opening))


def write_section(section: str) -> None:
    RESULTS_PATH.write_text(with_section(_results(), section))


def _results() -> str:
    return RESULTS_PATH.read_text() if RESULTS_PATH.exists() else ""

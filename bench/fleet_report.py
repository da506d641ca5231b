"""Runs of the simulations to tables: what the seeds gave, beside what was to be reached.

Pure. Knows the issue's targets; nothing of how a figure came about (`fleet_sim.py`, `hot_sim.py`).
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TypeVar

from bench import fleet_sim, hot_sim
from bench.table import table

SETTLE_S_MAX = {"join": 15, "leave": 10}  # seconds
COLD_USED_MIN = 0.98  # of what is offered to the shards that are not hot
COLD_P99_TIMES_MAX = 1.2  # of their p99 without a hot shard
HOT_USED_MIN = 0.97  # of the hot shard's quota
HELD_MS_MAX = 1_000  # Yandex: mean wait at the service; ours, a second's quota in its queue
LEFT_USED_MIN = 0.95  # key-less: of what other producers left
LEFT_THROTTLED_MAX = 0.01

Table = list[list[str]]
RunT = TypeVar("RunT")


@dataclass(frozen=True, slots=True)
class Target:
    """What the issue asks of a number of daemons on one shard."""

    used_min: float | None
    throttled_max: float | None
    fairness_min: float | None


def target_of(daemons: int) -> Target:
    """By the issue's table; a number between its rows takes the next row's."""
    if daemons == 1:
        return Target(0.99, 0.005, None)
    return Target(0.97, 0.025, 0.93) if daemons <= 8 else Target(0.95, 0.06, 0.80)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure over all seeds. Every seed must reach the target, not the median alone."""

    name: str
    values: tuple[float, ...]
    form: str  # of a value, as `format` takes it
    low: float | None = None
    high: float | None = None

    @property
    def is_met(self) -> bool:
        above = self.low is None or min(self.values) >= self.low
        return above and (self.high is None or max(self.values) <= self.high)

    def __str__(self) -> str:
        """Minimum / median / maximum, and the bound."""
        shown = (min(self.values), median(self.values), max(self.values))
        text = " / ".join(format(value, self.form) for value in shown)
        if len(set(self.values)) == 1:
            text = format(self.values[0], self.form)
        if self.low is not None:
            text += f" (>= {self.low:{self.form}})"
        if self.high is not None:
            text += f" (<= {self.high:{self.form}})"
        return text


def verdict(figures: Iterable[Figure]) -> str:
    bounded = [each for each in figures if each.low is not None or each.high is not None]
    missed = [each.name for each in bounded if not each.is_met]
    if missed:
        return "missed: " + ", ".join(missed)
    return "reached" if bounded else ""


def by_plan(runs: Iterable[RunT], plan_of: Callable[[RunT], Hashable]) -> list[list[RunT]]:
    """Runs that differ by their seed alone, together, in order."""
    groups: dict[Hashable, list[RunT]] = {}
    for run in runs:
        groups.setdefault(plan_of(run), []).append(run)
    return list(groups.values())


# Daemons on one shard

FLEET_HEADING = [
    "daemons",
    "limiter",
    "load",
    "shard used",
    "throttled",
    "Jain",
    "settled in",
    "targets",
]


def fleet_table(runs: Iterable[fleet_sim.Run]) -> Table:
    groups = by_plan(runs, lambda run: replace(run.plan, seed=0))
    return [FLEET_HEADING, *(_fleet_row(group) for group in groups)]


def _fleet_row(group: list[fleet_sim.Run]) -> list[str]:
    plan = group[0].plan
    figures = fleet_figures(group)
    cells = {each.name: str(each) for each in figures}
    used = cells["used"]
    if plan.load in (fleet_sim.Load.MIX, fleet_sim.Load.BOTH):
        records = median(run.records_used for run in group)
        byte_part = median(run.bytes_used for run in group)
        used += f"; records {records:.1%}, bytes {byte_part:.1%}"
    throttled = cells["throttled"]
    if plan.is_yandex:
        throttled += f"; held {cells['held']} ms"
    settled = [f"{name} {cells[name]} s" for name in SETTLE_S_MAX if name in cells]
    return [
        f"{plan.daemons} of {plan.workers} workers" if plan.workers else str(plan.daemons),
        plan.limiter.value,
        plan.load.value + (", Yandex" if plan.is_yandex else ""),
        used,
        throttled,
        cells.get("Jain", "-"),
        ", ".join(settled) or "-",
        verdict(figures),
    ]


def fleet_figures(group: Sequence[fleet_sim.Run]) -> list[Figure]:
    """`group`: runs that differ by their seed alone. Where one joins or leaves, the time until the
    fleet has settled is held to a target; the table's targets are for fleets that stay as they are.
    """
    plan = group[0].plan
    target = target_of(plan.daemons)
    if plan.joins_at_s is not None or plan.leaves_at_s is not None:
        target = Target(None, None, None)
    figures = [
        Figure("used", tuple(run.used for run in group), ".1%", low=target.used_min),
        Figure(
            "throttled",
            tuple(run.throttled_share for run in group),
            ".2%",
            high=target.throttled_max,
        ),
    ]
    if plan.daemons > 1:
        values = tuple(run.fairness for run in group)
        figures.append(Figure("Jain", values, ".3f", low=target.fairness_min))
    if plan.is_yandex:
        held_ms = tuple(run.held_ms for run in group)
        figures.append(Figure("held", held_ms, ",.0f", high=HELD_MS_MAX))
    for name, times in (
        ("join", [run.join_seconds for run in group]),
        ("leave", [run.leave_seconds for run in group]),
    ):
        known = tuple(seconds for seconds in times if seconds is not None)
        if known:
            figures.append(Figure(name, known, ".0f", high=SETTLE_S_MAX[name]))
    return figures


# One daemon, many shards

HOT_HEADING = [
    "case",
    "limiter",
    "others: taken of offered",
    "worst of them",
    "their p99, ms",
    "times calm",
    "hot shard used",
    "throttled",
    "refused",
    "hot queue",
    "targets",
]


def hot_table(runs: Iterable[hot_sim.Run]) -> Table:
    """Needs the calm case of the same limiter and seed for each of the others."""
    runs = list(runs)
    calm = {
        replace(run.plan, case=hot_sim.Case.CALM): run
        for run in runs
        if run.plan.case is hot_sim.Case.CALM
    }
    groups = by_plan(runs, lambda run: replace(run.plan, seed=0))
    return [HOT_HEADING, *(_hot_row(group, calm) for group in groups)]


def _hot_row(group: list[hot_sim.Run], calm: dict[hot_sim.Plan, hot_sim.Run]) -> list[str]:
    plan = group[0].plan
    figures = hot_figures(group, calm)
    cells = {each.name: str(each) for each in figures}
    refused = [f"{name} {max(run.refused[name] for run in group):.1%}" for name in group[0].refused]
    queue_mib = max(run.hot_queue_bytes_max for run in group) / (1024 * 1024)
    return [
        plan.case.value,
        plan.limiter.value,
        cells["others"],
        cells["worst"],
        str(Figure("p99", tuple(run.p99_ns / 1e6 for run in group), ".1f")),
        cells.get("p99", "-"),
        cells.get("hot", "-"),
        str(Figure("throttled", tuple(run.throttled_share for run in group), ".2%")),
        ", ".join(refused),
        "-" if plan.case is hot_sim.Case.CALM else f"{queue_mib:.1f} MiB",
        verdict(figures),
    ]


def hot_figures(
    group: Sequence[hot_sim.Run], calm: dict[hot_sim.Plan, hot_sim.Run]
) -> list[Figure]:
    """`group`: runs that differ by their seed alone; `calm`: the calm runs by their plan."""
    used = tuple(run.cold_used for run in group)
    worst = tuple(run.cold_used_min for run in group)
    if group[0].plan.case is hot_sim.Case.CALM:
        return [Figure("others", used, ".1%"), Figure("worst", worst, ".1%")]
    times = tuple(
        run.p99_ns / calm[replace(run.plan, case=hot_sim.Case.CALM)].p99_ns for run in group
    )
    # In mixed frames the client that is over the hot shard's bound is the others' client too.
    used_min = None if group[0].plan.case is hot_sim.Case.MIXED else COLD_USED_MIN
    return [
        Figure("others", used, ".1%", low=used_min),
        Figure("worst", worst, ".1%", low=used_min),
        Figure("p99", times, ".2f", high=COLD_P99_TIMES_MAX),
        Figure("hot", tuple(run.hot_used for run in group), ".1%", low=HOT_USED_MIN),
    ]


KEYLESS_HEADING = ["keys", "others take", "limiter", "used of what is left", "throttled", "targets"]


def keyless_table(runs: Iterable[hot_sim.Run]) -> Table:
    """Random keys stand for comparison: no target is set for them."""
    groups = by_plan(runs, lambda run: replace(run.plan, seed=0))
    table = [KEYLESS_HEADING]
    for group in groups:
        plan = group[0].plan
        figures = keyless_figures(group)
        names = ["none" if plan.is_keyless else "random", plan.case.value, plan.limiter.value]
        table.append([*names, *map(str, figures), verdict(figures)])
    return table


def keyless_figures(group: Sequence[hot_sim.Run]) -> list[Figure]:
    """`group`: runs that differ by their seed alone."""
    is_held = group[0].plan.is_keyless
    used = tuple(run.left_used for run in group)
    throttled = tuple(run.throttled_share for run in group)
    return [
        Figure("used", used, ".1%", low=LEFT_USED_MIN if is_held else None),
        Figure("throttled", throttled, ".2%", high=LEFT_THROTTLED_MAX if is_held else None),
    ]


# Sections of RESULTS.md


def fleet_section(tables: Iterable[tuple[str, Table]], intro: str) -> str:
    """`tables`: titles and tables; `intro`: when and how they came about."""
    lines = ["## Daemons on one shard", "", intro, "", "![Rate of each daemon](fleet.svg)"]
    for title, rows in tables:
        lines += ["", f"### {title}", "", markdown(rows)]
    return "\n".join(lines)


def hot_section(hot: Table, keyless: Table, intro: str) -> str:
    case = (
        f"One shard is offered {hot_sim.HOT_TIMES:g} times its quota, each other "
        f"{hot_sim.COLD_TIMES:g} of it, by a client of its own (separate) or in the same frames "
        "(mixed); calm is the same without the hot shard."
    )
    keyless_case = (
        "Other producers take half of the stream; records without a key want "
        f"{hot_sim.KEYLESS_TIMES:g} times what is left, and beside them records with random keys."
    )
    lines = ["## Hot shards, and records without a key", "", intro]
    lines += ["", case, "", markdown(hot), "", keyless_case, "", markdown(keyless)]
    return "\n".join(lines)


# Forms


def misses(rows: Table) -> bool:
    """Whether a row of it missed a target."""
    return any(row[-1].startswith("missed") for row in rows)


def markdown(rows: Table) -> str:
    heading, *others = rows
    return "\n".join(table(heading, others, words=len(heading)))

"""The figures of bench.compare to tables: medians over rounds, and targets.

Pure but for what stands in `facts`. Knows nothing of how a figure came about. Where it sits: below
targets.py, which makes outcomes, and compare.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from bench.host import Cores
from bench.table import MIB, Target, facts, table, verdicts

# What must be reached (issue "The main job", section Proof).
TARGET_A_PER_CPU_S = 200_000  # records per CPU-second of the daemon
TARGET_B_PER_CPU_S = 25_000  # requests per CPU-second of the daemon
TARGET_RATIO = 3.5  # times fewer CPU-seconds than aiobotocore, in the same run
TARGET_IDLE_RSS_MIB = 80
TARGET_READY_S = 1.5
TARGET_LONE_MS = 3.0  # added to a lone synchronous client's request


@dataclass(frozen=True, slots=True)
class Outcome:
    """One round of one scenario. `startup_cpu_s`: peers only, and in no other figure. `cpu_s`: of
    all processes under test, the first one's first in `cpu_s_of_each`. `latency_ms`: of a request,
    p50 and p99, if the load tells them.
    """

    records: int
    seconds: float
    cpu_s: float
    records_per_call: float
    peak_rss_bytes: int
    idle_rss_bytes: int | None = None
    ready_s: float | None = None
    startup_cpu_s: float | None = None
    cpu_s_of_each: tuple[float, ...] = ()
    latency_ms: tuple[float, float] = (0.0, 0.0)

    @property
    def us_per_record(self) -> float:
        """Microseconds of CPU."""
        return self.cpu_s / self.records * 1e6

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
    "process under test",
    "records",
    "rec/CPU-s",
    "us/rec",
    "rec/s",
    "rec/call",
    "peak MiB",
    "idle MiB",
    "ready s",
    "start CPU s",
    "with start",
)


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
        f"{outcome.us_per_record:,.2f}",
        f"{outcome.records_per_s:,.0f}",
        f"{outcome.records_per_call:,.1f}",
        mib(outcome.peak_rss_bytes),
        mib(outcome.idle_rss_bytes),
        seconds(outcome.ready_s),
        seconds(outcome.startup_cpu_s),
        "-" if with_start is None else f"{with_start:,.0f}",
    ]


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

    def targets(self) -> list[Target]:
        medians = self.medians()
        found = []
        bulk, single = medians.get("a"), medians.get("b")
        for what, bound, seen in (
            ("(a) records per CPU-second", TARGET_A_PER_CPU_S, bulk),
            ("(b) requests per CPU-second", TARGET_B_PER_CPU_S, single),
        ):
            if seen:
                found.append(Target(what, bound, seen.records_per_cpu_s, ",.0f"))
        if bulk and "aiobotocore-500" in medians:
            # neighbours in one round shared the machine's mood; medians of different rounds did not
            pairs = zip(self.outcomes["a"], self.outcomes["aiobotocore-500"], strict=True)
            ratio = median(ours.records_per_cpu_s / peer.records_per_cpu_s for ours, peer in pairs)
            what = "(a) fewer CPU-seconds than aiobotocore, times"
            found.append(Target(what, TARGET_RATIO, ratio, ".2f"))
        every = [one for rounds in self.outcomes.values() for one in rounds]
        if idle := [one.idle_rss_bytes / MIB for one in every if one.idle_rss_bytes is not None]:
            found.append(
                Target("idle RSS, MiB", TARGET_IDLE_RSS_MIB, median(idle), ".1f", is_most=True)
            )
        if ready := [one.ready_s for one in every if one.ready_s is not None]:
            found.append(
                Target("time to ready, s", TARGET_READY_S, median(ready), ".2f", is_most=True)
            )
        if self.lone:
            what = "added to a lone client's request, ms (p50)"
            found.append(Target(what, TARGET_LONE_MS, self.lone.added_ms_p50, ".2f", is_most=True))
        return found

    def markdown(self) -> str:
        """The opening of RESULTS.md."""
        names = {"process under test": "under_test", "sink": "sink", "load": "load"}
        pinned = "; ".join(
            f"{what}: core {', '.join(map(str, sorted(getattr(self.cores, name))))}"
            for what, name in names.items()
        )
        where = [
            ("Pinned", pinned),
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
            *table(
                _COLUMNS, ([self.titles[name], *cells(o)] for name, o in self.medians().items())
            ),
        ]
        lines += ["", self.lone.text()] if self.lone else []
        return "\n".join([*lines, "", *verdicts(self.targets())]) + "\n"

"""What order per key costs: `python -m bench.ordering [--quick] [--rounds N]`.

The daemon with and without `ordering = "partition_key"`, 10,000 keys, against the sink as in
`compare.py`: a core of its own, a fresh process for each round, rounds interleaved. The ratio is
taken within each round, because the machine is not the same from one to the next; the table has
medians. Rates under a shard's quota and a service's round trip are the simulation's
(`tests/sim/test_ordering_rates.py`): here the service is infinitely fast.
"""

import sys
from dataclasses import dataclass, field
from statistics import median

from bench.command import run_beside_sink
from bench.compare import Scenario, Sink, measure_daemon
from bench.host import Cores
from bench.report import Outcome
from bench.table import table

KEY_COUNT = 10_000
ORDERED = 'ordering = "partition_key"\n'
SCENARIOS = (
    Scenario(
        "a",
        "PutRecords of 500, 8 connections, Unix socket",
        ("put_records", "--unix", "{unix}", "--connections", "8", "--keys", str(KEY_COUNT)),
        500_000,
        is_daemon=True,
    ),
    Scenario(
        "c",
        "NDJSON, 4 connections, Unix socket",
        (
            *("ndjson", "--unix", "{unix}", "--connections", "4", "--window", "4000"),
            *("--keys", str(KEY_COUNT)),
        ),
        500_000,
        is_daemon=True,
    ),
)


@dataclass(slots=True)
class Pairs:
    """Rounds of one scenario, without order and with it."""

    without: list[Outcome] = field(default_factory=list)
    ordered: list[Outcome] = field(default_factory=list)

    def row(self, title: str) -> tuple[str, ...]:
        """Medians; the last two are ratios within a round: CPU a record, and records a second."""

        def cpu_us(outcomes: list[Outcome]) -> float:
            return median(1e6 / each.records_per_cpu_s for each in outcomes)

        pairs = list(zip(self.without, self.ordered, strict=True))
        cpu = median(b.cpu_s / b.records / (a.cpu_s / a.records) for a, b in pairs)
        rate = median(b.records_per_s / a.records_per_s for a, b in pairs)
        per_call = median(each.records_per_call for each in self.ordered)
        return (
            title,
            f"{cpu_us(self.without):.2f}",
            f"{cpu_us(self.ordered):.2f}",
            f"{cpu:.2f}",
            f"{rate:.2f}",
            f"{median(each.records_per_call for each in self.without):.0f}",
            f"{per_call:.0f}",
        )


def run(rounds: int, share: int, sink: Sink, cores: Cores) -> str:
    """All rounds; the table."""
    measured = {scenario.name: Pairs() for scenario in SCENARIOS}
    for round_number in range(1, rounds + 1):
        for scenario in SCENARIOS:
            pairs = measured[scenario.name]
            records = scenario.records // share
            pairs.without.append(measure_daemon(scenario, records, sink, cores))
            pairs.ordered.append(measure_daemon(scenario, records, sink, cores, ORDERED))
            print(f"[{round_number}/{rounds}] {scenario.title}", file=sys.stderr, flush=True)
    heading = ("10,000 keys", "us CPU a record", "ordered", "ratio", "rec/s", "rec/call", "ordered")
    rows = (measured[scenario.name].row(scenario.title) for scenario in SCENARIOS)
    return "\n".join(table(heading, rows))


if __name__ == "__main__":
    sys.exit(run_beside_sink("ordering", "What order per key costs the daemon.", run))

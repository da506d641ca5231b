"""What order per key costs: `python -m bench.ordering [--quick] [--rounds N]`.

The daemon with and without `ordering = "partition_key"`, 10,000 keys, against the sink as in
`compare.py`: a core of its own, a fresh process for each round, rounds interleaved. The ratio is
taken within each round, because the machine is not the same from one to the next; the table has
medians. Rates under a shard's quota and a service's round trip are the simulation's
(`tests/sim/test_ordering_rates.py`): here the service is infinitely fast.
"""

import argparse
import sys
from dataclasses import replace
from statistics import median

from bench import command, targets
from bench.report import Outcome
from bench.table import table
from bench.targets import Scenario, measure_daemon, started_sink

ORDERED = {"default.ordering": "partition_key"}
SCENARIOS = [
    replace(each, arguments=f"{each.arguments} --keys 10000", records=500_000)
    for each in targets.SCENARIOS
    if each.name in {"a", "c"}
]

Pair = tuple[Outcome, Outcome]  # without order, and with it


def row(scenario: Scenario, pairs: list[Pair]) -> tuple[str, ...]:
    """Medians; two are ratios within a round: CPU a record, and records a second."""
    without, ordered = zip(*pairs, strict=True)
    cpu = median(b.us_per_record / a.us_per_record for a, b in pairs)
    rate = median(b.records_per_s / a.records_per_s for a, b in pairs)
    return (
        scenario.title,
        f"{median(each.us_per_record for each in without):.2f}",
        f"{median(each.us_per_record for each in ordered):.2f}",
        f"{cpu:.2f}",
        f"{rate:.2f}",
        f"{median(each.records_per_call for each in without):.0f}",
        f"{median(each.records_per_call for each in ordered):.0f}",
    )


def measure(options: argparse.Namespace) -> str:
    """All rounds; the table."""

    def pair(each: Scenario) -> Pair:
        records = each.records // options.share
        return measure_daemon(each, records, sink), measure_daemon(each, records, sink, ORDERED)

    with started_sink() as sink:
        measured = command.interleaved(options.rounds, SCENARIOS, pair, lambda each, _: each.title)
    heading = ("10,000 keys", "us CPU a record", "ordered", "ratio", "rec/s", "rec/call", "ordered")
    return "\n".join(table(heading, (row(*each) for each in measured.items())))


if __name__ == "__main__":
    parser = command.arguments("ordering", "What order per key costs the daemon.")
    sys.exit(command.run(parser, measure))

"""One worker beside several: what a record costs all processes, and what the busiest of them.

`python -m bench.workers [--workers 2] [--rounds 3] [--quick] [--only a|b|c] [--connections N]
[--latency-ms N]`

Scenarios of bench.compare, in pairs (one, several, one, several ...), a daemon for each round and
nothing pinned. Wall time says what this machine gave, to daemon, clients and stand-in together; on
two cores they share both. CPU says what the daemon would do with a core for each process: as many
times more as its busiest process used less for the same records. Both drift while others work on
the machine; the median of the pairs' ratios drifts least.
"""

import argparse
import os
import sys
from dataclasses import replace
from statistics import median

from bench import command
from bench.host import Cores
from bench.report import Outcome
from bench.table import spread, table
from bench.targets import SCENARIOS, Scenario, measure_daemon, started_sink

HEADING = (
    "",
    "records/s",
    "CPU a record, all processes",
    "times one core's work",
    "supervisor, us",
    "records a call",
)


def row(scenario: Scenario, pairs: list[tuple[Outcome, Outcome]]) -> tuple[str, ...]:
    """`pairs`: of one worker, and of several."""

    def shown(ratios: list[float]) -> str:
        middle, least, most = spread(ratios)
        return f"{middle} ({least} to {most})"

    batches = [
        f"{median(each.records_per_call for each in side):.0f}" for side in zip(*pairs, strict=True)
    ]
    return (
        scenario.name,
        shown([b.records_per_s / a.records_per_s for a, b in pairs]),
        shown([b.us_per_record / a.us_per_record for a, b in pairs]),
        shown([max(a.cpu_s_of_each) / max(b.cpu_s_of_each) for a, b in pairs]),
        f"{median(b.cpu_s_of_each[0] / b.records * 1e6 for _, b in pairs):.2f}",
        " -> ".join(batches),
    )


def measure(options: argparse.Namespace) -> str:
    chosen = [each for each in SCENARIOS if each.is_daemon and options.only in {None, each.name}]
    if options.connections:
        more = f" --connections {options.connections}"  # the last one counts
        chosen = [replace(each, arguments=each.arguments + more) for each in chosen]
    every = frozenset(os.sched_getaffinity(0))
    with started_sink(
        "--latency-ms", str(options.latency_ms), cores=Cores(every, every, every)
    ) as sink:

        def pair(each: Scenario) -> tuple[Outcome, Outcome]:
            one, several = (
                measure_daemon(each, each.records // options.share, sink, {"workers": count})
                for count in (1, options.workers)
            )
            return one, several

        seen = command.interleaved(
            options.rounds, chosen, pair, lambda each, pair: f"{each.title}: {pair}"
        )
    text = f"{options.workers} workers beside one: median of {options.rounds} pairs (least to most)"
    return "\n".join([text, "", *table(HEADING, (row(*each) for each in seen.items()))])


def main() -> int:
    parser = command.arguments("workers", "One worker beside several.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("a", "b", "c"))
    parser.add_argument("--connections", type=int, help="of clients")
    parser.add_argument(
        "--latency-ms", type=float, default=0.0, help="of each answer of the service"
    )
    return command.run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())

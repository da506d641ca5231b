"""What HTTP/2 costs beside HTTP/1.1: `python -m bench.http2 [--quick] [--rounds N]`.

The daemon against the sink as in `compare.py`: a core of its own, a fresh process for each round,
rounds interleaved. The same requests, of the same size, over HTTP/1.1, over as many connections of
HTTP/2, and as streams of one connection.
"""

import argparse
import sys
from statistics import median

from bench import command
from bench.report import Outcome
from bench.table import table
from bench.targets import Scenario, measure_daemon, started_sink

_BATCHES, _SINGLES = 250_000, 30_000  # records of a round


def _scenarios(load: str, title: str, connections: int, records: int) -> tuple[Scenario, ...]:
    def over(name: str, connection_count: int, more: str = "") -> Scenario:
        arguments = f"{load} --tcp {{http}} --connections {connection_count} {more}"
        return Scenario(load, f"{title}, {name}", arguments, records)

    many = f"{connections} connections"
    return (
        over(f"HTTP/1.1, {many}", connections),
        over(f"HTTP/2, {many}", connections, "--streams 1"),
        over(f"HTTP/2, {connections} streams of one", 1, f"--streams {connections}"),
    )


SCENARIOS = (
    *_scenarios("put_records", "PutRecords of 500", 8, _BATCHES),
    *_scenarios("put_record", "PutRecord", 64, _SINGLES),
)


def measure(options: argparse.Namespace) -> str:
    """All rounds; the table."""
    with started_sink() as sink:
        measured = command.interleaved(
            options.rounds,
            SCENARIOS,
            lambda each: measure_daemon(each, each.records // options.share, sink),
            lambda each, _: each.title,
        )
    rows = []
    first: list[Outcome] = []
    for scenario, outcomes in measured.items():
        first = outcomes if "HTTP/1.1" in scenario.title else first
        share_of = median(
            b.records_per_cpu_s / a.records_per_cpu_s for a, b in zip(first, outcomes, strict=True)
        )
        speed = median(each.records_per_cpu_s for each in outcomes)
        rows.append((scenario.title, f"{speed:,.0f}", f"{1e6 / speed:.2f}", f"{share_of:.2f}"))
    return "\n".join(table(("TCP", "rec/CPU-s", "us CPU a record", "of HTTP/1.1"), rows))


if __name__ == "__main__":
    parser = command.arguments("http2", "What HTTP/2 costs beside HTTP/1.1.")
    sys.exit(command.run(parser, measure))

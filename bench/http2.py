"""What HTTP/2 costs beside HTTP/1.1: `python -m bench.http2 [--quick] [--rounds N]`.

The daemon against the sink as in `compare.py`: a core of its own, a fresh process for each round,
rounds interleaved. The same requests, of the same size, over HTTP/1.1, over as many connections of
HTTP/2, and as streams of one connection.
"""

import sys
from statistics import median

from bench.command import run_beside_sink
from bench.compare import Scenario, Sink, measure_daemon
from bench.host import Cores
from bench.report import Outcome
from bench.table import table

_BATCHES, _SINGLES = 250_000, 30_000  # records of a round


def _scenarios(
    load: str, title: str, connections: int, records: int
) -> tuple[Scenario, Scenario, Scenario]:
    def over(name: str, connection_count: int, *more: str) -> Scenario:
        where = ("--tcp", "{http}", "--connections", str(connection_count))
        return Scenario(load, f"{title}, {name}", (load, *where, *more), records, is_daemon=True)

    many = f"{connections} connections"
    return (
        over(f"HTTP/1.1, {many}", connections),
        over(f"HTTP/2, {many}", connections, "--streams", "1"),
        over(f"HTTP/2, {connections} streams of one", 1, "--streams", str(connections)),
    )


SCENARIOS = (
    *_scenarios("put_records", "PutRecords of 500", 8, _BATCHES),
    *_scenarios("put_record", "PutRecord", 64, _SINGLES),
)


def run(rounds: int, share: int, sink: Sink, cores: Cores) -> str:
    """All rounds; the table."""
    measured: dict[str, list[Outcome]] = {each.title: [] for each in SCENARIOS}
    for round_number in range(1, rounds + 1):
        for scenario in SCENARIOS:
            outcome = measure_daemon(scenario, scenario.records // share, sink, cores)
            measured[scenario.title].append(outcome)
            print(f"[{round_number}/{rounds}] {scenario.title}", file=sys.stderr, flush=True)
    rows = []
    first: list[Outcome] = []
    for scenario in SCENARIOS:
        outcomes = measured[scenario.title]
        first = outcomes if "HTTP/1.1" in scenario.title else first
        share_of = median(
            b.records_per_cpu_s / a.records_per_cpu_s for a, b in zip(first, outcomes, strict=True)
        )
        speed = median(each.records_per_cpu_s for each in outcomes)
        rows.append((scenario.title, f"{speed:,.0f}", f"{1e6 / speed:.2f}", f"{share_of:.2f}"))
    return "\n".join(table(("TCP", "rec/CPU-s", "us CPU a record", "of HTTP/1.1"), rows))


if __name__ == "__main__":
    sys.exit(run_beside_sink("http2", "What HTTP/2 costs beside HTTP/1.1.", run))

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
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench.compare import SCENARIOS, Scenario, Sink, daemon_config, load_arguments, started_sink
from bench.daemon import DaemonProcess, environment
from bench.host import cpu_seconds
from bench.table import table
from bench.worker import Worker


@dataclass(frozen=True, slots=True)
class Round:
    """Of one daemon. CPU in microseconds a record: of all its processes, of the busiest, of the
    supervisor. `batch`: records a call to the service.
    """

    records_per_second: float
    all_us: float
    busiest_us: float
    supervisor_us: float
    batch: float


def processes_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def measure(scenario: Scenario, records: int, workers: int, sink: Sink) -> Round:
    cores = frozenset(os.sched_getaffinity(0))
    config = f"workers = {workers}\n" + daemon_config(sink.port)
    with (
        tempfile.TemporaryDirectory(prefix="kdaemon-bench-") as directory,
        DaemonProcess(Path(directory), config, cores=cores) as daemon,
        Worker(load_arguments(scenario, daemon), cores, environment()) as load,
    ):
        load.run(records // 10)
        pids = processes_of(daemon.pid)
        before, (taken, calls) = [cpu_seconds(pid) for pid in pids], sink.counts()
        measured = load.run(records)
        used = [cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
        taken_after, calls_after = sink.counts()
        if taken_after - taken != records:
            raise RuntimeError(f"{taken_after - taken} of {records} records arrived")
        a_record = [each / records * 1e6 for each in used]
        return Round(
            records / measured.result["seconds"],
            sum(a_record),
            max(a_record),
            a_record[0] if workers > 1 else 0.0,
            records / (calls_after - calls),
        )


def pairs(
    scenario: Scenario, workers: int, rounds: int, share: int, latency_ms: float
) -> tuple[str, ...]:
    found: list[tuple[Round, Round]] = []
    with started_sink(frozenset(os.sched_getaffinity(0)), latency_ms=latency_ms) as sink:
        for _ in range(rounds):
            one, several = (
                measure(scenario, scenario.records // share, count, sink) for count in (1, workers)
            )
            found.append((one, several))
            print(f"  {one}\n  {several}", file=sys.stderr)

    def ratio(values: list[float]) -> str:
        return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    wall = ratio([b.records_per_second / a.records_per_second for a, b in found])
    cost = ratio([b.all_us / a.all_us for a, b in found])
    reach = ratio([a.busiest_us / b.busiest_us for a, b in found])
    handing = median([b.supervisor_us for _, b in found])
    batches = [
        f"{median(each):.0f}" for each in zip(*((a.batch, b.batch) for a, b in found), strict=True)
    ]
    return scenario.name, wall, cost, reach, f"{handing:.2f}", " -> ".join(batches)


HEADING = (
    "",
    "records/s",
    "CPU a record, all processes",
    "times one core's work",
    "supervisor, us",
    "records a call",
)


def _with_connections(scenario: Scenario, count: str) -> Scenario:
    at = scenario.arguments.index("--connections") + 1
    arguments = (*scenario.arguments[:at], count, *scenario.arguments[at + 1 :])
    return replace(scenario, arguments=arguments)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the records, once")
    parser.add_argument("--only", choices=("a", "b", "c"))
    parser.add_argument("--connections", type=int, help="of clients")
    parser.add_argument(
        "--latency-ms", type=float, default=0.0, help="of each answer of the service"
    )
    options = parser.parse_args()
    rounds, share = (1, 10) if options.quick else (options.rounds, 1)
    chosen = [each for each in SCENARIOS if each.is_daemon and options.only in {None, each.name}]
    if options.connections:
        chosen = [_with_connections(each, str(options.connections)) for each in chosen]
    rows = [pairs(each, options.workers, rounds, share, options.latency_ms) for each in chosen]
    print(f"{options.workers} workers beside one: median of {rounds} pairs (least to most)\n")
    print("\n".join(table(HEADING, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

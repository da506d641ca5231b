"""How many records a call carries under single requests: `python -m bench.batching [--write]`.

Clients send one record each at fixed times (bench.steady), and the service answers after LATENCY_MS
as a real one does. A call a record would cost a fifth of a millisecond of CPU each; what linger and
calls in flight allow is told here, with what the daemon adds to the time of an answer.
Invariant: a figure is given only if every record was acknowledged and counted by the sink.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.command import run_alone
from bench.compare import daemon_config, started_sink
from bench.daemon import DaemonProcess, environment
from bench.host import Cores, choose_cores, cpu_seconds, pinned
from bench.worker import Worker

LATENCY_MS = 25.0  # of PutRecords within a region: 20 to 40; issue 12, 2026-11-28
RATES = (1_000, 5_000, 20_000)  # single records a second, of all clients
CLIENTS = 50
SECONDS = 10  # of one measurement
TITLE = "## Batching under single records"
HEAD = (
    "| single records/s | records a call | calls/s | p50 ms | p99 ms | CPU us a record |",
    "|--:|--:|--:|--:|--:|--:|",
)


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one round. Times are from when a record was due to its acknowledgement."""

    records_a_call: float
    calls_a_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


def measure(rate: int, cores: Cores, share: int) -> Seen:
    """RuntimeError: not every record arrived."""
    count = rate * SECONDS // share
    with (
        started_sink(cores.sink, latency_ms=LATENCY_MS) as sink,
        tempfile.TemporaryDirectory(prefix="kdaemon-bench-") as directory,
        DaemonProcess(Path(directory), daemon_config(sink.port), cores=cores.under_test) as daemon,
    ):
        arguments = ["bench.steady", "--unix", daemon.socket_path, "--clients", str(CLIENTS)]
        arguments += ["--rate", str(rate), "--acknowledge", "delivered"]
        with Worker(arguments, cores.load, environment()) as load:
            load.run(count // 10)
            before, cpu_before = sink.counts(), cpu_seconds(daemon.pid)
            result = load.run(count).result
            cpu_s = cpu_seconds(daemon.pid) - cpu_before
        records, calls = (after - was for was, after in zip(before, sink.counts(), strict=True))
    if records != count:
        raise RuntimeError(f"{rate} records/s: {records} of {count} arrived; no figure is given")
    return Seen(
        records_a_call=records / calls,
        calls_a_second=calls / result["seconds"],
        p50_ms=result["latency_ms_p50"],
        p99_ms=result["latency_ms_p99"],
        cpu_us=cpu_s / records * 1e6,
    )


def table(rounds: int, share: int) -> str:
    cores = choose_cores(os.sched_getaffinity(0))
    seen: dict[int, list[Seen]] = {rate: [] for rate in RATES}
    with pinned(cores.load):
        for _ in range(rounds):
            for rate in RATES:
                seen[rate].append(measure(rate, cores, share))
    lines = [
        TITLE,
        "",
        f"The service answers after {LATENCY_MS:g} ms; {CLIENTS} clients.",
        "",
        *HEAD,
    ]
    for rate, each in seen.items():
        cells = [
            f"{rate:,}",
            f"{median(one.records_a_call for one in each):.0f}",
            f"{median(one.calls_a_second for one in each):.0f}",
            f"{median(one.p50_ms for one in each):.1f}",
            f"{median(one.p99_ms for one in each):.1f}",
            f"{median(one.cpu_us for one in each):.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_alone("batching", "Records a call under single records.", table))

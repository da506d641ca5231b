"""What a line costs, by its form: `python -m bench.lines [--quick] [--write]`.

The real daemon, pinned, in front of the sink without a quota; lines of 200 B over the Unix socket,
4 connections: as envelopes, as raw text, and as raw JSON whose field `user.id` is the key. Rounds
are interleaved, a new daemon each; medians.
Invariant: a figure is given only if the daemon counts every line that was sent as delivered.
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
from bench.records import DATA_BYTES
from bench.worker import Worker

_TITLE = "## Lines"
_RECORDS = 600_000  # carried in one round


@dataclass(frozen=True, slots=True)
class Form:
    """`lines`: as bench.load names it."""

    title: str
    lines: str


FORMS = (
    Form("envelopes with a key", "envelope"),
    Form("envelopes without a key", "envelope_keyless"),
    Form("raw", "raw"),
    Form('raw JSON, `partition_key_field = "user.id"`', "raw_key"),
)


def cpu_us(form: Form, records: int, sink_port: int, cores: Cores) -> float:
    """Microseconds of the daemon's CPU for each line, in a daemon of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="kdaemon-bench-") as directory,
        DaemonProcess(Path(directory), daemon_config(sink_port), cores=cores.under_test) as daemon,
    ):
        arguments = ["ndjson", "--unix", daemon.socket_path, "--connections", "4"]
        arguments += ["--window", "8000", "--lines", form.lines]
        with Worker(["bench.load", *arguments], cores.load, environment()) as load:
            load.run(records // 10)
            before, cpu_before = _delivered(daemon), cpu_seconds(daemon.pid)
            result = load.run(records).result
            cpu_s = cpu_seconds(daemon.pid) - cpu_before
        if result["failed"] or _delivered(daemon) - before != result["records"]:
            raise RuntimeError(f"{form.title}: not every line was delivered; no figure is given")
        return cpu_s / int(result["records"]) * 1e6


def _delivered(daemon: DaemonProcess) -> int:
    return round(sum(daemon.metrics()["kdaemon_records_delivered_total"].values()))


def measure(rounds: int, share: int) -> str:
    """The section of RESULTS.md; prints each round as it comes."""
    cores = choose_cores(os.sched_getaffinity(0))
    seen: dict[Form, list[float]] = {form: [] for form in FORMS}
    with pinned(cores.load), started_sink(cores.sink) as sink:
        for _ in range(rounds):
            for form, figures in seen.items():
                figures.append(cpu_us(form, _RECORDS // share, sink.port, cores))
                print(f"{form.title}: {figures[-1]:.2f} us a line", flush=True)
    lines = [
        _TITLE,
        "",
        f"Lines with {DATA_BYTES} B of data over the Unix socket, 4 connections, `delivered`; the",
        f"real daemon in front of a sink without a quota, medians of {rounds}:",
        "",
        "| form | lines per CPU-second | us a line |",
        "|---|---:|---:|",
    ]
    for form, figures in seen.items():
        us = median(figures)
        lines.append(f"| {form.title} | {1e6 / us:,.0f} | {us:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_alone("lines", "What a line costs, by its form.", measure))

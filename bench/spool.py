"""What `stored` costs: `python -m bench.spool [--write] [--quick] [--only a|b|c]`.

(a) `stored` against `accepted` on the same load; (b) the time to `stored` at a steady 1,000
records/s; (c) a GiB in the spool: filled, killed, started again, an outage, and drained. The daemon
has a core of its own; sink, load and this harness have the others. Rounds are interleaved, each
with a fresh daemon and a fresh spool; figures are medians.
Invariant: a figure is given only if the sink counted exactly the records that were acknowledged.
How to read them: README.md beside this file.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from pathlib import Path

from bench import command, disk, records
from bench.host import Cores, choose_cores, free_port
from bench.spool_report import Carried, Commits, Filled, SpoolReport, Waited
from bench.targets import LOOK_S, ORDINARY, UNPACED, Sink, check, daemon, place, started_sink
from bench.worker import Result, Worker
from kdaemon.base.record import Record
from kdaemon.spool.codec import encode_records
from tests.kit.daemon import Daemon
from tests.kit.linux import cores_used, cpu_seconds

GIB = 1024**3
# (a) must fit in memory as a whole, so that `accepted` refuses nothing: see README
_ROOM = {"memory_bytes_max": 4 * GIB, "default.buffer_bytes_max": 2 * GIB}
_CARRIED_RECORDS = 400_000
_PROMISES = ("accepted", "stored")
_STEADY_RATE = 1_000  # records/s of all clients of (b)
_STEADY_CLIENTS = 10
_STEADY_S = 20
_WARM_S = 2
_FILL_BYTES = GIB
_FILL_DATA_BYTES = 1024  # of each record of (c)
_FILL_CONNECTIONS = 8
OUTAGE_S = 10.0  # seconds of each of the two looks at an outage
_QUICK_SHARE = 16  # --quick carries a sixteenth: 64 MiB in (c)
_PROBE_APPENDS = 400
_PROBE_SMALL_APPENDS = 2_000


@dataclass(frozen=True, slots=True)
class Load:
    """`arguments` of bench.load, but for where and what promise."""

    title: str
    arguments: tuple[str, ...]


LOADS = (
    Load("PutRecords of 500", ("put_records", "--connections", "8")),
    Load("NDJSON", ("ndjson", "--connections", "4", "--window", "4000")),
)


def spool_settings(spool: Path, bytes_max: int) -> dict[str, object]:
    """The bench's configuration of the daemon, and a spool."""
    return {**UNPACED, "spool.directory": str(spool), "spool.bytes_max": bytes_max}


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part needs. `place`: where the spools stand. `share`: 1, or less work."""

    cores: Cores
    place: Path
    share: int

    def daemon(
        self,
        directory: Path,
        port: int,
        bytes_max: int = GIB,
        settings: Mapping[str, object] | None = None,
    ) -> AbstractContextManager[Daemon]:
        """A daemon whose spool stands in `directory`, whatever is in it already."""
        given = {**spool_settings(directory / "spool", bytes_max), **(settings or {})}
        service = f"http://127.0.0.1:{port}"
        return daemon(service, given, self.cores.under_test, directory=directory)

    def load(self, daemon: Daemon, arguments: tuple[str, ...], promise: str) -> Worker:
        where = ("--unix", daemon.address("unix"), "--acknowledge", promise)
        return Worker(["bench.load", *arguments, *where], self.cores.load, ORDINARY)


def commits(daemon: Daemon, before: Commits | None = None) -> Commits:
    """Since the daemon's start, or since `before`."""
    metrics = daemon.metrics()
    made = (
        metrics.sum("kdaemon_spool_commit_duration_seconds_count"),
        metrics.sum("kdaemon_spool_commit_frames_sum"),
        metrics.sum("kdaemon_spool_commit_duration_seconds_sum"),
    )
    earlier = (0.0, 0.0, 0.0) if before is None else astuple(before)
    return Commits(*(now - then for now, then in zip(made, earlier, strict=True)))


def idle_cpu_seconds(pid: int) -> float:
    """CPU of a process once it does next to nothing: settled frames are deleted after delivery."""
    seen, quiet = cpu_seconds(pid), 0
    while quiet < 4:
        time.sleep(0.05)
        now = cpu_seconds(pid)
        quiet = quiet + 1 if now - seen < 0.002 else 0
        seen = now
    return seen


def measure_carried(bench: Bench, sink: Sink, load: Load, promise: str) -> Carried:
    """(a) One load under one promise, up to the last record at the sink."""
    record_count = _CARRIED_RECORDS // bench.share
    with place(bench.place) as directory:
        with (
            bench.daemon(directory, sink.port, settings=_ROOM) as daemon,
            bench.load(daemon, load.arguments, promise) as worker,
        ):
            there = sink.counts()[0] + worker.run(record_count // 10).result["records"]
            sink.wait_for(there)
            before_cpu_s = idle_cpu_seconds(daemon.pid)
            before, began = commits(daemon), time.monotonic()
            result = worker.run(record_count).result
            check(f"{load.title}, {promise}", result)
            sink.wait_for(there + result["records"])
            delivered_s = time.monotonic() - began
            made = commits(daemon, before)
            cpu_s = idle_cpu_seconds(daemon.pid) - before_cpu_s
        alone = None
        if promise == "stored":
            record_bytes = payload_bytes(1000) / 1000
            commit_bytes = round(result["records"] / made.count * record_bytes)
            alone = disk.probe(directory, commit_bytes, _PROBE_APPENDS // bench.share)
    return Carried(result["records"], result["seconds"], delivered_s, cpu_s, made, alone)


def payload_bytes(record_count: int) -> int:
    """What a frame of so many of the bench's records takes in the spool, without its row."""
    made = records.make_records(record_count)
    return len(encode_records([Record(one.data, one.key, None) for one in made]))


def measure_waited(bench: Bench, sink: Sink) -> Waited:
    """(b) The time to `stored` at a steady rate."""
    with place(bench.place) as directory:
        with bench.daemon(directory, sink.port) as daemon:
            arguments = [
                *("bench.steady", "--unix", daemon.address("unix")),
                *("--clients", str(_STEADY_CLIENTS), "--rate", str(_STEADY_RATE)),
            ]
            with Worker(arguments, bench.cores.load, ORDINARY) as worker:
                there = sink.counts()[0] + _STEADY_RATE * _WARM_S
                worker.run(_STEADY_RATE * _WARM_S)
                sink.wait_for(there)
                before, before_cpu_s = commits(daemon), cpu_seconds(daemon.pid)
                result = worker.run(_STEADY_RATE * max(2, _STEADY_S // bench.share)).result
                cpu_s = cpu_seconds(daemon.pid) - before_cpu_s
                made = commits(daemon, before)
                sink.wait_for(there + result["records"])
        alone = disk.probe(directory, payload_bytes(1), _PROBE_SMALL_APPENDS // bench.share)
    return Waited(
        result["records"],
        result["seconds"],
        result["latency_ms_p50"],
        result["latency_ms_p99"],
        result["latency_ms_max"],
        result["late_ms_p99"],
        made,
        cpu_s,
        alone,
    )


def measure_filled(bench: Bench) -> Filled:
    """(c) The service is down until the end: connections to its port are refused."""
    record_count = _FILL_BYTES // _FILL_DATA_BYTES // bench.share
    bytes_max = 3 * _FILL_BYTES  # a stream that is not listed, as ours, may have half of it
    with place(bench.place) as directory:
        port = free_port()
        with bench.daemon(directory, port, bytes_max=bytes_max) as daemon:
            result = _fill(bench, daemon, record_count)
            rss_filled = daemon.rss_bytes()
            file_bytes = daemon.counted("kdaemon_spool_file_bytes")
            daemon.close()
        with bench.daemon(directory, port, bytes_max=bytes_max) as daemon:
            ready_s = daemon.ready_s
            daemon.close()
        disk.evict(directory / "spool")
        with bench.daemon(directory, port, bytes_max=bytes_max) as daemon:
            rss_ready = daemon.rss_bytes()
            first = cores_used(daemon.pid, OUTAGE_S)
            rss_later = daemon.rss_bytes()
            later = cores_used(daemon.pid, OUTAGE_S)
            before_cpu_s = cpu_seconds(daemon.pid)
            with started_sink("--port", str(port), cores=bench.cores) as sink:
                began = time.monotonic()
                while not sink.counts()[0]:
                    time.sleep(LOOK_S)
                first_back_s = time.monotonic() - began
                sink.wait_for(result["records"])
                drain_s = time.monotonic() - began
                drain_cpu_s = idle_cpu_seconds(daemon.pid) - before_cpu_s
                sink.wait_for(result["records"])  # none came twice
            rss_peak = daemon.peak_bytes()
            return Filled(
                records=result["records"],
                data_bytes=result["records"] * _FILL_DATA_BYTES,
                file_bytes=file_bytes,
                fill_s=result["seconds"],
                rss_filled=rss_filled,
                ready_s=ready_s,
                ready_cold_s=daemon.ready_s,
                rss_ready=rss_ready,
                rss_later=rss_later,
                outage_cpu_first=first,
                outage_cpu=later,
                first_back_s=first_back_s,
                drain_s=drain_s,
                drain_cpu_s=drain_cpu_s,
                rss_peak=rss_peak,
            )


def _fill(bench: Bench, daemon: Daemon, record_count: int) -> Result:
    arguments = (
        *("put_records", "--connections", str(_FILL_CONNECTIONS)),
        *("--data-bytes", str(_FILL_DATA_BYTES)),
    )
    with bench.load(daemon, arguments, "stored") as worker:
        result = worker.run(record_count).result
    check("a spool that is filled", result)
    return result


def measure(options: argparse.Namespace) -> str:
    """The parts asked for, interleaved: the section of RESULTS.md."""
    if not options.directory.is_dir():
        raise RuntimeError(f"--directory {options.directory}: no such directory")
    if (where := disk.describe_disk(options.directory)).startswith("tmpfs"):
        command.tell(f"{options.directory} is memory ({where}): name a disk with --directory")
    load_before = os.getloadavg()
    carried: dict[str, dict[str, list[Carried]]] = {}
    waited: list[Waited] = []
    filled: list[Filled] = []
    parts = options.only or "abc"
    bench = Bench(choose_cores(os.sched_getaffinity(0)), options.directory, options.share)
    with started_sink() as sink:
        for number in range(1, options.rounds + 1):
            so_far = f"[{number}/{options.rounds}]"
            for load in LOADS if "a" in parts else ():
                by_promise = carried.setdefault(load.title, {name: [] for name in _PROMISES})
                for promise in _PROMISES if number % 2 else _PROMISES[::-1]:
                    one = measure_carried(bench, sink, load, promise)
                    by_promise[promise].append(one)
                    rate = one.records / one.delivered_s
                    command.tell(f"{so_far} {load.title}, {promise}: {rate:,.0f} delivered/s")
            if "b" in parts:
                waited.append(measure_waited(bench, sink))
                last = waited[-1]
                command.tell(f"{so_far} steady: p50 {last.p50_ms:.2f}, p99 {last.p99_ms:.2f} ms")
            if "c" in parts:
                filled.append(measure_filled(bench))
                seen = filled[-1]
                command.tell(
                    f"{so_far} full: {seen.fill_s:.1f} s to fill, ready in {seen.ready_s:.2f} s,"
                    f" drained in {seen.drain_s:.1f} s"
                )
    return SpoolReport(
        carried, waited, filled, bench.cores, where, load_before, options.rounds
    ).section()


def main() -> int:
    parser = command.arguments(
        "spool", "What `stored` costs, and a GiB in the spool.", is_written=True
    )
    parser.add_argument("--only", choices=("a", "b", "c"), help="this part alone")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the spools stand; a disk, not memory (default: %(default)s)",
    )
    return command.run(parser, measure, quick_share=_QUICK_SHARE)


if __name__ == "__main__":
    sys.exit(main())

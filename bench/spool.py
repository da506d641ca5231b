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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import disk, records, report
from bench.compare import Sink, daemon_config, started_sink
from bench.daemon import DaemonProcess, environment
from bench.host import Cores, choose_cores, cpu_seconds, free_port, memory_bytes, pinned
from bench.spool_report import Carried, Filled, SpoolReport, Waited
from bench.worker import Result, Worker
from kdaemon.base.record import Record
from kdaemon.spool.codec import encode_records

GIB = 1024**3
# (a) must fit in memory as a whole, so that `accepted` refuses nothing: see README
_ROOM = (
    *("--set", f"memory_bytes_max={4 * GIB}"),
    *("--set", f"default.buffer_bytes_max={2 * GIB}"),
)
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
_QUICK_SHARE = 16  # --quick carries a sixteenth, once: 64 MiB in (c)
_PROBE_APPENDS = 400
_PROBE_SMALL_APPENDS = 2_000
_DELIVER_WITHIN_S = 300.0
_LOOK_S = 0.01  # seconds between two looks at the sink: the error of a time to the last record


@dataclass(frozen=True, slots=True)
class Load:
    """`arguments` of bench.load, but for where and what promise."""

    title: str
    arguments: tuple[str, ...]


LOADS = (
    Load("PutRecords of 500", ("put_records", "--connections", "8")),
    Load("NDJSON", ("ndjson", "--connections", "4", "--window", "4000")),
)


def spool_config(sink_port: int, spool: Path, bytes_max: int) -> str:
    """The bench's configuration of the daemon, and a spool."""
    table = f'[spool]\ndirectory = "{spool}"\nbytes_max = {bytes_max}\n'
    return daemon_config(sink_port) + table


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part needs. `place`: where the spools stand. `share`: 1, or less work."""

    cores: Cores
    place: Path
    share: int

    @contextmanager
    def daemon(
        self,
        directory: Path,
        sink_port: int,
        *,
        bytes_max: int = GIB,
        flags: tuple[str, ...] = (),
    ) -> Iterator[DaemonProcess]:
        """A daemon whose spool stands in `directory`, whatever is in it already."""
        toml = spool_config(sink_port, directory / "spool", bytes_max)
        with DaemonProcess(directory, toml, flags=flags, cores=self.cores.under_test) as daemon:
            yield daemon

    @contextmanager
    def directory(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="kdaemon-bench-", dir=self.place) as name:
            yield Path(name)

    def load(self, daemon: DaemonProcess, arguments: tuple[str, ...], promise: str) -> Worker:
        where = ("--unix", daemon.socket_path, "--acknowledge", promise)
        return Worker(["bench.load", *arguments, *where], self.cores.load, environment())


@dataclass(frozen=True, slots=True)
class _Commits:
    """Commits, the new frames in them and the seconds they took, since the daemon's start."""

    commits: float
    frames: float
    seconds: float

    @classmethod
    def of(cls, daemon: DaemonProcess) -> "_Commits":
        metrics = daemon.metrics()
        return cls(
            metrics["kdaemon_spool_commit_duration_seconds_count"][""],
            metrics["kdaemon_spool_commit_frames_sum"][""],
            metrics["kdaemon_spool_commit_duration_seconds_sum"][""],
        )

    def since(self, before: "_Commits") -> "_Commits":
        return _Commits(
            self.commits - before.commits,
            self.frames - before.frames,
            self.seconds - before.seconds,
        )


def wait_for_records(sink: Sink, record_count: int) -> None:
    """Until the sink has that many; RuntimeError if it never has, or has more."""
    deadline = time.monotonic() + _DELIVER_WITHIN_S
    while (arrived := sink.counts()[0]) < record_count:
        if time.monotonic() > deadline:
            message = f"{arrived} of {record_count} records arrived; no figure is given for that"
            raise RuntimeError(message)
        time.sleep(_LOOK_S)
    if arrived > record_count:
        message = f"{arrived} records arrived, of {record_count} that were sent"
        raise RuntimeError(message)


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
    with bench.directory() as directory:
        with (
            bench.daemon(directory, sink.port, flags=_ROOM) as daemon,
            bench.load(daemon, load.arguments, promise) as worker,
        ):
            there = sink.counts()[0] + worker.run(record_count // 10).result["records"]
            wait_for_records(sink, there)
            before_cpu_s = idle_cpu_seconds(daemon.pid)
            before, began = _Commits.of(daemon), time.monotonic()
            result = worker.run(record_count).result
            if result["failed"]:
                message = f"{load.title}, {promise}: {result['failed']} records were refused"
                raise RuntimeError(message)
            wait_for_records(sink, there + result["records"])
            delivered_s = time.monotonic() - began
            made = _Commits.of(daemon).since(before)
            cpu_s = idle_cpu_seconds(daemon.pid) - before_cpu_s
        alone = None
        if promise == "stored":
            record_bytes = payload_bytes(1000) / 1000
            commit_bytes = round(result["records"] / made.commits * record_bytes)
            alone = disk.probe(directory, commit_bytes, _PROBE_APPENDS // bench.share)
    return Carried(
        result["records"],
        result["seconds"],
        delivered_s,
        cpu_s,
        made.commits,
        made.frames,
        made.seconds,
        alone,
    )


def payload_bytes(record_count: int) -> int:
    """What a frame of so many of the bench's records takes in the spool, without its row."""
    made = records.make_records(record_count)
    return len(encode_records([Record(one.data, one.key, None) for one in made]))


def measure_waited(bench: Bench, sink: Sink) -> Waited:
    """(b) The time to `stored` at a steady rate."""
    with bench.directory() as directory:
        with bench.daemon(directory, sink.port) as daemon:
            arguments = [
                *("bench.steady", "--unix", daemon.socket_path),
                *("--clients", str(_STEADY_CLIENTS), "--rate", str(_STEADY_RATE)),
            ]
            with Worker(arguments, bench.cores.load, environment()) as worker:
                there = sink.counts()[0] + _STEADY_RATE * _WARM_S
                worker.run(_STEADY_RATE * _WARM_S)
                wait_for_records(sink, there)
                before, before_cpu_s = _Commits.of(daemon), cpu_seconds(daemon.pid)
                result = worker.run(_STEADY_RATE * max(2, _STEADY_S // bench.share)).result
                cpu_s = cpu_seconds(daemon.pid) - before_cpu_s
                made = _Commits.of(daemon).since(before)
                wait_for_records(sink, there + result["records"])
        alone = disk.probe(directory, payload_bytes(1), _PROBE_SMALL_APPENDS // bench.share)
    return Waited(
        result["records"],
        result["seconds"],
        result["latency_ms_p50"],
        result["latency_ms_p99"],
        result["latency_ms_max"],
        result["late_ms_p99"],
        made.commits,
        made.frames,
        made.seconds,
        cpu_s,
        alone,
    )


def measure_filled(bench: Bench) -> Filled:
    """(c) The service is down until the end: connections to its port are refused."""
    record_count = _FILL_BYTES // _FILL_DATA_BYTES // bench.share
    bytes_max = 3 * _FILL_BYTES  # a stream that is not listed, as ours, may have half of it
    with bench.directory() as directory:
        port = free_port()
        with bench.daemon(directory, port, bytes_max=bytes_max) as daemon:
            result = _fill(bench, daemon, record_count)
            rss_filled = memory_bytes(daemon.pid, "VmRSS")
            file_bytes = daemon.metrics()["kdaemon_spool_file_bytes"][""]
            daemon.kill()
        with bench.daemon(directory, port, bytes_max=bytes_max) as daemon:
            ready_s = daemon.ready_s
            daemon.kill()
        disk.evict(directory / "spool")
        with bench.daemon(directory, port, bytes_max=bytes_max) as daemon:
            rss_ready = memory_bytes(daemon.pid, "VmRSS")
            first = _cores_used(daemon.pid, OUTAGE_S)
            rss_later = memory_bytes(daemon.pid, "VmRSS")
            later = _cores_used(daemon.pid, OUTAGE_S)
            before_cpu_s = cpu_seconds(daemon.pid)
            with started_sink(bench.cores.sink, port=port) as sink:
                began = time.monotonic()
                while not sink.counts()[0]:
                    time.sleep(_LOOK_S)
                first_back_s = time.monotonic() - began
                wait_for_records(sink, result["records"])
                drain_s = time.monotonic() - began
                drain_cpu_s = idle_cpu_seconds(daemon.pid) - before_cpu_s
                wait_for_records(sink, result["records"])  # none came twice
            rss_peak = memory_bytes(daemon.pid, "VmHWM")
            return Filled(
                records=result["records"],
                data_bytes=result["records"] * _FILL_DATA_BYTES,
                file_bytes=round(file_bytes),
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


def _fill(bench: Bench, daemon: DaemonProcess, record_count: int) -> Result:
    arguments = (
        *("put_records", "--connections", str(_FILL_CONNECTIONS)),
        *("--data-bytes", str(_FILL_DATA_BYTES)),
    )
    with bench.load(daemon, arguments, "stored") as worker:
        result = worker.run(record_count).result
    if result["failed"]:
        message = f"while the spool was filled {result['failed']} records were refused"
        raise RuntimeError(message)
    return result


def _cores_used(pid: int, seconds: float) -> float:
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began)


def run_all(parts: str, rounds: int, share: int, place: Path) -> SpoolReport:
    """The parts asked for, `rounds` times, interleaved."""
    bench = Bench(choose_cores(os.sched_getaffinity(0)), place, share)
    load_before = os.getloadavg()
    carried: dict[str, dict[str, list[Carried]]] = {}
    waited: list[Waited] = []
    filled: list[Filled] = []

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with pinned(bench.cores.load), started_sink(bench.cores.sink) as sink:
        for number in range(1, rounds + 1):
            for load in LOADS if "a" in parts else ():
                by_promise = carried.setdefault(load.title, {name: [] for name in _PROMISES})
                for promise in _PROMISES if number % 2 else _PROMISES[::-1]:
                    one = measure_carried(bench, sink, load, promise)
                    by_promise[promise].append(one)
                    rate = one.records / one.delivered_s
                    say(f"[{number}/{rounds}] {load.title}, {promise}: {rate:,.0f} delivered/s")
            if "b" in parts:
                waited.append(measure_waited(bench, sink))
                last = waited[-1]
                say(f"[{number}/{rounds}] steady: p50 {last.p50_ms:.2f}, p99 {last.p99_ms:.2f} ms")
            if "c" in parts:
                filled.append(measure_filled(bench))
                seen = filled[-1]
                say(
                    f"[{number}/{rounds}] full: {seen.fill_s:.1f} s to fill, ready in "
                    f"{seen.ready_s:.2f} s, drained in {seen.drain_s:.1f} s"
                )
    where = disk.describe_disk(place)
    return SpoolReport(carried, waited, filled, bench.cores, where, load_before, rounds)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.spool", description="What `stored` costs, and a GiB in the spool."
    )
    parser.add_argument("--write", action="store_true", help="write it into bench/RESULTS.md")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    parser.add_argument("--only", choices=("a", "b", "c"), help="this part alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the spools stand; a disk, not memory (default: %(default)s)",
    )
    options = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        print("bench needs Linux: it pins processes to cores and reads /proc", file=sys.stderr)
        return 2
    if options.write and (options.quick or options.only):
        print("--write needs a whole run: not with --quick or --only", file=sys.stderr)
        return 2
    if not options.directory.is_dir():
        print(f"--directory {options.directory}: no such directory", file=sys.stderr)
        return 2
    if (where := disk.describe_disk(options.directory)).startswith("tmpfs"):
        print(f"{options.directory} is memory ({where}): name a disk with --directory")
    rounds, share = (1, _QUICK_SHARE) if options.quick else (options.rounds, 1)
    try:
        measured = run_all(options.only or "abc", rounds, share, options.directory)
    except RuntimeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print("\n".join(measured.lines()))
    busy = ", ".join(f"{value:.1f}" for value in measured.load_before)
    print(f"\nDisk: {measured.disk}. Load average before the start: {busy}.")
    if options.write:
        report.write_section(measured.section())
        print(f"written: {report.RESULTS_PATH.name}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

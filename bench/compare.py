"""The daemon beside its peers, in one run: `python -m bench.compare [--write] [--quick]`.

Every scenario carries records to the same local sink. The process under test has a core of its own;
sink, load generator and this harness have the others. Rounds are interleaved (all scenarios, then
all again), each with a fresh process; figures are medians over the rounds.
Invariant: a figure is printed only if the sink counted every record that the scenario says it
delivered. How to read them: README.md beside this file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench import report
from bench.daemon import UNLIMITED, DaemonProcess, Tree, environment, get
from bench.host import (
    Cores,
    choose_cores,
    cpu_seconds,
    half_left,
    memory_bytes,
    pinned,
    settled_rss_bytes,
)
from bench.pairs import Pairs
from bench.report import Outcome
from bench.worker import Measured, Worker


@dataclass(frozen=True, slots=True)
class Scenario:
    """`arguments`: of bench.load (is_daemon) or bench.peers. `records`: carried in one round."""

    name: str
    title: str
    arguments: tuple[str, ...]
    records: int
    is_daemon: bool


SCENARIOS = (
    Scenario(
        "a",
        "kdaemon: PutRecords of 500, 8 connections, Unix socket",
        ("put_records", "--unix", "{unix}", "--connections", "8"),
        1_000_000,
        is_daemon=True,
    ),
    Scenario(
        "b",
        "kdaemon: PutRecord, 64 keep-alive connections, TCP",
        ("put_record", "--tcp", "{http}", "--connections", "64"),
        100_000,
        is_daemon=True,
    ),
    Scenario(
        "c",
        "kdaemon: NDJSON, 4 connections, Unix socket",
        ("ndjson", "--unix", "{unix}", "--connections", "4", "--window", "4000"),
        1_000_000,
        is_daemon=True,
    ),
    Scenario(
        "boto3-500",
        "boto3 put_records of 500, one thread",
        ("boto3_put_records",),
        100_000,
        is_daemon=False,
    ),
    Scenario(
        "aiobotocore-500",
        "aiobotocore put_records of 500, 8 in flight",
        ("aiobotocore_put_records",),
        150_000,
        is_daemon=False,
    ),
    Scenario(
        "boto3-1",
        "boto3 put_record, one after another",
        ("boto3_put_record",),
        3_000,
        is_daemon=False,
    ),
)
THIS = Tree("now")
_WARM_SHARE = 10  # the warm-up carries a tenth of the measured records
_LONE_REQUESTS = 2_000  # requests of the lone synchronous client
_QUICK_SHARE = 10  # --quick carries a tenth, once


class Sink:
    """The sink's process, seen from the harness. `port`: of the service that it stands in for."""

    def __init__(self, process: subprocess.Popen[str], port: int, count_port: int) -> None:
        self._process = process
        self.port = port
        self._count_port = count_port

    def counts(self) -> tuple[int, int]:
        """Records and calls it has taken."""
        _, text = get(self._count_port, "/count")
        counts: dict[str, int] = json.loads(text)
        return counts["records"], counts["calls"]


@contextmanager
def started_sink(
    cores: frozenset[int],
    map_mode: str = "static",
    port: int = 0,
    tls: tuple[Path, Path] | None = None,
    latency_ms: float = 0.0,
) -> Iterator[Sink]:
    """A sink until the block is left; `port` 0: one that is free. `tls`: certificate and key.
    `latency_ms`: of each answer.
    """
    more = ["--map", map_mode, "--port", str(port), "--latency-ms", str(latency_ms)]
    more += [] if tls is None else ["--tls", *map(str, tls)]
    with pinned(cores):
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.sink", *more],
            stdout=subprocess.PIPE,
            text=True,
        )
    assert process.stdout is not None
    try:
        ports = [int(each) for each in process.stdout.readline().split()[1:]]
        yield Sink(process, ports[0], ports[-1])
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def daemon_config(sink_port: int, more: str = "") -> str:
    """All defaults but what must differ: the sink as service, no pacing, no lame duck. `more`:
    further lines of [default].
    """
    return (
        f'region = "us-east-1"\nendpoint_url = "http://127.0.0.1:{sink_port}"\n'
        f"[default]\nshard_records_per_second = {UNLIMITED}\n"
        f"shard_bytes_per_second = {UNLIMITED}\n"
        f"{more}"
        "[drain]\nlame_duck_ms = 0\n"
    )


def load_arguments(scenario: Scenario, daemon: DaemonProcess) -> list[str]:
    values = {"unix": daemon.socket_path, "http": str(daemon.http_port)}
    return ["bench.load", *(argument.format(**values) for argument in scenario.arguments)]


def measure_daemon(
    scenario: Scenario,
    records: int,
    sink: Sink,
    cores: Cores,
    more_config: str = "",
    tree: Tree = THIS,
) -> Outcome:
    """One round of a daemon scenario, in a daemon of its own. `more_config`: as of
    `daemon_config`.
    """
    config = daemon_config(sink.port, more_config)
    with (
        tempfile.TemporaryDirectory(prefix="kdaemon-bench-") as directory,
        DaemonProcess(Path(directory), config, cores=cores.under_test, tree=tree) as daemon,
    ):
        idle_rss_bytes = settled_rss_bytes(daemon.pid)
        with Worker(load_arguments(scenario, daemon), cores.load, environment()) as load:
            load.run(records // _WARM_SHARE)
            before, cpu_before = sink.counts(), cpu_seconds(daemon.pid)
            measured = load.run(records)
            cpu_s = cpu_seconds(daemon.pid) - cpu_before
        return _outcome(
            scenario,
            measured,
            cpu_s,
            sink_before=before,
            sink_after=sink.counts(),
            peak_rss_bytes=memory_bytes(daemon.pid, "VmHWM"),
            idle_rss_bytes=idle_rss_bytes,
            ready_s=daemon.ready_s,
        )


def measure_peer(scenario: Scenario, records: int, sink: Sink, cores: Cores) -> Outcome:
    """One round of a peer: its own process is the one under test."""
    arguments = ["bench.peers", *scenario.arguments, f"http://127.0.0.1:{sink.port}"]
    with Worker(arguments, cores.under_test, environment()) as peer:
        peer.run(records // _WARM_SHARE)
        before = sink.counts()
        measured = peer.run(records)
        return _outcome(
            scenario,
            measured,
            measured.cpu_s,
            sink_before=before,
            sink_after=sink.counts(),
            peak_rss_bytes=peer.peak_rss_bytes() - measured.result["footprint_bytes"],
            startup_cpu_s=peer.startup_cpu_s,
        )


def _outcome(
    scenario: Scenario,
    measured: Measured,
    cpu_s: float,
    *,
    sink_before: tuple[int, int],
    sink_after: tuple[int, int],
    peak_rss_bytes: int,
    idle_rss_bytes: int | None = None,
    ready_s: float | None = None,
    startup_cpu_s: float | None = None,
) -> Outcome:
    result = measured.result
    records: int = result["records"]
    arrived, calls = (after - before for before, after in zip(sink_before, sink_after, strict=True))
    if result["failed"] or arrived != records:
        message = (
            f"{scenario.title}: of {records} records {result['failed']} failed and {arrived} "
            "arrived at the sink; no figure is given for that"
        )
        raise RuntimeError(message)
    return Outcome(
        records=records,
        seconds=result["seconds"],
        cpu_s=cpu_s,
        records_per_call=records / calls,
        peak_rss_bytes=peak_rss_bytes,
        idle_rss_bytes=idle_rss_bytes,
        ready_s=ready_s,
        startup_cpu_s=startup_cpu_s,
    )


def measure_lone_client(
    requests: int, sink: Sink, cores: Cores, tree: Tree = THIS
) -> report.LoneClient:
    """One synchronous PutRecord client: straight to the sink, and through the daemon."""

    def request_ms(tcp_port: int) -> tuple[float, float]:
        arguments = ["bench.load", "put_record", "--tcp", str(tcp_port), "--connections", "1"]
        with Worker(arguments, cores.load, environment()) as client:
            client.run(requests // _WARM_SHARE)
            result = client.run(requests).result
        if result["failed"]:
            message = f"the lone client: {result['failed']} of {requests} requests failed"
            raise RuntimeError(message)
        return result["latency_ms_p50"], result["latency_ms_p99"]

    with (
        tempfile.TemporaryDirectory(prefix="kdaemon-bench-") as directory,
        DaemonProcess(
            Path(directory), daemon_config(sink.port), cores=cores.under_test, tree=tree
        ) as daemon,
    ):
        return report.LoneClient(request_ms(sink.port), request_ms(daemon.http_port))


def run_all(chosen: list[Scenario], rounds: int, share: int, map_mode: str) -> report.Report:
    """All scenarios, `rounds` times, interleaved; prints each figure as it comes."""
    cores, load_before = choose_cores(os.sched_getaffinity(0)), os.getloadavg()[0]
    if load_before > 0.5:
        print(f"Others use this machine (load average {load_before:.1f}): trust ratios, no rates.")
    if not cores.is_separated:
        print("This machine has one core: the process under test shares it with sink and load.")
        print("CPU seconds still mean something; records/s and latency do not.")
    outcomes: dict[str, list[Outcome]] = {scenario.name: [] for scenario in chosen}
    with pinned(cores.load), started_sink(cores.sink, map_mode) as sink:
        print(report.HEADING)
        for round_number in range(1, rounds + 1):
            for scenario in chosen:
                measure = measure_daemon if scenario.is_daemon else measure_peer
                outcome = measure(scenario, scenario.records // share, sink, cores)
                outcomes[scenario.name].append(outcome)
                print(
                    report.row(f"[{round_number}/{rounds}] {scenario.title}", outcome), flush=True
                )
        lone = None
        if any(scenario.is_daemon for scenario in chosen):
            lone = measure_lone_client(_LONE_REQUESTS // share, sink, cores)
    titles = {scenario.name: scenario.title for scenario in chosen}
    return report.Report(titles, outcomes, lone, cores, rounds, map_mode, load_before)


def run_pairs(old: Path, chosen: list[Scenario], rounds: int, share: int) -> Pairs:
    """Each scenario by the version in `old` and by this one, in turn, `rounds` times; prints each
    pair's ratio as it comes.
    """
    cores, load_before = choose_cores(os.sched_getaffinity(0)), os.getloadavg()[0]
    trees = (Tree("old", old), Tree("new"))
    pairs = Pairs({each.name: each.title for each in chosen}, load_before)
    with pinned(cores.load), started_sink(cores.sink) as sink:
        for _ in range(rounds):
            for each in chosen:
                records = each.records // share
                before, now = (
                    measure_daemon(each, records, sink, cores, tree=tree) for tree in trees
                )
                pairs.add(each.name, before.records_per_cpu_s, now.records_per_cpu_s)
                print(pairs.last(each.name), flush=True)
            before_ms, now_ms = (
                measure_lone_client(_LONE_REQUESTS // share, sink, cores, tree).added_ms_p50
                for tree in trees
            )
            pairs.lone_ms.append((before_ms, now_ms))
    return pairs


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description="The daemon beside its peers, in one run."
    )
    parser.add_argument("--write", action="store_true", help="write it into bench/RESULTS.md")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--map", choices=("static", "none"), default="static", dest="map_mode")
    parser.add_argument(
        "--only",
        action="append",
        choices=[scenario.name for scenario in SCENARIOS],
        help="this scenario alone; may be given again",
    )
    parser.add_argument(
        "--pair",
        type=Path,
        metavar="OLD",
        help="a checkout of another version (or the Python of an environment that has one): both in"
        " turn, old, new, old, new, and the median of the pairs' ratios",
    )
    parser.add_argument(
        "--half-core",
        action="store_true",
        help="the process under test has half a core: else a daemon that is cheaper than the load"
        " waits for requests, puts fewer into a call, and seems to cost what the load does",
    )
    options = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        print("bench needs Linux: it pins processes to cores and reads /proc", file=sys.stderr)
        return 2
    if options.write and (options.quick or options.only or options.half_core):
        print("--write needs a whole run: not with --quick, --only or --half-core", file=sys.stderr)
        return 2
    chosen = [one for one in SCENARIOS if not options.only or one.name in options.only]
    rounds, share = (1, _QUICK_SHARE) if options.quick else (options.rounds, 1)
    under_test = choose_cores(os.sched_getaffinity(0)).under_test
    try:
        with half_left(under_test) if options.half_core else nullcontext():
            return _run(options, chosen, rounds, share)
    except RuntimeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, chosen: list[Scenario], rounds: int, share: int) -> int:
    if options.pair is not None:
        daemons = [one for one in chosen if one.is_daemon]
        pairs = run_pairs(options.pair.absolute(), daemons, rounds, share)
        print(pairs.text())
        if options.write:
            report.write_section(pairs.markdown())
            print(f"written: {report.RESULTS_PATH.name}")
        return 0
    measured = run_all(chosen, rounds, share, options.map_mode)
    print(measured.text())
    if options.write:
        report.write_opening(measured.markdown())
        print(f"written: {report.RESULTS_PATH.name}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

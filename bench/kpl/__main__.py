"""kdaemon beside the Kinesis Producer Library: `python -m bench.kpl [--quick] [--write]`.

An application of Java has records and wants them in a stream: by the KPL (its JVM part and its
native process), or by kdaemon's lines on a Unix socket (the application and the daemon). All that
either needs is counted: the application's own CPU, too. One sink that speaks TLS for all, 16
shards, no quota that binds; each round a new process for each way, rounds interleaved. What is told
is the median of the rounds' own ratios, with the least and the most.
Invariant: a figure is given only if every record was acknowledged, and, where no records are packed
together, only if the sink counted as many.
Built by Maven at the first run; without Maven, a JDK or the packages it says so, and ends with 3.
Linux only.
"""

import argparse
import datetime as dt
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import report
from bench.compare import Sink, started_sink
from bench.daemon import UNLIMITED, DaemonProcess, environment
from bench.host import Cores, choose_cores, cpu_seconds, memory_bytes, pinned, with_descendants
from bench.records import make_records
from bench.worker import Worker
from tests.kit.certificates import Authority, Files

HERE = Path(__file__).parent
JARS = HERE / "target" / "jars"
TITLE = "## Beside the KPL"
NOT_HERE = 3  # exit code: it cannot be built or run on this machine
ROWS = 100_000  # different records, sent in turn
RECORDS = 400_000  # of a round
WARM_SHARE = 4  # the JVM compiles while it runs: a quarter as much goes before
QUICK_SHARE = 20
MIB = 1024 * 1024
MAVEN = ("mvn", "-q", "-B", "compile", "dependency:copy-dependencies")


@dataclass(frozen=True, slots=True)
class Way:
    """`is_packed`: several user records in one of the stream."""

    title: str
    is_kpl: bool
    is_packed: bool


KPL, KPL_PACKED, LINES, LINES_PACKED = WAYS = (
    Way("KPL, aggregation off", is_kpl=True, is_packed=False),
    Way("KPL, aggregation on", is_kpl=True, is_packed=True),
    Way("application + kdaemon, lines", is_kpl=False, is_packed=False),
    Way('application + kdaemon, lines, aggregation = "kpl"', is_kpl=False, is_packed=True),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one round: microseconds of CPU a record, by part, and memory at its end."""

    application_us: float
    producer_us: float  # the native process, or the daemon
    rss_mib: float

    @property
    def us(self) -> float:
        return self.application_us + self.producer_us


def build() -> str | None:
    """Why there is no program; None: there is one."""
    if shutil.which("java") is None:
        return "there is no Java here"
    if JARS.is_dir():
        return None
    if shutil.which("mvn") is None:
        return "there is no Maven here to build the application"
    done = subprocess.run([*MAVEN, f"-DoutputDirectory={JARS}"], cwd=HERE, check=False)
    return None if done.returncode == 0 else "Maven could not build the application"


def measure(way: Way, sink: Sink, files: Files, cores: Cores, share: int) -> Seen:
    """One round, in processes of its own. RuntimeError: not every record was acknowledged."""
    count = RECORDS // share
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdaemon-bench-")))
        rows = directory / "records"
        rows.write_text("".join(f"{one.key} {one.data.decode()}\n" for one in make_records(ROWS)))
        if way.is_kpl:
            packing = "on" if way.is_packed else "off"
            arguments = ["kpl", str(sink.port), packing, str(rows)]
            daemon = None
        else:
            toml = config(sink.port, files, is_packed=way.is_packed)
            daemon = stack.enter_context(DaemonProcess(directory, toml, cores=cores.under_test))
            arguments = ["lines", daemon.socket_path, str(rows)]
        program = ("java", "-Xmx512m", "-cp", f"{HERE / 'target/classes'}:{JARS}/*", "Application")
        application = stack.enter_context(
            Worker(arguments, cores.under_test, environment(), program)
        )
        application.run(count // WARM_SHARE)
        others = [] if daemon is None else [daemon.pid]
        others += with_descendants(application.pid)[1:]
        before, arrived = [cpu_seconds(pid) for pid in others], sink.counts()[0]
        measured = application.run(count)
        spent = sum(cpu_seconds(pid) for pid in others) - sum(before)
        arrived = sink.counts()[0] - arrived
        if measured.result["failed"] or not (way.is_packed or arrived == count):
            text = f"of {count} records {measured.result['failed']} failed, {arrived} arrived"
            raise RuntimeError(f"{way.title}: {text}; no figure is given for that")
        memory = sum(memory_bytes(pid, "VmRSS") for pid in [application.pid, *others])
        return Seen(measured.cpu_s / count * 1e6, spent / count * 1e6, memory / MIB)


def config(port: int, files: Files, *, is_packed: bool) -> str:
    packing = 'aggregation = "kpl"\n' if is_packed else ""
    return (
        f'region = "us-east-1"\nendpoint_url = "https://localhost:{port}"\n'
        f'ca_file = "{files.authority}"\n'
        f"[default]\nshard_records_per_second = {UNLIMITED}\n"
        f"shard_bytes_per_second = {UNLIMITED}\n{packing}"
        "[drain]\nlame_duck_ms = 0\n"
    )


def table(seen: dict[Way, list[Seen]]) -> list[str]:
    lines = [
        "| us of CPU a record | application | producer | both | MiB | of KPL's | least | most |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for way, rounds in seen.items():
        part = [median(each.application_us for each in rounds)]
        part += [median(each.producer_us for each in rounds), median(each.us for each in rounds)]
        cells = [way.title, *(f"{each:.1f}" for each in part)]
        cells.append(f"{median(each.rss_mib for each in rounds):.0f}")
        peers = seen[KPL_PACKED if way.is_packed else KPL]
        ratios = sorted(peer.us / each.us for peer, each in zip(peers, rounds, strict=True))
        shown = (median(ratios), ratios[0], ratios[-1])
        cells += ["-"] * 3 if way.is_kpl else [f"1/{each:.1f}" for each in shown]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kpl", description="Beside the KPL.")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write it into bench/RESULTS.md")
    options = parser.parse_args()
    obstacle = build()
    if obstacle is not None:
        print(f"bench: {obstacle}: nothing is measured", file=sys.stderr)
        return NOT_HERE
    rounds, share = (1, QUICK_SHARE) if options.quick else (options.rounds, 1)
    cores, load_before = choose_cores(os.sched_getaffinity(0)), os.getloadavg()[0]
    seen: dict[Way, list[Seen]] = {way: [] for way in WAYS}
    try:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            files = Authority(directory).issue()
            stack.enter_context(pinned(cores.load))
            pair = (files.certificate, files.key)
            sink = stack.enter_context(started_sink(cores.sink, tls=pair))
            for _ in range(rounds):
                for way in WAYS:
                    seen[way].append(measure(way, sink, files, cores, share))
                    print(f"{way.title}: {seen[way][-1].us:.1f} us", flush=True)
    except RuntimeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    lines = table(seen)
    print("\n".join(lines))
    if options.write:
        how = (
            f"`python -m bench.kpl --write`, {dt.datetime.now(tz=dt.UTC):%Y-%m-%d}; load average"
            f" {load_before:.1f} before the start; medians of {rounds} rounds, and of their own"
            " ratios. KPL 1.0.6; its rate limit is out of the way."
        )
        report.write_section("\n".join([TITLE, "", how, "", *lines, ""]))
        print(f"written: {report.RESULTS_PATH.name}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

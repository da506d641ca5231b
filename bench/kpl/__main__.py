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
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import command
from bench.records import make_records
from bench.table import MIB, table, today
from bench.targets import ORDINARY, UNPACED, Sink, check, daemon, place, started_sink
from bench.worker import Worker
from tests.kit.certificates import Authority, Files
from tests.kit.linux import cpu_seconds, memory_bytes, with_descendants

HERE = Path(__file__).parent
JARS = HERE / "target" / "jars"
TITLE = "## Beside the KPL"
NOT_HERE = 3  # exit code: it cannot be built or run on this machine
ROWS = 100_000  # different records, sent in turn
RECORDS = 400_000  # of a round
WARM_SHARE = 4  # the JVM compiles while it runs: a quarter as much goes before
QUICK_SHARE = 20
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


def measure_way(way: Way, sink: Sink, files: Files, share: int) -> Seen:
    """One round, in processes of its own. RuntimeError: not every record was acknowledged."""
    count, cores = RECORDS // share, sink.cores
    with ExitStack() as stack:
        directory = stack.enter_context(place())
        rows = directory / "records"
        rows.write_text("".join(f"{one.key} {one.data.decode()}\n" for one in make_records(ROWS)))
        others = []
        if way.is_kpl:
            arguments = ["kpl", str(sink.port), "on" if way.is_packed else "off", str(rows)]
        else:
            settings = {**UNPACED, "ca_file": str(files.authority)}
            if way.is_packed:
                settings["default.aggregation"] = "kpl"
            service = f"https://localhost:{sink.port}"
            started = stack.enter_context(daemon(service, settings, cores.under_test))
            arguments = ["lines", started.address("unix"), str(rows)]
            others.append(started.pid)
        program = ("java", "-Xmx512m", "-cp", f"{HERE / 'target/classes'}:{JARS}/*", "Application")
        application = stack.enter_context(Worker(arguments, cores.under_test, ORDINARY, program))
        application.run(count // WARM_SHARE)
        others += with_descendants(application.pid)[1:]
        before, arrived = [cpu_seconds(pid) for pid in others], sink.counts()[0]
        measured = application.run(count)
        spent = sum(cpu_seconds(pid) for pid in others) - sum(before)
        arrived = sink.counts()[0] - arrived
        check(way.title, measured.result, *(() if way.is_packed else (arrived,)))
        memory = sum(memory_bytes(pid, "VmRSS") for pid in [application.pid, *others])
        return Seen(measured.cpu_s / count * 1e6, spent / count * 1e6, memory / MIB)


def rows_of(seen: dict[Way, list[Seen]]) -> list[list[str]]:
    rows = []
    for way, rounds in seen.items():
        part = [median(each.application_us for each in rounds)]
        part += [median(each.producer_us for each in rounds), median(each.us for each in rounds)]
        cells = [way.title, *(f"{each:.1f}" for each in part)]
        cells.append(f"{median(each.rss_mib for each in rounds):.0f}")
        peers = seen[KPL_PACKED if way.is_packed else KPL]
        ratios = sorted(peer.us / each.us for peer, each in zip(peers, rounds, strict=True))
        shown = (median(ratios), ratios[0], ratios[-1])
        cells += ["-"] * 3 if way.is_kpl else [f"1/{each:.1f}" for each in shown]
        rows.append(cells)
    return rows


HEADING = (
    "us of CPU a record",
    "application",
    "producer",
    "both",
    "MiB",
    "of KPL's",
    "least",
    "most",
)


def measure(options: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    load_before = os.getloadavg()[0]
    with place() as directory:
        files = Authority(directory).issue()
        with started_sink("--tls", str(files.certificate), str(files.key)) as sink:
            seen = command.interleaved(
                options.rounds,
                WAYS,
                lambda way: measure_way(way, sink, files, options.share),
                lambda way, one: f"{way.title}: {one.us:.1f} us",
            )
    how = (
        f"`python -m bench.kpl --write`, {today()}; load average"
        f" {load_before:.1f} before the start; medians of {options.rounds} rounds, and of their own"
        " ratios. KPL 1.0.6; its rate limit is out of the way."
    )
    return "\n".join([TITLE, "", how, "", *table(HEADING, rows_of(seen))])


def main() -> int:
    parser = command.arguments("kpl", "Beside the KPL.", is_written=True)
    parser.parse_args()  # --help builds nothing
    obstacle = build()
    if obstacle is not None:
        print(f"bench: {obstacle}: nothing is measured", file=sys.stderr)
        return NOT_HERE
    return command.run(parser, measure, quick_share=QUICK_SHARE)


if __name__ == "__main__":
    sys.exit(main())

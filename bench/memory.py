"""What memory a load takes: `python -m bench.memory [--before DIR] [--only TEXT] [--write]`.

`stored` records of one size come in while nobody listens where the service should be; then the
service is there, and all of it drains. A row a load: resident memory when idle, at its highest and
10 s after the end, and by how much it was above what the daemon said it holds. The last row is a
restart in an outage with what many streams left on disk. `--before`: another tree of the project,
whose daemon carries the same load in turn with this one's: both see the same machine.
Invariant: a row is given only if the sink counted exactly the records that were acknowledged.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import report
from bench.compare import daemon_config, started_sink
from bench.daemon import DaemonProcess, Tree, environment
from bench.host import Cores, choose_cores, free_port, memory_bytes, pinned, settled_rss_bytes
from bench.spool import wait_for_records
from bench.worker import Worker

MIB = 1024 * 1024
TITLE = "## Memory"
SPOOL_BYTES_MAX = 4 * 1024 * MIB
LOOK_S = 0.25  # between two looks at what is resident and what is held
AFTER_S = 10.0  # from the last record to the last look
RESTART_STREAMS = 90
RESTART_OUTAGE_S = 15.0  # that it is watched before the service is there
QUICK_SHARE = 16
ROOM = ("--set", f"memory_bytes_max={4096 * MIB}")  # to fill the disk for many streams
HELD = "kdaemon_memory_held_bytes"  # the old name: a tree before has no other


@dataclass(frozen=True, slots=True)
class Load:
    """`data_bytes` of each record, `batch` of them in a request, so many MB in all, for `streams`.
    The daemon is started anew before it drains if `restarts`.
    """

    title: str
    data_bytes: int
    batch: int
    megabytes: int
    streams: int = 1
    restarts: bool = False

    @property
    def records(self) -> int:
        """Of each stream."""
        return self.megabytes * 1_000_000 // self.data_bytes // self.streams


LOADS = (
    Load("400 MB of 100 B", 100, 500, 400),
    Load("300 MB of 1 KB", 1_000, 500, 300),
    Load("500 MB of 10 KB", 10_000, 500, 500),
    Load("500 MB of 100 KB", 100_000, 50, 500),
    Load(
        f"450 MB of 1 KB for {RESTART_STREAMS} streams, restarted in the outage",
        *(1_000, 500, 450),
        streams=RESTART_STREAMS,
        restarts=True,
    ),
)


@dataclass(slots=True)
class Seen:
    """Of one daemon under one load, in bytes; 0: not looked at."""

    idle: int = 0
    peak: int = 0
    held: int = 0  # at most, by the daemon's own count
    above: int = 0  # resident less held, at most
    after: int = 0
    seconds: float = 0.0  # of the drain


@dataclass(slots=True)
class Watch:
    """Looks at a daemon again and again, in a thread."""

    daemon: DaemonProcess
    seen: Seen
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            self.seen.peak = max(self.seen.peak, memory_bytes(self.daemon.pid, "VmHWM"))

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            resident = memory_bytes(self.daemon.pid, "VmRSS")
            held = int(sum(self.daemon.metrics()[HELD].values()))
            self.seen.held = max(self.seen.held, held)
            self.seen.above = max(self.seen.above, resident - held)


def config(sink_port: int, spool: Path, streams: int) -> str:
    listed = "".join(f"[streams.{name}]\n" for name in names(streams))
    table = f'[spool]\ndirectory = "{spool}"\nbytes_max = {SPOOL_BYTES_MAX}\n'
    return f"streams_max = {max(100, streams)}\n" + daemon_config(sink_port) + table + listed


def names(streams: int) -> list[str]:
    return [f"bench-{number}" for number in range(streams)]


def measure(tree: Tree, load: Load, cores: Cores, place: Path, share: int) -> Seen:
    """One load, from an idle daemon to ten seconds after its end."""
    seen = Seen()
    with tempfile.TemporaryDirectory(prefix="kdaemon-bench-", dir=place) as name:
        directory = Path(name)
        port = free_port()
        toml = config(port, directory / "spool", load.streams)

        @contextmanager
        def daemon(*flags: str) -> Iterator[DaemonProcess]:
            with DaemonProcess(
                directory, toml, flags=flags, cores=cores.under_test, tree=tree
            ) as running:
                yield running

        count = 0
        if load.restarts:
            with daemon(*ROOM) as running:
                count = fill(running, load, cores, share)
                running.kill()
        with daemon() as running:
            if not load.restarts:
                seen.idle = settled_rss_bytes(running.pid)
            watch = Watch(running, seen)
            with watch.watching():
                if load.restarts:
                    time.sleep(RESTART_OUTAGE_S)
                else:
                    count = fill(running, load, cores, share)
                with started_sink(cores.sink, port=port) as sink:
                    began = time.monotonic()
                    wait_for_records(sink, count)
                    seen.seconds = time.monotonic() - began
                    time.sleep(AFTER_S)
                    seen.after = memory_bytes(running.pid, "VmRSS")
                    wait_for_records(sink, count)  # none came twice
    return seen


def fill(daemon: DaemonProcess, load: Load, cores: Cores, share: int) -> int:
    """How many records were acknowledged as stored."""
    count = 0
    for stream in names(load.streams):
        arguments = [
            *("bench.load", "put_records", "--unix", daemon.socket_path),
            *("--acknowledge", "stored", "--stream", stream, "--batch", str(load.batch)),
            *("--data-bytes", str(load.data_bytes), "--bodies", "16"),
        ]
        with Worker(arguments, cores.load, environment()) as worker:
            result = worker.run(max(load.batch, load.records // share)).result
        if result["failed"]:
            message = f"{load.title}: {result['failed']} records were refused"
            raise RuntimeError(message)
        count += result["records"]
    return count


def row(load: Load, tree: Tree, seen: Seen) -> str:
    figures = (seen.idle, seen.peak, seen.held, seen.above, seen.after)
    cells = [load.title, tree.title, *(f"{each / MIB:.0f}" if each else "-" for each in figures)]
    return "| " + " | ".join([*cells, f"{seen.seconds:.0f}"]) + " |"


HEAD = (
    "| stored in an outage, drained | | idle | peak | held | above held | 10 s after | drain s |",
    "|---|---|--:|--:|--:|--:|--:|--:|",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory", description="What memory a load takes, in MiB."
    )
    parser.add_argument("--before", type=Path, help="another tree, to compare with")
    parser.add_argument("--only", default="", help="loads whose title holds this text")
    parser.add_argument("--quick", action="store_true", help="a part of each: does it run at all")
    parser.add_argument("--write", action="store_true", help="write it into bench/RESULTS.md")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    trees = [Tree("now")]
    if options.before is not None:
        trees.insert(0, Tree("before", options.before.resolve()))
    cores = choose_cores(os.sched_getaffinity(0))
    lines = list(HEAD)
    print("\n".join(lines), flush=True)
    try:
        with pinned(cores.load):
            for load in LOADS:
                if options.only not in load.title:
                    continue
                for tree in trees:
                    share = QUICK_SHARE if options.quick else 1
                    seen = measure(tree, load, cores, options.directory, share)
                    lines.append(row(load, tree, seen))
                    print(lines[-1], flush=True)
    except RuntimeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.write:
        report.write_section("\n".join([TITLE, "", *lines, ""]))
        print(f"written: {report.RESULTS_PATH.name}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

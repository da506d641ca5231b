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
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import command
from bench.host import Cores, choose_cores, free_port, pinned, settled_rss_bytes
from bench.table import MIB, table
from bench.targets import ORDINARY, UNPACED, Tree, check, daemon, place, started_sink
from bench.worker import Worker
from tests.kit.daemon import Daemon

TITLE = "## Memory"
SPOOL_BYTES_MAX = 4 * 1024 * MIB
LOOK_S = 0.25  # between two looks at what is resident and what is held
AFTER_S = 10.0  # from the last record to the last look
RESTART_STREAMS = 90
RESTART_OUTAGE_S = 15.0  # that it is watched before the service is there
QUICK_SHARE = 16
ROOM = {"memory_bytes_max": 4096 * MIB}  # to fill the disk for many streams
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

    daemon: Daemon
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
            self.seen.peak = max(self.seen.peak, self.daemon.peak_bytes())

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            resident, held = self.daemon.rss_bytes(), self.daemon.counted(HELD)
            self.seen.held = max(self.seen.held, held)
            self.seen.above = max(self.seen.above, resident - held)


def settings_of(spool: Path, streams: int) -> dict[str, object]:
    return {
        **UNPACED,
        "streams_max": max(100, streams),
        "spool.directory": str(spool),
        "spool.bytes_max": SPOOL_BYTES_MAX,
        **{f"streams.{name}": {} for name in names(streams)},
    }


def names(streams: int) -> list[str]:
    return [f"bench-{number}" for number in range(streams)]


def measure_load(tree: Tree, load: Load, cores: Cores, parent: Path, share: int) -> Seen:
    """One load, from an idle daemon to ten seconds after its end."""
    seen = Seen()
    with place(parent) as directory:
        port = free_port()
        settings = settings_of(directory / "spool", load.streams)

        def started(more: Mapping[str, object] | None = None) -> AbstractContextManager[Daemon]:
            given, service = {**settings, **(more or {})}, f"http://127.0.0.1:{port}"
            return daemon(service, given, cores.under_test, directory=directory, tree=tree)

        count = 0
        if load.restarts:
            with started(ROOM) as running:
                count = fill(running, load, cores, share)
        with started() as running:
            if not load.restarts:
                seen.idle = settled_rss_bytes(running.pid)
            watch = Watch(running, seen)
            with watch.watching():
                if load.restarts:
                    time.sleep(RESTART_OUTAGE_S)
                else:
                    count = fill(running, load, cores, share)
                with started_sink("--port", str(port), cores=cores) as sink:
                    began = time.monotonic()
                    sink.wait_for(count)
                    seen.seconds = time.monotonic() - began
                    time.sleep(AFTER_S)
                    seen.after = running.rss_bytes()
                    sink.wait_for(count)  # none came twice
    return seen


def fill(daemon: Daemon, load: Load, cores: Cores, share: int) -> int:
    """How many records were acknowledged as stored."""
    count = 0
    for stream in names(load.streams):
        arguments = [
            *("bench.load", "put_records", "--unix", daemon.address("unix")),
            *("--acknowledge", "stored", "--stream", stream, "--batch", str(load.batch)),
            *("--data-bytes", str(load.data_bytes), "--bodies", "16"),
        ]
        with Worker(arguments, cores.load, ORDINARY) as worker:
            result = worker.run(max(load.batch, load.records // share)).result
        check(load.title, result)
        count += result["records"]
    return count


def row(load: Load, tree: Tree, seen: Seen) -> list[str]:
    figures = (seen.idle, seen.peak, seen.held, seen.above, seen.after)
    cells = [load.title, tree.title, *(f"{each / MIB:.0f}" if each else "-" for each in figures)]
    return [*cells, f"{seen.seconds:.0f}"]


HEADING = (
    "stored in an outage, drained",
    "",
    "idle",
    "peak",
    "held",
    "above held",
    "10 s after",
    "drain s",
)


def measure(options: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    trees = [Tree("now")]
    if options.before is not None:
        trees.insert(0, Tree("before", options.before.resolve()))
    cores = choose_cores(os.sched_getaffinity(0))
    rows = []
    with pinned(cores.load):
        for load in [each for each in LOADS if options.only in each.title]:
            for tree in trees:
                seen = measure_load(tree, load, cores, options.directory, options.share)
                rows.append(row(load, tree, seen))
                command.tell(", ".join(rows[-1]))
    return "\n".join([TITLE, "", *table(HEADING, rows, words=2)])


def main() -> int:
    parser = command.arguments(
        "memory", "What memory a load takes, in MiB.", rounds=None, is_written=True
    )
    parser.add_argument("--before", type=Path, help="another tree, to compare with")
    parser.add_argument("--only", default="", help="loads whose title holds this text")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    return command.run(parser, measure, quick_share=QUICK_SHARE)


if __name__ == "__main__":
    sys.exit(main())

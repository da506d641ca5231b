"""What more shards, streams and connections cost: `python -m bench.growth [--quick] [--only PART]`.

`shards`, `streams`, `connections`: instructions of a record, as bench.instructions counts them, of
the same work with more and more of each. `idle`: CPU of a daemon that has so many streams or kept
connections, and nothing to do, against a local sink. `scrape`: how long the loop is held at a time,
at most, while /metrics tells of 100 streams of 64 shards: CPU of the thread between two turns.
Invariant: only one of the three counts changes within a table; every record was delivered.
Where it sits: beside bench.instructions, whose works and shapes it has; Linux only. Without
valgrind the first three parts are left out, and that is said.
"""

import argparse
import asyncio
import resource
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench import command
from bench.instructions import Shape, count, open_streams
from bench.records import make_records, put_record_request
from bench.table import growth
from bench.targets import UNPACED, Sink, daemon, started_sink
from kdaemon.base.steps import at_once
from kdaemon.observe.heartbeat import Heartbeat
from kdaemon.observe.metrics import Metrics
from kdaemon.observe.readiness import Readiness
from kdaemon.observe.reading import SnapshotReader, Sources
from kdaemon.observe.slices import SLICE_NS
from tests.kit.daemon import Daemon
from tests.kit.linux import cores_used

ROOT = Path(__file__).resolve().parents[1]
COUNTED = {
    "shards": (
        ("put_records", "put_record"),
        [Shape(shards=number) for number in (1, 16, 1_000, 10_000)],
    ),
    "streams": (("put_records",), [Shape(streams=number) for number in (1, 100, 1_000)]),
    "connections": (("put_record",), [Shape(connections=number) for number in (1, 64, 5_000)]),
}
TITLES = {"put_records": "PutRecords of 500", "put_record": "PutRecord"}
IDLE = {"streams": (1, 100, 1_000), "connections": (0, 64, 5_000)}
QUICK_IDLE = {"streams": (1, 8), "connections": (0, 64)}
TOLD_WITHIN_S = 900.0  # 1,000 streams are asked for at the quota of control calls: 400 s
SETTLED_S = 5.0  # from then on: what a start leaves to do is done
IDLE_S = 20.0
QUICK_IDLE_S = 1.0
SCRAPED_STREAMS, SCRAPED_SHARDS = 100, 64
HEADING = "## Growth: more shards, streams and connections"
PARTS = (*COUNTED, "idle", "scrape")


def counted(part: str, *, is_quick: bool) -> str:
    """The table of one part. `is_quick`: the smallest and the next only."""
    works, shapes = COUNTED[part]
    shapes = shapes[:2] if is_quick else shapes
    rows = {TITLES[work]: [count(work, ROOT, shape) for shape in shapes] for work in works}
    counts = [getattr(shape, part) for shape in shapes]
    return growth(f"instructions a record, by {part}", counts, rows)


def measure_idle(what: str, number: int, seconds: float, sink: Sink) -> float:
    """The part of a core that an idle daemon takes with so many streams or connections, 0..1."""
    names = [f"bench-{each}" for each in range(number if what == "streams" else 1)]
    settings: dict[str, object] = {**UNPACED, "streams_max": max(100, number)}
    settings |= {f"streams.{name}": {} for name in names}
    connections = number if what == "connections" else 0
    with (
        daemon(sink.url, settings, sink.cores.under_test) as started,
        kept_connections(started.port, connections),
    ):
        wait_until_told(started, len(names))
        time.sleep(min(SETTLED_S, seconds))
        return cores_used(started.pid, seconds)


def wait_until_told(daemon: Daemon, streams: int) -> None:
    """Until the service has told of all of them: RuntimeError if it does not."""
    deadline_s = time.monotonic() + TOLD_WITHIN_S
    while daemon.counted("kdaemon_shard_map_refreshes_total") < streams:
        if time.monotonic() > deadline_s:
            raise RuntimeError("the service did not tell of all streams")
        time.sleep(1.0)


@contextmanager
def kept_connections(port: int, number: int) -> Iterator[None]:
    """So many clients that have sent one record each, and stay."""
    (record,) = make_records(1)
    request = put_record_request(record, "bench-0")
    with ExitStack() as stack:
        for _ in range(number):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(request)
            if b" 200 " not in client.recv(4096):
                raise RuntimeError("a record was not delivered")
        yield


def idle(*, is_quick: bool) -> str:
    """The table of the idle daemon, in percent of a core."""
    seconds, rounds = (QUICK_IDLE_S, 1) if is_quick else (IDLE_S, 2)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    tables = []
    with started_sink() as sink:
        for what, shown in (QUICK_IDLE if is_quick else IDLE).items():
            parts = [
                100 * median(measure_idle(what, each, seconds, sink) for _ in range(rounds))
                for each in shown
            ]
            tables.append(growth(f"idle, % of a core, by {what}", shown, {"daemon": parts}))
    return "\n\n".join(tables)


def scrape(*, is_quick: bool) -> str:
    """The longest hold of the loop for a page of metrics, and what all of it takes."""
    streams = SCRAPED_STREAMS // 10 if is_quick else SCRAPED_STREAMS
    stalled_ns = asyncio.run(_held(Shape(shards=SCRAPED_SHARDS, streams=streams)))
    return (
        f"/metrics of {streams} streams x {SCRAPED_SHARDS} shards holds the loop for"
        f" {max(stalled_ns) / 1e6:.2f} ms at a time at most, {sum(stalled_ns) / 1e6:.1f} ms in all."
    )


async def _held(shape: Shape) -> list[int]:
    """What each slice of the page takes of this thread, in nanoseconds; the page is made once
    before, so that what a process does once is not in it.
    """
    observed, _, clock, _ = open_streams(make_records(1), shape)
    for _ in range(shape.streams):  # the shards are told, in steps
        await asyncio.sleep(0)
    sources = Sources(observed, Readiness(lambda: False), Heartbeat(clock), "bench")
    metrics = Metrics(SnapshotReader(sources, clock), per_shard=True)
    at_once(metrics.plain())
    stalled_ns: list[int] = []
    steps = metrics.plain()
    is_whole = False
    while not is_whole:
        began_ns = time.thread_time_ns()
        until_ns = began_ns + SLICE_NS
        while not is_whole and time.thread_time_ns() < until_ns:
            is_whole = next(steps, steps) is steps
        stalled_ns.append(time.thread_time_ns() - began_ns)
    return stalled_ns


def part_of(part: str, *, is_quick: bool) -> str:
    """The table of one part."""
    if part == "idle":
        return idle(is_quick=is_quick)
    if part == "scrape":
        return scrape(is_quick=is_quick)
    if shutil.which("valgrind") is not None:
        return counted(part, is_quick=is_quick)
    return f"{part}: left out, there is no valgrind here, which counts instructions"


def measure(options: argparse.Namespace) -> str:
    """The section of RESULTS.md; tells each table as it is measured."""
    tables = []
    for part in options.only or PARTS:
        tables.append(part_of(part, is_quick=options.quick))
        command.tell(tables[-1])
    return "\n\n".join([HEADING, *tables])


def main() -> int:
    parser = command.arguments(
        "growth", "What more of everything costs.", rounds=None, is_written=True
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone")
    return command.run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())

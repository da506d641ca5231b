"""A quiet client beside a greedy one, with real processes: `python -m bench.fairness [--write]`.

A daemon with its sandbox of four shards (quotas on, every call 30 ms), a quiet client (200 single
records a second) and a greedy one (PutRecords of 500 on four connections, or lines as fast as they
are read), each in a process of its own. A row a case: the quiet client's times alone and beside,
what it was refused, and what the greedy one's shard took. `tests/sim/test_fairness.py` holds the
same in simulated time. What it says of the quiet client's times is of this machine while others use
it; what it says of refusals and of the shard is not.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from math import inf
from multiprocessing.connection import Connection
from pathlib import Path

from bench import command
from bench.disk import percentile
from bench.rivals import Mission, Told, run_client
from bench.table import table, today
from bench.targets import place
from kdaemon.base.limits import SHARD_RECORDS_PER_SECOND
from tests.kit.daemon import Daemon, from_scratch, get, running

RATE = 200  # records a second of the quiet client
CALL_MS = 30  # of every call to the sandbox
SHARDS = 4
WARM_UP_S = 4.0  # of the greedy client, before the quiet one counts
START_S = 1.0  # of the quiet one
ALONE_S = 3.0
TITLE = "## A quiet client beside a greedy one"
HERE, THERE = "fair", "other"  # streams
spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Case:
    way: str
    promise: str
    where: str

    @property
    def name(self) -> str:
        return f"{self.way}, `{self.promise}`, {self.where}"


WHERES = ("same shard", "other shard", "other stream")
CASES = [
    Case(way, promise, where)
    for way in ("http", "socket")
    for promise in ("delivered", "stored", "accepted")
    for where in WHERES
]


def keys_of(shard: int, wanted: int = 50) -> tuple[str, ...]:
    """Keys of one of SHARDS equal shards."""

    def is_there(key: str) -> bool:
        digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
        return int.from_bytes(digest, "big") * SHARDS >> 128 == shard

    return tuple(islice(filter(is_there, (f"key-{number:08d}" for number in count())), wanted))


@contextmanager
def client(mission: Mission) -> Iterator[Connection]:
    """A client at work; killed at the end, told to stop by whoever wants to hear of it."""
    ours, its = spawn.Pipe()
    process = spawn.Process(target=run_client, args=(mission, its), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def heard(pipe: Connection) -> Told:
    pipe.send("stop")
    told: Told = pipe.recv()
    return told


@dataclass(frozen=True, slots=True)
class Figures:
    """`shard_per_s`: records a second that the greedy client's shard took of all clients."""

    p50_ms: float
    p99_ms: float
    refused: int
    answered_per_s: float
    shard_per_s: float


def written(daemon: Daemon, stream: str, shard: int) -> int:
    """Records that a shard of the sandbox has taken."""
    status, text = get(daemon.sandbox_url + "/sandbox/state")
    assert status == 200, text
    count: int = json.loads(text)["streams"][stream]["shards"][shard]["written"]
    return count


def measure_case(case: Case, directory: Path, seconds: float, *, is_alone: bool) -> Figures:
    path = str(directory / "k.sock")
    settings: dict[str, object] = {
        "listen.unix": path,
        "sandbox.streams": [HERE, THERE],
        "sandbox.shard_count": SHARDS,
        "spool.directory": str(directory / "spool"),
        "default.deadline_ms": 90_000,  # longer than any queue: it is seen, not refused
    }
    with from_scratch(), running(directory, settings) as daemon:
        daemon.inject({"kind": "latency", "latency_ms": CALL_MS, "calls": None})
        quiet = Mission(
            case.way, daemon.port, path, HERE, case.promise, keys_of(0), data_bytes=100, rate=RATE
        )
        stream = THERE if case.where == "other stream" else HERE
        shard = 1 if case.where == "other shard" else 0
        greedy = Mission(
            case.way, daemon.port, path, stream, case.promise, keys_of(shard), data_bytes=200
        )
        with ExitStack() as clients:
            if not is_alone:
                clients.enter_context(client(greedy))
                time.sleep(WARM_UP_S)
            pipe = clients.enter_context(client(quiet))
            return _heard_of(pipe, lambda: written(daemon, stream, shard), seconds)


def _heard_of(pipe: Connection, count_written: Callable[[], int], seconds: float) -> Figures:
    time.sleep(START_S)
    began, before = time.monotonic(), count_written()
    time.sleep(seconds)
    took_s, after = time.monotonic() - began, count_written()
    told = heard(pipe)
    ended = began + took_s
    times = [took for sent, took in told.times_ms if sent < ended and sent + took / 1000 > began]
    return Figures(
        p50_ms=percentile(times, 50) if times else inf,
        p99_ms=percentile(times, 99) if times else inf,
        refused=told.refused,
        answered_per_s=len(times) / took_s,
        shard_per_s=(after - before) / took_s,
    )


def row(case: Case, alone: Figures, beside: Figures) -> tuple[str, ...]:
    return (
        case.name,
        f"{alone.p50_ms:,.0f}",
        f"{alone.p99_ms:,.0f}",
        f"{beside.p50_ms:,.0f}",
        f"{beside.p99_ms:,.0f}",
        f"{beside.answered_per_s:,.0f}",
        f"{beside.refused:,}",
        f"{beside.shard_per_s:,.0f}",
        f"{beside.shard_per_s / SHARD_RECORDS_PER_SECOND:.0%}",
    )


HEADING = (
    "case",
    "alone p50 ms",
    "p99",
    "beside p50 ms",
    "p99",
    "sent/s",
    "refused",
    "its shard/s",
    "used",
)


def measure(options: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    load = os.getloadavg()[0]
    rows = []
    alone: dict[tuple[str, str], Figures] = {}
    for case in [each for each in CASES if options.only in each.name]:
        kind = case.way, case.promise
        for is_alone in (True, False):
            if is_alone and kind in alone:
                continue
            with place() as directory:
                seconds = ALONE_S if is_alone else options.seconds
                figures = measure_case(case, directory, seconds, is_alone=is_alone)
            if is_alone:
                alone[kind] = figures
            else:
                rows.append(row(case, alone[kind], figures))
                command.tell(" | ".join(rows[-1]))
    lines = [
        TITLE,
        "",
        "Written by `python -m bench.fairness --write`; how to read it: [README.md](README.md).",
        f"{today()}, {os.cpu_count()} cores, load average {load:.1f} before the start.",
        "",
        *table(HEADING, rows),
    ]
    return "\n".join(lines)


def main() -> int:
    text = "A quiet client beside a greedy one."
    parser = command.arguments("fairness", text, rounds=None, is_written=True)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each case, beside")
    return command.run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())

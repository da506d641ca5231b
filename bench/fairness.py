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
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from math import inf
from multiprocessing.connection import Connection
from pathlib import Path

from bench import report
from bench.rivals import Mission, Told, run_client
from bench.spool_report import table
from kdaemon.base.limits import SHARD_RECORDS_PER_SECOND
from tests.kit.daemon import Daemon, from_scratch, running

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
    """`greedy`: records a second that the service took besides the quiet ones. `used`: of what the
    quota of the greedy client's shard leaves.
    """

    p50_ms: float
    p99_ms: float
    refused: int
    answered_per_s: float
    greedy_per_s: float
    used: float


def delivered(daemon: Daemon) -> int:
    return daemon.counted("kdaemon_records_delivered_total")


def measure(case: Case, directory: Path, seconds: float, *, is_alone: bool) -> Figures:
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
        greedy = Mission(
            case.way,
            daemon.port,
            path,
            THERE if case.where == "other stream" else HERE,
            case.promise,
            keys_of(1 if case.where == "other shard" else 0),
            data_bytes=200,
        )
        with ExitStack() as clients:
            if not is_alone:
                clients.enter_context(client(greedy))
                time.sleep(WARM_UP_S)
            pipe = clients.enter_context(client(quiet))
            return _heard_of(pipe, daemon, seconds, is_shared=case.where == "same shard")


def _heard_of(pipe: Connection, daemon: Daemon, seconds: float, *, is_shared: bool) -> Figures:
    time.sleep(START_S)
    began, before = time.monotonic(), delivered(daemon)
    time.sleep(seconds)
    took_s, after = time.monotonic() - began, delivered(daemon)
    told = heard(pipe)
    ended = began + took_s
    times = sorted(
        took for sent, took in told.times_ms if sent < ended and sent + took / 1000 > began
    )
    in_time = sum(began <= sent + took / 1000 < ended for sent, took in told.times_ms)
    quota = SHARD_RECORDS_PER_SECOND * took_s
    besides = after - before - in_time
    return Figures(
        p50_ms=_percentile(times, 50),
        p99_ms=_percentile(times, 99),
        refused=told.refused,
        answered_per_s=len(times) / took_s,
        greedy_per_s=besides / took_s,
        used=(after - before) / quota if is_shared else besides / quota,
    )


def _percentile(times: list[float], percent: int) -> float:
    return times[min(len(times) - 1, len(times) * percent // 100)] if times else inf


def row(case: Case, alone: Figures, beside: Figures) -> tuple[str, ...]:
    return (
        case.name,
        f"{alone.p50_ms:,.0f}",
        f"{alone.p99_ms:,.0f}",
        f"{beside.p50_ms:,.0f}",
        f"{beside.p99_ms:,.0f}",
        f"{beside.answered_per_s:,.0f}",
        f"{beside.refused:,}",
        f"{beside.greedy_per_s:,.0f}",
        f"{beside.used:.0%}",
    )


HEADING = (
    "case",
    "alone p50 ms",
    "p99",
    "beside p50 ms",
    "p99",
    "sent/s",
    "refused",
    "greedy/s",
    "shard used",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="A quiet client beside a greedy one.")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each case, beside")
    parser.add_argument("--write", action="store_true", help="into bench/RESULTS.md")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows = []
    alone: dict[tuple[str, str], Figures] = {}
    for case in [each for each in CASES if options.only in each.name]:
        kind = case.way, case.promise
        for is_alone in (True, False):
            if is_alone and kind in alone:
                continue
            with tempfile.TemporaryDirectory() as place:
                seconds = ALONE_S if is_alone else options.seconds
                figures = measure(case, Path(place), seconds, is_alone=is_alone)
            if is_alone:
                alone[kind] = figures
            else:
                rows.append(row(case, alone[kind], figures))
                print(" | ".join(rows[-1]), flush=True)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        TITLE,
        "",
        "Written by `python -m bench.fairness --write`; how to read it: [README.md](README.md).",
        f"{today}, {os.cpu_count()} cores, load average {load:.1f} before the start.",
        "",
        *table(HEADING, rows),
    ]
    print("\n".join(lines))
    if options.write:
        report.write_section("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

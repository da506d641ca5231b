"""Workers of one daemon on one shard, beside as many daemons: real processes, and a real quota.

`python -m bench.one_shard [--workers 1 2 4] [--seconds 60]`

Each case has a `kdaemon sandbox` of its own with one shard (1,000 records and 1 MiB a second), and
NDJSON clients that always have more than the shard takes. Everything is counted from the first
record on, the cold start included, by the daemons' own metrics. `bench.fleet` simulates the same
without a machine that others use; here handing over connections, the split of the configuration,
and the processes are real.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench import command
from bench.fleet_sim import jain
from bench.records import STREAM
from bench.table import table
from bench.targets import ORDINARY, daemon
from bench.worker import Worker
from kdaemon.base.limits import SHARD_RECORDS_PER_SECOND
from tests.kit.daemon import Daemon, Metrics, sandbox

CONNECTIONS = 8  # of all clients
WINDOW = 4_000  # records without an answer, of all clients: four seconds of the quota
ENDLESS = 100_000_000  # records that a client is told to send
HEADING = ("busy", "shard used", "throttled", "part of each", "Jain")


@dataclass(frozen=True, slots=True)
class Case:
    """`is_one_client`: one connection, so that one worker has everything."""

    daemons: int
    workers: int  # of each
    is_one_client: bool = False

    def __str__(self) -> str:
        if self.daemons > 1:
            return f"{self.daemons} daemons"
        if self.workers == 1:
            return "1 daemon"
        busy = 1 if self.is_one_client else self.workers
        return f"{busy} of {self.workers} workers"


@dataclass(frozen=True, slots=True)
class Counted:
    """What one daemon or worker counted."""

    delivered: int
    attempts: int
    throttled: int


@dataclass(frozen=True, slots=True)
class Seen:
    """`counted`: of each daemon or worker that was busy. `seconds`: from the first record on."""

    counted: tuple[Counted, ...]
    seconds: float

    def row(self, case: Case) -> tuple[str, ...]:
        delivered = [each.delivered for each in self.counted]
        attempts = sum(each.attempts for each in self.counted)
        throttled = sum(each.throttled for each in self.counted)
        total = sum(delivered)
        return (
            str(case),
            f"{total / (SHARD_RECORDS_PER_SECOND * self.seconds):.1%}",
            f"{throttled / max(1, attempts):.2%}",
            ", ".join(f"{count / max(1, total):.0%}" for count in delivered),
            f"{jain([float(count) for count in delivered]):.3f}",
        )


def counted(metrics: Metrics, case: Case) -> list[Counted]:
    """Of each worker, or of the one process."""
    several = case.workers > 1
    numbers = [str(1 + each) for each in range(case.workers)] if several else [None]
    return [
        Counted(
            *(
                metrics.total(name, **({} if number is None else {"worker": number}))
                for name in (
                    "kdaemon_records_delivered_total",
                    "kdaemon_records_attempts_total",
                    "kdaemon_records_throttled_total",
                )
            )
        )
        for number in numbers
    ]


@contextmanager
def loaded(daemons: list[Daemon], case: Case, cores: frozenset[int]) -> Iterator[None]:
    """Clients of all daemons, until the block is left."""
    connections = 1 if case.is_one_client else CONNECTIONS // len(daemons)
    window = WINDOW // len(daemons) // connections
    how = ("--connections", str(connections), "--window", str(window))
    with ExitStack() as stack:
        loads = []
        for each in daemons:
            arguments = ["bench.load", "ndjson", "--unix", each.address("unix"), *how]
            loads.append(stack.enter_context(Worker(arguments, cores, ORDINARY)))
            stack.callback(loads[-1].kill)
        for load in loads:
            load.begin(ENDLESS)
        yield


def look(case: Case, seconds: float, every: frozenset[int]) -> Seen:
    with ExitStack() as stack:
        url = stack.enter_context(sandbox(STREAM, 1))
        daemons = [
            stack.enter_context(daemon(url, {"workers": case.workers}, every))
            for _ in range(case.daemons)
        ]
        with loaded(daemons, case, every):
            began_s = time.monotonic()
            time.sleep(seconds)
            scraped = [each.metrics() for each in daemons]
            took_s = time.monotonic() - began_s
        found = [each for metrics in scraped for each in counted(metrics, case)]
        return Seen(tuple(each for each in found if each.attempts), took_s)


def measure(options: argparse.Namespace) -> str:
    several = [count for count in options.workers if count > 1]
    cases = [
        *(Case(1, count) for count in options.workers),
        *(Case(count, 1) for count in several),
        *(Case(1, count, is_one_client=True) for count in several[-1:]),
    ]
    every = frozenset(os.sched_getaffinity(0))  # nothing is pinned
    rows = []
    for case in cases:
        rows.append(look(case, options.seconds / options.share, every).row(case))
        command.tell(" | ".join(rows[-1]))
    text = f"One shard, {options.seconds / options.share:g} s from a cold start"
    return "\n".join([text, "", *table(HEADING, rows)])


def main() -> int:
    parser = command.arguments("one_shard", "Workers of one daemon on one shard.", rounds=None)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=60.0)
    return command.run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())

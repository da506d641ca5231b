"""What is measured: the daemon of this version or of another, in front of a sink that takes all.

A round starts a real `kdaemon run` (`tests/kit/daemon.py`) on a core of its own, carries records to
it with a load, and looks at what it used. Sink, load and harness have the other cores. Knows the
daemon only from outside: its command line, its configuration, its log and its admin port.
Invariant: a figure is given only if the sink and the daemon counted every record that was carried.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.host import Cores, choose_cores, pinned, settled_rss_bytes
from bench.records import UNLIMITED
from bench.report import Outcome
from bench.worker import Result, Worker
from tests.kit.daemon import KDAEMON, LISTENERS, Daemon, environment, from_scratch, get, running
from tests.kit.linux import cpu_seconds, with_descendants

UNPACED = {
    "default.shard_records_per_second": UNLIMITED,
    "default.shard_bytes_per_second": UNLIMITED,
}
ORDINARY = environment(AWS_REGION="us-east-1", AWS_DEFAULT_REGION="us-east-1")
"""The environment of loads and peers: none of this machine's own settings of AWS."""
WARM_SHARE = 10  # the warm-up carries a tenth of the measured records
_DELIVER_WITHIN_S = 300.0
LOOK_S = 0.01  # between two looks at the sink: the error of a time to the last record


@dataclass(frozen=True, slots=True)
class Tree:
    """Which version runs. `path`: a checkout, or the Python of an environment that has kdaemon
    installed; None: this checkout.
    """

    title: str
    path: Path | None = None

    @property
    def how(self) -> dict[str, Any]:
        """As `Process` takes it."""
        if self.path is None:
            return {"program": KDAEMON}
        if self.path.is_file():
            return {"python": str(self.path), "program": ("-P", *KDAEMON)}
        begin = f"import sys; sys.path.insert(0, {str(self.path)!r}); "
        return {"program": ("-c", begin + "from kdaemon.__main__ import main; main()")}


THIS = Tree("now")


class Sink:
    """The sink's process. `port`: of the service that it stands in for. `cores`: of all."""

    def __init__(self, port: int, count_port: int, cores: Cores) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.cores = cores
        self._count_url = f"http://127.0.0.1:{count_port}/count"

    def counts(self) -> tuple[int, int]:
        """Records and calls it has taken."""
        _, text = get(self._count_url)
        counts: dict[str, int] = json.loads(text)
        return counts["records"], counts["calls"]

    def wait_for(self, record_count: int) -> None:
        """Until it has that many; RuntimeError if it never has, or has more."""
        deadline = time.monotonic() + _DELIVER_WITHIN_S
        while (arrived := self.counts()[0]) < record_count:
            if time.monotonic() > deadline:
                message = f"{arrived} of {record_count} records arrived"
                raise RuntimeError(f"{message}; no figure is given for that")
            time.sleep(LOOK_S)
        if arrived > record_count:
            raise RuntimeError(f"{arrived} records arrived, of {record_count} that were sent")


@contextmanager
def started_sink(*more: str, cores: Cores | None = None) -> Iterator[Sink]:
    """A sink until the block is left, in which this process has the load's cores. `more`: arguments
    of bench.sink. `cores`: if not as this machine has them.
    """
    cores = cores or choose_cores(os.sched_getaffinity(0))
    with pinned(cores.sink):
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.sink", *more], stdout=subprocess.PIPE, text=True
        )
    assert process.stdout is not None
    try:
        ports = [int(each) for each in process.stdout.readline().split()[1:]]
        with pinned(cores.load):
            yield Sink(ports[0], ports[-1], cores)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def place(parent: Path | None = None) -> Iterator[Path]:
    """A directory until the block is left."""
    with tempfile.TemporaryDirectory(prefix="kdaemon-bench-", dir=parent) as name:
        yield Path(name)


@contextmanager
def daemon(
    service: str | None,
    settings: Mapping[str, object],
    cores: frozenset[int],
    *,
    directory: Path | None = None,
    tree: Tree = THIS,
    **how: Any,
) -> Iterator[Daemon]:
    """One that is ready, with all defaults but for its listeners and `settings`; its Unix socket is
    in its directory. `service`: as of `running`; `how`: what runs, if not what `tree` says.
    """
    with ExitStack() as stack:
        directory = directory or stack.enter_context(place())
        given = {"listen.unix": str(directory / "kdaemon.sock"), **settings}
        with pinned(cores), from_scratch():
            running_one = running(
                directory, given, service=service, base=LISTENERS, **{**tree.how, **how}
            )
            started = stack.enter_context(running_one)
        try:
            yield started
        except Exception:  # what it said last may tell why
            print("\n".join(started.lines[-20:]), file=sys.stderr)
            raise


@dataclass(frozen=True, slots=True)
class Scenario:
    """`arguments`: words for the load's module, or for bench.peers if not `is_daemon`; `{unix}` and
    `{http}` stand for the daemon's socket and port. `records`: carried in one round.
    """

    name: str
    title: str
    arguments: str
    records: int
    is_daemon: bool = True
    load: str = "bench.load"

    def worker(self, daemon: Daemon, cores: frozenset[int]) -> Worker:
        values = {"unix": daemon.address("unix"), "http": str(daemon.port)}
        told = [argument.format(**values) for argument in self.arguments.split()]
        return Worker([self.load, *told], cores, ORDINARY)


SCENARIOS = (
    Scenario(
        "a",
        "kdaemon: PutRecords of 500, 8 connections, Unix socket",
        "put_records --unix {unix} --connections 8",
        1_000_000,
    ),
    Scenario(
        "b",
        "kdaemon: PutRecord, 64 keep-alive connections, TCP",
        "put_record --tcp {http} --connections 64",
        100_000,
    ),
    Scenario(
        "c",
        "kdaemon: NDJSON, 4 connections, Unix socket",
        "ndjson --unix {unix} --connections 4 --window 4000",
        1_000_000,
    ),
    *(
        Scenario(name, title, arguments, records, is_daemon=False)
        for name, title, arguments, records in (
            ("boto3-500", "boto3 put_records of 500, one thread", "boto3_put_records", 100_000),
            (
                "aiobotocore-500",
                "aiobotocore put_records of 500, 8 in flight",
                "aiobotocore_put_records",
                150_000,
            ),
            ("boto3-1", "boto3 put_record, one after another", "boto3_put_record", 3_000),
        )
    ),
)


def measure_daemon(
    scenario: Scenario,
    records: int,
    sink: Sink,
    settings: Mapping[str, object] | None = None,
    tree: Tree = THIS,
    *,
    is_idle_first: bool = False,
) -> Outcome:
    """One round of a daemon scenario, in a daemon of its own. `settings`: beside those that let it
    send without a quota. `is_idle_first`: its memory is looked at before.
    """
    cores, given = sink.cores, {**UNPACED, **(settings or {})}
    with daemon(sink.url, given, cores.under_test, tree=tree) as running_one:
        pid = running_one.pid
        idle_rss_bytes = settled_rss_bytes(pid) if is_idle_first else None
        with scenario.worker(running_one, cores.load) as load:
            load.run(records // WARM_SHARE)
            delivered = _delivered(running_one)
            pids = with_descendants(pid)
            before, (arrived, calls) = list(map(cpu_seconds, pids)), sink.counts()
            result = load.run(records).result
            used_s = [cpu_seconds(each) - was for each, was in zip(pids, before, strict=True)]
        arrived_after, calls_after = sink.counts()
        counted = [_delivered(running_one) - delivered]
        if "default.aggregation" not in given:
            counted.append(arrived_after - arrived)
        check(scenario.title, result, *counted)
        return Outcome(
            records=result["records"],
            seconds=result["seconds"],
            cpu_s=sum(used_s),
            records_per_call=result["records"] / (calls_after - calls),
            peak_rss_bytes=running_one.peak_bytes(),
            idle_rss_bytes=idle_rss_bytes,
            ready_s=running_one.ready_s,
            cpu_s_of_each=tuple(used_s),
            latency_ms=(result.get("latency_ms_p50", 0.0), result.get("latency_ms_p99", 0.0)),
        )


def check(title: str, result: Result, *counted: int) -> None:
    """RuntimeError, if not all records of a load were acknowledged, and counted as arrived."""
    if result["failed"] or any(each != result["records"] for each in counted):
        message = (
            f"{title}: of {result['records']} records {result['failed']} failed and"
            f" {' or '.join(map(str, counted))} arrived; no figure is given for that"
        )
        raise RuntimeError(message)


def _delivered(daemon: Daemon) -> int:
    return daemon.counted("kdaemon_records_delivered_total")

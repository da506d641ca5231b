"""How many records a call carries where each request has one: `python -m bench.batching`.

Single PutRecord requests at a rate, over as many connections as need be, in front of a sink that
takes SINK_MS for an answer. A request leaves when it is due, if a connection is free; the latency
counts from when it was due, so that a daemon which falls behind shows it. `--load RATE PORT` is the
child that does so, commanded over its standard input (worker.py).
"""

import argparse
import os
import select
import sys
import tempfile
import time
from collections import deque
from itertools import cycle, islice
from pathlib import Path

from bench import records as bench_records
from bench.compare import daemon_config, started_sink
from bench.daemon import DaemonProcess, environment
from bench.host import choose_cores, cpu_seconds, pinned
from bench.load import STALL_S, HttpConnection, connect
from bench.table import table
from bench.worker import Result, Worker, serve_commands

SINK_MS = 25.0
RATES = (1_000, 5_000, 20_000)
SECONDS = 6  # of a measured run; a third of that before it
_CONNECTIONS = 1_500
_BODIES = 20_000


class _Paced:
    def __init__(self, rate: int, port: int) -> None:
        self._rate = rate
        self._payloads = cycle(
            bench_records.request_head("PutRecord", len(body)) + body
            for body in map(bench_records.put_record_body, bench_records.make_records(_BODIES))
        )
        made = [HttpConnection(connect(None, port)) for _ in range(_CONNECTIONS)]
        self._connections = {each.sock.fileno(): each for each in made}
        self._free = deque(made)
        self._epoll = select.epoll()
        for descriptor in self._connections:
            self._epoll.register(descriptor, select.EPOLLIN)

    def run(self, count: int) -> Result:
        payloads = islice(self._payloads, count)
        late_ns: list[int] = []
        due_ns: dict[HttpConnection, int] = {}
        began_ns = time.perf_counter_ns()
        started = answered = 0
        while answered < count:
            elapsed_ns = time.perf_counter_ns() - began_ns
            due = min(count, elapsed_ns * self._rate // 10**9)
            while started < due and self._free:
                connection = self._free.popleft()
                due_ns[connection] = began_ns + started * 10**9 // self._rate
                connection.start(next(payloads), 1)
                started += 1
            wait_s = 0.0005 if started < count else STALL_S
            for descriptor, _ in self._epoll.poll(wait_s):
                connection = self._connections[descriptor]
                if connection.readable():
                    answered += 1
                    late_ns.append(time.perf_counter_ns() - due_ns[connection])
                    self._free.append(connection)
        late_ns.sort()
        return {
            "records": count,
            "seconds": (time.perf_counter_ns() - began_ns) / 1e9,
            "failed": sum(each.failed for each in self._connections.values()),
            "latency_ms_p50": late_ns[count // 2] / 1e6,
            "latency_ms_p99": late_ns[count * 99 // 100] / 1e6,
        }


def measure(rates: tuple[int, ...], seconds: float) -> str:
    cores = choose_cores(os.sched_getaffinity(0))
    rows = []
    with pinned(cores.load), started_sink(cores.sink, latency_ms=SINK_MS) as sink:
        for rate in rates:
            with (
                tempfile.TemporaryDirectory(prefix="kdaemon-bench-") as directory,
                DaemonProcess(
                    Path(directory), daemon_config(sink.port), cores=cores.under_test
                ) as daemon,
                Worker(
                    ["bench.batching", "--load", str(rate), str(daemon.http_port)],
                    cores.load,
                    environment(),
                ) as load,
            ):
                load.run(int(rate * seconds / 3))
                before, cpu_before = sink.counts(), cpu_seconds(daemon.pid)
                result = load.run(int(rate * seconds)).result
                cpu_s = cpu_seconds(daemon.pid) - cpu_before
                after = sink.counts()
            if result["failed"]:
                raise RuntimeError(f"{result['failed']} requests failed at {rate} a second")
            calls = after[1] - before[1]
            rows.append(
                (
                    f"{rate:,}",
                    f"{result['records'] / result['seconds']:,.0f}",
                    f"{result['records'] / calls:.0f}",
                    f"{result['latency_ms_p50']:.1f}",
                    f"{result['latency_ms_p99']:.1f}",
                    f"{cpu_s / result['seconds']:.0%}",
                )
            )
    heading = ("asked/s", "answered/s", "records a call", "p50 ms", "p99 ms", "CPU")
    return "\n".join(table(heading, rows, words=0))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.batching", description="Records a call under single requests."
    )
    parser.add_argument("--quick", action="store_true", help="a second of each: does it run at all")
    parser.add_argument("--load", nargs=2, type=int, help=argparse.SUPPRESS)  # the child's side
    options = parser.parse_args()
    if options.load:
        serve_commands(_Paced(*options.load).run)
        return 0
    if not hasattr(os, "sched_setaffinity"):
        print("bench needs Linux: it pins processes to cores and reads /proc", file=sys.stderr)
        return 2
    try:
        print(measure(RATES[:1] if options.quick else RATES, 1 if options.quick else SECONDS))
    except RuntimeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How many records a call carries where each request has one: `python -m bench.batching`.

Single PutRecord requests at a rate, over as many connections as need be, in front of a sink that
takes SINK_MS for an answer. A request leaves when it is due, if a connection is free; the latency
counts from when it was due, so that a daemon which falls behind shows it. `--load RATE PORT` is the
child that does so, commanded over its standard input (worker.py).
"""

import argparse
import select
import sys
import time
from collections import deque
from itertools import cycle, islice

from bench import command
from bench.disk import percentile
from bench.load import STALL_S, HttpConnection, connect
from bench.records import make_records, put_record_request
from bench.table import table
from bench.targets import Scenario, measure_daemon, started_sink
from bench.worker import Result, serve_commands

SINK_MS = 25.0
RATES = (1_000, 5_000, 20_000)
SECONDS = 6  # of a measured run
_CONNECTIONS = 1_500
_BODIES = 20_000


class _Paced:
    def __init__(self, rate: int, port: int) -> None:
        self._rate = rate
        self._payloads = cycle(map(put_record_request, make_records(_BODIES)))
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
        return {
            "records": count,
            "seconds": (time.perf_counter_ns() - began_ns) / 1e9,
            "failed": sum(each.failed for each in self._connections.values()),
            "latency_ms_p50": percentile(late_ns, 50) / 1e6,
            "latency_ms_p99": percentile(late_ns, 99) / 1e6,
        }


def measure(options: argparse.Namespace) -> str:
    rates, seconds = (RATES[:1], 1) if options.quick else (RATES, SECONDS)
    rows = []
    with started_sink("--latency-ms", str(SINK_MS)) as sink:
        for rate in rates:
            arguments = f"--load {rate} {{http}}"
            scenario = Scenario(
                "paced", f"{rate} a second", arguments, rate * seconds, load="bench.batching"
            )
            seen = measure_daemon(scenario, scenario.records, sink)
            latencies = (f"{each:.1f}" for each in seen.latency_ms)
            rows.append(
                (
                    f"{rate:,}",
                    f"{seen.records_per_s:,.0f}",
                    f"{seen.records_per_call:.0f}",
                    *latencies,
                    f"{seen.cpu_s / seen.seconds:.0%}",
                )
            )
    heading = ("asked/s", "answered/s", "records a call", "p50 ms", "p99 ms", "CPU")
    return "\n".join(table(heading, rows, words=0))


def main() -> int:
    if "--load" in sys.argv:  # the child's side
        serve_commands(_Paced(*map(int, sys.argv[2:])).run)
        return 0
    parser = command.arguments("batching", "Records a call under single requests.", rounds=None)
    return command.run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())

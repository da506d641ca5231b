"""A load on a schedule: clients that send one record each at fixed times, whatever comes back.

Run as its own process: `python -m bench.steady --unix PATH [--clients 10] [--rate 1000]
[--acknowledge stored]`, commanded over its standard input (see worker.py). NDJSON, a connection for
each client, one record in one write, so that each is a frame of its own. An open loop: a daemon
that stalls is not spared, and a record's time counts from when it was due, not from when it went.

`run N` carries N records and returns records, seconds, failed (0: a refusal ends the run), and in
milliseconds p50, p99 and max of the time to the acknowledgement, and `late_ms_p99`, how late this
process sent, which is in those times.
"""

import argparse
import select
import socket
import time
from collections import deque
from itertools import cycle

from bench import records as bench_records
from bench.disk import percentile
from bench.load import SHARD_PREFIX, STALL_S, NdjsonConnection, connect
from bench.worker import Result, serve_commands

_START_NS = 20_000_000  # from the command to the first record that is due
_LINE_COUNT = 20_000  # record lines built


class SteadyLoad:
    """Record k is due k / rate after the start and goes to client k modulo their number."""

    def __init__(self, sockets: list[socket.socket], rate: float, acknowledge: str) -> None:
        # no window: what is late is sent all the same
        self._clients = {
            sock.fileno(): NdjsonConnection(
                sock, bench_records.STREAM, window=1_000_000, acknowledge=acknowledge
            )
            for sock in sockets
        }
        self._order = list(self._clients.items())
        self._interval_ns = 1e9 / rate
        made = bench_records.make_records(_LINE_COUNT)
        self._lines = cycle([bench_records.ndjson_line(record) for record in made])

    def run(self, record_count: int) -> Result:
        """Sends `record_count` records in time; ConnectionError if a client is stuck or refused."""
        due: dict[int, deque[int]] = {number: deque() for number in self._clients}
        took_ns: list[int] = []
        late_ns: list[int] = []
        sent = 0
        started_ns = time.perf_counter_ns() + _START_NS
        while len(took_ns) < record_count:
            now_ns = time.perf_counter_ns()
            while sent < record_count:
                due_ns = started_ns + round(sent * self._interval_ns)
                if due_ns > now_ns:
                    break
                number, client = self._order[sent % len(self._order)]
                client.start(next(self._lines), 1)
                if client.has_unsent():
                    raise ConnectionError("the daemon does not read: a socket is full")
                due[number].append(due_ns)
                late_ns.append(now_ns - due_ns)
                sent += 1
            wait_s = STALL_S if sent == record_count else (due_ns - now_ns) / 1e9
            # select(2) waits for microseconds, epoll for whole milliseconds
            readable, _, _ = select.select(list(self._clients), [], [], wait_s)
            if not readable and sent == record_count:
                message = f"nothing came for {STALL_S:.0f} s; {len(took_ns)} of {sent} were told"
                raise ConnectionError(message)
            for number in readable:
                count = self._clients[number].readable()
                now_ns = time.perf_counter_ns()
                took_ns += [now_ns - due[number].popleft() for _ in range(count)]
        return {
            "records": record_count,
            "seconds": (time.perf_counter_ns() - started_ns) / 1e9,
            "failed": 0,
            "latency_ms_p50": percentile(took_ns, 50) / 1e6,
            "latency_ms_p99": percentile(took_ns, 99) / 1e6,
            "latency_ms_max": max(took_ns) / 1e6,
            "late_ms_p99": percentile(late_ns, 99) / 1e6,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Records at fixed times over NDJSON.")
    parser.add_argument("--unix", required=True, help="path of the daemon's Unix socket")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rate", type=float, default=1000.0, help="records/s of all clients")
    parser.add_argument("--acknowledge", choices=tuple(SHARD_PREFIX), default="stored")
    options = parser.parse_args()
    sockets = [connect(options.unix, None) for _ in range(options.clients)]
    serve_commands(SteadyLoad(sockets, options.rate, options.acknowledge).run)


if __name__ == "__main__":
    main()

"""Load generators: closed loops over prebuilt bytes, far cheaper than what they load.

Run as its own process: `python -m bench.load SCENARIO (--unix PATH | --tcp PORT)`, commanded over
its standard input (see worker.py). One thread, one epoll; every answer is read and checked.

- `put_records`: PutRecords requests of 500 records; the next leaves when the answer is whole.
- `put_record`: PutRecord requests, one record each, keep-alive connections, boto3's headers.
- `ndjson`: the Unix socket's NDJSON with a window of unacknowledged records on each connection.

`--acknowledge` says what is asked for; an answer that promises anything else counts as failed.
`run N` carries at least N records (whole requests) and returns records, seconds, failed, and for
the two request scenarios the latency of a request in milliseconds.
"""

import argparse
import json
import re
import select
import socket
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

from bench import records as bench_records
from bench.disk import percentile
from bench.worker import Result, serve_commands

STALL_S = 30.0  # seconds without a byte from the server: it is stuck, say so
RECEIVE_BYTES = 262_144
_BODY_COUNT = 200  # PutRecords bodies built: 200 x 500 records use all the keys
_SINGLE_COUNT = 20_000  # PutRecord requests built
_CHUNK_RECORDS = 100  # NDJSON lines in one write
# How the `ShardId` of a kept promise begins.
SHARD_PREFIX = {"delivered": b"shardId-", "stored": b"stored", "accepted": b"accepted"}


class Writer:
    """Non-blocking writes: what the socket does not take waits for `writable`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unsent: list[memoryview] = []

    def write(self, payload: bytes) -> None:
        if self._unsent:
            self._unsent.append(memoryview(payload))
            return
        try:
            sent = self.sock.send(payload)
        except BlockingIOError:
            sent = 0
        if sent < len(payload):
            self._unsent.append(memoryview(payload)[sent:])

    def writable(self) -> None:
        while self._unsent:
            try:
                sent = self.sock.send(self._unsent[0])
            except BlockingIOError:
                return
            if sent < len(self._unsent[0]):
                self._unsent[0] = self._unsent[0][sent:]
                return
            del self._unsent[0]

    def has_unsent(self) -> bool:
        return bool(self._unsent)


class HttpConnection(Writer):
    """One request in flight. `failed` counts records that were not acknowledged as asked."""

    def __init__(self, sock: socket.socket, acknowledge: str = "delivered") -> None:
        super().__init__(sock)
        self._shard_prefix = SHARD_PREFIX[acknowledge]
        self.failed = 0
        self.latencies_ns: list[int] = []
        self._answer = b""
        self._needed = 0  # bytes of the answer under way; 0: its head is not whole
        self._record_count = 0
        self._sent_ns = 0

    def wants_to_start(self) -> bool:
        return self._record_count == 0

    def start(self, payload: bytes, record_count: int) -> None:
        self._record_count = record_count
        self._sent_ns = time.perf_counter_ns()
        self.write(payload)

    def readable(self) -> int:
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed a connection in the middle of the load")
        answer = self._answer = self._answer + data if self._answer else data
        if not self._needed:
            head_end = answer.find(b"\r\n\r\n") + 4
            if head_end == 3:
                return 0
            head = answer[:head_end].lower()
            at = head.find(b"\r\ncontent-length:") + 17
            if at == 16:
                raise ConnectionError("an answer without Content-Length")
            self._needed = head_end + int(head[at : head.find(b"\r\n", at)])
        if len(answer) < self._needed:
            return 0
        self.latencies_ns.append(time.perf_counter_ns() - self._sent_ns)
        record_count, self._record_count = self._record_count, 0
        self.failed += record_count - acknowledged_in(answer, record_count, self._shard_prefix)
        self._answer, self._needed = b"", 0
        return record_count


def acknowledged_in(answer: bytes, record_count: int, shard_prefix: bytes = b"shardId-") -> int:
    """How many of a request's records its answer (head and body) acknowledges, by the promise
    whose `ShardId` begins so.

    A request of one record may have been a PutRecord; both name the shard of each success.
    An answer with another number of entries than the request had records acknowledges nothing.
    """
    if not answer.startswith(b"HTTP/1.1 200"):
        return 0
    failed = answer.count(b'"ErrorCode"')
    kept = answer.count(b'"ShardId":"%b' % shard_prefix)
    kept += answer.count(b'"ShardId": "%b' % shard_prefix)
    if not kept:  # in CBOR a name is led by its length, and so is the value
        failed = answer.count(b"\x69ErrorCode")
        kept = len(re.findall(b"\x67ShardId[\x60-\x77]%b" % re.escape(shard_prefix), answer))
    return kept if kept + failed == record_count else 0


class NdjsonConnection(Writer):
    """A window of records in flight; acknowledgements are cumulative over the connection."""

    def __init__(
        self,
        sock: socket.socket,
        stream: str,
        window: int,
        acknowledge: str = "delivered",
        **more: str,
    ) -> None:
        """`more`: what the first line says beside stream and acknowledgement."""
        super().__init__(sock)
        self.failed = 0
        self.latencies_ns: list[int] = []
        self.window = window  # records in flight at most
        self._sent = 0
        self._acknowledged = 0
        self._rest = b""  # an answer line that is not whole yet
        setup = {"stream": stream, "acknowledge": acknowledge, **more}
        self.write(json.dumps(setup).encode() + b"\n")

    def wants_to_start(self) -> bool:
        return self._sent - self._acknowledged < self.window and not self._unsent

    def start(self, payload: bytes, record_count: int) -> None:
        self._sent += record_count
        self.write(payload)

    def readable(self) -> int:
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed a connection in the middle of the load")
        if b'"rejected"' in data:
            message = f"a record was refused: {data[:300]!r}"
            raise ConnectionError(message)
        lines = self._rest + data
        end = lines.rfind(b"\n")
        self._rest = lines[end + 1 :]
        if end < 0:
            return 0
        at = lines.rfind(b'"acknowledged"', 0, end) + 14
        before, self._acknowledged = self._acknowledged, int(lines[at:end].strip(b" :}"))
        return self._acknowledged - before


class ClosedLoop:
    """Feeds prebuilt payloads to connections, each as soon as it may have more in flight:
    `wants_to_start` says so, `start` puts a payload in flight, `readable` reads what is there and
    says how many records were answered.
    """

    def __init__(
        self,
        connections: Sequence[Any],
        payloads: Iterator[bytes],
        payload_records: int,
    ) -> None:
        self._connections = {connection.sock.fileno(): connection for connection in connections}
        self._payloads = payloads
        self._payload_records = payload_records
        self._epoll = select.epoll()
        for descriptor in self._connections:
            self._epoll.register(descriptor, select.EPOLLIN)

    def run(self, record_count: int) -> Result:
        """Carries `record_count` records, up to whole payloads. ConnectionError if stuck."""
        payload_count = -(-record_count // self._payload_records)
        total = payload_count * self._payload_records
        payloads = islice(self._payloads, payload_count)
        for connection in self._connections.values():
            connection.failed = 0
            connection.latencies_ns.clear()
        started = time.perf_counter()
        answered = 0
        for descriptor in self._connections:
            self._feed(descriptor, payloads)
        while answered < total:
            happened = self._epoll.poll(STALL_S)
            if not happened:
                message = f"nothing came for {STALL_S:.0f} s; {answered} of {total} were answered"
                raise ConnectionError(message)
            for descriptor, what in happened:
                connection = self._connections[descriptor]
                if what & select.EPOLLOUT:
                    connection.writable()
                if what & ~select.EPOLLOUT:
                    answered += connection.readable()
                self._feed(descriptor, payloads, was_waiting=bool(what & select.EPOLLOUT))
        return self._result(total, time.perf_counter() - started)

    def _feed(
        self, descriptor: int, payloads: Iterator[bytes], *, was_waiting: bool = False
    ) -> None:
        connection = self._connections[descriptor]
        while connection.wants_to_start():
            payload = next(payloads, None)
            if payload is None:
                break
            connection.start(payload, self._payload_records)
        if connection.has_unsent():
            self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)
        elif was_waiting:
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _result(self, record_count: int, seconds: float) -> Result:
        connections = self._connections.values()
        latencies = [ns for connection in connections for ns in connection.latencies_ns]
        result: Result = {
            "records": record_count,
            "seconds": seconds,
            "failed": sum(connection.failed for connection in connections),
        }
        if latencies:
            result["latency_ms_p50"] = percentile(latencies, 50) / 1e6
            result["latency_ms_p99"] = percentile(latencies, 99) / 1e6
        return result


def connect(unix_path: str | None, tcp_port: int | None) -> socket.socket:
    """A connected, non-blocking socket (the connect itself waits)."""
    if unix_path is not None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(unix_path)
    else:
        sock = socket.create_connection(("127.0.0.1", tcp_port or 0), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


def build(scenario: str, options: argparse.Namespace) -> ClosedLoop:
    """Everything that costs: payloads and connections."""

    def sockets() -> list[socket.socket]:
        return [connect(options.unix, options.tcp) for _ in range(options.connections)]

    def requesting() -> Sequence[Any]:
        if not options.streams:
            return [HttpConnection(sock, acknowledge) for sock in sockets()]
        from bench.load_http2 import Http2Connection  # it builds on what is here

        return [Http2Connection(sock, acknowledge, options.streams) for sock in sockets()]

    stream, acknowledge = options.stream, options.acknowledge
    if scenario == "put_records":
        size = options.batch
        made = bench_records.make_records(
            options.bodies * size, data_bytes=options.data_bytes, key_count=options.keys
        )
        how = {"acknowledge": acknowledge, "encoding": options.encoding}
        payloads = [
            bench_records.put_records_request(part, stream, number=number, **how)
            for number, part in enumerate(bench_records.in_parts(list(made), size))
        ]
        return ClosedLoop(requesting(), cycle(payloads), size)
    if scenario == "put_record":
        payloads = [
            bench_records.put_record_request(record, stream, acknowledge=acknowledge, number=number)
            for number, record in enumerate(bench_records.make_records(_SINGLE_COUNT))
        ]
        return ClosedLoop(requesting(), cycle(payloads), 1)
    write, more = bench_records.FORMS[options.lines]
    lines = list(map(write, bench_records.make_records(_BODY_COUNT * 500, key_count=options.keys)))
    chunks = [b"".join(part) for part in bench_records.in_parts(lines, _CHUNK_RECORDS)]
    return ClosedLoop(
        [NdjsonConnection(sock, stream, options.window, acknowledge, **more) for sock in sockets()],
        cycle(chunks),
        _CHUNK_RECORDS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Closed-loop load over prebuilt bytes.")
    parser.add_argument("scenario", choices=("put_records", "put_record", "ndjson"))
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--unix", help="path of a Unix socket")
    where.add_argument("--tcp", type=int, help="port on 127.0.0.1")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--batch", type=int, default=bench_records.BATCH_RECORDS)
    parser.add_argument(
        "--bodies", type=int, default=_BODY_COUNT, help="distinct ones that put_records builds"
    )
    parser.add_argument("--streams", type=int, default=0, help="HTTP/2, so many at once on each")
    parser.add_argument("--window", type=int, default=4000, help="NDJSON records in flight each")
    parser.add_argument("--lines", choices=tuple(bench_records.FORMS), default="envelope")
    parser.add_argument("--stream", default=bench_records.STREAM)
    parser.add_argument("--acknowledge", choices=tuple(SHARD_PREFIX), default="delivered")
    parser.add_argument(
        "--encoding", choices=("json", "cbor"), default="json", help="of put_records"
    )
    parser.add_argument(
        "--data-bytes",
        type=int,
        default=bench_records.DATA_BYTES,
        help="of each record of put_records",
    )
    parser.add_argument(
        "--keys",
        type=int,
        default=bench_records.KEY_COUNT,
        help="distinct ones, of put_records and ndjson",
    )
    options = parser.parse_args()
    serve_commands(build(options.scenario, options).run)


if __name__ == "__main__":
    main()

"""What TLS costs the daemon: `python -m bench.tls [--quick] [--key rsa|ecdsa]`.

CPU of the real daemon, pinned, in front of the sink: for each request of one PutRecord and of one
PutRecords of 500, in clear and over TLS 1.3, rounds interleaved, medians; for each handshake; and
what an idle connection holds. Certificates are made for the run, and gone with it.
Invariant: a figure is given only if every record that was sent was answered with success.
"""

import argparse
import contextlib
import os
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench.compare import daemon_config, started_sink
from bench.daemon import DaemonProcess
from bench.host import choose_cores, cpu_seconds, pinned, settled_rss_bytes
from bench.records import (
    BATCH_RECORDS,
    make_records,
    put_record_body,
    put_records_body,
    request_head,
)
from bench.table import table
from tests.kit.certificates import Authority, Files

CONNECTIONS = 8  # each has one request under way
IDLE_CONNECTIONS = 400
KIB = 1024


def connect(daemon: DaemonProcess, context: ssl.SSLContext | None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", daemon.http_port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock if context is None else context.wrap_socket(sock, server_hostname="localhost")


def answer(sock: socket.socket) -> None:
    """Reads one whole answer; RuntimeError unless it says success for all."""
    text = b""
    while b"\r\n\r\n" not in text:
        text += sock.recv(65_536)
    head, _, body = text.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    while len(body) < length:
        body += sock.recv(65_536)
    is_whole = b'"FailedRecordCount":0' in body or b'"FailedRecordCount"' not in body
    if not (head.startswith(b"HTTP/1.1 200") and is_whole):
        raise RuntimeError(f"not every record was delivered: {head[:60]!r} {body[:200]!r}")


def cpu_us(
    daemon: DaemonProcess, socks: list[socket.socket], requests: list[bytes], rounds: int
) -> float:
    """Microseconds of the daemon's CPU for each request."""
    before = cpu_seconds(daemon.pid)
    for number in range(rounds):
        for at, sock in enumerate(socks):
            sock.sendall(requests[(number + at) % len(requests)])
        for sock in socks:
            answer(sock)
    return (cpu_seconds(daemon.pid) - before) / (rounds * len(socks)) * 1e6


def idle(daemon: DaemonProcess, context: ssl.SSLContext | None) -> tuple[float, float]:
    """(CPU of a new connection, microseconds; memory of an idle one, KiB)."""
    settled = settled_rss_bytes(daemon.pid)
    before = cpu_seconds(daemon.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(contextlib.closing(connect(daemon, context)))
        cpu_s = cpu_seconds(daemon.pid) - before
        footprint_bytes = settled_rss_bytes(daemon.pid) - settled
    return cpu_s / IDLE_CONNECTIONS * 1e6, footprint_bytes / IDLE_CONNECTIONS / KIB


def requests_of(count: int) -> list[bytes]:
    """Of one record each, or of BATCH_RECORDS."""
    records = list(make_records(BATCH_RECORDS * 4))
    if count == 1:
        bodies = [put_record_body(each) for each in records]
        return [request_head("PutRecord", len(body)) + body for body in bodies]
    parts = [records[at : at + count] for at in range(0, len(records), count)]
    bodies = [put_records_body(each) for each in parts]
    return [request_head("PutRecords", len(body)) + body for body in bodies]


@contextlib.contextmanager
def started(sink_port: int, files: Files | None, cores: frozenset[int]) -> Iterator[DaemonProcess]:
    flags: tuple[str, ...] = ()
    if files is not None:
        flags = tuple(f"--set={key}={value}" for key, value in files.settings.items())
    with (
        tempfile.TemporaryDirectory(prefix="kdaemon-bench-") as directory,
        DaemonProcess(
            Path(directory), daemon_config(sink_port), flags=flags, cores=cores
        ) as daemon,
    ):
        yield daemon


def measure(files: Files, rounds: int, share: int) -> list[str]:
    """A table, as lines."""
    cores = choose_cores(os.sched_getaffinity(0))
    what = {"a PutRecord": (requests_of(1), 4_000), "PutRecords of 500": (requests_of(500), 150)}
    seen: dict[tuple[str, bool], list[float]] = {}
    with pinned(cores.load), started_sink(cores.sink) as sink:
        for _ in range(rounds):
            for is_tls in (False, True):
                context = files.client() if is_tls else None
                with (
                    started(sink.port, files if is_tls else None, cores.under_test) as daemon,
                    contextlib.ExitStack() as stack,
                ):
                    socks = [connect(daemon, context) for _ in range(CONNECTIONS)]
                    for sock in socks:
                        stack.enter_context(contextlib.closing(sock))
                    for name, (requests, count) in what.items():
                        cpu_us(daemon, socks, requests, max(1, count // share // 10))
                        figure = cpu_us(daemon, socks, requests, max(1, count // share))
                        seen.setdefault((f"CPU of {name}, us", is_tls), []).append(figure)
                    opened_us, idle_kib = idle(daemon, context)
                    seen.setdefault(("CPU of a new connection, us", is_tls), []).append(opened_us)
                    seen.setdefault(("an idle connection, KiB", is_tls), []).append(idle_kib)
    rows = [
        (name, *(f"{median(seen[name, is_tls]):.1f}" for is_tls in (False, True)))
        for name in dict.fromkeys(name for name, _ in seen)
    ]
    return table(("", "plain", "TLS 1.3"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tls", description="What TLS costs.")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--key", choices=("ecdsa", "rsa"), default="ecdsa")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdaemon-bench-") as directory:
        files = Authority(Path(directory)).issue(is_rsa=options.key == "rsa")
        rounds, share = (1, 10) if options.quick else (options.rounds, 1)
        try:
            lines = measure(files, rounds, share)
        except RuntimeError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())

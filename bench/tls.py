"""What TLS costs the daemon: `python -m bench.tls [--quick] [--key rsa|ecdsa]`.

CPU of the real daemon, pinned, in front of the sink: for each request of one PutRecord and of one
PutRecords of 500, in clear and over TLS 1.3, rounds interleaved, medians; for each handshake; and
what an idle connection holds. Certificates are made for the run, and gone with it.
Invariant: a figure is given only if every record that was sent was answered with success.
"""

import argparse
import contextlib
import socket
import ssl
import sys
from statistics import median

from bench import command
from bench.host import settled_rss_bytes
from bench.records import (
    BATCH_RECORDS,
    in_parts,
    make_records,
    put_record_request,
    put_records_request,
)
from bench.table import table
from bench.targets import UNPACED, Sink, daemon, place, started_sink
from tests.kit.certificates import Authority, Files
from tests.kit.daemon import Daemon
from tests.kit.linux import cpu_seconds
from tests.kit.sockets import read_answers

CONNECTIONS = 8  # each has one request under way
IDLE_CONNECTIONS = 400
KIB = 1024


def connect(daemon: Daemon, context: ssl.SSLContext | None) -> socket.socket:
    sock = daemon.connect()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock if context is None else context.wrap_socket(sock, server_hostname="localhost")


def answer(sock: socket.socket) -> None:
    """Reads one whole answer; RuntimeError unless it says success for all."""
    ((status, body),) = read_answers(sock, 1)
    is_whole = b'"FailedRecordCount":0' in body or b'"FailedRecordCount"' not in body
    if status != 200 or not is_whole:
        raise RuntimeError(f"not every record was delivered: {status} {body[:200]!r}")


def cpu_us(daemon: Daemon, socks: list[socket.socket], requests: list[bytes], rounds: int) -> float:
    """Microseconds of the daemon's CPU for each request."""
    before = cpu_seconds(daemon.pid)
    for number in range(rounds):
        for at, sock in enumerate(socks):
            sock.sendall(requests[(number + at) % len(requests)])
        for sock in socks:
            answer(sock)
    return (cpu_seconds(daemon.pid) - before) / (rounds * len(socks)) * 1e6


def idle(daemon: Daemon, context: ssl.SSLContext | None) -> tuple[float, float]:
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
        return list(map(put_record_request, records))
    return list(map(put_records_request, in_parts(records, count)))


def measure_daemon(
    sink: Sink, files: Files | None, options: argparse.Namespace
) -> dict[str, float]:
    """The figures of one daemon, which speaks TLS if it has `files`."""
    what = {"a PutRecord": (requests_of(1), 4_000), "PutRecords of 500": (requests_of(500), 150)}
    settings = {**UNPACED, **(files.settings if files else {})}
    context = files.client() if files else None
    seen = {}
    with (
        daemon(sink.url, settings, sink.cores.under_test) as started,
        contextlib.ExitStack() as stack,
    ):
        socks = [connect(started, context) for _ in range(CONNECTIONS)]
        for sock in socks:
            stack.enter_context(contextlib.closing(sock))
        for name, (requests, count) in what.items():
            cpu_us(started, socks, requests, max(1, count // options.share // 10))
            figure = cpu_us(started, socks, requests, max(1, count // options.share))
            seen[f"CPU of {name}, us"] = figure
        seen["CPU of a new connection, us"], seen["an idle connection, KiB"] = idle(
            started, context
        )
    return seen


def measure(options: argparse.Namespace) -> str:
    """The table."""
    with place() as directory, started_sink() as sink:
        files = Authority(directory).issue(is_rsa=options.key == "rsa")
        seen = command.interleaved(
            options.rounds,
            (None, files),
            lambda each: measure_daemon(sink, each, options),
            lambda each, figures: f"{'TLS' if each else 'plain'}: {figures}",
        )
    names = seen[None][0]
    rows = (
        (name, *(f"{median(one[name] for one in figures):.1f}" for figures in seen.values()))
        for name in names
    )
    return "\n".join(table(("", "plain", "TLS 1.3"), rows))


if __name__ == "__main__":
    parser = command.arguments("tls", "What TLS costs.")
    parser.add_argument("--key", choices=("ecdsa", "rsa"), default="ecdsa")
    sys.exit(command.run(parser, measure))

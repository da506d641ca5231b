"""What one client can send to harm the others: each case of the kind, at its full size.

Used by `tests/process/test_harm.py` (the daemon lives, and others are served) and `bench/harm.py`
(how long the others wait). An attack opens its own connections to a daemon on loopback, is bounded
in count and size, ends by itself, and does not care what it is answered.
"""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MIB = 1024 * 1024
BODY_BYTES = 16 * MIB - 1024  # just below the most that a body may have
PATIENCE_S = 30.0  # for each answer
ECHO_BYTES_MAX = 64 * 1024  # of answers that an attack reads

KINESIS = "Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: Kinesis_20131202."

KINESIS_CBOR = KINESIS.replace("json", "cbor")


@dataclass(frozen=True)
class Victim:
    """Where the daemon listens. `unix`: its socket file."""

    http_port: int
    admin_port: int
    unix: str


@contextlib.contextmanager
def connected(port: int | str) -> Iterator[socket.socket]:
    """A connection to a port, or to a socket file."""
    family = socket.AF_UNIX if isinstance(port, str) else socket.AF_INET
    with socket.socket(family) as client, contextlib.suppress(OSError):
        client.settimeout(PATIENCE_S)
        client.connect(port if isinstance(port, str) else ("127.0.0.1", port))
        yield client


def hear(client: socket.socket) -> bytes:
    """The beginning of what is answered, until nothing comes for a moment or the end."""
    answer = b""
    with contextlib.suppress(OSError):
        while len(answer) < ECHO_BYTES_MAX and (piece := client.recv(65536)):
            answer += piece
            if b"\r\n\r\n" in answer:
                break
    return answer


def _head(path: str, head: str, body: bytes) -> bytes:
    """Of a POST; `head`: lines of its own, each with its end."""
    length = f"Content-Length: {len(body)}\r\n\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}{length}".encode()


def post(port: int, path: str, head: str, body: bytes) -> None:
    """One request; the beginning of its answer is read."""
    with connected(port) as client:
        client.sendall(_head(path, head, body) + body)
        hear(client)


def lines_of(line: bytes) -> Callable[[Victim], object]:
    """A body of lines, as many as fit."""

    def attack(victim: Victim) -> None:
        body = line * (BODY_BYTES // len(line))
        post(victim.http_port, "/v1/streams/demo/records", "", body)

    return attack


def api(operation: str, body: bytes) -> Callable[[Victim], object]:
    def attack(victim: Victim) -> None:
        post(victim.http_port, "/", f"{KINESIS}{operation}\r\n", body)

    return attack


def members(start: bytes, entry: bytes, end: bytes) -> bytes:
    """A body that is filled with one entry, again and again."""
    count = (BODY_BYTES - len(start) - len(end)) // (len(entry) + 1)
    return start + b",".join([entry] * count) + end


def filled(operation: str, start: bytes, entry: bytes, end: bytes) -> Callable[[Victim], object]:
    """One body that is filled with one entry, made when it is sent: who only lists the attacks has
    none of them in memory.
    """

    def attack(victim: Victim) -> None:
        api(operation, members(start, entry, end))(victim)

    return attack


def of(operation: str, start: bytes, unit: bytes, end: bytes) -> Callable[[Victim], object]:
    """Five bodies that are filled with one text, made when they are sent."""

    def attack(victim: Victim) -> None:
        body = start + unit * ((BODY_BYTES - len(start) - len(end)) // len(unit)) + end
        for _ in range(5):
            api(operation, body)(victim)

    return attack


def in_cbor(operation: str, start: bytes, unit: bytes) -> Callable[[Victim], object]:
    """The same in CBOR."""

    def attack(victim: Victim) -> None:
        body = start + unit * ((BODY_BYTES - len(start) - 3) // len(unit)) + b"\xff\xff\xff"
        for _ in range(5):
            post(victim.http_port, "/", f"{KINESIS_CBOR}{operation}\r\n", body)

    return attack


def one_line(start: bytes, unit: bytes, end: bytes) -> Callable[[Victim], object]:
    """The same as one line: over HTTP, and as first and as a later line of a session."""

    def attack(victim: Victim) -> None:
        line = start + unit * ((13 * MIB - len(start) - len(end)) // len(unit)) + end + b"\n"
        for _ in range(2):
            post(victim.http_port, "/v1/streams/demo/records", "", line)
            for before in (b"", b'{"stream":"demo"}\n'):
                with connected(victim.unix) as client:
                    client.sendall(before + line)
                    client.shutdown(socket.SHUT_WR)
                    hear(client)

    return attack


RECORDS = b'{"StreamName":"demo","Records":['


def deep(victim: Victim) -> None:
    api("PutRecords", b"[" * BODY_BYTES)(victim)


def evil_arn(victim: Victim) -> None:
    arn = "arn:aws" + ":kinesis:" * 36_000
    body = json.dumps({"StreamARN": arn, "Data": "aGk=", "PartitionKey": "a"}).encode()
    for _ in range(5):
        api("PutRecord", body)(victim)


def first_lines(victim: Victim) -> None:
    """A first line that is no record and no setup, large, again and again."""
    line = members(b'{"x":[', b"[]", b"]}")[: 13 * MIB - 2] + b"]}\n"
    for _ in range(8):
        with connected(victim.unix) as client:
            client.sendall(line)
            client.shutdown(socket.SHUT_WR)
            hear(client)


def long_numbers(victim: Victim) -> None:
    line = b'{"x":[' + b",".join([b'"000000000000"'] * 900_000) + b"]}\n"
    for _ in range(8):
        with connected(victim.unix) as client:
            client.sendall(line)
            client.shutdown(socket.SHUT_WR)
            hear(client)


def unread_pipeline(request: bytes, count: int) -> Callable[[Victim], object]:
    """Requests as fast as the daemon takes them, and no answer is read."""

    def attack(victim: Victim) -> None:
        with connected(victim.http_port) as client:
            client.settimeout(5.0)
            block = request * max(1, 65536 // len(request))
            for _ in range(count * len(request) // len(block) + 1):
                client.sendall(block)

    return attack


def scrapes(victim: Victim) -> None:
    """Pages asked for again and again on sixteen connections."""
    request = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(victim.admin_port)) for _ in range(16)]
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(request * 4)
        for client in clients:
            hear(client)


def many_headers(victim: Victim) -> None:
    """30 KB of six-byte headers on 700 connections."""
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"".join(
        b"%x:a\r\n" % number for number in range(5_000)
    )
    with contextlib.ExitStack() as stack:
        for _ in range(700):
            client = stack.enter_context(connected(victim.http_port))
            with contextlib.suppress(OSError):
                client.sendall(head)


def chunked(body: Callable[[socket.socket], object]) -> Callable[[Victim], object]:
    def attack(victim: Victim) -> None:
        with connected(victim.http_port) as client:
            client.settimeout(5.0)
            head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n{KINESIS}PutRecord\r\n"
            client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            body(client)
            hear(client)

    return attack


def trailers(client: socket.socket) -> None:
    client.sendall(b"0\r\n")
    for number in range(600):
        client.sendall(b"".join(b"t%d-%d: a\r\n" % (number, each) for each in range(5_000)))


def chunk_extensions(client: socket.socket) -> None:
    for _ in range(300):
        client.sendall(b"1;" + b"e=a;" * 40_000 + b"\r\na\r\n")


def tiny_chunks(client: socket.socket) -> None:
    for _ in range(100):
        client.sendall(b"1\r\na\r\n" * 20_000)


def bogus_names(victim: Victim) -> None:
    """A hundred streams that do not exist, on the promises that nobody waits for."""
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(200):
            acknowledge = "accepted" if number % 2 else "stored"
            record = {"StreamName": f"bogus{number // 2}", "Data": "aGk=", "PartitionKey": "a"}
            body = json.dumps(record).encode()
            head = f"{KINESIS}PutRecord\r\nX-Kdaemon-Acknowledge: {acknowledge}\r\n"
            client = stack.enter_context(connected(victim.http_port))
            with contextlib.suppress(OSError):
                client.sendall(_head("/", head, body) + body)
            clients.append(client)
        for client in clients:
            hear(client)


def silent_connections(victim: Victim) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(1_100):
            stack.enter_context(connected(victim.http_port))


ATTACKS: dict[str, Callable[[Victim], object]] = {
    "H1 an ARN of 324 KB": evil_arn,
    "H2 lines: x": lines_of(b"x\n"),
    "H2 lines: {}": lines_of(b"{}\n"),
    "H2 lines: blank": lines_of(b"\n"),
    "H2 lines: 1": lines_of(b"1\n"),
    "H2 lines: the shortest record": lines_of(b'{"data":""}\n'),
    "H2 lines: good ones": lines_of(b'{"data":"%s"}\n' % (b"a" * 180)),
    "H2 records: {}": filled("PutRecords", RECORDS, b"{}", b"]}"),
    "H2 records: null": filled("PutRecords", RECORDS, b"null", b"]}"),
    "H2 records: good and too many": filled(
        "PutRecords", RECORDS, b'{"Data":"","PartitionKey":"a"}', b"]}"
    ),
    "H2 an unknown member": filled("PutRecords", b'{"X":[', b"[]", b"]}"),
    "H2 depth in an unknown member": of(
        "PutRecord", b'{"X":[', b"[" * 900 + b"]" * 900 + b",", b"0]}"
    ),
    "H2 lists in Records of a PutRecord": of("PutRecord", b'{"Records":[', b"[],", b"0]}"),
    "H2 escapes in a name": of("PutRecords", b'{"StreamName":"', b"\\n", b'"}'),
    "H2 escapes in keys": of(
        "PutRecords", RECORDS, b'{"Data":"","PartitionKey":"%b"},' % (b'\\"' * 256), b"0]}"
    ),
    "H2 a member again and again": of("PutRecord", b"{", b'"Data":"",', b'"StreamName":"demo"}'),
    "H2 blanks": of("PutRecords", RECORDS, b" ", b"0]}"),
    "H2 a long number": of("PutRecords", b'{"StreamName":', b"1", b"}"),
    "H2 broken at the end": of(
        "PutRecords", RECORDS, b'{"Data":"%b","PartitionKey":"a"},' % (b"QUJD" * 8_000), b"0]}"
    ),
    "H2 a line: a field again and again": one_line(b"{", b'"data":"",', b'"data":""}'),
    "H2 a line: escapes, twice": one_line(b'{"data":"","data":"', b'\\"', b'"}'),
    "H2 a line: emoji": one_line(b'{"data":"', "a😀".encode(), b'"}'),
    "H15 deep": deep,
    "H2 CBOR: lists": in_cbor("PutRecords", b"\x9f", b"\x80"),
    "H2 CBOR: maps in Records": in_cbor("PutRecords", b"\xbf\x67Records\x9f", b"\xa0"),
    "H2 CBOR: good records and too many": in_cbor(
        "PutRecords", b"\xbf\x67Records\x9f", b"\xbf\x64Data\x41x\x6cPartitionKey\x61k\xff"
    ),
    "H2 CBOR: an unknown member": in_cbor("PutRecord", b"\xbf\x61X\x9f", b"\xa1\x60\x80"),
    "H2 CBOR: data in pieces": in_cbor("PutRecord", b"\xbf\x64Data\x5f", b"\x41x"),
    "H2 CBOR: large records, cut off": in_cbor(
        "PutRecords",
        b"\xbf\x67Records\x9f",
        b"\xbf\x64Data\x59\x7d\x00%b\x6cPartitionKey\x61k\xff" % bytes(32_000),
    ),
    "H15 CBOR: deep": in_cbor("PutRecords", b"", b"\x9f"),
    "H15 CBOR: tags": in_cbor("PutRecords", b"", b"\xc1"),
    "H7 first lines": first_lines,
    "H7 first lines of texts": long_numbers,
    "H3 requests, no answer read": unread_pipeline(
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400_000
    ),
    "H3 broken bodies, no answer read": unread_pipeline(
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        + f"{KINESIS}PutRecords\r\nContent-Length: {MIB}\r\n\r\n".encode()
        + b"[" * MIB,
        100,
    ),
    "H8 scrapes": scrapes,
    "H4 headers": many_headers,
    "H4 trailers": chunked(trailers),
    "H4 chunk extensions": chunked(chunk_extensions),
    "H4 tiny chunks": chunked(tiny_chunks),
    "H6 streams that do not exist": bogus_names,
    "H9 silent connections": silent_connections,
}
"""By the row of the cases that it stands for."""

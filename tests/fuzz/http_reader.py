"""The HTTP connection against bytes that nobody meant: one input, one verdict.

`one_input` takes whatever a fuzzer makes, cuts it into reads by its own first bytes, and raises
only on a defect: an exception out of the connection, a request that h11 (an HTTP/1.1 of others)
does not see in the same bytes, a body that differs, another outcome where reads are cut elsewhere,
a budget or a place that leaks.
"""

import asyncio
from dataclasses import dataclass, field

import h11

from kdaemon.http.connection import HttpProtocol
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.origin import Gate
from kdaemon.http.request import HttpRequest
from tests.fuzz.cuts import cut
from tests.fuzz.loop import run
from tests.kit.doors import FakeTransport

LIMITS = ConnectionLimits(
    body_bytes_max=64 * 1024, head_bytes_max=8 * 1024, bodies_bytes_max=1024 * 1024
)

_HEAD = b" / HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
SEEDS = [
    b"\x00GET" + _HEAD + b"\r\n",
    b"\x00POST" + _HEAD + b"Content-Length: 2\r\n\r\n{}GET" + _HEAD + b"\r\n",
    b"\x01\x00\x30POST" + _HEAD + _CHUNKED + b"\r\n2;x=y\r\n{}\r\n0\r\n\r\n",
    b"\x00POST" + _HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
]
TOKENS = [
    *(b"\r\n", b"\r\n\r\n", b"\n", b":", b" ", b"\t", b"\0", b"GET ", b"POST ", b" HTTP/1.1"),
    *(b"Host: a\r\n", b"Content-Length: 2\r\n", b"Content-Length: +2\r\n", b"0\r\n\r\n", _CHUNKED),
    *(b"Transfer-Encoding: gzip, chunked\r\n", b"Expect: 100-continue\r\n", b"CONNECT "),
    *(b"Connection: close\r\n", b"2\r\n{}\r\n", b"ffffffffffffffff\r\n", _HEAD),
]

Seen = tuple[str, bytes]  # method and body


@dataclass
class Heard:
    """What one side made of the bytes."""

    requests: list[Seen] = field(default_factory=list)
    is_refused: bool = False


def by_h11(data: bytes) -> Heard:
    """What h11 reads, every request answered, until it refuses, or the client is done.

    Two things are done for it. Empty lines before a request are taken away: h11 refuses them, and
    RFC 9112 (2.2) has them skipped. A client of HTTP/1.0 may keep its connection, which h11 ends.
    """
    heard = Heard()
    while True:
        while data.startswith(b"\r\n"):
            data = data[2:]
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=256 * 1024)
        connection.receive_data(data)
        connection.receive_data(b"")
        try:
            seen = _one_by_h11(connection)
        except h11.RemoteProtocolError:
            heard.is_refused = True
            return heard
        if seen is None:
            return heard
        keeps_1_0, method, body = seen
        heard.requests.append((method, body))
        # 400, because a 2xx answer to CONNECT would make a tunnel of the rest
        connection.send(h11.Response(status_code=400, headers=[("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        is_kept = connection.our_state is h11.DONE and connection.their_state is h11.DONE
        if not is_kept and not keeps_1_0:
            return heard
        data = connection.trailing_data[0]


def _one_by_h11(connection: h11.Connection) -> tuple[bool, str, bytes] | None:
    """Whether the next request keeps HTTP/1.0 going, its method and body; None: there is none.
    Raises RemoteProtocolError.
    """
    method, body, keeps_1_0 = "", bytearray(), False
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            method = event.method.decode()
            values = [value.lower() for name, value in event.headers if name == b"connection"]
            words = {word.strip() for word in b",".join(values).split(b",")}
            is_kept = b"keep-alive" in words and b"close" not in words
            keeps_1_0 = event.http_version == b"1.0" and is_kept
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return keeps_1_0, method, bytes(body)
        else:
            return None


async def by_us(reads: list[bytes]) -> Heard:
    """What our connection hands over; answers come at once. The client ends its side at the end."""
    heard = Heard()

    def handle(request: HttpRequest) -> None:
        heard.requests.append((request.method, request.body))
        request.respond(200, b"")

    hub = Hub(LIMITS, gate=Gate(checks_host=False, checks_browsers=False))
    protocol, transport = HttpProtocol(handle, hub=hub), FakeTransport()
    transport.protocol = protocol
    protocol.connection_made(transport)
    for read in reads:
        while not transport.reads() and not transport.is_closed:
            await asyncio.sleep(0)  # its turn is over
        if transport.is_closed:
            break
        protocol.data_received(read)
    while not transport.reads() and not transport.is_closed:
        await asyncio.sleep(0)
    if not transport.is_closed and not protocol.eof_received():
        transport.close()
    protocol.connection_lost(None)
    heard.is_refused = any(hub.counters.refused.values())
    assert hub.counters.handler_failures == 0
    assert hub.bodies.bytes_taken == 0, "the budget leaks"
    assert hub.places.taken == 0, "a place leaks"
    await hub.aclose(0)
    return heard


def check(reads: list[bytes]) -> Heard:
    """Raises AssertionError where we take what h11 does not; what we made of the bytes."""
    ours = run(by_us(reads))
    theirs = by_h11(b"".join(reads))
    count = len(ours.requests)
    assert ours.requests == theirs.requests[:count], (ours, theirs)
    if count < len(theirs.requests):
        assert ours.is_refused, (ours, theirs)
    return ours


def one_input(data: bytes) -> None:
    """Cut or whole: see `cuts.cut`."""
    sent, reads = cut(data)
    whole = check([sent] if sent else [])
    assert check(reads) == whole, "where reads are cut changes what is heard"

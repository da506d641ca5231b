"""The HTTP/2 connection against frames that nobody meant: one input, one verdict.

`one_input` takes whatever a fuzzer makes as what comes after the preface, cuts it into reads by its
own first bytes, and raises only on a defect: an exception out of the connection, a request that the
library alone does not see in the same bytes, another outcome where reads are cut elsewhere, frames
of ours that the library's client cannot read, a budget or a place that leaks.
"""

import asyncio
import random
import struct
from dataclasses import dataclass, field
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from hpack.hpack import Encoder

from kdaemon.http.http2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.opening import Opening
from kdaemon.http.origin import Gate
from kdaemon.http.request import HttpRequest
from tests.fuzz.cuts import cut
from tests.fuzz.loop import run
from tests.kit.doors import FakeTransport

TEST_INPUTS = 1_500  # each goes through the library three times
LIMITS = ConnectionLimits(
    body_bytes_max=64 * 1024, head_bytes_max=8 * 1024, bodies_bytes_max=1024 * 1024
)
WHOLE = END_HEADERS | END_STREAM
TURNS_MAX = 1_000  # of the loop, for what one input makes us do


def _frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return len(content).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + content


def _block(*more: tuple[bytes, bytes], method: bytes = b"POST") -> bytes:
    """Headers that lean on no table, so that they may be moved about."""
    given = [(b":method", method), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
    return Encoder().encode([(*each, True) for each in (*given, *more)], huffman=False)


_SETTINGS = _frame(SETTINGS, 0, 0)
_ACK = _frame(SETTINGS, 1, 0)
_GET = _frame(HEADERS, WHOLE, 1, _block(method=b"GET"))
_POST = _frame(HEADERS, END_HEADERS, 3, _block((b"content-length", b"5")))
_BODY = _frame(DATA, END_STREAM, 3, b"hello")
_PARTS = _frame(HEADERS, END_STREAM, 5, _block()[:9]) + _frame(
    CONTINUATION, END_HEADERS, 5, _block()[9:]
)
SEEDS = [
    b"\x00" + _SETTINGS + _ACK + _GET + _POST + _BODY,
    b"\x01\x00\x20" + _SETTINGS + _POST + _GET + _BODY + _PARTS,
    b"\x00" + _SETTINGS + _POST + _frame(DATA, 0, 3, b"hel") + _frame(DATA, END_STREAM, 3, b"lo"),
    b"\x00" + _SETTINGS + _POST + _frame(RST_STREAM, 0, 3, bytes(4)) + _BODY + _PARTS,
    b"\x00" + _SETTINGS + _POST + _frame(DATA, 8, 3, b"\2hel\0\0") + _frame(HEADERS, WHOLE, 3),
]
TOKENS = [
    *(_SETTINGS, _ACK, _GET, _POST, _BODY, _PARTS, _frame(PING, 0, 0, bytes(8))),
    *(_frame(WINDOW_UPDATE, 0, n, b"\x7f\xff\xff\xff") for n in (0, 1, 3)),
    *(_frame(RST_STREAM, 0, n, b"\0\0\0\x08") for n in (1, 3, 5)),
    *(_frame(DATA, flags, n, b"hello") for flags in (0, 1) for n in (1, 3, 5, 7)),
    *(_frame(HEADERS, flags, n, _block()) for flags in (0, 1, 4, 5) for n in (7, 9, 11)),
    *(_frame(SETTINGS, 0, 0, bytes((0, n, 0, 0, 0, 9))) for n in range(1, 7)),
    *(_frame(GOAWAY, 0, 0, bytes(8)), _frame(PRIORITY, 0, 1, bytes(5)), _frame(0x20, 0, 0)),
    *(_frame(DATA, 0, 3, b""), b"\0\0\0", b"\0\x40\x01", b"content-length", b"connection"),
]


def build(dice: random.Random) -> bytes:
    """A client that keeps to the form of frames, and to little else."""
    cut_count = dice.randrange(4)
    pieces = [bytes([cut_count]), dice.randbytes(2 * cut_count), _SETTINGS]
    for _ in range(dice.choice((1, 3, 10, 30))):
        stream = dice.choice((1, 1, 3, 3, 5, 7, 9))
        made = dice.randrange(8)
        if made < 3:
            flags = dice.choice((END_HEADERS, END_HEADERS, WHOLE))
            length = b"%d" % dice.choice((0, 5, 10, 70_000))
            more = dice.choice((((b"content-length", length),), (), ((b"te", b"x"),)))
            pieces.append(_frame(HEADERS, flags, stream, _block(*more)))
        elif made < 6:
            body = dice.choice((b"", b"hello", b"hello" * 2, bytes(3000)))
            pieces.append(_frame(DATA, dice.choice((0, END_STREAM)), stream, body))
        else:
            pieces.append(dice.choice(TOKENS))
    return b"".join(pieces)


Seen = tuple[bytes, bytes]  # method and body


@dataclass
class Heard:
    """What one side made of the bytes."""

    requests: list[Seen] = field(default_factory=list)
    is_broken: bool = False  # the connection ended for what was sent


def by_library(data: bytes) -> Heard:
    """Requests that are whole for the library, whatever their headers, until it gives up."""
    config = H2Configuration(
        client_side=False,
        header_encoding=None,
        validate_inbound_headers=False,
        normalize_inbound_headers=False,
    )
    connection, heard = H2Connection(config), Heard()
    connection.initiate_connection()
    connection.receive_data(PREFACE)
    open_streams: dict[int, tuple[bytes, bytearray]] = {}
    while data:
        size = 9 + int.from_bytes(data[:3], "big") if len(data) >= 9 else len(data)
        piece, data = data[:size], data[size:]
        try:
            events: list[Any] = connection.receive_data(piece)
        except ProtocolError:
            heard.is_broken = True
            return heard
        for event in events:
            if isinstance(event, RequestReceived):
                method = dict(event.headers or ()).get(b":method", b"")
                open_streams[event.stream_id] = (method, bytearray())
            elif isinstance(event, DataReceived) and event.stream_id in open_streams:
                open_streams[event.stream_id][1].extend(event.data or b"")
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamReset):
                open_streams.pop(event.stream_id, None)
            elif isinstance(event, StreamEnded) and event.stream_id in open_streams:
                method, body = open_streams.pop(event.stream_id)
                heard.requests.append((method, bytes(body)))
    return heard


async def by_us(reads: list[bytes]) -> Heard:
    """What our connection hands over. Every other answer comes at once, the rest at the end."""
    heard = Heard()
    waiting: list[HttpRequest] = []

    def handle(request: HttpRequest) -> None:
        heard.requests.append((request.method.encode(), request.body))
        if len(heard.requests) % 2:
            request.respond(200, request.body or b"hello", headers=((b"X-A", b"1"),))
        else:
            waiting.append(request)

    hub = Hub(LIMITS, gate=Gate(checks_host=False, checks_browsers=False))
    transport = FakeTransport()
    opening = Opening(handle, hub, None)
    transport.set_protocol(opening)
    opening.connection_made(transport)
    written = bytearray()
    for read in (PREFACE, *reads):
        for _ in range(TURNS_MAX):
            if transport.reads() or transport.has_ended():
                break
            await asyncio.sleep(0)  # its turn is over
        if transport.has_ended():
            break
        transport.protocol.data_received(read)
        written += transport.take()
    for _ in range(3):
        await asyncio.sleep(0)
    hub.sweep()
    for request in waiting:
        request.respond(200, b"late")
    for _ in range(TURNS_MAX):
        if transport.reads() or transport.has_ended():
            break
        await asyncio.sleep(0)
    written += transport.take()
    if not transport.has_ended() and not transport.protocol.eof_received():
        transport.close()
    for _ in range(3):
        await asyncio.sleep(0)
    written += transport.take()
    transport.protocol.connection_lost(None)
    _read_frames(bytes(written))
    heard.is_broken = bool(hub.counters.refused["malformed"] or hub.counters.refused["flood"])
    assert hub.counters.handler_failures == 0
    assert hub.bodies.bytes_taken == 0, "the budget leaks"
    assert hub.places.taken == 0, "a place leaks"
    await hub.aclose(0)
    return heard


def _read_frames(data: bytes) -> None:
    """All that we wrote is whole frames, SETTINGS first, and nothing behind GOAWAY but answers."""
    kinds = []
    while data:
        assert len(data) >= 9, "half a frame"
        size = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + size, "a part of a frame"
        kinds.append(data[3])
        data = data[9 + size :]
    assert kinds[0] == SETTINGS


def check(reads: list[bytes]) -> Heard:
    """Raises AssertionError where we take what the library does not; what we made of the bytes."""
    ours = run(by_us(reads))
    theirs = by_library(b"".join(reads))
    left = iter(theirs.requests)
    for seen in ours.requests:
        found = any(seen == each for each in left)
        assert found or theirs.is_broken, (ours, theirs)
    return ours


def one_input(data: bytes) -> None:
    """Cut or whole: see `cuts.cut`."""
    sent, reads = cut(data)
    both = check(reads), check([sent] if sent else [])
    less, more = sorted(both, key=lambda heard: len(heard.requests))
    # What comes for a stream that has ended is worse once its answer has left.
    assert less.is_broken or less.requests == more.requests, "where reads are cut changes it"
    assert less.requests == more.requests[: len(less.requests)]

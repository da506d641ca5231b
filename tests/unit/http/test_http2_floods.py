"""A client of HTTP/2 that does what only costs is sent away; one that works hard is not."""

import asyncio
from collections.abc import Iterator

import pytest
from h2.errors import ErrorCodes

from kdaemon.base.memory import ByteBudget
from kdaemon.http.arrivals import Arrivals
from kdaemon.http.http2_core import ENDED_STREAMS_MAX, TABLE_BYTES
from kdaemon.http.http2_frames import (
    CONTINUATION,
    DATA,
    DEBT_MAX,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RESET_COST,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from kdaemon.http.http2_stream import STREAM_BYTES
from kdaemon.http.hub import ConnectionLimits, Hub
from tests.unit.http.http2_harness import MakeRaw, RawHarness, data, fields, frame

CANCEL = int(ErrorCodes.CANCEL).to_bytes(4, "big")
ONE = (1).to_bytes(4, "big")


def repeated(one: bytes) -> Iterator[bytes]:
    while True:
        yield one


def rapid_resets(one: RawHarness) -> Iterator[bytes]:
    """CVE-2023-44487."""
    for stream in range(1, 10**6, 2):
        yield one.request(stream) + frame(RST_STREAM, 0, stream, CANCEL)


def resets_of_halves(one: RawHarness) -> Iterator[bytes]:
    for stream in range(1, 10**6, 2):
        yield one.request(stream, ends=False) + frame(RST_STREAM, 0, stream, CANCEL)


def made_to_reset(one: RawHarness) -> Iterator[bytes]:
    """CVE-2025-8671: what comes after the end of a request makes us reset its stream."""
    for stream in range(1, 10**6, 2):
        yield one.request(stream) + data(stream, b"x" * 100)


def made_to_reset_by_windows(one: RawHarness) -> Iterator[bytes]:
    for stream in range(1, 10**6, 2):
        update = frame(WINDOW_UPDATE, 0, stream, (2**31 - 1).to_bytes(4, "big"))
        yield one.request(stream) + update


def made_to_reset_by_lengths(one: RawHarness) -> Iterator[bytes]:
    headers = fields(b"GET", b"/", (b"content-length", b"5"))
    for stream in range(1, 10**6, 2):
        yield one.request(stream, headers)


def too_many_streams(one: RawHarness) -> Iterator[bytes]:
    for stream in range(1, 10**6, 2):
        yield one.request(stream)


def empty_data(one: RawHarness) -> Iterator[bytes]:
    """CVE-2019-9518."""
    yield one.request(1, ends=False)
    yield from repeated(data(1, b""))


def tiny_data(one: RawHarness) -> Iterator[bytes]:
    yield one.request(1, ends=False)
    yield from repeated(data(1, b"x"))


def padding(one: RawHarness) -> Iterator[bytes]:
    """All of a frame is padding, and counts in the windows."""
    yield one.request(1, ends=False)
    yield from repeated(frame(DATA, 0x8, 1, b"\x10" + bytes(16)))


def late_data(one: RawHarness) -> Iterator[bytes]:
    yield one.request(1, ends=False) + frame(RST_STREAM, 0, 1, CANCEL)
    yield from repeated(data(1, b"x" * 100))


def one_block(one: RawHarness) -> Iterator[bytes]:
    """CVE-2024-27316: a block of headers without an end."""
    yield frame(HEADERS, END_STREAM, 1, one.encoder.encode(fields(b"GET")))
    yield from repeated(frame(CONTINUATION, 0, 1, b"\0\1a\1b" * 200))


def headers_with_nothing(one: RawHarness) -> Iterator[bytes]:
    yield frame(HEADERS, END_STREAM, 1, b"")
    yield from repeated(frame(CONTINUATION, 0, 1, b""))


FLOODS = {
    "rapid resets": rapid_resets,
    "resets of halves": resets_of_halves,
    "made to reset": made_to_reset,
    "made to reset by windows": made_to_reset_by_windows,
    "made to reset by lengths": made_to_reset_by_lengths,
    "too many streams": too_many_streams,
    "pings": lambda _: repeated(frame(PING, 0, 0, bytes(8))),
    "answers to no ping": lambda _: repeated(frame(PING, 1, 0, bytes(8))),
    "settings": lambda _: repeated(frame(SETTINGS, 0, 0, b"\0\4\0\1\0\0")),
    "empty settings": lambda _: repeated(frame(SETTINGS)),
    "long settings": lambda _: repeated(frame(SETTINGS, 0, 0, b"\x7f\0\0\0\0\0" * 2700)),
    "acknowledgements": lambda _: repeated(frame(SETTINGS, 1)),
    "window updates": lambda _: repeated(frame(WINDOW_UPDATE, 0, 0, ONE)),
    "priorities": lambda _: repeated(frame(PRIORITY, 0, 1, bytes(5))),
    "frames that nobody knows": lambda _: repeated(frame(0x42, 0, 0, bytes(1000))),
    "goaways": lambda _: repeated(frame(GOAWAY, 0, 0, bytes(8))),
    "resets of what has ended": lambda one: (
        repeated(one.request(1) + frame(RST_STREAM, 0, 1, CANCEL))
        if not one.requests
        else repeated(frame(RST_STREAM, 0, 1, CANCEL))
    ),
    "empty data": empty_data,
    "tiny data": tiny_data,
    "padding": padding,
    "late data": late_data,
    "one block": one_block,
    "headers with nothing": headers_with_nothing,
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_its_connection(raw: MakeRaw, name: str) -> None:
    one = raw(ConnectionLimits(pipeline_max=16))
    if name == "goaways":
        one.feed(one.request(1))  # owed: else the first one ends it
    for sent_count, piece in enumerate(FLOODS[name](one)):
        if one.transport.has_ended():
            break
        one.feed(piece)
        if sent_count % 8 == 0:
            await one.read()
        assert sent_count <= 2 * DEBT_MAX, "it goes on and on"
    await one.read()
    assert one.code in (ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.PROTOCOL_ERROR, 5)
    assert sum(one.refused().values()) >= 1
    assert len(one.requests) <= 2 * DEBT_MAX // RESET_COST
    assert one.gone == one.requests


@pytest.mark.parametrize("name", ["rapid resets", "pings", "settings", "tiny data", "one block"])
async def test_a_flood_is_told_from_what_is_malformed(raw: MakeRaw, name: str) -> None:
    one = raw()
    for piece in FLOODS[name](one):
        if one.transport.has_ended():
            break
        one.feed(piece)
        await one.read()
    assert one.code == ErrorCodes.ENHANCE_YOUR_CALM
    assert one.refused() == {"flood": 1}


async def test_what_a_read_of_small_frames_costs_is_spread_over_turns(raw: MakeRaw) -> None:
    one = raw()
    one.feed(frame(PING, 0, 0, bytes(8)) * 900)
    assert not one.transport.reads()
    turns = 0
    while not one.transport.reads():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 900 // 64 - 1
    assert len(await one.read()) >= 900
    assert one.code is None


async def test_acknowledgements_that_nobody_reads_are_bounded(raw: MakeRaw) -> None:
    """CVE-2019-9512, 9515: what cannot be written stops the reading."""
    one = raw()
    one.transport.pauses_when_written = 1000
    for _ in range(20):
        if one.transport.reads():
            one.feed(frame(PING, 0, 0, bytes(8)) * 50)
        await asyncio.sleep(0)
    assert len(one.transport.written) < 3000


@pytest.mark.parametrize("flood", ["indexed", "literal"])
async def test_a_small_block_that_is_a_large_head_ends_the_connection(
    raw: MakeRaw, flood: str
) -> None:
    """The HPACK bomb, CVE-2016-6581: a reference of a byte to a header of 4,000."""
    one = raw()
    block = one.encoder.encode([*fields(b"GET"), (b"x", b"y" * 3900)])
    block += b"\xbe" * 10_000 if flood == "indexed" else b"\0\1a\0" * 8000
    held_bytes = one.hub.bodies.bytes_taken
    for at in range(0, len(block), 16_000):
        kind, is_last = (CONTINUATION if at else HEADERS), at + 16_000 >= len(block)
        flags = (0 if at else END_STREAM) | (END_HEADERS if is_last else 0)
        one.feed(frame(kind, flags, 1, block[at : at + 16_000]))
    await one.read()
    assert one.code == ErrorCodes.ENHANCE_YOUR_CALM
    assert one.refused() == {"flood": 1}
    assert not one.requests
    assert one.hub.bodies.bytes_taken == held_bytes


async def test_a_block_that_changes_the_table_without_end_is_not_read(raw: MakeRaw) -> None:
    one = raw()
    one.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x20" * 10_000))
    await one.read()
    assert one.code == ErrorCodes.PROTOCOL_ERROR
    other = raw(echoes=True)
    block = b"\x20\x3f\xe1\x1f" + other.encoder.encode(fields(b"GET"))  # two are allowed
    other.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
    await other.read()
    assert len(other.requests) == 1


async def test_our_table_stays_small_whatever_a_client_allows(raw: MakeRaw) -> None:
    """It is searched for each header, and would hold each request's number."""
    one = raw()
    one.feed(frame(SETTINGS, 0, 0, b"\0\1\x7f\xff\xff\xff"))
    for stream in range(1, 401, 2):
        one.feed(one.request(stream))
        one.requests[-1].respond(200, b"", headers=((b"X-Id", b"%036d" % stream),))
        await one.read()
    encoder = one.protocol.audit().encoder
    assert encoder.header_table_size <= TABLE_BYTES
    assert (
        sum(32 + len(name) + len(value) for name, value in encoder.header_table.dynamic_entries)
        <= TABLE_BYTES
    )


async def test_streams_that_ended_are_forgotten(raw: MakeRaw) -> None:
    one = raw(echoes=True)
    for stream in range(1, 2001, 2):
        one.feed(one.request(stream))
        await one.read()
    core = one.protocol.audit()
    assert len(one.requests) == 1000
    ended = core._closed_streams
    assert len(ended) <= ENDED_STREAMS_MAX
    assert len(core.streams) <= 2


async def test_streams_that_only_begin_are_charged(raw: MakeRaw) -> None:
    """A stream costs more than the bytes that begin it."""
    one = raw()
    for stream in range(1, 129, 2):
        one.feed(one.request(stream, ends=False))
    await one.read()
    assert one.hub.bodies.bytes_taken >= 64 * STREAM_BYTES


async def test_heads_of_requests_without_their_bodies_are_charged(raw: MakeRaw) -> None:
    hub = Hub(ConnectionLimits(), arrivals=Arrivals(ByteBudget(200_000)))
    one = raw(hub=hub)
    for stream in range(1, 101, 2):
        headers = fields(b"POST", b"/", *((b"x%d" % i, b"y" * 300) for i in range(50)))
        one.feed(one.request(stream, headers, ends=False))
        await one.read()
        assert hub.bodies.bytes_taken <= 200_000
    assert hub.counters.refused["bodies_full"] > 30


async def test_a_careful_client_may_send_for_ever(raw: MakeRaw) -> None:
    """A PING, a WINDOW_UPDATE of both kinds and an empty frame with each of 1,500 requests."""
    one = raw(echoes=True)
    one.feed(frame(WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big")))
    for stream in range(1, 3001, 2):
        one.feed(
            frame(PING, 0, 0, bytes(8))
            + one.request(stream, fields(), ends=False)
            + data(stream, b"hello")
            + data(stream, b"", ends=True)
            + frame(WINDOW_UPDATE, 0, 0, ONE)
            + frame(WINDOW_UPDATE, 0, stream, ONE)
        )
        if stream % 31 == 0:
            await one.read()
            one.frames.clear()
    await one.read()
    assert one.code is None
    assert len(one.requests) == 1500


async def test_a_client_that_runs_out_of_patience_may_give_up_all_again_and_again(
    raw: MakeRaw,
) -> None:
    """An SDK gives up 64 requests after its 10 s, and asks again, while the service is down."""
    one = raw()
    streams = iter(range(1, 10**6, 2))
    for _ in range(12):
        begun = [next(streams) for _ in range(64)]
        for stream in begun:
            one.feed(one.request(stream))
        await one.read()
        for _ in range(10):
            one.hub.sweep()
        for stream in begun:
            one.feed(frame(RST_STREAM, 0, stream, CANCEL))
        await one.read()
    assert one.code is None
    assert len(one.requests) == 12 * 64
    assert len(one.gone) == 12 * 64

"""What is refused in HTTP/2: a request alone, where HTTP/1.1 ends the connection."""

import asyncio
import json
from typing import Any

import pytest
from h2.errors import ErrorCodes

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
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.origin import Gate
from kdaemon.http.server import UNIX_GATE
from kdaemon.wire import cbor
from tests.unit.http.http2_harness import Fields, Make2, MakeRaw, data, fields, frame, in_blocks

GET, PATH = (b":method", b"GET"), (b":path", b"/")
SCHEME, HOST = (b":scheme", b"http"), (b":authority", b"localhost")
ALL = [GET, SCHEME, HOST, PATH]

MALFORMED: dict[str, Fields] = {
    "no method": [SCHEME, HOST, PATH],
    "no scheme": [GET, HOST, PATH],
    "no path": [GET, SCHEME, HOST],
    "empty path": [GET, SCHEME, HOST, (b":path", b"")],
    "empty method": [(b":method", b""), SCHEME, HOST, PATH],
    "method that is none": [(b":method", b"G T"), SCHEME, HOST, PATH],
    "another scheme": [GET, (b":scheme", b"ftp"), HOST, PATH],
    "method twice": [GET, *ALL],
    "path twice": [*ALL, PATH],
    "authority twice": [*ALL, HOST],
    "a pseudo header behind others": [GET, SCHEME, HOST, (b"x", b"y"), PATH],
    "a pseudo header of answers": [*ALL, (b":status", b"200")],
    "a pseudo header that nobody knows": [*ALL, (b":protocol", b"websocket")],
    "upper case": [*ALL, (b"X-Amz-Target", b"T")],
    "a name with a blank": [*ALL, (b"x y", b"z")],
    "a name with a colon": [*ALL, (b"x:y", b"z")],
    "no name": [*ALL, (b"", b"z")],
    "a value with a line end": [*ALL, (b"x", b"a\r\nb: c")],
    "a value with a new line": [*ALL, (b"x", b"a\nb")],
    "a value with a null": [*ALL, (b"x", b"a\0b")],
    "a value that begins with a blank": [*ALL, (b"x", b" a")],
    "a value that ends with a tab": [*ALL, (b"x", b"a\t")],
    "a path with a line end": [GET, SCHEME, HOST, (b":path", b"/ HTTP/1.1\r\nhost: x\r\n\r\n")],
    "a path with a blank": [GET, SCHEME, HOST, (b":path", b"/a b")],
    "an absolute path": [GET, SCHEME, HOST, (b":path", b"http://localhost/")],
    "a star that is no OPTIONS": [GET, SCHEME, HOST, (b":path", b"*")],
    "connection": [*ALL, (b"connection", b"close")],
    "keep-alive": [*ALL, (b"keep-alive", b"timeout=5")],
    "proxy-connection": [*ALL, (b"proxy-connection", b"keep-alive")],
    "transfer-encoding": [*ALL, (b"transfer-encoding", b"chunked")],
    "upgrade": [*ALL, (b"upgrade", b"h2c")],
    "te": [*ALL, (b"te", b"gzip")],
    "a length that is no number": [*ALL, (b"content-length", b"1x")],
    "a length below nothing": [*ALL, (b"content-length", b"-1")],
    "a length of a thousand digits": [*ALL, (b"content-length", b"0" * 1000)],
    "two lengths": [*ALL, (b"content-length", b"0"), (b"content-length", b"0")],
    "two targets": [*ALL, (b"x-amz-target", b"a"), (b"x-amz-target", b"b")],
    "no host": [GET, SCHEME, PATH],
    "a host that is none": [GET, SCHEME, PATH, (b":authority", b"user@localhost")],
    "two hosts": [*ALL, (b"host", b"127.0.0.1")],
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("ends", [True, False], ids=["ended", "with a body"])
async def test_a_malformed_request_is_refused_alone(http2: Make2, name: str, ends: bool) -> None:
    one = http2(echoes=True)
    stream = one.begin(MALFORMED[name], ends=ends)
    await one.send()
    answer = one.answers[stream]
    assert answer.status == 400
    assert b"HTTP/1.1 that" not in answer.body
    assert json.loads(answer.body)["__type"] == "BadRequestException"
    assert answer.reset_code is None, "Java's client would not look at the answer"
    assert not one.requests
    assert one.refused() == {"malformed": 1}
    assert (await one.ask(b"hello", stream=5)).body == b"hello", "the connection goes on"


async def test_what_is_allowed_is_not_malformed(http2: Make2) -> None:
    one = http2(echoes=True)
    more = ((b"te", b"trailers"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x", b""))
    twice = ((b"y", b"1"), (b"y", b"2"), (b"host", b"LOCALHOST"))
    answer = await one.ask(headers=fields(b"PROPFIND", b"/\xff", *more, *twice))
    assert answer.status == 200
    headers = one.headers[0]
    assert headers[b"cookie"] == b"a=1; b=2"
    assert headers[b"y"] == b"1, 2"
    assert (await one.ask(headers=[GET, SCHEME, PATH, (b"host", b"localhost")])).status == 200
    options = [(b":method", b"OPTIONS"), SCHEME, HOST, (b":path", b"*")]
    assert (await one.ask(headers=options)).status == 200


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ([(b":method", b"CONNECT"), HOST], 405, "unsupported"),
        ([*ALL, (b"expect", b"else")], 417, "expectation"),
        ([*ALL, (b"sec-fetch-site", b"cross-site")], 403, "foreign"),
        ([*ALL, (b"origin", b"http://evil.example")], 403, "foreign"),
        ([GET, SCHEME, PATH, (b":authority", b"evil.example")], 403, "foreign"),
        ([GET, SCHEME, PATH, (b"host", b"evil.example")], 403, "foreign"),
        ([*ALL, *[(b"x%d" % i, b"y") for i in range(200)]], 431, "head_too_large"),
        ([*ALL, *[(b"x", b"y")] * 200], 431, "head_too_large"),
        ([*ALL, (b"x", b"y" * 40_000)], 431, "head_too_large"),
        ([*ALL, (b"content-length", b"%d" % 2**60)], 413, "body_too_large"),
    ],
    ids=[
        "connect",
        "expect",
        "site",
        "origin",
        "name",
        "host",
        "headers",
        "one header",
        "head",
        "length",
    ],
)
async def test_the_rules_of_http_1_1_hold(
    http2: Make2, headers: Fields, status: int, reason: str
) -> None:
    """The encoder says each header once, so that a head of 40,000 bytes is a block of 30,000."""
    one = http2(echoes=True)
    one.client.max_outbound_frame_size = 16 * 1024
    stream = one.begin(headers)
    await one.send()
    assert one.answers[stream].status == status
    assert one.refused() == {reason: 1}
    assert not one.requests
    assert (await one.ask(b"hello")).body == b"hello"


async def test_a_page_of_its_own_site_may_ask_as_in_http_1_1(http2: Make2) -> None:
    one = http2(echoes=True)
    own: Any = [*fields(), (b"origin", b"http://localhost"), (b"content-type", b"text/plain")]
    assert (await one.ask(headers=own)).status == 415
    own[-1] = (b"content-type", b"application/json")
    assert (await one.ask(headers=own)).status == 200


async def test_a_unix_socket_asks_for_no_name_and_a_listener_may_have_one(http2: Make2) -> None:
    named = [GET, SCHEME, PATH, (b":authority", b"evil.example")]
    one = http2(echoes=True, hub=Hub(ConnectionLimits(), gate=UNIX_GATE))
    assert (await one.ask(headers=named)).status == 200
    gate = Gate(hosts=frozenset({"evil.example"}))
    other = http2(echoes=True, hub=Hub(ConnectionLimits(), gate=gate))
    assert (await other.ask(headers=named)).status == 200


CBOR = (b"content-type", b"application/x-amz-cbor-1.1")


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_in_cbor_is_refused_in_cbor(http2: Make2, name: str) -> None:
    one = http2(echoes=True)
    stream = one.begin([*MALFORMED[name], CBOR], ends=True)
    await one.send()
    assert cbor.decode(one.answers[stream].body)["__type"] == "BadRequestException"  # type: ignore[index]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ((b"expect", b"else"), "ExpectationFailedException"),
        ((b"origin", b"http://evil.example"), "AccessDeniedException"),
        ((b"x", b"y" * 1000), "RequestHeaderFieldsTooLargeException"),
        ((b"content-length", b"2000"), "RequestEntityTooLargeException"),
        ((b"x", b"late"), "RequestTimeoutException"),
        ((b"x", b"too large"), "RequestEntityTooLargeException"),
        ((b"x", b"trailers"), "BadRequestException"),
        ((b"x", b"fails"), "InternalFailure"),
    ],
)
async def test_a_client_that_speaks_cbor_is_told_in_cbor(
    http2: Make2, more: tuple[bytes, bytes], code: str
) -> None:
    limits = ConnectionLimits(head_bytes_max=1000, body_bytes_max=1000, body_timeout_s=1.0)
    one = http2(limits)
    stream = one.begin(fields(b"POST", b"/", CBOR, more))
    if more[1] == b"too large":
        one.put(stream, bytes(1001), ends=False)
    elif more[1] == b"trailers":
        one.client.send_headers(stream, [(b"x", b"y")], end_stream=True)
    elif more[1] == b"fails":
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        one.on_request, one.failures = lambda _: 1 / 0, 1
        one.put(stream, b"x")
    await one.send()
    if more[1] == b"late":
        for _ in range(3):
            one.hub.sweep()
        await one.receive()
    assert cbor.decode(one.answers[stream].body)["__type"] == code  # type: ignore[index]


# --- bodies


@pytest.mark.parametrize(("said", "sent"), [(10, 5), (5, 10), (1, 0), (0, 1)])
async def test_a_body_of_another_length_than_it_says_is_no_request(
    http2: Make2, said: int, sent: int
) -> None:
    one = http2(echoes=True)
    stream = one.begin([*ALL, (b"content-length", b"%d" % said)], ends=not sent)
    if sent:
        one.put(stream, bytes(sent))
    await one.send()
    assert one.answers[stream].reset_code == ErrorCodes.PROTOCOL_ERROR
    assert not one.requests
    assert one.refused() == {"malformed": 1}
    assert (await one.ask(b"hello")).body == b"hello"


async def test_a_body_that_is_too_large_is_refused_as_it_comes(http2: Make2) -> None:
    one = http2(ConnectionLimits(body_bytes_max=1000), echoes=True)
    stream = one.begin(fields())
    for _ in range(3):
        one.put(stream, bytes(400), ends=False)
    await one.send()
    assert one.answers[stream].status == 413
    assert one.answers[stream].reset_code is None
    assert one.refused() == {"body_too_large": 1}
    assert one.hub.bodies.bytes_taken == 0
    assert (await one.ask(b"hello")).body == b"hello"
    await one.linger()
    assert one.answers[stream].reset_code == ErrorCodes.NO_ERROR
    assert (await one.ask(b"hello")).body == b"hello"


@pytest.mark.parametrize("ends", [True, False])
async def test_what_comes_after_an_early_answer_is_thrown_away_for_a_while(
    http2: Make2, ends: bool
) -> None:
    one = http2(ConnectionLimits(body_bytes_max=1000), echoes=True)
    stream = one.begin(fields())
    one.put(stream, bytes(1001), ends=False)
    await one.send()
    assert one.answers[stream].status == 413
    for _ in range(20):
        one.put(stream, bytes(1000), ends=False)
        await one.send()
    assert one.hub.bodies.bytes_taken == 0
    if ends:
        one.put(stream, b"the end")
        await one.send()
    await one.linger()
    assert one.answers[stream].reset_code == (None if ends else ErrorCodes.NO_ERROR)
    assert not one.requests
    assert one.refused() == {"body_too_large": 1}
    assert (await one.ask(b"hello")).body == b"hello"


@pytest.mark.parametrize("end", ["a drain", "the end of the input"])
async def test_an_end_does_not_wait_for_what_is_answered_already(http2: Make2, end: str) -> None:
    one = http2(ConnectionLimits(body_bytes_max=1000), echoes=True)
    stream = one.begin(fields())
    one.put(stream, bytes(1001), ends=False)
    await one.send()
    if end == "a drain":
        one.hub.is_draining = True
        one.protocol.close_if_idle()
    else:
        one.protocol.eof_received()
    await one.receive()
    assert one.answers[stream].status == 413
    assert one.transport.has_ended()


async def test_a_client_that_sends_all_of_it_nevertheless_is_no_flood(raw: MakeRaw) -> None:
    """It has a MiB on its way when it is told; and again."""
    one = raw(ConnectionLimits(body_bytes_max=1000), echoes=True)
    for stream in (1, 3, 5):
        one.feed(one.request(stream, [*ALL, (b"content-length", b"2000")], ends=False))
        await one.read()
        for _ in range(64):
            one.feed(data(stream, bytes(16_000)))
            await one.read()
    assert one.code is None
    one.feed(one.request(7))
    await one.read()
    assert len(one.requests) == 1


async def test_trailers_are_refused_as_in_http_1_1(http2: Make2) -> None:
    one = http2(echoes=True)
    stream = one.begin(fields())
    one.put(stream, b"hello", ends=False)
    one.client.send_headers(stream, [(b"x", b"y")], end_stream=True)
    await one.send()
    assert one.answers[stream].status == 400
    assert b"trailers" in one.answers[stream].body
    assert not one.requests
    assert (await one.ask(b"hello")).body == b"hello"


async def test_more_streams_than_may_be_are_refused_one_by_one(raw: MakeRaw) -> None:
    """A client may send before it has read what may be."""
    one = raw(ConnectionLimits(pipeline_max=4))
    for stream in range(1, 21, 2):
        one.feed(one.request(stream))
    await one.read()
    assert len(one.requests) == 4
    assert one.resets() == dict.fromkeys(range(9, 21, 2), ErrorCodes.REFUSED_STREAM)
    assert one.code is None
    one.requests[0].respond(200, b"")
    one.feed(one.request(21))
    await one.read()
    assert len(one.requests) == 5


# --- what ends the connection

REQUEST = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82\x84\x86\x41\x09localhost")
BROKEN = {
    "no settings first": (PING, 0, 0, bytes(8)),
    "settings on a stream": (SETTINGS, 0, 1, b""),
    "settings of a wrong length": (SETTINGS, 0, 0, bytes(5)),
    "an acknowledgement with settings": (SETTINGS, 1, 0, bytes(6)),
    "a window of 2**31": (SETTINGS, 0, 0, b"\0\4\x80\0\0\0"),
    "frames of a byte": (SETTINGS, 0, 0, b"\0\5\0\0\0\1"),
    "a ping on a stream": (PING, 0, 1, bytes(8)),
    "a ping of 4 bytes": (PING, 0, 0, bytes(4)),
    "data on no stream": (DATA, 0, 0, b"x"),
    "data on a stream that is not there": (DATA, 0, 5, b"x"),
    "headers on no stream": (HEADERS, END_HEADERS, 0, b"\x82"),
    "headers on a stream of ours": (HEADERS, END_HEADERS, 2, b"\x82"),
    "headers that depend on themselves": (HEADERS, END_HEADERS | 0x20, 5, b"\0\0\0\5\0\x82"),
    "a block that is none": (HEADERS, END_HEADERS, 5, b"\xff\xff\xff\xff"),
    "an index that is not there": (HEADERS, END_HEADERS, 5, b"\xc8"),
    "a table that is too large": (HEADERS, END_HEADERS, 5, b"\x3f\xff\xff\x7f"),
    "padding that is longer than the frame": (DATA, 8, 1, b"\xff"),
    "a push": (PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2\x82"),
    "a continuation of nothing": (CONTINUATION, END_HEADERS, 1, b"\x82"),
    "a reset of no stream": (RST_STREAM, 0, 0, bytes(4)),
    "a reset of 3 bytes": (RST_STREAM, 0, 1, bytes(3)),
    "a window that grows by nothing": (WINDOW_UPDATE, 0, 0, bytes(4)),
    "a window update of 3 bytes": (WINDOW_UPDATE, 0, 0, bytes(3)),
    "a goaway on a stream": (GOAWAY, 0, 1, bytes(8)),
    "a goaway of 4 bytes": (GOAWAY, 0, 0, bytes(4)),
    "a priority of 4 bytes": (PRIORITY, 0, 1, bytes(4)),
    "a priority of no stream": (PRIORITY, 0, 0, bytes(5)),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_where_the_framing_is_in_doubt_the_connection_ends(raw: MakeRaw, name: str) -> None:
    one = raw(has_begun=False)
    one.feed(PREFACE + (b"" if "first" in name else frame(SETTINGS) + REQUEST))
    one.feed(frame(*BROKEN[name]))
    await one.read()
    assert one.code not in (None, ErrorCodes.NO_ERROR, ErrorCodes.INTERNAL_ERROR)
    assert one.refused() == {"malformed": 1}
    assert one.transport.has_ended()
    assert one.gone == one.requests, "it hears that its client is lost"
    one.feed(REQUEST)
    assert not one.transport.written


async def test_a_frame_that_is_too_long_is_known_by_its_head(raw: MakeRaw) -> None:
    one = raw()
    one.feed(b"\0\x40\x01\0\0\0\0\0\1")  # DATA of 16,385 bytes
    await one.read()
    assert one.code == ErrorCodes.FRAME_SIZE_ERROR
    assert one.transport.has_ended()


async def test_a_window_of_the_connection_that_overflows_ends_it(raw: MakeRaw) -> None:
    one = raw()
    one.feed(frame(WINDOW_UPDATE, 0, 0, (2**31 - 1).to_bytes(4, "big")))
    await one.read()
    assert one.code == ErrorCodes.FLOW_CONTROL_ERROR
    assert one.transport.has_ended()


async def test_a_window_of_a_stream_that_overflows_ends_the_stream(raw: MakeRaw) -> None:
    one = raw()
    one.feed(one.request(1) + frame(WINDOW_UPDATE, 0, 1, (2**31 - 1).to_bytes(4, "big")))
    await one.read()
    assert one.resets() == {1: ErrorCodes.FLOW_CONTROL_ERROR}
    assert one.gone == one.requests
    assert one.code is None


@pytest.mark.parametrize(
    ("kind", "stream", "size"),
    [(DATA, 1, 0), (PING, 0, 8), (PRIORITY, 1, 5), (GOAWAY, 0, 8), (0x20, 0, 0), (SETTINGS, 0, 0)],
)
async def test_nothing_comes_between_the_parts_of_a_block(
    raw: MakeRaw, kind: int, stream: int, size: int
) -> None:
    one = raw()
    begun, *_ = in_blocks(1, one.encoder.encode(fields()), 5)
    one.feed(begun + frame(kind, 0, stream, bytes(size)))
    await one.read()
    assert one.code == ErrorCodes.PROTOCOL_ERROR
    assert not one.requests


async def test_a_block_may_come_in_parts(raw: MakeRaw) -> None:
    one = raw(echoes=True)
    for piece in in_blocks(1, one.encoder.encode(fields()), 5):
        one.feed(piece)
    await one.read()
    assert len(one.requests) == 1


async def test_frames_that_nobody_knows_change_nothing(raw: MakeRaw) -> None:
    one = raw(echoes=True)
    one.feed(frame(0x20, 0xFF, 0, b"x") + frame(0x20, 0, 7, b"") + frame(0xA, 0, 0, b"\0\0"))
    one.feed(frame(PRIORITY, 0, 9, bytes(5)) + one.request(1))
    await one.read()
    assert len(one.requests) == 1
    assert one.code is None


async def test_data_for_a_stream_that_has_ended_costs_that_stream(raw: MakeRaw) -> None:
    """Also one whose request is being worked on: MadeYouReset, CVE-2025-8671."""
    one = raw()
    one.feed(one.request(1) + data(1, b"more"))
    await one.read()
    assert one.resets() == {1: ErrorCodes.STREAM_CLOSED}
    assert one.gone == one.requests
    one.requests[0].respond(200, b"nobody reads this")
    await one.read()
    assert len(one.of_kind(HEADERS)) == 0
    one.feed(one.request(3))
    assert len(one.requests) == 2

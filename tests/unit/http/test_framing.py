"""A request ends where its framing says, whatever else it offers; in doubt the connection ends."""

import asyncio
import itertools

import pytest

from kdaemon.http.hub import ConnectionLimits
from tests.unit.http.harness import GET, HEAD, Make, statuses

# Would be executed if the body were read as the next request.
INNER = b"POST /inner HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"

OFFERS = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    b"CONNECTION: keep-alive, UPGRADE\r\nUPGRADE: TLS/1.0\r\n",
    b"Connection: Upgrade\r\nUpgrade: anything\r\nUpgrade: h2c\r\n",
    b"Upgrade: h2c\r\n",
]
FRAMED = [
    b"Content-Length: %d\r\n\r\n%b" % (len(INNER), INNER),
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER),
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n%x;x=y\r\n%b\r\n0\r\n\r\n"
    % (10, INNER[:10], len(INNER) - 10, INNER[10:]),
]
LINES = [b"POST /o HTTP/1.1", b"GET /o HTTP/1.1", b"PUT /o HTTP/1.1"]


@pytest.mark.parametrize(
    ("line", "offer", "framed"), list(itertools.product(LINES, OFFERS, FRAMED)), ids=str
)
async def test_an_upgrade_is_declined_and_its_body_is_read(
    harness: Make, line: bytes, offer: bytes, framed: bytes
) -> None:
    sent = line + b"\r\nHost: localhost\r\n" + offer + framed
    for data, count in ((sent, 1), (GET + sent + sent + GET, 4)):
        for step in (len(data), 1, 7, len(sent) - len(INNER)):
            one = harness(echoes=True)
            answers = b"".join(one.feed(data[i : i + step]) for i in range(0, len(data), step))
            assert statuses(answers) == [200] * count
            assert [body for body in one.bodies if body] == [INNER] * (1 if count == 1 else 2)
            assert "/inner" not in {request.path for request in one.requests}
            assert one.hub.bodies.bytes_taken == 0


async def test_an_upgrade_that_expects_continue_gets_it_and_one_answer(harness: Make) -> None:
    one = harness(echoes=True)
    offer = OFFERS[0] + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    assert one.feed(HEAD + offer) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert statuses(one.feed(b"abc")) == [200]
    assert one.bodies == [b"abc"]


async def test_http_1_0_offers_are_declined_too(harness: Make) -> None:
    one = harness(echoes=True)
    head = b"POST / HTTP/1.0\r\n" + OFFERS[0] + b"Content-Length: %d\r\n\r\n" % len(INNER)
    assert statuses(one.feed(head + INNER)) == [200]
    assert one.bodies == [INNER]
    assert one.transport.has_ended()


@pytest.mark.parametrize("framed", [b"\r\n", *FRAMED], ids=["none", "length", "chunk", "chunks"])
async def test_connect_is_refused_and_nothing_after_it_is_read(
    harness: Make, framed: bytes
) -> None:
    one = harness()
    head = b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n"
    assert statuses(one.feed(head + framed + GET)) == [405]
    assert not one.requests
    assert one.transport.has_ended()


@pytest.mark.parametrize(
    "part", [*(HEAD + OFFERS[0] + framed for framed in FRAMED), HEAD + FRAMED[0], HEAD + FRAMED[1]]
)
async def test_a_body_that_was_announced_and_did_not_arrive_is_never_handed_over(
    harness: Make, part: bytes
) -> None:
    for end in range(1, len(part)):
        one = harness()
        one.feed(part[:end])
        one.protocol.eof_received()
        assert not one.requests
        assert statuses(one.transport.take()) == [400]
        assert one.hub.counters.refused["truncated"] == 1


DOUBTFUL = {
    "two codings": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two codings in two headers": (
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "one coding twice": (
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "identity": b"Transfer-Encoding: identity\r\n\r\n",
    "coding and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "length and coding": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths in two cases": b"Content-Length: 3\r\ncontent-length: 5\r\n\r\nhello",
    "a list of lengths": b"Content-Length: 5, 5\r\n\r\nhello",
    "a length with a sign": b"Content-Length: +5\r\n\r\nhello",
    "a folded header": b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "a blank before the colon": b"Content-Length : 5\r\n\r\nhello",
    "a bare line feed": b"X: a\nContent-Length: 5\r\n\r\nhello",
    "two hosts": b"Host: localhost\r\nContent-Length: 5\r\n\r\nhello",
    "two hosts in two cases": b"host: other\r\nContent-Length: 5\r\n\r\nhello",
    "two operations": b"X-Amz-Target: A\r\nX-Amz-Target: B\r\nContent-Length: 5\r\n\r\nhello",
    "trailers": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "a chunk too long": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
    "a chunk without a size": b"Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
    "a chunk with a sign": b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunks with line feeds": b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
}


@pytest.mark.parametrize("name", DOUBTFUL)
@pytest.mark.parametrize("step", [1, 10_000])
async def test_a_framing_in_doubt_ends_the_connection_and_nothing_is_done(
    harness: Make, name: str, step: int
) -> None:
    one = harness(echoes=True)
    sent = HEAD + DOUBTFUL[name] + GET
    answers = b"".join(one.feed(sent[i : i + step]) for i in range(0, len(sent), step))
    assert statuses(answers) in ([400], [501])
    assert not one.requests
    assert one.transport.has_ended()
    assert one.hub.bodies.bytes_taken == 0


async def test_chunks_in_http_1_0_are_refused(harness: Make) -> None:
    sent = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert statuses(harness().feed(sent)) == [400]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /\r\n\r\n", 505),
        (b"DESCRIBE rtsp://localhost/ RTSP/1.0\r\n\r\n", 505),
        (b"SOURCE / ICE/1.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET ftp://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://user@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ],
)
async def test_what_is_not_http_1_1_is_refused(harness: Make, sent: bytes, status: int) -> None:
    one = harness()
    assert statuses(one.feed(sent)) == [status]
    assert not one.requests


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://localhost", "/", ""),
        (b"HTTP://localhost:80?a=b", "/", "a=b"),
        (b"https://localhost/v1/x?a", "/v1/x", "a"),
        (b"//v1/streams/s/records", "//v1/streams/s/records", ""),
        (b"/a//b?c?d", "/a//b", "c?d"),
    ],
)
async def test_a_target_is_read_as_rfc_9112_says(
    harness: Make, target: bytes, path: str, query: str
) -> None:
    one = harness()
    one.feed(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" % target)
    assert [(each.path, each.query) for each in one.requests] == [(path, query)]


@pytest.mark.parametrize("step", [1, 10_000])
async def test_blanks_around_a_value_are_not_part_of_it(harness: Make, step: int) -> None:
    one = harness(echoes=True)
    sent = (
        b"POST / HTTP/1.1\r\nHost:localhost \t\r\nX-Amz-Target:  T\t \r\n"
        b"Expect: 100-continue \r\nContent-Length: 2 \r\nEmpty: \r\n\r\nhi"
    )
    for at in range(0, len(sent), step):
        one.feed(sent[at : at + step])
    assert one.bodies == [b"hi"]
    headers = one.headers[0]
    assert (headers[b"host"], headers[b"x-amz-target"]) == (b"localhost", b"T")
    assert headers[b"empty"] == b""


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (b"identity", None),
        (b"Identity ", None),
        (b"identity, IDENTITY", None),
        (b"", None),
        (b"GZIP", b"gzip"),
        (b"identity, Gzip", b"gzip"),
        (b"gzip, br", b"gzip, br"),
    ],
)
async def test_identity_is_no_content_coding(
    harness: Make, sent: bytes, seen: bytes | None
) -> None:
    one = harness(echoes=True)
    one.feed(HEAD + b"Content-Encoding: %b\r\nContent-Length: 0\r\n\r\n" % sent)
    assert one.headers[0].get(b"content-encoding") == seen


@pytest.mark.parametrize("step", [1, 10_000])
async def test_a_name_that_came_twice_is_a_list(harness: Make, step: int) -> None:
    one = harness(echoes=True)
    sent = (
        HEAD + b"Connection: close\r\nAccept: a\r\nconnection: Upgrade\r\nUpgrade: h2c\r\n"
        b"accept: b\r\nContent-Encoding: gzip\r\nContent-Encoding: Identity\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    answers = b"".join(one.feed(sent[at : at + step]) for at in range(0, len(sent), step))
    assert statuses(answers + one.feed(GET)) == [200]
    assert b"Connection: close" in answers
    headers = one.headers[0]
    assert (headers[b"accept"], headers[b"content-encoding"]) == (b"a,b", b"gzip")


# --- bounds


@pytest.mark.parametrize("name", [b"X-%d", b"Same"])
async def test_a_head_may_have_so_many_headers(harness: Make, name: bytes) -> None:
    def head(count: int) -> bytes:
        lines = [b"%b: 1\r\n" % (name % i if b"%" in name else name) for i in range(count - 1)]
        return b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(lines) + b"\r\n"

    assert statuses(harness(echoes=True).feed(head(100))) == [200]
    one = harness(echoes=True)
    assert statuses(one.feed(GET + head(101))) == [200, 431]
    assert one.hub.counters.refused["head_too_large"] == 1


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"1\r\nx\r\n" * 20_000, id="tiny chunks"),
        pytest.param(b"1;" + b"x" * 40_000, id="an extension without end"),
        pytest.param(b"5;" + b"x" * 200 + b"\r\nhello\r\n", id="long extensions"),
    ],
)
async def test_chunk_framing_is_bounded_by_what_it_frames(harness: Make, sent: bytes) -> None:
    one = harness()
    data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + sent * 100
    read = one.protocol.data_received
    for at in range(0, len(data), 10_000):
        if one.hub.counters.refused["malformed"]:
            break
        read(data[at : at + 10_000])
    assert statuses(one.transport.take()) == [400]
    assert one.hub.bodies.bytes_taken == 0


@pytest.mark.parametrize("line", [b"1;", b"0;", b"", b"1 "])
async def test_a_line_of_chunk_framing_is_bounded_however_large_the_body_is(
    harness: Make, line: bytes
) -> None:
    """The line is kept until it ends, and is not a part of the body, which is charged."""
    one = harness()
    one.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % 200_000)
    end = b"\r\n" if line else b""
    for piece in (*[bytes(50_000)] * 4, end + line, *[b" " * 300] * 3):
        assert one.feed(piece) == b""
        await asyncio.sleep(0)
    assert statuses(one.feed(b" " * 300)) == [400]


async def test_a_listener_without_bodies_refuses_them_at_once(harness: Make) -> None:
    limits = ConnectionLimits(body_bytes_max=0)
    for framing in (b"Content-Length: 1", b"Transfer-Encoding: chunked"):
        one = harness(limits)
        assert statuses(one.feed(HEAD + framing + b"\r\n\r\n")) == [413]
    assert statuses(harness(limits, echoes=True).feed(GET)) == [200]


async def test_nothing_of_a_head_is_kept_after_its_use(harness: Make) -> None:
    one = harness()
    one.feed(HEAD + b"X: %b\r\nContent-Length: 1\r\n\r\n" % (b"x" * 5000))
    assert not one.protocol.audit().head_bytes
    one.feed(b"a")
    one.requests[0].respond(200, b"")
    assert not one.protocol.audit().header_count
    assert not one.requests[0].headers


async def test_headers_are_counted_while_they_arrive(harness: Make) -> None:
    """Or 32 KiB of the smallest headers would be a megabyte of objects for each connection."""
    one = harness()
    sent = GET[:-2] + b"".join(b"%x:\r\n" % number for number in range(5000))
    one.feed(sent[:40])
    assert statuses(one.feed(sent[40:])) == [431]
    assert not one.protocol.audit().header_count


async def test_what_a_large_head_said_is_not_kept_for_the_next(harness: Make) -> None:
    one = harness(echoes=True)
    names = b"".join(b"%b-%d: 1\r\n" % (b"n" * 200, number) for number in range(50))
    for sent in (GET[:-2] + names + b"\r\n", GET.replace(b"/", b"/" + b"p" * 9000, 1)):
        assert statuses(one.feed(sent)) == [200]
        heads = one.protocol.audit().heads
        assert len(heads.line_bytes) < 10
        assert heads.stencil is None
        assert not heads.line.path.strip("/")
        assert statuses(one.feed(GET)) == [200]

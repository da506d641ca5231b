"""The reader against h11: the same bodies in the same order, or a refusal; never another body.

Requests are made of parts that are right, odd or wrong, one after another on a connection, and the
bytes are cut into reads at random. What we hand over, h11 must have handed over.
"""

import asyncio
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.http_reader import by_h11, by_us, check, one_input
from tests.kit.depth import examples, some

LINES = st.sampled_from(
    [
        *[b"POST / HTTP/1.1"] * 6,
        b"GET /a?b=c HTTP/1.1",
        b"HEAD / HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT localhost:1 HTTP/1.1",
        b"POST http://localhost HTTP/1.1",
        b"POST http://localhost?x HTTP/1.1",
        b"POST //v1/x HTTP/1.1",
        b"POST / HTTP/1.0",
        b"GET /",
        b"post / HTTP/1.1",
        b"DESCRIBE rtsp://x/ RTSP/1.0",
        b"POST  / HTTP/1.1",
        b"POST / HTTP/2.0",
        b"PRI * HTTP/2.0",
        b"\r\nPOST / HTTP/1.1",
    ]
)
HOSTS = st.sampled_from(
    [
        *[b"Host: localhost"] * 8,
        b"host:localhost \t",
        b"",
        b"Host: a\r\nHost: b",
        b"Host: a\r\nhost: b",
    ]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
            b"Connection: upgrade\r\nUpgrade: websocket",
            b"connection: keep-alive, Upgrade\r\nUPGRADE: anything/1",
            b"Connection: close",
            b"Connection: keep-alive",
            b"Proxy-Connection: close",
            b"Expect: 100-continue",
            b"Expect: 100-Continue ",
            b"Accept: a\r\nAccept: b",
            b"X: \xff\xfe",
            b"X: a\x01",
            b"X : a",
            b" folded",
            b"X: a\r\n folded",
            b"X: a\n",
            b"Content-Encoding: Identity",
            b"no colon",
            b": empty",
            b"X:",
        ]
    ),
    max_size=3,
)
BODY = st.sampled_from(
    [
        b"",
        b"hello",
        b"\r\n",
        b"\r\n\r\n",
        b"GET /in/the/body HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"x" * 3000,
        b"\n" * 12,
    ]
)


def chunks(body: bytes, size: int, extension: bytes = b"") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return framed + b"0\r\n\r\n"


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    body = draw(BODY)
    kind = draw(st.integers(0, 13))
    framing, sent = [b"Content-Length: %d" % len(body)], body
    if kind in {5, 6, 7}:
        framing = [
            draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED "]))
        ]
        extension = draw(st.sampled_from([b"", b";a=b", b" ;x", b';q="\xff"']))
        sent = chunks(body, draw(st.integers(1, 700)), extension)
    if kind == 7:
        sent = sent[: draw(st.integers(0, len(sent)))]
    if kind == 8:
        framing += draw(
            st.sampled_from(
                [
                    [b"Content-Length: 3"],
                    [b"Transfer-Encoding: chunked"],
                    [b"content-length: %d" % len(body)],
                ]
            )
        )
    if kind == 9:
        framing = draw(
            st.sampled_from(
                [
                    [b"Transfer-Encoding: gzip, chunked"],
                    [b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"],
                    [b"Transfer-Encoding: identity"],
                    [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
                    [b"Content-Length: 5, 5"],
                    [b"Content-Length: +5"],
                    [b"Content-Length: 0x5"],
                    [b"Content-Length:"],
                ]
            )
        )
        sent = draw(st.sampled_from([body, chunks(body, 10)]))
    if kind == 10:
        framing = []
    if kind == 11:
        sent = chunks(body, 5)[:-2] + b"Trailer: x\r\n\r\n"
        framing = [b"Transfer-Encoding: chunked"]
    if kind == 12:
        framing = [b"Content-Length: %d" % (len(body) + draw(st.integers(1, 9)))]
    lines = [draw(LINES), draw(HOSTS), *draw(HEADERS), *framing]
    lines = [lines[0], *draw(st.permutations([line for line in lines[1:] if line]))]
    end = draw(st.sampled_from([b"\r\n"] * 9 + [b"\n"]))
    return end.join(lines) + end + end + sent


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 4000), max_size=6))
def test_what_we_hand_over_h11_hands_over(sent: list[bytes], cuts: list[int]) -> None:
    data = b"".join(sent)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reads = [data[a:b] for a, b in itertools.pairwise(edges)]
    cut = check([read for read in reads if read])
    whole = check([data])
    assert cut == whole, "where reads are cut changes nothing"


@settings(max_examples=examples(150), deadline=None)
@given(requests(), st.data())
def test_a_byte_that_is_wrong_never_makes_another_body(sent: bytes, data: st.DataObject) -> None:
    noisy = bytearray(sent * 2)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(noisy) - 1))
        noisy[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b"\r\n :0;,")))
    check([bytes(noisy)])


@pytest.mark.parametrize(
    "sent",
    [
        # found by noise: a request line of HTTP/0.9 whose end the parser sees elsewhere
        b"CONNECT a\n\r\nPOST / HTTP/1.0\r\nA: b\r\nContent-Length::\nPOST / HTTP/1.0\r\n\r\nab",
        b"GET /a\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        b"\n\n\nPOST / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.0\r\nConnection: close\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0",
    ],
)
def test_what_noise_has_found(sent: bytes) -> None:
    for cut in range(len(sent)):
        check([each for each in (sent[:cut], sent[cut:]) if each])


@pytest.mark.parametrize("seed", some(range(4)))
def test_noise_is_no_defect(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(100):
        one_input(dice.randbytes(dice.randrange(200)))


def test_ordinary_requests_are_not_refused() -> None:
    """The tests above would hold for a reader that refuses everything."""
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
    sent = [
        head + b"Content-Length: 5\r\n\r\nhello",
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(b"hello world", 3),
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: a\r\nAccept: b\r\n\r\n",
        head + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc",
        head + b"Connection: close\r\nContent-Length: 2\r\n\r\nno",
    ]
    expected = [("POST", b"hello"), ("POST", b"hello world"), ("GET", b""), ("POST", b"abc")]
    data = b"".join(sent)
    for reads in ([data], sent, [data[i : i + 1] for i in range(len(data))]):
        heard = asyncio.run(by_us(reads))
        assert heard.requests == [*expected, ("POST", b"no")]
        assert not heard.is_refused
    assert by_h11(data).requests == heard.requests

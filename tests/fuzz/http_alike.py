"""Requests of one connection that are alike, and some that only look so: with what is kept of the
heads before, and with nothing kept, everything that can be seen is the same.

The first byte of an input chooses how requests are answered and who may send them; then `cuts.cut`
takes the reads. Raises where a connection that reads heads by a stencil does anything, or does it
at another read, than one that has each head parsed.
"""

import asyncio
import random
from dataclasses import replace
from typing import Any

from kdaemon.base.principal import Principal
from kdaemon.http.connection import HttpProtocol
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.refusals import Refusal
from kdaemon.http.request import HttpRequest
from tests.fuzz.cuts import cut
from tests.fuzz.loop import run
from tests.kit.doors import FakeTransport

KEEPS = ConnectionLimits(
    body_bytes_max=2_000,
    head_bytes_max=1_500,
    headers_max=16,
    pipeline_max=3,
    bodies_bytes_max=100_000,
    kept_head_bytes_max=1_000,
)
PARSES = replace(KEEPS, kept_head_bytes_max=0)

_UUID = b"8a5ed0c6-2f5c-4a0e-9a1f-7d2b6d1c9e01"
_SIGNED = b"AWS4-HMAC-SHA256 Credential=A/20261129/eu/kinesis/aws4_request, SignedHeaders=host, "
HEADS: list[list[bytes]] = [
    [
        b"POST / HTTP/1.1",
        b"Host: localhost",
        b"X-Amz-Target: Kinesis_20131202.PutRecord",
        b"Content-Type: application/x-amz-json-1.1",
        b"X-Amz-Date: 20261129T120000Z",
        b"Authorization: " + _SIGNED + b"Signature=" + b"0f" * 32,
        b"amz-sdk-invocation-id: " + _UUID,
        b"amz-sdk-request: attempt=1; max=3",
        b"Content-Length: 5",
    ],
    [
        b"POST /v1/streams/s/records?partition_key=k HTTP/1.1",
        b"host:localhost:80 ",
        b"connection:keep-alive",
        b"content-length:5\t",
        b"x-amz-date: \t 20261129T120000Z \t",
        b"x:",
    ],
    [b"GET /a?b=c HTTP/1.1", b"Host: localhost", b"X: 1"],
    [b"POST / HTTP/1.0", b"Host: localhost", b"Connection: keep-alive", b"Content-Length: 5"],
]
VALUES = [
    *(b"", b"a", b"5", b"20261129T120001Z", b"attempt=2; max=3", b"a\tb", b"a b", b" a", b"a "),
    *(b"\t", b"a\x00", b"\x7f", b"\xff", b"a\x0b", b"\x0ca", b"a\rb", b"a\nb", b"a\r", b"\r"),
    *(b"a\r\n folded", b"a\r\nX-More: b", b"a\r\n\r\nGET /in HTTP/1.1\r\nHost: a", b":", b"close"),
    *(b"keep-alive", b"Upgrade", b"identity", b"100-continue", b"evil.example", b"\n"),
    *(b"a\x7fb", b"\xc3\xa9", b"x" * 1_300),
]  # fmt: skip
LENGTHS = [
    *(b"0", b"4", b"6", b"05", b"+5", b"-5", b"0x5", b"5 ", b"5,5", b"5, 5", b"", b"1e1", b"5\x00"),
    *(b"00000000000000000005", b"000000000000000000005", b"1999", b"2001", b"18446744073709551621"),
    *(b"18446744073709551615", b"9" * 30, b"\xb2", b"5\x0b", b"5_0", b" 5"),
]
LINES = [
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Connection: close"),
    *(b"Connection: Upgrade\r\nUpgrade: h2c", b"Expect: 100-continue", b"Expect: 200-ok"),
    *(b"Content-Length: 5", b"content-length: 6", b"Host: localhost", b"X-Amz-Date: b", b"X: y"),
    *(b"Content-Encoding: identity", b"Content-Encoding: gzip", b"Origin: http://evil.example"),
    *(b"Sec-Fetch-Site: cross-site", b" folded", b"no colon", b": no name", b"X : y"),
    *(b"Proxy-Connection: close", b"Upgrade: x", b"Connection: keep-alive", b"X-Refuse: y"),
    b"X-Long: " + b"y" * 600,
]  # fmt: skip
STARTS = [
    *(b"POST / HTTP/1.1", b"POST /?x HTTP/1.1", b"GET / HTTP/1.1", b"HEAD / HTTP/1.1"),
    *(b"POST / HTTP/1.0", b"post / HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"POST  / HTTP/1.1"),
    *(b"POST http://a/ HTTP/1.1", b"POST / HTTP/1.1 ", b"PRI * HTTP/2.0", b"POST /\x80 HTTP/1.1"),
    b"\r\nPOST / HTTP/1.1",
]  # fmt: skip


def request(lines: list[bytes], body: bytes, end: bytes = b"\r\n") -> bytes:
    return end.join(lines) + end + end + body


def again(lines: list[bytes], number: int, body_bytes: int = 5) -> list[bytes]:
    """The next request of an SDK: date, signature and number differ."""
    new = {
        b"x-amz-date": (b"0000Z", b"%04dZ" % number),
        b"authorization": (b"0f0f", b"%04x" % number),
        b"amz-sdk-invocation-id": (b"8a5e", b"%04x" % number),
        b"content-length": (b"5", b"%d" % body_bytes),
    }
    named = [(line, new.get(line.partition(b":")[0].lower())) for line in lines]
    return [line if change is None else line.replace(*change) for line, change in named]


def _some(lines: list[bytes], count: int) -> bytes:
    return b"".join(request(again(lines, number), b"hello") for number in range(count))


SEEDS = [
    *(b"\x00\x00" + _some(lines, 4) for lines in HEADS),
    b"\x01\x03\x01\x00\x02\x00\x03\x00" + _some(HEADS[0], 4),
    b"\x02\x01\x05\x99" + _some(HEADS[0], 6),
]
TOKENS = [
    *(b"\r\n", b"\r\n\r\n", b"\r", b"\n", b": ", b":", b" ", b"\t", b"\x7f", b"5", b"0", b"hello"),
    *(b"%b\r\n" % line for line in LINES),
    *(request(lines, b"hello") for lines in HEADS),
]


def build(dice: random.Random) -> bytes:
    """Requests of one kind, then some that are spoiled among them; reads mostly end where one of
    them, or its head, does.
    """
    kinds = [dice.choice(HEADS) for _ in range(dice.choice((1, 1, 1, 2)))]
    sent, edges = b"", []
    for number in range(dice.randint(2, 10)):
        size = dice.choice((5, 5, 5, 0, 12, 100, 1_900))
        lines = again(dice.choice(kinds), dice.choice((0, number)), size)
        if not dice.randrange(3):
            _vary(lines, dice)
        end = b"\r\n"
        if number > 2 and not dice.randrange(3):
            _spoil(lines, dice)
            end = dice.choice((end, end, end, end, end, end, b"\n", b"\r"))
        head = request(lines, b"", end)
        edges += [len(sent) + len(head), len(sent) + len(head) + size]
        sent += head + (b"%d" % number * size)[:size]
    cuts = [
        dice.choice((edge, edge, edge, dice.randrange(len(sent))))
        for edge in dice.sample(edges, min(len(edges), dice.choice((0, 2, 4, 7))))
    ]
    places = b"".join(place.to_bytes(2, "big") for place in cuts)
    return bytes((dice.randrange(8), len(cuts))) + places + sent


def _vary(lines: list[bytes], dice: random.Random) -> None:
    """Another value, with which a request is as well."""
    at = dice.randrange(1, len(lines))
    name = lines[at].partition(b":")[0]
    if name.lower() == b"host":
        lines[at] = name + dice.choice((b": localhost", b": 127.0.0.1", b":localhost:80"))
    elif name.lower() == b"connection":
        lines[at] = name + dice.choice((b": keep-alive", b": x", b": Upgrade"))
    elif name.lower() != b"content-length":
        lines[at] += dice.choice((b"1", b"-", b" b", b"/c=d", b"\t", b" "))


def _spoil(lines: list[bytes], dice: random.Random) -> None:
    at = dice.randrange(1, len(lines))
    name, _, value = lines[at].partition(b":")
    way = dice.choice((0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8))
    if way == 0:
        lines[at] = name + b":" + dice.choice((b"", b" ")) + dice.choice(VALUES)
    elif way == 1:
        lines[-1] = b"Content-Length: " + dice.choice(LENGTHS)
    elif way == 2:
        lines.insert(at, dice.choice(LINES))
    elif way == 3:
        lines[0] = dice.choice(STARTS)
    elif way == 4:
        other = dice.randrange(1, len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif way == 5:
        del lines[at]
    elif way == 6:
        lines.insert(at, lines[at])
    elif way == 7:
        lines[at] = dice.choice((name.swapcase(), name + b" ", b" " + name)) + b":" + value
    else:
        place = dice.randrange(len(value) + 1)
        lines[at] = name + b":" + value[:place] + dice.choice(VALUES) + value[place + 1 :]


class _Watched:
    """A connection, and all that can be seen of it."""

    def __init__(
        self, limits: ConnectionLimits, *, answers_at_once: bool, asks_early: bool
    ) -> None:
        self.seen: list[Any] = []
        self._answers_at_once = answers_at_once
        self._waiting: list[HttpRequest] = []
        self._hub = Hub(limits, early=self._early if asks_early else None)
        self._protocol, self._transport = HttpProtocol(self._handle, hub=self._hub), FakeTransport()
        self._transport.protocol = self._protocol
        self._protocol.connection_made(self._transport)

    def _early(self, _: Principal, query: str, headers: dict[bytes, bytes]) -> Refusal | None:
        self.seen.append(("early", query, list(headers.items())))
        refusal = Refusal("unauthenticated", 403, "AccessDeniedException", "No.")
        return refusal if b"x-refuse" in headers else None

    def _handle(self, request: HttpRequest) -> None:
        headers = list(request.headers.items())
        way = request.method, request.path, request.query, request.closes, request.is_http_1_0
        self.seen.append((way, headers, request.body, request.principal, request.blocks_next))
        if self._answers_at_once:
            request.respond(200, b"%d" % len(request.body))
        else:
            self._waiting.append(request)

    async def read(self, data: bytes) -> None:
        self._hub.tick += 1
        self._protocol.data_received(data)
        await self._rest()

    async def answer(self) -> None:
        """The first that waits."""
        if self._waiting:
            request = self._waiting.pop(0)
            self.seen.append(list(request.headers.items()))
            request.respond(200, b"late")
        await self._rest()

    async def _rest(self) -> None:
        for _ in range(4):  # turns are over
            await asyncio.sleep(0)
        self._look()

    def _look(self) -> None:
        hub, transport = self._hub, self._transport
        self.seen.append(
            (
                self._protocol.idle_ticks(hub.tick),
                transport.take(),
                transport.reads(),
                transport.is_closed,
                transport.has_written_eof,
                hub.bodies.bytes_taken,
                hub.counters.snapshot(),
            )
        )

    @property
    def has_more(self) -> bool:
        return bool(self._waiting) and not self._transport.is_closed

    @property
    def takes_more(self) -> bool:
        return self._transport.reads() and not self._transport.is_closed

    async def end(self) -> None:
        if not self._transport.is_closed and not self._protocol.eof_received():
            self._transport.close()
        await self._rest()
        self._protocol.connection_lost(None)
        self._look()
        await self._hub.aclose(0)


async def watch(reads: list[bytes], choice: int, limits: ConnectionLimits) -> list[Any]:
    """All that is seen of a connection. The third of three bits of `choice`: a turn for each read
    goes by with an answer.
    """
    one = _Watched(limits, answers_at_once=not choice & 1, asks_early=bool(choice & 2))
    for read in reads:
        while not one.takes_more and one.has_more:
            await one.answer()
        if not one.takes_more:
            break
        await one.read(read)
        if choice & 4:
            await one.answer()
    while one.has_more:
        await one.answer()
    await one.end()
    return one.seen


def check(reads: list[bytes], choice: int) -> list[Any]:
    """Raises AssertionError where something differs; what is seen."""
    kept = run(watch(reads, choice, KEEPS))
    parsed = run(watch(reads, choice, PARSES))
    assert kept == parsed, next((a, b) for a, b in zip(kept, parsed, strict=False) if a != b)
    return kept


def one_input(data: bytes) -> None:
    _, reads = cut(data[1:])
    check(reads, data[0] if data else 0)

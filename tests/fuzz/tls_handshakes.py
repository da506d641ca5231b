"""The beginning of a TLS connection against bytes that nobody meant: one input, one verdict.

`one_input` takes whatever a fuzzer makes, cuts it into reads by its own first bytes, and sends it
as all that a client says; then in the place of what a client says that has begun well, after its
hello or after its handshake; then behind a client's own bytes there, of which one is changed. It
raises only on a defect: an exception out of the connection or
the loop, a request that reaches the handler, an answer of success, another end where reads are cut
elsewhere, memory, a place or a handshake that leaks, or harm to another client of the listener,
whose handshake is under way meanwhile.
"""

import asyncio
import logging
import random
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from kdaemon.http.certificate import TlsFiles, load_pair
from kdaemon.http.handshakes import Handshakes
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.opening import Opening
from kdaemon.http.origin import Gate
from kdaemon.http.request import HttpRequest
from tests.fuzz.cuts import cut
from tests.fuzz.loop import run
from tests.kit.certificates import Authority
from tests.kit.doors import FakeTransport
from tests.kit.tls import Side

TEST_INPUTS = 250  # each takes seven handshakes, some of them whole
CORPUS = Path(__file__).parent / "corpus" / "tls_hellos.txt"
TURNS_MAX = 1_000  # of the loop, for what one input makes us do
ARRIVING_BYTES_MAX = 256 * 1024  # that one client may make the listener keep
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

HANDSHAKE, ALERT, CHANGE_CIPHER_SPEC, APPLICATION_DATA = 0x16, 0x15, 0x14, 0x17
SERVER_NAME, GROUPS, ALPN_NAMES, EARLY_DATA = 0x00, 0x0A, 0x10, 0x2A  # RFC 8446, 4.2
PRE_SHARED_KEY, VERSIONS, COOKIE, KEY_SHARE = 0x29, 0x2B, 0x2C, 0x33


def _record(kind: int, content: bytes, version: int = 0x0303) -> bytes:
    return bytes((kind, *version.to_bytes(2, "big"))) + len(content).to_bytes(2, "big") + content


def _extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


def _with(hello: bytes, *extensions: bytes) -> bytes:
    """The same hello, whose last extensions are these."""
    message = hello[9:]
    at = 34 + 1 + message[34]  # version and random, session
    at += 2 + int.from_bytes(message[at : at + 2], "big")  # ciphers
    at += 1 + message[at]  # compressions
    all_of_them = message[at + 2 :] + b"".join(extensions)
    message = message[:at] + len(all_of_them).to_bytes(2, "big") + all_of_them
    return _record(HANDSHAKE, b"\x01" + len(message).to_bytes(3, "big") + message, 0x0301)


# Of clients of OpenSSL: TLS 1.2 and 1.3; and 1.3 without a key, which is asked for another hello.
HELLOS = [bytes.fromhex(line) for line in CORPUS.read_text().split()]
_EARLY = _with(
    HELLOS[1],
    _extension(EARLY_DATA, b""),
    _extension(PRE_SHARED_KEY, bytes((0, 10, 0, 4, *b"tick", *bytes(4), 0, 33, 32)) + bytes(32)),
)
_EARLY_REQUEST = _record(APPLICATION_DATA, GET)
_CHANGE = _record(CHANGE_CIPHER_SPEC, b"\x01")
_ALERTS = [_record(ALERT, bytes((level, what))) for level, what in ((1, 0), (2, 40), (1, 90))]
SEEDS = [
    *(b"\x00" + hello for hello in HELLOS),
    *(b"\x02\x00\x03\x00\x40" + hello + _CHANGE + hello for hello in HELLOS),
    b"\x00" + _EARLY + _EARLY_REQUEST,
    b"\x01\x00\x09" + _EARLY + _CHANGE + _EARLY_REQUEST * 3,
    b"\x00" + HELLOS[1] + _EARLY_REQUEST,
    b"\x00" + HELLOS[1] + GET,
    b"\x00" + GET,
    b"\x00PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",  # as SSL 2 begins
]
TOKENS = [
    *(GET, _EARLY_REQUEST, _CHANGE, *_ALERTS, *HELLOS, _EARLY),
    *(_record(kind, b"") for kind in (HANDSHAKE, ALERT, APPLICATION_DATA)),
    *(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc", b"\x16\x03\x01\xff\xff", b"\x16\x03", b"\x03\x04"),
    *(b"\x01\xff\xff\xff", b"\x00\x00\x00", b"\x13\x01", b"\x00\x2a\x00\x00", b"\xff\xff"),
]


def build(dice: random.Random) -> bytes:
    """A hello that keeps to the form, with a few extensions of another content, in some records,
    and what may come behind it.
    """
    cut_count = dice.randrange(4)
    pieces = [bytes([cut_count]), dice.randbytes(2 * cut_count)]
    kinds = (SERVER_NAME, GROUPS, ALPN_NAMES, EARLY_DATA, PRE_SHARED_KEY, VERSIONS, COOKIE)
    extensions = [
        _extension(
            dice.choice((*kinds, KEY_SHARE, dice.randrange(1 << 16))),
            dice.choice((b"", b"\0", b"\0\0", dice.randbytes(dice.choice((1, 4, 40, 3_000))))),
        )
        for _ in range(dice.choice((0, 1, 1, 3)))
    ]
    hello = _with(dice.choice(HELLOS), *extensions)
    size = dice.choice((len(hello), len(hello), 1, 7, 200))
    content = hello[5:]
    pieces += [
        _record(HANDSHAKE, content[at : at + size], dice.choice((0x0301, 0x0301, 0x0303, 0x0300)))
        for at in range(0, len(content), size)
    ]
    pieces += [dice.choice(TOKENS) for _ in range(dice.choice((0, 0, 1, 3)))]
    return b"".join(pieces)


@cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Ours and a client's, of one certificate for the whole run."""
    with tempfile.TemporaryDirectory() as directory:
        files = Authority(Path(directory)).issue()
        pair = TlsFiles(str(files.certificate), str(files.key), "")
        return load_pair(pair).context, files.client()


class Client:
    """One connection to the listener, in memory."""

    def __init__(self, hub: Hub, requests: list[HttpRequest]) -> None:
        def handle(request: HttpRequest) -> None:
            requests.append(request)
            request.respond(200, b"hello")

        self.transport = FakeTransport()
        opening = Opening(handle, hub, None)
        self.transport.set_protocol(opening)
        opening.connection_made(self.transport)
        self.side = Side(_contexts()[1])

    async def send(self, data: bytes) -> bytes:
        """What is answered within a while."""
        await self._turns()
        if data and not self.transport.is_closed:
            self.transport.protocol.data_received(data)
        await self._turns()
        return self.transport.take()

    async def _turns(self) -> None:
        for _ in range(TURNS_MAX):
            await asyncio.sleep(0)
            if self.transport.reads() or self.transport.has_ended():
                return
        raise AssertionError("it is not read for ever")

    async def shake(self) -> None:
        await self.finish(await self.greet())

    async def greet(self) -> bytes:
        assert not self.side.is_shaken()
        return await self.send(self.side.to_send())

    async def finish(self, received: bytes) -> None:
        while not self.side.is_shaken(received):
            received = await self.send(self.side.to_send())
            assert received, "nothing is said to a client that means well"
        self.side.decrypt(await self.send(self.side.to_send()))

    async def ask(self) -> bytes:
        return self.side.decrypt(await self.send(self.side.encrypt(GET)))

    async def end(self) -> None:
        """The client ends its side; the transport, what is left of the connection."""
        if not self.transport.is_closed and not self.transport.protocol.eof_received():
            self.transport.close()
        await asyncio.sleep(0)
        self.transport.protocol.connection_lost(None)


def _changed(data: bytes, by: bytes) -> bytes:
    """One byte is another, as these say."""
    at = int.from_bytes(by[:2], "big") % len(data)
    return data[:at] + bytes([data[at] ^ (by[2] or 1)]) + data[at + 1 :]


async def attacked(reads: list[bytes], good_steps: int, change: bytes = b"") -> tuple[str, bool]:
    """What becomes of a client that does so many steps well (1: its hello; 2: its handshake) and
    then sends this: why it is refused, and whether its connection has ended; another client's
    handshake goes on meanwhile. `change`: of what it would send next, which it sends before.
    """
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    requests: list[HttpRequest] = []
    others: list[HttpRequest] = []
    limits = ConnectionLimits(bodies_bytes_max=1024 * 1024, head_timeout_s=3.0, idle_timeout_s=3.0)
    handshakes = Handshakes(lambda: _contexts()[0], lambda: 0, half_done_max=2)
    gate = Gate(checks_host=False, checks_browsers=False)
    hub = Hub(limits, gate=gate, tls=handshakes)

    bystander = Client(hub, others)
    half_shaken = await bystander.greet()

    attacker = Client(hub, requests)
    own = b""
    if good_steps == 1:
        assert attacker.side.is_shaken(await attacker.greet())
        own = attacker.side.to_send()
    elif good_steps == 2:
        await attacker.shake()
        own = attacker.side.encrypt(GET)
    if change:
        reads = [_changed(own, change), *reads]
    answered = b""
    for read in reads:
        answered += await attacker.send(read)
        assert hub.bodies.bytes_taken <= ARRIVING_BYTES_MAX
    assert b"HTTP/1.1 2" not in answered
    refused = "".join(name for name, count in hub.counters.refused.items() if count)

    await bystander.finish(half_shaken)
    assert b"hello" in await bystander.ask(), "another client is harmed"

    has_ended = attacker.transport.has_ended()
    for _ in range(hub.head_ticks_max + 2):
        hub.sweep()
    assert attacker.transport.has_ended(), "who says no more stays for ever"
    await attacker.end()
    await bystander.end()
    assert not requests, "a request that nobody sent"
    assert not told, told
    assert hub.counters.handler_failures == 0
    assert hub.bodies.bytes_taken == 0, "the budget leaks"
    assert hub.places.taken == 0, "a place leaks"
    assert not handshakes.half_done_count, "a handshake leaks"
    await hub.aclose(0)
    return refused, has_ended


def one_input(data: bytes) -> None:
    """Cut or whole: see `cuts.cut`."""
    with _quiet():
        _one_input(data)


@contextmanager
def _quiet() -> Iterator[None]:
    """Else there is a line of the log for each input."""
    log = logging.getLogger("kdaemon.http")
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was_disabled


def _one_input(data: bytes) -> None:
    sent, reads = cut(data)
    whole = [sent] if sent else []
    heard = run(attacked(reads, 0))
    assert run(attacked(whole, 0)) == heard, "where reads are cut changes it"
    for good_steps in (1, 2):
        run(attacked(reads, good_steps))
        if len(sent) > 2:
            run(attacked(reads, good_steps, change=sent[-3:]))

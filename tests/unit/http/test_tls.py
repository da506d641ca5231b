"""TLS on a listener: real sockets, both loops; what is unlike a connection in clear."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Self, cast

import pytest

from kdaemon.door.door import Door
from kdaemon.door.spoken import lines_to
from kdaemon.http.handshakes import (
    HELLO_BYTES_MAX,
    Hello,
    asks_for_signature,
    judge_hello,
)
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.listener import bind_tcp
from kdaemon.http.opening import Opening
from kdaemon.http.request import HttpRequest
from kdaemon.http.server import ConnectionServer
from kdaemon.http.tls import TlsTransport
from kdaemon.wire import cbor
from tests.kit.both_loops import on_both_loops
from tests.kit.certificates import Authority, Files
from tests.kit.doors import FakeDoor
from tests.kit.listening import serve
from tests.kit.patience import PATIENCE_S, until
from tests.kit.tls import FakeTls, TlsClient, handshakes, receive
from tests.unit.http.harness import GET, HEAD, Harness, statuses

Run = Callable[[Any], Any]
V1_2, V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def echo(request: HttpRequest) -> None:
    request.respond(200, request.body)


class Rig:
    """A listener of HTTP and lines, over TLS unless told otherwise."""

    def __init__(self, files: Files, *, is_tls: bool = True, **how: Any) -> None:
        self.files = files
        self.door = FakeDoor()
        self.door.settles_at_once = asyncio.get_running_loop().call_soon
        limits = how.pop("limits", ConnectionLimits())
        self.handler = how.pop("handler", echo)
        now_ns = how.pop("now_ns", lambda: 0)
        tls = handshakes(files, **how) if is_tls else None
        self.hub = Hub(limits, tls=tls, now_ns=now_ns)
        self.server: ConnectionServer

    async def __aenter__(self) -> Self:
        lines = lines_to(cast("Door", self.door))
        self.server = await serve(bind_tcp("127.0.0.1", 0), self.handler, self.hub, lines=lines)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.aclose()
        assert self.hub.counters.open == 0

    @property
    def refused(self) -> dict[str, int]:
        return {name: count for name, count in self.hub.counters.refused.items() if count}

    async def connect(self, context: ssl.SSLContext | None = None) -> TlsClient:
        return await TlsClient.connect(self.server.port, context or self.files.client())

    async def raw(self) -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.server.port))
        return client

    async def until(self, condition: Callable[[], object]) -> None:
        await until(condition)


async def read_all(client: Any) -> bytes:
    found = b""
    async with asyncio.timeout(PATIENCE_S):
        while piece := await receive(client):
            found += piece
    return found


async def hear(rig: Rig, context: ssl.SSLContext) -> bytes:
    """All that is said to a client that says nothing."""
    with contextlib.closing(await rig.connect(context)) as client:
        return await read_all(client)


async def read_until(client: Any, end: bytes) -> bytes:
    found = b""
    async with asyncio.timeout(PATIENCE_S):
        while not found.endswith(end):
            piece = await receive(client)
            assert piece, found
            found += piece
    return found


# --- what is spoken


@pytest.mark.parametrize("version", [V1_2, V1_3])
@on_both_loops
async def test_http_and_lines_are_spoken_inside(
    certificate: Files, version: ssl.TLSVersion
) -> None:
    async with Rig(certificate) as rig:
        client = await rig.connect(certificate.client(version=version))
        body = os.urandom(300_000)
        await client.sendall(HEAD + b"Content-Length: 300000\r\n\r\n" + body)
        assert (await read_until(client, body)).startswith(b"HTTP/1.1 200")
        client.send(GET[:-2] + b"Connection: close\r\n\r\n")
        assert statuses(await read_all(client)) == [200]
        assert client.side.has_end, "the end is told by TLS, too"
        client.close()
        client = await rig.connect(certificate.client(version=version))
        client.send(b'{"stream":"s"}\n{"data":"a"}\n{"data":"b"}')
        client.shutdown(socket.SHUT_WR)
        assert await read_all(client) == b'{"acknowledged":2}\n'
        client.close()
        assert rig.hub.counters.handshakes == 2
        assert not rig.refused


@on_both_loops
async def test_who_waits_for_continue_gets_it(certificate: Files) -> None:
    async with Rig(certificate) as rig:
        client = await rig.connect()
        client.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hi")
        await read_until(client, b"hi")
        client.close()


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), ([], None), (["spdy/1"], None)],
)
@on_both_loops
async def test_of_what_a_client_offers_the_best_is_chosen_or_nothing(
    certificate: Files, offered: list[str], chosen: str | None
) -> None:
    async with Rig(certificate) as rig:
        context = certificate.client()
        if offered:
            context.set_alpn_protocols(offered)
        client = await rig.connect(context)
        assert client.side.ssl.selected_alpn_protocol() == chosen
        client.send(GET)
        assert statuses(await read_until(client, b"\r\n\r\n")) == [200]
        client.close()


@pytest.mark.parametrize("offered", [[], ["h2"]])
@on_both_loops
async def test_the_preface_of_http_2_is_known_inside_whatever_was_offered(
    certificate: Files, offered: list[str]
) -> None:
    """As the asynchronous Java client (no ALPN) and JavaScript's (h2 alone) begin."""
    async with Rig(certificate) as rig:
        context = certificate.client()
        if offered:
            context.set_alpn_protocols(offered)
        client = await rig.connect(context)
        chosen = client.side.ssl.selected_alpn_protocol()
        assert chosen == (offered[0] if offered else None)
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        answer = b""
        while len(answer) < 9:
            answer += await receive(client)
        assert answer[3] == 4, "SETTINGS come first (RFC 9113, 3.4)"
        client.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@on_both_loops
async def test_versions_of_the_last_century_are_refused(
    certificate: Files, version: ssl.TLSVersion, caplog: pytest.LogCaptureFixture
) -> None:
    async with Rig(certificate) as rig:
        context = certificate.client()
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.minimum_version = context.maximum_version = version
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await rig.connect(context)
        assert rig.refused == {"tls_failed": 1}
        assert "a TLS handshake failed" in caplog.text
        await rig.until(lambda: True)


@pytest.mark.parametrize("version", [V1_2, V1_3])
@on_both_loops
async def test_a_session_is_taken_up_again(certificate: Files, version: ssl.TLSVersion) -> None:
    async with Rig(certificate) as rig:
        context = certificate.client(version=version)
        first = await rig.connect(context)
        first.send(GET)
        await read_until(first, b"\r\n\r\n")
        session = first.side.ssl.session
        second = TlsClient(await rig.raw(), context)
        second.side.ssl = context.wrap_bio(
            second.side.received,
            second.side.sent,
            server_hostname="localhost",
            session=session,
        )
        received = b""
        loop = asyncio.get_running_loop()
        while not second.side.is_shaken(received):
            await loop.sock_sendall(second.sock, second.side.to_send())
            received = await loop.sock_recv(second.sock, 65_536)
        assert second.side.ssl.session_reused
        first.close()
        second.close()


@pytest.mark.parametrize("shows", ["a certificate", "nothing", "another's"])
@pytest.mark.parametrize("version", [V1_2, V1_3])
@on_both_loops
async def test_clients_may_have_to_show_a_certificate(
    certificate: Files, tmp_path: Any, shows: str, version: ssl.TLSVersion
) -> None:
    ours, others = Authority(tmp_path / "a"), Authority(tmp_path / "b", "others")
    async with Rig(certificate, client_ca=str(ours.path)) as rig:
        context = certificate.client(version=version)
        if shows != "nothing":
            files = (ours if shows == "a certificate" else others).issue(is_for_clients=True)
            context.load_cert_chain(files.certificate, files.key)
        if shows == "a certificate":
            client = await rig.connect(context)
            client.send(GET)
            assert statuses(await read_until(client, b"\r\n\r\n")) == [200]
            client.close()
            assert not rig.refused
            return
        with pytest.raises(ssl.SSLError, match="ALERT"):  # with 1.3: when it reads
            await hear(rig, context)
        assert rig.refused == {"tls_failed": 1}


# --- the wrong port


@pytest.mark.parametrize(
    "sent", [GET, b"\r\n" + GET, b"get / HTTP/1.1\r\n\r\n", HEAD + b"x" * 9999]
)
@on_both_loops
async def test_plain_http_is_told_of_https(certificate: Files, sent: bytes) -> None:
    async with Rig(certificate) as rig:
        client = await rig.raw()
        client.sendall(sent)
        answer = await read_all(client)
        assert statuses(answer) == [400]
        assert b'{"__type":"BadRequestException"' in answer
        assert b"use https://" in answer
        assert b"Connection: close" in answer
        client.close()
        assert rig.refused == {"tls_missing": 1}


@on_both_loops
async def test_plain_http_in_cbor_is_told_in_cbor(certificate: Files) -> None:
    async with Rig(certificate) as rig:
        client = await rig.raw()
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
            b"Content-Type: application/x-amz-cbor-1.1\r\n\r\nx"
        )
        _, _, body = (await read_all(client)).partition(b"\r\n\r\n")
        client.close()
        told = cbor.decode(body)
        assert isinstance(told, dict)
        assert told["__type"] == "BadRequestException"
        assert "use https://" in told["message"]


@on_both_loops
async def test_plain_lines_and_http_2_are_told_in_their_own_form(certificate: Files) -> None:
    async with Rig(certificate) as rig:
        client = await rig.raw()
        client.sendall(b'{"stream":"s","data":"secret"}\n')
        answer = await read_all(client)
        assert b'"rejected":1' in answer
        assert b"speaks TLS" in answer
        client.close()
        assert not rig.door.data
        client = await rig.raw()
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        answer = await read_all(client)
        assert answer[3] == 4
        assert b"use https://" in answer
        client.close()
        assert rig.refused == {"tls_missing": 2}


@pytest.mark.parametrize("sent", [b"\x00\x01\x02", b"\x80\x2e\x01\x03\x01", b"\xff" * 400])
@on_both_loops
async def test_what_is_neither_gets_an_alert(certificate: Files, sent: bytes) -> None:
    async with Rig(certificate) as rig:
        client = await rig.raw()
        client.sendall(sent)
        assert (await read_all(client))[:1] == b"\x15"
        client.close()
        assert rig.refused == {"tls_failed": 1}


@on_both_loops
async def test_tls_at_a_plain_port_is_told_to_the_operator_once(
    certificate: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async with Rig(certificate, is_tls=False) as rig:
        for _ in range(3):
            with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
                await rig.connect()
        assert rig.refused == {"tls_unexpected": 3}
        told = [each for each in caplog.records if "listen.tls_certificate" in each.message]
        assert len(told) == 1
        assert told[0].levelno == logging.WARNING
        assert told[0].fields == {"client": "127.0.0.1"}  # type: ignore[attr-defined]


# --- ends


@pytest.mark.parametrize("how", ["by TLS", "by TCP"])
@on_both_loops
async def test_a_body_that_was_cut_off_is_no_success(certificate: Files, how: str) -> None:
    async with Rig(certificate) as rig:
        client = await rig.connect()
        client.send(HEAD + b"Content-Length: 10\r\n\r\nabc")
        if how == "by TLS":
            client.shutdown(socket.SHUT_WR)
        else:
            client.cut()
        assert statuses(await read_all(client)) == [400]
        client.close()
        assert rig.refused == {"truncated": 1}


@pytest.mark.parametrize("version", [V1_2, V1_3])
@on_both_loops
async def test_a_record_that_was_changed_on_its_way_ends_the_connection(
    certificate: Files, version: ssl.TLSVersion
) -> None:
    requests: list[HttpRequest] = []
    async with Rig(certificate, handler=requests.append) as rig:
        client = await rig.connect(certificate.client(version=version))
        good, bad = client.side.encrypt(GET), bytearray(client.side.encrypt(GET))
        bad[-1] ^= 1
        client.sock.sendall(good + bytes(bad) + client.side.encrypt(GET))
        with pytest.raises(ssl.SSLError):
            await read_all(client)
        await rig.until(lambda: not rig.hub.counters.open)
        assert len(requests) == 1
        assert requests[0].is_gone
        assert rig.refused == {"tls_failed": 1}
        client.close()


@pytest.mark.parametrize("body_bytes", [3, 100_000])
@pytest.mark.parametrize("version", [V1_2, V1_3])
@on_both_loops
async def test_an_answer_before_what_is_no_tls_raises_nothing(
    certificate: Files, version: ssl.TLSVersion, body_bytes: int
) -> None:
    """OpenSSL has seen all of a read when the request in its first part is answered at once."""
    failed: list[Exception] = []

    def answer(request: HttpRequest) -> None:
        request.respond(200, b"x" * body_bytes)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
    async with Rig(certificate, handler=answer) as rig:
        client = await rig.connect(certificate.client(version=version))
        client.sock.sendall(client.side.encrypt(GET) + b"\x17\x03\x03\x00\x05hello")
        with pytest.raises(ssl.SSLError):
            await read_all(client)
        await rig.until(lambda: not rig.hub.counters.open)
        assert rig.refused == {"tls_failed": 1}
        client.close()
    assert not failed


@on_both_loops
async def test_who_sends_all_and_goes_at_once_is_heard(certificate: Files) -> None:
    """Its last bytes of the handshake, its lines and its end in one packet, and then a reset."""
    async with Rig(certificate) as rig:
        loop = asyncio.get_running_loop()
        client = TlsClient(await rig.raw(), certificate.client())
        client.side.is_shaken()
        client.sock.sendall(client.side.to_send())
        received = b""
        while not client.side.is_shaken(received):
            received = await loop.sock_recv(client.sock, 65_536)
        lines = b'{"stream":"s","acknowledge":"none"}\n' + b'{"data":"a"}\n' * 500
        last = client.side.to_send() + client.side.encrypt(lines) + client.side.end()
        client.sock.sendall(last)
        client.sock.shutdown(socket.SHUT_WR)
        client.close()
        await rig.until(lambda: len(rig.door.data) == 500)
        await rig.until(lambda: not rig.hub.counters.open)


@on_both_loops
async def test_a_line_a_record_is_heard_whole_though_its_client_goes(certificate: Files) -> None:
    """More records in one read than a turn has time for, and a reset behind them."""
    now_ns = iter(range(0, 10**15, 1_500_000)).__next__
    async with Rig(certificate, now_ns=now_ns) as rig:
        client = await rig.connect()
        client.send(b'{"stream":"s","acknowledge":"none"}\n')
        sent = b"".join(client.side.encrypt(b'{"data":"%d"}\n' % i) for i in range(2_000))
        await asyncio.get_running_loop().sock_sendall(client.sock, sent)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await rig.until(lambda: rig.door.data)
        client.close()
        await rig.until(lambda: not rig.hub.counters.open)
        count = len(rig.door.data)
        assert rig.door.data == [b"%d" % i for i in range(count)]


# --- handshakes


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize("sent", [b"", HELLO[:1], HELLO[:5], HELLO])
@on_both_loops
async def test_a_handshake_that_never_ends_costs_a_place_for_a_while(
    certificate: Files, sent: bytes
) -> None:
    limits = ConnectionLimits(head_timeout_s=3, idle_timeout_s=3)
    async with Rig(certificate, limits=limits) as rig:
        client = await rig.raw()
        client.sendall(sent)
        await rig.until(lambda: rig.hub.counters.open)
        if sent:
            (connection,) = rig.hub.audit()
            assert isinstance(connection, Opening)
            await rig.until(lambda: connection.is_tls)
        assert len(rig.hub.places.silent) == 1, "it loses its place to others"
        for _ in range(4):
            assert rig.hub.counters.open
            rig.hub.sweep()
        await rig.until(lambda: not rig.hub.counters.open)
        what = "handshake" if sent else "idle"
        assert rig.hub.counters.timed_out[what] == 1
        client.close()


@on_both_loops
async def test_half_a_handshake_is_cut_off_in_time_and_who_says_nothing_inside(
    certificate: Files,
) -> None:
    limits = ConnectionLimits(head_timeout_s=3, idle_timeout_s=9)
    async with Rig(certificate, limits=limits) as rig:
        half = TlsClient(await rig.raw(), certificate.client())
        half.side.is_shaken()
        half.sock.sendall(half.side.to_send())
        await asyncio.get_running_loop().sock_recv(half.sock, 65_536)  # the server's part
        whole = await rig.connect()
        await rig.until(lambda: rig.hub.counters.handshakes)
        for _ in range(4):
            rig.hub.sweep()
        await rig.until(lambda: rig.hub.counters.open == 1)
        assert rig.hub.counters.timed_out["handshake"] == 1
        for _ in range(6):
            rig.hub.sweep()
        assert await read_all(whole) == b""
        assert rig.hub.counters.timed_out["idle"] == 1
        half.close()
        whole.close()


@on_both_loops
async def test_of_half_handshakes_the_oldest_goes(certificate: Files) -> None:
    async with Rig(certificate, half_done_max=3) as rig:
        halves = []
        for _ in range(5):
            half = TlsClient(await rig.raw(), certificate.client())
            half.side.is_shaken()
            half.sock.sendall(half.side.to_send())
            await asyncio.get_running_loop().sock_recv(half.sock, 65_536)
            halves.append(half)
        await rig.until(lambda: rig.hub.counters.open == 3)
        assert rig.refused == {"connections": 2}
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(halves[0].sock, 1)
        for half in halves:
            half.close()


@pytest.mark.parametrize("size", [1, 3, 100])
@on_both_loops
async def test_a_hello_in_pieces_is_one(certificate: Files, size: int) -> None:
    async with Rig(certificate) as rig:
        loop = asyncio.get_running_loop()
        client = TlsClient(await rig.raw(), certificate.client())
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        while not client.side.is_shaken(received):
            sent = client.side.to_send()
            for at in range(0, len(sent), size):
                client.sock.sendall(sent[at : at + size])
                await asyncio.sleep(0)
            received = await loop.sock_recv(client.sock, 65_536)
        sent = client.side.to_send() + client.side.encrypt(GET)
        for at in range(0, len(sent), size):
            client.sock.sendall(sent[at : at + size])
            await asyncio.sleep(0)
        assert statuses(await read_until(client, b"\r\n\r\n")) == [200]
        client.close()
        assert rig.hub.bodies.bytes_taken == 0


@on_both_loops
async def test_handshakes_wait_for_their_turn_and_others_do_not(certificate: Files) -> None:
    """One signature a turn of the loop, whoever else has time; a connection that stands is served
    in between.
    """
    now_ns = iter(range(0, 10**15, 700_000)).__next__  # two looks at it fill the time
    rig = Rig(certificate, now_ns=now_ns)
    assert rig.hub.tls is not None
    rig.hub.tls = type(rig.hub.tls)(rig.hub.tls.context, now_ns)
    async with rig:
        served = await rig.connect()
        served.send(GET)
        await read_until(served, b"\r\n\r\n")
        clients = [TlsClient(await rig.raw(), certificate.client()) for _ in range(20)]
        for client in clients:
            client.side.is_shaken()
            client.sock.sendall(client.side.to_send())
        served.send(GET)
        assert statuses(await read_until(served, b"\r\n\r\n")) == [200]
        loop = asyncio.get_running_loop()
        for client in clients:
            while not client.side.is_shaken(await loop.sock_recv(client.sock, 65_536)):
                pass
            client.sock.sendall(client.side.to_send())
        await rig.until(lambda: rig.hub.counters.handshakes == 21)
        for client in (*clients, served):
            client.close()


@pytest.mark.parametrize(
    ("data", "is_hello"),
    [
        (b"\x16", Hello.PARTIAL),
        (HELLO, Hello.PARTIAL),
        (HELLO + b"x" * 506, Hello.WHOLE),
        (HELLO + b"x" * 600, Hello.WHOLE),
        (b"\x17\x03\x01", Hello.NONE),
        (b"\x16\x02", Hello.NONE),
        (b"\x16\x03\x01\x00\x03", Hello.NONE),
        (b"\x16\x03\x01\x40\x01", Hello.NONE),
        (b"\x16\x03\x01\x02\x00\x02", Hello.NONE),
        (b"\x16\x03\x01\x02\x00\x01" + (HELLO_BYTES_MAX + 1).to_bytes(3, "big"), Hello.NONE),
        (b"\x16\x03\x01\x02\x00\x01" + HELLO_BYTES_MAX.to_bytes(3, "big"), Hello.PARTIAL),
    ],
)
def test_openssl_is_given_nothing_before_a_hello_is_whole(data: bytes, is_hello: Hello) -> None:
    assert judge_hello(data) is is_hello


def test_a_second_hello_is_known_behind_a_change_of_cipher() -> None:
    assert asks_for_signature(HELLO)
    assert asks_for_signature(b"\x14\x03\x03\x00\x01\x01" + HELLO)
    assert not asks_for_signature(b"\x14\x03\x03\x00\x01\x01" + b"\x17\x03\x03\x00\x35")
    assert not asks_for_signature(b"\x16\x03\x03\x00\x25\x10")


@on_both_loops
async def test_a_hello_that_is_too_long_is_refused_at_once(certificate: Files) -> None:
    async with Rig(certificate) as rig:
        client = await rig.raw()
        client.sendall(b"\x16\x03\x01\x40\x00\x01\x01\x00\x00")
        assert (await read_all(client))[:1] == b"\x15"
        assert rig.refused == {"tls_failed": 1}
        client.close()


@on_both_loops
async def test_a_handshake_is_bounded_in_bytes(
    certificate: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdaemon.http.tls.HANDSHAKE_BYTES_MAX", 100)
    async with Rig(certificate) as rig:
        with pytest.raises(AssertionError, match="closed in the middle"):
            await rig.connect()
        assert rig.refused == {"tls_failed": 1}


# --- memory


async def test_what_a_client_does_not_read_is_not_encrypted(certificate: Files) -> None:
    """A page that many ask for is kept once, and counted for each."""
    page = bytes(1_000_000)
    one = Harness(files=certificate)
    assert one.tls is not None
    one.transport.pauses_when_written = 60_000
    one.feed(GET)
    one.requests[0].respond(200, page)
    assert 60_000 < len(one.transport.written) < 100_000
    assert one.tls.inside.get_write_buffer_size() > len(page)
    assert any(piece.obj is page for piece in one.tls.inside.audit()[1])
    answer = one.transport.take()
    while one.tls.inside.audit()[1]:
        one.transport.pauses_when_written = 60_000
        one.tls.inside.resume_writing()
        assert len(one.transport.written) < 100_000
        answer += one.transport.take()
    assert answer.endswith(page)
    one.lose()


async def test_a_close_waits_until_all_was_sent(certificate: Files) -> None:
    one = Harness(files=certificate)
    assert one.tls is not None
    one.transport.pauses_when_written = 60_000
    one.feed(GET[:-2] + b"Connection: close\r\n\r\n")
    one.requests[0].respond(200, b"x" * 200_000)
    assert not one.transport.has_ended()
    answer = one.transport.take()
    one.tls.inside.resume_writing()
    answer += one.transport.take()
    assert answer.endswith(b"x" * 200_000)
    assert one.transport.has_written_eof
    assert one.tls.side.has_end
    one.lose()


async def test_reading_stops_when_the_protocol_says_so(certificate: Files) -> None:
    one = Harness(ConnectionLimits(pipeline_max=2), files=certificate)
    one.feed(GET * 4)
    assert not one.transport.reads()
    for number in range(4):
        one.requests[number].respond(200, b"")
    assert one.transport.reads()
    one.lose()


async def test_a_read_of_many_records_takes_several_turns(certificate: Files) -> None:
    now_ns = iter(range(0, 10**15, 1_500_000)).__next__
    hub = Hub(ConnectionLimits(), now_ns=now_ns)
    tls = FakeTls(certificate, hub)
    received = bytearray()

    class Taking(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.extend(data)

    tls.speak(Taking())
    sent = b"".join(tls.side.encrypt(b"%d " % i) for i in range(10_000))
    tls.inside.data_received(sent)
    turns = 0
    while not received.endswith(b"9999 "):
        assert not tls.reads(), "no more is read of the socket"
        before = len(received)
        await asyncio.sleep(0)
        turns += len(received) > before
    assert turns > 3
    assert tls.reads()
    assert received == b"".join(b"%d " % i for i in range(10_000))


@pytest.mark.pure("makes an object without its __init__")
def test_a_state_that_cannot_be_is_a_defect(certificate: Files) -> None:
    transport = TlsTransport.__new__(TlsTransport)
    from kdaemon.http.tls import State

    transport._state = State.CLOSED
    with pytest.raises(RuntimeError, match="cannot go"):
        transport._move(State.OPEN)

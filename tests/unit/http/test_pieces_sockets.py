"""Answers in pieces over real sockets: TCP, Unix and TLS, HTTP/1.1 and HTTP/2, on both loops."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded

from kdaemon.http.request import HttpRequest
from tests.kit.both_loops import on_both_loops
from tests.kit.certificates import Files
from tests.kit.patience import PATIENCE_S, until
from tests.unit.http.harness import GET
from tests.unit.http.http2_harness import fields
from tests.unit.http.served import served
from tests.unit.http.sources import Endless, Script, turns
from tests.unit.http.test_pieces import read as read_http_1

Run = Callable[[Any], Any]
MADE = [bytes([65 + index % 26]) * 50_000 for index in range(40)]

every_kind = pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
every_protocol = pytest.mark.parametrize("protocol", ["http/1.1", "http/2"])


class Client:
    """Asks once, and reads what comes of it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: str
    ) -> None:
        self.reader, self.writer = reader, writer
        self._received = b""
        self._body = b""
        self._is_whole = False
        self._h2: H2Connection | None = None
        if protocol == "http/2":
            self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
            self._h2.initiate_connection()
            self._h2.send_headers(1, fields(b"GET"), end_stream=True)
            writer.write(self._h2.data_to_send())
        else:
            writer.write(GET)

    async def read(self) -> bool:
        """One read. False: the connection has ended, or was reset."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                got = await self.reader.read(64 * 1024)
        except ConnectionError:
            return False
        if self._h2 is None:
            self._received += got
        else:
            for event in self._h2.receive_data(got):
                if isinstance(event, DataReceived):
                    self._body += event.data or b""
                    size = event.flow_controlled_length
                    self._h2.acknowledge_received_data(size, event.stream_id)
                self._is_whole |= isinstance(event, StreamEnded)
            if not self.writer.is_closing():
                self.writer.write(self._h2.data_to_send())
        return bool(got)

    def answer(self) -> tuple[bytes, bool]:
        """The body as far as it is there, and whether that is all."""
        if self._h2 is not None:
            return self._body, self._is_whole
        if b"\r\n\r\n" not in self._received:
            return b"", False
        ((_, body, is_whole),) = read_http_1(self._received)
        return body, is_whole

    async def until(self, is_there: Callable[[bytes, bool], bool]) -> None:
        while not is_there(*self.answer()):
            assert await self.read(), "the connection has ended before that"

    async def close(self) -> None:
        """At once: a client of TLS would wait for the end of what it has no use for."""
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@every_kind
@every_protocol
@on_both_loops
async def test_a_large_answer_arrives_whole(kind: str, protocol: str, certificate: Files) -> None:
    def handle(request: HttpRequest) -> None:
        Script(*MADE, None).begin(request)

    async with served(kind, handle, certificate) as (_, dial):
        clients = [Client(*await dial(), protocol) for _ in range(3)]
        for client in clients:
            await client.until(lambda _, is_whole: is_whole)
            assert client.answer() == (b"".join(MADE), True)
            await client.close()


@every_kind
@every_protocol
@on_both_loops
async def test_a_client_that_goes_is_noticed_though_nothing_is_said(
    kind: str, protocol: str, certificate: Files
) -> None:
    script = Script(b"a")

    def handle(request: HttpRequest) -> None:
        script.begin(request)

    async with served(kind, handle, certificate) as (_, dial):
        client = Client(*await dial(), protocol)
        await client.until(lambda body, _: body == b"a")
        await client.close()
        await until(lambda: script.told == ["gone"])


@every_kind
@every_protocol
@on_both_loops
async def test_a_source_that_fails_is_no_end(kind: str, protocol: str, certificate: Files) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    script = Script(b"half of it")

    def handle(request: HttpRequest) -> None:
        script.begin(request)

    async with served(kind, handle, certificate, failures=1) as (server, dial):
        client = Client(*await dial(), protocol)
        await client.until(lambda body, _: body == b"half of it")
        await script.give(ValueError("a defect"))
        if protocol == "http/1.1":
            while await client.read():
                pass
        else:
            await turns()
            await client.read()
        assert client.answer() == (b"half of it", False)
        assert script.told == ["gone"]
        assert server.counters.handler_failures == 1
        await client.close()


@every_kind
@every_protocol
@on_both_loops
async def test_who_does_not_read_keeps_nobody_out(
    kind: str, protocol: str, certificate: Files
) -> None:
    scripts: list[Script] = []

    def handle(request: HttpRequest) -> None:
        scripts.append(Script(b"quick", None) if scripts else Endless())
        scripts[-1].begin(request)

    async with served(kind, handle, certificate) as (server, dial):
        silent = Client(*await dial(), protocol)
        await until(lambda: bool(scripts))
        before = -1
        while before != scripts[0].taken:  # until its socket is full
            before = scripts[0].taken
            await asyncio.sleep(0.05)
        assert scripts[0].taken < 20_000, "20 MB: what a kernel keeps, and little more"
        assert server.hub.bodies.bytes_taken <= 2**20
        other = Client(*await dial(), protocol)
        await other.until(lambda _, is_whole: is_whole)
        assert other.answer() == (b"quick", True)
        await other.close()
        await silent.close()
        await until(lambda: scripts[0].told == ["gone"])


@every_kind
@every_protocol
@on_both_loops
async def test_a_drain_ends_it_cleanly(kind: str, protocol: str, certificate: Files) -> None:
    script = Script(b"a")
    script.on_drain = lambda: script.ready.extend([b"bye", None])

    def handle(request: HttpRequest) -> None:
        script.begin(request)

    async with served(kind, handle, certificate) as (server, dial):
        client = Client(*await dial(), protocol)
        await client.until(lambda body, _: body == b"a")
        closing = asyncio.create_task(server.aclose(PATIENCE_S))
        if protocol == "http/1.1":  # the library's client of HTTP/2 reads nothing after GOAWAY
            await client.until(lambda _, is_whole: is_whole)
            assert client.answer() == (b"abye", True)
            assert not await client.read()
        await client.close()
        await closing
        assert script.told == ["drain"]

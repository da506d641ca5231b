"""HTTP/2 over real sockets, TCP and Unix, on both loops."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded

from kdaemon.door.door import Door
from kdaemon.door.spoken import lines_to
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.listener import bind_tcp
from kdaemon.http.origin import gate_of
from kdaemon.http.request import HttpRequest
from kdaemon.wire.lines import LINE_BYTES_MAX
from tests.kit.both_loops import on_both_loops
from tests.kit.doors import FakeDoor
from tests.kit.listening import serve
from tests.kit.patience import PATIENCE_S
from tests.unit.http.http2_harness import fields
from tests.unit.http.served import served

Run = Callable[[Any], Any]


class Client:
    """The library's client on a connection of asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self.events: list[Event] = []
        self.has_ended = False
        self.sends = True

    async def send(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def read(self) -> None:
        """One read, its acknowledgements sent."""
        got = await asyncio.wait_for(self.reader.read(64 * 1024), PATIENCE_S)
        self.has_ended = not got
        for event in self.h2.receive_data(got):
            self.events.append(event)
            if isinstance(event, DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if not self.has_ended and self.sends:
            self.writer.write(self.h2.data_to_send())

    async def until(self, is_there: Callable[[], bool]) -> None:
        while not is_there():
            assert not self.has_ended, self.events
            await self.read()

    def ask(self, stream: int, *more: tuple[bytes, bytes], ends: bool = True) -> None:
        self.h2.send_headers(stream, fields(b"POST", b"/", *more), end_stream=ends)

    async def put(self, stream: int, body: bytes) -> None:
        at = 0
        while at < len(body):
            size = self.h2.max_outbound_frame_size
            room = min(self.h2.local_flow_control_window(stream), size)
            if room:
                piece = body[at : at + room]
                at += len(piece)
                self.h2.send_data(stream, piece, end_stream=at == len(body))
                await self.send()
            else:
                await self.read()

    def is_answered(self, stream: int) -> bool:
        return any(isinstance(e, StreamEnded) and e.stream_id == stream for e in self.events)

    def body(self, stream: int) -> bytes:
        return b"".join(
            e.data or b""
            for e in self.events
            if isinstance(e, DataReceived) and e.stream_id == stream
        )

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


def echo(request: HttpRequest) -> None:
    request.respond(200, request.body)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_both_loops
async def test_large_bodies_go_both_ways_at_once(kind: str) -> None:
    async with served(kind, echo) as (_, dial):
        client = Client(*await dial())
        body = bytes(range(256)) * 8 * 1024  # 2 MiB
        for stream in (1, 3, 5):
            client.ask(stream, ends=False)
        for stream in (5, 1, 3):
            await client.put(stream, body)
        for stream in (1, 3, 5):
            await client.until(lambda stream=stream: client.is_answered(stream))  # type: ignore[misc]
            assert client.body(stream) == body
        await client.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("how", ["close", "reset", "stream"])
@on_both_loops
async def test_a_client_that_goes_is_told(kind: str, how: str) -> None:
    gone = asyncio.Event()

    def handle(request: HttpRequest) -> None:
        request.on_gone = gone.set

    async with served(kind, handle) as (server, dial):
        client = Client(*await dial())
        client.ask(1)
        await client.send()
        while not server.hub.counters.opened:
            await asyncio.sleep(0)
        if how == "stream":
            client.h2.reset_stream(1)
            await client.send()
        elif how == "close":
            await client.close()
        else:
            sock = client.writer.get_extra_info("socket")
            if kind == "tcp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.writer.transport.abort()
        await asyncio.wait_for(gone.wait(), PATIENCE_S)
        if how == "stream":
            await client.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_both_loops
async def test_a_client_that_sends_no_more_is_answered(kind: str) -> None:
    waiting: list[HttpRequest] = []
    async with served(kind, waiting.append) as (server, dial):
        client = Client(*await dial())
        client.ask(1)
        await client.send()
        await client.until(lambda: bool(client.events))
        client.sends = False
        client.writer.write_eof()
        while not waiting:
            await asyncio.sleep(0)
        for _ in range(3):
            server.hub.sweep()
            await asyncio.sleep(0.03)  # a probe and its answer
        assert not waiting[0].is_gone
        waiting[0].respond(200, b"hello")
        while not client.has_ended:
            await client.read()
        assert client.body(1) == b"hello"
        await client.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_both_loops
async def test_a_drain_finishes_what_has_begun(kind: str) -> None:
    waiting: list[HttpRequest] = []
    async with served(kind, waiting.append) as (server, dial):
        busy, idle = Client(*await dial()), Client(*await dial())
        busy.ask(1)
        for client in (busy, idle):
            await client.send()
            await client.until(lambda client=client: bool(client.events))  # type: ignore[misc]
        while not waiting:
            await asyncio.sleep(0)
        closing = asyncio.create_task(server.aclose(PATIENCE_S))
        while not idle.has_ended:
            await idle.read()
        assert any(isinstance(event, ConnectionTerminated) for event in idle.events)
        assert not closing.done()
        waiting[0].respond(200, b"hello")
        got = b""
        while data := await asyncio.wait_for(busy.reader.read(1024), PATIENCE_S):
            got += data
        assert b"hello" in got
        for client in (busy, idle):
            await client.close()
        await closing


@on_both_loops
async def test_lines_http_1_1_and_http_2_are_spoken_on_one_port() -> None:
    door = FakeDoor()
    door.settles_at_once = asyncio.get_running_loop().call_soon
    lines = lines_to(cast("Door", door), LINE_BYTES_MAX)
    hub = Hub(ConnectionLimits(), gate=gate_of("127.0.0.1"))
    server = await serve(bind_tcp("127.0.0.1", 0), echo, hub, lines=lines)
    client = Client(*await asyncio.open_connection("127.0.0.1", server.port))
    client.ask(1, ends=False)
    await client.put(1, b"hello")
    await client.until(lambda: client.is_answered(1))
    assert client.body(1) == b"hello"
    (response,) = [e for e in client.events if isinstance(e, ResponseReceived)]
    assert (b":status", b"200") in (response.headers or ())
    await client.close()
    for sent, told in (
        (b'{"data":"a","stream":"s"}\n', b'{"acknowledged":1}\n'),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi", b"\r\n\r\nhi"),
        (b"PRI * HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 400"),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        writer.write_eof()
        assert told in await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        await writer.wait_closed()
    await server.aclose()

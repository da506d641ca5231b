"""A client of the Kinesis API over HTTP/2, in CBOR: as the AWS SDK for Java writes by itself.

Prior knowledge, one request at a time on a kept connection. Shares no code with kdaemon: h2, cbor2.
A connection that the daemon says goodbye to is left, with what was not answered on it.
"""

import asyncio
from typing import Any

import cbor2
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError

from tests.crash.clients import Client, Doors, hear_results, put_of

READ_BYTES = 64 * 1024


class Http2:
    """One `Session`."""

    def __init__(self, client: Client, doors: Doors) -> None:
        self._client = client
        self._doors = doors

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._doors.http_port)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = self._client
        settings = H2Configuration(client_side=True)
        exchange = _Exchange(H2Connection(settings), reader, writer)
        while not client.is_stopping:
            numbers = client.take_block()
            operation, members = put_of(client.source, numbers, bytes)
            headers = [
                (":method", "POST"),
                (":path", "/"),
                (":scheme", "http"),
                (":authority", "localhost"),
                ("x-amz-target", f"Kinesis_20131202.{operation}"),
                ("content-type", "application/x-amz-cbor-1.1"),
                ("x-kdaemon-acknowledge", client.acknowledge),
            ]
            async with asyncio.timeout(client.patience_s):
                try:
                    status, body = await exchange.ask(headers, cbor2.dumps(members))
                except ProtocolError as error:  # h2 reads no frame after a GOAWAY
                    raise ConnectionResetError("the daemon said goodbye") from error
            answer: dict[str, Any] = cbor2.loads(body)
            hear_results(client, numbers, status, answer)
            await client.think()


class _Exchange:
    """Requests and answers, one after the other."""

    def __init__(
        self, h2: H2Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._h2 = h2
        self._reader = reader
        self._writer = writer
        self._stream = 0
        self._status = 0
        self._body = b""
        self._has_ended = False
        h2.initiate_connection()

    async def ask(self, headers: list[tuple[str, str]], body: bytes) -> tuple[int, bytes]:
        """Raises ConnectionResetError and ProtocolError: there is no answer to come."""
        h2 = self._h2
        self._stream = h2.get_next_available_stream_id()
        self._status, self._body, self._has_ended = 0, b"", False
        h2.send_headers(self._stream, headers)
        left = memoryview(body)
        while not self._has_ended:
            while left:
                window = h2.local_flow_control_window(self._stream)
                room = min(window, h2.max_outbound_frame_size, len(left))
                if room <= 0:
                    break
                h2.send_data(self._stream, left[:room].tobytes(), end_stream=room == len(left))
                left = left[room:]
            self._writer.write(h2.data_to_send())
            await self._writer.drain()
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise ConnectionResetError("the daemon ended the connection")
            for event in h2.receive_data(data):
                self._hear(event)
        self._writer.write(h2.data_to_send())
        return self._status, self._body

    def _hear(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                self._status = int(dict(event.headers)[b":status"])
            case DataReceived():
                self._body += event.data
                size = event.flow_controlled_length
                self._h2.acknowledge_received_data(size, event.stream_id)
            case StreamEnded():
                self._has_ended = True
            case StreamReset():
                raise ConnectionResetError("the stream was reset")
            case ConnectionTerminated() if (event.last_stream_id or 0) < self._stream:
                raise ConnectionResetError("the daemon said goodbye")

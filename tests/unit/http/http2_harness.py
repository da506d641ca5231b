"""One HTTP/2 connection on a transport in memory: the library's client before our server, and
frames made by hand for what no library sends.
"""

import asyncio
import struct
from collections.abc import Callable, Iterable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from hpack.hpack import Encoder

from kdaemon.http.http2 import Http2Protocol
from kdaemon.http.http2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
)
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.opening import Opening
from kdaemon.http.request import HttpRequest
from tests.kit.doors import FakeTransport

Fields = list[tuple[bytes, bytes]]

TURNS = 20  # of the loop: more than any answer takes from its handler to the transport


def fields(method: bytes = b"POST", path: bytes = b"/", *more: tuple[bytes, bytes]) -> Fields:
    """The headers of an ordinary request, and more."""
    return [
        (b":method", method),
        (b":scheme", b"http"),
        (b":authority", b"localhost"),
        (b":path", path),
        *more,
    ]


class Http2Harness:
    """One connection whose requests wait until the test answers them (or are echoed at once)."""

    def __init__(
        self,
        limits: ConnectionLimits | None = None,
        *,
        echoes: bool = False,
        hub: Hub | None = None,
        settings: dict[Any, int] | None = None,
    ) -> None:
        self.requests: list[HttpRequest] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.gone: list[HttpRequest] = []
        self.echoes = echoes
        self.failures = 0  # of the handler, that the test means to happen
        self.hub = hub or Hub(limits or ConnectionLimits())
        self.transport = FakeTransport()
        opening = Opening(self.handle, self.hub, None)
        self.transport.set_protocol(opening)
        opening.connection_made(self.transport)
        config = H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.client = H2Connection(config)
        if settings:
            self.client.local_settings.update(settings)
            self.client.local_settings.acknowledge()
        self.client.initiate_connection()
        self.answers: dict[int, Answered] = {}
        self.told: list[Event] = []
        self.on_request: Callable[[HttpRequest], object] | None = None

    @property
    def protocol(self) -> Http2Protocol:
        found = self.transport.protocol
        assert isinstance(found, Http2Protocol)
        return found

    def handle(self, request: HttpRequest) -> None:
        self.requests.append(request)
        self.bodies.append(request.body)
        self.headers.append(request.headers)
        request.on_gone = lambda: self.gone.append(request)
        if self.on_request is not None:
            self.on_request(request)
        elif self.echoes:
            request.respond(200, request.body)

    def feed(self, data: bytes) -> None:
        self.transport.protocol.data_received(data)

    async def send(self) -> list[Event]:
        """What the client has to send goes to the server, and the server's answer comes back."""
        data = self.client.data_to_send()
        if data:
            self.feed(data)
        return await self.receive()

    async def receive(self) -> list[Event]:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        events = self.client.receive_data(self.transport.take())
        self.told += events
        for event in events:
            self._note(event)
        return events

    def _note(self, event: Event) -> None:
        if isinstance(event, (ConnectionTerminated,)) or not hasattr(event, "stream_id"):
            return
        answer = self.answers.setdefault(event.stream_id or 0, Answered())
        if isinstance(event, InformationalResponseReceived):
            answer.informed += 1
        elif isinstance(event, ResponseReceived):
            answer.fields = dict(event.headers or ())
        elif isinstance(event, DataReceived):
            answer.body += event.data or b""
            self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            answer.is_whole = True
        elif isinstance(event, StreamReset):
            answer.reset_code = int(event.error_code or 0)

    async def ask(
        self, body: bytes = b"", headers: Fields | None = None, stream: int | None = None
    ) -> "Answered":
        """A request, as an ordinary client sends it; its answer, as far as it is there."""
        stream_id = self.begin(headers or fields(), ends=not body, stream=stream)
        if body:
            self.put(stream_id, body)
        await self.send()
        return self.answers.setdefault(stream_id, Answered())

    async def linger(self) -> None:
        """Until what was answered before it had arrived is not waited for any more."""
        for _ in range(self.hub.discard_ticks_max + 1):
            self.hub.sweep()
            await asyncio.sleep(0)
        await self.receive()

    def begin(self, headers: Fields, *, ends: bool = False, stream: int | None = None) -> int:
        stream_id = stream or self.client.get_next_available_stream_id()
        self.client.send_headers(stream_id, headers, end_stream=ends)
        return stream_id

    def put(self, stream_id: int, body: bytes, *, ends: bool = True) -> None:
        """As much of a body as the window takes, which is all of it in most tests."""
        size = self.client.max_outbound_frame_size
        for at in range(0, len(body), size):
            piece = body[at : at + size]
            is_last = ends and at + size >= len(body)
            self.client.send_data(stream_id, piece, end_stream=is_last)

    @property
    def goaway(self) -> ConnectionTerminated | None:
        return next((e for e in self.told if isinstance(e, ConnectionTerminated)), None)

    def refused(self) -> dict[str, int]:
        return {reason: count for reason, count in self.hub.counters.refused.items() if count}

    def lose(self) -> None:
        self.transport.protocol.connection_lost(None)


class Answered:
    """What came of one request."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.body = b""
        self.is_whole = False
        self.reset_code: int | None = None
        self.informed = 0

    @property
    def status(self) -> int:
        return int(self.fields.get(b":status", b"0"))


class RawHarness(Http2Harness):
    """For frames that no library sends: they are made by hand, and so is what is read."""

    def __init__(self, *args: Any, has_begun: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.encoder = Encoder()
        self.frames: list[tuple[int, int, int, bytes]] = []
        if has_begun:
            self.feed(PREFACE + frame(SETTINGS))

    async def read(self) -> list[tuple[int, int, int, bytes]]:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        got = read_frames(self.transport.take())
        self.frames += got
        return got

    def request(self, stream: int, headers: Fields | None = None, *, ends: bool = True) -> bytes:
        block = self.encoder.encode(headers or fields(b"GET"))
        return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, block)

    def of_kind(self, kind: int) -> list[tuple[int, int, int, bytes]]:
        return [each for each in self.frames if each[0] == kind]

    @property
    def code(self) -> int | None:
        """Of the GOAWAY that was read."""
        found = self.of_kind(GOAWAY)
        return int.from_bytes(found[-1][3][4:8], "big") if found else None

    def resets(self) -> dict[int, int]:
        return {each[2]: int.from_bytes(each[3], "big") for each in self.of_kind(RST_STREAM)}


def frame(kind: int, flags: int = 0, stream: int = 0, content: bytes = b"") -> bytes:
    head = len(content).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream)
    return head + content


def read_frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", data[3:9])
        found.append((kind, flags, stream, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def in_blocks(stream: int, block: bytes, size: int) -> Iterable[bytes]:
    """A block of headers in frames of `size` bytes."""
    pieces = [block[at : at + size] for at in range(0, len(block), size)]
    for index, piece in enumerate(pieces):
        is_last = index == len(pieces) - 1
        kind, flags = (CONTINUATION, 0) if index else (HEADERS, END_STREAM)
        yield frame(kind, flags | (END_HEADERS if is_last else 0), stream, piece)


def data(stream: int, content: bytes, *, ends: bool = False) -> bytes:
    return frame(DATA, END_STREAM if ends else 0, stream, content)


Make2 = Callable[..., Http2Harness]
MakeRaw = Callable[..., RawHarness]

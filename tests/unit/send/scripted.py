"""A Kinesis endpoint that answers by script, and what tests of the client share."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.credentials import Credentials
from multidict import CIMultiDictProxy

from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import ServiceError
from kdaemon.base.record import Record
from kdaemon.send.client import ClientSettings, ServiceClient

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI-secret"
TOKEN = "session-token/with+signs=" * 9
ARN = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
ORDERS = StreamTarget("orders")
RECORDS = [Record(b"\x00\xff first", "k1"), Record(b"", "k2", "42")]
DELIVERED = {
    "FailedRecordCount": 0,
    "Records": [
        {"SequenceNumber": "495903", "ShardId": "shardId-000000000000"},
        {"SequenceNumber": "495904", "ShardId": "shardId-000000000001"},
    ],
}


@dataclass(frozen=True, slots=True)
class Received:
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answering(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return answer


def answering_json(content: object, status: int = 200) -> Answer:
    return answering(status, json.dumps(content).encode())


def refusal(code: str, message: str = "no", status: int = 400) -> Answer:
    return answering_json({"__type": code, "message": message}, status)


class ScriptedService:
    """Answers each request with the next of `script`, and with success when it is over."""

    def __init__(self) -> None:
        self.script: deque[Answer] = deque()
        self.received: list[Received] = []
        self.on_request: Callable[[], object] | None = None
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.received.append(Received(request.raw_path, request.headers, await request.read()))
        if self.on_request:
            self.on_request()
        answer = self.script.popleft() if self.script else answering_json(DELIVERED)
        return await answer(request)


@contextlib.asynccontextmanager
async def scripted_service() -> AsyncIterator[ScriptedService]:
    scripted = ScriptedService()
    app = web.Application(client_max_size=2**25)
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield scripted
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def opened(settings: ClientSettings) -> AsyncIterator[ServiceClient]:
    client = await ServiceClient.open(settings)
    try:
        yield client
    finally:
        await client.aclose()


async def failure(call: Awaitable[object]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await call
    return caught.value


def assert_signed(
    received: Received,
    url: str,
    region: str = "eu-west-1",
    service: str = "kinesis",
    **keys: str,
) -> None:
    """The signature is the one that botocore computes over what arrived, body included."""
    names = received.headers["Authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    request = AWSRequest(
        "POST", url + received.path, headers={n: received.headers[n] for n in names}
    )
    request.data = received.body
    request.context["timestamp"] = received.headers["X-Amz-Date"]
    auth = SigV4Auth(
        Credentials(keys.get("access_key", ACCESS_KEY), keys.get("secret_key", SECRET_KEY)),
        service,
        region,
    )
    signature = auth.signature(
        auth.string_to_sign(request, auth.canonical_request(request)), request
    )
    expected = {"host", "x-amz-date", "content-type"}
    assert expected | ({"x-amz-target"} if service == "kinesis" else set()) <= set(names)
    assert received.headers["Authorization"] == (
        f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )


async def hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def break_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b'{"Records":[')
    return await reset(request)


@contextlib.asynccontextmanager
async def raw_server(
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A service of which `converse` is all. What it still waits for at the end is cancelled."""
    # The loop has no hold of a task that waits for nothing, nor of its connection while reading is
    # paused: both would be collected.
    conversations: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.ensure_future(converse(reader, writer))
        conversations.add(conversation)
        try:
            await conversation
        finally:
            conversations.discard(conversation)
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for conversation in conversations:
            conversation.cancel()
        await server.wait_closed()


def urls_called(client: Any, service: str, body: bytes = b"{}") -> list[str]:
    """The URLs that a client of botocore calls from now on: nothing is sent, and `body` is
    answered.
    """
    urls: list[str] = []

    def answer(request: Any, **_: Any) -> AWSResponse:
        urls.append(request.url)
        raw = SimpleNamespace(stream=lambda: iter([body]))
        return AWSResponse(request.url, 200, {}, raw)

    client.meta.events.register(f"before-send.{service}.*", answer)
    return urls

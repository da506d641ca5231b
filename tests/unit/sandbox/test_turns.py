"""A large body holds the sandbox up no longer than the daemon: it is read over several turns."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from kdaemon.base.limits import MIB
from kdaemon.base.service import SERVICES
from kdaemon.http.connection import HttpProtocol
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.sandbox import scripting, yandex
from kdaemon.sandbox.faults import FAULT_COUNT_MAX
from kdaemon.sandbox.server import SandboxServer
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota, SandboxSettings
from kdaemon.system import SystemClock, SystemDice
from tests.kit.doors import FakeTransport, attached

ENTRY = {"Data": "QUJD" * 30_000, "PartitionKey": "k"}


def put(which: str, *members: str) -> bytes:
    name = "/s" if which == "yandex" else "s"
    body = json.dumps({"StreamName": name, "Records": [ENTRY] * 12})[:-1]
    body = ",".join([body, *members]) + "}"
    assert len(body) > MIB
    head = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-amz-json-1.1\r\n"
    head += f"X-Amz-Target: Kinesis_20131202.PutRecords\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def serve(which: str) -> tuple[HttpProtocol, FakeTransport]:
    quota = Quota(1_000_000, 1 << 40)
    service = Service(SandboxSettings(service=SERVICES[which], quota=quota), SystemDice(7))
    service.create_stream("/s" if which == "yandex" else "s", 1, 0)
    server = SandboxServer(service, SystemClock())
    transport = attached(HttpProtocol(server.on_request, Hub(ConnectionLimits())))
    return transport.protocol, transport


@pytest.mark.parametrize("which", SERVICES)
async def test_a_large_call_takes_several_turns(which: str) -> None:
    protocol, transport = serve(which)
    protocol.data_received(put(which) + put(which))
    assert not transport.written
    for _ in range(50):
        await asyncio.sleep(0)
    assert transport.take().count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("which", SERVICES)
async def test_one_that_no_client_needs_is_refused_without_being_read(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    monkeypatch.setattr(yandex, "_shaped", lambda *what: decoded.append(what))
    protocol, transport = serve(which)
    protocol.data_received(put(which, f'"X":{json.dumps([[]] * 400_000)}'))
    for _ in range(50):
        await asyncio.sleep(0)
    assert transport.take().startswith(b"HTTP/1.1 400")
    assert not decoded


def test_more_faults_than_may_wait_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(scripting, "_decode", lambda body, **_: decoded.append(body))
    service = Service(SandboxSettings(), SystemDice(7))
    body = msgspec.json.encode([{"kind": "reset"}] * (FAULT_COUNT_MAX + 1))
    status, answer = scripting.answer(service, "POST", "/sandbox/faults", body, 0)
    assert status == 400
    assert b"at most 10000 faults" in answer
    assert not decoded

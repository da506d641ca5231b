"""Whatever a client sends, and whenever the loop and the protocol act: what is handed on is a
beginning of what was sent, whole if nothing was broken, and nothing raises.
"""

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.tls import TlsTransport
from tests.kit.certificates import Files
from tests.kit.doors import FakeTransport
from tests.kit.tls import Side, handshakes

OPS = (
    "send",
    "send",
    "send",
    "break",
    "pause",
    "resume",
    "full",
    "drained",
    "write",
    "end",
    "late",
)


class Inside(asyncio.Protocol):
    """What speaks inside, and what greets: it writes down what it hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.ends = 0
        self.is_done = self.is_failed = self.is_lost = False
        self.is_told_full = False

    def handshake_done(self) -> None:
        assert not self.is_done
        self.is_done = True

    def handshake_failed(self, problem: str) -> None:
        assert not self.is_failed
        self.is_failed = True

    def data_received(self, data: bytes) -> None:
        assert self.is_done
        assert data
        assert not self.ends
        assert not self.is_lost
        self.heard += data

    def eof_received(self) -> bool:
        self.ends += 1
        assert self.ends == 1
        return True

    def pause_writing(self) -> None:
        assert not self.is_told_full
        self.is_told_full = True

    def resume_writing(self) -> None:
        assert self.is_told_full
        self.is_told_full = False

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.is_lost
        self.is_lost = True


class Raw(FakeTransport):
    """The socket's transport: closing it loses the connection once the loop turns."""

    def pause_reading(self) -> None:
        assert not self.is_closed
        super().pause_reading()

    def write(self, data: Any) -> None:
        if not self.is_closed:
            super().write(data)


@pytest.fixture(scope="module")
def files(certificate: Files) -> Files:
    return certificate


@given(data=st.data(), version=st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]))
def test_whatever_a_client_does_what_it_sent_arrives_whole_or_its_connection_ends(
    files: Files, data: st.DataObject, version: ssl.TLSVersion
) -> None:
    assert isinstance(files.key, Path)
    asyncio.run(_play(files, data, version))


async def _play(files: Files, data: st.DataObject, version: ssl.TLSVersion) -> None:
    clock = iter(range(0, 10**15, data.draw(st.sampled_from([0, 700_000, 3_000_000])) or 1))
    hub = Hub(ConnectionLimits(), now_ns=clock.__next__)
    inside, raw = Inside(), Raw()
    tls = TlsTransport(raw, inside, hub, handshakes(files))
    raw.protocol = tls
    client = Side(files.client(version=version))
    sent, wire, is_broken, is_paused, has_ended = b"", b"", False, False, False
    client.is_shaken()
    wire += client.to_send()
    is_shaken = False
    if data.draw(st.integers(0, 3)):  # else what follows happens to the handshake
        while not is_shaken:
            tls.data_received(wire)
            is_shaken = client.is_shaken(raw.take())
            wire = client.to_send()
    for op in data.draw(st.lists(st.sampled_from(OPS), min_size=12, max_size=60)):
        if op == "send" and wire and raw.reads() and not raw.is_closed:
            size = data.draw(st.sampled_from([1, 7, 100, 5_000, 300_000]))
            tls.data_received(wire[:size])
            wire = wire[size:]
        elif op == "late" and wire and inside.is_done and not raw.is_closed:  # after a pause
            tls.data_received(wire[:3_000])
            wire = wire[3_000:]
        elif op == "send" and is_shaken and not has_ended:
            text = bytes([len(sent) % 251]) * data.draw(st.sampled_from([1, 50, 20_000, 70_000]))
            pieces = data.draw(st.sampled_from([len(text), 40])) if len(text) < 1_000 else len(text)
            for at in range(0, len(text), pieces):
                wire += client.encrypt(text[at : at + pieces])
            sent += text
        elif op == "break" and wire and data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(wire) - 1))
            wire = wire[:at] + bytes([wire[at] ^ 1]) + wire[at + 1 :]
            is_broken = True
        elif op in ("pause", "resume") and inside.is_done and is_paused is (op == "resume"):
            is_paused = op == "pause"
            (tls.pause_reading if is_paused else tls.resume_reading)()
        elif op == "full":
            tls.pause_writing()
        elif op == "drained":
            tls.resume_writing()
        elif op == "write" and inside.is_done:
            tls.write(bytes(data.draw(st.sampled_from([1, 100, 50_000]))))
        elif op == "end" and is_shaken and not has_ended:
            wire += client.end()
            has_ended = True
        await asyncio.sleep(0)
        received = raw.take()
        if not is_shaken:
            with contextlib.suppress(ssl.SSLError):
                is_shaken = client.is_shaken(received)
            wire += client.to_send()
        elif not is_broken:
            client.decrypt(received)
    if is_paused:
        tls.resume_reading()
    is_cut = False
    for _ in range(400):
        await asyncio.sleep(0)
        received = raw.take()
        if not is_shaken:
            with contextlib.suppress(ssl.SSLError):
                is_shaken = client.is_shaken(received)
            wire += client.to_send()
        if wire and raw.reads() and not raw.is_closed:
            tls.data_received(wire[:200_000])
            wire = wire[200_000:]
        if inside.is_done and not wire and not raw.is_closed and not is_cut:
            is_cut = True
            assert tls.eof_received(), "it stays half open"
    assert sent.startswith(inside.heard)
    if not is_broken:
        assert not inside.is_failed
        assert inside.is_done
        assert inside.heard == sent
        assert inside.ends == 1
        tls.resume_writing()
        raw.take()
        assert tls.get_write_buffer_size() == 0
    assert tls.audit()[0] < 400_000
    how = data.draw(st.sampled_from(["close", "abort", "eof", "lost"]))
    if how == "close":
        tls.close()
        tls.resume_writing()
    elif how == "abort":
        tls.abort()
    elif how == "eof" and not raw.is_closed:
        tls.eof_received()
    for _ in range(20):
        await asyncio.sleep(0)
    tls.connection_lost(None)
    for _ in range(20):
        await asyncio.sleep(0)
    assert inside.is_lost
    assert hub.bodies.bytes_taken == 0

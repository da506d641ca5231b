"""How long an end may take: the sum of the two times of [drain], whatever clients do; a time that
passes at once tells.
"""

import asyncio
import io
import json
import socket
from base64 import b64encode
from pathlib import Path

import pytest

import kdaemon.daemon.daemon
import kdaemon.daemon.running
from kdaemon.config.load import Sources, load_sources
from kdaemon.daemon.daemon import Daemon
from kdaemon.observe.logs import LogHandler
from kdaemon.system import SystemClock
from tests.kit.loops import CountingLoop, LoopClock
from tests.kit.patience import until

LAME_DUCK_S, DEADLINE_S = 5, 20

SETTINGS = """
endpoint_url = "http://127.0.0.1:{port}"
region = "eu-west-1"
listen.http = "127.0.0.1:0"
listen.admin = "127.0.0.1:0"
listen.unix = "{directory}/socket"
drain.lame_duck_ms = 5_000
drain.deadline_ms = 20_000
send.call_timeout_ms = 600_000

[streams.s]
acknowledge = "delivered"
deadline_ms = 600_000
"""

RECORD = {"Data": b64encode(b"x").decode(), "PartitionKey": "k"}
BODY = json.dumps({"StreamName": "s", "Records": [RECORD]}).encode()
HEAD = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"
    b"X-Amz-Target: Kinesis_20131202.PutRecords\r\nContent-Length: %d\r\n\r\n" % len(BODY)
)

# What clients have begun when the signal comes; none of them goes.
ASKS = {
    "nothing was sent": b"",
    "a half head": HEAD[:20],
    "a half body": HEAD + BODY[:10],
    "a request": HEAD + BODY,
    "requests in a row": (HEAD + BODY) * 8,
    "a half line": b'{"stream": "s", ',
}


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(kdaemon.daemon.running, "SystemClock", LoopClock)
    monkeypatch.setattr(kdaemon.daemon.daemon, "calm_collector", lambda: None)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    return tmp_path


async def ended_after(directory: Path, port: int, loop: CountingLoop) -> tuple[float, int]:
    """How long the end took, in seconds, and how many clients had an answer."""
    logs = LogHandler(io.StringIO(), SystemClock(), is_json=True)
    daemon = Daemon(
        load_sources(Sources(SETTINGS.format(port=port, directory=directory)), {}), logs
    )
    clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    is_closed = False
    try:
        await daemon.start(with_sandbox=False)
        for sent in ASKS.values():
            clients.append(
                await asyncio.open_connection("127.0.0.1", daemon.listeners.doors[0].port)
            )
            clients.append(await asyncio.open_unix_connection(str(directory / "socket")))
            for _, writer in clients[-2:]:
                writer.write(sent)
        ((_, engine),) = daemon.streams.engines()
        await until(lambda: engine.counters.received >= 2 * 9)
        loop.begin()
        began_s = loop.time()
        assert await daemon.drain() == 1
        await daemon.close()
        is_closed = True
        took_s = loop.time() - began_s
        loop.end()
        answers = [await reader.read() for reader, _ in clients]
        return took_s, sum(answer.startswith(b"HTTP/1.1 ") for answer in answers)
    finally:
        loop.end()
        for _, writer in clients:
            writer.close()
        if not is_closed:
            await daemon.close()
        logs.queue.close(1.0)


def test_the_end_takes_the_sum_of_both_times_at_most_and_each_door_adds_nothing(
    place: Path,
) -> None:
    """Clients by two doors, a service that answers nothing, and nobody goes."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        asyncio.Runner(loop_factory=CountingLoop) as runner,
    ):
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)
        port = silent.getsockname()[1]
        took_s, answered = runner.run(ended_after(place, port, loop))
    assert took_s < LAME_DUCK_S + DEADLINE_S + 0.1, "timers ring a millisecond late"
    assert took_s > LAME_DUCK_S + DEADLINE_S / 2, "the clients were waited for"
    assert answered >= 4, "who waited was told"

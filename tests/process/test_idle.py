"""An idle daemon is woken once a second: held by counting the returns of its loop's selector over
a time that passes at once.
"""

import asyncio
import io
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

SECONDS = 60
STREAMS = 100

SETTINGS = """
listen.http = "127.0.0.1:0"
listen.admin = "127.0.0.1:0"
listen.unix = "{directory}/socket"
auth.http = "sigv4"
auth.unix = "peer"
auth.principals_file = "{directory}/principals.toml"
sandbox.listen = "127.0.0.1:0"
sandbox.streams = {names}
spool.directory = "{directory}/spool"
metrics.per_shard = true
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory for the spool and the socket. What a start sets for a whole process is not set
    here.
    """
    monkeypatch.setattr(kdaemon.daemon.running, "SystemClock", LoopClock)
    monkeypatch.setattr(kdaemon.daemon.daemon, "calm_collector", lambda: None)
    (tmp_path / "spool").mkdir()
    return tmp_path


async def wakings_of(config_text: str, directory: Path, loop: CountingLoop) -> list[float]:
    """When the loop is woken in SECONDS seconds of a daemon that is open and has nothing to do,
    though clients are connected by every listener.
    """
    logs = LogHandler(io.StringIO(), SystemClock(), is_json=True)
    daemon = Daemon(load_sources(Sources(config_text), {}), logs)
    clients: list[asyncio.StreamWriter] = []
    try:
        await daemon.start(with_sandbox=True)
        for port in (door.port for door in daemon.listeners.doors if door.port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            clients.append(writer)
        _, writer = await asyncio.open_unix_connection(str(directory / "socket"))
        clients.append(writer)
        asked = [engine.freshness for _, engine in daemon.streams.engines()]
        assert len(asked) == STREAMS
        now_ns = daemon.clock.now_ns
        await until(lambda: all(each.due_at_ns >= 60 * 10**9 + now_ns() for each in asked))
        assert daemon.spool is not None
        assert not daemon.spool.streams.frame_count
        loop.begin()
        await asyncio.sleep(SECONDS)
        loop.end()
        return loop.counting.wakings
    finally:
        loop.end()
        for writer in clients:
            writer.close()
        await daemon.close()
        logs.queue.close(1.0)


def test_an_idle_daemon_is_woken_once_a_second_though_streams_and_clients_are_there(
    place: Path,
) -> None:
    names = [f"stream-{number}" for number in range(STREAMS)]
    principals = place / "principals.toml"
    principals.write_text('[shop]\nstreams = ["*"]\nusers = [0]\n')
    principals.chmod(0o600)
    text = SETTINGS.format(directory=place, names=names)
    text += "".join(f'[streams."{name}"]\n' for name in names)
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)
        wakings = runner.run(wakings_of(text, place, loop))
    assert len(wakings) <= SECONDS + 2, "and this test itself once"
    assert len(wakings) >= SECONDS / 2, "the heart beats"


def test_a_timer_of_a_quarter_of_a_second_would_be_seen() -> None:
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)

        async def tick() -> None:
            loop.begin()
            for _ in range(40):
                await asyncio.sleep(0.25)

        runner.run(tick())
    assert len(loop.counting.wakings) >= 40

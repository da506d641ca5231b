"""The Unix socket: its file, and both protocols behind it, over real sockets on both loops."""

import asyncio
import json
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from kdaemon.door.door import Door
from kdaemon.door.session import LINE_BYTES_MAX, NdjsonSession
from kdaemon.http.hub import HttpLimits
from kdaemon.http.listener import ListenerError
from kdaemon.http.request import HttpRequest
from kdaemon.http.server import HttpServer, serve_unix
from tests.unit.door.fakes import FakeDoor

Run = Callable[[Any], Any]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_in_loop(main: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main)

    return run_in_loop


@pytest.fixture
def path() -> Iterator[str]:
    """A short path: a socket's may have 107 bytes, and pytest's own directories are long."""
    with tempfile.TemporaryDirectory() as directory:
        yield f"{directory}/s"


def echo(request: HttpRequest) -> None:
    request.respond(200, request.body, close=True)


async def serve(
    path: str,
    door: FakeDoor | None = None,
    line_bytes_max: int = LINE_BYTES_MAX,
    **kwargs: Any,
) -> HttpServer:
    door = door or FakeDoor()
    door.settles_at_once = asyncio.get_running_loop().call_soon
    lines = partial(NdjsonSession, cast("Door", door), line_bytes_max=line_bytes_max)
    return await serve_unix(echo, path, lines=lines, **kwargs)


async def ask(path: str, *sent: bytes, ends: bool = False) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    for piece in sent:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    if ends:
        writer.write_eof()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_the_first_byte_tells_http_from_ndjson(run: Run, path: str) -> None:
    async def main() -> None:
        server = await serve(path)
        http = b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\nhi"
        assert (await ask(path, http)).endswith(b"\r\n\r\nhi")
        assert (await ask(path, *(http[i : i + 1] for i in range(len(http))))).endswith(b"hi")
        line = b'{"data":"a","stream":"s"}\n'
        for sent in (line, b" " + line, b"\n" + line, line[:-1]):
            assert await ask(path, sent, ends=True) == b'{"acknowledged":1}\n'
        assert b"malformed" in await ask(path, b"\x00\xff\n", ends=True)
        assert server.counters.opened == 7
        await server.aclose()
        assert server.counters.open == 0

    run(main())


def test_what_echo_and_netcat_do_is_acknowledged(run: Run, path: str) -> None:
    async def main() -> None:
        door = FakeDoor()
        server = await serve(path, door)
        answer = await ask(path, b'{"stream":"s","data":"hello"}\n', ends=True)
        assert json.loads(answer) == {"acknowledged": 1}
        assert door.data == [b"hello"]
        await server.aclose()

    run(main())


def test_a_slow_service_stops_the_writer_and_loses_nothing(run: Run, path: str) -> None:
    async def main() -> None:
        door = FakeDoor()
        server = await serve(path, door)
        door.has_room = False
        lines = b"".join(b'{"data":"%d%b"}\n' % (i, b"x" * 1000) for i in range(3000))
        asked = asyncio.create_task(ask(path, b'{"stream":"s"}\n' + lines, ends=True))
        async with asyncio.timeout(10):
            while not door.waiting:
                await asyncio.sleep(0.01)
        assert not asked.done()
        assert not door.submitted
        door.make_room()
        answer = await asked
        assert answer.endswith(b'{"acknowledged":3000}\n')
        assert [int(data.rstrip(b"x")) for data in door.data] == list(range(3000))
        await server.aclose()

    run(main())


def test_a_refused_client_reads_why_although_it_sent_more(run: Run, path: str) -> None:
    async def main() -> None:
        server = await serve(path, line_bytes_max=1000)
        answer = json.loads(await ask(path, b"{" + b"x" * 5_000_000))
        assert answer["rejected"] == 1
        assert "1000 bytes" in answer["message"]
        await server.aclose()

    run(main())


def test_closing_settles_what_was_read(run: Run, path: str) -> None:
    async def main() -> None:
        door = FakeDoor()
        server = await serve(path, door)
        door.settles_at_once = None
        reader, writer = await asyncio.open_unix_connection(path)
        idle_reader, idle = await asyncio.open_unix_connection(path)
        writer.write(b'{"data":"a","stream":"s"}\n')
        async with asyncio.timeout(10):
            while not door.submitted or server.counters.open < 2:
                await asyncio.sleep(0.01)
            closing = asyncio.create_task(server.aclose(10))
            assert await idle_reader.read() == b""
            door.submitted[0].settle()
            assert await reader.read() == b'{"acknowledged":1}\n'
            for one in (writer, idle):
                one.close()
                await one.wait_closed()
            await closing
        assert not Path(path).exists()

    run(main())


def test_connections_over_the_limit_are_dropped(run: Run, path: str) -> None:
    async def main() -> None:
        server = await serve(path, limits=HttpLimits(connections_max=1))
        _, first = await asyncio.open_unix_connection(path)
        first.write(b"{")
        async with asyncio.timeout(10):
            while not server.counters.open or server.hub.places.silent:
                await asyncio.sleep(0.01)
            assert await ask(path) == b""
        assert server.counters.refused["connections"] == 1
        first.close()
        await first.wait_closed()
        await server.aclose()

    run(main())


# --- the socket file


def test_the_file_has_its_mode_whatever_the_umask_and_goes_with_the_server(
    run: Run, path: str
) -> None:
    async def main() -> None:
        server = await serve(path, mode=0o660)
        found = os.lstat(path).st_mode
        assert stat.S_ISSOCK(found)
        assert stat.S_IMODE(found) == 0o660
        await server.aclose()
        assert not Path(path).exists()

    before = os.umask(0o077)
    try:
        run(main())
    finally:
        os.umask(before)


def test_the_file_is_never_open_to_more_than_its_mode(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    chmod = Path.chmod

    def watch(self: Path, mode: int) -> None:
        seen.append(stat.S_IMODE(os.lstat(self).st_mode))
        chmod(self, mode)

    async def main() -> None:
        monkeypatch.setattr(Path, "chmod", watch)
        await (await serve(path, mode=0o600)).aclose()

    before = os.umask(0)
    try:
        asyncio.run(main())
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_a_stale_socket_is_replaced(run: Run, path: str) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
        server = await serve(path)
        assert await ask(path, b'{"data":"a","stream":"s"}', ends=True)
        await server.aclose()

    run(main())


def test_a_live_socket_is_an_error_that_names_it_and_stays(run: Run, path: str) -> None:
    async def main() -> None:
        first = await serve(path)
        with pytest.raises(ListenerError, match=path):
            await serve(path)
        assert await ask(path, b'{"data":"a","stream":"s"}', ends=True)
        await first.aclose()

    run(main())


@pytest.mark.parametrize("kind", ["a file", "a directory", "a symbolic link"])
async def test_anything_else_at_the_path_is_an_error_and_stays(path: str, kind: str) -> None:
    target = Path(path)
    if kind == "a file":
        target.write_text("precious")
    elif kind == "a directory":
        target.mkdir()
    else:
        target.symlink_to("/nowhere")
    with pytest.raises(ListenerError, match=f"{path} is {kind}, not a socket"):
        await serve(path)
    assert os.path.lexists(path)


@pytest.mark.parametrize("bad", ["/nowhere/at/all/s", "x" * 200])
async def test_a_path_that_cannot_be_is_an_error_that_names_it(path: str, bad: str) -> None:
    bad = bad if bad.startswith("/") else f"{path}{bad}"
    with pytest.raises(ListenerError, match=bad):
        await serve(bad)


def test_a_file_that_is_not_ours_any_more_is_not_removed(run: Run, path: str) -> None:
    async def main() -> None:
        first = await serve(path)
        Path(path).unlink()
        second = await serve(path)
        await first.aclose()
        assert await ask(path, b'{"data":"a","stream":"s"}', ends=True)
        await second.aclose()

    run(main())

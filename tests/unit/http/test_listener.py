"""Listeners: the socket file, and what is spoken, over real sockets on both loops."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from kdaemon.door.door import Door
from kdaemon.door.spoken import lines_to
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.listener import ListenerError, SocketFile, bind_tcp
from kdaemon.http.origin import gate_of
from kdaemon.http.request import HttpRequest
from kdaemon.http.server import ConnectionServer
from kdaemon.wire.lines import LINE_BYTES_MAX
from tests.kit.both_loops import on_both_loops
from tests.kit.certificates import Files
from tests.kit.doors import FakeDoor
from tests.kit.listening import serve as serve_sockets
from tests.kit.listening import serve_http, serve_unix
from tests.kit.patience import PATIENCE_S, until
from tests.kit.tls import TlsClient, handshakes, receive
from tests.unit.http.sources import turns

Run = Callable[[Any], Any]


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
) -> ConnectionServer:
    door = door or FakeDoor()
    door.settles_at_once = asyncio.get_running_loop().call_soon
    lines = lines_to(cast("Door", door), line_bytes_max)
    return await serve_unix(echo, path, lines=lines, **kwargs)


async def ask(path: str, *sent: bytes, ends: bool = False) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    for piece in sent:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    if ends:
        writer.write_eof()
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@on_both_loops
async def test_the_first_byte_tells_http_from_ndjson(path: str) -> None:
    server = await serve(path)
    http = b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\nhi"
    assert (await ask(path, http)).endswith(b"\r\n\r\nhi")
    assert (await ask(path, *(http[i : i + 1] for i in range(len(http))))).endswith(b"hi")
    line = b'{"data":"a","stream":"s"}\n'
    for sent in (line, b" " + line, b"\n" + line, line[:-1]):
        assert await ask(path, sent, ends=True) == b'{"acknowledged":1}\n'
    assert b"neither HTTP nor" in await ask(path, b"\x00\xff\n", ends=True)
    assert server.counters.opened == 7
    await server.aclose()
    assert server.counters.open == 0


@on_both_loops
async def test_what_echo_and_netcat_do_is_acknowledged(path: str) -> None:
    door = FakeDoor()
    server = await serve(path, door)
    answer = await ask(path, b'{"stream":"s","data":"hello"}\n', ends=True)
    assert json.loads(answer) == {"acknowledged": 1}
    assert door.data == [b"hello"]
    await server.aclose()


@on_both_loops
async def test_a_slow_service_stops_the_writer_and_loses_nothing(path: str) -> None:
    door = FakeDoor()
    server = await serve(path, door)
    door.has_room = False
    lines = b"".join(b'{"data":"%d%b"}\n' % (i, b"x" * 1000) for i in range(3000))
    asked = asyncio.create_task(ask(path, b'{"stream":"s"}\n' + lines, ends=True))
    await until(lambda: door.waiting)
    assert not asked.done()
    assert not door.submitted
    door.make_room()
    answer = await asked
    assert answer.endswith(b'{"acknowledged":3000}\n')
    assert [int(data.rstrip(b"x")) for data in door.data] == list(range(3000))
    await server.aclose()


@on_both_loops
async def test_a_refused_client_reads_why_although_it_sent_more(path: str) -> None:
    server = await serve(path, line_bytes_max=1000)
    answer = json.loads(await ask(path, b"{" + b"x" * 5_000_000))
    assert answer["rejected"] == 1
    assert "1000 bytes" in answer["message"]
    await server.aclose()


@on_both_loops
async def test_closing_settles_what_was_read(path: str) -> None:
    door = FakeDoor()
    server = await serve(path, door)
    door.settles_at_once = None
    reader, writer = await asyncio.open_unix_connection(path)
    idle_reader, idle = await asyncio.open_unix_connection(path)
    writer.write(b'{"data":"a","stream":"s"}\n')
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: door.submitted and server.counters.open >= 2)
        closing = asyncio.create_task(server.aclose(10))
        assert await idle_reader.read() == b""
        door.submitted[0].settle()
        assert await reader.read() == b'{"acknowledged":1}\n'
        for one in (writer, idle):
            one.close()
            await one.wait_closed()
        await closing
    assert not Path(path).exists()


@on_both_loops
async def test_connections_over_the_limit_are_dropped(path: str) -> None:
    server = await serve(path, limits=ConnectionLimits(connections_max=1))
    _, first = await asyncio.open_unix_connection(path)
    first.write(b"{")
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: server.counters.open and (not server.hub.places.silent))
        assert await ask(path) == b""
    assert server.counters.refused["connections"] == 1
    first.close()
    await first.wait_closed()
    await server.aclose()


# --- the socket file


async def test_a_file_that_is_gone_while_no_descriptor_is_left_comes_back_later(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(path)
    Path(path).unlink()

    def none_left(*_: Any, **__: Any) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("kdaemon.http.listener.socket.socket", none_left)
        for _ in range(2):
            server.check()
            await asyncio.sleep(0)
        assert "Too many open files" in str(trouble(server))
    server.check()
    await until(lambda: trouble(server) is None)
    assert Path(path).is_socket()
    await server.aclose()


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


@on_both_loops
async def test_a_stale_socket_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    server = await serve(path)
    assert await ask(path, b'{"data":"a","stream":"s"}', ends=True)
    await server.aclose()


@on_both_loops
async def test_a_live_socket_is_an_error_that_names_it_and_stays(path: str) -> None:
    first = await serve(path)
    with pytest.raises(ListenerError, match=path):
        await serve(path)
    assert await ask(path, b'{"data":"a","stream":"s"}', ends=True)
    await first.aclose()


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


@on_both_loops
async def test_a_file_that_is_not_ours_any_more_is_not_removed(path: str) -> None:
    first = await serve(path)
    Path(path).unlink()
    second = await serve(path)
    await first.aclose()
    assert await ask(path, b'{"data":"a","stream":"s"}', ends=True)
    await second.aclose()


def trouble(server: ConnectionServer) -> str | None:
    return server.trouble


@pytest.mark.parametrize("is_replaced", [False, True])
@on_both_loops
async def test_a_file_that_was_taken_away_is_made_again(path: str, is_replaced: bool) -> None:
    server = await serve(path)
    kept_reader, kept = await asyncio.open_unix_connection(path)
    kept.write(b'{"stream":"s"}\n')
    Path(path).unlink()
    if is_replaced:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: server.counters.rebound)
        assert await ask(path, b'{"data":"a","stream":"s"}', ends=True)
        kept.write(b'{"data":"b"}\n')
        assert await kept_reader.readline() == b'{"acknowledged":1}\n'
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o660
    assert server.trouble is None
    kept.close()
    await kept.wait_closed()
    await server.aclose()
    assert not Path(path).exists()


@on_both_loops
async def test_a_path_that_others_took_is_told_and_had_again_when_they_go(path: str) -> None:
    server = await serve(path)
    Path(path).unlink()
    other = await serve(path)
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: trouble(server) is not None, each=server.check)
        assert "in use" in str(trouble(server))
        await other.aclose()
        await until(lambda: trouble(server) is None, each=server.check)
        assert await ask(path, b'{"data":"a","stream":"s"}', ends=True)
    await server.aclose()


@on_both_loops
async def test_a_path_that_others_took_is_not_passed_on(path: str) -> None:
    """Who took it over would take the other's file for ours, and remove it in the end."""
    server = await serve(path)
    assert len(server.socks) == 1
    Path(path).unlink()
    other = await serve(path)
    assert server.socks == []
    assert len(other.socks) == 1
    await server.aclose()
    await other.aclose()


def test_a_file_that_is_taken_over_has_the_mode_of_who_takes_it(path: str) -> None:
    sock = SocketFile(path, 0o666).bind()
    file = SocketFile(path, 0o600)
    file.adopt(sock)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o666, "it is the other one's still"
    file.own()
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    Path(path).unlink()
    file.own()  # nothing is there
    sock.close()


@on_both_loops
async def test_a_directory_that_is_gone_is_told(path: str) -> None:
    directory = Path(path).parent / "run"
    directory.mkdir()
    server = await serve(str(directory / "s"))
    (directory / "s").unlink()
    directory.rmdir()
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: trouble(server) is not None, each=server.check)
        assert str(directory) in str(trouble(server))
        directory.mkdir()
        await until(lambda: trouble(server) is None, each=server.check)
    await server.aclose()


async def test_another_users_stale_socket_is_an_error_in_words(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)

    def forbid(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", forbid)
        with pytest.raises(ListenerError, match=f"{path}.*belongs to uid .* as that user"):
            await serve(path)
    assert os.path.lexists(path)


async def test_a_socket_that_may_not_be_tried_is_an_error_in_words(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, path: errno.EACCES)
    with pytest.raises(ListenerError, match="belongs to another user"):
        await serve(path)


# --- any bound socket, and what is spoken on it


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificate: Files) -> Files | None:
    """None: TCP in clear."""
    return certificate if request.param == "tls" else None


async def serve_tcp(door: FakeDoor, tls: Files | None) -> ConnectionServer:
    door.settles_at_once = asyncio.get_running_loop().call_soon
    lines = lines_to(cast("Door", door))
    shakes = None if tls is None else handshakes(tls)
    hub = Hub(ConnectionLimits(), gate=gate_of("127.0.0.1"), tls=shakes)
    return await serve_sockets(bind_tcp("127.0.0.1", 0), echo, hub, lines=lines)


async def ask_tcp(server: ConnectionServer, tls: Files | None, *pieces: bytes) -> bytes:
    """What is answered to some text, in pieces with a moment between them."""
    if tls is None:
        client: Any = socket.socket()
        client.setblocking(False)
        address = ("127.0.0.1", server.port)
        await asyncio.get_running_loop().sock_connect(client, address)
    else:
        client = await TlsClient.connect(server.port, tls.client())
    with contextlib.closing(client):
        for number, piece in enumerate(pieces):
            await asyncio.sleep(0.01 if number else 0)
            client.send(piece)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        async with asyncio.timeout(PATIENCE_S):
            while piece := await receive(client):
                answer += piece
        return answer


SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # a frame of HTTP/2 that sets nothing


@on_both_loops
async def test_lines_are_spoken_on_tcp_too(tls: Files | None) -> None:
    door = FakeDoor()
    server = await serve_tcp(door, tls)
    line = b'{"data":"a","stream":"s"}\n'
    for sent in (line, b"\n" + line, b" " + line):
        assert await ask_tcp(server, tls, sent) == b'{"acknowledged":1}\n'
    http = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"
    assert (await ask_tcp(server, tls, http)).endswith(b"\r\n\r\nhi")
    assert b"https" in await ask_tcp(server, tls, b"\x16\x03\x01\x02\x00\x01\x00")
    http_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert (await ask_tcp(server, tls, http_2 + SETTINGS))[3] == 4  # SETTINGS, our own
    await server.aclose()
    assert server.counters.open == 0


@pytest.mark.parametrize("method", [b"patch", b"post", b"0", b"!", b"~x"])
@on_both_loops
async def test_a_page_cannot_pass_for_lines_on_tcp(method: bytes, tls: Files | None) -> None:
    """A browser lets a page choose a method in lower case, and does not change it."""
    door = FakeDoor()
    server = await serve_tcp(door, tls)
    body = b'{"data":"a","stream":"s"}\n'
    sent = method + b" / HTTP/1.1\r\nHost: x.example\r\nContent-Length: 26\r\n\r\n" + body
    assert (await ask_tcp(server, tls, sent)).startswith(b"HTTP/1.1 4")
    assert not door.submitted
    await server.aclose()


EMPTY = (b"\r\n", b"\n", b"\r\n\r\n", b"\n\r\n\n", b"\r\n" * 512)
BODY = b'{"data":"smuggled","stream":"s"}\n'
FOREIGN = b"POST / HTTP/1.1\r\nHost: x.example\r\nContent-Length: 33\r\n\r\n" + BODY


def in_pieces(sent: bytes) -> tuple[bytes, bytes]:
    """In two, cut where its beginning ends."""
    at = max(1, len(sent) - len(sent.lstrip()))
    return sent[:at], sent[at:]


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
@on_both_loops
async def test_empty_lines_do_not_make_lines_of_a_request(empty: bytes, tls: Files | None) -> None:
    """They are skipped (RFC 9112, 2.2), and what follows is held to Host and Origin."""
    door = FakeDoor()
    server = await serve_tcp(door, tls)
    assert (await ask_tcp(server, tls, empty + FOREIGN)).startswith(b"HTTP/1.1 4")
    assert (await ask_tcp(server, tls, *in_pieces(empty + FOREIGN))).startswith(b"HTTP/1.1 4")
    assert door.data == []
    good = FOREIGN.replace(b"x.example", b"localhost")
    if not empty.replace(b"\r\n", b""):
        assert (await ask_tcp(server, tls, empty + good)).endswith(b"\r\n\r\n" + BODY)
        assert (await ask_tcp(server, tls, *in_pieces(empty + good))).endswith(BODY)
    await server.aclose()


@on_both_loops
async def test_empty_lines_before_a_request_on_the_unix_socket(path: str) -> None:
    door = FakeDoor()
    server = await serve(path, door)
    sent = b"\r\n" + FOREIGN
    assert (await ask(path, sent)).endswith(b"\r\n\r\n" + BODY)
    assert (await ask(path, *in_pieces(sent), ends=True)).endswith(b"\r\n\r\n" + BODY)
    assert door.data == []
    await server.aclose()


OTHERS = [
    *(b" " + FOREIGN, b"\r\n \r\n" + FOREIGN, b"\xef\xbb\xbf" + FOREIGN, b"\t" + FOREIGN),
    *(b"\n" * 1025 + FOREIGN, b"\n" * 1025 + BODY, b"[]\n" + BODY, b'"x"\n' + BODY),
    *(b"\x00\xff\n" + BODY, b"\xef\xbb\n" + BODY, b"\x01\n" + BODY),
]


@pytest.mark.parametrize("sent", OTHERS)
@on_both_loops
async def test_no_text_of_another_protocol_is_half_taken(
    path: str, sent: bytes, tls: Files | None
) -> None:
    door = FakeDoor()
    tcp, unix = await serve_tcp(door, tls), await serve(path, door)
    for answer in (
        await ask_tcp(tcp, tls, sent),
        await ask_tcp(tcp, tls, *in_pieces(sent)),
        await ask(path, sent),
        await ask(path, *in_pieces(sent), ends=True),
    ):
        (told,) = map(json.loads, answer.splitlines())
        assert told["code"] == "ValidationException"
        assert told["rejected"] >= 1
    assert door.data == []
    assert door.rejected_count == 4
    assert tcp.counters.refused["malformed"] == unix.counters.refused["malformed"] == 2
    await tcp.aclose()
    await unix.aclose()


@pytest.mark.parametrize("sent", [b"post / HTTP/1.1\r\n\r\n" + BODY, b"xx\n" + BODY])
@on_both_loops
async def test_on_the_unix_socket_too_lines_begin_as_lines_do(path: str, sent: bytes) -> None:
    door = FakeDoor()
    server = await serve(path, door)
    assert json.loads(await ask(path, b"\n\n" + sent))["rejected"] == 3
    assert door.data == []
    await server.aclose()


@on_both_loops
async def test_blanks_and_a_mark_before_lines_are_skipped_and_their_lines_counted(
    path: str,
) -> None:
    server = await serve(path)
    line, mark = b'{"data":"a","stream":"s"}\n', b"\xef\xbb\xbf"
    for before in (mark, mark + b"\r\n", b"\n \t\n", b" "):
        for cut in range(len(before) + 1):
            sent = before[:cut], before[cut:] + line
            assert await ask(path, *filter(None, sent), ends=True) == b'{"acknowledged":1}\n'
    answer = await ask(path, b"\n\n", line + b"bad\n", ends=True)
    assert [json.loads(each).get("rejected") for each in answer.splitlines()] == [4, None]
    await server.aclose()


@on_both_loops
async def test_who_is_refused_and_does_not_go_is_cut_off(path: str) -> None:
    server = await serve(path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"nonsense\n")
    assert b"rejected" in await reader.read()
    writer.write(BODY)
    for _ in range(4):
        server.hub.sweep()
    await until(lambda: not server.counters.open)
    writer.close()
    await server.aclose()


@on_both_loops
async def test_who_sends_only_empty_lines_says_nothing(path: str) -> None:
    server = await serve(path, limits=ConnectionLimits(idle_timeout_s=1.0))
    reader, writer = await asyncio.open_unix_connection(path)
    await until(server.hub.audit)
    writer.write(b"\r\n")
    await turns()  # it is read: what closes on unread input resets
    await until(lambda: server.counters.timed_out["idle"], each=server.hub.sweep)
    assert await reader.read() == b""
    assert server.counters.timed_out["idle"] == 1
    writer.close()
    await server.aclose()


@on_both_loops
async def test_without_lines_everything_is_http() -> None:
    server = await serve_http(echo)
    answer = await ask_tcp(server, None, b'{"data":"a","stream":"s"}\n')
    assert answer.startswith(b"HTTP/1.1 400")
    await server.aclose()


@on_both_loops
async def test_who_says_nothing_is_cut_off_in_time(path: str) -> None:
    limits = ConnectionLimits(idle_timeout_s=0.02, sweep_interval_s=0.01)
    server = await serve(path, limits=limits)
    assert await ask(path) == b""
    assert server.counters.timed_out["idle"] == 1
    await server.aclose()


def test_a_name_is_bound_at_all_its_addresses_on_one_port() -> None:
    socks = bind_tcp("localhost", 0)
    assert len({sock.getsockname()[1] for sock in socks}) == 1
    for sock in socks:
        sock.close()


def test_addresses_that_are_bound_already_are_left_out() -> None:
    every = bind_tcp("localhost", 0)
    for sock in every:
        sock.listen()
    assert bind_tcp("localhost", 0, every) == []
    assert bind_tcp("localhost", every[0].getsockname()[1], every) == []
    left = every.pop()
    address = left.getsockname()
    left.close()
    if every:
        (again,) = bind_tcp("localhost", 0, every)
        assert again.getsockname() == address
        again.close()
    for sock in every:
        sock.close()


def test_an_address_in_use_is_an_oserror_and_leaks_nothing() -> None:
    first = bind_tcp("127.0.0.1", 0)
    first[0].listen()
    with pytest.raises(OSError, match="in use"):
        bind_tcp("127.0.0.1", first[0].getsockname()[1])
    first[0].close()


async def test_want_of_descriptors_is_counted_and_told_once(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(path)
    real = os.eventfd

    def none_left(*_: Any, **__: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    caplog.set_level(logging.INFO, "kdaemon.http")
    monkeypatch.setattr(os, "eventfd", none_left)
    for _ in range(3):
        server.hub.sweep()
    monkeypatch.setattr(os, "eventfd", real)
    server.hub.sweep()
    assert server.counters.refused["descriptors"] == 3
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "LimitNOFILE" in caplog.text
    await server.aclose()

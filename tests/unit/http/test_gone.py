"""A handler that answers later hears once that its client has gone, and never after its answer."""

import asyncio
import socket
import tempfile
from typing import Any

import pytest

from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.listener import bind_tcp
from kdaemon.http.request import HttpHandler, HttpRequest
from kdaemon.http.sending import ANSWER_START
from kdaemon.http.server import ConnectionServer
from tests.kit.both_loops import on_both_loops
from tests.kit.certificates import Files
from tests.kit.listening import serve, serve_unix
from tests.kit.patience import PATIENCE_S, until
from tests.kit.tls import TlsClient, handshakes, receive
from tests.unit.http.harness import GET, HEAD, Make, statuses


def watch(request: HttpRequest, told: list[HttpRequest]) -> None:
    request.on_gone = lambda: told.append(request)


async def test_a_lost_connection_is_told_for_each_request_that_is_owed(harness: Make) -> None:
    one, told = harness(), list[HttpRequest]()
    one.feed(GET * 3)
    for request in one.requests:
        watch(request, told)
    one.requests[1].respond(200, b"waits for the first")
    one.lose()
    assert told == [one.requests[0], one.requests[2]]
    assert all(request.is_gone for request in told)
    told[0].respond(200, b"")
    assert told == [one.requests[0], one.requests[2]]


async def test_an_end_alone_is_no_going_and_the_answer_goes_out_whole(harness: Make) -> None:
    one, told = harness(), list[HttpRequest]()
    one.feed(GET * 2)
    for request in one.requests:
        watch(request, told)
    assert one.protocol.eof_received(), "the connection stays half open"
    for request in one.requests:
        request.respond(200, b"hello")
    answers = one.transport.take()
    assert statuses(answers) == [200, 200]
    assert answers.count(b"hello") == 2
    one.lose()
    assert not told


async def test_it_may_be_answered_out_of_the_call(harness: Make) -> None:
    one = harness()
    one.feed(GET * 2)
    for request in one.requests:
        request.on_gone = lambda request=request: request.respond(503, b"")
    one.lose()
    assert not one.transport.written


async def test_nobody_is_told_after_the_answer(harness: Make) -> None:
    one, told = harness(), list[HttpRequest]()
    one.feed(GET)
    watch(one.requests[0], told)
    one.requests[0].respond(200, b"")
    one.protocol.eof_received()
    one.lose()
    assert not told


async def test_requests_that_are_read_after_the_end_are_answered_whole(harness: Make) -> None:
    one = harness()
    one.protocol.data_received(GET * 100)  # more than one turn takes
    one.protocol.eof_received()
    answered = 0
    while answered < 100:
        for request in one.requests[answered:]:
            request.respond(200, b"")
            answered += 1
        await asyncio.sleep(0)
    assert statuses(one.transport.take()) == [200] * 100
    assert one.transport.is_closed


async def test_a_connection_that_we_end_is_told_too(harness: Make) -> None:
    one, told = harness(), list[HttpRequest]()
    one.feed(GET * 2)
    for request in one.requests:
        watch(request, told)
    one.requests[0].respond(200, b"", close=True)
    assert told == [one.requests[1]]
    assert one.requests[1].is_gone


async def test_a_defect_in_the_call_is_reported_and_the_others_are_told(harness: Make) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    one, told = harness(), list[HttpRequest]()
    one.feed(GET * 2)

    def fail() -> None:
        raise ValueError("a defect")

    one.requests[0].on_gone = fail
    watch(one.requests[1], told)
    one.lose()
    assert told == [one.requests[1]]
    assert isinstance(reported[0]["exception"], ValueError)


@pytest.mark.parametrize("ends_by", ["drop_body", "respond", "lose", "abort"])
async def test_the_charge_of_a_body_ends_with_its_request(harness: Make, ends_by: str) -> None:
    one = harness()
    one.feed(HEAD + b"Content-Length: 6\r\n\r\nabc")
    one.feed(b"def")
    (request,) = one.requests
    assert one.hub.bodies.bytes_taken == 6
    if ends_by == "drop_body":
        request.drop_body()
        request.drop_body()
    elif ends_by == "respond":
        request.respond(200, b"")
    else:
        if ends_by == "abort":
            request.abort()
        one.lose()
    assert request.body == b""
    assert one.hub.bodies.bytes_taken == 0


# --- real sockets


async def listen(
    handle: HttpHandler, kind: str, path: str, files: Files
) -> tuple[ConnectionServer, Any]:
    """A listener and a client of it."""
    loop = asyncio.get_running_loop()
    if kind == "unix":
        server = await serve_unix(handle, path)
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        await loop.sock_connect(client, path)
        return server, client
    hub = Hub(ConnectionLimits(), tls=handshakes(files) if kind == "tls" else None)
    server = await serve(bind_tcp("127.0.0.1", 0), handle, hub)
    if kind == "tls":
        return server, await TlsClient.connect(server.port, files.client())
    client = socket.socket()
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", server.port))
    return server, client


def end_side(client: Any, closes: str) -> None:
    """A client that sends no more; of TLS, as it says so itself or only its kernel does."""
    if closes == "its sending side, by TCP alone" and isinstance(client, TlsClient):
        client.cut()
    else:
        client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
@pytest.mark.parametrize(
    "closes", ["both sides", "its sending side", "its sending side, by TCP alone"]
)
@on_both_loops
async def test_who_closed_and_who_only_sends_no_more_are_told_apart(
    kind: str, closes: str, certificate: Files
) -> None:
    requests: list[HttpRequest] = []
    told = asyncio.Event()

    def handle(request: HttpRequest) -> None:
        request.on_gone = told.set
        requests.append(request)

    with tempfile.TemporaryDirectory() as directory:
        server, client = await listen(handle, kind, f"{directory}/s", certificate)
        client.send(GET)
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: requests)
            if closes == "both sides":
                client.close()
                await told.wait()
                assert requests[0].is_gone
            else:
                end_side(client, closes)
                answer = b""
                while len(answer) < len(ANSWER_START):
                    answer += await receive(client)
                assert answer == ANSWER_START
                server.hub.sweep()  # looks for the client
                assert not told.is_set()
                requests[0].respond(200, b"hello")
                while piece := await receive(client):
                    answer += piece
                assert statuses(answer) == [200]
                assert answer.endswith(b"\r\n\r\nhello")
                client.close()
        await server.aclose()


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
@pytest.mark.parametrize("how", ["after it closed its sending side", "while it is not read"])
@on_both_loops
async def test_who_goes_unseen_is_found_by_a_sweep(kind: str, how: str, certificate: Files) -> None:
    """A loop sees nothing of a connection whose input has ended, or that is not read because as
    many of its requests wait as may.
    """
    requests: list[HttpRequest] = []
    told: list[HttpRequest] = []

    def handle(request: HttpRequest) -> None:
        watch(request, told)
        requests.append(request)

    with tempfile.TemporaryDirectory() as directory:
        server, client = await listen(handle, kind, f"{directory}/s", certificate)
        pipeline_max = server.hub.limits.pipeline_max
        is_read = how != "while it is not read"
        count = 2 if is_read else pipeline_max
        client.send(GET * (count if is_read else count + 1))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await until(lambda: len(requests) >= count)
                if is_read:
                    client.shutdown(socket.SHUT_WR)
                    (connection,) = server.hub.audit()
                    await until(lambda: connection.audit().has_eof)  # type: ignore[attr-defined]
                    requests[0].respond(200, b"hello")  # what was sent ahead is used up
                    answer = b""
                    while not answer.endswith(b"hello"):
                        answer += await receive(client)
                    server.hub.sweep()
                    await asyncio.sleep(0.05)
                    assert not told
                client.close()
                owed = [each for each in requests if each.answer is None]
                await until(lambda: told == owed, each=server.hub.sweep)
        finally:
            client.close()
            await server.aclose()

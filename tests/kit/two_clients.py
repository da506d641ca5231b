"""The same bytes of a service to both clients, ours and aiohttp's: what does each make of them?

One request is out, and what comes is given to each as its transport would give it, in these reads;
then the connection stands, ends, or is reset. No socket: reads come as they are cut here.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, cast

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from kdaemon.base.errors import ServiceError
from kdaemon.send.arriving import Answer, Room
from kdaemon.send.bodies import Bodies
from kdaemon.send.connection import NEVER_S, Connection, Peer
from kdaemon.send.connector import OneAnswer
from kdaemon.send.failures import Failed, failed_below_http
from kdaemon.send.posts import read_bounded

End = Literal["stands", "ends", "reset"]
NAMES = ("Content-Type", "x-amzn-ErrorType", "Retry-After", "Location", "x-amzn-RequestId")
_TURNS = 6  # of the loop: whoever reads has read by then


@dataclass(frozen=True, slots=True)
class Seen:
    """`what`: status, body and the headers that are looked at; the error's words; or "waits"."""

    what: object
    is_kept: bool  # the connection may carry another request


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self._is_closing = False

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    abort = close

    def pause_reading(self) -> None:
        raise AssertionError("an ordinary answer is read at once")


def _told(answer: Answer) -> object:
    return answer.status, answer.body, tuple(answer.headers.get(name) for name in NAMES)


def _words(error: ServiceError) -> object:
    return error.trouble, error.message, error.status, error.was_sent


def _lost(end: End) -> Exception | None:
    return ConnectionResetError(104, "Connection reset by peer") if end == "reset" else None


class _Pool:
    """What a connection tells its pool."""

    def __init__(self) -> None:
        self.kept = 0

    def watch(self, _: float) -> None: ...
    def forget(self, _: Connection) -> None: ...
    def keep(self, _: Connection) -> None:
        self.kept += 1


async def by_ours(reads: Sequence[bytes], end: End, room: Room) -> Seen:
    pool, transport = _Pool(), _Transport()
    loop = asyncio.get_running_loop()
    connection = Connection(pool, Peer("host", 1, None), loop)
    connection.connection_made(transport)
    held = Bodies().add("s", 1)
    waiter = connection.send(b"POST / HTTP/1.1\r\n\r\n", b"{", held, room, 1.0, NEVER_S)
    for read in reads:
        if not transport.is_closing():
            connection.data_received(read)
    if end != "stands" or transport.is_closing():
        connection.connection_lost(_lost(end))
    is_kept = pool.kept == 1 and not transport.is_closing()
    if not waiter.done():
        return Seen("waits", is_kept)
    outcome = waiter.result()
    if isinstance(outcome, Answer):
        return Seen(_told(outcome), is_kept)
    return Seen(_words(outcome.at("host") if isinstance(outcome, Failed) else outcome), is_kept)


async def by_aiohttp(reads: Sequence[bytes], end: End, room: Room) -> Seen:
    loop = asyncio.get_running_loop()
    protocol, transport = OneAnswer(loop=loop), _Transport()
    protocol.connection_made(transport)
    protocol.set_response_params(
        skip_payload=False, read_until_eof=True, auto_decompress=False, read_bufsize=2**20
    )

    async def call() -> Answer:
        try:
            message, payload = await protocol.read()
        except HttpProcessingError as error:  # as aiohttp.ClientResponse does
            raise aiohttp.ClientResponseError(cast("Any", None), ()) from error
        response = SimpleNamespace(status=message.code, content=payload)
        body = await read_bounded(cast("Any", response), room)
        return Answer(message.code, body, message.headers)

    calling = asyncio.ensure_future(call())
    await asyncio.sleep(0)
    for read in reads:
        if not transport.is_closing():
            protocol.data_received(read)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        if calling.done() and protocol.should_close:
            transport.close()  # it is given back, and not kept
    if end != "stands" or transport.is_closing():
        protocol.eof_received()
        protocol.connection_lost(_lost(end))
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    is_kept = not (protocol.should_close or transport.is_closing())
    if not calling.done():
        calling.cancel()
        await asyncio.wait([calling])
        return Seen("waits", is_kept)
    error = calling.exception()
    if error is None:
        return Seen(_told(calling.result()), is_kept)
    if isinstance(error, ServiceError):
        return Seen(_words(error), is_kept)
    assert isinstance(error, (aiohttp.ClientError, OSError)), error
    return Seen(_words(failed_below_http(error).at("host")), is_kept)

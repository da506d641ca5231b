"""One request and its answer over aiohttp: whatever carries no records, or goes through a proxy.

Knows aiohttp, and how it fails. Must not know credentials, streams, or whether a call is made
again. Where it sits: `exchange.py` calls it, and shares the memory of bodies and the connections in
use.
Invariant: whatever breaks before the first byte of a body is written is `was_sent=False`; no secret
and no data is in an error, nor in anything that an error keeps alive.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import MIB
from kdaemon.send.arriving import Answer, BodySoFar, Room
from kdaemon.send.bodies import Bodies, Held
from kdaemon.send.call import in_time
from kdaemon.send.connection import PIECE_BYTES, Connection, Peer
from kdaemon.send.connection_slots import ConnectionSlots
from kdaemon.send.connector import Connector
from kdaemon.send.credentials import CONTENT_TYPE
from kdaemon.send.failures import RECALLED, emptied, failed_below_http, unforeseen
from kdaemon.send.pool import KEEPALIVE_S
from kdaemon.send.request import SENT_ALWAYS, Route, encoded
from kdaemon.send.settings import ClientSettings
from kdaemon.send.sts import STS_CONTENT_TYPE

LEAST_S: Final = 0.001  # of the rest of a connect time: to aiohttp, 0 means no limit
ANSWER_BUFFER_BYTES: Final = MIB  # ours: reading is not paused within an ordinary answer

Traces = Sequence[aiohttp.TraceConfig]
"""Are told of each exchange; the daemon has none."""


def _http_session(settings: ClientSettings, traces: Traces) -> aiohttp.ClientSession:
    """The connections of aiohttp for one client."""
    return aiohttp.ClientSession(
        # `ConnectionSlots` bounds the connections.
        connector=Connector(limit=0, keepalive_timeout=KEEPALIVE_S),
        timeout=_timeout(settings, settings.connect_timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=SENT_ALWAYS,
        skip_auto_headers=("Accept",),
        auto_decompress=False,
        read_bufsize=ANSWER_BUFFER_BYTES,
        trace_configs=list(traces),
        # It would look for proxies in a thread at each call; `proxy_to` looks once.
        trust_env=False,
    )


def _timeout(settings: ClientSettings, connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None,  # the caller bounds the whole
        connect=connect_s,
        sock_connect=connect_s,
        sock_read=settings.read_timeout_s,
    )


def _never() -> bool:
    return False


class Body(aiohttp.payload.BytesPayload):
    """Bytes of any size as a request body, kept until they are written.

    The base class warns, on each call above 1 MiB, that one write may hold the loop. It does not
    (the transport sends it in pieces), and a PutRecords call may be 13 MB. aiohttp joins the first
    write with the head, and TLS encrypts everything that it is given: therefore a large body is
    written in pieces, so that it is in memory only once.
    """

    def __init__(
        self, body: bytes, content_type: str, leave: Callable[[], bool], held: Held
    ) -> None:
        """`leave`: asked before the body is written; False: nothing is written, and the request
        fails. `held`: the body's memory, given back when the body is written or dropped.
        """
        aiohttp.payload.Payload.__init__(self, body, content_type=content_type)
        self._held = held
        self._size = len(body)
        self._leave = leave
        self.is_recalled = False

    @property
    def unwritten(self) -> bytes:
        """The whole body; empty once it is written."""
        return self._value

    def drop(self) -> None:
        """Forgets the unwritten body: an error may keep a failed connection for long."""
        self._value = b""
        self._leave = _never
        self._held.give()

    async def write_with_length(
        self,
        writer: aiohttp.abc.AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - aiohttp's signature; it is the whole body
    ) -> None:
        """Writes the whole body, and gives its memory back. Raises ConnectionAbortedError, and sets
        `is_recalled`, if `leave` says no; then nothing is written.
        """
        if not self._leave():
            self.is_recalled = True
            raise ConnectionAbortedError("recalled")
        body, self._value = self._value, b""
        if len(body) <= PIECE_BYTES:
            await writer.write(body)
        else:
            writer.send_headers()
            rest = memoryview(body)
            while rest:
                await writer.write(rest[:PIECE_BYTES])
                rest = rest[PIECE_BYTES:]
        self._held.give()


class Posts:
    """The requests of one client over aiohttp's connections."""

    __slots__ = ("_bodies", "_settings", "_slots", "http")

    def __init__(
        self, settings: ClientSettings, bodies: Bodies, slots: ConnectionSlots, traces: Traces
    ) -> None:
        """`bodies`, `slots`: those that requests over our own connections take from, too."""
        self._settings = settings
        self._bodies = bodies
        self._slots = slots
        self.http = _http_session(settings, traces)

    def take_limits(self, settings: ClientSettings) -> None:
        """Takes times, from the next request on."""
        self._settings = settings

    async def aclose(self) -> None:
        """Closes all connections."""
        await self.http.close()

    async def dial(self, peer: Peer, factory: Callable[[], Connection]) -> Connection:
        """Makes a connection of our own. Raises `DialError`."""
        connector = self.http.connector
        assert isinstance(connector, Connector), "_http_session made it"
        return await connector.dial(peer, factory)

    async def post(
        self,
        route: Route,
        request: object,
        stream: str,
        room: Room,
        leave: Callable[[], bool],
    ) -> Answer:
        """The answer to one POST. `request`: a value that is encoded as the body, or the body of a
        question to STS. `stream`: in whose room the body is counted; "": the body is small.
        `leave`: as in `Body`. Raises `ServiceError`.
        """
        body = self._body_of(request, stream, leave)
        host, proxy = route.address.host, route.proxy
        where = host if proxy is None else f"{host} through {proxy.shown}"
        has_slot = False
        try:
            connect_s = self._settings.connect_timeout_s
            has_slot = self._slots.take()
            if not has_slot:
                connect_s = await self._slot_within(connect_s)
                has_slot = True
            async with self.http.request(
                "POST",
                route.address.url,
                data=body,
                headers=route.sign(body.unwritten),
                allow_redirects=False,
                proxy=proxy.url if proxy else None,
                proxy_headers=proxy.headers if proxy else None,
                ssl=route.trust,
                timeout=_timeout(self._settings, connect_s),
            ) as response:
                read = await read_bounded(response, room)
                return Answer(response.status, read, response.headers)
        except ServiceError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            failed = RECALLED if body.is_recalled else failed_below_http(error)
            failure = failed.at(where, is_unwritten=bool(body.unwritten))
            emptied(error)
        except Exception as error:
            if not body.unwritten:
                raise  # the outcome of the request is unknown
            setting = "endpoint_url or the credentials" if proxy is None else f"{proxy.shown}"
            failure = unforeseen(error, f"the request to {host}", setting)
        finally:
            body.drop()
            if has_slot:
                self._slots.give()
        raise failure  # here, so that no context of the error holds the request's headers

    async def _slot_within(self, limit_s: float) -> float:
        """Waits for a slot, `limit_s` at most. Returns how long connecting may take then."""
        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        await in_time(self._slots.wait(), limit_s, aiohttp.ConnectionTimeoutError)
        return max(limit_s - (now_s() - began_s), LEAST_S)

    def _body_of(self, request: object, stream: str, leave: Callable[[], bool]) -> Body:
        content_type = STS_CONTENT_TYPE if isinstance(request, bytes) else CONTENT_TYPE
        body = encoded(request)
        return Body(body, content_type, leave, self._bodies.add(stream, len(body)))


async def read_bounded(response: aiohttp.ClientResponse, room: Room) -> bytes:
    """The answer's body. Raises `TooLargeError`. An unread rest closes the connection."""
    body = BodySoFar(response.status, room)
    while not body.is_enough and (block := await response.content.readany()):
        problem = body.add(block)
        if problem is not None:
            raise problem
    return body.read()

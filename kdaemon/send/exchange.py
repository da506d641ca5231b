"""One HTTP request and its answer: the connection, the memory of the body, and failures.

Records go over connections of our own (`pool.py`), which cost a fifth of aiohttp's. All other
calls, and whatever goes through a proxy, use aiohttp's connections. Must not know credentials,
streams, or whether a call is made again: `client.py` decides that.
Invariant: whatever breaks before the first byte of a body is written is `was_sent=False`; no secret
and no data is in an error, nor in anything that an error keeps alive.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
import msgspec

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import MIB
from kdaemon.send import answers
from kdaemon.send.bodies import Bodies
from kdaemon.send.connection import Connection, Outcome, Peer
from kdaemon.send.connection_slots import ConnectionSlots
from kdaemon.send.connector import Connector
from kdaemon.send.credentials import CONTENT_TYPE
from kdaemon.send.failures import CONNECT_TIMEOUT, RECALLED, DialError, failure_below_http
from kdaemon.send.pool import KEEPALIVE_S, Pool
from kdaemon.send.request import SENT_ALWAYS, Body, Route
from kdaemon.send.settings import ClientSettings
from kdaemon.send.sts import STS_CONTENT_TYPE

LEAST_S: Final = 0.001  # of the rest of a connect time: to aiohttp, 0 means no limit
ANSWER_BUFFER_BYTES: Final = MIB  # ours: reading is not paused within an ordinary answer


def always() -> bool:
    """For `leave`: lets every request be sent."""
    return True


def http_session(
    settings: ClientSettings, traces: Sequence[aiohttp.TraceConfig] = ()
) -> aiohttp.ClientSession:
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


class Exchanges:
    """The requests of one client. `bodies`: the memory of the bodies that are not yet written.
    `slots`: the connections in use, ours and aiohttp's.
    """

    __slots__ = ("_encode", "_settings", "bodies", "http", "pool", "slots")

    def __init__(self, settings: ClientSettings, http: aiohttp.ClientSession) -> None:
        self.http = http
        self._settings = settings
        self.bodies = Bodies()
        self.slots = ConnectionSlots(settings.connections_max)
        self.pool = Pool(self._dial)
        self._encode = msgspec.json.Encoder().encode

    def take_limits(self, settings: ClientSettings) -> None:
        """Takes times and a number of connections, from the next request on."""
        self._settings = settings
        self.slots.set_limit(settings.connections_max)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self.pool.aclose()
        await self.http.close()

    async def put(
        self,
        route: Route,
        request: object,
        stream: str,
        trust: ssl.SSLContext | bool,
        room: answers.Room,
        leave: Callable[[], bool] = always,
    ) -> answers.Answer:
        """The answer to one POST of records, on a connection of our own. Behind a proxy, the same
        as `post`. Raises `ServiceError`.
        """
        peer = route.peer(trust)
        if peer is None:
            return await self.post(route, request, stream, trust, room, leave)
        body = self._bytes_of(request)
        held = self.bodies.add(stream, len(body))
        connection: Connection | None = None
        waiter: asyncio.Future[Outcome] | None = None
        has_slot = has_left = False
        try:
            has_slot = self.slots.take()
            connection = self.pool.take(peer) if has_slot else None
            if connection is None:
                async with asyncio.timeout(self._settings.connect_timeout_s):
                    if not has_slot:
                        await self.slots.wait()
                        has_slot = True
                    connection = self.pool.take(peer) or await self.pool.open(peer)
            head = route.head(body)
            has_left = leave()
            if has_left:
                waiter = connection.send(head, body, held, room, self._settings.read_timeout_s)
                del body, head  # the connection has the unwritten part
                outcome = await waiter
            else:
                outcome = RECALLED
        except TimeoutError:
            outcome = CONNECT_TIMEOUT
        except DialError as error:
            outcome = error.failed
            _empty(error)
        except aiohttp.ClientError as error:
            outcome = failure_below_http(error, route.host, is_unwritten=True)
            _empty(error)
        except Exception as error:
            if has_left:
                raise  # the outcome of the request is unknown
            what = f"the request to {route.host}"
            outcome = unforeseen(error, what, "endpoint_url or the credentials")
        finally:
            held.give()
            if has_slot:
                self.slots.give()
            if connection is not None:
                self._done(connection, waiter)
        if isinstance(outcome, answers.Answer):
            return outcome
        # Raised here, so that no context of the error holds the request.
        raise outcome if isinstance(outcome, ServiceError) else outcome.at(route.host)

    def _done(self, connection: Connection, waiter: asyncio.Future[Outcome] | None) -> None:
        """Nobody waits for an answer on this connection any more. `waiter`: None: no request was
        sent.
        """
        if waiter is not None:
            connection.drop(waiter)
        elif connection.is_usable:
            self.pool.keep(connection, is_used=False)
        else:
            connection.abort()

    async def _dial(self, peer: Peer, factory: Callable[[], Connection]) -> Connection:
        connector = self.http.connector
        assert isinstance(connector, Connector), "http_session made it"
        return await connector.dial(peer, factory)

    async def post(
        self,
        route: Route,
        request: object,
        stream: str,
        trust: ssl.SSLContext | bool,
        room: answers.Room,
        leave: Callable[[], bool] = always,
    ) -> answers.Answer:
        """The answer to one POST. `request`: a value that is encoded as the body, or the body of a
        question to STS. `stream`: in whose room the body is counted; "": the body is small. Raises
        `ServiceError`.
        """
        body = self._body_of(request, stream, leave)
        proxy = route.proxy
        where = route.host if proxy is None else f"{route.host} through {proxy.shown}"
        has_slot = False
        try:
            connect_s = self._settings.connect_timeout_s
            has_slot = self.slots.take()
            if not has_slot:
                connect_s = await self._slot_within(connect_s)
                has_slot = True
            async with self.http.request(
                "POST",
                route.url,
                data=body,
                headers=route.sign(body.unwritten),
                allow_redirects=False,
                proxy=proxy.url if proxy else None,
                proxy_headers=proxy.headers if proxy else None,
                ssl=trust,
                timeout=_timeout(self._settings, connect_s),
            ) as response:
                read = await answers.read_bounded(response, room)
                return answers.Answer(response.status, read, response.headers)
        except ServiceError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            is_unwritten = bool(body.unwritten)
            failure = failure_below_http(error, where, is_unwritten=is_unwritten)
            if body.is_recalled:
                failure = RECALLED.at(where)
            _empty(error)
        except Exception as error:
            if not body.unwritten:
                raise  # the outcome of the request is unknown
            setting = "endpoint_url or the credentials" if proxy is None else f"{proxy.shown}"
            failure = unforeseen(error, f"the request to {route.host}", setting)
        finally:
            body.drop()
            if has_slot:
                self.slots.give()
        raise failure  # here, so that no context of the error holds the request's headers

    async def _slot_within(self, limit_s: float) -> float:
        """Waits for a slot, `limit_s` at most. Returns how long connecting may take then."""
        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        try:
            async with asyncio.timeout(limit_s):
                await self.slots.wait()
        except TimeoutError:
            pass
        else:
            return max(limit_s - (now_s() - began_s), LEAST_S)
        raise aiohttp.ConnectionTimeoutError

    def _body_of(self, request: object, stream: str, leave: Callable[[], bool]) -> Body:
        content_type = STS_CONTENT_TYPE if isinstance(request, bytes) else CONTENT_TYPE
        body = self._bytes_of(request)
        return Body(body, content_type, leave, self.bodies.add(stream, len(body)))

    def _bytes_of(self, request: object) -> bytes:
        if isinstance(request, bytes):
            return request
        try:
            return self._encode(request)
        except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):
            pass  # raised below, so that no context of the error holds the data
        raise ServiceError(
            "SerializationException",
            "a record cannot be written as JSON (a text that is no Unicode?), and is not sent",
            was_sent=False,
            trouble=Trouble.UNENCODABLE,
        )


def _empty(error: BaseException | None) -> None:
    """Takes the stack frames out of an error that we are done with, and out of its causes. aiohttp
    and the code below it keep errors in objects that these frames refer to: cycles, which would
    keep the call and its records.
    """
    while error is not None:
        error.__traceback__ = None
        cause = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None
        error = cause


def unforeseen(error: Exception, what: str, settings: str) -> ServiceError:
    """The error for a request that could not be made, for a reason that no table has. The original
    error's text is left out, since it can quote a header.
    """
    return ServiceError(
        Trouble.UNPREPARED,
        f"{what} could not be made ({type(error).__name__}), and nothing was sent: most likely"
        f" {settings} is wrong",
        was_sent=False,
    )

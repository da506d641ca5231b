"""One request over HTTP and its answer: the pool, the body's memory, and what a failure means.

Knows aiohttp and the way through a proxy. Must not know credentials, streams, or whether a call is
made again: `client.py` decides that.
Invariant: whatever breaks before the first byte of a body is written is `was_sent=False`; no secret
and no data in an error, nor in what an error keeps alive.
"""

import ssl
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import aiohttp
import msgspec

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import MIB
from kdaemon.send import answers
from kdaemon.send.bodies import Bodies
from kdaemon.send.connector import Connector
from kdaemon.send.credentials import CONTENT_TYPE
from kdaemon.send.failures import failure_below_http
from kdaemon.send.request import Body, Route
from kdaemon.send.settings import ClientSettings
from kdaemon.send.sts import STS_CONTENT_TYPE

KEEPALIVE_S: Final = 12.0  # seconds an idle connection is kept: aiobotocore 3.10.0's default
ANSWER_BUFFER_BYTES: Final = MIB  # ours: reading is not paused within an ordinary answer


class Answer(NamedTuple):
    """What came back over HTTP."""

    status: int
    body: bytes
    headers: answers.Headers


def always() -> bool:
    """For `leave`: nobody withdraws what is sent."""
    return True


def http_session(
    settings: ClientSettings, traces: Sequence[aiohttp.TraceConfig] = ()
) -> aiohttp.ClientSession:
    """The pool of one client."""
    return aiohttp.ClientSession(
        connector=Connector(limit=settings.connections_max, keepalive_timeout=KEEPALIVE_S),
        timeout=_timeout(settings),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "kdaemon", "Accept-Encoding": "identity"},
        skip_auto_headers=("Accept",),
        auto_decompress=False,
        read_bufsize=ANSWER_BUFFER_BYTES,
        trace_configs=list(traces),
        trust_env=False,  # it looks for proxies in a thread on each call; `proxy_to` does once
    )


def _timeout(settings: ClientSettings) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None,  # whoever calls bounds the whole
        connect=settings.connect_timeout_s,
        sock_connect=settings.connect_timeout_s,
        sock_read=settings.read_timeout_s,
    )


class Exchanges:
    """The requests of one client. `bodies`: the memory of those that are not yet written."""

    __slots__ = ("_encode", "_timeout", "bodies", "http")

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http
        self._timeout = http.timeout
        self.bodies = Bodies()
        self._encode = msgspec.json.Encoder().encode

    def take_limits(self, settings: ClientSettings) -> None:
        """Times and connections from the next request on; those under way go on by theirs."""
        self._timeout = _timeout(settings)
        connector = self.http.connector
        assert isinstance(connector, Connector), "http_session made it"
        connector.set_limit(settings.connections_max)

    async def post(
        self,
        route: Route,
        request: object,
        stream: str,
        trust: ssl.SSLContext | bool,
        room: answers.Room,
        leave: Callable[[], bool] = always,
    ) -> Answer:
        """What answers one POST. `request`: what its body encodes, or the body of a question to
        STS. `stream`: whose memory the body takes; "": it is small. Raises `ServiceError`.
        """
        body = self._body_of(request, stream, leave)
        proxy = route.proxy
        try:
            async with self.http.request(
                "POST",
                route.url,
                data=body,
                headers=route.sign(body.unwritten),
                allow_redirects=False,
                proxy=proxy.url if proxy else None,
                proxy_headers=proxy.headers if proxy else None,
                ssl=trust,
                timeout=self._timeout,
            ) as response:
                read = await answers.read_bounded(response, room)
                return Answer(response.status, read, response.headers)
        except ServiceError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            is_unwritten = bool(body.unwritten)
            where = route.host if proxy is None else f"{route.host} through {proxy.shown}"
            failure = failure_below_http(error, where, is_unwritten=is_unwritten)
            if body.is_recalled:
                text = f"{where}: nothing was sent while the client waited"
                failure = ServiceError(Trouble.CONNECT_TIMEOUT, text, was_sent=False)
            _empty(error)
        except Exception as error:
            if not body.unwritten:
                raise  # nobody knows what became of it
            setting = "endpoint_url or the credentials" if proxy is None else f"{proxy.shown}"
            failure = unforeseen(error, f"the request to {route.host}", setting)
        finally:
            body.drop()
        raise failure  # here, so that no context carries the request's headers along

    def _body_of(self, request: object, stream: str, leave: Callable[[], bool]) -> Body:
        if isinstance(request, bytes):
            return Body(request, STS_CONTENT_TYPE, leave, self.bodies.add(stream, len(request)))
        try:
            body = self._encode(request)
            return Body(body, CONTENT_TYPE, leave, self.bodies.add(stream, len(body)))
        except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):
            pass  # raised below, so that no context carries the data along
        raise ServiceError(
            "SerializationException",
            "a record cannot be written as JSON (a text that is no Unicode?), and is not sent",
            was_sent=False,
            trouble=Trouble.UNENCODABLE,
        )


def _empty(error: BaseException | None) -> None:
    """Takes the frames out of an error that we are done with, and out of those that it came from.
    aiohttp and the connecting below it keep errors in places which those frames know: cycles, and
    with them the call and its records.
    """
    while error is not None:
        error.__traceback__ = None
        cause = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None
        error = cause


def unforeseen(error: Exception, what: str, settings: str) -> ServiceError:
    """A request could not be made, for a reason that is in no table. Without the error's own text,
    which can quote a header.
    """
    return ServiceError(
        Trouble.UNPREPARED,
        f"{what} could not be made ({type(error).__name__}), and nothing was sent: most likely"
        f" {settings} is wrong",
        was_sent=False,
    )

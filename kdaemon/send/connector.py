"""How connections are made; and aiohttp's connections, with one answer to one request.

aiohttp keeps bytes that arrive on an idle connection, takes them for the answer to the next
request, and waits through interim answers (1xx) for ever. Here, bytes that come without a request
close the connection, so that no forged or late answer is taken for the answer to another call; and
interim answers are counted. Names are looked up in threads of their own, so that a look-up that
hangs holds up no other upstream's. Knows aiohttp's protocol; must not know calls or what an answer
says.
Invariant: a connection that got anything between two requests carries no other request.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

import aiohappyeyeballs
import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import _SSL_CONTEXT_UNVERIFIED, _SSL_CONTEXT_VERIFIED
from aiohttp.http_exceptions import HttpProcessingError

from kdaemon.send.connection import Connection, Peer
from kdaemon.send.failures import CONNECT, DNS, TLS, DialError, failed_below_http
from kdaemon.send.reader import INTERIM_ANSWERS_MAX

T = TypeVar("T")


class OneAnswer(ResponseHandler):
    """aiohttp's side of a connection, which also counts requests and answers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_answered = True  # no request was made yet
        self._interim_count = 0

    def set_response_params(self, **kwargs: Any) -> None:
        """Is called when aiohttp is about to write a request."""
        self._is_answered = False
        self._interim_count = 0
        super().set_response_params(**kwargs)

    def data_received(self, data: bytes) -> None:
        if self._is_answered and data and (self._payload is None or self._payload.is_eof()):
            self._end()
            return
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """One parsed head; its body may still come."""
        status = data[0].code
        if self._is_answered:  # a second answer in the same bytes as the first
            self._end()
            return
        if 100 <= status < 200 and status != 101:
            self._interim_count += 1
            if self._interim_count > INTERIM_ANSWERS_MAX:
                self._end()
                self.set_exception(HttpProcessingError(message="too many interim answers"))
            return  # no caller waits for it: our requests never say `Expect`
        self._is_answered = True
        super().feed_data(data, size)

    def _end(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()


class Connector(aiohttp.TCPConnector):
    """A pool of connections that take one answer to one request."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(resolver=Resolver(), **kwargs)
        self._factory = partial(  # type: ignore[assignment]  # of a subclass: partial is invariant
            OneAnswer, loop=self._loop
        )

    async def dial(self, peer: Peer, factory: Callable[[], Connection]) -> Connection:
        """Makes a connection of our own as aiohttp makes its own: with the same look-ups in the
        same cache, and the same tries of several addresses. Raises `DialError`.
        """
        try:
            hosts = await self._resolve_host(peer.host, peer.port)
        except OSError as error:
            raise DialError(DNS.because_of(error)) from None
        except aiohttp.ClientError as error:  # a number that is no address
            raise DialError(failed_below_http(error)) from None
        context = None if peer.trust is None else _context(peer.trust)
        name = None if context is None else peer.host.rstrip(".")  # as certificates spell it
        addresses = self._convert_hosts_to_addr_infos(hosts)
        failed = CONNECT
        while addresses:
            try:
                sock = await aiohappyeyeballs.start_connection(
                    addresses,
                    happy_eyeballs_delay=self._happy_eyeballs_delay,
                    interleave=self._interleave,
                    loop=self._loop,
                )
                _, connection = await self._loop.create_connection(
                    factory, sock=sock, ssl=context, server_hostname=name
                )
            except ssl.SSLError as error:
                failed = TLS.because_of(error)
            except OSError as error:
                failed = CONNECT.because_of(error)
            else:
                return connection
            aiohappyeyeballs.pop_addr_infos_interleave(addresses, self._interleave)
        raise DialError(failed)


def _context(trust: ssl.SSLContext | bool) -> ssl.SSLContext:
    """A TLS context; aiohttp's own where none is given: making one takes 20 ms and 0.5 MiB."""
    if isinstance(trust, ssl.SSLContext):
        return trust
    context = _SSL_CONTEXT_VERIFIED if trust else _SSL_CONTEXT_UNVERIFIED
    assert context is not None, "there is a module ssl"
    return context


class Resolver(aiohttp.ThreadedResolver):
    """The system's resolver. The connector asks for each name only once at a time, so there are as
    many threads as names are being looked up.
    """

    def __init__(self) -> None:
        lookups = _Lookups()
        super().__init__(cast("asyncio.AbstractEventLoop", lookups))


class _Lookups:
    """The part of a loop that `ThreadedResolver` calls. Look-ups do not run in the loop's own pool:
    on two cores, six that hang would take all of its threads.
    """

    async def getaddrinfo(self, host: str, port: int, **how: Any) -> list[Any]:
        look = partial(socket.getaddrinfo, host, port, **how)
        return await in_own_thread("resolver", look)

    async def getnameinfo(self, address: Any, flags: int) -> tuple[str, str]:
        return await in_own_thread("resolver", partial(socket.getnameinfo, address, flags))


async def in_own_thread(name: str, work: Callable[[], T]) -> T:
    """The result of `work`, run in a thread that the end of the process does not wait for. A read
    of a dead mount never returns, nor does a resolver without an answer: either would keep a thread
    of the loop's own pool, and so delay the exit.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: Exception | None) -> None:
        if done.done():
            return  # the caller has gone
        if error is None:
            done.set_result(cast("T", result))
        else:
            done.set_exception(error)

    def run() -> None:
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - the caller gets the error
            failure = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done

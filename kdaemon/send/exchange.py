"""One HTTP request and its answer: the connection, the memory of the body, and failures.

Records go over connections of our own (`pool.py`), which cost a fifth of aiohttp's. All other
calls, and whatever goes through a proxy, use aiohttp's connections (`posts.py`). Must not know
credentials, streams, or whether a call is made again: `client.py` decides that.
Invariant: whatever breaks before the first byte of a body is written is `was_sent=False`; no secret
and no data is in an error, nor in anything that an error keeps alive.
"""

import asyncio

from kdaemon.base.errors import ServiceError
from kdaemon.send.arriving import Answer, Room
from kdaemon.send.bodies import Bodies
from kdaemon.send.call import Call
from kdaemon.send.connection import Connection, Outcome
from kdaemon.send.connection_slots import ConnectionSlots
from kdaemon.send.failures import (
    CONNECT_TIMEOUT,
    OVERDUE,
    RECALLED,
    DialError,
    emptied,
    unforeseen,
)
from kdaemon.send.pool import Pool
from kdaemon.send.posts import Posts, Traces
from kdaemon.send.request import Route, encoded
from kdaemon.send.settings import ClientSettings


class Exchanges:
    """The requests of one client. `bodies`: the memory of the bodies that are not yet written.
    `slots`: the connections in use, ours and aiohttp's.
    """

    __slots__ = ("_settings", "bodies", "pool", "posts", "slots")

    def __init__(self, settings: ClientSettings, traces: Traces) -> None:
        self._settings = settings
        self.bodies = Bodies()
        self.slots = ConnectionSlots(settings.connections_max)
        self.posts = Posts(settings, self.bodies, self.slots, traces)
        self.pool = Pool(self.posts.dial)

    def take_limits(self, settings: ClientSettings) -> None:
        """Takes times and a number of connections, from the next request on."""
        self._settings = settings
        self.posts.take_limits(settings)
        self.slots.set_limit(settings.connections_max)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self.pool.aclose()
        await self.posts.aclose()

    async def post(
        self, route: Route, request: object, stream: str, room: Room, call: Call
    ) -> Answer:
        """The answer to one POST, on a connection of aiohttp's; as `Posts.post`."""
        return await call.within(self.posts.post(route, request, stream, room, call.leave))

    async def put(
        self, route: Route, request: object, stream: str, room: Room, call: Call
    ) -> Answer:
        """The answer to one POST of records, on a connection of our own. Behind a proxy, the same
        as `post`. Raises `ServiceError`.
        """
        peer = route.peer
        if peer is None:
            return await self.post(route, request, stream, room, call)
        body = encoded(request)
        held = self.bodies.add(stream, len(body))
        connection: Connection | None = None
        waiter: asyncio.Future[Outcome] | None = None
        has_slot = has_left = False
        limit_s = call.due_s
        try:
            has_slot = self.slots.take()
            connection = self.pool.take(peer) if has_slot else None
            if connection is None:
                now_s = asyncio.get_running_loop().time()
                limit_s = min(now_s + self._settings.connect_timeout_s, limit_s)
                async with asyncio.timeout_at(limit_s):
                    if not has_slot:
                        await self.slots.wait()
                        has_slot = True
                    connection = self.pool.take(peer) or await self.pool.open(peer)
            head = route.head(body)
            has_left = call.leave()
            if has_left:
                silence_s = self._settings.read_timeout_s
                waiter = connection.send(head, body, held, room, silence_s, call.due_s)
                del body, head  # the connection has the unwritten part
                outcome = await waiter
            else:
                outcome = RECALLED
        except TimeoutError:
            outcome = CONNECT_TIMEOUT if limit_s < call.due_s else call.overdue()
        except DialError as error:
            outcome = error.failed
            emptied(error)
        except Exception as error:
            if has_left:
                raise  # the outcome of the request is unknown
            what = f"the request to {route.address.host}"
            outcome = unforeseen(error, what, "endpoint_url or the credentials")
        finally:
            held.give()
            if has_slot:
                self.slots.give()
            if connection is not None:
                self._done(connection, waiter)
        if isinstance(outcome, Answer):
            return outcome
        # Raised here, so that no context of the error holds the request.
        if isinstance(outcome, ServiceError):
            raise outcome
        raise call.overdue() if outcome is OVERDUE else outcome.at(route.address.host)

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

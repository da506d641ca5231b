"""The state that all connections of one listener share: limits, counters, gate, the memory of
arriving requests, the tick.

Knows that connections can be asked to check their time or to close; must not know their requests.
Invariant: one timer for all connections of a listener, armed only while there are any.
Where it sits: beside connection.py, http2.py and opening.py, whose connections attach to it.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from kdaemon.base.limits import MIB
from kdaemon.base.memory import ByteBudget
from kdaemon.base.principal import ANYBODY, Principal
from kdaemon.base.ticks import next_tick_s
from kdaemon.http.arrivals import Arrivals
from kdaemon.http.counters import ListenerCounters
from kdaemon.http.handshakes import Handshakes
from kdaemon.http.heads import HeadBounds
from kdaemon.http.origin import Gate
from kdaemon.http.refusals import Refusal
from kdaemon.http.turns import Turns

VISITED_A_TURN = 250
"""Connections that are looked at in one turn of the loop, and perhaps closed for 20 us each: 10,000
connections that a client had opened together timed out together. Ours, 2026-11-28."""

LOOKED_AT_MAX = 64  # connections that are compared to find the least used one

TOLD_EVERY_NS = 60_000_000_000  # 1 min between equal log lines that clients cause

Who = Callable[[Any], Principal]
"""The principal at the other end of a new connection, by its transport."""

Early = Callable[[Principal, str, dict[bytes, bytes]], Refusal | None]
"""Why a request is refused before its body has come, by its principal, its query and its headers;
None: it is not."""


def anybody(_: Any) -> Principal:
    """The principal of every connection where no identity is asked for."""
    return ANYBODY


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one listener; all values are ours, 2026-11-21, for the reasons beside them.

    A sweep checks the times: a client is cut off between its limit and one interval later.
    """

    # Base64 of a 10 MiB call and its keys, with room to refuse it by name. 0: no bodies.
    body_bytes_max: int = 16 * MIB
    head_bytes_max: int = 32 * 1024  # SigV4 with a session token takes 3 KiB
    # A head is kept to read the next one by, unless it is larger than this. SDKs send less than 2
    # KiB, or 4 with a session token. 0: each head is read as if it were the first; 2026-11-29
    kept_head_bytes_max: int = 4 * 1024
    headers_max: int = 100  # SDKs send a dozen; browsers and proxies add as many; 2026-11-28
    head_timeout_s: float = 10.0  # a head is one packet; a slower client is stuck or attacks
    body_timeout_s: float = 30.0  # 16 MiB at 0.5 MiB/s
    idle_timeout_s: float = 120.0  # longer than the SDKs' pools keep a connection unused
    write_timeout_s: float = 30.0  # a client that does not read its answer
    discard_timeout_s: float = 2.0  # input is discarded after a refusal, so that the client sees it
    pipeline_max: int = 64  # requests of one connection that wait for an answer
    connections_max: int = 10_000  # 5 KiB each while idle, measured with 5,000; HTTP/2: 20 KiB
    bodies_bytes_max: int = 64 * MIB  # bodies still arriving, over all connections
    sweep_interval_s: float = 1.0


class Connection(Protocol):
    """What the hub asks of a connection."""

    def check_time(self, tick: int) -> None: ...
    def idle_ticks(self, tick: int) -> int:
        """For how many ticks the connection has had nothing whole arrive and no answer owed. Below
        1: it may not be closed to make place for others.
        """
        ...

    def leave(self) -> None:
        """Makes place for others, at once: the hub has already forgotten the connection."""
        ...

    def close_if_idle(self) -> None: ...
    def reset(self) -> None: ...


class ConnectionPlaces:
    """How many connections may be open, over all listeners that share this.

    When all places are taken, a newcomer gets the place of the oldest connection that has sent
    nothing yet (`silent`). If there is none, it gets the place of the connection that has been idle
    for longest, of any listener. So a client that only holds connections open keeps nobody out.
    """

    __slots__ = ("client_count", "connections_max", "hubs", "is_starved", "silent", "taken")

    def __init__(self, connections_max: int) -> None:
        self.connections_max = connections_max
        self.taken = 0
        self.client_count = 0  # connections that ever spoke, and so got a number
        self.is_starved = False  # the log was told that no file descriptor is left
        self.silent: dict[Connection, Hub] = {}
        self.hubs: list[Hub] = []

    def take(self) -> bool:
        """Takes a place. False: there is no place, and no connection that could make one."""
        if self.taken >= self.connections_max and not self._drop_one():
            return False
        self.taken += 1
        return True

    def _drop_one(self) -> bool:
        for connection, hub in self.silent.items():
            hub.drop(connection)
            return True
        found = [each for each in (hub.idlest() for hub in self.hubs) if each is not None]
        if not found:
            return False
        _, connection, hub = max(found, key=lambda each: each[0])
        hub.drop(connection)
        return True


class Hub:
    """Shared by the connections of one listener. `tick` counts sweeps: time without a clock."""

    def __init__(
        self,
        limits: ConnectionLimits,
        *,
        arrivals: Arrivals | None = None,
        places: ConnectionPlaces | None = None,
        gate: Gate | None = None,
        turns: Turns | None = None,
        now_ns: Callable[[], int] = lambda: 0,
        who: Who = anybody,
        early: Early | None = None,
        tls: Handshakes | None = None,
    ) -> None:
        """`arrivals`, `places`, `turns`: shared by several listeners; if not given, the listener
        has its own. `now_ns`: a clock that goes on within a turn of the loop, for its own turns.
        `tls`: the listener speaks TLS and nothing else.
        """
        self.take_limits(limits)
        self.arrivals = arrivals or Arrivals(ByteBudget(limits.bodies_bytes_max))
        self.bodies = self.arrivals.budget
        self.places = places or ConnectionPlaces(limits.connections_max)
        self.places.hubs.append(self)
        self.gate = gate or Gate()
        self.turns = turns or Turns(now_ns)
        self.who = who
        self.early = early
        self.tls = tls
        self._told_ns: dict[str, int] = {}
        self.on_sweep: Callable[[], object] | None = None
        self.counters = ListenerCounters()
        self.tick = 0
        self.is_draining = False
        self._connections: OrderedDict[Connection, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Event | None = None

    def take_limits(self, limits: ConnectionLimits) -> None:
        """Sets other limits. Their times hold from now on; the other limits hold for new
        connections.
        """
        self.limits = limits
        self.head_ticks_max = self._ticks(limits.head_timeout_s)
        self.body_ticks_max = self._ticks(limits.body_timeout_s)
        self.idle_ticks_max = self._ticks(limits.idle_timeout_s)
        self.write_ticks_max = self._ticks(limits.write_timeout_s)
        self.discard_ticks_max = self._ticks(limits.discard_timeout_s)

    def head_bounds(self) -> HeadBounds:
        """What a new connection takes and keeps of heads, and the largest body that a head may
        announce: a body that could never arrive is refused for good.
        """
        limits = self.limits
        return HeadBounds(
            limits.head_bytes_max,
            limits.headers_max,
            min(limits.body_bytes_max, self.bodies.bytes_max),
            min(limits.kept_head_bytes_max, limits.head_bytes_max),
        )

    def _ticks(self, seconds: float) -> int:
        return math.ceil(seconds / self.limits.sweep_interval_s)

    def attach(self, connection: Connection, *, is_silent: bool = False) -> bool:
        """A connection is made. False: it is one too many, is counted as refused, and the caller
        must drop it.

        `is_silent`: it may lose its place to another connection until it is handed over.
        """
        if not self.places.take():
            self.counters.refused["connections"] += 1
            return False
        if is_silent:
            self.places.silent[connection] = self
        self.counters.opened += 1
        self.counters.open += 1
        self._connections[connection] = None
        if self._timer is None:
            self._arm()
        return True

    def number_client(self) -> int:
        """A number for a connection that begins to speak; no other connection of any listener has
        it.
        """
        self.places.client_count += 1
        return self.places.client_count

    def may_tell(self, what: str) -> bool:
        """Whether `what` was not logged in the last TOLD_EVERY_NS; then it counts as logged now.
        Without this, clients would decide how often it is logged. `what`: one of a few texts.
        """
        now_ns, told_ns = self.turns.now_ns(), self._told_ns.get(what)
        if told_ns is not None and now_ns - told_ns < TOLD_EVERY_NS:
            return False
        self._told_ns[what] = now_ns
        return True

    def idlest(self) -> "tuple[int, Connection, Hub] | None":
        """Looks at some connections, each time at others: how long the longest idle one has been
        idle, the connection, and its hub. None: none of them may be closed.
        """
        best: Connection | None = None
        best_ticks = 0
        for _ in range(min(len(self._connections), LOOKED_AT_MAX)):
            connection = next(iter(self._connections))
            self._connections.move_to_end(connection)
            ticks = connection.idle_ticks(self.tick)
            if ticks > best_ticks:
                best, best_ticks = connection, ticks
        return None if best is None else (best_ticks, best, self)

    def drop(self, connection: Connection) -> None:
        """Closes a connection whose place is needed by others, and counts it as refused."""
        self.counters.refused["connections"] += 1
        self.detach(connection)
        connection.leave()

    def detach(self, connection: Connection) -> None:
        """A connection is lost. A connection that was never attached changes nothing."""
        if connection not in self._connections:
            return
        del self._connections[connection]
        self.places.silent.pop(connection, None)
        self.places.taken -= 1
        self.counters.open -= 1
        if not self._connections and self._all_gone is not None:
            self._all_gone.set()

    def hand_over(self, old: Connection, new: Connection) -> None:
        """The same client connection goes on under another protocol."""
        self.places.silent.pop(old, None)
        self._connections.pop(old, None)
        self._connections[new] = None

    def sweep(self) -> None:
        """One tick of time for every connection: for some in this turn of the loop, for the others
        in the next turns.
        """
        self.tick += 1
        self._visit(deque(self._connections), self._check_time)
        if self.on_sweep is not None:
            self.on_sweep()

    def _check_time(self, connection: Connection) -> None:
        connection.check_time(self.tick)

    def _visit(self, left: deque[Connection], visit: Callable[[Connection], object]) -> None:
        """Visits the connections that are still attached: some now, the others in the next
        turns.
        """
        for _ in range(min(len(left), VISITED_A_TURN)):
            connection = left.popleft()
            if connection in self._connections:
                visit(connection)
        if left:
            self.turns.later(partial(self._visit, left, visit))

    def close_idle(self) -> None:
        """Closes connections between requests. From now on, each answer closes its connection."""
        self.is_draining = True
        self._visit(deque(self._connections), _close_if_idle)

    async def aclose(self, grace_s: float) -> None:
        """Open requests have `grace_s` seconds to be answered; connections that are left then are
        reset.
        """
        self.close_idle()
        if self._connections:
            self._all_gone = asyncio.Event()
            try:
                await asyncio.wait_for(self._all_gone.wait(), grace_s)
            except TimeoutError:
                for connection in tuple(self._connections):
                    connection.reset()
                await self._all_gone.wait()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def is_sweep_due(self) -> bool:
        """A timer runs for the next sweep."""
        return self._timer is not None

    def audit(self) -> tuple[Connection, ...]:
        """The open connections. Only for tests."""
        return tuple(self._connections)

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        at_s = next_tick_s(loop.time(), self.limits.sweep_interval_s)
        self._timer = loop.call_at(at_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.sweep()
        if self._connections:
            self._arm()


def _close_if_idle(connection: Connection) -> None:
    connection.close_if_idle()

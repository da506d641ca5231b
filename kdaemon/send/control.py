"""Control calls within the account's quota: their order, their retries, and missing streams.

Everything but PutRecords goes through here: the look-ups of `discovery.py`, and turns for the calls
that `relay.py` passes on for clients. Knows errors and time; must not know what an operation says.

There are three queues. Look-ups for listed streams go first: neither names that clients made up nor
calls of clients can delay the shard map of a listed stream. The other two queues, look-ups of
unlisted streams and calls for clients, take turns. Bounds: at most UNLISTED_WAITING_MAX calls for
unlisted streams wait, and one more is refused at once; for each listed stream at most a few calls
wait; for clients one call of each operation. All queues together are drained at `calls_per_second`.
If an unlisted stream is missing, that is remembered for MISSING_S, for MISSING_MAX streams; then
the oldest is forgotten.
Invariant: on average there are never more calls a second than the quota allows; MAP_CALLS or a
second's calls, whichever are more, may be made at once. A failed call is made at most
`attempts_max` times in all, and again only if that can help.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from asyncio_throttle.throttler import Throttler

from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.ports import Dice
from kdaemon.base.service import AWS, Service
from kdaemon.base.verdict import Verdict
from kdaemon.settle.verdict import MISSING_STREAM, judge_call

BACKOFF_FIRST_S: Final = 0.2  # ours: seconds, the bound of the first wait; doubles each time
BACKOFF_MAX_S: Final = 5.0  # ours: seconds, the bound of any wait
# Seconds above the bound if the service asks for more; as the engine's flow.
BEYOND_BACKOFF_S_MAX: Final = 5.0
MISSING_S: Final = 10.0  # ours, 2026-11-28: a stream is made in 10 to 30 s, and is looked for again
MISSING_MAX: Final = 1024  # ours: streams known to be missing; some 0.3 KB each
UNLISTED_WAITING_MAX: Final = 64  # ours: 13 s of the default quota
_PASSING: Final = frozenset({Verdict.THROTTLED, Verdict.NOT_SENT, Verdict.AMBIGUOUS})

ControlCall = Callable[[str, dict[str, object], StreamTarget], Awaitable[dict[str, Any]]]
"""Operation, payload and stream -> the decoded answer, or `ServiceError`: `ServiceClient.call`, and
in turns `ControlCalls.ask`.
"""


CALLS_PER_SECOND = 5.0
"""Of one daemon, to one upstream: a quarter of what AWS allows a whole account of
DescribeStreamSummary (20 a second), half of DescribeStream. Ours, 2026-11-21."""

MAP_CALLS: Final = 2
"""Calls that a shard map takes (`Discovery.describe`): so many are made without a pause, whatever
the rate is. Each of many workers has a small rate, and a pause within its first map would make it
begin the shards twice. Ours, 2026-11-29."""

EMBEDDED_CALLS_PER_SECOND = 1000.0
"""To an embedded service, which has no account whose quota others need. Ours, 2026-11-29."""


def calls_per_second(worker_count: int = 1, *, is_embedded: bool = False) -> float:
    """What one of so many workers may ask of one upstream."""
    return (EMBEDDED_CALLS_PER_SECOND if is_embedded else CALLS_PER_SECOND) / worker_count


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """`calls_per_second`: of all control calls of this daemon, > 0. `attempts_max`: of one
    call, the first included.
    """

    service: Service = AWS
    calls_per_second: float = CALLS_PER_SECOND
    attempts_max: int = 5


class ControlCalls:
    """The control calls of one upstream: all its streams share one rate."""

    def __init__(
        self,
        call: ControlCall,
        settings: ControlSettings,
        dice: Dice,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        """`sleep`: waits between attempts, in seconds. `now_s`: None: the loop's time."""
        self._call = call
        self._settings = settings
        self._dice = dice
        self._sleep = sleep
        self._now_s = now_s or asyncio.get_running_loop().time
        burst = max(MAP_CALLS, int(settings.calls_per_second))
        self._throttler = Throttler(burst, period=burst / settings.calls_per_second)
        self._listed: deque[asyncio.Future[None]] = deque()
        self._unlisted: deque[asyncio.Future[None]] = deque()
        self._passed_on: deque[asyncio.Future[None]] = deque()
        self._is_for_clients = False  # whether clients had the last turn that both queues wanted
        self._granting: asyncio.Task[None] | None = None  # runs while a call waits
        self._missing: OrderedDict[StreamTarget, tuple[float, ServiceError]] = OrderedDict()

    async def ask(
        self, operation: str, payload: dict[str, object], target: StreamTarget
    ) -> dict[str, Any]:
        """One control call, made again while its failure may pass. Raises `ServiceError`: that of
        the last attempt, or ControlQueueFull if too many calls for unlisted streams wait.
        """
        if not target.is_listed:
            self._check_missing(target)
        attempt = 1
        while True:
            await self._turn(is_listed=target.is_listed)
            try:
                return await self._call(operation, payload, target)
            except ServiceError as error:
                failure = error.kept()
            is_missing = failure.code == MISSING_STREAM and failure.trouble is None
            if is_missing and not target.is_listed:
                self._note_missing(target, failure)
            may_pass = judge_call(failure, self._settings.service) in _PASSING
            if not may_pass or attempt >= self._settings.attempts_max:
                raise failure
            bound_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (attempt - 1))
            wait_s = bound_s * self._dice.random()
            asked_s = failure.retry_after_ns / 1e9
            await self._sleep(min(max(wait_s, asked_s), wait_s + BEYOND_BACKOFF_S_MAX))
            attempt += 1

    async def aclose(self) -> None:
        """Grants no more turns."""
        if self._granting is not None:
            self._granting.cancel()
            await asyncio.wait([self._granting])

    async def turn_for_client(self) -> None:
        """Waits for a turn of the quota, for one call that is passed on."""
        await self._wait_in(self._passed_on)

    async def _turn(self, *, is_listed: bool) -> None:
        """Waits for a turn of the quota, in the queue of this kind of stream."""
        queue = self._listed if is_listed else self._unlisted
        if not is_listed and len(queue) >= UNLISTED_WAITING_MAX:
            raise ServiceError(
                Trouble.BUSY,
                f"{len(queue)} control calls for unlisted streams wait already: list the streams"
                " that matter, which go first",
                was_sent=False,
            )
        await self._wait_in(queue)

    async def _wait_in(self, queue: deque[asyncio.Future[None]]) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        if self._granting is None:
            self._granting = asyncio.create_task(self._grant(), name="control calls")
        try:
            await waiter
        finally:
            if waiter in queue:  # cancelled before its turn: it must not use a turn up
                queue.remove(waiter)

    async def _grant(self) -> None:
        """Grants turns one by one, at the quota's rate. Each turn decides which call is next."""
        try:
            while self._listed or self._unlisted or self._passed_on:
                await self._throttler.acquire()  # type: ignore[no-untyped-call]  # it ships half its types
                queue = self._next_queue()
                if queue:
                    waiter = queue.popleft()
                    if not waiter.done():
                        waiter.set_result(None)
        finally:
            self._granting = None

    def _next_queue(self) -> deque[asyncio.Future[None]]:
        if self._listed:
            return self._listed
        if self._unlisted and self._passed_on:
            self._is_for_clients = not self._is_for_clients
            return self._passed_on if self._is_for_clients else self._unlisted
        return self._unlisted or self._passed_on

    def _check_missing(self, target: StreamTarget) -> None:
        """Raises the error of a stream that was found missing a moment ago."""
        known = self._missing.get(target)
        if known is None:
            return
        until_s, error = known
        if self._now_s() < until_s:
            raise error.kept()  # the frames of the last raise must not stay alive
        del self._missing[target]

    def _note_missing(self, target: StreamTarget, error: ServiceError) -> None:
        self._missing[target] = (self._now_s() + MISSING_S, error)
        self._missing.move_to_end(target)
        if len(self._missing) > MISSING_MAX:
            self._missing.popitem(last=False)

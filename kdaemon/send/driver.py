"""The shell around one Engine: its calls, its timer, its shard map. It makes no decisions.

After every input the driver pumps once: it polls batches and starts a call for each, tells the
clients of settled frames, and arms one timer. Frames that arrive within one turn of the loop are
pumped together, so that clients who send at the same moment share a batch without waiting. Queues:
`_untold` has frames that settled at once with many others: in each turn of the loop some of their
clients are told. Bound: the frames that settle in one call and in one slice of the engine's work,
which waits until they are told. The engine bounds the calls in flight.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from kdaemon.base.counters import DeadReason
from kdaemon.base.description import Caller, StreamDescription, StreamTarget
from kdaemon.base.endpoint import Endpoint
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.frame import Frame
from kdaemon.base.histogram import Histogram
from kdaemon.base.ports import Clock
from kdaemon.base.record import Record
from kdaemon.base.steps import Steps
from kdaemon.engine import Engine
from kdaemon.http.waiters import call_back
from kdaemon.pack.batch import Batch
from kdaemon.route.freshness import Doubt
from kdaemon.send.dry_runs import DryRuns

if TYPE_CHECKING:
    from kdaemon.send.client import PutAnswer

log = logging.getLogger("kdaemon.send")

DRAWN_A_TURN = 2_000  # records that are put into calls in one turn of the loop: 2 ms; ours

TOLD_AT_ONCE = 16  # up to this many frames that settle together are told together, however large

TOLD_A_TURN = 2_000
"""Of more frames, the number of records whose clients are told in one turn of the loop; a frame
counts as FRAME_PIECES more: 2 ms. Ours, 2026-11-28: an answer takes 11 us, and 0.3 us a record."""

FRAME_PIECES = 12
LETTER_PIECES = 7  # for a dead record, of which a dead letter is made. Ours, 2026-11-28: 7 us

ENCRYPTION_NOT_SET = "ENCRYPTION_UNDEFINED"
"""Yandex's word if no shard answered, and in each DescribeStream [YS: its enum's default;
2026-11-28]. No SDK knows the word, so kdaemon tells it to no client."""

DEAD_WORDS = {
    DeadReason.POISON: "the service refuses them for themselves",
    DeadReason.EXPIRED: "they are older than the stream's max_age_ms",
    DeadReason.MISSING_STREAM: "their stream does not exist",
}


Heard = StreamDescription | ServiceError | None
"""What was heard of a stream: its description; why the service has no such stream; None: the
question had no answer.
"""


class Client(Protocol):
    """How a batch reaches the service (`send/late.py`)."""

    on_new_keys: Callable[[Caller], object] | None
    """Is told the owner of the keys that calls are signed with from now on, as far as known."""

    @property
    def is_ready(self) -> bool:
        """Whether a call would be made at once, without waiting for libraries."""
        ...

    @property
    def credentials_end_s(self) -> float | None: ...

    @property
    def endpoint(self) -> Endpoint: ...

    async def caller(self) -> Caller: ...

    async def put_records(
        self, target: StreamTarget, records: list[Record], leave: Callable[[], bool]
    ) -> "PutAnswer":
        """`leave`: asked before the first byte is written; False: nothing may be written."""
        ...

    async def dry_run(self, target: StreamTarget, records: list[Record]) -> ServiceError: ...


class Describer(Protocol):
    """How a stream's shards and limits are learnt (`send/discovery.py`)."""

    async def describe(self, target: StreamTarget) -> StreamDescription: ...


class StreamDriver:
    """Runs one stream. All methods but `aclose` are sync and belong to the loop's thread."""

    def __init__(
        self,
        target: StreamTarget,
        engine: Engine,
        client: Client,
        discovery: Describer,
        clock: Clock,
        lag: Histogram,
    ) -> None:
        """`lag`: takes how late the engine's wake-ups are, in nanoseconds."""
        self.target = target
        self._lag = lag
        self.engine = engine
        self.dry_runs = DryRuns(target, client)
        self.on_heard: Callable[[Heard], object] = _ignore
        # As the service said last; before that: what most streams are.
        self.encryption_type = "NONE"
        self._client = client
        self._discovery = discovery
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._calls: set[asyncio.Task[None]] = set()
        self._describing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._is_pump_due = False
        self._is_closed = False
        self._makes_no_calls = False  # another process sends what is queued
        self._dead_told = dict.fromkeys(DeadReason, 0)
        self._gone: list[Frame] = []  # frames whose clients have gone; withdrawn together
        self._dead_seen = 0  # dead records, when frames that settled together were last told
        self._untold: deque[Frame] = deque()
        self._room_waiters: dict[Callable[[], object], None] = {}  # each callback once, in order
        self._pump_waiters: list[asyncio.Future[None]] = []
        self.pump_soon()

    def take_settings(self, settings: EngineSettings) -> Steps[None]:
        """Takes other limits and promises, as the engine does. Callers that wait for room retry."""
        yield from self.engine.handle_settings(settings, self._clock.now_ns())
        self._tell_of_room()
        self.pump_soon()

    def submit(self, frame: Frame, is_patient: bool = False) -> bool:
        """Hands a checked frame to the engine, as its `handle_frame`. False: there is no room."""
        if not self.engine.handle_frame(frame, self._clock.now_ns(), is_patient=is_patient):
            return False
        self.pump_soon()
        return True

    def submit_spooled(self, frame: Frame) -> bool:
        """As `submit`, for a frame that is in the spool and was counted there."""
        if not self.engine.handle_spooled(frame, self._clock.now_ns()):
            return False
        self.pump_soon()
        return True

    def when_room(self, callback: Callable[[], object]) -> None:
        """Calls back once, when a frame has settled and there may be room again."""
        self._room_waiters[callback] = None

    def withdraw(self, frame: Frame) -> None:
        """The client of this frame has gone: its queued records are withdrawn at the next pump."""
        self._gone.append(frame)
        self.pump_soon()

    def give_up_missing(self, error: ServiceError) -> None:
        """The stream does not exist and is not listed: no record is kept for it."""
        self.engine.give_up_missing(error, self._clock.now_ns())
        self._tell_settled()
        self.pump_soon()

    def ask_again(self) -> None:
        """Asks the service for the stream now."""
        self.engine.freshness.ask_again(self._clock.now_ns())
        self.pump_soon()

    @property
    def can_ask(self) -> bool:
        """Whether the service can be asked for the stream now."""
        return self._client.is_ready

    def doubt_limits(self) -> None:
        """A record broke a limit as we know it: the service may have raised that limit."""
        self.engine.freshness.stale(self._clock.now_ns(), Doubt.LIMITS)
        self.pump_soon()

    def begin_drain(self) -> None:
        """Records do not linger from now on."""
        self.engine.begin_drain()
        self.pump_soon()

    async def finish_calls(self) -> None:
        """Makes no more calls, and returns when the calls in flight have ended: another process
        sends what is queued.
        """
        self._makes_no_calls = True
        while self._calls:
            await asyncio.wait(self._calls)

    async def wait_idle(self) -> None:
        """Returns when nothing is buffered or in flight, and all clients are told."""
        while not self.is_idle:
            await self._pumped()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is buffered or in flight, and all clients are told."""
        return self.engine.is_idle and not self._untold

    async def give_up(self) -> None:
        """Withdraws what is queued, and answers every client that still waits."""
        self.engine.give_up(self._clock.now_ns())
        self._tell_settled()
        self.pump_soon()
        while self._untold or self.engine.is_refusing:
            await self._pumped()

    async def aclose(self) -> None:
        """Cancels everything under way. Calls in flight have an unknown outcome."""
        self._is_closed = True
        self.on_heard = _ignore  # the other one refers to this driver: a cycle
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        describing = [self._describing] if self._describing else []
        tasks = [*self._calls, *describing]
        self._describing = None  # a cancelled task keeps the frames of the stack that it ended in
        for task in tasks:
            task.cancel()
        await asyncio.gather(self.dry_runs.aclose(), *tasks, return_exceptions=True)

    async def _pumped(self) -> None:
        """Returns after the next pump."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._pump_waiters.append(waiter)
        await waiter

    def pump_soon(self) -> None:
        """Looks at the engine in the loop's next turn."""
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump_due)

    def _pump_due(self) -> None:
        self._is_pump_due = False
        self._pump()

    def _pump(self) -> None:
        if self._is_closed:
            return
        engine = self.engine
        now_ns = self._clock.now_ns()
        if not self._untold:  # else there is enough to do
            engine.handle_timeout(now_ns)
            if self._gone:
                gone, self._gone = self._gone, []
                engine.handle_clients_gone(gone, now_ns)
        drawn = 0
        drawn_max = 0 if self._makes_no_calls else DRAWN_A_TURN
        while drawn < drawn_max and (batch := engine.poll_batch(now_ns)) is not None:
            drawn += batch.record_count
            batch.has_left = False
            call = self._loop.create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        if self._describing is None and engine.freshness.ask(now_ns):
            self._describing = self._loop.create_task(self._describe())
        self._tell_settled()
        if drawn >= DRAWN_A_TURN:
            self.pump_soon()
        elif not self._untold and not self._makes_no_calls:
            self._arm(now_ns)
        waiters, self._pump_waiters = self._pump_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _tell_settled(self) -> None:
        settled = self.engine.take_settled()
        if self._untold or self._is_much(settled):
            self._untold.extend(settled)
            settled = [] if self._is_pump_due else self._take_untold()
        for frame in settled:
            if frame.on_settled is not None:
                try:
                    frame.on_settled(frame)
                except Exception:  # the other clients still get their answers
                    log.exception(
                        "a client could not be told of its settled frame: a defect of kdaemon"
                    )
        if settled and self._room_waiters:
            self._tell_of_room()

    def _tell_of_room(self) -> None:
        waiters, self._room_waiters = self._room_waiters, {}
        call_back(waiters, self.target.qualified.text)

    def _is_much(self, settled: list[Frame]) -> bool:
        """Whether telling all these clients takes more than a turn. One frame is told whole."""
        if len(settled) < 2:
            return False
        dead_count = sum(self.engine.counters.dead.values())
        is_any_dead, self._dead_seen = dead_count != self._dead_seen, dead_count
        if is_any_dead and sum(map(_dead_count, settled)) * LETTER_PIECES > TOLD_A_TURN:
            return True
        return (
            len(settled) > TOLD_AT_ONCE
            and sum([len(frame.results) + FRAME_PIECES for frame in settled]) > TOLD_A_TURN
        )

    def _take_untold(self) -> list[Frame]:
        """The frames whose clients are told in this turn; later turns tell the others."""
        taken: list[Frame] = []
        pieces = 0
        while self._untold and pieces < TOLD_A_TURN:
            frame = self._untold.popleft()
            taken.append(frame)
            pieces += len(frame.results) + FRAME_PIECES + LETTER_PIECES * _dead_count(frame)
        if self._untold:
            self.pump_soon()
        return taken

    def _arm(self, now_ns: int) -> None:
        wakeup_ns = self.engine.next_wakeup_ns()
        if self._timer is not None:
            if wakeup_ns is not None and now_ns < self._timer_ns <= wakeup_ns:
                return  # the timer fires early enough; moving it costs more than one idle pump
            self._timer.cancel()
            self._timer = None
        if wakeup_ns is not None:
            self._timer_ns = max(wakeup_ns, now_ns)
            delay_s = (self._timer_ns - now_ns) / 1e9
            self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._lag.observe(max(0, self._clock.now_ns() - self._timer_ns))
        self._pump()
        self._tell_dead()  # of records that grew too old

    async def _call(self, batch: Batch) -> None:
        engine = self.engine
        try:
            answer = await self._client.put_records(self.target, batch.records, batch.leave)
        except ServiceError as error:
            # The stack frame that raised the error refers to it: a cycle that holds the records.
            error.kept()
            log.warning("PutRecords failed", extra=self._extra(error))
            engine.handle_failure(batch, error, self._clock.now_ns())
            if engine.is_missing(error):
                self.on_heard(error)
        except Exception:
            # A defect of ours must not lose records: the call may have been made, or not.
            log.exception("PutRecords broke: a defect of kdaemon", extra=self._extra())
            broken = ServiceError(Trouble.DEFECT, "kdaemon failed while calling the service")
            engine.handle_failure(batch, broken, self._clock.now_ns())
        else:
            self._note_encryption(answer.encryption_type)
            engine.handle_results(batch, answer.records, self._clock.now_ns())
        self._tell_dead()
        self._pump()

    def _extra(self, error: ServiceError | None = None) -> dict[str, object]:
        """What a log line says beside its text. The error's message has no data: the client cleaned
        it.
        """
        fields: dict[str, object] = {"stream": self.target.qualified.text}
        if error is not None:
            fields["code"] = error.code
            if error.request_id:
                fields["request_id"] = error.request_id
            fields["error"] = error.message
        return {"fields": fields}

    def _note_encryption(self, told: str | None) -> None:
        if told is not None and told != ENCRYPTION_NOT_SET:
            self.encryption_type = told

    def _tell_dead(self) -> None:
        """Logs one line for each reason, with the count so far."""
        for reason, count in self.engine.counters.dead.items():
            if count != self._dead_told[reason]:
                fields = {
                    "stream": self.target.qualified.text,
                    "reason": reason.value,
                    "dead": count,
                }
                log.error("records are dead: %s", DEAD_WORDS[reason], extra={"fields": fields})
                self._dead_told[reason] = count

    async def _describe(self) -> None:
        engine = self.engine
        try:
            description = await self._discovery.describe(self.target)
        except ServiceError as error:
            error.kept()  # others get the error; its stack frames stay here
            text = "the stream's shards and limits are unknown"
            log.warning(text, extra=self._extra(error))
            engine.handle_no_description(error, self._clock.now_ns())
            self.on_heard(error if engine.is_missing(error) else None)
        except Exception:
            log.exception("discovery broke: a defect of kdaemon", extra=self._extra())
            broken = ServiceError(Trouble.DEFECT, "kdaemon failed while asking for the stream")
            engine.handle_no_description(broken, self._clock.now_ns())
            self.on_heard(None)
        else:
            self._note_encryption(description.encryption_type)
            for _ in engine.take_description(description, self._clock.now_ns()):
                await asyncio.sleep(0)
            self.on_heard(description)
        self._describing = None
        self._pump()


def _ignore(_heard: Heard) -> None:
    pass


def _dead_count(frame: Frame) -> int:
    dead_count = 0 if frame.attempt_counts is None else len(frame.attempt_counts)
    if frame.history is not None:
        dead_count = max(dead_count, len(frame.history.dead_reasons))
    return dead_count

"""The shell around one Engine: its calls, its timer, its shard map. No decisions of its own.

After every input it pumps once: polls batches and starts a call for each, tells the clients of
what settled, arms one timer. Frames that arrive within one turn of the loop are pumped together,
so that clients who speak at the same moment share a batch at no wait.
Queues: `_untold`, frames that settled at once with many others: their clients are told a part in
each turn of the loop. Bound: what settles in one call and in one slice of the engine's work, which
waits until they are told. The engine bounds the calls in flight.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from kdaemon.base.counters import DeadReason
from kdaemon.base.description import Caller, StreamDescription, StreamTarget
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.frame import Frame
from kdaemon.base.histogram import Histogram
from kdaemon.base.ports import Clock
from kdaemon.base.record import Record
from kdaemon.base.steps import Steps
from kdaemon.engine import Engine, EngineSettings
from kdaemon.pack.batch import Batch
from kdaemon.route.freshness import Doubt
from kdaemon.route.shard_map import keyless_key
from kdaemon.settle.verdict import UNAVAILABLE

if TYPE_CHECKING:
    from kdaemon.send.client import PutAnswer

log = logging.getLogger("kdaemon.send")

DRAWN_A_TURN = 2_000  # records that are put into calls in one turn of the loop: 2 ms; ours

TOLD_AT_ONCE = 16  # frames that settle together and are told together, however large

TOLD_A_TURN = 2_000
"""Of more than that, how many records' clients are told in one turn of the loop, a frame counted as
FRAME_PIECES of them: 2 ms. Ours, 2026-11-28: an answer takes 11 us, and 0.3 us for each record."""

FRAME_PIECES = 12
LETTER_PIECES = 7  # a dead record, for which a dead letter is made. Ours, 2026-11-28: 7 us

ENCRYPTION_NOT_SET = "ENCRYPTION_UNDEFINED"
"""Yandex's word where no shard answered, and in each DescribeStream [YS: its enum's default;
2026-11-28]. No SDK knows the word, and no client hears it of us."""

DEAD_WORDS = {
    DeadReason.POISON: "the service refuses them for themselves",
    DeadReason.EXPIRED: "they are older than the stream's max_age_ms",
    DeadReason.MISSING_STREAM: "their stream does not exist",
}


class Client(Protocol):
    """How a batch reaches the service (`send/late.py`)."""

    on_new_keys: Callable[[Caller], object] | None
    """Hears whose keys the calls are signed with from now on, as far as they tell."""

    @property
    def is_ready(self) -> bool:
        """Whether a call would be made at once, and waits for nothing that is loaded yet."""
        ...

    @property
    def credentials_end_s(self) -> float | None: ...

    async def caller(self) -> Caller: ...

    async def put_records(
        self, target: StreamTarget, records: list[Record], leave: Callable[[], bool]
    ) -> "PutAnswer":
        """`leave`: asked before the first byte is written; False: it must not be."""
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
        self.on_described: Callable[[StreamDescription], object] | None = None
        self.on_missing: Callable[[ServiceError], object] | None = None
        self.on_no_answer: Callable[[], object] | None = None  # to the question for the stream
        self.encryption_type = "NONE"  # as the service last said; until it does: what most are
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
        self._makes_no_calls = False  # what is queued is another process's to send
        self._dead_told = dict.fromkeys(DeadReason, 0)
        self._gone: list[Frame] = []  # their clients have gone; withdrawn together
        self._dead_seen = 0  # records, when some that settled together were told of last
        self._untold: deque[Frame] = deque()
        self._is_turn_due = False  # for `_untold`
        self._dry_runs: set[asyncio.Task[None]] = set()
        self._room_waiters: dict[Callable[[], object], None] = {}  # each once, in order
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._pump_waiters: list[asyncio.Future[None]] = []
        self._pump_soon()

    def take_settings(self, settings: EngineSettings) -> Steps[None]:
        """As the engine's: other limits and promises from now on. Who waits for room tries anew."""
        yield from self.engine.handle_settings(settings, self._clock.now_ns())
        self._tell_of_room()
        if not self._is_pump_due:
            self._pump_soon()

    def submit(self, frame: Frame, is_patient: bool = False) -> bool:
        """Hands a checked frame to the engine, as its `handle_frame`."""
        if not self.engine.handle_frame(frame, self._clock.now_ns(), is_patient=is_patient):
            return False
        if not self._is_pump_due:
            self._pump_soon()
        return True

    def submit_spooled(self, frame: Frame) -> bool:
        """As `submit`, for a frame that stands in the spool and was counted there."""
        if not self.engine.handle_spooled(frame, self._clock.now_ns()):
            return False
        if not self._is_pump_due:
            self._pump_soon()
        return True

    def when_room(self, callback: Callable[[], object]) -> None:
        """Calls back once, when something has settled and there may be room again."""
        self._room_waiters[callback] = None

    def withdraw(self, frame: Frame) -> None:
        """The client of this frame has gone: what is queued of it is withdrawn, soon."""
        self._gone.append(frame)
        if not self._is_pump_due:
            self._pump_soon()

    def give_up_missing(self, error: ServiceError) -> None:
        """There is no such stream, and nobody listed it: nothing is kept for it."""
        self.engine.give_up_missing(error, self._clock.now_ns())
        self._tell_settled()
        if not self._is_pump_due:
            self._pump_soon()

    def ask_again(self) -> None:
        """Asks the service for the stream, now."""
        self.engine.freshness.ask_again(self._clock.now_ns())
        if not self._is_pump_due:
            self._pump_soon()

    def dry_run(
        self,
        records: list[Record],
        told: Callable[[ServiceError], object],
        timeout_s: float,
        arn: str | None = None,
    ) -> None:
        """Asks the service what would become of these records; `told` hears its answer, once, or
        after `timeout_s` that there is none. `arn`: by which the client called the stream, and so
        by which the service is asked.
        """
        target = self.target if arn is None else StreamTarget(self.target.name, arn)
        asked = [  # as they would go out: the wire cannot carry a key that is missing
            each
            if each.partition_key
            else Record(each.data, keyless_key(number), each.explicit_hash_key)
            for number, each in enumerate(records)
        ]

        async def ask() -> None:
            try:
                async with asyncio.timeout(timeout_s):
                    error = await self._client.dry_run(target, asked)
            except TimeoutError:
                text = f"The service did not answer a dry run within {timeout_s:g} s."
                error = ServiceError(UNAVAILABLE, text, status=503)
            except Exception:
                log.exception(
                    "a dry run broke", extra={"fields": {"stream": self.target.qualified.text}}
                )
                error = ServiceError("InternalFailure", "kdaemon failed to ask.", status=500)
            told(error)

        asking = self._loop.create_task(ask())
        self._dry_runs.add(asking)
        asking.add_done_callback(self._dry_runs.discard)

    @property
    def is_asking(self) -> bool:
        """A client waits for the answer to its dry run."""
        return bool(self._dry_runs)

    @property
    def can_ask(self) -> bool:
        """Whether the service can be asked for the stream now."""
        return self._client.is_ready

    def doubt_limits(self) -> None:
        """A record broke a limit as we know it: it may have been raised."""
        self.engine.freshness.stale(self._clock.now_ns(), Doubt.LIMITS)
        if not self._is_pump_due:
            self._pump_soon()

    def begin_drain(self) -> None:
        """No linger from now on."""
        self.engine.begin_drain()
        self._pump_soon()

    async def finish_calls(self) -> None:
        """Makes no call from now on, and returns when those under way have ended: what is queued is
        another process's to send.
        """
        self._makes_no_calls = True
        while self._calls:
            await asyncio.wait(self._calls)

    async def wait_idle(self) -> None:
        """Returns when nothing is buffered and nothing in flight, and all are told."""
        while not self.is_idle:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._idle_waiters.append(waiter)
            await waiter

    @property
    def is_idle(self) -> bool:
        """Nothing is buffered and nothing in flight, and all are told."""
        return self.engine.is_idle and not self._untold

    async def give_up(self) -> None:
        """Answers every client that still waits: what is queued is withdrawn."""
        self.engine.give_up(self._clock.now_ns())
        self._tell_settled()
        if not self._is_pump_due:
            self._pump_soon()
        while self._untold or self.engine.is_refusing:
            pumped: asyncio.Future[None] = self._loop.create_future()
            self._pump_waiters.append(pumped)
            await pumped

    async def aclose(self) -> None:
        """Cancels what is under way. What was in flight has an unknown outcome."""
        self._is_closed = True
        self.on_described = self.on_missing = self.on_no_answer = None  # they know us: a cycle
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        describing = [self._describing] if self._describing else []
        tasks = [*self._calls, *self._dry_runs, *describing]
        self._describing = None  # a task that was cancelled keeps the frames that it ended in
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _pump_soon(self) -> None:
        self._is_pump_due = True
        self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pump_due = False
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
        if drawn >= DRAWN_A_TURN and not self._is_pump_due:
            self._pump_soon()
        elif not self._untold and not self._makes_no_calls:
            self._arm(now_ns)
        if self._pump_waiters:
            _wake(self._pump_waiters)

    def _tell_settled(self) -> None:
        settled = self.engine.take_settled()
        if self._untold or self._is_much(settled):
            self._untold.extend(settled)
            settled = [] if self._is_turn_due else self._take_untold()
        for frame in settled:
            if frame.on_settled is not None:
                try:
                    frame.on_settled(frame)
                except Exception:  # the others are owed their answers all the same
                    log.exception("telling of a settled frame broke")
        if settled and self._room_waiters:
            self._tell_of_room()
        if self._idle_waiters and self.is_idle:
            _wake(self._idle_waiters)

    def _tell_of_room(self) -> None:
        waiters, self._room_waiters = self._room_waiters, {}
        for waiter in waiters:
            waiter()

    def _is_much(self, settled: list[Frame]) -> bool:
        """Whether to tell of all these takes more than a turn. One frame is told whole."""
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
        """Those that are told in this turn; the others have theirs."""
        taken: list[Frame] = []
        pieces = 0
        while self._untold and pieces < TOLD_A_TURN:
            frame = self._untold.popleft()
            taken.append(frame)
            pieces += len(frame.results) + FRAME_PIECES + LETTER_PIECES * _dead_count(frame)
        if self._untold:
            self._is_turn_due = True
            self._loop.call_soon(self._next_turn)
        return taken

    def _next_turn(self) -> None:
        self._is_turn_due = False
        self._pump()

    def _arm(self, now_ns: int) -> None:
        wakeup_ns = self.engine.next_wakeup_ns()
        if self._timer is not None:
            if wakeup_ns is not None and now_ns < self._timer_ns <= wakeup_ns:
                return  # it rings early enough; moving it costs more than one idle pump
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
        self._tell_dead()  # of what grew too old

    async def _call(self, batch: Batch) -> None:
        engine = self.engine
        try:
            answer = await self._client.put_records(self.target, batch.records, batch.leave)
        except ServiceError as error:
            error.kept()  # the frame that raised it knows it: a cycle that holds the records
            log.warning("PutRecords failed", extra={"fields": self._fields(error)})
            engine.handle_failure(batch, error, self._clock.now_ns())
            if self.on_missing is not None and engine.is_missing(error):
                self.on_missing(error)
        except Exception:
            # A defect of ours must not lose records: the call may have been made, or not.
            log.exception(
                "PutRecords broke", extra={"fields": {"stream": self.target.qualified.text}}
            )
            broken = ServiceError(Trouble.DEFECT, "kdaemon failed while calling the service")
            engine.handle_failure(batch, broken, self._clock.now_ns())
        else:
            self._note_encryption(answer.encryption_type)
            engine.handle_results(batch, answer.records, self._clock.now_ns())
        self._tell_dead()
        self._pump()

    def _fields(self, error: ServiceError) -> dict[str, object]:
        """What a log line says of a failure; the client took data out of the message."""
        fields: dict[str, object] = {
            "stream": self.target.qualified.text,
            "code": error.code,
        }
        if error.request_id:
            fields["request_id"] = error.request_id
        return {**fields, "error": error.message}

    def _note_encryption(self, told: str | None) -> None:
        if told is not None and told != ENCRYPTION_NOT_SET:
            self.encryption_type = told

    def _tell_dead(self) -> None:
        """Each reason has its own line, with how many there are by now."""
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
            error.kept()  # it goes to others, and its frames stay here
            text = "the stream's shards and limits are unknown"
            log.warning(text, extra={"fields": self._fields(error)})
            engine.freshness.failed(self._clock.now_ns())
            if not engine.is_missing(error):
                self._say_no_answer()
            elif self.on_missing is not None:
                self.on_missing(error)
        except Exception:
            log.exception(
                "discovery broke", extra={"fields": {"stream": self.target.qualified.text}}
            )
            engine.freshness.failed(self._clock.now_ns())
            self._say_no_answer()
        else:
            self._note_encryption(description.encryption_type)
            for _ in engine.take_description(description, self._clock.now_ns()):
                await asyncio.sleep(0)
            if self.on_described is not None:
                self.on_described(description)
        self._describing = None
        self._pump()

    def _say_no_answer(self) -> None:
        if self.on_no_answer is not None:
            self.on_no_answer()


def _dead_count(frame: Frame) -> int:
    dead_count = 0 if frame.attempt_counts is None else len(frame.attempt_counts)
    if frame.history is not None:
        dead_count = max(dead_count, len(frame.history.dead_reasons))
    return dead_count


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()

"""The engine of one stream: composes route, pace, pack and settle. Sans-I/O.

Events go in by `handle_*(..., now_ns)`. Batches and settled frames come out by `poll_*()` and
`take_settled()`. `next_wakeup_ns()` says when to call `handle_timeout` if nothing happens before.
The order for a shell: handle, then poll batches until None, then take the settled frames, then arm
one timer. `send/driver.py` is that shell.

Invariants: a record is in exactly one place (a lane, a bisected half, a call in flight, or
settled); `counters` conserve between any two calls; time never goes back.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from kdaemon.base.billing import UNIT_SIZES, UnitSizes
from kdaemon.base.counters import RefuseReason
from kdaemon.base.counting import StreamCounters
from kdaemon.base.description import Capacity, StreamDescription
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.ports import Dice
from kdaemon.base.record import RecordResult
from kdaemon.base.steps import Steps
from kdaemon.base.verdict import Verdict
from kdaemon.engine.crowding import (
    CROWDED_PARTS,
    LONG_HELD_BYTES,
    crowded,
    has_long_queue,
    overdue,
    shard_full,
)
from kdaemon.engine.health import Health
from kdaemon.engine.heat import look_at
from kdaemon.engine.hot_keys import HotKeys
from kdaemon.engine.snapshot import NO_SHARDS, EngineSnapshot, reason_of
from kdaemon.engine.unavailable import why_unavailable
from kdaemon.engine.ways import Ways
from kdaemon.pace.backoff import HOLD_BACKOFF, STREAM_BACKOFF
from kdaemon.pace.flow import Flow, FlowState
from kdaemon.pack.batch import Batch
from kdaemon.pack.queues import Queues
from kdaemon.pack.run import Run
from kdaemon.pack.whole import WholeFrame
from kdaemon.route.freshness import Doubt, MapFreshness
from kdaemon.settle.billing import bill_of
from kdaemon.settle.ledger import FrameLedger
from kdaemon.settle.partings import Partings, Why
from kdaemon.settle.settlement import Settlement
from kdaemon.settle.verdict import (
    MISSING_STREAM,
    fails_any_call,
    is_outage,
    judge_call,
    may_be_written,
    mends_itself,
    refuse_reason,
    told,
)

# An attribute of an Enum costs four times a global, and this is read for every request.
_OPEN: Final[FlowState] = FlowState.OPEN

RECHECK_NS = 30_000_000_000
"""30 s: then an unavailable stream is looked at again, and one on a hold that a look may end. Ours:
as often as a hold is probed (`pace/backoff.py`)."""


class Parts(NamedTuple):
    """What an engine is made of; see `Engine.audit`."""

    queues: Queues
    settlement: Settlement
    partings: Partings
    hot_keys: HotKeys
    in_flight: set[Batch]


class Engine:
    """One stream from admitted frames to settled ones."""

    def __init__(
        self,
        settings: EngineSettings,
        memory: ByteBudget,
        dice: Dice,
        now_ns: int,
        units: UnitSizes = UNIT_SIZES,
    ) -> None:
        """`units`: the units in which the service bills."""
        self._settings = settings
        self._dice = dice
        self.counters = StreamCounters(units)
        self.hold: ServiceError | None = None  # why nothing can be sent until somebody acts
        self.unavailable: ServiceError | None = None  # why no record is even admitted
        self.missing: ServiceError | None = None  # there is no such stream, and nobody listed it
        self._unseen: ServiceError | None = None  # why the service, when asked, did not tell of it
        self.has_record_readers = False  # as far as the service told; so is `capacity`
        self.capacity: Capacity | None = None
        self._was_told = False  # the service told of the stream's shards
        self._last_error: ServiceError | None = None  # of a whole call; None: a later call passed
        self.record_bytes_max = settings.record_bytes_max
        self._is_limit_told = False  # the service told `record_bytes_max`
        self.freshness = MapFreshness(dice, now_ns)
        self.ledger = FrameLedger(settings, memory, self.counters)
        self._flow = Flow()
        self._queues = Queues(settings, now_ns)
        self._packer = self._queues.packer
        self._shards = self._queues.shards
        self._settlement = Settlement(
            self.ledger, self._queues, self.freshness, self.counters, dice, settings.service
        )
        self._in_flight: set[Batch] = set()
        self._partings = Partings(
            self.ledger, self._queues, self._settlement, self._in_flight, settings.service
        )
        self.ways = Ways(self._queues, self.ledger, self._flow, self.counters)
        self._gathering_since_ns: int | None = None
        self._has_credit = True  # a call returned (or none is out): a batch may go, full or not
        self._is_draining = False
        self._hot_keys = HotKeys(is_joined=settings.aggregate_bytes_max > 0)

    # In

    def handle_settings(self, settings: EngineSettings, now_ns: int) -> Steps[None]:
        """Sets other limits and promises from now on. Queued records and calls in flight are not
        touched. In steps: each shard has its rates. Only if the settings are `is_like` the ones
        before.
        """
        assert self._settings.is_like(settings), "queues of another kind are another engine's"
        self._settings = settings
        if not self._is_limit_told:
            self.record_bytes_max = settings.record_bytes_max
        self.ledger.take_settings(settings)
        yield from self._queues.take_settings(settings, now_ns)

    def refusal_at(self, now_ns: int) -> ServiceError | None:
        """Why a client that waits for delivery should be refused at once: the stream is on hold,
        and it is not yet time to probe. None: it should not. The client hears this code and message
        as they are.
        """
        hold = self.hold
        if hold is None or self._flow.may_send(now_ns):
            return None
        code, message = told(hold, self._settings.service)
        if (code, message) == (hold.code, hold.message):
            return hold
        return ServiceError(code, message, status=hold.status)

    def has_room(self, footprint_bytes: int, client: int) -> bool:
        """Whether records of this client could take so much memory now."""
        ledger = self.ledger
        if not ledger.has_room(footprint_bytes):
            return False
        return ledger.is_calm(footprint_bytes, CROWDED_PARTS) or ledger.may_have(
            footprint_bytes, client
        )

    def handle_frame(self, frame: Frame, now_ns: int, *, is_patient: bool = False) -> bool:
        """Takes a checked frame in; False, and nothing is taken, if there is no room.

        If the queue of a shard is full, only the records for that shard are refused: their results
        are set when this returns. `is_patient`: the client prefers to wait: all records are taken,
        or none is, and nothing is counted.
        """
        if is_patient and not self.ledger.has_room(frame.footprint_bytes):
            return False
        byte_count = frame.byte_count
        ledger = self.ledger
        is_calm = ledger.is_calm(frame.footprint_bytes, CROWDED_PARTS)
        whole = self._whole(frame) if is_calm else None
        if whole is not None:
            if not ledger.admit(frame, byte_count, now_ns):
                return False
            self._packer.push_whole(whole)
            return True
        runs = self._queues.plan(frame, byte_count)
        if is_calm and (ledger.footprint_bytes < LONG_HELD_BYTES or not has_long_queue(runs)):
            if not ledger.admit(frame, byte_count, now_ns):
                return False
            if self._hot_keys.is_on:
                self._hot_keys.see(runs)
            self._queues.put(runs, now_ns)
            return True
        full = self._full(runs, now_ns, is_calm=is_calm)
        if is_patient and (
            full or not (is_calm or ledger.may_have(frame.footprint_bytes, frame.client))
        ):
            return False
        if self._hot_keys.is_on:
            self._hot_keys.see(runs)
        refused = {index: shard_full(run) for run in full for index in run.indices}
        if len(refused) == len(frame.records):
            self.counters.refuse(RefuseReason.FULL, len(refused), byte_count)
            return False
        if not ledger.admit(frame, byte_count, now_ns, refused, is_calm=is_calm):
            return False
        self._queues.put([run for run in runs if run not in full], now_ns)
        return True

    def handle_clients_gone(self, frames: list[Frame], now_ns: int) -> None:
        """The clients of these frames have gone: queued records are withdrawn, and records in
        flight may be in the stream. Frames that have settled are passed over.
        """
        self._partings.clients_gone(frames)
        self._partings.work(now_ns, self._why())

    def give_up_missing(self, error: ServiceError, now_ns: int) -> None:
        """The stream does not exist, and no configuration lists it: no record is kept for it. That
        is no hold: only the clients that name the stream can act, and each of them is told.
        """
        self.hold, self.missing = None, error.kept()
        self._partings.give_up_missing(error)
        self._partings.work(now_ns, self._why())

    def take_to_be_there(self) -> None:
        """A configuration lists the stream now: a call that does not find it begins a hold."""
        self.missing = None

    def handle_spooled(self, frame: Frame, now_ns: int) -> bool:
        """Takes in a frame that stands in the spool and was counted there; False if there is no
        room.
        """
        if not self.ledger.admit_spooled(frame):
            return False
        whole = self._whole(frame)
        if whole is not None:
            self._packer.push_whole(whole)
            return True
        runs = self._queues.plan(frame, frame.byte_count)
        if self._hot_keys.is_on:
            self._hot_keys.see(runs)
        self._queues.put(runs, now_ns)
        return True

    def _whole(self, frame: Frame) -> WholeFrame | None:
        """The frame as one that goes whole; None while the keys of a shard are watched."""
        if len(frame.records) == 1 or self._hot_keys.is_on:
            return None
        return self._queues.plan_whole(frame)

    @property
    def health(self) -> Health:
        """Whether calls succeed, as far as is known."""
        if self._flow.state is not _OPEN or self.hold is not None or self.unavailable is not None:
            return Health.ILL
        if self.counters.delivered:
            return Health.WELL
        return Health.TOLD if self.counters.map_refreshes else Health.UNTRIED

    def handle_results(self, batch: Batch, results: list[RecordResult], now_ns: int) -> None:
        """The answer to a batch: one result for each record sent, in order. Another number of
        results says nothing certain of any record.
        """
        if len(results) != len(batch.records):
            text = f"{len(results)} results for {len(batch.records)} records"
            error = ServiceError(Trouble.WRONG_COUNT, text, status=200)
            self.handle_failure(batch, error, now_ns)
            return
        self._returned(batch, now_ns)
        is_whole = self._settlement.settle(batch, results, now_ns)
        self.counters.calls[Verdict.DELIVERED if is_whole else Verdict.PARTIAL] += 1
        hold = self._settlement.hold
        if hold is None:
            self._heard(batch, now_ns)
            if self.hold is not None:
                self._refuse_waiting(self.hold, now_ns)
            return
        # The call was answered, and every record was refused for a cause that somebody must mend.
        self._settlement.hold = None
        self._flow.failed(HOLD_BACKOFF, now_ns, self._dice, is_probe=batch.is_probe)
        self._begin_hold(hold, now_ns)

    def handle_failure(self, batch: Batch, error: ServiceError, now_ns: int) -> None:
        """A call failed whole: its records are queued again, or halved if the request was refused
        as wrong.
        """
        error.kept()  # for any error: its stack frames hold the error and the batch, in a cycle
        self._returned(batch, now_ns)
        verdict = judge_call(error, self._settings.service)
        self.counters.calls[verdict] += 1
        self._settlement.failures.call(error.code, error.message, batch.record_count, now_ns)
        if verdict is Verdict.POISON:
            self._heard(batch, now_ns)  # the service is there, and it refused the request
            self.freshness.stale(now_ns, Doubt.LIMITS)
            self._settlement.bisect(batch, error, now_ns)
            return
        self._last_error = error
        is_hold = verdict is Verdict.HOLD
        self._flow.failed(
            HOLD_BACKOFF if is_hold and not is_outage(error) else STREAM_BACKOFF,
            now_ns,
            self._dice,
            is_probe=batch.is_probe,
            asked_ns=error.retry_after_ns,
        )
        if verdict is Verdict.THROTTLED:
            self.counters.throttled += batch.record_count
        reason = Verdict.AMBIGUOUS if may_be_written(error, verdict) else verdict
        self._settlement.send_again(batch, reason, now_ns)
        if is_hold:
            self._begin_hold(error, now_ns)
        elif self.hold is not None:
            self._refuse_waiting(self.hold, now_ns)

    def _begin_hold(self, error: ServiceError, now_ns: int) -> None:
        """Somebody must act."""
        self.hold = self._last_error = error.kept()
        reason = refuse_reason(error)
        if reason is RefuseReason.MISSING_STREAM:
            self._shards.forget(now_ns)
            self.capacity = None
        if reason is RefuseReason.MISSING_STREAM or fails_any_call(error):
            self.freshness.stale(now_ns)  # a look may end the hold
        self._refuse_waiting(error, now_ns)

    def _refuse_waiting(self, hold: ServiceError, now_ns: int) -> None:
        """Clients that wait are told of the hold: at once, or at their deadline if the hold may be
        over before. Those with records in calls that are out are told when these return.
        """
        if not mends_itself(hold):
            self._partings.refuse_waiting(refuse_reason(hold), self._why(), now_ns)
        self._partings.work(now_ns, self._why())

    def is_missing(self, error: ServiceError) -> bool:
        """Whether this error says for certain that the stream does not exist. Some services say the
        same to a client without access. Such a service is not believed once it took records or told
        of the stream, nor while there are records that an earlier run took.
        """
        if error.code != MISSING_STREAM:
            return False
        if self._settings.service.tells_missing_from_forbidden:
            return True
        return not (self.counters.delivered or self._was_told or self.counters.recovered)

    def handle_no_description(self, error: ServiceError, now_ns: int) -> None:
        """The service was asked for the stream and did not describe it. That is no hold: perhaps
        records can be written all the same. But who looks is told, if nothing else shows that the
        stream is there, or if the service says that it is not.
        """
        self.freshness.failed(now_ns)
        if self.health is Health.UNTRIED or self.is_missing(error):
            self._unseen = error.kept()

    def take_description(self, description: StreamDescription, now_ns: int) -> Steps[None]:
        """The control plane describes the stream. Unknown parts (None) leave what was known before.
        In steps: a stream with thousands of shards takes long. Between the steps the engine goes on
        with the map that it has.
        """
        self._was_told |= description.shards is not None
        self.missing = self._unseen = None
        if description.shards is not None:
            self._end_hold()
        is_changed = yield from self._shards.remap(description, now_ns)
        if description.record_bytes_max is not None:
            is_changed |= self.record_bytes_max != description.record_bytes_max
            self.record_bytes_max = description.record_bytes_max
            self._is_limit_told = True
        self.counters.map_refreshes += 1
        self.freshness.answered(now_ns, is_changed=is_changed)
        self._settlement.judge_strays(now_ns)
        is_auto = description.is_auto or self._shards.is_auto  # an unknown part stays as it was
        if description.has_record_readers is not None:
            self.has_record_readers = description.has_record_readers
        if description.capacity is not None:
            self.capacity = description.capacity
        was_available = self.unavailable is None
        self.unavailable = why_unavailable(
            self._settings, is_auto=is_auto, has_record_readers=self.has_record_readers
        )
        if self.unavailable is None and not was_available:
            self._partings.keep_waiting()
        if self.unavailable is not None and was_available:
            self._partings.refuse_waiting(RefuseReason.UNAVAILABLE, self._why(), now_ns)
        if self.unavailable is not None or (self.hold is not None and fails_any_call(self.hold)):
            self.freshness.ask_again(now_ns + RECHECK_NS)
        self._partings.work(now_ns, self._why())

    def _end_hold(self) -> None:
        """The service tells of the stream: no record has to find out that a hold for the stream's
        absence is over, or, of an idle stream, one for what fails any call. (Where records wait,
        their calls find out.) The next call is a probe all the same. Any other hold stays, also
        where "not found" may mean "not for you": rights to look are not rights to write.
        """
        hold = self.hold
        if hold is None:
            return
        if hold.code == MISSING_STREAM:
            is_over = self._settings.service.tells_missing_from_forbidden
        else:
            is_over = self.is_idle and fails_any_call(hold)
        if is_over:
            self.hold = None
            if self.unavailable is None:
                self._partings.keep_waiting()

    def handle_timeout(self, now_ns: int) -> None:
        """Time has passed: deadlines are kept, and long work goes on by a slice."""
        due_ns = self._partings.due_at_ns
        if (due_ns is not None and due_ns <= now_ns) or self.ledger.is_due(now_ns):
            self._partings.work(now_ns, self._why())
        strays = self._settlement.strays
        if strays and strays[0].due_at_ns() <= now_ns:
            self._settlement.judge_strays(now_ns)

    def begin_drain(self) -> None:
        """The input has ended: no batch lingers any more."""
        self._is_draining = True

    def give_up(self, now_ns: int) -> None:
        """The drain's deadline has come: waiting clients are told that their records were not
        delivered.
        """
        self._partings.refuse_waiting(RefuseReason.DRAINING, self._why(), now_ns)
        self._partings.work(now_ns, self._why())

    def handle_hot(self, shard_ids: Iterable[str | None], watched_max: int, now_ns: int) -> int:
        """A look found these shards hot; the hottest comes first. Their keys are watched from now
        on, of at most `watched_max` shards; the keys of other shards no more, after a while.
        Returns how many shards are watched. Nothing else changes.
        """
        return self._hot_keys.watch(self._shards.found(shard_ids), watched_max, now_ns)

    # Out

    def poll_batch(self, now_ns: int) -> Batch | None:
        """The next call to make, its tokens taken; None if no call can be made now."""
        packer = self._packer
        packer.wake(now_ns)
        if not packer.has_ready:
            self._gathering_since_ns = None
        elif self._gathering_since_ns is None:
            self._gathering_since_ns = now_ns
        if not self._may_call(now_ns):
            packer.is_pressed = packer.has_ready
            packer.part_frames(now_ns)
            return None
        packer.is_pressed = False
        batch = self._queues.draw_half()
        if batch is None and packer.has_ready and self._is_due(now_ns):
            batch = packer.draw(now_ns)
            self._gathering_since_ns = now_ns  # for the records left in the ring, if any
        if batch is None:
            packer.part_frames(now_ns)
            return None
        self._has_credit = False
        batch.sent_ns = now_ns
        packer.stalls.sent(batch, now_ns)
        batch.is_probe = self._flow.sent()
        self._in_flight.add(batch)
        count = batch.record_count
        counters = self.counters
        counters.buffered -= count
        counters.in_flight += count
        counters.in_flight_calls += 1
        counters.attempts += count
        counters.batch_records.observe(len(batch.records))
        counters.batch_bytes.observe(batch.byte_count)
        return batch

    def take_settled(self) -> list[Frame]:
        """Frames settled since the last call; the caller tells their clients now."""
        return self.ledger.take_settled()

    def next_wakeup_ns(self) -> int | None:
        """When something is due by time alone; None if nothing is."""
        times = [self.ledger.next_sweep_ns(), self._partings.due_at_ns]
        if not self.freshness.is_asking:
            times.append(self.freshness.due_at_ns)
        if self._settlement.strays:
            times.append(self._settlement.strays[0].due_at_ns())
        flow_ns = None if self.unavailable is not None else self._flow.next_send_ns()
        if flow_ns is not None and len(self._in_flight) < self._settings.in_flight_max:
            waits = [self._packer.next_due_ns(), self._linger_ends_ns()]
            if self._queues.has_halves:
                waits.append(flow_ns)
            times += [max(flow_ns, at_ns) for at_ns in waits if at_ns is not None]
        return min((at_ns for at_ns in times if at_ns is not None), default=None)

    @property
    def is_refusing(self) -> bool:
        """Some clients that must be refused (for a hold, or at a drain's end) are not told yet."""
        return self._partings.is_refusing

    @property
    def is_idle(self) -> bool:
        return not self.counters.buffered and not self.counters.in_flight

    @property
    def is_auto(self) -> bool:
        """Whether the service itself spreads records and ignores their keys, as far as is known."""
        return self._shards.is_auto

    def snapshot(
        self, now_ns: int, shards_max: int | None = None, calm_max: int = 0
    ) -> Steps[EngineSnapshot]:
        """All that other rooms may know of the stream: the first step reads its counters, the next
        steps read its shards. Looking changes nothing. `shards_max`: the most shards that are
        reported, the hottest first; None: all shards are. `calm_max`: the most shards that are
        reported in addition though they are not hot.
        """
        settings, freshness, shards = self._settings, self.freshness, self._shards
        first = EngineSnapshot(
            read_ns=now_ns,
            counters=self.counters.snapshot(),
            bill=bill_of(self.counters.billed, settings, self.capacity, is_auto=self.is_auto),
            footprint_bytes=self.ledger.footprint_bytes,
            health=self.health,
            hold=reason_of(self.hold),
            unavailable=reason_of(self.unavailable),
            missing=reason_of(self.missing),
            unseen=reason_of(self._unseen),
            failures=self._settlement.failures.snapshot(),
            capacity=self.capacity,
            record_bytes_max=self.record_bytes_max,
            is_auto=self.is_auto,
            has_record_readers=self.has_record_readers,
            shard_bytes_per_second=shards.shard_bytes_per_second,
            shard_count=shards.shard_count,
            is_asking=freshness.is_asking,
            asks_in_ns=freshness.due_at_ns - now_ns,
            splits_shards=settings.service.splits_shards,
            is_joined=settings.aggregate_bytes_max > 0,
            shards=NO_SHARDS,  # these two follow, in steps
            loads={},
        )
        looked_at = yield from look_at(self._packer, now_ns, shards_max, calm_max)
        loads = yield from self._hot_keys.loads(
            shards.shard_records_per_second,
            shards.shard_bytes_per_second,
            settings.aggregate_bytes_max,
            now_ns,
        )
        return msgspec.structs.replace(first, shards=looked_at, loads=loads)

    def audit(self) -> "Parts":
        """The parts inside, for tests of what must hold between them. Nobody else reaches past
        `handle_*`, `poll_*` and `snapshot`.
        """
        return Parts(
            self._queues, self._settlement, self._partings, self._hot_keys, self._in_flight
        )

    # Pack

    def _is_due(self, now_ns: int) -> bool:
        """Whether a batch may go: the returns of the stream's own calls set its pace. Aggregates
        wait longer, for more records to share them: a stream with aggregates pays by the record.
        """
        if not self._in_flight or self._is_draining:
            return True
        if self._has_credit and not self._settings.aggregate_bytes_max:
            return True
        ends_ns = self._linger_ends_ns()
        return self._packer.has_full_batch or (ends_ns is not None and now_ns >= ends_ns)

    def _linger_ends_ns(self) -> int | None:
        if self._gathering_since_ns is None or not self._packer.has_ready:
            return None
        return self._gathering_since_ns + self._settings.linger_ns

    def _may_call(self, now_ns: int) -> bool:
        return (
            len(self._in_flight) < self._settings.in_flight_max
            and not self._partings.is_sweep_due
            and self.unavailable is None
            and self._flow.may_send(now_ns)
        )

    # Refuse

    def _full(self, runs: list[Run], now_ns: int, *, is_calm: bool) -> set[Run]:
        """The runs of a new frame that are refused because of their shard. In an outage the records
        of all shards wait, and none is refused here. A stream with one lane may use all of the
        memory.
        """
        if self._flow.state is not _OPEN:
            return set()
        full = overdue(runs, self._packer, now_ns)
        if not is_calm and len(self._packer.lanes) > 1:
            full |= crowded(runs, self.ledger)
        return full

    # Settle

    def _returned(self, batch: Batch, now_ns: int) -> None:
        self._in_flight.remove(batch)
        self._packer.returned(batch, now_ns)
        counters = self.counters
        counters.in_flight_calls -= 1
        counters.in_flight -= batch.record_count
        counters.call_duration_ns.observe(now_ns - batch.sent_ns)
        # Read before the call is settled: a record that its settlement makes ready (the next of a
        # key) goes with the next return, not in a call of its own.
        self._has_credit = self._packer.has_ready or not self._in_flight

    def _heard(self, batch: Batch, now_ns: int) -> None:
        """The service took the call as ours. While the stream is on hold, an older call says
        nothing of it.
        """
        self._flow.succeeded(is_probe=batch.is_probe)
        if self._flow.state is not _OPEN:
            return
        self._last_error = self._unseen = None
        gone = self.missing or self.hold
        if gone is None:
            return
        if gone.code == MISSING_STREAM:
            self.freshness.found(now_ns)
        self.hold = self.missing = None
        if self.unavailable is None:
            self._partings.keep_waiting()

    def _why(self) -> Why:
        return Why(self.unavailable, self._last_error, self.hold)

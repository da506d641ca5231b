"""The engine of one stream: composes route, pace, pack and settle. Sans-I/O.

What happens goes in by `handle_*(..., now_ns)`; what is owed comes out by `poll_*()` and
`take_settled()`; `next_wakeup_ns()` says when to call `handle_timeout` if nothing happens before.
The order for a shell: handle, then poll batches until None, then take what settled, then arm one
timer. `send/driver.py` is that shell.

Invariants: a record is in exactly one place (a lane, a bisected half, a call in flight, or
settled); `counters` conserve between any two calls; time never goes back.
"""

from kdaemon.base.counters import DeadReason, RejectReason, StreamCounters
from kdaemon.base.description import StreamDescription
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.ports import Dice
from kdaemon.base.record import RecordResult
from kdaemon.base.steps import Steps
from kdaemon.base.verdict import Verdict
from kdaemon.engine.crowding import (
    CLOSED_LOOK_NS,
    CROWDED_PARTS,
    Queued,
    Way,
    Ways,
    crowded,
    shard_full,
)
from kdaemon.engine.heat import StreamHeat, heat_of
from kdaemon.engine.settings import EngineSettings
from kdaemon.engine.settlement import Settlement
from kdaemon.pace.backoff import HOLD_BACKOFF, STREAM_BACKOFF
from kdaemon.pace.flow import Flow, FlowState
from kdaemon.pace.latency import CallLatency
from kdaemon.pack.batch import Batch
from kdaemon.pack.dispatch import Dispatcher, ShardRates
from kdaemon.pack.key_order import KeyOrder
from kdaemon.pack.lane import Lane, Run
from kdaemon.pack.packer import Packer
from kdaemon.route.freshness import Doubt, MapFreshness
from kdaemon.settle.ledger import EXPIRED, REFUSED, WITHDRAWN, FrameLedger, Parting
from kdaemon.settle.verdict import (
    INTERNAL,
    MISSING_STREAM,
    THROUGHPUT,
    UNAVAILABLE,
    is_outage,
    judge_call,
    may_be_written,
    mends_itself,
    reject_reason,
    told,
)

EXPIRY_PUT_OFF_NS = 1_000_000_000  # 1 s: then a frame that was in flight is looked at again

# An attribute of an Enum costs four times a global, and this is read for every request.
_OPEN = FlowState.OPEN

UNAVAILABLE_RECHECK_NS = 30_000_000_000  # 30 s: is a stream that we may not write to as it was?


class Engine:
    """One stream from admitted frames to settled ones."""

    def __init__(
        self, settings: EngineSettings, memory: ByteBudget, dice: Dice, now_ns: int
    ) -> None:
        self._settings = settings
        self._dice = dice
        self.counters = StreamCounters()
        self.hold: ServiceError | None = None  # why nothing can be sent until somebody acts
        self.unavailable: ServiceError | None = None  # why nothing is even taken
        self._last_error: ServiceError | None = None  # of a whole call; None: since then one passed
        self.record_bytes_max = settings.record_bytes_max
        self.freshness = MapFreshness(dice, now_ns)
        self.ledger = FrameLedger(
            settings.buffer_bytes_max,
            memory,
            self.counters,
            settings.max_age_ns,
            settings.service,
        )
        self._flow = Flow()
        order = KeyOrder() if settings.is_ordered else None
        self._packer = Packer(
            settings.batch_records_max,
            settings.batch_bytes_max,
            settings.linger_ns,
            now_ns,
            aggregate_bytes_max=settings.aggregate_bytes_max,
            order=order,
            is_shard_atomic=settings.is_shard_atomic,
        )
        rates = ShardRates(
            settings.shard_records_per_second,
            settings.shard_bytes_per_second,
            settings.first_share,
        )
        self._dispatcher = Dispatcher(
            self._packer,
            rates,
            now_ns,
            order=order,
            is_kind_split=settings.aggregate_bytes_max > 0,
        )
        self._settlement = Settlement(
            self.ledger,
            self._packer,
            self._dispatcher,
            order,
            self.freshness,
            self.counters,
            dice,
            settings.batch_records_max,
            CallLatency(now_ns) if settings.is_shard_atomic else None,
            settings.service,
        )
        self._in_flight: set[Batch] = set()
        self._gathering_since_ns: int | None = None
        self._has_credit = True  # a call returned (or none is out): a batch may go, full or not
        self._is_draining = False

    # In

    def refuses(self, now_ns: int) -> ServiceError | None:
        """Why a client that waits for delivery should hear no at once: the stream is on hold, and
        it is not yet time to probe. What the client hears is its code and message as they are.
        """
        hold = self.hold
        if hold is None or self._flow.may_send(now_ns):
            return None
        code, message = told(hold, self._settings.service)
        if (code, message) == (hold.code, hold.message):
            return hold
        return ServiceError(code, message, status=hold.status)

    def handle_frame(self, frame: Frame, now_ns: int, *, is_patient: bool = False) -> bool:
        """Takes a checked frame in; False, and nothing is taken, if there is no room.

        Where the queue of a shard is full, its records alone are refused: their results are set
        when this returns. `is_patient`: the client rather waits: all is taken, or nothing is, and
        nothing is counted.
        """
        if is_patient and not self.ledger.has_room(frame.held_bytes):
            return False
        byte_count = frame.byte_count
        runs = self._dispatcher.route(frame, byte_count)
        full = [] if self.ledger.is_calm(frame.held_bytes, CROWDED_PARTS) else self._crowded(runs)
        if not full:
            if not self.ledger.admit(frame, byte_count, now_ns):
                return False
            self._dispatcher.queue(runs, now_ns)
            return True
        if is_patient:
            return False
        refused = {index: shard_full(run) for run in full for index in run.indices}
        if len(refused) == len(frame.records):
            self.counters.refuse(RejectReason.FULL, len(refused), byte_count)
            return False
        if not self.ledger.admit(frame, byte_count, now_ns, refused):
            return False
        self._dispatcher.queue([run for run in runs if run not in full], now_ns)
        return True

    def handle_clients_gone(self, frames: list[Frame], now_ns: int) -> None:
        """The clients of these frames have gone: what is queued of them is withdrawn, and what is
        in flight may be in the stream. Frames that have settled are passed over.
        """
        waiting = [frame for frame in frames if self.ledger.stop_waiting(frame)]
        if waiting:
            self._abandon(waiting, RejectReason.CLIENT_GONE, now_ns)

    def give_up_missing(self, error: ServiceError, now_ns: int) -> None:
        """The stream does not exist, and nobody listed it: no record is kept for it."""
        result = RecordResult(error_code=error.code, error_message=error.message)
        queued = set(self._settlement.queued_frames())
        for frame in queued.difference(self._in_flight_of(list(queued))):
            self.ledger.give_up(frame, result, DeadReason.MISSING_STREAM)
        self._settlement.drop_abandoned(now_ns)

    def handle_spooled(self, frame: Frame, now_ns: int) -> bool:
        """Takes in a frame that stands in the spool, counted there; False if there is no room."""
        if not self.ledger.admit_spooled(frame):
            return False
        self._dispatcher.queue(self._dispatcher.route(frame, frame.byte_count), now_ns)
        return True

    @property
    def map_count(self) -> int:
        """Which map it is that `ways` goes by: another number, other ways."""
        return self._dispatcher.map_count

    def is_crowded(self, free_bytes: int) -> bool:
        """Whether `ways` is to be asked for each stored frame: a shard may be full, or nothing goes
        now. Looks at all shards.
        """
        lanes = self._packer.lanes
        if len(lanes) == 1:
            return False
        return self._flow.state is not _OPEN or self._ways({}, free_bytes).has_full(lanes)

    def ways(self, frame: Frame, queued: Queued, free_bytes: int) -> list[Way] | None:
        """Where the records of a stored frame would go, and which of these ways are full. Nothing
        is queued. None: nothing goes now, and the frame stands well on disk. See `Ways`.
        """
        has_shards = len(self._packer.lanes) > 1
        if has_shards and self._flow.state is not _OPEN:
            return None
        runs = self._dispatcher.route(frame, frame.byte_count)
        return self._ways(queued, free_bytes).of(runs, may_be_full=has_shards)

    def low_shards(self, queued: Queued, free_bytes: int) -> tuple[set[str | None], int] | None:
        """The shards for which more is to be read from disk, and in how many nanoseconds to ask
        again if there is none. None: all take what comes.
        """
        lanes = self._packer.lanes
        if len(lanes) == 1:
            return None
        if self._flow.state is not _OPEN:
            return set(), CLOSED_LOOK_NS
        return self._ways(queued, free_bytes).low(lanes)

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
            return
        # Answered, and every record refused for what somebody must mend.
        self._settlement.hold = None
        self._flow.failed(HOLD_BACKOFF, now_ns, self._dice, is_probe=batch.is_probe)
        self._begin_hold(hold, now_ns)

    def handle_failure(self, batch: Batch, error: ServiceError, now_ns: int) -> None:
        """A call that failed whole."""
        error.kept()  # also where it is not: its frames hold the error and the batch, in a cycle
        self._returned(batch, now_ns)
        verdict = judge_call(error, self._settings.service)
        self.counters.calls[verdict] += 1
        if verdict is Verdict.POISON:
            self._heard(batch, now_ns)  # the service is there, and it said no
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

    def _begin_hold(self, error: ServiceError, now_ns: int) -> None:
        """Somebody must act. Who waits hears why: at once, or at his deadline if the hold may be
        over before.
        """
        self.hold = self._last_error = error.kept()
        reason = reject_reason(error)
        if reason is RejectReason.MISSING_STREAM:
            self._dispatcher.forget(now_ns)
            self.freshness.stale(now_ns)
        if not mends_itself(error):
            self._refuse_waiting(reason, now_ns)

    def handle_description(self, description: StreamDescription, now_ns: int) -> None:
        """What the control plane says of the stream. Parts that are unknown (None) leave what was
        known before.
        """
        is_changed = self._dispatcher.remap(description, now_ns)
        if description.record_bytes_max is not None:
            is_changed |= self.record_bytes_max != description.record_bytes_max
            self.record_bytes_max = description.record_bytes_max
        self.counters.map_refreshes += 1
        self.freshness.answered(now_ns, is_changed=is_changed)
        self._settlement.judge_strays(now_ns)
        is_auto = description.is_auto or self._dispatcher.is_auto  # what is unknown stays
        was_available = self.unavailable is None
        self.unavailable = self._why_unavailable() if is_auto else None
        if self.unavailable is not None:
            if was_available:
                self._refuse_waiting(RejectReason.UNAVAILABLE, now_ns)
            self.freshness.ask_again(now_ns + UNAVAILABLE_RECHECK_NS)

    def handle_timeout(self, now_ns: int) -> None:
        """Time has passed: deadlines are kept."""
        expired = self.ledger.take_expired(now_ns)
        if expired:
            self._abandon(expired, RejectReason.DEADLINE, now_ns)
        aged = self.ledger.take_aged(now_ns)
        if aged:
            self._expire(aged, now_ns)
        strays = self._settlement.strays
        if strays and strays[0].due_at_ns() <= now_ns:
            self._settlement.judge_strays(now_ns)

    def begin_drain(self) -> None:
        """End of input: nothing lingers any more."""
        self._is_draining = True

    def give_up(self, now_ns: int) -> None:
        """The drain's deadline: clients that wait hear that their records were not delivered."""
        self._abandon(self.ledger.take_waiting(), RejectReason.DRAINING, now_ns)

    # Out

    def poll_batch(self, now_ns: int) -> Batch | None:
        """The next call to make, its tokens taken; None if there is none to make now."""
        packer = self._packer
        packer.wake(now_ns)
        if not packer.has_ready:
            self._gathering_since_ns = None
        elif self._gathering_since_ns is None:
            self._gathering_since_ns = now_ns
        if not self._may_call(now_ns):
            return None
        batch = self._settlement.next_bisected()
        if batch is None and packer.has_ready and self._is_due(now_ns):
            batch = packer.draw(now_ns)
            self._gathering_since_ns = now_ns  # for what is left in the ring, if anything
        if batch is None:
            return None
        self._has_credit = False
        batch.sent_ns = now_ns
        self._packer.sent(batch, now_ns)
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
        """Frames settled since the last call; their clients are to be told now."""
        return self.ledger.take_settled()

    def next_wakeup_ns(self) -> int | None:
        """When something is due by time alone; None if nothing is."""
        times = [self.ledger.next_sweep_ns()]
        if not self.freshness.is_asking:
            times.append(self.freshness.due_at_ns)
        if self._settlement.strays:
            times.append(self._settlement.strays[0].due_at_ns())
        flow_ns = None if self.unavailable is not None else self._flow.next_send_ns()
        if flow_ns is not None and len(self._in_flight) < self._settings.in_flight_max:
            waits = [self._packer.next_due_ns(), self._linger_ends_ns()]
            if self._settlement.bisected:
                waits.append(flow_ns)
            times += [max(flow_ns, at_ns) for at_ns in waits if at_ns is not None]
        return min((at_ns for at_ns in times if at_ns is not None), default=None)

    @property
    def is_idle(self) -> bool:
        return not self.counters.buffered and not self.counters.in_flight

    @property
    def is_auto(self) -> bool:
        """The service itself spreads records and ignores their keys, as far as is known."""
        return self._dispatcher.is_auto

    @property
    def shard_count(self) -> int:
        return self._dispatcher.shard_count

    @property
    def lanes(self) -> list[Lane]:
        return self._packer.lanes

    def heat(self, now_ns: int) -> Steps[StreamHeat]:
        """How far each shard is behind. For pages and logs: it looks at all shards, in steps."""
        packer, settings = self._packer, self._settings
        return heat_of(
            packer.lanes,
            packer.keyless_lane,
            settings.linger_ns,
            settings.aggregate_bytes_max,
            now_ns,
        )

    # Pack

    def _is_due(self, now_ns: int) -> bool:
        """Whether a batch may go: the stream clocks itself by its own answers. Aggregates wait for
        more company than that: who wants them pays by the record.
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
            and self.unavailable is None
            and self._flow.may_send(now_ns)
        )

    # Refuse

    def _crowded(self, runs: list[Run]) -> list[Run]:
        """Those of a new frame's runs that are refused for their shard. In an outage all wait
        alike, and where there is one lane, it may have everything.
        """
        if len(self._packer.lanes) == 1 or self._flow.state is not _OPEN:
            return []
        return crowded(runs, self.ledger)

    def _ways(self, queued: Queued, free_bytes: int) -> Ways:
        settings = self._settings
        key_map = self._dispatcher.shard_map if settings.is_ordered else None
        held_bytes = self.ledger.held_bytes
        return Ways(queued, free_bytes, held_bytes, settings.aggregate_bytes_max, key_map)

    def _why_unavailable(self) -> ServiceError | None:
        """A service-managed stream can keep neither order nor aggregates."""
        settings = self._settings
        asked = [
            name
            for name, is_asked in (
                ('ordering = "partition_key"', settings.is_ordered),
                ('aggregation = "kpl"', settings.aggregate_bytes_max > 0),
            )
            if is_asked
        ]
        if not asked:
            return None
        return ServiceError(
            "InvalidArgumentException",
            "The stream is service-managed (RecordDistributionStrategy AUTO): the service ignores"
            f" keys there, so that kdaemon's {' and '.join(asked)} cannot be kept. Take it out of"
            " the stream's configuration, or switch the stream back.",
            status=400,
        )

    # Settle

    def _returned(self, batch: Batch, now_ns: int) -> None:
        self._in_flight.remove(batch)
        self._packer.returned(batch, now_ns)
        counters = self.counters
        counters.in_flight_calls -= 1
        counters.in_flight -= batch.record_count
        counters.call_duration_ns.observe(now_ns - batch.sent_ns)
        # Reckoned before the call is settled: what its settlement makes ready (the next record of a
        # key) goes with the next return, not in a call for itself.
        self._has_credit = self._packer.has_ready or not self._in_flight

    def _heard(self, batch: Batch, now_ns: int) -> None:
        """The service took the call as ours. An older call says nothing of a stream on hold."""
        self._flow.succeeded(is_probe=batch.is_probe)
        if self._flow.state is not _OPEN:
            return
        self._last_error = None
        if self.hold is None:
            return
        if self.hold.code == MISSING_STREAM:
            self.freshness.found(now_ns)
        self.hold = None

    def _abandon(self, frames: list[Frame], reason: RejectReason, now_ns: int) -> None:
        """Clients stop waiting: what is queued of these frames is withdrawn."""
        in_flight = self._in_flight_of(frames)
        self.ledger.abandon(frames, in_flight, self._parting(reason), reason, self._recall(frames))
        self._settlement.drop_abandoned(now_ns)

    def _parting(self, reason: RejectReason) -> Parting:
        """What is told of records that the service said nothing of for themselves."""
        error = self.unavailable or self._last_error or self.hold
        if error is not None:
            service = self._settings.service
            code, message = told(error, service)
            text = message if reason in REFUSED else WITHDRAWN + message
            withdrawn = RecordResult(error_code=code, error_message=text)
            is_doubtful = error is self._last_error and may_be_written(
                error, judge_call(error, service)
            )
            return Parting(withdrawn, str(error), code if is_doubtful else INTERNAL)
        if reason is RejectReason.DRAINING:
            code, why = UNAVAILABLE, "kdaemon is stopping."
        else:
            code, why = THROUGHPUT, "its shard is at its rate, or the service does not answer"
        return Parting(RecordResult(error_code=code, error_message=WITHDRAWN + why))

    def _expire(self, frames: list[Frame], now_ns: int) -> None:
        """Records that nobody waits for are too old; those in flight may yet be delivered. What was
        stored is tried once before: its age comes from a clock that somebody may have set.
        """
        in_flight = self._in_flight_of(frames)
        for frame in frames:
            is_new = not frame.is_tried and frame.unsettled == len(frame.results)
            if frame in in_flight or (is_new and frame.acknowledge is Acknowledge.STORED):
                self.ledger.put_off(frame, now_ns + EXPIRY_PUT_OFF_NS)
            else:
                self.ledger.give_up(frame, EXPIRED, DeadReason.EXPIRED)
        self._settlement.drop_abandoned(now_ns)

    def _in_flight_of(self, frames: list[Frame]) -> dict[Frame, set[int]]:
        """Which records of these frames are in calls that are out, or strays, by index."""
        asked = set(frames)
        in_flight: dict[Frame, set[int]] = {}
        for batch in (*self._in_flight, *(stray.batch for stray in self._settlement.strays)):
            for run in batch.runs:
                if run.frame in asked:
                    in_flight.setdefault(run.frame, set()).update(run.indices)
        return in_flight

    def _recall(self, frames: list[Frame]) -> dict[Frame, set[int]]:
        """Calls with records of these frames that have not left (no connection yet, no credentials)
        do not leave any more; what else is in them is sent again. The records, by index.
        """
        asked = set(frames)
        recalled: dict[Frame, set[int]] = {}
        for batch in self._in_flight:
            if batch.has_left:
                continue
            for run in batch.runs:
                if run.frame in asked:
                    batch.is_recalled = True
                    recalled.setdefault(run.frame, set()).update(run.indices)
        return recalled

    def _refuse_waiting(self, reason: RejectReason, now_ns: int) -> None:
        """Nothing can be sent until somebody acts: clients that wait hear why."""
        self._abandon(self.ledger.take_waiting(), reason, now_ns)

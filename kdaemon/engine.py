"""The engine of one stream: composes route, pace, pack and settle. Sans-I/O.

What happens goes in by `handle_*(..., now_ns)`; what is owed comes out by `poll_*()` and
`take_settled()`; `next_wakeup_ns()` says when to call `handle_timeout` if nothing happens before.
The order for a shell: handle, then poll batches until None, then take what settled, then arm one
timer. `send/driver.py` is that shell.

Invariants: a record is in exactly one place (a lane, a bisected half, a call in flight, or
settled); `counters` conserve between any two calls; time never goes back.
"""

from collections import deque
from dataclasses import dataclass

from kdaemon.base.counters import (
    CallOutcome,
    RejectReason,
    RetryReason,
    StreamCounters,
    failure_code,
)
from kdaemon.base.description import StreamDescription
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import MemoryBudget
from kdaemon.base.ports import Dice
from kdaemon.base.record import RecordResult
from kdaemon.pace.backoff import HOLD_BACKOFF, SHARD_BACKOFF, STREAM_BACKOFF
from kdaemon.pace.flow import Flow, FlowState
from kdaemon.pack.dispatch import Dispatcher
from kdaemon.pack.lane import Lane, LaneState, Run
from kdaemon.pack.packer import Batch, Packer
from kdaemon.route.freshness import MapFreshness
from kdaemon.settle.ledger import FrameLedger
from kdaemon.settle.verdict import MISSING_STREAM, Verdict, judge_call, judge_record

EXPIRY_PUT_OFF_NS = 1_000_000_000  # 1 s: then a frame that was in flight is looked at again

Failed = tuple[Run, list[int], list[RecordResult]]
"""What failed of one run in an answered call: the run, indices of its records, their results."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One stream's limits. Bytes are data + partition keys, except `buffer_bytes_max` (memory)."""

    batch_records_max: int
    batch_bytes_max: int
    record_bytes_max: int  # until the stream tells its own
    linger_ns: int
    in_flight_max: int  # PutRecords calls at once
    shard_records_per_second: int  # this daemon's share already taken
    shard_bytes_per_second: int
    buffer_bytes_max: int
    max_age_ns: int | None = None  # of records that no client waits for


class Engine:
    """One stream from admitted frames to settled ones."""

    def __init__(
        self, settings: EngineSettings, memory: MemoryBudget, dice: Dice, now_ns: int
    ) -> None:
        self._settings = settings
        self._dice = dice
        self.counters = StreamCounters()
        self.hold: ServiceError | None = None  # why nothing can be sent until somebody acts
        self.record_bytes_max = min(settings.record_bytes_max, settings.batch_bytes_max)
        self.freshness = MapFreshness(dice, now_ns)
        self.ledger = FrameLedger(
            settings.buffer_bytes_max, memory, self.counters, settings.max_age_ns
        )
        self._flow = Flow()
        self._packer = Packer(
            settings.batch_records_max, settings.batch_bytes_max, settings.linger_ns
        )
        self._dispatcher = Dispatcher(
            self._packer, settings.shard_records_per_second, settings.shard_bytes_per_second, now_ns
        )
        self._bisected: deque[list[Run]] = deque()
        self._in_flight: set[Batch] = set()
        self._gathering_since_ns: int | None = None
        self._has_credit = True  # a call returned (or none is out): a batch may go, full or not
        self._is_draining = False

    # In

    def refuses(self, now_ns: int) -> ServiceError | None:
        """Why a client that waits for delivery should hear no at once: the stream is missing, and
        it is not yet time to probe for it again.
        """
        hold = self.hold
        if hold is None or hold.code != MISSING_STREAM or self._flow.may_send(now_ns):
            return None
        return hold

    def handle_frame(self, frame: Frame, now_ns: int) -> bool:
        """Takes a checked frame in; False, and nothing is taken, if there is no room."""
        byte_count = sum(frame.sizes)
        if not self.ledger.admit(frame, byte_count, now_ns):
            return False
        self._dispatcher.dispatch(frame, byte_count, now_ns)
        return True

    def handle_spooled(self, frame: Frame, now_ns: int) -> bool:
        """Takes in a frame that stands in the spool, counted there; False if there is no room."""
        if not self.ledger.admit_spooled(frame):
            return False
        self._dispatcher.dispatch(frame, sum(frame.sizes), now_ns)
        return True

    def handle_results(self, batch: Batch, results: list[RecordResult], now_ns: int) -> None:
        """The answer to a batch: one result a record, in order. Another number of results says
        nothing certain of any record.
        """
        if len(results) != len(batch.records):
            text = f"{len(results)} results for {len(batch.records)} records"
            self.handle_failure(batch, ServiceError("WrongCount", text, status=200), now_ns)
            return
        self._returned(batch, now_ns)
        self._heard(batch)
        failed = self._settle_delivered(batch, results, now_ns)
        if failed:
            self.counters.calls[CallOutcome.PARTIAL] += 1
            self._settle_failed(batch, failed, now_ns)
        else:
            self.counters.calls[CallOutcome.DELIVERED] += 1

    def handle_failure(self, batch: Batch, error: ServiceError, now_ns: int) -> None:
        """A call that failed whole."""
        self._returned(batch, now_ns)
        verdict = judge_call(error)
        self.counters.calls[CallOutcome(verdict.value)] += 1
        if verdict is Verdict.POISON:
            self._heard(batch)  # the service is there, and it said no
            self._bisect(batch, error)
            return
        is_hold = verdict is Verdict.HOLD
        if is_hold:
            self.hold = error
        backoff = HOLD_BACKOFF if is_hold else STREAM_BACKOFF
        self._flow.failed(backoff, now_ns, self._dice, is_probe=batch.is_probe)
        if verdict is Verdict.THROTTLED:
            self.counters.throttled += len(batch.records)
        for run in reversed(batch.runs):
            reasons = {RetryReason(verdict.value): len(run.indices)}
            self._send_again(run, run.indices, reasons, now_ns)
        if is_hold and error.code == MISSING_STREAM:
            self._refuse_waiting(error)

    def handle_description(self, description: StreamDescription, now_ns: int) -> None:
        """What the control plane says of the stream. Parts that are unknown (None) leave what was
        known before.
        """
        if description.record_bytes_max is not None:
            self.record_bytes_max = min(
                description.record_bytes_max, self._settings.batch_bytes_max
            )
        is_changed = self._dispatcher.remap(description, now_ns)
        self.counters.map_refreshes += 1
        self.freshness.answered(now_ns, is_changed=is_changed)

    def handle_timeout(self, now_ns: int) -> None:
        """Time has passed: deadlines are kept."""
        expired = self.ledger.take_expired(now_ns)
        if expired:
            self._abandon(expired, RejectReason.DEADLINE)
        aged = self.ledger.take_aged(now_ns)
        if aged:
            self._expire(aged, now_ns)

    def begin_drain(self) -> None:
        """End of input: nothing lingers any more."""
        self._is_draining = True

    def give_up(self) -> None:
        """The drain's deadline: clients that wait hear that their records were not delivered."""
        self._abandon(self.ledger.take_waiting(), RejectReason.DRAINING)

    # Out

    def poll_batch(self, now_ns: int) -> Batch | None:
        """The next call to make, its tokens taken; None if there is none to make now."""
        packer = self._packer
        packer.wake(now_ns)
        if not packer.has_ready:
            self._gathering_since_ns = None
        elif self._gathering_since_ns is None:
            self._gathering_since_ns = now_ns
        if len(self._in_flight) >= self._settings.in_flight_max or not self._flow.may_send(now_ns):
            return None
        batch = self._next_bisected()
        if batch is None and packer.has_ready and self._is_due(now_ns):
            batch = packer.draw(now_ns)
            self._gathering_since_ns = now_ns  # for what is left in the ring, if anything
        if batch is None:
            return None
        self._has_credit = False
        batch.sent_ns = now_ns
        batch.is_probe = self._flow.sent()
        self._in_flight.add(batch)
        count = len(batch.records)
        counters = self.counters
        counters.buffered -= count
        counters.in_flight += count
        counters.in_flight_calls += 1
        counters.attempts += count
        counters.batch_records.observe(count)
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
        flow_ns = self._flow.next_send_ns()
        if flow_ns is not None and len(self._in_flight) < self._settings.in_flight_max:
            waits = [self._packer.next_due_ns(), self._linger_ends_ns()]
            if self._bisected:
                waits.append(flow_ns)
            times += [max(flow_ns, at_ns) for at_ns in waits if at_ns is not None]
        return min((at_ns for at_ns in times if at_ns is not None), default=None)

    @property
    def is_idle(self) -> bool:
        return not self.counters.buffered and not self._in_flight

    @property
    def shard_count(self) -> int:
        return self._dispatcher.shard_count

    @property
    def lanes(self) -> list[Lane]:
        return self._packer.lanes

    # Pack

    def _is_due(self, now_ns: int) -> bool:
        """Whether a batch may go: the stream clocks itself by its own answers."""
        if self._has_credit or not self._in_flight or self._is_draining:
            return True
        ends_ns = self._linger_ends_ns()
        return self._packer.has_full_batch or (ends_ns is not None and now_ns >= ends_ns)

    def _linger_ends_ns(self) -> int | None:
        if self._gathering_since_ns is None or not self._packer.has_ready:
            return None
        return self._gathering_since_ns + self._settings.linger_ns

    def _next_bisected(self) -> Batch | None:
        while self._bisected:
            runs = [run for run in self._bisected.popleft() if not run.frame.is_abandoned]
            if runs:
                return Batch(runs, sum(run.byte_count for run in runs))
        return None

    # Settle

    def _returned(self, batch: Batch, now_ns: int) -> None:
        self._in_flight.remove(batch)
        counters = self.counters
        counters.in_flight_calls -= 1
        counters.in_flight -= len(batch.records)
        counters.call_duration_ns.observe(now_ns - batch.sent_ns)
        self._has_credit = self._packer.has_ready or not self._in_flight

    def _heard(self, batch: Batch) -> None:
        """The service took the call as ours. An older call says nothing of a stream on hold."""
        self._flow.succeeded(is_probe=batch.is_probe)
        if self._flow.state is FlowState.OPEN:
            self.hold = None

    def _settle_delivered(
        self, batch: Batch, results: list[RecordResult], now_ns: int
    ) -> list[Failed]:
        """Writes what was delivered into the frames; returns what was not, by run."""
        failed: list[Failed] = []
        offset = 0
        for run in batch.runs:
            indices = run.indices
            count = len(indices)
            answers = results[offset : offset + count]
            offset += count
            frame = run.frame
            # An abandoned frame's client was told already; its answer may still be on its way out.
            slots = frame.results if not frame.is_abandoned else list(frame.results)
            lane = run.lane
            shard_id = lane.shard_id
            is_elsewhere = False
            failed_indices: list[int] = []
            for index, result in zip(indices, answers, strict=True):
                if result.sequence_number and not result.error_code:
                    slots[index] = result
                    if result.shard_id != shard_id:
                        is_elsewhere = True
                else:
                    failed_indices.append(index)
            byte_count = run.byte_count
            if failed_indices:
                failed.append((run, failed_indices, [r for r in answers if not r.is_delivered]))
                sizes = frame.sizes
                count -= len(failed_indices)
                byte_count -= sum([sizes[index] for index in failed_indices])
            elif lane.failure_count:
                lane.failure_count = 0
            if count:
                self.ledger.deliver(frame, count, byte_count, now_ns)
            if is_elsewhere:
                self._learn(lane, answers, batch.sent_ns, now_ns)
        return failed

    def _settle_failed(self, batch: Batch, failed: list[Failed], now_ns: int) -> None:
        """Single records that failed inside an answered call: only they go back, in order, and
        their shard backs off.
        """
        failed_of_lane: dict[Lane, int] = {}
        for run, indices, results in reversed(failed):
            again: list[int] = []
            reasons = {RetryReason.THROTTLED: 0, RetryReason.AMBIGUOUS: 0}
            for index, result in zip(indices, results, strict=True):
                code = result.error_code or "NoSequenceNumber"
                verdict = judge_record(code)
                self.counters.failures[failure_code(code)] += 1
                if verdict is Verdict.POISON:
                    self.ledger.bury(run.frame, index, result, run.attempt_count + 1)
                    continue
                reasons[RetryReason(verdict.value)] += 1
                again.append(index)
            self.counters.throttled += reasons[RetryReason.THROTTLED]
            if again:
                failed_of_lane[run.lane] = failed_of_lane.get(run.lane, 0) + len(again)
                self._send_again(run, again, reasons, now_ns)
        sent_of_lane = dict.fromkeys(failed_of_lane, 0)
        for run in batch.runs:
            if run.lane in sent_of_lane:
                sent_of_lane[run.lane] += len(run.indices)
        for lane, count in failed_of_lane.items():
            lane.failure_count = 1 if sent_of_lane[lane] > count else lane.failure_count + 1
            if lane.state is not LaneState.RETIRED:
                wait_ns = SHARD_BACKOFF.wait_ns(lane.failure_count, self._dice)
                self._packer.hold_back(lane, now_ns + wait_ns)

    def _send_again(
        self, run: Run, indices: list[int], reasons: dict[RetryReason, int], now_ns: int
    ) -> None:
        """Puts records of a run back, before what has not been tried; those whose client was told
        that they failed are not sent again. `reasons`: how many of them for what.
        """
        frame = run.frame
        count = len(indices)
        if frame.is_abandoned:
            self.counters.rejected[RejectReason.DEADLINE] += count
            return
        self.counters.buffered += count
        for reason, reason_count in reasons.items():
            self.counters.retries[reason] += reason_count
        self.counters.possible_duplicates += reasons.get(RetryReason.AMBIGUOUS, 0)
        sizes = frame.sizes
        byte_count = sum([sizes[index] for index in indices])
        again = Run(frame, indices, byte_count, run.lane, run.attempt_count + 1)
        if run.lane.state is LaneState.RETIRED:
            self._dispatcher.dispatch_again(again, now_ns)
        else:
            self._packer.push_front(again, now_ns)

    def _bisect(self, batch: Batch, error: ServiceError) -> None:
        """A request was refused as wrong: halve it until the one bad record is found. The halves
        go out on the tokens of the whole: a refused request used nothing of the shards.
        """
        runs = [run for run in batch.runs if not run.frame.is_abandoned]
        count = sum(len(run.indices) for run in runs)
        self.counters.rejected[RejectReason.DEADLINE] += len(batch.records) - count
        if count == 0:
            return
        if count == 1:
            refused = RecordResult(error_code=error.code, error_message=error.message)
            run = runs[0]
            self.ledger.bury(run.frame, run.indices[0], refused, run.attempt_count + 1)
            return
        self.counters.buffered += count
        self.counters.retries[RetryReason.BISECTED] += count
        first: list[Run] = []
        missing = count // 2
        while missing:
            run = runs[0]
            half = runs.pop(0) if len(run.indices) <= missing else run.split(missing)
            first.append(half)
            missing -= len(half.indices)
        self._bisected.extend((first, runs))

    def _abandon(self, frames: list[Frame], reason: RejectReason) -> None:
        """Clients stop waiting: what is queued of these frames is withdrawn."""
        in_flight = self._in_flight_of(frames)
        why = "its shard is at its rate, or the service does not answer"
        if self.hold is not None:
            why = f"{self.hold.code}: {self.hold.message}"
        withdrawn = RecordResult(
            error_code="ProvisionedThroughputExceededException",
            error_message=f"Not delivered in time, and withdrawn: {why}",
        )
        self.ledger.abandon(frames, in_flight, withdrawn, reason)
        self._packer.drop_abandoned()

    def _expire(self, frames: list[Frame], now_ns: int) -> None:
        """Records that nobody waits for are too old; those in flight may yet be delivered."""
        in_flight = self._in_flight_of(frames)
        for frame in frames:
            if frame in in_flight:
                self.ledger.put_off(frame, now_ns + EXPIRY_PUT_OFF_NS)
            else:
                self.ledger.expire(frame)
        self._packer.drop_abandoned()

    def _in_flight_of(self, frames: list[Frame]) -> dict[Frame, set[int]]:
        """Which records of these frames are in calls that are out, by index."""
        asked = set(frames)
        in_flight: dict[Frame, set[int]] = {}
        for batch in self._in_flight:
            for run in batch.runs:
                if run.frame in asked:
                    in_flight.setdefault(run.frame, set()).update(run.indices)
        return in_flight

    def _refuse_waiting(self, error: ServiceError) -> None:
        """The stream is missing: clients that wait hear it as the service says it."""
        frames = self.ledger.take_waiting()
        for frame in frames:
            if frame.unsettled == len(frame.results):
                frame.refusal = (error.code, error.message)
        self._abandon(frames, RejectReason.MISSING_STREAM)

    def _learn(self, lane: Lane, answers: list[RecordResult], sent_ns: int, now_ns: int) -> None:
        """Records landed where nothing was predicted (learn the shards), or elsewhere than
        predicted by the map as it is now (it is stale).
        """
        if lane.shard_id is None:
            self._dispatcher.learn(lane, answers, now_ns)
        elif sent_ns >= self._dispatcher.map_since_ns:
            self.counters.map_mismatches += 1
            self.freshness.stale(now_ns)

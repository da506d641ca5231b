"""What the answer to a call means for each of its records: delivered, dead, or sent again.

Writes results into frames, gives records back to their lanes, tells shards'
budgets what the shards took, halves calls that were refused as wrong, and keeps aggregates that
landed on an unknown shard. Knows nothing of when calls may go out.

Invariant: every record of an answered call is settled, queued again, or kept as a stray, once; the
counters say which.
Where it sits: the engine calls it for each answer; it works on the ledger, the packer and the
dispatcher.
"""

from collections.abc import Iterator
from itertools import chain

from kdaemon.base.counters import StreamCounters, failure_code
from kdaemon.base.errors import ServiceError
from kdaemon.base.failures import Failures
from kdaemon.base.frame import Frame
from kdaemon.base.ports import Dice
from kdaemon.base.record import RecordResult
from kdaemon.base.service import AWS, Service
from kdaemon.base.verdict import Verdict
from kdaemon.pace.backoff import SHARD_BACKOFF
from kdaemon.pace.latency import CallLatency
from kdaemon.pack.batch import Batch
from kdaemon.pack.dispatch import Dispatcher
from kdaemon.pack.halves import Halves
from kdaemon.pack.key_order import KeyOrder
from kdaemon.pack.lane import Lane, LaneState
from kdaemon.pack.packer import Packer
from kdaemon.pack.run import Run
from kdaemon.pack.sweep import abandoned_runs, queued_frames
from kdaemon.route.freshness import Doubt, MapFreshness
from kdaemon.settle.billing import bill_call, bill_records
from kdaemon.settle.ledger import FrameLedger
from kdaemon.settle.strays import Landing, Stray, landing
from kdaemon.settle.verdict import UNKNOWN_ATTEMPTS_MAX, judge_record

Failed = tuple[Run, list[int], list[RecordResult]]
"""The failed records of one run in an answered call: the run, the records' indices, their
results."""

OUTSIDE_RANGE = RecordResult(
    error_code="OutsideRange",  # kdaemon's own code: recognised as this object, never by its text
    error_message="In an aggregate on a shard whose range does not hold all its keys: readers drop"
    " it.",
)


class Settlement:
    """The settlement of one stream. `halves`: parts of refused calls that must go out; `strays`:
    see `strays.py`.

    `hold`: why a call was answered, delivered nothing, and somebody must act; the engine takes it.
    `failures`: the latest failures, for observers.
    """

    def __init__(
        self,
        ledger: FrameLedger,
        packer: Packer,
        dispatcher: Dispatcher,
        order: KeyOrder | None,
        freshness: MapFreshness,
        counters: StreamCounters,
        dice: Dice,
        batch_records_max: int,
        latency: CallLatency | None,
        service: Service = AWS,
    ) -> None:
        """`latency`: present where the service stalls a call that is too much, and does not refuse
        it.
        """
        self._service = service
        self._ledger = ledger
        self._packer = packer
        self._dispatcher = dispatcher
        self._order = order
        self._freshness = freshness
        self._counters = counters
        self._dice = dice
        self.batch_records_max = batch_records_max
        self._latency = latency
        self._sweep: Iterator[tuple[list[Run], bool]] = iter(())
        self.halves = Halves()
        self.strays: list[Stray] = []
        self.hold: ServiceError | None = None
        self.failures = Failures()

    def settle(self, batch: Batch, results: list[RecordResult], now_ns: int) -> bool:
        """Settles an answered call: one result for each record sent, in order. False if records
        failed.
        """
        if batch.widths is not None:
            self._bill(batch, results, is_whole=False)
            runs, by_run = self._without_strays(batch, results, now_ns)
        elif batch.wholes:
            runs, by_run = self._settle_wholes(batch, results, now_ns)
        else:
            runs, by_run = batch.runs, results
        failed = self._settle_delivered(runs, by_run, batch.sent_ns, now_ns)
        if batch.widths is None:
            self._bill(batch, results, is_whole=not failed)
        throttled = self._settle_failed(runs, failed, now_ns) if failed else {}
        self._tell_budgets(batch, throttled, now_ns)
        self._take_turns(now_ns)
        return not failed

    def send_again(self, batch: Batch, reason: Verdict, now_ns: int) -> None:
        """A call failed whole: all its records go back, in order. `reason`: AMBIGUOUS if the
        service may have written them.
        """
        for run in reversed(batch.runs):
            if reason is Verdict.AMBIGUOUS:
                run.frame.remember().doubtful.update(run.indices)
            if run.frame.history is not None:  # an answer to one record is no longer the last word
                for index in run.indices:
                    run.frame.history.failures.pop(index, None)
            self._back(run, run.indices, {reason: len(run.indices)}, now_ns)
        self._take_turns(now_ns)

    def bisect(self, batch: Batch, error: ServiceError, now_ns: int) -> None:
        """A request was refused as wrong: it is halved until the one bad record is found. The
        halves go out on the tokens of the whole: a refused request used nothing of the shards.
        """
        runs = [run for run in batch.runs if not run.frame.is_abandoned]
        count = sum(len(run.indices) for run in runs)
        for run in batch.runs:
            if run.frame.is_abandoned:
                self._reject(run, run.indices)
        if count == 1:
            refused = RecordResult(error_code=error.code, error_message=error.message)
            self._bury(runs[0], runs[0].indices[0], refused)
        elif count:
            self._counters.buffered += count
            self._counters.retries[Verdict.BISECTED] += count
            self.halves.add(self._alone(runs), self.batch_records_max)
        self._take_turns(now_ns)

    def next_bisected(self) -> Batch | None:
        """A part of a refused call, as a call of its own; None if there is none."""
        if self.halves.parts:
            runs = self.halves.take()
            if runs:
                return self._packer.batch_of(runs)
        return None

    def judge_strays(self, now_ns: int) -> None:
        """The map has just been updated, or time has passed: decides on the strays that can be
        decided.
        """
        strays, self.strays = self.strays, []
        for stray in strays:
            sent = self._packer.names.as_sent(stray.batch.runs)
            where = landing(sent, stray.result.shard_id, self._dispatcher.shard_map)
            if where is Landing.UNKNOWN and now_ns < stray.due_at_ns():
                self.strays.append(stray)
                continue
            count = stray.batch.record_count
            self._counters.in_flight -= count
            result = stray.result if where is Landing.INSIDE else OUTSIDE_RANGE
            runs = stray.batch.runs
            failed = self._settle_delivered(runs, [result] * count, stray.batch.sent_ns, now_ns)
            if failed:
                self._settle_failed(runs, failed, now_ns)
        self._take_turns(now_ns)

    # Waiting records, in slices

    def queued_frames(self) -> Iterator[Frame]:
        """The frames of all records that wait to be sent now, for a walk in slices. A frame may
        come more than once, and may have ended since.
        """
        return chain(self.halves.frames(), queued_frames(self._packer, self._order))

    def begin_sweep(self, now_ns: int) -> None:
        """Begins a sweep: `sweep` then drops the queued runs of abandoned frames."""
        self._packer.part_frames(now_ns)
        self._sweep = abandoned_runs(self._packer, self._order)

    def sweep(self, now_ns: int) -> bool:
        """A slice of the sweep. True: there is more, and no batch may be drawn."""
        dropped, has_more = next(self._sweep)
        if not has_more:
            self._sweep = iter(())  # the walk keeps the runs that it found last alive
            dropped += self.halves.drop_abandoned()
        self._forget(dropped, now_ns)
        return has_more

    def route_again(self, now_ns: int) -> bool:
        """Gives a slice of the runs whose lanes are gone a place by the map that holds now. True:
        there is more.
        """
        self._forget(self._dispatcher.route_orphans(now_ns), now_ns)
        return self._dispatcher.has_orphans

    def _forget(self, runs: list[Run], now_ns: int) -> None:
        """Runs of abandoned frames, which were queued, are out no more."""
        if self._order is not None:
            for run in runs:
                self._leave(run, run.indices)
            self._take_turns(now_ns)

    # Strays

    def _without_strays(
        self, batch: Batch, results: list[RecordResult], now_ns: int
    ) -> tuple[list[Run], list[RecordResult]]:
        """The runs of a batch with aggregates, and a result for each of their records. Aggregates
        whose landing cannot be judged yet are left out, and kept as strays.
        """
        assert batch.widths is not None
        kept_runs: list[Run] = []
        kept_results: list[RecordResult] = []
        runs = iter(batch.runs)
        for sent, width, result in zip(batch.records, batch.widths, results, strict=True):
            carried: list[Run] = []
            missing = width
            while missing:
                carried.append(next(runs))
                missing -= len(carried[-1].indices)
            outcome = result
            if width > 1 and result.is_delivered and result.shard_id != carried[0].lane.shard_id:
                shard_map = self._dispatcher.shard_map
                joined = self._packer.names.as_sent(carried)
                where = landing(joined, result.shard_id, shard_map)
                if where is Landing.OUTSIDE:
                    outcome = OUTSIDE_RANGE
                if where is not Landing.INSIDE:
                    self._landed_elsewhere(carried[0].lane, batch.sent_ns, now_ns)
                if where is Landing.UNKNOWN:
                    alone = Batch(carried, 0, paid={}, records=[sent], widths=[width])
                    alone.sent_ns = batch.sent_ns
                    self.strays.append(Stray(alone, result, now_ns))
                    self._counters.in_flight += width
                    continue
            kept_runs += carried
            kept_results += [outcome] * width
        return kept_runs, kept_results

    # Delivered

    def _bill(self, batch: Batch, results: list[RecordResult], *, is_whole: bool) -> None:
        sent = self._counters.billed
        if self._service.bills_by_call:
            bill_call(sent, batch, results)
        else:
            is_named = self._packer.names.is_used
            bill_records(sent, batch, results, is_whole=is_whole, is_named=is_named)

    def _settle_wholes(
        self, batch: Batch, results: list[RecordResult], now_ns: int
    ) -> tuple[list[Run], list[RecordResult]]:
        """Settles a call of which every record was delivered as predicted. For any other call it
        returns all its runs and their results: the outcome of a shard is judged by all records that
        the call brought to it, also those of frames that were delivered.
        """
        offset = 0
        for whole in batch.wholes:
            start, offset = offset, offset + len(whole.frame.records)
            if not whole.settle(results[start:offset]):
                return batch.runs, results
        for whole in batch.wholes:
            whole.took()
        delivered = {whole.frame: len(whole.frame.records) for whole in batch.wholes}
        self._ledger.deliver(delivered, batch.byte_count, now_ns)
        return [], []

    def _settle_delivered(
        self, runs: list[Run], results: list[RecordResult], sent_ns: int, now_ns: int
    ) -> list[Failed]:
        """Writes the results of delivered records into the frames; returns the failed records, by
        run.
        """
        failed: list[Failed] = []
        delivered: dict[Frame, int] = {}
        byte_count = offset = 0
        answers = iter(results)
        for run in runs:
            indices = run.indices
            frame = run.frame
            # An abandoned frame's client was told already; that answer may still be on its way out.
            slots = frame.results if not frame.is_abandoned else list(frame.results)
            lane = run.lane
            shard_id = lane.shard_id
            is_elsewhere = False
            failed_indices: list[int] = []
            for index, result in zip(indices, answers, strict=False):  # the next run's follow
                if result.sequence_number and not result.error_code:
                    slots[index] = result
                    if result.shard_id != shard_id:
                        is_elsewhere = True
                else:
                    failed_indices.append(index)
            count = len(indices)
            start, offset = offset, offset + count
            byte_count += run.byte_count
            if failed_indices:
                those = [each for each in results[start:offset] if not each.is_delivered]
                failed.append((run, failed_indices, those))
                sizes = frame.sizes
                count -= len(failed_indices)
                byte_count -= sum([sizes[index] for index in failed_indices])
            elif lane.failure_count:
                lane.failure_count = 0
            if count:
                lane.taken += count
                delivered[frame] = delivered.get(frame, 0) + count
                if self._order is not None:
                    gone = set(failed_indices) if failed_indices else ()
                    done = [index for index in indices if index not in gone] if gone else indices
                    self._leave(run, done)
            if is_elsewhere:
                self._learn(lane, results[start:offset], sent_ns, now_ns)
        self._ledger.deliver(delivered, byte_count, now_ns)
        return failed

    # Failed

    def _settle_failed(
        self, runs: list[Run], failed: list[Failed], now_ns: int
    ) -> dict[Lane, float]:
        """Single records failed inside an answered call: only they go back, in order. Their shard's
        budget is told of throttles, and a shard that took nothing backs off.
        """
        throttled_of: dict[Lane, int] = {}
        failed_of: dict[Lane, int] = {}
        held: RecordResult | None = None
        for run, indices, results in reversed(failed):
            again: list[int] = []
            reasons: dict[Verdict, int] = {}
            for index, result in zip(indices, results, strict=True):
                verdict = self._judge(run, index, result, now_ns)
                if verdict is Verdict.POISON:
                    self._bury(run, index, result)
                    continue
                if verdict is Verdict.HOLD:
                    held = result
                reasons[verdict] = reasons.get(verdict, 0) + 1
                again.append(index)
            throttled = reasons.get(Verdict.THROTTLED, 0)
            self._counters.throttled += throttled
            run.lane.throttled += throttled
            throttled_of[run.lane] = throttled_of.get(run.lane, 0) + throttled
            if throttled and self._dispatcher.is_auto:
                # Perhaps the stream is AUTO no longer: then its keys make shards hot.
                self._freshness.stale(now_ns, Doubt.LIMITS)
            if again:
                failed_of[run.lane] = failed_of.get(run.lane, 0) + len(again)
                self._back(run, again, reasons, now_ns)
        sent_of: dict[Lane, int] = {}
        for run in runs:
            sent_of[run.lane] = sent_of.get(run.lane, 0) + len(run.indices)
        if held is not None and sum(failed_of.values()) == sum(sent_of.values()):
            code, message = held.error_code or "", held.error_message or ""
            self.hold = ServiceError(code, message, status=200)
        for lane, count in failed_of.items():
            self._back_off(lane, count, throttled_of[lane], sent_of[lane], now_ns)
        return {lane: throttled / sent_of[lane] for lane, throttled in throttled_of.items()}

    def _judge(self, run: Run, index: int, result: RecordResult, now_ns: int) -> Verdict:
        """The class of a record that failed alone: POISON, or why it is sent again. The frame
        remembers what a waiting client will be told at its deadline.
        """
        if result is OUTSIDE_RANGE:
            return Verdict.OUTSIDE
        code = result.error_code or ""
        message = result.error_message or ""
        verdict = judge_record(code, message, self._service)
        self._counters.failures[failure_code(code)] += 1
        self.failures.record(code, message, now_ns)
        if verdict is Verdict.POISON:
            return verdict
        frame = run.frame
        if verdict is Verdict.UNKNOWN:
            counts = frame.remember().unknown_counts
            counts[index] = counts.get(index, 0) + 1
            if counts[index] >= UNKNOWN_ATTEMPTS_MAX:
                return Verdict.POISON
            verdict = Verdict.AMBIGUOUS
        if verdict is Verdict.AMBIGUOUS:
            frame.remember().doubtful.add(index)
        if frame.deadline_ns is not None:
            frame.remember().failures[index] = result
        return verdict

    def _tell_budgets(self, batch: Batch, throttled: dict[Lane, float], now_ns: int) -> None:
        """Tells each shard's budget what the shard took of the call. `throttled`: the part that the
        shard refused, 0..1.

        Where the service stalls a call that is too much, the call took long. The shard that the
        call asked for most of its quota is taken to be the cause.
        """
        busiest: Lane | None = None
        stalled_ns = 0
        if self._latency is not None and batch.paid:
            stalled_ns = self._latency.stalled_ns(now_ns - batch.sent_ns, now_ns)
            self._packer.stalled_after_ns = self._latency.stalled_after_ns
            if stalled_ns:
                busiest = max(batch.paid, key=lambda lane: lane.budget.use(*batch.paid[lane]))
        sent_ns = batch.sent_ns
        if len(batch.wholes) == 1 and not throttled:
            batch.wholes[0].tell_budgets(sent_ns, now_ns)
            return
        if not throttled and not stalled_ns:  # as almost always
            for lane, (records, byte_count) in batch.paid.items():
                lane.budget.hear(records, byte_count, 0.0, sent_ns, now_ns)
            return
        for lane, (records, byte_count) in batch.paid.items():
            refused = records * throttled.get(lane, 0.0)
            lane_held_ns = stalled_ns if lane is busiest else 0
            lane.budget.hear(records, byte_count, refused, sent_ns, now_ns, lane_held_ns)

    def _back_off(self, lane: Lane, failed: int, throttled: int, sent: int, now_ns: int) -> None:
        """Begins the shard's backoff. A shard that took some records and throttled the rest is
        paced by its budget alone.
        """
        is_partial = failed < sent
        lane.failure_count = 1 if is_partial else lane.failure_count + 1
        if lane.state is LaneState.RETIRED or (is_partial and throttled == failed):
            return
        wait_ns = SHARD_BACKOFF.wait_ns(lane.failure_count, self._dice)
        self._packer.postpone(lane, now_ns + wait_ns, now_ns)

    def _back(self, run: Run, indices: list[int], reasons: dict[Verdict, int], now_ns: int) -> None:
        """Puts records of a run back, before records that have not been tried. Records whose client
        was told that they failed are not sent again. `reasons`: how many of them came back for
        which reason.
        """
        counters = self._counters
        frame = run.frame
        count = len(indices)
        if frame.is_abandoned:
            self._reject(run, indices)
            return
        frame.is_tried = True
        counters.buffered += count
        for reason, reason_count in reasons.items():
            counters.retries[reason] += reason_count
            if reason in _MAY_DUPLICATE:
                counters.possible_duplicates += reason_count
        sizes = frame.sizes
        byte_count = sum([sizes[index] for index in indices])
        attempts = run.attempt_count + 1
        again = Run(frame, indices, byte_count, run.lane, attempts, is_keyless=run.is_keyless)
        is_in_order = self._order is not None and not run.is_keyless
        if is_in_order and not self._order.back(again):  # type: ignore[union-attr]
            return
        if run.is_keyless and self._dispatcher.shard_map is not None:
            again.lane = self._packer.keyless_lane
            self._packer.push_front(again, now_ns)
        elif again.lane.state is LaneState.RETIRED:
            self._dispatcher.queue_again(again, now_ns)
        else:
            self._packer.push_front(again, now_ns)

    def _reject(self, run: Run, indices: list[int]) -> None:
        """Records came back, and their client was refused while they were out."""
        reason = run.frame.remember().reject_reason
        self._counters.rejected[reason] += len(indices)
        self._leave(run, indices)

    def _bury(self, run: Run, index: int, result: RecordResult) -> None:
        self._ledger.bury(run.frame, index, result, run.attempt_count + 1)
        self._leave(run, [index])

    def _alone(self, runs: list[Run]) -> list[Run]:
        """Of each key only the first record: the halves of a call may not pass one another."""
        if self._order is None:
            return runs
        kept = [run for run in reversed(runs) if run.is_keyless or self._order.back(run)]
        kept.reverse()
        return kept

    # Turns of keys

    def _leave(self, run: Run, indices: list[int]) -> None:
        """These records of a run are out no more. The records whose turn has come are queued when
        the call is settled.
        """
        if self._order is not None and not run.is_keyless:
            self._order.settled(run.frame, indices)

    def _take_turns(self, now_ns: int) -> None:
        if self._order is None:
            return
        runs: list[Run] = []
        for run in self._order.freed():
            if run.lane.state is LaneState.RETIRED:
                self._dispatcher.queue_again(run, now_ns)
            else:
                runs.append(run)
        if runs:
            self._packer.push_all(runs, now_ns)

    # The map

    def _learn(self, lane: Lane, answers: list[RecordResult], sent_ns: int, now_ns: int) -> None:
        """Records landed where no shard was predicted (the dispatcher learns the shards), or
        elsewhere than the map predicts (the map is stale).
        """
        if lane.shard_id is not None:
            self._landed_elsewhere(lane, sent_ns, now_ns)
        elif self._dispatcher.learn(lane, answers, now_ns):
            self._freshness.stale(now_ns)

    def _landed_elsewhere(self, lane: Lane, sent_ns: int, now_ns: int) -> None:
        if sent_ns >= self._dispatcher.map_since_ns:
            self._counters.map_mismatches += 1
            lane.doubted_ns = now_ns
            self._freshness.stale(now_ns)


_MAY_DUPLICATE = frozenset({Verdict.AMBIGUOUS, Verdict.OUTSIDE})

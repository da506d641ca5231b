"""What the answer to a call means for each of its records: delivered, dead, or sent again.

Writes results into frames, gives records back to their lanes, tells shards'
budgets what the shards took, halves calls that were refused as wrong, and keeps aggregates that
landed on an unknown shard. Knows nothing of when calls may go out.

Invariant: every record of an answered call is settled, queued again, or kept as a stray, once; the
counters say which.
Where it sits: the engine calls it for each answer; it works on the ledger and the queues.
"""

from kdaemon.base.counters import failure_code
from kdaemon.base.counting import StreamCounters
from kdaemon.base.errors import ServiceError
from kdaemon.base.failures import Failures
from kdaemon.base.frame import Frame
from kdaemon.base.ports import Dice
from kdaemon.base.record import RecordResult
from kdaemon.base.service import Service
from kdaemon.base.verdict import Verdict
from kdaemon.pace.backoff import SHARD_BACKOFF
from kdaemon.pack.batch import Batch
from kdaemon.pack.lane import Lane, LaneState
from kdaemon.pack.queues import Queues
from kdaemon.pack.run import Run
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
    """The settlement of one stream. `strays`: see `strays.py`.

    `hold`: why a call was answered, delivered nothing, and somebody must act; the engine takes it.
    `failures`: the latest failures, for observers.
    """

    def __init__(
        self,
        ledger: FrameLedger,
        queues: Queues,
        freshness: MapFreshness,
        counters: StreamCounters,
        dice: Dice,
        service: Service,
    ) -> None:
        self._ledger = ledger
        self._queues = queues
        self._shards = queues.shards
        self._freshness = freshness
        self._counters = counters
        self._dice = dice
        self._service = service
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
        self._queues.take_turns(now_ns)
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
        self._queues.take_turns(now_ns)

    def bisect(self, batch: Batch, error: ServiceError, now_ns: int) -> None:
        """A request was refused as wrong: it is halved until the one bad record is found. The
        halves go out on the tokens of the whole: a refused request used nothing of the shards.
        """
        runs = [run for run in batch.runs if not run.frame.is_abandoned]
        count = sum(len(run.indices) for run in runs)
        for run in batch.runs:
            if run.frame.is_abandoned:
                self._refuse(run, run.indices)
        if count == 1:
            refused = RecordResult(error_code=error.code, error_message=error.message)
            self._bury(runs[0], runs[0].indices[0], refused)
        elif count:
            self._counters.buffered += count
            self._counters.retries[Verdict.BISECTED] += count
            self._queues.halve(runs)
        self._queues.take_turns(now_ns)

    def judge_strays(self, now_ns: int) -> None:
        """The map has just been updated, or time has passed: decides on the strays that can be
        decided.
        """
        strays, self.strays = self.strays, []
        for stray in strays:
            sent = self._queues.names.as_sent(stray.batch.runs)
            where = landing(sent, stray.result.shard_id, self._shards.shard_map)
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
        self._queues.take_turns(now_ns)

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
                shard_map = self._shards.shard_map
                joined = self._queues.names.as_sent(carried)
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
            is_named = self._queues.names.is_used
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
        is_ordered = self._queues.order.is_kept
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
                if is_ordered:
                    gone = set(failed_indices) if failed_indices else ()
                    done = [index for index in indices if index not in gone] if gone else indices
                    self._queues.leave(run, done)
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
            if throttled and self._shards.is_auto:
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
        stalled_ns = self._queues.packer.stalls.stalled_ns(batch, now_ns)
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
        self._queues.packer.postpone(lane, now_ns + wait_ns, now_ns)

    def _back(self, run: Run, indices: list[int], reasons: dict[Verdict, int], now_ns: int) -> None:
        """Puts records of a run back, before records that have not been tried. Records whose client
        was told that they failed are not sent again. `reasons`: how many of them came back for
        which reason.
        """
        counters = self._counters
        frame = run.frame
        count = len(indices)
        if frame.is_abandoned:
            self._refuse(run, indices)
            return
        attempts = run.attempt_count + 1
        if attempts > frame.attempt_count:  # noqa: PLR1730 - `max` is a call
            frame.attempt_count = attempts
        counters.buffered += count
        for reason, reason_count in reasons.items():
            counters.retries[reason] += reason_count
            if reason in _MAY_DUPLICATE:
                counters.possible_duplicates += reason_count
        sizes = frame.sizes
        byte_count = sum([sizes[index] for index in indices])
        again = Run(frame, indices, byte_count, run.lane, attempts, is_keyless=run.is_keyless)
        self._queues.put_back(again, now_ns)

    def _refuse(self, run: Run, indices: list[int]) -> None:
        """Records came back, and their client was refused while they were out."""
        reason = run.frame.remember().refuse_reason
        self._counters.rejected[reason] += len(indices)
        self._queues.leave(run, indices)

    def _bury(self, run: Run, index: int, result: RecordResult) -> None:
        self._ledger.bury(run.frame, index, result, run.attempt_count + 1)
        self._queues.leave(run, [index])

    # The map

    def _learn(self, lane: Lane, answers: list[RecordResult], sent_ns: int, now_ns: int) -> None:
        """Records landed where no shard was predicted (the shards are learnt so), or
        elsewhere than the map predicts (the map is stale).
        """
        if lane.shard_id is not None:
            self._landed_elsewhere(lane, sent_ns, now_ns)
        elif self._shards.learn(lane, answers, now_ns):
            self._freshness.stale(now_ns)

    def _landed_elsewhere(self, lane: Lane, sent_ns: int, now_ns: int) -> None:
        if sent_ns >= self._shards.map_since_ns:
            self._counters.map_mismatches += 1
            lane.doubted_ns = now_ns
            self._freshness.stale(now_ns)


_MAY_DUPLICATE = frozenset({Verdict.AMBIGUOUS, Verdict.OUTSIDE})

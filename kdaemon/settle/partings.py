"""Frames that end before they are delivered: their clients wait no more, or the frames are too old.

Decides which client is told what, and that no record of such a frame is sent any more. Hundreds of
thousands of frames may end at once (at the end of an outage, a hold or a drain), so that all of it
is done in slices: frames end some at a time (a round), then the queues are swept of their records.
Knows the ledger, the queues and the calls that are out; must not know how records are paced or
packed.
Invariants: counters conserve between any two slices; while `is_sweep_due` no batch may be drawn,
for a queued record may belong to a frame whose client was told that it is not sent. A frame that
does not end in this slice is merely late. Pure.
Where it sits: the engine tells what has happened and calls `work`; `due_at_ns` says when to call it
again.
"""

from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from kdaemon.base.counters import DeadReason, RefuseReason
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.record import RecordResult
from kdaemon.base.service import Service
from kdaemon.pack.batch import Batch
from kdaemon.pack.queues import Queues
from kdaemon.settle.deadlines import pieces_of
from kdaemon.settle.ledger import EXPIRED, REFUSED, WITHDRAWN, FrameLedger, Parting
from kdaemon.settle.settlement import Settlement
from kdaemon.settle.verdict import (
    INTERNAL,
    THROUGHPUT,
    UNAVAILABLE,
    judge_call,
    may_be_written,
    told,
)

EXPIRY_PUT_OFF_NS = 1_000_000_000  # 1 s: a frame that was in flight is then looked at again

PIECES_A_SLICE = 2_000
"""The frames that end in one slice, in pieces (`pieces_of`): 400 frames of one record, or 4 of 500;
about 1.5 ms. Ours, 2026-11-28."""

PIECES_A_ROUND = 60_000
"""The pieces that end before the queues are swept and may be drawn from again: 50 to 100 ms. Ours,
2026-11-28: without a bound, an hour's backlog that expires would stop a healthy stream."""

GONE_INTERVAL_NS = 100_000_000
"""0.1 s: the least time between two looks at clients that went, where a sweep takes more than a
slice. Ours, 2026-11-28: otherwise each client that only connects and goes would cause a sweep of
the whole queue."""


_ON_HOLD = (RefuseReason.HOLD, RefuseReason.MISSING_STREAM)
"""A client that is told one of these has records in no call that has left: the call's answer, which
comes soon, tells more of them."""


@dataclass(frozen=True, slots=True)
class Why:
    """Why nothing is sent now, as far as something is wrong with the whole stream."""

    unavailable: ServiceError | None
    last_error: ServiceError | None
    hold: ServiceError | None


@dataclass(frozen=True, slots=True)
class _Refusal:
    """All clients that waited at `until_ns` are told that nothing can be sent, and why."""

    reason: RefuseReason
    parting: Parting
    until_ns: int


class Partings:
    """The partings of one stream. `is_sweep_due`: frames have ended, and their records are still
    queued.
    """

    __slots__ = (
        "_gone",
        "_gone_at_ns",
        "_in_flight",
        "_kept",
        "_ledger",
        "_missing",
        "_queues",
        "_refusal",
        "_round_pieces",
        "_service",
        "_settlement",
        "due_at_ns",
        "is_sweep_due",
    )

    def __init__(
        self,
        ledger: FrameLedger,
        queues: Queues,
        settlement: Settlement,
        in_flight: AbstractSet[Batch],
        service: Service,
    ) -> None:
        """`in_flight`: the calls that are out; the engine's own set."""
        self._ledger = ledger
        self._queues = queues
        self._settlement = settlement
        self._in_flight = in_flight
        self._service = service
        self._gone: deque[Frame] = deque()  # bound: the frames of the stream
        self._gone_at_ns = 0
        self._refusal: _Refusal | None = None
        self._kept: list[Frame] = []  # by the refusal, because of calls that are out; in order
        self._missing: tuple[RecordResult, Iterator[Frame]] | None = None
        self._round_pieces = 0
        self.is_sweep_due = False
        self.due_at_ns: int | None = None

    def clients_gone(self, frames: list[Frame]) -> None:
        """No client waits for these frames any more."""
        self._gone.extend(frames)

    def refuse_waiting(self, reason: RefuseReason, why: Why, now_ns: int) -> None:
        """All clients that wait now are told why nothing is sent: on a hold, those that have
        records in calls that have left go on waiting. The end of a drain is not taken back.
        """
        if self._refusal is None or self._refusal.reason is not RefuseReason.DRAINING:
            self._end_refusal()
            self._refusal = _Refusal(reason, self._parting(reason, why), now_ns)

    def keep_waiting(self) -> None:
        """The cause is over: clients that were not told yet go on waiting. (After the end of a
        drain they are told all the same.)
        """
        if self._refusal is not None and self._refusal.reason is not RefuseReason.DRAINING:
            self._end_refusal()

    def _end_refusal(self) -> None:
        self._refusal = None
        if self._kept:
            self._ledger.wait_again(self._kept)
            self._kept = []

    def give_up_missing(self, error: ServiceError) -> None:
        """All records that are queued now are dead: the stream does not exist."""
        result = RecordResult(error_code=error.code, error_message=error.message)
        self._missing = result, self._queues.frames()

    @property
    def is_refusing(self) -> bool:
        """Some of the clients that must be told that nothing can be sent are not told yet."""
        return self._refusal is not None

    def work(self, now_ns: int, why: Why) -> None:
        """One slice of the work that is due now."""
        self.due_at_ns = now_ns  # more work is due, unless the end of this method says otherwise
        if self._queues.route_orphans(now_ns):
            return
        if not self._queues.is_withdrawing:
            pieces = self._end_some(now_ns, why)
            self._round_pieces += pieces
            if pieces >= PIECES_A_SLICE and self._round_pieces < PIECES_A_ROUND:
                return
        if self.is_sweep_due:
            if self._queues.withdraw(now_ns):
                self._gone_at_ns = now_ns + GONE_INTERVAL_NS
                return
            self.is_sweep_due = False
        has_more = self._round_pieces >= PIECES_A_ROUND or self._missing is not None
        if not has_more and self._refusal is None:
            self.due_at_ns = max(now_ns, self._gone_at_ns) if self._gone else None
        self._round_pieces = 0

    def _end_some(self, now_ns: int, why: Why) -> int:
        """Ends frames of every kind that is due, up to a slice; returns the number of pieces."""
        pieces = 0
        if self._gone and now_ns >= self._gone_at_ns:
            pieces = self._end_gone(why)
        if self._refusal is not None and pieces < PIECES_A_SLICE:
            refusal = self._refusal
            frames = self._ledger.take_waiting(PIECES_A_SLICE - pieces, refusal.until_ns)
            pieces += sum(map(pieces_of, frames))
            if refusal.reason in _ON_HOLD:
                left = self._left_with(frames)
                self._kept += [frame for frame in frames if frame in left]
                frames = [frame for frame in frames if frame not in left]
            self._abandon(frames, refusal.reason, refusal.parting)
            if pieces < PIECES_A_SLICE:
                self._end_refusal()
        if pieces < PIECES_A_SLICE:
            frames = self._ledger.take_expired(now_ns, PIECES_A_SLICE - pieces)
            reason = RefuseReason.DEADLINE
            if frames:
                self._abandon(frames, reason, self._parting(reason, why))
                pieces += sum(map(pieces_of, frames))
        if pieces < PIECES_A_SLICE:
            frames = self._ledger.take_aged(now_ns, PIECES_A_SLICE - pieces)
            if frames:
                self._expire(frames, now_ns)
                pieces += sum(map(pieces_of, frames))
        if self._missing is not None and pieces < PIECES_A_SLICE:
            pieces += self._end_missing(*self._missing)
        return pieces

    def _end_gone(self, why: Why) -> int:
        pieces = 0
        frames: dict[Frame, None] = {}  # a frame may be reported as gone twice
        while self._gone and pieces < PIECES_A_SLICE:
            frame = self._gone.popleft()
            pieces += pieces_of(frame)
            if self._ledger.stop_waiting(frame):
                frames[frame] = None
        reason = RefuseReason.CLIENT_GONE
        if frames:
            self._abandon(list(frames), reason, self._parting(reason, why))
        return pieces

    def _end_missing(self, result: RecordResult, queued: Iterator[Frame]) -> int:
        pieces = 0
        frames: dict[Frame, None] = {}
        for frame in queued:
            pieces += 1
            if not frame.is_abandoned and frame.unsettled and frame not in frames:
                frames[frame] = None
                pieces += pieces_of(frame)
            if pieces >= PIECES_A_SLICE:
                break
        else:
            self._missing = None
        in_flight = self._in_flight_of(list(frames))
        for frame in frames:
            if frame not in in_flight:
                self._ledger.give_up(frame, result, DeadReason.MISSING_STREAM)
                self.is_sweep_due = True
        if self._missing is None and len(frames) > len(in_flight):
            # Records behind others of their key may have come forward: walk the queues once more.
            self._missing = result, self._queues.frames()
        return pieces

    def _abandon(self, frames: list[Frame], reason: RefuseReason, parting: Parting) -> None:
        """Clients stop waiting: the queued records of these frames are withdrawn."""
        if frames:
            in_flight = self._in_flight_of(frames)
            self._ledger.abandon(frames, in_flight, parting, reason, self._recall(frames))
            self.is_sweep_due = True

    def _parting(self, reason: RefuseReason, why: Why) -> Parting:
        """The answers for records about which the service said nothing."""
        error = why.unavailable or why.last_error or why.hold
        if error is not None:
            code, message = told(error, self._service)
            text = message if reason in REFUSED else WITHDRAWN + message
            withdrawn = RecordResult(error_code=code, error_message=text)
            is_doubtful = error is why.last_error and may_be_written(
                error, judge_call(error, self._service)
            )
            return Parting(withdrawn, str(error), code if is_doubtful else INTERNAL)
        if reason is RefuseReason.DRAINING:
            code, text = UNAVAILABLE, "kdaemon is stopping."
        else:
            code, text = THROUGHPUT, "its shard is at its rate, or the service does not answer"
        return Parting(RecordResult(error_code=code, error_message=WITHDRAWN + text))

    def _expire(self, frames: list[Frame], now_ns: int) -> None:
        """These records are too old, and no client waits for them. Those in flight may yet be
        delivered. A stored frame is tried once before it expires: its age comes from a clock that
        somebody may have set.
        """
        in_flight = self._in_flight_of(frames)
        for frame in frames:
            is_new = not frame.attempt_count and frame.unsettled == len(frame.results)
            if frame in in_flight or (is_new and frame.acknowledge is Acknowledge.STORED):
                self._ledger.put_off(frame, now_ns + EXPIRY_PUT_OFF_NS)
            else:
                self._ledger.give_up(frame, self._expired(frame), DeadReason.EXPIRED)
                self.is_sweep_due = True

    def _expired(self, frame: Frame) -> RecordResult:
        """Why the records of the frame were not delivered in time: with the stream's last error, if
        there was one since they were accepted.
        """
        last = self._settlement.failures.last
        if last is None or last.last_ns < frame.accepted_ns:
            return EXPIRED
        text = f"{EXPIRED.error_message} The last error was {last.code}: {last.message}"
        return RecordResult(error_code=EXPIRED.error_code, error_message=text)

    def _in_flight_of(self, frames: list[Frame]) -> dict[Frame, set[int]]:
        """Which records of these frames are in calls that are out, or strays, by index."""
        asked = set(frames)
        in_flight: dict[Frame, set[int]] = {}
        for batch in (*self._in_flight, *(stray.batch for stray in self._settlement.strays)):
            for run in batch.runs:
                if run.frame in asked:
                    in_flight.setdefault(run.frame, set()).update(run.indices)
        return in_flight

    def _left_with(self, frames: list[Frame]) -> set[Frame]:
        """Those of these frames that have records in calls that have left."""
        asked = set(frames)
        left = (run.frame for batch in self._in_flight if batch.has_left for run in batch.runs)
        return {frame for frame in left if frame in asked}

    def _recall(self, frames: list[Frame]) -> dict[Frame, set[int]]:
        """Recalls the calls with records of these frames that have not left (no connection yet, no
        credentials): they do not leave any more, and their other records are sent again. Returns
        the records of these frames in such calls, by index.
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

"""The frames of one stream from admission to settlement: their memory, deadlines and countdowns.

Knows nothing of shards, batches or sending. Invariant: a frame takes memory once and gives it
back once, in the call that settles or abandons it; `take_settled` hands it out exactly once.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType

from kdaemon.base.counters import DeadReason, RejectReason, StreamCounters
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import RecordResult
from kdaemon.base.service import AWS, Service
from kdaemon.settle.deadlines import Deadlines, first_of, pieces_of
from kdaemon.settle.verdict import INTERNAL, told_of_record

IN_FLIGHT_AT_DEADLINE = RecordResult(
    error_code=INTERNAL,
    error_message="Still in flight when its time was over: the outcome is unknown, and sending"
    " the record again may duplicate it.",
)
LAST_ERROR = " The last error was: "  # follows, where there was one: why it took so long

DOUBTFUL = (
    "Not delivered in time, though a call that failed may have written the record, so that sending"
    " it again may duplicate it: "
)
WITHDRAWN = "Not delivered in time, and withdrawn: "

REFUSED = frozenset({RejectReason.HOLD, RejectReason.MISSING_STREAM, RejectReason.UNAVAILABLE})
"""Reasons that are the stream's own, and are told of all its records alike."""

PARTS = 3
"""A stream may have so many times what is left of the memory of all; a client so many times what is
left of its stream's, of what is taken while more than a third is held. One alone has five sixths,
16 together leave 1.4 %: enough for who asks for little. Ours, 2026-11-28."""

NO_RESULTS: Mapping[int, RecordResult] = MappingProxyType({})

EXPIRED = RecordResult(
    error_code="Expired",
    error_message="Older than the stream's max_age_ms before it was delivered.",
)


@dataclass(frozen=True, slots=True)
class Parting:
    """What clients hear whose frames are abandoned, where nothing else was said of a record.

    `withdrawn`: of records that were queued. `last_error`: code and message of what last failed for
    the whole stream; empty: nothing did. `doubtful_code`: of what an earlier call may have written
    (InternalFailure, or as the service called it).
    """

    withdrawn: RecordResult
    last_error: str = ""
    doubtful_code: str = INTERNAL


class FrameLedger:
    """Bound: frames whose `footprint_bytes` add up to `buffer_bytes_max`, and all streams' to the
    shared memory budget. When full, `admit` says no. Drained by settlement and deadlines.
    """

    def __init__(
        self,
        buffer_bytes_max: int,
        memory: ByteBudget,
        counters: StreamCounters,
        max_age_ns: int | None = None,
        service: Service = AWS,
    ) -> None:
        """`max_age_ns`: of records that no client waits for; None: they never expire."""
        self._service = service
        self._buffer_bytes_max = buffer_bytes_max
        self._memory = memory
        self._counters = counters
        self._max_age_ns = max_age_ns
        self._deadlines = Deadlines()  # of frames whose clients wait
        self._ages = Deadlines()  # of frames that nobody waits for: when they expire
        self._older_ages: list[Deadlines] = []  # of those that were taken under other limits
        self._patient: dict[Frame, None] = {}  # their clients wait, for ever if need be; in order
        self._settled: list[Frame] = []
        self.footprint_bytes = 0
        self._parts: dict[int, int] = {}  # of clients: memory of their `_weighed` frames
        self._weighed: set[Frame] = set()  # those that were taken while it was not calm

    def set_limits(self, buffer_bytes_max: int, max_age_ns: int | None) -> None:
        """Other ones from now on. What is held above the new one stays. Frames that were taken
        expire by the limit of their time, or never if there is none any more.
        """
        self._buffer_bytes_max = buffer_bytes_max
        if max_age_ns == self._max_age_ns:
            return
        self._max_age_ns = max_age_ns
        self._older_ages = [each for each in (*self._older_ages, self._ages) if each]
        self._ages = Deadlines()
        if max_age_ns is None:
            self._older_ages = []

    def move(self, memory: ByteBudget) -> None:
        """What is held, and what will be, is of another part of the same memory."""
        self._memory.move(self.footprint_bytes, memory)
        self._memory = memory

    def has_room(self, footprint_bytes: int) -> bool:
        """Whether a frame of this size would be admitted now."""
        return (
            self.footprint_bytes + footprint_bytes <= self._buffer_bytes_max
            and self._memory.has_room(footprint_bytes)
        )

    def is_calm(self, footprint_bytes: int, parts: int) -> bool:
        """Whether all that is held with this frame would be one of so many parts of what is free,
        or less.
        """
        asked_bytes = parts * (self.footprint_bytes + footprint_bytes)
        is_small = asked_bytes <= self._buffer_bytes_max - self.footprint_bytes
        return is_small and self._memory.has_room(asked_bytes)

    def may_have(self, footprint_bytes: int, client: int) -> bool:
        """Whether the stream, and this client, may have so much more while it is not calm: then
        what is left is for those who have less. A stream that holds nothing may have anything, and
        so may a client that asks for more than half of the buffer and has nothing.
        """
        if not self.footprint_bytes:
            return True
        is_large = 2 * footprint_bytes > self._buffer_bytes_max
        left_bytes = self._memory.free_bytes() - footprint_bytes
        if self.footprint_bytes + footprint_bytes > PARTS * left_bytes and not is_large:
            return False
        if not client:
            return True  # nobody who could be asked to wait
        part_bytes = self._parts.get(client, 0)
        if is_large and not part_bytes:
            return True
        return part_bytes + footprint_bytes <= PARTS * (self.free_bytes() - footprint_bytes)

    def free_bytes(self) -> int:
        """How much memory frames may still take."""
        return min(self._buffer_bytes_max - self.footprint_bytes, self._memory.free_bytes())

    def admit(
        self,
        frame: Frame,
        byte_count: int,
        now_ns: int,
        refused: Mapping[int, RecordResult] = NO_RESULTS,
        *,
        is_calm: bool = True,
    ) -> bool:
        """Takes the frame in; False, and nothing is taken, if there is no room. `is_calm`: else it
        is held to what its client may have, and counted as a part of that.

        `byte_count`: data + partition keys of the frame. `refused`: what those of its records are
        told that are not taken, by index; not all of them. `frame.deadline_ns`, if set, is not
        earlier than that of any frame before it.
        """
        counters = self._counters
        count = len(frame.records)
        counters.receive(count, byte_count)
        may_have = (
            is_calm or frame.is_reserved or self.may_have(frame.footprint_bytes, frame.client)
        )
        if not may_have or not self._take(frame):
            counters.rejected[RejectReason.FULL] += count
            return False
        if refused:
            for index, result in refused.items():
                frame.results[index] = result
                byte_count -= frame.sizes[index]
            count -= len(refused)
            frame.unsettled = count
            counters.rejected[RejectReason.FULL] += len(refused)
        if not is_calm and frame.client:
            self._weigh(frame)
        frame.accepted_ns = now_ns
        counters.buffered += count
        counters.accept(count, byte_count)
        if frame.deadline_ns is not None:
            self._deadlines.add(frame, frame.deadline_ns)
        elif frame.acknowledge is Acknowledge.DELIVERED and frame.on_settled is not None:
            self._patient[frame] = None
        else:
            self._watch_age(frame)
        return True

    def admit_spooled(self, frame: Frame) -> bool:
        """Takes in a frame that stands in the spool and was counted there; its `accepted_ns` is
        set. False, and nothing is taken, if there is no room.
        """
        if not self._take(frame):
            return False
        self._counters.buffered += len(frame.records)
        self._counters.spooled -= len(frame.records)
        self._watch_age(frame)
        return True

    def _take(self, frame: Frame) -> bool:
        """The frame's memory; False, and nothing is taken, if there is not enough."""
        footprint_bytes = self.footprint_bytes + frame.footprint_bytes
        if footprint_bytes > self._buffer_bytes_max or not self._memory.take(frame.footprint_bytes):
            return False
        self.footprint_bytes = footprint_bytes
        return True

    def _weigh(self, frame: Frame) -> None:
        self._weighed.add(frame)
        client = frame.client
        self._parts[client] = self._parts.get(client, 0) + frame.footprint_bytes

    def _watch_age(self, frame: Frame) -> None:
        if self._max_age_ns is not None:
            self._ages.add(frame, frame.accepted_ns + self._max_age_ns)

    def deliver(self, counts: Mapping[Frame, int], byte_count: int, now_ns: int) -> None:
        """So many records of each of these frames are delivered, their results written.
        `byte_count`: data + partition keys of all of them.
        """
        counters = self._counters
        counters.delivered_bytes += byte_count
        for frame, count in counts.items():
            counters.delivered += count
            counters.delivery_ns.observe(now_ns - frame.accepted_ns, count)
            self._count_down(frame, count)

    def bury(self, frame: Frame, index: int, result: RecordResult, attempt_count: int) -> None:
        """The service refuses this record for itself: it is dead."""
        self._counters.dead[DeadReason.POISON] += 1
        if not frame.is_abandoned:
            frame.results[index] = result
            frame.attempt_counts = {**(frame.attempt_counts or {}), index: attempt_count}
            if len(frame.attempt_counts) == len(frame.results):  # as the service itself says it
                frame.refusal = (result.error_code or INTERNAL, result.error_message or "")
            self._count_down(frame, 1)

    def give_up(self, frame: Frame, result: RecordResult, reason: DeadReason) -> None:
        """What is left of the frame is dead, and none of it is in flight; a client that waits is
        told so. The caller takes it out of the queues.
        """
        self._counters.dead[reason] += frame.unsettled
        self._counters.buffered -= frame.unsettled
        dead = frame.remember().dead_reasons
        dead.update((index, reason) for index, each in enumerate(frame.results) if each is None)
        frame.results = [result if each is None else each for each in frame.results]
        frame.is_abandoned = True
        self._deadlines.discard(frame)
        self._patient.pop(frame, None)
        self._forget_age(frame)
        self._release(frame)

    def stop_waiting(self, frame: Frame) -> bool:
        """The frame's client waits no more; False if it was told already, or never waited."""
        if frame.is_abandoned or not frame.unsettled:
            return False
        self._deadlines.discard(frame)
        self._patient.pop(frame, None)
        return True

    def is_due(self, now_ns: int) -> bool:
        """Whether a deadline or an age is to be kept now."""
        if self._deadlines.is_due(now_ns) or self._ages.is_due(now_ns):
            return True
        return bool(self._older_ages) and any(each.is_due(now_ns) for each in self._older_ages)

    def take_aged(self, now_ns: int, pieces_max: int) -> list[Frame]:
        """Frames that are older than the stream's limit, to be expired or put off; a slice."""
        aged: list[Frame] = []
        for ages in (*self._older_ages, self._ages):
            left = pieces_max - sum(map(pieces_of, aged))
            if left > 0:
                aged += ages.take_expired(now_ns, left)
        self._older_ages = [each for each in self._older_ages if each]
        return aged

    def put_off(self, frame: Frame, until_ns: int) -> None:
        """Not yet: some of it is in flight."""
        self._ages.add(frame, until_ns)

    def abandon(
        self,
        frames: list[Frame],
        in_flight: dict[Frame, set[int]],
        parting: Parting,
        reason: RejectReason,
        recalled: Mapping[Frame, AbstractSet[int]] = MappingProxyType({}),
    ) -> None:
        """Their clients stop waiting. What is queued counts as withdrawn (the caller takes it out
        of the queues before anybody is told, so that a client's retry is no duplicate); what is in
        flight, by index in `in_flight`, is told as failed and may yet be a duplicate. Of these, the
        `recalled` are in calls that have not left, and will not: told as withdrawn. A frame of
        which no record got through is refused as a whole, so that a client that reads nothing but
        the status knows.
        """
        counters = self._counters
        is_refused = reason in REFUSED
        for frame in frames:
            flying = in_flight.get(frame, _NONE)
            doubted = flying - recalled.get(frame, _NONE)
            is_whole = frame.unsettled == len(frame.results)
            doubtful = frame.history.doubtful if frame.history is not None else _NONE
            for index, result in enumerate(frame.results):
                if result is None:
                    frame.results[index] = self._told(
                        frame, index, doubted, parting, is_refused=is_refused
                    )
            if is_whole:
                frame.refusal = _refusal(frame)
            if flying:
                frame.remember().reject_reason = reason
            withdrawn_count = frame.unsettled - len(flying)
            counters.buffered -= withdrawn_count
            counters.rejected[reason] += withdrawn_count
            # Those of doubtful outcome were counted when they were queued again.
            counters.possible_duplicates += len(doubted - doubtful)
            frame.is_abandoned = True
            self._release(frame)

    def _told(
        self,
        frame: Frame,
        index: int,
        flying: AbstractSet[int],
        parting: Parting,
        *,
        is_refused: bool,
    ) -> RecordResult:
        """What an abandoned record's client hears, always with what failed last. `is_refused`: for
        a reason that is the whole stream's, whatever was said of the record before.
        """
        history = frame.history
        told, last_error = parting.withdrawn, parting.last_error
        failure = None if history is None or is_refused else history.failures.get(index)
        if failure is not None:
            said = failure.error_code or INTERNAL, failure.error_message or ""
            last_error = ": ".join(said)
            code, message = told_of_record(*said, self._service)
            told = RecordResult(error_code=code, error_message=WITHDRAWN + message)
        if index in flying:
            return _in_flight(last_error)
        if history is not None and index in history.doubtful:
            why = last_error or (told.error_message or "").removeprefix(WITHDRAWN)
            return RecordResult(error_code=parting.doubtful_code, error_message=DOUBTFUL + why)
        return told

    def take_expired(self, now_ns: int, pieces_max: int) -> list[Frame]:
        """Frames whose deadline has come, to be abandoned; a slice of them (`pieces_of`)."""
        return self._deadlines.take_expired(now_ns, pieces_max)

    def take_waiting(self, pieces_max: int, accepted_until_ns: int) -> list[Frame]:
        """Frames that were accepted by then and whose client waits to hear of them, to be
        abandoned; a slice of them.
        """
        waiting = self._deadlines.take_first(pieces_max, accepted_until_ns)
        pieces_max -= sum(map(pieces_of, waiting))
        patient = first_of(self._patient, pieces_max, accepted_until_ns)
        for frame in patient:
            del self._patient[frame]
        return waiting + patient

    def next_sweep_ns(self) -> int | None:
        """When the next deadline or age is to be kept."""
        sweeps = [self._deadlines.next_sweep_ns(), self._ages.next_sweep_ns()]
        if self._older_ages:
            sweeps += [each.next_sweep_ns() for each in self._older_ages]
        return min((at_ns for at_ns in sweeps if at_ns is not None), default=None)

    def take_settled(self) -> list[Frame]:
        """Frames settled or abandoned since the last call; their clients are to be told now."""
        settled = self._settled
        if settled:
            self._settled = []
        return settled

    def _count_down(self, frame: Frame, count: int) -> None:
        if frame.is_abandoned:
            return
        frame.unsettled -= count
        if frame.unsettled == 0:
            if frame.deadline_ns is not None:
                self._deadlines.discard(frame)
            else:
                self._patient.pop(frame, None)
                self._ages.discard(frame)
                if self._older_ages:
                    self._forget_age(frame)
            self._release(frame)

    def _forget_age(self, frame: Frame) -> None:
        self._ages.discard(frame)
        for ages in self._older_ages:
            ages.discard(frame)

    def _release(self, frame: Frame) -> None:
        self.footprint_bytes -= frame.footprint_bytes
        self._memory.give(frame.footprint_bytes)
        if self._weighed and frame in self._weighed:
            self._weighed.remove(frame)
            part_bytes = self._parts[frame.client] - frame.footprint_bytes
            if part_bytes:
                self._parts[frame.client] = part_bytes
            else:
                del self._parts[frame.client]
        self._settled.append(frame)


def _in_flight(last_error: str) -> RecordResult:
    if not last_error:
        return IN_FLIGHT_AT_DEADLINE
    text = f"{IN_FLIGHT_AT_DEADLINE.error_message}{LAST_ERROR}{last_error}"
    return RecordResult(error_code=INTERNAL, error_message=text)


def _refusal(frame: Frame) -> tuple[str, str]:
    """The one reason for which a whole frame failed: what is least certain of any of its records.
    A result that says that a record may be written goes before one that says it is not.
    """
    results = [result for result in frame.results if result is not None]
    worst = next((each for each in results if each.error_code == INTERNAL), results[0])
    return worst.error_code or INTERNAL, worst.error_message or ""


_NONE: frozenset[int] = frozenset()

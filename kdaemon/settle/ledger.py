"""The frames of one stream from admission to settlement: their memory, deadlines and countdowns.

Knows nothing of shards, batches or sending. Invariant: a frame takes memory once, and gives the
memory back once, in the call that settles or abandons the frame; `take_settled` hands the frame out
exactly once.
Where it sits: the engine admits frames, settlement and partings end them.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType

from kdaemon.base.counters import DeadReason, RefuseReason
from kdaemon.base.counting import StreamCounters
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import RecordResult
from kdaemon.settle.deadlines import Deadlines, first_of, pieces_of
from kdaemon.settle.verdict import INTERNAL, told_of_record

IN_FLIGHT_AT_DEADLINE = RecordResult(
    error_code=INTERNAL,
    error_message="Still in flight when its time was over: the outcome is unknown, and sending"
    " the record again may duplicate it.",
)
LAST_ERROR = " The last error was: "  # follows where there was an error: why delivery took so long

DOUBTFUL = (
    "Not delivered in time, though a call that failed may have written the record, so that sending"
    " it again may duplicate it: "
)
WITHDRAWN = "Not delivered in time, and withdrawn: "

REFUSED = frozenset({RefuseReason.HOLD, RefuseReason.MISSING_STREAM, RefuseReason.UNAVAILABLE})
"""Reasons that concern the whole stream: all its records are told the same."""

PARTS = 3
"""How much a stream may have while more than a third of its buffer is held: this many times the
free memory of all streams. A client may have this many times the free memory of its stream,
counting the frames that it brought in that time. One client alone has at most five sixths; 16
clients together leave 1.4 %, enough for clients that ask for little. Ours, 2026-11-28."""

NO_RESULTS: Mapping[int, RecordResult] = MappingProxyType({})

EXPIRED = RecordResult(
    error_code="Expired",
    error_message="Older than the stream's max_age_ms before it was delivered.",
)


@dataclass(frozen=True, slots=True)
class Parting:
    """What the clients of abandoned frames are told, for records without an answer of their own.

    `withdrawn`: for records that were queued. `last_error`: code and message of the last error of
    the whole stream; empty: there was none. `doubtful_code`: for records that an earlier call may
    have written (InternalFailure, or the service's own code).
    """

    withdrawn: RecordResult
    last_error: str = ""
    doubtful_code: str = INTERNAL


class FrameLedger:
    """Bound: the `footprint_bytes` of the frames add up to at most `buffer_bytes_max`, and those of
    all streams to the shared memory budget. When full, `admit` returns False. Drained by settlement
    and deadlines.
    """

    def __init__(
        self, settings: EngineSettings, memory: ByteBudget, counters: StreamCounters
    ) -> None:
        self._service = settings.service
        self._buffer_bytes_max = settings.buffer_bytes_max
        self._max_age_ns = settings.max_age_ns
        self._memory = memory
        self._counters = counters
        self._deadlines = Deadlines()  # of frames whose clients wait
        self._ages = Deadlines()  # when frames expire that no client waits for
        self._older_ages: list[Deadlines] = []  # the same, of frames taken under other limits
        self._patient: dict[Frame, None] = {}  # their clients wait without a deadline; in order
        self._settled: list[Frame] = []
        self.footprint_bytes = 0
        self._parts: dict[int, int] = {}  # of clients: memory of their `_weighed` frames
        self._weighed: set[Frame] = set()  # frames that were taken while the stream was not calm

    def take_settings(self, settings: EngineSettings) -> None:
        """Sets other limits. Frames that are held above the new `buffer_bytes_max` stay. Frames
        that are already taken expire by the `max_age_ns` they were taken under, or never if there
        is none now.
        """
        self._buffer_bytes_max = settings.buffer_bytes_max
        if settings.max_age_ns == self._max_age_ns:
            return
        self._max_age_ns = settings.max_age_ns
        self._older_ages = [each for each in (*self._older_ages, self._ages) if each]
        self._ages = Deadlines()
        if self._max_age_ns is None:
            self._older_ages = []

    def move(self, memory: ByteBudget) -> None:
        """Moves the memory that is held to another part of the same memory, and takes from that
        part from now on.
        """
        self._memory.move(self.footprint_bytes, memory)
        self._memory = memory

    def has_room(self, footprint_bytes: int) -> bool:
        """Whether a frame of this size would be admitted now."""
        return (
            self.footprint_bytes + footprint_bytes <= self._buffer_bytes_max
            and self._memory.has_room(footprint_bytes)
        )

    def is_calm(self, footprint_bytes: int, parts: int) -> bool:
        """Whether the memory held, with this frame, would be at most one `parts`-th of the memory
        that is still free.
        """
        asked_bytes = parts * (self.footprint_bytes + footprint_bytes)
        is_small = asked_bytes <= self._buffer_bytes_max - self.footprint_bytes
        return is_small and self._memory.has_room(asked_bytes)

    def may_have(self, footprint_bytes: int, client: int) -> bool:
        """Whether the stream, and this client, may take so much more memory while the stream is not
        calm: the memory that is left is for streams and clients that have less. A stream that holds
        nothing may have anything. So may a client that has nothing and asks for more than half of
        the buffer.
        """
        if not self.footprint_bytes:
            return True
        is_large = 2 * footprint_bytes > self._buffer_bytes_max
        left_bytes = self._memory.free_bytes() - footprint_bytes
        if self.footprint_bytes + footprint_bytes > PARTS * left_bytes and not is_large:
            return False
        if not client:
            return True  # there is no client that could be asked to wait
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
        """Takes the frame in; False, and nothing is taken, if there is no room. `is_calm`: False:
        the frame must fit its client's part of the memory (`may_have`), and counts as some of that
        part.

        `byte_count`: data + partition keys of the frame. `refused`: results of the records that are
        not taken, by index; never all of the frame's records. `frame.deadline_ns`, if set, is not
        earlier than that of any frame before it.
        """
        counters = self._counters
        count = len(frame.records)
        counters.receive(count, byte_count)
        may_have = (
            is_calm or frame.is_reserved or self.may_have(frame.footprint_bytes, frame.client)
        )
        if not may_have or not self._take(frame):
            counters.rejected[RefuseReason.FULL] += count
            return False
        if refused:
            for index, result in refused.items():
                frame.results[index] = result
                byte_count -= frame.sizes[index]
            count -= len(refused)
            frame.unsettled = count
            counters.rejected[RefuseReason.FULL] += len(refused)
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
        """Takes the frame's memory; False, and nothing is taken, if there is not enough."""
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
        """Counts down: `counts` records of each of these frames are delivered, and their results
        are written. `byte_count`: data + partition keys of all of them.
        """
        counters = self._counters
        counters.delivered_bytes += byte_count
        for frame, count in counts.items():
            counters.delivered += count
            counters.delivery_ns.observe(now_ns - frame.accepted_ns, count)
            self._count_down(frame, count)

    def bury(self, frame: Frame, index: int, result: RecordResult, attempt_count: int) -> None:
        """The service refuses this one record: the record is dead."""
        self._counters.dead[DeadReason.POISON] += 1
        if not frame.is_abandoned:
            frame.results[index] = result
            frame.attempt_counts = {**(frame.attempt_counts or {}), index: attempt_count}
            if len(frame.attempt_counts) == len(frame.results):  # in the service's own words
                frame.refusal = (result.error_code or INTERNAL, result.error_message or "")
            self._count_down(frame, 1)

    def give_up(self, frame: Frame, result: RecordResult, reason: DeadReason) -> None:
        """All unsettled records of the frame are dead; none of them may be in flight. A client that
        waits is told so. The caller takes the records out of the queues.
        """
        self._counters.dead[reason] += frame.unsettled
        self._counters.buffered -= frame.unsettled
        left = [index for index, each in enumerate(frame.results) if each is None]
        frame.remember().dead_reasons.update(dict.fromkeys(left, reason))
        tried = dict.fromkeys(left, frame.attempt_count)
        frame.attempt_counts = {**(frame.attempt_counts or {}), **tried}
        frame.results = [result if each is None else each for each in frame.results]
        frame.is_abandoned = True
        self._deadlines.discard(frame)
        self._patient.pop(frame, None)
        self._forget_age(frame)
        self._release(frame)

    def stop_waiting(self, frame: Frame) -> bool:
        """The frame's client waits no more; False if the client was told already, or the frame is
        settled.
        """
        if frame.is_abandoned or not frame.unsettled:
            return False
        self._deadlines.discard(frame)
        self._patient.pop(frame, None)
        return True

    def is_due(self, now_ns: int) -> bool:
        """Whether a deadline or an age limit must be kept now."""
        if self._deadlines.is_due(now_ns) or self._ages.is_due(now_ns):
            return True
        return bool(self._older_ages) and any(each.is_due(now_ns) for each in self._older_ages)

    def take_aged(self, now_ns: int, pieces_max: int) -> list[Frame]:
        """A slice of the frames that are older than the stream's limit. The caller expires them or
        puts them off.
        """
        aged: list[Frame] = []
        for ages in (*self._older_ages, self._ages):
            left = pieces_max - sum(map(pieces_of, aged))
            if left > 0:
                aged += ages.take_expired(now_ns, left)
        self._older_ages = [each for each in self._older_ages if each]
        return aged

    def put_off(self, frame: Frame, until_ns: int) -> None:
        """The frame expires at `until_ns` instead: some of its records are in flight, or it was
        never tried.
        """
        self._ages.add(frame, until_ns)

    def abandon(
        self,
        frames: list[Frame],
        in_flight: dict[Frame, set[int]],
        parting: Parting,
        reason: RefuseReason,
        recalled: Mapping[Frame, AbstractSet[int]] = MappingProxyType({}),
    ) -> None:
        """The clients of these frames stop waiting, and get their results. Queued records count as
        withdrawn. The caller takes them out of the queues before any client is told, so that a
        client's retry is no duplicate. Records in flight (`in_flight`, by index) are told as
        failed, and may yet be duplicates. The `recalled` ones among them are in calls that have not
        left, and will not leave: they are told as withdrawn. A frame of which no record got through
        is refused as a whole, so that a client that reads only the status knows.
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
                frame.remember().refuse_reason = reason
            withdrawn_count = frame.unsettled - len(flying)
            counters.buffered -= withdrawn_count
            counters.rejected[reason] += withdrawn_count
            # Records of doubtful outcome were counted when they were queued again.
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
        """The answer for an abandoned record, always with the last error. `is_refused`: the reason
        concerns the whole stream, and goes before an earlier answer for the record.
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
        """A slice of the frames that were accepted by `accepted_until_ns` and whose clients wait
        for the outcome. The caller abandons them.
        """
        waiting = self._deadlines.take_first(pieces_max, accepted_until_ns)
        pieces_max -= sum(map(pieces_of, waiting))
        patient = first_of(self._patient, pieces_max, accepted_until_ns)
        for frame in patient:
            del self._patient[frame]
        return waiting + patient

    def wait_again(self, frames: list[Frame]) -> None:
        """Frames that `take_waiting` returned, in that order, and whose clients go on waiting; but
        not those that have ended since.
        """
        waiting = [each for each in frames if each.unsettled and not each.is_abandoned]
        self._deadlines.add_first([each for each in waiting if each.deadline_ns is not None])
        patient = [each for each in waiting if each.deadline_ns is None]
        if patient:
            self._patient = {**dict.fromkeys(patient), **self._patient}

    def next_sweep_ns(self) -> int | None:
        """When the next deadline or age limit must be kept."""
        sweeps = [self._deadlines.next_sweep_ns(), self._ages.next_sweep_ns()]
        if self._older_ages:
            sweeps += [each.next_sweep_ns() for each in self._older_ages]
        return min((at_ns for at_ns in sweeps if at_ns is not None), default=None)

    def take_settled(self) -> list[Frame]:
        """Frames settled or abandoned since the last call; the caller tells their clients now."""
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
    """The one reason for which a whole frame failed: that of its least certain record. A result
    that says that a record may be written goes before a result that says that a record is not.
    """
    results = [result for result in frame.results if result is not None]
    worst = next((each for each in results if each.error_code == INTERNAL), results[0])
    return worst.error_code or INTERNAL, worst.error_message or ""


_NONE: frozenset[int] = frozenset()

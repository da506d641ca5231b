"""An engine, a service that answers at whim, and everything that must hold at every step.

Pure: a test moves the clock, picks which call is answered and how. `pump` does what the shell
does and checks the engine's promises; `settle_down` lets the service heal and follows nothing but
`next_wakeup_ns` until the engine is idle.
"""

from collections import Counter
from dataclasses import dataclass

from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import MemoryBudget
from kdaemon.base.ports import Dice
from kdaemon.base.record import Record, RecordResult
from kdaemon.engine import Engine, EngineSettings
from kdaemon.pack.lane import LaneState
from kdaemon.pack.packer import Batch
from tests.unit.base.frames import MS, SECOND, delivered, describe, failed, make_frame

T = 1000 * SECOND
DEADLINE_NS = 5 * SECOND
CALM_STEPS_MAX = 5_000

SETTINGS = EngineSettings(
    batch_records_max=8,
    batch_bytes_max=3000,
    record_bytes_max=2500,
    linger_ns=100 * MS,
    in_flight_max=3,
    shard_records_per_second=40,
    shard_bytes_per_second=2500,  # a burst of 2,250 bytes: the largest records go into debt
    buffer_bytes_max=60_000,
)

CALL_FAILURES = {
    # What the whole call fails with, and whether the service may have written it.
    "not sent": (ServiceError("ConnectError", "", was_sent=False), False),
    "timed out": (ServiceError("ReadTimeout", ""), True),
    "throttled": (ServiceError("ThrottlingException", "", status=400), False),
    "denied": (ServiceError("AccessDeniedException", "", status=400), False),
    "missing": (ServiceError("ResourceNotFoundException", "", status=400), False),
    "refused": (ServiceError("ValidationException", "", status=400), False),
    "unheard of": (ServiceError("SomethingNew", "", status=500), True),
}
RECORD_OUTCOMES = {
    # The result of a single record, and whether it was written.
    "delivered": (delivered("shard-0"), True),
    "elsewhere": (delivered("another"), True),
    "throttled": (failed("ProvisionedThroughputExceededException"), False),
    "internal": (failed("InternalFailure"), False),
    "internal, written": (failed("InternalFailure"), True),
    "no number": (RecordResult(shard_id="shard-0"), True),
    "poison": (failed("InvalidArgumentException"), False),
}

Place = tuple[Frame, int]


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch at the moment it left: when, its records, the lanes that paid for them, and whether
    it is a bisected half.
    """

    at_ns: int
    is_half: bool
    places: list[Place]
    lanes: list[tuple[str | None, int, int]]  # shard, records, bytes of each run


class Play:
    def __init__(
        self,
        dice: Dice,
        settings: EngineSettings = SETTINGS,
        *,
        memory: MemoryBudget | None = None,
    ) -> None:
        self.settings = settings
        self.memory = memory or MemoryBudget(50_000)
        self.neighbours: list[Play] = []  # who shares the memory
        self.now_ns = T
        self.engine = Engine(settings, self.memory, dice, T)
        self.calls: list[Batch] = []
        self.frames: list[Frame] = []
        self.told: dict[Frame, list[RecordResult | None]] = {}
        self.writes: Counter[Place] = Counter()
        self.sent: list[Sent] = []
        self.refused_count = 0

    @property
    def held_bytes(self) -> int:
        return sum(frame.held_bytes for frame in self.frames if frame not in self.told)

    # What a test does

    def put(
        self, records: list[Record], *, held_bytes: int | None = None, has_deadline: bool = False
    ) -> bool:
        deadline_ns = self.now_ns + DEADLINE_NS if has_deadline else None
        frame = make_frame(records, held_bytes=held_bytes, deadline_ns=deadline_ns)
        is_taken = self.engine.handle_frame(frame, self.now_ns)
        if is_taken:
            self.frames.append(frame)
        else:
            self.refused_count += len(records)
        self.pump()
        return is_taken

    def answer(self, number: int, outcomes: list[str], *, extra: int = 0) -> None:
        """Answers a call, record by record (outcomes repeat); `extra` results too many, or few."""
        batch = self._land(number)
        results: list[RecordResult] = []
        for position, place in enumerate(places_of(batch)):
            result, is_written = RECORD_OUTCOMES[outcomes[position % len(outcomes)]]
            results.append(result)
            self.writes[place] += is_written
        if extra:
            results = [*results, delivered()] if extra > 0 else results[:extra]
        self.engine.handle_results(batch, results, self.now_ns)
        self.pump()

    def fail(self, number: int, name: str) -> None:
        batch = self._land(number)
        error, is_written = CALL_FAILURES[name]
        if is_written:
            self.writes.update(places_of(batch))
        self.engine.handle_failure(batch, error, self.now_ns)
        self.pump()

    def pass_time(self, wait_ns: int) -> None:
        self.now_ns += wait_ns
        self.pump()

    def jump(self) -> None:
        """To the next wake-up, if any."""
        at_ns = self.engine.next_wakeup_ns()
        if at_ns is not None:
            self.now_ns = max(self.now_ns, at_ns)
        self.pump()

    def settle_down(self) -> None:
        """The service is well again: everything settles, by answers and wake-ups alone."""
        for _ in range(CALM_STEPS_MAX):
            if self.engine.is_idle:
                return
            if self.calls:
                self.answer(0, ["delivered"])
            else:
                assert self.engine.next_wakeup_ns() is not None, "records wait, and nobody wakes"
                self.jump()
        raise AssertionError(f"not idle after {CALM_STEPS_MAX} steps: stuck")

    # What the shell does, checked

    def pump(self) -> None:
        engine = self.engine
        engine.handle_timeout(self.now_ns)
        while True:
            half_count = len(engine._bisected)
            batch = engine.poll_batch(self.now_ns)
            if batch is None:
                break
            self._check_batch(batch, is_half=len(engine._bisected) < half_count)
        if engine.freshness.ask(self.now_ns):
            engine.handle_description(describe(None), self.now_ns)
        for frame in engine.take_settled():
            assert frame not in self.told, "told twice"
            self.told[frame] = list(frame.results)
        self.check()

    def check(self) -> None:
        engine, counters = self.engine, self.engine.counters
        assert counters.unaccounted() == 0, "records are unaccounted for"
        queued = sum(len(run.indices) for lane in engine.lanes for run in lane.queue)
        halves = sum(
            len(run.indices)
            for half in engine._bisected
            for run in half
            if not run.frame.is_abandoned
        )
        assert counters.buffered == queued + halves
        assert counters.in_flight == sum(len(batch.records) for batch in self.calls)
        assert counters.in_flight_calls == len(self.calls)
        assert engine.ledger.held_bytes == self.held_bytes <= self.settings.buffer_bytes_max
        all_held = self.held_bytes + sum(play.held_bytes for play in self.neighbours)
        assert self.memory.bytes_taken == all_held <= self.memory.bytes_max
        wakeup_ns = engine.next_wakeup_ns()
        assert wakeup_ns is None or wakeup_ns > self.now_ns, "a loop that turns without progress"
        assert not any(lane.state is LaneState.RETIRED for lane in engine.lanes)
        for frame, results in self.told.items():
            assert None not in results
            assert frame.results == results, "what was told is not rewritten"

    def check_end(self) -> None:
        """After `settle_down`: every record has left exactly once."""
        counters = self.engine.counters
        assert set(self.told) == set(self.frames)
        assert self.held_bytes == 0
        assert (counters.buffered, counters.in_flight) == (0, 0)
        total = sum(len(frame.records) for frame in self.frames) + self.refused_count
        assert counters.received == total
        extra = 0
        for frame in self.frames:
            for index, result in enumerate(frame.results):
                assert result is not None
                times = self.writes[frame, index]
                extra += max(0, times - 1)
                assert times or not result.is_delivered, "told as delivered, and never written"
        assert extra <= counters.possible_duplicates, "a duplicate that was not counted"

    def _check_batch(self, batch: Batch, *, is_half: bool) -> None:
        settings = self.settings
        assert 0 < len(batch.records) <= settings.batch_records_max
        assert batch.byte_count <= settings.batch_bytes_max
        assert len(self.calls) < settings.in_flight_max
        flying = {place for call in self.calls for place in places_of(call)}
        places = places_of(batch)
        assert len(places) == len(set(places)) == len(batch.records)
        assert not flying.intersection(places), "a record in two calls at once"
        sizes = [frame.sizes[index] for frame, index in places]
        assert batch.byte_count == sum(sizes)
        for (frame, index), record in zip(places, batch.records, strict=True):
            assert not frame.is_abandoned, "its client was told that it failed"
            assert frame.records[index] is record
            assert frame.results[index] is None, "it was settled before"
        self.calls.append(batch)
        lanes = [(run.lane.shard_id, len(run.indices), run.byte_count) for run in batch.runs]
        self.sent.append(Sent(self.now_ns, is_half, places, lanes))

    def _land(self, number: int) -> Batch:
        return self.calls.pop(number % len(self.calls))


def places_of(batch: Batch) -> list[Place]:
    return [(run.frame, index) for run in batch.runs for index in run.indices]

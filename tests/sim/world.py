"""A simulated world: engines and the sandbox service under one clock that jumps.

No sleeps, no sockets: an answer is an entry in a heap. Everything is decided by one seed, so a
failure is replayed by its number.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from kdaemon.base.counters import StreamCounters
from kdaemon.base.description import OpenShard, StreamDescription
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import MemoryBudget
from kdaemon.base.record import Record, RecordResult
from kdaemon.engine import Engine, EngineSettings
from kdaemon.pack.packer import Batch
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota, SandboxSettings

MS = 1_000_000
SECOND = 1_000_000_000
STREAM = "sim"

SETTINGS = EngineSettings(
    batch_records_max=500,
    batch_bytes_max=5 * 1024 * 1024,
    record_bytes_max=1024 * 1024,
    linger_ns=100 * MS,
    in_flight_max=16,
    shard_records_per_second=1000,
    shard_bytes_per_second=1024 * 1024,
    buffer_bytes_max=64 * 1024 * 1024,
)


def make_frame(
    records: list[Record],
    *,
    deadline_ns: int | None = None,
    on_settled: Callable[[Frame], None] | None = None,
) -> Frame:
    sizes = [len(record.data) + len(record.partition_key.encode()) for record in records]
    frame = Frame(records, sizes, Acknowledge.DELIVERED, on_settled)
    frame.held_bytes = sum(sizes) + 300 * len(records)
    frame.deadline_ns = deadline_ns
    return frame


@dataclass
class Faults:
    """Chances per call (or per record), decided by the world's dice."""

    lost_answer: float = 0.0  # written, and the answer is lost
    lost_request: float = 0.0  # not written, the connection failed before
    server_error: float = 0.0  # HTTP 500; half of them wrote
    call_throttled: float = 0.0
    wrong_count: float = 0.0
    record_failure: float = 0.0  # of each record: InternalFailure


@dataclass
class World:
    """One service, any number of engines; `run_until` jumps from one due time to the next."""

    seed: int
    shard_count: int = 4
    settings: EngineSettings = SETTINGS
    faults: Faults = field(default_factory=Faults)
    quota: Quota = field(default_factory=Quota)
    may_list: bool = True
    round_trip_ns: tuple[int, int] = (20 * MS, 45 * MS)
    service_settings: SandboxSettings = field(default_factory=SandboxSettings)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.now_ns = SECOND
        self.service = Service(self.service_settings, self.dice)
        self.service.create_stream(STREAM, self.shard_count, self.now_ns, quota=self.quota)
        self.memory = MemoryBudget(1 << 30)
        self.engines: list[Engine] = []
        self.settled: list[Frame] = []
        self.frame_count = 0
        self.call_count = 0
        self.written: Counter[bytes] = Counter()
        self.max_calls_at_once = 0
        self.max_batch_records = 0
        self.max_batch_bytes = 0
        self._due: list[tuple[int, int, Callable[[], object]]] = []
        self._due_count = 0

    def add_engine(self) -> Engine:
        engine = Engine(self.settings, self.memory, self.dice, self.now_ns)
        self.engines.append(engine)
        return engine

    def at(self, when_ns: int, action: Callable[[], object]) -> None:
        self._due_count += 1
        heappush(self._due, (when_ns, self._due_count, action))

    def submit(self, engine: Engine, frame: Frame) -> bool:
        self.frame_count += 1
        is_taken = engine.handle_frame(frame, self.now_ns)
        self.pump(engine)
        return is_taken

    def pump(self, engine: Engine) -> None:
        engine.handle_timeout(self.now_ns)
        while (batch := engine.poll_batch(self.now_ns)) is not None:
            self._send(engine, batch)
        if engine.freshness.ask(self.now_ns):
            self.at(self.now_ns + 30 * MS, lambda: self._described(engine))
        self.settled += engine.take_settled()
        assert engine.counters.unaccounted() == 0, f"seed {self.seed}: records are unaccounted for"

    def run_until(self, until_ns: int) -> None:
        while True:
            wakeups = [at for engine in self.engines if (at := engine.next_wakeup_ns()) is not None]
            next_ns = min([*wakeups, *([self._due[0][0]] if self._due else [])], default=until_ns)
            if next_ns >= until_ns:
                self.now_ns = until_ns
                return
            self.now_ns = max(self.now_ns, next_ns)
            while self._due and self._due[0][0] <= self.now_ns:
                heappop(self._due)[2]()
            for engine in self.engines:
                if (at := engine.next_wakeup_ns()) is not None and at <= self.now_ns:
                    self.pump(engine)

    def run_idle(self, *, seconds_max: int = 120) -> None:
        """Until every engine is idle; the time it may take is bounded."""
        until_ns = self.now_ns + seconds_max * SECOND
        while not all(engine.is_idle for engine in self.engines):
            assert self.now_ns < until_ns, f"seed {self.seed}: not idle in {seconds_max} s"
            self.run_until(min(until_ns, self.now_ns + 50 * MS))

    def _send(self, engine: Engine, batch: Batch) -> None:
        self.call_count += 1
        self.max_calls_at_once = max(self.max_calls_at_once, engine.counters.in_flight_calls)
        self.max_batch_records = max(self.max_batch_records, len(batch.records))
        self.max_batch_bytes = max(self.max_batch_bytes, batch.byte_count)
        there_ns = self.dice.randint(*self.round_trip_ns) // 2
        self.at(self.now_ns + there_ns, lambda: self._arrive(engine, batch, there_ns))

    def _arrive(self, engine: Engine, batch: Batch, back_ns: int) -> None:
        outcome = self._outcome(batch)

        def answer() -> None:
            if isinstance(outcome, ServiceError):
                engine.handle_failure(batch, outcome, self.now_ns)
            else:
                engine.handle_results(batch, outcome, self.now_ns)
            self.pump(engine)

        self.at(self.now_ns + back_ns, answer)

    def _outcome(self, batch: Batch) -> list[RecordResult] | ServiceError:
        faults = self.faults
        roll = self.dice.random()
        for chance, error, may_write in (
            (faults.lost_request, ServiceError("ConnectError", "", was_sent=False), False),
            (faults.call_throttled, ServiceError("ThrottlingException", "", status=400), False),
            (faults.lost_answer, ServiceError("ReadTimeout", ""), True),
            (
                faults.server_error,
                ServiceError("InternalFailure", "", status=500),
                self.dice.random() < 0.5,
            ),
        ):
            if roll < chance:
                if may_write:
                    self._write(batch)
                return error
            roll -= chance
        try:
            results = self._write(batch)
        except ServiceError as error:
            return error
        return results[:-1] if roll < faults.wrong_count else results

    def _write(self, batch: Batch) -> list[RecordResult]:
        kept = [self.dice.random() >= self.faults.record_failure for _ in batch.records]
        sent = [record for record, keep in zip(batch.records, kept, strict=True) if keep]
        answers = iter(self.service.put_records(STREAM, sent, self.now_ns) if sent else [])
        internal = RecordResult(error_code="InternalFailure", error_message="Internal Failure")
        results = [next(answers) if keep else internal for keep in kept]
        for record, result in zip(batch.records, results, strict=True):
            if result.is_delivered:
                self.written[record.data] += 1
        return results

    def _described(self, engine: Engine) -> None:
        engine.handle_description(self.description(), self.now_ns)
        self.pump(engine)

    def description(self) -> StreamDescription:
        shards = tuple(
            OpenShard(shard.shard_id, shard.starting_hash_key, shard.ending_hash_key)
            for shard in self.service.stream(STREAM).open_shards
        )
        return StreamDescription(shards if self.may_list else None, 1024 * 1024, False, None)


def total(world: World, name: str) -> int:
    values = [getattr(engine.counters, name) for engine in world.engines]
    return sum(value if isinstance(value, int) else sum(value.values()) for value in values)


def counters_of(world: World) -> StreamCounters:
    (engine,) = world.engines
    return engine.counters

"""An engine on the rig: fed by hand, with a clock by hand, checked at every step."""

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from tests.kit.frames import (
    MS,
    SECOND,
    LoadedDice,
    delivered,
    describe,
    even_shards,
    make_frame,
)

T = 100 * SECOND
SETTINGS = EngineSettings(
    batch_records_max=10,
    batch_bytes_max=100_000,
    record_bytes_max=50_000,
    linger_ns=100 * MS,
    in_flight_max=3,
    shard_records_per_second=1000,
    shard_bytes_per_second=1_000_000,
    buffer_bytes_max=1_000_000,
    first_share=1.0,
)


class Rig:
    """An engine with one shard (so that predictions hold), full dice, and a clock by hand."""

    def __init__(self, settings: EngineSettings = SETTINGS, shard_count: int = 1) -> None:
        self.memory = ByteBudget(10_000_000)
        self.now_ns = T
        self.record_count = 0
        self.engine = Engine(settings, self.memory, LoadedDice(0.5), T)
        self.counters = self.engine.counters
        self.engine.freshness.ask(T)
        at_once(self.engine.take_description(describe(even_shards(shard_count)), T))

    def put(self, count: int = 1, *, size: int = 10, deadline_ns: int | None = None) -> Frame:
        """Distinct records of `size` bytes each (9 or more), the key included."""
        records = []
        for _ in range(count):
            self.record_count += 1
            records.append(Record(b"%08d" % self.record_count + bytes(size - 9), "k"))
        frame = make_frame(records, deadline_ns=deadline_ns)
        assert self.engine.handle_frame(frame, self.now_ns)
        return frame

    def poll(self) -> Batch | None:
        self.engine.handle_timeout(self.now_ns)
        batch = self.engine.poll_batch(self.now_ns)
        assert self.counters.unaccounted() == 0
        return batch

    def call(self) -> Batch:
        batch = self.poll()
        assert batch is not None
        return batch

    def answer(self, batch: Batch, results: list[RecordResult] | None = None) -> None:
        if results is None:
            results = [delivered() for _ in batch.records]
        self.engine.handle_results(batch, results, self.now_ns)
        assert self.counters.unaccounted() == 0

    def fail(self, batch: Batch, error: ServiceError) -> None:
        self.engine.handle_failure(batch, error, self.now_ns)
        assert self.counters.unaccounted() == 0

    def settled(self) -> list[Frame]:
        return self.engine.take_settled()

    def wait(self) -> None:
        """To the next wake-up, which must be to come."""
        at_ns = self.engine.next_wakeup_ns()
        assert at_ns is not None
        assert at_ns > self.now_ns
        self.now_ns = at_ns

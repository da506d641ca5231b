"""A simulated world: engines and the sandbox service under one clock that jumps.

No sleeps, no sockets: an answer is an entry in a heap, and so is an engine's next wake-up.
Everything is decided by one seed, so a failure is replayed by its number.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from kdaemon.base.counting import StreamCounters
from kdaemon.base.description import Capacity, OpenShard, StreamDescription
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.limits import MIB, SPREAD_KEY_BYTES
from kdaemon.base.memory import ByteBudget
from kdaemon.base.ports import Dice
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.pace.adaptive import FIRST_SHARE
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.service import Service, Taken
from kdaemon.sandbox.settings import Quota, SandboxSettings

MS = 1_000_000
SECOND = 1_000_000_000
STREAM = "sim"
RECORD_FOOTPRINT_BYTES = 300  # memory of a record beside its data, about
WAKES_AT_ONCE_MAX = 10_000  # of one engine without the clock moving: more is a defect, not a load

SETTINGS = EngineSettings(
    batch_records_max=500,
    batch_bytes_max=5 * 1024 * 1024,
    record_bytes_max=1024 * 1024,
    linger_ns=100 * MS,
    in_flight_max=16,
    shard_records_per_second=1000,
    shard_bytes_per_second=1024 * 1024,
    buffer_bytes_max=64 * 1024 * 1024,
    first_share=FIRST_SHARE,
)


def make_frame(
    records: list[Record],
    *,
    deadline_ns: int | None = None,
    on_settled: Callable[[Frame], object] | None = None,
) -> Frame:
    sizes = [
        len(record.data) + (len(record.partition_key.encode()) or SPREAD_KEY_BYTES)
        for record in records
    ]
    frame = Frame(records, sizes, Acknowledge.DELIVERED, on_settled)
    frame.footprint_bytes = sum(sizes) + RECORD_FOOTPRINT_BYTES * len(records)
    frame.deadline_ns = deadline_ns
    return frame


# How a call fails by chance, by the chance's name in `Faults`: code, and what else is known.
FAILURES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "lost_request": ("ConnectError", {"was_sent": False}),
    "call_throttled": ("ThrottlingException", {"status": 400}),
    "lost_answer": ("ReadTimeout", {}),
    "server_error": ("InternalFailure", {"status": 500}),
}


@dataclass
class Faults:
    """Chances per call (or per record), decided by the world's dice."""

    lost_answer: float = 0.0  # written, and the answer is lost
    lost_request: float = 0.0  # not written, the connection failed before
    server_error: float = 0.0  # HTTP 500; half of them wrote
    call_throttled: float = 0.0
    wrong_count: float = 0.0
    record_failure: float = 0.0  # of each record: InternalFailure (Yandex: its shard's records)
    failing_keys: frozenset[str] = frozenset()  # InternalFailure for each record of these


class Station:
    """One engine in the world: when it is to be woken, and whether its process is there at all."""

    __slots__ = (
        "armed_ns",
        "engine",
        "is_gone",
        "stream",
        "waiters",
        "wakes_at_once",
        "woken_ns",
    )

    def __init__(self, engine: Engine, stream: str) -> None:
        self.engine = engine
        self.stream = stream
        self.waiters: dict[Callable[[], object], None] = {}  # for room, each once, in order
        self.armed_ns: int | None = None  # the earliest wake-up that is in the heap
        self.is_gone = False
        self.woken_ns = -1
        self.wakes_at_once = 0


@dataclass
class World:
    """One service, any number of engines; `run_until` jumps from one due time to the next.

    `keeps_records`: remember every settled frame and count every record that was written; without
    it a long run costs no memory. Two hooks: `on_written`, told what the service took of a call as
    the call arrives, and `on_answered`, when its results have come back and were handled.
    """

    seed: int
    shard_count: int = 4
    settings: EngineSettings = SETTINGS
    faults: Faults = field(default_factory=Faults)
    quota: Quota = field(default_factory=Quota)
    may_list: bool = True
    round_trip_ns: tuple[int, int] = (20 * MS, 45 * MS)
    service_settings: SandboxSettings = field(default_factory=SandboxSettings)
    keeps_records: bool = True
    on_written: Callable[[Engine, Batch, Taken], object] | None = None
    on_answered: Callable[[Engine, Batch, list[RecordResult]], object] | None = None

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.now_ns = SECOND
        self.service = Service(self.service_settings, self.dice)
        self.service.create_stream(STREAM, self.shard_count, self.now_ns, quota=self.quota)
        self.memory = ByteBudget(1 << 30)
        self.engines: list[Engine] = []
        self.settled: list[Frame] = []
        self.frame_count = 0
        self.call_count = 0
        self.written: Counter[bytes] = Counter()
        self.max_calls_at_once = 0
        self.max_batch_records = 0
        self.max_batch_bytes = 0
        self.asked: list[tuple[int, Engine]] = []  # who asked for the map, and when
        self._due: list[tuple[int, int, Callable[[], object]]] = []
        self._due_count = 0
        self._stations: dict[Engine, Station] = {}

    def add_engine(
        self,
        *,
        settings: EngineSettings | None = None,
        memory: ByteBudget | None = None,
        dice: Dice | None = None,
        stream: str = STREAM,
    ) -> Engine:
        """A daemon starts. Those of one process share memory and dice; None takes the world's.
        `stream`: one that the service has.
        """
        engine = Engine(
            settings or self.settings, memory or self.memory, dice or self.dice, self.now_ns
        )
        self.engines.append(engine)
        self._stations[engine] = Station(engine, stream)
        self._arm(engine)
        return engine

    def remove_engine(self, engine: Engine) -> None:
        """Its process is gone: what it sent still arrives, what it is answered is not heard."""
        self.engines.remove(engine)
        self._stations[engine].is_gone = True

    def at(self, when_ns: int, action: Callable[[], object]) -> None:
        self._due_count += 1
        heappush(self._due, (when_ns, self._due_count, action))

    def submit(self, engine: Engine, frame: Frame) -> bool:
        self.frame_count += 1
        is_taken = engine.handle_frame(frame, self.now_ns)
        if is_taken:
            self.pump(engine)
        return is_taken

    def when_room(self, engine: Engine, callback: Callable[[], object]) -> None:
        """Calls back once when something has settled, as the driver does."""
        self._stations[engine].waiters[callback] = None

    def pump(self, engine: Engine) -> None:
        engine.handle_timeout(self.now_ns)
        while (batch := engine.poll_batch(self.now_ns)) is not None:
            self._send(engine, batch)
        if engine.freshness.ask(self.now_ns):
            self.asked.append((self.now_ns, engine))
            self.at(self.now_ns + 30 * MS, lambda: self._described(engine))
        settled = engine.take_settled()
        for frame in settled:
            if frame.on_settled is not None:
                frame.on_settled(frame)
        if self.keeps_records:
            self.settled += settled
        station = self._stations[engine]
        if settled and station.waiters:
            waiters, station.waiters = station.waiters, {}
            for waiter in waiters:
                self.at(self.now_ns, waiter)
        self._arm(engine)
        assert engine.counters.unaccounted() == 0, f"seed {self.seed}: records are unaccounted for"

    def run_until(self, until_ns: int) -> None:
        """Everything that is due before `until_ns`."""
        for engine in self.engines:
            self._arm(engine)  # it may have been spoken to past this world
        due = self._due
        while due and due[0][0] < until_ns:
            at_ns, _, action = heappop(due)
            self.now_ns = max(self.now_ns, at_ns)
            action()
        self.now_ns = until_ns

    def run_idle(self, *, seconds_max: int = 120) -> None:
        """Until every engine is idle; the time it may take is bounded."""
        until_ns = self.now_ns + seconds_max * SECOND
        while not all(engine.is_idle for engine in self.engines):
            assert self.now_ns < until_ns, f"seed {self.seed}: not idle in {seconds_max} s"
            self.run_until(min(until_ns, self.now_ns + 50 * MS))

    def _arm(self, engine: Engine) -> None:
        """Puts the engine's next wake-up into the heap, unless an earlier one stands there."""
        station = self._stations[engine]
        at_ns = engine.next_wakeup_ns()
        if at_ns is None or (station.armed_ns is not None and station.armed_ns <= at_ns):
            return
        station.armed_ns = at_ns
        self.at(at_ns, lambda: self._wake(station, at_ns))

    def _wake(self, station: Station, at_ns: int) -> None:
        if station.is_gone or station.armed_ns != at_ns:
            return
        station.armed_ns = None
        due_ns = station.engine.next_wakeup_ns()
        if due_ns is None or due_ns > self.now_ns:
            self._arm(station.engine)
            return
        station.wakes_at_once = station.wakes_at_once + 1 if station.woken_ns == self.now_ns else 0
        station.woken_ns = self.now_ns
        assert station.wakes_at_once < WAKES_AT_ONCE_MAX, (
            f"seed {self.seed}: an engine wants to be woken at {due_ns} and does nothing then"
        )
        self.pump(station.engine)

    def _send(self, engine: Engine, batch: Batch) -> None:
        self.call_count += 1
        self.max_calls_at_once = max(self.max_calls_at_once, engine.counters.in_flight_calls)
        self.max_batch_records = max(self.max_batch_records, len(batch.records))
        self.max_batch_bytes = max(self.max_batch_bytes, batch.byte_count)
        there_ns = self.dice.randint(*self.round_trip_ns) // 2
        self.at(self.now_ns + there_ns, lambda: self._arrive(engine, batch, there_ns))

    def _arrive(self, engine: Engine, batch: Batch, back_ns: int) -> None:
        outcome, stalled_until_ns = self._outcome(engine, batch)

        def answer() -> None:
            if self._stations[engine].is_gone:
                return
            if isinstance(outcome, ServiceError):
                engine.handle_failure(batch, outcome, self.now_ns)
            else:
                engine.handle_results(batch, outcome, self.now_ns)
                if self.on_answered is not None:
                    self.on_answered(engine, batch, outcome)
            self.pump(engine)

        self.at(stalled_until_ns + back_ns, answer)

    def _outcome(
        self, engine: Engine, batch: Batch
    ) -> tuple[list[RecordResult] | ServiceError, int]:
        """What the service says, and until when it holds that back."""
        faults = self.faults
        roll, is_written = self.dice.random(), self.dice.random() < 0.5
        for name, (code, told) in FAILURES.items():
            chance: float = getattr(faults, name)
            if roll < chance:
                if name == "lost_answer" or (name == "server_error" and is_written):
                    with suppress(ServiceError):  # refused, and nobody hears it
                        self._write(engine, batch)
                return ServiceError(code, "", **told), self.now_ns
            roll -= chance
        try:
            results, stalled_until_ns = self._write(engine, batch)
        except ServiceError as error:
            return error, self.now_ns
        return results[:-1] if roll < faults.wrong_count else results, stalled_until_ns

    def _write(self, engine: Engine, batch: Batch) -> Taken:
        records = batch.records
        taken = self.service.take_records(
            self._stations[engine].stream, records, self.now_ns, self._fault(records)
        )
        if self.keeps_records:
            self.written.update(
                record.data
                for record, result in zip(records, taken.results, strict=True)
                if result.is_delivered
            )
        if self.on_written is not None:
            self.on_written(engine, batch, taken)
        return taken

    def _fault(self, records: list[Record]) -> Fault | None:
        """Which of these records fail by themselves, if any: by chance, or for their keys."""
        chance, keys = self.faults.record_failure, self.faults.failing_keys
        if not (chance or keys):
            return None
        failing = tuple(
            index
            for index, record in enumerate(records)
            if (chance and self.dice.random() < chance) or record.partition_key in keys
        )
        return Fault(kind=FaultKind.RECORD_FAILURE, indices=failing) if failing else None

    def _described(self, engine: Engine) -> None:
        if self._stations[engine].is_gone:
            return
        try:
            description = self.description(self._stations[engine].stream)
        except ServiceError as error:
            engine.handle_no_description(error, self.now_ns)
        else:
            at_once(engine.take_description(description, self.now_ns))
        self.pump(engine)

    def description(self, name: str = STREAM) -> StreamDescription:
        """What discovery makes of what the service tells; ServiceError for a missing stream."""
        stream = self.service.stream(name)
        shards = tuple(
            OpenShard(shard.shard_id, *stream.told_range(shard)) for shard in stream.open_shards
        )
        record_bytes_max = None if self.service.is_yandex else stream.record_bytes_max
        warm = stream.warm_mib_per_second
        capacity = Capacity(stream.is_on_demand, *[None if warm is None else warm * MIB] * 2)
        return StreamDescription(
            shards if self.may_list else None,
            record_bytes_max,
            stream.is_auto,
            None,
            capacity=None if self.service.is_yandex else capacity,
            shard_bytes_per_second=stream.quota.bytes_per_second
            if self.service.is_yandex
            else None,
        )


class Client:
    """Feeds one engine steadily: frames at jittered times. What finds no room is not offered again.

    `make(count)`: that many records and their sizes (data + partition key, bytes). `gap_ns`:
    between frames on average; each gap is 0.5 to 1.5 of it. `refused` counts the records of frames
    that were not taken, and those that a taken frame was told had failed.
    """

    def __init__(
        self,
        world: World,
        engine: Engine,
        make: Callable[[int], tuple[list[Record], list[int]]],
        *,
        per_second: float,
        gap_ns: int,
        dice: random.Random,
    ) -> None:
        self._world = world
        self._engine = engine
        self._make = make
        self._per_ns = per_second / SECOND
        self._gap_ns = max(gap_ns, round(SECOND / per_second))
        self._dice = dice
        self._owed = 0.0  # records that are due, the part of one included
        self._fed_ns = world.now_ns
        self.offered = 0
        self.refused = 0
        self.is_gone = False
        self._wait()

    def _wait(self) -> None:
        gap_ns = round(self._gap_ns * self._dice.uniform(0.5, 1.5))
        self._world.at(self._world.now_ns + gap_ns, self._feed)

    def _feed(self) -> None:
        if self.is_gone:
            return
        now_ns = self._world.now_ns
        self._owed += (now_ns - self._fed_ns) * self._per_ns
        self._fed_ns = now_ns
        count = int(self._owed)
        self._owed -= count
        if count:
            records, sizes = self._make(count)
            frame = Frame(records, sizes, Acknowledge.DELIVERED, self._settled)
            frame.footprint_bytes = sum(sizes) + RECORD_FOOTPRINT_BYTES * count
            self.offered += count
            if not self._world.submit(self._engine, frame):
                self.refused += count
        self._wait()

    def _settled(self, frame: Frame) -> None:
        self.refused += sum(
            result is not None and not result.is_delivered for result in frame.results
        )


def total(world: World, name: str) -> int:
    values = [getattr(engine.counters, name) for engine in world.engines]
    return sum(value if isinstance(value, int) else sum(value.values()) for value in values)


def counters_of(world: World) -> StreamCounters:
    (engine,) = world.engines
    return engine.counters

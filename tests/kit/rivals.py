"""A quiet client beside greedy ones at one daemon, simulated (`world.py`): how long the quiet one
waits, what it is refused, and how much of the shard is used.

The quiet one sends single records at a steady rate, whatever becomes of them. A greedy one offers
as much as is admitted. Each comes by a door as the engine sees it: over HTTP a frame that finds no
room is refused, and comes again after a while; on a socket it waits until something has settled.
What is stored comes from the disk's side, under the rule of half (`streams/stream.py`).
A run is replayed by its plan. Knows the engine by what goes in and comes out.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache, partial
from itertools import count, cycle, islice
from math import inf

from kdaemon.base.admission import frame_footprint_bytes
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.limits import MIB, SPREAD_KEY_BYTES
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.sandbox.service import Taken
from kdaemon.sandbox.settings import Quota, SandboxSettings
from kdaemon.sandbox.shards import hash_key_of
from kdaemon.spool.room import Room, Share
from tests.kit.depth import enough
from tests.kit.world import MS, SECOND, SETTINGS, STREAM, Client, Faults, World

BUFFER_BYTES = 12 * MIB  # of each stream: 17 s of a shard's quota in records of 200 B
MEMORY_BYTES = 24 * MIB  # of all streams, unless a plan says otherwise
BACKOFF_NS = 100 * MS  # of a refused client, 0.5 to 1.5 of it: an SDK's first pause
DEADLINE_NS = 120 * SECOND  # longer than any run: what waits is seen to wait
REQUESTS_AT_ONCE = 64  # without an answer, of one HTTP connection (`http/connection.py`)
BLOCK_RECORDS = 250  # of a block of 64 KiB of lines
BLOCKS_AT_ONCE = 256  # that a session may have unsettled (`door/rounds.py`) ...
BLOCKS_BYTES = 8 * MIB  # ... and their bytes
NOTICED_NS_MAX = 30 * SECOND  # after an outage: the longest backoff between probes is 10 s
GRACE_NS = 3 * SECOND  # after the last record that counts: what has not settled by then never did

PLAIN = replace(SETTINGS, first_share=1.0, buffer_bytes_max=BUFFER_BYTES)


class Way(Enum):
    """By which door the clients come."""

    HTTP = "http"
    SOCKET = "socket"


class Where(Enum):
    """Where the greedy ones write, as the quiet one sees it."""

    SAME_SHARD = "same shard"
    OTHER_SHARD = "other shard"
    OTHER_STREAM = "other stream"
    OTHER_STREAMS = "other streams"  # each greedy one to a stream of its own
    ALL_SHARDS = "all shards"


@dataclass(frozen=True, slots=True)
class Load:
    """What a kind of client sends. `per_second`: of all its clients together; 0: as much as is
    admitted. `is_keyless`: without a partition key.
    """

    clients: int = 1
    per_second: float = 0.0
    data_bytes: int = 200
    frame_records: int = 500
    promise: Acknowledge = Acknowledge.DELIVERED
    is_keyless: bool = False
    keys: int = 16  # on each shard


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. `rival_per_second`: what another daemon offers to the same shards. `outage_s`: the
    service cannot be reached for so long before the time that counts.
    """

    seed: int = 1
    way: Way = Way.HTTP
    where: Where = Where.SAME_SHARD
    quiet: Load = field(default_factory=lambda: Load(1, 200.0, 100, 1))
    greedy: Load = field(default_factory=Load)
    settings: EngineSettings = PLAIN
    shard_count: int = 2
    quota: Quota = field(default_factory=Quota)
    is_auto: bool = False
    may_list: bool = True
    round_trip_ns: tuple[int, int] = (20 * MS, 45 * MS)
    service: SandboxSettings = field(default_factory=SandboxSettings)
    rival_per_second: float = 0.0
    outage_s: int = 0
    memory_bytes: int = MEMORY_BYTES
    warm_up_s: int = 2
    seconds: int = field(default_factory=lambda: enough(6, 3))

    def alone(self) -> "Plan":
        """All that is greedy is one, but for what decides which shards count."""
        return replace(self, greedy=Load(clients=0, is_keyless=self.greedy.is_keyless))


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a plan. Times in ms from when a record was due to its delivery; infinite for one
    that was never delivered. `refused`: of the quiet ones. `used`: of the quota of those shards
    that the greedy ones write to, in the side that is used most. `*_per_second`: records delivered
    to the service.
    """

    p50_ms: float
    p99_ms: float
    refused: int
    used: float
    quiet_per_second: float
    greedy_per_second: float

    def __str__(self) -> str:
        return (
            f"quiet p50 {self.p50_ms:.0f} ms, p99 {self.p99_ms:.0f} ms, {self.refused} refused;"
            f" greedy {self.greedy_per_second:.0f}/s; used {self.used:.1%}"
        )


def simulate(plan: Plan) -> Run:
    return _Trial(plan).run()


@cache
def alone(plan: Plan) -> Run:
    """The same without the greedy ones."""
    return simulate(plan.alone())


class _Trial:
    """One plan on its way."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._world = world = World(
            plan.seed,
            shard_count=plan.shard_count,
            settings=plan.settings,
            quota=plan.quota,
            may_list=plan.may_list,
            round_trip_ns=plan.round_trip_ns,
            service_settings=plan.service,
            keeps_records=False,
            on_written=self._written,
        )
        if plan.is_auto:
            world.service.handle("DeleteStream", {"StreamName": STREAM}, world.now_ns)
            world.service.create_stream(
                STREAM, plan.shard_count, world.now_ns, quota=plan.quota, is_auto=True
            )
        memory = ByteBudget(plan.memory_bytes)
        self._disk = _Disk(memory)
        self._engine = world.add_engine(memory=memory)
        self._greedy_engines = [self._engine]
        if self._is_elsewhere:
            stream_count = max(1, plan.greedy.clients) if plan.where is Where.OTHER_STREAMS else 1
            self._greedy_engines = [
                self._add_stream(f"{STREAM}-{number}", memory) for number in range(stream_count)
            ]
        shards = world.service.stream(STREAM).open_shards  # those of the other one are as these
        self._watched = {shards[index].shard_id for index in self._greedy_shards}
        self._taken_records = 0  # by those shards, while it counts
        self._taken_bytes = 0
        self._is_counting = False
        self._quiet: list[Quiet] = []
        self._greedy: list[Greedy] = []

    @property
    def _is_elsewhere(self) -> bool:
        return self._plan.where in (Where.OTHER_STREAM, Where.OTHER_STREAMS)

    def _add_stream(self, name: str, memory: ByteBudget) -> Engine:
        plan, world = self._plan, self._world
        world.service.create_stream(name, plan.shard_count, world.now_ns, quota=plan.quota)
        return world.add_engine(memory=memory, stream=name)

    @property
    def _greedy_shards(self) -> range:
        """Which of the stream's shards they write to, by index; the quiet one writes to the first,
        but where the service itself spreads the records.
        """
        plan = self._plan
        first = 1 if plan.where is Where.OTHER_SHARD else 0
        is_one = plan.where is Where.SAME_SHARD and not (plan.is_auto or plan.greedy.is_keyless)
        return range(first, 1 if is_one else plan.shard_count)

    def _keys(self, prefix: str, shards: range, load: Load) -> list[str]:
        """As many keys of each of these shards as the load has."""
        if load.is_keyless:
            return [""]
        keys: list[str] = []
        for index in shards:
            shard = self._world.service.stream(STREAM).open_shards[index]
            names = (f"{prefix}-{number}" for number in count())
            keys += islice(
                (
                    name
                    for name in names
                    if shard.starting_hash_key
                    <= hash_key_of(name.encode())
                    <= shard.ending_hash_key
                ),
                load.keys,
            )
        return keys

    def _written(self, engine: Engine, batch: Batch, taken: Taken) -> None:
        if not self._is_counting or (self._is_elsewhere and engine is self._engine):
            return
        for record, result in zip(batch.records, taken.results, strict=True):
            if result.is_delivered and result.shard_id in self._watched:
                self._taken_records += 1
                self._taken_bytes += len(record.data) + len(record.partition_key)

    def run(self) -> Run:
        plan, world = self._plan, self._world
        world.run_until(world.now_ns + 100 * MS)  # the map is known
        dice = random.Random(plan.seed)
        if plan.rival_per_second:
            self._add_rival(dice)
        keys = self._keys("quiet", range(1), plan.quiet)
        for client in range(1, plan.quiet.clients + 1):
            self._quiet.append(Quiet(world, self._engine, plan, self._disk, client, keys, dice))
        keys = self._keys("greedy", self._greedy_shards, plan.greedy)
        for number in range(plan.greedy.clients):
            engine = self._greedy_engines[number % len(self._greedy_engines)]
            client = plan.quiet.clients + 1 + number
            self._greedy.append(Greedy(world, engine, plan, self._disk, client, keys, dice))
        world.run_until(world.now_ns + plan.warm_up_s * SECOND)
        if plan.outage_s:
            self._live_through_an_outage()
        return self._count()

    def _add_rival(self, dice: random.Random) -> None:
        """Another daemon, on the same shards."""
        engine = self._world.add_engine(memory=ByteBudget(1 << 30))
        keys = self._keys("rival", self._greedy_shards, Load())

        def make(count: int) -> tuple[list[Record], list[int]]:
            records = [Record(bytes(200), dice.choice(keys)) for _ in range(count)]
            return records, [200 + len(record.partition_key) for record in records]

        rate = self._plan.rival_per_second
        Client(self._world, engine, make, per_second=rate, gap_ns=50 * MS, dice=dice)

    def _live_through_an_outage(self) -> None:
        """Until the first record is delivered after it, and a second more."""
        world = self._world
        world.faults = Faults(lost_request=1.0)
        world.run_until(world.now_ns + self._plan.outage_s * SECOND)
        world.faults = Faults()
        delivered = self._engine.counters.delivered
        until_ns = world.now_ns + NOTICED_NS_MAX
        while self._engine.counters.delivered == delivered:
            assert world.now_ns < until_ns, "nobody noticed that the outage is over"
            world.run_until(world.now_ns + 10 * MS)
        world.run_until(world.now_ns + SECOND)

    def _count(self) -> Run:
        plan, world = self._plan, self._world
        since_ns, until_ns = world.now_ns, world.now_ns + plan.seconds * SECOND
        before = [_delivered(self._quiet), _delivered(self._greedy)]
        self._is_counting = True
        world.run_until(until_ns)
        self._is_counting = False
        after = [_delivered(self._quiet), _delivered(self._greedy)]
        times = [inf]
        while times[-1] == inf and world.now_ns < until_ns + GRACE_NS:
            world.run_until(world.now_ns + 100 * MS)
            by_client = [client.times_ms(since_ns, until_ns) for client in self._quiet]
            times = sorted(time for each in by_client for time in each)
        used = max(
            self._taken_records / plan.quota.records_per_second,
            self._taken_bytes / plan.quota.bytes_per_second,
        )
        return Run(
            p50_ms=_percentile(times, 50),
            p99_ms=_percentile(times, 99),
            refused=sum(client.refused for client in self._quiet),
            used=used / (len(self._watched) * len(self._greedy_engines) * plan.seconds),
            quiet_per_second=(after[0] - before[0]) / plan.seconds,
            greedy_per_second=(after[1] - before[1]) / plan.seconds,
        )


class _Disk:
    """What of the disk is in memory, by the rules of the spool's delivery."""

    def __init__(self, memory: ByteBudget) -> None:
        self._room = Room(memory)
        self._shares: dict[Engine, Share] = {}

    def may_hand_over(self, engine: Engine, frame: Frame) -> bool:
        share = self._shares.setdefault(engine, Share(is_listed=True))
        is_calm = engine.ledger.footprint_bytes <= BUFFER_BYTES // 2  # `Stream.submit_spooled`
        return is_calm and self._room.has(share, frame.footprint_bytes)

    def add(self, engine: Engine, byte_count: int) -> None:
        self._room.add(self._shares[engine], byte_count)


class _Sender:
    """A connection of the daemon: its number, its records, its frames. `name`: of its load in a
    plan.
    """

    name: str

    def __init__(
        self,
        world: World,
        engine: Engine,
        plan: Plan,
        disk: _Disk,
        client: int,
        keys: list[str],
        dice: random.Random,
    ) -> None:
        self.world = world
        self.engine = engine
        self.load = load = getattr(plan, self.name)
        self.client = client
        self.dice = dice
        self._disk = disk
        self.is_stored = load.promise is Acknowledge.STORED
        self.is_patient = plan.way is Way.SOCKET
        pool = [Record(bytes(load.data_bytes), key) for key in keys]
        dice.shuffle(pool)
        self._pool = cycle(pool)
        self.delivered = 0  # records
        self.begin()

    def begin(self) -> None:
        """What it does from now on."""
        raise NotImplementedError

    def frame(self, record_count: int, on_settled: Callable[[Frame], object]) -> Frame:
        records = list(islice(self._pool, record_count))
        sizes = [len(each.data) + (len(each.partition_key) or SPREAD_KEY_BYTES) for each in records]
        frame = Frame(records, sizes, self.load.promise, on_settled)
        frame.footprint_bytes = frame_footprint_bytes(record_count, frame.byte_count)
        frame.accepted_ns = self.world.now_ns
        if self.is_stored:
            counters = self.engine.counters
            counters.receive(record_count, frame.byte_count)
            counters.accept(record_count, frame.byte_count)
            counters.spooled += record_count
        else:
            frame.client = self.client
            if self.load.promise is Acknowledge.DELIVERED and not self.is_patient:
                frame.deadline_ns = self.world.now_ns + DEADLINE_NS
        return frame

    def submit(self, frame: Frame) -> bool:
        """Whether it was taken."""
        engine, now_ns = self.engine, self.world.now_ns
        if not self.is_stored:
            is_taken = engine.handle_frame(frame, now_ns, is_patient=self.is_patient)
        else:
            is_taken = self._disk.may_hand_over(engine, frame) and engine.handle_spooled(
                frame, now_ns
            )
            if is_taken:
                self._disk.add(engine, frame.footprint_bytes)
        if is_taken:
            self.world.pump(engine)
        return is_taken

    @property
    def waits(self) -> bool:
        """It keeps the frame that found no room, and is called when there may be some."""
        return self.is_patient or self.is_stored

    def try_again(self, action: Callable[[], object]) -> None:
        """As a client does that found no room."""
        if self.waits and not self.engine.is_idle:
            self.world.when_room(self.engine, action)
        else:  # refused, or others have the room and nothing settles here
            wait_ns = round(BACKOFF_NS * self.dice.uniform(0.5, 1.5))
            self.world.at(self.world.now_ns + wait_ns, action)


class Quiet(_Sender):
    """One of the quiet clients: single records, each offered until it is taken."""

    name = "quiet"

    def begin(self) -> None:
        self._gap_ns = SECOND * self.load.clients / self.load.per_second
        self._due_ns: list[int] = []  # of each record: when it was due
        self._took_ns: dict[int, int] = {}  # by its number: until it was delivered
        self._line: deque[int] = deque()  # on a socket: what waits for room, in order
        self._is_waiting = False
        self.refused = 0  # records, each time
        self.world.at(self.world.now_ns + round(self._gap_ns * self.dice.random()), self._go)

    def _go(self) -> None:
        now_ns = self.world.now_ns
        number = len(self._due_ns)
        self._due_ns.append(now_ns)
        self.world.at(now_ns + round(self._gap_ns * self.dice.uniform(0.5, 1.5)), self._go)
        if self.is_patient:
            self._line.append(number)
            if not self._is_waiting:
                self._offer_line()
        else:
            self._offer(number)

    def _offer(self, number: int) -> bool:
        is_taken = self.submit(self.frame(1, partial(self._settled, number)))
        if not (is_taken or self.is_patient):
            self.refused += 1
            self.try_again(partial(self._offer, number))
        return is_taken

    def _offer_line(self) -> None:
        self._is_waiting = False
        while self._line:
            if not self._offer(self._line[0]):
                self._is_waiting = True
                self.try_again(self._offer_line)
                return
            self._line.popleft()

    def _settled(self, number: int, frame: Frame) -> None:
        (result,) = frame.results
        if result is not None and result.is_delivered:
            self.delivered += 1
            self._took_ns[number] = self.world.now_ns - self._due_ns[number]
        else:
            self.refused += 1

    def times_ms(self, since_ns: int, until_ns: int) -> list[float]:
        """From due to delivered, of the records that were due in that time."""
        return [
            self._took_ns[number] / MS if number in self._took_ns else inf
            for number, due_ns in enumerate(self._due_ns)
            if since_ns <= due_ns < until_ns
        ]


class Greedy(_Sender):
    """One of the greedy clients: as many frames at once as its connection may have."""

    name = "greedy"

    def begin(self) -> None:
        load = self.load
        self._frame_records = load.frame_records
        self._frames_max = REQUESTS_AT_ONCE
        if self.is_patient:
            self._frame_records = min(load.frame_records, BLOCK_RECORDS)
            block_bytes = self._frame_records * load.data_bytes
            self._frames_max = max(1, min(BLOCKS_AT_ONCE, BLOCKS_BYTES // block_bytes))
        self._is_waited_for = load.promise is Acknowledge.DELIVERED
        self._open = 0  # frames whose answers it waits for
        self._kept: Frame | None = None  # that found no room
        self.world.at(self.world.now_ns, self._go)

    def _go(self) -> None:
        while not self._is_waited_for or self._open < self._frames_max:
            frame = self._kept or self.frame(self._frame_records, self._settled)
            if not self.submit(frame):
                self._kept = frame if self.waits else None
                self.try_again(self._go)
                return
            self._kept = None
            self._open += 1

    def _settled(self, frame: Frame) -> None:
        was_full = self._open == self._frames_max
        self._open -= 1
        if self.is_stored:
            self._disk.add(self.engine, -frame.footprint_bytes)
        self.delivered += sum(each is not None and each.is_delivered for each in frame.results)
        if was_full and self._is_waited_for:
            self.world.at(self.world.now_ns, self._go)


def _delivered(clients: "list[Quiet] | list[Greedy]") -> int:
    return sum(client.delivered for client in clients)


def _percentile(times: list[float], percent: int) -> float:
    """Of sorted times, at least one."""
    return times[min(len(times) - 1, len(times) * percent // 100)]

"""An engine, a service that answers at whim, and everything that must hold at every step.

Pure: a test moves the clock, picks which call is answered and how. `pump` does what the shell
does and checks the engine's promises; `settle_down` lets the service heal and follows nothing but
`next_wakeup_ns` until the engine is idle. The checks of order, of aggregates and of turns apply
where the settings ask for them.
"""

from collections import Counter
from dataclasses import dataclass

from kdaemon.base.description import StreamDescription
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.ports import Dice
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from kdaemon.pack.kpl import encode_aggregate
from kdaemon.pack.lane import LaneState
from kdaemon.pack.run import Run
from kdaemon.settle.ledger import WITHDRAWN
from tests.kit.frames import (
    MS,
    SECOND,
    delivered,
    describe,
    even_shards,
    failed,
    make_frame,
)
from tests.kit.kcl import inner_records
from tests.kit.queues import lanes_of

T = 1000 * SECOND
DEADLINE_NS = 5 * SECOND
CALM_NS_MAX = 90 * SECOND
"""How much longer than its rate says a backlog may take: 60 s for a share that fell to its floor to
be whole again (`tests/unit/pace/test_budget.py` holds it to that), and 30 s for the longest backoff
of a stream (`HOLD_BACKOFF`). What else ends meanwhile (a shard's backoff, a deadline, an aggregate
that waits for a map) takes 5 s each, at the same time."""

CALM_STEPS_A_SECOND = 100  # nobody looks again sooner than after 10 ms (`keyless.RECHECK_NS_MIN`)
CALM_STEPS_A_RECORD = 3  # one that goes by itself: a wake-up, its answer; one to spare

SETTINGS = EngineSettings(
    batch_records_max=8,
    batch_bytes_max=3000,
    record_bytes_max=2500,
    linger_ns=100 * MS,
    in_flight_max=3,
    shard_records_per_second=40,
    shard_bytes_per_second=2500,  # a burst of 2,250 bytes: the largest records go into debt
    buffer_bytes_max=60_000,
    first_share=1.0,
)

RECALLED = ServiceError(Trouble.CONNECT_TIMEOUT, "nothing was sent", was_sent=False)
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
    "delivered": (delivered(), True),  # by the shard that was predicted
    "elsewhere": (delivered("another"), True),
    "on the first": (delivered("shard-0"), True),
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
    lanes: list[tuple[str | None, int, int]]  # what each paid for: shard, records, bytes


class Play:
    def __init__(
        self,
        dice: Dice,
        settings: EngineSettings = SETTINGS,
        *,
        memory: ByteBudget | None = None,
    ) -> None:
        self.settings = settings
        self.memory = memory or ByteBudget(50_000)
        self.neighbours: list[Play] = []  # who shares the memory
        self.now_ns = T
        self.engine = Engine(settings, self.memory, dice, T)
        self.calls: list[Batch] = []
        self.frames: list[Frame] = []
        self.told: dict[Frame, list[RecordResult | None]] = {}
        self.writes: Counter[Place] = Counter()
        self.keys: dict[Place, str] = {}  # of records that came with a partition key
        self.clients: dict[Frame, list[tuple[str, str | None]]] = {}  # keys as they came
        self.written: dict[str, list[Place]] = {}  # what was written of each key, in order
        self.description: StreamDescription = describe(None)
        self.sent: list[Sent] = []
        self.refused_count = 0

    @property
    def footprint_bytes(self) -> int:
        return sum(frame.footprint_bytes for frame in self.frames if frame not in self.told)

    # What a test does

    def tell(self, settings: EngineSettings) -> None:
        """Other limits from now on."""
        self.settings = settings
        at_once(self.engine.handle_settings(settings, self.now_ns))
        self.pump()

    def put(
        self,
        records: list[Record],
        *,
        footprint_bytes: int | None = None,
        has_deadline: bool = False,
        is_patient: bool = False,
        is_last: bool = True,
    ) -> bool:
        """`is_last`: of the turn of the loop; else others come before the shell goes on."""
        deadline_ns = self.now_ns + DEADLINE_NS if has_deadline else None
        frame = make_frame(records, footprint_bytes=footprint_bytes, deadline_ns=deadline_ns)
        for index, record in enumerate(records):
            if record.partition_key:
                self.keys[frame, index] = record.partition_key
        self.clients[frame] = [(each.partition_key, each.explicit_hash_key) for each in records]
        is_taken = self.engine.handle_frame(frame, self.now_ns, is_patient=is_patient)
        if is_taken:
            self.frames.append(frame)
        elif not is_patient:
            self.refused_count += len(records)
        if is_last:
            self.pump()
        return is_taken

    def describe(self, description: StreamDescription) -> None:
        """What the control plane says from now on, and says at once."""
        self.description = description
        at_once(self.engine.take_description(description, self.now_ns))
        self.pump()

    def answer(self, number: int, outcomes: list[str], *, extra: int = 0) -> None:
        """Answers a call, one outcome for each record sent, or for each shard where it takes all or
        nothing (outcomes repeat); `extra` results too many, or few.
        """
        batch = self._land(number)
        if batch is None:
            return
        shards: list[str | None] = []
        results: list[RecordResult] = []
        for position, runs in enumerate(runs_of_sent(batch)):
            shard_id = runs[0].lane.shard_id
            if shard_id not in shards:
                shards.append(shard_id)
            which = shards.index(shard_id) if self.settings.is_shard_atomic else position
            result, is_written = RECORD_OUTCOMES[outcomes[which % len(outcomes)]]
            if outcomes[which % len(outcomes)] == "delivered":
                result = delivered(shard_id or "shard-0")
            results.append(result)
            if is_written:
                self._write([(run.frame, index) for run in runs for index in run.indices])
        if extra:
            results = [*results, delivered()] if extra > 0 else results[:extra]
        self.engine.handle_results(batch, results, self.now_ns)
        self.pump()

    def fail(self, number: int, name: str) -> None:
        batch = self._land(number)
        if batch is None:
            return
        error, is_written = CALL_FAILURES[name]
        if is_written:
            self._write(places_of(batch))
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
        if self.engine.unavailable is not None:
            self.describe(describe(even_shards(2)))
        since_ns = self.now_ns
        until_ns = since_ns + self._backlog_ns() + CALM_NS_MAX
        steps_left = (until_ns - since_ns) * CALM_STEPS_A_SECOND // SECOND
        counters = self.engine.counters
        steps_left += CALM_STEPS_A_RECORD * (counters.buffered + counters.in_flight)
        while not self.engine.is_idle:
            if self.now_ns > until_ns or steps_left <= 0:
                raise AssertionError(self._stuck(since_ns))
            steps_left -= 1
            if self.calls:
                self.answer(0, ["delivered"])
            else:
                assert self.engine.next_wakeup_ns() is not None, "records wait, and nobody wakes"
                self.jump()

    def _backlog_ns(self) -> int:
        """How long all that is not settled takes at one shard's rate: it may all be for one."""
        settings = self.settings
        sizes = [size for frame in self.frames if frame not in self.told for size in frame.sizes]
        of_records = len(sizes) * SECOND // settings.shard_records_per_second
        of_bytes = sum(sizes) * SECOND // settings.shard_bytes_per_second
        return max(of_records, of_bytes)

    def _stuck(self, since_ns: int) -> str:
        counters = self.engine.counters
        seconds = (self.now_ns - since_ns) / SECOND
        return (
            f"not idle after {seconds:.0f} s: stuck are {counters.buffered} records in queues, "
            f"{counters.in_flight} in calls"
        )

    # What the shell does, checked

    def pump(self) -> None:
        engine = self.engine
        engine.handle_timeout(self.now_ns)
        self._poll()
        if engine.freshness.ask(self.now_ns):
            at_once(engine.take_description(self.description, self.now_ns))
            self._poll()
        for frame in engine.take_settled():
            assert frame not in self.told, "told twice"
            self.told[frame] = list(frame.results)
        self.check()

    def _poll(self) -> None:
        while (batch := self.engine.poll_batch(self.now_ns)) is not None:
            self._check_batch(batch)

    def check(self) -> None:
        engine, counters = self.engine, self.engine.counters
        assert counters.unaccounted() == 0, "records are unaccounted for"
        queued = sum(len(run.indices) for run in self._queued_runs())
        assert counters.buffered == queued + self._check_turns()
        settlement = engine.audit().settlement
        strays = sum(stray.batch.record_count for stray in settlement.strays)
        assert counters.in_flight == strays + sum(batch.record_count for batch in self.calls)
        assert counters.in_flight_calls == len(self.calls)
        assert (
            engine.ledger.footprint_bytes == self.footprint_bytes <= self.settings.buffer_bytes_max
        )
        all_held = self.footprint_bytes + sum(play.footprint_bytes for play in self.neighbours)
        assert self.memory.bytes_taken == all_held <= self.memory.bytes_max
        wakeup_ns = engine.next_wakeup_ns()
        assert wakeup_ns is None or wakeup_ns > self.now_ns, "a loop that turns without progress"
        assert not any(lane.state is LaneState.RETIRED for lane in lanes_of(engine))
        for frame, results in self.told.items():
            assert None not in results
            assert frame.results == results, "what was told is not rewritten"

    def check_end(self) -> None:
        """After `settle_down`: every record has left exactly once."""
        counters = self.engine.counters
        assert set(self.told) == set(self.frames)
        assert self.footprint_bytes == 0
        assert (counters.buffered, counters.in_flight) == (0, 0)
        assert not self.engine.audit().queues.order.keys(), "a key that is done is forgotten"
        if self.settings.is_ordered:
            self._check_order()
        total = sum(len(frame.records) for frame in self.frames) + self.refused_count
        assert counters.received == total
        extra = 0
        for frame in self.frames:
            keys = [(each.partition_key, each.explicit_hash_key) for each in frame.records]
            assert keys == self.clients[frame], "what the client sent stays"
            for index, result in enumerate(frame.results):
                assert result is not None
                times = self.writes[frame, index]
                extra += max(0, times - 1)
                assert times or not result.is_delivered, "told as delivered, and never written"
        assert extra <= counters.possible_duplicates, "a duplicate that was not counted"

    def _queued_runs(self) -> list[Run]:
        queues = self.engine.audit().queues
        queued = [run for lane in queues.packer.all_lanes for run in lane.queue]
        halves = [run for half in queues.halves.parts for run in half]
        assert not queues.packer.whole_frames, "what did not go at once is queued by shard"
        return queued + [run for run in halves if not run.frame.is_abandoned]

    def _out_runs(self) -> list[Run]:
        """Of calls that are out, and of strays."""
        settlement = self.engine.audit().settlement
        strays = [stray.batch for stray in settlement.strays]
        return [run for batch in (*self.calls, *strays) for run in batch.runs]

    def _check_turns(self) -> int:
        """A key has a turn if and only if records of it are queued or sent. Returns how many
        records wait behind others.
        """
        order = self.engine.audit().queues.order
        out: Counter[str] = Counter()
        for run in (*self._queued_runs(), *self._out_runs()):
            records = [run.frame.records[index] for index in run.indices]
            assert run.is_keyless is all(is_keyless(each) for each in records)
            out.update(each.partition_key for each in records if each.partition_key)
        keys = order.keys()
        if order.is_kept:
            assert out == {key: order.out_of(key) for key in keys}
        assert not order.freed(), "whose turn has come is queued"
        behind = [each for key in keys for each in order.behind(key)]
        assert not any(each.has_left or each.kept.frame.is_abandoned for each in behind)
        lanes = {each.kept.lane for each in behind} | set(lanes_of(self.engine))
        assert sum(lane.waiting_records for lane in lanes) == len(behind)
        assert sum(lane.waiting_bytes for lane in lanes) == sum(
            each.kept.frame.sizes[each.index] for each in behind
        )
        return len(behind)

    def _check_order(self) -> None:
        """Of each key, what was written was written in the order in which it was accepted; what was
        written again may repeat an old record.
        """
        numbers = {frame: number for number, frame in enumerate(self.frames)}
        for written in self.written.values():
            first_writes = [(numbers[frame], index) for frame, index in dict.fromkeys(written)]
            assert first_writes == sorted(first_writes), "a record overtook another of its key"

    def _write(self, places: list[Place]) -> None:
        self.writes.update(places)
        for frame, index in places:
            told = self.told[frame][index] if frame in self.told else None
            text = (told and told.error_message) or ""
            assert not text.startswith(WITHDRAWN), "written, and its client was told that it is not"
        for place in places:
            if place in self.keys:
                self.written.setdefault(self.keys[place], []).append(place)

    def _check_batch(self, batch: Batch) -> None:
        settings = self.settings
        is_half = not batch.paid
        assert 0 < len(batch.records) <= settings.batch_records_max
        is_within = batch.byte_count <= settings.batch_bytes_max
        assert is_within or batch.record_count == 1, "company for what is too large for any"
        assert len(self.calls) < settings.in_flight_max
        flying = {(run.frame, index) for run in self._out_runs() for index in run.indices}
        places = places_of(batch)
        assert len(places) == len(set(places)) == batch.record_count
        lanes = {run.lane for run in batch.runs}
        assert is_half or not any(lane.state is LaneState.RETIRED for lane in lanes)
        assert not flying.intersection(places), "a record in two calls at once"
        for frame, index in places:
            assert not frame.is_abandoned, "its client was told that it failed"
            assert frame.results[index] is None, "it was settled before"
        self._check_sent(batch)
        if settings.is_ordered:
            self._check_keys(batch, flying)
        paid = [(lane.shard_id, *amounts) for lane, amounts in batch.paid.items()]
        assert is_half or sum(records for _, records, _ in paid) == len(batch.records)
        assert is_half or sum(byte_count for _, _, byte_count in paid) == batch.byte_count
        batch.has_left = bool(len(self.sent) % 2)  # half of the calls find no connection at once
        self.calls.append(batch)
        self.sent.append(Sent(self.now_ns, is_half, places, paid))

    def _check_sent(self, batch: Batch) -> None:
        """What is sent is the runs' records, as they are or as aggregates."""
        settings = self.settings
        sent_bytes = 0
        for record, runs in zip(batch.records, runs_of_sent(batch), strict=True):
            carried = [run.frame.records[index] for run in runs for index in run.indices]
            size = len(record.data) + len(record.partition_key.encode())
            if len(carried) == 1:
                check_alone(record, runs[0])
                sent_bytes += runs[0].byte_count if batch.widths is None else size
                continue
            sent_bytes += size
            inner = inner_records(record.data)
            assert inner is not None
            assert [each.data for each in inner] == [each.data for each in carried]
            if all(each.partition_key for each in carried):
                assert record.data == encode_aggregate(carried)
            assert record.partition_key == inner[0].partition_key
            assert size <= settings.aggregate_bytes_max
            assert len({each.explicit_hash_key is None for each in inner}) == 1, "kinds mixed"
            assert len({run.is_keyless for run in runs}) == 1
            assert len({run.lane for run in runs}) == 1, "predicted for different shards"
            assert runs[0].lane.shard_id is not None, "aggregated without a prediction"
            if runs[0].is_keyless:
                hash_keys = {each.explicit_hash_key for each in inner}
                assert hash_keys == {record.explicit_hash_key} == {runs[0].lane.hash_key}
        assert batch.byte_count == sent_bytes

    def _check_keys(self, batch: Batch, flying: set[Place]) -> None:
        """Records of one key are out together only where they are taken or refused together."""
        out = {self.keys[place] for place in flying if place in self.keys}
        seen: set[str] = set()
        for runs in runs_of_sent(batch):
            places = [(run.frame, index) for run in runs for index in run.indices]
            keys = {self.keys[place] for place in places if place in self.keys}
            assert not keys & out, "two records of a key out at once"
            assert self.settings.is_shard_atomic or not keys & seen
            seen |= keys

    def _land(self, number: int) -> Batch | None:
        """A call comes to its end; None: it was recalled, and never left."""
        batch = self.calls.pop(number % len(self.calls))
        if batch.has_left or batch.leave():
            return batch
        self.engine.handle_failure(batch, RECALLED, self.now_ns)
        self.pump()
        return None


def is_keyless(record: Record) -> bool:
    return not record.partition_key and record.explicit_hash_key is None


def check_alone(sent: Record, run: Run) -> None:
    """What is alone is sent plain; without a key of its own, as a copy with one."""
    (index,) = run.indices
    own = run.frame.records[index]
    if own.partition_key:
        assert sent is own
        return
    assert (sent.data, bool(sent.partition_key)) == (own.data, True)
    expected = own.explicit_hash_key or run.lane.hash_key or sent.explicit_hash_key
    assert sent.explicit_hash_key == expected is not None


def places_of(batch: Batch) -> list[Place]:
    return [(run.frame, index) for run in batch.runs for index in run.indices]


def runs_of_sent(batch: Batch) -> list[list[Run]]:
    """For each record that is sent, the runs that it carries (parts of them, where it is one)."""
    widths = batch.widths or [1] * len(batch.records)
    single = [
        Run(run.frame, [index], run.frame.sizes[index], run.lane, is_keyless=run.is_keyless)
        for run in batch.runs
        for index in run.indices
    ]
    carried: list[list[Run]] = []
    for width in widths:
        carried.append(single[:width])
        single = single[width:]
    assert not single
    return carried

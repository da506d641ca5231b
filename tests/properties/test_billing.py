"""What is counted as billed is what a brute force over every answered call says, to the unit.

The engine runs as it is: keys that are missing, explicit ones, records of any size, aggregates,
partial answers, and both services. Brute force: each record as it was sent, and its result.
"""

import random
from dataclasses import replace

import pytest

from kdaemon.base.billing import BilledUnit, UnitSizes
from kdaemon.base.limits import HASH_KEY_MAX, KIB, MIB
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.service import AWS, SERVICES, YANDEX, Service
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.pack.batch import Batch
from tests.kit.engine_rig import SETTINGS, T
from tests.kit.frames import MS, SECOND, LoadedDice, describe, even_shards, failed, make_frame

ROOMY = replace(
    SETTINGS,
    batch_records_max=500,
    batch_bytes_max=5 * MIB,
    record_bytes_max=MIB,
    shard_records_per_second=100_000,
    shard_bytes_per_second=100 * MIB,
    buffer_bytes_max=256 * MIB,
    in_flight_max=100,
)
EDGES = [1, 2, 200, KIB - 7, KIB - 1, KIB, KIB + 1, 25 * KIB, 25 * KIB + 1, 40 * KIB, 40 * KIB + 1]


class Ledger:
    """Brute force."""

    def __init__(self, sizes: UnitSizes) -> None:
        self.sizes = sizes
        self.units = dict.fromkeys(BilledUnit, 0)
        self.byte_count = 0

    def see(self, batch: Batch, results: list[RecordResult], service: Service) -> None:
        of_shard: dict[str | None, int] = {}
        for record, result in zip(batch.records, results, strict=True):
            if result.error_code:
                continue
            size = len(record.data) + len(record.partition_key.encode())
            if service is YANDEX:
                size += len(record.explicit_hash_key or "")
                of_shard[result.shard_id] = of_shard.get(result.shard_id, 0) + size
                continue
            self.byte_count += size
            unit = self.sizes.on_demand_kib * KIB
            self.units[BilledUnit.ON_DEMAND] += rounded_up(size, unit) * unit
            unit = self.sizes.put_payload_kib * KIB
            self.units[BilledUnit.PUT_PAYLOAD] += rounded_up(size, unit)
        for size in of_shard.values():
            unit = self.sizes.yandex_put_kib * KIB
            self.units[BilledUnit.YANDEX_PUT] += rounded_up(size, unit)


def rounded_up(size: int, unit: int) -> int:
    return (size + unit - 1) // unit


def record(dice: random.Random) -> Record:
    size = dice.choice(EDGES) if dice.random() < 0.7 else dice.randrange(1, 100 * KIB)
    key = dice.choice(["", "k", "ключ", "a-longer-key", str(dice.randrange(1000))])
    where = str(dice.randrange(HASH_KEY_MAX)) if dice.random() < 0.2 else None
    return Record(bytes(max(1, size - len(key.encode()))), key, where)


@pytest.mark.parametrize("aggregate_bytes_max", [0, 51_200])
@pytest.mark.parametrize("service", [AWS, YANDEX], ids=list(SERVICES))
@pytest.mark.parametrize("shard_count", [0, 1, 5])
@pytest.mark.parametrize("seed", range(6))
def test_units_equal_a_brute_force(
    seed: int, shard_count: int, service: Service, aggregate_bytes_max: int
) -> None:
    if aggregate_bytes_max and not service.can_aggregate:
        return
    print("seed", seed)
    dice = random.Random(seed)
    settings = replace(
        ROOMY,
        service=service,
        is_shard_atomic=service.is_shard_atomic,
        aggregate_bytes_max=aggregate_bytes_max,
    )
    sizes = UnitSizes() if seed % 2 else UnitSizes(*dice.choices(range(1, 60), k=3))
    engine = Engine(settings, ByteBudget(1 << 30), LoadedDice(0.5), T, sizes)
    now_ns = T
    if shard_count:
        engine.freshness.ask(T)
        at_once(engine.take_description(describe(even_shards(shard_count)), T))
    ledger = Ledger(sizes)
    calls: list[Batch] = []
    for _ in range(60):
        count = dice.choice([1, 1, 3, 40])
        frame = make_frame([record(dice) for _ in range(count)])
        assert engine.handle_frame(frame, now_ns)
        now_ns += dice.choice([0, 10 * MS, SECOND])
        engine.handle_timeout(now_ns)
        while (batch := engine.poll_batch(now_ns)) is not None:
            calls.append(batch)
        dice.shuffle(calls)
        while calls and dice.random() < 0.7:
            answer(engine, calls.pop(), dice, ledger, service, now_ns)
    for _ in range(500):
        now_ns += SECOND
        engine.handle_timeout(now_ns)
        while (batch := engine.poll_batch(now_ns)) is not None:
            calls.append(batch)
        while calls:
            answer(engine, calls.pop(), dice, ledger, service, now_ns)
        if engine.is_idle:
            break
    assert engine.is_idle
    sent = engine.counters.billed
    assert sent.snapshot() == ledger.units
    assert any(ledger.units.values())
    if not aggregate_bytes_max and shard_count:
        assert engine.counters.delivered == sent.classes.total() or service is YANDEX


def answer(
    engine: Engine,
    batch: Batch,
    dice: random.Random,
    ledger: Ledger,
    service: Service,
    now_ns: int,
) -> None:
    """Some whole, some in part; where shards are known, as predicted, but for a few."""
    spoilt = dice.choice([0, 0, 0.3])
    shard_of = [run.lane.shard_id or "shard-7" for run in batch.runs for _ in run.indices]
    if batch.widths is not None:
        firsts = [sum(batch.widths[:at]) for at in range(len(batch.widths))]
        shard_of = [shard_of[first] for first in firsts]
    results = [
        failed() if dice.random() < spoilt else RecordResult(str(number + 1), shard)
        for number, shard in enumerate(shard_of)
    ]
    ledger.see(batch, results, service)
    engine.handle_results(batch, results, now_ns)

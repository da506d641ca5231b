"""What order per key costs in records a second, at the quotas and round trips of a service."""

from dataclasses import replace

import pytest

from kdaemon.base.record import Record
from tests.kit.world import MS, SECOND, Client, World
from tests.sim.test_ordering import AWS, AWS_AGGREGATED, YANDEX, Way


def delivered_per_second(
    way: Way, *, is_ordered: bool, key_count: int, per_second: float, shard_count: int = 16
) -> float:
    """Records a second that the service takes of so many offered, over 3 s after a start of 2 s."""
    settings = replace(way.settings, is_ordered=is_ordered, first_share=1.0, linger_ns=100 * MS)
    world = World(
        1,
        settings=settings,
        service_settings=way.service,
        shard_count=shard_count,
        keeps_records=False,
        round_trip_ns=(33 * MS, 33 * MS),
    )
    engine = world.add_engine()
    keys = [f"key-{number}" for number in range(key_count)]

    def make(count: int) -> tuple[list[Record], list[int]]:
        records = [Record(bytes(100), world.dice.choice(keys)) for _ in range(count)]
        return records, [100 + len(record.partition_key) for record in records]

    Client(world, engine, make, per_second=per_second, gap_ns=10 * MS, dice=world.dice)
    world.run_until(world.now_ns + 2 * SECOND)
    before = engine.counters.delivered
    world.run_until(world.now_ns + 3 * SECOND)
    return (engine.counters.delivered - before) / 3


@pytest.mark.parametrize("way", [AWS, YANDEX], ids=lambda way: way.name)
def test_ten_thousand_keys_in_order_are_hardly_slower_than_without(way: Way) -> None:
    """16 shards, saturated. Measured 2026-11-22: 99 to 100 %."""
    without, ordered = (
        delivered_per_second(way, is_ordered=is_ordered, key_count=10_000, per_second=18_000)
        for is_ordered in (False, True)
    )
    print(f"{way.name}: {without:.0f} records/s without order, {ordered:.0f} with")
    assert ordered >= 0.9 * without


@pytest.mark.parametrize(
    ("way", "offered", "least", "most"),
    [(AWS, 100, 29, 31), (AWS_AGGREGATED, 20_000, 9_000, 11_000), (YANDEX, 2_000, 950, 1_010)],
    ids=lambda value: value.name if isinstance(value, Way) else "",
)
def test_what_one_key_can_take(way: Way, offered: int, least: int, most: int) -> None:
    """One key at a round trip of 33 ms: a record a trip; an aggregate a trip, until the shard's
    bytes are used; at Yandex what the shard takes.
    """
    rate = delivered_per_second(
        way, is_ordered=True, key_count=1, per_second=offered, shard_count=1
    )
    print(f"{way.name}: {rate:.0f} records/s of one key")
    assert least <= rate <= most

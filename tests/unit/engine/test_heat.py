"""What an engine says of its shards: literal records in, seconds out."""

from dataclasses import replace

import pytest

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.engine import Engine
from kdaemon.engine.heat import CLIENTS_A_LANE, LANES_A_STEP
from kdaemon.engine.snapshot import BACKLOGGED_NS, ShardsSnapshot, hottest
from tests.kit.engine_rig import SETTINGS, T
from tests.kit.frames import (
    MS,
    SECOND,
    LoadedDice,
    delivered,
    describe,
    even_shards,
    failed,
    make_frame,
)
from tests.kit.queues import lanes_of

MANY = even_shards(3 * LANES_A_STEP)
ROOMY = replace(SETTINGS, batch_records_max=500, buffer_bytes_max=1 << 30)
SHARDS = even_shards(4)


class Place:
    """An engine with four shards of 1,000 records and 1,000,000 bytes a second, 0.9 s saved up."""

    def __init__(self, settings: EngineSettings = ROOMY, *, may_list: bool = True) -> None:
        self.now_ns = T
        self.engine = Engine(settings, ByteBudget(1 << 30), LoadedDice(0.5), T)
        self.engine.freshness.ask(T)
        if may_list:
            at_once(self.engine.take_description(describe(SHARDS), T))

    def put(
        self, shard: int, count: int, *, size: int = 10, key: str = "k", client: int = 0
    ) -> None:
        """Records of `size` bytes each, the key included."""
        hash_key = str(SHARDS[shard].first_hash_key)
        records = [Record(bytes(size - 1), key, hash_key) for _ in range(count)]
        frame = make_frame(records)
        frame.client, frame.accepted_ns = client, self.now_ns
        assert self.engine.handle_frame(frame, self.now_ns)

    def look(self, shards_max: int | None = None, calm_max: int = 0) -> ShardsSnapshot:
        return at_once(self.engine.snapshot(self.now_ns, shards_max, calm_max)).shards

    def seconds(self) -> list[float]:
        """How far each shard is behind, in the order of the map."""
        return [shard.backlog_ns / SECOND for shard in self.look().shards]

    def hottest(self, count: int = 5) -> list[str | None]:
        told = [shard.shard_id for shard in self.look(count).shards]
        assert told == [shard.shard_id for shard in hottest(self.look().shards, count)]
        return told


def test_a_shard_is_as_far_behind_as_its_records_take_beyond_what_is_saved_up() -> None:
    place = Place()
    place.put(0, 1900)
    place.put(2, 2900)
    place.put(3, 900)
    assert place.seconds() == [1.0, 0.0, 2.0, 0.0]
    assert place.hottest() == ["shard-2", "shard-0"], "the hottest first, and who can pay is not"
    assert place.hottest(1) == ["shard-2"]


def test_of_records_and_bytes_the_longer_counts() -> None:
    place = Place()
    place.put(0, 38, size=50_000)  # 1,900,000 bytes
    place.put(1, 2900, size=500)  # 1,450,000 bytes
    assert place.seconds() == [1.0, 2.0, 0.0, 0.0]


def test_what_time_gives_is_counted_though_nobody_drew_meanwhile() -> None:
    place = Place(replace(ROOMY, batch_records_max=900))
    place.put(0, 900)
    assert place.engine.poll_batch(place.now_ns) is not None
    place.put(0, 900)
    assert place.engine.poll_batch(place.now_ns) is None
    assert place.seconds()[0] == 0.9
    place.now_ns += 400 * MS
    assert place.seconds()[0] == 0.5
    place.now_ns += 60 * SECOND
    assert place.seconds()[0] == 0.0, "and no more is saved than the bucket holds"
    place.put(0, 100)
    assert place.seconds()[0] == 0.1


def test_a_large_record_s_debt_counts_for_what_waits_behind_it_only() -> None:
    place = Place(replace(ROOMY, shard_bytes_per_second=20_000))
    place.put(0, 1, size=50_000)
    batch = place.engine.poll_batch(place.now_ns)
    assert batch is not None
    assert place.seconds()[0] == 0.0, "nothing waits"
    place.put(0, 1, size=2_000)
    assert place.seconds()[0] == pytest.approx((50_000 - 18_000 + 2_000) / 20_000)


def test_a_backlog_of_less_than_a_linger_is_not_hot() -> None:
    place = Place()
    place.put(0, 1000)
    assert place.seconds()[0] == 0.1
    assert place.hottest() == []
    place.put(0, 1)
    assert place.hottest() == ["shard-0"]


def test_of_two_that_are_equally_far_behind_the_one_that_throttled_more_comes_first() -> None:
    place = Place()
    for shard in (0, 1, 2):
        place.put(shard, 1900)
    lanes_of(place.engine)[1].throttled = 7
    lanes_of(place.engine)[2].throttled = 3
    assert place.hottest() == ["shard-1", "shard-2", "shard-0"]


def test_behind_the_hot_ones_come_the_calm_ones_that_took_most_if_they_are_asked_for() -> None:
    place = Place()
    place.put(1, 1900)
    for shard, taken in enumerate((5, 9, 7, 6)):
        lanes_of(place.engine)[shard].taken = taken
    place.put(3, 10)
    told = [(shard.shard_id, shard.is_hot) for shard in place.look(5, 2).shards]
    assert told == [("shard-1", True), ("shard-2", False), ("shard-3", False)]
    assert place.look(5, 2).shards[2].backlog_records == 10
    assert place.look(5, 9).count == len(place.look(5, 9).shards) == 4
    assert [shard.shard_id for shard in place.look(0, 1).shards] == ["shard-2"]


def test_of_very_many_calm_ones_those_that_took_most_are_found_in_steps() -> None:
    place = Place()
    at_once(place.engine.take_description(describe(MANY), T))
    for taken, lane in enumerate(lanes_of(place.engine)):
        lane.taken = (taken * 7919) % len(MANY)  # a prime: each number once, in no order
    told = [shard.taken for shard in place.look(5, 16).shards]
    assert told == list(range(len(MANY) - 1, len(MANY) - 17, -1))


def test_a_shard_that_refused_a_record_just_now_is_hot_until_it_takes_it() -> None:
    place = Place()
    place.put(1, 2)
    batch = place.engine.poll_batch(place.now_ns)
    assert batch is not None
    assert place.hottest() == []
    place.engine.handle_results(batch, [delivered("shard-1"), failed()], place.now_ns)
    assert place.hottest() == ["shard-1"]
    batch = place.engine.poll_batch(place.now_ns)
    assert batch is not None
    place.engine.handle_results(batch, [delivered("shard-1")], place.now_ns)
    assert place.hottest() == []


def test_a_shard_that_backs_off_is_hot_even_if_nothing_waits_for_it() -> None:
    place = Place()
    lanes_of(place.engine)[3].blocked_until_ns = place.now_ns + 250 * MS
    assert place.hottest() == ["shard-3"]
    place.now_ns += 250 * MS
    assert place.hottest() == []


def test_records_behind_others_of_their_key_are_in_the_backlog() -> None:
    place = Place(replace(ROOMY, is_ordered=True))
    place.put(0, 2900)
    assert lanes_of(place.engine)[0].queued_records == 1
    assert place.seconds()[0] == 2.0


def test_an_aggregate_costs_its_shard_one_record() -> None:
    place = Place(replace(ROOMY, aggregate_bytes_max=50 * 1024))
    place.put(0, 5000)
    assert place.seconds()[0] == 0.0, "50,000 bytes are one record"
    place.put(0, 5000, size=380)
    assert place.seconds()[0] == pytest.approx(1.05), "1,950,000 bytes are 39: the bytes count"


def test_without_a_map_the_one_queue_of_the_stream_is_looked_at() -> None:
    place = Place(may_list=False)
    place.put(0, 1900)
    assert place.seconds() == [1.0]
    assert place.hottest() == [None]


def test_records_without_a_key_are_in_no_shard_s_backlog() -> None:
    place = Place()
    frame = make_frame([Record(b"x", "") for _ in range(5000)])
    assert place.engine.handle_frame(frame, place.now_ns)
    assert place.hottest() == []
    assert place.look().keyless_records == 5000


def test_shards_that_are_more_than_a_second_behind_are_counted() -> None:
    place = Place()
    assert place.look().backlogged_count == 0
    place.put(0, 1900)
    assert place.look().shards[0].backlog_ns == BACKLOGGED_NS
    assert place.look().backlogged_count == 0
    place.put(0, 1)
    place.put(1, 5000)
    assert place.look().backlogged_count == 2


def test_the_smallest_share_is_that_of_a_shard_of_which_something_is_known() -> None:
    place = Place(replace(ROOMY, first_share=0.25))
    assert place.look().share_min == 1.0, "no shard was asked for anything"
    place.put(0, 10)
    assert place.look().share_min == 0.25
    batch = place.engine.poll_batch(place.now_ns)
    assert batch is not None
    assert place.look().share_min == 1.0, "nothing waits, and nothing was throttled"
    lanes_of(place.engine)[1].throttled = 1
    assert place.look().share_min == 0.25, "it did throttle once"


def test_the_oldest_record_is_found_whosever_turn_it_is() -> None:
    """Who comes anew goes before who has much queued: the head of the queue is young."""
    place = Place()
    place.put(0, 5_000, client=1)
    for client in range(2, 20):
        place.now_ns += SECOND
        place.put(0, 20, client=client)
    lane = lanes_of(place.engine)[0]
    while lane.queue[0].frame.client == 1:
        lane.take(1)
    assert lane.turns is not None
    assert place.look().oldest_ns == T


def test_many_clients_of_a_shard_are_looked_at_in_steps() -> None:
    place = Place()
    place.put(0, 500, client=1)
    place.put(1, 500, client=1)
    for client in range(2, LANES_A_STEP * CLIENTS_A_LANE + 2):
        place.put(0, 1, client=client)
    lane = lanes_of(place.engine)[0]
    assert lane.turns is not None
    assert lane.turns.client_count >= LANES_A_STEP * CLIENTS_A_LANE
    steps = place.engine.snapshot(place.now_ns)
    next(steps)
    with pytest.raises(StopIteration):
        next(steps)


def test_looking_refills_nothing() -> None:
    place = Place(replace(ROOMY, first_share=0.1))
    place.put(0, 2000)
    assert place.engine.poll_batch(place.now_ns) is not None
    lane = lanes_of(place.engine)[0]
    missing = lane.budget.records.missing
    place.now_ns += 30 * MS
    first = place.seconds()
    assert place.seconds() == first
    assert lane.budget.records.missing == missing
    assert lane.budget.records_share == 0.1


def test_many_shards_are_looked_at_in_steps_as_they_were_at_its_beginning() -> None:
    engine = Engine(ROOMY, ByteBudget(1 << 30), LoadedDice(0.5), T)
    engine.freshness.ask(T)
    at_once(engine.take_description(describe(MANY), T))
    steps = engine.snapshot(T)
    next(steps)
    engine.freshness.ask(T + SECOND)
    at_once(
        engine.take_description(describe(SHARDS), T + SECOND)
    )  # fewer, while it is looked at them
    for _ in range(2):
        next(steps)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert len(end.value.value.shards.shards) == len(MANY)

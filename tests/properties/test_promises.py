"""The promises of the design, one property each: budgets, order, linger, rate, shared memory."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.pace.bucket import BURST_NS
from tests.kit.depth import examples, some
from tests.kit.frames import MS, SECOND, describe, even_shards
from tests.kit.queues import lanes_of
from tests.properties.play import SETTINGS, Place, Play, Sent, T

EXAMPLES = settings(deadline=None, print_blob=True, max_examples=examples(80))
SEEDS = st.integers(0, 2**32)
LARGE = replace(SETTINGS, buffer_bytes_max=10**9)

Put = tuple[int, int, int, int]
PUTS = st.lists(
    st.tuples(
        st.integers(0, 400 * MS),  # wait before it
        st.integers(1, 60),  # records
        st.sampled_from([0, 0, 10, 200, 2400]),  # bytes of each
        st.integers(0, 3),  # where: a sixteenth of the hash keys, the first four
    ),
    min_size=1,
    max_size=25,
)


def play_with(seed: int, shard_count: int | None, of: EngineSettings = LARGE) -> Play:
    play = Play(random.Random(seed), of, memory=ByteBudget(10**9))
    if shard_count is not None:
        at_once(play.engine.take_description(describe(even_shards(shard_count)), T))
    return play


def put(play: Play, count: int, size: int, sixteenth: int) -> None:
    hash_key = str(sixteenth * (HASH_KEY_MAX // 16) + 5)
    play.put([Record(bytes(size), f"k{number}", hash_key) for number in range(count)])


def assert_within_budget(sent: list[Sent], shards: set[str | None]) -> None:
    """Over any window, what left for these lanes together is within a burst and one shard's rate,
    and one record that is larger than the burst. Halves of a refused call are not looked at: they
    go on the tokens of the whole.
    """
    record_rate, byte_rate = SETTINGS.shard_records_per_second, SETTINGS.shard_bytes_per_second
    moments = [
        (batch.at_ns, records, byte_count)
        for batch in sent
        if not batch.is_half
        for shard, records, byte_count in batch.lanes
        if shard in shards
    ]
    for first, (start_ns, _, _) in enumerate(moments):
        records = byte_count = oversize = 0
        for at_ns, run_records, run_bytes in moments[first:]:
            window_ns = BURST_NS + at_ns - start_ns
            records += run_records
            byte_count += run_bytes
            if run_bytes * SECOND > byte_rate * BURST_NS:
                oversize = max(oversize, run_bytes)
            assert records * SECOND <= record_rate * window_ns
            assert (byte_count - oversize) * SECOND <= byte_rate * window_ns


def run_on(play: Play, until_ns: int, outcomes: list[str]) -> None:
    """Answers at once, in the order of the calls, and follows the wake-ups."""
    while play.now_ns < until_ns:
        if play.calls:
            play.answer(0, outcomes)
            continue
        at_ns = play.engine.next_wakeup_ns() or until_ns
        play.pass_time(min(at_ns, until_ns) - play.now_ns)


@EXAMPLES
@given(
    seed=SEEDS,
    shard_count=st.integers(1, 4),
    puts=PUTS,
    outcomes=st.lists(
        st.sampled_from(["delivered", "delivered", "throttled", "internal", "elsewhere"]),
        min_size=1,
        max_size=5,
    ),
)
def test_no_shard_is_ever_sent_more_than_its_budget_in_any_window(
    seed: int, shard_count: int, puts: list[Put], outcomes: list[str]
) -> None:
    play = play_with(seed, shard_count)
    for wait_ns, count, size, where in puts:
        run_on(play, play.now_ns + wait_ns, outcomes)
        put(play, count, size, where)
    play.settle_down()
    play.check_end()
    for shard in even_shards(shard_count):
        assert_within_budget(play.sent, {shard.shard_id})


def calls_of_whole_frames(seed: int) -> Counter[int]:
    """Frames with keys, some in each turn of the loop, and answers of all kinds. Returns how many
    whole frames the calls carried.
    """
    dice = random.Random(seed)
    shard_count = dice.randint(1, 5)
    play = play_with(seed, shard_count, replace(LARGE, batch_records_max=12))
    wholes: Counter[int] = Counter()
    outcomes = ["throttled", "internal", "internal, written", "elsewhere", "poison"]
    for turn in range(120):
        for left in range(-dice.choice([0, 0, 1, 1, 2, 3]), 1):
            size = dice.choice([0, 1, 1, 40, 300])
            count = dice.randint(2, 12)
            records = [Record(bytes(size), f"{turn}.{left}.{number}") for number in range(count)]
            play.put(records, has_deadline=dice.random() < 0.3, is_last=not left)
        for batch in play.calls:
            wholes[len(batch.wholes)] += 1
        while play.calls and dice.random() < 0.8:
            if dice.random() < 0.03:
                play.fail(0, dice.choice(["refused", "throttled"]))
            else:
                some = [dice.choice([*outcomes, *["delivered"] * 10]) for _ in range(7)]
                play.answer(0, ["delivered"] if dice.random() < 0.7 else some)
        if dice.random() < 0.05:
            gone = dice.sample(play.frames, min(3, len(play.frames)))
            play.engine.handle_clients_gone(gone, play.now_ns)
            play.pump()
        play.pass_time(dice.choice([100 * MS, SECOND, 3 * SECOND, 8 * SECOND]))
    play.settle_down()
    play.check_end()
    for shard in even_shards(shard_count):
        assert_within_budget(play.sent, {shard.shard_id})
    return wholes


def test_nor_by_frames_that_go_whole_alone_or_together() -> None:
    wholes: Counter[int] = Counter()
    seeds = some(range(20))
    for seed in seeds:
        wholes += calls_of_whole_frames(seed)
    least = min(wholes[count] for count in (0, 1, 2))
    assert least > len(seeds), "each kind of call is among them"


@EXAMPLES
@given(
    seed=SEEDS,
    puts=PUTS,
    learnt_at=st.integers(0, 24),
    counts=st.sets(st.integers(1, 6), min_size=1).map(sorted),
)
def test_nor_while_its_map_is_learnt_or_changes(
    seed: int, puts: list[Put], learnt_at: int, counts: list[int]
) -> None:
    """What left before anybody knew the shards may all have gone to any one of the first."""
    play = play_with(seed, None)
    first_count = counts[0]
    maps = list(counts)
    for number, (wait_ns, count, size, where) in enumerate(puts):
        play.pass_time(wait_ns)
        put(play, count, size, where)
        if number >= learnt_at and maps:
            at_once(play.engine.take_description(describe(even_shards(maps.pop(0))), play.now_ns))
            play.pump()
        if play.calls and len(maps) < len(counts):
            play.answer(0, ["delivered"])
    if len(maps) < len(counts):
        play.settle_down()
    for number, shard in enumerate(even_shards(6)):
        lanes: set[str | None] = {shard.shard_id}
        assert_within_budget(play.sent, lanes | {None} if number < first_count else lanes)


def test_however_large_a_backlog_is_it_takes_the_time_that_its_rate_says_and_no_longer() -> None:
    """Found by the property above, 2026-11-28, as 'stuck': five minutes' worth of records."""
    play = play_with(0, 1)
    for _ in range(25):
        put(play, 60, 2400, 0)
    play.settle_down()
    play.check_end()
    byte_count = sum(sum(frame.sizes) for frame in play.frames)
    rate = SETTINGS.shard_bytes_per_second
    assert play.now_ns - T <= byte_count * SECOND // rate


def test_records_that_nobody_sends_are_told_from_a_backlog() -> None:
    play = play_with(0, 1)
    put(play, 60, 10, 0)
    lanes_of(play.engine)[0].blocked_until_ns = T + 3600 * SECOND
    with pytest.raises(AssertionError, match="stuck"):
        play.settle_down()


@EXAMPLES
@given(seed=SEEDS, shard_count=st.integers(1, 4), puts=PUTS, learnt_at=st.integers(0, 24))
def test_where_nothing_fails_the_records_of_a_key_leave_in_the_order_they_came(
    seed: int, shard_count: int, puts: list[Put], learnt_at: int
) -> None:
    play = play_with(seed, None)
    for number, (wait_ns, count, size, where) in enumerate(puts):
        run_on(play, play.now_ns + wait_ns, ["delivered"])
        put(play, count, size, where)
        if number == learnt_at:
            at_once(play.engine.take_description(describe(even_shards(shard_count)), play.now_ns))
            play.pump()
    play.settle_down()
    came = [(frame, i) for frame in play.frames for i in range(len(frame.records))]
    left = [place for batch in play.sent for place in batch.places]
    for key in {hash_key_of(place) for place in came}:
        assert [x for x in left if hash_key_of(x) == key] == [
            x for x in came if hash_key_of(x) == key
        ]


def hash_key_of(place: Place) -> str | None:
    frame, index = place
    return frame.records[index].explicit_hash_key


@EXAMPLES
@given(
    seed=SEEDS,
    waits=st.lists(st.integers(0, 60 * MS), min_size=1, max_size=40),
    linger_ms=st.sampled_from([0, 1, 50, 100]),
)
def test_what_its_shard_can_pay_for_lingers_no_longer_than_linger(
    seed: int, waits: list[int], linger_ms: int
) -> None:
    """No call ever returns; there is always room for another."""
    unbound = replace(
        LARGE,
        linger_ns=linger_ms * MS,
        in_flight_max=1000,
        shard_records_per_second=10_000,
        shard_bytes_per_second=10**7,
    )
    play = play_with(seed, 2, unbound)
    came_at_ns: list[int] = []
    for wait_ns in waits:
        until_ns = play.now_ns + wait_ns
        while (at_ns := play.engine.next_wakeup_ns()) is not None and at_ns <= until_ns:
            play.jump()
        play.pass_time(until_ns - play.now_ns)
        put(play, 1, 5, play.now_ns % 16)
        came_at_ns.append(play.now_ns)
    play.jump()
    left_at_ns = {frame: batch.at_ns for batch in play.sent for frame, _ in batch.places}
    for frame, at_ns in zip(play.frames, came_at_ns, strict=True):
        assert left_at_ns[frame] - at_ns <= linger_ms * MS


@pytest.mark.parametrize("shard_count", [1, 3])
@pytest.mark.parametrize("size", [0, 100, 2400])
def test_a_saturated_shard_is_given_all_of_its_rate(shard_count: int, size: int) -> None:
    """Nothing is wasted: in ten seconds, the burst and the rate, but for what a quantum waits."""
    play = play_with(1, shard_count)
    for sixteenth in range(16):
        put(play, 600, size, sixteenth)
    run_on(play, T + 10 * SECOND, ["delivered"])
    total: Counter[str | None] = Counter()
    total_bytes: Counter[str | None] = Counter()
    for batch in play.sent:
        for shard, records, byte_count in batch.lanes:
            total[shard] += records
            total_bytes[shard] += byte_count
    for lane in lanes_of(play.engine):
        records_due = total[lane.shard_id] / SETTINGS.shard_records_per_second
        bytes_due = total_bytes[lane.shard_id] / SETTINGS.shard_bytes_per_second
        assert 9.8 <= max(records_due, bytes_due) <= 10.9 + 2404 / SETTINGS.shard_bytes_per_second


@EXAMPLES
@given(
    seed=SEEDS,
    steps=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["put", "put", "answer", "fail", "jump"]),
            st.integers(1, 40),
        ),
        max_size=60,
    ),
)
def test_two_streams_never_hold_more_than_their_memory_and_give_all_of_it_back(
    seed: int, steps: list[tuple[int, str, int]]
) -> None:
    memory = ByteBudget(20_000)
    bounded = replace(SETTINGS, buffer_bytes_max=15_000)
    plays = [Play(random.Random(seed + n), bounded, memory=memory) for n in range(2)]
    plays[0].neighbours, plays[1].neighbours = plays[1:], plays[:1]
    now_ns = T
    for which, action, amount in steps:
        play = plays[which]
        if action == "put":
            play.put([Record(bytes(100), "k")] * amount, has_deadline=amount % 2 == 0)
        elif action == "answer" and play.calls:
            play.answer(amount, ["delivered", "throttled"])
        elif action == "fail" and play.calls:
            play.fail(amount, "timed out")
        elif action == "jump":
            now_ns += amount * 20 * MS
            for each in plays:
                each.pass_time(now_ns - each.now_ns)
    for play in plays:
        play.settle_down()
        play.check_end()
    assert memory.bytes_taken == 0

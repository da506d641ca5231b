"""Whatever clients, service and control plane do: limits, conservation, progress, one exit each."""

import random
from dataclasses import replace
from typing import ClassVar
from unittest import TestCase

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from tests.kit.depth import examples
from tests.kit.frames import MS, SECOND, describe, even_shards
from tests.properties.play import CALL_FAILURES, RECORD_OUTCOMES, SETTINGS, Play

# Without the phase that explains: it runs a stuck example hundreds of times, which takes minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
CALLS = st.integers(0, 2)
PLACES = st.integers(0, 15).map(lambda part: str(part * (HASH_KEY_MAX // 16) + 5))


@st.composite
def frames(draw: st.DrawFn) -> list[Record]:
    """1 to 12 records; most small, some larger than what a shard saves up, some without a key."""
    records = []
    for _ in range(draw(st.integers(1, 12))):
        size = draw(st.sampled_from([0, 1, 40, 40, 40, 300, 2300]))
        where = draw(st.none() | PLACES)
        records.append(Record(bytes(size), draw(st.sampled_from(["a", "b", "c", ""])), where))
    return records


class EngineMachine(RuleBasedStateMachine):
    """`Play` checks after every rule; the end lets everything settle."""

    play: Play

    settings_used: ClassVar[EngineSettings] = SETTINGS

    @initialize(seed=st.integers(0, 2**16), shard_count=st.integers(0, 6))
    def start(self, seed: int, shard_count: int) -> None:
        self.play = Play(random.Random(seed), self.settings_used)
        if shard_count:
            self.play.describe(describe(even_shards(shard_count)))

    def has_calls(self) -> bool:
        return bool(self.play.calls)

    @rule(records=frames(), has_deadline=st.booleans(), is_patient=st.booleans())
    def put(self, records: list[Record], *, has_deadline: bool, is_patient: bool) -> None:
        self.play.put(records, has_deadline=has_deadline, is_patient=is_patient)

    @rule(
        linger_ns=st.sampled_from([0, 100 * MS, 2 * SECOND]),
        in_flight_max=st.integers(1, 4),
        part=st.sampled_from([1, 2, 4]),
        max_age_ns=st.none() | st.just(3600 * SECOND),
    )
    def tell_settings(
        self, linger_ns: int, in_flight_max: int, part: int, max_age_ns: int | None
    ) -> None:
        used = self.settings_used
        self.play.tell(
            replace(
                used,
                linger_ns=linger_ns,
                in_flight_max=in_flight_max,
                max_age_ns=max_age_ns,
                shard_records_per_second=used.shard_records_per_second // part,
                shard_bytes_per_second=used.shard_bytes_per_second // part,
            )
        )

    @rule(counts=st.lists(st.integers(2, 8), min_size=2, max_size=5), has_deadline=st.booleans())
    def put_together(self, counts: list[int], *, has_deadline: bool) -> None:
        """In one turn of the loop: frames that may fill a call between them."""
        for left, count in enumerate(counts, 1 - len(counts)):
            records = [Record(b"x", f"k{left}-{number}") for number in range(count)]
            self.play.put(records, has_deadline=has_deadline, is_last=not left)

    @rule(count=st.integers(1, 30))
    def put_small(self, count: int) -> None:
        self.play.put([Record(b"x", f"k{number}") for number in range(count)])

    @rule(count=st.integers(1, 40), key=st.sampled_from(["a", "b", ""]))
    def put_alike(self, count: int, key: str) -> None:
        self.play.put([Record(b"%03d" % number, key) for number in range(count)])

    @precondition(has_calls)
    @rule(call=CALLS)
    def deliver(self, call: int) -> None:
        self.play.answer(call, ["delivered"])

    @precondition(has_calls)
    @rule(
        call=CALLS,
        outcomes=st.lists(st.sampled_from(sorted(RECORD_OUTCOMES)), min_size=1, max_size=4),
    )
    def answer(self, call: int, outcomes: list[str]) -> None:
        self.play.answer(call, outcomes)

    @precondition(has_calls)
    @rule(call=CALLS, extra=st.sampled_from([-1, 1]))
    def answer_with_wrong_count(self, call: int, extra: int) -> None:
        self.play.answer(call, ["delivered"], extra=extra)

    @precondition(has_calls)
    @rule(call=CALLS, name=st.sampled_from(sorted(CALL_FAILURES)))
    def fail(self, call: int, name: str) -> None:
        self.play.fail(call, name)

    @precondition(has_calls)
    @rule(call=CALLS)
    def refuse(self, call: int) -> None:
        self.play.fail(call, "refused")

    @rule(wait_ns=st.integers(0, 300 * MS) | st.integers(0, 8 * SECOND))
    def pass_time(self, wait_ns: int) -> None:
        self.play.pass_time(wait_ns)

    @rule()
    def jump(self) -> None:
        self.play.jump()

    @rule(count=st.integers(1, 6), is_auto=st.booleans())
    def describe(self, count: int, *, is_auto: bool) -> None:
        self.play.describe(describe(even_shards(count), is_auto=is_auto))

    @rule()
    def drain(self) -> None:
        self.play.engine.begin_drain()
        self.play.pump()

    @rule()
    def give_up(self) -> None:
        self.play.engine.give_up(self.play.now_ns)
        self.play.pump()

    def teardown(self) -> None:
        if hasattr(self, "play"):
            self.play.settle_down()
            self.play.check_end()


def machine(of: EngineSettings, full: int = 50) -> type[TestCase]:
    class Machine(EngineMachine):
        settings_used = of

    case: type[TestCase] = Machine.TestCase
    case.settings = settings(  # type: ignore[attr-defined]
        deadline=None,
        print_blob=True,
        phases=PHASES,
        max_examples=examples(full),
        stateful_step_count=40,
        suppress_health_check=[HealthCheck.too_slow],
    )
    return case


@pytest.mark.parametrize("idle_s", [4, 3600])
def test_a_throttle_after_a_quiet_time_does_not_stop_a_large_record_for_minutes(
    idle_s: int,
) -> None:
    """Found by TestAggregatingEngine, 2026-11-28: idle after ten minutes."""
    play = Play(random.Random(0), replace(SETTINGS, aggregate_bytes_max=900))
    play.describe(describe(even_shards(1)))
    play.put([Record(b"", "a"), Record(b"", "a")])
    play.answer(0, ["delivered"])
    play.pass_time(idle_s * SECOND)
    sizes = [0, 0, 0, 0, 40, 2300, 0]
    play.put([Record(b"", ""), *(Record(bytes(size), "a") for size in sizes)])
    play.answer(0, ["throttled"])
    since_ns = play.now_ns
    play.settle_down()
    play.check_end()
    assert play.now_ns - since_ns <= 60 * SECOND


@pytest.mark.parametrize("first_share", [1.0, 0.1])
@pytest.mark.parametrize("throttles", range(1, 12))
def test_a_large_record_that_is_throttled_again_and_again_is_not_stopped_for_minutes(
    throttles: int, first_share: float
) -> None:
    """In debt, at a share that grows when an answer has come: none comes while it is in debt."""
    play = Play(random.Random(0), replace(SETTINGS, first_share=first_share))
    play.describe(describe(even_shards(1)))
    play.put([Record(bytes(2300), "a"), Record(bytes(2300), "a")])
    for _ in range(throttles):
        while not play.calls:
            play.jump()
        play.answer(0, ["throttled"])
    since_ns = play.now_ns
    play.settle_down()
    play.check_end()
    assert play.now_ns - since_ns <= 60 * SECOND


@pytest.mark.parametrize("then", ["AUTO", "missing"])
def test_a_record_without_a_key_that_no_shard_was_found_for_has_one_when_the_map_is_gone(
    then: str,
) -> None:
    """It queued for any shard, and goes another way before it was ever drawn."""
    play = Play(random.Random(0))
    play.describe(describe(even_shards(1)))
    play.put([Record(b"first", "a")])
    play.put([Record(b"second", "")])  # lingers: a call is out
    if then == "AUTO":
        play.describe(describe(even_shards(1), is_auto=True))
    else:
        play.fail(0, "missing")
        play.description = describe(None)
    for _ in range(20):
        sent = [record for batch in play.calls for record in batch.records]
        assert all(record.partition_key for record in sent)
        if any(bytes(record.data) == b"second" for record in sent):
            break
        if then == "missing" and play.calls:
            play.answer(0, ["delivered"])
        play.jump()
    else:
        pytest.fail("it was never sent")


TestEngine = machine(SETTINGS)
TestEngineWithoutLinger = machine(replace(SETTINGS, linger_ns=0), 20)
TestOrderedEngine = machine(replace(SETTINGS, is_ordered=True))
TestOrderedEngineOfAnAtomicService = machine(
    replace(SETTINGS, is_ordered=True, is_shard_atomic=True)
)
TestAggregatingEngine = machine(replace(SETTINGS, aggregate_bytes_max=900))
TestNewcomer = machine(
    replace(SETTINGS, is_ordered=True, aggregate_bytes_max=900, first_share=0.1), 30
)
TestOrderedAggregatingEngine = machine(replace(SETTINGS, is_ordered=True, aggregate_bytes_max=900))

SMALL_BATCHES = replace(SETTINGS, batch_bytes_max=1500)  # the largest records are above a batch
TestSmallBatches = machine(SMALL_BATCHES)
TestSmallBatchesInOrder = machine(replace(SMALL_BATCHES, is_ordered=True), 30)
TestSmallBatchesOfAnAtomicService = machine(
    replace(SMALL_BATCHES, is_ordered=True, is_shard_atomic=True), 30
)
TestSmallBatchesOfAggregates = machine(
    replace(SMALL_BATCHES, is_ordered=True, aggregate_bytes_max=900), 30
)

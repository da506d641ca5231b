"""Whatever clients, service and control plane do: limits, conservation, progress, one exit each."""

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from tests.properties.play import CALL_FAILURES, RECORD_OUTCOMES, Play
from tests.unit.base.frames import MS, SECOND, describe, even_shards

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

    @initialize(seed=st.integers(0, 2**16))
    def start(self, seed: int) -> None:
        self.play = Play(random.Random(seed))

    def has_calls(self) -> bool:
        return bool(self.play.calls)

    @rule(records=frames(), has_deadline=st.booleans())
    def put(self, records: list[Record], *, has_deadline: bool) -> None:
        self.play.put(records, has_deadline=has_deadline)

    @rule(count=st.integers(1, 30))
    def put_small(self, count: int) -> None:
        self.play.put([Record(b"x", f"k{number}") for number in range(count)])

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
        description = describe(even_shards(count), is_auto=is_auto)
        self.play.engine.handle_description(description, self.play.now_ns)
        self.play.pump()

    @rule()
    def drain(self) -> None:
        self.play.engine.begin_drain()
        self.play.pump()

    @rule()
    def give_up(self) -> None:
        self.play.engine.give_up()
        self.play.pump()

    def teardown(self) -> None:
        if hasattr(self, "play"):
            self.play.settle_down()
            self.play.check_end()


TestEngineModel = EngineMachine.TestCase
TestEngineModel.settings = settings(
    deadline=None,
    print_blob=True,
    max_examples=200,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)

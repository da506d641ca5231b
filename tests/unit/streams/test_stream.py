"""What a stream tells its clients' side, beside what its engine does."""

from functools import partial
from typing import Any

import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.service import AWS
from kdaemon.config import StreamConfig
from kdaemon.streams import Stream, line_acknowledge
from kdaemon.streams.inquiry import GO_ON_A_TURN, GO_ON_NS_MAX, Word
from tests.kit.clock import HandClock
from tests.kit.scripted import ScriptedDriver
from tests.kit.streams import turn

MEMORY = ByteBudget(1_000_000)


class FakeDriver(ScriptedDriver):
    def __init__(self) -> None:
        super().__init__(StreamConfig(name="s"), MEMORY)
        self.asked_patiently: list[bool] = []

    def submit(self, frame: Frame, is_patient: bool = False) -> bool:
        self.asked_patiently.append(is_patient)
        return not is_patient


def stream_over(
    driver: FakeDriver, spool: Any = None, clock: HandClock | None = None, **config: Any
) -> Stream:
    settings = StreamConfig(name="s", **config)
    return Stream(settings, AWS, driver, clock or HandClock(), MEMORY, spool)


def test_a_stream_is_unavailable_while_its_engine_says_so() -> None:
    driver = FakeDriver()
    stream = stream_over(driver)
    assert stream.unavailable is None
    why = ServiceError("InvalidArgumentException", "No order here.")
    driver.engine.unavailable = why
    assert stream.unavailable is why


@pytest.mark.parametrize(
    ("cost_ns", "a_turn"), [(0, GO_ON_A_TURN), (GO_ON_NS_MAX // 3 + 1, 3), (9 * GO_ON_NS_MAX, 1)]
)
async def test_who_waited_for_word_goes_on_in_turns_of_a_bounded_time(
    cost_ns: int, a_turn: int
) -> None:
    clock = HandClock()
    stream = stream_over(FakeDriver(), clock=clock)
    gone: list[int] = []

    def go_on(number: int) -> None:
        gone.append(number)
        clock.ns += cost_ns

    for number in range(GO_ON_A_TURN + 1):
        stream.inquiry.queue(partial(go_on, number))
    stream.inquiry.hear(Word.FOUND)
    assert len(gone) == a_turn
    assert not stream.inquiry.has_word, "who comes now goes behind them"
    await turn(1)
    assert len(gone) == min(2 * a_turn, GO_ON_A_TURN + 1)
    await turn(GO_ON_A_TURN)
    assert gone == list(range(GO_ON_A_TURN + 1))
    assert stream.inquiry.has_word


def test_whether_a_client_is_held_back_reaches_the_driver() -> None:
    driver = FakeDriver()
    stream = stream_over(driver)
    frame = Frame([], [], Acknowledge.ACCEPTED, None)
    assert stream.submit(frame)
    assert not stream.submit(frame, is_patient=True)
    assert driver.asked_patiently == [False, True]


# What an acknowledgement of lines means

STORED, DELIVERED, ACCEPTED = Acknowledge.STORED, Acknowledge.DELIVERED, Acknowledge.ACCEPTED


@pytest.mark.parametrize(
    ("ordering", "acknowledge", "has_spool", "meant"),
    [
        ("none", "delivered", False, DELIVERED),
        ("none", "delivered", True, STORED),
        ("none", "accepted", True, STORED),
        ("none", "stored", True, STORED),
        ("partition_key", "delivered", False, DELIVERED),
        ("partition_key", "delivered", True, DELIVERED),
        ("partition_key", "accepted", True, ACCEPTED),
        ("partition_key", "stored", True, STORED),
    ],
)
def test_lines_are_stored_unless_that_would_part_a_stream_with_order(
    ordering: Any, acknowledge: Any, has_spool: bool, meant: Acknowledge
) -> None:
    config = StreamConfig(name="s", ordering=ordering, acknowledge=acknowledge)
    assert line_acknowledge(config, has_spool=has_spool) is meant
    stream = stream_over(
        FakeDriver(), object() if has_spool else None, ordering=ordering, acknowledge=acknowledge
    )
    assert stream.line_acknowledge is meant

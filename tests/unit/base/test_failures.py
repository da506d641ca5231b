"""What failed of late, as an engine tells it to those who look."""

from kdaemon.base.errors import ServiceError
from kdaemon.base.failures import (
    CODE_CHARACTERS_MAX,
    CODES_MAX,
    MESSAGE_CHARACTERS_MAX,
    Failures,
    FailureSnapshot,
)
from kdaemon.base.steps import at_once
from tests.kit.engine_rig import Rig
from tests.kit.frames import SECOND, delivered, failed


def told(rig: Rig) -> list[tuple[str, int, int]]:
    """Code, calls, records; the last first."""
    failures = at_once(rig.engine.snapshot(rig.now_ns)).failures
    return [(each.code, each.calls, each.records) for each in failures]


def test_whole_calls_and_single_records_are_told_by_code_after_they_have_passed() -> None:
    rig = Rig()
    assert told(rig) == []
    rig.put(3)
    rig.fail(rig.call(), ServiceError("ReadTimeout", "silence"))
    rig.wait()
    batch = rig.call()
    rig.engine.handle_results(
        batch,
        [delivered("shard-0"), failed("InternalFailure"), failed("InternalFailure")],
        rig.now_ns,
    )
    at_ns = rig.now_ns
    rig.wait()
    rig.answer(rig.call())
    assert told(rig) == [("InternalFailure", 0, 2), ("ReadTimeout", 1, 3)]
    first = at_once(rig.engine.snapshot(rig.now_ns)).failures[0]
    assert first.last_ns == at_ns <= rig.now_ns


def test_the_codes_that_came_last_are_kept_and_words_are_bounded() -> None:
    failures = Failures()
    for number in range(CODES_MAX + 2):
        failures.call(f"Code{number}", "x" * 10_000, 1, number)
    failures.record("Code5", "new words", 99)
    failures.record("y" * 1_000, "", 100)
    failures.record("y" * 1_000, "", 100)
    found = failures.snapshot()
    assert len(found) == CODES_MAX
    assert found[0] == FailureSnapshot("y" * CODE_CHARACTERS_MAX, "", 0, 2, 100)
    assert found[1] == FailureSnapshot("Code5", "new words", 1, 2, 99)
    assert {len(each.message) for each in found[2:]} == {MESSAGE_CHARACTERS_MAX}
    assert "Code2" not in {each.code for each in found}, "the oldest made room"


def test_of_many_records_of_one_answer_each_is_counted() -> None:
    failures = Failures()
    for at_ns in (SECOND, SECOND, 2 * SECOND):
        failures.record("InternalFailure", "sorry", at_ns)
    assert failures.snapshot() == (FailureSnapshot("InternalFailure", "sorry", 0, 3, 2 * SECOND),)

"""The engine in trouble: calls that fail whole, poison, deadlines, stale maps, shared memory."""

from dataclasses import replace

import pytest

from kdaemon.base.counters import DeadReason, RefuseReason
from kdaemon.base.description import Capacity, OpenShard
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.service import AWS, YANDEX, Service
from kdaemon.base.steps import at_once
from kdaemon.base.verdict import Verdict
from kdaemon.engine import Engine
from kdaemon.engine.snapshot import StreamState
from kdaemon.pack.batch import Batch
from kdaemon.settle.verdict import UNKNOWN_ATTEMPTS_MAX
from tests.kit.engine_rig import SETTINGS, Rig, T
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

NOT_SENT = ServiceError(Trouble.CONNECT, "", was_sent=False)
TIMED_OUT = ServiceError(Trouble.READ_TIMEOUT, "silence")
INVALID = ServiceError("ValidationException", "no good", status=400)
MISSING = ServiceError("ResourceNotFoundException", "Stream x not found", status=400)
DENIED = ServiceError("AccessDeniedException", "not you", status=400)


# Calls that fail whole


@pytest.mark.parametrize(
    ("error", "reason", "duplicates", "throttled"),
    [
        (NOT_SENT, Verdict.NOT_SENT, 0, 0),
        (TIMED_OUT, Verdict.AMBIGUOUS, 3, 0),
        (ServiceError("ThrottlingException", "", status=400), Verdict.THROTTLED, 0, 3),
        (DENIED, Verdict.HOLD, 0, 0),
    ],
)
def test_a_call_that_failed_is_counted_by_its_class_and_sent_again_as_it_was(
    error: ServiceError, reason: Verdict, duplicates: int, throttled: int
) -> None:
    rig = Rig()
    frame = rig.put(3)
    rig.fail(rig.call(), error)
    assert rig.poll() is None
    counters = rig.counters
    assert counters.retries[reason] == 3
    assert (counters.possible_duplicates, counters.throttled) == (duplicates, throttled)
    assert counters.calls[reason] == 1
    rig.wait()
    again = rig.call()
    assert again.is_probe
    assert again.records == frame.records
    rig.answer(again)
    assert rig.settled() == [frame]


def test_a_call_that_failed_goes_again_in_the_order_in_which_it_came() -> None:
    rig = Rig()
    frames = [rig.put(2) for _ in range(3)]
    rig.fail(rig.call(), NOT_SENT)
    rig.put()
    rig.wait()
    sent = rig.call().records
    assert sent[:6] == [record for frame in frames for record in frame.records]


def test_a_probe_that_is_refused_has_found_the_service_and_opens_the_stream() -> None:
    rig = Rig()
    rig.put(4)
    rig.fail(rig.call(), NOT_SENT)
    rig.wait()
    rig.fail(rig.call(), INVALID)
    assert rig.poll() is not None
    assert rig.poll() is not None


def test_after_a_failure_one_call_probes_alone() -> None:
    rig = Rig()
    rig.put(30)
    batches = [rig.call() for _ in range(3)]
    for batch in batches:
        rig.fail(batch, TIMED_OUT)
    rig.wait()
    probe = rig.call()
    assert rig.poll() is None
    assert rig.engine.next_wakeup_ns() == rig.engine.freshness.due_at_ns
    rig.answer(probe)
    assert rig.poll() is not None
    assert rig.poll() is not None


def test_a_hold_is_remembered_until_a_call_succeeds_and_probed_slowly() -> None:
    rig = Rig()
    rig.put()
    rig.fail(rig.call(), DENIED)
    assert rig.engine.hold is DENIED
    assert rig.engine.refusal_at(T) is DENIED, "at the door, while it is not yet time to probe"
    rig.wait()
    assert rig.now_ns == T + 750 * MS
    rig.answer(rig.call())
    assert rig.engine.hold is None


def test_a_missing_stream_is_said_to_those_who_wait_and_kept_for_those_who_do_not() -> None:
    rig = Rig()
    waiting, patient = rig.put(2, deadline_ns=T + 20 * SECOND), rig.put()
    rig.fail(rig.call(), MISSING)
    assert rig.settled() == [waiting]
    assert waiting.refusal == (MISSING.code, MISSING.message)
    assert rig.counters.rejected[RefuseReason.MISSING_STREAM] == 2
    assert rig.counters.buffered == 1
    assert rig.engine.refusal_at(T) is MISSING
    rig.wait()
    assert rig.engine.refusal_at(rig.now_ns) is None, "the next client may be the probe"
    rig.answer(rig.call())
    assert rig.settled() == [patient]


def test_an_older_call_that_succeeds_does_not_lift_a_hold() -> None:
    """It was sent before the trouble; only the probe speaks for the service as it is now."""
    rig = Rig()
    older = (rig.put(10), rig.call())[1]
    rig.fail((rig.put(10), rig.call())[1], MISSING)
    rig.answer(older)
    assert rig.engine.hold is MISSING
    assert rig.engine.refusal_at(T) is MISSING


def test_a_refused_probe_lifts_a_hold() -> None:
    rig = Rig()
    rig.put(2)
    rig.fail(rig.call(), DENIED)
    rig.wait()
    rig.fail(rig.call(), INVALID)
    assert rig.engine.hold is None


# What is told


@pytest.mark.parametrize(
    "code", ["AccessDeniedException", "KMSDisabledException", "UnrecognizedClientException"]
)
def test_where_waiting_is_no_use_those_who_wait_hear_the_services_own_words_at_once(
    code: str,
) -> None:
    rig = Rig()
    waiting, patient = rig.put(2, deadline_ns=T + 20 * SECOND), rig.put()
    rig.fail(rig.call(), ServiceError(code, "no", status=400))
    assert rig.settled() == [waiting]
    assert waiting.refusal == (code, "no")
    assert rig.counters.rejected[RefuseReason.HOLD] == 2
    assert rig.counters.buffered == 1
    rig.wait()
    rig.answer(rig.call())
    assert rig.settled() == [patient]


SLOW_DOWN = ServiceError("ThrottlingException", "slow down", status=400)


def two_calls(rig: Rig) -> tuple[Frame, Batch, Batch]:
    """A frame whose client waits, half of it in each of two calls that have left."""
    frame = rig.put(20, deadline_ns=T + 20 * SECOND)
    return frame, rig.call(), rig.call()


@pytest.mark.parametrize("error", [MISSING, DENIED])
def test_who_has_records_in_a_call_that_is_out_hears_what_that_call_came_to(
    error: ServiceError,
) -> None:
    """The call that began the hold says nothing of records in another one."""
    rig = Rig()
    frame, first, second = two_calls(rig)
    rig.fail(first, error)
    assert rig.settled() == []
    rig.fail(second, error)
    assert rig.settled() == [frame]
    assert frame.refusal == (error.code, error.message)
    assert (sum(rig.counters.rejected.values()), rig.counters.possible_duplicates) == (20, 0)


def test_what_an_older_call_delivered_while_a_hold_begins_is_told_as_delivered() -> None:
    rig = Rig()
    frame, first, second = two_calls(rig)
    rig.fail(second, DENIED)
    rig.answer(first)
    assert rig.settled() == [frame]
    codes = [result.error_code for result in frame.results if result is not None]
    assert codes == [None] * 10 + [DENIED.code] * 10
    assert frame.refusal is None
    assert rig.counters.possible_duplicates == 0


@pytest.mark.parametrize("error", [TIMED_OUT, SLOW_DOWN, NOT_SENT])
def test_whatever_the_last_call_came_to_its_client_is_told_at_once_during_a_hold(
    error: ServiceError,
) -> None:
    rig = Rig()
    frame, first, second = two_calls(rig)
    rig.fail(first, DENIED)
    rig.fail(second, error)
    assert rig.settled() == [frame]
    assert all(result is not None and result.error_code for result in frame.results)
    assert rig.counters.possible_duplicates == (10 if error is TIMED_OUT else 0)


def test_a_partial_answer_to_an_older_call_ends_the_wait_too() -> None:
    rig = Rig()
    frame, first, second = two_calls(rig)
    rig.fail(first, DENIED)
    rig.answer(second, [delivered()] * 9 + [failed("ProvisionedThroughputExceededException")])
    assert rig.settled() == [frame]


def test_who_waits_for_a_call_that_is_out_keeps_its_deadline_and_its_place() -> None:
    rig = Rig()
    frame, first, _ = two_calls(rig)
    later = rig.put(deadline_ns=T + 25 * SECOND)
    rig.fail(first, DENIED)
    assert rig.settled() == [later], "nothing of it is out"
    rig.now_ns = T + 20 * SECOND
    rig.engine.handle_timeout(rig.now_ns)
    assert rig.settled() == [frame]
    assert rig.counters.possible_duplicates == 10


def test_a_drain_that_ends_tells_who_waits_for_a_call_that_is_out() -> None:
    rig = Rig()
    frame, first, _ = two_calls(rig)
    rig.fail(first, DENIED)
    rig.engine.give_up(rig.now_ns)
    assert rig.settled() == [frame]


def test_a_client_that_goes_while_it_waits_for_a_call_that_is_out_is_settled_once() -> None:
    rig = Rig()
    frame, first, second = two_calls(rig)
    rig.fail(first, DENIED)
    rig.engine.handle_clients_gone([frame], rig.now_ns)
    assert rig.settled() == [frame]
    rig.fail(second, DENIED)
    assert rig.settled() == []
    assert rig.engine.is_idle


def test_the_end_of_a_hold_leaves_who_waited_for_a_call_where_it_was() -> None:
    rig = Rig()
    frame, first, second = two_calls(rig)
    rig.fail(first, DENIED)
    rig.wait()
    probe = rig.call()
    rig.answer(probe)
    assert rig.engine.hold is None
    rig.answer(second)
    assert rig.settled() == [frame]
    assert [result.error_code for result in frame.results if result is not None] == [None] * 20


def test_a_gateways_page_in_an_outage_is_a_hold_that_is_probed_for_as_an_outage() -> None:
    rig = Rig()
    rig.put(2)
    page = ServiceError("Http503", "a page", status=503, trouble=Trouble.FOREIGN)
    rig.fail(rig.call(), page)
    assert rig.engine.hold is page
    assert rig.counters.calls[Verdict.HOLD] == 1
    assert rig.counters.possible_duplicates == 2
    rig.now_ns = T + 37_500_000
    rig.answer(rig.call())
    assert rig.engine.hold is None


def test_a_hold_that_may_mend_itself_is_waited_out_until_the_deadline() -> None:
    rig = Rig()
    frame = rig.put(deadline_ns=T + 20 * SECOND)
    rig.fail(rig.call(), ServiceError("ExpiredTokenException", "old", status=400))
    assert rig.settled() == []
    refused = rig.engine.refusal_at(T)
    assert refused is not None
    assert refused.code == "ExpiredTokenException"
    rig.wait()
    rig.answer(rig.call())
    assert rig.settled() == [frame]
    assert frame.refusal is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServiceError("ThrottlingException", "slow", status=400), "Provisioned"),
        (ServiceError("InternalFailure", "oh", status=500), "InternalFailure"),
        (ServiceError("Http502", "busy", status=502, is_nameless=True), "ServiceUnavailable"),
        (ServiceError("ServiceUnavailable", "busy", status=503), "ServiceUnavailable"),
        (TIMED_OUT, "InternalFailure"),
        (NOT_SENT, "ServiceUnavailable"),
        (ServiceError("ExpiredToken", "old", status=400), "ExpiredToken"),
    ],
)
def test_a_frame_that_runs_out_of_time_is_refused_with_what_the_service_last_said(
    error: ServiceError, code: str
) -> None:
    rig = Rig()
    frame = rig.put(2, deadline_ns=T + 20 * MS)
    rig.fail(rig.call(), error)
    rig.now_ns = T + 20 * MS
    rig.poll()
    assert rig.settled() == [frame]
    assert frame.refusal is not None
    assert frame.refusal[0].startswith(code)
    assert {result.error_code for result in frame.results if result} == {frame.refusal[0]}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ServiceError("ExpiredTokenException", "old", status=400), "ExpiredTokenException: old"),
        (ServiceError("ThrottlingException", "slow", status=400), "ThrottlingException: slow"),
        (ServiceError("InternalFailure", "oh", status=500), "InternalFailure: oh"),
        (ServiceError(Trouble.CONNECT, "nobody", was_sent=False), "ConnectError: nobody"),
    ],
)
def test_what_is_in_flight_at_the_deadline_is_told_with_what_failed_before(
    error: ServiceError, words: str
) -> None:
    """The outcome is unknown, whatever was said before: that is the status. Why it took so long is
    in the text.
    """
    rig = Rig()
    frame = rig.put(2, deadline_ns=T + 2 * SECOND)
    rig.fail(rig.call(), error)
    rig.wait()
    assert rig.call().is_probe
    rig.now_ns = T + 2 * SECOND
    rig.poll()
    assert rig.settled() == [frame]
    assert frame.refusal is not None
    code, message = frame.refusal
    assert code == "InternalFailure"
    assert message.startswith("Still in flight")
    assert message.endswith(words)


def test_a_record_in_flight_at_the_deadline_is_told_what_was_said_of_it_alone() -> None:
    rig = Rig()
    frame = rig.put(2, deadline_ns=T + 2 * SECOND)
    rig.answer(rig.call(), [delivered(), failed("ThrottlingException")])
    while rig.poll() is None:
        rig.wait()
    rig.now_ns = T + 2 * SECOND
    rig.poll()
    assert rig.settled() == [frame]
    result = frame.results[1]
    assert result is not None
    assert result.error_code == "InternalFailure"
    assert "ThrottlingException: " in (result.error_message or "")


def test_a_doubtful_record_is_told_the_code_of_a_hold_that_followed() -> None:
    rig = Rig()
    frame = rig.put(2, deadline_ns=T + SECOND)
    rig.fail(rig.call(), TIMED_OUT)
    rig.now_ns = T + SECOND // 2
    rig.fail(rig.call(), ServiceError("ExpiredTokenException", "old", status=400))
    rig.now_ns = T + SECOND
    rig.poll()
    assert rig.settled() == [frame]
    assert frame.refusal is not None
    assert frame.refusal[0] == "InternalFailure"
    assert frame.refusal[1].endswith("ExpiredTokenException: old")


def test_what_the_service_said_of_a_record_alone_is_what_is_told_of_it() -> None:
    rig = Rig()
    frame = rig.put(3, deadline_ns=T + 20 * MS)
    later = [delivered(), failed("ThrottlingException"), failed("InternalFailure")]
    rig.answer(rig.call(), later)
    rig.now_ns = T + 20 * MS
    rig.poll()
    assert rig.settled() == [frame]
    codes = [result.error_code for result in frame.results if result]
    assert codes == [None, "ProvisionedThroughputExceededException", "InternalFailure"]
    assert frame.refusal is None, "mixed results stay a 200"


def test_what_was_said_last_is_told_of_the_stream_or_of_the_record() -> None:
    for error, code in ((DENIED, DENIED.code), (NOT_SENT, "ServiceUnavailable")):
        rig = Rig()
        frame = rig.put(2, deadline_ns=T + SECOND)
        rig.answer(rig.call(), [failed("ThrottlingException")] * 2)
        while (batch := rig.poll()) is None:
            rig.wait()
        rig.fail(batch, error)
        rig.now_ns = T + SECOND
        rig.poll()
        assert rig.settled() == [frame]
        assert frame.refusal is not None
        assert frame.refusal[0] == code


def test_a_withdrawn_record_whose_first_call_may_have_written_it_is_told_so() -> None:
    rig = Rig()
    frame = rig.put(2, deadline_ns=T + 20 * MS)
    rig.fail(rig.call(), TIMED_OUT)
    fresh = rig.put(deadline_ns=T + 20 * MS)
    rig.now_ns = T + 20 * MS
    rig.poll()
    assert rig.settled() == [frame, fresh]
    assert [result.error_code for result in frame.results if result] == ["InternalFailure"] * 2
    assert frame.results[0] is not None
    message = frame.results[0].error_message or ""
    assert "duplicate" in message
    assert "ReadTimeout: silence" in message, "and why"
    assert fresh.refusal is not None
    assert rig.counters.possible_duplicates == 2


def test_a_doubtful_record_is_told_so_whatever_failed_after_it() -> None:
    rig = Rig()
    frame = rig.put(2, deadline_ns=T + SECOND)
    rig.fail(rig.call(), TIMED_OUT)
    rig.now_ns = T + SECOND // 2
    rig.fail(rig.call(), NOT_SENT)
    rig.now_ns = T + SECOND
    rig.poll()
    assert rig.settled() == [frame]
    assert frame.refusal is not None
    assert frame.refusal[0] == "InternalFailure"
    assert "ConnectError" in frame.refusal[1], "and what failed last"


def test_what_is_kept_of_an_error_holds_no_frames_alive() -> None:
    rig = Rig()
    rig.put()
    batch = rig.call()
    try:
        try:
            raise ValueError("below")  # noqa: TRY301 - a context is wanted
        except ValueError as below:
            raise ServiceError("AccessDeniedException", "no", status=400) from below
    except ServiceError as error:
        rig.fail(batch, error)
    hold = rig.engine.hold
    assert hold is not None
    assert (hold.__traceback__, hold.__context__, hold.__cause__) == (None, None, None)


# Reasons are values, never texts


@pytest.mark.parametrize("code", ["OutsideRange", "Expired", "accepted", "WrongCount", "other"])
def test_a_services_code_that_is_a_word_of_ours_is_an_unknown_code(code: str) -> None:
    """It is sent again, as a possible duplicate, a bounded number of times; then it is dead."""
    rig = Rig()
    frame = rig.put(2)
    for attempt in range(1, UNKNOWN_ATTEMPTS_MAX + 1):
        batch = rig.call()
        results = [failed(code) for _ in batch.records]
        if attempt == 1:
            results[0] = delivered()
        rig.answer(batch, results)
        if attempt < UNKNOWN_ATTEMPTS_MAX:
            rig.wait()
    assert rig.settled() == [frame]
    assert frame.results[1] == failed(code)
    assert rig.counters.dead[DeadReason.POISON] == 1
    assert rig.counters.dead[DeadReason.EXPIRED] == 0
    assert rig.counters.retries[Verdict.OUTSIDE] == 0
    assert rig.counters.possible_duplicates == UNKNOWN_ATTEMPTS_MAX - 1


def test_an_unknown_4xx_is_halved_and_the_bad_record_is_dead_with_its_code() -> None:
    rig = Rig()
    frame = rig.put(4)
    while (batch := rig.poll()) is not None:
        if frame.records[2] in batch.records:
            rig.fail(batch, ServiceError("SomethingNew", "odd", status=422))
        else:
            rig.answer(batch)
    assert rig.settled() == [frame]
    assert frame.results[2] == RecordResult(error_code="SomethingNew", error_message="odd")


def test_a_request_of_which_every_record_is_refused_is_refused_as_a_whole() -> None:
    rig = Rig()
    frame = rig.put(3)
    while (batch := rig.poll()) is not None:
        rig.fail(batch, INVALID)
    assert rig.settled() == [frame]
    assert frame.refusal == (INVALID.code, INVALID.message)
    assert rig.counters.dead[DeadReason.POISON] == 3


def test_a_full_database_is_a_hold_with_its_words() -> None:
    rig = Rig(replace(SETTINGS, service=YANDEX, is_shard_atomic=True))
    rig.put(2)
    full = RecordResult(
        error_code="ProvisionedThroughputExceededException", error_message="database size exceeded"
    )
    rig.answer(rig.call(), [full, full])
    assert rig.engine.hold is not None
    assert "database size exceeded" in rig.engine.hold.message
    assert rig.counters.throttled == 0
    assert rig.counters.possible_duplicates == 0
    waits_ns = []
    for _ in range(3):
        began_ns = rig.now_ns
        while rig.poll() is None:
            rig.wait()
        waits_ns.append(rig.now_ns - began_ns)
        (batch,) = rig.engine.audit().in_flight
        rig.answer(batch, [full, full])
    assert waits_ns == [750 * MS, 1500 * MS, 3000 * MS], "probed ever more slowly"
    while rig.poll() is None:
        rig.wait()
    (batch,) = rig.engine.audit().in_flight
    rig.answer(batch)
    assert rig.engine.hold is None


@pytest.mark.parametrize(
    ("asked_ns", "wait_ns"),
    [(0, 37_500_000), (2 * SECOND, 2 * SECOND), (3600 * SECOND, 5 * SECOND + 37_500_000)],
)
def test_a_service_that_asks_to_be_left_alone_is_left_alone_within_reason(
    asked_ns: int, wait_ns: int
) -> None:
    rig = Rig()
    rig.put()
    rig.fail(rig.call(), ServiceError("Http503", "", status=503, retry_after_ns=asked_ns))
    rig.now_ns = T + wait_ns - 1
    assert rig.poll() is None
    rig.now_ns += 1
    assert rig.call().is_probe


# Bisecting


def test_a_refused_request_is_halved_until_the_bad_record_is_found() -> None:
    rig = Rig()
    frame = rig.put(5)
    bad = frame.records[3]
    tried: list[list[Record]] = []
    while (batch := rig.poll()) is not None:
        tried.append(batch.records)
        if bad in batch.records:
            rig.fail(batch, INVALID)
        else:
            rig.answer(batch)
    assert rig.settled() == [frame]
    assert [len(records) for records in tried] == [5, 3, 2, 1, 1]
    assert frame.results[3] == RecordResult(error_code=INVALID.code, error_message=INVALID.message)
    assert sum(1 for r in frame.results if r is not None and r.is_delivered) == 4
    counters = rig.counters
    assert counters.dead[DeadReason.POISON] == 1
    assert counters.retries[Verdict.BISECTED] == 5 + 2
    assert rig.engine.is_idle


def test_bisecting_goes_over_several_frames_and_shards() -> None:
    rig = Rig(shard_count=2)
    frames = [rig.put(1) for _ in range(3)]
    away = make_frame([Record(b"x", "k", "0"), Record(b"y", "k", str(2**128 - 1))])
    rig.engine.handle_frame(away, T)
    while (batch := rig.poll()) is not None:
        if away.records[0] in batch.records:
            rig.fail(batch, INVALID)
        else:
            rig.answer(batch)
    assert set(rig.settled()) == {*frames, away}
    assert [r is not None and r.is_delivered for r in away.results] == [False, True]


def test_halves_whose_client_left_are_not_sent() -> None:
    rig = Rig()
    frame = rig.put(4, deadline_ns=T + SECOND)
    rig.fail(rig.call(), INVALID)
    rig.now_ns = T + SECOND
    assert rig.poll() is None
    assert rig.settled() == [frame]
    assert rig.counters.rejected[RefuseReason.DEADLINE] == 4
    assert rig.engine.is_idle


def test_halves_that_must_wait_are_woken_for() -> None:
    """A call that failed meanwhile stopped the stream, and left nothing else to wake for."""
    rig = Rig()
    rig.put(10)
    refused = rig.call()
    rig.put(10, deadline_ns=T + SECOND)
    other = rig.call()
    rig.now_ns = T + SECOND
    rig.poll()
    rig.fail(refused, INVALID)
    rig.fail(other, NOT_SENT)
    assert rig.poll() is None
    rig.wait()
    assert rig.now_ns == T + SECOND + 37_500_000
    assert len(rig.call().records) == 5


# Deadlines


def test_what_was_withdrawn_is_never_sent() -> None:
    rig = Rig()
    rig.fail((rig.put(), rig.call())[1], NOT_SENT)
    rig.now_ns = T + 1
    withdrawn = rig.put(3, deadline_ns=T + 10 * MS)
    rig.now_ns = T + 10 * MS
    assert rig.poll() is None
    assert rig.settled() == [withdrawn]
    rig.wait()
    assert len(rig.call().records) == 1
    assert {result.error_code for result in withdrawn.results if result} == {"ServiceUnavailable"}


def test_a_late_answer_for_an_abandoned_frame_is_counted_and_rewrites_nothing() -> None:
    rig = Rig()
    frame = rig.put(3, deadline_ns=T + SECOND)
    batch = rig.call()
    rig.now_ns = T + SECOND
    assert rig.poll() is None
    assert rig.settled() == [frame]
    told = list(frame.results)
    assert {result.error_code for result in told if result} == {"InternalFailure"}
    rig.answer(batch, [delivered(), failed(), failed("ValidationException")])
    assert frame.results == told
    assert rig.settled() == []
    assert rig.poll() is None, "what was told as failed is not sent again"
    counters = rig.counters
    assert (counters.delivered, counters.dead[DeadReason.POISON]) == (1, 1)
    assert counters.rejected[RefuseReason.DEADLINE] == 1
    assert counters.possible_duplicates == 3
    assert rig.engine.is_idle
    assert rig.memory.bytes_taken == 0


@pytest.mark.parametrize("error", [NOT_SENT, TIMED_OUT, INVALID, DENIED])
def test_a_call_that_fails_after_its_frame_was_abandoned_sends_nothing_again(
    error: ServiceError,
) -> None:
    rig = Rig()
    rig.put(3, deadline_ns=T + SECOND)
    batch = rig.call()
    rig.now_ns = T + SECOND
    rig.poll()
    rig.fail(batch, error)
    assert rig.engine.is_idle
    assert rig.counters.rejected[RefuseReason.DEADLINE] == 3


@pytest.mark.parametrize(
    "reason", [RefuseReason.DEADLINE, RefuseReason.DRAINING, RefuseReason.CLIENT_GONE]
)
@pytest.mark.parametrize("answer", ["a call that failed", "a refusal", "a record that failed"])
def test_what_comes_back_after_its_client_was_told_no_counts_as_what_it_was_told_for(
    reason: RefuseReason, answer: str
) -> None:
    """Or a drain would end well though a client that waited was given up."""
    rig = Rig()
    frame = rig.put(2, deadline_ns=T + SECOND)
    batch = rig.call()
    if reason is RefuseReason.DRAINING:
        rig.engine.give_up(T)
    elif reason is RefuseReason.CLIENT_GONE:
        rig.engine.handle_clients_gone([frame], T)
    else:
        rig.now_ns = T + SECOND
        rig.poll()
    assert rig.settled() == [frame]
    if answer == "a call that failed":
        rig.fail(batch, TIMED_OUT)
    elif answer == "a refusal":
        rig.fail(batch, INVALID)
    else:
        rig.answer(batch, [failed("ThrottlingException")] * 2)
    assert rig.counters.rejected[reason] == 2
    assert rig.engine.is_idle


def test_giving_up_answers_those_who_wait_and_keeps_the_rest() -> None:
    rig = Rig()
    rig.fail((rig.put(), rig.call())[1], NOT_SENT)
    waiting = rig.put(2, deadline_ns=T + 20 * SECOND)
    rig.engine.give_up(rig.now_ns)
    assert rig.settled() == [waiting]
    assert rig.counters.rejected[RefuseReason.DRAINING] == 2
    assert rig.counters.buffered == 1


def test_a_withdrawn_record_says_what_held_it_up() -> None:
    rig = Rig()
    rig.fail((rig.put(), rig.call())[1], DENIED)
    frame = rig.put(deadline_ns=T + SECOND // 2)
    rig.now_ns += SECOND // 2
    rig.poll()
    assert frame.results[0] is not None
    assert frame.results[0].error_code == "AccessDeniedException"
    assert "not you" in (frame.results[0].error_message or "")
    assert frame.refusal == (frame.results[0].error_code, frame.results[0].error_message)


# The map, and memory that is shared


def test_a_record_on_another_shard_is_delivered_and_makes_the_map_stale_once() -> None:
    rig = Rig()
    rig.now_ns = T + 50 * SECOND
    frame = rig.put(2)
    rig.answer(rig.call(), [delivered("child-1"), delivered("child-2")])
    assert rig.settled() == [frame]
    assert rig.counters.map_mismatches == 1
    assert rig.engine.freshness.due_at_ns == rig.now_ns + 250 * MS
    assert rig.engine.next_wakeup_ns() == rig.now_ns + 250 * MS


def test_an_answer_to_a_call_from_before_the_map_changed_is_old_news() -> None:
    rig = Rig()
    rig.put()
    batch = rig.call()
    rig.now_ns += 10 * MS
    at_once(rig.engine.take_description(describe(even_shards(2)), rig.now_ns))
    due_ns = rig.engine.freshness.due_at_ns
    rig.answer(batch, [delivered("shard-1")])
    assert rig.counters.map_mismatches == 0
    assert rig.engine.freshness.due_at_ns == due_ns


def test_what_fails_on_a_shard_that_is_gone_is_routed_anew() -> None:
    rig = Rig()
    frame = rig.put(2)
    batch = rig.call()
    first, second = even_shards(2)
    halves = (
        OpenShard("a", first.first_hash_key, first.last_hash_key),
        OpenShard("b", second.first_hash_key, second.last_hash_key),
    )
    at_once(rig.engine.take_description(describe(halves), T))
    rig.answer(batch, [failed("InternalFailure"), failed("InternalFailure")])
    again = rig.call()
    assert again.records == frame.records
    assert {run.lane.shard_id for run in again.runs} <= {"a", "b"}


def test_a_description_sets_the_record_limit_whatever_a_batch_holds() -> None:
    rig = Rig(replace(SETTINGS, record_bytes_max=150_000))
    assert rig.engine.record_bytes_max == 150_000 > SETTINGS.batch_bytes_max
    for told, expected in ((70_000, 70_000), (10**7, 10**7), (None, 10**7)):
        at_once(rig.engine.take_description(describe(None, record_bytes_max=told), T))
        assert rig.engine.record_bytes_max == expected
    assert rig.engine.audit().queues.shards.shard_count == 1


def test_the_capacity_stays_as_it_was_told_until_the_stream_is_missing() -> None:
    rig = Rig()
    capacity = Capacity(is_on_demand=True, warm_bytes_per_second=1000)
    for told in (capacity, None):
        at_once(rig.engine.take_description(describe(even_shards(2), capacity=told), T))
        assert rig.engine.capacity == capacity
    rig.put()
    missing = ServiceError("ResourceNotFoundException", "no", status=400)
    rig.engine.handle_failure(rig.call(), missing, T)
    assert rig.engine.capacity is None


def test_two_streams_share_one_memory_and_a_stalled_one_keeps_only_its_part() -> None:
    memory = ByteBudget(1500)
    settings = EngineSettings(10, 100_000, 50_000, 0, 3, 1000, 1_000_000, 1000, first_share=1.0)
    stalled, lively = (Engine(settings, memory, LoadedDice(0.5), T) for _ in range(2))

    def fill(engine: Engine) -> list[Frame]:
        frames: list[Frame] = []
        while True:
            frame = make_frame([Record(b"", "k")], footprint_bytes=100)
            if not engine.handle_frame(frame, T):
                return frames
            frames.append(frame)

    assert (len(fill(stalled)), len(fill(lively))) == (10, 3), "of 500, it leaves some"
    for _ in range(20):
        batch = lively.poll_batch(T)
        assert batch is not None
        lively.handle_results(batch, [delivered()] * len(batch.records), T)
        assert lively.is_idle
        assert len(fill(lively)) == 3, "what it settled, it has again"
    assert memory.bytes_taken == 1300
    assert stalled.counters.unaccounted() == lively.counters.unaccounted() == 0


# A call that has not left: no connection yet, no credentials


@pytest.mark.parametrize("goes", [False, True])
def test_what_is_in_a_call_that_has_not_left_is_withdrawn(goes: bool) -> None:
    """By its deadline, or because its client went away; what else the call holds is sent again."""
    rig = Rig()
    frame, other = rig.put(2, deadline_ns=T + 20 * MS), rig.put(deadline_ns=T + 20 * SECOND)
    batch = rig.call()
    batch.has_left = False
    if goes:
        rig.engine.handle_clients_gone([frame], rig.now_ns)
    else:
        rig.now_ns = T + 20 * MS
        rig.poll()
    assert rig.settled() == [frame]
    assert frame.refusal is not None
    assert "withdrawn" in frame.refusal[1]
    assert rig.counters.possible_duplicates == 0
    assert not batch.leave(), "the call must not be made any more"
    rig.fail(batch, NOT_SENT)
    rejected = sum(rig.counters.rejected.values())
    assert (rejected, rig.counters.buffered, rig.counters.in_flight) == (2, 1, 0)
    while (again := rig.poll()) is None:
        rig.wait()
    assert again.record_count == 1
    rig.answer(again)
    assert rig.settled() == [other]
    assert rig.counters.possible_duplicates == 0


def test_what_is_in_a_call_that_has_left_may_be_a_duplicate() -> None:
    rig = Rig()
    frame = rig.put(2, deadline_ns=T + 20 * MS)
    batch = rig.call()
    batch.has_left = False
    assert batch.leave()
    rig.now_ns = T + 20 * MS
    rig.poll()
    assert frame.refusal is not None
    assert frame.refusal[0] == "InternalFailure"
    assert rig.counters.possible_duplicates == 2
    rig.answer(batch)
    assert rig.counters.delivered == 2


@pytest.mark.parametrize(
    ("service", "known_by", "is_missing"),
    [
        (AWS, "nothing", True),
        (AWS, "a description", True),
        (AWS, "a delivery", True),
        (YANDEX, "nothing", True),
        (YANDEX, "a description", False),
        (YANDEX, "a description without shards", True),
        (YANDEX, "a delivery", False),
        (YANDEX, "records of an earlier run", False),
    ],
)
def test_a_stream_that_was_there_is_missing_only_where_that_does_not_mean_forbidden(
    service: Service, known_by: str, is_missing: bool
) -> None:
    settings = replace(SETTINGS, service=service)
    engine = Engine(settings, ByteBudget(10**7), LoadedDice(0.5), T)
    if known_by == "a description":
        at_once(engine.take_description(describe(even_shards(1)), T))
    elif known_by == "a description without shards":  # nobody may describe it
        at_once(engine.take_description(describe(None), T))
    elif known_by == "records of an earlier run":
        engine.counters.recovered += 1  # as the spool does
    elif known_by == "a delivery":
        assert engine.handle_frame(make_frame([Record(b"x", "k")]), T)
        batch = engine.poll_batch(T)
        assert batch is not None
        engine.handle_results(batch, [delivered()], T)
    error = ServiceError("ResourceNotFoundException", "no such path", status=400)
    assert engine.is_missing(error) is is_missing
    assert not engine.is_missing(ServiceError("AccessDeniedException", "no", status=400))


def state(engine: Engine) -> tuple[StreamState, str]:
    """The state, and why the service did not tell of the stream."""
    snapshot = at_once(engine.snapshot(T))
    return snapshot.state, "" if snapshot.unseen is None else snapshot.unseen.code


@pytest.mark.parametrize("error", [MISSING, DENIED, NOT_SENT], ids=lambda error: str(error.code))
def test_a_stream_is_unseen_until_something_shows_that_it_is_there(error: ServiceError) -> None:
    engine = Engine(SETTINGS, ByteBudget(10**7), LoadedDice(0.5), T)
    assert state(engine) == (StreamState.UNSEEN, ""), "nobody was asked yet"
    engine.freshness.ask(T)
    engine.handle_no_description(error, T)
    assert state(engine) == (StreamState.UNSEEN, error.code)
    assert engine.hold is None, "records may be taken all the same"
    assert engine.handle_frame(make_frame([Record(b"x", "k")]), T)
    batch = engine.poll_batch(T)
    assert batch is not None
    engine.handle_results(batch, [delivered()], T)
    assert state(engine) == (StreamState.OK, "")


def test_what_the_service_says_last_of_a_stream_is_told() -> None:
    """A stream that takes records needs no word; but that it is gone is said before a record
    finds out.
    """
    rig = Rig()
    rig.put(1)
    rig.answer(rig.call())
    for error, told in ((DENIED, (StreamState.OK, "")), (NOT_SENT, (StreamState.OK, ""))):
        rig.engine.handle_no_description(error, T)
        assert state(rig.engine) == told
    rig.engine.handle_no_description(MISSING, T)
    assert state(rig.engine) == (StreamState.UNSEEN, MISSING.code)
    at_once(rig.engine.take_description(describe(even_shards(1)), T))
    assert state(rig.engine) == (StreamState.OK, "")


def test_a_state_that_tells_more_stands_before_that_a_stream_is_unseen() -> None:
    rig = Rig()
    rig.engine.handle_no_description(MISSING, T)
    rig.put(1)
    rig.fail(rig.call(), MISSING)
    assert state(rig.engine) == (StreamState.HOLD, MISSING.code)
    rig.engine.give_up_missing(MISSING, T)
    assert state(rig.engine)[0] is StreamState.MISSING


@pytest.mark.parametrize("shards", [even_shards(1), None], ids=["told", "untold"])
def test_the_hold_of_a_missing_stream_ends_when_the_service_tells_of_it(shards: object) -> None:
    """No record need wait to find that out; and the next call is a probe all the same."""
    rig = Rig()
    rig.put(1, deadline_ns=T + SECOND)
    rig.fail(rig.call(), MISSING)
    assert rig.engine.hold is not None
    at_once(rig.engine.take_description(describe(shards), rig.now_ns))  # type: ignore[arg-type]
    assert (rig.engine.hold is None) is (shards is not None)
    rig.put(2)
    assert rig.poll() is None, "it is not yet time to probe"
    rig.wait()
    batch = rig.call()
    assert batch.is_probe
    rig.answer(batch)
    assert state(rig.engine) == (StreamState.OK, "")


def test_a_hold_for_want_of_rights_does_not_end_by_a_description() -> None:
    rig = Rig()
    rig.put(1, deadline_ns=T + SECOND)
    rig.fail(rig.call(), DENIED)
    assert rig.engine.is_idle, "its client was told"
    at_once(rig.engine.take_description(describe(even_shards(1)), rig.now_ns))
    assert rig.engine.hold is not None, "rights to look are not rights to write"


SHOWN_BY_ANY_CALL = [
    ServiceError(Trouble.NO_CREDENTIALS, "no credentials", was_sent=False),
    ServiceError(Trouble.PROXY, "the proxy refuses", was_sent=False),
    ServiceError("InvalidSignatureException", "Signature expired", status=400),
    ServiceError("UnrecognizedClientException", "The security token is invalid", status=400),
]


@pytest.mark.parametrize("error", SHOWN_BY_ANY_CALL, ids=lambda error: error.code)
def test_what_fails_every_call_is_over_for_an_idle_stream_once_it_can_be_asked_for(
    error: ServiceError,
) -> None:
    """Nobody sends a record, and so no call would find out that the cause is mended."""
    rig = Rig()
    at_once(rig.engine.take_description(describe(even_shards(1)), T))
    rig.put(1, deadline_ns=T + SECOND)
    rig.fail(rig.call(), error)
    engine = rig.engine
    assert engine.hold is error
    assert engine.is_idle
    rig.now_ns = due_ns = engine.freshness.due_at_ns
    assert due_ns < T + 3 * SECOND, "not in an hour"
    assert engine.freshness.ask(due_ns)
    engine.handle_no_description(error, due_ns)
    assert engine.hold is error
    rig.now_ns = due_ns = engine.freshness.due_at_ns
    assert engine.freshness.ask(due_ns)
    at_once(engine.take_description(describe(even_shards(1)), due_ns))
    assert state(engine) == (StreamState.OK, "")
    rig.wait()
    rig.put(2)
    assert rig.call().is_probe


def test_what_waits_on_such_a_hold_is_the_probe_and_an_idle_stream_is_asked_for_again() -> None:
    """What one call could do says little while calls with records fail."""
    rig = Rig()
    rig.put(1)
    rig.fail(rig.call(), SHOWN_BY_ANY_CALL[0])
    at_once(rig.engine.take_description(describe(even_shards(1)), rig.now_ns))
    assert rig.engine.hold is not None
    assert rig.engine.freshness.due_at_ns <= rig.now_ns + 30 * SECOND


def test_where_not_found_may_mean_forbidden_the_hold_stays() -> None:
    rig = Rig(replace(SETTINGS, service=YANDEX))
    rig.put(1)
    rig.fail(rig.call(), MISSING)
    at_once(rig.engine.take_description(describe(even_shards(1)), rig.now_ns))
    assert rig.engine.hold is not None

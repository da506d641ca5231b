"""The engine of one stream, fed by hand: when a batch goes, and what an answer means."""

from dataclasses import replace

import pytest

from kdaemon.base.counters import DeadReason, FailureCode
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.steps import at_once
from kdaemon.base.verdict import Verdict
from tests.kit.engine_rig import SETTINGS, Rig, T
from tests.kit.frames import MS, SECOND, delivered, describe, even_shards, failed, make_frame
from tests.kit.queues import lanes_of

# Credit and linger: when a batch goes


def test_with_no_call_out_a_batch_goes_at_once() -> None:
    rig = Rig()
    frame = rig.put(3)
    batch = rig.call()
    assert batch.records == frame.records
    assert batch.sent_ns == T
    assert rig.poll() is None


def test_while_a_call_is_out_records_gather_until_linger_is_over() -> None:
    rig = Rig()
    rig.put()
    rig.call()
    rig.put()
    assert rig.poll() is None
    assert rig.engine.next_wakeup_ns() == T + 100 * MS
    rig.now_ns += 60 * MS
    rig.put()
    assert rig.poll() is None
    assert rig.engine.next_wakeup_ns() == T + 100 * MS, "from the first that gathers"
    rig.now_ns = T + 100 * MS - 1
    assert rig.poll() is None
    rig.now_ns = T + 100 * MS
    assert len(rig.call().records) == 2


def test_a_full_batch_goes_at_once_by_records_or_by_bytes() -> None:
    for frame in ({"count": 10}, {"count": 2, "size": 50_000}):
        rig = Rig()
        rig.put()
        rig.call()
        rig.put(**frame)
        assert rig.poll() is not None


def test_what_is_left_of_a_full_batch_gathers_anew() -> None:
    rig = Rig()
    rig.put()
    rig.call()
    rig.now_ns += 30 * MS
    rig.put(14)
    assert len(rig.call().records) == 10
    assert rig.poll() is None
    assert rig.engine.next_wakeup_ns() == T + 130 * MS


def test_a_call_that_returns_sends_what_gathered() -> None:
    rig = Rig()
    rig.put()
    batch = rig.call()
    rig.put()
    assert rig.poll() is None
    rig.now_ns += 20 * MS
    rig.answer(batch)
    assert len(rig.call().records) == 1


def test_a_call_that_returns_to_nothing_gives_no_credit_while_another_is_out() -> None:
    rig = Rig()
    first = (rig.put(10), rig.call())[1]
    second = (rig.put(10), rig.call())[1]
    rig.answer(first)
    rig.put()
    assert rig.poll() is None
    rig.answer(second)
    assert rig.poll() is not None


def test_the_last_call_to_return_leaves_credit_for_the_next_record() -> None:
    rig = Rig()
    rig.put()
    rig.answer(rig.call())
    rig.now_ns += 1
    rig.put()
    assert rig.poll() is not None


def test_a_drain_lingers_no_more() -> None:
    rig = Rig()
    rig.put()
    rig.call()
    rig.put()
    assert rig.poll() is None
    rig.engine.begin_drain()
    assert rig.poll() is not None


def test_calls_are_bounded_and_a_full_stream_asks_for_no_wake_up() -> None:
    rig = Rig()
    batches = []
    for _ in range(4):
        rig.put(10)
        if (batch := rig.poll()) is not None:
            batches.append(batch)
    assert len(batches) == 3
    rig.engine.begin_drain()
    assert rig.poll() is None
    assert rig.engine.next_wakeup_ns() == rig.engine.freshness.due_at_ns
    rig.answer(batches[1])
    assert rig.poll() is not None


def test_without_linger_nothing_waits() -> None:
    rig = Rig(replace(SETTINGS, linger_ns=0))
    rig.put()
    rig.call()
    rig.put()
    assert rig.poll() is not None


# Answers


def test_what_is_delivered_settles_with_the_services_own_words() -> None:
    rig = Rig()
    frame = rig.put(2)
    results = [delivered(number=1), delivered(number=2)]
    rig.answer(rig.call(), results)
    assert rig.settled() == [frame]
    assert frame.results == results
    assert rig.memory.bytes_taken == 0
    assert rig.engine.is_idle
    assert rig.counters.calls[Verdict.DELIVERED] == 1


def test_only_what_failed_is_sent_again_and_first() -> None:
    rig = Rig()
    frame = rig.put(4)
    later = rig.put(1)
    batch = rig.call()
    newest = rig.put(1)
    rig.answer(batch, [delivered(), failed(), delivered(), failed(), delivered()])
    assert rig.settled() == [later]
    again = rig.call()
    assert again.records == [frame.records[1], frame.records[3], newest.records[0]]
    assert [run.attempt_count for run in again.runs] == [1, 0]
    rig.answer(again)
    assert set(rig.settled()) == {frame, newest}
    counters = rig.counters
    assert (counters.attempts, counters.delivered, counters.throttled) == (8, 6, 2)
    assert counters.retries[Verdict.THROTTLED] == 2
    assert counters.calls[Verdict.PARTIAL] == 1
    assert counters.failures[FailureCode.THROUGHPUT] == 2
    assert counters.possible_duplicates == 0


def test_a_shard_that_throttles_a_part_is_paced_by_its_budget_and_not_held_back() -> None:
    rig = Rig()
    rig.now_ns += SECOND
    rig.put(4)
    rig.answer(rig.call(), [delivered(), failed(), failed(), failed()])
    (lane,) = lanes_of(rig.engine)
    assert lane.blocked_until_ns == 0
    assert (lane.taken, lane.throttled) == (1, 3)
    assert len(rig.call().records) == 3


@pytest.mark.parametrize(
    "results", [[failed()] * 2, [delivered(), failed("InternalFailure")], [failed("New"), failed()]]
)
def test_a_shard_that_takes_nothing_or_fails_otherwise_is_held_back(
    results: list[RecordResult],
) -> None:
    rig = Rig()
    rig.put(2)
    rig.answer(rig.call(), results)
    assert rig.poll() is None
    rig.wait()
    assert rig.now_ns == T + 75 * MS
    assert len(rig.call().records) == len([r for r in results if not r.is_delivered])


def test_an_ambiguous_record_beside_a_throttled_one_is_still_a_possible_duplicate() -> None:
    for codes in (["InternalFailure", "ThrottlingException"], ["ThrottlingException", "New"]):
        rig = Rig()
        rig.put(2)
        rig.answer(rig.call(), [failed(code) for code in codes])
        assert rig.counters.possible_duplicates == 1
        assert rig.counters.retries[Verdict.AMBIGUOUS] == 1
        assert rig.counters.retries[Verdict.THROTTLED] == 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_results_says_nothing_of_any_record(count: int) -> None:
    rig = Rig()
    frame = rig.put(2)
    rig.answer(rig.call(), [delivered()] * count)
    assert frame.results == [None, None]
    assert rig.counters.calls[Verdict.AMBIGUOUS] == 1
    assert rig.counters.possible_duplicates == 2
    rig.wait()
    rig.answer(rig.call())
    assert rig.settled() == [frame]


@pytest.mark.parametrize(
    "result", [RecordResult(shard_id="shard-0"), RecordResult(sequence_number="", shard_id="s")]
)
def test_a_result_without_a_sequence_number_is_no_delivery(result: RecordResult) -> None:
    """Whatever FailedRecordCount says: the engine is never told of it."""
    rig = Rig()
    frame = rig.put(2)
    rig.answer(rig.call(), [delivered(), result])
    assert frame.results == [delivered(), None]
    assert rig.counters.possible_duplicates == 1
    assert rig.counters.failures[FailureCode.OTHER] == 1


def test_a_record_that_the_service_refuses_for_itself_is_buried_beside_delivered_ones() -> None:
    rig = Rig()
    frame = rig.put(2)
    rig.answer(rig.call(), [failed("InvalidArgumentException"), delivered()])
    assert rig.settled() == [frame]
    assert frame.results[0] == failed("InvalidArgumentException")
    assert rig.counters.dead[DeadReason.POISON] == 1


def test_a_shard_that_takes_nothing_backs_off_more_and_more_until_it_takes_something() -> None:
    rig = Rig()
    rig.put(4)
    no, yes = failed("InternalFailure"), delivered()
    waits = []
    for results in ([no] * 4, [no] * 4, [no] * 4, [no, no, no, yes], [no] * 3):
        rig.answer(rig.call(), results)
        start_ns = rig.now_ns
        rig.wait()
        waits.append((rig.now_ns - start_ns) // MS)
    assert waits == [75, 150, 300, 75, 150]


def test_a_shard_that_took_everything_has_a_clean_sheet() -> None:
    rig = Rig()
    rig.put()
    for _ in range(3):
        rig.answer(rig.call(), [failed()])
        rig.wait()
    rig.answer(rig.call())
    rig.put()
    start_ns = rig.now_ns
    rig.answer(rig.call(), [failed()])
    rig.wait()
    assert rig.now_ns - start_ns == 75 * MS


def test_what_failed_goes_again_in_the_order_in_which_it_came() -> None:
    rig = Rig()
    frames = [rig.put(2) for _ in range(3)]
    batch = rig.call()
    no, yes = failed(), delivered()
    rig.answer(batch, [no, yes, no, no, yes, no])
    a, b, c = (frame.records for frame in frames)
    assert rig.call().records == [a[0], b[0], b[1], c[1]]


def test_one_shards_failures_hold_back_no_other() -> None:
    rig = Rig(shard_count=2)
    low = make_frame([Record(b"", "k", "0")])
    high = make_frame([Record(b"", "k", str(2**128 - 1))])
    for frame in (low, high):
        rig.engine.handle_frame(frame, T)
    batch = rig.call()
    rig.answer(batch, [failed(), delivered("shard-1")])
    other = make_frame([Record(b"", "k", str(2**128 - 2))])
    rig.engine.handle_frame(other, T)
    assert rig.call().records == other.records


@pytest.mark.parametrize(("told", "sent"), [(None, 5), (10_000, 1)])
def test_a_shard_is_paced_by_the_quota_that_the_service_tells(told: int | None, sent: int) -> None:
    rig = Rig()
    description = replace(describe(even_shards(1)), shard_bytes_per_second=told)
    at_once(rig.engine.take_description(description, T))
    rig.put(5, size=9_000)
    assert len(rig.call().records) == sent

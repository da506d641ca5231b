"""The engine keeps the order of a key, makes aggregates, and refuses what it cannot keep."""

from dataclasses import replace

import pytest

from kdaemon.base.counters import DeadReason, RefuseReason
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Frame
from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.record import Record
from kdaemon.base.steps import at_once
from kdaemon.base.verdict import Verdict
from kdaemon.engine.engine import RECHECK_NS
from kdaemon.pack.batch import Batch
from tests.kit.engine_rig import SETTINGS, Rig, T
from tests.kit.frames import MS, SECOND, delivered, describe, even_shards, failed, make_frame

NOT_SENT = ServiceError("ConnectError", "", was_sent=False)
INVALID = ServiceError("ValidationException", "no good", status=400)
ORDERED = replace(SETTINGS, is_ordered=True)
ATOMIC = replace(ORDERED, is_shard_atomic=True)
AGGREGATING = replace(SETTINGS, aggregate_bytes_max=10_000)
BOTH = replace(ORDERED, aggregate_bytes_max=10_000)
AUTO = describe(even_shards(2), is_auto=True)


class KeyRig(Rig):
    def put_keys(self, keys: str, *, deadline_ns: int | None = None) -> Frame:
        """A record for each letter, its key; "-" is a record without one."""
        records = []
        for key in keys:
            self.record_count += 1
            records.append(Record(b"%08d" % self.record_count, key.strip("-")))
        frame = make_frame(records, deadline_ns=deadline_ns)
        assert self.engine.handle_frame(frame, self.now_ns)
        return frame


def numbers(batch: Batch | None) -> list[int]:
    """The records of a call, by the order in which they were put."""
    if batch is None:
        return []
    runs = [run.frame.records[index] for run in batch.runs for index in run.indices]
    return [int(record.data) for record in runs]


# Order


def test_of_one_key_one_record_is_out_and_other_keys_do_not_wait() -> None:
    rig = KeyRig(ORDERED)
    rig.put_keys("aab")
    first = rig.call()
    assert numbers(first) == [1, 3]
    rig.put_keys("ac")
    rig.now_ns += 100 * MS
    assert numbers(rig.poll()) == [5]
    rig.answer(first)
    sent = numbers(rig.poll())
    rig.now_ns += 100 * MS
    assert sent + numbers(rig.poll()) == [2], "[4] waits for it"


def test_whose_turn_has_come_goes_when_the_next_call_returns() -> None:
    """Not in a call for itself, while others are out."""
    rig = KeyRig(ORDERED)
    rig.put_keys("aa")
    first = rig.call()
    rig.put_keys("b")
    rig.now_ns += 100 * MS
    other = rig.call()
    assert numbers(other) == [3]
    rig.answer(first)
    assert rig.poll() is None
    rig.answer(other)
    assert numbers(rig.poll()) == [2]


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "InternalFailure"])
def test_what_failed_is_sent_before_what_comes_behind_it(code: str) -> None:
    rig = KeyRig(ORDERED)
    rig.put_keys("aab")
    rig.answer(rig.call(), [failed(code), delivered()])
    order: list[int] = []
    rig.now_ns += SECOND
    while (batch := rig.poll()) is not None:
        order += numbers(batch)
        rig.answer(batch)
    assert order == [1, 2]


def test_a_call_that_failed_whole_changes_no_order() -> None:
    rig = KeyRig(ORDERED)
    frame = rig.put_keys("aabb")
    rig.fail(rig.call(), NOT_SENT)
    rig.wait()
    sent = []
    while (batch := rig.poll()) is not None:
        sent.append(numbers(batch))
        rig.answer(batch)
    assert sent == [[1, 3], [2, 4]]
    assert rig.settled() == [frame]


def test_a_key_keeps_its_turn_through_a_reshard() -> None:
    rig = KeyRig(ORDERED)
    rig.put_keys("aa")
    first = rig.call()
    at_once(rig.engine.take_description(describe(even_shards(4)), rig.now_ns))
    rig.put_keys("a")
    assert rig.poll() is None
    rig.answer(first, [failed("InternalFailure")])
    order: list[int] = []
    rig.now_ns += SECOND
    while (batch := rig.poll()) is not None:
        order += numbers(batch)
        rig.answer(batch, [delivered(str(batch.runs[0].lane.shard_id))])
    assert order == [1, 2, 3]
    assert rig.counters.map_mismatches == 0


def test_where_a_shard_takes_all_or_nothing_a_key_fills_a_batch() -> None:
    rig = KeyRig(ATOMIC)
    rig.put_keys("aaab")
    batch = rig.call()
    assert numbers(batch) == [1, 4, 2, 3]
    rig.put_keys("aa")
    assert rig.poll() is None
    rig.answer(batch, [failed()] * 4)
    rig.wait()
    again = rig.call()
    assert [n for n in numbers(again) if n != 4] == [1, 2, 3, 5, 6]
    rig.answer(again)
    assert rig.engine.is_idle


def test_the_poison_of_a_key_lets_those_behind_it_pass() -> None:
    rig = KeyRig(ATOMIC)
    frame = rig.put_keys("aaa")
    sent: list[int] = []
    while (batch := rig.poll()) is not None:
        if 2 in numbers(batch):
            rig.fail(batch, INVALID)
        else:
            sent += numbers(batch)
            rig.answer(batch)
    assert sent == [1, 3]
    assert rig.settled() == [frame]
    assert rig.counters.dead[DeadReason.POISON] == 1


def test_a_record_withdrawn_from_behind_another_is_never_sent_and_the_next_goes() -> None:
    rig = KeyRig(ORDERED)
    rig.put_keys("a")
    batch = rig.call()
    gone = rig.put_keys("a", deadline_ns=T + SECOND)
    rig.put_keys("a")
    rig.now_ns = T + SECOND
    assert rig.poll() is None
    assert rig.settled() == [gone]
    assert rig.counters.rejected[RefuseReason.DEADLINE] == 1
    rig.answer(batch)
    assert numbers(rig.poll()) == [3]


def test_records_without_a_key_keep_no_order_and_hold_up_nobody() -> None:
    rig = KeyRig(ORDERED)
    rig.put_keys("---")
    assert numbers(rig.poll()) == [1, 2, 3]
    rig.put_keys("-a-a")
    rig.now_ns += 100 * MS
    sent = numbers(rig.poll())
    rig.now_ns += 100 * MS
    assert {*sent, *numbers(rig.poll())} == {4, 5, 6}


# Streams that cannot keep it


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ORDERED, ['ordering = "partition_key"']),
        (AGGREGATING, ['aggregation = "kpl"']),
        (BOTH, ['ordering = "partition_key"', 'aggregation = "kpl"']),
    ],
)
def test_a_service_managed_stream_is_not_written_to_and_says_what_to_change(
    settings: EngineSettings, words: list[str]
) -> None:
    rig = KeyRig(settings)
    rig.put_keys("a")
    at_once(rig.engine.take_description(AUTO, T))
    assert all(word in str(rig.engine.unavailable) for word in words)
    assert rig.poll() is None
    assert rig.engine.next_wakeup_ns() == T + RECHECK_NS
    at_once(rig.engine.take_description(describe(even_shards(2)), T))
    assert rig.engine.unavailable is None
    assert numbers(rig.poll()) == [1]


def test_on_auto_those_who_wait_hear_at_once_why_and_what_nobody_waits_for_is_kept() -> None:
    rig = KeyRig(ORDERED)
    waiting = rig.put_keys("a", deadline_ns=T + 20 * SECOND)
    rig.put_keys("b")  # nobody waits for it
    at_once(rig.engine.take_description(AUTO, T))
    assert rig.engine.take_settled() == [waiting]
    assert waiting.refusal is not None
    assert waiting.refusal[0] == "InvalidArgumentException"
    assert rig.counters.rejected[RefuseReason.UNAVAILABLE] == 1
    assert rig.poll() is None
    assert rig.counters.buffered == 1


@pytest.mark.parametrize(
    ("told", "is_available"), [((True,), False), ((True, None), False), ((True, False), True)]
)
def test_aggregates_are_not_written_where_queues_or_channels_read_records_one_by_one(
    told: tuple[bool | None, ...], *, is_available: bool
) -> None:
    """What is unknown (None) stays as it was."""
    rig = KeyRig(AGGREGATING)
    rig.put_keys("a")
    for has_readers in told:
        at_once(
            rig.engine.take_description(describe(even_shards(2), has_record_readers=has_readers), T)
        )
    assert ("queues and channels" in str(rig.engine.unavailable)) is not is_available
    assert (rig.poll() is not None) is is_available


def test_without_aggregates_a_stream_with_queues_is_as_any() -> None:
    rig = KeyRig(ORDERED)
    at_once(rig.engine.take_description(describe(even_shards(2), has_record_readers=True), T))
    rig.put_keys("a")
    assert rig.poll() is not None


def test_without_order_and_aggregates_a_service_managed_stream_is_as_any() -> None:
    rig = KeyRig()
    at_once(rig.engine.take_description(AUTO, T))
    assert rig.engine.unavailable is None
    rig.put_keys("a")
    assert rig.poll() is not None


@pytest.mark.parametrize("is_sent", [False, True])
def test_records_without_a_key_outlive_a_switch_to_auto_and_back(*, is_sent: bool) -> None:
    """They have no turn to lose, on whatever lane they come to be."""
    rig = KeyRig(ORDERED)
    frame = rig.put_keys("--")
    if is_sent:
        batch = rig.call()
        at_once(rig.engine.take_description(AUTO, T))
        rig.answer(batch, [failed("InternalFailure")] * 2)
    else:
        at_once(rig.engine.take_description(AUTO, T))
    at_once(rig.engine.take_description(describe(even_shards(2)), T))
    rig.now_ns += SECOND
    rig.answer(rig.call())
    assert rig.settled() == [frame]
    assert rig.engine.is_idle


# Aggregates


def test_an_aggregate_settles_each_of_its_records_with_its_own_result() -> None:
    rig = KeyRig(AGGREGATING)
    frame = rig.put_keys("abc")
    batch = rig.call()
    assert (len(batch.records), batch.record_count) == (1, 3)
    assert rig.counters.in_flight == 3
    rig.answer(batch)
    assert rig.settled() == [frame]
    assert frame.results == [delivered()] * 3
    assert (rig.counters.delivered, rig.counters.attempts) == (3, 3)


def test_two_aggregates_of_a_call_settle_each_its_own_records() -> None:
    rig = KeyRig(AGGREGATING)
    keys = [("a", None), ("b", "7"), ("a", None), ("b", "7"), ("b", "7")]
    frame = make_frame([Record(b"%08d" % n, *key) for n, key in enumerate(keys)])
    assert rig.engine.handle_frame(frame, rig.now_ns)
    batch = rig.call()
    assert batch.widths == [2, 3]
    first, second = delivered(number=1), delivered(number=2)
    rig.answer(batch, [first, second])
    assert frame.results == [first, second, first, second, second]


def test_an_aggregate_that_is_throttled_counts_its_records_and_is_made_again() -> None:
    rig = KeyRig(AGGREGATING)
    frame = rig.put_keys("abc")
    rig.answer(rig.call(), [failed()])
    assert rig.counters.throttled == 3
    assert rig.counters.retries[Verdict.THROTTLED] == 3
    rig.wait()
    again = rig.call()
    assert len(again.records) == 1
    rig.answer(again)
    assert rig.settled() == [frame]


def test_another_number_of_results_than_was_sent_is_no_answer_for_an_aggregate() -> None:
    rig = KeyRig(AGGREGATING)
    frame = rig.put_keys("abc")
    rig.answer(rig.call(), [delivered()] * 3)
    assert frame.results == [None] * 3
    assert rig.counters.possible_duplicates == 3


def test_a_refused_aggregate_is_halved_as_its_records() -> None:
    rig = KeyRig(AGGREGATING)
    frame = rig.put_keys("abcd")
    calls = []
    while (batch := rig.poll()) is not None:
        calls.append(numbers(batch))
        if 2 in calls[-1]:
            rig.fail(batch, INVALID)
        else:
            rig.answer(batch)
    assert calls == [[1, 2, 3, 4], [1, 2], [3, 4], [1], [2]]
    assert rig.settled() == [frame]
    assert rig.counters.dead[DeadReason.POISON] == 1


def test_halves_of_a_refused_aggregate_are_no_larger_than_a_call() -> None:
    rig = KeyRig(replace(AGGREGATING, batch_records_max=2))
    rig.put_keys("abcdefghi")
    rig.fail(rig.call(), INVALID)
    sizes = []
    while (batch := rig.poll()) is not None:
        sizes.append(len(batch.records))
        rig.answer(batch)
    assert sizes == [2, 2, 2, 2, 1]


def test_a_key_in_an_aggregate_goes_in_order_and_fails_as_one() -> None:
    rig = KeyRig(BOTH)
    rig.put_keys("aab")
    rig.put_keys("a")
    batch = rig.call()
    assert [n for n in numbers(batch) if n != 3] == [1, 2, 4]
    rig.put_keys("a")
    rig.now_ns += 100 * MS
    assert rig.poll() is None
    rig.answer(batch, [failed("InternalFailure")])
    rig.wait()
    again = rig.call()
    assert [n for n in numbers(again) if n != 3] == [1, 2, 4, 5]


# Shards that are behind


def hot_rig() -> Rig:
    """Two shards of one record a second each; room for some 30 records."""
    settings = replace(
        SETTINGS, shard_records_per_second=1, buffer_bytes_max=20_000, record_bytes_max=1000
    )
    return Rig(settings, shard_count=2)


def at_shards(*shards: int) -> Frame:
    """Records of 10 bytes, 500 held, for the low (0) or the high shard (1)."""
    records = [Record(bytes(9), "k", str(shard * HASH_KEY_MAX)) for shard in shards]
    return make_frame(records, footprint_bytes=500 * len(records))


def test_a_hot_shard_fills_a_part_of_the_memory_and_refuses_its_own_records_only() -> None:
    rig = hot_rig()
    while rig.engine.handle_frame(at_shards(0), T):
        assert rig.counters.buffered < 100
    held = rig.engine.ledger.footprint_bytes
    assert 0.2 * 20_000 <= held <= 0.75 * 20_000
    mixed = at_shards(0, 1, 0)
    assert rig.engine.handle_frame(mixed, T)
    assert [None if r is None else r.error_code for r in mixed.results] == [
        "ProvisionedThroughputExceededException",
        None,
        "ProvisionedThroughputExceededException",
    ]
    assert mixed.results[0] is not None
    assert "shard-0" in str(mixed.results[0].error_message)
    assert rig.counters.rejected[RefuseReason.FULL] == 1 + 2
    assert rig.counters.unaccounted() == 0
    assert rig.engine.handle_frame(at_shards(1), T)


def test_what_is_refused_of_a_frame_does_not_keep_it_from_settling() -> None:
    rig = hot_rig()
    while rig.engine.handle_frame(at_shards(0), T):
        assert rig.counters.buffered < 100
    mixed = at_shards(0, 1)
    assert rig.engine.handle_frame(mixed, T)
    while mixed.unsettled:
        batch = rig.poll()
        if batch is None:
            rig.wait()
            continue
        rig.answer(batch, [delivered(str(run.lane.shard_id)) for run in batch.runs])
    assert [r is not None and r.is_delivered for r in mixed.results] == [False, True]


def test_a_patient_client_waits_with_all_of_it_and_nothing_is_counted() -> None:
    rig = hot_rig()
    while rig.engine.handle_frame(at_shards(0), T):
        assert rig.counters.buffered < 100
    received = rig.counters.received
    mixed = at_shards(0, 1)
    assert not rig.engine.handle_frame(mixed, T, is_patient=True)
    assert mixed.results == [None, None]
    assert rig.counters.received == received


def test_records_that_wait_behind_others_of_their_key_are_part_of_a_shards_queue() -> None:
    rig = Rig(replace(ORDERED, shard_records_per_second=1, buffer_bytes_max=20_000), shard_count=2)
    while rig.engine.handle_frame(at_shards(0), T):
        assert rig.counters.buffered < 100
    assert rig.engine.handle_frame(at_shards(1), T)


def test_in_an_outage_no_shard_is_refused_more_than_another() -> None:
    rig = hot_rig()
    rig.put(1)
    rig.fail(rig.call(), NOT_SENT)
    while rig.engine.handle_frame(at_shards(0), T):
        assert rig.counters.buffered < 100
    assert rig.engine.ledger.footprint_bytes > 0.95 * 20_000

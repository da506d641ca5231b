"""Yandex's throttling as latency: what is stalled, for how long and in which order, and what is
refused.

The numbers are those of a shard of 1,000 records a second with one second's worth saved up.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import HASH_KEY_MAX, MIB
from kdaemon.base.record import Record
from kdaemon.base.service import YANDEX
from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import LimiterKind, Quota, SandboxSettings

MS = 1_000_000
SECOND = 1000 * MS
NAME = "/ru-central1/b1gfolder/etndatabase/orders"
LOW, HIGH = Record(b"x", "k", "0"), Record(b"x", "k", str(HASH_KEY_MAX))


def make_service(wait_ms: int | None = 2000, **given: object) -> Service:
    made = SandboxSettings(service=YANDEX, quota_wait_ms=wait_ms, **given)  # type: ignore[arg-type]
    service = Service(made)
    service.create_stream(NAME, 2)
    return service


def stalled_ns(service: Service, count: int, now_ns: int, record: Record = LOW) -> int | None:
    """How long `count` records are stalled; None when they are refused."""
    results, until_ns = service.take_records(NAME, [record] * count, now_ns)
    is_delivered = {result.is_delivered for result in results}
    assert len(is_delivered) == 1, "a shard takes or refuses all records of a call"
    return until_ns - now_ns if is_delivered.pop() else None


def test_a_write_within_the_quota_is_answered_at_once() -> None:
    service = make_service()
    assert [stalled_ns(service, 500, 0), stalled_ns(service, 500, 0)] == [0, 0]


def test_a_write_over_the_quota_waits_for_what_those_before_it_owe() -> None:
    service = make_service()
    for _ in range(2):
        stalled_ns(service, 500, 0)
    assert stalled_ns(service, 500, 0) == 1  # any quota at all will do: a debt of 500 is left
    assert stalled_ns(service, 500, 0) == 500 * MS + 1
    assert stalled_ns(service, 1, 100 * MS) == 900 * MS + 1
    assert stalled_ns(service, 1, 2 * SECOND) == 0


def test_what_is_stalled_longer_than_the_deadline_is_refused_at_the_deadline() -> None:
    service = make_service(wait_ms=700)
    for _ in range(4):
        assert stalled_ns(service, 500, 0) is not None
    assert (
        stalled_ns(service, 500, 0) == 1000 * MS + 1
    )  # it is at the head after 500 ms: no deadline
    results, until_ns = service.take_records(NAME, [LOW, LOW], 0)
    assert until_ns == 700 * MS
    assert [(r.error_code, r.error_message) for r in results] == [
        ("ProvisionedThroughputExceededException", "quota exceeded")
    ] * 2
    assert stalled_ns(service, 1, 800 * MS) == 700 * MS + 1  # the refused ones took nothing


def test_a_call_is_stalled_for_the_slowest_of_its_shards() -> None:
    service = make_service()
    for _ in range(3):
        stalled_ns(service, 500, 0)
    results, until_ns = service.take_records(NAME, [HIGH, LOW, HIGH], 0)
    assert all(result.is_delivered for result in results)
    assert until_ns == 500 * MS + 1
    assert stalled_ns(service, 1, 0, HIGH) == 0
    low, high = service.stream(NAME).shards
    assert low.log[-1].arrival_ns == 500 * MS + 1
    assert [stored.arrival_ns for stored in high.log] == [0, 0, 0]


def test_one_refused_shard_leaves_the_other_its_records() -> None:
    service = make_service(wait_ms=1)
    for _ in range(4):
        stalled_ns(service, 500, 0)
    results, until_ns = service.take_records(NAME, [HIGH, LOW], 0)
    assert [result.is_delivered for result in results] == [True, False]
    assert until_ns == 1 * MS


def test_bytes_are_waited_for_as_records_are() -> None:
    service = make_service(quota=Quota(1000, MIB))
    large = Record(b"x" * (MIB - 1), "k", "0")
    assert [stalled_ns(service, 1, 0, large) for _ in range(3)] == [0, 1, SECOND + 1]


def test_whoever_reads_sees_a_record_when_it_got_its_quota() -> None:
    service = make_service()
    for _ in range(3):
        stalled_ns(service, 500, 0)
    stalled_ns(service, 1, 0)  # at 500 ms
    shard = {"StreamName": NAME, "ShardId": "shard-000000"}

    def read(kind: str, now_ns: int, **members: object) -> list[object]:
        payload = {**shard, "ShardIteratorType": kind, **members}
        token = service.handle("GetShardIterator", payload, 0)["ShardIterator"]
        records = service.handle("GetRecords", {"ShardIterator": token}, now_ns)["Records"]
        assert isinstance(records, list)
        return records

    assert len(read("TRIM_HORIZON", 0)) == 1000
    assert len(read("TRIM_HORIZON", 1)) == 1500
    assert len(read("TRIM_HORIZON", 500 * MS + 1)) == 1501
    assert len(read("LATEST", 500 * MS + 1)) == 501  # at 0 the stalled ones are yet to come


def test_a_stalled_put_record_is_refused_as_a_whole_call() -> None:
    service = make_service(wait_ms=1)
    for _ in range(4):
        stalled_ns(service, 500, 0)
    (result,), until_ns = service.take_record(NAME, LOW, 0)
    assert until_ns == 1 * MS
    assert service.refusal_of(result).code == "ThrottlingException"
    with pytest.raises(ServiceError, match="quota exceeded"):
        service.put_record(NAME, LOW, 0)


def test_a_failing_shard_is_not_waited_for() -> None:
    service = make_service()
    for _ in range(3):
        stalled_ns(service, 500, 0)
    fault = Fault(kind=FaultKind.RECORD_FAILURE, indices=(0,))
    results, until_ns = service.take_records(NAME, [LOW, HIGH], 0, fault)
    assert [result.error_code for result in results] == ["InternalFailure", None]
    assert until_ns == 0


def test_fixed_windows_stall_until_the_next_second_and_refuse_past_the_deadline() -> None:
    service = make_service(wait_ms=1500, limiter=LimiterKind.WINDOW, quota=Quota(2, MIB))
    assert [stalled_ns(service, 2, 0) for _ in range(4)] == [0, SECOND, 2 * SECOND, None]
    assert stalled_ns(service, 2, 1100 * MS) == 1900 * MS


def test_a_quota_set_while_writes_are_stalled_does_not_let_others_pass_them() -> None:
    service = make_service()
    for _ in range(4):
        stalled_ns(service, 500, 0)
    service.set_quota(Quota(10, MIB), now_ns=100 * MS)
    assert stalled_ns(service, 1, 100 * MS) == 400 * MS + 1


def test_without_the_setting_nothing_is_stalled() -> None:
    service = make_service(wait_ms=None)
    assert [stalled_ns(service, 500, 0) for _ in range(3)] == [0, 0, None]
    assert service.take_records(NAME, [LOW], 7).stalled_until_ns == 7


def test_the_setting_is_yandexs_own_and_bounded() -> None:
    with pytest.raises(ValueError, match="only Yandex stalls writes"):
        SandboxSettings(quota_wait_ms=1000)
    for wait_ms in (0, 15_001):
        with pytest.raises(ValueError, match="1 to 15000"):
            SandboxSettings(service=YANDEX, quota_wait_ms=wait_ms)


@settings(deadline=None)  # a busy machine is no failure
@given(
    wait_ms=st.integers(1, 3000),
    calls=st.lists(
        st.tuples(st.integers(0, 400 * MS), st.integers(1, 50)), min_size=1, max_size=80
    ),
)
def test_a_shard_answers_in_order_and_never_gives_more_than_its_quota(
    wait_ms: int, calls: list[tuple[int, int]]
) -> None:
    service = make_service(wait_ms, quota=Quota(100, MIB))
    now_ns = last_until_ns = 0
    for gap_ns, count in calls:
        now_ns += gap_ns
        results, until_ns = service.take_records(NAME, [LOW] * count, now_ns)
        if results[0].is_delivered:
            assert until_ns >= max(now_ns, last_until_ns)
            last_until_ns = until_ns
        else:
            assert until_ns == now_ns + wait_ms * MS
            assert last_until_ns >= until_ns, "only what would wait behind others is refused"
    arrivals = [stored.arrival_ns for stored in service.stored(NAME)]
    assert arrivals == sorted(arrivals)
    for first, start_ns in enumerate(arrivals):
        span_ns = arrivals[-1] - start_ns
        # One second saved up, and the last grant of at most 50 records may leave a debt.
        assert (len(arrivals) - first) * SECOND <= 100 * (SECOND + span_ns) + 50 * SECOND

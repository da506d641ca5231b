"""PutRecord and PutRecords against the imitated AWS: routing, quotas per record, refusals of
requests.
"""

import hashlib

import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import HASH_KEY_MAX, KIB, MIB
from kdaemon.base.record import Record
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import LimiterKind, Quota, SandboxSettings
from kdaemon.sandbox.shards import STORED_OVERHEAD_BYTES

SECOND = 1_000_000_000


def make_service(shard_count: int = 1, **settings: object) -> Service:
    service = Service(SandboxSettings(**settings))  # type: ignore[arg-type]
    service.create_stream("orders", shard_count)
    return service


def refusal(service: Service, *records: Record) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        service.put_records("orders", list(records), 0)
    assert caught.value.status == 400
    assert service.stored("orders") == []
    return caught.value


def test_results_stand_in_the_order_of_the_records_and_name_their_shards() -> None:
    service = make_service(16)
    records = [Record(b"%d" % index, f"key-{index}") for index in range(100)]
    results = service.put_records("orders", records, 0)
    for record, result in zip(records, results, strict=True):
        digest = hashlib.md5(record.partition_key.encode()).digest()
        assert result.shard_id == f"shardId-{digest[0] // 16:012d}"
        assert result.is_delivered
        assert result.error_code is None
    assert {stored.record.data for stored in service.stored("orders")} == {
        record.data for record in records
    }


def test_an_explicit_hash_key_overrides_the_partition_key() -> None:
    service = make_service(2)
    keys = ("0", str(2**127 - 1), str(2**127), str(HASH_KEY_MAX))
    results = service.put_records("orders", [Record(b"", "k", key) for key in keys], 0)
    assert [result.shard_id and int(result.shard_id[-1]) for result in results] == [0, 0, 1, 1]


def test_the_thousand_and_first_record_of_a_second_is_throttled_by_name() -> None:
    service = make_service()
    batch = [Record(b"x", "k")] * 500
    assert all(result.is_delivered for result in service.put_records("orders", batch, 0))
    assert all(result.is_delivered for result in service.put_records("orders", batch, 0))
    (result,) = service.put_records("orders", [Record(b"x", "k")], 0)
    assert result.error_code == "ProvisionedThroughputExceededException"
    assert result.error_message == (
        "Rate exceeded for shard shardId-000000000000 in stream orders under account 000000000000."
    )
    assert result.sequence_number is None
    assert result.shard_id is None
    assert len(service.stored("orders")) == 1000
    (result,) = service.put_records("orders", [Record(b"x", "k")], 1_000_000)
    assert result.is_delivered


def test_the_byte_quota_counts_the_key_in_utf8() -> None:
    service = make_service(quota=Quota(1000, 100))
    results = service.put_records("orders", [Record(b"x" * 48, "é"), Record(b"x" * 49, "é")], 0)
    assert [result.is_delivered for result in results] == [True, False]
    (result,) = service.put_records("orders", [Record(b"x" * 48, "é")], 0)
    assert result.is_delivered


def test_a_throttled_shard_leaves_its_neighbour_alone() -> None:
    service = make_service(2, quota=Quota(2, MIB))
    hot, cold = Record(b"h", "k", "0"), Record(b"c", "k", str(HASH_KEY_MAX))
    results = service.put_records("orders", [hot, hot, hot, cold, hot, cold, cold], 0)
    assert [result.is_delivered for result in results] == [
        True, True, False, True, False, True, False,
    ]  # fmt: skip
    assert [shard.throttled_count for shard in service.stream("orders").shards] == [2, 1]


def test_a_small_record_may_pass_after_a_large_one_was_throttled() -> None:
    service = make_service(quota=Quota(1000, 100))
    records = [Record(b"x" * 60, "k"), Record(b"x" * 60, "k"), Record(b"x" * 10, "k")]
    results = service.put_records("orders", records, 0)
    assert [result.is_delivered for result in results] == [True, False, True]


def test_the_window_limiter_lets_a_new_second_start_anew() -> None:
    service = make_service(limiter=LimiterKind.WINDOW, quota=Quota(2, MIB))
    batch = [Record(b"x", "k")] * 3
    at_end = service.put_records("orders", batch, SECOND - 1)
    at_start = service.put_records("orders", batch, SECOND)
    for results in (at_end, at_start):
        assert [result.is_delivered for result in results] == [True, True, False]


def test_a_quota_set_later_is_in_force_at_once_for_old_and_new_shards() -> None:
    service = make_service(1)
    service.set_quota(Quota(1, MIB), now_ns=0, stream="orders")
    batch = [Record(b"x", "k")] * 2
    assert [r.is_delivered for r in service.put_records("orders", batch, 0)] == [True, False]
    service.stream("orders").split(service.stream("orders").shards[0], 2**127, 0)
    assert [r.is_delivered for r in service.put_records("orders", batch, 0)] == [True, False]


def test_a_closed_shard_takes_no_more_and_its_children_do() -> None:
    service = make_service(1)
    service.put_records("orders", [Record(b"before", "k", "0")], 0)
    stream = service.stream("orders")
    stream.split(stream.shards[0], 2**127, 0)
    low, high = service.put_records(
        "orders", [Record(b"low", "k", "0"), Record(b"high", "k", str(2**127))], 0
    )
    assert low.shard_id == "shardId-000000000001"
    assert high.shard_id == "shardId-000000000002"
    assert [stored.record.data for stored in stream.shards[0].log] == [b"before"]


@pytest.mark.parametrize(
    ("record", "code", "text"),
    [
        (Record(b"", ""), "ValidationException", "records.2.member.partitionKey"),
        (Record(b"", "k" * 257), "ValidationException", "less than or equal to 256"),
        (Record(b"x" * MIB, "k"), "ValidationException", "less than or equal to 1048576"),
        (Record(b"", "k", "01"), "ValidationException", "records.2.member.explicitHashKey"),
        (Record(b"", "k", "-1"), "ValidationException", "records.2.member.explicitHashKey"),
        (Record(b"", "k", ""), "ValidationException", "records.2.member.explicitHashKey"),
        (Record(b"", "k", "1\n"), "ValidationException", "records.2.member.explicitHashKey"),
        (Record(b"", "k", "\u0661"), "ValidationException", "records.2.member.explicitHashKey"),
        (Record(b"", "k", str(2**128)), "InvalidArgumentException", "in the range: [0, 2^128-1]"),
    ],
)
def test_one_invalid_record_refuses_its_whole_request(record: Record, code: str, text: str) -> None:
    error = refusal(make_service(), Record(b"good", "k"), record)
    assert error.code == code
    assert text in error.message


def test_limits_are_met_exactly() -> None:
    service = make_service(16)
    results = service.put_records(
        "orders", [Record(b"x" * (MIB - 1), "k"), Record(b"", "é" * 256), Record(b"", "k", "0")], 0
    )
    assert all(result.is_delivered for result in results)


def test_a_request_holds_1_to_500_records() -> None:
    service = make_service()
    assert "greater than or equal to 1" in refusal(service).message
    assert "less than or equal to 500" in refusal(service, *[Record(b"", "k")] * 501).message


def test_a_request_above_its_byte_limit_is_refused_and_the_limit_can_be_set() -> None:
    too_much = [Record(b"x" * (MIB - 1), "k")] * 10 + [Record(b"", "k")]
    error = refusal(make_service(), *too_much)
    assert error.code == "InvalidArgumentException"
    assert error.message == "Records size exceeds 10 MB limit"
    service = make_service(request_bytes_max=5 * MIB, quota=Quota(1000, 100 * MIB))
    assert "5 MB" in refusal(service, *too_much[:6]).message
    assert len(service.put_records("orders", too_much[:5], 0)) == 5


def test_a_stream_with_larger_records_takes_them() -> None:
    service = make_service()
    service.create_stream("large", 1, record_bytes_max=2 * MIB)
    assert service.put_records("large", [Record(b"x" * (2 * MIB - 1), "k")], 0)[0].is_delivered


def test_a_refused_request_spends_no_quota() -> None:
    service = make_service(quota=Quota(1, MIB))
    refusal(service, Record(b"x", "k"), Record(b"x", ""))
    assert service.put_records("orders", [Record(b"x", "k")], 0)[0].is_delivered


def test_an_unknown_stream_is_not_found() -> None:
    with pytest.raises(ServiceError) as caught:
        make_service().put_records("nothing", [Record(b"", "k")], 0)
    assert caught.value.code == "ResourceNotFoundException"
    assert caught.value.message == "Stream nothing under account 000000000000 not found."


def test_put_record_throttles_as_an_error_of_the_whole_call() -> None:
    service = make_service(quota=Quota(1, MIB))
    assert service.put_record("orders", Record(b"x", "k"), 0).is_delivered
    with pytest.raises(ServiceError, match="Rate exceeded for shard shardId-000000000000") as error:
        service.put_record("orders", Record(b"x", "k"), 0)
    assert error.value.code == "ProvisionedThroughputExceededException"
    assert error.value.status == 400


def test_memory_stays_within_its_setting_and_the_newest_records_survive() -> None:
    budget = 100 * KIB
    service = make_service(4, retained_bytes_max=budget, quota=Quota(10**6, 10**9))
    for call in range(100):
        batch = [Record(b"%8d" % (call * 100 + index), f"é{index}") for index in range(100)]
        service.put_records("orders", batch, call)
        stored = service.stored("orders")
        assert sum(each.retained_bytes for each in stored) == service.state()["retained_bytes"]
        assert sum(each.retained_bytes for each in stored) <= budget
    newest = sorted(int(each.record.data) for each in service.stored("orders"))
    assert newest[-1] == 9999
    assert newest[0] > 9999 - budget // STORED_OVERHEAD_BYTES
    assert len(newest) >= 300

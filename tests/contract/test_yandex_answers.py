"""What Yandex answers, how it throttles, what it tells of shards, as the sandbox imitates it."""

import asyncio
import base64
import json
import re
import threading
from collections.abc import Iterator

import pytest

from kdaemon.base.limits import HASH_KEY_MAX, MIB
from kdaemon.base.record import Record
from kdaemon.sandbox.faults import Fault, FaultKind
from kdaemon.sandbox.server import SandboxServer
from kdaemon.sandbox.settings import Quota
from kdaemon.system import SystemClock
from tests.kit.daemon import send as ask
from tests.kit.endpoints import entry, send
from tests.kit.yandex import GOOD, HIGH, JSON, LOW, STREAM, Said, Yandex, issue, validation

UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture
def yandex() -> Yandex:
    return Yandex()


# --- what is answered


def test_a_sequence_number_is_the_offset_in_its_shard_from_zero(yandex: Yandex) -> None:
    said = yandex.put(*(entry(b"x", "k", key) for key in (LOW, HIGH, LOW)))
    assert said.members == {
        "EncryptionType": "NONE",
        "FailedRecordCount": 0,
        "Records": [
            {"SequenceNumber": "0", "ShardId": "shard-000000"},
            {"SequenceNumber": "0", "ShardId": "shard-000001"},
            {"SequenceNumber": "1", "ShardId": "shard-000000"},
        ],
    }


def test_a_shards_records_keep_the_order_of_the_request(yandex: Yandex) -> None:
    keys = [f"key-{index}" for index in range(50)]
    yandex.put(*(entry(key.encode(), key) for key in keys))
    for shard in yandex.service.stream(STREAM).shards:
        data = [stored.record.data.decode() for stored in shard.log]
        assert data == sorted(data, key=keys.index)
        assert len(data) > 1


def throttled(text: str = "quota exceeded") -> dict[str, str]:
    code = "ProvisionedThroughputExceededException"
    return {"SequenceNumber": "", "ShardId": "", "ErrorCode": code, "ErrorMessage": text}


def test_the_records_of_a_shard_share_one_fate_and_a_failed_one_names_no_shard() -> None:
    yandex = Yandex(quota=Quota(3, MIB))
    low, high = entry(b"x", "k", LOW), entry(b"x", "k", HIGH)
    assert yandex.put(low).members["FailedRecordCount"] == 0
    said = yandex.put(low, high, low, low)
    taken = {"SequenceNumber": "0", "ShardId": "shard-000001"}
    assert said.members["Records"] == [throttled(), taken, throttled(), throttled()]
    assert (said.status, said.members["FailedRecordCount"]) == (200, 3)
    assert said.members["EncryptionType"] == "NONE"


def test_without_request_units_all_records_are_throttled_and_none_says_why() -> None:
    yandex = Yandex(request_units_per_second=3)
    large = entry(b"x" * 4096, "k")  # 2 blocks and 1: 3 units
    assert [yandex.put(large).members["FailedRecordCount"] for _ in range(2)] == [0, 0]
    said = yandex.put(GOOD, GOOD)
    failed = {"SequenceNumber": "", "ShardId": "", "ErrorCode": "ThrottlingException"}
    assert said == Said(
        200,
        {
            "EncryptionType": "ENCRYPTION_UNDEFINED",
            "FailedRecordCount": 2,
            "Records": [failed, failed],
        },
        stalled_until_ns=1_000_000_000,
    )


def test_units_that_come_within_a_second_are_waited_for() -> None:
    yandex = Yandex(request_units_per_second=4)
    two = entry(b"", "k")  # 2 units: half a second
    stalled_s = [yandex.put(two).stalled_until_ns / 1e9 for _ in range(4)]
    assert stalled_s == [0, 0, 0.5, 1]
    assert yandex.put(two).members["FailedRecordCount"] == 1, "it would take a second and a half"
    assert len(yandex.service.stored(STREAM)) == 4
    said = yandex.put(two, now_ns=700_000_000)
    assert (said.members["FailedRecordCount"], said.stalled_until_ns) == (0, 1_500_000_000)


UNITS = {
    "nothing but a key": (entry(b"", "k"), 2),
    "data and key fill a block": (entry(b"x" * 4095, "k"), 2),
    "one byte more": (entry(b"x" * 4096, "k"), 3),
    "the hash key counts, too": (entry(b"x" * 4095, "k", LOW), 3),
}


@pytest.mark.parametrize("case", UNITS)
def test_a_call_costs_one_unit_and_one_for_each_block_of_4_kib(case: str) -> None:
    record, units = UNITS[case]
    yandex = Yandex(request_units_per_second=10)
    yandex.put(record)
    nine = yandex.put(entry(b"x" * 30_000, "k"))  # units, of which 10 come in a second
    assert nine.stalled_until_ns == (9 - (10 - units)) * 100_000_000


def test_a_put_record_that_is_throttled_is_a_throttled_call() -> None:
    yandex = Yandex(quota=Quota(1, MIB))
    single = {"StreamName": STREAM, **entry(b"x", "k", LOW)}
    assert yandex.call("PutRecord", single).members["SequenceNumber"] == "0"
    said = yandex.call("PutRecord", single)
    assert said.refusal == (400, "ThrottlingException", issue("quota exceeded", 500002))


def test_a_put_record_that_failed_is_an_internal_error(yandex: Yandex) -> None:
    fault = Fault(kind=FaultKind.RECORD_FAILURE)
    (failed,) = yandex.service.put_records(STREAM, [Record(b"x", "k")], 0, fault)
    error = yandex.service.refusal_of(failed)
    assert (error.status, error.code) == (500, "InternalError")


TEXTS = {
    "quota exceeded": "ProvisionedThroughputExceededException",
    "database size exceeded": "ProvisionedThroughputExceededException",
    "try later. Write inflight limit reached. 5 vs. maximum 4": (
        "ProvisionedThroughputExceededException"
    ),
    "Write to inactive partition 3": "InternalFailure",
    "Disk is full": "InternalFailure",
    "Connection to tablet 72075186224037888 is dead": "InternalFailure",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_test_can_have_a_record_fail_in_the_services_words(yandex: Yandex, text: str) -> None:
    fault = Fault(kind=FaultKind.RECORD_FAILURE, indices=(0,), code=TEXTS[text], message=text)
    yandex.service.add_faults(fault)
    said = yandex.put(entry(b"x", "k", LOW), entry(b"x", "k", HIGH))
    failed = {**throttled(text), "ErrorCode": TEXTS[text]}
    assert said.members["Records"] == [
        failed,
        {"SequenceNumber": "0", "ShardId": "shard-000001"},
    ]


FAULTS = {
    "throttle": (400, "ThrottlingException"),
    "expired_token": (400, "AccessDeniedException"),
    "missing_stream": (400, "ResourceNotFoundException"),
    "access_denied": (400, "AccessDeniedException"),
}


def test_who_may_not_describe_a_stream_is_told_that_there_is_perhaps_none(yandex: Yandex) -> None:
    fault = Fault(kind=FaultKind.ACCESS_DENIED, operation="DescribeStream")
    yandex.service.add_faults(fault)
    text = f"path '{STREAM}' does not exist or you do not have access rights"
    said = yandex.call("DescribeStream", {"StreamName": STREAM})
    assert said.refusal == (400, "ResourceNotFoundException", issue(text, 500018))


STATUSES = {503: "Unavailable", 500: "InternalError", 429: "ThrottlingException"}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_call_fails_on_request_with_the_services_own_codes(yandex: Yandex, kind: str) -> None:
    yandex.service.add_faults(Fault(kind=FaultKind(kind)))
    assert yandex.put(GOOD).refusal[:2] == FAULTS[kind]
    assert yandex.service.stored(STREAM) == []


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_on_request_has_the_services_own_code(yandex: Yandex, status: int) -> None:
    yandex.service.add_faults(Fault(kind=FaultKind.STATUS, status=status))
    assert yandex.put(GOOD).refusal[:2] == (status, STATUSES[status])


def test_the_services_deadline_says_nothing_of_what_was_written(yandex: Yandex) -> None:
    text = "Request hasn't been completed by deadline"
    yandex.service.add_faults(
        Fault(
            kind=FaultKind.STATUS,
            status=400,
            code="RequestExpired",
            message=text,
            is_written=True,
        )
    )
    assert yandex.put(GOOD).refusal == (400, "RequestExpired", text)
    assert len(yandex.service.stored(STREAM)) == 1


def test_a_write_over_the_quota_is_stalled_and_refused_only_behind_others() -> None:
    yandex = Yandex(quota=Quota(1, MIB), quota_wait_ms=1500)
    record = entry(b"x", "k", LOW)
    stalled_s = [yandex.put(record).stalled_until_ns / 1e9 for _ in range(3)]
    assert stalled_s == pytest.approx([0, 0, 1], abs=1e-6)
    assert yandex.put(record).members["FailedRecordCount"] == 0
    said = yandex.put(record)
    assert said.members["Records"] == [throttled()]
    assert said.stalled_until_ns == 1_500_000_000


# --- shards


def test_describe_stream_gives_100_shards_a_page() -> None:
    yandex = Yandex(150)
    first = yandex.describe()
    assert (len(first["Shards"]), first["HasMoreShards"]) == (100, True)
    rest = yandex.describe(ExclusiveStartShardId=first["Shards"][-1]["ShardId"])
    assert (len(rest["Shards"]), rest["HasMoreShards"]) == (50, False)
    names = [shard["ShardId"] for shard in first["Shards"] + rest["Shards"]]
    assert names == [f"shard-{index:06d}" for index in range(150)]


def test_describe_stream_starts_behind_a_shard_that_is_there(yandex: Yandex) -> None:
    said = yandex.call(
        "DescribeStream", {"StreamName": STREAM, "ExclusiveStartShardId": "shard-000007"}
    )
    assert said.refusal == validation("Bad shard id shard-000007")


def test_describe_stream_takes_a_limit_of_100_at_most(yandex: Yandex) -> None:
    for limit, status in ((1, 200), (100, 200), (101, 400)):
        said = yandex.call("DescribeStream", {"StreamName": STREAM, "Limit": limit})
        assert said.status == status, limit


def test_a_streams_arn_is_its_name_and_its_encryption_is_not_told(yandex: Yandex) -> None:
    description = yandex.describe()
    assert description["StreamARN"] == description["StreamName"] == STREAM
    assert description["EncryptionType"] == "ENCRYPTION_UNDEFINED"


@pytest.mark.parametrize("kib", [128, 512, 1024, None])
def test_a_streams_write_quota_is_chosen_and_told(kib: int | None) -> None:
    yandex = Yandex(0)
    members = {"StreamName": STREAM, "ShardCount": 1}
    if kib is not None:
        members["WriteQuotaKbPerSec"] = kib
    assert yandex.call("CreateStream", members).status == 200
    assert yandex.describe()["WriteQuotaKbPerSec"] == (kib or 1024)


@pytest.mark.parametrize("kib", [1, 256, 1025, 2048])
def test_another_write_quota_is_refused(kib: int) -> None:
    members = {"StreamName": STREAM, "ShardCount": 1, "WriteQuotaKbPerSec": kib}
    assert Yandex(0).call("CreateStream", members).refusal[:2] == (400, "ValidationException")


def ranges(yandex: Yandex) -> list[tuple[int, int]]:
    told = (shard["HashKeyRange"] for shard in yandex.describe()["Shards"])
    return [(int(each["StartingHashKey"]), int(each["EndingHashKey"])) for each in told]


@pytest.mark.parametrize("shard_count", [1, 2, 3, 7])
def test_a_static_stream_divides_the_hash_keys_evenly(shard_count: int) -> None:
    width = HASH_KEY_MAX // shard_count
    found = ranges(Yandex(shard_count))
    assert [start for start, _ in found] == [width * index for index in range(shard_count)]
    assert found[-1][1] == HASH_KEY_MAX


def test_with_two_shards_the_first_ends_one_lower_than_at_aws(yandex: Yandex) -> None:
    assert ranges(yandex)[0] == (0, 2**127 - 2)


def test_more_shards_map_every_key_anew_and_all_stay_open(yandex: Yandex) -> None:
    record = entry(b"x", "k", str(2**127 - 2**120))
    assert yandex.put(record).members["Records"][0]["ShardId"] == "shard-000000"
    members = {"StreamName": STREAM, "TargetShardCount": 4}
    assert yandex.call("UpdateShardCount", members).status == 200
    assert yandex.put(record).members["Records"][0]["ShardId"] == "shard-000001"
    shards = yandex.describe()["Shards"]
    assert not any("ParentShardId" in shard for shard in shards)
    assert not any("EndingSequenceNumber" in shard["SequenceNumberRange"] for shard in shards)


def test_shards_never_become_fewer(yandex: Yandex) -> None:
    said = yandex.call("UpdateShardCount", {"StreamName": STREAM, "TargetShardCount": 1})
    assert said.refusal[:2] == (400, "InvalidArgumentException")
    assert "must be non-decreasing, old value is 2 new value is 1" in said.refusal[2]


def test_a_shard_that_split_is_told_as_if_open_and_only_its_children_say_so() -> None:
    yandex = Yandex(can_split=True)
    yandex.service.split_shard(STREAM, "shard-000000", 1)
    shards = yandex.describe()["Shards"]
    assert [shard.get("ParentShardId") for shard in shards] == [None, None, *["shard-000000"] * 2]
    assert not any("EndingSequenceNumber" in shard["SequenceNumberRange"] for shard in shards)


def test_the_last_hash_key_that_is_told_of_a_shard_goes_to_the_next_one() -> None:
    yandex = Yandex(can_split=True)
    yandex.service.split_shard(STREAM, "shard-000000", 1)
    parts = yandex.describe()["Shards"][2:]  # the two halves, which are open
    end = parts[0]["HashKeyRange"]["EndingHashKey"]
    said = yandex.put(entry(b"x", "k", str(int(end) - 1)), entry(b"x", "k", end))
    found = [result["ShardId"] for result in said.members["Records"]]
    assert found == [part["ShardId"] for part in parts]


# --- what only HTTP shows


@pytest.fixture
def over_http(yandex: Yandex) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    server = SandboxServer(yandex.service, SystemClock())
    thread = threading.Thread(target=loop.run_forever, name="yandex", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(port=0), loop).result()
        yield f"http://127.0.0.1:{server.port}"
        asyncio.run_coroutine_threadsafe(server.aclose(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_request_id_of_ours_comes_back_behind_the_services_own(over_http: str) -> None:
    headers: dict[str, str | None] = {"content-type": JSON, "x-amz-target": "x.DescribeStream"}
    body = json.dumps({"StreamName": STREAM}).encode()
    plain = send(over_http, "POST", body, headers).headers["x-amzn-requestid"]
    assert re.fullmatch(UUID, plain)
    answer = send(over_http, "POST", body, {**headers, "x-request-id": "mine-7"})
    assert re.fullmatch(f"{UUID}-mine-7", answer.headers["x-amzn-requestid"])
    refused = send(over_http, "POST", b"{", {**headers, "x-request-id": "mine-8"})
    assert refused.status == 400
    assert re.fullmatch(f"{UUID}-mine-8", refused.headers["x-amzn-requestid"])


def test_tokens_are_set_by_call_and_none_is_told_again(over_http: str) -> None:
    url = f"{over_http}/sandbox/tokens"
    status, text = ask("POST", url, '{"accepted": ["t1.secret"], "is_required": true}')
    assert status == 200
    assert "t1.secret" not in text
    headers: dict[str, str | None] = {"content-type": JSON, "x-amz-target": "x.DescribeStream"}
    body = json.dumps({"StreamName": STREAM}).encode()
    assert send(over_http, "POST", body, headers).status == 400
    token: dict[str, str | None] = {**headers, "x-yacloud-subjecttoken": "t1.secret"}
    assert send(over_http, "POST", body, token).status == 200
    assert ask("POST", url, '{"accepted": "t1"}')[0] == 400
    assert ask("POST", url, "{}")[0] == 400
    assert ask("POST", url, '{"accepted": null}')[0] == 200
    assert send(over_http, "POST", body, headers).status == 200


def test_ping_is_answered_to_anybody(over_http: str) -> None:
    assert ask("GET", f"{over_http}/ping") == (200, "")


def test_data_comes_back_as_it_was_put(yandex: Yandex) -> None:
    data = bytes(range(256))
    yandex.put(entry(data, "k", LOW))
    members = {
        "StreamName": STREAM,
        "ShardId": "shard-000000",
        "ShardIteratorType": "AT_SEQUENCE_NUMBER",
        "StartingSequenceNumber": "0",
    }
    token = yandex.call("GetShardIterator", members).members["ShardIterator"]
    (record,) = yandex.call("GetRecords", {"ShardIterator": token}).members["Records"]
    assert base64.b64decode(record["Data"]) == data
    assert record["SequenceNumber"] == "0"

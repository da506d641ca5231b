"""What kdaemon makes of what Yandex does: a daemon as a process before the sandbox.

Each case has a stream of its own, so that one which holds harms no other. What the service does is
pinned in `test_yandex_requests.py` and `test_yandex_answers.py`.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdaemon.base.limits import HASH_KEY_MAX, MIB
from tests.kit.daemon import Daemon, running, sandbox, send
from tests.kit.endpoints import Endpoint, data_of, entry
from tests.kit.patience import wait_for
from tests.kit.yandex import BASE, issue

SHARDS = 2
LOW, HIGH = "0", str(HASH_KEY_MAX)
DEADLINE = "Request hasn't been completed by deadline"
SKEW = "The request was received more than 15 minutes after the date specified in it"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings = {
        "service": "yandex",
        "default.linger_ms": 0,
    }
    with running(tmp_path_factory.mktemp("yandex"), settings) as daemon:
        yield daemon
        assert daemon.stop() == 0


_numbers = itertools.count(1)
UNSIGNED: dict[str, str | None] = {"authorization": None, "x-amz-date": None}  # as curl does


def endpoint_of(daemon: Daemon) -> Endpoint:
    """Puts go to the daemon, all else to the sandbox behind it."""
    return Endpoint("daemon", url=daemon.sandbox_url, put_url=daemon.url, headers=dict(UNSIGNED))


class Case:
    """A stream of a case's own, and what became of it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.stream = f"{BASE}/case-{next(_numbers)}"
        self.endpoint = endpoint_of(daemon)
        self.endpoint.make_stream(self.stream, SHARDS)

    def fault(self, **members: Any) -> None:
        self.daemon.inject({"stream": self.stream, **members})

    def put(self, *records: dict[str, Any]) -> tuple[int, str]:
        """Status, and the code of the call or of its first record that failed."""
        answer = self.endpoint.put("PutRecords", StreamName=self.stream, Records=records)
        results = answer.members.get("Records", [])
        codes = [each["ErrorCode"] for each in results if "ErrorCode" in each]
        return answer.status, codes[0] if codes else answer.refusal[1]

    def stored(self) -> list[bytes]:
        return [data_of(record) for record in self.endpoint.read_stream(self.stream)]

    def counted(self, name: str, **labels: str) -> int:
        return self.daemon.counted(f"kdaemon_{name}_total", stream=self.stream, **labels)


@pytest.fixture
def case(daemon: Daemon) -> Case:
    return Case(daemon)


# --- whole calls: code and text -> what kdaemon makes of it, and what the client hears

OK = (200, "")
AMBIGUOUS = {
    "RequestExpired, its own deadline": (400, "RequestExpired", DEADLINE),
    "Aborted": (400, "Aborted", ""),
    "BadSession": (400, "BadSession", ""),
    "SessionExpired": (400, "SessionExpired", ""),
    "GenericError": (400, "GenericError", ""),
    "InternalError": (500, "InternalError", issue("broken", 500100)),
    "InternalException": (500, "InternalException", ""),
    "Unavailable": (503, "Unavailable", ""),
    "InternalFailure, as documented": (500, "InternalFailure", ""),
    "ServiceUnavailable, as documented": (503, "ServiceUnavailable", ""),
    "ValidationException, of an emptied request": (
        400,
        "ValidationException",
        issue("Stream name is empty"),
    ),
}


@pytest.mark.parametrize("fact", AMBIGUOUS)
def test_a_call_that_may_have_been_written_is_made_again_and_counted(case: Case, fact: str) -> None:
    status, code, text = AMBIGUOUS[fact]
    case.fault(kind="status", status=status, code=code, message=text, is_written=True)
    assert case.put(entry(b"x", "k")) == OK
    assert case.stored() == [b"x", b"x"]
    assert case.counted("put_records_calls", outcome="ambiguous") == 1
    assert case.counted("records_possible_duplicates") == 1


THROTTLED = {
    "ThrottlingException": (400, "ThrottlingException", issue("Overloaded", 500002)),
}


@pytest.mark.parametrize("fact", THROTTLED)
def test_a_call_that_is_throttled_is_made_again(case: Case, fact: str) -> None:
    status, code, text = THROTTLED[fact]
    case.fault(kind="status", status=status, code=code, message=text)
    assert case.put(entry(b"x", "k")) == OK
    assert case.stored() == [b"x"]
    assert case.counted("put_records_calls", outcome="throttled") == 1
    assert case.counted("records_possible_duplicates") == 0


HOLDS = {
    "AccessDeniedException": (400, "AccessDeniedException", issue("denied", 500018)),
    "IncompleteSignature, another region": (
        400,
        "IncompleteSignature",
        "Wrong service region: got us-east-1 expected ru-central1",
    ),
    "MissingAuthenticationToken": (400, "MissingAuthenticationToken", ""),
    "MissingAuthenticationToken, as documented": (403, "MissingAuthenticationToken", ""),
    "InvalidClientTokenId, as documented": (403, "InvalidClientTokenId", ""),
    "OptInRequired, as documented": (403, "OptInRequired", ""),
    "NotAuthorized, as documented": (400, "NotAuthorized", ""),
    "Unauthenticated": (400, "Unauthenticated", ""),
    "InvalidAction": (400, "InvalidAction", 'Unknown method name "PutRecords"'),
    "ResourceNotFoundException, or no access": (400, "ResourceNotFoundException", "no such path"),
    "ValidationException, no stream there": (
        400,
        "ValidationException",
        issue("path '/a/b' is not a topic", 500080),
    ),
    "ValidationException, a mirror": (
        400,
        "ValidationException",
        issue("write to mirrored stream b is forbidden"),
    ),
    "InvalidArgumentException, a key it does not know": (
        400,
        "InvalidArgumentException",
        "Unexpected json key: X",
    ),
}


@pytest.mark.parametrize("fact", HOLDS)
def test_what_somebody_must_mend_is_told_at_once_and_probed(case: Case, fact: str) -> None:
    status, code, text = HOLDS[fact]
    case.fault(kind="status", status=status, code=code, message=text, calls=2)
    assert case.put(entry(b"x", "k"))[1] == code
    assert case.counted("put_records_calls", outcome="hold") >= 1
    assert case.counted("records_dead") == 0
    assert case.counted("records_possible_duplicates") == 0


MENDING = {
    "RequestExpired, a wrong clock": (400, "RequestExpired", SKEW),
    "ResourceInUseException": (400, "ResourceInUseException", ""),
}


@pytest.mark.parametrize("fact", MENDING)
def test_what_may_mend_itself_is_waited_for(case: Case, fact: str) -> None:
    status, code, text = MENDING[fact]
    case.fault(kind="status", status=status, code=code, message=text)
    assert case.put(entry(b"x", "k")) == OK
    assert case.stored() == [b"x"]
    assert case.counted("put_records_calls", outcome="hold") == 1


def test_a_stream_that_is_being_created_is_waited_for_and_nothing_is_a_duplicate(
    case: Case,
) -> None:
    text = issue(f"path '{case.stream}' creation is not completed", 500080)
    case.fault(kind="status", status=400, code="ValidationException", message=text, calls=2)
    assert case.put(entry(b"x", "k")) == OK
    assert case.stored() == [b"x"]
    assert case.counted("put_records_calls", outcome="not_sent") == 2
    assert case.counted("records_possible_duplicates") == 0


POISONS = {
    "ValidationException": (400, "ValidationException", issue("Empty partition key")),
    "ValidationError, as documented": (400, "ValidationError", ""),
    "InvalidArgumentException, as documented": (400, "InvalidArgumentException", ""),
    "InvalidParameterCombination": (400, "InvalidParameterCombination", ""),
    "MissingParameter": (400, "MissingParameter", "Top level of json value is not a map"),
    "UnknownError": (400, "UnknownError", issue("?", 500999)),
}


@pytest.mark.parametrize("fact", POISONS)
def test_what_is_wrong_with_a_record_is_told_of_that_record(case: Case, fact: str) -> None:
    status, code, text = POISONS[fact]
    case.fault(kind="status", status=status, code=code, message=text)
    assert case.put(entry(b"x", "k"))[1] == code
    assert case.stored() == []
    assert case.counted("put_records_calls", outcome="poison") == 1
    assert case.put(entry(b"good", "k")) == OK


# --- single records

RECORDS = {
    "throttled, quota": ("ProvisionedThroughputExceededException", "quota exceeded", "throttled"),
    "throttled, inflight": (
        "ProvisionedThroughputExceededException",
        "try later. Write inflight limit reached. 5 vs. maximum 4",
        "throttled",
    ),
    "throttled, request units": ("ThrottlingException", "", "throttled"),
    "a shard that has split": ("InternalFailure", "Write to inactive partition 3", "ambiguous"),
    "a lost tablet": ("InternalFailure", "Connection to tablet 720 is dead", "ambiguous"),
    "a code of tomorrow": ("SomethingNew", "", "ambiguous"),
    "a full database": (
        "ProvisionedThroughputExceededException",
        "database size exceeded",
        "hold",
    ),
    "a full disk": ("InternalFailure", "Disk is full", "hold"),
}


@pytest.mark.parametrize("fact", RECORDS)
def test_only_the_records_of_a_shard_that_failed_are_sent_again(case: Case, fact: str) -> None:
    code, text, reason = RECORDS[fact]
    case.fault(kind="record_failure", indices=[0], code=code, message=text)
    records = [entry(b"a", "k", LOW), entry(b"b", "k", HIGH), entry(b"c", "k", LOW)]
    assert case.put(*records) == OK
    assert sorted(case.stored()) == [b"a", b"b", b"c"]
    assert case.counted("records_retries", reason=reason) == 2
    assert case.counted("records_possible_duplicates") == 2 * (reason == "ambiguous")


def test_the_first_offset_of_a_shard_is_a_success(case: Case) -> None:
    records = [entry(b"a", "k", LOW), entry(b"b", "k", HIGH)]
    assert case.endpoint.put_all(case.stream, records) == [
        {"SequenceNumber": "0", "ShardId": "shard-000000"},
        {"SequenceNumber": "0", "ShardId": "shard-000001"},
    ]


def test_a_client_hears_of_no_encryption_that_sdks_do_not_know(case: Case) -> None:
    answer = case.endpoint.put("PutRecords", StreamName=case.stream, Records=[entry(b"x", "k")])
    assert answer.members["EncryptionType"] == "NONE"


# --- what is sent


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "by name": ("PutRecords", {"Records": [entry(b"x", "k")]}),
    "an explicit hash key": ("PutRecords", {"Records": [entry(b"x", "k", HIGH)]}),
    "PutRecord": ("PutRecord", entry(b"x", "k")),
    "an order asked for": ("PutRecord", {**entry(b"x", "k"), "SequenceNumberForOrdering": "7"}),
    "a null hash key": ("PutRecords", {"Records": [{**entry(b"x", "k"), "ExplicitHashKey": None}]}),
}


@pytest.mark.parametrize(
    "key",
    ["\x00", "a\x1fb\x7f", "\n\t", "é\u2028", "\U0001f600"],
    ids=["nul", "control", "white", "separator", "astral"],
)
def test_a_key_of_any_characters_arrives_as_it_is(case: Case, key: str) -> None:
    case.endpoint.put_all(case.stream, [entry(bytes(range(256)), key)])
    (record,) = case.endpoint.read_stream(case.stream)
    assert (data_of(record), record["PartitionKey"]) == (bytes(range(256)), key)


def test_a_stream_may_be_called_by_the_arn_that_describe_stream_tells(case: Case) -> None:
    """It is the stream's name, and SDKs are told to use it; the service itself refuses the key."""
    description = case.endpoint.answer("DescribeStream", StreamName=case.stream)
    arn = description["StreamDescription"]["StreamARN"]
    put = case.endpoint.put
    assert put("PutRecords", StreamARN=arn, Records=[entry(b"a", "k")]).status == 200
    assert put("PutRecord", StreamARN=arn, **entry(b"b", "k")).status == 200
    assert case.stored() == [b"a", b"b"]


@pytest.mark.parametrize("fact", CALLS)
def test_the_service_meets_no_key_that_it_does_not_know(case: Case, fact: str) -> None:
    operation, members = CALLS[fact]
    answer = case.endpoint.put(operation, StreamName=case.stream, **members)
    assert answer.status == 200, answer
    assert case.stored() == [b"x"]


REFUSED: dict[str, list[dict[str, Any]]] = {
    "a key of 258 bytes in 129 characters": [entry(b"x", "é" * 129)],
    "1 MiB with its key": [entry(b"x" * MIB, "k")],
    "over 5 MiB": [entry(b"x" * (MIB - 1), "k")] * 6,
    "501 records": [entry(b"x", "k")] * 501,
}


@pytest.mark.parametrize("fact", REFUSED)
def test_what_the_service_would_refuse_does_not_get_that_far(case: Case, fact: str) -> None:
    status, _ = case.put(*REFUSED[fact])
    assert status == 400
    assert case.stored() == []
    assert case.counted("put_records_calls") == 0


def test_a_key_of_256_bytes_is_taken(case: Case) -> None:
    assert case.put(entry(b"x", "é" * 128)) == OK


# --- shards


def test_records_follow_a_shard_that_splits_by_itself(daemon: Daemon) -> None:
    stream = f"{BASE}/splitting"
    endpoint = endpoint_of(daemon)
    strategy = {"Strategy": "AUTO_PARTITIONING_STRATEGY_SCALE_UP"}
    partitioning = {"MinActivePartitions": 1, "AutoPartitioningSettings": strategy}
    endpoint.answer_empty("CreateStream", StreamName=stream, PartitioningSettings=partitioning)
    keys = [str(HASH_KEY_MAX // 10 * tenth) for tenth in range(10)]
    records = [entry(b"x", "k", key) for key in keys]
    assert {each["ShardId"] for each in endpoint.put_all(stream, records)} == {"shard-000000"}
    body = json.dumps({"stream": stream, "shard_id": "shard-000000"})
    assert send("POST", f"{daemon.sandbox_url}/sandbox/splits", body)[0] == 200
    found = [each["ShardId"] for each in endpoint.put_all(stream, records)]
    assert found == ["shard-000001"] * 6 + ["shard-000002"] * 4, (
        "the half of ten keys is below the half"
    )

    def predicted() -> bool | None:
        mismatches = "kdaemon_shard_map_mismatches_total"
        before = daemon.counted(mismatches, stream=stream)
        endpoint.put_all(stream, records)
        return daemon.counted(mismatches, stream=stream) == before or None

    wait_for(predicted, "the children to be known")


# --- who asks

REJECTED = "kdaemon_records_rejected_total"


def requests_with(url: str) -> dict[str, int]:
    counts: dict[str, int] = json.loads(send("GET", f"{url}/sandbox/state")[1])["requests_with"]
    return counts


def test_calls_are_signed_for_the_services_own_region(tmp_path: Path) -> None:
    with sandbox("orders", service="yandex") as url:
        settings = {"service": "yandex", "region": ""}
        with running(tmp_path, settings, service=url) as daemon:
            endpoint = endpoint_of(daemon)
            endpoint.put_all("orders", [entry(b"x", "k")])
        counts = requests_with(url)
        assert counts["signature"] >= 1
        assert (counts["refused"], counts["iam_token"], counts["nothing"]) == (0, 0, 0)


def test_another_region_is_a_hold_that_names_both(tmp_path: Path) -> None:
    with sandbox("orders", service="yandex") as url:
        settings = {"service": "yandex", "region": "us-east-1"}
        with running(tmp_path, settings, service=url) as daemon:
            endpoint = endpoint_of(daemon)
            answer = endpoint.put("PutRecords", StreamName="orders", Records=[entry(b"x", "k")])
            assert answer.refusal == (400, "IncompleteSignature")
            assert "got us-east-1 expected ru-central1" in answer.members["message"]


def test_a_short_name_stands_below_the_database_of_the_endpoint(tmp_path: Path) -> None:
    with sandbox(f"{BASE}/orders", service="yandex") as url:
        settings = {"service": "yandex", "region": "", "endpoint_url": f"{url}{BASE}"}
        with running(tmp_path, settings, service=url) as daemon:
            endpoint = endpoint_of(daemon)
            endpoint.put_all("orders", [entry(b"a", "k")])
            endpoint.put_all(f"{BASE}/orders", [entry(b"b", "k")])
            assert [name for name in daemon.metrics().streams if name] == [f"{BASE}/orders"]
            assert len(endpoint.read_stream(f"{BASE}/orders")) == 2
            answer = endpoint.put("PutRecords", StreamName="none", Records=[entry(b"x", "k")])
            assert answer.refusal == (400, "ResourceNotFoundException")
            wait_for(
                lambda: daemon.counted(REJECTED, reason="missing_stream") or None,
                "the stream to be known as missing",
            )


@pytest.mark.parametrize("kind", ["missing_stream", "access_denied"])
def test_records_of_a_stream_that_was_there_outlive_a_lost_permission(
    case: Case, kind: str
) -> None:
    """Who has no access is told that there is no such stream. Nobody has listed this one."""
    case.endpoint.put_all(case.stream, [entry(b"before", "k")])
    case.fault(kind=kind, calls=2)
    case.fault(kind=kind, operation="DescribeStream")
    case.endpoint.headers["x-kdaemon-acknowledge"] = "accepted"
    assert case.put(entry(b"kept", "k")) == OK
    wait_for(lambda: case.counted("records_delivered") == 2 or None, "the record to arrive")
    case.daemon.clear_faults()
    assert case.stored() == [b"before", b"kept"]
    assert case.counted("records_dead") == 0
    assert case.counted("put_records_calls", outcome="hold") == 2


def test_a_stream_that_may_be_written_and_not_described_takes_records(case: Case) -> None:
    """As perhaps with the role yds.writer alone. Nobody has listed it."""
    url = f"{case.daemon.sandbox_url}/sandbox/state"

    def asked() -> int:
        return int(json.loads(send("GET", url)[1])["calls"]["DescribeStream"])

    case.fault(kind="access_denied", operation="DescribeStream", calls=None)
    before = asked()
    case.endpoint.put_all(case.stream, [entry(b"a", "k")])
    wait_for(lambda: asked() > before or None, "the daemon to ask for the stream")
    case.endpoint.put_all(case.stream, [entry(b"b", "k")])
    case.daemon.clear_faults()
    assert case.stored() == [b"a", b"b"]
    assert case.counted("records_rejected") == 0


def test_a_stream_that_never_was_there_is_missing(daemon: Daemon) -> None:
    endpoint = endpoint_of(daemon)
    name = f"{BASE}/never-made"
    answer = endpoint.put("PutRecords", StreamName=name, Records=[entry(b"x", "k")])
    assert answer.refusal == (400, "ResourceNotFoundException")

"""The script of faults, and what the pure service does under each."""

import random

import msgspec
import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.base.record import Record, RecordResult
from kdaemon.sandbox.faults import FAULT_COUNT_MAX, Fault, FaultKind, FaultScript, error_of
from kdaemon.sandbox.service import Service

BATCH = [Record(b"%d" % index, f"key-{index}") for index in range(10)]


@pytest.fixture
def service() -> Service:
    service = Service(dice=random.Random(7))
    service.create_stream("orders", 2)
    return service


def test_a_fault_applies_to_as_many_calls_as_it_says_and_then_the_next_one_does() -> None:
    script = FaultScript()
    script.add([Fault(kind=FaultKind.RESET, calls=2), Fault(kind=FaultKind.HANG)])
    taken = [script.take("PutRecords", "orders") for _ in range(4)]
    kinds = [fault and fault.kind for fault in taken]
    assert kinds == [FaultKind.RESET, FaultKind.RESET, FaultKind.HANG, None]


def test_a_fault_without_a_count_lasts_until_cleared() -> None:
    script = FaultScript()
    script.add([Fault(kind=FaultKind.RESET, calls=None)])
    assert all(script.take("PutRecords", "orders") for _ in range(100))
    script.clear()
    assert script.take("PutRecords", "orders") is None


def test_a_fault_fits_its_operation_and_its_stream_only() -> None:
    script = FaultScript()
    script.add(
        [
            Fault(kind=FaultKind.RESET, stream="orders"),
            Fault(kind=FaultKind.HANG, operation="ListShards"),
        ]
    )
    assert script.take("PutRecords", "other") is None
    assert script.take("PutRecord", "orders") is None
    assert script.take("ListShards", None) == Fault(kind=FaultKind.HANG, operation="ListShards")
    assert script.take("PutRecords", "orders") == Fault(kind=FaultKind.RESET, stream="orders")
    assert len(script) == 0


def test_the_script_shows_what_is_left() -> None:
    script = FaultScript()
    script.add([Fault(kind=FaultKind.STATUS, calls=3, status=503)])
    script.take("PutRecords", None)
    (pending,) = script.pending()
    assert (pending["kind"], pending["calls"], pending["status"]) == ("status", 2, 503)


def test_the_script_is_bounded_and_takes_all_or_none() -> None:
    script = FaultScript()
    script.add([Fault(kind=FaultKind.RESET)] * (FAULT_COUNT_MAX - 1))
    with pytest.raises(ValueError, match="at most"):
        script.add([Fault(kind=FaultKind.RESET)] * 2)
    assert len(script) == FAULT_COUNT_MAX - 1


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"calls": 0}, "calls is at least 1"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"fraction": 1.5}, "fraction"),
        ({"status": 200}, "status"),
        ({"operation": "ListShards", "kind": "wrong_count"}, "PutRecords only"),
        ({"kind": "throttle", "is_written": True}, "is_written says nothing"),
        ({"kind": "throttle", "code": "X"}, "has no code of its own"),
        ({"kind": "status", "message": "x"}, "message needs a code"),
        ({"kind": "status", "code": ""}, "code has 1 to 128 characters"),
        ({"kind": "status", "code": "x" * 129}, "code has 1 to 128 characters"),
        ({"kind": "status", "code": "X", "message": "x" * 1025}, "message has at most 1024"),
        ({"kind": "earthquake"}, "Invalid enum value"),
        ({"colour": "red"}, "unknown field"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_by_name(
    members: dict[str, object], text: str
) -> None:
    body = msgspec.json.encode({"kind": "reset", **members})
    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.json.decode(body, type=Fault)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (FaultKind.THROTTLE, "ProvisionedThroughputExceededException"),
        (FaultKind.EXPIRED_TOKEN, "ExpiredTokenException"),
        (FaultKind.MISSING_STREAM, "ResourceNotFoundException"),
        (FaultKind.ACCESS_DENIED, "AccessDeniedException"),
    ],
)
def test_a_whole_request_fault_answers_400_and_writes_nothing(
    service: Service, kind: FaultKind, code: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        service.put_records("orders", BATCH, 0, Fault(kind=kind))
    assert (caught.value.code, caught.value.status) == (code, 400)
    assert service.stored("orders") == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalFailureException"),
        (503, "ServiceUnavailableException"),
        (429, "ThrottlingException"),
    ],
)
@pytest.mark.parametrize("is_written", [False, True])
def test_a_status_fault_writes_first_only_if_it_says_so(
    service: Service, status: int, code: str, is_written: bool
) -> None:
    fault = Fault(kind=FaultKind.STATUS, status=status, is_written=is_written)
    with pytest.raises(ServiceError) as caught:
        service.put_records("orders", BATCH, 0, fault)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert len(service.stored("orders")) == (10 if is_written else 0)


def test_records_fail_by_index(service: Service) -> None:
    fault = Fault(kind=FaultKind.RECORD_FAILURE, indices=(0, 7))
    results = service.put_records("orders", BATCH, 0, fault)
    failed = [index for index, result in enumerate(results) if not result.is_delivered]
    assert failed == [0, 7]
    assert results[7].error_code == "InternalFailure"
    assert results[7].error_message == "Internal Service Failure"
    assert results[7].shard_id is None
    assert len(service.stored("orders")) == 8


def test_a_failure_has_the_words_that_the_fault_gives(service: Service) -> None:
    words = {"code": "KMSDisabledException", "message": "the key is disabled"}
    fault = Fault(kind=FaultKind.RECORD_FAILURE, indices=(3,), **words)  # type: ignore[arg-type]
    failed = service.put_records("orders", BATCH, 0, fault)[3]
    assert failed == RecordResult(None, None, "KMSDisabledException", "the key is disabled")
    fault = Fault(kind=FaultKind.STATUS, status=400, **words)  # type: ignore[arg-type]
    with pytest.raises(ServiceError) as caught:
        service.put_records("orders", BATCH, 0, fault)
    error = caught.value
    assert (error.status, error.code, error.message) == (400, *words.values())


def test_records_fail_by_chance_as_the_dice_fall(service: Service) -> None:
    fault = Fault(kind=FaultKind.RECORD_FAILURE, fraction=0.3)
    dice = random.Random(7)
    expected = [dice.random() < 0.3 for _ in BATCH]
    results = service.put_records("orders", BATCH, 0, fault)
    assert [not result.is_delivered for result in results] == expected
    assert any(expected)


def test_chance_without_dice_is_refused_when_the_fault_is_added() -> None:
    service = Service()
    with pytest.raises(ValueError, match="dice"):
        service.add_faults(Fault(kind=FaultKind.RECORD_FAILURE, fraction=0.5))
    service.add_faults(Fault(kind=FaultKind.RECORD_FAILURE))
    service.create_stream("orders", 1)
    fault = service.next_fault("PutRecords", "orders")
    results = service.put_records("orders", BATCH, 0, fault)
    assert not any(result.is_delivered for result in results)


def test_a_wrong_count_writes_all_and_answers_one_fewer(service: Service) -> None:
    results = service.put_records("orders", BATCH, 0, Fault(kind=FaultKind.WRONG_COUNT))
    assert len(results) == 9
    assert len(service.stored("orders")) == 10


@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.LATENCY,
        FaultKind.RESET,
        FaultKind.HANG,
        FaultKind.UNPARSABLE_BODY,
        FaultKind.EMPTY_BODY,
    ],
)
def test_a_fault_below_the_answer_is_no_error_of_the_service(
    service: Service, kind: FaultKind
) -> None:
    """Whoever carries it out decides by `writes_first` whether to call the service at all."""
    fault = Fault(kind=kind)
    assert error_of(fault, "orders") is None
    assert fault.writes_first == (kind is FaultKind.LATENCY)
    if kind is not FaultKind.LATENCY:
        assert Fault(kind=kind, is_written=True).writes_first
    assert len(service.put_records("orders", BATCH, 0, fault)) == 10


def test_control_calls_fail_on_request_too(service: Service) -> None:
    service.add_faults(Fault(kind=FaultKind.ACCESS_DENIED, operation="ListShards", stream="orders"))
    payload = {"StreamName": "orders"}
    fault = service.next_fault("ListShards", service.stream_in(payload))
    with pytest.raises(ServiceError) as caught:
        service.handle("ListShards", payload, 0, fault)
    assert caught.value.code == "AccessDeniedException"
    assert len(service.handle("ListShards", payload, 0)["Shards"]) == 2  # type: ignore[arg-type]


def test_put_record_fails_on_request_too(service: Service) -> None:
    with pytest.raises(ServiceError) as caught:
        service.put_record(
            "orders", BATCH[0], 0, Fault(kind=FaultKind.STATUS, operation="PutRecord")
        )
    assert caught.value.status == 500
    assert service.stored("orders") == []

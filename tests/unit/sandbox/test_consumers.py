"""Registering, describing, listing and deregistering the consumers of a stream."""

from typing import Any

import pytest

from kdaemon.base.service import YANDEX
from kdaemon.sandbox.consumer import CREATING_NS
from kdaemon.sandbox.consumers import CONSUMERS_MAX, CREATING_MAX
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import SandboxSettings
from tests.unit.sandbox.calls import SECOND, WALL_OFFSET, call, refusal

ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
OTHER = ARN.replace("orders", "other")


@pytest.fixture
def service() -> Service:
    service = Service(wall_offset_ns=WALL_OFFSET)
    service.create_stream("orders", 2)
    service.create_stream("other", 2)
    return service


def register(service: Service, name: str, now_ns: int = 0, arn: str = ARN) -> dict[str, Any]:
    found: dict[str, Any] = call(
        service, "RegisterStreamConsumer", now_ns, StreamARN=arn, ConsumerName=name
    )["Consumer"]
    return found


def test_a_consumer_is_created_and_becomes_active(service: Service) -> None:
    consumer = register(service, "mine", 3 * SECOND)
    assert consumer == {
        "ConsumerName": "mine",
        "ConsumerARN": f"{ARN}/consumer/mine:1700000003",
        "ConsumerStatus": "CREATING",
        "ConsumerCreationTimestamp": 1_700_000_003,
    }
    asked = {"ConsumerARN": consumer["ConsumerARN"]}
    soon, later = 3 * SECOND + CREATING_NS - 1, 3 * SECOND + CREATING_NS
    found = call(service, "DescribeStreamConsumer", soon, **asked)["ConsumerDescription"]
    assert found == {**consumer, "StreamARN": ARN}
    found = call(service, "DescribeStreamConsumer", later, **asked)["ConsumerDescription"]
    assert found["ConsumerStatus"] == "ACTIVE"
    summary = call(service, "DescribeStreamSummary", StreamName="orders")
    assert summary["StreamDescriptionSummary"]["ConsumerCount"] == 1


def test_it_is_found_by_its_arn_and_by_its_name_and_what_is_said_must_agree(
    service: Service,
) -> None:
    arn = register(service, "mine")["ConsumerARN"]
    for asked in (
        {"ConsumerARN": arn},
        {"StreamARN": ARN, "ConsumerName": "mine"},
        {"StreamARN": ARN, "ConsumerName": "mine", "ConsumerARN": arn},
        {"ConsumerARN": arn.replace("us-east-1:000000000000", "eu-west-1:123456789012")},
    ):
        found = call(service, "DescribeStreamConsumer", **asked)
        assert found["ConsumerDescription"]["ConsumerARN"] == arn
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ConsumerARN": arn, "ConsumerName": "yours"}, "InvalidArgumentException"),
        ({"ConsumerARN": arn, "StreamARN": OTHER}, "InvalidArgumentException"),
        ({"ConsumerName": "mine"}, "InvalidArgumentException"),
        ({"StreamARN": ARN}, "InvalidArgumentException"),
        ({}, "InvalidArgumentException"),
        ({"StreamARN": ARN, "ConsumerName": "yours"}, "ResourceNotFoundException"),
        ({"StreamARN": OTHER, "ConsumerName": "mine"}, "ResourceNotFoundException"),
        ({"ConsumerARN": arn + "9"}, "ResourceNotFoundException"),
        ({"ConsumerARN": arn.replace("orders", "none")}, "ResourceNotFoundException"),
        ({"ConsumerARN": ARN}, "ValidationException"),
        ({"ConsumerARN": 5}, "SerializationException"),
        ({"StreamARN": ARN, "ConsumerName": "a b"}, "ValidationException"),
    ]
    for operation in ("DescribeStreamConsumer", "DeregisterStreamConsumer"):
        for wrong, code in cases:
            assert refusal(service, operation, **wrong).code == code, (operation, wrong)
    assert register(service, "yours")["ConsumerName"] == "yours"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"ConsumerName": "a"}, "ValidationException"),
        ({"StreamARN": ARN}, "ValidationException"),
        ({"StreamARN": ARN, "ConsumerName": ""}, "ValidationException"),
        ({"StreamARN": ARN, "ConsumerName": "a" * 129}, "ValidationException"),
        ({"StreamARN": ARN, "ConsumerName": "a/b"}, "ValidationException"),
        ({"StreamARN": "orders", "ConsumerName": "a"}, "ValidationException"),
        ({"StreamARN": ARN + "x", "ConsumerName": "a"}, "ResourceNotFoundException"),
        ({"StreamARN": ARN, "ConsumerName": "a", "Tags": {"aws:x": "y"}}, "InvalidArgument"),
        ({"StreamARN": ARN, "ConsumerName": "a", "Tags": []}, "SerializationException"),
    ],
)
def test_a_registration_that_is_refused_changes_nothing(
    service: Service, members: dict[str, Any], code: str
) -> None:
    assert refusal(service, "RegisterStreamConsumer", **members).code.startswith(code)
    assert call(service, "ListStreamConsumers", StreamARN=ARN) == {"Consumers": []}


def test_a_name_is_taken_once_in_a_stream(service: Service) -> None:
    register(service, "mine")
    again: dict[str, Any] = {"StreamARN": ARN, "ConsumerName": "mine"}
    assert refusal(service, "RegisterStreamConsumer", **again).code == "ResourceInUseException"
    assert register(service, "mine", arn=OTHER)["ConsumerName"] == "mine"


def test_few_are_created_at_once_and_a_stream_has_so_many(service: Service) -> None:
    now_ns = 0
    for index in range(CONSUMERS_MAX):
        if index % CREATING_MAX == 0 and index:
            sixth = {"StreamARN": OTHER, "ConsumerName": "sixth"}
            error = refusal(service, "RegisterStreamConsumer", now_ns, **sixth)
            assert error.code == "LimitExceededException"
            now_ns += CREATING_NS
        register(service, f"c{index:02d}", now_ns)
    now_ns += CREATING_NS
    one_more = {"StreamARN": ARN, "ConsumerName": "more"}
    error = refusal(service, "RegisterStreamConsumer", now_ns, **one_more)
    assert error.code == "LimitExceededException"
    call(service, "DeregisterStreamConsumer", now_ns, StreamARN=ARN, ConsumerName="c00")
    register(service, "more", now_ns)


def test_a_list_is_paged_in_the_order_of_names(service: Service) -> None:
    for name in ("c", "a", "b"):
        register(service, name)
    page = call(service, "ListStreamConsumers", StreamARN=ARN, MaxResults=2)
    assert [each["ConsumerName"] for each in page["Consumers"]] == ["a", "b"]
    asked = {"StreamARN": ARN, "NextToken": page["NextToken"]}
    rest = call(service, "ListStreamConsumers", 300 * SECOND, **asked)
    assert [each["ConsumerName"] for each in rest["Consumers"]] == ["c"]
    assert "NextToken" not in rest
    expired = refusal(service, "ListStreamConsumers", 300 * SECOND + 1, **asked)
    assert expired.code == "ExpiredNextTokenException"
    wrongs: list[dict[str, Any]] = [
        {"StreamARN": OTHER, "NextToken": page["NextToken"]},
        {"StreamARN": ARN, "NextToken": "nonsense"},
        {**asked, "StreamCreationTimestamp": 1_700_000_000},
    ]
    for wrong in wrongs:
        assert refusal(service, "ListStreamConsumers", **wrong).code == "InvalidArgumentException"


def test_a_stream_of_that_name_and_another_time_is_not_found(service: Service) -> None:
    register(service, "a")
    asked: dict[str, Any] = {"StreamARN": ARN, "StreamCreationTimestamp": 1_700_000_000}
    assert len(call(service, "ListStreamConsumers", **asked)["Consumers"]) == 1
    asked["StreamCreationTimestamp"] = 1_600_000_000
    assert refusal(service, "ListStreamConsumers", **asked).code == "ResourceNotFoundException"


def test_a_stream_with_consumers_is_deleted_only_if_that_is_meant(service: Service) -> None:
    register(service, "a")
    error = refusal(service, "DeleteStream", StreamName="orders")
    assert error.code == "ResourceInUseException"
    call(service, "DeleteStream", StreamName="orders", EnforceConsumerDeletion=True)
    call(service, "DeleteStream", StreamName="other")
    service.create_stream("orders", 1)
    assert call(service, "ListStreamConsumers", StreamARN=ARN) == {"Consumers": []}


@pytest.mark.parametrize(
    "operation",
    [
        "RegisterStreamConsumer",
        "DescribeStreamConsumer",
        "ListStreamConsumers",
        "DeregisterStreamConsumer",
    ],
)
def test_yandex_has_none_of_them(operation: str) -> None:
    service = Service(SandboxSettings(service=YANDEX))
    assert not service.offers("SubscribeToShard")
    assert refusal(service, operation).code == "InvalidAction"

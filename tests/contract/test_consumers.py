"""Consumers of a stream: registering, describing, listing and deregistering them."""

from typing import Any

from tests.kit.endpoints import Endpoint
from tests.kit.patience import wait_for


def arn_of(endpoint: Endpoint, stream: str) -> str:
    summary = endpoint.answer("DescribeStreamSummary", StreamName=stream)
    return str(summary["StreamDescriptionSummary"]["StreamARN"])


def register(endpoint: Endpoint, arn: str, name: str) -> dict[str, Any]:
    answer = endpoint.answer("RegisterStreamConsumer", StreamARN=arn, ConsumerName=name)
    consumer: dict[str, Any] = answer["Consumer"]
    return consumer


def wait_active(endpoint: Endpoint, **asked: str) -> dict[str, Any]:
    def described() -> dict[str, Any] | None:
        answer = endpoint.call("DescribeStreamConsumer", **asked)
        if answer.status != 200:  # a service that is at work on it may not find it for a moment
            return None
        found: dict[str, Any] = answer.members["ConsumerDescription"]
        return found if found["ConsumerStatus"] == "ACTIVE" else None

    return wait_for(described, "the consumer to be ACTIVE")


def test_a_consumer_is_created_and_becomes_active(endpoint: Endpoint, stream: str) -> None:
    arn = arn_of(endpoint, stream)
    made = register(endpoint, arn, "mine")
    assert made["ConsumerName"] == "mine"
    assert made["ConsumerStatus"] == "CREATING"
    assert made["ConsumerARN"].startswith(f"{arn}/consumer/mine:")
    assert made["ConsumerCreationTimestamp"] > 1_600_000_000
    found = wait_active(endpoint, ConsumerARN=made["ConsumerARN"])
    assert found["StreamARN"] == arn
    assert wait_active(endpoint, StreamARN=arn, ConsumerName="mine") == found
    endpoint.answer_empty("DeregisterStreamConsumer", ConsumerARN=made["ConsumerARN"])


def test_consumers_are_listed(endpoint: Endpoint, stream: str) -> None:
    arn = arn_of(endpoint, stream)
    for name in ("a", "b", "c"):
        register(endpoint, arn, name)
        wait_active(endpoint, StreamARN=arn, ConsumerName=name)
    names: list[str] = []
    asked: dict[str, Any] = {"StreamARN": arn, "MaxResults": 2}
    while True:
        page = endpoint.answer("ListStreamConsumers", **asked)
        assert len(page["Consumers"]) <= 2
        names += [consumer["ConsumerName"] for consumer in page["Consumers"]]
        if page.get("NextToken") is None:
            break
        asked["NextToken"] = page["NextToken"]
    assert sorted(names) == ["a", "b", "c"]
    for name in names:
        endpoint.answer_empty("DeregisterStreamConsumer", StreamARN=arn, ConsumerName=name)


def test_a_consumers_name_is_taken_once(endpoint: Endpoint, stream: str) -> None:
    arn = arn_of(endpoint, stream)
    register(endpoint, arn, "mine")
    wait_active(endpoint, StreamARN=arn, ConsumerName="mine")
    again = endpoint.call("RegisterStreamConsumer", StreamARN=arn, ConsumerName="mine")
    assert again.refusal == (400, "ResourceInUseException")
    endpoint.answer_empty("DeregisterStreamConsumer", StreamARN=arn, ConsumerName="mine")


def test_a_consumer_that_was_deregistered_is_not_found(endpoint: Endpoint, stream: str) -> None:
    arn = arn_of(endpoint, stream)
    made = register(endpoint, arn, "mine")
    wait_active(endpoint, ConsumerARN=made["ConsumerARN"])
    endpoint.answer_empty("DeregisterStreamConsumer", ConsumerARN=made["ConsumerARN"])

    def gone() -> tuple[int, str] | None:
        answer = endpoint.call("DescribeStreamConsumer", ConsumerARN=made["ConsumerARN"])
        return answer.refusal if answer.status != 200 else None

    assert wait_for(gone, "the consumer to be gone") == (400, "ResourceNotFoundException")


def test_a_stream_that_is_not_there_has_no_consumers(endpoint: Endpoint, stream: str) -> None:
    arn = f"{arn_of(endpoint, stream)}-not"
    answer = endpoint.call("RegisterStreamConsumer", StreamARN=arn, ConsumerName="mine")
    assert answer.refusal == (400, "ResourceNotFoundException")


def test_a_stream_with_consumers_is_not_deleted_by_mistake(endpoint: Endpoint, stream: str) -> None:
    arn = arn_of(endpoint, stream)
    register(endpoint, arn, "mine")
    wait_active(endpoint, StreamARN=arn, ConsumerName="mine")
    refused = endpoint.call("DeleteStream", StreamName=stream)
    assert refused.refusal == (400, "ResourceInUseException")
    endpoint.make_stream(f"{stream}-later", 1)  # what a service does late is done before this is
    described = endpoint.answer("DescribeStreamSummary", StreamName=stream)
    assert described["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"
    endpoint.answer_empty("DeregisterStreamConsumer", StreamARN=arn, ConsumerName="mine")

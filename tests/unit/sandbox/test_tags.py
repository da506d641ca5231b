"""Tags of streams, and the limits of the account."""

from typing import Any

import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.base.service import YANDEX
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import SandboxSettings
from tests.unit.sandbox.calls import call, refusal


@pytest.fixture
def service() -> Service:
    service = Service()
    service.create_stream("orders", 2)
    return service


def tags_of(service: Service, **members: Any) -> list[tuple[str, str]]:
    answer = call(service, "ListTagsForStream", StreamName="orders", **members)
    return [(tag["Key"], tag["Value"]) for tag in answer["Tags"]]


def add(service: Service, **tags: str) -> None:
    assert call(service, "AddTagsToStream", StreamName="orders", Tags=tags) == {}


def test_tags_are_added_replaced_listed_and_removed(service: Service) -> None:
    assert tags_of(service) == []
    add(service, team="a", stage="test")
    add(service, team="b", Größe="")
    assert tags_of(service) == [("Größe", ""), ("stage", "test"), ("team", "b")]
    keys = ["team", "never there"]
    assert call(service, "RemoveTagsFromStream", StreamName="orders", TagKeys=keys) == {}
    assert [key for key, _ in tags_of(service)] == ["Größe", "stage"]


def test_tags_are_listed_in_pages(service: Service) -> None:
    add(service, **{f"k{number}": "v" for number in range(5)})
    first = call(service, "ListTagsForStream", StreamName="orders", Limit=3)
    assert [tag["Key"] for tag in first["Tags"]] == ["k0", "k1", "k2"]
    assert first["HasMoreTags"] is True
    rest = call(service, "ListTagsForStream", StreamName="orders", ExclusiveStartTagKey="k2")
    assert [tag["Key"] for tag in rest["Tags"]] == ["k3", "k4"]
    assert rest["HasMoreTags"] is False


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        (None, "ValidationException"),
        ({}, "ValidationException"),
        ([], "SerializationException"),
        ({"a": 1}, "SerializationException"),
        ({"": "v"}, "ValidationException"),
        ({"k" * 129: "v"}, "ValidationException"),
        ({"k": "v" * 257}, "ValidationException"),
        ({f"k{number}": "" for number in range(201)}, "ValidationException"),
        ({f"k{number}": "" for number in range(50)}, "InvalidArgumentException"),
        ({"a?": "v"}, "InvalidArgumentException"),
        ({"aws:mine": "v"}, "InvalidArgumentException"),
    ],
)
def test_tags_out_of_bounds_are_refused_whole(service: Service, tags: Any, code: str) -> None:
    add(service, there="before")
    assert refusal(service, "AddTagsToStream", StreamName="orders", Tags=tags).code == code
    assert tags_of(service) == [("there", "before")]


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        (None, "ValidationException"),
        ([], "ValidationException"),
        (["k"] * 51, "ValidationException"),
        ("k", "SerializationException"),
        ([1], "SerializationException"),
    ],
)
def test_keys_out_of_bounds_are_refused(service: Service, keys: Any, code: str) -> None:
    assert refusal(service, "RemoveTagsFromStream", StreamName="orders", TagKeys=keys).code == code


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        ("AddTagsToStream", {"Tags": {"k": "v"}}),
        ("ListTagsForStream", {}),
        ("RemoveTagsFromStream", {"TagKeys": ["k"]}),
    ],
)
def test_a_missing_stream_has_no_tags(
    service: Service, operation: str, members: dict[str, Any]
) -> None:
    error = refusal(service, operation, StreamName="nothing", **members)
    assert error.code == "ResourceNotFoundException"


def test_the_limits_count_what_is_there(service: Service) -> None:
    service.create_stream("auto", 4, is_auto=True)
    call(service, "SplitShard", 1, StreamName="orders", ShardToSplit="shardId-000000000000",
         NewStartingHashKey=str(2**126))  # fmt: skip
    assert call(service, "DescribeLimits") == {
        "ShardLimit": 500,
        "OpenShardCount": 3,
        "OnDemandStreamCount": 1,
        "OnDemandStreamCountLimit": 50,
    }


@pytest.mark.parametrize(
    "operation",
    ["DescribeLimits", "AddTagsToStream", "ListTagsForStream", "RemoveTagsFromStream"],
)
def test_yandex_offers_neither_tags_nor_limits(operation: str) -> None:
    yandex = Service(SandboxSettings(YANDEX))
    with pytest.raises(ServiceError) as caught:
        yandex.handle(operation, {}, 0)
    assert caught.value.code == "InvalidAction"

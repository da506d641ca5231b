"""The table of operations is the API's, and nothing that changes anything may be passed on."""

import gzip
import json
from pathlib import Path
from typing import Any

import botocore
import pytest

from kdaemon.base.operations import (
    ARN_MEMBERS,
    OTHER_OPERATIONS,
    PASSED_ON_DEFAULT,
    may_be_passed_on,
    operation_problem,
)

MODEL_DIRECTORY = Path(botocore.__file__).parent / "data/kinesis/2013-12-02"


def model() -> dict[str, Any]:
    zipped = MODEL_DIRECTORY / "service-2.json.gz"
    if zipped.exists():
        return dict(json.loads(gzip.decompress(zipped.read_bytes())))
    return dict(json.loads((MODEL_DIRECTORY / "service-2.json").read_bytes()))


def test_all_operations_of_the_api_are_known() -> None:
    assert set(OTHER_OPERATIONS) | {"PutRecord", "PutRecords"} == set(model()["operations"])


def test_only_what_describes_lists_or_gets_may_be_passed_on() -> None:
    assert all(name.startswith(("Describe", "List", "Get")) for name in may_be_passed_on())
    others = set(OTHER_OPERATIONS) - set(may_be_passed_on())
    assert not [name for name in others if name.startswith(("Describe", "List", "Get"))]


def test_reads_are_the_data_operations_of_the_model() -> None:
    operations = model()["operations"]
    kinds = {
        name: operations[name]["staticContextParams"]["OperationType"]["value"]
        for name in OTHER_OPERATIONS
    }
    assert {name: kind == "data" for name, kind in kinds.items()} == {
        name: each.is_read for name, each in OTHER_OPERATIONS.items()
    }
    assert not [name for name, each in OTHER_OPERATIONS.items() if each.is_read and each.is_shared]


def test_an_arn_stands_only_in_members_that_are_looked_at() -> None:
    described = model()
    for name in may_be_passed_on():
        shape = described["operations"][name]["input"]["shape"]
        members = described["shapes"][shape]["members"]
        arns = {each for each in members if each.endswith("ARN")} - {"ChannelARN"}
        assert arns <= set(ARN_MEMBERS), name


@pytest.mark.parametrize("name", PASSED_ON_DEFAULT)
def test_the_default_may_be_passed_on(name: str) -> None:
    assert operation_problem(name) is None
    assert not OTHER_OPERATIONS[name].is_read


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CreateStream", "it changes what is at the service"),
        ("SubscribeToShard", "HTTP/2"),
        ("PutRecords", "kdaemon answers it itself"),
        ("ListStream", "no operation"),
        ("x" * 10_000, "no operation"),
    ],
)
def test_why_one_may_not_is_said(name: str, words: str) -> None:
    problem = operation_problem(name)
    assert problem is not None
    assert words in problem
    assert len(problem) < 200

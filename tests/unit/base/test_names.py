"""Names and ARNs of streams."""

import json
from importlib.resources import files

import pytest

from kdaemon.base.names import parse_arn, partition_of, partition_problem


def arn(partition: str, region: str) -> str:
    return f"arn:{partition}:kinesis:{region}:123456789012:stream/demo"


def known_partitions() -> dict[str, str]:
    """Every region that botocore knows, and its partition."""
    text = files("botocore").joinpath("data/partitions.json").read_text()
    return {
        region: each["id"]
        for each in json.loads(text)["partitions"]
        for region in each["regions"]
        if not region.endswith("-global")
    }


def test_regions_are_of_the_partitions_that_botocore_says() -> None:
    known = known_partitions()
    assert {region: partition_of(region) for region in known} == known
    assert len(set(known.values())) >= 8


@pytest.mark.parametrize(("region", "right"), known_partitions().items())
def test_an_arn_names_the_partition_of_its_region(region: str, right: str) -> None:
    for partition in {*known_partitions().values(), "aws-", "aws-x"}:
        text = arn(partition, region)
        problem = partition_problem(text)
        if partition == right:
            assert parse_arn(text) is not None
            assert problem is None
        else:
            assert parse_arn(text) is None
            assert problem is not None
            for word in (partition, region, f"is of {right}"):
                assert word in problem


@pytest.mark.parametrize("text", ["", "demo", "arn:", arn("gcp", "us-east-1"), arn("aws", "")])
def test_of_what_has_not_the_form_of_an_arn_no_partition_is_told(text: str) -> None:
    assert parse_arn(text) is None
    assert partition_problem(text) is None

"""Clients of Kinesis as the SDKs' documentation has them, of somebody whom nobody checks."""

from typing import Any

import boto3

ANYBODY = {
    "region_name": "us-east-1",
    "aws_access_key_id": "test",
    "aws_secret_access_key": "test",
}


def kinesis(url: str, **more: Any) -> Any:
    """boto3's; `more`: as boto3 takes it. To be closed."""
    return boto3.client("kinesis", endpoint_url=url, **{**ANYBODY, **more})

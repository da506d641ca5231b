"""One client of Python that reads a shard by SubscribeToShard, as tests/clients/test_subscribers.py
says: `subscribe.py NAME ENDPOINT CONSUMER_ARN SHARD`.
"""

import asyncio
import json
import sys
from typing import Any

REGION = "us-east-1"


def tell(**told: Any) -> None:
    print(json.dumps(told), flush=True)


def tell_event(event: dict[str, Any]) -> None:
    told = event["SubscribeToShardEvent"]
    tell(
        data=[record["Data"].decode() for record in told["Records"]],
        next=told.get("ContinuationSequenceNumber"),
        children=[child["ShardId"] for child in told.get("ChildShards", [])],
    )


def with_boto3(endpoint: str, asked: dict[str, Any]) -> None:
    import boto3  # here: no client starts slower for the packages of another

    client = boto3.client("kinesis", endpoint_url=endpoint, region_name=REGION)
    for event in client.subscribe_to_shard(**asked)["EventStream"]:
        tell_event(event)


async def with_aiobotocore(endpoint: str, asked: dict[str, Any]) -> None:
    from aiobotocore.session import get_session

    made = get_session().create_client("kinesis", endpoint_url=endpoint, region_name=REGION)
    async with made as client:
        answer = await client.subscribe_to_shard(**asked)
        async for event in answer["EventStream"]:
            tell_event(event)


def main() -> None:
    name, endpoint, arn, shard = sys.argv[1:]
    position = {"Type": "TRIM_HORIZON"}
    asked = {"ConsumerARN": arn, "ShardId": shard, "StartingPosition": position}
    try:
        if name == "boto3":
            with_boto3(endpoint, asked)
        else:
            asyncio.run(with_aiobotocore(endpoint, asked))
    except Exception as error:  # noqa: BLE001 - what the user of a client sees
        tell(error=f"{type(error).__name__}: {error}")
    else:
        tell(end=True)


if __name__ == "__main__":
    main()

"""One client of Python, on its defaults but for the endpoint. Reads calls from standard input and
writes what came of each, as tests/clients/program.py says.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Call = dict[str, Any]
Put = Callable[[Call], Awaitable[list[int]]]
REGION = "us-east-1"
AWS_CLI = str(Path(__file__).parents[4] / ".venv" / "clients" / "aws-cli" / "bin" / "aws")


def failed_of(answer: dict[str, Any]) -> list[int]:
    return [at for at, result in enumerate(answer["Records"]) if result.get("ErrorCode")]


def members_of(call: Call) -> dict[str, Any]:
    entries = [{"PartitionKey": key, "Data": data.encode()} for key, data in call["records"]]
    if call["operation"] == "PutRecord":
        return {"StreamName": call["stream"], **entries[0]}
    return {"StreamName": call["stream"], "Records": entries}


async def open_boto3(endpoint: str) -> Put:
    import boto3  # here: no client starts slower for the packages of another

    client = boto3.client("kinesis", endpoint_url=endpoint)

    async def put(call: Call) -> list[int]:
        if call["operation"] == "PutRecord":
            client.put_record(**members_of(call))
            return []
        return failed_of(client.put_records(**members_of(call)))

    return put


async def open_aiobotocore(endpoint: str) -> Put:
    from aiobotocore.session import get_session

    client = await get_session().create_client("kinesis", endpoint_url=endpoint).__aenter__()

    async def put(call: Call) -> list[int]:
        if call["operation"] == "PutRecord":
            await client.put_record(**members_of(call))
            return []
        return failed_of(await client.put_records(**members_of(call)))

    return put


async def open_aiokpl(endpoint: str) -> Put:
    from aiokpl import Config, Producer

    producer = await Producer(Config(region=REGION, endpoint_url=endpoint)).__aenter__()

    async def put(call: Call) -> list[int]:
        outcomes = [
            await producer.put_record(stream=call["stream"], partition_key=key, data=data.encode())
            for key, data in call["records"]
        ]
        results = [await outcome.wait() for outcome in outcomes]
        return [at for at, result in enumerate(results) if not result.success]

    return put


async def open_async_kinesis(endpoint: str) -> Put:
    from kinesis import Producer

    async def put(call: Call) -> list[int]:
        async with Producer(
            stream_name=call["stream"], endpoint_url=endpoint, region_name=REGION
        ) as producer:
            for key, data in call["records"]:
                await producer.put(data, partition_key=key)
            await producer.flush()
        return []

    return put


async def open_quixstreams(endpoint: str) -> Put:
    from quixstreams.sinks.community.kinesis import KinesisSink

    def write(call: Call) -> None:
        """As one checkpoint of an application: the sink never forgets what it has flushed."""
        sink = KinesisSink(call["stream"], aws_endpoint_url=endpoint, value_serializer=str)
        sink.setup()
        for at, (key, data) in enumerate(call["records"]):
            sink.add(data, key.encode(), 0, [], "topic", 0, at)
        sink.flush()

    async def put(call: Call) -> list[int]:
        await asyncio.get_running_loop().run_in_executor(None, write, call)
        return []

    return put


def aws_cli(executable: str, *more: str) -> Callable[[str], Awaitable[Put]]:
    """The AWS CLI, a process for each call."""

    async def run(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            executable, "kinesis", *words, *more, stdout=PIPE, stderr=PIPE
        )
        answer, error = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"exit {process.returncode}: {error.decode().strip()}")
        return answer.decode()

    async def open_cli(endpoint: str) -> Put:
        async def put(call: Call) -> list[int]:
            where = ("--stream-name", call["stream"], "--endpoint-url", endpoint)
            if call["operation"] == "PutRecord":
                key, data = call["records"][0]
                await run("put-record", *where, "--partition-key", key, "--data", data)
                return []
            entries = [{"PartitionKey": key, "Data": data} for key, data in call["records"]]
            return failed_of(
                json.loads(await run("put-records", *where, "--records", json.dumps(entries)))
            )

        return put

    return open_cli


OPEN = {
    "aws-cli": aws_cli(AWS_CLI),
    "aws-cli-v2": aws_cli("aws", "--cli-binary-format", "raw-in-base64-out"),
    "quixstreams": open_quixstreams,
    "boto3": open_boto3,
    "aiobotocore": open_aiobotocore,
    "aiokpl": open_aiokpl,
    "async-kinesis": open_async_kinesis,
}


async def serve(name: str, endpoint: str) -> None:
    put = await OPEN[name](endpoint)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        call = json.loads(line)
        told: dict[str, Any] = {"failed": []}
        try:
            told["failed"] = await put(call)
        except Exception as error:  # noqa: BLE001 - what a client raises is what it tells
            told["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(told), flush=True)


def main() -> None:
    asyncio.run(serve(*sys.argv[1:]))


if __name__ == "__main__":
    main()

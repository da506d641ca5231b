"""What the daemon is measured against: the ways that Python programs write to Kinesis today.

Run as its own process: `python -m bench.peers SCENARIO ENDPOINT`, commanded over its standard input
(see worker.py). Clients keep their defaults; what is set is only what the scenario needs.

- `boto3_put_records`: one thread, `put_records` of 500 records, one after another.
- `aiobotocore_put_records`: `put_records` of 500 records, 8 in flight, on uvloop.
- `boto3_put_record`: one thread, `put_record` one record after another.

None has an ingest side: the records are already there, as dicts with bytes, when the clock starts.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import uvloop

from bench import records as bench_records
from bench.worker import Result, serve_commands
from tests.kit.linux import memory_bytes

IN_FLIGHT = 8  # aiobotocore calls at once
_CREDENTIALS = {
    "region_name": "us-east-1",
    "aws_access_key_id": "bench",
    "aws_secret_access_key": "bench",
}
_RECORD_COUNT = 100_000  # records built and sent in turn: as many as the daemon is fed

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Input:
    """What a peer sends, round and round. `held_bytes`: what it adds to the process's memory."""

    entries: Iterator[Entry]
    batches: Iterator[Sequence[Entry]]
    held_bytes: int


def build_input() -> Input:
    before = memory_bytes(os.getpid(), "VmRSS")
    made = [
        {"Data": record.data, "PartitionKey": record.key}
        for record in bench_records.make_records(_RECORD_COUNT)
    ]
    batches = bench_records.in_parts(made, bench_records.BATCH_RECORDS)
    held_bytes = memory_bytes(os.getpid(), "VmRSS") - before
    return Input(cycle(made), cycle(batches), held_bytes)


def serve_boto3(endpoint: str, *, is_batched: bool) -> None:
    import boto3

    client = boto3.client("kinesis", endpoint_url=endpoint, **_CREDENTIALS)
    ready = build_input()

    def put_records(record_count: int) -> Result:
        call_count = -(-record_count // bench_records.BATCH_RECORDS)
        failed, started = 0, time.perf_counter()
        for batch in islice(ready.batches, call_count):
            answer = client.put_records(StreamName=bench_records.STREAM, Records=batch)
            failed += answer["FailedRecordCount"]
        return _result(call_count * bench_records.BATCH_RECORDS, started, failed, ready)

    def put_record(record_count: int) -> Result:
        started = time.perf_counter()
        for entry in islice(ready.entries, record_count):
            client.put_record(StreamName=bench_records.STREAM, **entry)
        return _result(record_count, started, 0, ready)

    serve_commands(put_records if is_batched else put_record)


def serve_aiobotocore(endpoint: str) -> None:
    from aiobotocore.session import get_session

    ready = build_input()

    async def put(client: Any, todo: Iterator[Sequence[Entry]]) -> int:
        failed = 0
        for batch in todo:
            answer = await client.put_records(StreamName=bench_records.STREAM, Records=batch)
            failed += answer["FailedRecordCount"]
        return failed

    async def put_all(client: Any, call_count: int) -> int:
        todo = islice(ready.batches, call_count)  # shared: each call goes to whoever is free
        return sum(await asyncio.gather(*(put(client, todo) for _ in range(IN_FLIGHT))))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        context = get_session().create_client("kinesis", endpoint_url=endpoint, **_CREDENTIALS)
        client = runner.run(context.__aenter__())

        def run(record_count: int) -> Result:
            call_count = -(-record_count // bench_records.BATCH_RECORDS)
            started = time.perf_counter()
            failed = runner.run(put_all(client, call_count))
            return _result(call_count * bench_records.BATCH_RECORDS, started, failed, ready)

        serve_commands(run)
        runner.run(context.__aexit__(None, None, None))


def _result(record_count: int, started: float, failed: int, ready: Input) -> Result:
    return {
        "records": record_count,
        "seconds": time.perf_counter() - started,
        "failed": failed,
        "held_bytes": ready.held_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Peers of the daemon, as they are used today.")
    parser.add_argument(
        "scenario", choices=("boto3_put_records", "aiobotocore_put_records", "boto3_put_record")
    )
    parser.add_argument("endpoint")
    options = parser.parse_args()
    if options.scenario == "aiobotocore_put_records":
        serve_aiobotocore(options.endpoint)
    else:
        serve_boto3(options.endpoint, is_batched=options.scenario == "boto3_put_records")


if __name__ == "__main__":
    main()

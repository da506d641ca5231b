"""`aggregation = "kpl"` through the real daemon: what clients put is what another decoder reads,
and promises are kept for each user record.
"""

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kdaemon.base.record import Record
from tests.kit import sdk
from tests.kit.aggregates import python_reads
from tests.kit.daemon import MIB, command, sandbox, send
from tests.kit.endpoints import Endpoint, data_of, entry
from tests.kit.kcl import Read
from tests.kit.patience import wait_for
from tests.process.conftest import Run

ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/demo"
DATA_BYTES = 200

Place = tuple[str, str]  # shard id and sequence number


def texts(name: str, count: int) -> list[bytes]:
    return [f"{name}-{number}".encode().ljust(DATA_BYTES, b".") for number in range(count)]


def read_back(endpoint: Endpoint) -> dict[Place, list[tuple[str, bytes]]]:
    """Key and data of the user records in each record of the stream, by aws-kinesis-agg."""
    found: dict[Place, list[tuple[str, bytes]]] = {}
    for shard in endpoint.shards("demo"):
        for record in endpoint.read_shard("demo", shard["ShardId"]):
            data = data_of(record)
            inner = [(key, read) for key, _, read in python_reads(data)]
            if inner == [("outer", data)]:  # it is none
                inner = [(record["PartitionKey"], data)]
            found[shard["ShardId"], record["SequenceNumber"]] = inner
    return found


def test_what_clients_put_another_decoder_reads_where_they_were_told(run: Run) -> None:
    with sandbox("demo", 4) as service:
        daemon = run({"default.aggregation": "kpl"}, service=service)
        endpoint = Endpoint("daemon", url=service, put_url=daemon.url)
        kinesis = sdk.kinesis(daemon.url)
        sent: Counter[tuple[str, bytes]] = Counter()

        def put(number: int) -> list[tuple[Place, bytes]]:
            given = texts(f"boto3-{number}", 500)
            records = [
                {"Data": data, "PartitionKey": f"key-{number}-{at % 100}"}
                for at, data in enumerate(given)
            ]
            answer = kinesis.put_records(StreamName="demo", Records=records)
            assert answer["FailedRecordCount"] == 0
            sent.update((f"key-{number}-{at % 100}", data) for at, data in enumerate(given))
            told = [(each["ShardId"], each["SequenceNumber"]) for each in answer["Records"]]
            return list(zip(told, given, strict=True))

        with ThreadPoolExecutor(4) as threads:
            told = [pair for pairs in threads.map(put, range(8)) for pair in pairs]
        kinesis.close()
        lines = [
            json.dumps({"partition_key": f"line-{number % 50}", "data": data.decode()})
            for number, data in enumerate(texts("ndjson", 2_000))
        ]
        status, text = send("POST", daemon.url + "/v1/streams/demo/records", "\n".join(lines))
        assert (status, json.loads(text)["acknowledged"]) == (200, 2_000), text
        sent.update(
            (f"line-{number % 50}", data) for number, data in enumerate(texts("ndjson", 2_000))
        )
        found = read_back(endpoint)
        assert Counter(pair for inner in found.values() for pair in inner) == sent
        for place, data in told:
            assert data in [read for _, read in found[place]], "it is in the record that was named"
        assert len(found) <= sum(sent.values()) / 25
        metrics = daemon.metrics()
        assert metrics.total("kdaemon_records_delivered_total") == sum(sent.values())
        assert metrics.left_over("demo") == 0


def test_stored_and_dead_letters_are_per_user_record(run: Run, tmp_path: Path) -> None:
    """A record that is too large for the stream since a minute ago is a dead letter by itself."""
    directory = str(tmp_path / "spool")
    settings: dict[str, object] = {
        "default.aggregation": "kpl",
        "spool.directory": directory,
    }
    with sandbox("demo", 2) as service:
        endpoint = Endpoint("sandbox", url=service, put_url=service)
        endpoint.answer_empty("UpdateMaxRecordSize", StreamARN=ARN, MaxRecordSizeInKiB=2048)
        daemon = run(settings, service=service)
        endpoint.put_url = daemon.url
        endpoint.put_all("demo", [entry(b"first", "k")])
        wait_for(
            lambda: daemon.counted("kdaemon_shards", stream="demo") or None,
            "the daemon to know the stream",
        )
        endpoint.answer_empty("UpdateMaxRecordSize", StreamARN=ARN, MaxRecordSizeInKiB=1024)
        given = texts("stored", 300)
        entries = [entry(data, f"key-{number}") for number, data in enumerate(given)]
        entries.insert(150, entry(bytes(3 * MIB // 2), "large"))
        answer = endpoint.put_raw(
            "PutRecords",
            json.dumps({"StreamName": "demo", "Records": entries}).encode(),
            x_kdaemon_acknowledge="stored",
        )
        assert (answer.status, answer.members["FailedRecordCount"]) == (200, 0)
        wait_for(
            lambda: daemon.counted("kdaemon_records_dead_total", reason="poison") == 1 or None,
            "the large one to be found",
        )
        daemon.wait_settled()
        found = [data for inner in read_back(endpoint).values() for _, data in inner]
        assert Counter(found) == Counter([b"first", *given])
        assert daemon.stop() == 0
    listed = command("dead-letters", "list", "--directory", directory, "--json")
    assert listed.returncode == 0, listed.stderr
    letters: list[dict[str, Any]] = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [letter["partition_key"] for letter in letters] == ["large"]


def test_a_split_under_load_loses_nothing_to_a_reader(run: Run) -> None:
    """The reader drops aggregates whose keys do not all belong to the shard that they are in."""
    with sandbox("demo", 2) as service:
        daemon = run({"default.aggregation": "kpl"}, service=service)
        endpoint = Endpoint("daemon", url=service, put_url=daemon.url)
        seed = random.randrange(10**6)
        print(f"seed {seed}")
        acknowledged: set[bytes] = set()

        def put(number: int) -> None:
            dice = random.Random(seed + number)
            given = texts(f"split-{number}", 200)
            entries = [entry(data, f"key-{dice.randrange(1000)}") for data in given]
            endpoint.put_all("demo", entries)
            acknowledged.update(given)

        with ThreadPoolExecutor(3) as threads:
            list(threads.map(put, range(10)))
            going_on = [threads.submit(put, number) for number in range(10, 40)]
            shard = endpoint.shards("demo")[0]
            middle = int(shard["HashKeyRange"]["EndingHashKey"]) // 3
            endpoint.answer_empty(
                "SplitShard",
                StreamName="demo",
                ShardToSplit=shard["ShardId"],
                NewStartingHashKey=str(middle),
            )
            for done in going_on:
                done.result()
        wait_for(
            lambda: daemon.counted("kdaemon_shards", stream="demo") == 3 or None,
            "the daemon to learn the shards",
        )
        kept, dropped = kcl_reads(endpoint)
        assert acknowledged <= kept.keys()
        again = daemon.counted("kdaemon_records_retries_total", reason="outside_range")
        twice = sum(count - 1 for count in kept.values()) + sum(dropped.values())
        assert twice == again == daemon.counted("kdaemon_records_possible_duplicates_total")


def kcl_reads(endpoint: Endpoint) -> tuple[Counter[bytes], Counter[bytes]]:
    """What such a reader keeps and what it drops, by data."""
    found = Read()
    for shard in endpoint.shards("demo"):
        keys = shard["HashKeyRange"]
        first, last = int(keys["StartingHashKey"]), int(keys["EndingHashKey"])
        for record in endpoint.read_shard("demo", shard["ShardId"]):
            found.take(Record(data_of(record), record["PartitionKey"]), first, last)
    return found.kept, found.dropped

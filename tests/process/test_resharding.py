"""A stream that changes under a real daemon: what only the control plane knows is learnt in time.

Splits, merges and UpdateShardCount under load are in `test_promises.py`, and with aggregates in
`test_aggregation.py`.
"""

import json
from typing import Any

from tests.kit.daemon import MIB, sandbox
from tests.kit.endpoints import Endpoint, entry
from tests.kit.patience import wait_for
from tests.process.conftest import Run

ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/demo"


def test_a_raised_record_limit_is_noticed_by_the_records_that_it_is_for(run: Run) -> None:
    with sandbox("demo", 2) as service:
        daemon = run(service=service)
        endpoint = Endpoint("daemon", url=service, put_url=daemon.url)
        endpoint.put_all("demo", [entry(b"first", "k")])
        large: dict[str, Any] = {"Records": [entry(bytes(3 * MIB // 2), "k")], "StreamName": "demo"}
        assert endpoint.put("PutRecords", **large).refusal == (400, "ValidationException")
        endpoint.answer_empty("UpdateMaxRecordSize", StreamARN=ARN, MaxRecordSizeInKiB=2048)
        wait_for(
            lambda: endpoint.put("PutRecords", **large).status == 200 or None,
            "the new limit to be known",
        )
        assert daemon.counted("kdaemon_shard_map_refreshes_total", stream="demo") <= 6


def test_order_is_refused_on_a_stream_that_becomes_auto(run: Run) -> None:
    with sandbox("demo", 2) as service:
        endpoint = Endpoint("sandbox", url=service, put_url=service)
        endpoint.answer_empty(
            "UpdateStreamMode", StreamARN=ARN, StreamModeDetails={"StreamMode": "ON_DEMAND"}
        )
        daemon = run({"default.ordering": "partition_key"}, service=service)
        endpoint.put_url = daemon.url
        endpoint.put_all("demo", [entry(b"first", "k")])
        distribution = "UpdateStreamRecordDistributionStrategy"
        endpoint.answer_empty(distribution, StreamARN=ARN, RecordDistributionStrategy="AUTO")

        def refused() -> bool | None:
            answer = endpoint.put(
                "PutRecords", StreamName="demo", Records=[entry(b"x", f"k{n}") for n in range(20)]
            )
            return (answer.status == 400 and b"AUTO" in answer.body) or None

        wait_for(refused, "the daemon to refuse what it cannot keep")
        assert daemon.counted("kdaemon_records_rejected_total", reason="unavailable") >= 20
        assert daemon.metrics().left_over("demo") == 0
        assert daemon.stop() == 0


def test_a_warm_throughput_is_told_and_a_raised_one_with_the_shards_that_came_with_it(
    run: Run,
) -> None:
    with sandbox("demo", 2) as service:
        endpoint = Endpoint("sandbox", url=service, put_url=service)
        on_demand: dict[str, Any] = {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
        endpoint.answer_empty("UpdateStreamMode", StreamARN=ARN, WarmThroughputMiBps=2, **on_demand)
        daemon = run(service=service)
        endpoint.put_url = daemon.url

        def warm(mib: int) -> bool | None:
            endpoint.put_all("demo", [entry(b"x", f"k{n}") for n in range(20)])
            (stream,) = json.loads(daemon.page("/statusz")[1])["streams"]
            capacity = stream["capacity"]
            return (capacity is not None and capacity["warm_bytes_per_second"] == mib * MIB) or None

        wait_for(lambda: warm(2), "the warm throughput to be known")
        endpoint.answer("UpdateStreamWarmThroughput", StreamARN=ARN, WarmThroughputMiBps=8)
        wait_for(lambda: warm(8), "the raised one to be known")
        name = "kdaemon_stream_warm_throughput_bytes_per_second"
        assert daemon.counted(name, stream="demo", kind="current") == 8 * MIB
        assert daemon.counted("kdaemon_shards", stream="demo") == 8
        assert daemon.stop() == 0

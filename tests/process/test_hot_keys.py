"""A daemon whose one shard is hot says which key fills it, and what was billed, on its pages."""

import json
from hashlib import sha256
from typing import Any

from tests.kit.daemon import Daemon, send
from tests.kit.patience import wait_for
from tests.process.conftest import Run

KEY = "customer-42"
LINES = "".join(json.dumps({"data": "x" * 200, "partition_key": KEY}) + "\n" for _ in range(500))


def test_the_key_that_fills_a_shard_is_on_the_page_and_its_name_only_if_it_may(run: Run) -> None:
    hot = {
        "sandbox.shard_count": 1,
        "default.shard_records_per_second": 50,
        "default.acknowledge": "accepted",
    }
    daemons = {KEY: run({**hot, "observe.show_keys": True}), _hash(KEY): run(hot)}

    def loads() -> list[Any] | None:
        """Of the hot shards, after some more has come for them."""
        found = [_load(daemon) for daemon in daemons.values()]
        return None if None in found else found

    for name, load in zip(daemons, wait_for(loads, "the load of both hot shards"), strict=True):
        assert [each["key"] for each in load["keys"]] == [name]
        assert "spread this key" in load["advice"]
    for name, daemon in daemons.items():
        assert (KEY in daemon.page("/statusz")[1]) is (name == KEY)
        assert KEY not in daemon.page("/metrics")[1]
        metrics = daemon.metrics()
        units = metrics.total("kdaemon_billed_units_total", unit="on_demand_bytes")
        assert units == 1024 * metrics.total("kdaemon_records_delivered_total") > 0


def _hash(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:12]


def _load(daemon: Daemon) -> Any:
    send("POST", daemon.url + "/v1/streams/demo/records", LINES)  # refused, once it is full
    (stream,) = json.loads(daemon.page("/statusz")[1])["streams"]
    return next((each["load"] for each in stream["hottest_shards"]), None)

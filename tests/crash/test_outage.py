"""An outage of the service costs disk, not memory and not a core; afterwards all of it arrives."""

import contextlib
import http.client
import json
from collections import Counter
from pathlib import Path

from tests.kit.daemon import MIB, Daemon, from_scratch, running, sandbox
from tests.kit.endpoints import Endpoint
from tests.kit.linux import cores_used
from tests.kit.patience import PATIENCE_S, wait_for

MEMORY_BYTES = 16 * MIB
PUSHED_BYTES = 4 * MEMORY_BYTES
# docs/operate.md: the process when idle, and all that it has beside `memory_bytes_max`, at most.
IDLE_BYTES = 62 * MIB
BESIDE_BYTES = 90 * MIB
DATA_BYTES = 10_000
REQUEST_RECORDS = 100
UNLIMITED = 10**9
CPU_SHARE_MAX = 0.05  # of a core, while nothing but probes goes out
CALLS_MAX = 20  # meanwhile
WATCHED_S = 4.0
OUTAGE = {"kind": "status", "status": 503, "calls": None}


def put_stored(daemon: Daemon, byte_count: int) -> list[str]:
    """So many bytes of data in lines over HTTP, all of it acknowledged; the partition keys."""
    headers = {"X-Kdaemon-Acknowledge": "stored"}
    keys: list[str] = []
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        while len(keys) * DATA_BYTES < byte_count:
            more = [f"key-{len(keys) + index}" for index in range(REQUEST_RECORDS)]
            lines = [json.dumps({"data": "x" * DATA_BYTES, "partition_key": key}) for key in more]
            connection.request("POST", "/v1/streams/demo/records", "\n".join(lines), headers)
            answer = json.loads(connection.getresponse().read())
            assert answer.get("acknowledged") == REQUEST_RECORDS, answer
            keys += more
    return keys


def is_at_rest(daemon: Daemon) -> bool:
    """Watches it for a while in which nothing is asked of it: it does next to nothing."""
    calls = daemon.counted("kdaemon_put_records_calls_total")
    share = cores_used(daemon.pid, WATCHED_S)
    calls = daemon.counted("kdaemon_put_records_calls_total") - calls
    print(f"{share:.1%} of a core, {calls} calls")
    return share <= CPU_SHARE_MAX and calls <= CALLS_MAX


def test_an_outage_costs_disk_and_neither_memory_nor_a_core_and_loses_nothing(
    tmp_path: Path,
) -> None:
    quotas = {"shard_records_per_second": UNLIMITED, "shard_bytes_per_second": UNLIMITED}
    settings: dict[str, object] = {
        "spool.directory": str(tmp_path / "spool"),
        "memory_bytes_max": MEMORY_BYTES,
        "default.request_bytes_max": 2 * MIB,
        "default.buffer_bytes_max": MEMORY_BYTES,
        **{f"default.{key}": value for key, value in quotas.items()},
    }
    with (
        from_scratch(),
        sandbox("demo", 4, **quotas) as service,
        running(tmp_path, settings, service=service) as daemon,
    ):
        assert daemon.rss_bytes() <= IDLE_BYTES, f"{daemon.rss_bytes() / MIB:.1f} MiB when idle"
        daemon.inject(OUTAGE)
        keys = put_stored(daemon, PUSHED_BYTES)
        print(f"{daemon.peak_bytes() / MIB:.1f} MiB")
        assert daemon.peak_bytes() <= MEMORY_BYTES + BESIDE_BYTES
        wait_for(lambda: is_at_rest(daemon) or None, "the daemon to be at rest")

        daemon.clear_faults()
        fresh = put_stored(daemon, 1)  # new records flow while the backlog drains
        expected = Counter(keys) + Counter(fresh)

        def delivered() -> bool | None:
            count = daemon.counted("kdaemon_records_delivered_total")
            return count >= expected.total() or None

        wait_for(delivered, "the backlog to be delivered")
        print(f"{daemon.peak_bytes() / MIB:.1f} MiB")
        assert daemon.peak_bytes() <= MEMORY_BYTES + BESIDE_BYTES
        assert daemon.counted("kdaemon_records_unaccounted") == 0
        assert daemon.stop() == 0
        records = Endpoint("sandbox", url=service, put_url=service).read_stream("demo")
        found = Counter(record["PartitionKey"] for record in records)
        assert found == expected

"""Real input, proved: every flight out of New York in 2013 through the daemon and back.

`python -m bench.demo [--flights FILE] [--via sdk|put]` starts `kdaemon run --sandbox`, makes a
16-shard stream in the sandbox, puts every flight through the daemon (partition key: the aircraft's
tail number, a real skew), reads the stream back from the sandbox with GetRecords, and compares
the two as multisets of (key, line). Exit 1, and what is wrong, if a flight is missing, doubled or
changed. The sandbox throttles as the service does: 1,000 records/s a shard bound the speed.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bench.flights import (
    SAMPLE_PATH,
    UNKNOWN_KEY,
    Flight,
    PutCounts,
    compare,
    find_flights,
    load_flights,
    put_through_command,
    put_through_sdk,
    read_back,
    shard_counts,
)
from bench.targets import daemon
from kdaemon.base.limits import SHARD_RECORDS_PER_SECOND
from tests.kit.daemon import Metrics
from tests.kit.sdk import kinesis

STREAM = "flights"
SHARD_COUNT = 16


def client(url: str, connections: int) -> Any:
    """boto3 as anybody has it; a connection for every thread."""
    return kinesis(url, config=Config(max_pool_connections=connections))


def create_stream(sandbox: Any) -> None:
    """CreateStream, then wait until it is ACTIVE."""
    sandbox.create_stream(StreamName=STREAM, ShardCount=SHARD_COUNT)
    sandbox.get_waiter("stream_exists").wait(StreamName=STREAM)


def print_daemon_counts(metrics: Metrics) -> None:
    """What it cost at the service, as the daemon's own metrics tell it."""
    calls = metrics.total("kdaemon_put_records_calls_total")
    attempts = metrics.total("kdaemon_records_attempts_total")
    delivered = metrics.total("kdaemon_records_delivered_total")
    print(f"delivered by the daemon:        {delivered:,}")
    print(
        f"PutRecords calls by the daemon: {calls:,}, {attempts / max(calls, 1):,.1f} records each"
    )
    print(f"throttled by a shard:           {metrics.total('kdaemon_records_throttled_total'):,}")
    print(f"records sent again:             {metrics.total('kdaemon_records_retries_total'):,}")


def run(flights: list[Flight], source: Path, via: str, threads: int) -> int:
    """The whole demo; the exit code."""
    # What is in flight at its deadline is sent again by its client: on a slow machine twice there.
    settings = {"sandbox.streams": ["demo"], "default.deadline_ms": 45_000}
    with daemon(None, settings, frozenset(os.sched_getaffinity(0))) as started:
        print(f"kdaemon is ready after {started.ready_s:.2f} s")
        sandbox = client(started.sandbox_url, 1)
        create_stream(sandbox)
        began_s = time.monotonic()
        if via == "put":
            counts = put_through_command(source, started.address("unix"), STREAM)
        else:
            sdk = client(started.url, threads)
            counts = put_through_sdk(sdk, STREAM, flights, threads)
            sdk.close()
        print_put(counts, flights, time.monotonic() - began_s)
        print_daemon_counts(started.metrics())
        received, shard_count = read_back(sandbox, STREAM)
        sandbox.close()
        print(f"read back:                      {len(received):,} from {shard_count} shards")
        code = started.stop()
    difference = compare(flights, received)
    print(difference.text())
    if code != 0:
        print(f"the daemon ended with exit code {code}, not 0")
    return 0 if difference.is_empty and code == 0 else 1


def print_put(counts: PutCounts, flights: list[Flight], seconds: float) -> None:
    rate = len(flights) / seconds
    fullest = max(shard_counts(flights, SHARD_COUNT))
    # a shard's bucket holds one second's worth when it is full
    least_s = max(0, fullest / SHARD_RECORDS_PER_SECOND - 1)
    print(f"put:                            {len(flights):,} in {seconds:.1f} s: {rate:,.0f}/s")
    print(f"                                the fullest shard takes {fullest:,} of them, for which")
    quota = f"its quota of {SHARD_RECORDS_PER_SECOND:,}/s"
    print(f"                                {quota} needs {least_s:.1f} s")
    if counts.calls:
        print(f"put_records calls by boto3:     {counts.calls:,}, resent {counts.resent:,}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.demo",
        description="Every flight of 2013 through the daemon and back, and the proof.",
    )
    parser.add_argument("--flights", type=Path, help="flights.csv.gz (default: found, or a sample)")
    parser.add_argument("--via", choices=("sdk", "put"), default="sdk")
    parser.add_argument("--threads", type=int, default=16, help="boto3 threads, 500 records a call")
    options = parser.parse_args()
    try:
        source = options.flights or find_flights()
        if source == SAMPLE_PATH and not options.flights:
            print("NOTICE: the whole data set is not here; this is a sample of 5,000 flights.")
            print("        Name the file with --flights FILE (make demo FLIGHTS=FILE).")
        flights = load_flights(source)
        if options.via == "put" and any(flight.key == UNKNOWN_KEY for flight in flights):
            print("demo: kdaemon put spreads records without a key: use --via sdk", file=sys.stderr)
            return 1
        key_count = len({flight.key for flight in flights})
        print(f"{len(flights):,} flights under {key_count:,} keys: {source.name}, {options.via}")
        return run(flights, source, options.via, options.threads)
    except (RuntimeError, OSError, ValueError, BotoCoreError, ClientError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

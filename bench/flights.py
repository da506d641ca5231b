"""The flights: loaded, put through a daemon, read back from a service, compared.

The steps of bench.demo, each usable alone (tests run them against what they like). A flight is its
CSV line, unchanged; its partition key is the aircraft's tail number.
"""

import gzip
import hashlib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.kit.daemon import environment

_ROOT = Path(__file__).resolve().parent.parent
WHOLE_PATH = _ROOT.parent / "shared" / "data" / "flights.csv.gz"
SAMPLE_PATH = _ROOT / "tests" / "data" / "flights-sample.csv.gz"
KEY_COLUMN = "tailnum"
UNKNOWN_KEY = "unknown"  # for an empty tail number: a partition key has at least one character
_BATCH_RECORDS = 500
_PAGE_RECORDS = 10_000  # the most that GetRecords returns
_ROUNDS_MAX = 100  # times that a client sends the rest of one batch again before it gives up
_PAUSE_S = 0.05  # before the first of them, doubling
_PAUSE_S_MAX = 1.0
_PUT_WITHIN_S = 600.0  # seconds that `kdaemon put` may take
_EXAMPLES = 3  # lines shown of each kind of difference


class Flight(NamedTuple):
    key: str
    line: str


@dataclass(frozen=True, slots=True)
class PutCounts:
    """`resent`: records that the daemon answered as failed, and the client sent again."""

    calls: int
    resent: int


def find_flights() -> Path:
    return WHOLE_PATH if WHOLE_PATH.exists() else SAMPLE_PATH


def load_flights(path: Path) -> list[Flight]:
    """Every line but the header, in order. ValueError if it is not a CSV with a `tailnum`."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        columns = file.readline().rstrip("\n").split(",")
        if KEY_COLUMN not in columns:
            message = f"{path.name} has no column {KEY_COLUMN}; its header is {columns}"
            raise ValueError(message)
        at = columns.index(KEY_COLUMN)
        lines = (line.rstrip("\n") for line in file)
        return [Flight(line.split(",")[at] or UNKNOWN_KEY, line) for line in lines if line]


def shard_counts(flights: list[Flight], shard_count: int) -> list[int]:
    """Records for each of `shard_count` equal shards: the MD5 of the key decides."""
    counts = [0] * shard_count
    for key, count in Counter(flight.key for flight in flights).items():
        hashed = int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest(), "big")
        counts[hashed * shard_count >> 128] += count
    return counts


def put_through_sdk(client: Any, stream: str, flights: list[Flight], threads: int) -> PutCounts:
    """put_records of 500 from `threads` threads; failed entries are sent again, as good clients do.

    RuntimeError if a batch still has failed entries after many rounds.
    """
    starts = iter(range(0, len(flights), _BATCH_RECORDS))
    lock = threading.Lock()

    def next_batch() -> list[dict[str, Any]]:
        with lock:
            start = next(starts, None)
        if start is None:
            return []
        batch = flights[start : start + _BATCH_RECORDS]
        return [{"Data": flight.line.encode(), "PartitionKey": flight.key} for flight in batch]

    def put_batches() -> PutCounts:
        calls = resent = 0
        while entries := next_batch():
            for round_number in range(_ROUNDS_MAX):
                answer = client.put_records(StreamName=stream, Records=entries)
                calls += 1
                results = answer["Records"]
                if len(results) != len(entries):
                    message = f"{len(entries)} records were put, {len(results)} were answered"
                    raise RuntimeError(message)
                pairs = zip(entries, results, strict=True)
                entries = [entry for entry, result in pairs if "ErrorCode" in result]
                if not entries:
                    break
                resent += len(entries)
                time.sleep(min(_PAUSE_S_MAX, _PAUSE_S * 2**round_number))
            else:
                message = f"{len(entries)} records still failed after {_ROUNDS_MAX} rounds"
                raise RuntimeError(message)
        return PutCounts(calls, resent)

    with ThreadPoolExecutor(threads) as pool:
        done = [future.result() for future in [pool.submit(put_batches) for _ in range(threads)]]
    return PutCounts(sum(one.calls for one in done), sum(one.resent for one in done))


def put_through_command(source: Path, socket_path: str, stream: str) -> PutCounts:
    """`kdaemon put` on the Unix socket: the file as it is. RuntimeError if it failed."""
    command = [sys.executable, "-m", "kdaemon", "put", "--stream", stream, "--socket", socket_path]
    command += ["--csv", "--partition-key-field", KEY_COLUMN, str(source)]
    code = subprocess.run(command, env=environment(), timeout=_PUT_WITHIN_S).returncode
    if code != 0:
        message = f"kdaemon put ended with exit code {code}"
        raise RuntimeError(message)
    return PutCounts(0, 0)


def read_back(client: Any, stream: str) -> tuple[list[Flight], int]:
    """Every record of every shard, and the number of shards.

    A shard is read until it is both caught up (MillisBehindLatest 0) and empty-handed: 0 alone may
    mean that the rest is less than a millisecond old.
    """
    answer = client.list_shards(StreamName=stream)
    shards = answer["Shards"]
    while token := answer.get("NextToken"):
        answer = client.list_shards(NextToken=token)
        shards += answer["Shards"]
    received: list[Flight] = []
    for shard in shards:
        iterator = client.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while iterator:
            page = client.get_records(ShardIterator=iterator, Limit=_PAGE_RECORDS)
            records = page["Records"]
            received += [Flight(one["PartitionKey"], one["Data"].decode()) for one in records]
            if not records and page["MillisBehindLatest"] == 0:
                break
            iterator = page.get("NextShardIterator")
    return received, len(shards)


@dataclass(frozen=True, slots=True)
class Difference:
    """What was sent against what arrived. `strange`: arrived, but was never sent like that."""

    sent_count: int
    missing: Counter[Flight]
    doubled: Counter[Flight]
    strange: Counter[Flight]

    @property
    def is_empty(self) -> bool:
        return not (self.missing or self.doubled or self.strange)

    def text(self) -> str:
        if self.is_empty:
            return f"PROVED: each of {self.sent_count:,} flights arrived exactly once and unchanged"
        kinds = {
            "missing": self.missing,
            "doubled": self.doubled,
            "changed (or never sent)": self.strange,
        }
        lines = ["NOT PROVED:"]
        for kind, flights in kinds.items():
            lines.append(f"  {kind}: {flights.total():,}")
            lines += [f"    {one.key}: {one.line}" for one in list(flights)[:_EXAMPLES]]
        return "\n".join(lines)


def compare(sent: Iterable[Flight], received: Iterable[Flight]) -> Difference:
    """Multisets of (key, line): order between keys is no promise, once and unchanged is."""
    expected, arrived = Counter(sent), Counter(received)
    extra = arrived - expected
    return Difference(
        sent_count=expected.total(),
        missing=expected - arrived,
        doubled=Counter({one: count for one, count in extra.items() if one in expected}),
        strange=Counter({one: count for one, count in extra.items() if one not in expected}),
    )

"""What CBOR costs beside JSON: `python -m bench.encodings [--write] [--quick] [--rounds N]`.

PutRecords of 500 in both encodings, CBOR as the AWS SDKs for Java write it, with data of several
sizes, against the sink as in `compare.py`: a core of its own, a fresh process for each round,
rounds interleaved, and who is first changes. The ratio is taken within each round, because the
machine is not the same from one to the next; the table has medians. Upstream the daemon speaks JSON
in both cases. A single round says little: on a busy machine its ratio is off by a quarter.
"""

import argparse
import sys
from statistics import median

from bench import command
from bench.report import Outcome
from bench.table import Target, table, verdicts
from bench.targets import Scenario, measure_daemon, started_sink

SECTION = "## CBOR beside JSON (`python -m bench.encodings --write`)"
TARGET_RATIO = 0.9  # of JSON's records per CPU-second

# Bytes of data -> records in a round; in flight at most 8 requests.
SIZES = {100: 500_000, 200: 500_000, 1_000: 250_000, 10_000: 40_000}
_BODIES_BYTES = 64 * 1024 * 1024  # of distinct bodies that are built

Pair = tuple[Outcome, Outcome]


def scenario(data_bytes: int, encoding: str) -> Scenario:
    bodies = max(4, min(200, _BODIES_BYTES // (500 * data_bytes * 4 // 3)))
    return Scenario(
        f"{encoding}-{data_bytes}",
        f"PutRecords of 500 x {data_bytes:,} B in {encoding.upper()}",
        "put_records --unix {unix} --connections 8"
        f" --data-bytes {data_bytes} --bodies {bodies} --encoding {encoding}",
        SIZES[data_bytes],
    )


def row(data_bytes: int, pairs: list[Pair]) -> tuple[str, ...]:
    in_json = median(json.records_per_cpu_s for json, _ in pairs)
    in_cbor = median(cbor.records_per_cpu_s for _, cbor in pairs)
    return f"{data_bytes:,}", f"{in_json:,.0f}", f"{in_cbor:,.0f}", f"{ratio(pairs):.2f}"


def ratio(pairs: list[Pair]) -> float:
    return median(cbor.records_per_cpu_s / json.records_per_cpu_s for json, cbor in pairs)


def measure(options: argparse.Namespace) -> str:
    """The section of RESULTS.md, and whether the target is reached."""
    number = 0

    def pair(data_bytes: int) -> Pair:
        nonlocal number
        number += 1
        order = ("json", "cbor") if (number - 1) // len(SIZES) % 2 == 0 else ("cbor", "json")
        records = SIZES[data_bytes] // options.share
        found = {
            encoding: measure_daemon(scenario(data_bytes, encoding), records, sink)
            for encoding in order
        }
        return found["json"], found["cbor"]

    with started_sink() as sink:
        measured = command.interleaved(
            options.rounds, SIZES, pair, lambda data_bytes, _: f"{data_bytes:,} B"
        )
    heading = ("bytes of data", "JSON, rec/CPU-s", "CBOR, rec/CPU-s", "ratio")
    least = Target("the least ratio", TARGET_RATIO, min(map(ratio, measured.values())), ".2f")
    lines = [SECTION, "", *table(heading, (row(*each) for each in measured.items()), words=0)]
    return "\n".join([*lines, "", *verdicts([least])])


if __name__ == "__main__":
    text = "What CBOR costs the daemon beside JSON."
    parser = command.arguments("encodings", text, rounds=5, is_written=True)
    sys.exit(command.run(parser, measure))

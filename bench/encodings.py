"""What CBOR costs beside JSON: `python -m bench.encodings [--write] [--quick] [--rounds N]`.

PutRecords of 500 in both encodings, CBOR as the AWS SDKs for Java write it, with data of several
sizes, against the sink as in `compare.py`: a core of its own, a fresh process for each round,
rounds interleaved, and who is first changes. The ratio is taken within each round, because the
machine is not the same from one to the next; the table has medians. Upstream the daemon speaks JSON
in both cases. A single round says little: on a busy machine its ratio is off by a quarter.
"""

import sys
from statistics import median

from bench.command import run_beside_sink
from bench.compare import Scenario, Sink, measure_daemon
from bench.host import Cores
from bench.report import Outcome
from bench.table import table

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
        (
            *("put_records", "--unix", "{unix}", "--connections", "8"),
            *("--data-bytes", str(data_bytes), "--bodies", str(bodies), "--encoding", encoding),
        ),
        SIZES[data_bytes],
        is_daemon=True,
    )


def row(data_bytes: int, pairs: list[Pair]) -> tuple[str, ...]:
    in_json = median(json.records_per_cpu_s for json, _ in pairs)
    in_cbor = median(cbor.records_per_cpu_s for _, cbor in pairs)
    return f"{data_bytes:,}", f"{in_json:,.0f}", f"{in_cbor:,.0f}", f"{ratio(pairs):.2f}"


def ratio(pairs: list[Pair]) -> float:
    return median(cbor.records_per_cpu_s / json.records_per_cpu_s for json, cbor in pairs)


def run(rounds: int, share: int, sink: Sink, cores: Cores) -> str:
    """All rounds; the table, and whether the target is reached."""
    measured: dict[int, list[Pair]] = {data_bytes: [] for data_bytes in SIZES}
    for round_number in range(1, rounds + 1):
        for data_bytes, pairs in measured.items():
            records = SIZES[data_bytes] // share
            order = ("json", "cbor") if round_number % 2 else ("cbor", "json")
            found = {
                encoding: measure_daemon(scenario(data_bytes, encoding), records, sink, cores)
                for encoding in order
            }
            pairs.append((found["json"], found["cbor"]))
            print(f"[{round_number}/{rounds}] {data_bytes:,} B", file=sys.stderr, flush=True)
    heading = ("bytes of data", "JSON, rec/CPU-s", "CBOR, rec/CPU-s", "ratio")
    worst = min(map(ratio, measured.values()))
    word = "reached" if worst >= TARGET_RATIO else "missed"
    return "\n".join(
        [
            *table(heading, (row(*each) for each in measured.items()), words=0),
            "",
            f"The least ratio is {worst:.2f}; at least {TARGET_RATIO} is to be reached: {word}.",
        ]
    )


if __name__ == "__main__":
    text = "What CBOR costs the daemon beside JSON."
    sys.exit(run_beside_sink("encodings", text, run, rounds=5, heading=SECTION))

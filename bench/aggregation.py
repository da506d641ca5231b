"""What aggregation gives and what it costs: `python -m bench.aggregation [--quick] [--write]`.

First, in simulation (the engine, the sandbox service, one clock): user records of 200 B a second
that one shard takes, plain and aggregated. Then the real daemon, pinned, in front of the sink
without a quota: its CPU for each user record, plain and aggregated, rounds interleaved, medians.
Invariant: a figure is given only if the daemon counts every record that was offered as delivered.
"""

import argparse
import sys
from dataclasses import replace
from statistics import median

from bench import command
from bench.records import DATA_BYTES, make_records
from bench.table import table
from bench.targets import Scenario, measure_daemon, started_sink
from kdaemon.base.record import Record
from tests.kit.world import MS, SECOND, SETTINGS, World, counters_of, make_frame

AGGREGATE_BYTES = 51_200  # the daemon's default target
PER_SECOND_TARGET = 4_500  # user records, of one shard (issue 4)
CPU_TARGET = 1.3  # of plain, for each user record (issue 4)
_FEED_NS = 20 * MS
_OFFERED = 6_000  # user records a second: more than a shard takes either way
_WARM_S, _MEASURED_S = 10, 30  # a lane grows from its first share meanwhile
JOINED = {"default.aggregation": "kpl"}

WAYS = (
    Scenario(
        "a",
        "PutRecords of 500, 32 connections",
        "put_records --unix {unix} --connections 32",
        600_000,
    ),
    Scenario(
        "c",
        "NDJSON, 4 connections",
        "ndjson --unix {unix} --connections 4 --window 8000",
        600_000,
    ),
)


def records_per_second(aggregate_bytes_max: int) -> tuple[float, float]:
    """User records a second that one shard takes of a lone daemon, and the part throttled."""
    settings = replace(SETTINGS, aggregate_bytes_max=aggregate_bytes_max)
    world = World(1, shard_count=1, settings=settings, keeps_records=False)
    engine = world.add_engine()
    made = [Record(each.data, each.key) for each in make_records(20_000)]
    count = _OFFERED * _FEED_NS // SECOND
    at = 0

    def feed() -> None:
        nonlocal at
        world.submit(engine, make_frame(made[at : at + count]))
        at = (at + count) % (len(made) - count)
        world.at(world.now_ns + _FEED_NS, feed)

    feed()
    world.run_until(_WARM_S * SECOND)
    counters = counters_of(world)
    delivered, attempts, throttled = counters.delivered, counters.attempts, counters.throttled
    world.run_until((_WARM_S + _MEASURED_S) * SECOND)
    part = (counters.throttled - throttled) / (counters.attempts - attempts)
    return (counters.delivered - delivered) / _MEASURED_S, part


def measure(options: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    plain, _ = records_per_second(0)
    joined, throttled = records_per_second(AGGREGATE_BYTES)
    of_one_shard = (
        f"{plain:,.0f}/s plain, {joined:,.0f}/s aggregated ({throttled:.2%} throttled); target"
        f" {PER_SECOND_TARGET:,}/s."
    )
    command.tell(of_one_shard)
    with started_sink() as sink:

        def figure(case: tuple[Scenario, bool]) -> float:
            way, is_joined = case
            settings = JOINED if is_joined else None
            return measure_daemon(way, way.records // options.share, sink, settings).us_per_record

        seen = command.interleaved(
            options.rounds,
            [(way, is_joined) for way in WAYS for is_joined in (False, True)],
            figure,
            lambda case, us: f"{case[0].title}, {'joined' if case[1] else 'plain'}: {us:.2f} us",
        )
    rows = []
    for way in WAYS:
        before, after = median(seen[way, False]), median(seen[way, True])
        ratio = after / before
        rows.append((way.title, f"{before:.2f} us", f"{after:.2f} us", f"{ratio:.2f}"))
    what = f"user records of {DATA_BYTES} B with keys of 12, one daemon, simulated"
    cpu = "CPU of the real daemon for each user record, sink without quota, 16 shards, medians of"
    lines = [
        "## Aggregation",
        "",
        f"One shard (1,000 records/s, 1 MiB/s), {what}:",
        of_one_shard,
        "",
        f"{cpu} {options.rounds}:",
        "",
        *table(("in", "plain", "aggregated", f"ratio (target {CPU_TARGET})"), rows),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = command.arguments("aggregation", "What aggregation gives and costs.", is_written=True)
    sys.exit(command.run(parser, measure))

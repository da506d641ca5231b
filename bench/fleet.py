"""Daemons that share one shard: `python -m bench.fleet [--daemons 8] [--limiter window] ...`.

Simulated (`fleet_sim.py`); prints a table with the least, median and most over the seeds beside
the issue's target. `--write` runs everything (this table, other loads, joining and leaving, the
Yandex way, and `bench.hot`), puts it into RESULTS.md and draws fleet.svg. Exit 1 if a target was
missed.
"""

import argparse
import sys
from dataclasses import replace

from bench import fleet_picture, hot, hot_sim
from bench import fleet_report as report
from bench.fleet_sim import START_NS, Load, Plan, simulate
from bench.plans import add_arguments, kinds_and_seeds, simulate_all
from bench.table import aligned, today
from bench.table import write as write_section
from kdaemon.sandbox.settings import LimiterKind
from tests.kit.world import MS

DAEMONS = (1, 2, 8, 32)  # the table
WORKERS = (2, 4, 8)  # of one daemon
SECONDS = 120  # simulated
HALF_S = SECONDS // 2  # when one joins or leaves


def whole(seeds: range) -> list[tuple[str, list[Plan]]]:
    """Everything about one shard: titles and plans."""

    def plans(*variants: Plan) -> list[Plan]:
        return [
            replace(variant, limiter=kind, seed=seed)
            for variant in variants
            for kind in LimiterKind
            for seed in seeds
        ]

    eight, two = (Plan(daemons, LimiterKind.BUCKET, 0, SECONDS) for daemons in (8, 2))
    sizes = [replace(eight, daemons=daemons) for daemons in DAEMONS]
    workers = [replace(eight, daemons=daemons) for daemons in WORKERS]
    return [
        ("Small records", plans(*sizes)),
        (
            "Records of 10 KiB, and mixed with small ones",
            plans(*(replace(eight, load=load) for load in Load if load is not Load.RECORDS)),
        ),
        (
            f"One joins, one leaves, after {HALF_S} s",
            plans(
                replace(eight, joins_at_s=HALF_S),
                replace(eight, leaves_at_s=HALF_S),
                replace(two, leaves_at_s=HALF_S),
            ),
        ),
        (
            "Workers of one daemon: all busy, one of four busy, one that has no clients any more",
            plans(
                *(replace(size, workers=size.daemons, start_ns=MS) for size in workers),
                Plan(1, LimiterKind.BUCKET, 0, SECONDS, workers=4),
                replace(workers[1], workers=4, leaves_at_s=HALF_S),
            ),
        ),
        (
            "Over quota is held, not refused (Yandex)",
            plans(*(replace(size, is_yandex=True) for size in sizes)),
        ),
    ]


def write(seeds: range, jobs: int) -> bool:
    """Runs everything, writes both sections and the picture; true if every target was reached."""
    tables = []
    for title, plans in whole(seeds):
        table = report.fleet_table(simulate_all(simulate, plans, jobs))
        print(f"\n{title}\n{aligned(table)}", flush=True)
        tables.append((title, table))
    kinds, size = list(LimiterKind), (hot_sim.SHARDS, hot_sim.SECONDS)
    hot_runs = simulate_all(hot_sim.simulate, hot.hot_plans(kinds, seeds, *size), jobs)
    keyless_runs = simulate_all(hot_sim.simulate, hot.keyless_plans(kinds, seeds, *size), jobs)
    pair = (report.hot_table(hot_runs), report.keyless_table(keyless_runs))
    print("", *map(aligned, pair), sep="\n\n", flush=True)
    by = f"Simulated by `python -m bench.fleet --write`, {today()}; how: [README.md](README.md)."
    over = f"Least / median / most over {len(seeds)} seeds, and the target."
    fleet_intro = f"{by} {SECONDS} s, twice the shard's quota on offer in all. {over}"
    span = f"{hot_sim.SECONDS} s after a warm-up of {hot_sim.WARM_UP_S} s"
    hot_intro = f"{by} One daemon, {hot_sim.SHARDS} shards, {span}. {over}"
    write_section(report.fleet_section(tables, fleet_intro))
    write_section(report.hot_section(*pair, hot_intro))
    fleet_picture.PATH.write_text(fleet_picture.picture(simulate(fleet_picture.PLAN)))
    return not any(map(report.misses, [*(table for _, table in tables), *pair]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--daemons", type=int, nargs="+", default=DAEMONS)
    parser.add_argument(
        "--workers", type=int, default=0, help="those daemons are busy ones of so many workers"
    )
    add_arguments(parser, SECONDS)
    parser.add_argument("--load", choices=[load.value for load in Load], default="records")
    parser.add_argument("--join", action="store_true", help="the last daemon joins half-way")
    parser.add_argument("--leave", action="store_true", help="the first daemon leaves half-way")
    parser.add_argument("--yandex", action="store_true", help="over quota is held, not refused")
    parser.add_argument(
        "--write",
        action="store_true",
        help="everything, into RESULTS.md; minds seeds and jobs only",
    )
    options = parser.parse_args()
    kinds, seeds = kinds_and_seeds(options)
    if options.write:
        return int(not write(seeds, options.jobs))
    if (options.join or options.leave) and min(options.daemons) < 2:
        parser.error("--join and --leave need at least two daemons: add --daemons 2 8")
    half_s = options.seconds // 2
    plans = [
        Plan(
            daemons,
            kind,
            seed,
            options.seconds,
            Load(options.load),
            half_s if options.join else None,
            half_s if options.leave else None,
            options.yandex,
            start_ns=MS if options.workers else START_NS,
            workers=options.workers,
        )
        for daemons in options.daemons
        for kind in kinds
        for seed in seeds
    ]
    table = report.fleet_table(simulate_all(simulate, plans, options.jobs))
    print(aligned(table))
    return int(report.misses(table))


if __name__ == "__main__":
    sys.exit(main())

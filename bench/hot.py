"""One daemon, many shards: `python -m bench.hot [--only hot|keyless] [--shards 64] [--jobs 2] ...`.

Simulated (`hot_sim.py`); prints the tables. `python -m bench.fleet --write` puts them into
RESULTS.md. Exit 1 if a target was missed.
"""

import argparse
import sys

from bench import fleet_report as report
from bench.hot_sim import HOT_CASES, KEYLESS_CASES, SECONDS, SHARDS, Plan, simulate
from bench.plans import add_arguments, kinds_and_seeds, simulate_all
from bench.table import aligned
from kdaemon.sandbox.settings import LimiterKind


def hot_plans(kinds: list[LimiterKind], seeds: range, shards: int, seconds: int) -> list[Plan]:
    return [
        Plan(case, kind, seed, shards=shards, seconds=seconds)
        for case in HOT_CASES
        for kind in kinds
        for seed in seeds
    ]


def keyless_plans(kinds: list[LimiterKind], seeds: range, shards: int, seconds: int) -> list[Plan]:
    return [
        Plan(case, kind, seed, is_keyless=is_keyless, shards=shards, seconds=seconds)
        for case in KEYLESS_CASES
        for is_keyless in (True, False)
        for kind in kinds
        for seed in seeds
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hot", description=__doc__)
    parser.add_argument("--only", choices=["hot", "keyless"])
    parser.add_argument("--shards", type=int, default=SHARDS)
    add_arguments(parser, SECONDS)
    options = parser.parse_args()
    kinds, seeds = kinds_and_seeds(options)
    tables = []
    if options.only != "keyless":
        plans = hot_plans(kinds, seeds, options.shards, options.seconds)
        tables.append(report.hot_table(simulate_all(simulate, plans, options.jobs)))
    if options.only != "hot":
        plans = keyless_plans(kinds, seeds, options.shards, options.seconds)
        tables.append(report.keyless_table(simulate_all(simulate, plans, options.jobs)))
    print("\n\n".join(map(aligned, tables)))
    return int(any(map(report.misses, tables)))


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.crash --kills 200 --seed 7`: the crash test for as long as one likes.

Prints each kill, and a summary with figures in the form of bench/RESULTS.md. Exit 1 if a promise
was broken. The directory of a run that failed is kept.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.crash.crasher import POINTS, Crasher, Report, schedule
from tests.crash.summary import summary


def tell(report: Report) -> None:
    kill = report.kills[-1]
    print(f"{len(report.kills):4}  {kill.point}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    parser.add_argument("--pace", type=float, default=1.0, help="how much more load than usual")
    parser.add_argument("--points", nargs="+", default=POINTS, choices=POINTS, metavar="POINT")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="kdaemon-crash-"))
    crasher = Crasher(directory, seed, pace=options.pace)
    crasher.on_kill = tell
    report = asyncio.run(crasher.run(schedule(seed, options.kills, options.points)))
    print(summary(report))
    if report.problems:
        sys.exit(f"{len(report.problems)} problems; what is left stands in {directory}")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()

"""`python -m tests.crash --kills 200 --losses 200 --seed 7`: the crash test, as long as one likes.

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

from tests.crash.crasher import Crasher
from tests.crash.faults import FAULTS
from tests.crash.plan import IN_ALL_VERSIONS, ON_DISK, POINTS, schedule
from tests.crash.report import Report
from tests.crash.summary import summary
from tests.crash.trial import try_all
from tests.kit import older
from tests.kit.power import Manners, PowerDisk, library, why_not
from tests.kit.template import STAGE, Stage

ON_DISK_TIMES = 5  # in a turn of all points: it is many points in one


def tell(report: Report) -> None:
    kill = report.kills[-1]
    what = "power" if kill.is_loss else "kill"
    print(f"{len(report.kills):4}  {what:5}  {kill.point}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    add = parser.add_argument
    add("--kills", type=int, default=200, help="by SIGKILL alone (200)")
    add("--losses", type=int, default=0, help="kills that the power goes with (0)")
    add(
        "--fsync-ms",
        type=float,
        nargs=2,
        default=(0.5, 25.0),
        metavar=("LEAST", "MOST"),
        help="with --losses: how long an fsync takes (0.5 25)",
    )
    add(
        "--full-every",
        type=int,
        default=10_000,
        metavar="WRITES",
        help="with --losses: one write of so many finds no space; 0: none does (10000)",
    )
    add("--seed", type=int, help="of an earlier run; else a new one")
    add("--pace", type=float, default=1.0, help="how much more load than usual")
    add("--older", action="store_true", help="the version before this one lives in turn with it")
    add("--points", nargs="+", choices=(*POINTS, ON_DISK), metavar="POINT", help="only these")
    add(
        "--faults",
        nargs="*",
        metavar="NAME",
        help="instead: put each of the named faults (all) into a copy, and see it noticed",
    )
    return parser


def try_faults(names: list[str]) -> None:
    obstacle = why_not()
    if obstacle is not None:
        sys.exit(obstacle)
    unknown = set(names) - {fault.name for fault in FAULTS}
    if unknown:
        sys.exit(f"no fault of this name: {', '.join(unknown)}")
    wrong = [each.fault.name for each in try_all(names) if not each.is_as_expected]
    if wrong:
        sys.exit(f"{len(wrong)} were not noticed, or noticed without a fault: {'; '.join(wrong)}")


def main() -> None:
    options = _parser().parse_args()
    if options.faults is not None:
        try_faults(options.faults)
        return
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="kdaemon-crash-"))
    if ON_DISK in (options.points or ()) and not options.losses:
        sys.exit(f"{ON_DISK} needs --losses")
    disk, stages = None, [STAGE]
    if options.older:
        obstacle = older.why_not()
        if obstacle is not None:
            sys.exit(obstacle)
        if options.losses:
            sys.exit("--older goes with kills alone")
        stages = [Stage(older.older_tree(directory), is_older=True), STAGE]
    if options.losses:
        obstacle = why_not()
        if obstacle is not None:
            sys.exit(f"{obstacle}: --losses 0 does without")
        least_ms, most_ms = options.fsync_ms
        manners = Manners((int(least_ms * 1000), int(most_ms * 1000)), options.full_every)
        disk, stages = PowerDisk(directory, seed, manners), [Stage(preload=str(library()))]
    crasher = Crasher(directory, seed, pace=options.pace, disk=disk, stages=stages)
    crasher.on_kill = tell
    all_points = IN_ALL_VERSIONS if options.older else POINTS
    points = options.points or [*all_points, *([ON_DISK] * ON_DISK_TIMES if disk else [])]
    steps = schedule(seed, options.kills, points, options.losses)
    report = asyncio.run(crasher.run(steps))
    print(summary(report))
    if report.problems:
        sys.exit(f"{len(report.problems)} problems; what is left stands in {directory}")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()

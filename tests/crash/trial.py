"""Puts a fault into a copy of kdaemon, runs the crash test on the copy, tells what it noticed."""

import asyncio
import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.crash.crasher import Crasher
from tests.crash.faults import FAULTS, Fault, copy_with
from tests.crash.plan import Step
from tests.kit.power import PowerDisk, library
from tests.kit.template import Stage, template

STEPS = (  # of one run: a few seconds
    Step("after_commit", is_loss=True),
    Step("random"),
    Step("inside_commit", is_loss=True),
    Step("after_response"),
    Step("random", is_loss=True),
    Step("random"),
)
PATIENCE_S = 8.0  # for the last life: what a fault lost never comes
SHOWN_CHARACTERS = 90
SOUND = Fault("none", (), (), tries=1)  # else a test that always complains would notice them all


@dataclass(frozen=True, slots=True)
class Noticed:
    """What the crash test said of a fault, and in which run."""

    fault: Fault
    problems: tuple[str, ...] = ()
    run_count: int = 0

    @property
    def problem(self) -> str | None:
        """The first one that the fault may be noticed by; None: it was not."""
        return next((each for each in self.problems if each.startswith(self.fault.seen_as)), None)

    @property
    def is_as_expected(self) -> bool:
        return not self.problems if self.fault is SOUND else self.problem is not None

    def line(self) -> str:
        """As a row of a table."""
        what = self.problem
        if self.is_as_expected and what is None:
            what = "nothing, and nothing is to be noticed"
        elif what is None:
            others = "; ".join(self.problems) or "nothing"
            what = f"NOT NOTICED in {self.run_count} runs: {others}"
        what = what.partition("\n")[0][:SHOWN_CHARACTERS]
        return f"| {self.fault.name} | {what} | {self.run_count} |"


async def try_fault(fault: Fault, directory: Path, steps: Iterable[Step] = STEPS) -> Noticed:
    """Runs until it is noticed, at most so often as the fault says."""
    stage = Stage(copy_with(fault, directory), str(library()))
    noticed = Noticed(fault)
    try:
        for run_count in range(1, fault.tries + 1):
            problems = await _run(fault, directory / str(run_count), stage, tuple(steps))
            noticed = Noticed(fault, problems, run_count)
            if noticed.problem is not None:
                break
    finally:
        template(stage).close()
    return noticed


async def _run(
    fault: Fault, directory: Path, stage: Stage, steps: tuple[Step, ...]
) -> tuple[str, ...]:
    directory.mkdir()
    seed = random.randrange(10**6)
    disk = PowerDisk(directory, seed, fault.manners)
    crasher = Crasher(directory, seed, disk=disk, stages=[stage], patience_s=PATIENCE_S)
    try:
        report = await crasher.run(steps)
    except AssertionError as error:  # it did not start, say
        return (*crasher.report.problems, f"it fails: {error}")
    return tuple(report.problems)


def try_all(names: Iterable[str] = ()) -> list[Noticed]:
    """Those of these names, or all, and a copy without a fault; prints a row for each."""
    chosen = {SOUND.name, *(set(names) or {fault.name for fault in FAULTS})}
    print("| fault | noticed by | in run |\n|---|---|--:|", flush=True)
    found = []
    for fault in (SOUND, *FAULTS):
        if fault.name in chosen:
            with tempfile.TemporaryDirectory(prefix="kdaemon-fault-") as directory:
                found.append(asyncio.run(try_fault(fault, Path(directory))))
            print(found[-1].line(), flush=True)
    return found

"""Bounded runs: every named point once, some kills at random, some losses of power, and nothing
that was promised lost.

`make crash` runs the same for as long as one likes.
"""

import random
from pathlib import Path

import pytest

from tests.crash.crasher import Crasher
from tests.crash.plan import ON_DISK, POINTS, Step, schedule
from tests.crash.report import Report
from tests.crash.summary import summary
from tests.kit.power import Manners, PowerDisk, library
from tests.kit.template import Stage

KILLS = len(POINTS) + 1  # each point once; one of them kills twice
LOSSES = (  # what a kill alone cannot show: the first names on the disk, and a commit under way
    Step("after_commit", is_loss=True),
    Step("before_delete"),  # what is not synced then is lost with the next
    Step(ON_DISK, is_loss=True),
)
FULL_EVERY = 1_000  # writes, of which one finds no space


def assert_sound(report: Report) -> None:
    print(summary(report))
    assert report.problems == [], f"seed {report.seed}"
    assert report.verdict.acknowledged_count > 1000


@pytest.mark.timeout(900)  # seconds; some 20 on an idle machine with two cores
async def test_what_was_acknowledged_survives_kills_at_every_point(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    crasher = Crasher(tmp_path, seed)
    report = await crasher.run(schedule(seed, KILLS, POINTS))
    assert_sound(report)
    assert report.verdict.letter_count > 0
    assert {kill.point for kill in report.kills} == set(POINTS), f"seed {seed}"


@pytest.mark.compiler
@pytest.mark.timeout(900)  # seconds; some 8 on an idle machine with two cores
async def test_what_was_acknowledged_survives_losses_of_power(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    disk = PowerDisk(tmp_path, seed, Manners(full_every=FULL_EVERY))
    crasher = Crasher(tmp_path, seed, disk=disk, stages=[Stage(preload=str(library()))])
    report = await crasher.run(LOSSES)
    assert_sound(report)
    assert report.loss_count == 2
    assert report.forgotten_count > 0

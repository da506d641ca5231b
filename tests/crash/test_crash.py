"""A bounded run: every named point once, a few kills at random, and nothing that was promised lost.

`make crash` runs the same for as long as one likes.
"""

import random
from pathlib import Path

import pytest

from tests.crash.crasher import POINTS, Crasher, schedule
from tests.crash.summary import summary

KILLS = len(POINTS) + 1  # each point once; one of them kills twice


@pytest.mark.timeout(900)  # seconds; some 20 on an idle machine with two cores
async def test_what_was_acknowledged_survives_kills_at_every_point(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    crasher = Crasher(tmp_path, seed)
    report = await crasher.run(schedule(seed, KILLS, POINTS))
    print(summary(report))
    assert report.problems == [], f"seed {seed}"
    assert {kill.point for kill in report.kills} == set(POINTS), f"seed {seed}"
    assert report.verdict.acknowledged_count > 1000
    assert report.verdict.letter_count > 0

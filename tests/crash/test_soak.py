"""The soak, for half a minute: `make soak MINUTES=60` is the same for as long as one likes."""

import random
from pathlib import Path

import pytest

from tests.crash.soak import Soak, summary
from tests.crash.soak_plan import Event, Tempo

SECONDS = 12.0
TEMPO = Tempo(between_s=(0.2, 0.6), halt_s=(0.2, 1.5))
THINK_S = 0.5


@pytest.mark.compiler
@pytest.mark.timeout(900)  # seconds; some 35 on an idle machine with two cores
async def test_all_at_once_loses_nothing(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    soak = Soak(tmp_path, seed, SECONDS, THINK_S, TEMPO)
    await soak.run()
    print(summary(soak))
    assert soak.verdict.problems == [], f"seed {seed}"
    assert soak.verdict.acknowledged_count > 1000
    assert soak.events.keys() >= {Event.REPLACE.value, Event.RELOAD.value}

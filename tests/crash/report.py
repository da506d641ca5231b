"""Figures of a run, and its verdict."""

from collections import Counter
from dataclasses import dataclass, field

from tests.crash.verdict import Kill, Verdict


@dataclass(slots=True)
class Report:
    seed: int
    kills: list[Kill] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)  # points that were not passed in time
    starts_s: list[float] = field(default_factory=list)  # start to ready
    spool_bytes_most: int = 0
    sent_count: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    attempt_count: int = 0
    duration_s: float = 0.0
    drained_s: float = 0.0  # from the last start to the last delivery
    lag_s: float = 0.0  # how late this process was served at most
    forgotten_count: int = 0  # changes of files and names that were not synced when the power went
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def problems(self) -> list[str]:
        return self.verdict.problems

    @property
    def loss_count(self) -> int:
        return sum(kill.is_loss for kill in self.kills)

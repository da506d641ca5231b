"""Whether a figure of a process grows with its age: a line through the lowest values of each block.

Memory goes up and down with the load; what leaks raises the floor. So the life is cut into blocks
of equal length, of each the lowest value counts, and least squares says how the floor goes, with
the standard error of the slope. Pure.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

BLOCKS = 12
SAMPLES_A_BLOCK = 3  # at least, or there is nothing to tell
ERRORS = 2.0  # standard errors beyond which a slope is no chance (95 % of them are within)
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Trend:
    """`per_hour`: the floor's slope; `error`: its standard error, too; `fit`: r squared. `floors`:
    of each block.
    """

    per_hour: float
    error: float
    fit: float
    span_s: float
    first: float
    most: float
    last: float
    floors: tuple[float, ...]

    @property
    def growth(self) -> float:
        """Over the span, as far as it is certain; below 0: it falls, or may."""
        return (self.per_hour - ERRORS * self.error) * self.span_s / HOUR_S

    def text(self, unit: str) -> str:
        return (
            f"{self.per_hour:+.1f} ± {self.error:.1f} {unit}/h (r² {self.fit:.2f}) over"
            f" {self.span_s / 60:.0f} min: first {self.first:.0f}, most {self.most:.0f},"
            f" last {self.last:.0f}; floors {' '.join(f'{each:.0f}' for each in self.floors)}"
        )


def trend_of(samples: Sequence[tuple[float, float]]) -> Trend | None:
    """Of (seconds, value), in order of time; None: there are too few."""
    if len(samples) < BLOCKS * SAMPLES_A_BLOCK:
        return None
    floors = [
        min(_block(samples, number), key=lambda sample: sample[1]) for number in range(BLOCKS)
    ]
    times, values = [at for at, _ in floors], [value for _, value in floors]
    line = statistics.linear_regression(times, values)
    rest = sum(
        (value - line.intercept - line.slope * at) ** 2
        for at, value in zip(times, values, strict=True)
    )
    around_time = sum((at - statistics.fmean(times)) ** 2 for at in times)
    around_value = sum((value - statistics.fmean(values)) ** 2 for value in values)
    error = math.sqrt(rest / (BLOCKS - 2) / around_time)
    seen = [value for _, value in samples]
    return Trend(
        per_hour=line.slope * HOUR_S,
        error=error * HOUR_S,
        fit=1 - rest / around_value if around_value else 1.0,
        span_s=samples[-1][0] - samples[0][0],
        first=seen[0],
        most=max(seen),
        last=seen[-1],
        floors=tuple(values),
    )


def _block(samples: Sequence[tuple[float, float]], number: int) -> Sequence[tuple[float, float]]:
    count = len(samples)
    return samples[number * count // BLOCKS : (number + 1) * count // BLOCKS]

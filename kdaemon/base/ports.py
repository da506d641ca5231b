"""What pure rooms need of the world: the time and dice. `system.py` has the real ones."""

from typing import Protocol


class Clock(Protocol):
    """Monotonic time."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary point; never goes back."""
        ...


class Dice(Protocol):
    """Chance, so that a fleet does not act in step. Tests seed it."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

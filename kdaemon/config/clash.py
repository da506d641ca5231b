"""The clash that a rule between settings finds, and the names of settings. Values only."""

from dataclasses import dataclass

Path = tuple[str, ...]
"""Of a key: ("region",), ("listen", "http"), ("streams", "orders", "linger_ms")."""


@dataclass(frozen=True, slots=True)
class Clash:
    """Settings that cannot stand together. `paths`: their keys, the likeliest culprit first."""

    paths: tuple[Path, ...]
    problem: str

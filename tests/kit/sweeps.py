"""A walk in slices over what is queued, at once."""

from kdaemon.pack.key_order import KeyOrder
from kdaemon.pack.packer import Packer
from kdaemon.pack.run import Run
from kdaemon.pack.sweep import abandoned_runs


def dropped(packer: Packer, order: KeyOrder | None = None) -> list[Run]:
    """Forgets what is queued of abandoned frames, and returns it."""
    return [run for runs, _ in abandoned_runs(packer, order) for run in runs]

"""Queues and packers on their own: with settings in a line, and what is dropped of them at once."""

from typing import Any

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.engine import Engine
from kdaemon.pack.key_order import KeyOrder, NoOrder
from kdaemon.pack.lane import Lane
from kdaemon.pack.packer import Packer
from kdaemon.pack.queues import Queues
from kdaemon.pack.run import Run
from kdaemon.pack.sweep import abandoned_runs
from tests.kit.frames import MS

RATE, BYTE_RATE = 1000, 1_000_000  # of a shard


def settings_of(
    *,
    records_max: int = 500,
    bytes_max: int = 5_000_000,
    linger_ns: int = 100 * MS,
    rate: int = RATE,
    byte_rate: int = BYTE_RATE,
    **others: Any,
) -> EngineSettings:
    """`others`: fields of EngineSettings."""
    others = {"first_share": 1.0, "buffer_bytes_max": 1 << 30} | others
    return EngineSettings(
        record_bytes_max=bytes_max,
        batch_records_max=records_max,
        batch_bytes_max=bytes_max,
        linger_ns=linger_ns,
        in_flight_max=16,
        shard_records_per_second=rate,
        shard_bytes_per_second=byte_rate,
        **others,
    )


def make_packer(*lanes: Lane, **settings: Any) -> Packer:
    """A packer of these lanes, with `settings_of` these settings."""
    asked = settings_of(**settings)
    packer = Packer(asked, KeyOrder() if asked.is_ordered else NoOrder(), 0)
    packer.replace_lanes(list(lanes))
    return packer


def make_queues(**settings: Any) -> Queues:
    return Queues(settings_of(**settings), 0)


def dropped(packer: Packer, order: NoOrder | None = None) -> list[Run]:
    """Forgets what is queued of abandoned frames, and returns it."""
    walk = abandoned_runs(packer, order or NoOrder())
    return [run for runs, _ in walk for run in runs]


def lanes_of(engine: Engine) -> list[Lane]:
    """The lanes of the stream's shards, in the order of its map."""
    return engine.audit().queues.packer.lanes

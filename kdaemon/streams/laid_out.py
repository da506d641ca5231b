"""How a stream's settings lay out its engine, and whether other settings fit that engine. Pure.

An engine keeps the layout of its queues for all its life: with or without order, with or without
aggregates, under one name. Every other setting can be changed. Knows settings; no record and no
queue.
Invariant: a stream whose queues hold records never gets settings that need another layout.
Where it sits: `registry.py` asks it when it opens a stream and at a reload.
"""

from dataclasses import replace

from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.limits import (
    RECORDS_PER_CALL_MAX,
    SHARD_BYTES_PER_SECOND,
    SHARD_RECORDS_PER_SECOND,
)
from kdaemon.base.service import Service
from kdaemon.config import StreamConfig
from kdaemon.config.parts import is_divided
from kdaemon.pace.adaptive import FIRST_SHARE

MS = 1_000_000  # nanoseconds in a millisecond


def called(config: StreamConfig) -> str:
    """What the upstream calls the stream."""
    return config.arn or config.upstream_name or config.name


def is_like(old: StreamConfig, new: StreamConfig, service: Service) -> bool:
    """Whether a stream under the old settings can go on under the new ones while it has records."""
    is_named_alike = (old.upstream, called(old)) == (new.upstream, called(new))
    is_alike = engine_settings(old, service).is_like(engine_settings(new, service))
    if not (is_named_alike and is_alike):
        return False
    # In order, records by one acknowledgement would overtake those by the other.
    return new.ordering == "none" or old.acknowledge == new.acknowledge


def as_laid_out(new: StreamConfig, old: StreamConfig) -> StreamConfig:
    """The new settings, as far as a stream under the old ones can take them while it has records;
    the rest as it has now.
    """
    return replace(
        new,
        name=old.name,
        arn=old.arn,
        upstream_name=old.upstream_name,
        ordering=old.ordering,
        aggregation=old.aggregation,
        acknowledge=(new if old.ordering == "none" else old).acknowledge,
    )


def engine_settings(config: StreamConfig, service: Service) -> EngineSettings:
    """The settings of a stream's engine."""
    records_max, bytes_max = config.shard_records_per_second, config.shard_bytes_per_second

    def first_share(rate: int, quota: int) -> float:
        """All workers together begin with all that the only writer may send. A part that a worker
        has of a bound is its own.
        """
        if not config.only_writer:
            return FIRST_SHARE
        return 1.0 if is_divided(rate, quota) else max(FIRST_SHARE, 1.0 / config.worker_count)

    return EngineSettings(
        batch_records_max=RECORDS_PER_CALL_MAX,
        batch_bytes_max=config.batch_bytes_max,
        record_bytes_max=config.record_bytes_max,
        linger_ns=config.linger_ms * MS,
        in_flight_max=config.in_flight_max,
        shard_records_per_second=records_max,
        shard_bytes_per_second=bytes_max,
        first_share=first_share(records_max, SHARD_RECORDS_PER_SECOND),
        first_bytes_share=first_share(bytes_max, SHARD_BYTES_PER_SECOND),
        buffer_bytes_max=config.buffer_bytes_max,
        max_age_ns=config.max_age_ms * MS or None,
        is_ordered=config.ordering == "partition_key",
        aggregate_bytes_max=config.aggregate_bytes_max if config.aggregation == "kpl" else 0,
        service=service,
        is_shard_atomic=service.is_shard_atomic,
    )

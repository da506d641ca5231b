"""One stream's limits and promises, as its engine is told them.

Knows the service; nothing of files or keys of the configuration. Where it sits:
`streams/laid_out.py` makes them from the configuration; pack, settle and the engine read them.
"""

from dataclasses import dataclass

from kdaemon.base.service import AWS, Service


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bytes are data + partition keys, except `buffer_bytes_max` (memory)."""

    batch_records_max: int
    batch_bytes_max: int  # a record above it goes in a batch of its own
    record_bytes_max: int  # until the stream tells its own
    linger_ns: int
    in_flight_max: int  # PutRecords calls at once
    shard_records_per_second: int  # what this daemon may use of one shard
    shard_bytes_per_second: int
    buffer_bytes_max: int
    first_share: float  # of what it may use of a shard, to begin with: 0..1
    first_bytes_share: float | None = None  # of the bytes, where that is another part
    max_age_ns: int | None = None  # of records that no client waits for
    is_ordered: bool = False  # records of one partition key in the order they were accepted
    aggregate_bytes_max: int = 0  # 0: no aggregates
    service: Service = AWS  # decides how errors are read
    is_shard_atomic: bool = False  # the service takes all records of a shard in a call, or none

    def is_like(self, other: "EngineSettings") -> bool:
        """Whether an engine with these settings can go on with the other ones: its queues are laid
        out for order, for aggregates and for the service.
        """
        return (self.is_ordered, bool(self.aggregate_bytes_max), self.service) == (
            other.is_ordered,
            bool(other.aggregate_bytes_max),
            other.service,
        )

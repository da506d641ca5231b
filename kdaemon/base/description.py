"""What a stream is to those who route and those who send: its name, its shards, its limits; and who
sends.

Values only: learned by `send/discovery.py`, read by `route/` and by the shell around the engine.
Knows nothing of how they were learned.
Invariant: None means "not known", never "none": a part that may not be asked for stays None.
"""

from dataclasses import dataclass, field

from kdaemon.base.names import DEFAULT_UPSTREAM, Qualified


@dataclass(frozen=True, slots=True)
class StreamTarget:
    """The stream that a call is for.

    `name`: as the service takes it (at Yandex a path). `arn`: when the operator gave one; it is
    sent in place of the name to AWS, and never to Yandex, which refuses it. `is_listed`: the
    configuration names it, so that it goes before streams that only clients name.
    """

    name: str
    arn: str | None = None
    is_listed: bool = field(default=False, compare=False)
    upstream: str = DEFAULT_UPSTREAM

    @property
    def qualified(self) -> Qualified:
        """Unique in the daemon: as logs have it."""
        return Qualified(self.upstream, self.arn or self.name)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose calls the daemon makes, and where: account and region; "" where that is not known.

    `is_beside_stand_in`: it is not known, and the service is not AWS's own: no STS knows it.
    """

    account: str = ""
    region: str = ""
    is_beside_stand_in: bool = False


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard that takes records: hash keys `first_hash_key`..`last_hash_key`, both inclusive."""

    shard_id: str
    first_hash_key: int
    last_hash_key: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much a stream takes, as far as the service says more than how many shards it has.

    `is_on_demand`: the service adds and takes away shards by itself. `warm_bytes_per_second`: what
    such a stream takes at once, over all its shards and from all who write to it;
    `warm_target_bytes_per_second`: what the service is making it take. None: not told, or none: a
    provisioned stream has neither.
    """

    is_on_demand: bool
    warm_bytes_per_second: int | None = None
    warm_target_bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """What the service says of a stream, as far as we may ask.

    `shards`: the open shards by `first_hash_key`, never empty; None: unknown. `record_bytes_max`:
    data + partition key of one record, in bytes; None: unknown. `is_auto`: the service itself
    spreads records and ignores their keys (RecordDistributionStrategy AUTO); False when unknown.
    `stream_arn`: the ARN, where the service has such a thing. `encryption_type`: the service's word
    for how it keeps the records (NONE, KMS). `has_record_readers`: queues or channels hand its
    records on one by one, as they are; None: unknown. `capacity`: None: unknown.
    `shard_bytes_per_second`: what each shard takes; None: unknown, or what the service always has.
    """

    shards: tuple[OpenShard, ...] | None
    record_bytes_max: int | None
    is_auto: bool
    stream_arn: str | None
    encryption_type: str | None = None
    has_record_readers: bool | None = None
    capacity: Capacity | None = None
    shard_bytes_per_second: int | None = None

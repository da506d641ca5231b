"""What routing and sending know of a stream: its name, its shards, its limits; and of the caller.

Values only: `send/discovery.py` learns them; `route/` and the shell around the engine read them.
Knows nothing of how they were learned.
Invariant: None means "not known", never "none": a part that we may not ask for stays None.
"""

from dataclasses import dataclass, field

from kdaemon.base.names import DEFAULT_UPSTREAM, Qualified


@dataclass(frozen=True, slots=True)
class StreamTarget:
    """The stream that a call is for.

    `name`: as the service takes it (at Yandex a path). `arn`: if the operator gave one; AWS gets it
    instead of the name; Yandex never gets it, since Yandex refuses it. `is_listed`: the
    configuration names the stream, so it goes before streams that only clients name.
    """

    name: str
    arn: str | None = None
    is_listed: bool = field(default=False, compare=False)
    upstream: str = DEFAULT_UPSTREAM

    @property
    def qualified(self) -> Qualified:
        """Unique in the daemon; the stream's name in logs."""
        return Qualified(self.upstream, self.arn or self.name)


@dataclass(frozen=True, slots=True)
class Caller:
    """The account and the region of the daemon's calls; "": not known.

    `is_beside_stand_in`: the account is not known, and the service is not AWS's own, so no STS
    knows it.
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
    """How much a stream takes, if the service says more than its number of shards.

    `is_on_demand`: the service adds and removes shards by itself. `warm_bytes_per_second`: what
    such a stream takes at once, over all its shards and from all who write to it.
    `warm_target_bytes_per_second`: what the service is raising that to. None: not told, or a
    provisioned stream, which has neither.
    """

    is_on_demand: bool
    warm_bytes_per_second: int | None = None
    warm_target_bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """What the service says of a stream, as far as we may ask.

    `shards`: the open shards by `first_hash_key`, never empty; None: unknown. `record_bytes_max`:
    data + partition key of one record, in bytes; None: unknown. `is_auto`: the service itself
    spreads records and ignores their keys (RecordDistributionStrategy AUTO); False if unknown.
    `stream_arn`: the ARN, if the service has ARNs. `encryption_type`: the service's word for its
    encryption of records (NONE, KMS). `has_record_readers`: queues or channels pass its records on
    one by one, as they are; None: unknown. `capacity`: None: unknown. `shard_bytes_per_second`: the
    quota of each shard; None: unknown, or the service's usual quota.
    """

    shards: tuple[OpenShard, ...] | None
    record_bytes_max: int | None
    is_auto: bool
    stream_arn: str | None
    encryption_type: str | None = None
    has_record_readers: bool | None = None
    capacity: Capacity | None = None
    shard_bytes_per_second: int | None = None

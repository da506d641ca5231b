"""The shape of the status page: its JSON has these names.

About: what `/statusz` shows, as plain values. Seconds are rounded to milliseconds. Mappings show
only counts above 0. Holds no data or secret, and no partition keys but those of hot shards, as
keys.py names them. status.py fills the page. The classes are Structs of msgspec: such a class takes
a fifth of a dataclass's memory.
"""

import msgspec

from kdaemon.base.description import Capacity
from kdaemon.observe.snapshot import MemorySnapshot


class HoldStatus(msgspec.Struct, frozen=True):
    """Why nothing can be sent, or is admitted: the code, and the harmless part of the message."""

    code: str
    message: str


class BacklogStatus(msgspec.Struct, frozen=True):
    """What waits for a shard, and the time that the shard needs for that at its present rate."""

    records: int
    bytes: int
    seconds: float


class PaceStatus(msgspec.Struct, frozen=True):
    """How much of a shard we use at most now. Shares: the parts of its quota, 0..1."""

    records_per_second: int
    bytes_per_second: int
    records_share: float
    bytes_share: float


class HotKeyStatus(msgspec.Struct, frozen=True):
    """`key`: as text, or the beginning of its SHA-256 where keys are not shown. Parts of what comes
    for the shard, 0..1.
    """

    key: str
    is_explicit_hash_key: bool
    records_part: float
    bytes_part: float


class LoadStatus(msgspec.Struct, frozen=True):
    """What came for a hot shard lately, refused records included. `quota_part`: as a part of what
    kdaemon may use of the shard; above 1, the shard cannot take it. `keys`: the heaviest first.
    """

    records_per_second: float
    bytes_per_second: float
    quota_part: float
    advice: str
    keys: list[HotKeyStatus]


class ShardStatus(msgspec.Struct, frozen=True):
    """A hot shard: one that gets more than it takes. `shard_id`: None where shards are not
    predicted: then the whole stream waits in one queue. `taken`, `throttled`: records, since the
    shard is known. `load`: None: the shard has not been hot for long enough to know its keys.
    """

    shard_id: str | None
    backlog: BacklogStatus
    pace: PaceStatus
    taken: int
    throttled: int
    state: str
    backoff_s: float
    failures_in_a_row: int
    load: LoadStatus | None


class RatesStatus(msgspec.Struct, frozen=True):
    """Counts a second, over the daemon's whole life."""

    received: float
    delivered: float
    delivered_bytes: float


class BillingStatus(msgspec.Struct, frozen=True):
    """Counts by unit: only the unit that the service bills, if the service told the stream's mode;
    else every unit that it may bill. `aggregation_saves`: the part of that, 0..1, that full
    aggregates would have saved at most; empty where the stream has aggregates already, or may not
    have them.
    """

    units: dict[str, int]
    units_per_second: dict[str, float]  # over the daemon's whole life
    record_mean_bytes: float | None  # as sent
    aggregation_saves: dict[str, float]


class ErrorStatus(msgspec.Struct, frozen=True):
    """An error of the service, or of the way to it. `calls`: failed as a whole with this error.
    `records`: those of these calls, and those that failed alone. `age_s`: since the last one.
    """

    code: str
    message: str
    calls: int
    records: int
    age_s: float


class MapStatus(msgspec.Struct, frozen=True):
    """The known map of the shards. `asks_in_s`: below 0: due; without meaning while asking."""

    shards: int
    refreshes: int
    mismatches: int
    is_asking: bool
    asks_in_s: float


class StreamStatus(msgspec.Struct, frozen=True):
    """One stream. `state`: a word of `StreamState`. `hold`: why nothing can be sent. `unavailable`:
    why nothing is even admitted. `failing`: why the records that wait do not go out now, though
    kdaemon goes on trying. `missing`: there is no such stream, and no configuration lists it: its
    records are refused. `unseen`: why the service, asked for the stream, did not tell of it; no
    record was taken since. `keyless`: the buffered records that may go to any shard.
    `oldest_queued_s`: since the oldest queued record was accepted. `capacity`: None: the service
    told none. `record_bytes_max`: as configured, until the service tells. `is_auto`: the service
    ignores keys. `has_record_readers`: queues or channels read the stream.
    `shard_bytes_per_second`: the most that kdaemon sends to a shard: as configured, or what the
    service tells, if that is less.
    """

    name: str
    upstream: str
    state: str
    hold: HoldStatus | None
    unavailable: HoldStatus | None
    failing: HoldStatus | None
    missing: HoldStatus | None
    unseen: HoldStatus | None
    spooled: int
    buffered: int
    keyless: int
    in_flight: int
    in_flight_calls: int
    memory_bytes: int
    oldest_queued_s: float | None
    received: int
    delivered: int
    rejected: dict[str, int]
    dead: dict[str, int]
    attempts: int
    throttled: int
    throttled_share: float  # of attempts: records that were throttled
    possible_duplicates: int
    retries: dict[str, int]
    failures: dict[str, int]
    last_errors: list[ErrorStatus]  # the last first
    calls: dict[str, int]
    call_mean_s: float | None
    delivery_mean_s: float | None
    per_second: RatesStatus
    billing: BillingStatus
    capacity: Capacity | None
    record_bytes_max: int
    is_auto: bool
    has_record_readers: bool
    shard_bytes_per_second: int
    shard_map: MapStatus
    shards_backlogged: int  # more than a second behind
    hottest_shards: list[ShardStatus]  # the hottest first


class DoorStatus(msgspec.Struct, frozen=True):
    """Records that were refused before their stream was known."""

    received: int
    rejected: dict[str, int]


class ListenerStatus(msgspec.Struct, frozen=True):
    connections: int
    opened: int
    refused: dict[str, int]
    timed_out: dict[str, int]
    handler_failures: int


class SpoolStatus(msgspec.Struct, frozen=True):
    """`trouble`: why the disk takes no frames now; None: it takes them."""

    frames: int
    live_bytes: int
    file_bytes: int
    bytes_max: int
    trouble: str | None
    commit_mean_s: float | None
    commit_failures: int
    corrupt_frames: int


class TlsStatus(msgspec.Struct, frozen=True):
    """The certificate of the listener. `faults`: why clients that check certificates refuse it.
    `trouble`: why the present files are not used.
    """

    certificate: str
    expires: str
    faults: list[str]
    reloads: int
    reload_failures: int
    trouble: str | None


class LogStatus(msgspec.Struct, frozen=True):
    """`lines_waiting`: not yet read from standard error. `lines_dropped`: those waited too long."""

    lines_waiting: int
    lines_dropped: int


class PassedOnStatus(msgspec.Struct, frozen=True):
    """Calls that clients make to the service through kdaemon. `waiting`: for their turn.
    `in_flight`: without an answer yet. `kept_bytes`: of the answers of the last second. `refused`:
    requests that kdaemon itself refused.
    """

    operations: list[str]
    waiting: int
    in_flight: int
    kept_bytes: int
    requests: int
    refused: dict[str, int]


class UpstreamStatus(msgspec.Struct, frozen=True):
    """Where records go. `region`, `account`: "": not known (yet). `endpoint`: the address; "": the
    one that the service has for the region. `endpoint_giver`: what gave the address in place of the
    configuration (a variable, the AWS profile); "": nothing did. `health`: "well" (the last call
    of some stream succeeded), "ill" (none did, and one failed), "untried". `hold`: of the first
    stream on hold.
    """

    name: str
    service: str
    region: str
    account: str
    endpoint: str
    endpoint_giver: str
    health: str
    streams: int
    on_hold: int
    hold: HoldStatus | None
    buffered: int
    in_flight_calls: int
    delivered: int
    passed_on: PassedOnStatus | None


class PrincipalsStatus(msgspec.Struct, frozen=True):
    """`problem`: why the present file is not used; the principals read before are."""

    keys: int
    reloads: int
    problem: str | None


class ReloadStatus(msgspec.Struct, frozen=True):
    """The last reload, which was refused. `outcome`: as `/configz` has it. `why`: the first
    problem, or the first of the keys that need a restart.
    """

    outcome: str
    why: str


class WorkerStatus(msgspec.Struct, frozen=True):
    """One of several workers. `is_heir`: it takes no records, and delivers those in the spool of a
    worker that no longer exists. `missing_because`: why its counts are missing on the page.
    `restarts`: how often it ended without an order.
    """

    worker: int
    is_heir: bool
    pid: int
    state: str
    not_ready_because: str | None
    missing_because: str | None
    uptime_s: float
    restarts: int
    connections: int
    memory_bytes: int
    delivered: int


class StatusPage(msgspec.Struct, frozen=True):
    """The whole page. Streams that need somebody come first, then those that fail or are unseen,
    then those with the most queued. `workers`: absent where there is one process.
    """

    version: str
    uptime_s: float
    state: str
    not_ready_because: str | None
    heartbeat_age_s: float
    memory: MemorySnapshot
    spool: SpoolStatus | None
    log: LogStatus | None
    principals: PrincipalsStatus | None
    tls: TlsStatus | None
    refused_reload: ReloadStatus | None
    listeners: dict[str, ListenerStatus]
    door: DoorStatus
    upstreams: list[UpstreamStatus]
    workers: list[WorkerStatus] | msgspec.UnsetType
    streams: list[StreamStatus]

"""The settings of a sandbox: the service that it imitates, its quotas, its bounds.

Pure data. Knows nothing of records or HTTP. Every number is a default with its source; a test or
the configuration replaces it. Every other file of this room reads it.
"""

from dataclasses import dataclass, field
from enum import Enum

from kdaemon.base.limits import (
    MIB,
    SHARD_BYTES_PER_SECOND,
    SHARD_RECORDS_PER_SECOND,
)
from kdaemon.base.service import AWS, YANDEX, Service

ACCOUNT = "000000000000"  # twelve digits that are no real account
REGION = "us-east-1"
RETAINED_BYTES_MAX = 512 * MIB  # of Python, for the records of all streams; ours
SHARD_COUNT_MAX = 10_000  # open and closed, of all streams; ours: bounds resharding
STREAM_COUNT_MAX = 1_000  # ours: bounded for the same reason
# Milliseconds; ours: even 5 MiB at 128 KiB/s, a debt of 40 s after the grant, are answered with it
# before the 60 s after which Yandex's front gives up (`RequestExpired`) [YS].
QUOTA_WAIT_MS_MAX = 15_000


class LimiterKind(Enum):
    """How a quota of N a second is counted; see `quota.py`."""

    BUCKET = "bucket"
    WINDOW = "window"


@dataclass(frozen=True, slots=True)
class Quota:
    """What one shard takes in a second. Bytes are of data and partition keys."""

    records_per_second: int = SHARD_RECORDS_PER_SECOND
    bytes_per_second: int = SHARD_BYTES_PER_SECOND

    def __post_init__(self) -> None:
        if self.records_per_second < 1 or self.bytes_per_second < 1:
            raise ValueError(f"a quota is at least 1 record and 1 byte a second, not {self}")


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """All settings of a sandbox.

    `service`: which one is imitated. `request_bytes_max`: data and partition keys of one
    PutRecords; None: the service's own. `request_units_per_second`: Yandex only, a stream's quota
    of request units (a call costs 1, and one more for each 4 KiB); None: calls are not metered.
    `quota_wait_ms`: Yandex only, its QuotaWaitDurationMs: a write over its shard's quota is stalled
    until the shard has quota for it, and is refused after this time in the shard's queue; None: it
    is refused at once. `retained_bytes_max`: records of all streams, as Python holds them; the
    oldest are trimmed.
    """

    service: Service = AWS
    quota: Quota = field(default_factory=Quota)
    limiter: LimiterKind = LimiterKind.BUCKET
    request_bytes_max: int | None = None
    request_units_per_second: int | None = None
    quota_wait_ms: int | None = None
    retained_bytes_max: int = RETAINED_BYTES_MAX
    shard_count_max: int = SHARD_COUNT_MAX
    stream_count_max: int = STREAM_COUNT_MAX
    account: str = ACCOUNT
    region: str = REGION

    def __post_init__(self) -> None:
        wait_ms = self.quota_wait_ms
        if wait_ms is None:
            return
        if self.service is not YANDEX:
            raise ValueError("quota_wait_ms: only Yandex stalls writes; AWS refuses them at once")
        if not 1 <= wait_ms <= QUOTA_WAIT_MS_MAX:
            raise ValueError(f"quota_wait_ms is 1 to {QUOTA_WAIT_MS_MAX}, or None; not {wait_ms}")

    @property
    def request_limit_bytes(self) -> int:
        """The request limit in force, bytes of data and partition keys."""
        if self.request_bytes_max is not None:
            return self.request_bytes_max
        return self.service.request_bytes_max

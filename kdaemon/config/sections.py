"""Settings of rooms: [drain], [spool], [log], [metrics], [observe], [billing] and [sandbox].

Pure. Where it sits: `settings.py` has them.
"""

from dataclasses import dataclass
from typing import Annotated

from kdaemon.base import limits
from kdaemon.base.billing import ON_DEMAND_KIB, PUT_PAYLOAD_KIB, YANDEX_PUT_KIB, UnitSizes
from kdaemon.config.about import Mark, setting
from kdaemon.config.values import (
    Address,
    Directory,
    FilePath,
    Flag,
    ListenAddressGiven,
    LogFormat,
    LogLevel,
    MemoryBytes,
    MillisecondsOrZero,
    Names,
    Namespace,
    Quota,
    UnitKib,
    parse_address,
    whole,
)

_LIVE, _RESTART = Mark.LIVE, Mark.RESTART


@dataclass(frozen=True, slots=True)
class DrainConfig:
    """[drain]: what happens at SIGTERM."""

    lame_duck_ms: MillisecondsOrZero = setting(
        1_000, _LIVE, "The daemon is not ready any more, but serves clients this long."
    )
    deadline_ms: MillisecondsOrZero = setting(
        25_000,
        _LIVE,
        "After the lame duck: how long it may deliver what it has.",
        "Keep the sum below the supervisor's patience (TimeoutStopSec,"
        " terminationGracePeriodSeconds).",
    )


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """[spool]: the disk behind the acknowledgement "stored"."""

    directory: Directory = setting(
        "",
        _RESTART,  # the records in the old directory would not be delivered
        "A directory on a local disk, which this daemon has for itself; it is made if its parent is"
        ' there. "": no spool, and no "stored".',
    )
    bytes_max: MemoryBytes = setting(
        1024 * limits.MIB,
        _LIVE,
        "On disk, the records of all streams and what SQLite needs for them.",
    )
    letters_bytes_max: MemoryBytes = setting(
        64 * limits.MIB,
        _RESTART,  # the thread of the disk opens its files with it
        "Dead letters kept (`kdaemon dead-letters`), within bytes_max. The oldest make room.",
    )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """[log]: lines on standard error."""

    level: LogLevel = setting("info", _LIVE, "The least level that is written.")
    format: LogFormat = setting(
        "auto",
        _RESTART,  # the programs that read the log have to change, too
        '"auto": text on a terminal, JSON lines elsewhere.',
    )


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """[metrics]: what /metrics shows, and what the log tells of it."""

    per_shard: Flag = setting(
        False,
        _LIVE,
        "All shards, each with its own series. Off, because a stream may have thousands; the five"
        " hottest are always shown.",
    )
    emf_namespace: Namespace = setting(
        "",
        _RESTART,  # a start opens the log for it
        "Where there is no Prometheus: a namespace of CloudWatch, under which the same numbers go"
        ' to the log. "": none.',
        "One line a minute and stream, in CloudWatch's Embedded Metric Format, whatever log.format"
        " is. Each metric of each stream is billed by CloudWatch.",
    )


@dataclass(frozen=True, slots=True)
class ObserveConfig:
    """[observe]: what the status page and the log show of hot shards."""

    show_keys: Flag = setting(
        False,
        _LIVE,
        "Partition keys that fill a hot shard, as text. Off, because they may be names of people.",
        "Then the first 12 hexadecimal digits of their SHA-256 are shown: `printf %s 'a-key' |"
        " sha256sum | cut -c1-12`.",
    )


@dataclass(frozen=True, slots=True)
class BillingConfig:
    """[billing]: how large the units are that a service bills, for kdaemon_billed_units_total and
    /statusz. The defaults are those of the price lists (docs/costs.md).
    """

    # A counter cannot go on in another unit.
    put_payload_kib: UnitKib = setting(
        PUT_PAYLOAD_KIB,
        _RESTART,
        "AWS, provisioned streams: each record up to so much is one PUT payload unit.",
    )
    on_demand_kib: UnitKib = setting(
        ON_DEMAND_KIB,
        _RESTART,
        "AWS, on-demand streams: each record is rounded up to a multiple of so much.",
    )
    yandex_put_kib: UnitKib = setting(
        YANDEX_PUT_KIB,
        _RESTART,
        "Yandex: what one call brings to one shard, up to so much, is one put unit.",
    )

    @property
    def units(self) -> UnitSizes:
        """The three sizes, in KiB."""
        return UnitSizes(self.put_payload_kib, self.on_demand_kib, self.yandex_put_kib)


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """[sandbox]: the embedded service of `kdaemon run --sandbox` and `kdaemon sandbox`. It imitates
    the service that `service` names.
    """

    # The whole table needs a restart: the sandbox keeps its records in memory.
    listen: ListenAddressGiven = setting("127.0.0.1:4567", _RESTART, "Where it listens.")
    tls_certificate: FilePath = setting(
        "",
        _RESTART,
        "As listen.tls_certificate, for this listener.",
        "`kdaemon run --sandbox` trusts its own; it has no certificate to show, so that"
        " tls_client_ca is for `kdaemon sandbox` alone.",
    )
    tls_key: FilePath = setting("", _RESTART, "As listen.tls_key.")
    tls_client_ca: FilePath = setting("", _RESTART, "As listen.tls_client_ca.")
    streams: Names = setting(
        ("demo",),
        _RESTART,
        "Streams created at start. `kdaemon run --sandbox` has those that are listed, too.",
    )
    shard_count: Annotated[int, whole(1, 10_000)] = setting(4, _RESTART, "Shards of each of them.")
    shard_records_per_second: Quota = setting(
        limits.SHARD_RECORDS_PER_SECOND, _RESTART, "What each shard takes a second: records."
    )
    shard_bytes_per_second: Quota = setting(
        limits.SHARD_BYTES_PER_SECOND,
        _RESTART,
        "What each shard takes a second: bytes of data and partition keys.",
    )

    @property
    def address(self) -> Address:
        """`listen`, taken apart."""
        address = parse_address(self.listen)
        assert address is not None, "a loaded Config has an address here"
        return address

"""Everything that differs between AWS Kinesis Data Streams and Yandex Data Streams, as one value.

No other code compares a service's name: code that needs a difference asks this value for it.
Differences on the wire alone (which the sandbox imitates) are in `sandbox/`. Pure: values only.
Sources as in `limits.py`; checked 2026-11-28.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kdaemon.base.limits import (
    PARTITION_KEY_BYTES_MAX_YANDEX,
    RECORD_BYTES_MAX,
    RECORD_BYTES_MAX_AWS,
    REQUEST_BYTES_MAX,
    REQUEST_BYTES_MAX_AWS,
)
from kdaemon.base.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Wording:
    """An error whose meaning is not that of its code alone: its message contains `text`.

    `code`: None: any code.
    """

    code: str | None
    text: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Service:
    """One of the two services. Bytes are data + partition keys; times are milliseconds.

    `record_bytes_max`: the most that a stream can be set to take; a stream's own limit is learnt,
    if the service tells it. `partition_key_bytes_max`: in UTF-8; None: the limit counts characters.
    `has_arns`: a stream has an ARN, and a request may name the stream by it; if not, names are
    paths. `region`, `endpoint_url`: if no setting gives one; None: as the AWS environment says.
    `answers_dry_run`: a request may ask what would become of it. `look_throttle`: the error if
    DescribeStream and the like are called too often. `describes_shards_with_stream`: only
    DescribeStream gives a description that can be trusted; if not, DescribeStreamSummary and
    ListShards do. `is_shard_atomic`: all records of a call for one shard share one outcome and keep
    their order. `can_aggregate`: readers take KPL's aggregates apart, and shards keep their ranges.
    `has_keyless_streams`: records of some streams need no key (AUTO).
    `tells_missing_from_forbidden`: a caller without access to a stream is not told that the stream
    is missing. `wordings`: errors whose text decides, of calls and of single records; the first one
    that fits counts. `splits_shards`: one shard can be split, at a chosen hash key.
    `bills_by_call`: the service rounds up what a call brings to a shard; if not, each record.
    `read_timeout_ms`, `call_timeout_ms`: of one call; above the longest time of the service itself.
    """

    name: str
    title: str
    request_bytes_max: int
    record_bytes_max: int
    partition_key_bytes_max: int | None
    has_arns: bool
    region: str | None
    endpoint_url: str | None
    answers_dry_run: bool
    look_throttle: str
    describes_shards_with_stream: bool
    is_shard_atomic: bool
    can_aggregate: bool
    has_keyless_streams: bool
    tells_missing_from_forbidden: bool
    splits_shards: bool
    bills_by_call: bool
    wordings: tuple[Wording, ...]
    read_timeout_ms: int
    call_timeout_ms: int


AWS = Service(
    name="aws",
    title="AWS Kinesis Data Streams",
    request_bytes_max=REQUEST_BYTES_MAX_AWS,
    record_bytes_max=RECORD_BYTES_MAX_AWS,
    partition_key_bytes_max=None,
    has_arns=True,
    region=None,
    endpoint_url=None,
    answers_dry_run=True,
    look_throttle="LimitExceededException",  # [M], of each operation that describes or lists
    describes_shards_with_stream=False,
    is_shard_atomic=False,
    can_aggregate=True,
    has_keyless_streams=True,
    tells_missing_from_forbidden=True,
    splits_shards=True,
    bills_by_call=False,
    wordings=(),
    read_timeout_ms=10_000,  # ours
    call_timeout_ms=15_000,  # ours
)

YANDEX = Service(
    name="yandex",
    title="Yandex Data Streams",
    request_bytes_max=REQUEST_BYTES_MAX,
    record_bytes_max=RECORD_BYTES_MAX,
    partition_key_bytes_max=PARTITION_KEY_BYTES_MAX_YANDEX,
    has_arns=False,
    region="ru-central1",  # another region in the signature is refused [YS]
    endpoint_url="https://yds.serverless.yandexcloud.net",  # [YD]
    answers_dry_run=False,  # unknown keys are refused [YS]
    look_throttle="ThrottlingException",  # of every operation [YS]
    describes_shards_with_stream=True,  # its ListShards tells wrong ranges [YS]
    is_shard_atomic=True,
    can_aggregate=False,
    has_keyless_streams=False,
    tells_missing_from_forbidden=False,  # nor from a failed look-up [YS: `SchemeErrorExceptions`]
    splits_shards=False,  # it has no SplitShard [YD]
    bills_by_call=True,  # [YS: `PutUnitsSize` in `put_records_actor.h`]
    wordings=(
        # The service's own deadline of 60 s; with another text the code means a wrong clock of ours
        # [YS].
        Wording("RequestExpired", "completed by deadline", Verdict.AMBIGUOUS),
        # Yandex's proxy may send a request again without its body [YS].
        Wording("ValidationException", "Stream name is empty", Verdict.AMBIGUOUS),
        # These are faults of the stream, though the code blames a record: bisecting would bury all
        # records. A stream that is being created is there soon. [YS: `pq_schema_actor.h`,
        # `put_records_actor.h`, `partition_write.cpp`, read 2026-11-28]
        Wording("ValidationException", "creation is not completed", Verdict.NOT_SENT),
        Wording("ValidationException", "is not a topic", Verdict.HOLD),
        Wording("InvalidArgumentException", "is not a stream", Verdict.HOLD),
        Wording("InvalidArgumentException", "is not compatible scheme object", Verdict.HOLD),
        Wording("InvalidArgumentException", "unknown database root", Verdict.HOLD),
        Wording(None, "rite to mirrored ", Verdict.HOLD),
        # Our fault, if it comes: a member that the service does not take.
        Wording("InvalidArgumentException", "Unexpected json key", Verdict.HOLD),
        # A person must make room; told as a throttle and as an internal failure [YS].
        Wording(None, "database size exceeded", Verdict.HOLD),
        Wording(None, "Disk is full", Verdict.HOLD),
    ),
    read_timeout_ms=65_000,  # the server gives up after 60 s, outcome unknown [YS]
    call_timeout_ms=70_000,
)

SERVICES: Mapping[str, Service] = MappingProxyType(
    {service.name: service for service in (AWS, YANDEX)}
)
"""By the word for the service in the configuration."""

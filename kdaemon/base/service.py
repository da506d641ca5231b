"""All that differs between AWS Kinesis Data Streams and Yandex Data Streams, as one value.

Nobody else compares a service's name: who needs to know asks the value for the difference itself.
What differs on the wire alone (the sandbox's imitation of both) is `sandbox/`'s. Pure: values only.
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
    """An error that means something else than its code alone: `text` stands in its message.

    `code`: None: whatever the code is.
    """

    code: str | None
    text: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Service:
    """One of the two services. Bytes are data + partition keys; times are milliseconds.

    `record_bytes_max`: the most that a stream can be made to take; its own limit is learnt, where
    the service tells it. `partition_key_bytes_max`: in UTF-8; None: the limit counts characters.
    `has_arns`: a stream has an ARN, and a request may name it so; where not, names are paths.
    `region`, `endpoint_url`: where nothing else is said; None: as the AWS environment says.
    `answers_dry_run`: a request may ask what would become of it. `look_throttle`: its error where
    looking (DescribeStream and the like) is asked for too often. `describes_shards_with_stream`:
    DescribeStream is the one description that may be trusted; where not, DescribeStreamSummary and
    ListShards are. `is_shard_atomic`: all records of a call for one shard share one fate and keep
    their order. `can_aggregate`: readers take KPL's aggregates apart, and shards keep their ranges.
    `has_keyless_streams`: a stream can be one whose records need no key (AUTO).
    `tells_missing_from_forbidden`: who has no access to a stream is not told that there is none.
    `wordings`: errors whose text decides, of calls and of single records; the first that fits.
    `splits_shards`: one shard can be split, at a hash key of one's choice.
    `bills_by_call`: it rounds up what a call brings to a shard; where not, each record by itself.
    `read_timeout_ms`, `call_timeout_ms`: of one call; above what the service itself takes at most.
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
    look_throttle="LimitExceededException",  # [M], of each operation that looks
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
        # Its own deadline of 60 s; with another text the code means that our clock is off [YS].
        Wording("RequestExpired", "completed by deadline", Verdict.AMBIGUOUS),
        # Its proxy may send an emptied request again [YS].
        Wording("ValidationException", "Stream name is empty", Verdict.AMBIGUOUS),
        # The stream's fault and no record's, though the code says otherwise: to bisect would bury
        # them all. One that is being created will be there soon. [YS: `pq_schema_actor.h`,
        # `put_records_actor.h`, `partition_write.cpp`, read 2026-11-28]
        Wording("ValidationException", "creation is not completed", Verdict.NOT_SENT),
        Wording("ValidationException", "is not a topic", Verdict.HOLD),
        Wording("InvalidArgumentException", "is not a stream", Verdict.HOLD),
        Wording("InvalidArgumentException", "is not compatible scheme object", Verdict.HOLD),
        Wording("InvalidArgumentException", "unknown database root", Verdict.HOLD),
        Wording(None, "rite to mirrored ", Verdict.HOLD),
        # Ours, if any: a member that it does not take.
        Wording("InvalidArgumentException", "Unexpected json key", Verdict.HOLD),
        # Somebody must make room; told as a throttle and as an internal failure [YS].
        Wording(None, "database size exceeded", Verdict.HOLD),
        Wording(None, "Disk is full", Verdict.HOLD),
    ),
    read_timeout_ms=65_000,  # the server gives up after 60 s, outcome unknown [YS]
    call_timeout_ms=70_000,
)

SERVICES: Mapping[str, Service] = MappingProxyType(
    {service.name: service for service in (AWS, YANDEX)}
)
"""By the word that the configuration has for it."""

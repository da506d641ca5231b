"""Settings of a stream: [default] and [streams.NAME].

Pure. Where it sits: `settings.py` has them.
"""

from dataclasses import dataclass
from typing import Annotated

from kdaemon.base import limits
from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.service import AWS, YANDEX
from kdaemon.config.about import Mark, setting
from kdaemon.config.values import (
    Acknowledgement,
    AgeOrOff,
    AggregateBytes,
    Aggregation,
    Arn,
    CallBytes,
    FieldPath,
    Flag,
    LinesKind,
    MemoryBytes,
    Milliseconds,
    Ordering,
    Quota,
    RecordBytes,
    SocketPath,
    Text,
    UpstreamName,
    WhenFull,
    whole,
)

BATCH_BYTES_MAX = 5 * limits.MIB
"""Ours, 2026-11-28: below the 10 MiB that AWS takes, because 16 calls of 10 MiB in flight, in
base64, would hold 213 MiB. A record above it goes in a call of its own."""
AGGREGATE_BYTES_MAX = 51_200  # 50 KiB: the KPL's default AggregationMaxSize, 2026-11-21

_LIVE, _RESTART = Mark.LIVE, Mark.RESTART
_REQUEST_MOST = f"at most {AWS.request_bytes_max}, Yandex {YANDEX.request_bytes_max}"
_RECORD_MOST = f"at most {AWS.record_bytes_max}, Yandex {YANDEX.record_bytes_max}"


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """[default]: every stream, unless its own table [streams.NAME] says otherwise."""

    # The name behind `streams.`, or the end of the ARN that stands there; "" in [default].
    name: str = ""
    arn: Arn = setting(
        "",
        _LIVE,
        "The stream is called by this ARN and not by its name: for a stream of another account.",
    )
    upstream: UpstreamName = setting(
        DEFAULT_UPSTREAM,
        _LIVE,
        'The upstream that streams belong to: "default", which the keys at the top describe, or'
        ' one of [upstreams.NAME]. Not set: "default", or for an ARN the one that has its account'
        " and region.",
        of_default=_RESTART,  # all streams that are not listed belong to it
    )
    upstream_name: Text = setting(
        "",
        _LIVE,
        "What the upstream calls the stream, if its clients call it by another name: that of the"
        " table.",
    )
    socket: SocketPath = setting(
        "",
        _RESTART,  # as for the addresses of [listen]
        "A Unix socket of this stream alone. All that is written to it is raw lines, and kdaemon"
        ' answers nothing. "": none.',
    )
    acknowledge: Acknowledgement = setting(
        "delivered",
        Mark.UNORDERED,  # records that wait would be overtaken by those that come the new way
        "What an answer promises where the client does not choose: the service has the record"
        ' ("delivered"), it is on disk here, fsynced ("stored", needs [spool]), or it is in memory'
        ' here ("accepted").',
        'Lines are "stored" wherever there is a spool and ordering is "none".',
    )
    lines: LinesKind = setting(
        "envelope",
        _LIVE,  # for connections that begin after the reload
        "What lines for the stream are, where the client does not say: each an object with its"
        ' `data` ("envelope"), or the data itself ("raw").',
        "The client says so by X-Kdaemon-Lines, or in the first line of the connection. An"
        " envelope has `data` or `data_base64`, and perhaps a key. Raw is the line as it is,"
        " without its line end; blank lines are skipped.",
    )
    partition_key_field: FieldPath = setting(
        "",
        _LIVE,
        'In raw lines that are JSON, the field that is the partition key, such as "user.id".'
        ' "": no line has a key.',
        "That is the member `id` of the object `user`; a dot within a name has a backslash before"
        r" it, so write such a path in single quotes: 'log\.user.id'. A text, a number as it is"
        ' written, true or false is a key; one of more than 256 bytes becomes "sha256:" and its'
        " digest. A line that tells none (or the field twice, or is no JSON) has no key, and is"
        " counted: kdaemon_lines_without_key_total.",
    )
    stream_field: FieldPath = setting(
        "",
        _LIVE,
        'The same for the stream: the name or ARN of a listed stream. "": all lines go to this'
        " one.",
        "Lines that name none of those go to this stream, and are counted:"
        " kdaemon_lines_without_stream_total.",
    )
    when_full: WhenFull = setting(
        "block",
        _LIVE,
        'When there is no room. "block": a Unix socket is not read, HTTP is refused. "reject":'
        ' both are refused. "drop_oldest": the oldest records of the spool make room.',
        "Each that is dropped is counted and logged by reason.",
    )
    max_age_ms: AgeOrOff = setting(
        0,
        _LIVE,
        "A record that no client waits for (stored, accepted) and that is older than this becomes"
        " a dead letter. 0: never.",
        "A stored one is tried once before.",
    )
    # The layout of a stream's queues depends on these two.
    ordering: Ordering = setting(
        "none",
        _RESTART,
        '"partition_key": records of one partition key are delivered in the order they were taken.',
        'Other keys do not wait for them. All records of the stream are acknowledged "stored" or'
        " none is, and a client that asks for the other is refused: one in memory would overtake"
        ' an older one on disk. "none": no order is promised, and nothing waits for it.',
    )
    aggregation: Aggregation = setting(
        "none",
        _RESTART,
        '"kpl": several records travel as one, as the Kinesis Producer Library packs them. Only for'
        " consumers that take them apart; not with Yandex.",
        'The KCL and Firehose do; a plain consumer sees binary. "none": each record travels as it'
        " came.",
    )
    aggregate_bytes_max: AggregateBytes = setting(
        AGGREGATE_BYTES_MAX,
        _LIVE,
        "Such a record is packed up to this size: data and partition key.",
        "At most record_bytes_max and batch_bytes_max.",
    )
    deadline_ms: Milliseconds = setting(
        5_000,
        _LIVE,
        "A client that waits for delivery is answered by then: what is not delivered fails, record"
        " by record.",
        "Keep it below the patience of your clients (KPL: 6 s, the Java SDK: 10 s): they send"
        " again what they were not answered.",
    )
    linger_ms: Annotated[int, whole(0, 60_000, "of milliseconds ")] = setting(
        100,
        _LIVE,
        "How long a record waits for company at most. With no call under way, it does not wait.",
    )
    batch_bytes_max: CallBytes = setting(
        BATCH_BYTES_MAX,
        _LIVE,
        f"One PutRecords call to the service: data and partition keys; {_REQUEST_MOST}.",
        "It bounds what goes together: a larger record goes in a call of its own.",
        follows="5 MiB",
    )
    request_bytes_max: CallBytes = setting(
        AWS.request_bytes_max,
        _LIVE,
        f"One request of a client: data and partition keys; {_REQUEST_MOST}.",
        "Not set: that, or half of buffer_bytes_max, if that is lower.",
        follows="what the service takes, or half of buffer_bytes_max",
    )
    record_bytes_max: RecordBytes = setting(
        AWS.record_bytes_max,
        _LIVE,
        f"One record, until the stream tells its limit: data and partition key; {_RECORD_MOST}.",
        "Above it a record is refused. At AWS the stream's own is its MaxRecordSizeInKiB: 1 MiB,"
        " if nobody raised it. Not set: what the service takes, or request_bytes_max, if that is"
        " lower.",
        follows="what the service takes, or request_bytes_max",
    )
    in_flight_max: Annotated[int, whole(1, 1000)] = setting(
        16, _LIVE, "PutRecords calls of one stream under way at one time."
    )
    only_writer: Flag = setting(
        False,
        _LIVE,  # for shards that are seen for the first time
        "Nobody else writes to the stream: kdaemon begins each shard with its whole quota.",
        "Otherwise it begins with a small part, which doubles twice a second until the shard"
        " throttles. From then on it follows what the shard takes.",
    )
    shard_records_per_second: Quota = setting(
        limits.SHARD_RECORDS_PER_SECOND,
        _LIVE,
        "The most records a second that this daemon sends to one shard.",
        "Set it below the shard's quota to leave the rest to others.",
    )
    shard_bytes_per_second: Quota = setting(
        limits.SHARD_BYTES_PER_SECOND,
        _LIVE,
        "The most bytes a second that this daemon sends to one shard: data and partition keys.",
        "A Yandex stream tells what its shards take. If that is less, it is what counts.",
    )
    buffer_bytes_max: MemoryBytes = setting(
        64 * limits.MIB,
        _LIVE,
        "Memory that one stream's records may take: at most memory_bytes_max, at least twice"
        " request_bytes_max.",
        follows="64 MiB, or memory_bytes_max",
    )
    # Workers of this daemon, which share each shard as a fleet does: `parts.py` says how many.
    worker_count: int = 1

"""All streams of a sandbox: making, finding and deleting them, and the memory they hold.

Pure. Only this file owns the set of streams and the retention budget. Of the forms of requests it
knows only the two ways in which a request names a stream. Invariant: `retained_bytes` is the sum
over all stored records, and after every write it is at most the setting.
"""

from kdaemon.base.limits import KIB, RECORD_BYTES_MAX
from kdaemon.base.names import partition_of
from kdaemon.base.service import YANDEX
from kdaemon.sandbox import yandex_words
from kdaemon.sandbox.payload import Payload, refuse
from kdaemon.sandbox.quota import TokenBuckets
from kdaemon.sandbox.settings import Quota, SandboxSettings
from kdaemon.sandbox.shards import Sequencer, Stream, trim_oldest

# A stream's name: AWS's pattern [M]; Yandex's are paths, `/region/cloud/database/stream` [YD].
NAME_PATTERN_AWS = r"[a-zA-Z0-9_.-]{1,128}"
NAME_PATTERN_YANDEX = r"[a-zA-Z0-9_./-]{1,1024}"

Answer = dict[str, object]
"""The members of an answer."""

# A trim frees one part in 16 of the budget more than needed, so that trims are rare.
TRIM_SLACK = 16


class Catalogue:
    """The streams by name, and everything that they share.

    `wall_offset_ns` turns `now_ns` into nanoseconds since 1970 where a client sees a time.
    """

    __slots__ = ("_sequencer", "retained_bytes", "settings", "streams", "wall_offset_ns")

    def __init__(self, settings: SandboxSettings, wall_offset_ns: int) -> None:
        self.settings = settings
        self.wall_offset_ns = wall_offset_ns
        self.streams: dict[str, Stream] = {}
        self.retained_bytes = 0
        self._sequencer = Sequencer()

    @property
    def name_pattern(self) -> str:
        is_yandex = self.settings.service is YANDEX
        return NAME_PATTERN_YANDEX if is_yandex else NAME_PATTERN_AWS

    def arn_of(self, name: str) -> str:
        """AWS: an ARN that looks real. Yandex: the name itself."""
        if self.settings.service is YANDEX:
            return name
        region = self.settings.region
        where = f"{partition_of(region)}:kinesis:{region}:{self.settings.account}"
        return f"arn:{where}:stream/{name}"

    def create(
        self,
        name: str,
        shard_count: int,
        now_ns: int,
        *,
        record_bytes_max: int = RECORD_BYTES_MAX,
        quota: Quota | None = None,
        is_on_demand: bool = False,
        is_auto: bool = False,
        can_split: bool = False,
    ) -> Stream:
        """Raises ServiceError if the stream exists, or if it would exceed the sandbox's bounds."""
        settings = self.settings
        if name in self.streams:
            raise refuse(
                "ResourceInUseException",
                f"Stream {name} under account {settings.account} already exists.",
            )
        if len(self.streams) >= settings.stream_count_max:
            raise refuse(
                "LimitExceededException", f"the sandbox holds {settings.stream_count_max} streams"
            )
        self.require_room_for_shards(shard_count)
        units = settings.request_units_per_second
        stream = Stream(
            name,
            shard_count,
            service=settings.service,
            quota=quota or settings.quota,
            limiter_kind=settings.limiter,
            sequencer=self._sequencer,
            now_ns=now_ns,
            record_bytes_max=record_bytes_max,
            # Request units are the "records" of this limiter; its bytes are never spent.
            request_units=None if units is None else TokenBuckets(Quota(units, KIB), now_ns),
            is_on_demand=is_on_demand,
            is_auto=is_auto,
            can_split=can_split,
        )
        self.streams[name] = stream
        return stream

    def delete(self, stream: Stream) -> None:
        """Deletes a stream with its records."""
        del self.streams[stream.name]
        self.retained_bytes -= sum(
            stored.retained_bytes for shard in stream.shards for stored in shard.log
        )

    def find(self, name: str) -> Stream:
        """The stream. Raises ServiceError, ResourceNotFoundException, for an unknown name."""
        stream = self.streams.get(name)
        if stream is None:
            if self.settings.service is YANDEX:
                raise yandex_words.missing_stream(name)
            raise refuse(
                "ResourceNotFoundException",
                f"Stream {name} under account {self.settings.account} not found.",
            )
        return stream

    def name_of(self, stream_name: str | None, stream_arn: str | None) -> str:
        """The name that a request means. If it gives both, the ARN decides and the name must agree.

        Account and region of an ARN are not compared, so that a client that is configured for a
        real stream can call the sandbox unchanged.
        """
        if stream_arn is not None:
            name = stream_arn.partition("stream/")[2]
            if stream_name not in (None, name):
                raise refuse(
                    "InvalidArgumentException",
                    f"StreamName {stream_name} is not the stream that StreamARN names",
                )
            return name
        if stream_name is None:
            raise refuse(
                "InvalidArgumentException", "Either StreamName or StreamARN must be provided."
            )
        return stream_name

    def find_by_arn(self, payload: Payload) -> Stream:
        """The stream of a call that takes no name. A missing ARN is a ValidationException."""
        return self.find(self.name_of(None, payload.arn("StreamARN")))

    def name_in(self, payload: Payload) -> str | None:
        """The name in a control or reading call; None if it gives neither a name nor an ARN."""
        name = payload.optional_text("StreamName", self.name_pattern)
        stream_arn = payload.optional_arn("StreamARN")
        no_stream = name is None and stream_arn is None
        return None if no_stream else self.name_of(name, stream_arn)

    def find_in(self, payload: Payload) -> Stream:
        """The stream that a control or reading call names."""
        return self.find(self.name_of(self.name_in(payload), None))

    def require_room_for_shards(self, added_count: int) -> None:
        """Raises LimitExceededException if `added_count` more shards would exceed the bound."""
        shard_count = sum(len(stream.shards) for stream in self.streams.values())
        limit = self.settings.shard_count_max
        if shard_count + added_count > limit:
            raise refuse(
                "LimitExceededException",
                "This request would exceed the shard limit for the account "
                f"{self.settings.account} in {self.settings.region}. Current shard count for the "
                f"account: {shard_count}. Limit: {limit}. Number of additional shards that would "
                f"have resulted from this request: {added_count}.",
            )

    def retain(self, added_bytes: int) -> None:
        """Counts the memory of newly stored records, and trims the oldest records if all have more
        than the budget.
        """
        self.retained_bytes += added_bytes
        budget = self.settings.retained_bytes_max
        if self.retained_bytes > budget:
            excess = self.retained_bytes - budget
            self.retained_bytes -= trim_oldest(
                list(self.streams.values()), excess + budget // TRIM_SLACK
            )

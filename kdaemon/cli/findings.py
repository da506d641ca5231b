"""Turns the service's answers into the findings of `kdaemon check --service`. Pure.

Knows what the service said of a stream, and the stream's settings; makes no call. Invariant: a
finding is one line in plain words, and a finding that asks for an action says which.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from kdaemon.base.description import Caller, StreamDescription
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import MIB
from kdaemon.base.names import DEFAULT_UPSTREAM, parse_arn
from kdaemon.base.service import Service
from kdaemon.base.text import printable
from kdaemon.cli.values_text import byte_text
from kdaemon.config import StreamConfig, UpstreamConfig
from kdaemon.engine.unavailable import why_unavailable
from kdaemon.observe.remedies import advised, remedy

SKEW_S_WARNING = 30.0  # seconds; ours: more than a slow answer explains
SKEW_S_MAX = 300.0  # seconds; AWS and Yandex refuse signatures that are five minutes off
DRY_RUN_TAKEN = "DryRunOperationException"
_REFUSED_AS_WRONG = frozenset({"InvalidArgumentException", "ValidationException"})


class Level(Enum):
    OK = "ok"
    NOTE = "note"  # nobody needs to act
    WARNING = "warning"  # kdaemon works, but not as well as it could
    PROBLEM = "problem"  # some records, or all, would not be delivered


@dataclass(frozen=True, slots=True)
class Finding:
    """`stream`: "" if the finding is about the upstream itself. `do`: the remedy; "" if none is
    needed.
    """

    level: Level
    upstream: str
    stream: str
    subject: str
    text: str
    do: str = ""

    def __str__(self) -> str:
        where = "" if self.upstream == DEFAULT_UPSTREAM else f"@{self.upstream}"
        where = "/".join(filter(None, (where, self.stream))) or "service"
        text = f"{self.text.removesuffix('.')}; do: {self.do}" if self.do else self.text
        return printable(f"{self.level.value:<8}{where}: {self.subject}: {text}")


@dataclass(frozen=True, slots=True)
class Teller:
    """Makes the findings about one stream, or about an upstream."""

    upstream: str
    stream: str = ""

    def tell(self, level: Level, subject: str, text: str, do: str | None = "") -> Finding:
        """A finding in these words. `do`: None: there is no remedy."""
        return Finding(level, self.upstream, self.stream, subject, text, do or "")

    def failed(self, subject: str, error: ServiceError, level: Level = Level.PROBLEM) -> Finding:
        """A finding for an error, in the service's words or ours, with its remedy."""
        text, do = advised(error.code, error.message)
        return self.tell(level, subject, f"{error.code}: {text}", do)


def of_caller(teller: Teller, upstream: UpstreamConfig, caller: Caller) -> Iterator[Finding]:
    """Whose credentials are used."""
    if not upstream.traits.has_arns:
        kind = "an IAM token" if upstream.has_token else "a static key"
        yield teller.tell(Level.OK, "credentials", f"{kind} of {upstream.traits.title} was found")
        return
    where = f" in region {caller.region}" if caller.region else ""
    if not caller.account:
        text = f"credentials were found{where}; nobody tells their account"
        do = "" if caller.is_beside_stand_in else "set account_id"
        yield teller.tell(Level.NOTE, "credentials", text, do)
        return
    yield teller.tell(Level.OK, "credentials", f"calls as account {caller.account}{where}")
    if upstream.account and upstream.account != caller.account:
        text = f"the configuration says {upstream.account}, the credentials are {caller.account}'s"
        yield teller.tell(Level.PROBLEM, "account", text, "mend account_id, or the credentials")


def of_clock(teller: Teller, skew_s: float | None) -> Iterator[Finding]:
    """`skew_s`: how many seconds this machine's clock is ahead of the service's; None: not
    known.
    """
    if skew_s is None:
        return
    direction = "ahead of" if skew_s > 0 else "behind"
    text = f"this machine's clock is {abs(skew_s):,.0f} s {direction} the service's"
    do = remedy("RequestExpired")
    if abs(skew_s) >= SKEW_S_MAX:
        yield teller.tell(Level.PROBLEM, "clock", f"{text}: its requests are refused", do)
    elif abs(skew_s) >= SKEW_S_WARNING:
        yield teller.tell(Level.WARNING, "clock", f"{text}: {SKEW_S_MAX:.0f} s are too many", do)
    else:
        yield teller.tell(Level.OK, "clock", "agrees with the service's")


def of_write(teller: Teller, answer: ServiceError, *, is_of_aws: bool) -> Finding:
    """`answer`: the service's answer when it is asked whether a record may be written; none is
    written. `is_of_aws`: AWS itself answered. A stand-in for AWS was asked with a record that is
    invalid.
    """
    if answer.code == DRY_RUN_TAKEN:
        return teller.tell(Level.OK, "write", "records may be written (asked, none was written)")
    if not is_of_aws and answer.code in _REFUSED_AS_WRONG:
        text = (
            "the service answers, and stands in for AWS: whether records may be written is not told"
        )
        return teller.tell(Level.NOTE, "write", text, "try with one record: kdaemon put")
    if answer.status >= 500 or answer.status == 200:
        text = f"whether records may be written is not told: {answer.code}: {answer.message}"
        return teller.tell(Level.WARNING, "write", text, "try with one record: kdaemon put")
    return teller.failed("write", answer)


def of_write_at_yandex(teller: Teller) -> Finding:
    """What is said in the place of an answer: Yandex has no DryRun."""
    text = "whether records may be written cannot be asked there without writing one"
    do = "see that kdaemon's service account has yds.writer"
    return teller.tell(Level.NOTE, "write", text, do)


def of_denied(teller: Teller, operation: str, error: ServiceError) -> Finding:
    """A finding about a description that kdaemon has no right to ask for, and does without."""
    lacks = {
        "DescribeStreamSummary": "the stream's own record limit, its kind (AUTO, on-demand) and who"
        " reads it stay unknown",
        "ListShards": "its shards stay unknown: all of it is paced as one shard would be",
        "DescribeStream": "its shards stay unknown: all of it is paced as one shard would be",
    }.get(operation, "a part of it stays unknown")
    do = (
        "give yds.viewer, or leave it so"
        if operation == "DescribeStream"
        else f"allow kinesis:{operation} (`kdaemon iam` prints the policy), or leave it so"
    )
    text = f"{operation} is not allowed ({error.code}): {lacks}"
    return teller.tell(Level.WARNING, "describe", text, do)


def of_description(
    teller: Teller,
    stream: StreamConfig,
    settings: EngineSettings,
    upstream: UpstreamConfig,
    found: StreamDescription,
) -> Iterator[Finding]:
    """Compares what the service said of the stream with its settings."""
    yield from _of_account(teller, stream, upstream, found)
    yield from _of_shards(teller, stream, found)
    yield from _of_limits(teller, stream, upstream.traits, found)
    forbids = why_unavailable(
        settings, is_auto=found.is_auto, has_record_readers=bool(found.has_record_readers)
    )
    if forbids is not None:
        text, _, do = forbids.message.partition(" Take it out")
        do = f"take it out{do}".removesuffix(".")
        yield teller.tell(Level.PROBLEM, "kind", text.removesuffix("."), do)
    elif found.is_auto:
        text = "service-managed (RecordDistributionStrategy AUTO): partition keys are ignored"
        yield teller.tell(Level.NOTE, "kind", text)
    if found.encryption_type == "KMS":
        text = "records are encrypted with KMS: to write needs kms:GenerateDataKey on its key"
        yield teller.tell(Level.NOTE, "encryption", text)


def _of_account(
    teller: Teller, stream: StreamConfig, upstream: UpstreamConfig, found: StreamDescription
) -> Iterator[Finding]:
    arn = parse_arn(found.stream_arn or "")
    if arn is None or stream.arn or not upstream.account:
        return
    if arn.account != upstream.account:
        text = f"the configuration says {upstream.account}, the stream is of {arn.account}"
        yield teller.tell(Level.PROBLEM, "account", text, "mend account_id, or the credentials")


def _of_shards(teller: Teller, stream: StreamConfig, found: StreamDescription) -> Iterator[Finding]:
    if found.shards is None:
        return
    count = len(found.shards)
    told = found.shard_bytes_per_second
    bytes_each = min(told or stream.shard_bytes_per_second, stream.shard_bytes_per_second)
    records, size = count * stream.shard_records_per_second, byte_text(count * bytes_each)
    text = (
        f"{count:,} open shard{'' if count == 1 else 's'}: {records:,} records/s and {size}/s"
        " at most"
    )
    yield teller.tell(Level.OK, "quota", text)
    if told is not None and told < stream.shard_bytes_per_second:
        text = (
            f"each shard takes {byte_text(told)}/s, less than shard_bytes_per_second"
            f" ({byte_text(stream.shard_bytes_per_second)}/s): kdaemon paces by the stream's"
        )
        yield teller.tell(Level.NOTE, "quota", text)
    capacity = found.capacity
    if capacity is None or not capacity.is_on_demand:
        return
    warm, target = capacity.warm_bytes_per_second, capacity.warm_target_bytes_per_second
    text = "on-demand: the service adds shards by itself, minutes after they are needed"
    if warm is not None:
        text = f"on-demand, warm throughput {warm // MIB:,} MiB/s for all who write to it"
    if target is not None and target != warm:
        text += f"; it is being made {target // MIB:,} MiB/s"
    yield teller.tell(Level.NOTE, "quota", text)


def _of_limits(
    teller: Teller, stream: StreamConfig, service: Service, found: StreamDescription
) -> Iterator[Finding]:
    most = found.record_bytes_max
    if most is None:
        return
    is_less = most < stream.record_bytes_max
    text = f"a record may have {byte_text(min(most, stream.record_bytes_max))} with its key"
    if is_less and stream.record_bytes_max < service.record_bytes_max:
        text += (
            f", by the stream's MaxRecordSizeInKiB; record_bytes_max"
            f" ({byte_text(stream.record_bytes_max)}) is more, and larger records are refused"
        )
        do = "lower record_bytes_max, or raise the stream's limit (UpdateMaxRecordSize)"
        yield teller.tell(Level.WARNING, "limits", text, do)
    else:
        whose = "the stream's MaxRecordSizeInKiB" if is_less else "the configuration"
        yield teller.tell(Level.OK, "limits", f"{text}, by {whose}")
    if stream.aggregation == "kpl" and stream.aggregate_bytes_max > most:
        text = (
            f"aggregate_bytes_max ({byte_text(stream.aggregate_bytes_max)}) is more than a record"
            " of the stream may have"
        )
        yield teller.tell(Level.PROBLEM, "limits", text, "lower aggregate_bytes_max")

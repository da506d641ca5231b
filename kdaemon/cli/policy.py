"""Computes the least rights that a configuration needs: as policies of AWS IAM, and in words for
Yandex.

Knows which calls kdaemon makes, and which it passes on. Pure. Invariant: a policy has no right that
no call needs. A value that is not known (an account, a region) is `*`, and a note says so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdaemon.base.names import DEFAULT_UPSTREAM, arn_of, parse_arn, parse_qualified, partition_of
from kdaemon.base.operations import OTHER_OPERATIONS
from kdaemon.config import Config, StreamConfig, UpstreamConfig

VERSION = "2012-10-17"  # version of IAM's policy language, 2026-11-28
WRITES = ("PutRecords",)
DESCRIBES = ("DescribeStreamSummary", "ListShards")
_OF_CONSUMERS = frozenset({"DescribeStreamConsumer"})  # in IAM, its resource is the consumer's ARN
ANY = "*"


@dataclass(slots=True)
class Rights:
    """`policies`: by owner: an upstream's identity, or the role that it assumes. `notes`: for
    people. `words`: rights that are no IAM policies, for Yandex.
    """

    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


def rights(
    config: Config,
    upstreams: Iterable[str],
    more: Sequence[str],
    *,
    with_passed_on: bool,
    kms_key: str | None = None,
) -> Rights:
    """The rights for these upstreams. `more`: streams (names or ARNs) of the upstream that
    [default] names. If there are any, listed streams are left out.
    """
    found = Rights()
    for name in upstreams:
        streams = _streams(config, name, more)
        if more and not streams:
            continue
        upstream = config.upstream(name)
        if upstream.traits.has_arns:
            _of_aws(found, config, upstream, streams, with_passed_on, kms_key)
        else:
            found.words += _of_yandex(upstream, streams)
    return found


def _streams(config: Config, upstream: str, more: Sequence[str]) -> list[StreamConfig]:
    if not more:
        return list(config.listed_of(upstream).values())
    wanted = []
    for spelling in more:
        name = spelling
        home = config.default.upstream
        if spelling.startswith("@"):
            home, name = parse_qualified(spelling)
        listed = config.streams.get(spelling)
        if listed is not None:
            wanted += [listed] if listed.upstream == upstream else []
        elif home == upstream:
            arn = parse_arn(name)
            plain = replace(config.default_of(upstream), name=name if arn is None else arn.name)
            wanted.append(plain if arn is None else replace(plain, arn=name))
    return wanted


def _of_aws(
    found: Rights,
    config: Config,
    upstream: UpstreamConfig,
    streams: list[StreamConfig],
    with_passed_on: bool,
    kms_key: str | None,
) -> None:
    resources = [_resource(upstream, stream) for stream in streams] or [_any(upstream)]
    who = upstream.name
    if upstream.role_arn:
        assume = _statement("AssumeRole", ("sts:AssumeRole",), [upstream.role_arn])
        found.policies[who] = _policy([assume])
        who = f"{who}: {upstream.role_arn}"
        text = "its trust policy must let the identity above assume it"
        external = ", with the condition sts:ExternalId" if upstream.role_external_id else ""
        found.notes.append(f"{upstream.role_arn}: {text}{external}")
    statements = [
        _statement("Write", _kinesis(WRITES), resources),
        _statement("Describe", _kinesis(DESCRIBES), resources),
    ]
    if with_passed_on:
        statements += _passed_on(config.listen.operations_passed_on, resources)
    if kms_key is not None:
        statements.append(_statement("Encrypt", ("kms:GenerateDataKey",), [kms_key]))
    found.policies[who] = _policy(statements)
    found.notes += _notes(config, upstream, streams, resources, kms_key)


def _notes(
    config: Config,
    upstream: UpstreamConfig,
    streams: list[StreamConfig],
    resources: list[str],
    kms_key: str | None,
) -> Iterable[str]:
    of = "" if upstream.name == DEFAULT_UPSTREAM else f"upstream {upstream.name}: "
    if not streams:
        yield f"{of}no stream is named or listed: the policy is for all of them; --stream names one"
    elif config.accept_unlisted and upstream.name == config.default.upstream:
        yield f"{of}accept_unlisted is true: clients may name other streams, which are not in here"
    unknown = {key for each in resources for key in _unknown(each)}
    if unknown:
        keys = " and ".join(key for key in ("account_id", "region") if key in unknown)
        yield f"{of}* stands in the policy for what is not known: set {keys}"
    if kms_key is None:
        yield (
            f"{of}a stream that KMS encrypts also needs kms:GenerateDataKey on its key: --kms-key"
            " ARN (not for the key aws/kinesis)"
        )
    if not upstream.account:
        yield f"{of}sts:GetCallerIdentity, which tells the account, needs no right"


def _resource(upstream: UpstreamConfig, stream: StreamConfig) -> str:
    if stream.arn:
        return stream.arn
    name = stream.upstream_name or stream.name
    if parse_arn(name) is not None:
        return name
    return arn_of(name, upstream.account or ANY, upstream.home_region or ANY).text


def _unknown(resource: str) -> Iterable[str]:
    """The keys of the configuration whose values an ARN needs and does not have."""
    _, _, _, region, account, _ = resource.split(":", 5)
    return [key for key, part in (("region", region), ("account_id", account)) if part == ANY]


def _any(upstream: UpstreamConfig) -> str:
    region, account = upstream.home_region or ANY, upstream.account or ANY
    return f"arn:{partition_of(region)}:kinesis:{region}:{account}:stream/{ANY}"


def _passed_on(operations: Sequence[str], resources: list[str]) -> Iterable[dict[str, Any]]:
    """Statements for operations that are passed on and that no other statement allows, grouped by
    what the operation is about.
    """
    others = [name for name in operations if name not in DESCRIBES]
    of_stream = [name for name in others if OTHER_OPERATIONS[name].is_of_stream]
    of_consumer = [name for name in of_stream if name in _OF_CONSUMERS]
    of_stream = [name for name in of_stream if name not in _OF_CONSUMERS]
    of_account = [name for name in others if not OTHER_OPERATIONS[name].is_of_stream]
    consumers = [f"{each}/consumer/*" for each in resources]
    for sid, names, about in (
        ("PassedOnOfStreams", of_stream, resources),
        ("PassedOnOfConsumers", of_consumer, consumers),
        ("PassedOnOfTheAccount", of_account, [ANY]),
    ):
        if names:
            yield _statement(sid, _kinesis(names), about)


def _kinesis(operations: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"kinesis:{name}" for name in operations)


def _statement(sid: str, actions: Sequence[str], resources: Sequence[str]) -> dict[str, Any]:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": list(dict.fromkeys(resources)),
    }


def _policy(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": VERSION, "Statement": statements}


def _of_yandex(upstream: UpstreamConfig, streams: list[StreamConfig]) -> Iterable[str]:
    """[YD] security/: roles of Yandex Data Streams, 2026-11-28."""
    named = ", ".join(stream.upstream_name or stream.name for stream in streams) or "all streams"
    yield (
        f"upstream {upstream.name} (Yandex Data Streams): give its service account, for {named},"
        " the role yds.writer (to write) and yds.viewer (to describe; without it kdaemon does not"
        " know the shards), on the folder of the database or on the database itself"
    )
    if not upstream.has_token:
        yield (
            f"upstream {upstream.name}: a static access key of this account signs the calls:"
            " yc iam access-key create --service-account-name NAME"
        )

"""Learns a stream's open shards and limits from the service, as far as we are allowed to ask.

Knows the control calls of both services and their pages; must not know how a call is signed
(`client.py`), when a call may be made and repeated (`control.py`), or what a shard map is for
(`route/`). The driver asks at its start, and whenever its map looks stale.
Invariant: a shard in the result is open, and its range is within 0..2**128-1. A part that we may
not ask for, or a member of the summary that makes no sense, is None and fails nothing else.
"""

from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import msgspec

from kdaemon.base.description import Capacity, OpenShard, StreamDescription, StreamTarget
from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import HASH_KEY_MAX, KIB, MIB
from kdaemon.base.names import parse_arn
from kdaemon.base.service import AWS, Service
from kdaemon.send.answers import unreadable_answer, word
from kdaemon.send.control import ControlCall
from kdaemon.settle.verdict import MISSING_STREAM

LIST_SHARDS_RESULTS_MAX: Final = 1000  # shards a page at AWS: ListShards' default, 2026-11-21
DESCRIBE_SHARDS_MAX: Final = 100  # shards a page of DescribeStream at Yandex, 2026-11-21
PAGES_MAX: Final = 1000  # ours: a longer list is not believed
# Ours: a record of 1 GiB, or 1 TiB a second; a larger number makes no sense.
NUMBER_MAX: Final = 2**20
UNREADABLE_MAX: Final = 3  # ours: unreadable answers in a row; the last one is an error
# No permission, or no such call at this service: the part is unknown.
_NOT_FOR_US: Final = frozenset(
    {
        *("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"),
        *("UnknownOperationException", "InvalidAction", "UnsupportedOperationException"),
    }
)
_EXPIRED: Final = "expired"
_PERHAPS_FORBIDDEN: Final = "do not have access rights"
"""Yandex's ResourceNotFoundException says this: the stream is missing, or we may not describe it. A
client that may write need not be one that may describe [YS: `pq_schema_actor.h`, 2026-11-28]."""


_Summary = dict[str, Any]


class _KeyRange(msgspec.Struct, rename="pascal"):
    starting_hash_key: str
    ending_hash_key: str


class _SequenceRange(msgspec.Struct, rename="pascal"):
    ending_sequence_number: str | None = None


class _Shard(msgspec.Struct, rename="pascal"):
    shard_id: str
    hash_key_range: _KeyRange
    sequence_number_range: _SequenceRange | None = None
    parent_shard_id: str | None = None
    adjacent_parent_shard_id: str | None = None


class _ShardPage(msgspec.Struct, rename="pascal"):
    shards: list[_Shard]
    next_token: str | None = None


class _Stream(msgspec.Struct, rename="pascal"):
    shards: list[_Shard]
    has_more_shards: bool = False
    encryption_type: Any = None
    write_quota_kb_per_sec: Any = None  # KiB a second and shard; only Yandex tells it [YS]


class _StreamAnswer(msgspec.Struct, rename="pascal"):
    stream_description: _Stream


class _SummaryAnswer(msgspec.Struct, rename="pascal"):
    """Each member is checked by itself: the service need not tell it, and an imitation of the
    service may use another form.
    """

    stream_description_summary: _Summary


_Answer = TypeVar("_Answer", _ShardPage, _StreamAnswer, _SummaryAnswer)
_Part = TypeVar("_Part")


class Discovery:
    """The discovery of one upstream; all its streams share `ask`."""

    def __init__(self, ask: ControlCall, service: Service = AWS) -> None:
        self._ask_service = ask
        self._service = service

    async def describe(self, target: StreamTarget) -> StreamDescription:
        """Asks for all shards and limits: 2 calls at AWS, 1 at Yandex, and one for each more page.

        Raises `ServiceError` for a missing stream (Yandex says the same if permission is missing),
        and for a failure that lasted through all attempts.
        """
        if self._service.describes_shards_with_stream:
            found, _ = await self._if_allowed(self._describe_stream(target), target)
            quota_kib = None if found is None else _number(found.write_quota_kb_per_sec)
            return StreamDescription(
                _open_shards(None if found is None else found.shards),
                record_bytes_max=None,
                is_auto=False,
                stream_arn=None,
                encryption_type=None if found is None else word(found.encryption_type),
                shard_bytes_per_second=quota_kib * KIB if quota_kib else None,
            )
        answer, arn = await self._if_allowed(
            self._ask("DescribeStreamSummary", _named(target), target, _SummaryAnswer), target
        )
        summary = {} if answer is None else answer.stream_description_summary
        shards, arn_again = await self._if_allowed(self._list_shards(target), target)
        kib = _number(summary.get("MaxRecordSizeInKiB"))
        return StreamDescription(
            _open_shards(shards),
            record_bytes_max=kib * KIB if kib else None,
            is_auto=summary.get("RecordDistributionStrategy") == "AUTO",
            stream_arn=_text(summary.get("StreamARN")) or target.arn or arn or arn_again,
            encryption_type=word(summary.get("EncryptionType")),
            has_record_readers=None if answer is None else _has_record_readers(summary),
            capacity=_capacity(summary),
        )

    async def _list_shards(self, target: StreamTarget) -> list[_Shard]:
        """All pages of ListShards. A page after the first is asked for by its token alone."""
        payload: dict[str, object] = {
            **_named(target),
            "ShardFilter": {"Type": "AT_LATEST"},
            "MaxResults": LIST_SHARDS_RESULTS_MAX,
        }
        shards: list[_Shard] = []
        for _ in range(PAGES_MAX):
            page = await self._ask("ListShards", payload, target, _ShardPage)
            shards += page.shards
            if not page.next_token:
                return shards
            payload = {"NextToken": page.next_token}
        raise unreadable_answer(f"ListShards does not end after {PAGES_MAX} pages")

    async def _describe_stream(self, target: StreamTarget) -> _Stream:
        """All pages of DescribeStream as one, without the shards that have children.

        Yandex lists inactive parents as if they were open: a shard that is a parent is not open.
        """
        payload: dict[str, object] = {"StreamName": target.name, "Limit": DESCRIBE_SHARDS_MAX}
        shards: list[_Shard] = []
        for _ in range(PAGES_MAX):
            answer = await self._ask("DescribeStream", payload, target, _StreamAnswer)
            shards += answer.stream_description.shards
            if (
                not answer.stream_description.has_more_shards
                or not answer.stream_description.shards
            ):
                parents = {shard.parent_shard_id for shard in shards} | {
                    shard.adjacent_parent_shard_id for shard in shards
                }
                open_shards = [shard for shard in shards if shard.shard_id not in parents]
                return msgspec.structs.replace(answer.stream_description, shards=open_shards)
            payload["ExclusiveStartShardId"] = shards[-1].shard_id
        raise unreadable_answer(f"DescribeStream does not end after {PAGES_MAX} pages")

    async def _ask(
        self, operation: str, payload: dict[str, object], target: StreamTarget, kind: type[_Answer]
    ) -> _Answer:
        """One control call, with its answer as `kind`. After an unreadable answer the call is
        repeated, at most UNREADABLE_MAX times in all: a gateway may have answered.
        """
        for _ in range(UNREADABLE_MAX):
            answer = await self._ask_service(operation, payload, target)
            try:
                return msgspec.convert(answer, kind)
            except msgspec.ValidationError as error:  # its text names the place, never the value
                unreadable = unreadable_answer(f"{operation}: {error}")
        raise unreadable

    async def _if_allowed(
        self, part: Awaitable[_Part], target: StreamTarget
    ) -> tuple[_Part | None, str | None]:
        """The part. None: we may not ask for it; then also the stream's ARN, if AWS's denial has
        it.
        """
        try:
            return await part, None
        except ServiceError as error:
            if error.trouble is None and self._is_not_for_us(error):
                return None, _arn_in(error.message, target)
            raise

    def _is_not_for_us(self, error: ServiceError) -> bool:
        if error.code in _NOT_FOR_US:  # Yandex also says the first of them for an old token
            return _EXPIRED not in error.message
        return (
            not self._service.tells_missing_from_forbidden
            and error.code == MISSING_STREAM
            and _PERHAPS_FORBIDDEN in error.message
        )


def _arn_in(text: str, target: StreamTarget) -> str | None:
    """The ARN of this stream in a denial: `... on resource: ARN because ...`; None: none."""
    words = text.partition(" on resource: ")[2].split(maxsplit=1)
    arn = parse_arn(words[0].rstrip(".,;")) if words else None
    return arn.text if arn is not None and arn.name == target.name else None


def _number(value: object) -> int | None:
    """A count or a size; None: the value is neither."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= NUMBER_MAX else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _has_record_readers(summary: _Summary) -> bool | None:
    """None if a count makes no sense; an absent count is 0. Source: botocore 1.44.8's model,
    2026-11-28.
    """
    counts = summary.get("QueueCount"), summary.get("ChannelCount")
    numbers = [_number(count) for count in counts if count is not None]
    if any(numbers):
        return True
    return None if None in numbers else False


def _capacity(summary: _Summary) -> Capacity | None:
    """None if the service tells no known mode. Warm throughput have on-demand streams of accounts
    that commit to a minimum [M].
    """
    details, warm = summary.get("StreamModeDetails"), summary.get("WarmThroughput")
    mode = details.get("StreamMode") if isinstance(details, dict) else None
    if mode not in ("PROVISIONED", "ON_DEMAND"):
        return None
    if mode == "PROVISIONED" or not isinstance(warm, dict):
        return Capacity(is_on_demand=mode == "ON_DEMAND")
    current, target = (_number(warm.get(member)) for member in ("CurrentMiBps", "TargetMiBps"))
    return Capacity(
        is_on_demand=True,
        warm_bytes_per_second=None if current is None else current * MIB,
        warm_target_bytes_per_second=None if target is None else target * MIB,
    )


def _named(target: StreamTarget) -> dict[str, object]:
    return {"StreamARN": target.arn} if target.arn else {"StreamName": target.name}


def _open_shards(shards: list[_Shard] | None) -> tuple[OpenShard, ...] | None:
    """The shards without an ending sequence number, by range. None if the shards are unknown, or if
    none is open: a stream that is being created has none yet, and an empty map is of no use.
    """
    if shards is None:
        return None
    found = sorted(
        (
            _open_shard(shard)
            for shard in shards
            if not (
                shard.sequence_number_range and shard.sequence_number_range.ending_sequence_number
            )
        ),
        key=lambda shard: shard.first_hash_key,
    )
    return tuple(found) or None


def _open_shard(shard: _Shard) -> OpenShard:
    bounds = shard.hash_key_range.starting_hash_key, shard.hash_key_range.ending_hash_key
    if not all(bound.isascii() and bound.isdecimal() and len(bound) <= 39 for bound in bounds):
        raise unreadable_answer("a shard's hash key is not a decimal")
    first, last = int(bounds[0]), int(bounds[1])
    if not first <= last <= HASH_KEY_MAX:
        raise unreadable_answer("a shard's range of hash keys is empty or beyond 2**128-1")
    return OpenShard(shard.shard_id, first, last)

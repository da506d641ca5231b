"""What discovery asks, and what it makes of the answers: control calls are faked, nobody sleeps."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kdaemon.base.description import Capacity, OpenShard, StreamDescription, StreamTarget
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import KIB, MIB
from kdaemon.base.service import AWS, YANDEX, Service
from kdaemon.send.control import ControlCalls, ControlSettings
from kdaemon.send.discovery import PAGES_MAX, UNREADABLE_MAX, Discovery

TOP = 2**128 - 1
ARN = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
ORDERS = StreamTarget("orders")
DENIED = ServiceError("AccessDeniedException", "no", status=400)
THROTTLED = ServiceError("LimitExceededException", "slow down", status=400)

Payload = dict[str, object]
Answer = dict[str, Any] | ServiceError | Callable[[Payload], dict[str, Any]]


def shard(number: int, first: int = 0, last: int = TOP, **more: Any) -> dict[str, Any]:
    return {
        "ShardId": f"shardId-{number:012d}",
        "HashKeyRange": {"StartingHashKey": str(first), "EndingHashKey": str(last)},
        "SequenceNumberRange": {"StartingSequenceNumber": "0"},
        **more,
    }


def closed(number: int) -> dict[str, Any]:
    ended = {"StartingSequenceNumber": "0", "EndingSequenceNumber": "9"}
    return shard(number, SequenceNumberRange=ended)


def summary(**fields: Any) -> dict[str, Any]:
    return {"StreamDescriptionSummary": {"StreamARN": ARN, "StreamStatus": "ACTIVE", **fields}}


def stream(*shards: dict[str, Any], has_more: bool = False) -> dict[str, Any]:
    return {"StreamDescription": {"Shards": list(shards), "HasMoreShards": has_more}}


class FakeCalls:
    """The control calls: each operation has a script, whose last answer is repeated."""

    def __init__(self, **scripts: list[Answer]) -> None:
        self.scripts = scripts
        self.asked: list[tuple[str, Payload]] = []

    async def __call__(
        self, operation: str, payload: Payload, target: StreamTarget
    ) -> dict[str, Any]:
        assert target.name == ORDERS.name
        self.asked.append((operation, dict(payload)))
        script = self.scripts[operation]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, ServiceError):
            raise answer
        return answer(payload) if callable(answer) else answer

    def payloads(self, operation: str) -> list[Payload]:
        return [payload for name, payload in self.asked if name == operation]


class HalfDice:
    def random(self) -> float:
        return 0.5


class Sleeps:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def discovery(calls: FakeCalls, service: Service = AWS, sleeps: Sleeps | None = None) -> Discovery:
    settings = ControlSettings(service=service, calls_per_second=1e6, attempts_max=3)
    return Discovery(
        ControlCalls(calls, settings, HalfDice(), sleeps or Sleeps()).ask, service=service
    )


async def failure(asking: Discovery) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await asking.describe(ORDERS)
    return caught.value


async def test_aws_gives_open_shards_by_range_and_the_limits() -> None:
    calls = FakeCalls(
        DescribeStreamSummary=[
            summary(MaxRecordSizeInKiB=2048, RecordDistributionStrategy="AUTO", OpenShardCount=2)
        ],
        ListShards=[{"Shards": [shard(3, 100, TOP), closed(1), shard(2, 0, 99)]}],
    )
    assert await discovery(calls).describe(ORDERS) == StreamDescription(
        shards=(
            OpenShard("shardId-000000000002", 0, 99),
            OpenShard("shardId-000000000003", 100, TOP),
        ),
        record_bytes_max=2048 * 1024,
        is_auto=True,
        stream_arn=ARN,
        has_record_readers=False,
    )
    assert calls.asked == [
        ("DescribeStreamSummary", {"StreamName": "orders"}),
        (
            "ListShards",
            {"StreamName": "orders", "ShardFilter": {"Type": "AT_LATEST"}, "MaxResults": 1000},
        ),
    ]


@pytest.mark.parametrize(
    ("members", "has_readers"),
    [
        ({}, False),
        ({"QueueCount": 0, "ChannelCount": 0}, False),
        ({"QueueCount": 1}, True),
        ({"ChannelCount": 2, "QueueCount": 0}, True),
    ],
)
async def test_aws_says_whether_queues_or_channels_read_a_stream(
    members: dict[str, int], *, has_readers: bool
) -> None:
    calls = FakeCalls(DescribeStreamSummary=[summary(**members)], ListShards=[{"Shards": []}])
    assert (await discovery(calls).describe(ORDERS)).has_record_readers is has_readers


async def test_who_may_not_ask_for_the_summary_does_not_know_who_reads_a_stream() -> None:
    denied = ServiceError("AccessDeniedException", "no", status=400)
    calls = FakeCalls(DescribeStreamSummary=[denied], ListShards=[{"Shards": [shard(0)]}])
    assert (await discovery(calls).describe(ORDERS)).has_record_readers is None


ON_DEMAND: Payload = {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
PROVISIONED: Payload = {"StreamModeDetails": {"StreamMode": "PROVISIONED"}}
WARM: Payload = {"WarmThroughput": {"TargetMiBps": 200, "CurrentMiBps": 100}}


@pytest.mark.parametrize(
    ("members", "capacity"),
    [
        ({}, None),
        (PROVISIONED, Capacity(False)),
        (PROVISIONED | WARM, Capacity(False)),
        (ON_DEMAND, Capacity(True)),
        (ON_DEMAND | WARM, Capacity(True, 100 * MIB, 200 * MIB)),
        (WARM, None),
        (ON_DEMAND | {"WarmThroughput": {"CurrentMiBps": 0}}, Capacity(True, 0, None)),
        (ON_DEMAND | {"WarmThroughput": {"TargetMiBps": 10}}, Capacity(True, None, 10 * MIB)),
    ],
)
async def test_aws_says_how_a_stream_is_scaled_and_what_is_warm_of_it(
    members: Payload, capacity: Capacity | None
) -> None:
    calls = FakeCalls(
        DescribeStreamSummary=[summary(**members)], ListShards=[{"Shards": [shard(0)]}]
    )
    assert (await discovery(calls).describe(ORDERS)).capacity == capacity


NONSENSE = ["text", -1, 2**63, 10**30, None, True, 1.5, [], {}, [1], {"a": []}]


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
async def test_a_member_that_makes_no_sense_is_as_if_it_were_not_there(value: object) -> None:
    """And the shards are known all the same."""

    async def described(**members: object) -> StreamDescription:
        calls = FakeCalls(
            DescribeStreamSummary=[summary(**members)], ListShards=[{"Shards": [shard(0)]}]
        )
        description = await discovery(calls).describe(ORDERS)
        assert len(calls.asked) == 2, "it is not asked for again"
        assert description.shards is not None
        return description

    warm = {"CurrentMiBps": value, "TargetMiBps": value}
    for members in (ON_DEMAND | {"WarmThroughput": warm}, ON_DEMAND | {"WarmThroughput": value}):
        assert (await described(**members)).capacity == Capacity(True)
    half = {"WarmThroughput": {"CurrentMiBps": 5, "TargetMiBps": value}}
    assert (await described(**ON_DEMAND, **half)).capacity == Capacity(True, 5 * MIB)
    for mode in (value, {"StreamMode": value}):
        assert (await described(StreamModeDetails=mode, **WARM)).capacity is None
    assert (await described(MaxRecordSizeInKiB=value)).record_bytes_max is None
    assert not (await described(RecordDistributionStrategy=value)).is_auto
    unknown = None if value is not None else False  # null is absent: none
    assert (await described(QueueCount=value)).has_record_readers is unknown
    assert (await described(QueueCount=value, ChannelCount=1)).has_record_readers is True
    arn = (await described(StreamARN=value)).stream_arn
    assert arn == (value if isinstance(value, str) else None)


async def test_a_stream_with_an_arn_is_asked_for_by_it() -> None:
    calls = FakeCalls(DescribeStreamSummary=[summary()], ListShards=[{"Shards": [shard(0)]}])
    description = await discovery(calls).describe(StreamTarget("orders", ARN))
    assert description.record_bytes_max is None
    assert not description.is_auto
    for _, payload in calls.asked:
        assert payload["StreamARN"] == ARN
        assert "StreamName" not in payload


async def test_more_than_a_thousand_shards_come_in_pages_asked_for_by_token_alone() -> None:
    width = 2**128 // 2500
    shards = [shard(n, n * width, (n + 1) * width - 1) for n in range(2500)]
    calls = FakeCalls(
        DescribeStreamSummary=[summary()],
        ListShards=[
            {"Shards": shards[:1000], "NextToken": "one"},
            THROTTLED,
            {"Shards": shards[1000:2000], "NextToken": "two"},
            {"Shards": shards[2000:]},
        ],
    )
    description = await discovery(calls).describe(ORDERS)
    assert description.shards is not None
    assert len(description.shards) == 2500
    one, two = {"NextToken": "one"}, {"NextToken": "two"}
    assert calls.payloads("ListShards")[1:] == [one, one, two]


async def test_a_list_without_end_is_not_believed() -> None:
    calls = FakeCalls(
        DescribeStreamSummary=[summary()],
        ListShards=[{"Shards": [], "NextToken": "again"}],
    )
    assert (await failure(discovery(calls))).code == "UnreadableAnswer"
    assert len(calls.payloads("ListShards")) == PAGES_MAX


async def test_without_permission_to_list_the_rest_is_still_known() -> None:
    calls = FakeCalls(DescribeStreamSummary=[summary(MaxRecordSizeInKiB=1024)], ListShards=[DENIED])
    description = await discovery(calls).describe(ORDERS)
    assert description.shards is None
    assert description.record_bytes_max == 1024 * 1024
    assert description.stream_arn == ARN
    assert len(calls.asked) == 2, "a denial is not asked again"


@pytest.mark.parametrize("code", ["AccessDeniedException", "UnknownOperationException"])
async def test_without_a_summary_the_shards_are_still_known(code: str) -> None:
    calls = FakeCalls(
        DescribeStreamSummary=[ServiceError(code, "no", status=400)],
        ListShards=[{"Shards": [shard(0)]}],
    )
    description = await discovery(calls).describe(StreamTarget("orders", ARN))
    assert description == StreamDescription(
        (OpenShard("shardId-000000000000", 0, TOP),), None, is_auto=False, stream_arn=ARN
    )


async def test_a_missing_stream_is_an_error_and_not_asked_twice() -> None:
    missing = ServiceError("ResourceNotFoundException", "Stream orders not found", status=400)
    calls = FakeCalls(DescribeStreamSummary=[missing])
    assert (await failure(discovery(calls))) is missing
    assert len(calls.asked) == 1


@pytest.mark.parametrize(
    "passing",
    [
        THROTTLED,
        ServiceError("Http503", "busy", status=503),
        ServiceError(Trouble.CONNECT, "refused", was_sent=False),
        ServiceError(Trouble.READ_TIMEOUT, "silence"),
        ServiceError(Trouble.CONNECTION_LOST, "reset"),
        ServiceError(Trouble.UNREADABLE, "nonsense", status=200),
        ServiceError("Aborted", "try later", status=400),
    ],
)
async def test_what_may_pass_is_asked_again_after_a_jittered_growing_wait(passing: Answer) -> None:
    calls = FakeCalls(
        DescribeStreamSummary=[passing, passing, summary()], ListShards=[{"Shards": [shard(0)]}]
    )
    sleeps = Sleeps()
    description = await discovery(calls, sleeps=sleeps).describe(ORDERS)
    assert description.shards is not None
    assert sleeps.seconds == [0.1, 0.2]  # half, by the dice, of 0.2 and 0.4


async def test_attempts_are_bounded_and_the_last_failure_is_raised() -> None:
    calls = FakeCalls(DescribeStreamSummary=[THROTTLED])
    sleeps = Sleeps()
    assert await failure(discovery(calls, sleeps=sleeps)) is THROTTLED
    assert len(calls.asked) == 3
    assert len(sleeps.seconds) == 2


async def test_missing_credentials_are_not_asked_for_again_here() -> None:
    missing = ServiceError(Trouble.NO_CREDENTIALS, "set them", was_sent=False)
    calls = FakeCalls(DescribeStreamSummary=[missing])
    assert await failure(discovery(calls)) is missing
    assert len(calls.asked) == 1


@pytest.mark.parametrize(
    "listed",
    [
        {"Shards": [{"ShardId": "s"}]},
        {"Shards": [shard(0, 5, 4)]},
        {"Shards": [shard(0, 0, TOP + 1)]},
        {"Shards": [shard(0) | {"HashKeyRange": {"StartingHashKey": "-1", "EndingHashKey": "1"}}]},
        {"Shards": [shard(0) | {"HashKeyRange": {"StartingHashKey": "x", "EndingHashKey": "1"}}]},
        {},
    ],
)
async def test_a_list_that_makes_no_sense_is_an_error(listed: dict[str, Any]) -> None:
    calls = FakeCalls(DescribeStreamSummary=[summary()], ListShards=[listed])
    assert (await failure(discovery(calls))).code == "UnreadableAnswer"


async def test_an_answer_in_another_form_is_asked_for_again_and_not_for_ever() -> None:
    calls = FakeCalls(DescribeStreamSummary=[{"StreamDescriptionSummary": 7}])
    assert (await failure(discovery(calls))).code == "UnreadableAnswer"
    assert len(calls.asked) == UNREADABLE_MAX
    calls = FakeCalls(
        DescribeStreamSummary=[{}, summary()], ListShards=[{}, {"Shards": [shard(0)]}]
    )
    assert (await discovery(calls).describe(ORDERS)).shards is not None


@pytest.mark.parametrize(
    "end", ["", " because no policy allows it", ".", ", with an explicit deny"]
)
@pytest.mark.parametrize("denied", ["both", "DescribeStreamSummary", "ListShards"])
async def test_a_denial_that_names_the_stream_tells_its_arn(denied: str, end: str) -> None:
    text = f"User: arn:aws:iam::1:user/x is not authorized to perform: kinesis:X on resource: {ARN}"
    no = ServiceError("AccessDeniedException", text + end, status=400)
    calls = FakeCalls(
        DescribeStreamSummary=[
            no if denied != "ListShards" else {"StreamDescriptionSummary": {"StreamARN": None}}
        ],
        ListShards=[no if denied != "DescribeStreamSummary" else {"Shards": [shard(0)]}],
    )
    description = await discovery(calls).describe(ORDERS)
    assert description.stream_arn == ARN
    assert (description.shards is None) is (denied != "DescribeStreamSummary")


@pytest.mark.parametrize(
    "text",
    [
        *("no", "on resource: ", " on resource: *", " on resource: arn:aws:kinesis:x"),
        f" on resource: {ARN}-other",
        f" on resource: {ARN.replace('kinesis', 'sqs')}",
        " on resource: arn:aws:iam::123456789012:role/orders",
    ],
)
async def test_a_denial_that_names_something_else_tells_nothing(text: str) -> None:
    no = ServiceError("AccessDeniedException", text, status=400)
    calls = FakeCalls(DescribeStreamSummary=[no], ListShards=[no])
    assert (await discovery(calls).describe(ORDERS)).stream_arn is None


async def test_a_stream_without_an_open_shard_has_unknown_shards() -> None:
    calls = FakeCalls(DescribeStreamSummary=[summary()], ListShards=[{"Shards": [closed(0)]}])
    assert (await discovery(calls).describe(ORDERS)).shards is None


@pytest.mark.parametrize(
    ("said", "expected"), [("KMS", "KMS"), ("NONE", "NONE"), ("a b", None), (None, None)]
)
async def test_how_a_stream_keeps_its_records_is_known_from_its_description(
    said: str | None, expected: str | None
) -> None:
    fields = {} if said is None else {"EncryptionType": said}
    calls = FakeCalls(
        DescribeStreamSummary=[summary(**fields)],
        ListShards=[{"Shards": [shard(0)]}],
        DescribeStream=[{"StreamDescription": {"Shards": [shard(0)], **fields}}],
    )
    for service in (AWS, YANDEX):
        description = await discovery(calls, service).describe(ORDERS)
        assert description.encryption_type == expected


# Yandex


async def test_yandex_is_asked_by_describe_stream_only_page_by_page() -> None:
    calls = FakeCalls(
        DescribeStream=[
            stream(shard(0, 0, 9), shard(1, 10, 19), has_more=True),
            stream(shard(2, 20, TOP)),
        ]
    )
    description = await discovery(calls, YANDEX).describe(StreamTarget("orders", ARN))
    assert description == StreamDescription(
        (
            OpenShard("shardId-000000000000", 0, 9),
            OpenShard("shardId-000000000001", 10, 19),
            OpenShard("shardId-000000000002", 20, TOP),
        ),
        record_bytes_max=None,
        is_auto=False,
        stream_arn=None,
    )
    first = {"StreamName": "orders", "Limit": 100}
    assert calls.asked == [
        ("DescribeStream", first),
        ("DescribeStream", first | {"ExclusiveStartShardId": "shardId-000000000001"}),
    ]


@pytest.mark.parametrize(
    ("told", "expected"), [(128, 128 * KIB), (1024, MIB), (0, None), *((x, None) for x in NONSENSE)]
)
async def test_yandex_says_what_a_shard_takes(told: object, expected: int | None) -> None:
    last = stream(shard(1, 10, TOP))
    last["StreamDescription"]["WriteQuotaKbPerSec"] = told
    calls = FakeCalls(DescribeStream=[stream(shard(0, 0, 9), has_more=True), last])
    description = await discovery(calls, YANDEX).describe(ORDERS)
    assert description.shard_bytes_per_second == expected
    assert description.shards is not None
    assert len(description.shards) == 2


async def test_yandex_shards_with_children_are_closed_although_listed_as_open() -> None:
    split, merged = "shardId-000000000000", "shardId-000000000003"
    calls = FakeCalls(
        DescribeStream=[
            stream(
                shard(0),
                shard(1, 0, 9, ParentShardId=split),
                shard(2, 10, 19, ParentShardId=split),
                has_more=True,
            ),
            stream(
                shard(3, 20, 29),
                closed(5),
                shard(
                    4, 10, 29, ParentShardId="shardId-000000000002", AdjacentParentShardId=merged
                ),
            ),
        ]
    )
    description = await discovery(calls, YANDEX).describe(ORDERS)
    assert description.shards is not None
    assert [shard.shard_id[-1] for shard in description.shards] == ["1", "4"]


async def test_yandex_pages_that_claim_more_and_bring_nothing_end() -> None:
    calls = FakeCalls(DescribeStream=[stream(shard(0), has_more=True), stream(has_more=True)])
    description = await discovery(calls, YANDEX).describe(ORDERS)
    assert description.shards is not None
    assert len(calls.asked) == 2


async def test_yandex_without_permission_to_describe_is_unknown() -> None:
    calls = FakeCalls(DescribeStream=[DENIED])
    description = await discovery(calls, YANDEX).describe(ORDERS)
    assert description == StreamDescription(None, None, is_auto=False, stream_arn=None)


RIGHTS = "<main>: Error: path '/a/b' does not exist or you do not have access rights, code: 500018"
NOWHERE = "Database with path '/a/b' doesn't exists"


async def test_yandex_tells_who_may_not_describe_that_there_is_perhaps_no_stream() -> None:
    forbidden = ServiceError("ResourceNotFoundException", RIGHTS, status=400)
    calls = FakeCalls(DescribeStream=[forbidden])
    description = await discovery(calls, YANDEX).describe(ORDERS)
    assert description == StreamDescription(None, None, is_auto=False, stream_arn=None)
    for service, text in ((YANDEX, NOWHERE), (AWS, RIGHTS)):
        missing = ServiceError("ResourceNotFoundException", text, status=400)
        calls = FakeCalls(DescribeStream=[missing], DescribeStreamSummary=[missing])
        assert (await failure(discovery(calls, service))).code == "ResourceNotFoundException"


async def test_an_expired_token_at_yandex_is_asked_again_and_no_lack_of_permission() -> None:
    """Else the shards would stay unknown for an hour."""
    expired = ServiceError("AccessDeniedException", "The token has expired", status=400)
    calls = FakeCalls(DescribeStream=[expired])
    assert (await failure(discovery(calls, YANDEX))).message == "The token has expired"


# The rate


async def test_all_streams_together_keep_within_the_rate() -> None:
    calls = FakeCalls(DescribeStream=[stream(shard(0))])
    settings = ControlSettings(service=YANDEX, calls_per_second=2.5)
    control = ControlCalls(calls, settings, HalfDice(), Sleeps())
    asking = Discovery(control.ask, YANDEX)
    tasks = [asyncio.create_task(asking.describe(ORDERS)) for _ in range(5)]
    while len(calls.asked) < 2:
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(calls.asked) == 2  # the third of them comes 0.8 s later
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize(
    ("told", "quota"),
    [
        (128, 128 * 1024),
        (512, 512 * 1024),
        (1024, 1024 * 1024),
        (None, None),
        (0, None),
        (-1, None),
        ("512", None),
        (512.5, None),
        (True, None),
        (10**9, None),
    ],
)
async def test_yandex_tells_what_a_shard_takes_and_nonsense_takes_nothing_down(
    told: object, quota: int | None
) -> None:
    answer = stream(shard(1))
    answer["StreamDescription"]["WriteQuotaKbPerSec"] = told
    description = await discovery(FakeCalls(DescribeStream=[answer]), YANDEX).describe(ORDERS)
    assert description.shard_bytes_per_second == quota
    assert description.shards is not None


async def test_aws_tells_no_quota_of_a_shard() -> None:
    calls = FakeCalls(DescribeStreamSummary=[summary()], ListShards=[{"Shards": [shard(1)]}])
    assert (await discovery(calls).describe(ORDERS)).shard_bytes_per_second is None

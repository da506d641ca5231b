"""Operations that kdaemon does not answer itself: who may ask, what is sent, and what is told."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kdaemon.base.counters import RefuseReason
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.memory import ByteBudget
from kdaemon.base.operations import OTHER_OPERATIONS, PASSED_ON_DEFAULT
from kdaemon.base.principal import ANYBODY, Principal, Rights
from kdaemon.base.refused import Refused
from kdaemon.base.service import SERVICES
from kdaemon.config.load import load_config
from kdaemon.door.door import Door
from kdaemon.door.kinesis import KinesisDoor, widest_limits
from kdaemon.door.passthrough import Passthrough
from kdaemon.http.request import HttpRequest
from kdaemon.send.arriving import HasRoom
from kdaemon.send.relay import Relay
from kdaemon.send.relayed import Relayed
from kdaemon.wire.cbor import encode as cbor_encode
from tests.kit.cbor import java
from tests.kit.clock import HandClock
from tests.kit.endpoints import CONTENT_TYPES
from tests.kit.streams import FakeService, make_streams
from tests.unit.door.fake_streams import Answer, make_request, read_answer
from tests.unit.send.test_relay import settle

OURS, OTHERS = "111111111111", "222222222222"
SAID = Relayed(200, b'{ "Shards": [] }', ((b"x-amzn-RequestId", b"theirs"),))


def arn(account: str = OURS, name: str = "orders", region: str = "eu-central-1") -> str:
    return f"arn:aws:kinesis:{region}:{account}:stream/{name}"


class Place:
    """A daemon's Kinesis door with this configuration, before a service that says `says`."""

    def __init__(self, text: str = "") -> None:
        self.config = load_config(text="region = 'eu-central-1'\n" + text)
        self.says: Relayed | ServiceError = SAID
        self.principal = ANYBODY  # who asks
        self.calls: list[tuple[str, bytes, str | None]] = []
        self.memory = ByteBudget(2**28)
        allowed = self.config.listen.operations_passed_on
        traits = self.config.traits
        self.relay = Relay(self.pass_on, self.turn, traits, self.memory, allowed)
        self.streams = make_streams(FakeService(), "region = 'eu-central-1'\n" + text)
        door = Door(self.streams, HandClock())
        passthrough = Passthrough(
            door, {"default": self.relay}, "default", is_stream_name_free=not traits.has_arns
        )
        self.door = KinesisDoor(door, widest_limits([traits]), 1, passthrough=passthrough)

    async def turn(self) -> None:
        pass

    async def pass_on(
        self, operation: str, body: bytes, arn: str | None, bytes_max: int, has_room: HasRoom
    ) -> Relayed:
        self.calls.append((operation, body, arn))
        if isinstance(self.says, ServiceError):
            raise self.says
        return self.says

    def send(self, operation: str, body: bytes, **headers: str) -> HttpRequest:
        sent = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"Kinesis_20131202.{operation}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        request = make_request("/", sent, body)
        request.principal = self.principal
        self.door.handle(request)
        return request

    async def ask(self, operation: str, body: bytes | dict[str, Any], **headers: str) -> Answer:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = self.send(operation, text, **headers)
        await settle()
        return read_answer(request)

    def refused(self, operation: str = "") -> dict[str, int]:
        counters = self.relay.others
        if operation:
            counters = self.relay.counters_of(OTHER_OPERATIONS[operation])
        return {why.value: count for why, count in counters.refused.items() if count}


Make = Callable[..., Place]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    places: list[Place] = []

    def new(text: str = "") -> Place:
        places.append(Place(text))
        return places[-1]

    yield new
    for place in places:
        await place.relay.aclose()
        await place.streams.aclose()
        assert place.memory.bytes_taken == 0


@pytest.mark.parametrize("operation", PASSED_ON_DEFAULT)
async def test_what_producers_ask_before_they_write_is_passed_on(
    make: Make, operation: str
) -> None:
    place = make()
    body = b'{"StreamName": "orders", "Unknown": 1}'
    request = place.send(operation, body)
    assert request.body == b"", "while it waits, the body is not held twice"
    await settle()
    answer = read_answer(request)
    assert (answer.status, answer.body) == (200, {"Shards": []})
    assert request.answer is not None
    assert request.answer.body == SAID.body
    assert answer.headers["x-amzn-requestid"] == "theirs"
    assert answer.headers["x-amz-id-2"]
    assert place.calls == [(operation, body, None)]
    assert not list(place.streams.engines()), "no engine is made of a question"


async def test_the_service_s_refusal_is_the_client_s_answer(make: Make) -> None:
    place = make()
    body = b'{"__type":"ResourceNotFoundException","message":"Stream x not found."}'
    place.says = Relayed(400, body)
    answer = await place.ask("DescribeStream", {"StreamName": "x"})
    assert (answer.status, answer.body) == (400, json.loads(body))
    assert answer.headers["x-amzn-requestid"], "our own, where the service gave none"


async def test_a_service_that_cannot_be_reached_is_an_error_that_sdks_try_again(
    make: Make,
) -> None:
    place = make()
    place.says = ServiceError(Trouble.CONNECT, "cannot connect", was_sent=False)
    answer = await place.ask("DescribeStream", {"StreamName": "x"})
    assert (answer.status, answer.body["__type"]) == (503, "ServiceUnavailable")
    assert "cannot connect" in answer.body["message"]


async def test_who_asks_in_cbor_is_answered_in_cbor(make: Make) -> None:
    """The service is asked in JSON, and shares its answer with those who speak JSON."""
    place = make()
    cbor = {"Content-Type": "application/x-amz-cbor-1.1"}
    body = java({"StreamName": "orders"})
    answer = await place.ask("ListShards", body, **cbor)
    assert (answer.status, answer.body) == (200, {"Shards": []})
    assert answer.headers["x-amzn-requestid"] == "theirs"
    assert place.calls == [("ListShards", b'{"StreamName":"orders"}', None)]
    assert (await place.ask("ListShards", {"StreamName": "orders"})).status == 200
    assert len(place.calls) == 1
    place.says = Relayed(400, b'{"__type":"SerializationException","Message":"Why.","More":1}')
    refused = await place.ask("DescribeStream", body, **cbor)
    assert refused.body == {"__type": "SerializationException", "message": "Why."}
    place.says = ServiceError(Trouble.CONNECT, "away", was_sent=False)
    assert (await place.ask("DescribeStreamSummary", body, **cbor)).status == 503
    for operation, wrong, code in (
        ("CreateStream", body, "UnknownOperationException"),
        ("Nothing", body, "UnknownOperationException"),
        ("ListStreams", b"\xff", "SerializationException"),
        ("ListStreams", b"{}", "SerializationException"),
        ("ListStreams", b"", "SerializationException"),
        ("ListStreams", java({"StreamName": "a b"}), "ValidationException"),
    ):
        request = place.send(operation, wrong, **cbor)
        assert request.answer is not None
        assert request.answer.content_type == b"application/x-amz-cbor-1.1"
        assert read_answer(request).body["__type"] == code
    assert place.streams.door.received == 0, "no record came"


@pytest.mark.parametrize(
    "said",
    [
        b'{"Records":[{"Data":"no base64"}]}',
        b'{"SomeTimestamp":1e300}',
        b'{"Records":[' + b"x" * 2_000_000 + b"]}",
    ],
)
async def test_an_answer_that_cbor_cannot_have_is_an_error(make: Make, said: bytes) -> None:
    place = make()
    place.says = Relayed(200, said)
    cbor = {"Content-Type": "application/x-amz-cbor-1.1"}
    answer = await place.ask("ListShards", java({"StreamName": "orders"}), **cbor)
    assert (answer.status, answer.body["__type"]) == (503, "ServiceUnavailable")


# What is not passed on


@pytest.mark.parametrize(
    ("text", "operation", "words"),
    [
        ("", "GetRecords", "add it to listen.operations_passed_on"),
        ("", "ListTagsForStream", "add it to listen.operations_passed_on"),
        ("listen.operations_passed_on = []", "ListShards", "passes on nothing else"),
        ("", "CreateStream", "it changes what is at the service"),
        ("", "DeleteStream", "ask the service itself"),
        ("", "SubscribeToShard", "HTTP/2"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"{}", b"nonsense", b'{"a":1,"a":2}'])
async def test_other_operations_are_refused_with_what_kdaemon_is_for_and_what_to_do(
    make: Make, text: str, operation: str, words: str, body: bytes
) -> None:
    place = make(text)
    answer = await place.ask(operation, body)
    assert (answer.status, answer.body["__type"]) == (400, "UnknownOperationException")
    assert "PutRecord and PutRecords" in answer.body["message"]
    assert words in answer.body["message"]
    assert place.calls == []
    assert place.refused() == {"not_allowed": 1}


@pytest.mark.parametrize("operation", ["Nothing", "putrecords", "DescribeStream ", "x" * 5_000])
async def test_what_the_api_does_not_have_is_no_operation(make: Make, operation: str) -> None:
    place = make()
    answer = await place.ask(operation, b"{}")
    assert (answer.status, answer.body["__type"]) == (400, "UnknownOperationException")
    assert len(answer.body["message"]) < 500
    assert place.calls == []


async def test_reads_are_passed_on_where_the_operator_allows_them(make: Make) -> None:
    place = make("listen.operations_passed_on = ['GetRecords', 'GetShardIterator']")
    assert (await place.ask("GetRecords", {"ShardIterator": "AAA"})).status == 200
    answer = await place.ask("DescribeStream", {"StreamName": "orders"})
    assert answer.body["__type"] == "UnknownOperationException"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "SerializationException"),
        (b"[]", "SerializationException"),
        (b'{"StreamName":"a","StreamName":"b"}', "SerializationException"),
        (b'{"a":"' + b"x" * 70_000 + b'"}', "SerializationException"),
        (b'{"StreamName":"a b"}', "ValidationException"),
        (b'{"StreamARN":"arn:aws:kinesis"}', "ValidationException"),
    ],
)
async def test_what_cannot_be_read_is_refused_here(make: Make, body: bytes, code: str) -> None:
    place = make()
    answer = await place.ask("DescribeStream", body)
    assert (answer.status, answer.body["__type"]) == (400, code)
    assert place.calls == []
    assert place.refused("DescribeStream") == {"invalid": 1}
    assert place.streams.door.received == 0, "no record came"


# Whose streams


async def test_an_arn_decides_where_the_call_goes(make: Make) -> None:
    place = make()
    for number, members in enumerate(
        (
            {"StreamARN": arn(OTHERS, region="us-east-1")},
            {"StreamARN": arn(OTHERS, region="us-east-1"), "StreamName": "orders"},
            {"StreamId": "id-1", "StreamARN": arn(OTHERS, region="us-east-1")},
        )
    ):
        assert (await place.ask("DescribeStreamSummary", members)).status == 200
        assert place.calls[number][2] == arn(OTHERS, region="us-east-1")
        assert json.loads(place.calls[number][1]) == members, "as it came"


async def test_what_goes_on_from_an_answer_goes_where_the_answer_came_from(make: Make) -> None:
    """The next page, and the records of a shard, are asked for by a token alone."""
    operations = ["ListShards", "GetShardIterator", "GetRecords"]
    place = make(f"listen.operations_passed_on = {operations}")
    far = arn(OTHERS, region="us-east-1")
    place.says = Relayed(200, b'{"Shards":[],"NextToken":"page 2"}')
    await place.ask("ListShards", {"StreamARN": far})
    place.says = Relayed(200, b'{"Shards":[],"NextToken":"page 3"}')
    await place.ask("ListShards", {"NextToken": "page 2"})
    await place.ask("ListShards", {"NextToken": "page 3"})
    await place.ask("ListShards", {"NextToken": "made up"})
    place.says = Relayed(200, b'{"ShardIterator":"first"}')
    await place.ask("GetShardIterator", {"StreamARN": far, "ShardId": "s"})
    large = b'{"Records":["%b"],"NextShardIterator":"second"}' % (b"x" * 2_000_000)
    place.says = Relayed(200, large)
    await place.ask("GetRecords", {"ShardIterator": "first"})
    await place.ask("GetRecords", {"ShardIterator": "second"})
    await place.ask("GetRecords", {"ShardIterator": "made up"})
    assert [where for _, _, where in place.calls] == [far, far, far, None, far, far, far, None]


LISTED = "accept_unlisted = false\n[streams.orders]\n"


@pytest.mark.parametrize(
    ("text", "members", "is_asked"),
    [
        ("", {"StreamName": "any"}, True),
        (LISTED, {"StreamName": "orders"}, True),
        (LISTED, {"StreamName": "other"}, False),
        (LISTED, {"StreamName": "other", "StreamARN": arn()}, False),
        (LISTED, {"StreamName": "orders", "ResourceARN": arn(name="other")}, False),
        (LISTED, {"ConsumerARN": arn(name="other") + "/consumer/app:1"}, False),
        (LISTED, {"ConsumerARN": arn() + "/consumer/app:1"}, True),
        (LISTED, {}, True),
        (LISTED, {"NextToken": "AAA"}, True),
        (LISTED, {"StreamARN": arn()}, True),  # it may be ours: the service judges
        (LISTED, {"StreamARN": arn(name="other")}, False),
        (LISTED, {"StreamARN": arn(region="us-east-1")}, False),
        (f"account_id = '{OURS}'\n{LISTED}", {"StreamARN": arn()}, True),
        (f"account_id = '{OURS}'\n{LISTED}", {"StreamARN": arn(OTHERS)}, False),
        (
            f"account_id = '{OURS}'\naccept_unlisted = false\n[streams.'{arn(OTHERS)}']\n",
            {"StreamARN": arn(OTHERS)},
            True,
        ),
    ],
)
async def test_only_streams_that_records_are_taken_for_are_asked_about(
    make: Make, text: str, members: dict[str, str], is_asked: bool
) -> None:
    place = make(text)
    answer = await place.ask("ListShards", members)
    if is_asked:
        assert answer.status == 200
        return
    assert (answer.status, answer.body["__type"]) == (400, "ResourceNotFoundException")
    assert "not listed" in answer.body["message"]
    assert place.calls == []
    assert place.refused("ListShards") == {"stream": 1}


async def test_a_stream_of_another_region_is_not_asked_of_this_region_s_endpoint(
    make: Make,
) -> None:
    place = make("endpoint_url = 'https://kinesis.eu-central-1.amazonaws.com'")
    answer = await place.ask("DescribeStream", {"StreamARN": arn(region="us-east-1")})
    assert (answer.status, answer.body["__type"]) == (400, "InvalidArgumentException")
    assert "eu-central-1" in answer.body["message"]
    assert place.calls == []
    assert (await place.ask("DescribeStream", {"StreamARN": arn()})).status == 200


async def test_at_yandex_paths_go_as_they_came(make: Make) -> None:
    place = make("service = 'yandex'")
    members = {"StreamName": "/ru-central1/b1g/etn/orders", "Recurse": True}
    assert (await place.ask("ListStreams", members)).status == 200
    assert [(json.loads(body), arn) for _, body, arn in place.calls] == [(members, None)]


# Clients that go


async def test_a_client_that_goes_is_waited_for_no_longer(make: Make) -> None:
    place = make()
    request = place.send("DescribeStream", b'{"StreamName":"orders"}')
    assert request.on_gone is not None
    request.on_gone()
    await settle()
    assert place.calls == []
    assert request.answer is None


async def test_without_a_relay_all_else_is_refused() -> None:
    door = KinesisDoor(
        Door(make_streams(FakeService()), HandClock()), widest_limits([SERVICES["aws"]]), 1
    )
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "Kinesis_20131202.ListShards",
    }
    request = make_request("/", headers, b"{}")
    door.handle(request)
    assert read_answer(request).body["__type"] == "UnknownOperationException"


STRANGER = Refused(RefuseReason.UNAUTHENTICATED, "NoToken", "Nobody.", is_permanent=True)
SHOP = Principal("shop", Rights(frozenset({"orders"})))


@pytest.mark.parametrize("operation", ["ListStreams", "DescribeStream"])
@pytest.mark.parametrize("content_type", CONTENT_TYPES.values())
async def test_a_stranger_that_asks_is_counted_where_requests_are_and_not_as_a_record(
    make: Make, operation: str, content_type: str
) -> None:
    place = make()
    sent = {"Content-Type": content_type, "X-Amz-Target": f"Kinesis_20131202.{operation}"}
    place.door.refuse_stranger(make_request("/", sent, b"{}"), STRANGER)
    assert place.refused(operation) == {"unauthenticated": 1}
    assert place.relay.counters_of(OTHER_OPERATIONS[operation]).requests == 1
    sent["X-Amz-Target"] = "Kinesis_20131202.DeleteStream"
    place.door.refuse_stranger(make_request("/", sent, b"{}"), STRANGER)
    assert place.refused() == {"unauthenticated": 1}
    assert place.streams.door.received == 0
    assert not place.calls


@pytest.mark.parametrize(
    ("operation", "body"),
    [("ListStreams", b"{}"), ("DescribeStream", b'{"StreamName": "others"}')],
)
async def test_who_may_not_ask_is_counted_where_requests_are_and_not_as_a_record(
    make: Make, operation: str, body: bytes
) -> None:
    place = make()
    place.principal = SHOP
    told = await place.ask(operation, body)
    assert (told.status, told.body["__type"]) == (400, "AccessDeniedException")
    assert place.refused(operation) == {"stream": 1}
    assert place.streams.door.received == 0
    assert not place.calls


READS = (
    "listen.operations_passed_on = ['ListShards', 'ListStreams', 'GetShardIterator', 'GetRecords']"
)
TOKENS = (  # who gives a token, as which member, and who takes it
    ("ListShards", "NextToken", "ListShards", "ExpiredNextTokenException"),
    ("GetShardIterator", "ShardIterator", "GetRecords", "ExpiredIteratorException"),
    ("GetRecords", "NextShardIterator", "GetRecords", "ExpiredIteratorException"),
)


@pytest.mark.parametrize(("giver", "member", "taker", "expired"), TOKENS)
@pytest.mark.parametrize("encoding", CONTENT_TYPES)
async def test_a_token_is_used_by_whoever_may_write_to_its_stream(
    make: Make, giver: str, member: str, taker: str, expired: str, encoding: str
) -> None:
    place = make(READS)
    sent_as = "NextToken" if taker == "ListShards" else "ShardIterator"

    async def given(principal: Principal, stream: str) -> str:
        """The token of this stream's answer."""
        text = f"of {stream} for {principal.name}"
        place.principal, place.says = principal, Relayed(200, json.dumps({member: text}).encode())
        asked = {"StreamName": stream}
        if giver == "GetRecords":  # names no stream: it goes on from an iterator
            place.says = Relayed(200, json.dumps({"ShardIterator": f"i {text}"}).encode())
            await place.ask("GetShardIterator", {**asked, "ShardId": "s"})
            place.says = Relayed(200, json.dumps({member: text}).encode())
            asked = {"ShardIterator": f"i {text}"}
        assert (await place.ask(giver, asked)).status == 200
        return text

    async def told(principal: Principal, **members: str) -> tuple[int, str | None]:
        place.principal = principal
        before = len(place.calls)
        body = cbor_encode(members) if encoding == "cbor" else json.dumps(members).encode()
        answer = await place.ask(taker, body, Content_Type=CONTENT_TYPES[encoding])
        if answer.status != 200:
            assert len(place.calls) == before
            assert "others" not in answer.body["message"], "whose stream it is is not told"
        return answer.status, answer.body.get("__type")

    mine, theirs = await given(SHOP, "orders"), await given(ANYBODY, "others")
    ours = await given(ANYBODY, "orders")
    assert await told(SHOP, **{sent_as: mine}) == (200, None)
    assert await told(SHOP, **{sent_as: ours}) == (200, None), "whoever was given it"
    assert await told(SHOP, **{sent_as: theirs}) == (400, "AccessDeniedException")
    assert await told(SHOP, **{sent_as: theirs, "StreamName": "orders"}) == (
        400,
        "AccessDeniedException",
    )
    for unknown in ("made up", ""):
        assert await told(SHOP, **{sent_as: unknown}) == (400, expired)
    other_member = {"NextToken": "ShardIterator", "ShardIterator": "NextToken"}[sent_as]
    both = {other_member: mine, sent_as: theirs}
    assert (await told(SHOP, **both))[0] == 400, "each of two tokens is looked at"
    assert place.refused(taker) == {"stream": 5}
    for token in (mine, theirs, "made up"):
        assert await told(ANYBODY, **{sent_as: token}) == (200, None)


async def test_a_token_is_of_the_operation_that_gave_it(make: Make) -> None:
    place = make(READS)
    place.principal = SHOP
    place.says = Relayed(200, b'{"NextToken": "t"}')
    await place.ask("ListShards", {"StreamName": "orders"})
    told = await place.ask("GetRecords", {"ShardIterator": "t"})
    assert told.body["__type"] == "ExpiredIteratorException"
    told = await place.ask("ListStreams", {"NextToken": "t"})
    assert told.body["__type"] == "AccessDeniedException"


async def test_a_page_of_all_streams_is_of_none(make: Make) -> None:
    """Its token, at an operation that is about one stream."""
    place = make(READS)
    place.says = Relayed(200, b'{"NextToken": "t"}')
    await place.ask("ListShards", {"NextToken": "of an earlier run"})
    place.principal = SHOP
    told = await place.ask("ListShards", {"NextToken": "t"})
    assert told.body["__type"] == "ExpiredNextTokenException"


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        ("ListStreams", {"StreamName": "orders"}),
        ("ListStreams", {"StreamARN": arn()}),
        ("ListStreams", {"NextToken": "t"}),
        ("DescribeLimits", {"StreamName": "orders"}),
        ("DescribeChannel", {"StreamName": "orders", "ChannelARN": "arn:of:another"}),
        ("ListChannels", {"StreamName": "orders"}),
        ("ListTagsForResource", {"StreamName": "orders", "ResourceARN": "arn:of:another"}),
        ("GetResourcePolicy", {"StreamName": "orders", "ResourceARN": "x" * 3000}),
        ("DescribeStreamSummary", {"StreamName": "orders", "StreamId": "of-another"}),
        ("DescribeStreamSummary", {"StreamId": "of-another"}),
    ],
)
async def test_a_name_of_ones_own_opens_nothing_that_is_about_more(
    make: Make, operation: str, members: dict[str, str]
) -> None:
    """The service does not look at members that its operation has not."""
    place = make(f"account_id = '{OURS}'\nlisten.operations_passed_on = ['{operation}']")
    place.principal = SHOP
    told = await place.ask(operation, members)
    assert (told.status, told.body["__type"]) == (400, "AccessDeniedException")
    assert not place.calls
    place.principal = ANYBODY
    assert (await place.ask(operation, members)).status == 200


async def test_a_name_of_ones_own_opens_no_stream_of_another_account(make: Make) -> None:
    """Also while the daemon does not know its own account: nobody asks for it here."""
    place = make()
    place.principal = SHOP
    told = await place.ask("DescribeStream", {"StreamARN": arn(OTHERS)})
    assert (told.status, told.body["__type"]) == (400, "AccessDeniedException")
    assert "account_id" in told.body["message"]
    assert not place.calls
    place = make(f"account_id = '{OURS}'")
    place.principal = SHOP
    assert (await place.ask("DescribeStream", {"StreamARN": arn()})).status == 200
    told = await place.ask("DescribeStream", {"StreamARN": arn(OTHERS)})
    assert (told.status, told.body["__type"]) == (400, "AccessDeniedException")
    assert "account_id" not in told.body["message"]


@pytest.mark.parametrize("encoding", CONTENT_TYPES)
async def test_a_defect_while_an_answer_is_passed_on_is_an_answer(
    make: Make, encoding: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError

    place = make()
    monkeypatch.setattr(Passthrough, "_tell", broken)
    body = b'{"StreamName":"orders"}' if encoding == "json" else cbor_encode({"StreamName": "o"})
    told = await place.ask("DescribeStream", body, Content_Type=CONTENT_TYPES[encoding])
    assert (told.status, told.body["__type"]) == (500, "InternalFailure")
    assert "could not be given" in caplog.text

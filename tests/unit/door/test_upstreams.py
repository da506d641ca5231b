"""Several upstreams behind every way in: each request is held to its own service and goes there."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from kdaemon.base.memory import ByteBudget
from kdaemon.base.principal import Principal, Rights
from kdaemon.config.load import load_config
from kdaemon.door.door import Door
from kdaemon.door.kinesis import KinesisDoor, widest_limits
from kdaemon.door.ndjson import NdjsonDoor
from kdaemon.door.passthrough import Passthrough
from kdaemon.send.arriving import HasRoom
from kdaemon.send.relay import Relay
from kdaemon.send.relayed import Relayed
from tests.kit.clock import HandClock
from tests.kit.streams import FakeService, make_streams, turn
from tests.unit.door.fake_streams import Answer, api_request, make_request, read_answer
from tests.unit.send.test_relay import settle

EU = "111111111111"
CONFIG = f"""
region = "us-east-1"
account_id = "000000000001"
[default]
linger_ms = 0
[upstreams.eu]
region = "eu-central-1"
account_id = "{EU}"
[upstreams.ya]
service = "yandex"
endpoint_url = "https://yds.example/ru/b1g/etn"
[streams.orders-eu]
upstream = "eu"
upstream_name = "orders"
[streams.clicks]
upstream = "ya"
[streams.orders]
[streams.theirs]
arn = "arn:aws:kinesis:us-east-1:999999999999:stream/theirs"
"""


def arn(name: str, account: str = EU, region: str = "eu-central-1") -> str:
    return f"arn:aws:kinesis:{region}:{account}:stream/{name}"


class Place:
    """A daemon with three upstreams, and what each of them is sent and asked."""

    def __init__(self, text: str = CONFIG) -> None:
        config = load_config(text=text)
        self.services = {name: FakeService() for name in config.upstream_names}
        self.asked: list[tuple[str, str, dict[str, Any], str | None]] = []
        self.says: dict[str, bytes] = {}
        self.memory = ByteBudget(2**26)
        eu, ya = self.services["eu"], self.services["ya"]
        self.streams = make_streams(self.services["default"], text, eu=eu, ya=ya)
        door = Door(self.streams, HandClock())
        widest = widest_limits([each.service for each in self.streams.upstreams])
        self.relays = {name: self._relay(name) for name in self.services}
        passthrough = Passthrough(
            door,
            self.relays,
            config.default.upstream,
            is_stream_name_free=widest.is_stream_name_free,
        )
        self.kinesis = KinesisDoor(door, widest, 1, passthrough=passthrough)
        self.ndjson = NdjsonDoor(door)

    def _relay(self, name: str) -> Relay:
        async def pass_on(
            operation: str, body: bytes, arn: str | None, bytes_max: int, has_room: HasRoom
        ) -> Relayed:
            self.asked.append((name, operation, json.loads(body), arn))
            return Relayed(200, self.says.get(name, b"{}"), ())

        async def turn() -> None:
            pass

        service = load_config(text=CONFIG).upstream(name).traits
        allowed = ("DescribeStream", "ListShards", "ListStreams", "GetRecords")
        return Relay(pass_on, turn, service, self.memory, allowed)

    async def ask(self, operation: str, **members: Any) -> Answer:
        request = api_request(operation, members, None, "json")
        self.kinesis.handle(request)
        await settle()
        await turn()
        return read_answer(request)

    async def put(self, **members: Any) -> Answer:
        return await self.ask("PutRecord", **{"Data": "aGk=", "PartitionKey": "k", **members})

    def sent(self) -> dict[str, list[str]]:
        """What each upstream was sent, by what that calls the stream."""
        return {
            name: [target.arn or target.name for target, _ in service.calls]
            for name, service in self.services.items()
            if service.calls
        }


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    yield place
    for relay in place.relays.values():
        await relay.aclose()
    await place.streams.aclose()
    assert place.memory.bytes_taken == 0


@pytest.mark.parametrize(
    ("named", "upstream", "name"),
    [
        ({"StreamName": "orders"}, "default", "orders"),
        ({"StreamName": "orders-eu"}, "eu", "orders"),
        ({"StreamName": "@eu/new"}, "eu", "new"),
        ({"StreamARN": arn("orders")}, "eu", "orders"),
        ({"StreamName": "clicks"}, "ya", "/ru/b1g/etn/clicks"),
        ({"StreamName": "/ru/b1g/etn/new"}, "ya", "/ru/b1g/etn/new"),
    ],
)
@pytest.mark.parametrize("way", ["PutRecord", "NDJSON"])
async def test_a_record_goes_to_the_upstream_of_its_stream(
    place: Place, way: str, named: dict[str, str], upstream: str, name: str
) -> None:
    if way == "PutRecord":
        answer = await place.put(**named)
    else:
        (spelling,) = named.values()
        line = json.dumps({"data": "hi", "stream": spelling}).encode()
        quoted = spelling.replace("/", "%2F")
        request = make_request(f"/v1/streams/{quoted}/records", {}, line)
        place.ndjson.handle(request)
        await turn(40)
        answer = read_answer(request)
    assert answer.status == 200, answer.body
    assert place.sent() == {upstream: [name]}


async def test_a_key_is_held_to_the_service_of_its_own_stream(place: Place) -> None:
    key = "ж" * 200  # 400 bytes: AWS counts characters, Yandex bytes
    assert (await place.put(StreamName="orders", PartitionKey=key)).status == 200
    refused = await place.put(StreamName="clicks", PartitionKey=key)
    assert (refused.status, list(place.sent())) == (400, ["default"])
    assert "256 bytes" in refused.body["message"]


async def test_a_record_is_held_to_the_limit_of_its_own_service(place: Place) -> None:
    data = "A" * (4 * 1024 * 1024 // 3)
    refused = await place.put(StreamName="clicks", Data=data)
    assert refused.status == 400
    assert not place.sent()


async def test_a_dry_run_is_asked_of_the_service_that_has_one(place: Place) -> None:
    answer = await place.put(StreamName="orders-eu", DryRun=True)
    assert answer.body["__type"] == "DryRunOperationException"
    assert [target.qualified.text for target in place.services["eu"].dry_runs] == ["@eu/orders"]
    refused = await place.put(StreamName="clicks", DryRun=True)
    assert refused.body["__type"] == "InvalidArgumentException"
    assert "Yandex Data Streams has no dry run" in refused.body["message"]
    assert not place.services["ya"].dry_runs


@pytest.mark.parametrize(
    ("spelling", "is_allowed"),
    [
        ("@eu/new", True),
        ("orders-eu", True),
        (arn("new"), True),
        ("@eu/" + arn("new"), True),
        ("@default/" + arn("new"), True),
        ("orders", False),
        ("@default/orders", False),
        ("@eu/" + arn("orders", "000000000001", "us-east-1"), False),
        ("@eu/" + arn("theirs", "999999999999", "us-east-1"), False),
        ("@eu/" + arn("x", "888888888888"), False),
    ],
)
@pytest.mark.parametrize("way", ["PutRecord", "DryRun", "DescribeStream", "NDJSON"])
async def test_a_right_to_all_of_an_upstream_is_none_to_what_its_credentials_may_do_elsewhere(
    place: Place, way: str, spelling: str, *, is_allowed: bool
) -> None:
    principal = Principal("shop", Rights(prefixes=("@eu/",)))
    if way == "NDJSON":
        request = make_request(
            f"/v1/streams/{quote(spelling, safe='')}/records", {}, b'{"data":""}'
        )
    else:
        member = "StreamARN" if spelling.startswith("arn:") else "StreamName"
        members: dict[str, Any] = {member: spelling}
        if way != "DescribeStream":
            members |= {"Data": "aGk=", "PartitionKey": "k"}
        members |= {"DryRun": True} if way == "DryRun" else {}
        operation = "DescribeStream" if way == "DescribeStream" else "PutRecord"
        request = api_request(operation, members, None, "json")
    request.principal = principal
    (place.ndjson if way == "NDJSON" else place.kinesis).handle(request)
    await settle()
    await turn(40)
    answer = read_answer(request)
    is_refused = "AccessDenied" in str(answer.body)
    assert is_refused is not is_allowed, answer.body
    reached = {*place.sent(), *(each[0] for each in place.asked)}
    reached |= {name for name, service in place.services.items() if service.dry_runs}
    assert reached == ({"eu"} if is_allowed else set())


@pytest.mark.parametrize("name", ["bad name", "a/b/c?", "@eu/bad name"])
async def test_what_no_service_can_call_a_stream_is_refused_as_the_service_does(
    place: Place, name: str
) -> None:
    answer = await place.put(StreamName=name)
    assert (answer.status, answer.body["__type"]) == (400, "ValidationException")
    assert not place.sent()


# What is passed on


@pytest.mark.parametrize(
    ("named", "upstream", "passed"),
    [
        ({"StreamName": "orders"}, "default", {"StreamName": "orders"}),
        ({"StreamName": "orders-eu"}, "eu", {"StreamName": "orders"}),
        ({"StreamName": "@eu/new"}, "eu", {"StreamName": "new"}),
        ({"StreamARN": arn("new")}, "eu", {"StreamARN": arn("new")}),
        ({"StreamName": "orders-eu", "StreamARN": arn("orders")}, "eu", {"StreamName": "orders"}),
        ({"StreamName": "clicks"}, "ya", {"StreamName": "clicks"}),
        (
            {"StreamName": "theirs"},
            "default",
            {"StreamARN": "arn:aws:kinesis:us-east-1:999999999999:stream/theirs"},
        ),
    ],
)
async def test_a_question_goes_to_the_upstream_under_the_name_that_it_has_there(
    place: Place, named: dict[str, str], upstream: str, passed: dict[str, str]
) -> None:
    assert (await place.ask("DescribeStream", **named, Limit=7)).status == 200
    assert place.asked == [
        (upstream, "DescribeStream", {**passed, "Limit": 7}, passed.get("StreamARN"))
    ]
    counters = place.relays[upstream].counters["DescribeStream"]
    assert counters.requests == 1
    assert sum(each.counters["DescribeStream"].requests for each in place.relays.values()) == 1


async def test_two_names_of_two_upstreams_are_no_one_s(place: Place) -> None:
    answer = await place.ask("DescribeStream", StreamName="orders", StreamARN=arn("orders"))
    assert (answer.status, answer.body["__type"]) == (400, "InvalidArgumentException")
    assert not place.asked


@pytest.mark.parametrize("upstream", ["default", "eu"])
async def test_names_are_listed_of_the_upstream_in_which_a_clients_own_names_stand(
    upstream: str,
) -> None:
    text = CONFIG.replace("[default]", f"[default]\nupstream = '{upstream}'")
    place = Place(text.replace("[streams.orders]", "[streams.orders]\nupstream = 'default'"))
    await place.ask("ListStreams")
    await place.ask("ListStreams", NextToken="unknown")
    await place.put(StreamName="a-name-that-was-listed")
    assert [name for name, *_ in place.asked] == [upstream] * 2
    assert place.sent() == {upstream: ["a-name-that-was-listed"]}
    for relay in place.relays.values():
        await relay.aclose()


async def test_a_token_goes_back_to_the_upstream_that_gave_it(place: Place) -> None:
    place.says["ya"] = b'{"NextToken": "next"}'
    await place.ask("ListShards", StreamName="clicks")
    await place.ask("ListShards", NextToken="next")
    await place.ask("ListShards", NextToken="unknown")
    assert [name for name, *_ in place.asked] == ["ya", "ya", "default"]

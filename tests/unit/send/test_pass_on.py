"""A client's own call: signed anew, its body as it came; the answer handed on, but for secrets."""

import asyncio
import json
from collections.abc import Callable

import pytest

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import MIB
from kdaemon.base.redact import SECRETS
from kdaemon.send.arriving import TooLargeError
from kdaemon.send.client import ClientSettings, ServiceClient
from kdaemon.send.relayed import Relayed
from tests.unit.send.scripted import (
    ACCESS_KEY,
    ARN,
    SECRET_KEY,
    Answer,
    ScriptedService,
    answering,
    answering_json,
    assert_signed,
    break_off,
    failure,
    opened,
    refusal,
    reset,
)

BODY = b'{ "StreamName": "orders",\n "Un\\u006bnown": [1.0, 10000000000000000000000] }'
ANSWER = b'{ "Shards" : [],  "NextToken":"token: AAAAAAAAAAAAAAAAAAAAAAAAAAAAA1" }\n'


def all_room(_: int) -> bool:
    return True


async def passed_on(
    client: ServiceClient,
    operation: str = "ListShards",
    *,
    body: bytes = BODY,
    arn: str | None = None,
    bytes_max: int = MIB,
    has_room: Callable[[int], bool] = all_room,
) -> Relayed:
    return await client.pass_on(operation, body, arn, bytes_max, has_room)


async def test_body_and_answer_are_not_changed_by_a_byte(
    service: ScriptedService, client: ServiceClient
) -> None:
    service.script.append(answering(200, ANSWER, **{"x-amzn-RequestId": "r-1", "X-Other": "no"}))
    assert await passed_on(client) == Relayed(200, ANSWER, ((b"x-amzn-RequestId", b"r-1"),))
    (received,) = service.received
    assert received.body == BODY
    assert received.headers["X-Amz-Target"] == "Kinesis_20131202.ListShards"
    assert received.headers["Content-Type"] == "application/x-amz-json-1.1"
    assert_signed(received, service.url)


async def test_an_arn_decides_the_region(service: ScriptedService, client: ServiceClient) -> None:
    service.script.append(answering_json({}))
    await passed_on(client, arn=ARN.replace("eu-west-1", "us-east-2"))
    assert_signed(service.received[0], service.url, "us-east-2")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"__type":"ResourceNotFoundException","message":"Stream x not found."}'),
        (400, b' {"__type":"com.amazonaws.kinesis#LimitExceededException","Message":null} '),
        (500, b'{"__type":"InternalFailure"}'),
        (503, b'{"__type":"ServiceUnavailable","message":""}'),
        (400, b'{"__type":"Nobody.KnowsThis","message":"words","More":{"a":[1]}}'),
    ],
)
async def test_the_service_s_errors_are_its_own(
    service: ScriptedService, client: ServiceClient, status: int, body: bytes
) -> None:
    service.script.append(answering(status, body, **{"x-amz-retry-after": "200"}))
    expected = Relayed(status, body, ((b"x-amz-retry-after", b"200"),))
    assert await passed_on(client) == expected


async def test_a_type_that_stands_in_a_header_only_is_told(
    service: ScriptedService, client: ServiceClient
) -> None:
    service.script.append(answering(400, b"", **{"x-amzn-ErrorType": "ThrottlingException"}))
    answer = await passed_on(client)
    assert answer.status == 400
    assert json.loads(answer.body)["__type"] == "ThrottlingException"


ECHOED = f"Authorization=AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/x, Signature=0123456789abcdef"


@pytest.mark.parametrize(
    "text",
    [
        ECHOED,
        f"the key {SECRET_KEY} is wrong",
        f"{SECRET_KEY[:17]} and more",
        "x-amz-security-token: IQoJb3JpZ2luX2VjEAAaCXVzLWVhc3QtMSJIMEYCIQD1",
        "x" * 20_000 + SECRET_KEY,
    ],
)
async def test_an_error_that_repeats_a_secret_loses_it(
    service: ScriptedService, client: ServiceClient, text: str
) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in text[:4_000])
    for told in (json.dumps(text), f'"{escaped}"'):
        body = f'{{"__type":"InvalidSignatureException","message":{told},"Echo":{told}}}'
        service.script.extend(2 * [answering(400, body.encode())])
        answer = await passed_on(client)
        members = json.loads(answer.body)
        assert members["__type"] == "InvalidSignatureException"
        assert answer.status == 400
        text_told = json.dumps(members)
        for secret in (SECRET_KEY, SECRET_KEY[:17], "0123456789abcdef", "IQoJb3"):
            assert secret not in text_told
        assert len(answer.body) < 64 * 1024


async def test_a_secret_in_a_member_that_is_there_twice_is_found(
    service: ScriptedService, client: ServiceClient
) -> None:
    """Whoever reads the last of the two must not keep the first from being looked at."""
    for told in (SECRET_KEY, "\\u0077" + SECRET_KEY[1:]):
        body = f'{{"__type":"ThrottlingException","message":"{told}","message":"Slow down"}}'
        service.script.append(answering(400, body.encode()))
        answer = await passed_on(client)
        assert SECRET_KEY[1:] not in answer.body.decode()
        assert json.loads(answer.body)["message"] == "Slow down"


@pytest.mark.parametrize("padding", [0, MIB - 10, 3 * MIB])
async def test_a_success_that_repeats_a_secret_is_not_handed_on(
    service: ScriptedService, client: ServiceClient, padding: int
) -> None:
    service.script.append(answering_json({"Padding": "x" * padding, "Echo": SECRET_KEY}))
    error = await failure(passed_on(client, bytes_max=8 * MIB))
    assert error.trouble is Trouble.FOREIGN
    assert SECRET_KEY not in error.message
    escaped = b'{"Echo":"\\u0077%b"}' % SECRET_KEY[1:].encode()
    service.script.append(answering(200, escaped))
    assert (await failure(passed_on(client))).trouble is Trouble.FOREIGN


async def test_a_header_that_repeats_a_secret_or_is_odd_is_left_out(
    service: ScriptedService, client: ServiceClient
) -> None:
    headers = {"x-amzn-RequestId": f"r {SECRET_KEY}", "x-amz-id-2": "é", "Set-Cookie": "a=b"}
    service.script.append(answering(200, b"{}", **headers))
    assert await passed_on(client) == Relayed(200, b"{}", ())


@pytest.mark.parametrize(
    "answer",
    [
        answering(200, b"<html><title>Log in</title>", **{"Content-Type": "text/html"}),
        answering(302, b"", Location="http://portal.example/"),
        answering(503, b"<html><h1>Bad gateway</h1></html>", **{"Content-Type": "text/html"}),
        answering(200, b""),
        answering(200, b"[]"),
        answering(200, b'{"a":'),
        answering(413, b"too large"),
        answering(500, b"{}"),
        reset,
        break_off,
    ],
)
async def test_what_is_no_answer_of_the_service_s_is_an_error(
    service: ScriptedService, client: ServiceClient, answer: Answer
) -> None:
    service.script.append(answer)
    error = await failure(passed_on(client))
    assert error.trouble is not None or error.is_nameless


async def test_an_answer_is_bounded(service: ScriptedService, client: ServiceClient) -> None:
    service.script.append(answering_json({"a": "x" * 1000}))
    error = await failure(passed_on(client, bytes_max=1000))
    assert isinstance(error, TooLargeError)
    assert error.has_room


async def test_an_answer_stops_where_there_is_no_memory(
    service: ScriptedService, client: ServiceClient
) -> None:
    taken: list[int] = []

    def has_room(byte_count: int) -> bool:
        if sum(taken) + byte_count > MIB:
            return False
        taken.append(byte_count)
        return True

    service.script.append(answering_json({"a": "x" * (8 * MIB)}))
    error = await failure(passed_on(client, bytes_max=16 * MIB, has_room=has_room))
    assert isinstance(error, TooLargeError)
    assert not error.has_room
    assert sum(taken) <= MIB


async def test_a_large_answer_is_handed_on_whole_and_holds_the_loop_no_longer_than_a_small_one(
    service: ScriptedService, client: ServiceClient
) -> None:
    body = json.dumps({"Records": "x" * (12 * MIB)}).encode()
    service.script.append(answering(200, body))
    answer = await passed_on(client, "GetRecords", bytes_max=16 * MIB)
    assert answer.body == body


async def test_stale_credentials_are_looked_for_once(
    service: ScriptedService, client: ServiceClient
) -> None:
    service.script.extend([refusal("ExpiredTokenException"), answering_json({"a": 1})])
    assert (await passed_on(client)).status == 200
    service.script.extend(2 * [refusal("ExpiredTokenException", "old")])
    answer = await passed_on(client)
    assert answer.status == 400
    assert json.loads(answer.body)["__type"] == "ExpiredTokenException"
    assert len(service.received) == 4


async def test_a_call_that_is_given_up_closes_its_connection(
    service: ScriptedService, client: ServiceClient
) -> None:
    arrived = asyncio.Event()
    service.on_request = arrived.set

    async def hang(_request: object) -> None:
        await asyncio.Event().wait()

    service.script.append(hang)  # type: ignore[arg-type]
    task = asyncio.create_task(passed_on(client))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_credentials_is_an_error_before_anything_is_sent(
    service: ScriptedService, aws_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        error = await failure(passed_on(client))
    assert isinstance(error, ServiceError)
    assert error.trouble is Trouble.NO_CREDENTIALS
    assert service.received == []


def test_secrets_in_use_are_found_as_they_are() -> None:
    SECRETS.register("a-secret-of-this-test")
    assert SECRETS.are_in(b"... a-secret-of-this-test ...")
    assert not SECRETS.are_in(b"... a-secret-of-another ...")
    assert SECRETS.bytes_max >= len("a-secret-of-this-test")

"""The wire, against a real HTTP server that answers by script: what is sent, and each outcome."""

import asyncio
import json
import socket
import traceback
from typing import NoReturn

import aiohttp
import pytest
from aiohttp import web

from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import Trouble
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.service import YANDEX
from kdaemon.base.verdict import Verdict
from kdaemon.send.client import (
    ANSWER_BYTES_MIN,
    RESULT_BYTES_MAX,
    ClientSettings,
    ServiceClient,
)
from kdaemon.send.request import SignedRoute
from kdaemon.settle.verdict import judge_call
from tests.kit.clock import jump
from tests.kit.patience import PATIENCE_S
from tests.unit.send.scripted import (
    ARN,
    DELIVERED,
    ORDERS,
    RECORDS,
    SECRET_KEY,
    TOKEN,
    Answer,
    ScriptedService,
    answering,
    answering_json,
    assert_signed,
    break_off,
    failure,
    hang,
    opened,
    raw_server,
    refusal,
    reset,
)

pytestmark = pytest.mark.usefixtures("aws_environment")


async def test_put_records_sends_the_records_and_returns_a_result_for_each(
    service: ScriptedService, client: ServiceClient
) -> None:
    answer = await client.put_records(ORDERS, RECORDS)
    assert answer.records == [
        RecordResult("495903", "shardId-000000000000"),
        RecordResult("495904", "shardId-000000000001"),
    ]
    (received,) = service.received
    assert received.path == "/"
    assert received.headers["X-Amz-Target"] == "Kinesis_20131202.PutRecords"
    assert received.headers["Content-Type"] == "application/x-amz-json-1.1"
    assert json.loads(received.body) == {
        "StreamName": "orders",
        "Records": [
            {"Data": "AP8gZmlyc3Q=", "PartitionKey": "k1"},
            {"Data": "", "PartitionKey": "k2", "ExplicitHashKey": "42"},
        ],
    }


@pytest.mark.parametrize("path", ["", "/", "/ru-central1/b1g%20c/db~1/", "/a//b/../c"])
async def test_botocore_computes_the_same_signature_over_what_arrives(
    service: ScriptedService, path: str
) -> None:
    async with opened(ClientSettings(endpoint_url=service.url + path)) as client:
        await client.put_records(ORDERS, RECORDS)
        await client.put_records(ORDERS, [Record(b"x" * 2**21, "large")])
    for received in service.received:
        assert_signed(received, service.url)


async def test_a_session_token_is_sent_and_signed(
    service: ScriptedService, client: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    await client.put_records(ORDERS, RECORDS)
    (received,) = service.received
    assert received.headers["X-Amz-Security-Token"] == TOKEN
    assert "x-amz-security-token" in received.headers["Authorization"]
    assert_signed(received, service.url)


async def test_the_signing_key_follows_the_day(
    service: ScriptedService, client: ServiceClient
) -> None:
    await client.put_records(ORDERS, RECORDS)
    (route,) = client.audit().routes
    assert isinstance(route, SignedRoute)
    route.begin_day("20200101")  # as if the connection had been idle over midnight
    await client.put_records(ORDERS, RECORDS)
    assert_signed(service.received[1], service.url)


async def test_a_stream_with_an_arn_is_named_by_it_alone(
    service: ScriptedService, client: ServiceClient
) -> None:
    await client.put_records(StreamTarget("orders", ARN), RECORDS)
    sent = json.loads(service.received[0].body)
    assert sent["StreamARN"] == ARN
    assert "StreamName" not in sent


async def test_yandex_gets_the_name_its_region_and_the_path_and_never_an_arn(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    url = service.url + "/ru-central1/b1g/etn"
    async with opened(ClientSettings(service=YANDEX, endpoint_url=url)) as client:
        await client.put_records(StreamTarget("/ru-central1/b1g/etn/s", ARN), RECORDS)
    (received,) = service.received
    assert received.path == "/ru-central1/b1g/etn"
    assert set(json.loads(received.body)) == {"StreamName", "Records"}
    assert_signed(received, service.url, region="ru-central1")


async def test_a_control_call_carries_its_own_operation_and_answer(
    service: ScriptedService, client: ServiceClient
) -> None:
    service.script.append(answering_json({"HasMoreShards": False}))
    assert await client.call("DescribeStream", {"StreamName": "s"}) == {"HasMoreShards": False}
    (received,) = service.received
    assert received.headers["X-Amz-Target"] == "Kinesis_20131202.DescribeStream"
    assert json.loads(received.body) == {"StreamName": "s"}
    assert_signed(received, service.url)


async def test_an_empty_answer_to_a_control_call_is_an_empty_object(
    service: ScriptedService, client: ServiceClient
) -> None:
    service.script.append(answering())
    assert await client.call("CreateStream", {"StreamName": "s", "ShardCount": 1}) == {}


@pytest.mark.parametrize(
    ("answer", "status", "code", "message"),
    [
        (refusal("LimitExceededException", "slow"), 400, "LimitExceededException", "slow"),
        (refusal("com.x.kinesis#AccessDenied:http://x/", "no"), 400, "AccessDenied", "no"),
        (answering_json({"__type": "A", "Message": "M"}, 400), 400, "A", "M"),
        (answering(500, b"{}", **{"x-amzn-ErrorType": "Down:http://x"}), 500, "Down", "HTTP 500"),
        (answering(503, b"<html>busy</html>"), 503, "Http503", "HTTP 503"),
        (answering(502), 502, "Http502", "HTTP 502"),
        (answering(500, b"\xff\xfe"), 500, "Http500", "HTTP 500"),
        (answering_json(["no", "object"], 413), 413, "Http413", "HTTP 413"),
        (answering_json({"__type": "a b\nc", "message": 7}, 400), 400, "Http400", "HTTP 400"),
        (answering(301, Location="/elsewhere"), 301, "Http301", "HTTP 301"),
    ],
)
async def test_an_error_answer_is_a_service_error(
    service: ScriptedService,
    client: ServiceClient,
    answer: Answer,
    status: int,
    code: str,
    message: str,
) -> None:
    service.script.append(answer)
    error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.status, error.was_sent) == (code, status, True)
    assert message in error.message
    assert len(service.received) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"ok", b"{}", b"[]", b'{"Records": 3}', b'{"Records":[{"ShardId":', b"\xff"],
)
async def test_a_200_that_does_not_parse_is_never_a_success(
    service: ScriptedService, client: ServiceClient, body: bytes
) -> None:
    service.script.append(answering(body=body))
    error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.status, error.was_sent) == ("UnreadableAnswer", 200, True)


async def test_nulls_empty_strings_and_another_count_reach_the_engine_as_they_are(
    service: ScriptedService, client: ServiceClient
) -> None:
    entries = [
        {"SequenceNumber": "0", "ShardId": "shard-000000", "ErrorCode": None, "ErrorMessage": None},
        {"SequenceNumber": "", "ShardId": "", "ErrorCode": "ThrottlingException"},
        {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal Service Failure", "New": [1]},
    ]
    service.script.append(answering_json({"Records": entries, "EncryptionType": "NONE"}))
    results = (await client.put_records(ORDERS, RECORDS)).records
    assert [result.is_delivered for result in results] == [True, False, False]
    assert results[1].error_message is None


async def test_an_answer_without_end_is_not_read_to_the_end(
    service: ScriptedService, client: ServiceClient
) -> None:
    most = ANSWER_BYTES_MIN + RESULT_BYTES_MAX * len(RECORDS)
    service.script.append(answering(body=b" " * (most + 1)))
    error = await failure(client.put_records(ORDERS, RECORDS))
    assert error.code == "UnreadableAnswer"
    assert len((await client.put_records(ORDERS, RECORDS)).records) == 2


async def test_a_record_that_cannot_be_written_is_refused_for_itself_and_holds_nothing_up(
    service: ScriptedService, client: ServiceClient
) -> None:
    error = await failure(client.put_records(ORDERS, [*RECORDS, Record(b"", "\ud800")]))
    assert (error.trouble, error.was_sent) == (Trouble.UNENCODABLE, False)
    assert judge_call(error) is Verdict.POISON
    assert (error.__context__, error.__cause__) == (None, None)
    assert service.received == []


# Below HTTP


async def test_a_refused_connection_was_not_sent() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with opened(ClientSettings(endpoint_url=url)) as client:
            error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.status, error.was_sent) == ("ConnectError", 0, False)
    assert "127.0.0.1" in error.message


async def test_a_name_that_does_not_resolve_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(aiohttp.resolver.DefaultResolver, "resolve", unknown)
    async with opened(ClientSettings(endpoint_url="http://kinesis.test")) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.was_sent) == ("DnsError", False)
    assert "kinesis.test" in error.message


async def test_a_failed_tls_handshake_was_not_sent(service: ScriptedService) -> None:
    url = service.url.replace("http:", "https:")  # nobody speaks TLS there
    async with opened(ClientSettings(endpoint_url=url)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.was_sent) == ("TlsError", False)


@pytest.mark.parametrize("fault", [reset, break_off])
async def test_a_connection_lost_after_sending_may_have_written(
    service: ScriptedService, client: ServiceClient, fault: Answer
) -> None:
    service.script.append(fault)
    error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.status, error.was_sent) == ("ConnectionLost", 0, True)
    assert len(service.received) == 1, "never sent again on its own"


async def test_a_connection_reset_before_anything_was_read_is_still_ambiguous() -> None:
    async def converse(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    async with raw_server(converse) as url, opened(ClientSettings(endpoint_url=url)) as client:
        error = await failure(client.put_records(ORDERS, [Record(b"x" * 2**20, "k")]))
    assert (error.code, error.was_sent) == ("ConnectionLost", True)


async def test_an_answer_that_is_not_http_is_unreadable() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with raw_server(converse) as url, opened(ClientSettings(endpoint_url=url)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.was_sent) == ("UnreadableAnswer", True)


async def until_received(service: ScriptedService) -> None:
    while not service.received:
        await asyncio.sleep(0)


def waits_for_a_connection(client: ServiceClient) -> bool:
    return bool(client.audit().exchanges.slots.waiting_count)


async def test_no_answer_in_time_may_have_written(service: ScriptedService) -> None:
    service.script.append(hang)
    settings = ClientSettings(
        endpoint_url=service.url, read_timeout_s=PATIENCE_S, call_timeout_s=2 * PATIENCE_S
    )
    async with opened(settings) as client:
        call = asyncio.create_task(failure(client.put_records(ORDERS, RECORDS)))
        await until_received(service)
        jump(PATIENCE_S)
        error = await call
        assert (error.code, error.was_sent) == ("ReadTimeout", True)
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2


async def test_the_whole_call_is_bounded_too(service: ScriptedService) -> None:
    service.script.append(hang)
    settings = ClientSettings(
        endpoint_url=service.url, read_timeout_s=2 * PATIENCE_S, call_timeout_s=PATIENCE_S
    )
    async with opened(settings) as client:
        call = asyncio.create_task(failure(client.put_records(ORDERS, RECORDS)))
        await until_received(service)
        jump(PATIENCE_S)
        error = await call
    assert (error.code, error.was_sent) == ("CallTimeout", True)
    assert f"{PATIENCE_S:g} s" in error.message


async def test_other_times_hold_from_the_next_call_on(service: ScriptedService) -> None:
    """A reload: what is under way goes on by its own; where and as whom is called stays."""
    service.script += [hang, hang]
    long = ClientSettings(
        endpoint_url=service.url, read_timeout_s=8 * PATIENCE_S, call_timeout_s=30 * PATIENCE_S
    )
    async with opened(long) as client:
        before = asyncio.create_task(failure(client.put_records(ORDERS, RECORDS)))
        await until_received(service)
        client.take_limits(
            ClientSettings(
                endpoint_url="http://elsewhere.example",
                read_timeout_s=PATIENCE_S,
                call_timeout_s=2 * PATIENCE_S,
                connections_max=3,
            )
        )
        after = asyncio.create_task(failure(client.put_records(ORDERS, RECORDS)))
        while len(service.received) < 2:
            await asyncio.sleep(0)
        jump(PATIENCE_S + 1)
        assert (await after).code == "ReadTimeout"
        assert not before.done()
        jump(8 * PATIENCE_S)
        assert (await before).code == "ReadTimeout"
        assert client.audit().exchanges.slots.limit == 3


async def test_waiting_for_a_free_connection_ends_as_not_sent(service: ScriptedService) -> None:
    service.script.append(hang)
    settings = ClientSettings(
        endpoint_url=service.url,
        connections_max=1,
        connect_timeout_s=PATIENCE_S,
        read_timeout_s=3 * PATIENCE_S,
        call_timeout_s=3 * PATIENCE_S,
    )
    async with opened(settings) as client:
        first = asyncio.create_task(client.put_records(ORDERS, RECORDS))
        await until_received(service)
        second = asyncio.create_task(failure(client.put_records(ORDERS, RECORDS)))
        while not waits_for_a_connection(client):
            await asyncio.sleep(0)
        jump(PATIENCE_S + 1)  # aiohttp rounds long ones up
        error = await second
        assert (error.code, error.was_sent) == ("ConnectTimeout", False)
        first.cancel()
        await asyncio.wait([first])


async def test_a_cancelled_call_drops_its_connection_and_leaves_the_client_usable(
    service: ScriptedService,
) -> None:
    is_gone = asyncio.Event()

    async def hang_until_gone(_request: web.Request) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            is_gone.set()
        raise AssertionError

    service.script.append(hang_until_gone)
    settings = ClientSettings(endpoint_url=service.url, connections_max=1)
    async with opened(settings) as client:
        call = asyncio.create_task(client.put_records(ORDERS, RECORDS))
        while not service.received:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2


async def test_calls_share_connections_that_are_kept(
    service: ScriptedService, client: ServiceClient
) -> None:
    peers = set()

    async def note_peer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response(DELIVERED)

    service.script.extend([note_peer] * 5)
    for _ in range(5):
        await client.put_records(ORDERS, RECORDS)
    assert len(peers) == 1


# Secrets


async def test_no_text_of_a_failure_holds_a_secret_or_data(
    service: ScriptedService, client: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    echo = f"It does not match.\n\nThe Canonical String was 'POST\n/\nx-amz-security-token:{TOKEN}'"
    quote = "Value 'hush\n data' at 'records.1.member.partitionKey' failed to satisfy: length"
    service.script.extend(
        [
            *[refusal("InvalidSignatureException", echo)] * 2,
            refusal("ValidationException", f"2 errors: {quote}; {quote}"),
            refusal("ValidationException", "<main>: Error: Partition key is too long: hush, code"),
            refusal("InvalidArgumentException", "Specified value was hush"),
            refusal("ValidationException", "Value 'hush" + "!" * 10_000),
            answering(body=b'{"Records": "hush"}'),
            reset,
        ]
    )
    codes = []
    for _ in range(7):
        error = await failure(client.put_records(ORDERS, [Record(b"hush", "hush")]))
        codes.append(error.code)
        texts = [str(error), repr(error), *traceback.format_exception(error), repr(client)]
        chain = [error.__context__, error.__cause__]
        for secret in (SECRET_KEY, TOKEN, "hush", "aHVzaA"):
            assert not any(secret in text for text in texts), error
        assert chain == [None, None]
    assert codes[0] == "InvalidSignatureException"
    assert codes[-2:] == ["UnreadableAnswer", "ConnectionLost"]
    (route,) = client.audit().routes
    assert SECRET_KEY not in repr(route.keys)
    assert TOKEN not in repr(route.keys)


async def test_a_call_that_is_recalled_is_not_written(
    service: ScriptedService, client: ServiceClient
) -> None:
    await client.put_records(ORDERS, RECORDS, lambda: True)
    error = await failure(client.put_records(ORDERS, RECORDS, lambda: False))
    assert (error.trouble, error.was_sent) == (Trouble.CONNECT_TIMEOUT, False)
    await client.put_records(ORDERS, RECORDS)
    assert len(service.received) == 2

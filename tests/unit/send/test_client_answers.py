"""What comes back in the service's place, or from one that means harm: told, bounded, cleaned."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from multidict import CIMultiDict

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.record import RecordResult
from kdaemon.base.redact import SECRETS
from kdaemon.send import answers
from kdaemon.send.client import ClientSettings, ServiceClient
from tests.unit.send.scripted import (
    ACCESS_KEY,
    DELIVERED,
    ORDERS,
    RECORDS,
    SECRET_KEY,
    TOKEN,
    Answer,
    ScriptedService,
    answering,
    answering_json,
    failure,
    opened,
    raw_server,
    refusal,
)

pytestmark = pytest.mark.usefixtures("aws_environment")
PAGE = b"<!DOCTYPE html><html><head><title>Sign in to\n Cafe &amp; Wifi</title></head></html>"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
SUCCESS = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
TAKEN = json.dumps(DELIVERED).encode()


# Somebody else answers


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (
            answering(200, PAGE, **{"Content-Type": "text/html"}),
            "Http200",
            "Sign in to Cafe & Wifi",
        ),
        (answering(200, PAGE), "Http200", "Sign in to Cafe & Wifi"),
        (
            answering(200, b"", **{"Content-Type": "text/html; charset=utf-8"}),
            "Http200",
            "web page",
        ),
        (answering(503, b"<html><h1>Busy</h1>"), "Http503", "Busy"),
        (answering(502, b"<html>"), "Http502", "web page"),
        (answering(403, PAGE), "Http403", "Sign in"),
        (answering(400, b"\n <html>"), "Http400", "web page"),
        *[
            (answering(status, b"", Location="https://u:hush@login.example/x?token=hush"), code, to)
            for status, code in ((301, "Http301"), (302, "Http302"), (307, "Http307"))
            for to in ("redirect to https://***@login.example/x,",)
        ],
        (answering(308, PAGE), "Http308", "redirect"),
        (answering_json({"__type": "AccessDenied"}, 302), "Http302", "redirect"),
    ],
)
async def test_a_page_or_a_redirect_is_told_with_its_words_and_is_no_answer(
    service: ScriptedService, client: ServiceClient, answer: Answer, code: str, words: str
) -> None:
    for call in (
        client.put_records(ORDERS, RECORDS),
        client.call("ListShards", {"StreamName": "s"}, ORDERS),
    ):
        service.script.append(answer)
        error = await failure(call)
        assert (error.code, error.trouble) == (code, Trouble.FOREIGN)
        assert words in error.message
        assert "hush" not in str(error)


@pytest.mark.parametrize("status", [408, 413, 429])
async def test_a_gateway_that_says_too_much_or_too_fast_means_what_the_service_would(
    service: ScriptedService, client: ServiceClient, status: int
) -> None:
    service.script.append(answering(status, PAGE))
    error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.trouble) == (f"Http{status}", None)


# When to come back


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-amz-retry-after": "1500"}, 1.5),
        ({"X-Amz-Retry-After": " 20 "}, 0.02),
        ({"Retry-After": "3"}, 3.0),
        ({"x-amz-retry-after": "1", "Retry-After": "9"}, 0.001),
        ({"x-amz-retry-after": "9" * 400}, 3600.0),
        ({"Retry-After": "9" * 400}, 3600.0),
        *[({"Retry-After": text}, 0.0) for text in ("", "-1", "soon", "1.5", "\u0663", "Mon, 99")],
        ({"x-amz-retry-after": "x", "Retry-After": "2"}, 2.0),
        ({}, 0.0),
    ],
)
def test_how_long_the_service_asks_for(headers: dict[str, str], seconds: float) -> None:
    error = answers.error_answer(503, b"", CIMultiDict(headers))
    assert error.retry_after_ns == round(seconds * 1e9)


def test_a_service_may_name_a_time() -> None:
    for minutes, least, most in ((5, 290, 300), (-5, 0, 0)):
        at = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
        error = answers.error_answer(503, b"", CIMultiDict({"Retry-After": at}))
        assert least * 10**9 <= error.retry_after_ns <= most * 10**9


# Secrets and data that come back


async def test_nothing_that_was_signed_comes_out_of_an_answer(
    service: ScriptedService, client: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    await client.put_records(ORDERS, RECORDS)
    sent = service.received[0].headers
    echo = f"you sent {sent['Authorization']} and {TOKEN} and {SECRET_KEY}\x1b[2J"
    entry = {"ErrorCode": ACCESS_KEY, "ErrorMessage": echo}
    service.script.extend(
        [
            refusal("SomeError", echo),
            refusal(ACCESS_KEY, "no"),
            answering(400, b"{}", **{"x-amzn-ErrorType": TOKEN[:40]}),
            answering(502, b"<title>" + echo.encode() + b"</title>"),
            answering(302, b"", Location=f"http://h/{TOKEN}"),
        ]
    )
    found = [await failure(client.put_records(ORDERS, RECORDS)) for _ in range(5)]
    service.script.append(answering_json({"Records": [entry, SUCCESS]}))
    answer = await client.put_records(ORDERS, RECORDS)
    texts = [f"{error} {error!r}" for error in found] + [str(answer)]
    signature = sent["Authorization"].rpartition("=")[2]
    for text in texts:
        for secret in (ACCESS_KEY, SECRET_KEY, TOKEN, TOKEN[:40], signature, "\x1b"):
            assert secret not in text
    assert found[1].code == found[2].code == "Http400"
    assert answer.records[0].error_code == answers.UNREADABLE_CODE
    assert answer.records[1].is_delivered


async def test_a_records_error_is_cleaned_however_its_name_is_written(
    service: ScriptedService, client: ServiceClient
) -> None:
    await client.put_records(ORDERS, RECORDS)
    body = b'{"Records":[{"\\u0045rrorCode":"A b","\\u0045rrorMessage":"%b"},{}]}'
    service.script.append(answering(body=body % SECRET_KEY.encode()))
    answer = await client.put_records(ORDERS, RECORDS)
    assert SECRET_KEY not in str(answer)
    assert answer.records[0].error_code == answers.UNREADABLE_CODE


def test_many_different_texts_of_one_answer_are_not_all_looked_at() -> None:
    results = [RecordResult(error_code=f"Code{n}", error_message=f"{n} " + "x" * 9000)
               for n in range(500)]  # fmt: skip
    answers.clean_results(results)
    assert results[0].error_code == "Code0"
    assert results[0].error_message is not None
    assert results[0].error_message.startswith("0 xxx")
    assert len(results[0].error_message) <= answers.MESSAGE_CHARACTERS_MAX
    assert results[499].error_message == ""
    assert results[499].error_code == "Code499"


def test_a_permission_that_is_missing_is_told_with_the_arn_that_it_names() -> None:
    arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
    who = "arn:aws:sts::123456789012:assumed-role/" + "r" * 60 + "/i-0123456789abcdef0"
    text = (
        f"User: {who} is not authorized to perform: kinesis:ListShards on resource: {arn} because"
        " no identity-based policy allows the kinesis:ListShards action"
    )
    assert answers.shown(text) == text


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("6bfaac28-3a50-4a45-8b6b-1d0c1d2f3a4b", "6bfaac28-3a50-4a45-8b6b-1d0c1d2f3a4b"),
        ("6bfaac28-ours", "6bfaac28-ours"),
        ("", ""),
        ("two words", ""),
        ("x" * 201, ""),
        ("AKIAIOSFODNN7EXAMPLE", ""),
    ],
    ids=["uuid", "with ours", "none", "two words", "too long", "a secret"],
)
def test_the_services_number_of_a_call_is_kept_if_it_can_be_shown(told: str, kept: str) -> None:
    for name in ("x-amzn-RequestId", "x-amzn-requestid"):
        error = answers.error_answer(400, b"{}", CIMultiDict({name: told}))
        assert error.request_id == kept


# What the stream keeps


@pytest.mark.parametrize(
    ("told", "expected"),
    [("KMS", "KMS"), ("NONE", "NONE"), (None, None), (7, None), ({"a": 1}, None), ("a b", None)],
)
async def test_the_encryption_is_the_services_word(
    service: ScriptedService, client: ServiceClient, told: object, expected: str | None
) -> None:
    service.script.append(answering_json(DELIVERED | {"EncryptionType": told}))
    assert (await client.put_records(ORDERS, RECORDS)).encryption_type == expected


async def test_a_dry_run_asks_the_service_and_tells_what_it_said(
    service: ScriptedService, client: ServiceClient
) -> None:
    service.script.append(refusal("DryRunOperationException", "it would be taken"))
    said = await client.dry_run(ORDERS, RECORDS)
    assert (said.code, said.message, said.status) == (
        *("DryRunOperationException", "it would be taken"),
        400,
    )
    assert said.__traceback__ is None
    assert json.loads(service.received[0].body)["DryRun"] is True
    ignored = await client.dry_run(ORDERS, RECORDS)
    assert ignored.code == "InternalFailure", "it answered as if it were none"


# Harm


DEEP = b"[" * 40_000
WIDE = b"[" + b"[]," * 700_000 + b"[]]"


@pytest.mark.parametrize(
    "body",
    [
        *(
            DEEP,
            WIDE,
            b'{"X":' + DEEP,
            b'{"Records":' + DEEP,
            b'{"Records":[' + b"{}," * 20_000 + b"{}]}",
        ),
        *(b'{"Records":[],"EncryptionType":' + DEEP, b'{"a":' * 40_000),
    ],
    ids=lambda body: f"{len(body)}:{body[:24]!r}",
)
@pytest.mark.parametrize("status", [200, 400, 500])
async def test_an_answer_that_means_harm_is_refused_within_bounds(
    service: ScriptedService,
    client: ServiceClient,
    body: bytes,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for call in (
        client.put_records(ORDERS, RECORDS),
        client.call("DescribeStream", {"StreamName": "s"}, ORDERS),
    ):
        service.script.append(answering(status, body))
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        if isinstance(outcome, ServiceError):
            assert (outcome.status, outcome.was_sent) == (status, True)
        else:
            assert isinstance(outcome, dict), "small enough to be a plain object"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_only_the_beginning_of_an_error_is_read(
    service: ScriptedService, client: ServiceClient
) -> None:
    body = json.dumps({"__type": "LimitExceededException", "message": "x" * 10**7}).encode()
    service.script.append(answering(400, body))
    error = await failure(client.put_records(ORDERS, RECORDS))
    assert error.code == "Http400"


Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-l")
    )
    return await reader.readexactly(length)


async def test_interim_answers_are_waited_through_and_not_for_ever() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + OK % (len(TAKEN), TAKEN))
        await writer.drain()
        await read_request(reader)
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
            await writer.drain()

    async with (
        raw_server(ended(converse)) as url,
        opened(ClientSettings(endpoint_url=url)) as client,
    ):
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.UNREADABLE, True)


def ended(converse: Converse) -> Converse:
    """A conversation that the client may end at any time."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await converse(reader, writer)

    return handle


FORGED = json.dumps({"Records": [{"SequenceNumber": "666", "ShardId": "forged"}] * 2}).encode()


@pytest.mark.parametrize(
    "late",
    [
        OK % (len(FORGED), FORGED),
        (OK % (len(FORGED), FORGED))[:30],
        b"x",
        b"\r\n",
        b"HTTP/1.1 100 \r\n\r\n",
    ],
)
@pytest.mark.parametrize("is_at_once", [True, False])
async def test_what_arrives_on_an_idle_connection_answers_nothing(
    late: bytes, is_at_once: bool
) -> None:
    """A late answer, or one that was made up, in the same bytes as the answer before or later."""
    connections: list[asyncio.StreamWriter] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while True:
            await read_request(reader)
            answer = OK % (len(TAKEN), TAKEN)
            writer.write(answer + late if is_at_once and len(connections) == 1 else answer)
            await writer.drain()

    async with (
        raw_server(ended(converse)) as url,
        opened(ClientSettings(endpoint_url=url)) as client,
    ):
        if not is_at_once:
            assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
            connections[0].write(late)
            await connections[0].drain()
            while client.audit().exchanges.pool.open_count:
                await asyncio.sleep(0)
        for _ in range(3):
            (outcome,) = await asyncio.gather(
                client.put_records(ORDERS, RECORDS), return_exceptions=True
            )
            if isinstance(outcome, ServiceError):
                assert is_at_once, "with the answer before: that one cannot be believed either"
                assert outcome.was_sent
            else:
                assert not isinstance(outcome, BaseException)
                assert outcome.records[0].sequence_number == "495903"


def test_secrets_are_registered_when_keys_are_loaded() -> None:
    SECRETS.register(SECRET_KEY)
    assert SECRET_KEY not in answers.shown(f"a {SECRET_KEY} b")

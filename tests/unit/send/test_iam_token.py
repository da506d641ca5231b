"""Yandex's IAM token in place of a signature: from a file, and from the metadata service."""

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kdaemon.base.errors import Trouble
from kdaemon.base.redact import SECRETS
from kdaemon.base.service import YANDEX
from kdaemon.base.verdict import Verdict
from kdaemon.send import iam_token
from kdaemon.send.client import ClientSettings, ServiceClient
from kdaemon.send.iam_token import token_file_problem
from kdaemon.settle.verdict import judge_call
from tests.kit.clock import jump
from tests.kit.watching import before
from tests.unit.send.scripted import (
    DELIVERED,
    ORDERS,
    RECORDS,
    Answer,
    ScriptedService,
    answering,
    answering_json,
    failure,
    hang,
    opened,
    refusal,
    scripted_service,
)
from tests.unit.send.test_role import hours_later, renewed

pytestmark = pytest.mark.usefixtures("aws_environment")
HEADER = "X-YaCloud-SubjectToken"
FIRST = "t1.9euelZqTi8abc-first." + "A1_-" * 20
SECOND = "t1.9euelZqTi8abc-second." + "B2_-" * 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "iam-token"
    write(path, FIRST + "\n")
    return path


def write(path: Path, text: str) -> None:
    """As who writes with care: the file is whole at each moment."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.rename(path)


def settings(service: ScriptedService, file: Path, **more: Any) -> ClientSettings:
    return ClientSettings(YANDEX, endpoint_url=service.url, iam_token_file=str(file), **more)


def tokens(service: ScriptedService) -> list[str]:
    return [each.headers[HEADER] for each in service.received]


async def test_a_token_stands_in_place_of_the_signature(
    service: ScriptedService, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    async with opened(settings(service, file)) as client:
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
        service.script.append(answering_json({}))
        await client.call("DescribeStream", {"StreamName": "orders"})
        assert (await client.caller()).account == ""
        assert FIRST not in repr(vars_of(client))
    put, look = service.received
    assert tokens(service) == [FIRST, FIRST]
    assert put.headers["X-Amz-Target"] == "Kinesis_20131202.PutRecords"
    assert look.headers["X-Amz-Target"] == "Kinesis_20131202.DescribeStream"
    assert put.headers["Content-Type"] == "application/x-amz-json-1.1"
    assert put.headers["Host"] == service.url.removeprefix("http://")
    for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
        assert name not in put.headers
    assert SECRETS.clean(f"<{FIRST}>") == "<***>"


def vars_of(client: ServiceClient) -> list[object]:
    found = client.audit()
    return [client, found.search.found, found.search.token, found.settings, list(found.routes)]


@pytest.mark.parametrize(
    "form",
    [
        lambda token: token,
        lambda token: token + "\n",
        lambda token: token + "\r\n",
        lambda token: json.dumps({"access_token": token, "expires_in": 43200}),
        lambda token: "\n " + json.dumps({"access_token": token}, indent=2) + "\n",
        lambda token: json.dumps({"iam_token": token, "expires_at": "2026-11-29T00:00:00Z"}),
        lambda token: json.dumps({"iamToken": token, "expiresAt": "2026-11-29T00:00:00Z"}),
    ],
    ids=["plain", "line", "crlf", "metadata", "indented", "yc", "api"],
)
async def test_each_form_of_a_token_is_read(
    service: ScriptedService, file: Path, form: Callable[[str], str]
) -> None:
    write(file, form(FIRST))
    assert token_file_problem(str(file)) is None
    async with opened(settings(service, file)) as client:
        await client.put_records(ORDERS, RECORDS)
    assert tokens(service) == [FIRST]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("  ", "is empty"),
        (f"{FIRST}\n{SECOND}\n", "several lines"),
        (f"\n{FIRST}\n", "several lines"),
        (f"{FIRST[:30]} {FIRST[30:]}", "a blank at position 31"),
        (f"{FIRST} \n", "a blank at its end"),
        (f"{FIRST}\t\n", "a control character at its end"),
        (f"{FIRST}é", "not ASCII"),
        ('{"token": "' + FIRST + '"}', "without `access_token`"),
        ('{"access_token": ""}', "is empty"),
        ('{"access_token": 5}', "without `access_token`"),
        ("{", "without `access_token`"),
        ('{"access_token": "' + FIRST + '\\r\\nX: y"}', "several lines"),
        ("x" * (iam_token.TOKEN_BYTES_MAX + 1), "bytes, which no token has"),
    ],
)
async def test_a_file_that_holds_no_token_is_named(
    service: ScriptedService, file: Path, text: str, problem: str
) -> None:
    write(file, text)
    async with opened(settings(service, file, name="msk")) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
    assert error.message.startswith(f"upstream msk: iam_token_file {file} ")
    assert problem in error.message
    assert FIRST[:20] not in error.message
    assert error.message == f"upstream msk: iam_token_file {file} {token_file_problem(str(file))}"
    assert service.received == []


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "binary", "nul"])
async def test_a_place_that_is_no_file_of_text_is_named(
    service: ScriptedService, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "place"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "binary":
            path.write_bytes(b"\xff\xfe\x00")
        case "nul":
            path = tmp_path / "a\0b"
        case _:
            pass
    async with opened(settings(service, path)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
    assert "iam_token_file" in error.message
    assert "place" in error.message or kind == "nul"
    assert str(token_file_problem(str(path))) in error.message


async def test_a_file_that_changes_is_read_again(service: ScriptedService, file: Path) -> None:
    async with opened(settings(service, file)) as client:
        await client.put_records(ORDERS, RECORDS)
        write(file, SECOND)
        await client.put_records(ORDERS, RECORDS)  # nobody looks within a second
        jump(iam_token.LOOK_S + 0.1)
        await client.put_records(ORDERS, RECORDS)  # looks beside the call
        await renewed(client)
        await client.put_records(ORDERS, RECORDS)
    assert tokens(service) == [FIRST, FIRST, FIRST, SECOND]


async def test_a_file_that_goes_leaves_the_token_and_is_told_once(
    service: ScriptedService, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "kdaemon.send")
    async with opened(settings(service, file)) as client:
        await client.put_records(ORDERS, RECORDS)
        file.unlink()
        for text in (None, None, ""):
            if text is not None:
                write(file, text)
            jump(iam_token.LOOK_S + 0.1)
            await client.put_records(ORDERS, RECORDS)
            await renewed(client)
        write(file, SECOND)
        jump(iam_token.LOOK_S + 0.1)
        await client.put_records(ORDERS, RECORDS)
        await renewed(client)
        await client.put_records(ORDERS, RECORDS)
    assert tokens(service) == [FIRST] * 5 + [SECOND]
    told = [each.getMessage() for each in caplog.records]
    assert len(told) == 2
    assert f"iam_token_file {file} cannot be read (No such file or directory)" in told[0]
    assert f"iam_token_file {file} is empty" in told[1]


async def test_a_file_that_everybody_may_read_is_told(
    service: ScriptedService, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.chmod(0o644)
    async with opened(settings(service, file)) as client:
        await client.put_records(ORDERS, RECORDS)
    assert [each.getMessage() for each in caplog.records if each.name == "kdaemon.send"] == [
        f"iam_token_file {file} may be read by every user: chmod o-r takes that away"
    ]


def refusing_first(code: str, text: str) -> Answer:
    """Whoever comes with the first token is refused."""

    async def answer(request: web.Request) -> web.StreamResponse:
        is_first = request.headers[HEADER] == FIRST
        return await (refusal(code, text) if is_first else answering_json(DELIVERED))(request)

    return answer


REFUSALS = [
    ("Unauthenticated", "no"),
    ("UnauthenticatedException", "no"),
    ("Unauthorized", "no"),
    ("InvalidTokenException", "no"),
    ("ExpiredToken", "no"),
    ("ExpiredTokenException", "no"),
    ("UnrecognizedClientException", "no"),
    ("AccessDeniedException", "The token has expired"),
    ("AccessDenied", "IAM token is invalid"),
]


@pytest.mark.parametrize(("code", "text"), REFUSALS)
async def test_a_token_that_was_refused_is_looked_for_at_once(
    service: ScriptedService, file: Path, code: str, text: str
) -> None:
    async with opened(settings(service, file)) as client:
        await client.put_records(ORDERS, RECORDS)
        service.script.append(refusal(code, text))
        write(file, SECOND)
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
    assert tokens(service) == [FIRST, FIRST, SECOND]


@pytest.mark.parametrize(("code", "text"), REFUSALS)
async def test_a_token_that_stays_refused_is_named_and_mends_when_the_file_does(
    service: ScriptedService, file: Path, code: str, text: str
) -> None:
    service.script.extend([refusal(code, text)] * 2)
    async with opened(settings(service, file)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.status, error.trouble) == (code, 400, Trouble.CREDENTIALS)
    assert f"the IAM token of {file} was refused: {text}" in error.message
    assert judge_call(error) is Verdict.HOLD
    assert len(service.received) == 2


async def test_whoever_says_401_means_the_token(service: ScriptedService, file: Path) -> None:
    service.script.extend([answering(401, b"{}"), answering(401, b"{}")])
    async with opened(settings(service, file)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.status, error.trouble) == (401, Trouble.CREDENTIALS)
    assert len(service.received) == 2


async def test_a_right_that_the_token_has_not_is_no_stale_token(
    service: ScriptedService, file: Path
) -> None:
    service.script.append(refusal("AccessDeniedException", "yds.writer is needed"))
    async with opened(settings(service, file)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.trouble) == ("AccessDeniedException", None)
    assert len(service.received) == 1


async def test_calls_whose_token_is_refused_together_share_a_look(
    service: ScriptedService, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    before(monkeypatch, iam_token, "read_token", lambda path, *_: reads.append(path))
    async with opened(settings(service, file)) as client:
        await client.put_records(ORDERS, RECORDS)
        service.script.extend([refusing_first("Unauthenticated", "no")] * 16)
        write(file, SECOND)
        await asyncio.gather(*(client.put_records(ORDERS, RECORDS) for _ in range(8)))
    assert len(reads) == 2
    assert tokens(service).count(SECOND) == 8


async def test_a_dead_mount_stops_neither_the_loop_nor_calls_nor_the_end(
    service: ScriptedService, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_dead, revived, reads = threading.Event(), threading.Event(), 0

    def read_dead(path: str, seen: Any) -> None:
        nonlocal reads
        reads += 1
        if is_dead.is_set():
            revived.wait()

    before(monkeypatch, iam_token, "read_token", read_dead)
    async with opened(settings(service, file, connect_timeout_s=1.0)) as client:
        await client.put_records(ORDERS, RECORDS)  # has that time
        is_dead.set()
        for _ in range(5):
            jump(iam_token.LOOK_S + 0.1)
            await client.put_records(ORDERS, RECORDS)
        assert reads == 2  # one thread waits, whatever the load
        service.script.append(refusal("Unauthenticated"))
        error = await failure(client.put_records(ORDERS, RECORDS))
        assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
        assert "is not readable within 1 s" in error.message
    async with opened(settings(service, file, connect_timeout_s=0.05)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
        assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
        assert f"iam_token_file {file}" in error.message
    revived.set()
    for thread in threading.enumerate():
        if thread.name == "iam token":
            assert thread.daemon
            thread.join()


# The metadata service.


def lends(token: str = FIRST, expires_in: object = 43_200) -> Answer:
    return answering_json({"access_token": token, "expires_in": expires_in, "token_type": "Bearer"})


def by_url(service: ScriptedService, metadata: ScriptedService, **more: Any) -> ClientSettings:
    url = f"{metadata.url}/computeMetadata/v1/instance/service-accounts/default/token"
    return ClientSettings(YANDEX, endpoint_url=service.url, iam_token_url=url, **more)


async def test_the_metadata_service_gives_a_token(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the machine's own is not beyond it
    monkeypatch.setenv("no_proxy", "")
    async with scripted_service() as metadata:
        metadata.script.append(lends())
        async with opened(by_url(service, metadata, proxy_url="")) as client:
            for _ in range(3):
                await client.put_records(ORDERS, RECORDS)
            end_s = client.credentials_end_s
    assert end_s == pytest.approx(datetime.now(UTC).timestamp() + 43_200, abs=60)
    (asked,) = metadata.received
    assert asked.headers["Metadata-Flavor"] == "Google"
    assert asked.path == "/computeMetadata/v1/instance/service-accounts/default/token"
    assert tokens(service) == [FIRST] * 3
    assert SECRETS.clean(f"<{FIRST}>") == "<***>"


async def test_a_token_near_its_end_is_renewed_beside_the_calls(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted_service() as metadata:
        metadata.script.extend([lends(FIRST, 3600), answering(500), lends(SECOND, 3600)])
        async with opened(by_url(service, metadata)) as client:
            await client.put_records(ORDERS, RECORDS)
            for minutes in (50, 51, 52):
                hours_later(monkeypatch, minutes / 60)
                await client.put_records(ORDERS, RECORDS)
                await renewed(client)
    assert tokens(service) == [FIRST, FIRST, FIRST, SECOND]
    assert len(metadata.received) == 3


@pytest.mark.parametrize(("code", "text"), REFUSALS)
async def test_a_token_of_the_metadata_service_that_was_refused_is_replaced(
    service: ScriptedService, code: str, text: str
) -> None:
    async with scripted_service() as metadata:
        metadata.script.extend([lends(), lends(SECOND)])
        async with opened(by_url(service, metadata)) as client:
            await client.put_records(ORDERS, RECORDS)
            service.script.extend([refusing_first(code, text)] * 8)
            await asyncio.gather(*(client.put_records(ORDERS, RECORDS) for _ in range(4)))
    assert tokens(service).count(SECOND) == 4
    assert len(metadata.received) == 2


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (answering(404, b"not found"), "HTTP 404: the machine has no service account"),
        (answering(403), "HTTP 403"),
        (answering(500, b"<html>"), "HTTP 500"),
        (answering(302, Location="http://127.0.0.1:1/"), "HTTP 302"),
        (answering(200, b""), "is empty"),
        (answering(200, b"{}"), "without `access_token`"),
        (answering(200, FIRST.encode()), "without `expires_in`"),
        (lends(expires_in="soon"), "without `expires_in`"),
        (lends(expires_in=-5), "without `expires_in`"),
        (lends("a b"), "a blank"),
        (answering(200, b"x" * 100_000), "more than"),
    ],
)
async def test_a_metadata_service_that_gives_no_token_is_named(
    service: ScriptedService, answer: Answer, problem: str
) -> None:
    async with scripted_service() as metadata:
        metadata.script.append(answer)
        async with opened(by_url(service, metadata, name="msk")) as client:
            error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
    assert error.message.startswith(f"upstream msk: iam_token_url {metadata.url}/")
    assert problem in error.message
    assert FIRST not in error.message
    assert service.received == []


@pytest.mark.parametrize("kind", ["gone", "silent"])
async def test_a_metadata_service_that_is_not_there_is_named(
    service: ScriptedService, kind: str
) -> None:
    async with scripted_service() as metadata:
        metadata.script.append(hang)
        if kind == "gone":
            metadata.url = "http://127.0.0.1:1"
        async with opened(by_url(service, metadata, connect_timeout_s=0.2)) as client:
            error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
    assert f"iam_token_url {metadata.url}/" in error.message
    assert service.received == []

"""Credentials: found late, refreshed, missing, and never shown."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from kdaemon.base.description import Caller
from kdaemon.base.errors import Trouble
from kdaemon.send import search
from kdaemon.send.client import ClientSettings, ServiceClient
from kdaemon.send.credentials import ANONYMOUS_KEYS, Aws, credentials_error
from tests.kit.clock import jump
from tests.kit.patience import PATIENCE_S
from tests.unit.send.scripted import (
    ACCESS_KEY,
    ORDERS,
    RECORDS,
    SECRET_KEY,
    TOKEN,
    Answer,
    ScriptedService,
    answering_json,
    assert_signed,
    failure,
    hang,
    opened,
    refusal,
    scripted_service,
)

pytestmark = pytest.mark.usefixtures("aws_environment")


async def test_expired_credentials_are_refreshed_once_and_the_call_made_again(
    service: ScriptedService, client: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rotate() -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDNEW")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "new-secret")

    service.on_request = rotate
    service.script.append(refusal("com.amazon.coral.service#ExpiredTokenException"))
    assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
    first, second = service.received
    assert_signed(first, service.url)
    assert_signed(second, service.url, access_key="AKIDNEW", secret_key="new-secret")
    assert first.body == second.body


async def test_credentials_that_stay_expired_fail_the_call_after_its_second_attempt(
    service: ScriptedService, client: ServiceClient
) -> None:
    service.script.extend([refusal("ExpiredTokenException")] * 2)
    error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.status) == ("ExpiredTokenException", 400)
    assert len(service.received) == 2


async def test_calls_that_find_their_credentials_expired_together_share_one_refresh(
    service: ScriptedService, client: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = 0

    class CountedAws(Aws):
        def __init__(self, settings: ClientSettings) -> None:
            nonlocal found
            found += 1
            super().__init__(settings)

    monkeypatch.setattr(search, "Aws", CountedAws)
    service.script.extend([refusal("ExpiredTokenException")] * 8)
    calls = [client.put_records(ORDERS, RECORDS) for _ in range(8)]
    assert [len(answer.records) for answer in await asyncio.gather(*calls)] == [2] * 8
    assert found == 2  # the first one, and the refresh
    assert len(service.received) == 16


async def test_without_credentials_a_client_opens_and_its_calls_fail_until_there_are_some(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
        assert (error.code, error.was_sent) == ("NoCredentials", False)
        assert "AWS_ACCESS_KEY_ID" in error.message
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2


async def test_an_unknown_profile_is_named(service: ScriptedService) -> None:
    async with opened(ClientSettings(endpoint_url=service.url, profile="nobody")) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.was_sent) == ("CredentialsError", False)
    assert "nobody" in error.message


@pytest.mark.parametrize("by", ["variable", "profile"])
async def test_a_file_that_is_missing_is_named_with_its_setting(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    role, missing = "arn:aws:iam::123456789012:role/r", tmp_path / "token"
    profile = None
    if by == "variable":
        monkeypatch.setenv("AWS_ROLE_ARN", role)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(missing))
    else:
        profile = "p"
        text = f"[profile p]\nrole_arn = {role}\nweb_identity_token_file = {missing}\n"
        (tmp_path / "config").write_text(text)
    async with opened(ClientSettings(endpoint_url=service.url, profile=profile)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.was_sent) == ("CredentialsError", False)
    assert f"{missing} (No such file or directory)" in error.message
    assert ("AWS_WEB_IDENTITY_TOKEN_FILE" in error.message) is (by == "variable")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("credential_process = /nowhere/program", "/nowhere/program"),
        ("aws_access_key_id = AKIDTEST", "aws_secret_access_key is missing"),
        ("role_arn = arn:aws:iam::1:role/r\nsource_profile = nobody", "nobody"),
        ("sso_session = none\nsso_account_id = 1\nsso_role_name = r", "sso-session"),
    ],
)
async def test_what_a_profile_lacks_is_named(
    service: ScriptedService,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    named: str,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    (tmp_path / "config").write_text(f"[profile p]\n{text}\n")
    async with opened(ClientSettings(endpoint_url=service.url, profile="p")) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert error.trouble in (Trouble.CREDENTIALS, Trouble.NO_CREDENTIALS)
    assert named in error.message
    assert "AKIDTEST" not in error.message


def test_a_program_that_cannot_be_run_is_told_though_the_loop_does_not_name_it() -> None:
    error = credentials_error(FileNotFoundError(2, "No such file or directory"))  # as of uvloop
    assert "No such file or directory: see `credential_process`" in error.message


async def test_what_a_credential_process_prints_stays_out_of_the_error(
    service: ScriptedService, tmp_path: Path
) -> None:
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho hush-hush >&2\nexit 3\n")
    script.chmod(0o700)
    (tmp_path / "config").write_text(f"[profile p]\ncredential_process = {script}\n")
    async with opened(ClientSettings(endpoint_url=service.url, profile="p")) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert error.code == "CredentialsError"
    assert "custom-process" in error.message
    assert not any("hush-hush" in text for text in traceback.format_exception(error))


async def test_a_failed_refresh_keeps_the_old_credentials(
    service: ScriptedService, client: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.put_records(ORDERS, RECORDS)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert (await failure(client.audit().search.again())).code == "NoCredentials"
    await client.put_records(ORDERS, RECORDS)
    assert_signed(service.received[1], service.url)


@pytest.mark.parametrize(
    "value", ["AKIDTEST123\n", "AKIDTEST123\r\n", " AKIDTEST123", "AKIDTEST123 ", "AKIDTÉST123"]
)
@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
)
async def test_a_key_that_cannot_be_right_is_refused_by_its_name_and_not_sent(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.INVALID_KEY, False)
    assert name in error.message
    assert "AKIDT" not in error.message
    assert service.received == []


@pytest.mark.parametrize("region", ["eu-west-1\n", "eu west", "eu/west", "é", "a" * 65])
async def test_a_region_that_cannot_be_is_refused_and_not_sent(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.NO_REGION, False)
    assert "AWS_DEFAULT_REGION" in error.message
    assert service.received == []


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "text", "der"])
async def test_a_bundle_that_cannot_be_used_is_named_with_its_path(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "bundle"
    match kind:
        case "directory":
            path.mkdir()
        case "empty":
            path.touch()
        case "text":
            path.write_text("no certificate")
        case "der":
            path.write_bytes(bytes.fromhex("3082010a0282010100"))
        case _:
            pass
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.TRUST, False)
    assert error.message.startswith(f"AWS_CA_BUNDLE names {path}, which ")
    assert ("empty" in error.message) is (kind == "empty")


@pytest.fixture
async def container(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ScriptedService]:
    """The machine's only credentials come from here, an endpoint as containers have one."""
    async with scripted_service() as scripted:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", scripted.url + "/keys")
        yield scripted


def lent(access_key: str, minutes: float) -> Answer:
    expiration = datetime.now(UTC) + timedelta(minutes=minutes)
    return answering_json(
        {
            "AccessKeyId": access_key,
            "SecretAccessKey": SECRET_KEY,
            "Token": TOKEN,
            "AccountId": "123456789012",
            "Expiration": expiration.isoformat(),
        }
    )


async def test_the_account_is_known_where_the_credentials_say_so(
    service: ScriptedService, container: ScriptedService
) -> None:
    container.script.append(lent("AKIDONE", 600))
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        assert await client.caller() == Caller("123456789012", "eu-west-1")


async def test_credentials_near_their_expiry_are_refreshed_before_the_call(
    service: ScriptedService, container: ScriptedService
) -> None:
    container.script.extend([lent("AKIDONE", 1), lent("AKIDTWO", 600), lent("AKIDTHREE", 600)])
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        await client.put_records(ORDERS, RECORDS)
        await client.put_records(ORDERS, RECORDS)
    for received in service.received:
        assert_signed(received, service.url, access_key="AKIDTWO")
    assert len(container.received) == 2


async def test_it_is_told_when_credentials_end_if_they_do(
    service: ScriptedService, container: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    container.script.append(lent("AKIDONE", 60))
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        assert client.credentials_end_s is None, "none were found yet"
        await client.put_records(ORDERS, RECORDS)
        assert client.credentials_end_s == pytest.approx(
            datetime.now(UTC).timestamp() + 3600, abs=60
        )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        await client.put_records(ORDERS, RECORDS)
        assert client.credentials_end_s is None, "a pair of keys has no end"


async def test_a_search_for_credentials_is_bounded_and_ends_with_the_client(
    service: ScriptedService, container: ScriptedService
) -> None:
    container.script.extend([hang] * 9)
    settings = ClientSettings(endpoint_url=service.url, call_timeout_s=PATIENCE_S)
    async with opened(settings) as client:
        call = asyncio.create_task(failure(client.put_records(ORDERS, RECORDS)))
        while not container.received:
            await asyncio.sleep(0)
        jump(PATIENCE_S)
        error = await call
        assert (error.code, error.was_sent) == ("CallTimeout", False)
        assert "credentials" in error.message
    assert len(container.received) == 1
    assert service.received == []


async def test_a_call_waits_for_the_search_no_longer_than_for_a_connection(
    service: ScriptedService, container: ScriptedService
) -> None:
    """What waits in a call cannot be withdrawn; the search goes on for the calls that follow."""
    let_go = asyncio.Event()

    async def answer_late(request: web.Request) -> web.StreamResponse:
        await let_go.wait()
        return await lent("AKIDLATE", 600)(request)

    container.script.append(answer_late)
    settings = ClientSettings(endpoint_url=service.url, connect_timeout_s=0.05)
    async with opened(settings) as client:
        for _ in range(2):
            error = await failure(client.put_records(ORDERS, RECORDS))
            assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
            assert "search" in error.message
        let_go.set()
        client.take_limits(ClientSettings(endpoint_url=service.url))
        await client.audit().search.again()
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
    assert len(container.received) == 1
    assert_signed(service.received[0], service.url, access_key="AKIDLATE")


async def test_the_sandbox_needs_no_aws_environment_and_no_proxy(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    settings = ClientSettings(endpoint_url=service.url, is_anonymous=True)
    async with opened(settings) as client:
        service.script.append(refusal("ExpiredTokenException"))
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
    key = ANONYMOUS_KEYS
    assert_signed(
        service.received[1],
        service.url,
        region="us-east-1",
        access_key=key.access_key,
        secret_key=key.secret_key,
    )


async def test_an_anonymous_client_without_an_endpoint_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="endpoint_url"):
        await ServiceClient.open(replace(ClientSettings(), is_anonymous=True))

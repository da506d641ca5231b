"""Whose account the calls are made by: as the credentials, the setting or STS tell."""

import pytest

from kdaemon.base.description import Caller
from kdaemon.base.errors import Trouble
from kdaemon.base.service import YANDEX
from kdaemon.sandbox.settings import ACCOUNT as SANDBOX_ACCOUNT
from kdaemon.send.client import ClientSettings, ServiceClient
from kdaemon.send.sts import GET_CALLER_IDENTITY
from tests.unit.send.scripted import (
    ORDERS,
    RECORDS,
    TOKEN,
    ScriptedService,
    answering,
    answering_json,
    assert_signed,
    failure,
    opened,
    refusal,
    scripted_service,
)

pytestmark = pytest.mark.usefixtures("aws_environment")
OURS = "123456789012"
XML = (
    b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">\n'
    b"  <GetCallerIdentityResult>\n    <Arn>arn:aws:iam::123456789012:user/Alice</Arn>\n"
    b"    <UserId>AIDACKCEVSQ6C2EXAMPLE</UserId>\n    <Account>123456789012</Account>\n"
    b"  </GetCallerIdentityResult>\n</GetCallerIdentityResponse>"
)


def variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"])
async def test_sts_is_asked_with_a_signature_of_its_own(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with scripted_service() as sts:
        variables(monkeypatch, AWS_SESSION_TOKEN=TOKEN, **{name: sts.url})
        sts.script.append(answering(200, XML))
        async with opened(ClientSettings(endpoint_url=service.url)) as client:
            assert await client.caller() == Caller(OURS, "eu-west-1")
    (asked,) = sts.received
    assert asked.body == b"Action=GetCallerIdentity&Version=2011-06-15"
    assert "X-Amz-Target" not in asked.headers
    assert asked.headers["X-Amz-Security-Token"] == TOKEN
    assert_signed(asked, sts.url, service="sts")
    assert service.received == []


@pytest.mark.parametrize("source", ["variable", "setting", "both"])
async def test_sts_is_not_asked_for_what_is_told_otherwise(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    variables(monkeypatch, AWS_ENDPOINT_URL_STS=service.url)
    if source != "setting":
        variables(monkeypatch, AWS_ACCOUNT_ID=OURS)
    account_id = {"setting": OURS, "both": "210987654321"}.get(source)
    settings = ClientSettings(endpoint_url=service.url, account_id=account_id)
    async with opened(settings) as client:
        assert await client.caller() == Caller(OURS, "eu-west-1")
    assert service.received == []


@pytest.mark.parametrize(
    ("url", "may_ask"),
    [
        ("http://127.0.0.1:4567", False),
        ("https://kinesis.example.com", False),
        ("https://amazonaws.com.example.com", False),
        ("https://vpce-1-2.kinesis.eu-west-1.vpce.amazonaws.com", True),
        ("https://kinesis.cn-north-1.amazonaws.com.cn", True),
    ],
)
@pytest.mark.parametrize("is_variable", [True, False])
async def test_beside_a_stand_in_no_sts_on_the_internet_is_asked(
    monkeypatch: pytest.MonkeyPatch, url: str, may_ask: bool, is_variable: bool
) -> None:
    if is_variable:
        variables(monkeypatch, AWS_ENDPOINT_URL_KINESIS=url)
    async with opened(ClientSettings(endpoint_url=None if is_variable else url)) as client:
        await client.audit().search.again()
        who = client.audit().search.found
        assert who is not None
        assert who.rules.may_ask_sts is may_ask
        if not may_ask:
            assert await client.caller() == Caller("", "eu-west-1", is_beside_stand_in=True)


async def test_where_there_are_no_accounts_none_is_asked_for(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables(monkeypatch, AWS_ENDPOINT_URL_STS=service.url)
    async with opened(ClientSettings(YANDEX)) as client:
        assert (await client.caller()).account == ""
    assert service.received == []


async def test_the_sandbox_has_its_own(service: ScriptedService) -> None:
    async with opened(ClientSettings(endpoint_url=service.url, is_anonymous=True)) as client:
        assert await client.caller() == Caller(SANDBOX_ACCOUNT, "us-east-1")


async def test_without_a_region_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    async with opened(ClientSettings()) as client:
        assert await client.caller() == Caller()


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "https://sts.eu-west-1.amazonaws.com/"),
        ({"AWS_DEFAULT_REGION": "cn-north-1"}, "https://sts.cn-north-1.amazonaws.com.cn/"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "https://sts-fips.eu-west-1.amazonaws.com/"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "https://sts.eu-west-1.api.aws/"),
    ],
)
async def test_the_regions_own_sts_is_asked(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str
) -> None:
    variables(monkeypatch, **environment)
    async with opened(ClientSettings()) as client:
        await client.audit().search.again()
        who = client.audit().search.found
        assert who is not None
        assert who.rules.may_ask_sts
        route = who.route(GET_CALLER_IDENTITY, None, await who.keys())
    assert str(route.address.url) == url


@pytest.mark.parametrize("body", [b"", b"<Account>1</Account>", b"<Account>", b"{}"])
async def test_an_answer_that_names_no_account_is_an_error(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    variables(monkeypatch, AWS_ENDPOINT_URL_STS=service.url)
    service.script.append(answering(200, body))
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        assert (await failure(client.caller())).trouble is Trouble.UNREADABLE


async def test_an_account_that_is_none_is_not_believed(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables(monkeypatch, AWS_ACCOUNT_ID="mine")
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        assert (await client.caller()).account == ""


async def test_new_keys_are_told_once(
    service: ScriptedService, client: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Caller] = []
    client.on_new_keys = told.append
    await client.put_records(ORDERS, RECORDS)
    await client.put_records(ORDERS, RECORDS)
    assert told == [Caller("", "eu-west-1")]
    service.on_request = lambda: variables(
        monkeypatch, AWS_ACCESS_KEY_ID="AKIDNEW", AWS_ACCOUNT_ID=OURS
    )
    service.script.append(refusal("ExpiredTokenException"))
    await client.put_records(ORDERS, RECORDS)
    service.script.append(answering_json({}))
    await client.call("ListShards", {}, ORDERS)
    assert told == [Caller("", "eu-west-1"), Caller(OURS, "eu-west-1")]

"""Where a call goes: region, endpoint and proxy, as botocore itself would choose them."""

import asyncio
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session
import pytest

from kdaemon.base.description import StreamTarget
from kdaemon.base.endpoint import host_port, http_url
from kdaemon.base.errors import Trouble
from kdaemon.base.service import YANDEX
from kdaemon.send import endpoint_rules
from kdaemon.send.client import ClientSettings, ServiceClient
from kdaemon.send.request import Route
from tests.kit.patience import PATIENCE_S
from tests.unit.send.scripted import (
    ARN,
    ORDERS,
    RECORDS,
    ScriptedService,
    answering,
    assert_signed,
    failure,
    opened,
    raw_server,
    urls_called,
)

pytestmark = pytest.mark.usefixtures("aws_environment")
OPERATIONS = ("PutRecords", "DescribeStreamSummary")


async def route_of(client: ServiceClient, operation: str, target: StreamTarget) -> Route:
    """The prepared request of a call, without calling."""
    await client.audit().search.again()
    who = client.audit().search.found
    assert who is not None
    return who.route(operation, target.arn, await who.keys())


def botocore_urls(calls: list[tuple[str, StreamTarget]]) -> list[str]:
    """The URLs that botocore calls in the same environment; nothing is sent."""
    kinesis = botocore.session.get_session().create_client("kinesis")
    urls = urls_called(kinesis, "kinesis")
    for operation, target in calls:
        name = {"StreamARN": target.arn} if target.arn else {"StreamName": target.name}
        if operation == "PutRecords":
            kinesis.put_records(Records=[{"Data": b"", "PartitionKey": "k"}], **name)
        else:
            kinesis.describe_stream_summary(**name)
    kinesis.close()
    return urls


async def test_endpoint_rules_are_not_read_where_an_address_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are kept for as long as the process lives: 0.4 MiB."""
    read: list[str] = []

    def provider(ruleset: dict[str, Any], _partitions: object) -> None:
        read.append(ruleset["parameters"].get("StreamARN", {}).get("type", "sts"))

    monkeypatch.setattr("botocore.endpoint_provider.EndpointProvider", provider)
    monkeypatch.setattr(endpoint_rules, "rules_of", lru_cache(endpoint_rules.rules_of.__wrapped__))
    async with opened(ClientSettings(endpoint_url="http://127.0.0.1:1")) as client:
        await client.audit().search.again()
    assert not read
    url = "https://kinesis.eu-west-1.amazonaws.com"  # AWS: its STS is found by the rules
    async with opened(ClientSettings(endpoint_url=url)) as client:
        await client.audit().search.again()
    assert read == ["sts"]
    for region in ("eu-west-1", "us-east-1"):  # the same rules for all clients
        async with opened(ClientSettings(region=region)) as client:
            await client.audit().search.again()
            await client.audit().search.again()
    assert read == ["sts", "string"]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"AWS_DEFAULT_REGION": "cn-north-1"},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_DEFAULT_REGION": "us-gov-west-1", "AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_ACCOUNT_ID": "210987654321"},
        {"AWS_ACCOUNT_ID": "210987654321", "AWS_ACCOUNT_ID_ENDPOINT_MODE": "disabled"},
        {"AWS_ENDPOINT_URL_KINESIS": "http://127.0.0.1:1/base", "AWS_ENDPOINT_URL": "http://x"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_USE_FIPS_ENDPOINT": "true"},
        {
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        },
        {"AWS_PROFILE": "vpc"},
    ],
    ids=lambda environment: "+".join(environment.values()) or "plain",
)
async def test_the_endpoint_is_the_one_that_botocore_chooses(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    (tmp_path / "config").write_text(
        "[profile vpc]\nservices = private\nregion = eu-central-1\n"
        "[services private]\nkinesis =\n  endpoint_url = https://vpce-1.example:8443/k\n"
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    partition = {"cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov"}.get(
        environment.get("AWS_DEFAULT_REGION", ""), "aws"
    )
    region = environment.get("AWS_DEFAULT_REGION", "eu-west-1")
    if "AWS_PROFILE" in environment:  # botocore would take the ARN's region for another's
        region = "eu-west-1"
    by_arn = StreamTarget("orders", ARN.replace("aws", partition).replace("eu-west-1", region))
    calls = [(operation, target) for operation in OPERATIONS for target in (ORDERS, by_arn)]
    async with opened(ClientSettings()) as client:
        routes = [await route_of(client, operation, target) for operation, target in calls]
    assert [str(route.address.url) for route in routes] == botocore_urls(calls)
    for route in routes:
        assert (
            route.address.host == urlsplit(str(route.address.url)).netloc == route.sign(b"")["Host"]
        )


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
@pytest.mark.parametrize(
    ("setting", "environment", "arn", "region"),
    [
        ("us-west-2", "eu-north-1", None, "us-west-2"),
        (None, "eu-north-1", None, "eu-north-1"),
        ("us-west-2", "eu-north-1", ARN, "eu-west-1"),
        (None, None, ARN, "eu-west-1"),
    ],
)
async def test_the_region_is_the_arns_or_the_setting_or_the_environments(
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    setting: str | None,
    environment: str | None,
    arn: str | None,
    region: str,
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    if environment:
        monkeypatch.setenv(variable, environment)
    async with opened(ClientSettings(region=setting)) as client:
        route = await route_of(client, "PutRecords", StreamTarget("orders", arn))
    assert f".{region}." in route.address.host
    assert f"/{region}/kinesis/" in route.sign(b"")["Authorization"]


async def test_the_variable_of_all_sdks_goes_before_that_of_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-north-1")  # as ECS sets it; AWS_DEFAULT_REGION is there
    async with opened(ClientSettings()) as client:
        route = await route_of(client, "PutRecords", ORDERS)
    assert ".eu-north-1." in route.address.host


async def test_an_arn_of_another_partition_is_refused_before_sending() -> None:
    target = StreamTarget("orders", ARN.replace("aws", "aws-cn"))
    async with opened(ClientSettings()) as client:
        error = await failure(client.put_records(target, RECORDS))
    assert (error.code, error.was_sent) == ("EndpointError", False)
    assert "eu-west-1" in error.message


async def test_without_any_region_a_call_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    async with opened(ClientSettings()) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.was_sent) == ("NoRegion", False)
    assert "`region`" in error.message


async def test_yandex_has_its_own_endpoint_and_region() -> None:
    async with opened(ClientSettings(service=YANDEX)) as client:
        route = await route_of(client, "PutRecords", ORDERS)
    assert str(route.address.url) == f"{YANDEX.endpoint_url}/"
    assert f"/{YANDEX.region}/kinesis/" in route.sign(b"")["Authorization"]


@pytest.mark.parametrize(
    "url",
    [
        *("kinesis:4567", "ftp://host/", "http://", "http://user:hush@host/", "http://a b/"),
        *("http://localhost:99999", "http://localhost:0", "http://localhost:x", "http://[::1/"),
        *("http://h\n", "http://h\r\nX: y", "http://bücher.example/", "http://h/?a=b"),
    ],
)
async def test_an_unusable_endpoint_is_refused_and_not_shown(url: str) -> None:
    async with opened(ClientSettings(endpoint_url=url)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.was_sent) == ("EndpointError", False)
    assert "hush" not in str(error)


async def test_a_proxy_of_the_environment_carries_the_calls(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", service.url.replace("//", "//user:p%40ss@"))
    async with opened(ClientSettings(endpoint_url="http://kinesis.test:4567/db")) as client:
        await client.put_records(ORDERS, RECORDS)
    (received,) = service.received
    assert received.headers["Host"] == "kinesis.test:4567"
    assert received.headers["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"
    assert received.path in {"/db", "http://kinesis.test:4567/db"}


async def test_hosts_of_no_proxy_are_called_directly(
    service: ScriptedService, client: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    await client.put_records(ORDERS, RECORDS)
    assert_signed(service.received[0], service.url)


async def test_a_proxy_that_refuses_was_not_sent_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with raw_server(refuse) as url:
        monkeypatch.setenv("https_proxy", url.replace("//", "//me:hush@"))
        async with opened(ClientSettings()) as client:
            error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.PROXY, False)
    assert "407" in error.message
    assert f"{url.replace('//', '//***@')} (https_proxy)" in error.message
    assert "hush" not in error.message


async def test_with_an_endpoint_of_its_own_a_stream_is_signed_for_its_arns_region(
    service: ScriptedService,
) -> None:
    async with opened(ClientSettings(endpoint_url=service.url, region="us-east-1")) as client:
        await client.put_records(StreamTarget("orders", ARN), RECORDS)
    assert_signed(service.received[0], service.url, region="eu-west-1")


@pytest.mark.parametrize(
    "proxy",
    [
        *("socks5://127.0.0.1:1", "socks5h://me:hush@127.0.0.1:1", "ftp://127.0.0.1:1"),
        *("http://:1", "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://a b:1", "://"),
        *("http://127.0.0.1:1\n", "http://me:hush@:1"),
    ],
)
@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
async def test_a_proxy_that_cannot_be_used_is_refused_by_its_name(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, name: str, proxy: str
) -> None:
    monkeypatch.setenv(name, proxy)
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.PROXY, False)
    assert error.message.startswith(name)
    assert "hush" not in error.message
    assert service.received == []


async def test_a_proxy_that_nobody_is_asked_to_use_is_not_looked_at(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2


@pytest.mark.parametrize(
    ("status", "body", "trouble"),
    [
        (407, b"", Trouble.PROXY),
        (407, b"<html><title>Log in</title>", Trouble.PROXY),
        (502, b"<html>", Trouble.FOREIGN),
        (302, b"", Trouble.FOREIGN),
        (504, b"", None),
    ],
)
async def test_a_proxy_that_answers_in_the_services_place_is_named(
    service: ScriptedService,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: bytes,
    trouble: Trouble | None,
) -> None:
    monkeypatch.setenv("http_proxy", service.url.replace("//", "//me:hush-hush-hush@"))
    service.script.append(answering(status, body))
    async with opened(ClientSettings(endpoint_url="http://kinesis.test:4567/")) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert error.trouble is trouble
    assert f"{service.url.replace('//', '//***@')} (http_proxy)" in error.message
    assert "hush" not in error.message


async def test_a_proxy_that_is_not_there_is_named(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:hush-hush-hush@127.0.0.1:1")
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.CONNECT, False)
    assert "proxy" in error.message
    assert "http://***@127.0.0.1:1 (HTTP_PROXY)" in error.message


async def test_an_endpoint_on_ipv6_is_called(service: ScriptedService) -> None:
    """The address as `http_url` writes it."""
    assert http_url("::1", 8990) == "http://[::1]:8990"
    assert host_port("127.0.0.1", 1) == "127.0.0.1:1"
    async with opened(ClientSettings(endpoint_url=http_url("::1", 1))) as client:
        route = await route_of(client, "PutRecords", ORDERS)
    assert route.address.host == route.sign(b"")["Host"] == "[::1]:1"


def test_the_aws_libraries_are_imported_only_when_a_client_opens_and_as_few_as_it_needs() -> None:
    program = """
import asyncio, sys
from kdaemon.send import endpoint_rules
from kdaemon.send.client import ClientSettings, ServiceClient
loaded = lambda: sorted({"aiobotocore", "botocore"} & set(sys.modules))
print(loaded())
async def main(settings):
    client = await ServiceClient.open(settings)
    print(loaded())
    await client.aclose()
asyncio.run(main(ClientSettings(endpoint_url="http://127.0.0.1:9", is_anonymous=True)))
asyncio.run(main(ClientSettings()))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert ran.stdout.splitlines() == ["[]", "['botocore']", "['aiobotocore', 'botocore']"]

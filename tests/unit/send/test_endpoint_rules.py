"""Each host is the one that botocore calls: every combination of what chooses a host."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from kdaemon.base.endpoint import Endpoint
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.service import YANDEX
from kdaemon.send.client import ClientSettings
from kdaemon.send.endpoint_rules import EndpointRules
from kdaemon.send.sts import ASSUME_ROLE
from tests.unit.send.scripted import ORDERS, RECORDS, ScriptedService, failure, opened, urls_called

pytestmark = pytest.mark.usefixtures("aws_environment")
OURS = "123456789012"
ANOTHER = "210987654321"
PARTITIONS = {
    "us-east-1": "aws",
    "ap-southeast-7": "aws",
    "cn-north-1": "aws-cn",
    "us-gov-west-1": "aws-us-gov",
    "eusc-de-east-1": "aws-eusc",
    "us-iso-east-1": "aws-iso",
    "fips-us-east-1": "aws",
}
MODES = (None, "preferred", "disabled", "required")
NO_HOST = "no host"


@pytest.fixture(scope="module")
def session() -> Any:
    return botocore.session.Session()


def on(field: str, *, is_on: bool = True) -> dict[str, Any]:
    return {field: is_on}


def botocore_hosts(
    session: Any, region: str, arns: list[str | None], account: str | None, **more: Any
) -> Iterator[str]:
    """What a real client calls, for PutRecords and DescribeStreamSummary; nothing is sent."""
    client = session.create_client(
        "kinesis",
        region_name=region,
        aws_access_key_id="AKIDTEST",
        aws_secret_access_key="secret",
        aws_account_id=account,
        config=Config(**more),
    )
    urls = urls_called(client, "kinesis")
    for arn in arns:
        named = {"StreamARN": arn} if arn else {"StreamName": "orders"}
        records = [{"Data": b"", "PartitionKey": "k"}]
        calls: list[tuple[Any, dict[str, Any]]] = [
            (client.put_records, {"Records": records}),
            (client.describe_stream_summary, {}),
        ]
        for call, parameters in calls:
            try:
                call(**named, **parameters)
                yield urls.pop()
            except BotoCoreError:
                yield NO_HOST
    client.close()


def our_hosts(settings: ClientSettings, arns: list[str | None], account: str | None) -> list[str]:
    place = EndpointRules(settings)
    found = []
    for arn in arns:
        for operation in ("PutRecords", "DescribeStreamSummary"):
            try:
                found.append(place.endpoint(operation, arn, account)[0])
            except ServiceError as error:
                told = error.trouble, error.was_sent
                found.append(NO_HOST if told == (Trouble.ENDPOINT, False) else str(told))
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("region", PARTITIONS)
def test_every_host_is_the_one_that_botocore_calls(
    session: Any, region: str, mode: str | None
) -> None:
    plain = region.removeprefix("fips-")
    arns: list[str | None] = [
        None,
        *(
            f"arn:{PARTITIONS[region]}:kinesis:{plain}:{who}:stream/orders"
            for who in (OURS, ANOTHER)
        ),
    ]
    for is_fips, is_dual, account in itertools.product((False, True), (False, True), (None, OURS)):
        settings = ClientSettings(
            region=region,
            use_fips=is_fips,
            use_dualstack=is_dual,
            account_id_endpoint_mode=mode,
        )
        theirs = botocore_hosts(
            session,
            region,
            arns,
            account,
            use_fips_endpoint=is_fips,
            use_dualstack_endpoint=is_dual,
            account_id_endpoint_mode=mode,
        )
        assert our_hosts(settings, arns, account) == list(theirs), (is_fips, is_dual, account)


@pytest.mark.parametrize("region", [each for each in PARTITIONS if each != "us-iso-east-1"])
@pytest.mark.parametrize("is_fips", [False, True])
@pytest.mark.parametrize("is_dual", [False, True])
def test_a_role_is_assumed_where_botocore_would(
    session: Any, region: str, is_fips: bool, is_dual: bool
) -> None:
    settings = ClientSettings(
        region=region,
        use_fips=is_fips,
        use_dualstack=is_dual,
        role_arn=f"arn:aws:iam::{OURS}:role/r",
    )
    config = Config(use_fips_endpoint=is_fips, use_dualstack_endpoint=is_dual)
    client = session.create_client("sts", region_name=region, config=config)
    urls = urls_called(client, "sts", b"<a><AssumeRoleResult/></a>")
    client.assume_role(RoleArn=f"arn:aws:iam::{OURS}:role/r", RoleSessionName="me")
    client.close()
    assert [EndpointRules(settings).endpoint(ASSUME_ROLE, None, None)[0]] == urls


@pytest.mark.parametrize("name", ["use_fips_endpoint", "use_dualstack_endpoint"])
def test_a_setting_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    field = name.removesuffix("_endpoint")
    default = our_hosts(ClientSettings(**on(field, is_on=False)), [None], None)
    chosen = our_hosts(ClientSettings(**on(field)), [None], None)
    assert default != chosen
    monkeypatch.setenv(f"AWS_{name.upper()}", "true")
    assert our_hosts(ClientSettings(), [None], None) == chosen
    assert our_hosts(ClientSettings(**on(field, is_on=False)), [None], None) == default
    monkeypatch.delenv(f"AWS_{name.upper()}")
    (tmp_path / "config").write_text(f"[default]\n{name} = true\n[profile two]\nregion = x\n")
    assert our_hosts(ClientSettings(), [None], None) == chosen
    assert our_hosts(ClientSettings(**on(field, is_on=False)), [None], None) == default
    assert our_hosts(ClientSettings(profile="two", region="eu-west-1"), [None], None) == default


@pytest.mark.parametrize("field", ["use_fips", "use_dualstack"])
async def test_an_address_of_its_own_and_one_of_awss_are_refused_in_words(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", service.url)
    async with opened(ClientSettings(**on(field))) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.ENDPOINT, False)
    assert {"use_fips": "fips", "use_dualstack": "dual_stack"}[field] in error.message
    assert "AWS_ENDPOINT_URL_KINESIS" in error.message


async def test_a_mode_that_is_none_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCOUNT_ID_ENDPOINT_MODE", "always")
    async with opened(ClientSettings()) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.ENDPOINT, False)
    assert "AWS_ACCOUNT_ID_ENDPOINT_MODE" in error.message
    monkeypatch.setenv("AWS_ACCOUNT_ID_ENDPOINT_MODE", "Disabled")  # botocore takes any case
    assert our_hosts(ClientSettings(), [None], OURS) == our_hosts(ClientSettings(), [None], None)


def test_the_account_of_the_settings_makes_a_host_only_where_one_must() -> None:
    """The hosts of those who set it already do not change."""
    plain = our_hosts(ClientSettings(), [None], None)
    assert our_hosts(ClientSettings(account_id=OURS), [None], None) == plain
    (put, look) = our_hosts(
        ClientSettings(account_id=OURS, account_id_endpoint_mode="required"), [None], None
    )
    assert put == f"https://{OURS}.data-kinesis.eu-west-1.amazonaws.com/"
    assert look == f"https://{OURS}.control-kinesis.eu-west-1.amazonaws.com/"


def test_the_environment_s_endpoint_is_the_default_upstream_s_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("AWS_ENDPOINT_URL_KINESIS", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1/")
        (put, _) = our_hosts(ClientSettings(), [None], None)
        assert put == "http://127.0.0.1:1/"
        (put, _) = our_hosts(ClientSettings(name="eu", region="eu-west-1"), [None], None)
        assert put == "https://kinesis.eu-west-1.amazonaws.com/"
        (put, _) = our_hosts(ClientSettings(YANDEX, name="ya"), [None], None)
        assert put.startswith("https://yds.serverless.yandexcloud.net")


def test_who_gave_the_address_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert EndpointRules(ClientSettings(region="eu-west-1")).configured == Endpoint()
    assert EndpointRules(ClientSettings(endpoint_url="http://h")).configured == Endpoint("http://h")
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://of-the-profile\n")
    of_profile = Endpoint("http://of-the-profile", "the AWS profile")
    assert EndpointRules(ClientSettings()).configured == of_profile
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KINESIS"):
        monkeypatch.setenv(variable, f"http://{variable}")
        told = Endpoint(f"http://{variable}", variable)
        assert EndpointRules(ClientSettings()).configured == told
    assert EndpointRules(ClientSettings(name="eu")).configured == of_profile


def test_yandex_is_called_at_its_own_address_whatever_awss_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("FIPS", "DUALSTACK"):
        monkeypatch.setenv(f"AWS_USE_{name}_ENDPOINT", "true")
    assert our_hosts(ClientSettings(YANDEX), [None], OURS) == [f"{YANDEX.endpoint_url}/"] * 2

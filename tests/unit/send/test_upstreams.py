"""Two clients in one process: each has its own profile, proxy and trust, and no other's."""

import asyncio
import hashlib
import json
import socket
import ssl
import threading
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from botocore.credentials import SSOProvider
from botocore.tokens import SSOTokenProvider

from kdaemon.base.errors import Trouble
from kdaemon.base.redact import SECRETS
from kdaemon.base.service import YANDEX
from kdaemon.send.client import ClientSettings
from kdaemon.send.credentials import profile_problem
from tests.kit.certificates import Authority, Files
from tests.kit.patience import PATIENCE_S
from tests.unit.send.scripted import (
    ACCESS_KEY,
    DELIVERED,
    ORDERS,
    RECORDS,
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


def two_profiles(tmp_path: Path) -> None:
    """Keys as text, and keys of a process; each with a region of its own."""
    process = tmp_path / "process"
    keys = {"Version": 1, "AccessKeyId": "AKIDTWO", "SecretAccessKey": "secret-two"}
    process.write_text(f"#!/bin/sh\necho '{json.dumps(keys)}'\n")
    process.chmod(0o700)
    (tmp_path / "credentials").write_text(
        "[one]\naws_access_key_id = AKIDONE\naws_secret_access_key = secret-one\n"
    )
    (tmp_path / "config").write_text(
        "[profile one]\nregion = eu-north-1\n"
        f"[profile two]\nregion = ap-south-1\ncredential_process = {process}\n"
    )


async def test_two_profiles_and_the_environment_share_nothing(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    two_profiles(tmp_path)
    monkeypatch.delenv("AWS_DEFAULT_REGION")  # which goes before any profile's
    at = ClientSettings(endpoint_url=service.url, region="eu-west-1")
    one = ClientSettings(endpoint_url=service.url, profile="one", name="one")
    two = ClientSettings(endpoint_url=service.url, profile="two", name="two")
    async with opened(at) as plain, opened(one) as first, opened(two) as second:
        clients = (plain, first, second)
        for turn in range(3):
            await asyncio.gather(*(each.put_records(ORDERS, RECORDS) for each in clients))
            if turn:  # both look anew, at the same time
                service.script.extend([refusal("ExpiredToken")] * 3)
    expected = {
        ACCESS_KEY: ("eu-west-1", "wJalrXUtnFEMI-secret"),
        "AKIDONE": ("eu-north-1", "secret-one"),
        "AKIDTWO": ("ap-south-1", "secret-two"),
    }
    used = set()
    for received in service.received:
        sent = received.headers["Authorization"]
        key = sent.split("Credential=")[1].split("/")[0]
        region, secret_key = expected[key]
        assert_signed(received, service.url, region=region, access_key=key, secret_key=secret_key)
        used.add(key)
    assert used == set(expected)


async def test_what_never_left_says_whose_it_was(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for name, label in (("default", "no credentials"), ("eu", "upstream eu: no credentials")):
        async with opened(ClientSettings(endpoint_url=service.url, name=name)) as client:
            calls = [failure(client.put_records(ORDERS, RECORDS)) for _ in range(3)]
            for error in (*await asyncio.gather(*calls), await failure(client.caller())):
                assert error.message.startswith(label)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    async with opened(ClientSettings(endpoint_url="http://127.0.0.1:1", name="eu")) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
        assert error.message.startswith("upstream eu: 127.0.0.1:1: cannot connect")
    async with opened(ClientSettings(endpoint_url=service.url, name="eu")) as client:
        service.script.append(refusal("AccessDeniedException", "as the service says"))
        error = await failure(client.put_records(ORDERS, RECORDS))
        assert error.message == "as the service says"


async def test_what_each_upstream_calls_with_stays_hidden_for_as_long_as_it_does(
    service: ScriptedService, tmp_path: Path
) -> None:
    """Keys that never change, beside roles and tokens that change every hour."""
    (tmp_path / "token").write_text("t1.token-of-the-file-that-stays")
    (tmp_path / "token").chmod(0o600)
    two_profiles(tmp_path)
    at = service.url
    both = (
        ClientSettings(endpoint_url=at, profile="one", name="one"),
        ClientSettings(YANDEX, endpoint_url=at, iam_token_file=str(tmp_path / "token"), name="msk"),
    )
    async with opened(both[0]) as first, opened(both[1]) as second:
        for client in (first, second):
            await client.put_records(ORDERS, RECORDS)
        for number in range(200):
            SECRETS.register(f"a-token-of-another-{number}", owner="three")
            SECRETS.register(f"a-token-of-nobody-{number}")
        for secret in ("secret-one", "t1.token-of-the-file-that-stays"):
            assert SECRETS.clean(f"<{secret}>") == "<***>"
            assert SECRETS.are_in(secret.encode())


def sso_token(tmp_path: Path, session: str, token: str) -> None:
    name = hashlib.sha1(session.encode()).hexdigest()
    ends = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    kept = {"startUrl": f"https://{session}.example/start", "region": "eu-west-1"}
    text = json.dumps(kept | {"accessToken": token, "expiresAt": ends})
    (tmp_path / f"{name}.json").write_text(text)


async def test_two_sign_ons_go_with_their_own_tokens(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cache of tokens is one directory for all: each session's token has its own name there."""
    for provider in (SSOProvider, SSOTokenProvider):
        monkeypatch.setattr(provider, "_SSO_TOKEN_CACHE_DIR", str(tmp_path))
    sections = []
    for name in ("one", "two"):
        sso_token(tmp_path, f"sign-on-{name}", f"token-{name}")
        sections.append(
            f"[profile {name}]\nsso_session = sign-on-{name}\nsso_role_name = role-{name}\n"
            f"sso_account_id = 222222222222\nregion = eu-west-1\n"
            f"[sso-session sign-on-{name}]\nsso_region = eu-west-1\n"
            f"sso_start_url = https://sign-on-{name}.example/start\n"
        )
    (tmp_path / "config").write_text("".join(sections))
    asked: list[tuple[str, str]] = []

    async def portal(request: web.Request) -> web.StreamResponse:
        token = request.headers["x-amz-sso_bearer_token"]
        role = parse_qs(request.query_string)["role_name"][0]
        asked.append((token, role))
        ends = (datetime.now(UTC) + timedelta(hours=1)).timestamp() * 1000
        name = role.removeprefix("role-")
        keys = {"accessKeyId": f"ASIA{name}", "secretAccessKey": name, "sessionToken": name}
        return await answering_json({"roleCredentials": keys | {"expiration": int(ends)}})(request)

    async with scripted_service() as sso:
        sso.script.extend([portal] * 2)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", sso.url)
        one = ClientSettings(endpoint_url=service.url, profile="one")
        two = ClientSettings(endpoint_url=service.url, profile="two")
        async with opened(one) as first, opened(two) as second:
            await asyncio.gather(*(c.put_records(ORDERS, RECORDS) for c in (first, second)))
            assert (await first.caller()).account == "222222222222"
    assert sorted(asked) == [("token-one", "role-one"), ("token-two", "role-two")]
    for received in service.received:
        name = received.headers["X-Amz-Security-Token"]
        assert f"Credential=ASIA{name}/" in received.headers["Authorization"]


def test_the_problem_of_one_profile_is_told_of_that_one(tmp_path: Path) -> None:
    two_profiles(tmp_path)
    assert profile_problem("one") is None
    assert profile_problem("two") is None
    found = profile_problem("three")
    assert found is not None
    assert found[0] == ""
    assert "'three'" in found[1]


# A proxy of its own.


async def test_a_proxy_of_its_own_goes_before_the_environments(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "kinesis.test")
    proxy = service.url.replace("//", "//me:hush-hush-hush@")
    url = "http://kinesis.test:4567/"
    async with opened(ClientSettings(endpoint_url=url, proxy_url=proxy)) as client:
        await client.put_records(ORDERS, RECORDS)
        service.script.append(answering(407))
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert service.received[0].headers["Host"] == "kinesis.test:4567"
    assert service.received[0].headers["Proxy-Authorization"].startswith("Basic ")
    assert error.trouble is Trouble.PROXY
    assert f"{service.url.replace('//', '//***@')} (proxy_url)" in error.message
    assert "hush" not in error.message


async def test_a_role_is_asked_for_through_the_same_proxy(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://sts.test/")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    role = "arn:aws:iam::222222222222:role/r"
    proxy = service.url.replace("//", "//me:hush-hush-hush@")
    service.script.append(answering(407))
    async with opened(ClientSettings(role_arn=role, proxy_url=proxy)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert service.received[0].headers["Host"] == "sts.test"
    assert (error.trouble, error.was_sent) == (Trouble.PROXY, False)
    assert f"role_arn {role}: STS: " in error.message
    assert "(proxy_url)" in error.message
    assert "hush" not in error.message


async def test_no_proxy_at_all_is_a_setting(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with opened(ClientSettings(endpoint_url=service.url, proxy_url="")) as client:
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2


@pytest.mark.parametrize("has_proxy", [True, False])
async def test_what_botocore_asks_below_goes_the_same_way(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_proxy: bool
) -> None:
    """A profile's own role is assumed by a client of botocore: through the same proxy."""
    (tmp_path / "config").write_text(
        "[profile p]\nrole_arn = arn:aws:iam::222222222222:role/r\n"
        "credential_source = Environment\n"
    )
    async with scripted_service() as other:
        way, told = (other.url, "http://sts.test/") if has_proxy else ("", other.url)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", told)
        other.script.append(answering(403, b"<ErrorResponse><Error/></ErrorResponse>"))
        settings = ClientSettings(endpoint_url=service.url, profile="p", proxy_url=way)
        async with opened(settings) as client:
            error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
    assert [each.body.split(b"&")[0] for each in other.received] == [b"Action=AssumeRole"]


# Trust of its own.


@pytest.fixture
def certificates(tmp_path: Path) -> Files:
    return Authority(tmp_path / "tls").issue()


async def serve_tls(files: Files) -> tuple[web.AppRunner, str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    app = web.Application()
    app.router.add_post("/", answering_json(DELIVERED))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    return runner, f"https://127.0.0.1:{runner.addresses[0][1]}"


@pytest.mark.parametrize("is_yandex", [False, True])
async def test_a_bundle_is_trusted_by_its_own_upstream_only(
    certificates: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_yandex: bool
) -> None:
    another = Authority(tmp_path / "another").path
    monkeypatch.setenv("AWS_CA_BUNDLE", str(another))
    more: dict[str, Any] = {}
    if is_yandex:
        (tmp_path / "token").write_text("t1.token-token-token")
        (tmp_path / "token").chmod(0o600)
        more = {"service": YANDEX, "iam_token_file": str(tmp_path / "token")}
    runner, url = await serve_tls(certificates)
    try:
        right = ClientSettings(endpoint_url=url, ca_bundle=str(certificates.authority), **more)
        async with opened(right) as client, opened(ClientSettings(endpoint_url=url)) as other:
            assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
            error = await failure(other.put_records(ORDERS, RECORDS))
            assert (error.trouble, error.was_sent) == (Trouble.TLS, False)
            assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
    finally:
        await runner.cleanup()


async def test_a_bundle_that_is_missing_is_named_by_its_key(
    service: ScriptedService, tmp_path: Path
) -> None:
    settings = ClientSettings(endpoint_url=service.url, ca_bundle=str(tmp_path / "none"))
    async with opened(settings) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.TRUST, False)
    assert error.message.startswith(f"the key ca_file names {tmp_path / 'none'}, which ")


async def test_a_token_goes_nowhere_that_awss_environment_says(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("t1.token-token-token")
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", service.url)
    settings = ClientSettings(
        YANDEX, iam_token_file=str(tmp_path / "token"), proxy_url="http://h:1"
    )
    async with opened(settings) as client:
        await client.audit().search.again()
        who = client.audit().search.found
        assert who is not None
        route = who.route("PutRecords", None, await who.keys())
    assert str(route.address.url) == f"{YANDEX.endpoint_url}/"


async def test_names_that_nobody_resolves_keep_no_other_upstreams_name(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: more than the loop's own pool of threads has on any machine."""
    released, look = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: Any, *how: Any, **more: Any) -> Any:
        if str(host).startswith("hangs-"):
            released.wait(PATIENCE_S)
        return look("127.0.0.1" if str(host).endswith(".test") else host, *how, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    url = service.url.replace("127.0.0.1", "well.test")
    async with AsyncExitStack() as stack:
        down = []
        for number in range(40):
            settings = ClientSettings(endpoint_url=f"http://hangs-{number}.test")
            client = await stack.enter_async_context(opened(settings))
            down.append(asyncio.create_task(client.put_records(ORDERS, RECORDS)))
        for _ in range(100):
            await asyncio.sleep(0)
        well = await stack.enter_async_context(opened(ClientSettings(endpoint_url=url)))
        service.script.append(answering_json(DELIVERED))
        try:
            await well.put_records(ORDERS, RECORDS)
        finally:
            released.set()
            for each in down:
                each.cancel()
            await asyncio.gather(*down, return_exceptions=True)
    assert len(service.received) == 1

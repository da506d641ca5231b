"""A role that is assumed: its keys, their renewal, and what is said where STS refuses."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from kdaemon.base.description import Caller
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.redact import SECRETS
from kdaemon.base.verdict import Verdict
from kdaemon.send import lent
from kdaemon.send.client import KEYS_ASKED_S, ClientSettings, ServiceClient
from kdaemon.send.sts import lent_in, session_name
from kdaemon.settle.verdict import judge_call
from tests.kit.clock import jump
from tests.kit.sts import Sts, refused, sts_stand_in
from tests.unit.send.scripted import (
    ACCESS_KEY,
    ORDERS,
    RECORDS,
    SECRET_KEY,
    ScriptedService,
    assert_signed,
    failure,
    opened,
    refusal,
)

pytestmark = pytest.mark.usefixtures("aws_environment")
ROLE = "arn:aws:iam::222222222222:role/team/writer"
EXTERNAL_ID = "the-external-id:7"


@pytest.fixture
async def sts(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sts]:
    async with sts_stand_in({ACCESS_KEY: SECRET_KEY}, {ROLE: EXTERNAL_ID}) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        yield sts


def settings(service: ScriptedService, **more: Any) -> ClientSettings:
    values = {"role_arn": ROLE, "role_external_id": EXTERNAL_ID} | more
    return ClientSettings(endpoint_url=service.url, **values)


def hours_later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """The clock of what is lent is ahead by so much."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return super().now(tz) + timedelta(hours=hours)

    monkeypatch.setattr(lent, "datetime", Later)
    jump(KEYS_ASKED_S)


async def renewed(client: ServiceClient) -> None:
    """Until no renewal goes on, and calls ask for keys again."""
    while tasks := client.audit().search.tasks:
        await asyncio.wait(list(tasks))
    jump(KEYS_ASKED_S)


async def test_calls_go_with_the_keys_of_the_role(service: ScriptedService, sts: Sts) -> None:
    async with opened(settings(service, role_session_name="sess", role_duration_s=900)) as client:
        for _ in range(3):
            await client.put_records(ORDERS, RECORDS)
        assert await client.caller() == Caller("222222222222", "eu-west-1")
    access_key, secret_key, token = sts.lent[0]
    for received in service.received:
        assert_signed(received, service.url, access_key=access_key, secret_key=secret_key)
        assert received.headers["X-Amz-Security-Token"] == token
    assert sts.asked == [
        {
            "Action": "AssumeRole",
            "Version": "2011-06-15",
            "RoleArn": ROLE,
            "RoleSessionName": "sess",
            "DurationSeconds": "900",
            "ExternalId": EXTERNAL_ID,
        }
    ]
    for secret in sts.lent[0]:
        assert SECRETS.clean(f"x {secret} x") == "x *** x"


async def test_it_is_told_when_the_keys_of_the_role_end(service: ScriptedService, sts: Sts) -> None:
    async with opened(settings(service, role_duration_s=900)) as client:
        assert client.credentials_end_s is None
        await client.put_records(ORDERS, RECORDS)
        assert client.credentials_end_s == pytest.approx(
            datetime.now(UTC).timestamp() + 900, abs=60
        )


async def test_without_a_session_name_the_host_gives_one(
    service: ScriptedService, sts: Sts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sts.roles[ROLE] = None
    monkeypatch.setattr("socket.gethostname", lambda: "höst (1)" + "x" * 80)
    async with opened(settings(service, role_external_id=None)) as client:
        await client.put_records(ORDERS, RECORDS)
    (asked,) = sts.asked
    assert asked["RoleSessionName"] == session_name() == ("kdaemon-h-st-1-" + "x" * 80)[:64]
    assert "ExternalId" not in asked
    ClientSettings(role_arn=ROLE, role_session_name=session_name())  # is one that STS takes


async def test_many_first_calls_share_one_question(service: ScriptedService, sts: Sts) -> None:
    async with opened(settings(service)) as client:
        await asyncio.gather(*(client.put_records(ORDERS, RECORDS) for _ in range(8)))
    assert len(sts.asked) == 1


async def test_keys_near_their_end_are_renewed_and_nobody_waits(
    service: ScriptedService, sts: Sts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(settings(service)) as client:
        await client.put_records(ORDERS, RECORDS)
        hours_later(monkeypatch, 0.8)
        await client.put_records(ORDERS, RECORDS)  # and asks for the next ones beside
        await renewed(client)
        await client.put_records(ORDERS, RECORDS)
    assert [each.headers["X-Amz-Security-Token"] for each in service.received] == [
        *(sts.lent[0][2], sts.lent[0][2], sts.lent[1][2])
    ]


async def test_a_renewal_that_fails_leaves_the_keys_until_they_end(
    service: ScriptedService,
    sts: Sts,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened(settings(service, name="eu")) as client:
        await client.put_records(ORDERS, RECORDS)
        sts.answers.extend(refused("AccessDenied", "no") for _ in range(9))
        with caplog.at_level(logging.WARNING, "kdaemon.send"):
            for minutes in (50, 50.1, 59):
                hours_later(monkeypatch, minutes / 60)
                await client.put_records(ORDERS, RECORDS)
                await renewed(client)
        assert len(sts.asked) == 3  # the second is too soon after a failure
        said = [(each.getMessage(), each.__dict__["fields"]["of"]) for each in caplog.records]
        of = f"upstream eu: role_arn {ROLE}: STS"
        assert said == [("credentials are not renewed, and still good", of)] * 2
        hours_later(monkeypatch, 1.1)
        error = await failure(client.put_records(ORDERS, RECORDS))
        assert (error.code, error.trouble, error.was_sent) == (
            *("AccessDenied", Trouble.CREDENTIALS),
            False,
        )
        assert len(service.received) == 4
        sts.answers.clear()
        await client.put_records(ORDERS, RECORDS)
    assert service.received[-1].headers["X-Amz-Security-Token"] == sts.lent[1][2]


async def test_keys_that_kinesis_finds_expired_are_replaced_within_the_call(
    service: ScriptedService, sts: Sts
) -> None:
    service.script.append(refusal("ExpiredTokenException"))
    async with opened(settings(service)) as client:
        assert len((await client.put_records(ORDERS, RECORDS)).records) == 2
    first, second = service.received
    assert first.headers["X-Amz-Security-Token"] == sts.lent[0][2]
    assert second.headers["X-Amz-Security-Token"] == sts.lent[1][2]


async def test_what_the_role_is_assumed_with_is_looked_for_anew_when_it_is_stale(
    service: ScriptedService, sts: Sts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key pair of the environment that was replaced while the role's keys were good."""
    async with opened(settings(service)) as client:
        await client.put_records(ORDERS, RECORDS)
        sts.callers = {"AKIDNEWER": "another-secret"}
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDNEWER")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
        hours_later(monkeypatch, 2)
        await client.put_records(ORDERS, RECORDS)
    assert service.received[1].headers["X-Amz-Security-Token"] == sts.lent[1][2]


@pytest.mark.parametrize(
    ("code", "status", "named", "verdict"),
    [
        ("AccessDenied", 403, "external id", Verdict.HOLD),
        ("ExpiredToken", 403, "`profile`", Verdict.HOLD),
        ("InvalidClientTokenId", 403, "`profile`", Verdict.HOLD),
        ("SignatureDoesNotMatch", 403, "clock", Verdict.HOLD),
        ("ValidationError", 400, "role_duration_s", Verdict.HOLD),
        ("RegionDisabledException", 403, "`region`", Verdict.HOLD),
        ("SomethingNew", 400, "role_arn", Verdict.HOLD),
        ("Throttling", 400, "Throttling", Verdict.NOT_SENT),
        ("InternalFailure", 500, "InternalFailure", Verdict.NOT_SENT),
        ("ServiceUnavailable", 503, "ServiceUnavailable", Verdict.NOT_SENT),
    ],
)
async def test_what_sts_refuses_is_told_with_its_setting(
    service: ScriptedService, sts: Sts, code: str, status: int, named: str, verdict: Verdict
) -> None:
    sts.answers.extend(refused(code, "Said <by> STS", status) for _ in range(3))
    async with opened(settings(service, role_duration_s=900)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert not error.was_sent
    assert error.code == code
    assert error.message.startswith(f"role_arn {ROLE}: STS: {code}: Said <by> STS")
    assert named in error.message
    assert judge_call(error) is verdict
    assert_no_secret(error)
    assert service.received == []


def assert_no_secret(error: ServiceError) -> None:
    for secret in (EXTERNAL_ID, SECRET_KEY, ACCESS_KEY):
        assert secret not in str(error)


@pytest.mark.parametrize("external_id", ["another", None])
async def test_a_wrong_external_id_is_among_the_reasons(
    service: ScriptedService, sts: Sts, external_id: str | None
) -> None:
    async with opened(settings(service, role_external_id=external_id)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.code, error.trouble, error.was_sent) == (
        "AccessDenied",
        Trouble.CREDENTIALS,
        False,
    )
    state = "is not set" if external_id is None else "may be another one"
    assert f"(role_external_id {state})" in error.message
    assert "another)" not in error.message


@pytest.mark.parametrize(
    "answer",
    [
        *("", "{}", "<AssumeRoleResponse/>", "<AccessKeyId>a</AccessKeyId>"),
        (
            "<AccessKeyId>a</AccessKeyId><SecretAccessKey>b</SecretAccessKey>"
            "<SessionToken>c</SessionToken><Expiration>soon</Expiration>"
        ),
    ],
)
async def test_an_answer_without_keys_is_none(
    service: ScriptedService, sts: Sts, answer: str
) -> None:
    sts.answers.append(web.Response(text=answer))
    async with opened(settings(service)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
    assert "no keys that can be read" in error.message


@pytest.mark.parametrize("kind", ["gone", "page"])
async def test_an_sts_that_is_not_there_is_told_by_its_kind(
    service: ScriptedService, sts: Sts, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "gone":
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
    else:
        page = "<html><title>Sign in</title></html>"
        sts.answers.append(web.Response(status=403, text=page, content_type="text/html"))
    async with opened(settings(service)) as client:
        error = await failure(client.put_records(ORDERS, RECORDS))
    assert error.trouble is (Trouble.CONNECT if kind == "gone" else Trouble.FOREIGN)
    assert not error.was_sent
    assert f"role_arn {ROLE}: STS:" in error.message


async def test_an_sts_that_says_nothing_holds_no_call_up(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{port}")
        async with opened(settings(service, connect_timeout_s=0.05)) as client:
            error = await failure(client.put_records(ORDERS, RECORDS))
    assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
    assert "STS" in error.message
    assert ROLE in error.message


async def test_the_account_of_the_role_is_in_the_host_as_botocore_has_it(sts: Sts) -> None:
    async with opened(ClientSettings(role_arn=ROLE, role_external_id=EXTERNAL_ID)) as client:
        await client.audit().search.again()
        who = client.audit().search.found
        assert who is not None
        route = who.route("PutRecords", None, await who.keys())
    assert route.address.host == "222222222222.data-kinesis.eu-west-1.amazonaws.com"


async def test_an_sts_that_takes_longer_than_a_connection_is_heard(
    service: ScriptedService, sts: Sts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls that come meanwhile do not begin another question each."""
    let_go = asyncio.Event()
    lend = Sts.handle

    async def lend_late(self: Sts, request: web.Request) -> web.Response:
        await let_go.wait()
        return await lend(self, request)

    monkeypatch.setattr(Sts, "handle", lend_late)
    async with sts_stand_in({ACCESS_KEY: SECRET_KEY}, {ROLE: EXTERNAL_ID}) as slow:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", slow.url)
        async with opened(settings(service, connect_timeout_s=0.05)) as client:
            for _ in range(3):
                error = await failure(client.put_records(ORDERS, RECORDS))
                assert (error.trouble, error.was_sent) == (Trouble.CREDENTIALS, False)
            let_go.set()
            client.take_limits(settings(service))
            await client.audit().search.again()
            await client.put_records(ORDERS, RECORDS)
        assert len(slow.asked) == 1


async def test_the_profile_of_the_upstream_is_what_the_role_is_assumed_with(
    service: ScriptedService, sts: Sts, tmp_path: Any
) -> None:
    sts.callers = {"AKIDPROFILE": "secret-of-profile"}
    (tmp_path / "credentials").write_text(
        "[other]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = secret-of-profile\n"
    )
    async with opened(settings(service, profile="other")) as client:
        await client.put_records(ORDERS, RECORDS)
    assert len(sts.lent) == 1


async def test_moto_lends_keys_too(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An STS that others wrote: the form of its answer is not ours."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://{host}:{port}")
        async with opened(settings(service)) as client:
            await client.put_records(ORDERS, RECORDS)
    finally:
        server.stop()
    key_id = service.received[0].headers["Authorization"].split("Credential=")[1].split("/")[0]
    assert key_id.startswith("ASIA")


@pytest.mark.parametrize(
    "text", ["2026-11-28T12:00:00Z", "2026-11-28T12:00:00.123Z", "2026-11-28T12:00:00"]
)
def test_the_end_is_read_in_each_form(text: str) -> None:
    answer = (
        "<AccessKeyId>a</AccessKeyId><SecretAccessKey>b&amp;</SecretAccessKey>"
        f"<SessionToken>c</SessionToken><Expiration>{text}</Expiration>"
    )
    found = lent_in(answer.encode(), "222222222222")
    assert found is not None
    keys, ends_at = found
    assert keys.secret_key == "b&"
    assert ends_at.replace(microsecond=0) == datetime(2026, 11, 28, 12, tzinfo=UTC)

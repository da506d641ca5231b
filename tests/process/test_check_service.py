"""`kdaemon check --service` against services that say yes, no, or nothing."""

import json
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from kdaemon.cli import cli, service_check
from kdaemon.config.load import load_config
from tests.kit.daemon import clean_environment, sandbox, send
from tests.kit.sts import sts_stand_in
from tests.kit.web import Handler, serving

CONFIG = """
region = "us-east-1"
endpoint_url = "{url}"
[send]
call_timeout_ms = 60000
[streams.demo]
[streams.gone]
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)
    monkeypatch.setattr("kdaemon.send.control.CALLS_PER_SECOND", 100.0)  # each test looks anew


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with sandbox() as url:
        yield url


def check(tmp_path: Path, url: str, *flags: str, text: str = CONFIG) -> Result:
    path = tmp_path / "k.toml"
    path.write_text(text.format(url=url))
    return CliRunner().invoke(cli, ["check", "--service", "--config", str(path), *flags])


def fault(url: str, **what: Any) -> None:
    assert send("POST", f"{url}/sandbox/faults", json.dumps({"calls": None, **what}))[0] == 200


@pytest.fixture
def is_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service at loopback is taken for AWS itself, which knows DryRun."""
    monkeypatch.setattr(service_check, "AWS_DOMAINS", ("127.0.0.1",))


def written(url: str) -> str:
    return send("GET", f"{url}/sandbox/state")[1]


@pytest.mark.usefixtures("is_aws")
def test_what_is_there_is_ok_and_what_is_not_is_a_problem(tmp_path: Path, service: str) -> None:
    before = written(service)
    result = check(tmp_path, service)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    for subject in ("describe", "write", "quota", "limits"):
        assert any(line.startswith(f"ok      demo: {subject}: ") for line in lines), subject
    (problem,) = [line for line in lines if line.startswith("problem")]
    assert problem.startswith("problem gone: describe: ResourceNotFoundException")
    assert "; do: make the stream" in problem
    assert json.loads(written(service))["streams"] == json.loads(before)["streams"]


def test_without_a_problem_the_exit_is_0(tmp_path: Path, service: str) -> None:
    result = check(tmp_path, service, text=CONFIG.replace("[streams.gone]", ""))
    assert result.exit_code == 0, result.stdout


def test_what_stands_in_for_aws_is_asked_with_what_it_cannot_write(
    tmp_path: Path, service: str
) -> None:
    before = written(service)
    shown = check(tmp_path, service).stdout
    assert "note    demo: write: the service answers, and stands in for AWS" in shown
    assert json.loads(written(service))["streams"] == json.loads(before)["streams"]


def test_findings_are_told_to_programs_as_json_of_fixed_keys(tmp_path: Path, service: str) -> None:
    told = json.loads(check(tmp_path, service, "--json").stdout)
    assert told["is_ok"] is False
    assert {each["level"] for each in told["findings"]} == {"ok", "note", "problem"}
    keys = {"level", "upstream", "stream", "subject", "text", "do"}
    assert all(set(each) == keys for each in told["findings"])


def test_an_unlisted_stream_can_be_named(tmp_path: Path, service: str) -> None:
    text = CONFIG.partition("[streams")[0]
    assert "no right was tried" in check(tmp_path, service, text=text).stdout
    result = check(tmp_path, service, "--stream", "demo", text=text)
    assert (result.exit_code, "demo: write: the service answers" in result.stdout) == (0, True)


@pytest.mark.parametrize("operation", ["DescribeStreamSummary", "ListShards"])
def test_a_right_to_describe_that_is_missing_is_a_warning(tmp_path: Path, operation: str) -> None:
    with sandbox() as url:
        fault(url, kind="access_denied", operation=operation)
        result = check(tmp_path, url, text=CONFIG.replace("[streams.gone]", ""))
    assert result.exit_code == 0
    assert f"warning demo: describe: {operation} is not allowed" in result.stdout
    assert f"kinesis:{operation}" in result.stdout


@pytest.mark.usefixtures("is_aws")
def test_a_right_to_write_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    with sandbox() as url:
        fault(url, kind="access_denied", operation="PutRecords")
        result = check(tmp_path, url, text=CONFIG.replace("[streams.gone]", ""))
    assert result.exit_code == 1
    assert "problem demo: write: AccessDeniedException" in result.stdout
    assert "kdaemon iam" in result.stdout


def test_a_service_that_is_not_reached_is_told_once(tmp_path: Path) -> None:
    with sandbox() as url:
        pass
    result = check(tmp_path, url)
    assert result.exit_code == 1
    assert result.stdout.count("problem") == 1
    assert "1 more are not asked about: the service is not reached" in result.stdout


def test_no_credentials_and_no_region_are_told(
    tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    result = check(tmp_path, service)
    assert result.exit_code == 1
    assert "problem service: credentials: NoCredentials: " in result.stdout
    assert "; do: set AWS_ACCESS_KEY_ID and" in result.stdout
    assert result.stdout.count("AWS_ACCESS_KEY_ID") == 1, "advice is given once"
    assert "streams: not asked about, for that reason" in result.stdout
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    without = CONFIG.replace('region = "us-east-1"', "")
    result = check(tmp_path, service, text=without)
    assert "NoRegion" in result.stdout
    assert "; do: set the key `region`" in result.stdout


def test_each_upstream_is_asked_with_its_own_credentials(tmp_path: Path, service: str) -> None:
    with sandbox("other", service="yandex") as url:
        text = CONFIG.replace("[streams.gone]", "") + (
            f'[upstreams.yc]\nservice = "yandex"\nendpoint_url = "{url}"\n'
            '[streams.other]\nupstream = "yc"\n'
        )
        result = check(tmp_path, service, text=text)
    assert result.exit_code == 0, result.stdout
    assert "@yc/other: describe: the stream is there" in result.stdout
    assert "@yc/other: write: whether records may be written cannot be asked there" in result.stdout
    assert "demo: write: the service answers" in result.stdout


def test_a_wrong_configuration_is_78_and_asks_nobody(tmp_path: Path) -> None:
    result = check(tmp_path, "http://127.0.0.1:1", text=CONFIG + "linger_ms = -7\n")
    assert (result.exit_code, result.stdout) == (78, "")


def test_flags_of_the_check_need_it(tmp_path: Path) -> None:
    for flags in (["--json"], ["--stream", "demo"]):
        assert CliRunner().invoke(cli, ["check", *flags]).exit_code == 2


class _Ahead(Handler):
    """Denies all; its clock is ten minutes ahead, and it has no record of anybody's."""

    bodies: ClassVar[list[bytes]] = []

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(int(timestamp or time.time()) + 600)

    def do_POST(self) -> None:
        self.bodies.append(self.read_body())
        body = b'{"__type": "AccessDeniedException", "message": "You may not."}'
        self.answer(400, body, {"Content-Type": "application/x-amz-json-1.1"})


def test_a_clock_that_is_off_is_told_by_any_answer(tmp_path: Path) -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Ahead)) as url:
        result = check(tmp_path, url)
    assert result.exit_code == 1
    assert "problem service: clock: this machine's clock is " in result.stdout
    assert " s behind the service's" in result.stdout
    put = [body for body in _Ahead.bodies if b"Records" in body]
    assert put
    assert all(str(2**128).encode() in body and b'"DryRun":true' in body for body in put)


@pytest.mark.parametrize(
    ("key_id", "external_id", "code", "do"),
    [
        ("AKIABASE000000000001", "right", "", ""),
        ("AKIABASE000000000001", "wrong", "AccessDenied", "allow sts:AssumeRole on arn:aws:iam::"),
        (
            "AKIANOBODY0000000001",
            "right",
            "InvalidClientTokenId",
            "these credentials are not known",
        ),
    ],
)
async def test_a_role_that_may_not_be_assumed_is_told_with_what_lets_it(
    service: str,
    monkeypatch: pytest.MonkeyPatch,
    key_id: str,
    external_id: str,
    code: str,
    do: str,
) -> None:
    role = "arn:aws:iam::222222222222:role/producer"
    secret = "a-secret-of-the-base-user"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    async with sts_stand_in({"AKIABASE000000000001": secret}, {role: "right"}) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        config = load_config(
            text=f'region = "eu-west-1"\nendpoint_url = "{service}"\nrole_arn = "{role}"\n'
            f'role_external_id = "{external_id}"\n[streams.demo]\n'
        )
        findings = await service_check.look(config)
    (credentials,) = [each for each in findings if each.subject == "credentials"]
    assert (credentials.level.value == "problem") is bool(code)
    assert code in credentials.text
    assert do in credentials.do
    assert secret not in str(findings)
    if not code:
        assert "calls as account 222222222222 in region eu-west-1" in credentials.text


def test_a_token_of_yandex_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    token = tmp_path / "token"
    text = (
        'service = "yandex"\nendpoint_url = "{url}"\n'
        f'iam_token_file = "{token}"\n[streams.other]\n'
    )
    with sandbox("other", service="yandex") as url:
        missing = check(tmp_path, url, text=text)
        token.write_text("t1.a-token-of-the-tests.0123456789\n")
        there = check(tmp_path, url, text=text)
    assert missing.exit_code == 78
    assert "cannot be read" in missing.stderr
    assert "an IAM token of Yandex Data Streams was found" in there.stdout
    assert "0123456789" not in there.stdout


def test_an_address_that_the_environment_gives_is_told_with_its_variable(
    tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", service)
    done = check(tmp_path, "", "--json", text=CONFIG.replace('endpoint_url = "{url}"\n', ""))
    found = json.loads(done.stdout)["findings"]
    (told,) = (each for each in found if each["subject"] == "endpoint")
    assert told["text"] == f"calls go to {service}, by AWS_ENDPOINT_URL_KINESIS"
    assert "calls go to" not in check(tmp_path, service, "--json").stdout

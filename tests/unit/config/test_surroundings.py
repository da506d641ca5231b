"""What `kdaemon check` says of variables that are not kdaemon's own."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from kdaemon.base.endpoint import endpoint_problem, proxy_problem
from kdaemon.base.errors import ConfigError
from kdaemon.base.redact import SECRETS
from kdaemon.cli import cli
from kdaemon.cli.looks import read_checked
from kdaemon.config.keys import KEYS, STREAM_KEYS
from kdaemon.config.load import load_config
from kdaemon.config.surroundings import find_problems

PAIR = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret"}


def problems(environ: dict[str, str], text: str = "") -> list[str]:
    return [str(each) for each in find_problems(environ, load_config(text=text))]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        PAIR,
        {"https_proxy": "http://me:secret@proxy:3128", "HTTP_PROXY": "socks5://h:1"},
        {"ALL_PROXY": "socks5://h:1", "HTTPS_PROXY": "http://proxy"},
        {"ALL_PROXY": "socks5://h:1", "NO_PROXY": "*"},
        {"ALL_PROXY": "socks5://h:1", "NO_PROXY": ".amazonaws.com"},
        {"AWS_ENDPOINT_URL": "nonsense", "AWS_ENDPOINT_URL_KINESIS": "http://[::1]:4567"},
        {"AWS_ENDPOINT_URL": "nonsense", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
    ],
)
def test_what_can_be_used_is_no_problem(environ: dict[str, str]) -> None:
    assert problems(environ) == []


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_KINESIS", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize(
    ("text", "is_there"),
    [
        ("", True),
        ("region = 'us-east-1'", True),
        ("region = 'eu-central-1'", False),
        ("[streams.'arn:aws:kinesis:eu-central-1:123456789012:stream/s']", False),
        ("[streams.s]\narn = 'arn:aws:kinesis:us-east-1:123456789012:stream/s'", True),
        ("service = 'yandex'\nregion = 'ru-central1'", True),
    ],
)
def test_an_endpoint_of_another_region_than_the_streams_is_told(
    name: str, text: str, is_there: bool
) -> None:
    found = problems({name: "https://kinesis.us-east-1.amazonaws.com"}, text)
    assert (found == []) is is_there
    assert all(name in each and "us-east-1" in each for each in found)


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        (PAIR | {"AWS_ACCESS_KEY_ID": "AKIDTEST\n"}, "AWS_ACCESS_KEY_ID"),
        (PAIR | {"AWS_SECRET_ACCESS_KEY": " secret"}, "AWS_SECRET_ACCESS_KEY"),
        (PAIR | {"AWS_SESSION_TOKEN": "t\r\n"}, "AWS_SESSION_TOKEN"),
        ({"AWS_ACCESS_KEY_ID": "AKIDTEST"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_DEFAULT_REGION": "eu-west-1\n"}, "AWS_DEFAULT_REGION"),
        ({"AWS_REGION": "eu-west-1\n", "AWS_DEFAULT_REGION": "eu-west-1"}, "AWS_REGION"),
        ({"AWS_ENDPOINT_URL": "http://localhost:99999"}, "AWS_ENDPOINT_URL"),
        ({"https_proxy": "http://:1"}, "https_proxy"),
        ({"ALL_PROXY": "socks5://127.0.0.1:1"}, "ALL_PROXY"),
    ],
)
def test_what_cannot_be_used_is_told_by_name_and_not_shown(
    environ: dict[str, str], name: str
) -> None:
    (problem,) = problems(environ)
    assert problem.startswith(f"environment: {name} (variable): ")
    for value in ("AKIDTEST", "secret", "socks5://"):
        assert value not in problem.replace("set both", "")


@pytest.mark.parametrize(
    "value", ["http://:1", "socks5://u:sekrit@h", "http://u:sekrit@h:99999", "http://u:sekrit@"]
)
def test_what_is_expected_of_a_proxy_is_told_whole_and_its_password_is_not(value: str) -> None:
    (problem,) = problems({"ALL_PROXY": value})
    assert problem.endswith(
        "; expected http(s)://HOST[:PORT], where need be with USER:PASSWORD@ before HOST"
    )
    assert "***" not in problem
    assert "sekrit" not in problem


def test_no_hint_of_ours_is_taken_for_a_secret() -> None:
    hints = [key.expected for key in (*KEYS.values(), *STREAM_KEYS.values())]
    for url in ("", "x", "http://", "http://:1", "http://h:0", "http://h:99999", "ftp://h", "h\n"):
        hints += [endpoint_problem(url) or "", proxy_problem(url) or ""]
    for key in (*KEYS.values(), *STREAM_KEYS.values()):
        for check in key.checks:
            try:
                check("http://h:99999\0")
            except ValueError as wrong:
                hints.append(str(wrong))
    for hint in hints:
        assert SECRETS.clean(f"is wrong; expected {hint}") == f"is wrong; expected {hint}"


def test_a_setting_of_our_own_makes_the_variables_unused() -> None:
    text = "endpoint_url = 'http://127.0.0.1:4567'\nregion = 'eu-west-1'\nprofile = 'p'\n"
    environ = {
        "AWS_ENDPOINT_URL": "x",
        "AWS_DEFAULT_REGION": "\n",
        "AWS_REGION": "\n",
        "AWS_ACCESS_KEY_ID": "\n",
        "https_proxy": "socks5://h:1",
    }
    assert problems(environ, text) == []
    assert len(problems(environ | {"http_proxy": "socks5://h:1"}, text)) == 1


def test_check_tells_them_and_exits_with_78(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    result = CliRunner().invoke(cli, ["check"])
    assert (result.exit_code, result.stdout) == (78, "")
    assert "AWS_ACCESS_KEY_ID (variable): has a line break at its end" in result.stderr


def test_check_tells_of_certificates_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path))
    result = CliRunner().invoke(cli, ["check"])
    assert result.exit_code == 78
    assert f"AWS_CA_BUNDLE names {tmp_path}, which cannot be read" in result.stderr


def test_a_port_that_cannot_be_is_told_of_our_own_setting_too() -> None:
    result = CliRunner().invoke(cli, ["check", "--set", "endpoint_url=http://localhost:99999"])
    assert result.exit_code == 78
    assert "endpoint_url" in result.stderr


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory with AWS files of one profile each."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text("[profile one]\nregion = eu-west-1\n")
    (tmp_path / "credentials").write_text("[two]\naws_access_key_id = a\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_profile_of_either_aws_file_is_no_problem(
    monkeypatch: pytest.MonkeyPatch, aws: Path, name: str
) -> None:
    assert aws.is_dir()
    assert CliRunner().invoke(cli, ["check"]).exit_code == 0
    assert CliRunner().invoke(cli, ["check", "--set", f"profile={name}"]).exit_code == 0
    monkeypatch.setenv("AWS_PROFILE", name)
    assert CliRunner().invoke(cli, ["check"]).exit_code == 0


@pytest.mark.parametrize("key", ["profile", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_check_tells_of_a_profile_that_is_in_no_aws_file(
    monkeypatch: pytest.MonkeyPatch, aws: Path, key: str
) -> None:
    (aws / "credentials").unlink()
    arguments, source = ["check"], "environment"
    if key == "profile":
        source = str(aws / "k.toml")
        (aws / "k.toml").write_text("profile = 'nope'")
        arguments += ["--config", source]
        monkeypatch.setenv("AWS_PROFILE", "one")
    else:
        monkeypatch.setenv(key, "nope")
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr == (
        f"{source}: {key}: is 'nope', a profile that is not in {aws}/config and"
        f" {aws}/credentials (no such file): correct it, or add it\n"
    )


def test_check_tells_of_an_aws_file_that_a_profile_cannot_be_read_from(
    monkeypatch: pytest.MonkeyPatch, aws: Path
) -> None:
    (aws / "config").write_text("no section = 1\n")
    monkeypatch.setenv("AWS_PROFILE", "one")
    result = CliRunner().invoke(cli, ["check"])
    assert result.exit_code == 78
    assert f"AWS_PROFILE: is 'one', and {aws}/config cannot be read" in result.stderr


OURS, OTHERS = "111111111111", "222222222222"


@pytest.mark.parametrize(
    ("environ", "text", "words"),
    [
        ({"AWS_ACCOUNT_ID": "mine"}, "", "AWS_ACCOUNT_ID (variable): is 'mine'; expected the 12"),
        ({"AWS_ACCOUNT_ID": OURS}, f"account_id = '{OTHERS}'", f"account_id is {OTHERS}"),
        ({"AWS_ENDPOINT_URL_STS": "x"}, "", "AWS_ENDPOINT_URL_STS (variable): names no host"),
    ],
)
def test_what_would_lead_to_a_wrong_account_is_told(
    environ: dict[str, str], text: str, words: str
) -> None:
    (problem,) = problems(PAIR | environ, text)
    assert words in problem


def test_what_tells_the_account_rightly_or_is_not_used_is_no_problem() -> None:
    assert problems(PAIR | {"AWS_ACCOUNT_ID": OURS}, f"account_id = '{OURS}'") == []
    assert problems({"AWS_ACCOUNT_ID": "mine"}, "profile = 'p'") == []
    yandex = "service = 'yandex'\nendpoint_url = 'http://127.0.0.1'"
    assert problems({"AWS_ENDPOINT_URL_STS": "x"}, yandex) == []


def test_a_reload_is_held_to_what_its_own_changes_make_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon runs by the old one all the same, and keeps its environment until a restart."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", "https://kinesis.us-east-1.amazonaws.com")
    path = tmp_path / "config.toml"
    path.write_text("[streams.'arn:aws:kinesis:eu-central-1:123456789012:stream/s']\n")
    as_odd = load_config(text=path.read_text())
    assert read_checked(str(path), [], as_odd).config.streams.keys() == {"s"}
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL_KINESIS"):
        read_checked(str(path), [], load_config(text="[streams.s]\n"))
    path.write_text("[streams.s]\nin_flight_max = 0\n")
    with pytest.raises(ConfigError, match=r"streams\.s\.in_flight_max"):
        read_checked(str(path), [], as_odd)
    path.write_text("[streams.s]\nshare = 0.5\n")
    with pytest.raises(ConfigError, match=r"streams\.s\.share: is no setting any more: set shard_"):
        read_checked(str(path), [], as_odd)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_checked(str(path), [], as_odd)


@pytest.mark.parametrize(
    ("url", "listen", "comes_back"),
    [
        ("http://127.0.0.1:8990", "", True),
        ("http://localhost:8990/", "", True),
        ("https://[::1]:8990", "[::1]:8990", True),
        ("http://127.0.0.1:8990", "0.0.0.0:8990", True),
        ("http://localhost", "127.0.0.1:80", True),
        ("http://10.1.2.3:8990", "10.1.2.3:8990", True),
        ("http://127.0.0.1:4567", "", False),
        ("http://10.1.2.3:8990", "", False),
        ("http://kinesis.example:8990", "0.0.0.0:8990", False),
        ("http://127.0.0.1:8990", "127.0.0.1:0", False),
    ],
)
def test_an_address_where_kdaemon_itself_listens_is_a_problem_whoever_gives_it(
    url: str, listen: str, comes_back: bool
) -> None:
    """Each record would be taken again and again: clients' own variable is in its environment."""
    at = f"[listen]\nhttp = '{listen}'\ninsecure = true\n" if listen else ""
    found = problems({"AWS_ENDPOINT_URL_KINESIS": url}, at)
    assert bool(found) is comes_back
    assert all("AWS_ENDPOINT_URL_KINESIS" in each and "unset it" in each for each in found)
    configured = f"endpoint_url = '{url}'\n{at}"
    if not comes_back:
        load_config(text=configured)
        return
    with pytest.raises(ConfigError, match="endpoint_url: is where kdaemon itself listens"):
        load_config(text=configured)

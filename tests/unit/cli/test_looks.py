"""Bad input to `check`, `run` and `reload`: all that is wrong is told at once, with its place and
what to do; and it is no start, and no reload.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kdaemon.base.errors import ConfigError
from kdaemon.cli import cli
from kdaemon.cli.looks import read_checked
from kdaemon.config.load import load_config
from tests.kit.certificates import Authority
from tests.kit.daemon import command


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith(("AWS_", "KDAEMON_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@dataclass
class Wrong:
    """A configuration in which everything is wrong that is no setting, and what is told of it."""

    path: Path
    text: str
    told: list[str]


@pytest.fixture
def wrong(tmp_path: Path) -> Wrong:
    files, others = Authority(tmp_path / "a").issue(), Authority(tmp_path / "b").issue()
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "spool.db").write_text("the shopping list")
    path = tmp_path / "k.toml"
    text = (
        "region = 'eu-central-1'\nprofile = 'nobody'\n"
        f"ca_file = '{tmp_path}/none.pem'\n"
        f"[listen]\ntls_certificate = '{files.certificate}'\ntls_key = '{others.key}'\n"
        f"[auth]\nhttp = 'sigv4'\nprincipals_file = '{tmp_path}/none.toml'\n"
        f"[spool]\ndirectory = '{spool}'\n"
    )
    path.write_text(text)
    told = [
        f"{path}: profile: is 'nobody', a profile that is not in",
        f"{path}: ca_file: the key ca_file names {tmp_path}/none.pem, which cannot be read",
        f"{path}: listen.tls_key: {others.key} does not belong to the certificate",
        f"{tmp_path}/none.toml: file: cannot be read: No such file or directory. auth.principals_",
        f"{path}: spool.directory: {spool}/spool.db: not a database of kdaemon, and so left alone",
    ]
    return Wrong(path, text, told)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


@pytest.mark.parametrize("command", ["check", "run"])
def test_all_that_is_wrong_is_told_at_once(wrong: Wrong, command: str) -> None:
    result = invoke(command, "--config", str(wrong.path))
    assert result.exit_code == 78
    assert result.stdout == ""
    for text in wrong.told:
        assert text in result.stderr
    assert len(result.stderr.splitlines()) == len(wrong.told)


@pytest.mark.parametrize("command", ["check", "run"])
def test_wrong_settings_hide_nothing_of_what_is_around_the_right_ones(
    wrong: Wrong, command: str
) -> None:
    wrong.path.write_text("regoin = 'x'\n" + wrong.text + "bytes_max = -1\n")
    result = invoke(command, "--config", str(wrong.path), "--set", "drain.deadline_ms=long")
    assert result.exit_code == 78
    settings = [
        'regoin: is no key; did you mean "region"?',
        "spool.bytes_max: is -1",
        "flags: drain",
    ]
    for text in [*settings, *wrong.told]:
        assert text in result.stderr
    assert len(result.stderr.splitlines()) == len(settings) + len(wrong.told)


def test_a_reload_to_it_is_refused_with_all_of_it(wrong: Wrong) -> None:
    with pytest.raises(ConfigError) as caught:
        read_checked(str(wrong.path), [], load_config(text="region = 'eu-central-1'\n"))
    for text in wrong.told:
        assert text in str(caught.value)


def test_a_reload_looks_at_nothing_that_is_in_use(wrong: Wrong) -> None:
    """A certificate that is being replaced, and the spool, which this process may have open."""
    text = wrong.text.replace("profile = 'nobody'\n", "").replace("[auth]\nhttp = 'sigv4'\n", "")
    lines = [each for each in text.splitlines() if not each.startswith(("ca_file", "principals"))]
    old = load_config(text="\n".join(lines))
    link = wrong.path.parent / "another-name"
    link.symlink_to(Path(old.spool.directory))
    wrong.path.write_text("\n".join(lines).replace(old.spool.directory, str(link)))
    assert read_checked(str(wrong.path), [], old).config.spool.directory == str(link)


def test_a_finding_stands_where_its_setting_was_given(
    wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = str(wrong.path.parent / "spool")
    monkeypatch.setenv("KDAEMON_SPOOL_DIRECTORY", spool)
    assert (
        f"environment: KDAEMON_SPOOL_DIRECTORY: {spool}/spool.db: not a" in invoke("check").stderr
    )
    flags = ("--set", f"spool.directory={spool}", "--set", "profile=nobody")
    told = invoke("check", *flags).stderr
    assert f"flags: spool.directory: {spool}/spool.db: not a" in told
    assert "flags: profile: is 'nobody'" in told


def test_a_start_that_fails_tells_the_rest_too(wrong: Wrong) -> None:
    """What `run` meets first is a failed start, with all the others behind it."""
    lines = [each for each in wrong.text.splitlines() if "sigv4" not in each and each != "[auth]"]
    text = "\n".join(each for each in lines if not each.startswith("principals"))
    wrong.path.write_text(text.replace("[listen]", "[listen]\nhttp = '127.0.0.1:0'"))
    patient = "from kdaemon.daemon import run; run.OTHERS_TIMEOUT_S = 60.0"  # on a busy machine
    done = command("run", "--config", str(wrong.path), before=patient)
    assert done.returncode == 1
    assert "cannot start: " in done.stderr
    for told in wrong.told:
        what = told.partition(": ")[2].partition(": ")[2]
        if "auth.principals_" not in told:
            assert done.stderr.count(what) == 1, done.stderr


def file_in_place(spool: Path) -> None:
    spool.write_text("x")


def no_parent(spool: Path) -> None:
    spool.parent.rmdir()


def a_directory_of_that_name(spool: Path) -> None:
    (spool / "spool.db").mkdir(parents=True)


def open_to_all(spool: Path) -> None:
    spool.mkdir()
    spool.chmod(0o777)


def a_foreign_database(spool: Path) -> None:
    import sqlite3

    spool.mkdir()
    with sqlite3.connect(spool / "spool.db") as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (file_in_place, "not a directory, or a link in its place: move it away"),
        (no_parent, "does not exist, nor does the directory above it: mkdir -p"),
        (a_directory_of_that_name, "not a regular file: remove it"),
        (open_to_all, "everybody may write there (mode 0777): chmod 0700 it"),
        (a_foreign_database, "not a database of kdaemon, and so left alone"),
    ],
)
def test_a_place_that_cannot_hold_a_spool_is_told_before_a_start_and_left_alone(
    tmp_path: Path, make: Any, told: str
) -> None:
    spool = tmp_path / "above" / "spool"
    spool.parent.mkdir()
    make(spool)
    before = sorted(tmp_path.rglob("*"))
    result = invoke("check", "--set", f"spool.directory={spool}")
    assert result.exit_code == 78
    assert f"flags: spool.directory: {spool}" in result.stderr
    assert told in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_right_that_is_missing_is_told_with_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for another user than root
    told = invoke("check", "--set", f"spool.directory={spool}").stderr
    assert f"spool.directory: {spool}: cannot be made: Permission denied for user" in told
    assert f"{tmp_path} belongs to" in told
    spool.mkdir(0o700)
    told = invoke("check", "--set", f"spool.directory={spool}").stderr
    assert f"{spool}: Permission denied for user" in told
    assert "chown -R" in told


def test_a_file_that_a_reload_cannot_read_is_told(tmp_path: Path) -> None:
    result = invoke(
        "reload", "--config", f"{tmp_path}/none.toml", "--set", "listen.admin=127.0.0.1:1"
    )
    assert result.exit_code == 1
    assert f"{tmp_path}/none.toml: file: cannot be read" in result.stderr
    assert "looked for at 127.0.0.1:1" in result.stderr


@pytest.mark.parametrize("command", ["check", "run", "reload", "status", "put"])
def test_an_unknown_flag_is_wrong_usage_with_the_nearest_one(command: str) -> None:
    result = invoke(command, "--confg", "x")
    assert result.exit_code == 2
    assert "--config" in result.stderr


@pytest.mark.parametrize("command", ["check", "run", "reload", "status", "top"])
def test_an_unknown_key_in_a_flag_is_told_with_the_nearest_one(command: str) -> None:
    result = invoke(command, "--set", "listen.admn=x")
    assert result.exit_code == 78
    assert 'flags: listen.admn: is no key; did you mean "admin"?' in result.stderr


# Upstreams that one spelling could mean

TWO_ROLES = """
[upstreams.a]
region = "eu-central-1"
role_arn = "arn:aws:iam::123456789012:role/a"
[upstreams.b]
region = "eu-central-1"
role_arn = "arn:aws:iam::123456789012:role/b"
"""
TWO_TOKENS = """
service = "yandex"
endpoint_url = "https://yds.example/ru-central1/b1g/etn"
[upstreams.b]
service = "yandex"
endpoint_url = "https://other.example/ru-central1/b1g/etn"
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            TWO_ROLES,
            "same account 123456789012 and region eu-central-1 as the upstream a, and an ARN",
        ),
        (TWO_TOKENS, "same database /ru-central1/b1g/etn as the upstream default, and a path"),
    ],
)
def test_two_upstreams_that_one_spelling_means_are_told_and_are_right(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "k.toml"
    path.write_text(text)
    result = invoke("check", "--config", str(path))
    assert result.exit_code == 0
    assert result.stderr.startswith(f"{path}: upstreams.b: is of the {told} means that one.")
    assert 'upstream = "b"' in result.stderr
    assert "@b/NAME" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("change", ["eu-west-1", "123456789013"])
def test_upstreams_that_differ_are_no_news(tmp_path: Path, change: str) -> None:
    path = tmp_path / "k.toml"
    old = "eu-central-1" if "-" in change else "123456789012"
    head, _, tail = TWO_ROLES.rpartition(old)
    path.write_text(head + change + tail)
    assert invoke("check", "--config", str(path)).stderr == ""

"""`kdaemon init`, `iam` and `completion`: what helps to begin. None of them asks anybody."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kdaemon.base.operations import may_be_passed_on
from kdaemon.cli import cli
from kdaemon.config.load import load_config
from tests.kit.stores import append, open_store


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


# init

YANDEX = "https://yds.serverless.yandexcloud.net/ru-central1/b1g/etn"
WANTED = [
    ["--stream", "orders"],
    ["--stream", "orders", "--stream", "a.b", "--region", "eu-central-1", "--ordered"],
    ["--stream", "arn:aws:kinesis:eu-central-1:123456789012:stream/clicks", "--spool", "/var/s"],
    ["--service", "yandex", "--stream", "folder/stream", "--endpoint-url", YANDEX, "--spool", "/s"],
]


@pytest.mark.parametrize("flags", WANTED)
def test_what_is_written_is_a_configuration(flags: list[str]) -> None:
    result = invoke("init", *flags)
    assert result.exit_code == 0, result.stderr
    config = load_config(text=result.stdout)
    assert len(config.streams) == flags.count("--stream")
    assert config.accept_unlisted is False
    stream = next(iter(config.streams.values()))
    assert stream.acknowledge == ("stored" if "--spool" in flags else "delivered")
    assert stream.ordering == ("partition_key" if "--ordered" in flags else "none")


@pytest.mark.parametrize("flags", WANTED)
def test_each_commented_setting_can_be_put_in_force(flags: list[str]) -> None:
    lines = invoke("init", *flags).stdout.splitlines()
    commented = [at for at, line in enumerate(lines) if line.startswith("# ") and " = " in line]
    assert len(commented) >= 8
    for at in commented:
        text = "\n".join([*lines[:at], lines[at].removeprefix("# "), *lines[at + 1 :]])
        load_config(text=text)


def test_a_file_is_made_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "k.toml"
    assert invoke("init", "--stream", "a", "--output", str(path)).exit_code == 0
    written = path.read_text()
    assert "a" in tomllib.loads(written)["streams"]
    again = invoke("init", "--stream", "b", "--output", str(path))
    assert (again.exit_code, path.read_text()) == (1, written)
    assert "exists, and is not overwritten" in again.stderr
    nowhere = invoke("init", "--stream", "b", "--output", str(tmp_path / "no" / "k.toml"))
    assert nowhere.exit_code == 1
    assert "No such file or directory" in nowhere.stderr


def test_what_cannot_be_a_configuration_is_78_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "k.toml"
    flags = ["--stream", "no name", "--region", "EU", "--output", str(path)]
    result = invoke("init", *flags)
    assert result.exit_code == 78
    assert "kdaemon init: region" in result.stderr
    assert "no name" in result.stderr
    assert not path.exists()
    assert invoke("init").exit_code == 2


# iam


def policy(*flags: str) -> Any:
    result = invoke("iam", *flags)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def allowed(found: Any) -> dict[str, list[str]]:
    return {
        action: statement["Resource"]
        for statement in found["Statement"]
        for action in statement["Action"]
    }


def settings(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


HOME = settings("region=eu-central-1", "account_id=123456789012")
ORDERS = "arn:aws:kinesis:eu-central-1:123456789012:stream/orders"


def test_the_least_policy_writes_and_describes_the_listed_streams() -> None:
    other = "arn:aws:kinesis:us-east-1:999999999999:stream/clicks"
    streams = settings("streams.orders.linger_ms=5", f"streams.{other}.linger_ms=5")
    assert allowed(policy(*HOME, *streams)) == {
        "kinesis:PutRecords": [ORDERS, other],
        "kinesis:DescribeStreamSummary": [ORDERS, other],
        "kinesis:ListShards": [ORDERS, other],
    }
    one = allowed(policy(*HOME, *streams, "--stream", "orders"))
    assert one["kinesis:PutRecords"] == [ORDERS]


def test_what_is_not_known_stands_as_a_star_and_is_told() -> None:
    result = invoke("iam", "--stream", "orders")
    resource = allowed(json.loads(result.stdout))["kinesis:PutRecords"]
    assert resource == ["arn:aws:kinesis:*:*:stream/orders"]
    assert "not known: set account_id and region\n" in result.stderr
    assert "accept_unlisted" in result.stderr
    result = invoke("iam", *HOME)
    assert allowed(json.loads(result.stdout))["kinesis:PutRecords"][0].endswith(":stream/*")
    assert "the policy is for all of them" in result.stderr


def test_only_what_is_missing_is_said_to_be_and_a_region_of_the_environment_counts() -> None:
    for key, told in (("account_id=123456789012", "region"), ("region=eu-central-1", "account_id")):
        result = invoke("iam", "--stream", "orders", *settings(key))
        assert f"not known: set {told}\n" in result.stderr
    assert "not known" not in invoke("iam", "--stream", "orders", *HOME).stderr
    environ = {"AWS_REGION": "eu-west-3"}
    result = CliRunner().invoke(cli, ["iam", "--stream", "orders"], env=environ)
    resource = allowed(json.loads(result.stdout))["kinesis:PutRecords"]
    assert resource == ["arn:aws:kinesis:eu-west-3:*:stream/orders"]
    assert "the region eu-west-3 is that of AWS_REGION here" in result.stderr
    result = CliRunner().invoke(cli, ["iam", "--stream", "orders", *HOME], env=environ)
    assert allowed(json.loads(result.stdout))["kinesis:PutRecords"] == [ORDERS]


def test_another_partition_has_its_own_arns() -> None:
    found = allowed(policy("--stream", "orders", *settings("region=cn-north-1")))
    assert found["kinesis:ListShards"] == ["arn:aws-cn:kinesis:cn-north-1:*:stream/orders"]


def test_what_is_passed_on_is_allowed_only_if_asked_for() -> None:
    operations = ",".join(may_be_passed_on())
    everything = settings(f"listen.operations_passed_on={operations}")
    plain = allowed(policy(*HOME, *everything, "--stream", "orders"))
    assert {name.partition(":")[2] for name in plain} == {
        *("PutRecords", "DescribeStreamSummary", "ListShards"),
    }
    found = allowed(policy(*HOME, *everything, "--stream", "orders", "--passed-on"))
    assert set(found) == {f"kinesis:{name}" for name in ("PutRecords", *may_be_passed_on())}
    assert found["kinesis:GetRecords"] == [ORDERS]
    assert found["kinesis:ListStreams"] == ["*"]
    assert found["kinesis:DescribeStreamConsumer"] == [f"{ORDERS}/consumer/*"]


def test_a_role_that_is_assumed_has_a_policy_of_its_own() -> None:
    role = "arn:aws:iam::123456789012:role/producer"
    flags = [*settings(f"role_arn={role}", "region=eu-central-1"), "--stream", "orders"]
    result = invoke("iam", *flags, *settings("role_external_id=7f2c"))
    found = json.loads(result.stdout)
    assert allowed(found["default"]) == {"sts:AssumeRole": [role]}
    assert allowed(found[f"default: {role}"])["kinesis:PutRecords"] == [ORDERS]
    assert "sts:ExternalId" in result.stderr


def test_a_key_of_kms_is_allowed_if_named() -> None:
    key = "arn:aws:kms:eu-central-1:123456789012:key/1"
    assert allowed(policy(*HOME, "--stream", "orders", "--kms-key", key))[
        "kms:GenerateDataKey"
    ] == [key]


def test_each_upstream_has_its_rights_and_yandex_has_roles(tmp_path: Path) -> None:
    path = tmp_path / "k.toml"
    path.write_text(
        f'region = "eu-central-1"\naccount_id = "123456789012"\n[streams.orders]\n'
        f'[upstreams.us]\nregion = "us-east-1"\naccount_id = "123456789012"\n'
        f'[upstreams.yc]\nservice = "yandex"\nendpoint_url = "{YANDEX}"\n'
        f'[streams.clicks]\nupstream = "us"\nupstream_name = "c2"\n[streams.y]\nupstream = "yc"\n'
    )
    result = invoke("iam", "--config", str(path))
    found = json.loads(result.stdout)
    assert set(found) == {"default", "us"}
    us = "arn:aws:kinesis:us-east-1:123456789012:stream/c2"
    assert allowed(found["us"])["kinesis:PutRecords"] == [us]
    assert "yds.writer" in result.stderr
    alone = policy("--config", str(path), "--upstream", "us")
    assert allowed(alone)["kinesis:PutRecords"] == [us]
    words = invoke("iam", "--config", str(path), "--upstream", "yc")
    assert words.exit_code == 0
    assert "yds.writer" in words.stdout
    assert "for y," in words.stdout
    assert invoke("iam", "--config", str(path), "--upstream", "nope").exit_code == 2
    named = policy("--config", str(path), "--stream", "@us/more")
    assert allowed(named)["kinesis:PutRecords"] == [us.replace("c2", "more")]


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--stream", "", "is no name of a stream: expected 1-128"),
        ("--stream", "a b", "is no name of a stream: expected 1-128"),
        ("--stream", "@", "is no name of a stream: expected 1-128"),
        ("--stream", "@nope/orders", "there is no upstream nope; known: default"),
        ("--upstream", "nope", "there is no upstream nope; known: default"),
        ("--kms-key", "alias/mine", "is no ARN of a key; expected arn:aws:kms:REGION:ACCOUNT:key"),
    ],
)
def test_a_policy_is_made_for_nothing_that_cannot_be(option: str, value: str, told: str) -> None:
    result = invoke("iam", option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr
    assert option in result.stderr


def test_a_place_may_have_any_characters() -> None:
    place = "/srv/\U0001f600 \x7f\u202e"
    result = invoke("init", "--stream", "orders", "--spool", place)
    assert result.exit_code == 0, result.stderr
    assert tomllib.loads(result.stdout)["spool"]["directory"] == place


def test_a_stream_that_is_named_twice_is_written_once() -> None:
    result = invoke("init", "--stream", "orders", "--stream", "orders")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("[streams.orders]") == 1


def test_streams_of_the_spool_are_added(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    append(store, 1, stream="old")
    append(store, 2, stream="@us/other")
    store.close()
    flags = [*HOME, *settings("streams.orders.linger_ms=5", f"spool.directory={tmp_path}")]
    flags += settings("upstreams.us.region=us-east-1", "upstreams.us.account_id=123456789012")
    assert allowed(policy(*flags, "--upstream", "default"))["kinesis:PutRecords"] == [ORDERS]
    found = policy(*flags, "--stored")
    resources = allowed(found["default"])["kinesis:PutRecords"]
    assert resources == [ORDERS, ORDERS.replace("orders", "old")]
    other = "arn:aws:kinesis:us-east-1:123456789012:stream/other"
    assert allowed(found["us"])["kinesis:PutRecords"] == [other]
    assert invoke("iam", "--stored").exit_code == 78


# completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_KDAEMON_COMPLETE" in result.stdout
    assert invoke("completion", "tcsh").exit_code == 2


@pytest.fixture
def path_with_kdaemon(tmp_path: Path) -> str:
    """A search path on which this kdaemon is `kdaemon`."""
    program = tmp_path / "bin" / "kdaemon"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kdaemon "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


LINES = [
    ("kdaemon sta", ["status"]),
    ("kdaemon dead", ["dead-letters"]),
    ("kdaemon spool ver", ["verify"]),
    ("kdaemon put --part", ["--partition-key", "--partition-key-field"]),
    ("kdaemon put --acknowledge st", ["stored"]),
    ("kdaemon work", []),
]


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_bash_completes(path_with_kdaemon: str, line: str, wanted: list[str]) -> None:
    """As readline has it: the words, and the function that the script registers."""
    words = line.split(" ")
    asked = f"""
        complete() {{ registered="$*"; }}; compopt() {{ :; }}
        eval "$(kdaemon completion bash)"
        set -- $registered; while [ "$1" != -F ]; do shift; done
        COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMPREPLY=()
        $2 kdaemon {words[-1]} {words[-2]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", asked],
        env={**os.environ, "PATH": path_with_kdaemon},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == wanted


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_fish_completes(path_with_kdaemon: str, line: str, wanted: list[str]) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not on this machine")
    asked = f"kdaemon completion fish | source; complete --do-complete '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", asked],
        env={**os.environ, "PATH": path_with_kdaemon},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(said.partition("\t")[0] for said in done.stdout.splitlines()) == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_good(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this machine")
    script = invoke("completion", shell).stdout
    subprocess.run([shell, "-n"], input=script.encode(), check=True)


def test_commands_and_options_are_completed() -> None:
    def completed(*words: str) -> list[str]:
        env = {
            "_KDAEMON_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["kdaemon", *words]),
            "COMP_CWORD": str(len(words)),
        }
        result = CliRunner().invoke(cli, [], env=env, prog_name="kdaemon")
        return [line.partition(",")[2] for line in result.stdout.splitlines()]

    assert set(completed("")) >= {"run", "check", "config", "status", "top", "iam", "init", "spool"}
    assert "--effective" in completed("config", "--e")
    assert "status" in completed("spool", "st")

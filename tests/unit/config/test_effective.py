"""The configuration in force, with who gave it; and the schema that is made from its keys."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from kdaemon.cli import cli
from kdaemon.config.effective import as_toml, as_tree, effective
from kdaemon.config.keys import KEYS, STREAM_KEYS, UPSTREAM_KEYS
from kdaemon.config.load import Loaded, Sources, load_sources
from kdaemon.config.schema import config_schema

EXAMPLE = Path(__file__).parents[3] / "config.example.toml"
LARGE = """
service = "yandex"
endpoint_url = "https://yds.example.net/ru-central1/b1g/etn"
proxy_url = "http://user:wonderful-word@proxy:3128"

[send]
connections_max = 1234

[default]
in_flight_max = 25
linger_ms = 7
buffer_bytes_max = 8388608

[upstreams.eu]
region = "eu-central-1"
account_id = "123456789012"
profile = "Ä \\u001b \\" name"

[upstreams.eu-2]
region = "eu-west-1"
account_id = "123456789013"
connections_max = 99

[streams.orders]
max_age_ms = 5

[streams."name.with.dots"]
upstream = "eu"
upstream_name = "other"
aggregation = "kpl"

[streams."arn:aws:kinesis:eu-central-1:123456789012:stream/clicks"]

[streams.empty]
"""


def loaded(text: str = "", *, environ: Mapping[str, str] = {}, **more: Any) -> Loaded:
    return load_sources(Sources(text, "k.toml", **more), environ)


def notes(found: Loaded, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    return {".".join(each.path): each.note for each in effective(found, environ or {})}


def test_what_a_variable_of_aws_gives_is_told_where_nothing_else_does() -> None:
    environ = {
        "AWS_ENDPOINT_URL": "http://localhost:4566",
        "AWS_ENDPOINT_URL_KINESIS": "http://user:word@localhost:4567",
        "AWS_REGION": "eu-west-1",
    }
    account = "account_id = '111111111111'"
    found = loaded(f"[upstreams.eu]\nregion = 'eu-central-1'\n{account}")
    told = notes(found, environ)
    assert told["endpoint_url"] == (
        "default; http://***@localhost:4567 by environment AWS_ENDPOINT_URL_KINESIS"
    )
    assert told["region"] == "default; eu-west-1 by environment AWS_REGION"
    assert told["upstreams.eu.region"] == "k.toml"
    assert told["upstreams.eu.endpoint_url"] == "default", "the variable is the default upstream's"
    assert notes(loaded("endpoint_url = 'http://h'"), environ)["endpoint_url"] == "k.toml"
    ignored = environ | {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    assert notes(found, ignored)["endpoint_url"] == "default"
    tree = as_tree(effective(found, environ))
    assert tree["region"]["beside"] == {"variable": "AWS_REGION", "value": "eu-west-1"}
    assert tree["region"]["value"] == ""
    assert "word" not in as_toml(effective(found, environ))


@pytest.mark.parametrize(
    "text",
    ["", EXAMPLE.read_text(), LARGE.replace("user:wonderful-word@", "").replace("\\u001b ", "")],
)
def test_what_is_printed_is_a_configuration_that_means_the_same(text: str) -> None:
    before = loaded(text)
    printed = as_toml(effective(before, {}))
    assert load_sources(Sources(printed), {}).config == before.config
    assert "\x1b" not in printed


def test_each_key_is_told_once_and_no_other() -> None:
    told = [each.path for each in effective(loaded(LARGE), {})]
    assert len(told) == len(set(told))
    assert set(told) >= set(KEYS)
    assert len(told) == len(KEYS) + 2 * len(UPSTREAM_KEYS) + 4 * len(STREAM_KEYS)


def test_each_value_says_who_gave_it() -> None:
    environ = {"KDAEMON_LISTEN_HTTP": "127.0.0.1:1", "KDAEMON_DEFAULT_LINGER_MS": "3"}
    flags = [("log.level", "debug"), ("streams.orders.in_flight_max", "2")]
    told = notes(loaded(LARGE, environ=environ, flags=flags))
    assert told["service"] == "k.toml"
    assert told["listen.admin"] == "default"
    assert told["listen.http"] == "environment KDAEMON_LISTEN_HTTP"
    assert told["log.level"] == "flag --set log.level"
    assert told["default.linger_ms"] == "environment KDAEMON_DEFAULT_LINGER_MS"
    assert told["streams.orders.max_age_ms"] == "k.toml"
    assert told["streams.empty.in_flight_max"] == "k.toml, by default.in_flight_max"
    linger = "environment KDAEMON_DEFAULT_LINGER_MS, by default.linger_ms"
    assert told["streams.orders.linger_ms"] == linger
    in_flight = "flag --set streams.orders.in_flight_max"
    assert told["streams.orders.in_flight_max"] == in_flight
    assert told["upstreams.eu.connections_max"] == "k.toml, by send.connections_max"
    assert told["upstreams.eu-2.connections_max"] == "k.toml"
    assert told["upstreams.eu.fips"] == "default"


def test_a_size_that_another_bounds_is_not_its_givers() -> None:
    text = '[default]\nbatch_bytes_max = 10000000\n[upstreams.y]\nservice = "yandex"\n'
    text += 'endpoint_url = "https://yds.example.net/a/b/c"\n[streams.s]\nupstream = "y"\n'
    assert notes(loaded(text))["streams.s.batch_bytes_max"] == "default"


def test_passwords_are_masked_and_nothing_moves_a_terminal() -> None:
    role = 'role_arn = "arn:aws:iam::123456789012:role/r"\nrole_external_id = "7f2c-secret"\n'
    found = loaded(LARGE.replace("[upstreams.eu]\n", "[upstreams.eu]\n" + role))
    for printed in (as_toml(effective(found, {})), json.dumps(as_tree(effective(found, {})))):
        assert "wonderful-word" not in printed
        assert "7f2c-secret" not in printed
        assert "arn:aws:iam::123456789012:role/r" in printed
        assert "http://***@proxy:3128" in printed
        assert "\x1b" not in printed


def test_programs_read_value_origin_and_giver() -> None:
    tree = as_tree(effective(loaded(LARGE, environ={"KDAEMON_LOG_LEVEL": "debug"}), {}))
    given = {"value": "debug", "from": "environment", "giver": "KDAEMON_LOG_LEVEL"}
    assert tree["log"]["level"] == given
    inherited = {"value": 25, "from": "file", "giver": "k.toml", "key": "default.in_flight_max"}
    assert tree["streams"]["empty"]["in_flight_max"] == inherited
    assert tree["listen"]["hosts"] == {"value": [], "from": "default"}


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["config", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_toml_or_json_and_a_wrong_one_is_78(tmp_path: Path) -> None:
    path = tmp_path / "k.toml"
    path.write_text("[streams.a]\nlinger_ms = 5\n")
    for flags in ([], ["--effective"]):
        code, text, _ = run(*flags, "--config", str(path))
        assert code == 0
        assert tomllib.loads(text)["streams"]["a"]["linger_ms"] == 5
        assert f"# {path}" in text
    code, text, _ = run("--config", str(path), "--json", "--set", "log.level=debug")
    assert (code, json.loads(text)["log"]["level"]["from"]) == (0, "flag")
    path.write_text("[streams.a]\nlinger = 5\n")
    code, text, told = run("--config", str(path))
    assert (code, text) == (78, "")
    assert "streams.a.linger" in told


# The schema


def problems(text: str) -> list[str]:
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    errors = jsonschema.Draft202012Validator(schema).iter_errors(tomllib.loads(text))
    return sorted(".".join(map(str, each.absolute_path)) for each in errors)


def test_the_schema_takes_what_the_configuration_takes() -> None:
    assert problems(EXAMPLE.read_text()) == []
    assert problems(LARGE) == []
    uncommented = EXAMPLE.read_text().partition("# [upstreams.eu]\n")[2]
    lines = ["[upstreams.eu]", *(line.removeprefix("# ") for line in uncommented.splitlines())]
    tables = "\n".join(line for line in lines if line.startswith("[") or " = " in line)
    assert len(tomllib.loads(tables)["streams"]) >= 5
    assert problems(tables) == []
    assert problems(as_toml(effective(loaded(LARGE), {}))) == []


def test_the_schema_refuses_unknown_keys_wrong_kinds_and_bounds() -> None:
    assert problems("regoin = 'x'\n[listen]\nhtp = ''\n[streams.a]\nlinger = 1\n") == [
        *("", "listen", "streams.a"),
    ]
    wrong = "service = 'gcp'\naccept_unlisted = 1\n[default]\nin_flight_max = 0\nlinger_ms = '5'\n"
    assert problems(wrong + "[upstreams.e]\nregion = 'A'\n") == [
        *("accept_unlisted", "default.in_flight_max", "default.linger_ms", "service"),
        "upstreams.e.region",
    ]


def test_the_schema_says_each_key_with_what_is_expected_and_its_default() -> None:
    properties = config_schema()["properties"]
    for path in KEYS:
        table = properties if len(path) == 1 else properties[path[0]]["properties"]
        about = KEYS[path].about
        assert table[path[-1]]["description"].startswith(f"{about.meaning} Expected: "), path
    assert properties["listen"]["properties"]["connections_max"]["default"] == 10_000
    assert set(properties["streams"]["additionalProperties"]["properties"]) == set(STREAM_KEYS)


def test_the_command_prints_the_schema_and_needs_no_configuration() -> None:
    code, text, _ = run("--schema", "--config", "/nonexistent")
    assert code == 0
    assert json.loads(text) == config_schema()
    assert run("--schema", "--effective")[0] == 2


def test_the_command_prints_the_example_and_needs_no_configuration() -> None:
    assert run("--example", "--config", "/nonexistent")[:2] == (0, EXAMPLE.read_text())
    assert run("--example", "--schema")[0] == 2

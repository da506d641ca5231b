"""`kdaemon check --service` against what stands in for AWS: nothing is ever written."""

import json

import pytest
from click.testing import CliRunner

from kdaemon.cli import cli
from tests.kit.daemon import clean_environment
from tests.kit.endpoints import Endpoint


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


def test_a_check_of_the_service_writes_nothing(endpoint: Endpoint, stream: str) -> None:
    settings = {
        "endpoint_url": endpoint.url,
        "region": "us-east-1",
        "send.call_timeout_ms": 50_000,
    }
    flags = [part for pair in settings.items() for part in ("--set", "{}={}".format(*pair))]
    arguments = ["check", "--service", "--json", "--stream", stream, *flags]
    result = CliRunner().invoke(cli, arguments)
    told = json.loads(result.stdout)["findings"]
    of_stream = {each["subject"]: each["level"] for each in told if each["stream"] == stream}
    assert of_stream["quota"] == "ok", told
    assert of_stream["write"] in {"ok", "note", "warning"}, told
    assert result.exit_code == 0, told
    shards = [f"shardId-{number:012}" for number in range(3)]
    assert [endpoint.read_shard(stream, shard) for shard in shards] == [[], [], []]

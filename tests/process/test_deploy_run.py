"""What the manifests and the ECS task of deploy/ start, started: their configuration, their probes.

Directories, ports and addresses are of this machine; the service is the sandbox.
"""

import http.client
import json
import socket
import subprocess
from pathlib import Path

import pytest

from tests.kit.daemon import READY, Daemon, environment, running
from tests.kit.manifests import Container, Manifest, documents_of, helm_rendered

TASK = Path(__file__).parents[2] / "deploy" / "ecs" / "task-definition.json"
CHART = pytest.param("chart", marks=pytest.mark.helm)


def test_the_task_s_probe_says_yes_only_where_the_loop_turns_and_the_door_is_open(
    tmp_path: Path,
) -> None:
    daemon_of_task = json.loads(TASK.read_text())["containerDefinitions"][0]
    _, *written = daemon_of_task["healthCheck"]["command"]

    def probe(http: str, admin: str) -> int:
        command = [
            part.replace("/8990", f"/{http}").replace("/8991", f"/{admin}") for part in written
        ]
        command[1] = "60"  # patience
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode

    with running(tmp_path) as daemon:
        http = daemon.address("http").rpartition(":")[2]
        admin = daemon.address("admin").rpartition(":")[2]
        assert probe(http, admin) == 0
        assert probe("1", admin) == 1, "nobody listens there: the door is not open yet"
        missing = [part.replace("/livez", "/none") for part in written]
        missing = [
            part.replace("/8990", f"/{http}").replace("/8991", f"/{admin}") for part in missing
        ]
        assert subprocess.run(missing).returncode == 1
    assert probe(http, admin) == 1


def here(text: str, directory: Path) -> str:
    """The same, with what a pod or a task has replaced by what a test may use."""
    text = text.replace("/run/kdaemon", f"{directory}/r").replace(
        "/var/lib/kdaemon", f"{directory}/l"
    )
    return text.replace("0.0.0.0:", "127.0.0.1:").replace(":8990", ":0").replace(":8991", ":0")


def pod(name: str) -> tuple[str, dict[str, str], Container | None]:
    """The configuration file, the environment, and the container with its probes."""
    if name == "task":
        daemon = json.loads(TASK.read_text())["containerDefinitions"][0]
        return "", {each["name"]: each["value"] for each in daemon["environment"]}, None
    manifest = Manifest(helm_rendered() if name == "chart" else documents_of(name))
    environ = {variable.name: variable.value for variable in manifest.daemon.env}
    return manifest.text, environ, manifest.daemon


@pytest.mark.parametrize("name", ["daemonset", "sidecar", CHART, "task"])
def test_what_is_deployed_starts_takes_a_record_and_ends_well(name: str, tmp_path: Path) -> None:
    text, environ, container = pod(name)
    (tmp_path / "r").mkdir()
    (tmp_path / "l").mkdir()
    (tmp_path / "config.toml").write_text(here(text, tmp_path))
    told = {key: here(value, tmp_path) for key, value in environ.items()}
    told |= {"KDAEMON_SANDBOX_LISTEN": "127.0.0.1:0"}
    arguments = ["run", "--sandbox", "--config", str(tmp_path / "config.toml")]
    daemon = Daemon(arguments, environment(**told))
    try:
        daemon.wait_log(READY)
        if container is not None:
            probes = (container.startup_probe, container.readiness_probe, container.liveness_probe)
            paths = [probe.http_get.path for probe in probes if probe is not None]
            assert [daemon.page(path)[0] for path in paths] == [200, 200, 200]
        assert put_through(tmp_path / "r" / "kdaemon.sock") == 200
        assert daemon.wait_settled().total("kdaemon_records_delivered_total") == 1
        assert (tmp_path / "l" / "spool").is_dir()
        assert daemon.stop() == 0
    finally:
        daemon.close()


def put_through(path: Path) -> int:
    """The answer to one record, over HTTP at the Unix socket."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    try:
        body = json.dumps({"StreamName": "demo", "PartitionKey": "k", "Data": "YQ=="})
        kind = "application/x-amz-json-1.1"
        target = {"X-Amz-Target": "Kinesis_20131202.PutRecord", "Content-Type": kind}
        connection.request("POST", "/", body, target)
        return connection.getresponse().status
    finally:
        connection.close()

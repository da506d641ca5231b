"""deploy/ecs, held to the API's model, the daemon's own configuration and the image.

Not tried here: a start at ECS. tests/process/test_deploy_run.py runs what is in it.
"""

import json
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import pytest

from kdaemon import __version__
from kdaemon.base.limits import MIB
from kdaemon.config import Config
from kdaemon.config.load import load_config
from tests.kit.manifests import DEPLOY, ROOT, UID, drain_s, memory_needed_bytes


@pytest.fixture
def task() -> dict[str, Any]:
    text = (DEPLOY / "ecs" / "task-definition.json").read_text()
    return dict(json.loads(text))


@pytest.fixture
def task_config(task: dict[str, Any]) -> Config:
    daemon, _ = task["containerDefinitions"]
    return load_config(environ={each["name"]: each["value"] for each in daemon["environment"]})


def test_the_task_definition_is_what_ecs_takes(task: dict[str, Any]) -> None:
    """By the model of the API that botocore has; it does not know Fargate's own rules."""
    model = botocore.session.get_session().get_service_model("ecs")
    shape = model.operation_model("RegisterTaskDefinition").input_shape
    known = botocore.validate.ParamValidator().validate(task, shape)
    assert not known.has_errors(), known.generate_report()
    assert set(task) <= set(shape.members)
    members = model.shape_for("ContainerDefinition").members
    for container in task["containerDefinitions"]:
        assert set(container) <= set(members)


def test_a_task_s_application_waits_for_the_daemon_and_stops_before_it(
    task: dict[str, Any], task_config: Config
) -> None:
    daemon, application = task["containerDefinitions"]
    assert application["dependsOn"] == [{"containerName": "kdaemon", "condition": "HEALTHY"}]
    assert daemon["stopTimeout"] >= drain_s(task_config) + 5
    assert max(daemon["stopTimeout"], application["stopTimeout"]) <= 120  # Fargate takes no more
    policy = daemon["restartPolicy"]
    assert policy["enabled"]
    assert 78 in policy["ignoredExitCodes"], "a bad configuration is not restarted"


def test_a_task_s_probe_does_not_replace_what_is_full(
    task: dict[str, Any], task_config: Config
) -> None:
    """ECS replaces a task that is unhealthy, and its spool goes with it: not /readyz."""
    daemon, _ = task["containerDefinitions"]
    check = daemon["healthCheck"]
    assert json.dumps(check["command"]) in (ROOT / "docs" / "commands.md").read_text()
    probe = check["command"][-1]
    assert check["command"][0] == "CMD"
    assert "GET /livez " in probe
    http, admin = task_config.listen.http_address, task_config.listen.admin_address
    assert http is not None
    assert admin is not None
    for address in (http, admin):
        assert address.is_loopback
        assert f"/dev/tcp/{address.host}/{address.port}" in probe
    assert check["timeout"] > int(check["command"][2]), "bash is ended before Docker gives up"


def test_a_task_s_daemon_is_confined_and_has_room(
    task: dict[str, Any], task_config: Config
) -> None:
    daemon, application = task["containerDefinitions"]
    assert daemon["user"] == f"{UID}:{UID}"
    assert daemon["readonlyRootFilesystem"] is True
    assert daemon["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    assert daemon["memory"] * MIB >= memory_needed_bytes(task_config)
    assert daemon["memory"] + application["memory"] <= int(task["memory"])
    assert daemon["cpu"] + application["cpu"] <= int(task["cpu"])
    (files,) = daemon["ulimits"]
    assert files["softLimit"] > 2 * task_config.listen.connections_max
    mounts = {mount["containerPath"] for mount in daemon["mountPoints"]}
    assert Path(task_config.listen.unix).parent in map(Path, mounts)
    assert Path(task_config.spool.directory).parent in map(Path, mounts)
    assert mounts == {"/run/kdaemon", "/var/lib/kdaemon"}, "the image's volumes: uid 10001's"
    assert daemon["image"] == f"kdaemon:{__version__}"


def test_a_task_s_application_is_told_where_the_daemon_listens(
    task: dict[str, Any], task_config: Config
) -> None:
    _, application = task["containerDefinitions"]
    told = {each["name"]: each["value"] for each in application["environment"]}
    http = task_config.listen.http_address
    assert http is not None
    assert told == {
        "AWS_ENDPOINT_URL_KINESIS": f"http://{http.host}:{http.port}",
        "KDAEMON_SOCKET": task_config.listen.unix,
    }

"""The health check of deploy/ecs, run as it is written, at a daemon."""

import json
import subprocess
from pathlib import Path

from tests.kit.daemon import running

TASK = Path(__file__).parents[2] / "deploy" / "ecs" / "task-definition.json"


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

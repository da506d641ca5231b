"""What deploy/systemd, deploy/docker and the page promise, held to the files and the tools here.

Not tried here: a start under a real systemd, cluster or Docker engine.
"""

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from kdaemon.base.limits import MIB
from kdaemon.cli.common import SYSTEM_SOCKET
from kdaemon.config import Config
from kdaemon.config.load import load_config
from kdaemon.http.server import LISTEN_BACKLOG
from tests.kit.manifests import DEPLOY, ROOT, UID, drain_s, memory_needed_bytes

UNIT = DEPLOY / "systemd" / "kdaemon.service"
SOCKET_UNIT = DEPLOY / "systemd" / "kdaemon.socket"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"

EXPOSURE_TENTHS_MAX = 12  # `systemd-analyze security`, 0 (best) to 100; reached 2026-11-21


# --- systemd


def read_unit(path: Path) -> dict[str, list[str]]:
    """Every value of every key, in order; an empty list for `Key=`."""
    values: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            values[key] += [value] if value else []
    return dict(values)


@pytest.fixture
def unit() -> dict[str, list[str]]:
    return read_unit(UNIT)


@pytest.mark.systemd
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "kdaemon"
    program.symlink_to(sys.executable)  # verify wants the program to exist; it does not start it
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/kdaemon", str(program)))
    socket_unit = shutil.copy(SOCKET_UNIT, tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy), str(socket_unit)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.systemd
def test_the_unit_s_exposure_does_not_grow() -> None:
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            f"--threshold={EXPOSURE_TENTHS_MAX}",
            str(UNIT),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_waits_longer_than_the_drain(unit: dict[str, list[str]]) -> None:
    assert float(unit["TimeoutStopSec"][0]) >= drain_s(Config()) + 5


def test_a_bad_configuration_is_not_restarted(unit: dict[str, list[str]]) -> None:
    assert unit["RestartPreventExitStatus"] == ["78"]
    # systemd does not look at the exit status of ExecStartPre: if it counted, it would loop
    (check,) = unit["ExecStartPre"]
    (run,) = unit["ExecStart"]
    assert check == "-/usr/local/bin/kdaemon check --config /etc/kdaemon/config.toml"
    assert run == "/usr/local/bin/kdaemon run --config /etc/kdaemon/config.toml"


def test_a_reload_reads_the_file_that_the_daemon_was_started_with(
    unit: dict[str, list[str]],
) -> None:
    """And its exit code is the service manager's answer: `kdaemon reload` waits for the outcome."""
    [start], [reload] = unit["ExecStart"], unit["ExecReload"]
    assert reload == start.replace(" run ", " reload ")


def test_clients_can_reach_the_socket_and_keep_it_through_a_restart(
    unit: dict[str, list[str]],
) -> None:
    sockets = read_unit(SOCKET_UNIT)
    assert unit["Sockets"] == unit["Requires"] == unit["Also"] == [SOCKET_UNIT.name]
    assert "RuntimeDirectory" not in unit, "it is removed at each stop, with what is in it"
    assert sockets["ListenStream"] == [SYSTEM_SOCKET]
    assert sockets["Accept"] == ["no"]
    assert sockets["SocketMode"] == [Config().listen.unix_mode]
    assert int(sockets["Backlog"][0]) == LISTEN_BACKLOG
    assert sockets["TriggerLimitIntervalSec"] == ["0"]
    (group,) = sockets["SocketGroup"]
    assert f"\ng {group} -\n" in (DEPLOY / "systemd" / "kdaemon.sysusers.conf").read_text()
    assert group != UNIT.stem  # the dynamic user has the unit's name; a static group may not
    assert Config().listen.unix == "auto"


def test_only_the_socket_takes_records_unless_the_host_says_otherwise(
    unit: dict[str, list[str]],
) -> None:
    """Whatever the file says: it may be the example, or of another machine."""
    pairs = [each.partition("=") for each in unit["Environment"]]
    environ = {name: value for name, _, value in pairs if name != "KDAEMON_SPOOL_DIRECTORY"}
    config = load_config(text='[listen]\nhttp = "127.0.0.1:8990"', environ=environ)
    assert config.listen.http_address is None
    assert config.listen.unix == "auto"
    page = (DEPLOY / "systemd" / "README.md").read_text()
    assert "\n  Environment=KDAEMON_LISTEN_HTTP=127.0.0.1:8990\n" in page
    assert "\n  ListenStream=127.0.0.1:8990\n" in page


def test_notifications_and_the_socket_are_allowed_their_address_family(
    unit: dict[str, list[str]],
) -> None:
    assert unit["Type"] == ["notify"]
    assert float(unit["WatchdogSec"][0]) > 0
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]


def test_a_forbidden_system_call_is_refused_not_deadly(unit: dict[str, list[str]]) -> None:
    assert unit["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert unit["SystemCallErrorNumber"] == ["EPERM"]  # uvloop tries io_uring, and does without


def test_the_walls_stand_without_what_dynamicuser_implies(unit: dict[str, list[str]]) -> None:
    # systemd-analyze cannot tell these from DynamicUser=yes, which a host may turn off
    strict = {
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        "ProtectHome": "yes",
        "ProtectSystem": "strict",
        "RemoveIPC": "yes",
        "RestrictSUIDSGID": "yes",
    }
    assert {key: unit[key] for key in strict} == {key: [value] for key, value in strict.items()}
    assert unit["CapabilityBoundingSet"] == []
    assert unit["AmbientCapabilities"] == []
    assert unit["LimitCORE"] == ["0"]  # a core holds records and credentials


def test_systemd_s_memory_limit_leaves_room_for_the_buffers(unit: dict[str, list[str]]) -> None:
    (limit,) = unit["MemoryMax"]
    assert limit.endswith("M")
    assert int(limit[:-1]) * MIB >= memory_needed_bytes(Config())


def test_the_open_file_limit_is_above_the_connections(unit: dict[str, list[str]]) -> None:
    assert int(unit["LimitNOFILE"][0]) > 2 * Config().listen.connections_max


# --- Docker


def read_dockerfile() -> list[list[tuple[str, str]]]:
    """Instructions by stage; comments gone, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    stages: list[list[tuple[str, str]]] = []
    for instruction, arguments in lines:
        if instruction == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((instruction, arguments))
    return stages


def copied_from_the_project() -> list[str]:
    """Sources of every COPY that is not from another stage."""
    return [
        source
        for stage in read_dockerfile()
        for instruction, arguments in stage
        if instruction == "COPY" and "--from=" not in arguments
        for source in arguments.split()[:-1]
    ]


def test_what_the_image_copies_exists_and_nothing_else_is_sent() -> None:
    rules = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = [rule[1:] for rule in rules if rule.startswith("!")]
    assert sorted(let_through) == sorted(copied_from_the_project())
    assert all((ROOT / source).exists() for source in let_through)
    assert "*" in rules
    assert rules.index("*") < min(rules.index("!" + source) for source in let_through)
    for cache in ("**/__pycache__", "**/*.pyc"):
        assert rules.index(cache) > max(rules.index("!" + source) for source in let_through)


def test_everything_installed_in_the_image_is_checked_by_hash() -> None:
    commands = [a for stage in read_dockerfile() for i, a in stage if i == "RUN"]
    installs = [part for command in commands for part in command.split("&&") if " install " in part]
    installs = [part for part in installs if " pip " in part and "uninstall" not in part]
    assert len(installs) == 3
    hashed = [part for part in installs if "--require-hashes" in part]
    assert [part.split("-r ")[1].strip() for part in hashed] == [
        "requirements.lock",
        "build-requirements.lock",
    ]
    (project,) = (part for part in installs if part not in hashed)
    assert "--no-index" in project
    assert "--no-deps" in project
    assert any("pip wheel --no-deps --no-build-isolation" in command for command in commands)


def test_the_image_has_the_compiled_build_or_none() -> None:
    """What it is built with, and by which hashes: tests/unit/test_build.py."""
    build = read_dockerfile()[0]
    assert ("ARG", "KDAEMON_BUILD=compiled") in build
    (sources,) = (a for i, a in build if i == "COPY" and "setup.py" in a)
    assert "build_backend.py" in sources.split()
    (command,) = (a for i, a in build if i == "RUN" and "pip wheel" in a)
    assert command.endswith("/opt/kdaemon/bin/kdaemon --version")


def test_the_final_image_cannot_build_and_does_not_run_as_root() -> None:
    final = read_dockerfile()[-1]
    values = dict(final)
    assert values["USER"] == f"{UID}:{UID}"
    assert values["STOPSIGNAL"] == "SIGTERM"
    assert values["ENTRYPOINT"] == '["kdaemon"]'
    assert "HEALTHCHECK" not in values
    assert "EXPOSE" not in values
    assert [a for i, a in final if i == "COPY"] == ["--from=build /opt/kdaemon /opt/kdaemon"]
    (run,) = (a for i, a in final if i == "RUN")
    assert "pip uninstall" in run
    assert "apt" not in run
    assert ("RUN", "python -m venv --without-pip /opt/kdaemon") in read_dockerfile()[0]


def test_the_container_s_socket_is_where_the_image_made_its_directory() -> None:
    (variables,) = (a for i, a in read_dockerfile()[-1] if i == "ENV")
    assert "RUNTIME_DIRECTORY=/run/kdaemon" in variables.split()
    (run,) = (a for i, a in read_dockerfile()[-1] if i == "RUN")
    assert f"install -d -o {UID} -g {UID} -m 0755 /run/kdaemon /var/lib/kdaemon" in run
    (volumes,) = (a for i, a in read_dockerfile()[-1] if i == "VOLUME")
    assert json.loads(volumes) == ["/run/kdaemon", "/var/lib/kdaemon"]


# --- the page


def test_every_file_the_page_names_is_there() -> None:
    text = (DEPLOY / "README.md").read_text()
    named = set(
        re.findall(r"(?:deploy|systemd|kubernetes|docker|ecs|helm|tests)/[\w./-]+\.\w+", text)
    )
    assert "systemd/kdaemon.service" in named
    for name in named:
        assert (ROOT / name).exists() or (DEPLOY / name).exists(), name

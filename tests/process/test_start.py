"""How the process starts, and how it says why it does not."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.daemon import (
    READY,
    Daemon,
    Process,
    environment,
    from_scratch,
    get,
    running,
    send,
    started,
    write_config,
)
from tests.process.conftest import Run

EXIT_CONFIG = 78


def ended(process: Process) -> tuple[int, str]:
    """Exit code and the whole log."""
    return process.wait(), "\n".join(process.lines)


@pytest.mark.parametrize(
    ("how", "key"),
    [
        ("run", "listen.http"),
        ("run", "listen.admin"),
        ("run", "sandbox.listen"),
        ("sandbox", "sandbox.listen"),
    ],
)
def test_a_port_in_use_is_an_error_that_names_its_key(tmp_path: Path, how: str, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = write_config(tmp_path, {key: address})
        command = ["sandbox"] if how == "sandbox" else ["run", "--sandbox"]
        with started([*command, "--config", str(config)]) as process:
            code, log = ended(process)
    assert code == 1
    assert f"cannot start: {key}: cannot listen on {address}" in log
    assert "ddress already in use" in log
    assert "Traceback" not in log
    assert '"stack"' not in log


def test_a_wrong_configuration_ends_with_78_and_all_its_errors(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, {"default.in_flight_max": 0, "listen.htp": "x", "log.level": "loud"}
    )
    with from_scratch(), started(["run", "--config", str(config)]) as process:
        code, log = ended(process)
    assert code == EXIT_CONFIG
    for key in ("default.in_flight_max", "listen.htp", "log.level"):
        assert f"{config}: {key}: " in log, key


def test_a_listener_for_other_machines_is_refused_by_default(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"listen.http": "0.0.0.0:0"})
    with started(["run", "--config", str(config)]) as process:
        code, log = ended(process)
    assert code == EXIT_CONFIG
    assert "listen.http" in log
    assert "insecure" in log


def test_an_unknown_variable_is_an_error(tmp_path: Path) -> None:
    config = write_config(tmp_path, {})
    with started(["run", "--config", str(config)], KDAEMON_LISTEN_HTPP="x") as process:
        code, log = ended(process)
    assert code == EXIT_CONFIG
    assert "KDAEMON_LISTEN_HTTP" in log


def test_the_embedded_service_has_the_streams_that_are_listed(run: Run) -> None:
    """Who tries a configuration of his own finds its streams; a name that is in none is missing."""
    arn = "arn:aws:kinesis:us-east-1:123456789012:stream/clicks"
    names = {"streams.orders.linger_ms": 5, "streams.web.arn": arn, "account_id": "123456789012"}
    daemon = run(names)
    for name, status in {"demo": 200, "orders": 200, "web": 200, "x": 404}.items():
        url = f"{daemon.url}/v1/streams/{name}/records"
        assert send("POST", url, '{"data": "a", "partition_key": "k"}\n')[0] == status, name


def test_a_log_on_a_pipe_is_json_lines_that_tell_the_listeners(run: Run, tmp_path: Path) -> None:
    with from_scratch():
        daemon = run({"listen.unix": str(tmp_path / "k.sock")})
    assert len(daemon.log) == len(daemon.lines)
    for name in ("sandbox", "admin", "http", "unix"):
        assert daemon.address(name)
    assert get(daemon.url + "/v1/none")[0] == 404
    assert daemon.page("/readyz") == (200, "ok\n")
    assert daemon.page("/livez") == (200, "ok\n")


# What is loaded when the daemon takes records

GATED = """
import os, sys

def wait(event, arguments):
    if event == "import" and arguments[0] == "aiohttp":
        open(os.environ["GATE"]).close()  # until somebody opens the other end

sys.addaudithook(wait)
from kdaemon.__main__ import main
main()
"""


# Of one that is not listed nothing is promised before the service was asked.
LISTED = {"streams.demo.acknowledge": "accepted"}


@contextlib.contextmanager
def gated(directory: Path) -> Iterator[tuple[Daemon, Path]]:
    """A daemon whose libraries are loaded when somebody opens the other end of the gate."""
    gate = directory / "gate"
    os.mkfifo(gate)
    config = write_config(directory, LISTED)
    arguments = ["run", "--sandbox", "--config", str(config)]
    daemon = Daemon(arguments, environment(GATE=str(gate)), program=("-c", GATED))
    try:
        daemon.wait_log(READY)
        yield daemon, gate
    finally:
        daemon.close()


def test_records_are_taken_while_the_libraries_for_calls_are_not_loaded(tmp_path: Path) -> None:
    with gated(tmp_path) as (daemon, gate):
        assert send("POST", f"{daemon.url}/v1/streams/demo/records", '{"data": "a"}')[0] == 200
        metrics = daemon.metrics()
        waiting = ("kdaemon_records_buffered", "kdaemon_records_in_flight")
        assert sum(map(metrics.total, waiting)) == 1
        assert metrics.total("kdaemon_records_delivered_total") == 0
        with gate.open("w"):
            daemon.wait_settled()
        assert daemon.counted("kdaemon_records_delivered_total") == 1


@pytest.mark.parametrize("is_owed", [False, True], ids=["idle", "records"])
def test_an_end_waits_for_no_library_that_nobody_needs_any_more(
    tmp_path: Path, *, is_owed: bool
) -> None:
    with gated(tmp_path) as (daemon, _):
        if is_owed:
            assert send("POST", f"{daemon.url}/v1/streams/demo/records", '{"data": "a"}')[0] == 200
        daemon.signal()
        if is_owed:
            daemon.wait_log("draining")
            daemon.signal()
        code, log = ended(daemon)
    assert code == is_owed
    assert "not all could be closed" not in log


def ended_by(config: Path, program: str) -> tuple[int, str]:
    """The exit code and the log of a daemon that this program starts."""
    with contextlib.closing(
        Daemon(["run", "--config", str(config)], environment(), program=("-c", program))
    ) as daemon:
        return ended(daemon)


@pytest.mark.parametrize("name", ["aiohttp", "botocore", "aiobotocore", "prometheus_client"])
def test_a_library_that_is_not_there_is_found_before_a_record_is_taken(
    tmp_path: Path, name: str
) -> None:
    """A supervisor starts it again and again, and each time records would be taken and lost."""
    lacks = f"import sys; sys.modules[{name!r}] = None; from kdaemon.__main__ import main; main()"
    config = write_config(tmp_path, {"endpoint_url": "http://127.0.0.1:1", "region": "us-east-1"})
    code, log = ended_by(config, lacks)
    assert code == 1
    assert "cannot start: a part of kdaemon cannot be loaded" in log
    assert name in log
    assert '"listener":"http"' not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("name", ["botocore", "prometheus_client"])
def test_a_library_that_is_broken_ends_the_daemon_at_once_and_is_named(
    tmp_path: Path, name: str
) -> None:
    """Behind open doors: nobody is served for a lame duck's time who is only promised something."""
    package = tmp_path / "packages" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('half of it')")
    program = f"import sys; sys.path.insert(0, {str(package.parent)!r}); "
    program += "from kdaemon.__main__ import main; main()"
    settings = {"endpoint_url": "http://127.0.0.1:1", "region": "us-east-1"}
    config = write_config(tmp_path, {**settings, "drain.lame_duck_ms": 300_000})
    code, log = ended_by(config, program)
    assert code == 1
    assert "a part of kdaemon cannot be loaded (ImportError: half of it)" in log
    assert "Traceback" not in log


# The Unix socket


def test_the_socket_file_has_its_mode_from_the_start(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    run({"listen.unix": str(path), "listen.unix_mode": "0600"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_socket_file_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    with running(tmp_path, {"listen.unix": str(path)}):
        pass
    assert path.exists(), "it was killed: its file stays"
    with running(tmp_path, {"listen.unix": str(path)}) as daemon:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert daemon.stop() == 0
    assert not path.exists()


def test_a_live_socket_is_refused_and_left_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    run({"listen.unix": str(path)})
    config = write_config(tmp_path, {"listen.unix": str(path)})
    with started(["run", "--sandbox", "--config", str(config)]) as second:
        code, log = ended(second)
    assert code == 1
    assert f"the socket {path} is in use" in log
    assert "Traceback" not in log
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    path.write_text("precious")
    config = write_config(tmp_path, {"listen.unix": str(path)})
    with started(["run", "--sandbox", "--config", str(config)]) as process:
        code, log = ended(process)
    assert code == 1
    assert f"{path} is a file, not a socket" in log
    assert path.read_text() == "precious"


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / "run"
    config = write_config(tmp_path, {"listen.unix": str(directory / "k.sock")})
    with started(["run", "--sandbox", "--config", str(config)]) as process:
        code, log = ended(process)
    assert code == 1
    assert f"listen.unix: cannot make the directory {directory}: {os.strerror(20)}" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("with_sandbox", [False, True])
def test_a_daemon_that_would_call_itself_does_not_start(tmp_path: Path, with_sandbox: bool) -> None:
    """The variable that its clients need is in its own environment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    config = write_config(tmp_path, {"listen.http": address, "region": "us-east-1"})
    flags = ["--sandbox"] if with_sandbox else []
    command, of_clients = ["run", *flags, "--config", str(config)], f"http://{address}"
    with started(command, AWS_ENDPOINT_URL_KINESIS=of_clients) as process:
        if with_sandbox:
            process.wait_log("ready")
            assert process.stop() == 0
            return
        code, log = ended(process)
    assert code == EXIT_CONFIG
    assert "AWS_ENDPOINT_URL_KINESIS (variable)" in log
    assert "is where kdaemon itself listens (listen.http)" in log

"""Sockets that systemd has bound: served, left alone, and kept through a restart."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.kit.daemon import get, sandbox, write_config
from tests.kit.endpoints import read_all
from tests.kit.patience import wait_for
from tests.kit.restarts import Load, settings_of
from tests.kit.systemd import Activated, Manager


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with sandbox("demo", 8) as url:
        yield url


def config_of(directory: Path, service: str, **more: object) -> Path:
    return write_config(directory, settings_of(directory, service, **more))


def bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    path.chmod(0o604)
    sock.listen(64)
    return sock


def test_through_restarts_nobody_is_refused(tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(sandbox("demo", 8))
        unix = stack.enter_context(closing(bound(tmp_path / "k.sock")))
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        config = config_of(
            tmp_path, service, **{"listen.http": f"127.0.0.1:{tcp.getsockname()[1]}"}
        )
        activated = Activated(config, {"unix": unix, "kdaemon.socket": tcp})
        daemon = stack.enter_context(activated.started())
        with Load("demo", daemon.url, daemon.address("unix")) as load:
            for _ in range(3):
                load.wait_progress(20)
                assert daemon.stop() == 0
                daemon = stack.enter_context(activated.started())
            load.wait_progress(20)
        assert daemon.stop() == 0
        load.check(read_all(service))


def test_the_file_of_a_socket_is_systemd_s(tmp_path: Path, service: str) -> None:
    path = tmp_path / "k.sock"
    with ExitStack() as stack:
        unix = stack.enter_context(closing(bound(path)))
        before = path.stat()
        activated = Activated(config_of(tmp_path, service), {"unix": unix})
        daemon = stack.enter_context(activated.started())
        assert daemon.stop() == 0
        after = path.stat()
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_variables_and_descriptors_are_not_handed_on(tmp_path: Path, service: str) -> None:
    with ExitStack() as stack:
        unix = stack.enter_context(closing(bound(tmp_path / "k.sock")))
        child = tmp_path / "child"
        script = tmp_path / "credentials.sh"
        lines = ("#!/bin/sh", f"env > {child}.env", f"ls -l /proc/self/fd > {child}.fds")
        script.write_text("\n".join((*lines, f": > {child}.done", "exit 1", "")))
        script.chmod(0o755)
        aws = tmp_path / "aws"
        aws.write_text(f"[default]\ncredential_process = {script}\n")
        activated = Activated(
            config_of(tmp_path, service), {"unix": unix}, AWS_CONFIG_FILE=str(aws)
        )
        activated.without("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        daemon = stack.enter_context(activated.started())
        with daemon.connect("unix") as client:
            client.sendall(b'{"data":"x","stream":"demo"}\n')
            wait_for(lambda: Path(f"{child}.done").exists() or None, "a child process")
        assert "LISTEN_" not in Path(f"{child}.env").read_text()
        inode = os.fstat(unix.fileno()).st_ino
        assert f"socket:[{inode}]" not in Path(f"{child}.fds").read_text()


@pytest.mark.parametrize(
    ("settings", "names", "said"),
    [
        ({"listen.unix": ""}, "unix", "is not used: listen.unix is off"),
        ({"listen.unix": ""}, "", "that no setting names"),
        ({"listen.unix": "/run/other.sock"}, "unix", "write the same in both"),
        ({"listen.unix": "/run/other.sock"}, "kdaemon.socket", "that no setting names"),
    ],
)
def test_what_does_not_agree_is_said_and_not_tried_again(
    tmp_path: Path, service: str, settings: dict[str, object], names: str, said: str
) -> None:
    with ExitStack() as stack:
        unix = stack.enter_context(closing(bound(tmp_path / "k.sock")))
        activated = Activated(config_of(tmp_path, service, **settings), {names: unix})
        process = stack.enter_context(closing(activated.start()))
        assert process.wait() == 78
        text = "\n".join(process.lines)
        assert said in text
        assert str(tmp_path / "k.sock") in text


def test_a_stream_s_own_socket_is_found_by_its_path(tmp_path: Path, service: str) -> None:
    with ExitStack() as stack:
        app = stack.enter_context(closing(bound(tmp_path / "app.sock")))
        more = {"streams.demo.socket": str(tmp_path / "app.sock"), "streams.demo.lines": "raw"}
        activated = Activated(config_of(tmp_path, service, **more), {"kdaemon-app.socket": app})
        daemon = stack.enter_context(activated.started())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "app.sock"))
            client.sendall(b"a line\n")
        wait_for(lambda: daemon.counted("kdaemon_records_delivered_total") or None, "the line")
        assert daemon.stop() == 0
        assert (tmp_path / "app.sock").exists()


def test_systemd_hears_ready_the_watchdog_and_the_end(tmp_path: Path, service: str) -> None:
    with ExitStack() as stack:
        manager = stack.enter_context(Manager(tmp_path / "notify"))
        unix = stack.enter_context(closing(bound(tmp_path / "k.sock")))
        activated = Activated(
            config_of(tmp_path, service),
            {"unix": unix},
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="400000",
        )
        daemon = stack.enter_context(activated.started())
        manager.wait("READY=1")
        assert get(daemon.address("admin") + "/readyz")[0] == 200
        for _ in range(3):
            manager.wait("WATCHDOG=1")
        daemon.signal()
        manager.wait("STOPPING=1")
        assert daemon.wait() == 0


def test_systemd_hears_that_the_drain_goes_on(tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(sandbox("demo", 1))  # it takes 1,000 records a second
        manager = stack.enter_context(Manager(tmp_path / "notify"))
        unix = stack.enter_context(closing(bound(tmp_path / "k.sock")))
        activated = Activated(
            config_of(tmp_path, service), {"unix": unix}, NOTIFY_SOCKET=str(tmp_path / "notify")
        )
        daemon = stack.enter_context(activated.started())
        setup = b'{"stream":"demo","acknowledge":"accepted"}\n'
        with daemon.connect("unix") as client, client.makefile("rb") as answers:
            client.sendall(setup + b'{"data":"x","partition_key":"k"}\n' * 4_000)
            while b"4000" not in answers.readline():
                pass
        daemon.signal()
        manager.wait("STOPPING=1")
        assert "records are left" in manager.wait_text("STATUS=draining: ")
        manager.wait("EXTEND_TIMEOUT_USEC=15000000")
        assert daemon.wait() == 0

"""A daemon that may open no more files: it does not spin, says so, keeps what it has, and recovers.

The limit is lowered from outside (prlimit) while it runs, to what it has open. Linux has that.
"""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.daemon import Daemon, get, sandbox
from tests.kit.endpoints import read_all
from tests.kit.linux import cores_used
from tests.kit.patience import PATIENCE_S, wait_for
from tests.process.conftest import Run

NONE_LEFT = (
    "no file descriptor is left: new connections are dropped until one is free;"
    " raise the limit of open files (ulimit -n, LimitNOFILE)"
)
FREE_AGAIN = "file descriptors are free again"
KEEPS_THE_OLD = "the configuration was read again and cannot be used: the old one stays in force"
PATIENT = f"""
from dataclasses import replace
from kdaemon.daemon import hubs
limits_of = hubs.limits_of
hubs.limits_of = lambda listen: replace(limits_of(listen), head_timeout_s={PATIENCE_S})
"""
# Who knocks and says nothing stays.
WATCHED_S = 1.0
CPU_SHARE_MAX = 0.1  # of a core, while clients knock; a loop that spins takes all it can get


@contextlib.contextmanager
def starved(daemon: Daemon) -> Iterator[None]:
    """It has what it has open, and nothing more."""
    limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir(f"/proc/{daemon.pid}/fd")))
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)


def is_at_rest(daemon: Daemon) -> bool | None:
    share = cores_used(daemon.pid, WATCHED_S)
    return share <= CPU_SHARE_MAX or None


def put(connection: http.client.HTTPConnection, data: str, acknowledge: str) -> int:
    headers = {"X-Kdaemon-Acknowledge": acknowledge}
    body = json.dumps({"data": data, "partition_key": data}) + "\n"
    connection.request("POST", "/v1/streams/demo/records", body, headers)
    answer = connection.getresponse()
    assert json.loads(answer.read())["acknowledged"] == 1
    return answer.status


def knock(stack: contextlib.ExitStack, daemon: Daemon, path: Path) -> None:
    """Connections to each listener, open until the stack ends, until there is no descriptor for
    any; the last one is that of a process that would take over.
    """
    admin = int(daemon.address("admin").rpartition(":")[2])

    def knocked() -> bool | None:
        for port in (admin, daemon.port):
            with contextlib.suppress(ConnectionError):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        with contextlib.suppress(ConnectionError):
            sock.connect(str(path))
        return any(line["text"] == NONE_LEFT for line in daemon.log) or None

    wait_for(knocked, "a daemon without a descriptor")
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    sock.connect(f"{path}.takeover")


@pytest.mark.parametrize("has_sent", [True, False], ids=["connected", "not connected yet"])
def test_without_a_descriptor_nothing_spins_and_nothing_is_lost(
    run: Run, tmp_path: Path, has_sent: bool
) -> None:
    """`has_sent`: there is a connection to the service; else there can be none for a while."""
    path = tmp_path / "k.sock"
    settings = {
        "listen.unix": str(path),
        "spool.directory": str(tmp_path / "spool"),
    }
    with sandbox("demo", 2) as service:
        daemon = run(settings, service=service, before=PATIENT)
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, PATIENCE_S)
        with contextlib.closing(connection), contextlib.ExitStack() as stack:
            connection.connect()
            expected = []
            if has_sent:
                expected.append("first")
                put(connection, "first", "delivered")
            get(daemon.url)  # it has seen to its connections once: the kept one is among them
            with starved(daemon):
                knock(stack, daemon, path)
                for acknowledge in ("stored", "accepted"):
                    assert put(connection, acknowledge, acknowledge) == 200
                    expected.append(acknowledge)
                daemon.signal(signal.SIGHUP)
                daemon.wait_log(KEEPS_THE_OLD)
                if not has_sent:
                    daemon.wait_log("PutRecords failed")
                wait_for(lambda: is_at_rest(daemon), "a daemon that does not spin")
            daemon.wait_log(FREE_AGAIN)
            assert put(connection, "after", "delivered") == 200
            expected.append("after")
        assert get(daemon.address("admin") + "/readyz")[0] == 200
        assert daemon.counted("kdaemon_client_connections_refused_total", reason="descriptors")
        daemon.wait_settled()
        assert daemon.stop() == 0
        assert sorted(each.decode() for each in read_all(service)) == sorted(expected)

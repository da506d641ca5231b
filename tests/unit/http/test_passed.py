"""Sockets that systemd passes: read, named, and held to the configuration."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kdaemon.config.listeners import Wanted, takeover_path, wanted_listeners
from kdaemon.config.load import load_config
from kdaemon.config.values import Address
from kdaemon.http.listener import ListenerError
from kdaemon.http.passed import (
    VARIABLES,
    Inherited,
    Passed,
    agree,
    is_at,
    passed_by_systemd,
    taken_from_daemon,
)


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "k.sock"))
        sock.listen(1)
        yield sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def wanted(http: Address | None, unix: str | None = None, *, is_auto: bool = False) -> list[Wanted]:
    return [
        Wanted("http", "listen.http", http),
        Wanted("admin", "listen.admin", None),
        Wanted("unix", "listen.unix", unix, is_auto=is_auto),
    ]


@pytest.mark.parametrize("pid", ["1", "", "nonsense"])
def test_what_is_for_another_process_is_nobody_s_and_its_variables_go(pid: str) -> None:
    environ = {"LISTEN_PID": pid, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "HOME": "/"}
    assert passed_by_systemd(environ, 4711) == []
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("count", ["x", "-1", "1e3", "99999"])
def test_a_number_that_is_none_is_said(count: str) -> None:
    environ = {"LISTEN_PID": "4711", "LISTEN_FDS": count}
    with pytest.raises(ListenerError, match="LISTEN_FDS is"):
        passed_by_systemd(environ, 4711)
    assert environ == {}


SCRIPT = """
import os, socket, sys
from kdaemon.http.listener import ListenerError
from kdaemon.http.passed import passed_by_systemd
kind = sys.argv[1]
families = {"udp": (socket.AF_INET, socket.SOCK_DGRAM), "seq": (socket.AF_UNIX, 5)}
if kind == "file":
    fd = os.open("/dev/null", os.O_RDONLY)
else:
    sock = socket.socket(*families.get(kind, (socket.AF_INET, socket.SOCK_STREAM)))
    if kind == "listening":
        sock.listen(1)
    fd = sock.fileno()
os.dup2(fd, 3)
environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
try:
    (found,) = passed_by_systemd(environ, os.getpid())
    print(found.name, found.sock.fileno(), os.get_inheritable(3), found.sock.getblocking())
except ListenerError as error:
    print(error)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("listening", "http 3 False False"),
        ("file", "is no socket"),
        ("udp", "is no stream socket: write ListenStream= in its unit"),
        ("seq", "is no stream socket"),
        ("tcp", "does not listen: write Accept=no in its unit"),
    ],
)
def test_only_a_stream_socket_that_listens_is_taken(kind: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind], capture_output=True, text=True, check=True
    )
    assert said in done.stdout, done.stderr


def test_sockets_are_found_by_name_by_address_and_by_path(
    tcp: socket.socket, unix: socket.socket
) -> None:
    path = unix.getsockname()
    for names in (("http", "unix"), ("kdaemon.socket", "kdaemon.socket"), ("", "")):
        passed = [Passed(names[0], tcp), Passed(names[1], unix)]
        found, problems = agree(passed, wanted(Address("127.0.0.1", port_of(tcp)), path))
        assert problems == []
        assert found.socks == {"http": [tcp], "unix": [unix]}
        assert found.is_systemd


def test_auto_takes_the_unix_socket_wherever_it_stands(unix: socket.socket) -> None:
    found, problems = agree([Passed("kdaemon.socket", unix)], wanted(None, None, is_auto=True))
    assert (found.socks, problems) == ({"unix": [unix]}, [])


def test_a_path_through_a_link_is_the_same_place(unix: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert is_at(unix, Wanted("unix", "listen.unix", str(tmp_path / "link" / "k.sock")))


@pytest.mark.parametrize(
    ("name", "http", "said"),
    [
        ("http", None, "which is not used: listen.http is off. Set it to {at}"),
        ("http", Address("127.0.0.1", 1), "listen.http is 127.0.0.1:1, and systemd passes {at}"),
        ("http", Address("0.0.0.0", 0), "listen.http is 0.0.0.0:0, and systemd passes {at}"),
        ("unix", None, "the socket 'unix' at {at}, which is not used: listen.unix is off"),
        ("", Address("127.0.0.1", 1), "a socket at {at} that no setting names"),
        ("admin", Address("127.0.0.1", 1), "listen.admin is off"),
    ],
)
def test_what_does_not_agree_is_said(
    tcp: socket.socket, name: str, http: Address | None, said: str
) -> None:
    found, problems = agree([Passed(name, tcp)], wanted(http))
    assert found.socks == {}
    (problem,) = problems
    assert said.format(at=f"127.0.0.1:{port_of(tcp)}") in problem


def test_two_unix_sockets_for_one_listener_are_said(unix: socket.socket, tmp_path: Path) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(tmp_path / "other.sock"))
        passed = [Passed("", unix), Passed("", other)]
        _, problems = agree(passed, wanted(None, None, is_auto=True))
    assert ["more than one socket for listen.unix" in each for each in problems] == [True]


def test_of_a_daemon_only_what_stands_where_it_is_wanted_is_taken(
    tcp: socket.socket, unix: socket.socket
) -> None:
    passed = [Passed("http", tcp), Passed("unix", unix)]
    found = taken_from_daemon(passed, wanted(Address("127.0.0.1", 0), "/elsewhere"))
    assert found.socks == {"http": [tcp]}
    assert not found.is_systemd
    assert unix.fileno() == -1
    assert found.take("http") == [tcp]
    assert found.take("http") == []


def test_what_nobody_took_is_closed(tcp: socket.socket) -> None:
    Inherited({"http": [tcp]}).close()
    assert tcp.fileno() == -1


def test_the_configuration_says_which_listeners_there_are() -> None:
    listen = '[listen]\nhttp = ""\nunix = "/run/k.sock"\n'
    text = listen + '[streams.app]\nlines = "raw"\nsocket = "/run/app.sock"'
    found = {each.name: each.at for each in wanted_listeners(load_config(text=text), {}, bool)}
    assert found == {
        "http": None,
        "admin": Address("127.0.0.1", 8991),
        "unix": "/run/k.sock",
        "streams.app": "/run/app.sock",
    }


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[listen]\nunix = "/run/k.sock"\n[spool]\ndirectory = "/s"', "/run/k.sock.takeover"),
        ('[listen]\nunix = ""\n[spool]\ndirectory = "/s/"', "/s/takeover.sock"),
        ('[listen]\nunix = ""', None),
    ],
)
def test_two_daemons_of_one_configuration_meet_at_one_place(text: str, path: str | None) -> None:
    assert takeover_path(load_config(text=text), {}, os.path.isdir) == path


def test_every_variable_is_removed() -> None:
    environ = dict.fromkeys(VARIABLES, "")
    assert passed_by_systemd(environ, 1) == []
    assert environ == {}

"""The notification client against a real datagram socket in the manager's place."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdaemon.observe.notify import (
    STATUS_CHARACTERS_MAX,
    Notifier,
    watchdog_interval_s,
)
from tests.kit.systemd import Manager

PID = 4321


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def manager(path: str) -> Iterator[Manager]:
    with Manager(path) as manager:
        yield manager


@pytest.fixture
def notifier(manager: Manager, path: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": path})


def test_each_state_arrives_as_its_assignment(manager: Manager, notifier: Notifier) -> None:
    assert notifier.ready()
    assert manager.received() == ["READY=1"]
    assert notifier.stopping()
    assert manager.received() == ["STOPPING=1"]
    assert notifier.watchdog()
    assert manager.received() == ["WATCHDOG=1"]
    assert notifier.status("2 streams")
    assert manager.received() == ["STATUS=2 streams"]
    assert notifier.extend_timeout(2.5)
    assert manager.received() == ["EXTEND_TIMEOUT_USEC=2500000"]
    assert manager.is_silent()


def test_a_state_and_its_status_share_one_datagram(manager: Manager, notifier: Notifier) -> None:
    assert notifier.ready("accepting on 2 sockets")
    assert manager.received() == ["READY=1", "STATUS=accepting on 2 sockets"]
    assert notifier.stopping("draining 12 records")
    assert manager.received() == ["STOPPING=1", "STATUS=draining 12 records"]


def test_a_line_break_in_a_status_starts_no_other_assignment(
    manager: Manager, notifier: Notifier
) -> None:
    assert notifier.status("draining\nMAINPID=1\r\nREADY=1")
    assert manager.received() == ["STATUS=draining MAINPID=1 READY=1"]


def test_a_long_status_is_cut_and_still_fits_the_manager_s_datagram(
    manager: Manager, notifier: Notifier
) -> None:
    assert notifier.status("\N{SNOWMAN}" * 5000)
    (assignment,) = manager.received()
    assert assignment == "STATUS=" + "\N{SNOWMAN}" * STATUS_CHARACTERS_MAX
    assert len(assignment.encode()) < 4096


def test_an_abstract_socket_is_reached_by_its_at_sign() -> None:
    name = f"kdaemon-test-notify-{os.getpid()}"
    with Manager("\0" + name) as manager:
        assert Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert manager.received() == ["READY=1"]


@pytest.mark.parametrize(
    "environ",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": "relative"}],
)
def test_without_a_usable_socket_nothing_is_sent_and_nothing_raised(
    environ: dict[str, str],
) -> None:
    notifier = Notifier(environ)
    assert not notifier.ready("up")
    assert not notifier.watchdog()
    assert not notifier.stopping()


def test_a_manager_that_is_gone_is_no_error(path: str) -> None:
    assert not Notifier({"NOTIFY_SOCKET": path}).ready()  # nothing was ever there
    with Manager(path):
        pass
    assert not Notifier({"NOTIFY_SOCKET": path}).ready()  # a stale socket file: refused
    assert not Notifier({"NOTIFY_SOCKET": "/" + "x" * 200}).ready()  # longer than sun_path


def test_a_manager_that_reads_nothing_does_not_hold_the_daemon(
    manager: Manager, notifier: Notifier
) -> None:
    queue_records_max = 10_000  # far above the kernel's max_dgram_qlen
    sent = sum(1 for _ in iter(notifier.watchdog, False))  # ends only when one is refused
    assert 0 < sent < queue_records_max
    assert not notifier.watchdog()
    assert manager.received() == ["WATCHDOG=1"]
    assert notifier.watchdog()  # there is room again


@pytest.mark.parametrize("timeout_s", [0, -1.0])
def test_an_extension_of_no_time_is_refused(notifier: Notifier, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="seconds above 0"):
        notifier.extend_timeout(timeout_s)


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID)}, 15.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID + 1)}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "30 s"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": str(2**64 - 1)}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_limit_and_only_by_the_watched_process(
    environ: dict[str, str], interval_s: float | None
) -> None:
    assert watchdog_interval_s(environ, PID) == interval_s

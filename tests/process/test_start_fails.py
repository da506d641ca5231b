"""A start that fails: all that would stop the next one is told, and what is open is left alone."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.daemon import Daemon, environment, write_config

MAIN = "\nfrom kdaemon.__main__ import main\nmain()\n"

# Tells, when its drain begins, how many locks of SQLite's this process has on the spool.
TELLS_LOCKS = (
    """
import os, sys
from kdaemon.daemon.drain import Drain

run = Drain.run

async def told(self, times):
    inode, pid = os.stat({path!r}).st_ino, str(os.getpid())
    with open("/proc/locks") as file:
        rows = [line.split() for line in file]
    held = [row for row in rows if row[4] == pid and row[5].endswith(":%d" % inode)]
    print("locks of the spool:", len(held), file=sys.stderr, flush=True)
    return await run(self, times)

Drain.run = told
"""
    + MAIN
)

CANNOT_LOOK = (
    """
import kdaemon.cli

def broken(*_, **__):
    raise RuntimeError("a defect")

kdaemon.cli.read_and_look = broken
"""
    + MAIN
)

BREAKS = (
    """
from kdaemon.observe.readiness import Readiness

def broken(self):
    raise RuntimeError("unforeseen")

Readiness.started = broken
"""
    + MAIN
)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def settings_of(directory: Path, stack: ExitStack) -> dict[str, object]:
    """A port that is taken is found when the spool is open already."""
    taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return {
        "endpoint_url": "http://127.0.0.1:1",
        "region": "us-east-1",
        "listen.http": f"127.0.0.1:{taken.getsockname()[1]}",
        "spool.directory": str(directory / "spool"),
        "default.acknowledge": "stored",
    }


def run(config: Path, stack: ExitStack, program: str = MAIN) -> Daemon:
    arguments = ["run", "--config", str(config)]
    daemon = Daemon(arguments, environment(), program=("-c", program))
    stack.callback(daemon.close)
    return daemon


def ended(daemon: Daemon) -> str:
    """Its whole log."""
    assert daemon.wait() == 1
    log = "\n".join(daemon.lines)
    assert "cannot start: listen.http" in log
    return log


def test_what_is_wrong_beside_is_told_and_the_open_spool_is_not_looked_at(
    tmp_path: Path, stack: ExitStack
) -> None:
    """To look would close its file, and with that drop the locks which keep others from it."""
    settings = settings_of(tmp_path, stack) | {"ca_file": str(tmp_path / "none.pem")}
    program = TELLS_LOCKS.format(path=str(tmp_path / "spool" / "spool.db"))
    log = ended(run(write_config(tmp_path, settings), stack, program))
    assert "to be mended, too: " in log
    assert "ca_file" in log
    assert log.count("to be mended, too: ") == 1
    assert "locks of the spool: " in log
    assert "locks of the spool: 0" not in log


def test_a_spool_that_cannot_be_had_is_told_by_a_start_that_fails_before(
    tmp_path: Path, stack: ExitStack
) -> None:
    settings = settings_of(tmp_path, stack)
    taken = settings.pop("listen.http")
    more = {"sandbox.listen": taken, "spool.directory": str(tmp_path / "none" / "spool")}
    config = write_config(tmp_path, settings | more)
    daemon = Daemon(["run", "--sandbox", "--config", str(config)], environment())
    stack.callback(daemon.close)
    assert daemon.wait() == 1
    log = "\n".join(daemon.lines)
    assert "cannot start: sandbox.listen" in log
    assert "to be mended, too: " in log
    assert "none/spool" in log


def test_where_nobody_can_look_the_start_that_fails_drains_all_the_same(
    tmp_path: Path, stack: ExitStack
) -> None:
    log = ended(run(write_config(tmp_path, settings_of(tmp_path, stack)), stack, CANNOT_LOOK))
    assert '"stopped"' in log


def test_a_configuration_that_is_read_once_holds_up_no_end(
    tmp_path: Path, stack: ExitStack
) -> None:
    """Another look at a pipe waits for somebody who writes to it."""
    config = write_config(tmp_path, settings_of(tmp_path, stack))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(config.read_text()))
    writer.start()
    log = ended(run(pipe, stack))
    writer.join()
    assert '"stopped"' in log


def test_a_start_that_breaks_behind_its_doors_drains_all_the_same(
    tmp_path: Path, stack: ExitStack
) -> None:
    """By a defect of ours, which nobody foresaw: what was taken is owed to its clients."""
    settings = settings_of(tmp_path, stack) | {"listen.http": "127.0.0.1:0"}
    daemon = run(write_config(tmp_path, settings), stack, BREAKS)
    assert daemon.wait() == 1
    log = "\n".join(daemon.lines)
    assert "unforeseen" in log
    assert "a defect of kdaemon" in log
    assert '"stopped"' in log

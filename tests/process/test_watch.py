"""`kdaemon health`, `status` and `top` against a daemon that runs."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdaemon.cli import cli
from tests.kit.daemon import ROOT, Daemon, environment, running, send
from tests.kit.patience import PATIENCE_S, wait_for


def ask(daemon: Daemon, command: str, *flags: str) -> Result:
    arguments = [command, "--admin", daemon.address("admin"), "--timeout", "60", *flags]
    return CliRunner().invoke(cli, arguments)


def put(daemon: Daemon) -> int:
    return send("POST", f"{daemon.url}/v1/streams/demo/records", '{"data": "a"}\n')[0]


def test_a_daemon_that_runs_is_ready_and_shows_its_streams(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        assert ask(daemon, "health").exit_code == 0
        assert ask(daemon, "health", "--live").exit_code == 0
        assert "no stream is in use" in ask(daemon, "status").stdout
        assert put(daemon) == 200
        daemon.wait_settled()
        shown = ask(daemon, "status")
        assert shown.exit_code == 0
        assert ": ready, up " in shown.stdout
        assert "upstream default (aws us-east-1" in shown.stdout
        row = next(line for line in shown.stdout.splitlines() if line.startswith("demo "))
        assert row.split()[-1] == "ok"
        page = json.loads(ask(daemon, "status", "--json").stdout)
        assert page["streams"][0]["delivered"] == 1
        looks = ask(daemon, "top", "--count", "2", "--every", "0.1").stdout
        assert looks.count(": ready, up ") == 2
    assert ask(daemon, "health").exit_code == 1


def test_a_hold_is_shown_with_what_to_do(tmp_path: Path) -> None:
    with running(tmp_path, {"default.acknowledge": "accepted"}) as daemon:
        words = {"code": "AccessDeniedException", "message": "you may not"}
        daemon.inject({"kind": "status", "status": 400, "calls": None, **words})
        assert put(daemon) == 200

        def shown() -> str | None:
            text = ask(daemon, "status").stdout
            return text if "is on hold" in text else None

        text = wait_for(shown, "the hold")
        assert "demo is on hold: AccessDeniedException: you may not" in text
        assert "kdaemon iam" in text


def test_a_tap_shows_records_that_pass_through_only_where_it_may(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        refused = ask(daemon, "tap", "--stream", "demo", "--count", "1")
        assert refused.exit_code == 1
        assert "set listen.admin_tap = true" in refused.stderr
    with running(tmp_path, {"listen.admin_tap": True}) as daemon, ThreadPoolExecutor(1) as pool:
        flags = ["--stream", "demo", "--data", "--count", "1"]

        def tapped() -> Result | None:
            looking = pool.submit(ask, daemon, "tap", *flags)
            while not looking.done():
                put(daemon)
            found = looking.result()
            return found if found.stdout else None

        result = wait_for(tapped, "a record in a look")
        assert result.exit_code == 0
        assert {json.loads(line)["data"] for line in result.stdout.splitlines()} == {"a"}
        nothing = ask(daemon, "tap", "--stream", "dem0", "--count", "1")
        assert (nothing.exit_code, nothing.stdout) == (0, "")
        assert "nothing of dem0 is taken now. `kdaemon status` names the streams" in nothing.stderr
        assert put(daemon) == 200


class Terminal:
    """A command, `kdaemon top` for one, on a terminal of so many columns."""

    def __init__(self, *arguments: str, command: str = "top", columns: int = 140) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (40, columns))
        words = [sys.executable, "-m", "kdaemon", command, *arguments]
        env = environment(TERM="xterm", LINES="40", COLUMNS=str(columns))
        self.process = subprocess.Popen(
            words, cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.shown = ""

    def wait(self, text: str) -> None:
        while text not in self.shown:
            ready, _, _ = select.select([self.master], [], [], PATIENCE_S)
            assert ready, f"{text!r} is not in {self.shown[-2000:]!r}"
            try:
                part = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                part = b""
            assert part, f"it ended without {text!r}: {self.shown[-2000:]!r}"
            self.shown += part.decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_top_on_a_terminal_goes_on_without_an_answer_and_leaves_by_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        assert put(daemon) == 200
        daemon.wait_settled()
        terminal = Terminal("--admin", daemon.address("admin"), "--every", "0.1")
        try:
            terminal.wait("demo")
            assert daemon.stop() == 0
            terminal.wait("NO ANSWER, this is old")
            terminal.process.send_signal(signal.SIGINT)
            terminal.wait("\x1b[?1049l")
            assert terminal.process.wait(PATIENCE_S) == 0
        finally:
            terminal.close()


HOT = {
    "sandbox.shard_count": 1,
    "default.shard_records_per_second": 50,
    "default.acknowledge": "accepted",
    "observe.show_keys": True,
}
LINES = "".join(
    json.dumps({"data": "x", "partition_key": "customer-42"}) + "\n" for _ in range(500)
)


@pytest.mark.parametrize("columns", [80, 200])
def test_top_shows_the_keys_of_a_hot_shard_on_a_terminal(tmp_path: Path, columns: int) -> None:
    with running(tmp_path, HOT) as daemon:

        def is_known() -> str | None:
            send("POST", f"{daemon.url}/v1/streams/demo/records", LINES)
            text = ask(daemon, "status").stdout
            return text if "HOT KEY" in text else None

        text = wait_for(is_known, "the keys of the hot shard")
        assert "splitting will not help; spread this key" in text
        assert "\n#1  customer-42 " in text
        for command in ("top", "status"):
            terminal = Terminal(
                "--admin", daemon.address("admin"), command=command, columns=columns
            )
            try:
                terminal.wait("#1  customer-42 ")
                assert ("IN FLIGHT" in terminal.shown) is (columns == 200)
                assert "shardId-000000000000 of demo: at " in terminal.shown
            finally:
                terminal.close()

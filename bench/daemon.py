"""Starts a real `kdaemon run` in a directory of its own, and asks it things: ready, metrics, stop.

Used by compare, profile and demo. Knows the daemon only from outside: its command line, its
configuration file, its admin port.
"""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.host import free_port, pinned

READY_WITHIN_S = 30.0  # seconds from spawn to /readyz 200; longer is a failure, not a figure
STOP_WITHIN_S = 40.0  # seconds from SIGTERM to its end: lame duck 1 s and drain 25 s fit in
UNLIMITED = 1_000_000_000
"""Records/s and bytes/s of a shard that must not be paced. A bucket's level at that rate is still a
machine word, as at a real quota; at 10**12, which stood here until 2026-11-29, each refill was
arithmetic on long integers, a tenth of a PutRecords of 500 on 1,000 shards."""
_POLL_S = 0.005  # seconds between two looks at /readyz: the error of `ready_s`
_AWS_NAMES = re.compile(r"AWS_|KDAEMON_|BOTO_")
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? ([^ ]+)$", re.MULTILINE)

Metrics = dict[str, dict[str, float]]


def environment() -> dict[str, str]:
    """This process's environment with dummy AWS credentials and none of its own AWS settings."""
    kept = {name: value for name, value in os.environ.items() if not _AWS_NAMES.match(name)}
    return {
        **kept,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of a loopback GET; status 0 where nobody listens (or not yet)."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
    except (urllib.error.URLError, ConnectionError):
        return 0, ""


def parse_metrics(text: str) -> Metrics:
    """Prometheus text to `{name: {labels as written: value}}`."""
    metrics: Metrics = {}
    for name, labels, value in _SAMPLE.findall(text):
        metrics.setdefault(name, {})[labels] = float(value)
    return metrics


@dataclass(frozen=True, slots=True)
class Tree:
    """Which version runs. `path`: a checkout, or the Python of an environment that has kdaemon
    installed; None: this checkout.
    """

    title: str
    path: Path | None = None

    @property
    def command(self) -> tuple[str, ...]:
        if self.path is None:
            return (sys.executable, "-m", "kdaemon")
        if self.path.is_file():
            return (str(self.path), "-P", "-m", "kdaemon")
        begin = f"import sys; sys.path.insert(0, {str(self.path)!r}); "
        return (sys.executable, "-c", begin + "from kdaemon.__main__ import main; main()")


class DaemonProcess:
    """One `kdaemon run`, from spawn to SIGTERM. Its log goes to `directory/daemon.log`.

    `extra_toml` is added to a configuration that names free ports and a socket in `directory`.
    `launcher` replaces `-m kdaemon` (bench.profile puts its own in front); `tree` does, too.
    """

    def __init__(
        self,
        directory: Path,
        extra_toml: str,
        *,
        flags: tuple[str, ...] = (),
        cores: frozenset[int] | None = None,
        launcher: tuple[str, ...] | None = None,
        tree: Tree = Tree("now"),
    ) -> None:
        self.http_port, self.admin_port = free_port(), free_port()
        self.socket_path = str(directory / "kdaemon.sock")
        self._log_path = directory / "daemon.log"
        config_path = directory / "config.toml"
        config_path.write_text(self._config(extra_toml))
        program = tree.command if launcher is None else (sys.executable, *launcher)
        command = [*program, "run", "--config", str(config_path), *flags]
        with self._log_path.open("wb") as log, pinned(cores or frozenset(os.sched_getaffinity(0))):
            started = time.monotonic()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )
        self.pid = self._process.pid
        self.ready_s = self._wait_until_ready(started)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        readiness = get(self.admin_port, "/readyz")[0] if isinstance(exc, Exception) else None
        self.stop()
        if readiness is not None:  # 503: somebody else stopped it; 0: it was not there any more
            print(f"kdaemon: /readyz answered {readiness}; {self._tail()}", file=sys.stderr)

    def metrics(self) -> Metrics:
        """/metrics now; RuntimeError if the daemon does not answer it."""
        status, text = get(self.admin_port, "/metrics")
        if status != 200:
            message = f"/metrics answered {status}; {self._tail()}"
            raise RuntimeError(message)
        return parse_metrics(text)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, then its exit code; killed if it takes longer than its drain may."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode

    def kill(self) -> None:
        """kill -9, as a crash would end it; returns when it is gone."""
        self._process.kill()
        self._process.wait()

    def _config(self, extra_toml: str) -> str:
        # top-level keys must stand before the first table, so extra_toml may open with them
        return (
            f"{extra_toml}\n[listen]\n"
            f'http = "127.0.0.1:{self.http_port}"\n'
            f'unix = "{self.socket_path}"\n'
            f'admin = "127.0.0.1:{self.admin_port}"\n'
        )

    def _wait_until_ready(self, started: float) -> float:
        while get(self.admin_port, "/readyz")[0] != 200:
            if self._process.poll() is not None or time.monotonic() > started + READY_WITHIN_S:
                self._process.kill()
                self._process.wait()
                message = f"the daemon did not become ready; {self._tail()}"
                raise RuntimeError(message)
            time.sleep(_POLL_S)
        return time.monotonic() - started

    def _tail(self) -> str:
        lines = self._log_path.read_text(errors="replace").splitlines()[-20:]
        return "the last lines of its log:\n  " + "\n  ".join(lines or ["(empty)"])

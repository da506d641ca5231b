"""`python -m kdaemon` as a process of its own, seen only from outside: log, ports, signals, memory.

Shared by tests and bench. A process is killed at the end of its `with`, whatever
happens; its log is kept for the message of a test that fails.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kit.linux import memory_bytes
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.sockets import connected
from tests.kit.template import MAIN as MAIN_MODULE
from tests.kit.template import begin, template

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
KDAEMON = ("-m", "kdaemon")
BEFORE = ("-m", "tests.kit.before")
MAIN = "from kdaemon.__main__ import main\nmain()"

MODULES: dict[tuple[str, ...], str] = {
    KDAEMON: MAIN_MODULE,
    BEFORE: "tests.kit.before",
}  # what runs in a copy
READY = "ready"
MIB = 1024 * 1024

# Ports that the system chooses, and no Unix socket unless somebody names one.
LISTENERS = {
    "listen.http": "127.0.0.1:0",
    "listen.admin": "127.0.0.1:0",
    "listen.unix": "",
    "sandbox.listen": "127.0.0.1:0",
    "drain.lame_duck_ms": 0,
}

# And more time than a busy machine needs: a record is late only where a test says when.
LOOPBACK = {
    **LISTENERS,
    "drain.deadline_ms": 45_000,
    "default.deadline_ms": 45_000,  # below PATIENCE_S: a client hears why
    "send.call_timeout_ms": 40_000,
}


@dataclass(frozen=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


class Metrics:
    """One scrape. A family is parsed when it is first asked for: a test asks for few of many, and
    the parser is slow.
    """

    def __init__(self, text: str) -> None:
        self._texts: dict[str, str] = {}  # by family
        self._samples: dict[str, list[Sample]] = {}
        for part in f"\n{text}".split("\n# TYPE ")[1:]:
            family = part.partition(" ")[0].removesuffix("_total")
            self._texts[family] = f"{self._texts.get(family, '')}# TYPE {part}\n"

    def _of(self, family: str) -> list[Sample]:
        if family not in self._samples:
            assert family in self._texts, f"no metric {family}"
            self._samples[family] = [
                Sample(sample.name, sample.labels, sample.value)
                for parsed in text_string_to_metric_families(self._texts[family])
                for sample in parsed.samples
            ]
        return self._samples[family]

    def total(self, name: str, **labels: str) -> int:
        """Sum over the samples that have these labels; 0 if there is none, as before any stream."""
        return int(self.sum(name, **labels))

    def sum(self, name: str, **labels: str) -> float:
        """The same of what is no count: seconds, say."""
        family = name.removesuffix("_total").removesuffix("_sum").removesuffix("_count")
        return sum(
            sample.value
            for sample in self._of(family)
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    @property
    def streams(self) -> list[str]:
        found = [each.labels["stream"] for each in self._of("kdaemon_records_received")]
        assert found, "no stream is known"
        return found

    def left_over(self, stream: str) -> int:
        """What came in minus what is accounted for, as the text tells it: 0, or a defect."""
        came_in = ("received_total", "recovered_total")
        accounted_for = (
            "rejected_total",
            "delivered_total",
            "dead_total",
            "dropped_total",
            "recovered_settled_total",
            "spooled",
            "buffered",
            "in_flight",
        )

        def summed(names: tuple[str, ...]) -> int:
            return sum(self.total(f"kdaemon_records_{name}", stream=stream) for name in names)

        return summed(came_in) - summed(accounted_for)


_are_copies = True  # of the template, or else each is started from scratch


@contextlib.contextmanager
def from_scratch() -> Iterator[None]:
    """What starts meanwhile is no copy of the template: for tests of a start, and of memory."""
    global _are_copies  # noqa: PLW0603 - of this module's processes
    before, _are_copies = _are_copies, False
    try:
        yield
    finally:
        _are_copies = before


class Process:
    """A running `kdaemon`. Its log lines arrive through a thread."""

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        program: tuple[str, ...] = KDAEMON,
        passed: Sequence[int] = (),
        python: str = sys.executable,
    ) -> None:
        """`program`: what Python runs; another one may break something first. `passed`: descriptors
        that it inherits.
        """
        self.lines: list[str] = []
        self._arrived = threading.Condition()
        self._has_ended = False
        reading, writing = os.pipe()
        self._log_file = os.fdopen(reading, encoding="utf-8")
        module = MODULES.get(program) if _are_copies else None
        how: dict[str, Any] = {"program": program, "passed": passed, "python": python}
        self._process = begin(arguments, environment, writing, module=module, **how)
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name="kdaemon's log", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._log_file:
            with self._arrived:
                self.lines.append(line.rstrip("\n"))
                self._arrived.notify_all()
        with self._arrived:
            self._has_ended = True
            self._arrived.notify_all()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE_S)
        self._log_file.close()

    # Its log

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines that are JSON, but for metrics; a test may ask that all are."""
        parsed = []
        for line in list(self.lines):
            if not line.startswith('{"_aws"'):
                with contextlib.suppress(ValueError):
                    parsed.append(json.loads(line))
        return parsed

    def wait_log(self, text: str) -> dict[str, Any]:
        """The first line of this text; fails when it does not come or the process ends."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self.log if line["text"] == text), None)

        with self._arrived:
            self._arrived.wait_for(lambda: self._has_ended or found() is not None, PATIENCE_S)
        line = found()
        assert line is not None, f"no log line {text!r} in:\n" + "\n".join(self.lines)
        return line

    def address(self, listener: str) -> str:
        """Where a listener of this name is, by its log line."""
        for line in self.log:
            if line["text"] == "listening" and line["fields"]["listener"] == listener:
                return str(line["fields"]["at"])
        raise AssertionError(f"no listener {listener} in:\n" + "\n".join(self.lines))

    # Its life

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Its exit code; fails if it does not end by itself."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            text = "\n".join(self.lines)
            raise AssertionError(f"still there after {timeout_s} s:\n{text}") from None
        self._reader.join(PATIENCE_S)
        return code

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.signal()
        return self.wait()

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return memory_bytes(self.pid, "VmRSS")

    def peak_bytes(self) -> int:
        """Resident memory at its highest, since the start."""
        return memory_bytes(self.pid, "VmHWM")


class Daemon(Process):
    """A `kdaemon run` that is ready. `sandbox_url`: the service behind it; `ready_s`: what it took
    from spawn to its word in the log.
    """

    sandbox_url = ""
    ready_s = 0.0

    @property
    def url(self) -> str:
        return self.address("http")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connect(self, listener: str = "http") -> socket.socket:
        """A connection to this listener."""
        return connected(self.address(listener))

    def page(self, path: str) -> tuple[int, str]:
        """An admin page: status and text."""
        return get(self.address("admin") + path)

    def metrics(self) -> Metrics:
        status, text = self.page("/metrics")
        assert status == 200, text
        return Metrics(text)

    def counted(self, name: str, **labels: str) -> int:
        """One metric now, summed over what the labels leave open."""
        return self.metrics().total(name, **labels)

    def wait_settled(self, timeout_s: float = PATIENCE_S) -> Metrics:
        """The scrape at which nothing is buffered and nothing in flight."""

        def settled() -> Metrics | None:
            metrics = self.metrics()
            names = ("kdaemon_records_buffered", "kdaemon_records_in_flight")
            return None if any(metrics.total(name) for name in names) else metrics

        return wait_for(settled, "the daemon to be idle", timeout_s)

    def inject(self, *faults: dict[str, Any]) -> None:
        """Adds faults to the script of the sandbox behind it."""
        status, text = send("POST", self.sandbox_url + "/sandbox/faults", json.dumps(faults))
        assert status == 200, text

    def clear_faults(self) -> None:
        status, text = send("DELETE", self.sandbox_url + "/sandbox/faults")
        assert status == 200, text


def control_quota(calls_per_second: float) -> str:
    """Python that runs before MAIN: another quota of control calls, embedded service or not."""
    names = "it.CALLS_PER_SECOND = it.EMBEDDED_CALLS_PER_SECOND"
    return f"import kdaemon.send.control as it\n{names} = {calls_per_second}"


def environment(**more: str) -> dict[str, str]:
    """This process's, without settings of the daemon or of AWS that it happens to have."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KDAEMON_", "AWS_", "XDG_RUNTIME", "RUNTIME_DIR", "NOTIFY_"))
    }
    return {
        **kept,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        **more,
    }


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this process live in `environment()`."""
    kept = environment()
    for name in set(os.environ) - set(kept):
        monkeypatch.delenv(name)
    for name, value in kept.items():
        monkeypatch.setenv(name, value)


def command(
    *arguments: str, before: str | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """A command of kdaemon's, to its end: a copy of the template, which has no imports to pay for.
    `before`: as for `running`. `more`: of its environment.
    """
    module = MODULES[BEFORE if before else KDAEMON]
    variables = environment(**more, **({"KIT_BEFORE": before} if before else {}))
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = template().start(
            [*arguments], variables, stderr.fileno(), module, stdout=stdout.fileno()
        )
        try:
            code = process.wait(PATIENCE_S)
        finally:
            process.kill()
        said = []
        for file in (stdout, stderr):
            file.seek(0)
            said.append(file.read().decode().replace("\r\n", "\n"))
    return subprocess.CompletedProcess([*arguments], code, *said)


def write_config(
    directory: Path, settings: Mapping[str, object], base: Mapping[str, object] = LOOPBACK
) -> Path:
    """A configuration file of dotted keys over those of `base`."""
    tables: dict[str, list[str]] = {"": []}
    for key, value in {**base, **settings}.items():
        table, _, name = key.rpartition(".")
        tables.setdefault(table, []).append(f"{name} = {json.dumps(value)}")
    path = directory / "kdaemon.toml"
    path.write_text(
        "\n".join(
            line
            for table, lines in tables.items()
            for line in ([f"[{table}]"] if table else []) + lines
        )
    )
    return path


@contextlib.contextmanager
def started(arguments: list[str], **more: str) -> Iterator[Process]:
    """A `kdaemon` of these arguments, ready or not. `more`: of its environment."""
    process = Process(arguments, environment(**more))
    try:
        yield process
    finally:
        process.close()


@contextlib.contextmanager
def sandbox(stream: str = "demo", shard_count: int = 4, **settings: object) -> Iterator[str]:
    """A `kdaemon sandbox` as a process of its own; its URL."""
    arguments = ["sandbox", "--listen", "127.0.0.1:0", "--stream", stream]
    arguments += [
        "--shards",
        str(shard_count),
        "--set",
        f"service={settings.pop('service', 'aws')}",
    ]
    for key, value in settings.items():
        arguments += ["--set", f"sandbox.{key}={value}"]
    with started(arguments) as process:
        yield process.wait_log("listening")["fields"]["at"]


@contextlib.contextmanager
def running(
    directory: Path,
    settings: Mapping[str, object] | None = None,
    *,
    service: str | None = None,
    before: str | None = None,
    base: Mapping[str, object] = LOOPBACK,
    **how: Any,
) -> Iterator[Daemon]:
    """A daemon that is ready, with its embedded sandbox or in front of the one at `service`.
    `before`: Python that runs first in its process; it may set constants that are no settings.
    `how`: of `Process`, in the place of what `before` says.
    """
    given = dict(settings or {})
    arguments = ["run"]
    if service is None:
        arguments.append("--sandbox")
    else:
        given = {"endpoint_url": service, "region": "us-east-1", **given}
    arguments += ["--config", str(write_config(directory, given, base))]
    more = {"KIT_BEFORE": before} if before else {}
    began_s = time.monotonic()
    daemon = Daemon(
        arguments, environment(**more), **{"program": BEFORE if before else KDAEMON, **how}
    )
    try:
        daemon.wait_log(READY)
        daemon.ready_s = time.monotonic() - began_s
        daemon.sandbox_url = service or daemon.address("sandbox")
        yield daemon
    finally:
        daemon.close()


def get(url: str) -> tuple[int, str]:
    return send("GET", url)


def send(method: str, url: str, body: str | None = None) -> tuple[int, str]:
    """Status and text of one request; status 0 where nobody listens."""
    request = urllib.request.Request(
        url, method=method, data=None if body is None else body.encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return 0, ""

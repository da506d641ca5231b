"""Clients that others wrote, each a program of its own that is told what to put.

A program is started as `PROGRAM NAME ENDPOINT`, reads a call a line from its standard input and
writes a line for each to its standard output:

    {"operation": "PutRecord" | "PutRecords", "stream": NAME, "records": [[KEY, TEXT], ...]}
    {"failed": [POSITION, ...], "error": TEXT}

`failed`: records that its user was told to have failed; `error`: what was raised, and then nothing
is known to have been taken. Each client is on its defaults but for the endpoint, and takes region
and keys from the environment, as SDKs do. What needs a build is built by `make clients`. A client
of Python is a copy of the template (tests/kit/template.py), which has imported most of its needs.
"""

import functools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.kit.daemon import ROOT, environment
from tests.kit.kcl import inner_records
from tests.kit.template import Copy, template

PROGRAMS = Path(__file__).parent / "programs"
PACKAGES = ROOT / ".venv" / "clients"  # of clients that have an environment of their own
CALL_TIMEOUT_S = 120.0  # more than any client waits for one call here


def _whole(data: bytes) -> list[str]:
    return [data.decode()]


def _aggregated(data: bytes) -> list[str]:
    """As the KPL packs them."""
    inner = inner_records(data)
    return _whole(data) if inner is None else [each.data.decode() for each in inner]


def _lines_of_json(data: bytes) -> list[str]:
    """As async-kinesis packs them, on its defaults."""
    return [str(json.loads(line)) for line in data.splitlines()]


@dataclass(frozen=True)
class Client:
    """`built`: what must be there, beneath `PROGRAMS`. `is_installed`: whether this machine has
    what nothing here builds. `is_tls`: speaks TLS only. `has_spool`: is for a daemon that has one.
    `is_socket`: writes to the stream's own Unix socket, whose path is its endpoint. `texts_of`: the
    texts that one record of it holds. `module`: runs in a copy of the template, in place of the
    command.
    """

    name: str
    title: str
    command: tuple[str, ...]
    built: str = ""
    is_installed: Callable[[], bool] = lambda: True
    is_tls: bool = False
    has_spool: bool = False
    is_socket: bool = False
    texts_of: Callable[[bytes], list[str]] = _whole
    module: str = ""

    @property
    def runtime(self) -> str | None:
        """The marker of its tests."""
        return {"java": "java", "node": "node"}.get(self.command[0]) or (
            "go" if self.command in {_GO, _TELEGRAF} else None
        )

    @property
    def is_built(self) -> bool:
        return (PROGRAMS / self.built).exists() and self.is_installed()


@dataclass(frozen=True)
class Told:
    """What the user of a client was told of one call."""

    failed: frozenset[int] = frozenset()
    error: str = ""


@functools.cache
def _has_aws_cli_2() -> bool:
    """No registry of packages has version 2: who wants it tried has it on the path."""
    if shutil.which("aws") is None:
        return False
    said = subprocess.run(("aws", "--version"), capture_output=True, text=True, check=False)
    return said.stdout.startswith("aws-cli/2.")


_JAVA = ("java", "-cp", "java/target/classes:java/target/jars/*", "Client")
_GO = ("go/client",)
_TELEGRAF = ("telegraf/client",)
_NODE = ("node", "node/client.js")
_PYTHON = (sys.executable, "python/client.py")
_COPY = "tests.clients.programs.python.client"  # the same, of which nothing is a process
_BUILT_JAVA = "java/target/classes/Client.class"
_BUILT_NODE = "node/node_modules/@aws-sdk"
_AWS_CLI = str(PACKAGES / "aws-cli" / "bin" / "aws")
_QUIX = str(PACKAGES / "quixstreams" / "bin" / "python")
_SYSLOG_NG = (sys.executable, "python/syslog_ng.py")
_BUILT_SYSLOG_NG = str(PACKAGES / "syslog-ng" / "usr" / "sbin" / "syslog-ng")

CLIENTS = (
    Client("boto3", "boto3", _PYTHON, module=_COPY),
    Client("aiobotocore", "aiobotocore", _PYTHON, module=_COPY),
    Client("aws-cli", "AWS CLI v1", _PYTHON, _AWS_CLI),
    Client("aws-cli-v2", "AWS CLI v2", _PYTHON, is_installed=_has_aws_cli_2),
    Client("js-v2", "JavaScript SDK v2", _NODE, _BUILT_NODE),
    Client("js-v3", "JavaScript SDK v3 (HTTP/2)", _NODE, _BUILT_NODE),
    Client("js-v3-http1", "JavaScript SDK v3 with NodeHttpHandler", _NODE, _BUILT_NODE),
    Client("java-v1", "Java SDK v1 (CBOR)", _JAVA, _BUILT_JAVA),
    Client("java-v2", "Java SDK v2, sync (CBOR)", _JAVA, _BUILT_JAVA),
    Client("java-v2-async", "Java SDK v2, async (HTTP/2, CBOR)", _JAVA, _BUILT_JAVA),
    Client("java-http", "java.net.http, unsigned (offers an upgrade)", _JAVA, _BUILT_JAVA),
    Client("go-v1", "Go SDK v1", _GO, "go/client"),
    Client("go-v2", "Go SDK v2", _GO, "go/client"),
    Client("kpl", "KPL 1.0 (native, TLS)", _JAVA, _BUILT_JAVA, is_tls=True, texts_of=_aggregated),
    Client("aiokpl", "aiokpl", _PYTHON, module=_COPY, texts_of=_aggregated),
    Client("async-kinesis", "async-kinesis", _PYTHON, module=_COPY, texts_of=_lines_of_json),
    Client("quixstreams", "quixstreams (KinesisSink)", (_QUIX, "python/client.py"), _QUIX),
    Client("telegraf", "Telegraf (outputs.kinesis)", _TELEGRAF, "telegraf/client"),
    Client("npm-kinesis", "npm kinesis (TLS)", _NODE, "node/node_modules/kinesis", is_tls=True),
    Client(
        "syslog-ng-http",
        "syslog-ng, http() as [here](syslog-ng.md)",
        _SYSLOG_NG,
        _BUILT_SYSLOG_NG,
        has_spool=True,
    ),
    Client(
        "syslog-ng-socket",
        "syslog-ng, unix-stream() as [here](syslog-ng.md)",
        _SYSLOG_NG,
        _BUILT_SYSLOG_NG,
        has_spool=True,
        is_socket=True,
    ),
)


@dataclass
class Program:
    """A client that runs. Its standard error goes to a file, for the message of a failure."""

    client: Client
    endpoint: str
    _answers: "queue.Queue[str]" = field(default_factory=queue.Queue)

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()
        hears, asks = os.pipe()
        answers, says = os.pipe()
        self._asks = os.fdopen(asks, "w")
        self._said = os.fdopen(answers)
        try:
            self._process = self._begin(hears, says)
        finally:
            os.close(hears)
            os.close(says)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _begin(self, stdin: int, stdout: int) -> subprocess.Popen[bytes] | Copy:
        variables = environment(AWS_REGION="us-east-1", AWS_DEFAULT_REGION="us-east-1")
        arguments = [self.client.name, self.endpoint]
        if self.client.module:
            return template().start(
                *(arguments, variables, self._errors.fileno(), self.client.module),
                stdin=stdin,
                stdout=stdout,
            )
        return subprocess.Popen(
            [*self.client.command, *arguments],
            cwd=PROGRAMS,
            env=variables,
            stdin=stdin,
            stdout=stdout,
            stderr=self._errors,
            start_new_session=True,  # of it and what it starts
        )

    def __exit__(self, *_: object) -> None:
        if self.client.module:
            self._process.kill()
        else:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(CALL_TIMEOUT_S)
        for file in (self._asks, self._said, self._errors):
            file.close()

    def _read(self) -> None:
        for line in self._said:
            self._answers.put(line)
        self._answers.put("")

    def begin(self, operation: str, stream: str, records: list[tuple[str, str]]) -> None:
        """Tells it to put; `told` waits for what comes of it."""
        call: dict[str, Any] = {"operation": operation, "stream": stream, "records": records}
        self._asks.write(json.dumps(call) + "\n")
        self._asks.flush()

    def told(self) -> Told:
        """What came of the oldest call that was begun."""
        told = self.told_within(CALL_TIMEOUT_S)
        assert told is not None, f"{self.client.name} says nothing for {CALL_TIMEOUT_S} s"
        return told

    def told_within(self, timeout_s: float) -> Told | None:
        """The same; None: it is still trying."""
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if not line:
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace")
            raise AssertionError(f"{self.client.name} ended:\n{text}")
        answer = json.loads(line)
        return Told(frozenset(answer["failed"]), answer.get("error", ""))

    def put(self, operation: str, stream: str, records: list[tuple[str, str]]) -> Told:
        self.begin(operation, stream, records)
        return self.told()

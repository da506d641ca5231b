"""The log holds up nothing, whatever standard error is: a pipe that nobody reads, or nothing."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.daemon import (
    BEFORE,
    MODULES,
    ROOT,
    control_quota,
    environment,
    get,
    sandbox,
    write_config,
)
from tests.kit.endpoints import Endpoint, entry
from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.template import Copy, begin

LISTENING = re.compile(r"listener\W+(\w+)\W+at\W+(http\S+?:\d+)")  # in both formats


@dataclass
class Stalled:
    """A daemon whose log was read until it was ready, and is not read any more."""

    process: subprocess.Popen[bytes] | Copy
    at: dict[str, str]

    def put(self, stream: str, acknowledge: str) -> int:
        """One record; the HTTP status."""
        url = self.at["http"]
        body = json.dumps({"StreamName": stream, "Records": [entry(b"x", "k")]}).encode()
        endpoint = Endpoint("daemon", url=url, put_url=url)
        return endpoint.put_raw("PutRecords", body, x_kdaemon_acknowledge=acknowledge).status


@contextmanager
def stalled(
    directory: Path, log_format: str, *, is_blocking: bool, drain_ms: int = 200
) -> Iterator[Stalled]:
    reader, writer = os.pipe()
    with sandbox() as service:
        settings = {
            "endpoint_url": service,
            "region": "us-east-1",
            "log.format": log_format,
            "drain.deadline_ms": drain_ms,
            "streams.listed.acknowledge": "accepted",  # which the service does not know
        }
        config = write_config(directory, settings)
        variables = environment(KIT_BEFORE=control_quota(100))  # 95 streams are looked for
        arguments = ["run", "--config", str(config)]
        process = begin(arguments, variables, os.dup(writer), module=MODULES[BEFORE])
        try:
            read = b""
            while b"ready" not in read:
                read += os.read(reader, 65_536)
            os.set_blocking(writer, False)
            try:
                while True:  # not a byte more goes in
                    os.write(writer, b"." * 4096)
            except BlockingIOError:
                os.set_blocking(writer, is_blocking)
            yield Stalled(process, dict(LISTENING.findall(read.decode())))
        finally:
            process.kill()
            process.wait()
            os.close(reader)
            os.close(writer)


@pytest.mark.parametrize("is_blocking", [True, False], ids=["blocking", "non-blocking"])
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_log_that_nobody_reads_holds_up_nothing(
    tmp_path: Path, log_format: str, is_blocking: bool
) -> None:
    """Not the probes, not a put, not the end and its exit code."""
    with stalled(tmp_path, log_format, is_blocking=is_blocking) as daemon:
        for number in range(95):
            assert daemon.put(f"missing-{number}", "accepted") in {200, 400}
        assert daemon.put("listed", "accepted") == 200
        assert get(daemon.at["admin"] + "/livez") == (200, "ok\n")
        assert daemon.put("demo", "delivered") == 200
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE_S) == 1, "of a stream that is missing, too"


def test_with_nothing_left_over_the_end_is_0_though_nobody_reads(tmp_path: Path) -> None:
    with stalled(tmp_path, "json", is_blocking=True, drain_ms=45_000) as daemon:
        assert daemon.put("demo", "accepted") == 200
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_without_a_standard_error_it_starts_runs_and_ends(tmp_path: Path, closed: str) -> None:
    """And no file or socket of the daemon's gets the number that libraries write errors to."""
    path = tmp_path / "k.sock"
    settings = {"listen.unix": str(path), "spool.directory": str(tmp_path / "spool")}
    config = write_config(tmp_path, settings)
    command = [sys.executable, "-m", "kdaemon", "run", "--sandbox", "--config", str(config)]
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {shlex.join(command)} {closed}"], cwd=ROOT, env=environment()
    )
    try:
        wait_for(lambda: path.exists() or None, "the socket")
        assert os.readlink(f"/proc/{process.pid}/fd/2") == os.devnull
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(path))
            line = {"stream": "demo", "partition_key": "k", "data": "x"}
            client.sendall(json.dumps({"acknowledge": "stored"}).encode() + b"\n")
            client.sendall(json.dumps(line).encode() + b"\n")
            assert b'"acknowledged":1' in client.recv(4096)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("where", ["/dev/full", "a pipe whose reader is gone"])
def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path, where: str) -> None:
    path = tmp_path / "k.sock"
    config = write_config(tmp_path, {"listen.unix": str(path)})
    if where == "/dev/full":
        writer = os.open(where, os.O_WRONLY)
    else:
        reader, writer = os.pipe()
        os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-m", "kdaemon", "run", "--sandbox", "--config", str(config)],
        cwd=ROOT,
        env=environment(),
        stderr=writer,
    )
    os.close(writer)
    try:
        wait_for(lambda: path.exists() or None, "the socket")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()

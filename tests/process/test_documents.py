"""What the documents tell a reader to type is typed: each page's blocks, in their order.

A page is read in a directory of its own, beside a daemon with a spool, a socket and its sandbox;
the addresses of the page become that daemon's. What a block exports, later blocks of the page have.
Java, Go and JavaScript run where their runtime and their SDK are (`make clients`, `make test`).
A snippet of an SDK that was pointed at the daemon must have delivered something when it ends.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit.daemon import Daemon, environment, running
from tests.kit.endpoints import NODE
from tests.kit.markdown import DOCUMENTS, ROOT, blocks
from tests.kit.patience import PATIENCE_S

ENDPOINT = "AWS_ENDPOINT_URL_KINESIS"
SDKS = ("python", "js", "java", "go")
PROGRAMS = ROOT / "tests" / "clients" / "programs"
RAN = [block for document in DOCUMENTS for block in blocks(document) if block.is_run]
PAGES = sorted({block.document for block in RAN})
MISSING = [name for name in ("bash", "curl", "openssl") if shutil.which(name) is None]

JAVA = """
import java.net.URI;
import software.amazon.awssdk.core.SdkBytes;
import software.amazon.awssdk.services.kinesis.KinesisClient;

public final class Snippet {
  public static void main(String[] arguments) {
%s
  }
}
"""
GO = """package main

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
)

func run(ctx context.Context) error {
%s
	return err
}

func main() {
	if err := run(context.Background()); err != nil {
		panic(err)
	}
}
"""


@dataclass
class Reader:
    """Who reads one page: a directory, a daemon, a port for what the page starts, and what was
    exported so far.
    """

    directory: Path
    daemon: Daemon
    free_port: int
    exported: dict[str, str] = field(default_factory=dict)

    def read(self, text: str) -> str:
        """With this daemon's addresses in the place of the page's."""
        places = {
            "127.0.0.1:4599": f"127.0.0.1:{self.free_port}",
            "127.0.0.1:8990": self.daemon.url.removeprefix("http://"),
            "127.0.0.1:8991": self.daemon.address("admin").removeprefix("http://"),
            "127.0.0.1:4567": self.daemon.sandbox_url.removeprefix("http://"),
            "/run/kdaemon/kdaemon.sock": str(self.directory / "kdaemon.sock"),
        }
        for theirs, ours in places.items():
            text = text.replace(theirs, ours)
        return text

    def run(self, *command: str, cwd: Path | None = None) -> None:
        told = self.directory / "told"
        with told.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd or self.directory / "work",
                env={**environment(), **self.given(), **self.exported},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                code: object = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                code = "none"
            finally:  # also what a page started and did not end
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert code == 0, f"exit {code}\n{told.read_text()}"

    def given(self) -> dict[str, str]:
        return {
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CURL_HOME": str(self.directory / "bin"),
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "KDAEMON_LISTEN_ADMIN": self.daemon.address("admin").removeprefix("http://"),
            "KDAEMON_SPOOL_DIRECTORY": str(self.directory / "spool"),
        }

    def shell(self, text: str) -> None:
        told = self.directory / "exported"
        ending = f'\nenv -0 > "{told}"\n'
        self.run("bash", "-euo", "pipefail", "-c", text + ending)
        now = dict(each.split("=", 1) for each in told.read_text().split("\0") if "=" in each)
        before = {**environment(), **self.given()}
        shells = {"_", "SHLVL", "PWD", "OLDPWD"}
        self.exported |= {k: v for k, v in now.items() if k not in shells and before.get(k) != v}

    def console(self, text: str) -> None:
        self.shell("\n".join(re.findall(r"^\$ (.*)$", text, re.MULTILINE)))

    def python(self, text: str) -> None:
        if "def test_" not in text:
            self.run(sys.executable, "-c", text)
            return
        (self.directory / "work" / "test_page.py").write_text(text)
        self.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py")

    def js(self, text: str) -> None:
        node = shutil.which("node")
        if node is None or not (NODE / "node_modules/@aws-sdk").is_dir():
            pytest.skip("no node here, or no tests/contract/node_modules: `make test` installs it")
        work = self.directory / "work"
        if not (work / "node_modules").exists():
            (work / "node_modules").symlink_to(NODE / "node_modules")
        (work / "snippet.mjs").write_text(text)
        self.run(node, "snippet.mjs")

    def java(self, text: str) -> None:
        java, jars = shutil.which("java"), PROGRAMS / "java" / "target" / "jars"
        if java is None or not jars.is_dir():
            pytest.skip("no java here, or no SDK for it: `make clients` fetches it")
        (self.directory / "work" / "Snippet.java").write_text(JAVA % text)
        self.run(java, "-cp", f"{jars}/*", "Snippet.java")

    def go(self, text: str) -> None:
        go = shutil.which("go")
        if go is None or not (PROGRAMS / "go" / "client").exists():
            pytest.skip("no go here, or no SDK for it: `make clients` builds it")
        module = self.directory / "work" / "go"
        module.mkdir(exist_ok=True)
        for name in ("go.mod", "go.sum"):
            shutil.copy(PROGRAMS / "go" / name, module)
        (module / "main.go").write_text(GO % text)
        self.run(go, "run", "-mod=mod", ".", cwd=module)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    work, programs = tmp_path / "work", tmp_path / "bin"
    work.mkdir()
    programs.mkdir()
    for name in ("config.example.toml", "deploy", "tests"):
        (work / name).symlink_to(ROOT / name)
    (programs / ".curlrc").write_text("fail\nsilent\nshow-error\n")  # an error of HTTP is an error
    kdaemon = programs / "kdaemon"
    kdaemon.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kdaemon "$@"\n')
    kdaemon.chmod(0o755)
    settings = {
        "listen.unix": str(tmp_path / "kdaemon.sock"),
        "spool.directory": str(tmp_path / "spool"),
    }
    with running(tmp_path, settings) as daemon, socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))  # and does not listen: a server of the page can
        yield Reader(tmp_path, daemon, reserved.getsockname()[1])


def test_there_is_something_to_type() -> None:
    assert ROOT / "README.md" in PAGES
    assert {block.language for block in RAN} >= {"sh", *SDKS}


@pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} are not on this machine")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_says_to_type_works(page: Path, reader: Reader) -> None:
    skipped: list[str] = []
    for block in blocks(page):
        if not block.is_run:
            continue
        delivered = reader.daemon.counted("kdaemon_records_delivered_total")
        try:
            getattr(reader, "shell" if block.language == "sh" else block.language)(
                reader.read(block.text)
            )
        except AssertionError as error:
            raise AssertionError(f"{block.place}: {error}") from None
        except pytest.skip.Exception as reason:
            skipped.append(f"{block.place}: {reason}")
            continue
        if block.language in SDKS and ENDPOINT in reader.exported:
            assert reader.daemon.counted("kdaemon_records_delivered_total") > delivered, block.place
    if skipped:
        pytest.skip("; ".join(skipped))

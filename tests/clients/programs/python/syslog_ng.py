"""syslog-ng with the configuration of docs/syslog-ng.md. Reads calls from standard input and writes
what came of each, as tests/clients/program.py says.

Its user is told nothing of a message: `dropped` of its statistics is what he can see of a failure,
and `written` of a success. Each call waits until all that it put is one or the other.
"""

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).parents[4]
HOME = PROJECT / ".venv" / "clients" / "syslog-ng"
PAGE = PROJECT / "docs" / "syslog-ng.md"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/syslog-ng")
LOOK_EACH_S = 0.05
SOURCE = """@version: 3.38
source s_app { unix-stream("%s" flags(no-parse)); };
%s
log { source(s_app); destination(d_kdaemon); flags(flow-control); };
"""


def configuration(name: str, endpoint: str, stream: str, directory: Path) -> str:
    """The page's, with the addresses and directories of this run."""
    blocks = re.findall(r"```syslog-ng\n(.*?)```", PAGE.read_text(), re.DOTALL)
    block = next(each for each in blocks if (" http(" in each) is (name == "syslog-ng-http"))
    for written, here in (
        ("http://127.0.0.1:8990", endpoint),
        ("/run/kdaemon/app.sock", endpoint),
        ("streams/app/", f"streams/{stream}/"),
        ("/var/lib/syslog-ng", str(directory)),
    ):
        block = block.replace(written, here)
    return SOURCE % (directory / "in.sock", block)


class SyslogNg:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._environment = {"LD_LIBRARY_PATH": ":".join(str(HOME / each) for each in LIBRARIES)}
        self._put_count = 0
        self._dropped = 0

    @contextmanager
    def running(self, text: str) -> Iterator[None]:
        config, at = self._directory / "syslog-ng.conf", self._directory
        config.write_text(text)
        places = ("-f", config, "-R", at / "persist", "-c", at / "control", "--pidfile", at / "pid")
        modules = next((HOME / "usr/lib/syslog-ng").glob("*.*/"))
        process = subprocess.Popen(
            (HOME / "usr/sbin/syslog-ng", "-F", "--no-caps", f"--module-path={modules}", *places),
            env=self._environment,
        )
        try:
            while not ((at / "in.sock").exists() and (at / "control").exists()):
                if process.poll() is not None:
                    raise RuntimeError(f"syslog-ng ended with {process.returncode}")
                time.sleep(LOOK_EACH_S)
            with socket.socket(socket.AF_UNIX) as self._source:
                self._source.connect(str(at / "in.sock"))
                yield
        finally:
            process.kill()
            process.wait()

    def put(self, texts: list[str]) -> dict[str, object]:
        self._source.sendall("".join(f"{text}\n" for text in texts).encode())
        self._put_count += len(texts)
        while (counts := self._counts())["written"] + counts["dropped"] < self._put_count:
            time.sleep(LOOK_EACH_S)
        dropped, self._dropped = counts["dropped"] - self._dropped, counts["dropped"]
        return {"failed": [], "error": f"{dropped} dropped"} if dropped else {"failed": []}

    def _counts(self) -> dict[str, int]:
        """`written` and `dropped` of the destination; 0 before it has sent anything."""
        counts = {"written": 0, "dropped": 0}
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self._directory / "control"))
            control.sendall(b"STATS\n")
            with control.makefile(encoding="utf-8") as lines:
                for line in iter(lines.readline, ".\n"):
                    fields = line.rstrip("\n").split(";")
                    if fields[0].startswith("dst.") and fields[-2] in counts:
                        counts[fields[-2]] += int(fields[-1])
        return counts


def main(name: str, endpoint: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        directory, program = Path(place), None
        first = sys.stdin.readline()
        if not first:
            return
        text = configuration(name, endpoint, json.loads(first)["stream"], directory)
        program = SyslogNg(directory)
        with program.running(text):
            line = first
            while line:
                told = program.put([text for _, text in json.loads(line)["records"]])
                print(json.dumps(told), flush=True)
                line = sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])

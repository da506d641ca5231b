"""Processes that begin as copies of one that has imported everything.

A start of `kdaemon run` is 0.7 s of CPU, nearly all of it imports, and the tests make a hundred. So
one template process a test run (`python -m tests.kit.template`) imports the rooms and forks; the
copy gets its own arguments, environment and standard files, and runs kdaemon's own main. Who looks
at a start or at memory takes a process from scratch (`tests.kit.daemon.from_scratch`).

Invariant: a copy has the three standard files and nothing else of the template's or its siblings'.
The template ends, and kills its copies, when the test process is gone.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import random
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MAIN = "kdaemon.__main__"
REQUEST_BYTES_MAX = 1 << 20
FILES = 4  # of a request: the three standard ones, and where the exit code is told


class Copy:
    """A process that was forked for us: as much of `subprocess.Popen` as tests need."""

    def __init__(self, pid: int, told: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._told = told

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            poller = select.poll()  # select() knows no descriptor above 1023
            poller.register(self._told, select.POLLIN)
            if not poller.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("kdaemon", timeout or 0.0)
            status = self._told.recv(64)
            self._told.close()
            self.returncode = os.waitstatus_to_exitcode(int(status or b"9"))
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where processes run: `root` is where `kdaemon` and `tests` are imported from; `preload`: a
    library that stands before the C library's functions ("": none). `is_older`: what runs there is
    the version before this one, with that version's settings.
    """

    root: Path = ROOT
    preload: str = ""
    is_older: bool = False

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        return {**given, "LD_PRELOAD": self.preload} if self.preload else dict(given)


STAGE = Stage()


class Template:
    """The template's end in the test process."""

    def __init__(self, stage: Stage) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.kit.template", str(theirs.fileno())],
                cwd=stage.root,
                env=stage.environment(os.environ),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def close(self) -> None:
        self._ours.close()
        self._process.wait()

    def start(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        stderr: int,
        module: str = MAIN,
    ) -> Copy:
        """`kdaemon` with these arguments, in the root of the project; it hears and says nothing but
        on `stderr`. `module`: whose `main` runs; another one may break something first.
        """
        request = json.dumps(
            {"module": module, "arguments": arguments, "environment": dict(environment)}
        ).encode()
        assert len(request) < REQUEST_BYTES_MAX
        ours, theirs = socket.socketpair()
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            with self._lock:
                socket.send_fds(self._ours, [request], [nothing, nothing, stderr, theirs.fileno()])
                pid = int(self._ours.recv(64))
        finally:
            os.close(nothing)
            theirs.close()
        return Copy(pid, ours)


@functools.cache
def template(stage: Stage = STAGE) -> Template:
    """The one of this test run for this stage, started when it is first asked for."""
    return Template(stage)


def begin(
    arguments: list[str],
    environment: Mapping[str, str],
    stderr: int,
    *,
    module: str | None = None,
    program: Sequence[str] = (),
    passed: Sequence[int] = (),
    python: str = sys.executable,
    stage: Stage = STAGE,
) -> subprocess.Popen[bytes] | Copy:
    """A copy of the template that runs this `module`; None: a process from scratch, in which Python
    runs `program`. `passed`: descriptors that it inherits. Closes `stderr`.
    """
    try:
        if module is not None:
            return template(stage).start(arguments, environment, stderr, module)
        return subprocess.Popen(
            [python, *program, *arguments],
            cwd=stage.root,
            env=stage.environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=passed,
        )
    finally:
        os.close(stderr)


# In the template


def _import_everything() -> None:
    import kdaemon
    from kdaemon.send.credentials import import_libraries

    for module in pkgutil.walk_packages(kdaemon.__path__, "kdaemon."):
        importlib.import_module(module.name)
    import_libraries(is_anonymous=False)


def _become(request: dict[str, Any], files: list[int]) -> None:
    """In the copy: what a process has that was started by itself. Does not return."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, file in enumerate(files[:3]):
            os.dup2(file, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["kdaemon", *request["arguments"]]
        random.seed()
        gc.enable()
        importlib.import_module(request["module"]).main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python itself does with what nobody caught
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _reap(told: dict[int, int]) -> None:
    """Tells the exit code of each copy that has ended."""
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        file = told.pop(pid)
        with contextlib.suppress(OSError):  # nobody wants to know any more
            os.write(file, b"%d" % status)
        os.close(file)


def _serve(control: socket.socket) -> None:
    """Until the test process is gone."""
    told: dict[int, int] = {}
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(told)
        if control.fileno() in ready:
            data, files, _, _ = socket.recv_fds(control, REQUEST_BYTES_MAX, FILES)
            if not data:
                break
            pid = os.fork()
            if not pid:
                _become(json.loads(data), files)
            told[pid] = files[3]
            for file in files[:3]:
                os.close(file)
            control.send(b"%d" % pid)
    for pid in told:
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    _import_everything()
    gc.collect()
    gc.disable()  # so that no copy has to copy the objects of all
    gc.freeze()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.socket(fileno=int(sys.argv[1])) as control, contextlib.suppress(KeyboardInterrupt):
        _serve(control)


if __name__ == "__main__":
    main()

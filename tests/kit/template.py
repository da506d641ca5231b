"""Processes that begin as copies of one that has imported everything.

A start of `kdaemon run` is 0.7 s of CPU, nearly all of it imports, and the tests make a hundred. So
one template process a test run (`python -m tests.kit.template`) imports the rooms and forks; the
copy gets its own arguments, environment and standard files, and runs kdaemon's own main. The
workers that a copy starts are copies as well: it asks the template for them. So are commands
(`tests.kit.daemon.command`) and the clients of Python (tests/clients). Who looks at a start or at
memory takes a process from scratch (`tests.kit.daemon.from_scratch`).

Invariant: a copy has the files that it was given and nothing else of the template's or its
siblings'. The template ends, and kills its copies, when the test process is gone.
"""

import atexit
import contextlib
import fcntl
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
FILES = 4  # of a request: the three standard ones, and where the exit code is told; then further
FILES_MAX = 64


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
        stdout: int | None = None,
        stdin: int | None = None,
        passed: Sequence[int] = (),
    ) -> Copy:
        """`kdaemon` with these arguments, in the root of the project. `module`: whose `main` runs;
        another one may break something first. A standard file that is not given is nothing.
        `passed`: as `_ask`'s.
        """
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            files = [nothing if each is None else each for each in (stdin, stdout, stderr)]
            with self._lock:
                return _ask(self._ours, module, arguments, environment, files, passed)
        finally:
            os.close(nothing)


def _ask(
    template: socket.socket,
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    files: Sequence[int],
    passed: Sequence[int] = (),
) -> Copy:
    """`files`: the standard ones. `passed`: further ones, which keep their numbers."""
    request = json.dumps(
        {
            "module": module,
            "arguments": [*arguments],
            "environment": dict(environment),
            "passed": [*passed],
        }
    ).encode()
    assert len(request) < REQUEST_BYTES_MAX
    assert FILES + len(passed) <= FILES_MAX
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(template, [request], [*files, theirs.fileno(), *passed])
        pid = int(template.recv(64))
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
            return template(stage).start(arguments, environment, stderr, module, passed=passed)
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
    for late in ("uvloop", "encodings.idna"):  # which kdaemon imports only when it runs
        importlib.import_module(late)


class _Spawned:
    """What a copy has in place of `subprocess` to start its workers with (daemon/spawning.py): it
    asks the template, whose child the worker is.
    """

    DEVNULL = subprocess.DEVNULL

    def __init__(self, template_address: bytes) -> None:
        self._address = template_address

    def Popen(
        self, command: list[str], *, stdin: int, env: Mapping[str, str], pass_fds: tuple[int, ...]
    ) -> Copy:
        assert stdin == self.DEVNULL
        arguments = command[command.index("-c") + 3 :]  # behind the code, and where to import from
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as template:
                template.connect(self._address)
                return _ask(template, MAIN, arguments, env, [nothing, 1, 2], pass_fds)
        finally:
            os.close(nothing)


def _place(files: Sequence[int], passed: Sequence[int]) -> None:
    """The standard files, and the passed ones, under their numbers; closes all others."""
    above = max([FILES, *files, *passed]) + 1
    numbers = [0, 1, 2, *passed]
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, above) for each in files]
    os.closerange(0, above)
    for there, number in zip(high, numbers, strict=True):
        os.dup2(there, number)
    os.closerange(above, os.sysconf("SC_OPEN_MAX"))


def _become(request: dict[str, Any], files: list[int], address: bytes) -> None:
    """In the copy: what a process has that was started by itself. Does not return."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _place([*files[:3], *files[FILES:]], request["passed"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["kdaemon", *request["arguments"]]
        random.seed()
        gc.enable()
        spawning = sys.modules.get("kdaemon.daemon.spawning")  # older versions have none
        if spawning is not None:
            vars(spawning)["subprocess"] = _Spawned(address)
        importlib.import_module(request["module"]).main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - as Python itself does with what nobody caught
        sys.excepthook(*sys.exc_info())
    finally:
        for file in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                file.flush()
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


def _copy(asks: socket.socket, door: socket.socket, told: dict[int, int]) -> bool:
    """Whether there was a request, which is answered with the process that is there now."""
    data, files, _, _ = socket.recv_fds(asks, REQUEST_BYTES_MAX, FILES_MAX)
    if not data:
        return False
    pid = os.fork()
    if not pid:
        _become(json.loads(data), files, door.getsockname())
    told[pid] = files.pop(FILES - 1)
    for file in files:
        os.close(file)
    asks.send(b"%d" % pid)
    return True


def _serve(control: socket.socket, door: socket.socket) -> None:
    """Until the test process is gone. `door`: where copies ask, each over a connection of its own
    that has one request.
    """
    told: dict[int, int] = {}
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control.fileno(), door.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(told)
        if door.fileno() in ready:
            with door.accept()[0] as asks, contextlib.suppress(ConnectionError):
                _copy(asks, door, told)
        if control.fileno() in ready and not _copy(control, door, told):
            break
    for pid in told:
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    _import_everything()
    gc.collect()
    gc.disable()  # so that no copy has to copy the objects of all
    gc.freeze()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (
        socket.socket(fileno=int(sys.argv[1])) as control,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door,
        contextlib.suppress(KeyboardInterrupt),
    ):
        door.bind("")  # Linux finds a name that no other has
        door.listen(64)
        _serve(control, door)


if __name__ == "__main__":
    main()

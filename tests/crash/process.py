"""The daemon as a process of its own: started, listened to, killed. One `Life` a start."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.crash.launch import POINT_VARIABLE
from tests.kit.daemon import BEFORE, KDAEMON
from tests.kit.patience import PATIENCE_S
from tests.kit.systemd import Passing
from tests.kit.template import MAIN, STAGE, Copy, Stage, begin

LOOK_S = 0.005  # between two looks for an exit code that is due
RELOADED = "the configuration was read again"  # how each line begins that says of a reload
LINES_MAX = 200  # of a log that a failure shows
DAMAGE = (  # log lines of a disk that does worse than lose its power, and so a defect here
    "the spool's database was damaged: a new one is begun",
    "the spool's database was found empty, or gone: what it held is lost",
    "damaged bytes of the spool's log are mended",
    "damaged frames are in quarantine, not delivered",
    "files of the spool were taken away, and are made again",
)


class Life:
    """From one start of the daemon to its end. `point`: where it kills itself ("": nowhere)."""

    def __init__(self, process: subprocess.Popen[bytes] | Copy, log: asyncio.StreamReader) -> None:
        self.lines: deque[str] = deque(maxlen=LINES_MAX)
        self.line_count = 0
        self.defects: list[str] = []  # log lines with a stack
        self.reloads: list[str] = []  # what became of each
        self.ports: dict[str, int] = {}
        self.is_ready = asyncio.Event()
        self.started_s = time.monotonic()
        self.ready_s = 0.0  # how long it took
        self.pid = process.pid
        self._process = process
        self._listening = asyncio.create_task(self._listen(log))

    @classmethod
    async def start(
        cls,
        config: Path,
        environment: Mapping[str, str],
        point: str = "",
        *,
        is_from_scratch: bool = False,
        stage: Stage = STAGE,
        flags: Sequence[str] = (),
        how: Passing | None = None,
    ) -> "Life":
        """`point`: NAME:COUNT:SEED, as `launch.py` reads it. `is_from_scratch`: no copy of the
        template, whose start would be over at once; so is what finds sockets as from systemd
        (`how`). `flags`: of `kdaemon run`.
        """
        arguments = ["run", *flags, "--config", str(config)]
        given = {**environment, POINT_VARIABLE: point}
        reading, writing = os.pipe()
        if is_from_scratch or how is not None:
            program, how = (BEFORE, how) if how is not None else (KDAEMON, Passing({}, ()))
            process = begin(
                arguments,
                given | how.variables,
                writing,
                program=program,
                passed=how.descriptors,
                stage=stage,
            )
        else:
            module = "tests.crash.launch" if point else MAIN
            process = begin(arguments, given, writing, module=module, stage=stage)
        log = asyncio.StreamReader(limit=2**20)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(log), os.fdopen(reading, "rb")
        )
        return cls(process, log)

    async def _listen(self, log: asyncio.StreamReader) -> None:
        async for raw in log:
            text = raw.decode(errors="replace").rstrip("\n")
            self.lines.append(text)
            self.line_count += 1
            try:
                self._hear(json.loads(text))
            except ValueError:
                continue
        while self._process.poll() is None:  # its log has ended, so it has, or nearly
            await asyncio.sleep(LOOK_S)

    def _hear(self, line: dict[str, Any]) -> None:
        if line["text"] == "listening":
            where = str(line["fields"]["at"])
            if where.startswith("http://"):
                self.ports[line["fields"]["listener"]] = int(where.rpartition(":")[2])
        elif line["text"].startswith(RELOADED):
            self.reloads.append(line["text"])
        elif line["text"] == "ready":
            self.ready_s = time.monotonic() - self.started_s
            self.is_ready.set()
        if "stack" in line:
            self.defects.append(f"{line['text']}: {line['stack']}")
        elif line["text"] in DAMAGE:
            self.defects.append(f"{line['text']}: {line.get('fields')}")

    async def wait_ready(self) -> bool:
        """False: it ended before. Raises AssertionError if it does neither."""
        ready = asyncio.create_task(self.is_ready.wait())
        try:
            await asyncio.wait(
                {ready, self._listening}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            assert self.is_ready.is_set() or self.has_ended, self.tell("is not ready")
            return self.is_ready.is_set()
        finally:
            ready.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ready

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def exit_code(self) -> int | None:
        """None: it is still there. Negative: the signal's number."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def hang_up(self) -> None:
        self.signal(signal.SIGHUP)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ends_within(self, timeout_s: float) -> bool:
        """Whether it ends by itself in this time."""
        await asyncio.wait([self._listening], timeout=timeout_s)
        return self._listening.done()

    async def end(self) -> int:
        """Waits for its end; the exit code (negative: the signal's number)."""
        assert await self.ends_within(PATIENCE_S), self.tell("does not end")
        self._listening.result()
        assert self._process.returncode is not None
        return self._process.returncode

    async def aclose(self) -> None:
        """Whatever state it is in, it is gone afterwards."""
        self.kill()
        await asyncio.wait([self._listening])

    def tell(self, what: str) -> str:
        return f"the daemon {what}; its last lines:\n" + "\n".join(self.lines)

"""The lines of a minute in the log: none is left out in silence, and none waits for its reader."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kdaemon.base.steps import at_once
from kdaemon.observe import emf_log
from kdaemon.observe.emf import Emf
from kdaemon.observe.emf_log import EmfLog
from kdaemon.observe.log_queue import LogQueue
from kdaemon.observe.reading import SnapshotReader
from tests.kit.emf import read_line
from tests.kit.observing import At, Observing, reader_of
from tests.kit.patience import PATIENCE_S
from tests.kit.world import World

STREAMS = 250


def reader() -> SnapshotReader:
    world = World(1)
    streams = {f"stream-{number}": world.add_engine() for number in range(STREAMS)}
    return reader_of(Observing(world.memory, streams), At(world))


@contextmanager
def queue(written: list[bytes], gate: threading.Event) -> Iterator[LogQueue]:
    """Whose reader reads while `gate` is open."""

    def write(line: bytes) -> None:
        gate.wait()
        written.append(line)

    made = LogQueue(write, lambda count: b"dropped %d\n" % count)
    try:
        yield made
    finally:
        gate.set()
        assert made.close(PATIENCE_S)


async def test_a_minute_s_lines_are_all_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emf_log, "PAUSE_S", 0)
    written: list[bytes] = []
    gate = threading.Event()
    gate.set()
    with queue(written, gate) as log_queue:
        lines = EmfLog(reader(), Emf("kdaemon", "host"), log_queue, lambda: 1.0)
        await lines.tell(asyncio.get_running_loop().time() + PATIENCE_S)
        assert log_queue.waiting <= emf_log.LINES_WAITING_MAX + 1
    assert log_queue.lines_dropped == 0
    assert len({read_line(line).stream for line in written}) == STREAMS + 1


async def test_of_a_log_that_nobody_reads_what_is_dropped_is_counted() -> None:
    written: list[bytes] = []
    gate = threading.Event()
    with queue(written, gate) as log_queue:
        lines = EmfLog(reader(), Emf("kdaemon", "host"), log_queue, lambda: 1.0)
        now_s = asyncio.get_running_loop().time()
        for _ in range(3):  # its reader is waited for no longer than to this time: it is over
            await lines.tell(now_s)
    dropped = log_queue.lines_dropped
    assert dropped > 0
    told = [line for line in written if line.startswith(b"dropped")]
    assert len(written) - len(told) + dropped == 3 * (STREAMS + 1)


async def test_at_the_end_the_rest_is_told_and_then_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(emf_log, "PAUSE_S", 0)
    monkeypatch.setattr(emf_log, "LAST_WAITS_S", PATIENCE_S)
    written: list[bytes] = []
    gate = threading.Event()
    gate.set()
    with queue(written, gate) as log_queue:
        snapshots = reader()
        lines = EmfLog(snapshots, Emf("kdaemon", "host"), log_queue, lambda: 1.0)
        lines.start()
        await lines.last(at_once(snapshots.read()))
        await lines.aclose()
    assert len(written) == STREAMS + 1


async def test_it_tells_once_a_minute_and_goes_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(emf_log, "INTERVAL_S", 0.01)
    written: list[bytes] = []
    gate = threading.Event()
    gate.set()
    told = asyncio.Event()

    class Failing(Emf):
        def __init__(self) -> None:
            super().__init__("kdaemon", "host")
            self.times = 0

        def lines(self, snapshot: object, unix_ms: int) -> Iterator[bytes | None]:
            self.times += 1
            if self.times == 1:
                raise ValueError("no")
            told.set()
            return iter(())

    with queue(written, gate) as log_queue:
        lines = EmfLog(reader(), Failing(), log_queue, lambda: 1.0)
        lines.start()
        async with asyncio.timeout(PATIENCE_S):
            await told.wait()
        await lines.aclose()
    assert [each.getMessage() for each in caplog.records] == [
        "metrics could not be told in Embedded Metric Format: a defect of kdaemon"
    ]

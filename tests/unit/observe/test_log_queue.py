import fcntl
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdaemon.observe.log_queue import BYTES_MAX, LINES_MAX, LogQueue, write_to
from tests.kit.patience import PATIENCE_S


def dropped(count: int) -> bytes:
    return b"dropped %d\n" % count


class Reader:
    """Who reads the log, when it is let."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.may_read = threading.Event()
        self.is_asked = threading.Event()
        self.error: Exception | None = None

    def write(self, line: bytes) -> None:
        self.is_asked.set()
        assert self.may_read.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        self.lines.append(line)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def queue(reader: Reader) -> Iterator[LogQueue]:
    queue = LogQueue(reader.write, dropped)
    yield queue
    reader.may_read.set()
    assert queue.close(PATIENCE_S)


def stall(queue: LogQueue, reader: Reader) -> None:
    """The thread is stuck with a first line."""
    queue.put(b"first\n")
    assert reader.is_asked.wait(PATIENCE_S)


def test_lines_come_in_order(queue: LogQueue, reader: Reader) -> None:
    reader.may_read.set()
    for number in range(100):
        queue.put(b"%d\n" % number)
    assert queue.flush(PATIENCE_S)
    assert reader.lines == [b"%d\n" % number for number in range(100)]
    assert queue.waiting == 0


def test_a_reader_that_stands_still_costs_the_oldest_lines_and_is_told_so(
    queue: LogQueue, reader: Reader
) -> None:
    stall(queue, reader)
    for number in range(LINES_MAX + 7):
        queue.put(b"%d\n" % number)
    assert queue.lines_dropped == 7
    assert queue.waiting == LINES_MAX + 1
    reader.may_read.set()
    assert queue.flush(PATIENCE_S)
    assert reader.lines[:3] == [b"first\n", b"dropped 7\n", b"7\n"]
    assert reader.lines[-1] == b"%d\n" % (LINES_MAX + 6)
    assert reader.lines.count(b"dropped 7\n") == 1


def test_bytes_are_bounded_too(queue: LogQueue, reader: Reader) -> None:
    stall(queue, reader)
    for _ in range(5):
        queue.put(b"x" * (BYTES_MAX // 2))
    assert (queue.lines_dropped, queue.waiting) == (3, 3)
    queue.put(b"x" * (BYTES_MAX + 1))
    assert (queue.lines_dropped, queue.waiting) == (6, 1)


@pytest.mark.parametrize("error", [OSError(28, "no space"), ValueError("closed file")])
def test_lines_that_cannot_be_written_are_counted_and_told_when_they_can(
    queue: LogQueue, reader: Reader, error: Exception
) -> None:
    reader.may_read.set()
    reader.error = error
    queue.put(b"lost\n")
    queue.put(b"lost\n")
    assert queue.flush(PATIENCE_S)
    reader.error = None
    queue.put(b"kept\n")
    assert queue.flush(PATIENCE_S)
    assert reader.lines == [b"dropped 2\n", b"kept\n"]
    assert queue.lines_dropped == 2


def test_the_end_waits_for_the_log_only_so_long(queue: LogQueue, reader: Reader) -> None:
    stall(queue, reader)
    assert not queue.close(0.01)
    queue.put(b"after the end\n")
    assert queue.waiting == 1


def test_the_end_writes_what_is_there(queue: LogQueue, reader: Reader) -> None:
    queue.put(b"last words\n")
    reader.may_read.set()
    assert queue.close(PATIENCE_S)
    assert reader.lines == [b"last words\n"]


# To descriptors


class Pipe:
    def __init__(self, *, is_socket: bool = False) -> None:
        self.reader, self.writer = (
            (each.detach() for each in socket.socketpair()) if is_socket else os.pipe()
        )
        os.set_blocking(self.writer, False)

    def fill(self) -> int:
        """No byte more goes in; how many went."""
        count = 0
        try:
            while True:
                count += os.write(self.writer, b"." * 1024)
        except BlockingIOError:
            return count

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.mark.parametrize("is_socket", [False, True], ids=["pipe", "socket"])
@pytest.mark.parametrize("is_blocking", [False, True], ids=["non-blocking", "blocking"])
def test_a_descriptor_without_room_is_waited_for_and_every_line_is_whole(
    is_socket: bool, is_blocking: bool
) -> None:
    pipe = Pipe(is_socket=is_socket)
    filled = pipe.fill()
    os.set_blocking(pipe.writer, is_blocking)
    with open(pipe.writer, "w", closefd=False) as stream:
        queue = LogQueue(write_to(stream), dropped)
        lines = [b"%d %s\n" % (number, b"x" * 10_000) for number in range(20)]
        for line in lines:
            queue.put(line)
        assert not queue.flush(0.01), "there is no room yet"
        expected, read = filled + sum(map(len, lines)), b""
        while len(read) < expected:
            read += os.read(pipe.reader, 65_536)
        assert read[filled:] == b"".join(lines)
        assert queue.close(PATIENCE_S)
    flags = fcntl.fcntl(pipe.writer, fcntl.F_GETFL)
    assert bool(flags & os.O_NONBLOCK) is not is_blocking, "who shares it finds it as it was"
    pipe.close()


def test_a_line_that_was_cut_does_not_run_into_the_next(tmp_path: Path) -> None:
    """A limit takes a part of it, as a disk does that gets full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "log"
    with open(path, "w") as stream:
        write = write_to(stream)
        write(b"one\n")
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
            with pytest.raises(OSError, match="File too large"):
                write(b"two two\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        write(b"three\n")
    assert path.read_bytes() == b"one\ntwo tw\nthree\n"


def test_a_full_disk_is_an_error_that_is_counted() -> None:
    with open("/dev/full", "w", closefd=True) as stream:
        queue = LogQueue(write_to(stream), dropped)
        queue.put(b"x\n")
        assert queue.flush(PATIENCE_S)
        assert queue.lines_dropped == 1
        assert queue.close(PATIENCE_S)

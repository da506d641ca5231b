"""Sends a file's records to a running daemon, and counts their outcomes: `kdaemon put`.

A client of the daemon, not a part of it: `source.py` (bytes) -> `lines.py` (record lines) -> here,
the Unix socket (NDJSON with cumulative acknowledgements), or `http.py`. Only `cli/` imports it; it
prints nothing. Invariant: sent = acknowledged + rejected - unsendable + open at any moment, so that
an interrupted `put` can say what it knows. Nothing is sent twice: the user mends rejected lines.
"""

import asyncio
import contextlib
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import msgspec

from kdaemon.put.lines import BadLine, FormError, LineFormer, LineSplitter
from kdaemon.put.source import Source, SourceError
from kdaemon.put.waiting import REASONS_MAX, Person, Totals, watched

OPEN_RECORDS_MAX = 20_000  # sent and not answered: an interrupted put does not know their outcome
BLOCK_RECORDS_MAX = 1_000  # formed and written together
ANSWER_BYTES_MAX = 64 * 1024  # of one answer line of the daemon


class PutError(Exception):
    """`put` cannot go on: no daemon, no such stream, an unreadable file. The text says what
    to do.
    """


@dataclass(frozen=True, slots=True)
class Block:
    """Record lines, and their line numbers in the file, of the same length and order. `streams`:
    the same of the streams that the lines name; empty: one stream has all.
    """

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)


async def form_blocks(source: Source, former: LineFormer, totals: Totals) -> AsyncIterator[Block]:
    """Record lines of `source`, as they can be read. A line that cannot be sent is counted. Raises
    PutError.
    """
    splitter = LineSplitter()
    try:
        async for piece in source.pieces():
            for block in _form(former, splitter.feed(piece), totals):
                yield block
        for block in _form(former, splitter.finish(), totals):
            yield block
        for number, unfinished in former.finish():
            totals.reject(number, str(unfinished), is_sent=False)
    except (SourceError, FormError) as error:
        raise PutError(str(error)) from error


def _form(former: LineFormer, lines: list[bytes | None], totals: Totals) -> Iterator[Block]:
    block = Block()
    try:
        for number, formed in former.form(lines):
            if isinstance(formed, BadLine):
                totals.reject(number, str(formed), is_sent=False)
                continue
            block.lines.append(formed)
            block.numbers.append(number)
            if former.stream is not None:
                block.streams.append(former.stream)
            if len(block.lines) == BLOCK_RECORDS_MAX:
                yield block
                block = Block()
    except FormError:
        if block.lines:  # the lines before it are sound
            yield block
        raise
    if block.lines:
        yield block


class _Answer(msgspec.Struct):
    """An answer on the Unix socket: how many records so far, or which line was rejected and why."""

    acknowledged: int | None = None
    rejected: int | None = None  # the line of this connection, from 1: line 1 is our setup
    code: str = ""
    message: str = ""


class Put:
    """One way to a daemon."""

    def __init__(
        self, stream: str | None, acknowledge: str, totals: Totals, person: Person
    ) -> None:
        """`stream`: of all lines, or of those that name none; None: each names its own."""
        self._stream = stream
        self._acknowledge = acknowledge
        self._totals = totals
        self._person = person


class UnixPut(Put):
    """One NDJSON session on the daemon's Unix socket.

    Bound: OPEN_RECORDS_MAX records without an answer; then the file is not read. With acknowledge
    "none" there is no answer to wait for: only the socket limits the sending.
    """

    def __init__(
        self, stream: str | None, acknowledge: str, totals: Totals, person: Person
    ) -> None:
        super().__init__(stream, acknowledge, totals, person)
        self._has_room = asyncio.Event()
        self._is_writing = False  # or all is written: the daemon is to read, or to close
        # Where the line numbers of session and file begin to differ: (session, file) pairs. Lines
        # before the oldest pair are settled: no more records are open than pairs are kept.
        self._drifts: deque[tuple[int, int]] = deque(maxlen=OPEN_RECORDS_MAX)
        self._failure: PutError | None = None

    async def send(self, path: str, blocks: AsyncIterator[Block]) -> None:
        """Sends all blocks and reads all answers. Raises PutError; the totals hold up to then."""
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER_BYTES_MAX)
        except OSError as error:
            raise PutError(
                f"no daemon answers at {path} ({error.strerror or error}): "
                "start it with `kdaemon run`, or name its socket with --socket"
            ) from error
        sender = asyncio.create_task(self._send_all(writer, blocks))
        try:
            async with watched(self._totals, self._person, self._awaited):
                await self._hear_all(reader)
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sender
            writer.transport.abort()  # all was answered, or nobody reads the unsent rest
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if self._failure is not None:
            raise self._failure
        if self._acknowledge != "none" and self._totals.open:
            raise PutError(
                "the daemon closed the connection; records without an answer: "
                f"{self._totals.open}, which may have been delivered or not"
            )

    async def _send_all(self, writer: asyncio.StreamWriter, blocks: AsyncIterator[Block]) -> None:
        # We send envelopes, whatever the form of the stream's lines is otherwise.
        setup = {"acknowledge": self._acknowledge, "lines": "envelope"}
        setup |= {} if self._stream is None else {"stream": self._stream}
        try:
            writer.write(msgspec.json.encode(setup) + b"\n")
            async for block in blocks:
                await self._wait_for_room()
                self._note_drift(block)
                self._totals.sent += len(block.lines)
                writer.write(b"".join(block.lines))
                self._person.on_progress()
                self._is_writing = True
                await writer.drain()
                self._is_writing = False
        except PutError as error:  # an error of the file: what was sent before it is still answered
            self._failure = error
        except OSError:
            return  # the daemon is gone; the reader sees the end, and tells the open records
        self._is_writing = True
        with contextlib.suppress(OSError):
            writer.write_eof()

    def _awaited(self) -> str | None:
        """What the daemon is to do now; None: the input is waited for."""
        answers = None if self._acknowledge == "none" else self._totals.awaited
        return answers or ("reads what was written" if self._is_writing else None)

    async def _wait_for_room(self) -> None:
        while self._acknowledge != "none" and self._totals.open >= OPEN_RECORDS_MAX:
            self._has_room.clear()
            await self._has_room.wait()

    def _note_drift(self, block: Block) -> None:
        session = self._totals.sent + 2  # line 1 is the setup
        for number in block.numbers:
            drift = self._drifts[-1][1] - self._drifts[-1][0] if self._drifts else None
            if number - session != drift:
                self._drifts.append((session, number))
            session += 1

    async def _hear_all(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._hear(line)
                self._totals.waits_for = None
                self._person.on_progress()
                self._has_room.set()
        except OSError:
            return  # a reset: told as the open records
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            raise PutError("what answers there is no kdaemon: its answer cannot be read") from error

    def _hear(self, line: bytes) -> None:
        answer = msgspec.json.decode(line, type=_Answer)
        totals = self._totals
        if answer.acknowledged is not None:
            if not 0 <= answer.acknowledged - totals.acknowledged <= totals.open:
                is_more = answer.acknowledged > totals.acknowledged
                what = "more records than were sent" if is_more else "fewer records than before"
                raise PutError(f"what answers there is no kdaemon: it acknowledges {what}")
            totals.acknowledged = answer.acknowledged
        elif answer.rejected == 1:
            raise PutError(f"the daemon refuses: {answer.code}: {answer.message}")
        elif answer.rejected is not None:
            if not totals.open and self._acknowledge != "none":
                raise PutError("what answers there is no kdaemon: it rejects lines without an end")
            number = None
            if len(totals.reasons) < REASONS_MAX:
                number = self._file_line(answer.rejected)
            totals.reject(number, f"{answer.code}: {answer.message}", is_sent=True)

    def _file_line(self, session: int) -> int | None:
        drifts = list(self._drifts)
        index = bisect_right(drifts, session, key=lambda drift: drift[0]) - 1
        return session + drifts[index][1] - drifts[index][0] if index >= 0 else None

"""The clients of `bench.fairness`, each kind in a process of its own: one quiet, one greedy.

The quiet one sends single records at a steady rate and tells how long each took to be answered; the
greedy one sends as much as is taken. Over HTTP a client has several connections, as an SDK has;
over the socket each has one. Both work until their pipe says stop. They know the daemon by its
ports and its answers only.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from bench.load import SHARD_PREFIX, acknowledged_in
from bench.records import BenchRecord, ndjson_line, put_record_request, put_records_request

QUIET_CONNECTIONS = 64  # of the quiet client over HTTP, at most; the pool of an SDK
GREEDY_CONNECTIONS = 4  # of the greedy one over HTTP
GREEDY_REQUESTS = 16  # that it has out on each of them
GREEDY_BATCH = 500  # records of one
CHUNK_LINES = 250  # of a write to the socket: about 64 KiB
PATIENCE_S = 100.0  # after the stop: for answers that are owed
LOOK_S = 0.01  # how often the pipe is looked at


@dataclass(frozen=True, slots=True)
class Mission:
    """Who sends what where. `rate`: records a second; 0: as many as are taken."""

    way: str  # http, socket
    port: int
    socket_path: str
    stream: str
    promise: str
    keys: tuple[str, ...]
    data_bytes: int
    rate: int = 0

    def records(self, count: int) -> list[BenchRecord]:
        keys, data = self.keys, b"x" * self.data_bytes
        return [BenchRecord(keys[number % len(keys)], data) for number in range(count)]

    def request(self, count: int) -> bytes:
        records = self.records(count)
        if count == 1:
            return put_record_request(records[0], self.stream, acknowledge=self.promise)
        return put_records_request(records, self.stream, acknowledge=self.promise)

    def lines(self, count: int) -> bytes:
        return b"".join(map(ndjson_line, self.records(count)))

    @property
    def setup(self) -> bytes:
        return f'{{"stream": "{self.stream}", "acknowledge": "{self.promise}"}}\n'.encode()


class Told:
    """What a client was answered: of each record how long it took (ms), and how many were not
    taken.
    """

    def __init__(self) -> None:
        self.times_ms: list[tuple[float, float]] = []  # when it was sent, how long it took
        self.refused = 0


class _Connection:
    """What is sent on one connection, and when; `_reading`: its answers."""

    _reading: asyncio.Task[None]
    _writer: asyncio.StreamWriter

    def __init__(self, mission: Mission, told: Told) -> None:
        self._mission = mission
        self._told = told
        self._sent: deque[float] = deque()

    async def settled(self) -> None:
        while self._sent:
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError, EOFError):
            await self._reading


class Http(_Connection):
    """A connection that pipelines up to `window` requests."""

    def __init__(self, mission: Mission, record_count: int, window: int, told: Told) -> None:
        super().__init__(mission, told)
        self._request = mission.request(record_count)
        self._record_count = record_count
        self._free = asyncio.Semaphore(window)
        self.is_quiet = record_count == 1

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._mission.port)
        self._reading = asyncio.create_task(self._read())

    async def send(self) -> None:
        """When there is a place for one more request."""
        await self._free.acquire()
        self._sent.append(time.monotonic())
        self._writer.write(self._request)
        await self._writer.drain()

    async def _read(self) -> None:
        prefix = SHARD_PREFIX[self._mission.promise]
        told = self._told
        while True:
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await self._reader.readexactly(length)
            sent, now = self._sent.popleft(), time.monotonic()
            taken = acknowledged_in(head + body, self._record_count, prefix)
            told.refused += self._record_count - taken
            if self.is_quiet:
                told.times_ms.append((sent, (now - sent) * 1000))
            elif not taken:
                await asyncio.sleep(0.1)  # as an SDK's first pause
            self._free.release()


class Session(_Connection):
    """A connection of lines."""

    def __init__(self, mission: Mission, told: Told) -> None:
        super().__init__(mission, told)
        self.is_quiet = bool(mission.rate)

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(self._mission.socket_path)
        self._writer.write(self._mission.setup)
        self._reading = asyncio.create_task(self._read())

    async def send(self, lines: bytes, count: int) -> None:
        """When the daemon reads."""
        if self.is_quiet:
            self._sent.extend([time.monotonic()] * count)
        self._writer.write(lines)
        await self._writer.drain()

    async def _read(self) -> None:
        told, acknowledged = self._told, 0
        while line := await self._reader.readline():
            if b'"rejected"' in line:
                told.refused += 1
                if self._sent:
                    self._sent.popleft()
                continue
            before, acknowledged = acknowledged, int(line.split(b":")[1].strip(b" }\n"))
            now = time.monotonic()
            for _ in range(min(len(self._sent), acknowledged - before)):
                sent = self._sent.popleft()
                told.times_ms.append((sent, (now - sent) * 1000))


async def _stopped(pipe: Connection) -> None:
    while not pipe.poll():
        await asyncio.sleep(LOOK_S)


async def _until_stopped(work: Awaitable[None], pipe: Connection) -> None:
    working = asyncio.ensure_future(work)
    stop = asyncio.create_task(_stopped(pipe))
    await asyncio.wait([working, stop], return_when=asyncio.FIRST_COMPLETED)
    for task in (working, stop):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError, OSError, EOFError):
        await working


async def _at_rate(rate: int, send: Callable[[], Awaitable[None]]) -> None:
    """One after another on a schedule; who finds no connection free comes later."""
    due = time.monotonic()
    while True:
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await send()


async def _be_quiet(mission: Mission, pipe: Connection) -> Told:
    told = Told()
    connections: list[Http] | list[Session]
    if mission.way == "http":
        pool = connections = [Http(mission, 1, 1, told) for _ in range(QUIET_CONNECTIONS)]
        free: asyncio.Queue[Http] = asyncio.Queue()
        pending: set[asyncio.Task[None]] = set()

        async def give_back(http: Http) -> None:
            await http.settled()
            free.put_nowait(http)

        async def send() -> None:
            http = await free.get()
            await http.send()
            task = asyncio.create_task(give_back(http))
            pending.add(task)
            task.add_done_callback(pending.discard)

        for http in pool:
            await http.open()
            free.put_nowait(http)
    else:
        session = Session(mission, told)
        connections = [session]
        line = mission.lines(1)
        await session.open()

        async def send() -> None:
            await session.send(line, 1)

    await _until_stopped(_at_rate(mission.rate, send), pipe)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            for connection in connections:
                await connection.settled()
    for connection in connections:
        await connection.close()
    return told


async def _be_greedy(mission: Mission, pipe: Connection) -> Told:
    told = Told()
    connections: list[Http] | list[Session]
    if mission.way == "http":
        connections = [
            Http(mission, GREEDY_BATCH, GREEDY_REQUESTS, told) for _ in range(GREEDY_CONNECTIONS)
        ]

        async def feed(connection: Http) -> None:
            while True:
                await connection.send()

        for http in connections:
            await http.open()
        work = [feed(http) for http in connections]
    else:
        session = Session(mission, told)
        connections = [session]
        chunk = mission.lines(CHUNK_LINES)
        await session.open()

        async def flood() -> None:
            while True:
                await session.send(chunk, CHUNK_LINES)

        work = [flood()]
    await _until_stopped(_all(work), pipe)
    for connection in connections:
        await connection.close()
    return told


async def _all(work: list[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*work)


def run_client(mission: Mission, pipe: Connection) -> None:
    """In a process of its own, until the pipe says something; then tells what it was told."""
    be = _be_quiet if mission.rate else _be_greedy
    pipe.send(asyncio.run(be(mission, pipe)))

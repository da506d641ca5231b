"""Clients that send records without end, and keep what they were promised.

Each has a source of its own (`records.py`), so that what was sent is known by numbers. A promise
is noted only when the daemon's answer made it. When the daemon is gone a client connects again and
goes on with new records: what was not answered it never sends again, so a record that arrives twice
was sent twice by the daemon. Three ways in: lines on the Unix socket, the Kinesis API and lines
over HTTP.
"""

import asyncio
import base64
import contextlib
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.crash.records import Source, shown
from tests.kit.patience import PATIENCE_S

RETRY_S = 0.02  # between attempts to connect
SETUP_LINE = 1  # of a connection; a refusal of this one is of the stream
UNANSWERED_MAX = 2_000  # records of one connection that wait for their acknowledgement
BLOCKS = (1, 1, 5, 40, 200)  # records of one request or one write
COMPLAINTS_MAX = 20


@dataclass
class Doors:
    """Where the daemon is now; the port changes with each start."""

    unix_path: str
    http_port: int = 0


@dataclass
class Promises:
    """What one client heard. `kept`: ids acknowledged; `refused`: how many were not, by code."""

    kept: list[int] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def refuse(self, code: str, count: int = 1) -> None:
        self.refused[code] = self.refused.get(code, 0) + count

    def complain(self, text: str) -> None:
        """The daemon answered as it never may."""
        if len(self.complaints) < COMPLAINTS_MAX:
            self.complaints.append(text)


class Session(Protocol):
    """One kind of client. `talk` returns when the client was told to stop and all is answered; it
    raises OSError or EOFError when the daemon is gone.
    """

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]: ...

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...


class Client:
    """What all kinds share. `acknowledge`: what is asked for. `think_s`: mean pause between
    requests. `is_taken`: whether the service has a record: what `delivered` means.
    """

    def __init__(
        self,
        source: Source,
        *,
        acknowledge: str,
        think_s: float,
        is_taken: Callable[[int], bool],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.source = source
        self.acknowledge = acknowledge
        self.promises = Promises()
        self.connection_count = 0
        self.unreachable_count = 0  # times that nobody listened
        self.patience_s = patience_s
        self._think_s = think_s
        self._is_taken = is_taken
        self._dice = random.Random(f"client {source.index} {source.seed}")
        self._stopping = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """No new records; what was sent is waited for."""
        self._stopping.set()

    async def run(self, session: Session) -> None:
        """Until it is stopped: connects, talks, and again."""
        while not self.is_stopping:
            try:
                reader, writer = await session.connect()
            except OSError:
                self.unreachable_count += 1
                await asyncio.sleep(RETRY_S)
                continue
            self.connection_count += 1
            try:
                await session.talk(reader, writer)
            except TimeoutError:
                self.promises.complain(
                    f"client {self.source.index}: no answer in {self.patience_s} s"
                )
            except (OSError, EOFError):
                pass
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def think(self) -> None:
        """A pause between requests, cut short by `stop`."""
        with contextlib.suppress(TimeoutError):
            pause_s = self._dice.expovariate(1 / self._think_s)
            await asyncio.wait_for(self._stopping.wait(), pause_s)

    def take_block(self) -> list[int]:
        return self.source.take(self._dice.choice(BLOCKS))

    def keep(self, numbers: list[int]) -> None:
        """The daemon acknowledged these."""
        ids = [self.source.id_of(number) for number in numbers]
        self.promises.kept += ids
        if self.acknowledge == "delivered":
            for record_id in ids:
                if not self._is_taken(record_id):
                    self.promises.complain(f"{shown(record_id)}: delivered, and not taken")

    def line(self, number: int) -> bytes:
        """A record as NDJSON."""
        sample = self.source.make(number)
        members = {"data_base64": base64.b64encode(sample.data).decode()}
        if sample.key:
            members["partition_key"] = sample.key
        if sample.explicit_hash_key is not None:
            members["explicit_hash_key"] = sample.explicit_hash_key
        return json.dumps(members).encode() + b"\n"


class UnixLines:
    """NDJSON on the Unix socket: writes ahead, answers come when they come."""

    def __init__(self, client: Client, doors: Doors) -> None:
        self._client = client
        self._doors = doors
        self._waiting: deque[tuple[int, int]] = deque()  # (line, number), in order
        self._told = 0
        self._has_room = asyncio.Event()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self._doors.unix_path)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._waiting.clear()
        self._told = 0
        self._has_room.set()
        writing = asyncio.create_task(self._write(writer))
        try:
            while line := await reader.readline():
                answer = json.loads(line)
                if answer.get("rejected") == SETUP_LINE:
                    self._client.promises.refuse(answer["code"], len(self._waiting))
                    await self._client.think()
                    raise ConnectionResetError("the stream is not taken")
                self._hear(answer)
            if not (writing.done() and self._client.is_stopping):
                raise ConnectionResetError("the daemon ended the connection")
            if self._waiting:
                self._client.promises.complain(f"{len(self._waiting)} lines were never answered")
        finally:
            writing.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):  # the reader noticed too
                await writing

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        client = self._client
        setup = {"stream": client.source.stream, "acknowledge": client.acknowledge}
        writer.write(json.dumps(setup).encode() + b"\n")
        next_line = 2
        while not client.is_stopping:
            await self._has_room.wait()
            numbers = client.take_block()
            lines = []
            for number in numbers:
                self._waiting.append((next_line, number))
                lines.append(client.line(number))
                next_line += 1
            writer.write(b"".join(lines))
            await writer.drain()
            if len(self._waiting) >= UNANSWERED_MAX:
                self._has_room.clear()
            await client.think()
        writer.write_eof()

    def _hear(self, answer: dict[str, Any]) -> None:
        if "acknowledged" in answer:
            count = answer["acknowledged"] - self._told
            self._told = answer["acknowledged"]
            if not 0 < count <= len(self._waiting):
                text = f"{count} more acknowledged of {len(self._waiting)} that wait"
                self._client.promises.complain(text)
                return
            self._client.keep([self._waiting.popleft()[1] for _ in range(count)])
        else:
            self._client.promises.refuse(answer["code"])
            for position, (line, _) in enumerate(self._waiting):
                if line == answer["rejected"]:
                    del self._waiting[position]
                    break
            else:
                self._client.promises.complain(f"line {answer['rejected']} rejected twice")
        if len(self._waiting) < UNANSWERED_MAX:
            self._has_room.set()


class Http:
    """One request at a time over a kept connection: the Kinesis API, or lines."""

    def __init__(self, client: Client, doors: Doors, *, has_lines: bool) -> None:
        self._client = client
        self._doors = doors
        self._has_lines = has_lines

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._doors.http_port)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = self._client
        while not client.is_stopping:
            numbers = client.take_block()
            writer.write(self._lines(numbers) if self._has_lines else self._put_records(numbers))
            await writer.drain()
            async with asyncio.timeout(client.patience_s):
                status, body = await _read_answer(reader)
            if self._has_lines:
                self._hear_lines(numbers, status, body)
            else:
                hear_results(client, numbers, status, json.loads(body))
            await client.think()

    def _lines(self, numbers: list[int]) -> bytes:
        body = b"".join(map(self._client.line, numbers))
        return self._request(f"/v1/streams/{self._client.source.stream}/records", body)

    def _put_records(self, numbers: list[int]) -> bytes:
        operation, members = put_of(self._client.source, numbers, _base64)
        return self._request("/", json.dumps(members).encode(), operation)

    def _request(self, path: str, body: bytes, operation: str = "") -> bytes:
        head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        head.append(f"X-Kdaemon-Acknowledge: {self._client.acknowledge}")
        if operation:
            head.append(f"X-Amz-Target: Kinesis_20131202.{operation}")
            head.append("Content-Type: application/x-amz-json-1.1")
        return "\r\n".join([*head, "", ""]).encode() + body

    def _hear_lines(self, numbers: list[int], status: int, body: bytes) -> None:
        promises = self._client.promises
        answer = json.loads(body)
        if status not in {200, 207}:
            promises.refuse(f"HTTP {status}", len(numbers))
            return
        rejected = {each["line"]: each["code"] for each in answer["rejected"]}
        for code in rejected.values():
            promises.refuse(code)
        kept = [number for line, number in enumerate(numbers, 1) if line not in rejected]
        if answer["acknowledged"] != len(kept):
            promises.complain(f"{answer['acknowledged']} acknowledged, {len(kept)} not rejected")
            return
        self._client.keep(kept)


def put_of(
    source: Source, numbers: list[int], form: Callable[[bytes], object]
) -> tuple[str, dict[str, object]]:
    """Operation and members of the Kinesis API. `form`: of data, as the encoding has it."""
    entries = []
    for number in numbers:
        sample = source.make(number)
        entry: dict[str, object] = {"Data": form(sample.data), "PartitionKey": sample.key}
        if sample.explicit_hash_key is not None:
            entry["ExplicitHashKey"] = sample.explicit_hash_key
        entries.append(entry)
    if len(entries) == 1:
        return "PutRecord", {"StreamName": source.stream, **entries[0]}
    return "PutRecords", {"StreamName": source.stream, "Records": entries}


def hear_results(client: Client, numbers: list[int], status: int, answer: dict[str, Any]) -> None:
    """What the Kinesis API says of them."""
    promises = client.promises
    if status != 200:
        promises.refuse(answer["__type"], len(numbers))
        return
    results = answer.get("Records", [answer])
    if len(results) != len(numbers):
        promises.complain(f"{len(results)} results for {len(numbers)} records")
        return
    kept = []
    for number, result in zip(numbers, results, strict=True):
        if "ErrorCode" in result:
            promises.refuse(result["ErrorCode"])
        else:
            kept.append(number)
    client.keep(kept)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def connected(
    kind: str,
    source: Source,
    acknowledge: str,
    think_s: float,
    is_taken: Callable[[int], bool],
    doors: Doors,
    patience_s: float = PATIENCE_S,
) -> tuple[Client, Session]:
    """A client and its way in. `kind`: unix, lines, kinesis or http2."""
    client = Client(
        source,
        acknowledge=acknowledge,
        think_s=think_s,
        is_taken=is_taken,
        patience_s=patience_s,
    )
    if kind == "unix":
        return client, UnixLines(client, doors)
    if kind == "http2":
        from tests.crash.http2 import Http2

        return client, Http2(client, doors)
    return client, Http(client, doors, has_lines=kind == "lines")


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = head.partition("content-length: ")[2].partition("\r\n")[0]
    return int(head.split(" ")[1]), await reader.readexactly(int(length))
